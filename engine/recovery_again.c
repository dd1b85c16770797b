/* engine/recovery_again.c - the machine of an agent that was killed goes on in the next one.
 *
 * Its state is that after the newest thing it had dealt with; what it did after that may have been done in part.  Where
 * nothing was announced beyond that state it goes on as if nothing had been.  Else it raises another fence, which
 * any state has a way on from; a plan whose state lies safe in a bank is in force, whether that was noted or not.
 */
#include "engine/recovery_impl.h"

#include "engine/base/clock.h"

dml_logbook_part dml_recovery_part(dml_recovery *r)
{
    return (dml_logbook_part){r, sizeof *r};
}

/* Generation announced or fenced by the one before, noted or not. */
static uint32_t newest_of(const dml_recovery *r)
{
    const dml_control *c = r->c.control;
    const uint32_t said[] = {atomic_load(&c->fence), atomic_load(&c->move.generation),
                             atomic_load(&c->plan), atomic_load(&c->moved)};
    uint32_t newest = r->newest;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (said[i] != DML_FENCE_END && said[i] > newest) newest = said[i];
    return newest;
}

/* `moved` was set, and that was not noted. */
static void catch_up(dml_recovery *r, uint32_t moved)
{
    const dml_move *m = &r->c.control->move;
    uint64_t stamp;
    if (m->source != DML_SOURCE_START && dml_depot_complete(r->c.bank[m->bank], &stamp))
        r->base = (dml_base){DML_SOURCE_BANK, m->bank, stamp, dml_depot_stamp_steps(stamp)};
    r->newest = moved;
    r->leaving = m->lost & r->active;
    dml_recovery_moved(r);
}

/* A snapshot was asked for, and that was not noted: none of its answers is either. */
static void adopt_snapshot(dml_recovery *r)
{
    const uint32_t word = atomic_load(&r->c.control->snapshot);
    if (word / 2 <= r->snapshot.count) return;
    r->snapshot.count = word / 2;
    if (r->state != DML_AT_RUN) return;
    r->snapshot.word = word;
    r->snapshot.bank = (int32_t)(word & 1);
    r->snapshot.answered = 0;
    r->snapshot.bytes = 0;
    r->snapshot_step = r->committed;
}

/* The plan that workers run: what they read it from, where its text can be trusted to be that, or made once more. */
static dml_err find_plan(dml_recovery *r)
{
    dml_planned *planned = NULL;
    if (r->now > 0) {
        if (r->spec->parallelism.balance == DML_BALANCE_DYNAMIC)
            DML_TRY(dml_planned_load(r->c.plan_fd, NULL, 0, &planned));
        else
            DML_TRY(dml_recovery_replan(r, r->world & ~r->members, &planned));
    }
    DML_TRY(dml_recovery_keep(r, r->now, planned));
    if (r->state != DML_AT_CHANGING) return DML_ERR_OK;
    DML_TRY(dml_planned_load(r->c.plan_fd, NULL, 0, &planned));
    return dml_recovery_keep(r, r->newest, planned);
}

dml_err dml_recovery_again(dml_recovery *r, const dml_recovery_config *config,
                           const dml_logbook *book)
{
    r->c = *config;
    r->spec = config->first->spec;
    r->kept = NULL;
    r->n_kept = 0;
    r->event.death.detected_by = dml_logbook_text(book, r->event.death.detected_by);
    r->illness.detected_by = dml_logbook_text(book, r->illness.detected_by);
    const uint32_t moved = atomic_load(&r->c.control->moved), newest = newest_of(r);
    const bool noted = newest == r->newest;
    if (r->state != DML_AT_OVER && moved > r->now) catch_up(r, moved);
    DML_TRY(find_plan(r));
    r->event.before = r->event.after = dml_recovery_plan_of(r, r->told);
    if (r->state == DML_AT_OVER) return DML_ERR_OK;
    adopt_snapshot(r);
    if (r->deadline_ns != INT64_MAX)
        r->deadline_ns = dml_clock_ns() + 2 * dml_recovery_patience_ns(r);
    if (noted && (r->state == DML_AT_RUN || r->state == DML_AT_OPENING ||
                  r->state == DML_AT_CHANGING || r->state == DML_AT_ENDING))
        return DML_ERR_OK;
    r->newest = newest;
    dml_recovery_fence(r);
    return DML_ERR_OK;
}
