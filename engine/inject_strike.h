/* engine/inject_strike.h - a worker strikes itself: the fault whose op has come, and what of it lasts.
 *
 *   before an op:  nothing wanted, nothing lasts?  go on                     two loads
 *                  a fault for (step, phase, micro-batch)?  FAULT report, then it strikes
 *                  comm_abort: transfers fail.  link_down, partition: those with the peers wait in vain
 *
 * Several lanes ask at once; each fault strikes on one of them.
 */
#ifndef DML_ENGINE_INJECT_STRIKE_H
#define DML_ENGINE_INJECT_STRIKE_H

#include "engine/control.h"
#include "kernels/backend.h"

typedef struct dml_striker {
    dml_fault_board *board; /* borrowed, as all here */
    int32_t rank;
    const dml_backend *backend;
    const dml_reporter *reporter;
    /* Where workers are threads: marks the rank as dead; what it was doing then fails, and it goes without a word.  NULL:
     * a process, and signals are real. */
    void (*vanish)(void *context, int32_t rank);
    void *context;
    const _Atomic uint32_t
        *killed; /* threads: raised when the agent has killed this one: what hangs ends */

    /* of the tenure under way: dml_striker_begin */
    const dml_abort *abort;
    int64_t timeout_ns;

    /* what lasts */
    _Atomic uint32_t lasts; /* that anything does */
    _Atomic uint32_t comm_aborted;
    _Atomic uint64_t cut; /* ranks that nothing arrives from */
    _Atomic int64_t cut_until_ns;
    _Atomic int64_t slow; /* thousandths that a compute op takes longer; 0: none */
} dml_striker;

/* Where a worker is. */
typedef struct dml_strike_at {
    int64_t step; /* from 1 */
    dml_fault_phase phase;
    int32_t mb; /* -1: of no micro-batch */
    dml_device *device;
    dml_queue
        *queue; /* that the op is for; NULL: there is none, and device faults do not strike here */
    uint64_t ends; /* of a transfer or a collective: the ranks at the other end, as bits */
    /* Flips the parameter's bit, or spoils a gradient; NULL: not here. */
    dml_err (*corrupt)(void *context, const dml_fault *fault);
    void *context;
} dml_strike_at;

/* A tenure begins: its transports are new, and ranks of `absent` are not there.  Both borrowed until the next. */
void dml_striker_begin(dml_striker *s, const dml_abort *abort, int64_t timeout_ns, uint64_t absent);

static inline bool dml_striker_wants(const dml_striker *s)
{
    return s && (atomic_load_explicit(&s->board->wanted[s->rank], memory_order_relaxed) != 0 ||
                 atomic_load_explicit(&s->lasts, memory_order_relaxed) != 0);
}

/* Strikes what is for this place.  Returns in a process only if it goes on, and then
 * DML_ERR_PEER         a transfer that never came, or the thread has vanished
 * DML_ERR_UNAVAILABLE, DML_ERR_NOMEM  of the device; the former of a transport that was aborted, too */
dml_err dml_strike(dml_striker *s, const dml_strike_at *at);

#endif
