/* engine/worker_recover.c - others are lost, and this worker goes on: its half of what engine/control.h tells.
 *
 *   fence g    every wait of this tenure ends           the step under way stands still, memory stays
 *   park       queues come to rest, PARKED              from here on only a later fence ends what it waits for
 *   move g     settle: commit the step, or leave it     as everyone does, whoever is lost
 *              put what it holds into the bank, SAVED
 *   moved g    everything lies there                    now memory may go
 *
 * A fence in between begins it again: nothing of it is lost by being done twice.  A planned change is the last half of it.
 */
#include "engine/worker_loop.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/checkpoint.h"

#include <stdlib.h>
#include <string.h>

/* The move, as this worker has read it: it is written anew only when everyone is parked. */
typedef struct order {
    uint32_t generation;
    dml_source source;
    dml_depot *bank;
    uint64_t stamp, lost;
    int64_t step, ballot;
    dml_vote vote;
} order;

static order read_order(const dml_worker *w, uint32_t generation)
{
    const dml_move *m = &w->config->control->move;
    return (order){.generation = generation,
                   .source = (dml_source)m->source,
                   .bank = w->config->bank[m->bank],
                   .stamp = m->stamp,
                   .lost = m->lost,
                   .step = m->step,
                   .ballot = m->ballot,
                   .vote = m->vote};
}

/* ---- what lies in the bank ---- */

/* SAVED, when what this worker has to leave is there. */
static dml_err save(dml_loop *l, const order *o, uint64_t stamp, uint64_t lost)
{
    dml_worker *w = l->w;
    const dml_depot_run now = dml_loop_now(l);
    dml_report r = {.kind = DML_REPORT_SAVED,
                    .saved = {.generation = o->generation, .step = l->step}};
    if (o->source == DML_SOURCE_PEERS && w->plan)
        DML_TRY(dml_worker_put_state(w, o->bank, stamp, lost, &now, &r.saved.bytes));
    DML_TRY(DML_FAILPOINT(WORKER_SAVED));
    return dml_worker_report(w, &r);
}

/* The tenure that begins where everything is said to lie; step -1: after whatever step it is. */
static dml_err find(const order *o, int64_t step, dml_tenure *next)
{
    *next = (dml_tenure){.generation = o->generation, .lost = o->lost};
    if (o->source == DML_SOURCE_START) return DML_ERR_OK;
    const uint64_t stamp = dml_depot_run_stamp(o->bank);
    DML_TRY(dml_depot_check(o->bank, stamp));
    const int64_t steps = dml_depot_stamp_steps(stamp);
    const uint32_t put = dml_depot_stamp_generation(stamp);
    if ((step >= 0 && steps != step) || (o->source == DML_SOURCE_PEERS && put != o->generation))
        DML_FAIL(DML_ERR_BUG,
                 "plan %u is to begin after %lld steps, with state of plan %u after %lld",
                 o->generation, (long long)step, put, (long long)steps);
    next->from = o->bank;
    next->first_step = o->bank->run->step;
    return DML_ERR_OK;
}

static dml_err await_moved(dml_worker *w, uint32_t generation)
{
    return dml_wait_reached(&w->config->control->moved, generation, INT64_MAX, &w->abort,
                            "the others' state");
}

/* ---- a planned change ---- */

dml_err dml_loop_leave(dml_loop *l, dml_tenure *next)
{
    dml_worker *w = l->w;
    const order o = read_order(w, l->change);
    dml_loop_set_phase(w, DML_PHASE_CHANGE, l->step);
    /* everyone of this tenure is there, also who leaves the run with it */
    DML_TRY(save(l, &o, dml_depot_stamp(o.generation, l->step), w->tenure.lost));
    DML_TRY(await_moved(w, o.generation));
    return find(&o, l->step, next);
}

dml_err dml_loop_join(dml_loop *l, dml_tenure *next)
{
    dml_worker *w = l->w;
    _Atomic uint32_t *admitted = &w->config->control->admitted[w->config->rank];
    dml_loop_set_phase(w, DML_PHASE_JOIN, 0);
    DML_TRY(DML_FAILPOINT(WORKER_JOIN));
    DML_TRY(dml_worker_report(w, &(dml_report){.kind = DML_REPORT_JOIN}));
    DML_TRY(dml_wait_reached(admitted, 1, INT64_MAX, &w->abort, "a plan that knows this worker"));
    const uint32_t generation = atomic_load_explicit(admitted, memory_order_acquire);
    atomic_store_explicit(&w->abort.epoch, generation, memory_order_relaxed);
    DML_TRY(await_moved(w, generation));
    const order o = read_order(w, generation);
    return find(&o, o.step, next);
}

/* What the run has come to may be wanted before everyone goes. */
dml_err dml_loop_await_dismissal(dml_loop *l)
{
    dml_worker *w = l->w;
    dml_control *c = w->config->control;
    if (!w->config->recovers && !dml_checkpoint_wanted(w->spec)) return DML_ERR_OK;
    DML_TRY(dml_wait_reached(&c->dismissed, DML_DISMISS_SAVING, INT64_MAX, &w->abort,
                             "the others to end"));
    if (atomic_load_explicit(&c->dismissed, memory_order_acquire) == DML_DISMISS_SAVING) {
        l->snapshot = atomic_load_explicit(&c->snapshot, memory_order_acquire);
        l->snaps = true;
        DML_TRY(dml_loop_save_snapshot(l));
    }
    return dml_wait_reached(&c->dismissed, DML_DISMISSED, INT64_MAX, &w->abort,
                            "the last snapshot");
}

/* ---- a loss ---- */

static uint32_t fence_of(const dml_worker *w)
{
    return atomic_load_explicit(&w->config->control->fence, memory_order_acquire);
}

/* Whom the wait that failed was for, as transports name him: "nothing for 60.0 s while waiting for worker 1's send 9".
 * -1: nobody is named. */
static int32_t named_in(const char *trail)
{
    static const char words[] = "waiting for worker ";
    const char *at = strstr(trail, words);
    return at ? (int32_t)strtol(at + sizeof words - 1, NULL, 10) : -1;
}

/* Says whom it waited for in vain, and gives the agent time to find out who is to blame. */
static void suspect(dml_worker *w)
{
    const char *trail = dml_err_trail();
    dml_report r = {.kind = DML_REPORT_SUSPECT, .suspect = {.rank = named_in(trail)}};
    const size_t line = strcspn(trail, "\n"), most = sizeof r.suspect.why - 1;
    memcpy(r.suspect.why, trail, line < most ? line : most);
    if (dml_worker_report(w, &r) != DML_ERR_OK) return;
    const int64_t deadline_ns = dml_clock_ns() + 2 * w->config->plan->spec->parallelism.timeout_ns;
    _Atomic uint32_t never = 0;
    (void)dml_wait_reached(&never, 1, deadline_ns, &w->abort, "the fence");
}

bool dml_loop_can_recover(dml_loop *l, dml_err err)
{
    dml_worker *w = l->w;
    if (err != DML_ERR_PEER || !w->config->recovers) return false;
    if (!dml_abort_raised(&w->abort)) {
        char trail[DML_TRAIL_BYTES];
        strncpy(trail, dml_err_trail(), sizeof trail - 1);
        trail[sizeof trail - 1] = '\0';
        suspect(w);
        dml_err_trail_put(trail);
    }
    return dml_abort_raised(&w->abort) && fence_of(w) != DML_FENCE_END;
}

/* Nothing of the tenure runs here any more; from here on a newer fence counts. */
static dml_err park(dml_loop *l)
{
    dml_worker *w = l->w;
    const dml_device_api *device = w->backend->device;
    const uint32_t fence = fence_of(w);
    const int64_t deadline_ns = dml_clock_ns() + w->config->plan->spec->parallelism.timeout_ns;
    dml_loop_set_phase(w, DML_PHASE_PARKED, l->step);
    if (w->transport && w->comm->abandon) DML_TRY(w->comm->abandon(w->transport));
    for (int32_t lane = 0; lane < DML_LANES; lane++)
        if (w->lane[lane]) DML_TRY(device->renew(w->lane[lane], deadline_ns));
    if (w->load && w->load != w->lane[DML_LANE_COMPUTE])
        DML_TRY(device->renew(w->load, deadline_ns));
    atomic_store_explicit(&w->abort.epoch, fence, memory_order_relaxed);
    DML_TRY(DML_FAILPOINT(WORKER_PARK));
    return dml_worker_report(w,
                             &(dml_report){.kind = DML_REPORT_PARKED, .parked = {.fence = fence}});
}

/* The step that the ballot was on has been made here before, or was never begun. */
static bool is_settled(const dml_loop *l, int64_t ballot)
{
    return ballot == 0 || dml_ballot_step(ballot) < l->step;
}

/* All share in the ballot, so this worker has what it takes to carry out the vote on it. */
static dml_err finish(dml_loop *l, const order *o, dml_verdict verdict)
{
    dml_worker *w = l->w;
    const int64_t mine = atomic_load(&w->page->contributed);
    if (mine != o->ballot)
        DML_FAIL(DML_ERR_BUG, "ballot %lld is to be settled, the newest here is %lld",
                 (long long)o->ballot, (long long)mine);
    dml_loop_publish_vote(w, o->ballot, &o->vote);
    return w->segments.steps > 1 ? dml_loop_finish_segment(l, &o->vote)
                                 : dml_loop_finish_step(l, &o->vote, verdict);
}

/* Ends the step under way as everyone does.  A step that was to be redone is discarded like one without a vote. */
static dml_err settle(dml_loop *l, const order *o)
{
    dml_verdict verdict = DML_REDO;
    if (!is_settled(l, o->ballot)) DML_TRY(dml_ballot_verdict(o->ballot, &o->vote, &verdict));
    DML_TRY(verdict == DML_REDO ? dml_loop_undo(l) : finish(l, o, verdict));
    if (l->step != o->step)
        DML_FAIL(DML_ERR_BUG, "%lld steps are committed here, %lld are to be", (long long)l->step,
                 (long long)o->step);
    return DML_ERR_OK;
}

dml_err dml_loop_recover(dml_loop *l, dml_tenure *next)
{
    dml_worker *w = l->w;
    DML_TRY(park(l));
    _Atomic uint32_t *announced = &w->config->control->move.generation;
    const uint32_t fence = atomic_load_explicit(&w->abort.epoch, memory_order_relaxed);
    DML_TRY(dml_wait_reached(announced, fence, INT64_MAX, &w->abort, "how to go on"));
    const order o = read_order(w, atomic_load_explicit(announced, memory_order_acquire));
    if (dml_is_among(o.lost, w->config->rank))
        DML_FAIL(DML_ERR_PEER, "the others have given this worker up, and go on without it");
    if (o.source == DML_SOURCE_PEERS && w->plan) {
        if (!w->holds)
            DML_FAIL(DML_ERR_BUG, "plan %u is to begin with what was lost", o.generation);
        DML_TRY(settle(l, &o));
        l->change = 0;        /* what the vote announced is overtaken */
        l->evaluated_at = -1; /* not everyone may have come to its end */
    }
    DML_TRY(save(l, &o, o.stamp, o.lost));
    DML_TRY(await_moved(w, o.generation));
    return find(&o, o.source == DML_SOURCE_START ? -1 : o.step, next);
}
