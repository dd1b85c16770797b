/* engine/recovery_snapshot.c - the state of the run in a bank, while it goes on, and once more when all have ended.
 *
 *   all have ended: dismissed = saving ... each puts, SAVED ... SNAPSHOT ... dismissed = done
 *
 * A loss or silence in between costs that snapshot, and no more: the run is over.
 */
#include "engine/recovery_impl.h"

#include "engine/base/failpoint.h"
#include "engine/base/wait.h"

/* ---- asked for ---- */

static void ask(dml_recovery *r)
{
    r->snapshot.bank = dml_recovery_free_bank(r);
    r->snapshot.word = 2 * ++r->snapshot.count + (uint32_t)r->snapshot.bank;
    r->snapshot.answered = 0;
    r->snapshot.bytes = 0;
    r->snapshot_step = r->committed;
    atomic_store_explicit(&r->c.control->snapshot, r->snapshot.word, memory_order_release);
}

bool dml_recovery_snapshot(dml_recovery *r)
{
    if (dml_recovery_is_busy(r) || r->ended) return false;
    ask(r);
    return true;
}

void dml_recovery_snapshot_if_due(dml_recovery *r)
{
    const int64_t every = r->spec->failures.snapshot_interval;
    if (every > 0 && r->committed - r->snapshot_step >= every) (void)dml_recovery_snapshot(r);
}

void dml_recovery_pin(dml_recovery *r, int32_t bank, bool pinned)
{
    r->pinned[bank] = pinned;
}

/* ---- the last ---- */

bool dml_recovery_last(dml_recovery *r)
{
    _Atomic uint32_t *dismissed = &r->c.control->dismissed;
    if (!r->c.last || !r->c.last(r->c.context, r->committed)) return false;
    if (atomic_load(dismissed) == 0)
        ask(r); /* else an agent before had asked, and could not note it */
    dml_recovery_enter(r, DML_AT_ENDING, dml_recovery_patience_ns(r));
    dml_wait_set(dismissed, DML_DISMISS_SAVING);
    return true;
}

void dml_recovery_give_up_last(dml_recovery *r, const char *why)
{
    dml_err_set(DML_ERR_PEER, __FILE__, __LINE__, "%s", why);
    dml_recovery_give_up(r, "the snapshot of the last step");
    r->snapshot.word = 0;
    dml_recovery_dismiss(r);
}

/* ---- answered ---- */

static dml_err check(const dml_recovery *r, uint64_t *stamp)
{
    DML_TRY(DML_FAILPOINT(AGENT_SNAPSHOT));
    if (!dml_depot_complete(r->c.bank[r->snapshot.bank], stamp))
        DML_FAIL(DML_ERR_BUG, "all workers have put their snapshot, and bank %d lacks some of it",
                 r->snapshot.bank);
    return DML_ERR_OK;
}

static void tell(dml_recovery *r, uint64_t stamp)
{
    const dml_recovery_event e = {.kind = DML_RECOVERY_SNAPSHOT,
                                  .generation = r->now,
                                  .bank = r->snapshot.bank,
                                  .step = dml_depot_stamp_steps(stamp),
                                  .bytes = r->snapshot.bytes};
    if (r->c.note) r->c.note(r->c.context, &e);
}

void dml_recovery_take_snapshot(dml_recovery *r, int32_t rank, const dml_report_saved *s)
{
    uint64_t stamp;
    if (r->snapshot.word == 0 || s->snapshot != r->snapshot.word) return;
    r->snapshot.answered |= DML_RANK_BIT(rank);
    r->snapshot.bytes += s->bytes;
    if (r->active & ~r->snapshot.answered) return;
    r->snapshot.word = 0;
    if (check(r, &stamp) == DML_ERR_OK)
        tell(r, stamp);
    else
        dml_recovery_give_up(r, "a snapshot");
    if (r->state == DML_AT_ENDING) dml_recovery_dismiss(r);
}
