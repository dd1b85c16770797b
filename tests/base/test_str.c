/* tests/base/test_str.c - the growing string, and the distance behind "did you mean". */
#include "tests/support/test.h"

#include "engine/base/str.h"

static void an_empty_string_is_a_string(void **state)
{
    (void)state;
    dml_str s = {0};
    assert_string_equal(dml_str_text(&s), "");
    dml_str_clear(&s);
    assert_string_equal(dml_str_text(&s), "");
    dml_str_free(&s);
}

static void text_grows_by_pieces_of_any_length(void **state)
{
    (void)state;
    dml_str s = {0};
    for (int i = 0; i < 2000; i++)
        dml_str_printf(&s, "%04d,", i);
    DML_CHECK_EQ(10000, s.len);
    DML_CHECK_EQ(10000, strlen(dml_str_text(&s)));
    DML_CHECK_EQ(0, strncmp(dml_str_text(&s) + 5 * 1234, "1234,", 5));
    dml_str_append(&s, "tail", 4);
    assert_string_equal(dml_str_text(&s) + 10000, "tail");
    dml_str_clear(&s);
    dml_str_append(&s, "a\0b", 3);
    DML_CHECK_EQ(3, s.len);
    DML_CHECK_EQ('b', s.text[2]);
    dml_str_free(&s);
    DML_CHECK(s.text == NULL && s.len == 0);
}

static void distance_counts_edits(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int distance;
    } known[] = {
        {"", "", 0},
        {"", "abc", 3},
        {"kitten", "sitting", 3},
        {"schedule", "schedule", 0},
        {"1fb1", "1f1b", 1},   /* neighbours swapped: one edit */
        {"ca", "abc", 3},      /* aligned, so not 2            */
        {"GPipe", "gpipe", 0}, /* case does not count          */
        {"pipeline_parralel_size", "pipeline_parallel_size", 2},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        DML_CHECK_EQ(known[i].distance, dml_str_distance(known[i].a, known[i].b));
        DML_CHECK_EQ(known[i].distance, dml_str_distance(known[i].b, known[i].a));
    }
}

static void distance_looks_at_63_bytes(void **state)
{
    (void)state;
    char a[200], b[200];
    memset(a, 'a', sizeof a);
    memset(b, 'b', sizeof b);
    a[199] = b[199] = '\0';
    DML_CHECK_EQ(63, dml_str_distance(a, b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_string_is_a_string),
        cmocka_unit_test(text_grows_by_pieces_of_any_length),
        cmocka_unit_test(distance_counts_edits),
        cmocka_unit_test(distance_looks_at_63_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
