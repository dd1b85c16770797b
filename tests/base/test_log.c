/* tests/base/test_log.c - what reaches stderr, caught in a file. */
#include "tests/support/test.h"

#include "engine/base/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *caught;
static int real_stderr;

static int catch_stderr(void **state)
{
    (void)state;
    caught = tmpfile();
    real_stderr = dup(STDERR_FILENO);
    return !caught || dup2(fileno(caught), STDERR_FILENO) < 0;
}

static int give_stderr_back(void **state)
{
    (void)state;
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    return fclose(caught);
}

static const char *text(void)
{
    static char all[1 << 16];
    const ssize_t n = pread(fileno(caught), all, sizeof all - 1, 0);
    all[n > 0 ? n : 0] = '\0';
    return all;
}

static void a_line_names_time_process_level_and_module(void **state)
{
    (void)state;
    dml_log_setup(DML_LOG_INFO, "w2");
    dml_log(DML_LOG_INFO, "replan", "worker %d lost at step %d", 3, 881);
    double s;
    DML_CHECK_EQ(1, sscanf(text(), "%lfs ", &s));
    DML_CHECK(strstr(text(), "s w2 info replan: worker 3 lost at step 881\n"));
}

static void lines_above_the_level_are_dropped(void **state)
{
    (void)state;
    dml_log_setup(DML_LOG_WARN, "w0");
    dml_log(DML_LOG_INFO, "m", "dropped");
    dml_log(DML_LOG_DEBUG, "m", "dropped");
    assert_string_equal(text(), "");
    dml_log(DML_LOG_ERROR, "m", "kept");
    DML_CHECK(strstr(text(), "error m: kept\n"));
}

static void long_lines_and_names_are_cut_and_still_end_the_line(void **state)
{
    (void)state;
    char line[3000];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\0';
    dml_log_setup(DML_LOG_INFO, "a-name-of-more-than-fifteen-bytes");
    dml_log(DML_LOG_INFO, "m", "%s", line);
    DML_CHECK(strstr(text(), " a-name-of-more- info m: xxx"));
    const size_t n = strlen(text());
    DML_CHECK(n < 1100 && text()[n - 1] == '\n' && text()[n - 2] == 'x');
}

static void *chatter(void *arg)
{
    for (int i = 0; i < 100; i++)
        dml_log(DML_LOG_INFO, "chat", "thread %d says %d, and that is all it says.", *(int *)arg,
                i);
    return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
    (void)state;
    dml_log_setup(DML_LOG_INFO, "w");
    pthread_t t[4];
    int id[4] = {0, 1, 2, 3};
    for (int i = 0; i < 4; i++)
        DML_CHECK_EQ(0, pthread_create(&t[i], NULL, chatter, &id[i]));
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    int lines = 0;
    for (char *line = strtok((char *)text(), "\n"); line; line = strtok(NULL, "\n"), lines++) {
        int who, what, end = 0;
        double s;
        sscanf(line, "%lfs w info chat: thread %d says %d, and that is all it says.%n", &s, &who,
               &what, &end);
        DML_CHECK_EQ(strlen(line), end);
    }
    DML_CHECK_EQ(400, lines);
}

int main(void)
{
#define CAUGHT(test) cmocka_unit_test_setup_teardown(test, catch_stderr, give_stderr_back)
    const struct CMUnitTest tests[] = {
        CAUGHT(a_line_names_time_process_level_and_module),
        CAUGHT(lines_above_the_level_are_dropped),
        CAUGHT(long_lines_and_names_are_cut_and_still_end_the_line),
        CAUGHT(lines_of_several_threads_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
