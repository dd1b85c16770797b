/* kernels/cuda/launchers.h - the kernels as C sees them: enqueue on a stream, return the launch's status.
 *
 * Pointers are device memory; sizes are elements, >= 1.  What each computes is the entry of the same
 * name in kernels/kernels.h; the caller has checked the shapes.  `void *` is a tensor of samples, whose type
 * comes last before the stream.  .cu files get this header, with C linkage, from launch.cuh: it knows nothing of
 * C11-only headers.
 */
#ifndef DML_KERNELS_CUDA_LAUNCHERS_H
#define DML_KERNELS_CUDA_LAUNCHERS_H

#include "kernels/tensor.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    DML_CU_NORM_CHUNK = 4096,
    DML_CU_OPT_TENSORS = 512,
    DML_CU_OPT_FEW = 64,
    DML_CU_OPT_TILE = 2048
};

/* dml_step_words in device memory. */
typedef struct dml_cu_step {
    int64_t step;
    float loss_scale, pace;
} dml_cu_step;

/* dml_dropout for rows of row_elems elements; scale = 1 / (1 - rate). */
typedef struct dml_cu_dropout_args {
    uint64_t key;
    int64_t first_sample, rows, row_elems;
    float rate, scale;
} dml_cu_dropout_args;

/* dml_pool2d over x[n, h, w, c], y[n, oh, ow, c]. */
typedef struct dml_cu_pool {
    int64_t n, h, w, c, oh, ow;
    int32_t kernel[2], stride[2], pad[2];
    int32_t count_include_pad;
} dml_cu_pool;

/* dml_moments. */
typedef struct dml_cu_moments {
    int64_t samples, pixels, channels;
    int32_t mbs, mb_rows, per_micro_batch;
    float momentum;
} dml_cu_moments;

/* dml_sgd, dml_adamw. */
typedef struct dml_cu_sgd_rule {
    float lr, momentum, grad_scale;
    int32_t nesterov, first;
} dml_cu_sgd_rule;

typedef struct dml_cu_adamw_rule {
    float lr, beta1, beta2, eps, grad_scale, bias1, sqrt_bias2;
} dml_cu_adamw_rule;

/* What one optimizer launch updates: all tensors of a stage, ResNet-152's 467 among them.  It travels in the
 * launch's parameters (32,764 bytes since CUDA 12.1 on every GPU from Volta on): no copy to the device, no
 * lifetime to mind, and a captured launch keeps it.  Up to DML_CU_OPT_FEW tensors travel in a short one.
 * Tensor i owns the blocks of DML_CU_OPT_TILE elements from first_block on. */
typedef struct dml_cu_opt_tensor {
    float *w;
    const float *g;
    float *m, *v; /* may be NULL as in dml_opt_tensor */
    int64_t n;
    uint32_t first_block;
    float weight_decay;
} dml_cu_opt_tensor;

typedef struct dml_cu_opt_table {
    dml_cu_opt_tensor tensor[DML_CU_OPT_TENSORS];
    uint32_t blocks; /* in all */
    int32_t n;       /* tensors, >= 1 */
} dml_cu_opt_table;

/* elementwise.cu */
/* clang-format off */
#define DML_CU_UNARY_LIST(X)  X(relu_fwd) X(gelu_fwd) X(gelu_tanh_fwd) X(tanh_fwd)
#define DML_CU_BINARY_LIST(X) X(relu_bwd) X(gelu_bwd) X(gelu_tanh_bwd) X(tanh_bwd) X(add)
/* clang-format on */
#define X(name)                                                                   \
    cudaError_t dml_cu_##name(void *y, const void *x, int64_t n, dml_dtype dtype, \
                              cudaStream_t stream);
DML_CU_UNARY_LIST(X)
#undef X
#define X(name)                                                                                  \
    cudaError_t dml_cu_##name(void *y, const void *a, const void *b, int64_t n, dml_dtype dtype, \
                              cudaStream_t stream);
DML_CU_BINARY_LIST(X)
#undef X
cudaError_t dml_cu_convert(void *y, dml_dtype to, const void *x, dml_dtype from, int64_t n,
                           cudaStream_t stream);
cudaError_t dml_cu_fill(void *y, float value, int64_t n, dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_delay(int64_t ns, const dml_cu_step *step, cudaStream_t stream);
cudaError_t dml_cu_set_step(dml_cu_step *out, dml_cu_step words, cudaStream_t stream);

/* activation.cu: round a product without a fused epilogue.  y[rows, cols] is the value before the
 * activation and becomes the one after it; dx[rows, cols] is multiplied by the derivative.  A row of aux has
 * aux_row bytes: a bit an element (relu), or the value before in y's type (gelu_tanh). */
cudaError_t dml_cu_repeat_row(void *y, const void *row, int64_t rows, int64_t cols, dml_dtype dtype,
                              cudaStream_t stream); /* every row of y[rows, cols] = row[cols] */
cudaError_t dml_cu_relu_aux(void *y, uint8_t *aux, int64_t aux_row, int64_t rows, int64_t cols,
                            dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_drelu_aux(void *dx, const uint8_t *aux, int64_t aux_row, int64_t rows,
                             int64_t cols, dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_gelu_tanh_aux(void *y, uint8_t *aux, int64_t aux_row, int64_t rows, int64_t cols,
                                 dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_dgelu_tanh_aux(void *dx, const uint8_t *aux, int64_t aux_row, int64_t rows,
                                  int64_t cols, dml_dtype dtype, cudaStream_t stream);

/* dropout.cu */
cudaError_t dml_cu_dropout(const dml_cu_dropout_args *p, const dml_cu_step *step, void *y,
                           const void *x, dml_dtype dtype, cudaStream_t stream);

/* column_sums.cu: sums[cols] of x[rows, cols], added to what is there with `add`.  `part` is scratch of
 * dml_cu_column_sums_bytes. */
int64_t dml_cu_column_sums_bytes(int64_t rows, int64_t cols);
cudaError_t dml_cu_column_sums(float *sums, const void *x, void *part, int64_t rows, int64_t cols,
                               bool add, dml_dtype dtype, cudaStream_t stream);

/* norm.cu: x[rows, cols], everything of a channel is [cols].  `part` is scratch of dml_cu_batch_norm_bytes. */
int64_t dml_cu_batch_norm_bytes(int64_t rows, int64_t cols);
cudaError_t dml_cu_batch_norm_fwd(float eps, void *y, float *mean, float *var, const void *x,
                                  const float *gamma, const float *beta, void *part, int64_t rows,
                                  int64_t cols, dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_batch_norm_eval(float eps, void *y, const void *x, const float *mean,
                                   const float *var, const float *gamma, const float *beta,
                                   int64_t rows, int64_t cols, dml_dtype dtype,
                                   cudaStream_t stream);
cudaError_t dml_cu_batch_norm_bwd(float eps, void *dx, float *dgamma, float *dbeta, const void *dy,
                                  const void *x, const float *mean, const float *var,
                                  const float *gamma, void *part, int64_t rows, int64_t cols,
                                  dml_dtype dtype, cudaStream_t stream);

/* norm_words.cu: rstd = 1 / sqrt(var + eps) and back, for the library's batch norm */
cudaError_t dml_cu_rstd_of_var(float *rstd, const float *var, float eps, int64_t n,
                               cudaStream_t stream);
cudaError_t dml_cu_var_of_rstd(float *var, const float *rstd, float eps, int64_t n,
                               cudaStream_t stream);

/* moments.cu */
cudaError_t dml_cu_move_moments(const dml_cu_moments *p, float *mean, float *var,
                                const float *slots, cudaStream_t stream);

/* pool.cu */
cudaError_t dml_cu_max_pool_fwd(const dml_cu_pool *p, void *y, int32_t *which, const void *x,
                                dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_max_pool_bwd(const dml_cu_pool *p, void *dx, const void *dy,
                                const int32_t *which, dml_dtype dtype, cudaStream_t stream);
cudaError_t dml_cu_avg_pool_fwd(const dml_cu_pool *p, void *y, const void *x, dml_dtype dtype,
                                cudaStream_t stream);
cudaError_t dml_cu_avg_pool_bwd(const dml_cu_pool *p, void *dx, const void *dy, dml_dtype dtype,
                                cudaStream_t stream);

/* layout.cu: y[n, cols, rows] = x[n, rows, cols] transposed, elements of 2 or 4 bytes */
cudaError_t dml_cu_transpose(void *y, const void *x, int64_t n, int64_t rows, int64_t cols,
                             int64_t elem_bytes, cudaStream_t stream);

/* loss.cu: dx may be NULL or x; row_loss[rows] and row_hit[rows] are scratch */
#define DML_CU_LOSS_LIST(X) X(softmax_xent) X(mse_onehot)
#define X(name)                                                                                 \
    cudaError_t dml_cu_##name(double *loss, int32_t *correct, void *dx, const void *x,          \
                              const int32_t *labels, const dml_cu_step *step, double *row_loss, \
                              int32_t *row_hit, int64_t rows, int64_t cols, dml_dtype dtype,    \
                              cudaStream_t stream);
DML_CU_LOSS_LIST(X)
#undef X

/* exact.cu */
cudaError_t dml_cu_accumulate_exact(int64_t *acc, uint32_t *max_bits, const float *g,
                                    int32_t scale_log2, bool first, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_finish_exact(float *g, const int64_t *acc, int32_t scale_log2, int64_t n,
                                cudaStream_t stream);
cudaError_t dml_cu_accumulate_wide(int64_t *hi, int64_t *lo, uint32_t *max_bits, const float *g,
                                   bool first, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_finish_wide(float *g, const int64_t *hi, const int64_t *lo, int64_t n,
                               cudaStream_t stream);
cudaError_t dml_cu_sum_squares(double *partial, const float *x, int64_t n, cudaStream_t stream);

/* optimizer.cu */
cudaError_t dml_cu_sgd(const dml_cu_sgd_rule *p, const dml_cu_opt_table *t, cudaStream_t stream);
cudaError_t dml_cu_adamw(const dml_cu_adamw_rule *p, const dml_cu_opt_table *t,
                         cudaStream_t stream);

/* sabotage.cu: the device fails, or never ends */
cudaError_t dml_cu_trap(cudaStream_t stream);
cudaError_t dml_cu_hang(cudaStream_t stream);

#endif
