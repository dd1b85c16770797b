/* engine/leader_recovery.c - what a run has lost, how it went on, and what that cost.
 *
 *   LOST   at once                   failure record
 *   PLAN   the plan changes          steps newer than the state are forgotten: they will be taken again
 *   DONE   a step is committed       recovery record: moments of all parts, what moved, which bits
 *   PACE_STEPS later                 pace record: throughput after / before, measured beside predicted
 */
#include "engine/leader.h"

#include "engine/leader_impl.h"
#include "engine/plan_async.h"
#include "engine/recovery.h"
#include "engine/replan.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { PACE_STEPS = 20, FEWEST_STEPS = 5 };

/* The first step under a plan met cold caches, or a recovery, and is not counted; the next ones may still be slow, which a
 * median does not see where there are enough of others. */
static double samples_per_second(const dml_leader *l)
{
    if (l->steps < l->first_step + 1 + FEWEST_STEPS) return NAN;
    const double step_s = dml_stats_quantile(&l->step_times, 0.5);
    return (double)l->plan->spec->training.global_batch_size / step_s;
}

/* ---- losses ---- */

dml_err dml_leader_lost(dml_leader *l, const dml_failure_record *f)
{
    l->mended.failures++;
    dml_console_lost(&l->view, f);
    return l->has_metrics ? dml_leader_written(l, dml_metrics_failure(&l->metrics, f)) : DML_ERR_OK;
}

/* ---- another plan ---- */

/* Steps beyond the state are as if they had not been. */
static void forget_steps(dml_leader *l, int64_t step)
{
    if (step >= l->steps) return;
    if (l->steps > step + 1)
        dml_console_note(&l->view, "steps %" PRId64 "-%" PRId64 " are run again", step + 1,
                         l->steps);
    else
        dml_console_note(&l->view, "step %" PRId64 " is run again", l->steps);
    while (l->steps > step) {
        l->steps--;
        l->samples -= dml_data_step_samples(l->counts, l->steps);
    }
}

static dml_err change_plan(dml_leader *l, const dml_recovery_event *e)
{
    if (e->reason == DML_REASON_BALANCE) return dml_leader_change(l, e->after);
    DML_TRY(dml_leader_pace_now(l)); /* of the recovery before this one */
    /* unknown, no two steps since the plan before: what was measured under the one before that is near enough */
    const double before = samples_per_second(l);
    if (!isnan(before)) l->mended.before = before;
    l->mended.lost = e->lost;
    memset(l->ended, 0, sizeof l->ended);
    forget_steps(l, e->step);
    return dml_leader_change(l, e->after);
}

/* ---- the record ---- */

/* Workers of each stage with their micro-batches, "0:4,1:4 2:8". */
static const char *routes_of(const dml_plan *p, dml_arena *arena)
{
    const char *text = "";
    for (int32_t s = 0; s < p->stages; s++) {
        int32_t holder[DML_HOST_WORKERS];
        const int32_t n = dml_plan_holders(p, s, holder);
        for (int32_t i = 0; i < n; i++)
            text = dml_arena_printf(arena, "%s%s%d:%d", text,
                                    i > 0   ? ","
                                    : s > 0 ? " "
                                            : "",
                                    holder[i], dml_plan_share(p, holder[i], s));
    }
    return text;
}

static const char *ranks_of(uint64_t mask, dml_arena *arena)
{
    const char *text = "";
    for (int32_t r = 0; r < DML_HOST_WORKERS; r++)
        if (mask >> r & 1) text = dml_arena_printf(arena, "%s%s%d", text, text[0] ? " " : "", r);
    return text;
}

static const char *reason_of(dml_recovery_reason reason)
{
    switch (reason) {
    case DML_REASON_LOSS: return "loss";
    case DML_REASON_RESTART: return "restart";
    case DML_REASON_REJOIN: return "rejoin";
    case DML_REASON_LEAVE: return "leave";
    case DML_REASON_BALANCE: break;
    }
    return "balance";
}

static const char *source_of(const dml_recovery_event *e)
{
    switch (e->source) {
    case DML_SOURCE_PEERS: return "peers";
    case DML_SOURCE_BANK: return e->from_checkpoint ? "checkpoint" : "host memory";
    case DML_SOURCE_START: break;
    }
    return "start";
}

/* What a person may count on: exact sums do not depend on who made them. */
static const char *bits_of(const dml_spec *spec, const dml_recovery_record *r)
{
    if (dml_plan_is_asynchronous(spec)) return "same micro-batches, flushed at that step";
    const bool same_plan = r->lost[0] == '\0' && strcmp(r->plan_before, r->plan_after) == 0;
    if (same_plan || spec->training.numerics != DML_FAST) return "same bits";
    return "same micro-batches, other summation order";
}

/* x M <= (D - x) (P - 1), of the stage where least is left. */
static const char *bound_of(const dml_leader *l, uint64_t lost, dml_arena *arena)
{
    dml_bound tightest = {0};
    int32_t at = -1;
    for (int32_t s = 0; s < l->mended.first->stages; s++) {
        const dml_bound b = dml_replan_bound(l->mended.first, lost, s);
        if (b.lost == 0 || (at >= 0 && b.idle - b.more >= tightest.idle - tightest.more)) continue;
        tightest = b;
        at = s;
    }
    return at < 0 ? NULL
                  : dml_arena_printf(arena, "stage %d: %" PRId64 " more, %" PRId64 " idle", at,
                                     tightest.more, tightest.idle);
}

static double moment(const dml_leader *l, int64_t at_ns)
{
    return at_ns > 0 ? (double)(at_ns - l->begin_ns) * 1e-9 : NAN;
}

static dml_recovery_record record_of(const dml_leader *l, const dml_recovery_event *e,
                                     dml_arena *arena)
{
    const bool lost = e->reason == DML_REASON_LOSS || e->reason == DML_REASON_RESTART;
    const double ratio = e->predicted_before_s / e->predicted_after_s; /* of throughputs */
    const int64_t begin_ns = lost ? e->death.fault_ns : e->fenced_ns;
    dml_recovery_record r = {
        .recovery = l->mended.n,
        .reason = reason_of(e->reason),
        .ranks = ranks_of(lost ? e->newly_lost : e->joined, arena),
        .lost = ranks_of(e->lost, arena),
        .injected = lost && e->death.injected,
        .detected_by = lost ? e->death.detected_by : NULL,
        .generation = e->generation,
        .fences = e->fences,
        .step = e->step,
        .steps_lost = e->steps_lost,
        .micro_batches_rerun = e->mbs_rerun,
        .t_fault_s = lost ? moment(l, e->death.fault_ns) : NAN,
        .t_detect_s = lost ? moment(l, e->death.detect_ns) : moment(l, e->fenced_ns),
        .t_park_s = moment(l, e->parked_ns),
        .t_plan_s = moment(l, e->published_ns),
        .t_move_state_s = moment(l, e->moved_ns),
        .t_rebuild_comm_s = moment(l, e->ready_ns),
        .t_first_step_s = moment(l, e->step_ns),
        .recovery_time_s = (double)((e->step_ns > 0 ? e->step_ns : e->ready_ns) - begin_ns) * 1e-9,
        .bytes_moved = e->bytes,
        .state_source = source_of(e),
        .repair = e->first_plan ? "first plan" : dml_repair_text(e->repair),
        .plan_before = routes_of(e->before, arena),
        .plan_after = routes_of(e->after, arena),
        .throughput_before = l->mended.before,
        .predicted_throughput_after = l->mended.before * ratio,
        .predicted_throughput_ratio = ratio,
        .bound_holds = e->bound_holds,
        .bound = bound_of(l, e->lost, arena),
    };
    r.bits = bits_of(l->plan->spec, &r);
    return r;
}

static dml_recovery_figures *newest_row(dml_leader *l)
{
    return &l->mended.row[l->mended.n % DML_LEADER_RECOVERIES];
}

static dml_err tell(dml_leader *l, const dml_recovery_event *e)
{
    if (e->reason == DML_REASON_BALANCE) return DML_ERR_OK;
    dml_arena arena = {0};
    l->mended.n++;
    l->mended.steps_lost += e->steps_lost;
    l->mended.is_pacing = true;
    const dml_recovery_record r = record_of(l, e, &arena);
    *newest_row(l) = dml_recovery_figures_of(&r);
    l->mended.time_max_s = fmax(l->mended.time_max_s, r.recovery_time_s);
    dml_console_recovery(&l->view, &r);
    const dml_err err =
        l->has_metrics ? dml_leader_written(l, dml_metrics_recovery(&l->metrics, &r)) : DML_ERR_OK;
    dml_arena_free(&arena);
    return err;
}

dml_err dml_leader_recovery(dml_leader *l, const dml_recovery_event *e)
{
    switch (e->kind) {
    case DML_RECOVERY_PLAN: return change_plan(l, e);
    case DML_RECOVERY_DONE: return tell(l, e);
    case DML_RECOVERY_FAILED: dml_leader_message(l, "error", e->why); return DML_ERR_OK;
    case DML_RECOVERY_LOST:
    case DML_RECOVERY_SNAPSHOT: return DML_ERR_OK;
    }
    DML_FAIL(DML_ERR_BUG, "an event of kind %d", (int)e->kind);
}

/* ---- throughput ---- */

dml_err dml_leader_pace_now(dml_leader *l)
{
    const double after = samples_per_second(l);
    if (!l->mended.is_pacing || isnan(after)) return DML_ERR_OK;
    dml_recovery_figures *row = newest_row(l);
    l->mended.is_pacing = false;
    row->ratio = after / l->mended.before;
    const dml_pace_record p = {
        .recovery = l->mended.n,
        .steps = l->steps - l->first_step - 1,
        .throughput_before = l->mended.before,
        .throughput_after = after,
        .predicted_throughput_after = l->mended.before * row->predicted_ratio,
        .throughput_ratio = row->ratio,
        .predicted_throughput_ratio = row->predicted_ratio,
    };
    dml_console_pace(&l->view, &p);
    return l->has_metrics ? dml_leader_written(l, dml_metrics_pace(&l->metrics, &p)) : DML_ERR_OK;
}

dml_err dml_leader_pace(dml_leader *l)
{
    return l->steps == l->first_step + 1 + PACE_STEPS ? dml_leader_pace_now(l) : DML_ERR_OK;
}

void dml_leader_sum_up(dml_leader *l, const dml_run_end_record *end)
{
    dml_recovery_figures rows[DML_LEADER_RECOVERIES];
    int32_t n = 0;
    const int64_t all = l->mended.n;
    for (int64_t i = all < DML_LEADER_RECOVERIES ? 1 : all - DML_LEADER_RECOVERIES + 1; i <= all;
         i++)
        rows[n++] = l->mended.row[i % DML_LEADER_RECOVERIES];
    if (l->mended.failures + all > 0) dml_console_recoveries(&l->view, end, rows, n);
}

void dml_leader_resume(dml_leader *l, int64_t step)
{
    l->steps = l->first_step = step;
    for (int64_t s = 0; s < step; s++)
        l->samples += dml_data_step_samples(l->counts, s);
    l->resumed_samples = l->samples;
}

void dml_leader_message(dml_leader *l, const char *level, const char *text)
{
    const dml_message_record m = {.level = level, .text = text};
    dml_console_note(&l->view, "%s", text);
    if (l->has_metrics) (void)!dml_leader_written(l, dml_metrics_message(&l->metrics, &m));
}
