/* engine/replay_rules.c - what each policy makes of a change.
 *
 * Where state moves:   a worker that is to hold a layer and does not     gets it from the holder that gave least so far
 *                      stall = recovery + most bytes in or out of a worker / its link
 *                      a layer has no holder left                        all go back to the last checkpoint
 */
#include "engine/replay_impl.h"

#include <math.h>
#include <string.h>

static uint64_t all_of(const dml_replay_planner *p)
{
    return p->workers == DML_OUTAGE_WORKERS ? UINT64_MAX : ((uint64_t)1 << p->workers) - 1;
}

static bool has(uint64_t set, int32_t w)
{
    return set >> w & 1;
}

static bool holds(const dml_replay_way *way, const dml_replay_planner *p, int32_t w, int32_t layer)
{
    return way->holds[(int64_t)w * p->layers + layer];
}

/* ---- state ------------------------------------------------------------------------------------------- */

/* Whether worker w, live all the time, holds the layer now. */
static bool has_now(const dml_replay_clock *run, int32_t w, int32_t layer)
{
    return run->way.holds && has(run->steady, w) && holds(&run->way, run->planner, w, layer);
}

static bool survives(const dml_replay_clock *run)
{
    const dml_replay_planner *p = run->planner;
    for (int32_t l = 0; l < p->layers; l++) {
        bool any = false;
        for (int32_t w = 0; w < p->workers; w++)
            any = any || has_now(run, w, l);
        if (!any) return false;
    }
    return true;
}

/* Who gives layer l: of its holders the one that has given least; -1: nobody. */
static int32_t giver(const dml_replay_clock *run, int32_t layer, const int64_t *given)
{
    int32_t best = -1;
    for (int32_t w = 0; w < run->planner->workers; w++)
        if (has_now(run, w, layer) && (best < 0 || given[w] < given[best])) best = w;
    return best;
}

static int64_t move_ns(const dml_replay_clock *run, uint64_t lost, const dml_replay_way *next)
{
    const dml_replay_planner *p = run->planner;
    int64_t given[DML_OUTAGE_WORKERS] = {0}, most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        int64_t got = 0;
        for (int32_t l = 0; l < p->layers; l++) {
            if (has(lost, w) || !holds(next, p, w, l) || has_now(run, w, l)) continue;
            const int32_t from = giver(run, l, given);
            got += p->state_bytes[l];
            if (from >= 0) given[from] += p->state_bytes[l];
        }
        most = got > most ? got : most;
    }
    for (int32_t w = 0; w < p->workers; w++)
        most = given[w] > most ? given[w] : most;
    return llround((double)most / run->charges->link_bytes_per_s * 1e9);
}

/* What the loss undoes.  Under a staggered plan the step before the one under way may not have been committed
 * everywhere either: it is charged at every loss. */
static void undo(dml_replay_clock *run, dml_replay_turn *out)
{
    out->undone = dml_replay_part(run);
    if (run->way.staggered && run->done - run->begun >= 1) out->undone += 1;
    if (!run->way.holds || survives(run)) return;
    run->way = (dml_replay_way){0};
    run->gone = out->rollback = true;
    out->undone = run->done - run->saved;
}

/* Everyone alive goes on under `next`. */
static void go_on(dml_replay_clock *run, uint64_t lost, const dml_replay_way *next,
                  dml_replay_turn *out)
{
    *out = (dml_replay_turn){.acts = true, .what = "stands still"};
    if (lost & ~run->lost) undo(run, out);
    run->next = (dml_replay_way){0};
    if (next->step_ns == 0) return;
    out->what = next->repair;
    out->rate = (double)run->planner->step_ns / (double)next->step_ns;
    out->stall_ns = run->charges->recovery_ns;
    if (run->gone) out->stall_ns += run->charges->restart_ns;
    if (run->way.holds) out->stall_ns += move_ns(run, lost, next);
    run->next = *next;
}

static dml_err replan(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    dml_replay_way next;
    DML_TRY(
        run->planner->plan(run->planner->ctx, lost, run->policy == DML_REPLAY_SLIPSTREAM, &next));
    go_on(run, lost, &next, out);
    return DML_ERR_OK;
}

/* ---- whole pipelines --------------------------------------------------------------------------------- */

/* Throughput with n of the pipelines, of that with all: micro-batches dealt evenly, a step of m + P - 1. */
static double rate_of(const dml_replay_planner *p, int32_t n)
{
    if (n == 0) return 0;
    const int32_t before = (p->mbs + p->replicas - 1) / p->replicas, now = (p->mbs + n - 1) / n;
    return (double)(before + p->ranks - 1) / (now + p->ranks - 1);
}

/* The workers of the pipelines that lost nobody, and how many those are. */
static uint64_t whole_pipelines(const dml_replay_planner *p, uint64_t lost, int32_t *n)
{
    uint64_t set = 0;
    *n = 0;
    for (int32_t d = 0; d < p->replicas; d++) {
        uint64_t pipeline = 0;
        for (int32_t r = 0; r < p->ranks; r++)
            pipeline |= (uint64_t)1 << (r * p->replicas + d);
        if (pipeline & lost) continue;
        set |= pipeline;
        ++*n;
    }
    return set;
}

static dml_err drop(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    const dml_replay_planner *p = run->planner;
    int32_t n, first_n;
    dml_replay_way next;
    const uint64_t set = whole_pipelines(p, lost, &n);
    if (run->way.holds && set == whole_pipelines(p, run->lost, &first_n)) return DML_ERR_OK;
    DML_TRY(p->plan(p->ctx, 0, true, &next));
    bool *held = DML_NEW_N(run->arena, bool, (int64_t)p->workers * p->layers);
    for (int32_t w = 0; w < p->workers; w++)
        if (has(set, w))
            memcpy(held + (int64_t)w * p->layers, next.holds + (int64_t)w * p->layers,
                   (size_t)p->layers * sizeof *held);
    next.holds = held;
    next.step_ns = n > 0 ? llround((double)p->step_ns / rate_of(p, n)) : 0;
    next.staggered = false;
    next.repair = lost ? "pipelines dropped" : "none";
    go_on(run, lost, &next, out);
    return DML_ERR_OK;
}

/* The first live workers, as many as fill pipelines, run; a spare one may go unnoticed.  Who joins is waited for no
 * longer than the checkpoint that is saved first: nothing is undone. */
static dml_err restart(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    const dml_replay_planner *p = run->planner;
    const uint64_t live = all_of(p) & ~lost;
    const int32_t n = __builtin_popcountll(live) / p->ranks;
    const int32_t had = __builtin_popcountll(run->used) / p->ranks;
    const bool hit = (run->used & lost) != 0;
    if (!hit && n <= had) return DML_ERR_OK;
    uint64_t used = 0, left = live;
    for (int32_t k = 0; k < n * p->ranks; k++, left &= left - 1)
        used |= left & -left;
    run->used = used;
    *out = (dml_replay_turn){.acts = true,
                             .rate = rate_of(p, n),
                             .what = n < p->replicas ? "fewer pipelines" : "none",
                             .stall_ns = n > 0 ? run->charges->restart_ns : 0,
                             .undone = hit ? run->done - run->saved : 0,
                             .rollback = hit};
    return DML_ERR_OK;
}

/* ---- published --------------------------------------------------------------------------------------- */

static dml_err published(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    const int32_t workers = run->planner->workers;
    const int32_t live = workers - __builtin_popcountll(lost);
    const dml_published model = run->charges->published;
    *out = (dml_replay_turn){.acts = true, .what = "published"};
    out->rate = dml_published_rate(run->policy, model, live, workers);
    out->stall_ns = dml_published_stall_ns(run->policy, model);
    if (out->stall_ns > 0 && (lost & ~run->lost)) out->undone = dml_replay_part(run);
    return DML_ERR_OK;
}

static dml_err scaled(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    const int32_t workers = run->planner->workers;
    *out = (dml_replay_turn){.acts = true, .what = "live / all"};
    out->rate = (double)(workers - __builtin_popcountll(lost)) / workers;
    return DML_ERR_OK;
}

dml_err dml_replay_turn_of(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out)
{
    switch (run->policy) {
    case DML_REPLAY_OURS:
    case DML_REPLAY_SLIPSTREAM: return replan(run, lost, out);
    case DML_REPLAY_DROP: return drop(run, lost, out);
    case DML_REPLAY_RESTART: return restart(run, lost, out);
    case DML_REPLAY_RECYCLE:
    case DML_REPLAY_OOBLECK:
    case DML_REPLAY_BAMBOO: return published(run, lost, out);
    case DML_REPLAY_SCALED: return scaled(run, lost, out);
    }
    DML_FAIL(DML_ERR_BUG, "no policy %d", (int)run->policy);
}
