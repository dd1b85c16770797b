/* kernels/cuda/emulation/hooks.cc - the race finder.
 *
 * Kernels are compiled with -fsanitize=thread, but these functions take the place of its library.  Every
 * cell of device and shared memory (of 4 bytes; of fewer in a page once it has smaller accesses) remembers its last writer and its last readers: launch,
 * block, thread, barriers passed.  Two accesses by different threads of a launch, one of them a write, are
 * ordered by a barrier of their block or a __syncwarp of their warp, and by nothing else:
 *
 *   a happened before b  iff  same block and (same thread, or a.interval < b.interval,
 *                                             or same warp and a.warp_interval < b.warp_interval)
 *
 * Several readers at once are kept as one whose thread, warp or block is ANY: ordered before nobody it might
 * not have been.  Atomics do not race with atomics.  Launches are taken as ordered: streams order them.
 * Shared memory must have been written by this very block before it is read.
 */
#include "kernels/cuda/emulation/clocks.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/shadow.h"

#include <stdio.h>
#include <unordered_map>
#include <vector>

extern "C" char __start_emu_shared[] __attribute__((weak));
extern "C" char __stop_emu_shared[] __attribute__((weak));
extern "C" char __executable_start[];

namespace emu
{
enum { PAGE = 4096 };
static const uint32_t ANY = UINT32_MAX;
static const uint16_t ANY_SHORT = UINT16_MAX;

struct cell {
    place write, read;
    bool atomic; /* the last write was */
};

struct page {
    size_t cell_bytes = 4;
    std::vector<cell> cells = std::vector<cell>(PAGE / 4);

    /* Cells of `bytes` from now on, each with what the larger one knew. */
    void refine(size_t bytes)
    {
        std::vector<cell> fine(PAGE / bytes);
        for (size_t i = 0; i < fine.size(); i++)
            fine[i] = cells[i * bytes / cell_bytes];
        cells.swap(fine);
        cell_bytes = bytes;
    }
};

/* By address, and the one asked for last. */
static std::unordered_map<uintptr_t, page> shadow;
static uintptr_t last_number;
static page *last;

/* The page of `at`, with cells that a first or last byte at `at` does not cut. */
static page *page_of(uintptr_t at, uintptr_t end)
{
    if (!last || at / PAGE != last_number) {
        last_number = at / PAGE;
        last = &shadow[last_number];
    }
    while (last->cell_bytes > 1 && (at % last->cell_bytes != 0 || end % last->cell_bytes != 0))
        last->refine(last->cell_bytes / 2);
    return last;
}

static bool before(const place &a, const place &b)
{
    if (a.launch != b.launch) return true;
    if (a.block != b.block) return false;
    return a.thread == b.thread || a.interval < b.interval ||
           (a.warp == b.warp && a.warp_interval < b.warp_interval);
}

/* `a` after `here` joined it: just `here` if all of `a` is ordered before. */
static void join(place *a)
{
    if (before(*a, here)) {
        *a = here;
        return;
    }
    if (a->block != here.block) a->block = ANY;
    if (a->thread != here.thread) a->thread = ANY_SHORT;
    if (a->warp != here.warp) a->warp = ANY_SHORT;
    a->interval = here.interval > a->interval ? here.interval : a->interval;
    a->warp_interval =
        here.warp_interval > a->warp_interval ? here.warp_interval : a->warp_interval;
}

static void describe(char *text, size_t bytes, const place &p)
{
    char thread[24] = "several threads", block[24] = "several blocks";
    if (p.thread != ANY_SHORT) snprintf(thread, sizeof thread, "thread %u", p.thread);
    if (p.block != ANY) snprintf(block, sizeof block, "block %u", p.block);
    snprintf(text, bytes, "%s of %s", thread, block);
}

static void report(const char *what, const char *kind, const void *at, const place &other, void *pc)
{
    char mine[64], theirs[64];
    describe(mine, sizeof mine, here);
    describe(theirs, sizeof theirs, other);
    fault("%s: %s by %s at %p (addr2line -e PROGRAM %#tx) against %s", what, kind, mine, at,
          static_cast<char *>(pc) - __executable_start, theirs);
}

static void access_cell(cell *c, uintptr_t address, bool shared, bool write, bool atomic, void *pc)
{
    const void *at = reinterpret_cast<const void *>(address);
    const char *kind = atomic ? "atomic" : write ? "write" : "read";
    if (shared && (c->write.launch != here.launch || c->write.block != here.block)) {
        if (!write || atomic) report("uninitialised shared memory", kind, at, c->write, pc);
        *c = {};
    }
    if (!before(c->write, here) && !(c->atomic && atomic)) report("race", kind, at, c->write, pc);
    if (write && !before(c->read, here)) report("race", kind, at, c->read, pc);
    if (write) {
        if (atomic && c->atomic)
            join(&c->write);
        else
            c->write = here;
        c->atomic = atomic;
    } else {
        join(&c->read);
    }
}

void hook_access(const void *at, size_t bytes, bool write, bool atomic, void *pc)
{
    if (here.launch == 0) { /* host code, where that is instrumented too */
        if (is_emulated_address(at)) hook_step_access(at, bytes, write, nullptr, pc);
        return;
    }
    const char *first = static_cast<const char *>(at);
    bool shared = first >= __start_emu_shared && first < __stop_emu_shared;
    if (!shared) {
        if (!is_emulated_address(at)) return; /* the thread's own stack, constants, parameters */
        const block_of_memory *b = find_memory(at);
        if (!b || b->freed || first < b->base || first + bytes > b->base + b->bytes) {
            report("out of bounds", write ? "write" : "read", at, here, pc);
            return;
        }
        shared = b->where == place_of_memory::shared;
    }
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
    for (uintptr_t a = begin; a < end;) {
        page *p = page_of(a, end);
        access_cell(&p->cells[a % PAGE / p->cell_bytes], a, shared, write, atomic, pc);
        a += p->cell_bytes;
    }
    if (!shared && running_step()) hook_step_access(at, bytes, write, running_step(), pc);
}

/* Addresses are never used again: only the cells' memory is at stake. */
void hook_free(const void *base, size_t bytes)
{
    const uintptr_t first = reinterpret_cast<uintptr_t>(base);
    for (uintptr_t n = first / PAGE; n <= (first + bytes) / PAGE; n++)
        shadow.erase(n);
    last = nullptr;
    shadow_forget(base, bytes);
}
} // namespace emu

/* What g++ -fsanitize=thread calls. */
#define ACCESS(name, bytes, write)                                              \
    extern "C" void __tsan_##name(void *at);                                    \
    extern "C" void __tsan_##name(void *at)                                     \
    {                                                                           \
        emu::hook_access(at, bytes, write, false, __builtin_return_address(0)); \
    }
ACCESS(read1, 1, false)
ACCESS(read2, 2, false)
ACCESS(read4, 4, false)
ACCESS(read8, 8, false)
ACCESS(read16, 16, false)
ACCESS(write1, 1, true)
ACCESS(write2, 2, true)
ACCESS(write4, 4, true)
ACCESS(write8, 8, true)
ACCESS(write16, 16, true)
ACCESS(unaligned_read2, 2, false)
ACCESS(unaligned_read4, 4, false)
ACCESS(unaligned_read8, 8, false)
ACCESS(unaligned_read16, 16, false)
ACCESS(unaligned_write2, 2, true)
ACCESS(unaligned_write4, 4, true)
ACCESS(unaligned_write8, 8, true)
ACCESS(unaligned_write16, 16, true)

#define RANGE(name, write)                                                      \
    extern "C" void __tsan_##name##_range(void *at, size_t bytes);              \
    extern "C" void __tsan_##name##_range(void *at, size_t bytes)               \
    {                                                                           \
        emu::hook_access(at, bytes, write, false, __builtin_return_address(0)); \
    }
RANGE(read, false)
RANGE(write, true)

#define NOTHING(name, args)             \
    extern "C" void __tsan_##name args; \
    extern "C" void __tsan_##name args {}
NOTHING(init, ())
NOTHING(func_entry, (void *))
NOTHING(func_exit, ())
NOTHING(vptr_update, (void **, void *))
NOTHING(vptr_read, (void **))
