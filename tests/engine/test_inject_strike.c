/* tests/engine/test_inject_strike.c - a fault strikes where and when it was asked to, once, and is announced before. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/inject_strike.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct rig {
    dml_fault_board board;
    dml_striker striker;
    dml_reporter reporter;
    dml_abort abort;
    int32_t reports, vanished; /* rank; -1: nobody */
    dml_report last;
    int32_t corrupted;
    _Atomic uint32_t killed;
} rig;

static dml_err take(void *context, const dml_report *report)
{
    rig *g = context;
    g->reports++;
    g->last = *report;
    return DML_ERR_OK;
}

static void vanish(void *context, int32_t rank)
{
    ((rig *)context)->vanished = rank;
}

static dml_err corrupt(void *context, const dml_fault *fault)
{
    (void)fault;
    ((rig *)context)->corrupted++;
    return DML_ERR_OK;
}

/* Worker 1, as a thread. */
static int setup(void **state)
{
    rig *g = calloc(1, sizeof *g);
    const dml_backend *ref;
    if (!g || dml_backend_find("ref", &ref) != DML_ERR_OK) return -1;
    g->vanished = -1;
    g->reporter = (dml_reporter){take, g};
    g->striker = (dml_striker){.board = &g->board,
                               .rank = 1,
                               .backend = ref,
                               .reporter = &g->reporter,
                               .vanish = vanish,
                               .context = g,
                               .killed = &g->killed};
    dml_striker_begin(&g->striker, &g->abort, 50 * DML_NS_PER_MS, 0);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void arm(rig *g, const char *text)
{
    dml_fault f;
    DML_CHECK_OK(dml_fault_parse(text, &f));
    DML_CHECK_OK(dml_board_add(&g->board, &f));
}

static dml_err at(rig *g, int64_t step, dml_fault_phase phase, int32_t mb)
{
    const dml_strike_at here = {
        .step = step, .phase = phase, .mb = mb, .corrupt = corrupt, .context = g};
    return dml_strike(&g->striker, &here);
}

static dml_err transfer(rig *g, uint64_t ends)
{
    const dml_strike_at here = {.step = 9, .phase = DML_FAULT_AT_SEND, .ends = ends};
    return dml_strike(&g->striker, &here);
}

static void it_strikes_at_its_op_and_nowhere_else(void **state)
{
    rig *g = *state;
    arm(g, "kill@step=3,rank=1,phase=backward,micro_batch=2");
    DML_CHECK_OK(at(g, 2, DML_FAULT_AT_BACKWARD, 2));
    DML_CHECK_OK(at(g, 3, DML_FAULT_AT_FORWARD, 2));
    DML_CHECK_OK(at(g, 3, DML_FAULT_AT_BACKWARD, 1));
    DML_CHECK_EQ(0, g->reports);
    DML_CHECK_FAILS(DML_ERR_PEER, "rank 1 vanishes", at(g, 3, DML_FAULT_AT_BACKWARD, 2));
    DML_CHECK_EQ(1, g->vanished);
    DML_CHECK_EQ(1, g->reports);
    DML_CHECK_EQ(DML_REPORT_FAULT, g->last.kind);
    DML_CHECK_EQ(DML_FAULT_KILL, g->last.fault.type);
    DML_CHECK_EQ(3, g->last.fault.step);
    assert_string_equal("kill@step=3,phase=backward,micro_batch=2,rank=1", g->last.fault.text);
    DML_CHECK_OK(at(g, 3, DML_FAULT_AT_BACKWARD, 2)); /* whoever runs the step again */
}

static void without_a_phase_the_first_op_of_the_step_is_hit_evaluation_excepted(void **state)
{
    rig *g = *state;
    arm(g, "exit@step=3,rank=1");
    arm(g, "kill@step=5,rank=1,phase=eval");
    arm(g, "kill@step=3,rank=2"); /* another's */
    DML_CHECK_OK(at(g, 3, DML_FAULT_AT_EVAL, 0));
    DML_CHECK_FAILS(DML_ERR_PEER, "exit", at(g, 3, DML_FAULT_AT_RECEIVE, 0));
    DML_CHECK_OK(at(g, 5, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_FAILS(DML_ERR_PEER, "kill", at(g, 5, DML_FAULT_AT_EVAL, 0));
    DML_CHECK(!dml_striker_wants(&g->striker));
}

static void one_that_is_due_strikes_at_the_next_op(void **state)
{
    rig *g = *state;
    arm(g, "kill@time=5s,rank=1");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    dml_board_wake(&g->board, 0);
    DML_CHECK_FAILS(DML_ERR_PEER, "kill", at(g, 1, DML_FAULT_AT_COMMIT, -1));
}

static void an_aborted_transport_fails_from_then_on(void **state)
{
    rig *g = *state;
    arm(g, "comm_abort@rank=1");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_BACKWARD, 0)); /* no transfer */
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "transport was aborted", transfer(g, 1));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "transport was aborted", transfer(g, 2));
}

static void a_cut_link_delays_those_at_its_end_to_their_deadline(void **state)
{
    rig *g = *state;
    arm(g, "partition@rank=1,peers=2+3");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_OK(transfer(g, 1 << 0));
    DML_CHECK_FAILS(DML_ERR_PEER, "waiting for worker 3 (the link is cut)", transfer(g, 1 << 3));
    atomic_store(&g->abort.raised, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", transfer(g, 1 << 2));
    atomic_store(&g->abort.raised, 0);
    /* without 3 the link to 2 is still cut; without both nothing is left of it */
    dml_striker_begin(&g->striker, &g->abort, DML_NS_PER_MS, 1 << 3);
    DML_CHECK_OK(transfer(g, 1 << 3));
    DML_CHECK_FAILS(DML_ERR_PEER, "worker 2", transfer(g, 1 << 2));
    dml_striker_begin(&g->striker, &g->abort, DML_NS_PER_MS, 1 << 2);
    DML_CHECK(!dml_striker_wants(&g->striker));
}

static void a_link_that_is_down_for_a_while_comes_back(void **state)
{
    rig *g = *state;
    arm(g, "link_down@rank=1,peers=0,duration=10ms");
    const int64_t begin_ns = dml_clock_ns();
    DML_CHECK_OK(transfer(g, 1 << 0)); /* the fault strikes here, and the transfer suffers it */
    DML_CHECK(dml_clock_ns() - begin_ns >= 10 * DML_NS_PER_MS);
    DML_CHECK_OK(transfer(g, 1 << 0));
}

static void what_hangs_goes_on_after_its_time_or_ends_when_it_is_killed(void **state)
{
    rig *g = *state;
    arm(g, "hang@rank=1,duration=10ms");
    const int64_t begin_ns = dml_clock_ns();
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK(dml_clock_ns() - begin_ns >= 10 * DML_NS_PER_MS);
    arm(g, "hang@rank=1");
    atomic_store(&g->killed, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "hung, and was killed", at(g, 1, DML_FAULT_AT_FORWARD, 0));
}

static void an_xid_ends_the_worker_or_names_a_suspect_or_nothing(void **state)
{
    rig *g = *state;
    static const int32_t fatal[] = {48, 79, 94, 95};
    for (int32_t i = 0; i < 4; i++) {
        char text[64];
        snprintf(text, sizeof text, "xid:%d@rank=1", fatal[i]);
        arm(g, text);
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "reports Xid", at(g, 1, DML_FAULT_AT_FORWARD, 0));
    }
    arm(g, "xid:74@rank=1");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_EQ(DML_REPORT_SUSPECT, g->last.kind);
    DML_CHECK_EQ(1, g->last.suspect.rank); /* itself: it hands over */
    arm(g, "xid:13@rank=1");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_EQ(DML_REPORT_FAULT, g->last.kind);
}

static void device_faults_need_a_queue_and_break_the_device_for_good(void **state)
{
    rig *g = *state;
    const dml_device_api *api = g->striker.backend->device;
    const dml_device_config config = {.threads = 1, .queue_capacity = 8};
    dml_device *device;
    dml_queue *queue;
    void *memory;
    DML_CHECK_OK(api->open(&config, &device));
    DML_CHECK_OK(api->queue_open(device, "test", &queue));
    const dml_strike_at here = {
        .step = 1, .phase = DML_FAULT_AT_FORWARD, .device = device, .queue = queue};
    arm(g, "gpu_oom@rank=1");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_VOTE, -1)); /* no queue: not here */
    DML_CHECK_FAILS(DML_ERR_NOMEM, "bytes", dml_strike(&g->striker, &here));
    DML_CHECK_OK(api->alloc(device, 64, &memory));
    arm(g, "gpu_error@rank=1");
    DML_CHECK_OK(dml_strike(&g->striker, &here)); /* the next call says it */
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "the device is lost", api->copy(queue, memory, &here, 8));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "the device is lost", api->sync(queue, INT64_MAX));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "the device is lost", api->renew(queue, INT64_MAX));
    void *more;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "the device is lost", api->alloc(device, 64, &more));
    api->free(device, memory);
    api->queue_close(queue);
    api->close(device);
}

static void corruption_is_the_callers_and_a_gradient_spoils_where_it_is_reduced(void **state)
{
    rig *g = *state;
    arm(g, "corrupt@step=4,rank=1");
    arm(g, "corrupt@step=4,rank=1,tensor=fc1.weight");
    DML_CHECK_OK(at(g, 4, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_EQ(1, g->corrupted);
    DML_CHECK_OK(at(g, 4, DML_FAULT_AT_REDUCE, -1));
    DML_CHECK_EQ(2, g->corrupted);
}

static void slow_lasts_and_is_no_matter_of_one_tenure(void **state)
{
    rig *g = *state;
    arm(g, "slow@rank=1,factor=2.5");
    DML_CHECK_OK(at(g, 1, DML_FAULT_AT_FORWARD, 0));
    DML_CHECK_EQ(1500, g->striker.slow);
    dml_striker_begin(&g->striker, &g->abort, 1, 0);
    DML_CHECK_EQ(1500, g->striker.slow);
}

/* What a process that is struck comes to; it waits for SIGCONT's sender where it stops. */
static int fate(rig *g, const char *text)
{
    const pid_t child = fork();
    if (child == 0) {
        g->striker.vanish = NULL;
        arm(g, text);
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, NULL); /* as in the lanes' threads */
        (void)!at(g, 1, DML_FAULT_AT_FORWARD, 0);
        _exit(77);
    }
    int status = 0;
    DML_CHECK_EQ(child, waitpid(child, &status, WUNTRACED));
    if (!WIFSTOPPED(status)) return status;
    kill(child, SIGCONT);
    DML_CHECK_EQ(child, waitpid(child, &status, 0));
    return WEXITSTATUS(status) == 77 ? SIGSTOP << 8 | 0x7f : -1;
}

static void in_a_process_faults_are_real(void **state)
{
    rig *g = *state;
    int status = fate(g, "kill@rank=1");
    DML_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = fate(g, "segfault@rank=1");
    DML_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = fate(g, "exit@rank=1,code=9");
    DML_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    status = fate(g, "hang@rank=1,duration=1s");
    DML_CHECK(WIFSTOPPED(status));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(it_strikes_at_its_op_and_nowhere_else),
        T(without_a_phase_the_first_op_of_the_step_is_hit_evaluation_excepted),
        T(one_that_is_due_strikes_at_the_next_op),
        T(an_aborted_transport_fails_from_then_on),
        T(a_cut_link_delays_those_at_its_end_to_their_deadline),
        T(a_link_that_is_down_for_a_while_comes_back),
        T(what_hangs_goes_on_after_its_time_or_ends_when_it_is_killed),
        T(an_xid_ends_the_worker_or_names_a_suspect_or_nothing),
        T(device_faults_need_a_queue_and_break_the_device_for_good),
        T(corruption_is_the_callers_and_a_gradient_spoils_where_it_is_reduced),
        T(slow_lasts_and_is_no_matter_of_one_tenure),
        T(in_a_process_faults_are_real),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
