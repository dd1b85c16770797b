/* kernels/cuda/emulation/block.cc - the threads of one block, in passes (block.h).
 *
 * Never compiled with a sanitizer: the kernels are, this is the machine under them.
 */
#include "kernels/cuda/emulation/block.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/memory.h"
#include "kernels/cuda/emulation/order.h"

#include <numeric>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* Bounds of the section that holds all __shared__ variables; null when the program has none. */
extern "C" char __start_emu_shared[] __attribute__((weak));
extern "C" char __stop_emu_shared[] __attribute__((weak));

namespace emu
{
enum { WARP = 32, STACK_BYTES = 64 << 10, MAX_THREADS = 1024 };

enum class state { ready, at_barrier, at_warp, ended, asleep };

struct thread {
    fiber f;
    state is;
    uint3 idx;
};

/* Exchanges alternate between two sets of slots: a lane can be one exchange ahead of the slowest. */
struct warp {
    uint64_t slot[2][WARP];
    uint32_t exchanges;
    uint32_t interval; /* __syncwarp calls passed */
};

enum class warp_call { shuffle, sync };

static struct {
    const grid *g;
    fiber scheduler;
    char *stacks; /* [MAX_THREADS] */
    std::vector<thread> threads;
    std::vector<warp> warps;
    std::vector<warp_call> call; /* [threads] what a thread at_warp is in */
    std::vector<int> order;
    int current;
    void *dynamic;
    uint32_t launches;
} block;

thread_local place here;

static thread &self()
{
    return block.threads[static_cast<size_t>(block.current)];
}

static warp &own_warp()
{
    return block.warps[static_cast<size_t>(block.current / WARP)];
}

static void stop(state at)
{
    thread &t = self();
    t.is = at;
    fiber_switch(&t.f, &block.scheduler);
}

static void thread_entry()
{
    block.g->thread();
    stop(state::ended);
}

void sync_block()
{
    stop(state::at_barrier);
}

static void stop_at_warp(unsigned mask, warp_call call)
{
    if (mask != 0xffffffffu) fault("mask 0x%08x: only full warps are emulated", mask);
    block.call[static_cast<size_t>(block.current)] = call;
    stop(state::at_warp);
}

void sync_warp(unsigned mask)
{
    stop_at_warp(mask, warp_call::sync);
}

int lane()
{
    return block.current % WARP;
}

uint64_t exchange(unsigned mask, uint64_t value, int from)
{
    const uint32_t turn = own_warp().exchanges % 2;
    own_warp().slot[turn][lane()] = value;
    stop_at_warp(mask, warp_call::shuffle);
    return from >= 0 && from < WARP ? own_warp().slot[turn][from] : value;
}

void trap()
{
    fault("thread %d of block %u traps", block.current, blockIdx.x);
    stop(state::ended);
}

void sleep()
{
    stop(state::asleep);
}

void *dynamic_shared()
{
    return block.dynamic;
}

int64_t timer_ns()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

void atomic_access(void *at, size_t bytes)
{
    hook_access(at, bytes, true, true, __builtin_return_address(0));
}

/* ---- the scheduler ---- */

static void resume(int i)
{
    thread &t = block.threads[static_cast<size_t>(i)];
    block.current = i;
    threadIdx = t.idx;
    here.thread = static_cast<uint16_t>(i);
    here.warp = static_cast<uint16_t>(i / WARP);
    here.warp_interval = own_warp().interval;
    fiber_switch(&block.scheduler, &t.f);
}

static bool all_are(size_t begin, size_t end, state wanted)
{
    for (size_t i = begin; i < end; i++)
        if (block.threads[i].is != wanted) return false;
    return true;
}

static void make_ready(size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        block.threads[i].is = state::ready;
}

/* Lets every warp go on whose lanes are all in the same call. */
static bool open_warps()
{
    bool any = false;
    for (size_t w = 0; w < block.warps.size(); w++) {
        const size_t begin = w * WARP, end = begin + WARP;
        if (!all_are(begin, end, state::at_warp)) continue;
        bool same = true;
        for (size_t i = begin; i < end; i++)
            same = same && block.call[i] == block.call[begin];
        if (!same) continue;
        if (block.call[begin] == warp_call::sync)
            block.warps[w].interval++;
        else
            block.warps[w].exchanges++;
        make_ready(begin, end);
        any = true;
    }
    return any;
}

static void report_deadlock()
{
    static const char *const what[] = {"ready", "__syncthreads", "a warp call", "the end"};
    int first[4] = {-1, -1, -1, -1}, count[4] = {};
    for (size_t i = 0; i < block.threads.size(); i++) {
        const int s = static_cast<int>(block.threads[i].is);
        if (first[s] < 0) first[s] = static_cast<int>(i);
        count[s]++;
    }
    char text[256] = "";
    for (int s = 1; s < 4; s++)
        if (count[s] > 0) {
            const size_t n = strlen(text);
            snprintf(text + n, sizeof text - n, "%s%d at %s (first: thread %d)", n ? ", " : "",
                     count[s], what[s], first[s]);
        }
    fault("deadlock in block %u: of %zu threads %s", blockIdx.x, block.threads.size(), text);
}

static bool any_asleep()
{
    for (const thread &t : block.threads)
        if (t.is == state::asleep) return true;
    return false;
}

static ending run_block()
{
    const size_t n = block.threads.size();
    for (size_t i = 0; i < n; i++) {
        thread &t = block.threads[i];
        t.is = state::ready;
        fiber_start(&t.f, block.stacks + i * STACK_BYTES, STACK_BYTES, thread_entry);
    }
    for (warp &w : block.warps)
        w = {};
    here.interval = 0;
    for (;;) {
        order_shuffle(block.order);
        for (const int i : block.order)
            if (block.threads[static_cast<size_t>(i)].is == state::ready) resume(i);
        if (all_are(0, n, state::ended)) return ending::done;
        if (all_are(0, n, state::at_barrier)) {
            here.interval++;
            make_ready(0, n);
        } else if (!open_warps()) {
            if (any_asleep()) return ending::endless;
            report_deadlock();
            return ending::fault;
        }
    }
}

/* Shared memory starts as NaN, so that a slot read before it is written shows. */
static void spoil_shared()
{
    if (!sanitized()) {
        if (__start_emu_shared)
            memset(__start_emu_shared, 0xff,
                   static_cast<size_t>(__stop_emu_shared - __start_emu_shared));
    }
    if (block.dynamic) memset(block.dynamic, 0xff, block.g->dynamic_bytes);
}

static void prepare(const grid &g)
{
    if (!block.stacks)
        block.stacks =
            static_cast<char *>(mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    const size_t n = static_cast<size_t>(g.threads.x) * g.threads.y * g.threads.z;
    block.g = &g;
    block.threads.resize(n);
    block.call.resize(n);
    block.warps.resize(n / WARP);
    block.order.resize(n);
    std::iota(block.order.begin(), block.order.end(), 0);
    for (unsigned i = 0; i < n; i++)
        block.threads[i].idx = {i % g.threads.x, i / g.threads.x % g.threads.y,
                                i / (g.threads.x * g.threads.y)};
    blockDim = g.threads;
    gridDim = g.blocks;
}

ending run(const grid &g)
{
    ending how = ending::done;
    const int32_t faults = dml_emu_faults();
    prepare(g);
    block.dynamic =
        g.dynamic_bytes ? memory_new(g.dynamic_bytes, place_of_memory::shared) : nullptr;
    const unsigned plane = g.blocks.x * g.blocks.y;
    std::vector<int> order(static_cast<size_t>(plane) * g.blocks.z);
    std::iota(order.begin(), order.end(), 0);
    order_shuffle(order);
    here.launch = ++block.launches;
    for (const int i : order) {
        const unsigned b = static_cast<unsigned>(i);
        blockIdx = {b % g.blocks.x, b % plane / g.blocks.x, b / plane};
        here.block = b;
        spoil_shared();
        how = run_block();
        if (how != ending::done) break;
    }
    here.launch = 0;
    if (block.dynamic) memory_free(block.dynamic);
    block.dynamic = nullptr;
    return dml_emu_faults() == faults ? how : ending::fault;
}
} // namespace emu
