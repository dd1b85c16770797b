/* engine/console_recovery.c - losses and recoveries for people: a line when it happens, a block when it is mended, a
 * table at the end.
 *
 *   LOST: rank 1 was killed by signal 9 (SIGKILL) in step 14; stage 0, replica 1, noticed after 0.7 ms by beacon; injected
 *   recovered in 23.4 ms: detect 0.7, park 3.1, plan 1.2, move state 5.0, rebuild comm 8.0, first step 5.4 ms
 *     goes on    after step 13: 0 steps lost, 8 micro-batches run again, 1.2 MiB from peers
 *     plan       re-route, 0:4,1:4 2:4,3:4 -> 0:8 2:4,3:4
 *     numerics   same bits
 */
#include "engine/console.h"

#include "engine/console_impl.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Zero parts: -0.0 and what the clock's grain makes of nothing. */
static double span(double from_s, double to_s)
{
    return isnan(from_s) || isnan(to_s) ? (double)NAN : fmax(to_s - from_s, 0.0);
}

/* Who dies by another's hand says no moment: it is then as if it had been noticed at once. */
static double noticed_after(double fault_s, double detect_s)
{
    return detect_s > fault_s ? detect_s - fault_s : (double)NAN;
}

static bool is_loss(const dml_recovery_record *r)
{
    return strcmp(r->reason, "rejoin") != 0;
}

dml_recovery_figures dml_recovery_figures_of(const dml_recovery_record *r)
{
    dml_recovery_figures f = {
        .recovery = r->recovery,
        .step = r->step,
        .detect_s = noticed_after(r->t_fault_s, r->t_detect_s),
        .park_s = span(r->t_detect_s, r->t_park_s),
        .plan_s = span(r->t_park_s, r->t_plan_s),
        .move_s = span(r->t_plan_s, r->t_move_state_s),
        .rebuild_s = span(r->t_move_state_s, r->t_rebuild_comm_s),
        .first_step_s = span(r->t_rebuild_comm_s, r->t_first_step_s),
        .all_s = r->recovery_time_s,
        .bytes = r->bytes_moved,
        .steps_lost = r->steps_lost,
        .ratio = NAN,
        .predicted_ratio = r->predicted_throughput_ratio,
        .bits = r->bits,
    };
    snprintf(f.what, sizeof f.what, "%s %s", is_loss(r) ? "lost" : "back", r->ranks);
    return f;
}

/* "noticed after 0.3 ms by beacon" */
static void noticed(const dml_failure_record *f, char out[DML_CONSOLE_HOW])
{
    const double after_s = noticed_after(f->t_fault_s, f->t_detect_s);
    const char *by = f->detected_by ? f->detected_by : "?";
    if (isnan(after_s))
        snprintf(out, DML_CONSOLE_HOW, "noticed by %s", by);
    else
        snprintf(out, DML_CONSOLE_HOW, "noticed after %.1f ms by %s", after_s * 1e3, by);
}

void dml_console_lost(dml_console_view *v, const dml_failure_record *f)
{
    char how[DML_CONSOLE_HOW], seen[DML_CONSOLE_HOW];
    noticed(f, seen);
    dml_console_how_it_ended(f, how);
    if (f->signal == 0 && f->exit_code < 0) /* how its process ends is known later */
        snprintf(how, sizeof how, "went");
    const char *cause = f->cause ? f->cause : "";
    dml_console_note(v,
                     "LOST: rank %" PRId64 " %s in step %" PRId64 "; stage %" PRId64
                     ", replica %" PRId64 ", %s%s%s%.*s",
                     f->rank, how, f->step, f->stage, f->replica, seen,
                     f->injected ? "; injected" : "", cause[0] ? ": " : "",
                     (int)strcspn(cause, "\n"), cause);
}

static dml_word ms(double seconds)
{
    return dml_console_figure(seconds * 1e3, "");
}

void dml_console_recovery(dml_console_view *v, const dml_recovery_record *r)
{
    const dml_recovery_figures f = dml_recovery_figures_of(r);
    dml_console_note(v,
                     "%s in %s ms: detect %s, park %s, plan %s, move state %s, rebuild comm %s, "
                     "first step %s ms",
                     is_loss(r) ? "recovered" : "rejoined", ms(f.all_s).text,
                     is_loss(r) && isnan(f.detect_s) ? "unknown" : ms(f.detect_s).text,
                     ms(f.park_s).text, ms(f.plan_s).text, ms(f.move_s).text, ms(f.rebuild_s).text,
                     ms(f.first_step_s).text);
    dml_console_note(v,
                     "  goes on      after step %" PRId64 ": %" PRId64 " step%s lost, %" PRId64
                     " micro-batches run again, %s from %s",
                     r->step, r->steps_lost, r->steps_lost == 1 ? "" : "s", r->micro_batches_rerun,
                     dml_console_bytes(r->bytes_moved).text, r->state_source);
    dml_console_note(v, "  plan         %s, %s -> %s", r->repair, r->plan_before, r->plan_after);
    if (!isnan(r->predicted_throughput_ratio))
        dml_console_note(v, "  throughput   %.2fx predicted%s%s%s", r->predicted_throughput_ratio,
                         !r->bound        ? ""
                         : r->bound_holds ? "; the lost work fits into the bubbles, "
                                          : "; the bubbles do not hold the lost work, ",
                         r->bound ? r->bound : "", r->bound ? " micro-batches" : "");
    dml_console_note(v, "  numerics     %s", r->bits);
}

void dml_console_pace(dml_console_view *v, const dml_pace_record *p)
{
    if (isnan(p->throughput_ratio)) return;
    char predicted[64] = "";
    if (!isnan(p->predicted_throughput_ratio))
        snprintf(predicted, sizeof predicted, ", predicted %.2fx", p->predicted_throughput_ratio);
    dml_console_note(v,
                     "throughput after recovery %" PRId64 ": %.1f samples/s, %.1f before: "
                     "%.2fx%s (%" PRId64 " steps)",
                     p->recovery, p->throughput_after, p->throughput_before, p->throughput_ratio,
                     predicted, p->steps);
}

static dml_word times(double ratio)
{
    dml_word w = {"-"};
    if (!isnan(ratio)) snprintf(w.text, sizeof w.text, "%.2fx", ratio);
    return w;
}

void dml_console_recoveries(dml_console_view *v, const dml_run_end_record *e,
                            const dml_recovery_figures *rows, int32_t n)
{
    dml_console_note(v,
                     "  recoveries   %" PRId64 " after %" PRId64 " failures, %" PRId64
                     " committed steps lost, slowest %s ms",
                     e->recoveries, e->failures, e->steps_lost, ms(e->recovery_time_max_s).text);
    if (n == 0) return;
    dml_console_note(v,
                     "     #  after step  what           detect    park    plan    move  rebuild  "
                     "first step  all, ms       moved  throughput  predicted");
    if (n < e->recoveries)
        dml_console_note(v, "   ...  %" PRId64 " more, in metrics.jsonl", e->recoveries - n);
    for (int32_t i = 0; i < n; i++) {
        const dml_recovery_figures *f = &rows[i];
        dml_console_note(v,
                         "  %4" PRId64 "  %10" PRId64
                         "  %-12s  %7s %7s %7s %7s  %7s  %10s  %7s  %10s  %10s  %9s  %s",
                         f->recovery, f->step, f->what, ms(f->detect_s).text, ms(f->park_s).text,
                         ms(f->plan_s).text, ms(f->move_s).text, ms(f->rebuild_s).text,
                         ms(f->first_step_s).text, ms(f->all_s).text,
                         dml_console_bytes(f->bytes).text, times(f->ratio).text,
                         times(f->predicted_ratio).text, f->bits);
    }
}
