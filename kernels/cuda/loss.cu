// kernels/cuda/loss.cu - softmax cross-entropy and squared error against a label, with the accuracy.
//
// One block a row: it finds the largest logit and its first place, then the sum, then writes dx.  A row of up
// to NARROW columns takes one warp.  Reads a row two or three times (the second and third from L2) and
// writes it once: 8 to 16 bytes an element.  Row results go to scratch; one more block adds them in a fixed
// order, so the loss has the same bits in every run.  A label outside the row makes its loss NaN: there is
// nobody on the host to tell, and nothing may be read outside.
#include "kernels/cuda/launch.cuh"

#include <math.h>

enum { NARROW = 256 };

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

static __device__ inline peak row_peak(const float *x, int64_t cols, peak *shared)
{
    peak p = {-INFINITY, cols};
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const peak here = {x[j], j};
        p = higher(p, here);
    }
    return block_peak(p, shared);
}

static __device__ inline float label_score(const float *x, int64_t label, int64_t cols)
{
    return label >= 0 && label < cols ? x[label] : NAN;
}

// loss = log(sum_j exp(x_j - max)) - (x_label - max),  dx = exp(x - max) / sum - onehot
static __global__ void softmax_xent_rows(double *row_loss, int32_t *row_hit, float *dx,
                                         const float *x, const int32_t *labels, int64_t cols)
{
    __shared__ peak peaks[BLOCK / WARP];
    __shared__ double sums[BLOCK / WARP];
    const int64_t row = blockIdx.x, label = labels[row];
    const float *logits = x + row * cols;
    const float target =
        label_score(logits, label, cols); /* before dx, which may be x, is written */
    const peak top = row_peak(logits, cols, peaks);
    double part = 0.0;
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x)
        part += expf(logits[j] - top.value);
    const double sum = block_sum(part, sums);
    if (threadIdx.x == 0) {
        row_loss[row] = log(sum) - (static_cast<double>(target) - top.value);
        row_hit[row] = top.at == label ? 1 : 0;
    }
    if (!dx) return;
    const float scale = static_cast<float>(1.0 / sum);
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x)
        dx[row * cols + j] = expf(logits[j] - top.value) * scale - (j == label ? 1.0f : 0.0f);
}

// loss = mean_j (x_j - t_j)^2,  dx = 2 (x - t) / cols
static __global__ void mse_onehot_rows(double *row_loss, int32_t *row_hit, float *dx,
                                       const float *x, const int32_t *labels, int64_t cols)
{
    __shared__ peak peaks[BLOCK / WARP];
    __shared__ double sums[BLOCK / WARP];
    const int64_t row = blockIdx.x, label = labels[row];
    const float *given = x + row * cols;
    const float target = label_score(given, label, cols);
    const peak top = row_peak(given, cols, peaks);
    double part = 0.0 * target; /* NaN without a target */
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
        const double d = static_cast<double>(given[j]) - (j == label ? 1.0 : 0.0);
        part += d * d;
    }
    const double sum = block_sum(part, sums);
    if (threadIdx.x == 0) {
        row_loss[row] = sum / static_cast<double>(cols);
        row_hit[row] = top.at == label ? 1 : 0;
    }
    if (!dx) return;
    for (int64_t j = threadIdx.x; j < cols; j += blockDim.x)
        dx[row * cols + j] =
            2.0f * (given[j] - (j == label ? 1.0f : 0.0f)) / static_cast<float>(cols);
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

typedef void (*rows_kernel)(double *, int32_t *, float *, const float *, const int32_t *, int64_t);

static cudaError_t run(rows_kernel kernel, double *loss, int32_t *correct, float *dx,
                       const float *x, const int32_t *labels, double *row_loss, int32_t *row_hit,
                       int64_t rows, int64_t cols, cudaStream_t stream)
{
    const cudaLaunchConfig_t each = over(rows, cols <= NARROW ? WARP : BLOCK, stream);
    const cudaError_t status =
        cudaLaunchKernelEx(&each, kernel, row_loss, row_hit, dx, x, labels, cols);
    if (status != cudaSuccess) return status;
    const cudaLaunchConfig_t all = over(1, BLOCK, stream);
    const double *from_loss = row_loss;
    const int32_t *from_hit = row_hit;
    return cudaLaunchKernelEx(&all, add_rows, loss, correct, from_loss, from_hit, rows);
}

cudaError_t dml_cu_softmax_xent(double *loss, int32_t *correct, float *dx, const float *x,
                                const int32_t *labels, double *row_loss, int32_t *row_hit,
                                int64_t rows, int64_t cols, cudaStream_t stream)
{
    return run(softmax_xent_rows, loss, correct, dx, x, labels, row_loss, row_hit, rows, cols,
               stream);
}

cudaError_t dml_cu_mse_onehot(double *loss, int32_t *correct, float *dx, const float *x,
                              const int32_t *labels, double *row_loss, int32_t *row_hit,
                              int64_t rows, int64_t cols, cudaStream_t stream)
{
    return run(mse_onehot_rows, loss, correct, dx, x, labels, row_loss, row_hit, rows, cols,
               stream);
}
