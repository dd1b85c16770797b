// kernels/cuda/elementwise.cu - maps of one and two tensors, fill, and the delay.
//
// Parallel over elements, PER_THREAD to a thread (launch.cuh).  Bytes moved: 4 for each operand and 4
// for the result an element; limited by memory.  Outputs may be an input: a thread reads all its
// elements before it writes any, and no thread reads another's.
#include "kernels/cuda/launch.cuh"

#include <math.h>

// Both let a NaN through: a diverged run must show it.
struct relu_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float) const { return x <= 0.0f ? 0.0f : x; }
};

struct relu_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float y) const { return y <= 0.0f ? 0.0f : dy; }
};

// gelu(x) = x Phi(x),  gelu'(x) = Phi(x) + x phi(x);  erfc keeps the digits of the left tail
static __device__ inline float normal_cdf(float x)
{
    return 0.5f * erfcf(x * -0.70710678118654752f);
}

struct gelu_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float) const { return x * normal_cdf(x); }
};

struct gelu_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float x) const
    {
        const float pdf = 0.39894228040143268f * expf(-0.5f * x * x);
        return dy * (normal_cdf(x) + x * pdf);
    }
};

struct tanh_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float) const { return tanhf(x); }
};

struct tanh_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float y) const { return dy * (1.0f - y * y); }
};

struct sum {
    static const int args = 2;
    __device__ float operator()(float a, float b) const { return a + b; }
};

struct constant {
    static const int args = 0;
    float value;
    __device__ float operator()(float, float) const { return value; }
};

template <class Op>
static __global__ void map(float *y, const float *a, const float *b, int64_t n, Op op)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE + threadIdx.x;
    float u[PER_THREAD] = {}, v[PER_THREAD] = {};
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (Op::args > 0 && i < n) u[k] = a[i];
        if (Op::args > 1 && i < n) v[k] = b[i];
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i < n) y[i] = op(u[k], v[k]);
    }
}

template <class Op>
static cudaError_t run(float *y, const float *a, const float *b, int64_t n, Op op,
                       cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, TILE), BLOCK, stream);
    return cudaLaunchKernelEx(&c, map<Op>, y, a, b, n, op);
}

// Spins: a GPU has no sleep of milliseconds, and a kernel that touches no memory is what is asked for.
static __global__ void delay(int64_t ns)
{
    const int64_t begin = dml_cu_timer_ns();
    while (dml_cu_timer_ns() - begin < ns) {
    }
}

cudaError_t dml_cu_relu_fwd(float *y, const float *x, int64_t n, cudaStream_t stream)
{
    return run(y, x, nullptr, n, relu_fwd{}, stream);
}

cudaError_t dml_cu_relu_bwd(float *dx, const float *dy, const float *y, int64_t n,
                            cudaStream_t stream)
{
    return run(dx, dy, y, n, relu_bwd{}, stream);
}

cudaError_t dml_cu_gelu_fwd(float *y, const float *x, int64_t n, cudaStream_t stream)
{
    return run(y, x, nullptr, n, gelu_fwd{}, stream);
}

cudaError_t dml_cu_gelu_bwd(float *dx, const float *dy, const float *x, int64_t n,
                            cudaStream_t stream)
{
    return run(dx, dy, x, n, gelu_bwd{}, stream);
}

cudaError_t dml_cu_tanh_fwd(float *y, const float *x, int64_t n, cudaStream_t stream)
{
    return run(y, x, nullptr, n, tanh_fwd{}, stream);
}

cudaError_t dml_cu_tanh_bwd(float *dx, const float *dy, const float *y, int64_t n,
                            cudaStream_t stream)
{
    return run(dx, dy, y, n, tanh_bwd{}, stream);
}

cudaError_t dml_cu_add(float *y, const float *a, const float *b, int64_t n, cudaStream_t stream)
{
    return run(y, a, b, n, sum{}, stream);
}

cudaError_t dml_cu_fill(float *y, float value, int64_t n, cudaStream_t stream)
{
    return run(y, nullptr, nullptr, n, constant{value}, stream);
}

cudaError_t dml_cu_delay(int64_t ns, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, WARP, stream);
    return cudaLaunchKernelEx(&c, delay, ns);
}
