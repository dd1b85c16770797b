/* tests/base/test_failpoint.c - a point does what was asked for, to whom and when it was, and nothing else. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int disarm(void **state)
{
    (void)state;
    dml_failpoints_disarm();
    dml_failpoints_be(DML_FAILPOINT_AGENT);
    unsetenv("DML_FAILPOINTS");
    return 0;
}

static void nothing_happens_while_nothing_is_armed(void **state)
{
    (void)state;
    DML_CHECK_OK(DML_FAILPOINT(WORKER_PUT));
    DML_CHECK_EQ(0, dml_failpoint_count(DML_FAILPOINT_WORKER_PUT));
}

static void an_error_comes_once_at_its_hit_and_names_the_point(void **state)
{
    (void)state;
    DML_CHECK_OK(dml_failpoints_arm("ckpt.fsync@hit=2:error; ckpt.write:error=nomem"));
    DML_CHECK_OK(DML_FAILPOINT(CKPT_RENAME));
    DML_CHECK_OK(DML_FAILPOINT(CKPT_FSYNC));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "failpoint ckpt.fsync", DML_FAILPOINT(CKPT_FSYNC));
    DML_CHECK_OK(DML_FAILPOINT(CKPT_FSYNC));
    DML_CHECK_FAILS(DML_ERR_NOMEM, "failpoint ckpt.write", DML_FAILPOINT(CKPT_WRITE));
    DML_CHECK_EQ(3, dml_failpoint_count(DML_FAILPOINT_CKPT_FSYNC));
}

static void always_means_from_then_on(void **state)
{
    (void)state;
    DML_CHECK_OK(dml_failpoints_arm("agent.moved@hit=2,always:error=data"));
    DML_CHECK_OK(DML_FAILPOINT(AGENT_MOVED));
    for (int i = 0; i < 3; i++)
        DML_CHECK_FAILS(DML_ERR_DATA, "agent.moved", DML_FAILPOINT(AGENT_MOVED));
}

static void a_rank_is_hit_alone_and_its_hits_are_counted_alone(void **state)
{
    (void)state;
    DML_CHECK_OK(dml_failpoints_arm("worker.put@rank=1,hit=2:error;agent.fence@rank=-1:error"));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "agent.fence", DML_FAILPOINT(AGENT_FENCE));
    for (int round = 1; round <= 2; round++) {
        for (int32_t rank = 0; rank < 3; rank++) {
            dml_failpoints_be(rank);
            const dml_err err = DML_FAILPOINT(WORKER_PUT);
            DML_CHECK_EQ(rank == 1 && round == 2 ? DML_ERR_UNAVAILABLE : DML_ERR_OK, err);
        }
    }
}

static void a_pause_lasts(void **state)
{
    (void)state;
    DML_CHECK_OK(dml_failpoints_arm("agent.publish : pause=20ms"));
    const int64_t begin_ns = dml_clock_ns();
    DML_CHECK_OK(DML_FAILPOINT(AGENT_PUBLISH));
    DML_CHECK(dml_clock_ns() - begin_ns >= 20 * DML_NS_PER_MS);
}

static void kill_ends_the_process(void **state)
{
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        if (dml_failpoints_arm("worker.saved:kill") == DML_ERR_OK)
            _exit(DML_FAILPOINT(WORKER_SAVED) == DML_ERR_OK ? 1 : 2);
        _exit(3);
    }
    int status = 0;
    DML_CHECK_EQ(child, waitpid(child, &status, 0));
    DML_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void note_kill(void *context, int32_t rank, dml_failpoint point)
{
    ((int32_t *)context)[0] = rank;
    ((int32_t *)context)[1] = (int32_t)point;
}

static void where_workers_are_threads_kill_is_the_callback_and_an_error(void **state)
{
    (void)state;
    int32_t seen[2] = {0};
    DML_CHECK_OK(dml_failpoints_arm("worker.get:kill"));
    dml_failpoints_on_kill(note_kill, seen);
    dml_failpoints_be(5);
    DML_CHECK_FAILS(DML_ERR_PEER, "killed at worker.get", DML_FAILPOINT(WORKER_GET));
    DML_CHECK_EQ(5, seen[0]);
    DML_CHECK_EQ(DML_FAILPOINT_WORKER_GET, seen[1]);
}

static void the_environment_tells_first_processes_from_those_that_join(void **state)
{
    (void)state;
    setenv("DML_FAILPOINTS", "worker.open:error=nomem; worker.open@joined:error=data", 1);
    dml_failpoints_be(-2); /* as the process */
    DML_CHECK_OK(dml_failpoints_from_environment(3, false));
    DML_CHECK_FAILS(DML_ERR_NOMEM, "worker.open", DML_FAILPOINT(WORKER_OPEN));
    dml_failpoints_disarm();
    DML_CHECK_OK(dml_failpoints_from_environment(3, true));
    DML_CHECK_FAILS(DML_ERR_DATA, "worker.open", DML_FAILPOINT(WORKER_OPEN));
}

static void what_cannot_be_read_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"worker.putt:kill", "character 12: no such point"},
        {"worker.put", "':' and an action"},
        {"worker.put:", "an action is kill"},
        {"worker.put:kill it", "character 17: ';' and the next rule"},
        {"worker.put@rank:kill", "a condition is"},
        {"worker.put@hit=0:kill", "a whole number"},
        {"worker.put@rank=99999999999:kill", "a whole number"},
        {"worker.put@rank=1,:kill", "a condition is"},
        {"worker.put:pause", "an action is"},
        {"worker.put:pause=3", "a pause is"},
        {"worker.put:pause=-3ms", "a whole number"},
        {"worker.put:error=fatal", "an error is"},
        {"ckpt.write:error; x:kill", "no such point"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[i].complaint, dml_failpoints_arm(bad[i].text));
        DML_CHECK_OK(DML_FAILPOINT(CKPT_WRITE)); /* nothing of a bad list is armed */
    }
    DML_CHECK_OK(dml_failpoints_arm(" ; "));
    DML_CHECK_OK(DML_FAILPOINT(WORKER_PUT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nothing_happens_while_nothing_is_armed, disarm),
        cmocka_unit_test_teardown(an_error_comes_once_at_its_hit_and_names_the_point, disarm),
        cmocka_unit_test_teardown(always_means_from_then_on, disarm),
        cmocka_unit_test_teardown(a_rank_is_hit_alone_and_its_hits_are_counted_alone, disarm),
        cmocka_unit_test_teardown(a_pause_lasts, disarm),
        cmocka_unit_test_teardown(kill_ends_the_process, disarm),
        cmocka_unit_test_teardown(where_workers_are_threads_kill_is_the_callback_and_an_error,
                                  disarm),
        cmocka_unit_test_teardown(the_environment_tells_first_processes_from_those_that_join,
                                  disarm),
        cmocka_unit_test_teardown(what_cannot_be_read_is_refused_with_its_place, disarm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
