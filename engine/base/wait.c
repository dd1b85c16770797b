/* base/wait.c - spin a little, then futex in slices.
 *
 * The futex is not PRIVATE, since words lie in shared mappings.  More processes than cores is the
 * normal case on a test machine, so the spin is short (measured: a few hundred pauses at most).
 */
#include "engine/base/wait.h"

#include "engine/base/clock.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SPINS = 200, SLICE_MS = 20 };

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, (uint32_t *)word, op, value, timeout, NULL, 0);
}

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

dml_err dml_wait_reached(_Atomic uint32_t *word, uint32_t target, int64_t deadline_ns,
                         const dml_abort *abort, const char *what)
{
    for (int i = 0; i < SPINS; i++) {
        if (dml_seq_reached(atomic_load_explicit(word, memory_order_acquire), target))
            return DML_ERR_OK;
        pause_cpu();
    }
    const int64_t begin_ns = dml_clock_ns();
    for (;;) {
        const uint32_t value = atomic_load_explicit(word, memory_order_acquire);
        if (dml_seq_reached(value, target)) return DML_ERR_OK;
        if (dml_abort_raised(abort))
            DML_FAIL(DML_ERR_PEER, "the run is being stopped (while waiting for %s)", what);
        const int64_t now_ns = dml_clock_ns();
        if (now_ns >= deadline_ns)
            DML_FAIL(DML_ERR_PEER, "nothing for %.1f s while waiting for %s",
                     (double)(now_ns - begin_ns) * 1e-9, what);
        int64_t slice_ns = SLICE_MS * DML_NS_PER_MS;
        if (slice_ns > deadline_ns - now_ns) slice_ns = deadline_ns - now_ns;
        const struct timespec t = {.tv_nsec = slice_ns};
        futex(word, FUTEX_WAIT, value, &t);
    }
}

void dml_wait_advance(_Atomic uint32_t *word)
{
    atomic_fetch_add_explicit(word, 1, memory_order_release);
    futex(word, FUTEX_WAKE, INT_MAX, NULL);
}

void dml_wait_set(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
    futex(word, FUTEX_WAKE, INT_MAX, NULL);
}
