/* tests/engine/test_health.c - what a driver says, as the agent hears it. */
#include "tests/support/test.h"

#include "engine/health.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A device whose driver says `said` as soon as it is watched. */
static dml_news said;
static int32_t watched, unwatched;
static dml_err refusal;

static dml_err watch(int32_t index, dml_tell tell, void *context, dml_watch **out)
{
    static int it;
    watched = index;
    if (refusal != DML_ERR_OK) DML_FAIL(refusal, "no library");
    *out = (dml_watch *)(void *)&it;
    if (said.text[0]) tell(context, &said);
    return DML_ERR_OK;
}

static void unwatch(dml_watch *w)
{
    unwatched += w != NULL;
}

static const dml_device_api device = {.watch = watch, .unwatch = unwatch}, silent = {0};
static const dml_backend told = {.name = "told", .device = &device},
                         untold = {.name = "untold", .device = &silent};

static dml_report last;

static dml_err put(void *context, const dml_report *report)
{
    if (context) return dml_report_send(*(const int *)context, report);
    last = *report;
    return DML_ERR_OK;
}

static void a_link_s_fault_asks_for_a_hand_over(void **state)
{
    (void)state;
    said = (dml_news){.kind = DML_NEWS_LINK, .code = 74, .text = "Xid 74 of device 2: a link"};
    dml_health h;
    dml_health_open(&told, 2, 5, &(dml_reporter){put, NULL}, &h);
    DML_CHECK_EQ(2, watched);
    DML_CHECK(last.kind == DML_REPORT_SUSPECT && last.rank == 5 && last.suspect.rank == 5);
    assert_string_equal(said.text, last.suspect.why);
    dml_health_close(&h);
    DML_CHECK_EQ(1, unwatched);
}

static void a_lost_device_ends_the_process_which_has_said_why(void **state)
{
    (void)state;
    int socket[2];
    DML_CHECK_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socket));
    said = (dml_news){.kind = DML_NEWS_LOST, .code = 79, .text = "Xid 79 of device 2: off the bus"};
    const pid_t pid = fork();
    if (pid == 0) {
        dml_health h;
        dml_health_open(&told, 2, 5, &(dml_reporter){put, &socket[1]}, &h);
        _exit(99);
    }
    close(socket[1]);
    dml_report r;
    bool got;
    int status;
    DML_CHECK_OK(dml_report_receive(socket[0], &r, &got));
    DML_CHECK_EQ(pid, waitpid(pid, &status, 0));
    close(socket[0]);
    DML_CHECK(got && r.kind == DML_REPORT_FAIL && r.rank == 5);
    DML_CHECK_EQ(DML_ERR_UNAVAILABLE, r.fail.err);
    DML_CHECK(strstr(r.fail.trail, said.text));
    DML_CHECK_EQ(dml_err_exit_code(DML_ERR_UNAVAILABLE), WEXITSTATUS(status));
}

static void a_driver_that_tells_nothing_is_no_error(void **state)
{
    (void)state;
    dml_health h;
    unwatched = 0;
    refusal = DML_ERR_UNAVAILABLE;
    dml_health_open(&told, 0, 0, &(dml_reporter){put, NULL}, &h);
    dml_health_close(&h);
    dml_health_open(&untold, 0, 0, &(dml_reporter){put, NULL}, &h);
    dml_health_close(&h);
    dml_health_close(&(dml_health){0});
    DML_CHECK_EQ(0, unwatched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_link_s_fault_asks_for_a_hand_over),
        cmocka_unit_test(a_lost_device_ends_the_process_which_has_said_why),
        cmocka_unit_test(a_driver_that_tells_nothing_is_no_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
