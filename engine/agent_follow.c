/* engine/agent_follow.c - what workers say and do, told to those whom it concerns: the leader, which writes it down; the
 * recovery, which knows how to go on; and who weighs plans. */
#include "engine/agent_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/launch.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the end ---- */

void dml_agent_begin_end(dml_agent *a)
{
    if (a->recovery) dml_recovery_close(a->recovery);
    dml_wait_set(&a->control->fence, DML_FENCE_END);
    if (a->ending_ns == 0) a->ending_ns = dml_clock_ns();
    if (a->give_up_ns == INT64_MAX)
        a->give_up_ns = dml_clock_ns() + DML_AGENT_PATIENCE_S * DML_NS_PER_S;
}

static void worker_failed(dml_agent *a, dml_followed *w)
{
    if (w->failed_at_ns == 0) w->failed_at_ns = dml_clock_ns();
    dml_agent_begin_end(a);
}

static void leader_failed(dml_agent *a, dml_err err, const char *trail)
{
    if (a->leader_err != DML_ERR_OK) return;
    a->leader_err = err;
    snprintf(a->leader_trail, sizeof a->leader_trail, "%s", trail);
    dml_agent_begin_end(a);
}

/* Whether a worker's end is the recovery's to deal with. */
static bool recovers(const dml_agent *a)
{
    return a->spec.failures.policy != DML_POLICY_ABORT && a->ending_ns == 0 &&
           !dml_recovery_is_dismissed(a->recovery);
}

/* Its end is no news, or nobody's loss: all had ended, and who was on its way in was not needed. */
static bool is_excused(const dml_agent *a, const dml_followed *w)
{
    return w->lost ||
           (a->spec.failures.policy != DML_POLICY_ABORT && dml_recovery_is_dismissed(a->recovery));
}

bool dml_agent_is_settled(const dml_agent *a)
{
    return a->ending_ns != 0 || dml_recovery_is_dismissed(a->recovery);
}

/* After each call of the recovery. */
static void look_at_recovery(dml_agent *a)
{
    dml_err err;
    const char *over = dml_recovery_over(a->recovery, &err);
    if (a->ending_ns == 0 && over) leader_failed(a, err, over);
    if (dml_recovery_is_dismissed(a->recovery) && a->give_up_ns == INT64_MAX)
        a->give_up_ns = dml_clock_ns() + DML_AGENT_PATIENCE_S * DML_NS_PER_S;
}

/* ---- what the recovery asks for ---- */

static void kill_worker(void *context, int32_t rank)
{
    dml_agent *a = context;
    if (!a->worker[rank].exited) (void)!dml_launch_kill(rank);
}

static bool spawn(void *context, int32_t rank, char why[256])
{
    const dml_err err = dml_agent_respawn(context, rank);
    if (err != DML_ERR_OK) snprintf(why, 256, "%.*s", 255, dml_err_trail());
    return err == DML_ERR_OK;
}

static void note_loss(dml_agent *a, const dml_recovery_event *e)
{
    char action[64];
    dml_followed *w = &a->worker[e->rank];
    w->lost = true;
    w->death = e->death;
    w->failed_at_ns = e->death.fault_ns;
    dml_failure_record failure = dml_agent_failure(a, e->rank, action, sizeof action);
    failure.injected = e->death.injected;
    failure.cause = w->said_fail ? w->fail.trail : w->death.cause;
    w->failed_at_ns = 0; /* unless the run ends with it */
    const dml_err err = dml_leader_lost(&a->leader, &failure);
    if (err != DML_ERR_OK) leader_failed(a, err, dml_err_trail());
}

static void note(void *context, const dml_recovery_event *e)
{
    dml_agent *a = context;
    if (e->kind == DML_RECOVERY_LOST) {
        note_loss(a, e);
        return;
    }
    if (e->kind == DML_RECOVERY_SNAPSHOT) dml_keeper_snapshot(a->keeper, a->recovery, e);
    if (e->kind == DML_RECOVERY_FAILED) dml_keeper_no_snapshot(a->keeper);
    if (e->kind == DML_RECOVERY_PLAN) dml_detect_plan(a->detect, e->after);
    const dml_err err = dml_leader_recovery(&a->leader, e);
    if (err != DML_ERR_OK) leader_failed(a, err, dml_err_trail());
}

dml_recovery_config dml_agent_recovery_config(dml_agent *a)
{
    return (dml_recovery_config){.first = &a->plan,
                                 .base_fd = a->spec_fd,
                                 .plan_fd = a->plan_fd,
                                 .control = a->control,
                                 .bank = {&a->bank[0], &a->bank[1]},
                                 .context = a,
                                 .kill = kill_worker,
                                 .spawn = spawn,
                                 .has_state = a->begins_after > 0,
                                 .restore = dml_agent_restore,
                                 .last = dml_agent_saves_last,
                                 .note = note};
}

dml_err dml_agent_open_recovery(dml_agent *a)
{
    const dml_detect_config detect = {.control = a->control,
                                      .workers = a->plan.workers,
                                      .heartbeat_ns = a->spec.failures.heartbeat_ns,
                                      .limit_ns = a->spec.failures.heartbeat_timeout_ns};
    const dml_recovery_config recovery = dml_agent_recovery_config(a);
    DML_TRY(dml_detect_open(&detect, &a->detect));
    dml_detect_plan(a->detect, &a->plan);
    DML_TRY(dml_recovery_new(&recovery, &a->recovery));
    if (a->spec.parallelism.balance == DML_BALANCE_DYNAMIC)
        dml_changes_open(&a->changes, &a->plan, a->spec_fd, a->recovery);
    return DML_ERR_OK;
}

/* ---- reports ---- */

static dml_err weigh_plans(dml_agent *a, const dml_report *r)
{
    dml_arena arena = {0};
    dml_balance_record b;
    dml_err err = DML_ERR_OK;
    if (a->changes.recovery && dml_changes_take(&a->changes, r, &arena, &b))
        err = dml_leader_balance(&a->leader, &b);
    dml_arena_free(&arena);
    return err;
}

static void take_fail(dml_agent *a, dml_followed *w, const dml_report *r)
{
    w->said_fail = true;
    w->fail = r->fail;
    if (recovers(a) && dml_recovery_survives(a->recovery, (dml_err)r->fail.err)) {
        dml_recovery_take(a->recovery, r);
        look_at_recovery(a);
        return;
    }
    if (!is_excused(a, w)) worker_failed(a, w);
}

/* The recovery first: a step of the next plan tells it that all are ready, and then the leader knows that plan. */
static void take(dml_agent *a, const dml_report *r)
{
    dml_err err = DML_ERR_OK;
    if (r->kind == DML_REPORT_FAULT) dml_agent_note_fault(a, r->rank, &r->fault);
    if (r->kind == DML_REPORT_READY) dml_injector_begin(&a->injector, dml_clock_ns());
    if (a->ending_ns == 0) dml_recovery_take(a->recovery, r);
    if (a->ending_ns == 0 && r->kind == DML_REPORT_STEP)
        dml_keeper_step(a->keeper, a->recovery, r->step.step);
    look_at_recovery(a);
    if (r->kind == DML_REPORT_STEP) err = DML_FAILPOINT(AGENT_COMMIT);
    if (err == DML_ERR_OK && a->leader_err == DML_ERR_OK) err = dml_leader_take(&a->leader, r);
    if (err == DML_ERR_OK && a->ending_ns == 0) err = weigh_plans(a, r);
    if (err != DML_ERR_OK) leader_failed(a, err, dml_err_trail());
}

void dml_agent_take(dml_agent *a, const dml_report *r)
{
    dml_followed *w = &a->worker[r->rank];
    if (r->kind == DML_REPORT_FAIL) {
        take_fail(a, w, r);
        return;
    }
    if (r->kind == DML_REPORT_END) {
        w->said_end = true;
        if (a->give_up_ns == INT64_MAX && a->spec.failures.policy == DML_POLICY_ABORT)
            a->give_up_ns = dml_clock_ns() + DML_AGENT_PATIENCE_S * DML_NS_PER_S;
    }
    take(a, r);
}

/* Noted before it is gone from its socket, and when it has been dealt with: engine/logbook.h. */
void dml_agent_take_report(dml_agent *a, int32_t rank)
{
    dml_followed *w = &a->worker[rank];
    dml_report r;
    bool got;
    if (dml_report_look(w->socket, &r, &got) == DML_ERR_OK && got) {
        r.rank = rank; /* whatever it says: this is its socket */
        dml_logbook_expect(&a->book, &r);
    }
    if (dml_report_receive(w->socket, &r, &got) != DML_ERR_OK || !got) {
        close(w->socket);
        w->socket = -1;
        return;
    }
    r.rank = rank;
    dml_agent_take(a, &r);
    dml_agent_note(a);
}

/* What it said before it ended may still be waiting, several reports of it. */
static void take_last_words(dml_agent *a, int32_t rank)
{
    struct pollfd on = {a->worker[rank].socket, POLLIN, 0}; /* -1: nothing is there */
    while (on.fd >= 0 && poll(&on, 1, 0) > 0) {
        dml_agent_take_report(a, rank);
        on.fd = a->worker[rank].socket;
    }
}

/* ---- ends ---- */

static dml_death death_of(int status)
{
    dml_death d = {.detected_by = "exit status", .detect_ns = dml_clock_ns()};
    d.fault_ns = d.detect_ns;
    if (WIFSIGNALED(status))
        snprintf(d.cause, sizeof d.cause, "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(d.cause, sizeof d.cause, "exited with code %d", WEXITSTATUS(status));
    return d;
}

void dml_agent_worker_ended(dml_agent *a, int32_t rank, int status)
{
    dml_followed *w = &a->worker[rank];
    take_last_words(a, rank);
    dml_detect_forget(a->detect, rank);
    w->exited = true;
    w->status = status;
    const bool by_us = a->killed || w->accused;
    w->silent = by_us && !w->said_fail && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (recovers(a)) {
        const dml_death d = death_of(status);
        if (dml_recovery_counts_on(a->recovery, rank)) dml_recovery_lost(a->recovery, rank, &d);
        dml_recovery_ended(a->recovery, rank);
        look_at_recovery(a);
        return;
    }
    if (!is_excused(a, w) && (!w->said_end || status != 0)) worker_failed(a, w);
}

/* The run is over with it.  A sign may come before the words that explain it. */
static void end_for(dml_agent *a, int32_t rank, const dml_death *death, bool dying)
{
    dml_followed *w = &a->worker[rank];
    if (w->exited || w->said_end || w->said_fail || is_excused(a, w)) return;
    w->death = *death;
    w->failed_at_ns = death->fault_ns;
    w->accused = !dying;
    worker_failed(a, w);
    if (!dying) kill_worker(a, rank);
}

static void take_sign(dml_agent *a, const dml_sign *s)
{
    if (!dml_sign_is_loss(s->kind)) {
        dml_console_note(&a->leader.view, "rank %d %s", s->rank, s->text);
        return;
    }
    dml_death d = {.detected_by = dml_sign_name(s->kind),
                   .fault_ns = s->fault_ns > 0 ? s->fault_ns : s->seen_ns,
                   .detect_ns = s->seen_ns};
    snprintf(d.cause, sizeof d.cause, "%s", s->text);
    take_last_words(a, s->rank);
    if (!recovers(a)) {
        end_for(a, s->rank, &d, s->kind == DML_SIGN_DIED);
        return;
    }
    if (!dml_recovery_counts_on(a->recovery, s->rank)) return;
    a->worker[s->rank].accused = s->kind != DML_SIGN_DIED;
    dml_recovery_lost(a->recovery, s->rank, &d);
    look_at_recovery(a);
}

void dml_agent_take_signs(dml_agent *a)
{
    dml_sign s;
    while (dml_detect_next(a->detect, dml_clock_ns(), &s))
        take_sign(a, &s);
}

/* ---- time ---- */

void dml_agent_tick(dml_agent *a)
{
    if (a->ending_ns != 0) return;
    a->recovery_due_ns = dml_recovery_tick(a->recovery, dml_clock_ns());
    look_at_recovery(a);
}
