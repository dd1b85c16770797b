/* tests/base/test_err.c - codes and the trail that goes with them. */
#include "tests/support/test.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static dml_err inner(dml_err code)
{
    DML_FAIL(code, "worker %d of %d is lost", 3, 4);
}

static dml_err middle(dml_err code)
{
    DML_TRY(inner(code));
    return DML_ERR_OK;
}

static dml_err outer(dml_err code)
{
    DML_TRY(middle(code));
    return DML_ERR_OK;
}

static void a_trail_starts_with_the_cause_and_goes_outwards(void **state)
{
    (void)state;
    DML_CHECK_FAILS(DML_ERR_PEER, "worker 3 of 4 is lost", outer(DML_ERR_PEER));
    const char *cause = strstr(dml_err_trail(), "worker 3 of 4 is lost");
    const char *first = strstr(dml_err_trail(), "\n  in middle (tests/base/test_err.c:");
    const char *second = strstr(dml_err_trail(), "\n  in outer (tests/base/test_err.c:");
    DML_CHECK(cause && first && second && cause < first && first < second);
    DML_CHECK_EQ(0, strncmp(dml_err_trail(), "tests/base/test_err.c:", 22));
}

static void the_users_own_mistakes_are_told_without_our_source(void **state)
{
    (void)state;
    outer(DML_ERR_SPEC);
    assert_string_equal(dml_err_trail(), "worker 3 of 4 is lost");
    outer(DML_ERR_DATA);
    assert_string_equal(dml_err_trail(), "worker 3 of 4 is lost");
}

static void a_new_failure_starts_a_new_trail(void **state)
{
    (void)state;
    outer(DML_ERR_PEER);
    dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "second");
    assert_string_equal(dml_err_trail(), "second");
}

static void a_trail_that_is_too_long_is_cut_and_stays_a_string(void **state)
{
    (void)state;
    char text[6000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    dml_err_set(DML_ERR_BUG, __FILE__, __LINE__, "%s", text);
    for (int i = 0; i < 300; i++)
        dml_err_add(DML_ERR_BUG, __func__, __FILE__, __LINE__);
    DML_CHECK(strlen(dml_err_trail()) < 4096);
    DML_CHECK(strlen(dml_err_trail()) > 4000);
}

static void *other_thread(void *seen)
{
    *(size_t *)seen = strlen(dml_err_trail());
    dml_err_set(DML_ERR_PEER, __FILE__, __LINE__, "of the other thread");
    return NULL;
}

static void each_thread_has_its_own_trail_and_put_carries_one_over(void **state)
{
    (void)state;
    dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "mine");
    size_t seen = 99;
    pthread_t t;
    DML_CHECK_EQ(0, pthread_create(&t, NULL, other_thread, &seen));
    pthread_join(t, NULL);
    DML_CHECK_EQ(0, seen);
    assert_string_equal(dml_err_trail(), "mine");
    dml_err_trail_put("carried");
    assert_string_equal(dml_err_trail(), "carried");
}

static void every_code_has_a_text_and_an_exit_code(void **state)
{
    (void)state;
    DML_CHECK_EQ(0, dml_err_exit_code(DML_ERR_OK));
    DML_CHECK_EQ(2, dml_err_exit_code(DML_ERR_SPEC));
    DML_CHECK_EQ(3, dml_err_exit_code(DML_ERR_UNAVAILABLE));
    DML_CHECK_EQ(4, dml_err_exit_code(DML_ERR_DATA));
    DML_CHECK_EQ(6, dml_err_exit_code(DML_ERR_PEER));
    DML_CHECK_EQ(3, dml_err_exit_code(DML_ERR_NOMEM));
    assert_string_equal(dml_err_text(DML_ERR_PEER), "worker lost");
    assert_string_equal(dml_err_text((dml_err)99), "unknown error");
    DML_CHECK_EQ(1, dml_err_exit_code((dml_err)99));
}

static void an_assertion_prints_both_values_and_aborts(void **state)
{
    (void)state;
    int out[2];
    DML_CHECK_EQ(0, pipe(out));
    const pid_t child = fork();
    if (child == 0) {
        dup2(out[1], STDERR_FILENO);
        DML_ASSERT_OP(17, <, 5);
        _exit(0);
    }
    close(out[1]);
    char text[512] = {0};
    DML_CHECK(read(out[0], text, sizeof text - 1) > 0);
    close(out[0]);
    int status;
    DML_CHECK_EQ(child, waitpid(child, &status, 0));
    DML_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    DML_CHECK(strstr(text, "17 < 5") && strstr(text, "(17, 5)"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trail_starts_with_the_cause_and_goes_outwards),
        cmocka_unit_test(the_users_own_mistakes_are_told_without_our_source),
        cmocka_unit_test(a_new_failure_starts_a_new_trail),
        cmocka_unit_test(a_trail_that_is_too_long_is_cut_and_stays_a_string),
        cmocka_unit_test(each_thread_has_its_own_trail_and_put_carries_one_over),
        cmocka_unit_test(every_code_has_a_text_and_an_exit_code),
        cmocka_unit_test(an_assertion_prints_both_values_and_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
