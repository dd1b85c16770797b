/* engine/recovery.c - events come in, states follow each other.  Every state has a way on for each answer, and one for
 * each that does not come. */
#include "engine/recovery_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/wait.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ROUNDS = 16
}; /* recoveries without one step between them, before it counts as hopeless */

static void note(dml_recovery *r, dml_recovery_kind kind)
{
    r->event.kind = kind;
    if (r->c.note) r->c.note(r->c.context, &r->event);
}

int64_t dml_recovery_patience_ns(const dml_recovery *r)
{
    return r->spec->parallelism.timeout_ns;
}

/* ---- the end ---- */

void dml_recovery_end(dml_recovery *r, const char *fmt, ...)
{
    if (r->state == DML_AT_OVER) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->over, sizeof r->over, fmt, args);
    va_end(args);
    dml_recovery_close(r);
    dml_wait_set(&r->c.control->fence, DML_FENCE_END);
}

/* What every try would meet again, and what happened with nobody lost, is no loss. */
bool dml_recovery_failed(dml_recovery *r, dml_err err)
{
    if (err == DML_ERR_OK) return false;
    const bool lost = r->under_way && r->event.newly_lost != 0;
    if (r->state != DML_AT_OVER && (!lost || (err != DML_ERR_UNAVAILABLE && err != DML_ERR_NOMEM)))
        r->over_err = err;
    dml_recovery_end(r, "%s", dml_err_trail());
    return true;
}

void dml_recovery_give_up(dml_recovery *r, const char *what)
{
    char why[512];
    const char *trail = dml_err_trail();
    snprintf(why, sizeof why, "%s is given up, training goes on: %.*s", what,
             (int)strcspn(trail, "\n"), trail);
    const dml_recovery_event e = {
        .kind = DML_RECOVERY_FAILED, .generation = r->now, .rank = -1, .why = why};
    if (r->c.note) r->c.note(r->c.context, &e);
}

void dml_recovery_close(dml_recovery *r)
{
    dml_recovery_enter(r, DML_AT_OVER, INT64_MAX);
}

void dml_recovery_dismiss(dml_recovery *r)
{
    if (r->pending) note(r, DML_RECOVERY_DONE); /* there was no step left to make */
    r->pending = false;
    r->dismissed = true;
    dml_recovery_close(r);
    dml_wait_set(&r->c.control->dismissed, DML_DISMISSED);
    const uint64_t outside = r->spawning | r->joined | r->entering;
    for (int32_t w = 0; w < r->n; w++)
        if (outside & DML_RANK_BIT(w)) r->c.kill(r->c.context, w);
}

static void dismiss_if_all_ended(dml_recovery *r)
{
    const bool running = r->state == DML_AT_RUN || r->state == DML_AT_CHANGING;
    if (!running || !r->active || (r->active & ~r->ended)) return;
    if (dml_recovery_failed(r, DML_FAILPOINT(AGENT_DISMISS))) return;
    if (!dml_recovery_last(r)) dml_recovery_dismiss(r);
}

/* ---- states ---- */

void dml_recovery_enter(dml_recovery *r, dml_recovery_state state, int64_t patience_ns)
{
    r->state = state;
    r->answered = 0;
    r->deadline_ns = patience_ns == INT64_MAX ? INT64_MAX : dml_clock_ns() + patience_ns;
}

/* What came before its first step goes on in the same event. */
void dml_recovery_begin_event(dml_recovery *r, dml_recovery_reason reason)
{
    dml_recovery_event *e = &r->event;
    if (!r->under_way && !r->pending) {
        dml_recovery_prune(r);
        *e = (dml_recovery_event){.reason = reason,
                                  .rank = -1,
                                  .predicted_before_s = (double)NAN,
                                  .predicted_after_s = (double)NAN,
                                  .before = dml_recovery_plan_of(r, r->told)};
    }
    if (e->reason != DML_REASON_LOSS && e->reason != DML_REASON_RESTART) e->reason = reason;
    e->generation = r->newest;
    e->saved_ns = e->moved_ns = e->ready_ns = e->step_ns = 0;
    r->under_way = true;
    r->pending = false;
}

void dml_recovery_fence(dml_recovery *r)
{
    const bool again = r->state == DML_AT_FENCED;
    if (DML_FAILPOINT(AGENT_FENCE) != DML_ERR_OK) {
        dml_recovery_end(r, "%s", dml_err_trail());
        return;
    }
    r->newest++;
    dml_recovery_begin_event(r, r->spec->failures.policy == DML_POLICY_RESTART ? DML_REASON_RESTART
                                                                               : DML_REASON_LOSS);
    if (!again && r->rounds++ >= MAX_ROUNDS) {
        dml_recovery_end(r, "%d recoveries without one step between them", MAX_ROUNDS);
        return;
    }
    r->event.fences++;
    dml_recovery_enter(r, DML_AT_FENCED, dml_recovery_patience_ns(r));
    r->unwell |= r->leaving;
    r->ended = r->leaving = r->suspecting = 0;
    r->suspected_ns = 0;
    r->snapshot.word = 0;
    dml_wait_set(&r->c.control->fence, r->newest);
    r->event.fenced_ns = dml_clock_ns();
}

static void decide_if_parked(dml_recovery *r)
{
    const uint64_t there = r->active | r->entering;
    if (r->state == DML_AT_FENCED && (there & ~r->answered) == 0 && (r->needed & ~r->joined) == 0)
        dml_recovery_decide(r);
}

/* The state is safe, and with it the plan: the tenure before is over. */
void dml_recovery_moved(dml_recovery *r)
{
    r->event.moved_ns = dml_clock_ns();
    r->now = r->newest;
    r->active = (r->active | r->entering) & ~r->leaving;
    r->event.lost = r->world & ~r->active;
    r->members = r->active;
    r->entering = r->leaving = 0;
    dml_recovery_enter(r, DML_AT_OPENING, 2 * dml_recovery_patience_ns(r));
    dml_wait_set(&r->c.control->moved, r->now);
}

static void end_put(dml_recovery *r)
{
    const dml_move *m = &r->c.control->move;
    uint64_t stamp;
    const bool whole = dml_depot_complete(r->c.bank[m->bank], &stamp);
    if (!whole || dml_depot_stamp_generation(stamp) != r->newest) {
        dml_recovery_end(r, "all workers have saved plan %u's state, and bank %d lacks some of it",
                         r->newest, m->bank);
        return;
    }
    r->event.saved_ns = dml_clock_ns();
    if (dml_recovery_failed(r, DML_FAILPOINT(AGENT_MOVED))) return;
    r->base = (dml_base){.source = DML_SOURCE_BANK,
                         .bank = m->bank,
                         .stamp = stamp,
                         .step = dml_depot_stamp_steps(stamp)};
    r->event.step = r->base.step;
    dml_recovery_moved(r);
}

/* All are ready: so the plan holds, and people are told. */
static void opened(dml_recovery *r)
{
    if (dml_recovery_failed(r, DML_FAILPOINT(AGENT_READY))) return;
    dml_recovery_enter(r, DML_AT_RUN, INT64_MAX);
    r->told = r->now;
    if (!r->under_way) return; /* the run begins */
    r->under_way = false;
    r->pending = true;
    r->event.ready_ns = dml_clock_ns();
    r->event.after = dml_recovery_plan(r);
    r->event.first_plan = r->event.after == r->c.first;
    note(r, DML_RECOVERY_PLAN);
}

/* ---- reports ---- */

static void take_ready(dml_recovery *r, int32_t rank, const dml_report_ready *ready)
{
    if (r->state != DML_AT_OPENING || ready->generation != r->now) return;
    r->answered |= DML_RANK_BIT(rank);
    if ((r->active & ~r->answered) == 0) opened(r);
}

static void take_saved(dml_recovery *r, int32_t rank, const dml_report_saved *s)
{
    if (s->generation == 0) {
        dml_recovery_take_snapshot(r, rank, s);
        return;
    }
    const bool moving = r->state == DML_AT_MOVING || r->state == DML_AT_CHANGING;
    if (!moving || s->generation != r->newest) return;
    r->answered |= DML_RANK_BIT(rank);
    r->event.bytes += s->bytes;
    if (r->deadline_ns == INT64_MAX) /* all leave after the same step: the others follow */
        r->deadline_ns = dml_clock_ns() + dml_recovery_patience_ns(r);
    if ((r->active & ~r->answered) == 0) end_put(r);
}

/* Steps made under the plan of now show that it works. */
static void take_step(dml_recovery *r, const dml_report_step *s)
{
    const double clip = (double)r->spec->training.grad_clip;
    if (s->step > r->committed) r->committed = s->step;
    if (s->verdict != DML_COMMIT || (clip > 0.0 && s->grad_norm > clip)) r->clipped_step = s->step;
    dml_recovery_snapshot_if_due(r);
    if (s->generation != r->now || !r->pending) return;
    r->pending = false;
    r->rounds = 0;
    memset(r->starts, 0, sizeof r->starts);
    r->event.step_ns = s->at_ns;
    note(r, DML_RECOVERY_DONE);
}

/* Whose fault it is that a worker gives up: its own, or the run's. */
bool dml_recovery_survives(const dml_recovery *r, dml_err err)
{
    if (r->spec->failures.policy == DML_POLICY_ABORT) return false;
    /* a worker that cannot even begin is told to the user: it would be so at every start */
    return err == DML_ERR_PEER ||
           (r->begun && (err == DML_ERR_NOMEM || err == DML_ERR_UNAVAILABLE));
}

static void take_fail(dml_recovery *r, int32_t rank, const dml_report_fail *f)
{
    dml_death d = {.detected_by = "its own report", .detect_ns = dml_clock_ns()};
    d.fault_ns = d.detect_ns;
    snprintf(d.cause, sizeof d.cause, "%.*s", (int)strcspn(f->trail, "\n"), f->trail);
    if (dml_recovery_survives(r, (dml_err)f->err))
        dml_recovery_lost(r, rank, &d);
    else
        dml_recovery_end(r, "%s", f->trail);
}

/* Nobody trains, looks or ends before all are ready: reports of others may just not have been read. */
static bool shows_all_ready(const dml_recovery *r, const dml_report *report)
{
    if (r->state != DML_AT_OPENING) return false;
    if (report->kind == DML_REPORT_STEP) return report->step.generation == r->now;
    return report->kind == DML_REPORT_EVAL || report->kind == DML_REPORT_END;
}

void dml_recovery_take(dml_recovery *r, const dml_report *report)
{
    const int32_t rank = report->rank;
    if (r->state == DML_AT_OVER) return;
    if (shows_all_ready(r, report)) opened(r);
    r->begun |= report->kind == DML_REPORT_STEP;
    switch ((dml_report_kind)report->kind) {
    case DML_REPORT_READY: take_ready(r, rank, &report->ready); break;
    case DML_REPORT_STEP: take_step(r, &report->step); break;
    case DML_REPORT_SAVED: take_saved(r, rank, &report->saved); break;
    case DML_REPORT_FAIL: take_fail(r, rank, &report->fail); break;
    case DML_REPORT_SUSPECT: dml_recovery_suspect(r, rank, &report->suspect); break;
    case DML_REPORT_PARKED:
        if (r->state != DML_AT_FENCED || report->parked.fence != r->newest) break;
        r->answered |= DML_RANK_BIT(rank);
        break;
    case DML_REPORT_JOIN:
        if (!(r->spawning & DML_RANK_BIT(rank))) break;
        r->spawning &= ~DML_RANK_BIT(rank);
        r->joined |= DML_RANK_BIT(rank);
        break;
    case DML_REPORT_END:
        r->ended |= DML_RANK_BIT(rank);
        dismiss_if_all_ended(r);
        break;
    case DML_REPORT_LOAD:
    case DML_REPORT_EVAL:
    case DML_REPORT_FAULT:
        if (dml_fault_can_end((dml_fault_type)report->fault.type))
            r->struck_ns[rank] = report->fault.at_ns;
        break;
    }
    decide_if_parked(r);
}

/* ---- losses ---- */

/* All start again: who is alive is killed as well. */
static void kill_all(dml_recovery *r)
{
    const uint64_t there = r->active | r->entering | r->spawning | r->joined;
    for (int32_t w = 0; w < r->n; w++)
        if (there & DML_RANK_BIT(w)) r->c.kill(r->c.context, w);
    r->active = r->entering = r->spawning = r->joined = 0;
    r->needed = r->world;
}

static void note_loss(dml_recovery *r, int32_t rank, const dml_death *death)
{
    dml_recovery_event e = {.kind = DML_RECOVERY_LOST,
                            .generation = r->now,
                            .rank = rank,
                            .death = *death,
                            .lost = r->world & ~r->active,
                            .before = dml_recovery_plan_of(r, r->told)};
    if (r->c.note) r->c.note(r->c.context, &e);
    if (r->event.rank < 0) {
        r->event.rank = rank;
        r->event.death = *death;
    }
    r->event.newly_lost |= DML_RANK_BIT(rank);
}

/* NULL: the run may go on. */
static const char *why_not(const dml_recovery *r)
{
    const int32_t most = r->spec->failures.max_failures;
    if (r->spec->failures.policy == DML_POLICY_ABORT) return "failures.policy is abort";
    return most > 0 && r->losses > most ? "more workers than failures.max_failures were lost"
                                        : NULL;
}

/* What was asked for happened when it struck, and was noticed when it was noticed. */
static dml_death explained(dml_recovery *r, int32_t rank, const dml_death *death)
{
    dml_death d = *death;
    const int64_t struck_ns = r->struck_ns[rank],
                  most_ns = 3 * r->spec->parallelism.timeout_ns; /* older ones were survived */
    r->struck_ns[rank] = 0;
    if (struck_ns == 0 || d.detect_ns - struck_ns > most_ns) return d;
    d.injected = true;
    d.fault_ns = struck_ns;
    return d;
}

void dml_recovery_lost(dml_recovery *r, int32_t rank, const dml_death *death)
{
    const uint64_t bit = DML_RANK_BIT(rank);
    const bool took_part = (r->active | r->entering) & bit;
    if (r->state == DML_AT_OVER || !((r->active | r->entering | r->spawning | r->joined) & bit))
        return;
    r->active &= ~bit;
    r->unwell &= ~bit;
    r->entering &= ~bit;
    r->spawning &= ~bit;
    r->joined &= ~bit;
    r->c.kill(r->c.context, rank);
    if (!took_part) return; /* nobody misses it */
    const dml_death d = explained(r, rank, death);
    r->losses++;
    if (r->ended & bit) { /* it had done all that it was there for */
        if (r->state == DML_AT_ENDING)
            dml_recovery_give_up_last(r, d.cause);
        else
            dismiss_if_all_ended(r);
        return;
    }
    if (why_not(r)) {
        note_loss(r, rank, &d);
        dml_recovery_end(r, "rank %d is lost (%s): %s", rank, d.cause, why_not(r));
        return;
    }
    dml_recovery_fence(r);
    note_loss(r, rank, &d);
    if (r->state == DML_AT_FENCED && r->spec->failures.policy == DML_POLICY_RESTART) kill_all(r);
    decide_if_parked(r);
}

void dml_recovery_retire(dml_recovery *r, int32_t rank, const dml_death *death)
{
    if (r->spec->failures.policy != DML_POLICY_REPLAN || r->state == DML_AT_FENCED) {
        dml_recovery_lost(r, rank, death); /* there is no step under way to wait for */
        return;
    }
    r->unwell |= DML_RANK_BIT(rank) & r->active;
    r->illness = *death;
}

void dml_recovery_ended(dml_recovery *r, int32_t rank)
{
    const uint64_t bit = DML_RANK_BIT(rank);
    r->gone |= bit;
    r->spawning &= ~bit;
    r->joined &= ~bit;
    r->respawn_ns[rank] = dml_clock_ns() + r->spec->failures.respawn_delay_ns;
}

/* ---- time ---- */

static const char *awaited(dml_recovery_state state)
{
    switch (state) {
    case DML_AT_FENCED: return "it did not leave its step";
    case DML_AT_MOVING:
    case DML_AT_CHANGING: return "it did not save its state";
    case DML_AT_OPENING: return "it did not open the next plan";
    case DML_AT_RUN:
    case DML_AT_ENDING:
    case DML_AT_OVER: break;
    }
    return "it did not answer";
}

/* Who has not answered is gone for good; one at a time, since each may begin a new state. */
static void lose_silent(dml_recovery *r, int64_t now_ns)
{
    const dml_recovery_state state = r->state;
    if (state == DML_AT_ENDING) {
        dml_recovery_give_up_last(r, "not all have put theirs in time");
        return;
    }
    const uint64_t silent = (r->active | (state == DML_AT_FENCED ? r->entering : 0)) & ~r->answered;
    dml_death d = {.detected_by = "deadline", .fault_ns = now_ns, .detect_ns = now_ns};
    snprintf(d.cause, sizeof d.cause, "%s within %.1f s", awaited(state),
             (double)dml_recovery_patience_ns(r) * 1e-9);
    for (int32_t w = 0; w < r->n; w++)
        if (silent & DML_RANK_BIT(w)) dml_recovery_lost(r, w, &d);
    if (r->state != state || silent) return;
    for (int32_t w = 0; w < r->n; w++) /* needed, and not there */
        if (r->spawning & DML_RANK_BIT(w)) dml_recovery_lost(r, w, &d);
    r->deadline_ns = now_ns + dml_recovery_patience_ns(r);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t dml_recovery_tick(dml_recovery *r, int64_t now_ns)
{
    if (r->state != DML_AT_OVER && now_ns >= r->deadline_ns) lose_silent(r, now_ns);
    const int64_t judge_ns = dml_recovery_judge(r, now_ns);
    decide_if_parked(r);
    dml_recovery_let_in_and_out(r);
    const int64_t spawn_ns = dml_recovery_spawn_due(r, now_ns);
    if (r->state == DML_AT_OVER) return INT64_MAX;
    return earlier(r->deadline_ns, earlier(judge_ns, spawn_ns));
}

/* ---- what is wanted ---- */

bool dml_recovery_change(dml_recovery *r, dml_planned *next)
{
    if (dml_recovery_is_busy(r) || r->pending || r->ended) {
        dml_planned_free(next);
        return false;
    }
    r->figures = (dml_plan_figures){.before_s = (double)NAN, .after_s = (double)NAN};
    dml_recovery_announce(r, next, DML_REASON_BALANCE);
    return r->state != DML_AT_OVER;
}

/* ---- how it stands ---- */

const dml_plan *dml_recovery_plan(const dml_recovery *r)
{
    return dml_recovery_plan_of(r, r->now);
}

uint32_t dml_recovery_generation(const dml_recovery *r)
{
    return r->now;
}

bool dml_recovery_is_busy(const dml_recovery *r)
{
    return r->state != DML_AT_RUN || r->snapshot.word != 0;
}

uint64_t dml_recovery_lost_mask(const dml_recovery *r)
{
    return r->world & ~r->active;
}

bool dml_recovery_counts_on(const dml_recovery *r, int32_t rank)
{
    return (r->active | r->entering) & DML_RANK_BIT(rank);
}

bool dml_recovery_expects(const dml_recovery *r, int32_t rank)
{
    return (r->spawning | r->joined) & DML_RANK_BIT(rank);
}

int32_t dml_recovery_leader(const dml_recovery *r)
{
    for (int32_t w = 0; w < r->n; w++)
        if (r->active & DML_RANK_BIT(w)) return w;
    return 0;
}

bool dml_recovery_is_dismissed(const dml_recovery *r)
{
    return r->dismissed;
}

const char *dml_recovery_over(const dml_recovery *r, dml_err *err)
{
    *err = r->over_err == DML_ERR_OK ? DML_ERR_PEER : r->over_err;
    return r->over[0] ? r->over : NULL;
}

/* ---- open, close ---- */

dml_err dml_recovery_new(const dml_recovery_config *config, dml_recovery **out)
{
    dml_recovery *r = calloc(1, sizeof *r);
    if (!r) DML_FAIL(DML_ERR_NOMEM, "no memory to follow workers");
    r->c = *config;
    r->spec = config->first->spec;
    r->n = config->first->workers;
    DML_ASSERT_OP(r->n, <=, DML_HOST_WORKERS);
    r->world = r->n == 64 ? UINT64_MAX : DML_RANK_BIT(r->n) - 1;
    r->active = r->members = r->world;
    uint64_t stamp;
    if (config->has_state && dml_depot_complete(config->bank[0], &stamp)) {
        r->base = (dml_base){DML_SOURCE_BANK, 0, stamp, dml_depot_stamp_steps(stamp)};
        r->committed = r->base.step;
        dml_move *m = &config->control->move; /* nobody is there yet who might read it */
        *m = (dml_move){.source = DML_SOURCE_BANK, .stamp = stamp, .step = r->base.step};
    } else {
        r->base.source = DML_SOURCE_START;
    }
    r->event.rank = -1;
    dml_recovery_enter(r, DML_AT_OPENING, INT64_MAX);
    *out = r;
    return DML_ERR_OK;
}

void dml_recovery_free(dml_recovery *r)
{
    if (!r) return;
    for (int32_t i = 0; i < r->n_kept; i++)
        dml_planned_free(r->kept[i].planned);
    free(r->kept);
    free(r);
}
