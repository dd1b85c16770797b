/* kernels/cuda/emulation/block.h - one block of emulated threads at a time.
 *
 * Each CUDA thread of the running block is a fiber.  A pass resumes every ready fiber once, in the chosen
 * order; a fiber runs until it returns or stops at a barrier or a warp exchange.  When all have stopped
 * at the barrier it opens.  When nothing can move, the launch ends with a report of who stands where:
 * on a GPU that is a hang or undefined.  A kernel that sleeps is meant to hang, and its stream does.
 *
 * Only one launch runs at a time, in whichever thread asks (emulation/runtime.cc).
 */
#ifndef DML_EMULATION_BLOCK_H
#define DML_EMULATION_BLOCK_H

#include <cuda_runtime_api.h>

#include <functional>
#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

/* Of the running fiber; kernels only read them. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emu
{
struct grid {
    dim3 blocks, threads;
    size_t dynamic_bytes;
    std::function<void()> thread; /* what each thread runs */
};

/* Enqueues; cudaErrorInvalidConfiguration for a shape no GPU takes or the emulation does not. */
cudaError_t launch(grid g, cudaStream_t stream);
/* Runs all blocks now.  endless: a thread sleeps, which only kernels do here that never end. */
enum class ending { done, fault, endless };
ending run(const grid &g);

void sync_block();
void sync_warp(unsigned mask);
/* Gives `value` to the warp and returns lane `from`'s, the own one if there is no such lane. */
uint64_t exchange(unsigned mask, uint64_t value, int from);
int lane();
void trap();  /* a fault; the thread ends */
void sleep(); /* the thread never wakes */
void *dynamic_shared();
int64_t timer_ns();

/* An access that other threads' atomics may meet: told to the race finder, then plain. */
void atomic_access(void *at, size_t bytes);
template <class T, class Update>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T *at, Update update)
{
    atomic_access(at, sizeof *at);
    const T old = *at;
    *at = update(old);
    return old;
}
} // namespace emu

#endif
