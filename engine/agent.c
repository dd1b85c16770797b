/* engine/agent.c - one poll loop over the supervisor's socket, the workers' report sockets and their beacons. */
#include "engine/agent_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/choose.h"
#include "engine/data_steps.h"
#include "engine/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    LOOK_MS = 1000,    /* between two looks at the workers' progress */
    AFTER_KILL_S = 10, /* for SIGKILL to be carried out */
    PAUSE_S = 5,       /* between two looks: then this process did not run */
};

/* ---- what happens ---- */

void dml_agent_ask_to_stop(dml_agent *a, int signal)
{
    a->stop_signal = signal;
    const bool saves = dml_agent_saves_before(a, signal);
    if (!saves) atomic_store(&a->control->stop, 1);
    dml_console_note(&a->leader.view, "%s: %sstopping after this step (again: at once)",
                     signal == SIGINT ? "interrupted" : strsignal(signal),
                     saves ? "saving, and " : "");
}

/* One that nothing is known of was asked for by an agent that was killed before it could note that. */
static dml_err worker_started(dml_agent *a, const dml_launch_event *e)
{
    dml_followed *w = &a->worker[e->rank];
    const bool is_known = w->pid == e->pid || !w->exited;
    w->pid = e->pid;
    w->started = true;
    if (is_known) return DML_ERR_OK;
    w->exited = false;
    return dml_launch_kill(e->rank);
}

dml_err dml_agent_next_event(dml_agent *a)
{
    dml_launch_event e;
    bool got;
    DML_TRY(dml_launch_next(&e, &got));
    if (!got) DML_FAIL(DML_ERR_PEER, "the supervisor is gone");
    switch (e.kind) {
    case DML_LAUNCH_STARTED: return worker_started(a, &e);
    case DML_LAUNCH_FAILED:
        if (dml_recovery_expects(a->recovery, e.rank)) {
            dml_recovery_ended(a->recovery, e.rank);
            break;
        }
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start worker %d of %d: %s%s", e.rank, a->plan.workers,
                 strerror(e.code),
                 e.code == EAGAIN   ? " (ulimit -u)"
                 : e.code == EMFILE ? " (ulimit -n)"
                                    : "");
    case DML_LAUNCH_ENDED:
        if (!a->worker[e.rank].exited) dml_agent_worker_ended(a, e.rank, e.code);
        break;
    case DML_LAUNCH_SIGNAL: dml_agent_ask_to_stop(a, e.code); break;
    }
    return DML_ERR_OK;
}

static bool all_exited(const dml_agent *a)
{
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (!a->worker[r].exited) return false;
    return true;
}

/* ---- start ---- */

static dml_err check_workers(const dml_spec *spec)
{
    if (dml_spec_workers(spec) <= DML_HOST_WORKERS) return DML_ERR_OK;
    if (spec->parallelism.n_stages > 0)
        return dml_spec_fail(spec, (dml_place){0}, "parallelism.stages",
                             "%d workers; one host runs at most %d", dml_spec_workers(spec),
                             DML_HOST_WORKERS);
    const int32_t stages = spec->parallelism.pipeline_parallel_size;
    const int32_t replicas = spec->parallelism.data_parallel_size;
    return dml_spec_fail(spec, (dml_place){0}, "parallelism.pipeline_parallel_size",
                         "%d stages x %d replicas; one host runs at most %d workers", stages,
                         replicas, DML_HOST_WORKERS);
}

static dml_err prepare(dml_agent *a)
{
    const dml_agent_options *o = a->options;
    DML_TRY(dml_spec_load(o->spec_path, o->overrides, o->n_overrides, &a->spec));
    DML_TRY(dml_choose_resolve(&a->spec));
    DML_TRY(dml_data_resolve_steps(&a->spec));
    DML_TRY(check_workers(&a->spec));
    DML_TRY(dml_plan_make(&a->spec, &a->plan));
    DML_TRY(dml_agent_backend(&a->plan, &a->backend, a->why, sizeof a->why));
    a->threads = dml_agent_threads(a->plan.spec, a->plan.workers);
    if (dml_trace_wanted(&a->spec)) DML_TRY(dml_trace_create(&a->plan, &a->trace, &a->trace_fd));
    const dml_leader_config leader = {.plan = &a->plan,
                                      .backend = a->backend,
                                      .why = a->why,
                                      .spec_path = o->spec_path,
                                      .threads = a->threads,
                                      .trace = a->trace.memory ? &a->trace : NULL,
                                      .console = stderr};
    DML_TRY(dml_leader_open(&a->leader, &leader));
    DML_TRY(dml_agent_start(a));
    dml_agent_open_ctl(a);
    return DML_ERR_OK;
}

/* ---- following ---- */

/* A change of plan, or a recovery, is under way. */
static bool is_moving(const dml_agent *a)
{
    const bool begun = atomic_load(&a->control->fence) > 0 || atomic_load(&a->control->plan) > 0;
    return begun && dml_recovery_is_busy(a->recovery);
}

/* Waits between workers end by their own deadlines; this is for a run in which nobody waits and nobody works,
 * such as a lone worker that was stopped. */
static void look_for_progress(dml_agent *a)
{
    const int64_t now_ns = dml_clock_ns();
    int64_t ops = 0;
    for (int32_t r = 0; r < a->plan.workers; r++)
        ops += atomic_load(&a->control->worker[r].ops) + a->worker[r].started + a->worker[r].exited;
    const int64_t pause_ns = now_ns - a->looked_ns;
    a->looked_ns = now_ns;
    if (ops != a->ops || a->progress_ns == 0) {
        a->ops = ops;
        a->progress_ns = now_ns;
    } else if (pause_ns > PAUSE_S * DML_NS_PER_S) {
        a->progress_ns += pause_ns; /* this process stood still as well: ^Z and fg */
    }
    if (is_moving(a)) a->progress_ns = now_ns; /* it has deadlines of its own */
    if (a->give_up_ns != INT64_MAX || now_ns - a->progress_ns < 2 * a->spec.parallelism.timeout_ns)
        return;
    snprintf(a->hang, sizeof a->hang,
             "no worker has finished an op for %.0f s (twice parallelism.timeout)",
             (double)(now_ns - a->progress_ns) * 1e-9);
    dml_console_note(&a->leader.view, "%s; ending the run", a->hang);
    dml_agent_begin_end(a);
}

/* Milliseconds until there is something to do, whatever happens. */
static int patience_ms(const dml_agent *a)
{
    int64_t due_ns = dml_detect_due_ns(a->detect);
    if (a->give_up_ns < due_ns) due_ns = a->give_up_ns;
    if (a->ending_ns == 0 && a->recovery_due_ns < due_ns) due_ns = a->recovery_due_ns;
    if (a->ending_ns == 0 && a->fault_due_ns < due_ns) due_ns = a->fault_due_ns;
    const int64_t now_ns = dml_clock_ns();
    if (due_ns <= now_ns) return 0;
    const int64_t left_ms = (due_ns - now_ns) / DML_NS_PER_MS + 1;
    return left_ms < LOOK_MS ? (int)left_ms : LOOK_MS;
}

/* Waits for the next thing to happen, or for patience to end. */
static dml_err poll_once(dml_agent *a)
{
    enum { LAUNCHER, DETECT, SAVER, CTL, WORKERS = CTL + DML_CTL_FDS };
    struct pollfd on[WORKERS + DML_HOST_WORKERS] = {
        [LAUNCHER] = {DML_FD_LAUNCHER, POLLIN, 0},
        [DETECT] = {dml_detect_fd(a->detect), POLLIN, 0},
        [SAVER] = {dml_keeper_fd(a->keeper), POLLIN, 0}, /* -1 is skipped */
    };
    dml_ctl_poll(a->ctl, on + CTL);
    for (int32_t r = 0; r < a->plan.workers; r++)
        on[WORKERS + r] = (struct pollfd){a->worker[r].socket, POLLIN, 0}; /* -1 is skipped */
    if (poll(on, WORKERS + (nfds_t)a->plan.workers, patience_ms(a)) < 0)
        return DML_ERR_OK;   /* EINTR */
    dml_agent_take_signs(a); /* what a dead worker said last comes before what others say of it */
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (on[WORKERS + r].revents && on[WORKERS + r].fd == a->worker[r].socket)
            dml_agent_take_report(a, r);
    if (on[SAVER].revents) {
        dml_keeper_take(a->keeper, a->recovery);
        dml_agent_note(a); /* before its bank is put to */
    }
    dml_ctl_serve(a->ctl, on + CTL);
    return on[LAUNCHER].revents ? dml_agent_next_event(a) : DML_ERR_OK;
}

static dml_err follow(dml_agent *a)
{
    while (!all_exited(a) || !dml_agent_is_settled(a)) {
        DML_TRY(poll_once(a));
        dml_agent_tick(a);
        dml_agent_tick_faults(a);
        dml_agent_note(a);
        look_for_progress(a);
        if (dml_clock_ns() < a->give_up_ns) continue;
        if (a->killed) DML_FAIL(DML_ERR_BUG, "workers outlived SIGKILL");
        DML_TRY(dml_launch_kill_all());
        a->killed = true;
        a->give_up_ns = dml_clock_ns() + AFTER_KILL_S * DML_NS_PER_S;
    }
    return DML_ERR_OK;
}

/* The run cannot go on, or not even begin. */
static int give_up(dml_agent *a, dml_err err)
{
    const int code = dml_err_exit_code(err);
    fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-train: ", dml_err_trail());
    if (a->leader.plan) (void)!dml_leader_finish(&a->leader, "failed", code, 0);
    return code;
}

int dml_agent_main(const dml_agent_options *options)
{
    static dml_agent a; /* large: figures of every worker */
    a.options = options;
    a.give_up_ns = a.recovery_due_ns = INT64_MAX;
    dml_process_name("dml-agent");
    dml_log_setup(DML_LOG_WARN, "agent");
    fcntl(DML_FD_LAUNCHER, F_SETFD, FD_CLOEXEC);
    gethostname(a.host, sizeof a.host - 1);
    dml_err err = dml_die_with_parent(options->supervisor_pid);
    if (err == DML_ERR_OK)
        err = dml_failpoints_from_environment(DML_FAILPOINT_AGENT, options->again || options->anew);
    if (err == DML_ERR_OK) err = options->again ? dml_agent_again(&a) : prepare(&a);
    if (err == DML_ERR_OK) err = follow(&a);
    if (a.keeper) dml_keeper_finish(a.keeper);
    const int code = err == DML_ERR_OK ? dml_agent_conclude(&a) : give_up(&a, err);
    dml_ctl_close(a.ctl);
    dml_leader_close(&a.leader);
    dml_recovery_free(a.recovery);
    dml_keeper_close(a.keeper);
    dml_detect_close(a.detect);
    for (int32_t b = 0; b < 2; b++)
        dml_depot_close(&a.bank[b]);
    dml_logbook_close(&a.book);
    dml_control_unmap(a.control);
    dml_trace_close(&a.trace);
    dml_plan_free(&a.plan);
    dml_spec_free(&a.spec);
    return code;
}
