/* engine/recovery_decide.c - all are parked: which steps are committed, where their state is, and who goes on.
 *
 *   newest ballot of which somebody knows the sum: everyone had contributed, so everyone has, or can finish, that step
 *   what was contributed beyond it:                nobody knows the sum, so nobody acted on it: discarded
 *
 * Pages of the dead count: what a worker knew when it died, it may have carried out.
 */
#include "engine/recovery_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/wait.h"

#include <stdio.h>
#include <string.h>

/* What the tenure of now has come to. */
typedef struct outcome {
    bool known;     /* a vote of this tenure is */
    int64_t step;   /* steps committed */
    int64_t ballot; /* of `vote`, which carries that out; 0: everyone has */
    dml_vote vote;
} outcome;

/* ---- which steps ---- */

static const dml_worker_page *newest_vote(const dml_recovery *r, int64_t *ballot)
{
    const dml_worker_page *newest = NULL;
    *ballot = 0;
    for (int32_t w = 0; w < r->n; w++) {
        const dml_worker_page *p = &r->c.control->worker[w];
        const int64_t voted = atomic_load_explicit(&p->voted, memory_order_acquire);
        if (!(r->members & DML_RANK_BIT(w)) || voted <= *ballot) continue;
        *ballot = voted;
        newest = p;
    }
    return newest;
}

/* DML_ERR_BUG, DML_ERR_DIVERGED  what the vote says is no way to go on (engine/update.h) */
static dml_err find_outcome(const dml_recovery *r, outcome *out)
{
    *out = (outcome){.step = r->base.step};
    int64_t ballot;
    const dml_worker_page *p = newest_vote(r, &ballot);
    const int64_t step = dml_ballot_step(ballot);
    if (!p || step < r->base.step) return DML_ERR_OK; /* of the tenure before */
    dml_verdict verdict;
    DML_TRY(dml_ballot_verdict(ballot, &p->vote, &verdict));
    out->known = true;
    out->step = step;
    if (verdict == DML_REDO) return DML_ERR_OK; /* the step is run again anyway */
    out->step = step + 1;
    out->ballot = ballot;
    out->vote = p->vote;
    return DML_ERR_OK;
}

/* ---- where their state is ---- */

/* The first stage of the plan without a live holder; -1: there is none. */
static int32_t dead_stage(const dml_recovery *r)
{
    const dml_plan *plan = dml_recovery_plan_of(r, r->now);
    for (int32_t s = 0; s < plan->stages; s++) {
        bool lives = false;
        for (int32_t w = 0; w < plan->workers && !lives; w++)
            lives = r->active & DML_RANK_BIT(w) && dml_plan_holds(plan, w, s);
        if (!lives) return s;
    }
    return -1;
}

/* Steps in a bank that is complete; -1: it is not. */
static int64_t steps_in(const dml_recovery *r, int32_t bank, uint64_t *stamp)
{
    return dml_depot_complete(r->c.bank[bank], stamp) ? dml_depot_stamp_steps(*stamp) : -1;
}

int32_t dml_recovery_free_bank(const dml_recovery *r)
{
    uint64_t stamp;
    if (r->pinned[0] != r->pinned[1]) return r->pinned[0] ? 1 : 0;
    return steps_in(r, 0, &stamp) <= steps_in(r, 1, &stamp) ? 0 : 1;
}

/* The newest bank. */
static bool from_bank(const dml_recovery *r, dml_base *out)
{
    int64_t newest = -1;
    for (int32_t b = 0; b < 2; b++) {
        uint64_t stamp;
        const int64_t steps = steps_in(r, b, &stamp);
        if (steps <= newest) continue;
        newest = steps;
        *out = (dml_base){.source = DML_SOURCE_BANK, .bank = b, .stamp = stamp, .step = steps};
    }
    return newest >= 0;
}

static bool from_checkpoint(dml_recovery *r, dml_base *out)
{
    const int32_t bank = dml_recovery_free_bank(r);
    int64_t step;
    if (!r->c.restore || !r->c.restore(r->c.context, r->c.bank[bank], r->newest, &step))
        return false;
    r->event.from_checkpoint = true;
    return from_bank(r, out);
}

/* It is lost before the first snapshot that it was to have: about so many steps it is ready to make again. */
static bool is_young(const dml_recovery *r)
{
    const int64_t snapshot = r->spec->failures.snapshot_interval,
                  checkpoint = r->spec->checkpoint.interval_steps,
                  most = snapshot > checkpoint ? snapshot : checkpoint;
    return !r->c.has_state && r->committed < 2 * most;
}

/* False: it is nowhere, and the run is over. */
static bool find_state(dml_recovery *r, const outcome *o, dml_base *out)
{
    const bool lives = dead_stage(r) < 0;
    r->event.from_checkpoint = false;
    *out = (dml_base){.source = DML_SOURCE_PEERS,
                      .bank = dml_recovery_free_bank(r),
                      .stamp = dml_depot_stamp(r->newest, o->step),
                      .step = o->step};
    if (o->known && lives) return true;
    uint64_t stamp;
    if (!o->known && r->base.source == DML_SOURCE_BANK && steps_in(r, r->base.bank, &stamp) >= 0 &&
        stamp == r->base.stamp) {
        *out = r->base;
        return true;
    }
    if (from_bank(r, out) || from_checkpoint(r, out)) return true;
    *out = (dml_base){.source = DML_SOURCE_START};
    return (o->step == 0 && r->committed == 0) || is_young(r);
}

/* Which stage has no holder left, for people. */
static void end_without_state(dml_recovery *r)
{
    const dml_plan *plan = dml_recovery_plan_of(r, r->now);
    char who[160] = "the whole model";
    const int32_t s = r->active ? dead_stage(r) : -1;
    if (s >= 0)
        snprintf(who, sizeof who, "stage %d (layers %d to %d)", s, plan->stage_begin[s],
                 plan->stage_begin[s + 1] - 1);
    dml_recovery_end(
        r,
        "no worker that held %s is left, and there is no snapshot and no checkpoint of "
        "the %lld steps made; failures.snapshot_interval, checkpoint.interval or more "
        "replicas (parallelism.data_parallel_size) would have helped",
        who, (long long)r->committed);
}

/* ---- how everyone goes on ---- */

/* What pages say is of steps that are run again. */
static void forget_votes(dml_recovery *r)
{
    for (int32_t w = 0; w < r->n; w++) {
        dml_worker_page *p = &r->c.control->worker[w];
        atomic_store(&p->contributed, 0);
        atomic_store(&p->voted, 0);
    }
}

static void fill_move(dml_recovery *r, const dml_base *from, const outcome *o, uint64_t lost)
{
    dml_move *m = &r->c.control->move;
    const bool peers = from->source == DML_SOURCE_PEERS;
    m->source = (int32_t)from->source;
    m->bank = from->bank;
    m->stamp = from->stamp;
    m->lost = lost;
    m->step = from->step;
    m->ballot = peers ? o->ballot : 0;
    if (peers && o->ballot > 0) m->vote = o->vote;
}

static void describe(dml_recovery *r, const dml_base *from, const outcome *o)
{
    dml_recovery_event *e = &r->event;
    /* a step of which there is a vote and no report was made, but nobody was told */
    const int64_t made = o->step > r->committed ? o->step : r->committed;
    const dml_plan *before = dml_recovery_plan_of(r, r->now);
    e->source = from->source;
    e->step = from->step;
    e->steps_lost = r->committed > from->step ? r->committed - from->step : 0;
    e->mbs_rerun = before->mbs + (made - from->step) * (before->mbs / before->updates);
    e->bytes = 0;
    dml_recovery_tell_figures(r);
}

/* Sets everyone free: whoever waits for the move reads it, and joiners know that it is theirs. */
static void set_generation(dml_recovery *r, uint64_t coming)
{
    dml_control *c = r->c.control;
    dml_wait_set(&c->move.generation, r->newest);
    for (int32_t w = 0; w < r->n; w++)
        if (coming & DML_RANK_BIT(w)) dml_wait_set(&c->admitted[w], r->newest);
    r->event.joined |= coming;
    r->entering |= coming;
    r->joined &= ~coming;
}

/* There is nothing to put: who opens finds it there. */
static void go_on(dml_recovery *r, const dml_base *from, uint64_t coming)
{
    if (from->source == DML_SOURCE_PEERS) {
        set_generation(r, coming);
        dml_recovery_enter(r, DML_AT_MOVING, dml_recovery_patience_ns(r));
        return;
    }
    forget_votes(r);
    r->base = *from;
    r->committed = from->step;
    atomic_store(&r->c.control->moved, r->newest);
    set_generation(r, coming);
    dml_recovery_moved(r);
}

static dml_err announce(dml_recovery *r, dml_planned *planned, const dml_base *from,
                        const outcome *o, uint64_t coming)
{
    const uint64_t there = r->active | r->entering | coming;
    dml_err err = DML_FAILPOINT(AGENT_DECIDE);
    if (err != DML_ERR_OK) {
        dml_planned_free(planned);
        return err;
    }
    DML_TRY(dml_recovery_publish(r, r->newest, planned));
    fill_move(r, from, o, r->world & ~there);
    DML_TRY(DML_FAILPOINT(AGENT_PUBLISH));
    r->event.published_ns = dml_clock_ns();
    go_on(r, from, coming);
    return DML_ERR_OK;
}

/* True: somebody who was lost is started again, and then it goes on. */
static bool wait_for_more(dml_recovery *r)
{
    const uint64_t out = r->world & ~(r->active | r->entering | r->joined);
    if (!r->spec->failures.respawn || out == 0) return false;
    r->needed |= out;
    r->deadline_ns =
        dml_clock_ns() + 2 * dml_recovery_patience_ns(r) + r->spec->failures.respawn_delay_ns;
    return true;
}

/* Who may come in with a move: peers would take one that died in this tenure for a holder of what it held. */
static uint64_t welcome(const dml_recovery *r, dml_source source)
{
    return source == DML_SOURCE_PEERS ? r->joined & ~r->members : r->joined;
}

static dml_err decide(dml_recovery *r)
{
    outcome o;
    dml_base from;
    dml_planned *planned = NULL;
    DML_TRY(DML_FAILPOINT(AGENT_PARKED));
    DML_TRY(find_outcome(r, &o));
    if (!find_state(r, &o, &from)) {
        end_without_state(r);
        return DML_ERR_OK;
    }
    const uint64_t coming = welcome(r, from.source);
    const uint64_t lost = r->world & ~(r->active | r->entering | coming);
    if (lost == r->world && !wait_for_more(r))
        dml_recovery_end(r, "no worker is left; failures.respawn would have started others");
    if (lost == r->world) return DML_ERR_OK;
    const dml_err err = dml_recovery_replan(r, lost, &planned);
    if (err != DML_ERR_OK && wait_for_more(r)) return DML_ERR_OK;
    if (err != DML_ERR_OK) {
        dml_recovery_end(r, "the workers that are left cannot go on: %s", dml_err_trail());
        return DML_ERR_OK;
    }
    r->event.planned_ns = dml_clock_ns();
    describe(r, &from, &o);
    r->needed = 0;
    return announce(r, planned, &from, &o, coming);
}

void dml_recovery_decide(dml_recovery *r)
{
    r->event.parked_ns = dml_clock_ns();
    (void)dml_recovery_failed(r, decide(r));
}

/* ---- after the step under way ---- */

/* Nobody has heard of it: the plan of now stays.  Who came for it is started again as often as any, who was to leave is
 * to be done without. */
static void withdraw(dml_recovery *r)
{
    const uint64_t leaving = r->leaving;
    dml_recovery_give_up(r, "a change of plan");
    r->under_way = false;
    r->leaving = 0;
    if (dml_recovery_failed(r, dml_recovery_withdraw(r))) return;
    dml_recovery_turn_away(r);
    for (int32_t w = 0; w < r->n; w++)
        if (leaving & DML_RANK_BIT(w)) dml_recovery_lost(r, w, &r->illness);
}

/* All but telling it. */
static dml_err prepare(dml_recovery *r, dml_planned *planned, uint64_t coming)
{
    DML_TRY(dml_recovery_publish(r, r->newest, planned));
    const dml_base from = {.source = DML_SOURCE_PEERS,
                           .bank = dml_recovery_free_bank(r),
                           .stamp = dml_depot_stamp(r->newest, 0),
                           .step = -1};
    const uint64_t there = (r->active | coming) & ~r->leaving;
    fill_move(r, &from, &(outcome){0}, r->world & ~there);
    return DML_FAILPOINT(AGENT_PUBLISH);
}

void dml_recovery_announce(dml_recovery *r, dml_planned *planned, dml_recovery_reason reason)
{
    r->newest++;
    dml_recovery_begin_event(r, reason);
    const int64_t now_ns = dml_clock_ns();
    r->event.fenced_ns = r->event.parked_ns = r->event.planned_ns = now_ns;
    dml_recovery_tell_figures(r);
    const uint64_t coming = welcome(r, DML_SOURCE_PEERS);
    if (prepare(r, planned, coming) != DML_ERR_OK) {
        withdraw(r);
        return;
    }
    r->event.source = DML_SOURCE_PEERS;
    r->event.published_ns = dml_clock_ns();
    set_generation(r, coming);
    dml_wait_set(&r->c.control->plan, r->newest);
    dml_recovery_enter(r, DML_AT_CHANGING, INT64_MAX);
}
