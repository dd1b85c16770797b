/* engine/change.c - loads in, a plan out; which plan is engine/change_weigh.c's to say. */
#include "engine/change_impl.h"

void dml_changes_open(dml_changes *c, const dml_plan *first, int base_fd, dml_recovery *recovery)
{
    *c = (dml_changes){.first = first, .base_fd = base_fd, .recovery = recovery};
}

/* Whether all of the plan's workers have spoken of the same window. */
static bool is_complete(const dml_changes *c)
{
    const dml_report_load *one = &c->load[0];
    const uint32_t generation = dml_recovery_generation(c->recovery);
    for (int32_t w = 0; w < dml_recovery_plan(c->recovery)->workers; w++)
        if (c->load[w].step != one->step || c->load[w].generation != generation) return false;
    return one->step > 0;
}

bool dml_changes_take(dml_changes *c, const dml_report *r, dml_arena *arena,
                      dml_balance_record *out)
{
    dml_planned *better = NULL;
    if (r->kind != DML_REPORT_LOAD) return false;
    c->load[r->rank] = r->load;
    const bool busy = dml_recovery_is_busy(c->recovery) || dml_recovery_lost_mask(c->recovery);
    if (busy || !is_complete(c) || !dml_changes_weigh(c, arena, &better, out)) return false;
    if (better && !dml_recovery_change(c->recovery, better)) {
        c->promised_ns = 0.0;
        out->changed = false;
    }
    return true;
}
