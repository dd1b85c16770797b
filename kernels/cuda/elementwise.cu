// kernels/cuda/elementwise.cu - maps of one and two tensors, conversion, fill, the step's words and the delay.
//
// Parallel over elements: a thread has PACKS packs of 16 bytes (launch.cuh), BLOCK packs apart.  Bytes moved: the
// element's size for each operand and for the result; limited by memory.  Tiles that lie wholly inside are loaded
// without a test; the last one, and tensors that begin off a 16-byte border, go pack by pack and element by element.
// Outputs may be an input: a thread reads all its elements before it writes any, and no thread reads another's.
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/launch.cuh"

#include <math.h>

// Both let a NaN through: a diverged run must show it.
struct relu_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float, bool) const { return x <= 0.0f ? 0.0f : x; }
};

struct relu_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float y, bool) const { return y <= 0.0f ? 0.0f : dy; }
};

// gelu(x) = x Phi(x),  gelu'(x) = Phi(x) + x phi(x);  erfc keeps the digits of the left tail.  `rough`, for results of
// 2 bytes: half the instructions, off by up to 2^-24 (PyTorch computes so in every type).
static __device__ inline float normal_cdf(float x, bool rough)
{
    if (rough) return 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    return 0.5f * erfcf(x * -0.70710678118654752f);
}

struct gelu_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float, bool rough) const
    {
        return x * normal_cdf(x, rough);
    }
};

struct gelu_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float x, bool rough) const
    {
        const float pdf = 0.39894228040143268f * expf(-0.5f * x * x);
        return dy * (normal_cdf(x, rough) + x * pdf);
    }
};

struct gelu_tanh_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float, bool rough) const { return gelu_tanh(x, rough); }
};

struct gelu_tanh_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float x, bool rough) const
    {
        return dy * gelu_tanh_slope(x, rough);
    }
};

struct tanh_fwd {
    static const int args = 1;
    __device__ float operator()(float x, float, bool) const { return tanhf(x); }
};

struct tanh_bwd {
    static const int args = 2;
    __device__ float operator()(float dy, float y, bool) const { return dy * (1.0f - y * y); }
};

struct add {
    static const int args = 2;
    __device__ float operator()(float a, float b, bool) const { return a + b; }
};

struct constant {
    static const int args = 0;
    float value;
    __device__ float operator()(float, float, bool) const { return value; }
};

struct copy {
    static const int args = 1;
    __device__ float operator()(float x, float, bool) const { return x; }
};

template <class To, class From> struct shape {
    static const int elems = pack_elems<To> < pack_elems<From> ? pack_elems<To> : pack_elems<From>;
    static const int tile = BLOCK * PACKS * elems;
};

// One tile.  `whole`: inside n and aligned, known when compiled; `aligned` is for the rest.
template <class To, class From, class Op>
static __device__ inline void map_tile(To *y, const From *a, const From *b, int64_t n, Op op,
                                       bool whole, bool aligned)
{
    const int N = shape<To, From>::elems;
    float u[PACKS][N], v[PACKS][N];
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * shape<To, From>::tile +
                          static_cast<int64_t>(threadIdx.x) * N;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int64_t i = begin + k * BLOCK * N;
        const bool packed = whole || (aligned && i + N <= n);
        if (Op::args > 0) load<N>(u[k], a, i, n, packed);
        if (Op::args > 1) load<N>(v[k], b, i, n, packed);
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int64_t i = begin + k * BLOCK * N;
#pragma unroll
        for (int e = 0; e < N; e++)
            u[k][e] = op(Op::args > 0 ? u[k][e] : 0.0f, Op::args > 1 ? v[k][e] : 0.0f, is_half<To>);
        store<N>(y, u[k], i, n, whole || (aligned && i + N <= n));
    }
}

template <class To, class From, class Op>
static __global__ void map(To *y, const From *a, const From *b, int64_t n, Op op, bool aligned)
{
    const int64_t end = (static_cast<int64_t>(blockIdx.x) + 1) * shape<To, From>::tile;
    if (aligned && end <= n)
        map_tile(y, a, b, n, op, true, true);
    else
        map_tile(y, a, b, n, op, false, aligned);
}

template <class To, class From, class Op>
static cudaError_t start(void *y, const void *a, const void *b, int64_t n, Op op,
                         cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, shape<To, From>::tile), BLOCK, stream);
    const bool aligned = is_aligned(y) && is_aligned(a) && is_aligned(b); /* NULL is */
    return cudaLaunchKernelEx(&c, map<To, From, Op>, static_cast<To *>(y),
                              static_cast<const From *>(a), static_cast<const From *>(b), n, op,
                              aligned);
}

template <class T, class Op>
static cudaError_t run(void *y, const void *a, const void *b, int64_t n, Op op, cudaStream_t stream)
{
    return start<T, T>(y, a, b, n, op, stream);
}

#define X(name)                                                                   \
    cudaError_t dml_cu_##name(void *y, const void *x, int64_t n, dml_dtype dtype, \
                              cudaStream_t stream)                                \
    {                                                                             \
        return OF_TYPE(dtype, run, y, x, nullptr, n, name{}, stream);             \
    }
DML_CU_UNARY_LIST(X)
#undef X

#define X(name)                                                                                  \
    cudaError_t dml_cu_##name(void *y, const void *a, const void *b, int64_t n, dml_dtype dtype, \
                              cudaStream_t stream)                                               \
    {                                                                                            \
        return OF_TYPE(dtype, run, y, a, b, n, name{}, stream);                                  \
    }
DML_CU_BINARY_LIST(X)
#undef X

template <class From>
static cudaError_t convert_from(void *y, dml_dtype to, const void *x, int64_t n,
                                cudaStream_t stream)
{
    if (to == DML_BF16) return start<__nv_bfloat16, From>(y, x, nullptr, n, copy{}, stream);
    if (to == DML_F16) return start<__half, From>(y, x, nullptr, n, copy{}, stream);
    return start<float, From>(y, x, nullptr, n, copy{}, stream);
}

cudaError_t dml_cu_convert(void *y, dml_dtype to, const void *x, dml_dtype from, int64_t n,
                           cudaStream_t stream)
{
    return OF_TYPE(from, convert_from, y, to, x, n, stream);
}

cudaError_t dml_cu_fill(void *y, float value, int64_t n, dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run, y, nullptr, nullptr, n, constant{value}, stream);
}

// Spins: a GPU has no sleep of milliseconds, and a kernel that touches no memory is what is asked for.
static __global__ void delay(int64_t ns, const dml_cu_step *step)
{
    const int64_t begin = dml_cu_timer_ns();
    const int64_t paced = step->pace > 0.0f ? (int64_t)((double)ns / step->pace + 0.5) : ns;
    while (dml_cu_timer_ns() - begin < paced) {
    }
}

cudaError_t dml_cu_delay(int64_t ns, const dml_cu_step *step, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, WARP, stream);
    return cudaLaunchKernelEx(&c, delay, ns, step);
}

// The words travel in the launch, so the host may be steps ahead of the GPU.
static __global__ void set_step(dml_cu_step *out, dml_cu_step words)
{
    if (threadIdx.x == 0) *out = words;
}

cudaError_t dml_cu_set_step(dml_cu_step *out, dml_cu_step words, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, WARP, stream);
    return cudaLaunchKernelEx(&c, set_step, out, words);
}
