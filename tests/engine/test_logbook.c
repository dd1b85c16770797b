/* tests/engine/test_logbook.c - what was noted is what the next one reads, whenever the one before ended. */
#include "tests/support/test.h"

#include "engine/logbook.h"

#include <unistd.h>

typedef struct state {
    int64_t a;
    char text[1000];
    const char *word;
} state;

static const char *const word = "a text of the program";

static void read_back(int fd, state *out, dml_logbook *book)
{
    const dml_logbook_part part[] = {
        {&out->a, sizeof out->a}, {out->text, sizeof out->text}, {&out->word, sizeof out->word}};
    DML_CHECK_OK(dml_logbook_map(fd, part, 3, book));
}

static void the_newest_note_is_read(void **unused)
{
    (void)unused;
    state s = {.word = word}, next;
    const dml_logbook_part part[] = {
        {&s.a, sizeof s.a}, {s.text, sizeof s.text}, {&s.word, sizeof s.word}};
    dml_logbook book, read;
    int fd;
    DML_CHECK_OK(dml_logbook_create(part, 3, &book, &fd));
    DML_CHECK_FAILS(DML_ERR_BUG, "left no state", dml_logbook_map(fd, part, 3, &read));
    for (int i = 1; i <= 5; i++) {
        s.a = i;
        memset(s.text, 'a' + i, sizeof s.text);
        dml_logbook_note(&book);
        s.a = -1; /* not noted: the agent is killed */
        memset(s.text, '?', sizeof s.text);
        read_back(fd, &next, &read);
        DML_CHECK_EQ(i, next.a);
        DML_CHECK_EQ('a' + i, next.text[999]);
        DML_CHECK(dml_logbook_text(&read, next.word) == word);
        DML_CHECK(dml_logbook_text(&read, NULL) == NULL);
        dml_logbook_close(&read);
    }
    dml_logbook_close(&book);
    close(fd);
}

static void another_program_does_not_read_it(void **unused)
{
    (void)unused;
    state s = {.a = 1};
    const dml_logbook_part part[] = {{&s.a, sizeof s.a}, {s.text, sizeof s.text}};
    dml_logbook book, read;
    int fd;
    DML_CHECK_OK(dml_logbook_create(part, 1, &book, &fd));
    dml_logbook_note(&book);
    DML_CHECK_FAILS(DML_ERR_BUG, "left no state", dml_logbook_map(fd, part, 2, &read));
    dml_logbook_close(&book);
    close(fd);
}

static void a_report_is_expected_until_the_next_note(void **unused)
{
    (void)unused;
    int64_t a = 0;
    const dml_logbook_part part[] = {{&a, sizeof a}};
    const dml_report report = {.kind = DML_REPORT_STEP, .rank = 3, .step = {.step = 7}};
    dml_logbook book, read;
    int fd;
    DML_CHECK_OK(dml_logbook_create(part, 1, &book, &fd));
    dml_logbook_note(&book);
    DML_CHECK(dml_logbook_expected(&book) == NULL);
    dml_logbook_expect(&book, &report);
    DML_CHECK_OK(dml_logbook_map(fd, part, 1, &read));
    assert_non_null(dml_logbook_expected(&read));
    assert_memory_equal(&report, dml_logbook_expected(&read), sizeof report);
    dml_logbook_note(&book);
    DML_CHECK(dml_logbook_expected(&read) == NULL);
    dml_logbook_close(&read);
    dml_logbook_close(&book);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_note_is_read),
        cmocka_unit_test(another_program_does_not_read_it),
        cmocka_unit_test(a_report_is_expected_until_the_next_note),
    };
    return cmocka_run_group_tests_name("logbook", tests, NULL, NULL);
}
