/* engine/inject.c - the board: a fault is written, then counted; who claims it first strikes it. */
#include "engine/inject.h"

dml_err dml_board_add(dml_fault_board *board, const dml_fault *fault)
{
    const uint32_t n = atomic_load_explicit(&board->n, memory_order_relaxed);
    if (n == DML_FAULTS) DML_FAIL(DML_ERR_SPEC, "a run takes %d faults", DML_FAULTS);
    DML_ASSERT(fault->rank >= 0 && fault->rank < DML_FAULT_RANKS);
    dml_fault_slot *slot = &board->slot[n];
    slot->fault = *fault;
    const bool sleeps = fault->time_ns >= 0, waits = fault->step > 0;
    atomic_store_explicit(&slot->state,
                          sleeps  ? DML_FAULT_SLEEPS
                          : waits ? DML_FAULT_WAITS
                                  : DML_FAULT_DUE,
                          memory_order_relaxed);
    atomic_store_explicit(&board->n, n + 1, memory_order_release);
    if (!sleeps) atomic_fetch_add_explicit(&board->wanted[fault->rank], 1, memory_order_release);
    return DML_ERR_OK;
}

void dml_board_wake(dml_fault_board *board, uint32_t slot)
{
    uint32_t was = DML_FAULT_SLEEPS;
    dml_fault_slot *s = &board->slot[slot];
    if (!atomic_compare_exchange_strong(&s->state, &was, DML_FAULT_DUE)) return;
    atomic_fetch_add_explicit(&board->wanted[s->fault.rank], 1, memory_order_release);
}

bool dml_board_claim(dml_fault_board *board, uint32_t slot)
{
    dml_fault_slot *s = &board->slot[slot];
    uint32_t was = atomic_load(&s->state);
    do {
        if (was == DML_FAULT_STRUCK) return false;
    } while (!atomic_compare_exchange_weak(&s->state, &was, DML_FAULT_STRUCK));
    if (was != DML_FAULT_SLEEPS)
        atomic_fetch_sub_explicit(&board->wanted[s->fault.rank], 1, memory_order_relaxed);
    return true;
}
