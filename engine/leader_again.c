/* engine/leader_again.c - the leader of an agent that was killed goes on in the next one: its figures from the logbook,
 * its file of records up to what they tell of. */
#include "engine/leader_impl.h"

#include <stddef.h>
#include <string.h>

void dml_leader_parts(dml_leader *l, dml_logbook_part part[DML_LEADER_PARTS])
{
    const dml_logbook_part parts[DML_LEADER_PARTS] = {
        {&l->begin_ns, sizeof l->begin_ns},
        {&l->metrics.opened_ns, sizeof l->metrics.opened_ns},
        {&l->step_times, offsetof(dml_leader, end) - offsetof(dml_leader, step_times)},
        {l->end, l->processes * (int64_t)sizeof *l->end},
        {l->ended, sizeof *l - offsetof(dml_leader, ended)},
        {&l->has_metrics, sizeof l->has_metrics},
    };
    memcpy(part, parts, sizeof parts);
}

void dml_leader_before_note(dml_leader *l)
{
    if (l->has_metrics) l->metrics_bytes = dml_metrics_bytes(&l->metrics);
}

dml_err dml_leader_again(dml_leader *l, const dml_plan *plan, const dml_logbook *book)
{
    for (int32_t i = 0; i < DML_LEADER_RECOVERIES; i++)
        l->mended.row[i].bits = dml_logbook_text(book, l->mended.row[i].bits);
    l->mended.first = l->plan; /* as it was opened: pointers of the one before mean nothing here */
    l->plan = plan;
    if (l->has_metrics) DML_TRY(dml_metrics_cut(&l->metrics, l->metrics_bytes));
    return dml_leader_plan_ahead(l);
}
