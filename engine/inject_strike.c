/* engine/inject_strike.c - what each type of fault does to the worker that it is for. */
#include "engine/inject_strike.h"

#include "engine/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { SLICE_MS = 5, THOUSAND = 1000 };

void dml_striker_begin(dml_striker *s, const dml_abort *abort, int64_t timeout_ns, uint64_t absent)
{
    if (!s) return;
    s->abort = abort;
    s->timeout_ns = timeout_ns;
    atomic_fetch_and(&s->cut, ~absent);
    atomic_store(&s->lasts, atomic_load(&s->cut) != 0 || atomic_load(&s->slow) != 0 ||
                                atomic_load(&s->comm_aborted) != 0);
}

/* ---- telling ----------------------------------------------------------------------------------------- */

/* Nobody may be there to hear it. */
static void report(const dml_striker *s, dml_report *r)
{
    r->rank = s->rank;
    (void)!s->reporter->put(s->reporter->context, r);
}

static void announce(const dml_striker *s, const dml_fault *f, int64_t step)
{
    char text[DML_FAULT_TEXT_BYTES];
    dml_report r = {.kind = DML_REPORT_FAULT,
                    .fault = {.type = f->type, .step = step, .at_ns = dml_clock_ns()}};
    dml_fault_print(f, text);
    snprintf(r.fault.text, sizeof r.fault.text, "%.*s", (int)sizeof r.fault.text - 1, text);
    report(s, &r);
}

/* "I am not well": the agent plans without it. */
static void suspect(const dml_striker *s, const char *why)
{
    dml_report r = {.kind = DML_REPORT_SUSPECT, .suspect = {.rank = s->rank}};
    snprintf(r.suspect.why, sizeof r.suspect.why, "%s", why);
    report(s, &r);
}

/* ---- ends -------------------------------------------------------------------------------------------- */

/* The lanes' threads block all signals, and a blocked one would wait. */
static void signal_myself(int signal_number)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal_number);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    if (signal_number == SIGSEGV) signal(SIGSEGV, SIG_DFL);
    raise(signal_number);
}

static dml_err end(const dml_striker *s, const dml_fault *f)
{
    if (s->vanish) {
        s->vanish(s->context, s->rank);
        DML_FAIL(DML_ERR_PEER, "%s: rank %d vanishes", dml_fault_name((dml_fault_type)f->type),
                 s->rank);
    }
    if (f->type == DML_FAULT_EXIT) _exit(f->code < 0 ? 1 : f->code);
    signal_myself(f->type == DML_FAULT_SEGFAULT ? SIGSEGV : SIGKILL);
    for (;;)
        pause();
}

/* Where workers are threads: nothing moves until the time is over, or the agent has had enough of it. */
static dml_err stand_still(const dml_striker *s, int64_t duration_ns)
{
    const int64_t until_ns = duration_ns > 0 ? dml_clock_ns() + duration_ns : INT64_MAX;
    while (dml_clock_ns() < until_ns) {
        if (s->killed && atomic_load(s->killed))
            DML_FAIL(DML_ERR_PEER, "rank %d hung, and was killed", s->rank);
        dml_sleep_until_ns(dml_clock_ns() + SLICE_MS * DML_NS_PER_MS);
    }
    return DML_ERR_OK;
}

static dml_err hang(const dml_striker *s, const dml_fault *f)
{
    if (s->vanish) return stand_still(s, f->duration_ns);
    signal_myself(SIGSTOP); /* the agent sends SIGCONT when it is time */
    return DML_ERR_OK;
}

/* ---- the device -------------------------------------------------------------------------------------- */

static dml_err sabotage(const dml_striker *s, dml_queue *queue, dml_sabotage kind)
{
    const dml_device_api *device = s->backend->device;
    if (kind == DML_SABOTAGE_HANG && s->vanish && s->backend->on_host) return stand_still(s, 0);
    if (!device->sabotage)
        DML_FAIL(DML_ERR_UNAVAILABLE, "a device of backend %s does not break on demand",
                 s->backend->name);
    return device->sabotage(queue, kind);
}

/* More than any has; the words are the library's own. */
static dml_err run_out(const dml_striker *s, dml_device *device)
{
    void *memory;
    DML_TRY(s->backend->device->alloc(device, INT64_C(1) << 60, &memory));
    DML_FAIL(DML_ERR_NOMEM, "an allocation of 2^60 bytes did not fail");
}

/* NVIDIA's catalogue: 48 double-bit ECC error, 79 fallen off the bus, 94 and 95 contained and uncontained ECC errors,
 * 74 NVLink.  Others are the program's own. */
static dml_err xid(const dml_striker *s, const dml_fault *f)
{
    char why[64];
    switch (f->code) {
    case 48:
    case 79:
    case 94:
    case 95: DML_FAIL(DML_ERR_UNAVAILABLE, "the driver reports Xid %d (injected)", f->code);
    case 74:
        snprintf(why, sizeof why, "the driver reports Xid %d, NVLink (injected)", f->code);
        suspect(s, why);
        return DML_ERR_OK;
    default: return DML_ERR_OK;
    }
}

/* ---- links ------------------------------------------------------------------------------------------- */

static void cut(dml_striker *s, const dml_fault *f)
{
    const int64_t until_ns = f->duration_ns > 0 ? dml_clock_ns() + f->duration_ns : INT64_MAX;
    atomic_store(&s->cut_until_ns, until_ns);
    atomic_fetch_or(&s->cut, f->peers);
}

static int32_t first_bit(uint64_t ranks)
{
    return (int32_t)__builtin_ctzll(ranks);
}

/* What is on its way does not arrive: the wait is the transport's own, for a word that nobody writes. */
static dml_err wait_in_vain(dml_striker *s, uint64_t ends)
{
    _Atomic uint32_t never = 0;
    char what[64];
    const int64_t limit_ns = dml_clock_ns() + s->timeout_ns;
    const int64_t until_ns = atomic_load(&s->cut_until_ns);
    snprintf(what, sizeof what, "worker %d (the link is cut)", first_bit(ends));
    const dml_err err =
        dml_wait_reached(&never, 1, until_ns < limit_ns ? until_ns : limit_ns, s->abort, what);
    if (dml_abort_raised(s->abort) || until_ns > dml_clock_ns()) return err;
    atomic_store(&s->cut, 0);
    return DML_ERR_OK;
}

static dml_err suffer(dml_striker *s, const dml_strike_at *at)
{
    if (at->ends == 0) return DML_ERR_OK;
    if (atomic_load(&s->comm_aborted))
        DML_FAIL(DML_ERR_UNAVAILABLE, "worker %d's transport was aborted", s->rank);
    const uint64_t ends = atomic_load(&s->cut) & at->ends;
    return ends ? wait_in_vain(s, ends) : DML_ERR_OK;
}

/* ---- which ------------------------------------------------------------------------------------------- */

static bool computes(dml_fault_phase phase)
{
    return phase == DML_FAULT_AT_FORWARD || phase == DML_FAULT_AT_BACKWARD ||
           phase == DML_FAULT_AT_COMMIT;
}

/* Transfers that hang are waited for by their peers until parallelism.timeout; compute ops have deadlines, so that is what hangs
 * unless another phase is asked for. */
static bool can_strike(const dml_fault *f, const dml_strike_at *at)
{
    if (f->type == DML_FAULT_GPU_HANG && f->phase == DML_FAULT_AT_ANY && !computes(at->phase))
        return false;
    const bool device = f->type == DML_FAULT_GPU_ERROR || f->type == DML_FAULT_GPU_HANG ||
                        f->type == DML_FAULT_GPU_OOM;
    if (f->type == DML_FAULT_CORRUPT)
        return at->corrupt && (f->tensor[0] || at->phase == DML_FAULT_AT_REDUCE);
    return !device || at->queue;
}

static bool is_here(const dml_fault *f, uint32_t state, const dml_strike_at *at)
{
    if (!can_strike(f, at)) return false;
    if (state == DML_FAULT_DUE) return true;
    const bool phase = f->phase == DML_FAULT_AT_ANY ? at->phase != DML_FAULT_AT_EVAL
                                                    : (dml_fault_phase)f->phase == at->phase;
    return state == DML_FAULT_WAITS && f->step == at->step && phase &&
           (f->mb < 0 || f->mb == at->mb);
}

static dml_err act(dml_striker *s, const dml_fault *f, const dml_strike_at *at)
{
    switch ((dml_fault_type)f->type) {
    case DML_FAULT_KILL:
    case DML_FAULT_SEGFAULT:
    case DML_FAULT_EXIT: return end(s, f);
    case DML_FAULT_HANG: return hang(s, f);
    case DML_FAULT_SLOW:
        atomic_store(&s->slow, (int64_t)(((f->factor > 0 ? f->factor : 2.0) - 1.0) * THOUSAND));
        break;
    case DML_FAULT_UNHEALTHY: suspect(s, "a health check failed (injected)"); return DML_ERR_OK;
    case DML_FAULT_GPU_ERROR: return sabotage(s, at->queue, DML_SABOTAGE_ERROR);
    case DML_FAULT_GPU_HANG: return sabotage(s, at->queue, DML_SABOTAGE_HANG);
    case DML_FAULT_GPU_OOM: return run_out(s, at->device);
    case DML_FAULT_XID: return xid(s, f);
    case DML_FAULT_COMM_ABORT: atomic_store(&s->comm_aborted, 1); break;
    case DML_FAULT_LINK_DOWN:
    case DML_FAULT_PARTITION: cut(s, f); break;
    case DML_FAULT_CORRUPT: return at->corrupt(at->context, f);
    }
    atomic_store(&s->lasts, 1);
    return DML_ERR_OK;
}

dml_err dml_strike(dml_striker *s, const dml_strike_at *at)
{
    if (!dml_striker_wants(s)) return DML_ERR_OK;
    const uint32_t n = atomic_load_explicit(&s->board->n, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        dml_fault_slot *slot = &s->board->slot[i];
        const uint32_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
        if (slot->fault.rank != s->rank || !is_here(&slot->fault, state, at)) continue;
        if (!dml_board_claim(s->board, i)) continue;
        announce(s, &slot->fault, at->step);
        DML_TRY(act(s, &slot->fault, at));
    }
    return suffer(s, at);
}
