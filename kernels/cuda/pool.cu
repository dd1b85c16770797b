// kernels/cuda/pool.cu - maximum and average over windows of an image [n, h, w, c].
//
// Parallel over (pixel, pack of channels) of the output: forward over y, backward over dx, where a thread gathers
// what the windows over its pixel left for it; so nothing is added by two threads and the order of additions is
// that of the windows.  Where windows overlap, an input (forward) or an output with its `which` (backward) is read
// again, from L2; otherwise everything is moved once.  `which` costs 4 bytes an output.  48 to 84 registers: three to
// five blocks a multiprocessor, two at worst.
#include "kernels/cuda/launch.cuh"

#include <math.h>

// Window `out` of an axis covers input cells [begin, end), cut at the border.
struct span {
    int64_t begin, end, first; /* first: of the window with its padding */
};

static __device__ inline span window(const dml_cu_pool &p, int axis, int64_t out, int64_t in)
{
    const int64_t first = out * p.stride[axis] - p.pad[axis], last = first + p.kernel[axis];
    return {first < 0 ? 0 : first, last > in ? in : last, first};
}

// The windows [begin, end) of an axis that cover input cell `at`.
static __device__ inline span windows_over(const dml_cu_pool &p, int axis, int64_t at, int64_t out)
{
    const int64_t padded = at + p.pad[axis];
    const int64_t begin =
        padded < p.kernel[axis] ? 0 : divide(padded - p.kernel[axis], p.stride[axis]).of + 1;
    const int64_t end = divide(padded, p.stride[axis]).of + 1;
    return {begin, end > out ? out : end, 0};
}

// One thread's pixel and channels of an image [n, h, w, c].
struct cell {
    int64_t n, h, w, c;
};

template <int N> static __device__ inline cell own_cell(int64_t h, int64_t w, int64_t c)
{
    const quotient a = divide(static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x, c / N);
    const quotient b = divide(a.of, w), d = divide(b.of, h);
    return {d.of, d.rest, b.rest, a.rest * N};
}

static __device__ inline float cells_under(const dml_cu_pool &p, const span &y, const span &x)
{
    return p.count_include_pad ? static_cast<float>(p.kernel[0] * p.kernel[1])
                               : static_cast<float>((y.end - y.begin) * (x.end - x.begin));
}

template <class T, int N>
static __global__ void max_fwd(const dml_cu_pool p, T *y, int32_t *which, const T *x)
{
    const cell own = own_cell<N>(p.oh, p.ow, p.c);
    if (own.n >= p.n) return;
    const span rows = window(p, 0, own.h, p.h), cols = window(p, 1, own.w, p.w);
    float best[N];
    pack<int32_t, N> at;
    const int first =
        static_cast<int>((rows.begin - rows.first) * p.kernel[1] + cols.begin - cols.first);
#pragma unroll
    for (int e = 0; e < N; e++) {
        best[e] = -INFINITY;
        at.v[e] = first;
    }
    for (int64_t h = rows.begin; h < rows.end; h++)
        for (int64_t w = cols.begin; w < cols.end; w++) {
            float v[N];
            const int tap = static_cast<int>((h - rows.first) * p.kernel[1] + w - cols.first);
            load<N>(v, x + ((own.n * p.h + h) * p.w + w) * p.c, own.c, p.c, true);
#pragma unroll
            for (int e = 0; e < N; e++)
                if (v[e] > best[e] || v[e] != v[e]) { /* a NaN must stay visible */
                    best[e] = v[e];
                    at.v[e] = tap;
                }
        }
    const int64_t out = ((own.n * p.oh + own.h) * p.ow + own.w) * p.c;
    store<N>(y + out, best, own.c, p.c, true);
    *reinterpret_cast<pack<int32_t, N> *>(which + out + own.c) = at;
}

template <class T, int N>
static __global__ void max_bwd(const dml_cu_pool p, T *dx, const T *dy, const int32_t *which)
{
    const cell own = own_cell<N>(p.h, p.w, p.c);
    if (own.n >= p.n) return;
    const span rows = windows_over(p, 0, own.h, p.oh), cols = windows_over(p, 1, own.w, p.ow);
    float sum[N] = {};
    for (int64_t oh = rows.begin; oh < rows.end; oh++)
        for (int64_t ow = cols.begin; ow < cols.end; ow++) {
            const int64_t out = ((own.n * p.oh + oh) * p.ow + ow) * p.c;
            const int tap = static_cast<int>((own.h - oh * p.stride[0] + p.pad[0]) * p.kernel[1] +
                                             own.w - ow * p.stride[1] + p.pad[1]);
            float v[N];
            const pack<int32_t, N> at =
                *reinterpret_cast<const pack<int32_t, N> *>(which + out + own.c);
            load<N>(v, dy + out, own.c, p.c, true);
#pragma unroll
            for (int e = 0; e < N; e++)
                if (at.v[e] == tap) sum[e] += v[e];
        }
    store<N>(dx + ((own.n * p.h + own.h) * p.w + own.w) * p.c, sum, own.c, p.c, true);
}

template <class T, int N> static __global__ void avg_fwd(const dml_cu_pool p, T *y, const T *x)
{
    const cell own = own_cell<N>(p.oh, p.ow, p.c);
    if (own.n >= p.n) return;
    const span rows = window(p, 0, own.h, p.h), cols = window(p, 1, own.w, p.w);
    const float cells = cells_under(p, rows, cols);
    float sum[N] = {};
    for (int64_t h = rows.begin; h < rows.end; h++)
        for (int64_t w = cols.begin; w < cols.end; w++) {
            float v[N];
            load<N>(v, x + ((own.n * p.h + h) * p.w + w) * p.c, own.c, p.c, true);
#pragma unroll
            for (int e = 0; e < N; e++)
                sum[e] += v[e];
        }
#pragma unroll
    for (int e = 0; e < N; e++)
        sum[e] /= cells;
    store<N>(y + ((own.n * p.oh + own.h) * p.ow + own.w) * p.c, sum, own.c, p.c, true);
}

template <class T, int N> static __global__ void avg_bwd(const dml_cu_pool p, T *dx, const T *dy)
{
    const cell own = own_cell<N>(p.h, p.w, p.c);
    if (own.n >= p.n) return;
    const span rows = windows_over(p, 0, own.h, p.oh), cols = windows_over(p, 1, own.w, p.ow);
    float sum[N] = {};
    for (int64_t oh = rows.begin; oh < rows.end; oh++)
        for (int64_t ow = cols.begin; ow < cols.end; ow++) {
            const float cells = cells_under(p, window(p, 0, oh, p.h), window(p, 1, ow, p.w));
            float v[N];
            load<N>(v, dy + ((own.n * p.oh + oh) * p.ow + ow) * p.c, own.c, p.c, true);
#pragma unroll
            for (int e = 0; e < N; e++)
                sum[e] += v[e] / cells;
        }
    store<N>(dx + ((own.n * p.h + own.h) * p.w + own.w) * p.c, sum, own.c, p.c, true);
}

static cudaLaunchConfig_t over_cells(int64_t n, int64_t h, int64_t w, int64_t packs,
                                     cudaStream_t stream)
{
    return over(tiles(n * h * w * packs, BLOCK), BLOCK, stream);
}

// Channels go by packs when all tensors allow it.
template <class T>
static bool by_packs(const dml_cu_pool *p, const void *x, const void *y, const void *which)
{
    return p->c % pack_elems<T> == 0 && is_aligned(x) && is_aligned(y) && is_aligned(which);
}

template <class T>
static cudaError_t run_max_fwd(const dml_cu_pool *p, void *y, int32_t *which, const void *x,
                               cudaStream_t stream)
{
    const int N = pack_elems<T>;
    const bool packs = by_packs<T>(p, x, y, which);
    const cudaLaunchConfig_t c = over_cells(p->n, p->oh, p->ow, packs ? p->c / N : p->c, stream);
    return cudaLaunchKernelEx(&c, packs ? max_fwd<T, N> : max_fwd<T, 1>, *p, static_cast<T *>(y),
                              which, static_cast<const T *>(x));
}

template <class T>
static cudaError_t run_max_bwd(const dml_cu_pool *p, void *dx, const void *dy, const int32_t *which,
                               cudaStream_t stream)
{
    const int N = pack_elems<T>;
    const bool packs = by_packs<T>(p, dx, dy, which);
    const cudaLaunchConfig_t c = over_cells(p->n, p->h, p->w, packs ? p->c / N : p->c, stream);
    return cudaLaunchKernelEx(&c, packs ? max_bwd<T, N> : max_bwd<T, 1>, *p, static_cast<T *>(dx),
                              static_cast<const T *>(dy), which);
}

template <class T>
static cudaError_t run_avg_fwd(const dml_cu_pool *p, void *y, const void *x, cudaStream_t stream)
{
    const int N = pack_elems<T>;
    const bool packs = by_packs<T>(p, x, y, nullptr);
    const cudaLaunchConfig_t c = over_cells(p->n, p->oh, p->ow, packs ? p->c / N : p->c, stream);
    return cudaLaunchKernelEx(&c, packs ? avg_fwd<T, N> : avg_fwd<T, 1>, *p, static_cast<T *>(y),
                              static_cast<const T *>(x));
}

template <class T>
static cudaError_t run_avg_bwd(const dml_cu_pool *p, void *dx, const void *dy, cudaStream_t stream)
{
    const int N = pack_elems<T>;
    const bool packs = by_packs<T>(p, dx, dy, nullptr);
    const cudaLaunchConfig_t c = over_cells(p->n, p->h, p->w, packs ? p->c / N : p->c, stream);
    return cudaLaunchKernelEx(&c, packs ? avg_bwd<T, N> : avg_bwd<T, 1>, *p, static_cast<T *>(dx),
                              static_cast<const T *>(dy));
}

cudaError_t dml_cu_max_pool_fwd(const dml_cu_pool *p, void *y, int32_t *which, const void *x,
                                dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run_max_fwd, p, y, which, x, stream);
}

cudaError_t dml_cu_max_pool_bwd(const dml_cu_pool *p, void *dx, const void *dy,
                                const int32_t *which, dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run_max_bwd, p, dx, dy, which, stream);
}

cudaError_t dml_cu_avg_pool_fwd(const dml_cu_pool *p, void *y, const void *x, dml_dtype dtype,
                                cudaStream_t stream)
{
    return OF_TYPE(dtype, run_avg_fwd, p, y, x, stream);
}

cudaError_t dml_cu_avg_pool_bwd(const dml_cu_pool *p, void *dx, const void *dy, dml_dtype dtype,
                                cudaStream_t stream)
{
    return OF_TYPE(dtype, run_avg_bwd, p, dx, dy, stream);
}
