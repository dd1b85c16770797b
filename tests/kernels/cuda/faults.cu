// tests/kernels/cuda/faults.cu - right but for one line each.  All compute out = in + 1, by detours.
#include "tests/kernels/cuda/faults.h"

#include "kernels/cuda/launch.cuh"

enum { N = FAULT_ELEMS, THREADS = FAULT_THREADS };

static __device__ inline int own()
{
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

static __global__ void none(float *out, const float *in)
{
    __shared__ float s[THREADS];
    __shared__ float swap[THREADS];
    DYN_SHARED(float, d);
    const int t = static_cast<int>(threadIdx.x);
    s[t] = in[own()];
    __syncthreads();
    const float next = s[(t + 1) % THREADS];
    __syncthreads();
    s[(t + 1) % THREADS] = next;
    __syncthreads();
    swap[t] = s[t];
    __syncwarp();
    d[t ^ 1] = __shfl_xor_sync(0xffffffffu, swap[t ^ 1], 3);
    __syncthreads();
    const float mine = __shfl_xor_sync(0xffffffffu, d[t], 3);
    out[own()] = mine + 1.0f;
}

static __global__ void left_neighbour(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    s[t] = in[own()];
    const float left = t > 0 ? s[t - 1] : in[own()];
    out[own()] = left == (t > 0 ? in[own() - 1] : in[own()]) ? in[own()] + 1.0f : NAN;
}

static __global__ void right_neighbour(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    s[t] = in[own()];
    const bool last = t == THREADS - 1;
    const float right = last ? in[own()] : s[t + 1];
    out[own()] = right == (last ? in[own()] : in[own() + 1]) ? in[own()] + 1.0f : NAN;
}

static __global__ void tile_reused(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x), next = (t + 1) % THREADS;
    float sum = 0.0f;
    for (int tile = 0; tile < 3; tile++) {
        s[t] = static_cast<float>(tile * THREADS + t);
        __syncthreads();
        sum += s[next];
    }
    const float want = static_cast<float>(3 * THREADS + 3 * next);
    out[own()] = sum == want ? in[own()] + 1.0f : NAN;
}

static __global__ void no_syncwarp(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    s[t] = in[own()];
    const float other = s[t ^ 1];
    out[own()] = other == in[own() ^ 1] ? in[own()] + 1.0f : NAN;
}

static __global__ void plain_add(float *out, const float *in)
{
    if (threadIdx.x == 0) out[0] += in[0] + 1.0f - out[0]; /* every block: a lost update on a GPU */
    if (own() > 0) out[own()] = in[own()] + 1.0f;
}

static __global__ void read_after_add(float *out, const float *in)
{
    if (own() == 0) out[0] = in[0] + 1.0f;
    if (own() > 0) out[own()] = in[own()] + (out[0] == in[0] + 1.0f ? 1.0f : 2.0f);
}

static __global__ void uninitialised(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    if (t != 5) s[t] = in[own()];
    __syncthreads();
    out[own()] = s[t] + 1.0f;
}

static __global__ void past_static(float *out, const float *in, int extra)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    s[t] = in[own()];
    if (t == 0) s[t + extra] = 0.0f;
    __syncthreads();
    out[own()] = s[t] + 1.0f;
}

static __global__ void past_dynamic(float *out, const float *in)
{
    DYN_SHARED(float, s);
    const int t = static_cast<int>(threadIdx.x);
    s[t + 1] = in[own()];
    __syncthreads();
    out[own()] = s[t + 1] + 1.0f;
}

static __global__ void past_global(float *out, const float *in)
{
    out[own()] = in[own()] + 1.0f;
    if (own() == 0) out[N] = 0.0f;
}

static __global__ void reads_past_global(float *out, const float *in)
{
    const float next = in[own() + 1];
    out[own()] = next == next ? in[own()] + 1.0f : in[own()] + 1.0f - 0.0f * out[own()];
}

static __global__ void early_return(float *out, const float *in)
{
    out[own()] = in[own()] + 1.0f;
    if (threadIdx.x > 40) return;
    __syncthreads();
}

static __global__ void branch_shuffle(float *out, const float *in)
{
    out[own()] = in[own()] + 1.0f;
    if (threadIdx.x % 32 < 16) out[own()] = __shfl_xor_sync(0xffffffffu, out[own()], 0);
}

static __global__ void partial_mask(float *out, const float *in)
{
    const float v = __shfl_xor_sync(0x0000ffffu, in[own()], 0);
    out[own()] = v + 1.0f;
}

static __global__ void misaligned(float *out, const float *in)
{
    double two = 0.0;
    if (own() == 0) two = *reinterpret_cast<const double *>(in + 1);
    out[own()] = in[own()] + (two == two ? 1.0f : 1.0f + in[0] * 0.0f);
}

// norm's sum over the rows of threads, all of 1 + 2 + .. + THREADS here.
static __global__ void tree_unsynced(float *out, const float *in)
{
    __shared__ float s[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    s[t] = static_cast<float>(t + 1);
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2)
        if (t < half) s[t] += s[t + half];
    __syncthreads();
    const float want = static_cast<float>(THREADS * (THREADS + 1) / 2);
    out[own()] = s[0] == want ? in[own()] + 1.0f : NAN;
}

// layout's tile of 8 x 8.
static __global__ void tile_turned(float *out, const float *in)
{
    DYN_SHARED(float, tile);
    const int t = static_cast<int>(threadIdx.x), turned = t % 8 * 8 + t / 8;
    tile[t] = in[own()];
    const float other = tile[turned];
    out[own()] = other == in[own() - t + turned] ? in[own()] + 1.0f : NAN;
}

// pool's gradient, scattered: every cell is under two windows.
static __global__ void scatter_add(float *out, const float *in)
{
    const int next = own() + 1 < N ? own() + 1 : 0;
    out[own()] += in[own()];
    out[next] += in[next] + 1.0f - in[next];
}

static __global__ void pack_past_global(float *out, const float *in)
{
    float v[4];
    load<4>(v, in, own() / 4 * 4 + (own() == N - 1 ? 4 : 0), N, true);
    out[own()] = own() == N - 1 ? in[own()] + 1.0f : v[own() % 4] + 1.0f;
}

static __global__ void pack_misaligned(float *out, const float *in)
{
    float v[4] = {};
    if (own() == 0) load<4>(v, in, 1, N, true);
    out[own()] = own() == 0 ? v[0] + in[0] - in[1] + 1.0f : in[own()] + 1.0f;
}

static __global__ void float_atomics(float *out, const float *in)
{
    if (own() == 0) atomicAdd(out, 0.0f);
    atomicAdd(out, in[own()]);
}

template <class... Wanted, class... Given>
static cudaError_t run(cudaStream_t stream, void (*kernel)(Wanted...), Given... args)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(FAULT_BLOCKS);
    c.blockDim = dim3(THREADS);
    c.dynamicSmemBytes = THREADS * sizeof(float);
    c.stream = stream;
    return cudaLaunchKernelEx(&c, kernel, args...);
}

cudaError_t fault_past_static(float *out, const float *in, cudaStream_t stream)
{
    return run(stream, past_static, out, in, static_cast<int>(THREADS));
}

#define LAUNCHER(name)                                                         \
    cudaError_t fault_##name(float *out, const float *in, cudaStream_t stream) \
    {                                                                          \
        return run(stream, name, out, in);                                     \
    }
LAUNCHER(none)
LAUNCHER(left_neighbour)
LAUNCHER(right_neighbour)
LAUNCHER(tile_reused)
LAUNCHER(no_syncwarp)
LAUNCHER(plain_add)
LAUNCHER(read_after_add)
LAUNCHER(uninitialised)
LAUNCHER(past_dynamic)
LAUNCHER(past_global)
LAUNCHER(reads_past_global)
LAUNCHER(early_return)
LAUNCHER(branch_shuffle)
LAUNCHER(partial_mask)
LAUNCHER(misaligned)
LAUNCHER(tree_unsynced)
LAUNCHER(tile_turned)
LAUNCHER(scatter_add)
LAUNCHER(pack_past_global)
LAUNCHER(pack_misaligned)
LAUNCHER(float_atomics)
