/* kernels/cuda/launchers.h - the kernels as C sees them: enqueue on a stream, return the launch's status.
 *
 * Pointers are device memory; sizes are elements, >= 1.  What each computes is the entry of the same
 * name in kernels/kernels.h; the caller (kernels_cuda.c) has checked the shapes.  .cu files get this header,
 * with C linkage, from launch.cuh: it knows nothing of C11-only headers.
 */
#ifndef DML_KERNELS_CUDA_LAUNCHERS_H
#define DML_KERNELS_CUDA_LAUNCHERS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

enum { DML_CU_NORM_CHUNK = 4096, DML_CU_OPT_TENSORS = 64, DML_CU_OPT_TILE = 1024 };

/* dml_dropout for rows of row_elems elements; scale = 1 / (1 - rate). */
typedef struct dml_cu_dropout_args {
    uint64_t key;
    int64_t step, first_sample, rows, row_elems;
    float rate, scale;
} dml_cu_dropout_args;

/* dml_sgd, dml_adamw. */
typedef struct dml_cu_sgd_rule {
    float lr, momentum, grad_scale;
    int32_t nesterov, first;
} dml_cu_sgd_rule;

typedef struct dml_cu_adamw_rule {
    float lr, beta1, beta2, eps, grad_scale, bias1, sqrt_bias2;
} dml_cu_adamw_rule;

/* What one optimizer launch updates.  It travels in the launch's parameters (4 KiB on every
 * architecture): no copy to the device, no lifetime to mind.  Tensor i owns the blocks of
 * DML_CU_OPT_TILE elements from first_block on. */
typedef struct dml_cu_opt_tensor {
    float *w;
    const float *g;
    float *m, *v; /* may be NULL as in dml_opt_tensor */
    int64_t n, first_block;
    float weight_decay;
} dml_cu_opt_tensor;

typedef struct dml_cu_opt_table {
    dml_cu_opt_tensor tensor[DML_CU_OPT_TENSORS];
    int64_t blocks; /* in all */
    int32_t n;      /* tensors, >= 1 */
} dml_cu_opt_table;

/* elementwise.cu */
cudaError_t dml_cu_relu_fwd(float *y, const float *x, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_relu_bwd(float *dx, const float *dy, const float *y, int64_t n,
                            cudaStream_t stream);
cudaError_t dml_cu_gelu_fwd(float *y, const float *x, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_gelu_bwd(float *dx, const float *dy, const float *x, int64_t n,
                            cudaStream_t stream);
cudaError_t dml_cu_tanh_fwd(float *y, const float *x, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_tanh_bwd(float *dx, const float *dy, const float *y, int64_t n,
                            cudaStream_t stream);
cudaError_t dml_cu_add(float *y, const float *a, const float *b, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_fill(float *y, float value, int64_t n, cudaStream_t stream);
cudaError_t dml_cu_delay(int64_t ns, cudaStream_t stream);

/* dropout.cu */
cudaError_t dml_cu_dropout(const dml_cu_dropout_args *p, float *y, const float *x,
                           cudaStream_t stream);

/* column_sums.cu: sums[cols] of x[rows, cols] */
cudaError_t dml_cu_column_sums(float *sums, const float *x, int64_t rows, int64_t cols,
                               cudaStream_t stream);

/* loss.cu: dx may be NULL or x; row_loss[rows] and row_hit[rows] are scratch */
cudaError_t dml_cu_softmax_xent(double *loss, int32_t *correct, float *dx, const float *x,
                                const int32_t *labels, double *row_loss, int32_t *row_hit,
                                int64_t rows, int64_t cols, cudaStream_t stream);
cudaError_t dml_cu_mse_onehot(double *loss, int32_t *correct, float *dx, const float *x,
                              const int32_t *labels, double *row_loss, int32_t *row_hit,
                              int64_t rows, int64_t cols, cudaStream_t stream);

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

#endif
