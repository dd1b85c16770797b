/* engine/agent.c - one poll loop over the supervisor's socket and the workers' report sockets. */
#include "engine/agent.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/data_steps.h"
#include "engine/launch.h"
#include "engine/leader.h"
#include "engine/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LOOK_MS = 1000,    /* between two looks at the workers' progress */
    PATIENCE_S = 10,   /* for the others to end after one failed, or after the last step */
    AFTER_KILL_S = 10, /* for SIGKILL to be carried out */
};

typedef struct followed {
    int socket; /* reports; -1 when closed */
    int32_t pid;
    bool started, exited, said_end, said_fail;
    int status; /* wait status, once exited */
    dml_report_fail fail;
    int64_t failed_at_ns; /* 0: it has not */
} followed;

typedef struct agent {
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    char why[256], host[64];
    int32_t threads;
    dml_control *control;
    int control_fd, spec_fd;
    int data_fd[DML_HOST_WORKERS], vote_fd[DML_HOST_WORKERS];
    followed worker[DML_HOST_WORKERS];
    dml_leader leader;
    dml_err leader_err; /* the leader's own failure: output folder gone, replicas differ */
    char leader_trail[DML_TRAIL_BYTES];
    int stop_signal;    /* 0: none */
    int64_t give_up_ns; /* INT64_MAX while all is well */
    bool killed, hung;
    int64_t ops, progress_ns; /* ops finished by all workers; when that last grew */
    const dml_agent_options *options;
} agent;

/* ---- start ---- */

static dml_err segment(const char *name, int *fd)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create(%s): %s", name, strerror(errno));
    return DML_ERR_OK;
}

/* Workers read the spec as it was resolved here: same dates, same defaults, the backend by its name. */
static dml_err publish_spec(agent *a)
{
    a->spec.parallelism.backend = a->backend->name;
    a->spec.parallelism.threads_per_worker = a->threads;
    DML_TRY(segment("dml-spec", &a->spec_fd));
    FILE *f = fdopen(dup(a->spec_fd), "w");
    if (!f) DML_FAIL(DML_ERR_UNAVAILABLE, "spec for the workers: %s", strerror(errno));
    const dml_err err = dml_spec_print(&a->spec, f);
    if (fclose(f) != 0 && err == DML_ERR_OK)
        DML_FAIL(DML_ERR_UNAVAILABLE, "spec for the workers: %s", strerror(errno));
    return err;
}

static dml_err start_worker(agent *a, int32_t rank)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    const int32_t workers = a->plan.workers;
    int fds[DML_LAUNCH_FDS];
    int32_t n = 0;
    fds[n++] = pair[1];
    fds[n++] = a->control_fd;
    fds[n++] = a->spec_fd;
    for (int32_t r = 0; r < workers; r++)
        fds[n++] = a->data_fd[r];
    for (int32_t r = 0; r < workers; r++)
        fds[n++] = a->vote_fd[r];
    const dml_err err = dml_launch_worker(rank, fds, n);
    close(pair[1]);
    a->worker[rank] = (followed){.socket = pair[0]};
    return err;
}

static dml_err start_workers(agent *a)
{
    DML_TRY(dml_control_create(&a->control, &a->control_fd));
    DML_TRY(publish_spec(a));
    for (int32_t r = 0; r < a->plan.workers; r++) {
        DML_TRY(segment("dml-data", &a->data_fd[r]));
        DML_TRY(segment("dml-vote", &a->vote_fd[r]));
    }
    for (int32_t r = 0; r < a->plan.workers; r++)
        DML_TRY(start_worker(a, r));
    return DML_ERR_OK;
}

static dml_err prepare(agent *a)
{
    const dml_agent_options *o = a->options;
    DML_TRY(dml_spec_load(o->spec_path, o->overrides, o->n_overrides, &a->spec));
    DML_TRY(dml_data_resolve_steps(&a->spec));
    DML_TRY(dml_plan_make(&a->spec, &a->plan));
    if (a->plan.workers > DML_HOST_WORKERS)
        DML_FAIL(DML_ERR_SPEC, "%d stages x %d replicas are %d workers; one host runs at most %d",
                 a->plan.stages, a->plan.replicas, a->plan.workers, DML_HOST_WORKERS);
    DML_TRY(dml_agent_backend(&a->plan, &a->backend, a->why, sizeof a->why));
    a->threads = dml_agent_threads(&a->plan);
    const dml_leader_config leader = {.plan = &a->plan,
                                      .backend = a->backend,
                                      .why = a->why,
                                      .spec_path = o->spec_path,
                                      .threads = a->threads,
                                      .console = stderr};
    DML_TRY(dml_leader_open(&a->leader, &leader));
    return start_workers(a);
}

/* ---- what happens ---- */

/* From here on it is only a matter of ending: every wait in every worker ends now. */
static void begin_end(agent *a)
{
    atomic_store(&a->control->abort.raised, 1);
    if (a->give_up_ns == INT64_MAX) a->give_up_ns = dml_clock_ns() + PATIENCE_S * DML_NS_PER_S;
}

static void worker_failed(agent *a, followed *w)
{
    if (w->failed_at_ns == 0) w->failed_at_ns = dml_clock_ns();
    begin_end(a);
}

static void take_report(agent *a, int32_t rank)
{
    followed *w = &a->worker[rank];
    dml_report r;
    bool got;
    if (dml_report_receive(w->socket, &r, &got) != DML_ERR_OK || !got) {
        close(w->socket);
        w->socket = -1;
        return;
    }
    r.rank = rank; /* whatever it says: this is its socket */
    if (r.kind == DML_REPORT_FAIL) {
        w->said_fail = true;
        w->fail = r.fail;
        worker_failed(a, w);
        return;
    }
    if (r.kind == DML_REPORT_END) {
        w->said_end = true;
        if (a->give_up_ns == INT64_MAX) a->give_up_ns = dml_clock_ns() + PATIENCE_S * DML_NS_PER_S;
    }
    if (a->leader_err == DML_ERR_OK) a->leader_err = dml_leader_take(&a->leader, &r);
    if (a->leader_err != DML_ERR_OK && a->leader_trail[0] == '\0') {
        snprintf(a->leader_trail, sizeof a->leader_trail, "%s", dml_err_trail());
        begin_end(a);
    }
}

static void ask_to_stop(agent *a, int signal)
{
    a->stop_signal = signal;
    atomic_store(&a->control->stop, 1);
    dml_console_note(&a->leader.view, "%s: stopping after this step (again: at once)",
                     signal == SIGINT ? "interrupted" : strsignal(signal));
}

static void take_event(agent *a, const dml_launch_event *e)
{
    switch (e->kind) {
    case DML_LAUNCH_STARTED:
        a->worker[e->rank].pid = e->pid;
        a->worker[e->rank].started = true;
        break;
    case DML_LAUNCH_ENDED: {
        followed *w = &a->worker[e->rank];
        if (w->socket >= 0) take_report(a, e->rank); /* its last words may be waiting */
        w->exited = true;
        w->status = e->code;
        if (!w->said_end || e->code != 0) worker_failed(a, w);
        break;
    }
    case DML_LAUNCH_SIGNAL: ask_to_stop(a, e->code); break;
    }
}

static bool all_exited(const agent *a)
{
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (!a->worker[r].exited) return false;
    return true;
}

/* Waits between workers end by their own deadlines; this is for a run in which nobody waits and nobody works,
 * such as a lone worker that was stopped. */
static void look_for_progress(agent *a)
{
    const int64_t now_ns = dml_clock_ns();
    int64_t ops = 0;
    for (int32_t r = 0; r < a->plan.workers; r++)
        ops += atomic_load(&a->control->worker[r].ops) + a->worker[r].started + a->worker[r].exited;
    if (ops != a->ops || a->progress_ns == 0) {
        a->ops = ops;
        a->progress_ns = now_ns;
    }
    if (a->hung || a->give_up_ns != INT64_MAX ||
        now_ns - a->progress_ns < 2 * a->spec.parallelism.timeout_ns)
        return;
    a->hung = true;
    dml_console_note(
        &a->leader.view,
        "no worker has finished an op for %.0f s (twice parallelism.timeout); ending the run",
        (double)(now_ns - a->progress_ns) * 1e-9);
    begin_end(a);
}

/* Waits for the next thing to happen, or for patience to end. */
static dml_err poll_once(agent *a)
{
    struct pollfd on[1 + DML_HOST_WORKERS] = {{DML_FD_LAUNCHER, POLLIN, 0}};
    for (int32_t r = 0; r < a->plan.workers; r++)
        on[1 + r] = (struct pollfd){a->worker[r].socket, POLLIN, 0}; /* -1 is skipped */
    int timeout_ms = LOOK_MS;
    if (a->give_up_ns != INT64_MAX) {
        const int64_t left_ns = a->give_up_ns - dml_clock_ns();
        timeout_ms = left_ns > 0 ? (int)(left_ns / DML_NS_PER_MS) + 1 : 0;
    }
    if (poll(on, 1 + (nfds_t)a->plan.workers, timeout_ms) < 0) return DML_ERR_OK; /* EINTR */
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (on[1 + r].revents) take_report(a, r);
    if (on[0].revents) {
        dml_launch_event e;
        bool got;
        DML_TRY(dml_launch_next(&e, &got));
        if (!got) DML_FAIL(DML_ERR_PEER, "the supervisor is gone");
        take_event(a, &e);
    }
    return DML_ERR_OK;
}

static dml_err follow(agent *a)
{
    a->give_up_ns = INT64_MAX;
    while (!all_exited(a)) {
        DML_TRY(poll_once(a));
        look_for_progress(a);
        if (dml_clock_ns() < a->give_up_ns) continue;
        if (a->killed) DML_FAIL(DML_ERR_BUG, "workers outlived SIGKILL");
        DML_TRY(dml_launch_kill_all());
        a->killed = true;
        a->give_up_ns = dml_clock_ns() + AFTER_KILL_S * DML_NS_PER_S;
    }
    return DML_ERR_OK;
}

/* ---- who failed ---- */

/* 0: died by a signal we did not send, or failed by itself; 1: only noticed that others were gone. */
static bool is_echo(const followed *w)
{
    return w->said_fail && w->fail.err == DML_ERR_PEER;
}

static const char *last_action(const agent *a, int32_t rank, char *text, size_t bytes)
{
    const dml_worker_page *p = &a->control->worker[rank];
    if (atomic_load(&p->ops) == 0) return NULL;
    snprintf(text, bytes, "%s%d.%d (%s)", dml_op_info_of((dml_op_kind)atomic_load(&p->last))->text,
             atomic_load(&p->last_chunk), atomic_load(&p->last_mb),
             dml_phase_name((dml_phase)atomic_load(&p->phase)));
    return text;
}

static dml_failure_record failure_of(const agent *a, int32_t rank, char *action, size_t bytes)
{
    const followed *w = &a->worker[rank];
    const double at_s = (double)(w->failed_at_ns - a->leader.begin_ns) * 1e-9;
    const bool by_signal = w->exited && WIFSIGNALED(w->status);
    return (dml_failure_record){
        .t_fault_s = at_s,
        .t_detect_s = at_s,
        .detected_by = w->said_fail ? "its own report" : "exit status",
        .cause = w->said_fail ? w->fail.trail : NULL,
        .rank = rank,
        .stage = dml_plan_stage(&a->plan, rank),
        .replica = dml_plan_replica(&a->plan, rank),
        .pid = w->pid,
        .host = a->host,
        .signal = by_signal ? WTERMSIG(w->status) : 0,
        .exit_code = w->exited && WIFEXITED(w->status) ? WEXITSTATUS(w->status) : -1,
        .step = atomic_load(&a->control->worker[rank].step),
        .last_action = last_action(a, rank, action, bytes),
    };
}

/* Root causes; when there are none, everything: a hang that nobody owned up to. */
static int32_t collect(const agent *a, dml_failure_record *out, char (*action)[64])
{
    int32_t n = 0;
    for (int pass = 0; pass < 2 && n == 0; pass++)
        for (int32_t r = 0; r < a->plan.workers; r++) {
            const followed *w = &a->worker[r];
            const bool ours = a->killed && w->exited && WIFSIGNALED(w->status) &&
                              w->failed_at_ns >= a->give_up_ns - AFTER_KILL_S * DML_NS_PER_S;
            if (w->failed_at_ns == 0 || (pass == 0 && (is_echo(w) || ours))) continue;
            out[n] = failure_of(a, r, action[n], sizeof action[n]);
            n++;
        }
    return n;
}

/* What the run comes to: the first root cause decides. */
static dml_err verdict(const agent *a, const dml_failure_record *failures, int32_t n)
{
    if (a->leader_err != DML_ERR_OK) return a->leader_err;
    if (a->hung) return DML_ERR_PEER;
    if (n == 0) return DML_ERR_OK;
    int32_t first = 0;
    for (int32_t i = 1; i < n; i++)
        if (failures[i].t_fault_s < failures[first].t_fault_s) first = i;
    const followed *w = &a->worker[failures[first].rank];
    return w->said_fail ? (dml_err)w->fail.err : DML_ERR_PEER;
}

static int conclude(agent *a)
{
    dml_failure_record failures[DML_HOST_WORKERS];
    char action[DML_HOST_WORKERS][64];
    const int32_t n = collect(a, failures, action);
    const dml_err err = verdict(a, failures, n);
    if (a->leader_err != DML_ERR_OK) fprintf(stderr, "dml-train: %s\n", a->leader_trail);
    if (n > 0) dml_leader_failures(&a->leader, failures, n);
    const int code = err != DML_ERR_OK ? dml_err_exit_code(err)
                     : a->stop_signal  ? 128 + a->stop_signal
                                       : 0;
    dml_leader_finish(&a->leader,
                      err != DML_ERR_OK ? "failed"
                      : a->stop_signal  ? "stopped"
                                        : "finished",
                      code, n);
    return code;
}

int dml_agent_main(const dml_agent_options *options)
{
    static agent a; /* large: figures of every worker */
    a.options = options;
    dml_process_name("dml-agent");
    dml_log_setup(DML_LOG_WARN, "agent");
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP,
                                  SIGPIPE}; /* the supervisor passes them on */
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    fcntl(DML_FD_LAUNCHER, F_SETFD, FD_CLOEXEC);
    gethostname(a.host, sizeof a.host - 1);
    dml_err err = dml_die_with_parent(options->supervisor_pid);
    if (err == DML_ERR_OK) err = prepare(&a);
    if (err == DML_ERR_OK) err = follow(&a);
    int code;
    if (err == DML_ERR_OK) {
        code = conclude(&a);
    } else {
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-train: ", dml_err_trail());
        code = dml_err_exit_code(err);
    }
    dml_leader_close(&a.leader);
    dml_control_unmap(a.control);
    dml_plan_free(&a.plan);
    dml_spec_free(&a.spec);
    return code;
}
