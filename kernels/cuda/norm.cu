// kernels/cuda/norm.cu - batch normalisation over x[rows, cols], a channel a column (columns.cuh).
//
//   forward   mean and squared differences of each chunk by Welford's method in F32; put together in double,
//                 mean = sum n_i mean_i / n,   M2 = sum M2_i + n_i (mean_i - mean)^2,   var = M2 / n
//             and then y = gamma (x - mean) / sqrt(var + eps) + beta: reads x twice, writes y once
//   backward  sum dy and sum dy (x - mean) the same way in two launches, then
//                 dx = gamma s (dy - sum(dy) / n - (x - mean) s^2 sum(dy (x - mean)) / n),   s = 1 / sqrt(var + eps)
//             reads dy and x twice, writes dx once
//
// Parallel over packs of channels and chunks of rows.  Of an image [n, h, w, c] the second read comes from memory
// again unless it fits in L2 (50 MB on a H200).  Up to 80 registers: three blocks a multiprocessor, 48 KiB in flight.
#include "kernels/cuda/columns.cuh"

#include <math.h>

enum { ROWS_A_THREAD = 16 };

static __device__ inline float inverse_deviation(float var, float eps)
{
    return 1.0f / sqrtf(var + eps);
}

// ---- moments ----

// part[chunk][mean, M2][col]
template <class T, int N>
static __global__ void chunk_moments(float *part, const T *x, const column_grid g)
{
    DYN_SHARED(float, s); /* [mean, M2][levels][lanes * N] */
    const column_place p = own_columns<N>(g);
    float mean[N] = {}, m2[N] = {}, n = 0.0f;
    for (int64_t r = p.row; r < p.end && p.inside; r += AHEAD * p.step) {
        float v[AHEAD][N];
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            load<N>(v[u], x + or_last(p, r + u * p.step) * g.cols, p.col, g.cols, true);
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            if (r + u * p.step >= p.end) continue;
            n += 1.0f;
            const float share = 1.0f / n;
#pragma unroll
            for (int e = 0; e < N; e++) {
                const float off = v[u][e] - mean[e];
                mean[e] = fmaf(off, share, mean[e]);
                m2[e] = fmaf(off, v[u][e] - mean[e], m2[e]);
            }
        }
    }
    const int width = g.lanes * N;
    float *s_m2 = s + BLOCK * N;
#pragma unroll
    for (int e = 0; e < N; e++) {
        s[p.level * width + p.lane * N + e] = mean[e];
        s_m2[p.level * width + p.lane * N + e] = m2[e];
    }
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    const int64_t col = p.col - p.lane * N + own, first = p.row - p.level;
    if (own >= width || col >= g.cols) return;
    double sum = 0.0, squares = 0.0;
    const double rows = static_cast<double>(p.end - first);
    for (int pass = 0; pass < 2; pass++) {
        const double middle = sum / rows;
        for (int level = 0; level < p.step && first + level < p.end; level++) {
            const double count = static_cast<double>((p.end - first - level - 1) / p.step + 1);
            const double m = s[level * width + own];
            if (pass == 0)
                sum += count * m;
            else
                squares += s_m2[level * width + own] + count * (m - middle) * (m - middle);
        }
    }
    part[(p.chunk * 2) * g.cols + col] = static_cast<float>(sum / rows);
    part[(p.chunk * 2 + 1) * g.cols + col] = static_cast<float>(squares);
}

static __global__ void finish_moments(float *mean, float *var, const float *part, int64_t chunks,
                                      const column_grid g)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * FINISH_COLS + threadIdx.x;
    const double rows = static_cast<double>(g.rows);
    double sum = 0.0, squares = 0.0;
    for (int64_t i = threadIdx.y; i < chunks && col < g.cols; i += FINISH_ROWS) {
        const int64_t n = i + 1 < chunks ? g.chunk_rows : g.rows - i * g.chunk_rows;
        sum += static_cast<double>(n) * part[i * 2 * g.cols + col];
    }
    const double middle = add_over_rows(sum) / rows;
    for (int64_t i = threadIdx.y; i < chunks && col < g.cols; i += FINISH_ROWS) {
        const int64_t n = i + 1 < chunks ? g.chunk_rows : g.rows - i * g.chunk_rows;
        const double off = part[i * 2 * g.cols + col] - middle;
        squares += part[(i * 2 + 1) * g.cols + col] + static_cast<double>(n) * off * off;
    }
    squares = add_over_rows(squares);
    if (threadIdx.y > 0 || col >= g.cols) return;
    mean[col] = static_cast<float>(middle);
    var[col] = static_cast<float>(squares / rows);
}

// ---- forward ----

template <class T, int N>
static __global__ void normalise(float eps, T *y, const T *x, const float *mean, const float *var,
                                 const float *gamma, const float *beta, const column_grid g)
{
    const column_place p = own_columns<N>(g);
    if (!p.inside) return;
    float middle[N], factor[N], offset[N];
#pragma unroll
    for (int e = 0; e < N; e++) {
        middle[e] = mean[p.col + e];
        factor[e] = gamma[p.col + e] * inverse_deviation(var[p.col + e], eps);
        offset[e] = beta[p.col + e];
    }
    for (int64_t r = p.row; r < p.end; r += AHEAD * p.step) {
        float v[AHEAD][N];
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            load<N>(v[u], x + or_last(p, r + u * p.step) * g.cols, p.col, g.cols, true);
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            if (r + u * p.step >= p.end) continue;
#pragma unroll
            for (int e = 0; e < N; e++)
                v[u][e] = fmaf(v[u][e] - middle[e], factor[e], offset[e]);
            store<N>(y + (r + u * p.step) * g.cols, v[u], p.col, g.cols, true);
        }
    }
}

// ---- backward ----

// part[chunk][sum dy, sum dy (x - mean)][col]
template <class T, int N>
static __global__ void chunk_slopes(float *part, const T *dy, const T *x, const float *mean,
                                    const column_grid g)
{
    DYN_SHARED(float, s); /* [which][levels][lanes * N] */
    const column_place p = own_columns<N>(g);
    float middle[N] = {}, sum[N] = {}, product[N] = {};
#pragma unroll
    for (int e = 0; e < N; e++)
        if (p.inside) middle[e] = mean[p.col + e];
    for (int64_t r = p.row; r < p.end && p.inside; r += AHEAD / 2 * p.step) {
        float d[AHEAD / 2][N], v[AHEAD / 2][N];
#pragma unroll
        for (int u = 0; u < AHEAD / 2; u++) {
            const int64_t at = or_last(p, r + u * p.step) * g.cols;
            load<N>(d[u], dy + at, p.col, g.cols, true);
            load<N>(v[u], x + at, p.col, g.cols, true);
        }
#pragma unroll
        for (int u = 0; u < AHEAD / 2; u++) {
            if (r + u * p.step >= p.end) continue;
#pragma unroll
            for (int e = 0; e < N; e++) {
                sum[e] += d[u][e];
                product[e] = fmaf(d[u][e], v[u][e] - middle[e], product[e]);
            }
        }
    }
    const int width = g.lanes * N;
    float *s_product = s + BLOCK * N;
#pragma unroll
    for (int e = 0; e < N; e++) {
        s[p.level * width + p.lane * N + e] = sum[e];
        s_product[p.level * width + p.lane * N + e] = product[e];
    }
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    const int64_t col = p.col - p.lane * N + own;
    if (own >= width || col >= g.cols) return;
    float all = 0.0f, all_product = 0.0f;
    for (int level = 0; level < p.step; level++) {
        all += s[level * width + own];
        all_product += s_product[level * width + own];
    }
    part[(p.chunk * 2) * g.cols + col] = all;
    part[(p.chunk * 2 + 1) * g.cols + col] = all_product;
}

static __global__ void finish_slopes(float eps, float *dgamma, float *dbeta, const float *var,
                                     const float *part, int64_t chunks, int64_t cols)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * FINISH_COLS + threadIdx.x;
    const double sum = add_chunks(part, chunks, 2, 0, cols, col);
    const double product = add_chunks(part, chunks, 2, 1, cols, col);
    if (threadIdx.y > 0 || col >= cols) return;
    dbeta[col] = static_cast<float>(sum);
    dgamma[col] = static_cast<float>(product / sqrt(static_cast<double>(var[col]) + eps));
}

template <class T, int N>
static __global__ void slope(float eps, T *dx, const T *dy, const T *x, const float *mean,
                             const float *var, const float *gamma, const float *dgamma,
                             const float *dbeta, const column_grid g)
{
    const column_place p = own_columns<N>(g);
    if (!p.inside) return;
    const float rows = static_cast<float>(g.rows);
    float middle[N], of_dy[N], of_x[N], mean_dy[N];
#pragma unroll
    for (int e = 0; e < N; e++) {
        const float inverse = inverse_deviation(var[p.col + e], eps);
        middle[e] = mean[p.col + e];
        of_dy[e] = gamma[p.col + e] * inverse;
        of_x[e] = inverse * (dgamma[p.col + e] / rows);
        mean_dy[e] = dbeta[p.col + e] / rows;
    }
    for (int64_t r = p.row; r < p.end; r += AHEAD / 2 * p.step) {
        float d[AHEAD / 2][N], v[AHEAD / 2][N];
#pragma unroll
        for (int u = 0; u < AHEAD / 2; u++) {
            const int64_t at = or_last(p, r + u * p.step) * g.cols;
            load<N>(d[u], dy + at, p.col, g.cols, true);
            load<N>(v[u], x + at, p.col, g.cols, true);
        }
#pragma unroll
        for (int u = 0; u < AHEAD / 2; u++) {
            if (r + u * p.step >= p.end) continue;
#pragma unroll
            for (int e = 0; e < N; e++) {
                const float from_dy = d[u][e] - mean_dy[e],
                            from_x = (v[u][e] - middle[e]) * of_x[e];
                d[u][e] = of_dy[e] * (from_dy - from_x);
            }
            store<N>(dx + (r + u * p.step) * g.cols, d[u], p.col, g.cols, true);
        }
    }
}

// ---- launchers ----

template <class T, int N>
static cudaError_t start_fwd(float eps, void *y, float *mean, float *var, const void *x,
                             const float *gamma, const float *beta, float *part, int64_t rows,
                             int64_t cols, cudaStream_t stream)
{
    const column_grid g = columns_of<N>(rows, cols, rows_of_chunk(rows, cols));
    const column_grid all = columns_of<N>(rows, cols, ROWS_A_THREAD * (BLOCK / g.lanes));
    const T *in = static_cast<const T *>(x);
    const float *from = part, *m = mean, *v = var;
    cudaError_t status = cudaSuccess;
    if (part) {
        cudaLaunchConfig_t c = over_columns<N>(g, stream);
        c.dynamicSmemBytes = 2 * sizeof(float) * BLOCK * N;
        status = cudaLaunchKernelEx(&c, chunk_moments<T, N>, part, in, g);
        if (status != cudaSuccess) return status;
        const cudaLaunchConfig_t last = over_finish(cols, stream);
        status = cudaLaunchKernelEx(&last, finish_moments, mean, var, from,
                                    tiles(rows, g.chunk_rows), g);
        if (status != cudaSuccess) return status;
    }
    const cudaLaunchConfig_t c = over_columns<N>(all, stream);
    return cudaLaunchKernelEx(&c, normalise<T, N>, eps, static_cast<T *>(y), in, m, v, gamma, beta,
                              all);
}

// Without `part` the moments are given.
template <class T>
static cudaError_t run_fwd(float eps, void *y, float *mean, float *var, const void *x,
                           const float *gamma, const float *beta, float *part, int64_t rows,
                           int64_t cols, cudaStream_t stream)
{
    const int N = pack_elems<T>;
    if (cols % N == 0 && is_aligned(x) && is_aligned(y))
        return start_fwd<T, N>(eps, y, mean, var, x, gamma, beta, part, rows, cols, stream);
    return start_fwd<T, 1>(eps, y, mean, var, x, gamma, beta, part, rows, cols, stream);
}

template <class T, int N>
static cudaError_t start_bwd(float eps, void *dx, float *dgamma, float *dbeta, const void *dy,
                             const void *x, const float *mean, const float *var, const float *gamma,
                             float *part, int64_t rows, int64_t cols, cudaStream_t stream)
{
    const column_grid g = columns_of<N>(rows, cols, rows_of_chunk(rows, cols));
    const column_grid all = columns_of<N>(rows, cols, ROWS_A_THREAD * (BLOCK / g.lanes));
    const T *slope_in = static_cast<const T *>(dy), *in = static_cast<const T *>(x);
    const float *from = part, *dg = dgamma, *db = dbeta;
    cudaLaunchConfig_t c = over_columns<N>(g, stream);
    c.dynamicSmemBytes = 2 * sizeof(float) * BLOCK * N;
    cudaError_t status = cudaLaunchKernelEx(&c, chunk_slopes<T, N>, part, slope_in, in, mean, g);
    if (status != cudaSuccess) return status;
    const cudaLaunchConfig_t last = over_finish(cols, stream);
    status = cudaLaunchKernelEx(&last, finish_slopes, eps, dgamma, dbeta, var, from,
                                tiles(rows, g.chunk_rows), cols);
    if (status != cudaSuccess) return status;
    const cudaLaunchConfig_t each = over_columns<N>(all, stream);
    return cudaLaunchKernelEx(&each, slope<T, N>, eps, static_cast<T *>(dx), slope_in, in, mean,
                              var, gamma, dg, db, all);
}

template <class T>
static cudaError_t run_bwd(float eps, void *dx, float *dgamma, float *dbeta, const void *dy,
                           const void *x, const float *mean, const float *var, const float *gamma,
                           float *part, int64_t rows, int64_t cols, cudaStream_t stream)
{
    const int N = pack_elems<T>;
    if (cols % N == 0 && is_aligned(x) && is_aligned(dy) && is_aligned(dx))
        return start_bwd<T, N>(eps, dx, dgamma, dbeta, dy, x, mean, var, gamma, part, rows, cols,
                               stream);
    return start_bwd<T, 1>(eps, dx, dgamma, dbeta, dy, x, mean, var, gamma, part, rows, cols,
                           stream);
}

int64_t dml_cu_batch_norm_bytes(int64_t rows, int64_t cols)
{
    return 2 * dml_cu_column_sums_bytes(rows, cols);
}

cudaError_t dml_cu_batch_norm_fwd(float eps, void *y, float *mean, float *var, const void *x,
                                  const float *gamma, const float *beta, void *part, int64_t rows,
                                  int64_t cols, dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run_fwd, eps, y, mean, var, x, gamma, beta, static_cast<float *>(part),
                   rows, cols, stream);
}

cudaError_t dml_cu_batch_norm_eval(float eps, void *y, const void *x, const float *mean,
                                   const float *var, const float *gamma, const float *beta,
                                   int64_t rows, int64_t cols, dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run_fwd, eps, y, const_cast<float *>(mean), const_cast<float *>(var), x,
                   gamma, beta, nullptr, rows, cols, stream);
}

cudaError_t dml_cu_batch_norm_bwd(float eps, void *dx, float *dgamma, float *dbeta, const void *dy,
                                  const void *x, const float *mean, const float *var,
                                  const float *gamma, void *part, int64_t rows, int64_t cols,
                                  dml_dtype dtype, cudaStream_t stream)
{
    return OF_TYPE(dtype, run_bwd, eps, dx, dgamma, dbeta, dy, x, mean, var, gamma,
                   static_cast<float *>(part), rows, cols, stream);
}
