/* base/wait.h - waiting on a 32-bit word that another thread or process advances.
 *
 * Every wait in the engine goes through here: a short spin, then a futex in slices, so that a
 * deadline and the run's abort flag are always noticed.  The word may lie in memory shared between
 * processes.  Words are sequence numbers: `reached` compares modulo 2^32.
 */
#ifndef DML_BASE_WAIT_H
#define DML_BASE_WAIT_H

#include "engine/base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What ends the waits of whoever holds it: the flag, or the run's fence.  Who works at epoch e stops when the fence
 * is beyond e, and may go on at a later epoch when it has left everything of e behind. */
typedef struct dml_abort {
    _Atomic uint32_t raised; /* 0: go on */
    _Atomic uint32_t epoch;  /* that the holder works at */
    const _Atomic uint32_t
        *killed; /* a flag of someone else's, for holders that are threads; borrowed; NULL: none */
    const _Atomic uint32_t
        *fence; /* in memory that all processes of the run share; borrowed; NULL: none */
} dml_abort;

/* NULL: never. */
static inline bool dml_abort_raised(const dml_abort *a)
{
    if (!a) return false;
    if (atomic_load_explicit(&a->raised, memory_order_relaxed)) return true;
    if (a->killed && atomic_load_explicit(a->killed, memory_order_relaxed)) return true;
    return a->fence && atomic_load_explicit(a->fence, memory_order_relaxed) >
                           atomic_load_explicit(&a->epoch, memory_order_relaxed);
}

static inline bool dml_seq_reached(uint32_t value, uint32_t target)
{
    return (int32_t)(value - target) >= 0;
}

/* Waits until *word has reached `target`.
 *
 *   deadline_ns  on dml_clock_ns(); INT64_MAX waits for ever and is for idle threads only
 *   abort        borrowed, may be NULL
 *   what         names the wait in the error
 *
 * DML_ERR_PEER  the abort flag was raised, or the deadline passed (the trail says which)
 */
dml_err dml_wait_reached(_Atomic uint32_t *word, uint32_t target, int64_t deadline_ns,
                         const dml_abort *abort, const char *what);

/* Adds one to *word (release) and wakes all who wait on it. */
void dml_wait_advance(_Atomic uint32_t *word);

/* Sets *word to `value` (release) and wakes all who wait on it. */
void dml_wait_set(_Atomic uint32_t *word, uint32_t value);

#endif
