// kernels/cuda/loss.cu - softmax cross-entropy and squared error against a label, with the accuracy.
//
// The largest logit of a row and its first place, then the sum, then dx.  Softmax of up to HELD columns: a warp a row,
// which keeps it in registers from the one read to the one write, twice the element's size.  Else one block a row, of
// one warp up to NARROW columns; it reads the row two or three times (the second and third from L2) and writes it
// once.  Row results go to scratch; one more block adds them in a fixed order, so the loss has the same bits in every
// run.  A label outside the row makes its loss NaN: there is nobody on the host to tell, and nothing may be read
// outside.  The loss scale is read from device memory.
#include "kernels/cuda/launch.cuh"

#include <math.h>

enum { HELD = 1024, NARROW = 256, WARPS = BLOCK / WARP };

struct peak {
    float value;
    int64_t at; /* the first column that has it */
};

static __device__ inline peak higher(peak a, peak b)
{
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

// All threads get the peak of the block.  `shared` has one slot a warp and may be used again after the
// next __syncthreads.
static __device__ inline peak block_peak(peak p, peak *shared)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        const peak other = {__shfl_xor_sync(0xffffffffu, p.value, step),
                            __shfl_xor_sync(0xffffffffu, p.at, step)};
        p = higher(p, other);
    }
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = p;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / WARP; w++)
        p = higher(p, shared[w]);
    return p;
}

static __device__ inline double block_sum(double v, double *shared)
{
    for (int step = WARP / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = v;
    __syncthreads();
    double sum = 0.0;
    for (unsigned w = 0; w < blockDim.x / WARP; w++)
        sum += shared[w];
    return sum;
}

template <class T> static __device__ inline peak row_peak(const T *x, int64_t cols, peak *shared)
{
    peak p = {-INFINITY, cols};
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const peak here = {widen(x[j]), j};
        p = higher(p, here);
    }
    return block_peak(p, shared);
}

template <class T>
static __device__ inline float label_score(const T *x, int64_t label, int64_t cols)
{
    return label >= 0 && label < cols ? widen(x[label]) : NAN;
}

// Shared memory of a row's block; apart, since templates have none (README, rule 4).
static __device__ inline peak *peak_slots()
{
    __shared__ peak slots[BLOCK / WARP];
    return slots;
}

static __device__ inline double *sum_slots()
{
    __shared__ double slots[BLOCK / WARP];
    return slots;
}

// loss = log(sum_j exp(x_j - max)) - (x_label - max),  dx = (exp(x - max) / sum - onehot) loss_scale
template <class T>
static __global__ void softmax_xent_rows(double *row_loss, int32_t *row_hit, T *dx, const T *x,
                                         const int32_t *labels, const dml_cu_step *step,
                                         int64_t cols)
{
    const int64_t row = blockIdx.x, label = labels[row];
    const T *logits = x + row * cols;
    const float target =
        label_score(logits, label, cols); /* before dx, which may be x, is written */
    const peak top = row_peak(logits, cols, peak_slots());
    double part = 0.0;
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x)
        part += expf(widen(logits[j]) - top.value);
    const double sum = block_sum(part, sum_slots());
    if (threadIdx.x == 0) {
        row_loss[row] = log(sum) - (static_cast<double>(target) - top.value);
        row_hit[row] = top.at == label ? 1 : 0;
    }
    if (!dx) return;
    const float unit = static_cast<float>(1.0 / sum), scale = step->loss_scale;
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const float share = expf(widen(logits[j]) - top.value) * unit;
        narrow((share - (j == label ? 1.0f : 0.0f)) * scale, &dx[row * cols + j]);
    }
}

// The same, a warp a row.  Places behind the row hold -inf, which is never higher and adds nothing.
template <class T>
static __global__ void softmax_xent_warps(double *row_loss, int32_t *row_hit, T *dx, const T *x,
                                          const int32_t *labels, const dml_cu_step *step,
                                          int64_t rows, int64_t cols, bool aligned)
{
    const int N = pack_elems<T>, K = HELD / (WARP * N), n = static_cast<int>(cols);
    const int lane = static_cast<int>(threadIdx.x % WARP);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (row >= rows) return; /* the whole warp does */
    const int label = labels[row];
    const float target = label_score(x + row * cols, label, cols);
    float v[K][N], top = -INFINITY;
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int j = (k * WARP + lane) * N;
        load<N>(v[k], x + row * cols, j, n, aligned && j < n);
#pragma unroll
        for (int e = 0; e < N; e++) {
            v[k][e] = j + e < n ? v[k][e] : -INFINITY;
            top = fmaxf(top, v[k][e]);
        }
    }
    __syncwarp(); /* dx may be x, and label's place another lane's */
    for (int bits = WARP / 2; bits > 0; bits /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, bits));
    int first = HELD;
    double sum = 0.0;
#pragma unroll
    for (int k = K - 1; k >= 0; k--)
#pragma unroll
        for (int e = N - 1; e >= 0; e--) {
            first = v[k][e] == top ? (k * WARP + lane) * N + e : first;
            v[k][e] = expf(v[k][e] - top);
            sum += v[k][e];
        }
    for (int bits = WARP / 2; bits > 0; bits /= 2) {
        const int other = __shfl_xor_sync(0xffffffffu, first, bits);
        first = other < first ? other : first;
        sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    }
    if (lane == 0) {
        row_loss[row] = log(sum) - (static_cast<double>(target) - top);
        row_hit[row] = first == label ? 1 : 0;
    }
    if (!dx) return;
    const float unit = static_cast<float>(1.0 / sum), scale = step->loss_scale;
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int j = (k * WARP + lane) * N;
#pragma unroll
        for (int e = 0; e < N; e++)
            v[k][e] = (v[k][e] * unit - (j + e == label ? 1.0f : 0.0f)) * scale;
        store<N>(dx + row * cols, v[k], j, n, aligned && j < n);
    }
}

// loss = mean_j (x_j - t_j)^2,  dx = 2 (x - t) / cols loss_scale
template <class T>
static __global__ void mse_onehot_rows(double *row_loss, int32_t *row_hit, T *dx, const T *x,
                                       const int32_t *labels, const dml_cu_step *step, int64_t cols)
{
    const int64_t row = blockIdx.x, label = labels[row];
    const T *given = x + row * cols;
    const float target = label_score(given, label, cols);
    const peak top = row_peak(given, cols, peak_slots());
    double part = 0.0 * target; /* NaN without a target */
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const double d = static_cast<double>(widen(given[j])) - (j == label ? 1.0 : 0.0);
        part += d * d;
    }
    const double sum = block_sum(part, sum_slots());
    if (threadIdx.x == 0) {
        row_loss[row] = sum / static_cast<double>(cols);
        row_hit[row] = top.at == label ? 1 : 0;
    }
    if (!dx) return;
    const float scale = step->loss_scale, count = static_cast<float>(cols);
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const float off = widen(given[j]) - (j == label ? 1.0f : 0.0f);
        narrow(2.0f * off / count * scale, &dx[row * cols + j]);
    }
}

static __global__ void add_rows(double *loss, int32_t *correct, const double *row_loss,
                                const int32_t *row_hit, int64_t rows)
{
    __shared__ double sums[BLOCK / WARP];
    __shared__ double hits[BLOCK / WARP];
    double sum = 0.0, hit = 0.0;
    for (int64_t r = threadIdx.x; r < rows; r += BLOCK) {
        sum += row_loss[r];
        hit += row_hit[r];
    }
    sum = block_sum(sum, sums);
    hit = block_sum(hit, hits);
    if (threadIdx.x > 0) return;
    *loss = sum;
    *correct = static_cast<int32_t>(hit);
}

static cudaError_t add_up(double *loss, int32_t *correct, const double *row_loss,
                          const int32_t *row_hit, int64_t rows, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(1, BLOCK, stream);
    return cudaLaunchKernelEx(&c, add_rows, loss, correct, row_loss, row_hit, rows);
}

template <class T>
static cudaError_t run_softmax_xent(void *dx, const void *x, const int32_t *labels,
                                    const dml_cu_step *step, double *row_loss, int32_t *row_hit,
                                    int64_t rows, int64_t cols, cudaStream_t stream)
{
    T *out = static_cast<T *>(dx);
    const T *logits = static_cast<const T *>(x);
    if (cols > HELD) {
        const cudaLaunchConfig_t c = over(rows, BLOCK, stream);
        return cudaLaunchKernelEx(&c, softmax_xent_rows<T>, row_loss, row_hit, out, logits, labels,
                                  step, cols);
    }
    const cudaLaunchConfig_t c = over(tiles(rows, WARPS), BLOCK, stream);
    const bool aligned = is_aligned(dx) && is_aligned(x) && cols % pack_elems<T> == 0;
    return cudaLaunchKernelEx(&c, softmax_xent_warps<T>, row_loss, row_hit, out, logits, labels,
                              step, rows, cols, aligned);
}

template <class T>
static cudaError_t run_mse_onehot(void *dx, const void *x, const int32_t *labels,
                                  const dml_cu_step *step, double *row_loss, int32_t *row_hit,
                                  int64_t rows, int64_t cols, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(rows, cols <= NARROW ? WARP : BLOCK, stream);
    return cudaLaunchKernelEx(&c, mse_onehot_rows<T>, row_loss, row_hit, static_cast<T *>(dx),
                              static_cast<const T *>(x), labels, step, cols);
}

#define LOSS(name)                                                                              \
    cudaError_t dml_cu_##name(double *loss, int32_t *correct, void *dx, const void *x,          \
                              const int32_t *labels, const dml_cu_step *step, double *row_loss, \
                              int32_t *row_hit, int64_t rows, int64_t cols, dml_dtype dtype,    \
                              cudaStream_t stream)                                              \
    {                                                                                           \
        const cudaError_t status = OF_TYPE(dtype, run_##name, dx, x, labels, step, row_loss,    \
                                           row_hit, rows, cols, stream);                        \
        if (status != cudaSuccess) return status;                                               \
        return add_up(loss, correct, row_loss, row_hit, rows, stream);                          \
    }
DML_CU_LOSS_LIST(LOSS)
