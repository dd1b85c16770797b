/* tests/engine/test_detect.c - who counts as dead, stopped, stuck or slow; time is given, not waited for. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/detect.h"
#include "engine/warden.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS       DML_NS_PER_MS
#define LIMIT_MS 350

enum { WORKERS = 4, PATIENCE_MS = 20000 };

typedef struct rig {
    dml_control *control;
    int fd;
    dml_detect *detect;
} rig;

static rig open_rig(void)
{
    rig g;
    DML_CHECK_OK(dml_control_create(&g.control, &g.fd));
    const dml_detect_config config = {
        .control = g.control, .workers = WORKERS, .heartbeat_ns = 100 * MS, .cores = WORKERS};
    DML_CHECK_OK(dml_detect_open(&config, &g.detect));
    return g;
}

static void close_rig(rig *g)
{
    dml_detect_close(g->detect);
    dml_control_unmap(g->control);
    close(g->fd);
}

/* A process that holds its beacon and beats, until it is killed or, `orderly`, closes at once. */
static pid_t start_worker(rig *g, int32_t rank, bool orderly)
{
    int go[2]; /* forked while no thread is just being made: sanitizers hold a lock then */
    assert_int_equal(0, pipe(go));
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dml_warden warden;
        close(go[1]);
        if (read(go[0], &(char){0}, 1) != 0) _exit(1);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dml_warden_open(g->control, rank, &warden) != DML_ERR_OK) _exit(1);
        while (!orderly)
            pause();
        dml_warden_close(&warden);
        _exit(0);
    }
    close(go[0]);
    DML_CHECK_OK(dml_detect_expect(g->detect, rank));
    close(go[1]);
    if (orderly) return pid;
    const int64_t end_ns = dml_clock_ns() + PATIENCE_MS * MS;
    while (atomic_load(&g->control->worker[rank].beat_ns) == 0 && dml_clock_ns() < end_ns)
        dml_sleep_until_ns(dml_clock_ns() + MS);
    assert_true(atomic_load(&g->control->worker[rank].beat_ns) > 0);
    return pid;
}

static void stop(pid_t pid)
{
    int status;
    kill(pid, SIGSTOP);
    assert_int_equal(pid, waitpid(pid, &status, WUNTRACED));
    assert_true(WIFSTOPPED(status));
}

static void end(rig *g, int32_t rank, pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(pid, waitpid(pid, &status, 0));
    dml_detect_forget(g->detect, rank);
}

static bool look(rig *g, int64_t now_ns, dml_sign *sign)
{
    return dml_detect_next(g->detect, now_ns, sign);
}

/* Looks whenever it is due, up to the time; false: nothing was told. */
static bool look_until(rig *g, int64_t end_ns, dml_sign *sign)
{
    while (dml_detect_due_ns(g->detect) <= end_ns)
        if (look(g, dml_detect_due_ns(g->detect), sign)) return true;
    return false;
}

static void limits_follow_cores_and_heartbeats(void **state)
{
    (void)state;
    DML_CHECK_EQ(350 * MS, dml_detect_limit(2, 2, 100 * MS));
    DML_CHECK_EQ(1000 * MS, dml_detect_limit(3, 2, 100 * MS));
    DML_CHECK_EQ(7000 * MS, dml_detect_limit(3, 2, 2000 * MS));
    DML_CHECK_EQ(350 * MS, dml_detect_limit(2, 2, 10 * MS));
}

static void a_stopped_worker_is_silent_when_the_limit_is_over(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    const pid_t pid = start_worker(&g, 1, false);
    stop(pid);
    const int64_t beat_ns = atomic_load(&g.control->worker[1].beat_ns);
    DML_CHECK(!look(&g, beat_ns + MS, &sign));
    DML_CHECK(!look_until(&g, beat_ns + LIMIT_MS * MS - 1, &sign));
    DML_CHECK(look_until(&g, beat_ns + LIMIT_MS * MS, &sign));
    DML_CHECK_EQ(DML_SIGN_SILENT, sign.kind);
    DML_CHECK_EQ(1, sign.rank);
    DML_CHECK_EQ(beat_ns, sign.fault_ns);
    DML_CHECK_EQ(beat_ns + LIMIT_MS * MS, sign.seen_ns);
    assert_non_null(strstr(sign.text, "stopped"));
    DML_CHECK(!look_until(&g, beat_ns + 9000 * MS, &sign)); /* once */
    end(&g, 1, pid);
    close_rig(&g);
}

/* ^Z stops the agent as well: between two looks lie hours. */
static void time_in_which_nobody_looked_is_nobodys_silence(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    const pid_t pid = start_worker(&g, 0, false);
    stop(pid);
    const int64_t beat_ns = atomic_load(&g.control->worker[0].beat_ns);
    DML_CHECK(!look(&g, beat_ns + 100 * MS, &sign));
    int64_t due_ns = dml_detect_due_ns(g.detect);
    DML_CHECK_EQ(beat_ns + 150 * MS, due_ns);
    DML_CHECK(!look(&g, due_ns + 3600000 * MS, &sign));
    /* but what was seen of it before and after adds up */
    DML_CHECK(!look_until(&g, beat_ns + (3600000 + LIMIT_MS) * MS - 1, &sign));
    DML_CHECK(look_until(&g, beat_ns + (3600000 + LIMIT_MS) * MS, &sign));
    end(&g, 0, pid);
    close_rig(&g);
}

/* The last beat came after the last look, then everyone was stopped. */
static void a_beat_unseen_before_a_pause_is_not_aged_by_it(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    DML_CHECK(!look(&g, 1000 * MS, &sign));
    DML_CHECK_EQ(1050 * MS, dml_detect_due_ns(g.detect));
    const pid_t pid = start_worker(&g, 0, false);
    stop(pid);
    atomic_store(&g.control->worker[0].beat_ns, 1020 * MS);
    DML_CHECK(!look(&g, 91050 * MS, &sign));
    DML_CHECK(!look_until(&g, 91020 * MS + LIMIT_MS * MS - 1, &sign));
    DML_CHECK(look_until(&g, 91020 * MS + LIMIT_MS * MS, &sign));
    end(&g, 0, pid);
    close_rig(&g);
}

/* Its thread is here, running this test. */
static void a_heartbeat_that_is_not_let_run_has_twenty_times_as_long(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    DML_CHECK_OK(dml_detect_expect(g.detect, 2));
    atomic_store(&g.control->worker[2].beat_tid, (int32_t)syscall(SYS_gettid));
    atomic_store(&g.control->worker[2].beat_ns, 5 * MS);
    DML_CHECK(!look(&g, 6 * MS, &sign));
    DML_CHECK(!look_until(&g, 20 * LIMIT_MS * MS, &sign));
    DML_CHECK(look_until(&g, 20 * LIMIT_MS * MS + 100 * MS, &sign));
    DML_CHECK_EQ(DML_SIGN_SILENT, sign.kind);
    assert_non_null(strstr(sign.text, "not let run"));
    close_rig(&g);
}

static void who_never_beat_is_not_silent(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    DML_CHECK_OK(dml_detect_expect(g.detect, 2));
    DML_CHECK(!look(&g, MS, &sign));
    DML_CHECK(!look_until(&g, 60000 * MS, &sign));
    close_rig(&g);
}

static void wait_told(rig *g)
{
    struct pollfd on = {dml_detect_fd(g->detect), POLLIN, 0};
    assert_int_equal(1, poll(&on, 1, PATIENCE_MS));
}

static void a_death_is_told_once_and_the_next_process_is_watched_anew(void **state)
{
    (void)state;
    rig g = open_rig();
    for (int i = 0; i < 3; i++) {
        dml_sign sign;
        const pid_t pid = start_worker(&g, 3, false);
        DML_CHECK(!look(&g, dml_clock_ns(), &sign));
        kill(pid, SIGKILL);
        wait_told(&g);
        DML_CHECK(look(&g, dml_clock_ns(), &sign));
        DML_CHECK_EQ(DML_SIGN_DIED, sign.kind);
        DML_CHECK_EQ(3, sign.rank);
        DML_CHECK(!look(&g, dml_clock_ns(), &sign));
        end(&g, 3, pid);
    }
    close_rig(&g);
}

static void an_agent_started_again_sees_who_died_meanwhile(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    const pid_t pid = start_worker(&g, 0, false);
    dml_detect_close(g.detect);
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(pid, waitpid(pid, &status, 0));
    const dml_detect_config config = {
        .control = g.control, .workers = WORKERS, .heartbeat_ns = 100 * MS, .cores = WORKERS};
    DML_CHECK_OK(dml_detect_open(&config, &g.detect));
    DML_CHECK_OK(dml_detect_resume(g.detect, 0));
    wait_told(&g);
    DML_CHECK(look(&g, dml_clock_ns(), &sign));
    DML_CHECK_EQ(DML_SIGN_DIED, sign.kind);
    close_rig(&g);
}

static void an_orderly_end_is_no_sign(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    const pid_t pid = start_worker(&g, 0, true);
    int status;
    assert_int_equal(pid, waitpid(pid, &status, 0));
    DML_CHECK_EQ(0, status);
    DML_CHECK(!look(&g, dml_clock_ns(), &sign));
    DML_CHECK(!look_until(&g, dml_clock_ns() + 60000 * MS, &sign));
    dml_detect_forget(g.detect, 0);
    close_rig(&g);
}

static void an_op_beyond_its_limit_is_stuck(void **state)
{
    (void)state;
    rig g = open_rig();
    dml_sign sign;
    DML_CHECK_OK(dml_detect_expect(g.detect, 1));
    dml_worker_page *p = &g.control->worker[1];
    atomic_store(&p->op_kind, DML_OP_BWD);
    atomic_store(&p->op_chunk, 2);
    atomic_store(&p->op_mb, 5);
    atomic_store(&p->op_begin_ns, 100 * MS); /* the first of its kind: nobody can say */
    DML_CHECK(!look(&g, 101 * MS, &sign));
    DML_CHECK(!look_until(&g, 60000 * MS, &sign));
    atomic_store(&p->op_limit_ns, 2000 * MS);
    atomic_store(&p->op_begin_ns, 60001 * MS);
    DML_CHECK(!look_until(&g, 62000 * MS, &sign));
    atomic_store(&p->op_begin_ns, 0); /* it ended just in time */
    DML_CHECK(!look_until(&g, 70000 * MS, &sign));
    atomic_store(&p->op_begin_ns, 70001 * MS);
    DML_CHECK(!look_until(&g, 71000 * MS, &sign));
    const int64_t pause_ns = 50000 * MS; /* in which this process did not run */
    DML_CHECK(!look(&g, dml_detect_due_ns(g.detect) + pause_ns, &sign));
    DML_CHECK(!look_until(&g, 72000 * MS + pause_ns, &sign));
    DML_CHECK(look_until(&g, 72100 * MS + pause_ns, &sign));
    DML_CHECK_EQ(DML_SIGN_STUCK, sign.kind);
    DML_CHECK_EQ(1, sign.rank);
    assert_non_null(strstr(sign.text, "B2.5 has run for 2."));
    close_rig(&g);
}

/* Four workers in two stages of two; a step of rank r takes work[r] ms. */
static bool run_steps(rig *g, const int32_t work[WORKERS], int32_t steps, dml_sign *sign)
{
    for (int32_t k = 0; k < steps; k++) {
        for (int32_t r = 0; r < WORKERS; r++) {
            atomic_fetch_add(&g->control->worker[r].step, 1);
            atomic_fetch_add(&g->control->worker[r].worked_ns, work[r] * MS);
        }
        if (look(g, dml_detect_due_ns(g->detect), sign)) return true;
    }
    return false;
}

static void a_straggler_is_named_among_its_stages_holders(void **state)
{
    (void)state;
    static const char *const layout[] = {"parallelism.pp=2", "parallelism.dp=2"};
    dml_spec spec;
    dml_plan plan;
    dml_sign sign;
    DML_CHECK_OK(dml_spec_load(DML_SOURCE_DIR "/tests/specs/tiny-mlp.yaml", layout, 2, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    assert_int_equal(WORKERS, plan.workers);
    rig g = open_rig();
    for (int32_t r = 0; r < WORKERS; r++) {
        DML_CHECK_OK(dml_detect_expect(g.detect, r));
        atomic_store(&g.control->worker[r].step, 1);
    }
    dml_detect_plan(g.detect, &plan);
    /* stages may differ as they like, and 1.5 times is not yet slow */
    DML_CHECK(!run_steps(&g, (const int32_t[]){10, 15, 100, 110}, 100, &sign));
    /* a hiccup of ten steps is not either */
    DML_CHECK(!run_steps(&g, (const int32_t[]){10, 10, 100, 310}, 10, &sign));
    DML_CHECK(!run_steps(&g, (const int32_t[]){10, 10, 100, 110}, 20, &sign));
    DML_CHECK(run_steps(&g, (const int32_t[]){10, 10, 100, 160}, 35, &sign));
    DML_CHECK_EQ(DML_SIGN_SLOW, sign.kind);
    DML_CHECK_EQ(3, sign.rank);
    DML_CHECK(!dml_sign_is_loss(sign.kind));
    DML_CHECK(!run_steps(&g, (const int32_t[]){10, 10, 100, 160}, 100, &sign)); /* once */
    dml_detect_plan(g.detect, &plan);
    DML_CHECK(run_steps(&g, (const int32_t[]){30, 10, 100, 100}, 45, &sign)); /* under a new plan */
    DML_CHECK_EQ(0, sign.rank);
    close_rig(&g);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_follow_cores_and_heartbeats),
        cmocka_unit_test(a_stopped_worker_is_silent_when_the_limit_is_over),
        cmocka_unit_test(time_in_which_nobody_looked_is_nobodys_silence),
        cmocka_unit_test(a_beat_unseen_before_a_pause_is_not_aged_by_it),
        cmocka_unit_test(a_heartbeat_that_is_not_let_run_has_twenty_times_as_long),
        cmocka_unit_test(who_never_beat_is_not_silent),
        cmocka_unit_test(a_death_is_told_once_and_the_next_process_is_watched_anew),
        cmocka_unit_test(an_agent_started_again_sees_who_died_meanwhile),
        cmocka_unit_test(an_orderly_end_is_no_sign),
        cmocka_unit_test(an_op_beyond_its_limit_is_stuck),
        cmocka_unit_test(a_straggler_is_named_among_its_stages_holders),
    };
    return cmocka_run_group_tests_name("detect", tests, NULL, NULL);
}
