// kernels/cuda/sabotage.cu - kernels that fail and that never end, for tests of recovery.
//
// One warp each.  The trap is what an assertion on the device comes to: the context is lost, every later call of the
// process says so.  The sleeper takes one multiprocessor's scheduler every millisecond and no memory, so what runs on
// other streams goes on; only the end of its process ends it.
#include "kernels/cuda/launch.cuh"

enum { SLEEP_NS = 1000000 };

static __global__ void trap()
{
    __trap();
}

static __global__ void sleeper()
{
    for (;;)
        __nanosleep(SLEEP_NS);
}

cudaError_t dml_cu_trap(cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, WARP, stream);
    return cudaLaunchKernelEx(&c, trap);
}

cudaError_t dml_cu_hang(cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, WARP, stream);
    return cudaLaunchKernelEx(&c, sleeper);
}
