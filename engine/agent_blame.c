/* engine/agent_blame.c - who failed, and what the run comes to. */
#include "engine/agent_impl.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* In order of blame. */
typedef enum blame {
    BLAME_ITSELF, /* died by a signal we did not send, or says what went wrong */
    BLAME_SILENT, /* stopped answering: its peers' waits ended, it had to be killed */
    BLAME_ECHO,   /* only noticed that others were gone */
    BLAME_NONE,
} blame;

static blame blame_of(const dml_followed *w)
{
    if (w->failed_at_ns == 0) return BLAME_NONE;
    if (w->death.detected_by) return BLAME_ITSELF;
    if (w->silent) return BLAME_SILENT;
    return w->said_fail && w->fail.err == DML_ERR_PEER ? BLAME_ECHO : BLAME_ITSELF;
}

/* The first of those who only noticed; the later ones are echoes of its end.  -1: there is none. */
static int32_t first_echo(const dml_agent *a)
{
    int32_t first = -1;
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (blame_of(&a->worker[r]) == BLAME_ECHO &&
            (first < 0 || a->worker[r].failed_at_ns < a->worker[first].failed_at_ns))
            first = r;
    return first;
}

/* "rank 0 gave up first: nothing for 60.0 s while waiting for worker 1's send 9" */
static void describe_silence(dml_agent *a)
{
    const int32_t r = first_echo(a);
    if (r < 0) return;
    const char *trail = a->worker[r].fail.trail;
    snprintf(a->silence, sizeof a->silence, "rank %d gave up first: %.*s", r,
             (int)strcspn(trail, "\n"), trail);
}

static const char *last_action(const dml_agent *a, int32_t rank, char *text, size_t bytes)
{
    const dml_worker_page *p = &a->control->worker[rank];
    if (atomic_load(&p->ops) == 0) return NULL;
    snprintf(text, bytes, "%s%d.%d (%s)", dml_op_info_of((dml_op_kind)atomic_load(&p->last))->text,
             atomic_load(&p->last_chunk), atomic_load(&p->last_mb),
             dml_phase_name((dml_phase)atomic_load(&p->phase)));
    return text;
}

static const char *cause_of(const dml_agent *a, const dml_followed *w)
{
    if (a->hang[0] && blame_of(w) != BLAME_ITSELF) return a->hang;
    if (w->accused) return w->death.cause;
    if (w->silent) return a->silence;
    return w->said_fail ? w->fail.trail : NULL;
}

static const char *noticed_by(const dml_agent *a, const dml_followed *w)
{
    if (a->hang[0] && blame_of(w) != BLAME_ITSELF) return "lack of progress";
    if (w->death.detected_by) return w->death.detected_by;
    return w->silent ? "its peers" : w->said_fail ? "its own report" : "exit status";
}

dml_failure_record dml_agent_failure(const dml_agent *a, int32_t rank, char *action, size_t bytes)
{
    const dml_followed *w = &a->worker[rank];
    const dml_plan *plan = a->leader.plan;
    const bool silent = w->silent, by_signal = w->exited && WIFSIGNALED(w->status) && !silent;
    const bool seen = w->death.detected_by != NULL;
    const int64_t at_ns = silent && !seen ? a->ending_ns : w->failed_at_ns;
    const int64_t seen_ns = seen ? w->death.detect_ns : at_ns;
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
        .exit_code = w->exited && WIFEXITED(w->status) ? WEXITSTATUS(w->status) : -1,
        .step = atomic_load(&a->control->worker[rank].step),
        .last_action = last_action(a, rank, action, bytes),
    };
}

/* Said by an earlier one in the same words: all workers find out together that the run diverged. */
static bool is_repeat(const dml_agent *a, int32_t rank)
{
    const dml_followed *w = &a->worker[rank];
    for (int32_t r = 0; r < a->plan.workers; r++) {
        const dml_followed *other = &a->worker[r];
        const bool earlier = other->failed_at_ns < w->failed_at_ns ||
                             (other->failed_at_ns == w->failed_at_ns && r < rank);
        if (earlier && w->said_fail && other->said_fail &&
            strcmp(w->fail.trail, other->fail.trail) == 0)
            return true;
    }
    return false;
}

/* The workers most to blame, each thing that went wrong once.  When the leader failed, echoes are of that. */
static int32_t collect(const dml_agent *a, dml_failure_record *out, char (*action)[64])
{
    blame worst = BLAME_NONE;
    int32_t n = 0;
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (blame_of(&a->worker[r]) < worst) worst = blame_of(&a->worker[r]);
    if (worst == BLAME_NONE || (worst != BLAME_ITSELF && a->leader_err != DML_ERR_OK)) return 0;
    for (int32_t r = 0; r < a->plan.workers; r++) {
        if (blame_of(&a->worker[r]) != worst || is_repeat(a, r)) continue;
        if (worst == BLAME_ECHO && r != first_echo(a)) continue;
        out[n] = dml_agent_failure(a, r, action[n], sizeof action[n]);
        n++;
    }
    return n;
}

/* What the run comes to: the leader's own failure, else the first worker's. */
static int exit_code(const dml_agent *a, const dml_failure_record *failures, int32_t n)
{
    if (a->leader_err != DML_ERR_OK) return dml_err_exit_code(a->leader_err);
    if (n == 0) return a->stop_signal ? dml_agent_stop_code(a) : 0;
    int32_t first = 0;
    for (int32_t i = 1; i < n; i++)
        if (failures[i].t_fault_s < failures[first].t_fault_s) first = i;
    const dml_followed *w = &a->worker[failures[first].rank];
    if (w->said_fail) return dml_err_exit_code((dml_err)w->fail.err);
    return WIFEXITED(w->status) && WEXITSTATUS(w->status) ? WEXITSTATUS(w->status)
                                                          : dml_err_exit_code(DML_ERR_PEER);
}

int dml_agent_conclude(dml_agent *a)
{
    dml_failure_record failures[DML_HOST_WORKERS];
    char action[DML_HOST_WORKERS][64];
    describe_silence(a);
    const int32_t n = collect(a, failures, action);
    const int code = dml_agent_check_faults(a, exit_code(a, failures, n));
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
