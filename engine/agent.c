/* engine/agent.c - one poll loop over the supervisor's socket and the workers' report sockets. */
#include "engine/agent.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/change.h"
#include "engine/choose.h"
#include "engine/data_steps.h"
#include "engine/detect.h"
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
    PATIENCE_S = 10,   /* for the others to end after one failed, or after the last step */
    AFTER_KILL_S = 10, /* for SIGKILL to be carried out */
    PAUSE_S = 5,       /* between two looks: then this process did not run */
};

typedef struct followed {
    int socket; /* reports; -1 when closed */
    int32_t pid;
    bool started, exited, said_end, said_fail;
    bool silent; /* had to be killed: it did not end when all were told to */
    int status;  /* wait status, once exited */
    dml_report_fail fail;
    int64_t failed_at_ns; /* 0: it has not */
    dml_sign sign;        /* by which it was noticed; no text: there was none */
} followed;

typedef struct agent {
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    char why[256], host[64];
    int32_t threads;
    dml_control *control;
    int control_fd, spec_fd;
    dml_detect *detect;
    int data_fd[DML_HOST_WORKERS], vote_fd[DML_HOST_WORKERS];
    dml_trace trace; /* {0}: none is wanted */
    int trace_fd;
    dml_depot bank[2];
    dml_changes changes; /* {0}: the plan never changes */
    int bank_fd[2], plan_fd;
    followed worker[DML_HOST_WORKERS];
    dml_leader leader;
    dml_err leader_err; /* the leader's own failure: output folder gone, replicas differ */
    char leader_trail[DML_TRAIL_BYTES];
    int stop_signal;    /* 0: none */
    int64_t give_up_ns; /* INT64_MAX while all is well */
    int64_t ending_ns;  /* when all were told to end; 0: not yet */
    bool killed;
    char hang[128];           /* what was seen when the run hung; "": it did not */
    char silence[512];        /* what was said of who stopped answering */
    int64_t ops, progress_ns; /* ops finished by all workers; when that last grew */
    int64_t looked_ns;        /* when that was last looked at */
    const dml_agent_options *options;
} agent;

/* ---- what happens ---- */

/* From here on it is only a matter of ending: every wait in every worker ends now. */
static void begin_end(agent *a)
{
    dml_wait_set(&a->control->fence, DML_FENCE_END);
    if (a->ending_ns == 0) a->ending_ns = dml_clock_ns();
    if (a->give_up_ns == INT64_MAX) a->give_up_ns = dml_clock_ns() + PATIENCE_S * DML_NS_PER_S;
}

static void worker_failed(agent *a, followed *w)
{
    if (w->failed_at_ns == 0) w->failed_at_ns = dml_clock_ns();
    begin_end(a);
}

/* What a report means for the plan, after the leader has taken it. */
static dml_err follow_plan(agent *a, const dml_report *r)
{
    dml_arena arena = {0};
    dml_changes_event e = {0};
    if (!a->changes.first) return DML_ERR_OK;
    dml_err err = dml_changes_take(&a->changes, r, &arena, &e);
    if (err == DML_ERR_OK && e.changed) {
        dml_detect_plan(a->detect, dml_changes_plan(&a->changes));
        err = dml_leader_change(&a->leader, dml_changes_plan(&a->changes));
    }
    if (err == DML_ERR_OK && e.decided) err = dml_leader_balance(&a->leader, &e.balance);
    dml_arena_free(&arena);
    return err;
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
    if (a->leader_err == DML_ERR_OK) a->leader_err = follow_plan(a, &r);
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

/* What it said before it ended may still be waiting, several reports of it. */
static void take_last_words(agent *a, int32_t rank)
{
    struct pollfd on = {a->worker[rank].socket, POLLIN, 0}; /* -1: nothing is there */
    while (on.fd >= 0 && poll(&on, 1, 0) > 0) {
        take_report(a, rank);
        on.fd = a->worker[rank].socket;
    }
}

/* It had to be killed for what was seen of it. */
static bool was_ended(const followed *w)
{
    return w->sign.text[0] && w->sign.kind != DML_SIGN_DIED;
}

static void worker_ended(agent *a, int32_t rank, int status)
{
    followed *w = &a->worker[rank];
    take_last_words(a, rank);
    dml_detect_forget(a->detect, rank);
    w->exited = true;
    w->status = status;
    const bool by_us = a->killed || was_ended(w);
    w->silent = by_us && !w->said_fail && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!w->said_end || status != 0) worker_failed(a, w);
}

/* A sign may come before the words that explain it. */
static dml_err take_sign(agent *a, const dml_sign *s)
{
    followed *w = &a->worker[s->rank];
    if (!dml_sign_is_loss(s->kind)) {
        dml_console_note(&a->leader.view, "rank %d %s", s->rank, s->text);
        return DML_ERR_OK;
    }
    take_last_words(a, s->rank);
    if (w->exited || w->said_end || w->said_fail) return DML_ERR_OK;
    w->sign = *s;
    w->failed_at_ns = s->fault_ns > 0 ? s->fault_ns : s->seen_ns;
    worker_failed(a, w);
    return was_ended(w) ? dml_launch_kill(s->rank) : DML_ERR_OK;
}

/* Takes one event; blocks until there is one.
 * DML_ERR_UNAVAILABLE  a worker could not be started
 * DML_ERR_PEER         the supervisor is gone */
static dml_err next_event(agent *a)
{
    dml_launch_event e;
    bool got;
    DML_TRY(dml_launch_next(&e, &got));
    if (!got) DML_FAIL(DML_ERR_PEER, "the supervisor is gone");
    switch (e.kind) {
    case DML_LAUNCH_STARTED:
        a->worker[e.rank].pid = e.pid;
        a->worker[e.rank].started = true;
        break;
    case DML_LAUNCH_FAILED:
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start worker %d of %d: %s%s", e.rank, a->plan.workers,
                 strerror(e.code),
                 e.code == EAGAIN   ? " (ulimit -u)"
                 : e.code == EMFILE ? " (ulimit -n)"
                                    : "");
    case DML_LAUNCH_ENDED: worker_ended(a, e.rank, e.code); break;
    case DML_LAUNCH_SIGNAL: ask_to_stop(a, e.code); break;
    }
    return DML_ERR_OK;
}

static bool all_exited(const agent *a)
{
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (!a->worker[r].exited) return false;
    return true;
}

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

/* A worker's reports end in an error rather than wait for an agent that does not read. */
static dml_err open_reports(const agent *a, int pair[2])
{
    const struct timeval limit = {.tv_sec = a->spec.parallelism.timeout_ns / DML_NS_PER_S + 1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    setsockopt(pair[1], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return DML_ERR_OK;
}

/* Returns when the worker has a process: descriptors on their way count against a limit of the user, so there
 * is one request at a time. */
static dml_err start_worker(agent *a, int32_t rank)
{
    int pair[2];
    DML_TRY(open_reports(a, pair));
    DML_TRY(dml_detect_expect(a->detect, rank));
    const int32_t workers = a->plan.workers;
    int fds[DML_LAUNCH_FDS];
    int32_t n = 0;
    fds[n++] = pair[1];
    fds[n++] = a->control_fd;
    fds[n++] = a->spec_fd;
    for (int32_t b = 0; b < 2; b++)
        fds[n++] = a->bank_fd[b];
    fds[n++] = a->plan_fd;
    for (int32_t r = 0; r < workers; r++)
        fds[n++] = a->data_fd[r];
    for (int32_t r = 0; r < workers; r++)
        fds[n++] = a->vote_fd[r];
    if (a->trace.memory) fds[n++] = a->trace_fd;
    const dml_err err = dml_launch_worker(rank, fds, n);
    close(pair[1]);
    a->worker[rank] = (followed){.socket = pair[0]};
    DML_TRY(err);
    while (!a->worker[rank].started)
        DML_TRY(next_event(a));
    return DML_ERR_OK;
}

static dml_err start_workers(agent *a)
{
    DML_TRY(dml_control_create(&a->control, &a->control_fd));
    DML_TRY(publish_spec(a));
    for (int32_t b = 0; b < 2; b++)
        DML_TRY(dml_depot_create(&a->spec, &a->plan.model, &a->bank[b], &a->bank_fd[b]));
    DML_TRY(segment("dml-plan", &a->plan_fd));
    if (a->spec.parallelism.balance == DML_BALANCE_DYNAMIC)
        dml_changes_open(&a->changes, &a->plan, a->spec_fd, a->plan_fd, a->control);
    for (int32_t r = 0; r < a->plan.workers; r++) {
        DML_TRY(segment("dml-data", &a->data_fd[r]));
        DML_TRY(segment("dml-vote", &a->vote_fd[r]));
    }
    const dml_detect_config detect = {.control = a->control,
                                      .workers = a->plan.workers,
                                      .heartbeat_ns = a->spec.failures.heartbeat_ns,
                                      .limit_ns = a->spec.failures.heartbeat_timeout_ns};
    DML_TRY(dml_detect_open(&detect, &a->detect));
    dml_detect_plan(a->detect, &a->plan);
    for (int32_t r = 0; r < a->plan.workers; r++)
        DML_TRY(start_worker(a, r));
    return DML_ERR_OK;
}

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

static dml_err prepare(agent *a)
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
    return start_workers(a);
}

/* ---- following ---- */

/* Waits between workers end by their own deadlines; this is for a run in which nobody waits and nobody works,
 * such as a lone worker that was stopped. */
static void look_for_progress(agent *a)
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
    if (a->give_up_ns != INT64_MAX || now_ns - a->progress_ns < 2 * a->spec.parallelism.timeout_ns)
        return;
    snprintf(a->hang, sizeof a->hang,
             "no worker has finished an op for %.0f s (twice parallelism.timeout)",
             (double)(now_ns - a->progress_ns) * 1e-9);
    dml_console_note(&a->leader.view, "%s; ending the run", a->hang);
    begin_end(a);
}

/* How long poll may wait: until the next look at vital signs, or the end of patience. */
static int wait_ms(const agent *a)
{
    int64_t until_ns = dml_detect_due_ns(a->detect);
    if (a->give_up_ns < until_ns) until_ns = a->give_up_ns;
    const int64_t left_ns = until_ns - dml_clock_ns();
    return left_ns > 0 ? (int)(left_ns / DML_NS_PER_MS) + 1 : 0;
}

/* Waits for the next thing to happen, or for patience to end. */
static dml_err poll_once(agent *a)
{
    struct pollfd on[2 + DML_HOST_WORKERS] = {{DML_FD_LAUNCHER, POLLIN, 0},
                                              {dml_detect_fd(a->detect), POLLIN, 0}};
    for (int32_t r = 0; r < a->plan.workers; r++)
        on[2 + r] = (struct pollfd){a->worker[r].socket, POLLIN, 0}; /* -1 is skipped */
    if (poll(on, 2 + (nfds_t)a->plan.workers, wait_ms(a)) < 0) return DML_ERR_OK; /* EINTR */
    dml_sign sign;
    while (dml_detect_next(a->detect, dml_clock_ns(), &sign))
        DML_TRY(take_sign(a, &sign));
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (on[2 + r].revents && a->worker[r].socket >= 0) take_report(a, r);
    return on[0].revents ? next_event(a) : DML_ERR_OK;
}

static dml_err follow(agent *a)
{
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

/* In order of blame. */
typedef enum blame {
    BLAME_ITSELF, /* died by a signal we did not send, or says what went wrong */
    BLAME_SILENT, /* stopped answering: its peers' waits ended, it had to be killed */
    BLAME_ECHO,   /* only noticed that others were gone */
    BLAME_NONE,
} blame;

static blame blame_of(const followed *w)
{
    if (w->failed_at_ns == 0) return BLAME_NONE;
    if (w->sign.text[0]) return BLAME_ITSELF;
    if (w->silent) return BLAME_SILENT;
    return w->said_fail && w->fail.err == DML_ERR_PEER ? BLAME_ECHO : BLAME_ITSELF;
}

/* The first of those who only noticed; the later ones are echoes of its end.  -1: there is none. */
static int32_t first_echo(const agent *a)
{
    int32_t first = -1;
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (blame_of(&a->worker[r]) == BLAME_ECHO &&
            (first < 0 || a->worker[r].failed_at_ns < a->worker[first].failed_at_ns))
            first = r;
    return first;
}

/* "rank 0 gave up first: nothing for 60.0 s while waiting for worker 1's send 9" */
static void describe_silence(agent *a)
{
    const int32_t r = first_echo(a);
    if (r < 0) return;
    const char *trail = a->worker[r].fail.trail;
    snprintf(a->silence, sizeof a->silence, "rank %d gave up first: %.*s", r,
             (int)strcspn(trail, "\n"), trail);
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

static const char *cause_of(const agent *a, const followed *w)
{
    if (a->hang[0] && blame_of(w) != BLAME_ITSELF) return a->hang;
    if (was_ended(w)) return w->sign.text;
    if (w->silent) return a->silence;
    return w->said_fail ? w->fail.trail : NULL;
}

static const char *noticed_by(const agent *a, const followed *w)
{
    if (a->hang[0] && blame_of(w) != BLAME_ITSELF) return "lack of progress";
    if (w->sign.text[0]) return dml_sign_name(w->sign.kind);
    return w->silent ? "its peers" : w->said_fail ? "its own report" : "exit status";
}

static dml_failure_record failure_of(const agent *a, int32_t rank, char *action, size_t bytes)
{
    const followed *w = &a->worker[rank];
    const dml_plan *plan = a->changes.first ? dml_changes_plan(&a->changes) : &a->plan;
    const bool silent = w->silent, by_signal = WIFSIGNALED(w->status) && !silent;
    const int64_t at_ns = silent && !w->sign.text[0] ? a->ending_ns : w->failed_at_ns;
    const int64_t seen_ns = w->sign.text[0] ? w->sign.seen_ns : at_ns;
    return (dml_failure_record){
        .t_fault_s = (double)(at_ns - a->leader.begin_ns) * 1e-9,
        .t_detect_s = (double)(seen_ns - a->leader.begin_ns) * 1e-9,
        .detected_by = noticed_by(a, w),
        .cause = cause_of(a, w),
        .rank = rank,
        .stage = dml_plan_rank(plan, rank),
        .replica = dml_plan_replica(plan, rank),
        .pid = w->pid,
        .host = a->host,
        .signal = by_signal ? WTERMSIG(w->status) : 0,
        .exit_code = WIFEXITED(w->status) ? WEXITSTATUS(w->status) : -1,
        .step = atomic_load(&a->control->worker[rank].step),
        .last_action = last_action(a, rank, action, bytes),
    };
}

/* Said by an earlier one in the same words: all workers find out together that the run diverged. */
static bool is_repeat(const agent *a, int32_t rank)
{
    const followed *w = &a->worker[rank];
    for (int32_t r = 0; r < a->plan.workers; r++) {
        const followed *other = &a->worker[r];
        const bool earlier = other->failed_at_ns < w->failed_at_ns ||
                             (other->failed_at_ns == w->failed_at_ns && r < rank);
        if (earlier && w->said_fail && other->said_fail &&
            strcmp(w->fail.trail, other->fail.trail) == 0)
            return true;
    }
    return false;
}

/* The workers most to blame, each thing that went wrong once.  When the leader failed, echoes are of that. */
static int32_t collect(const agent *a, dml_failure_record *out, char (*action)[64])
{
    blame worst = BLAME_NONE;
    int32_t n = 0;
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (blame_of(&a->worker[r]) < worst) worst = blame_of(&a->worker[r]);
    if (worst == BLAME_NONE || (worst != BLAME_ITSELF && a->leader_err != DML_ERR_OK)) return 0;
    for (int32_t r = 0; r < a->plan.workers; r++) {
        if (blame_of(&a->worker[r]) != worst || is_repeat(a, r)) continue;
        if (worst == BLAME_ECHO && r != first_echo(a)) continue;
        out[n] = failure_of(a, r, action[n], sizeof action[n]);
        n++;
    }
    return n;
}

/* What the run comes to: the leader's own failure, else the first worker's. */
static int exit_code(const agent *a, const dml_failure_record *failures, int32_t n)
{
    if (a->leader_err != DML_ERR_OK) return dml_err_exit_code(a->leader_err);
    if (n == 0) return a->stop_signal ? 128 + a->stop_signal : 0;
    int32_t first = 0;
    for (int32_t i = 1; i < n; i++)
        if (failures[i].t_fault_s < failures[first].t_fault_s) first = i;
    const followed *w = &a->worker[failures[first].rank];
    if (w->said_fail) return dml_err_exit_code((dml_err)w->fail.err);
    return WIFEXITED(w->status) && WEXITSTATUS(w->status) ? WEXITSTATUS(w->status)
                                                          : dml_err_exit_code(DML_ERR_PEER);
}

static int conclude(agent *a)
{
    dml_failure_record failures[DML_HOST_WORKERS];
    char action[DML_HOST_WORKERS][64];
    describe_silence(a);
    const int32_t n = collect(a, failures, action);
    const int code = exit_code(a, failures, n);
    const bool failed = n > 0 || a->leader_err != DML_ERR_OK;
    if (a->leader_err != DML_ERR_OK) fprintf(stderr, "dml-train: %s\n", a->leader_trail);
    if (n > 0) dml_leader_failures(&a->leader, failures, n);
    const dml_err err = dml_leader_finish(&a->leader,
                                          failed           ? "failed"
                                          : a->stop_signal ? "stopped"
                                                           : "finished",
                                          code, n);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-train: %s\n", dml_err_trail());
    return code ? code : dml_err_exit_code(err);
}

/* The run cannot go on, or not even begin. */
static int give_up(agent *a, dml_err err)
{
    const int code = dml_err_exit_code(err);
    fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-train: ", dml_err_trail());
    if (a->leader.plan) (void)!dml_leader_finish(&a->leader, "failed", code, 0);
    return code;
}

int dml_agent_main(const dml_agent_options *options)
{
    static agent a; /* large: figures of every worker */
    a.options = options;
    a.give_up_ns = INT64_MAX;
    dml_process_name("dml-agent");
    dml_log_setup(DML_LOG_WARN, "agent");
    fcntl(DML_FD_LAUNCHER, F_SETFD, FD_CLOEXEC);
    gethostname(a.host, sizeof a.host - 1);
    dml_err err = dml_die_with_parent(options->supervisor_pid);
    if (err == DML_ERR_OK) err = prepare(&a);
    if (err == DML_ERR_OK) err = follow(&a);
    const int code = err == DML_ERR_OK ? conclude(&a) : give_up(&a, err);
    dml_leader_close(&a.leader);
    dml_detect_close(a.detect);
    dml_changes_close(&a.changes);
    for (int32_t b = 0; b < 2; b++)
        dml_depot_close(&a.bank[b]);
    dml_control_unmap(a.control);
    dml_trace_close(&a.trace);
    dml_plan_free(&a.plan);
    dml_spec_free(&a.spec);
    return code;
}
