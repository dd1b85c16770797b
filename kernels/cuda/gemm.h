/* kernels/cuda/gemm.h - row-major matrix products of float, the shim before cuBLASLt.
 *
 *   c[m, n] = op(a) op(b) (+ bias[n] in every row)      op(a) is [m, k], op(b) is [k, n]
 *
 * gemm_cublaslt.c is the real one; emulation/gemm_naive.c takes its place under the emulation.
 */
#ifndef DML_KERNELS_CUDA_GEMM_H
#define DML_KERNELS_CUDA_GEMM_H

#include "engine/base/err.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

typedef struct dml_gemm
    dml_gemm; /* opaque: the library's handle, its workspace, one plan a shape */

typedef struct dml_gemm_shape {
    int64_t m, n, k;
    bool a_transposed; /* a is stored [k, m] */
    bool b_transposed; /* b is stored [n, k] */
    bool bias;
} dml_gemm_shape;

enum { DML_GEMM_ALIGN = 16 }; /* bytes; the caller's a, b and c are multiples of it */

/* deterministic: no algorithm that splits k, and IEEE products (no TF32, no emulation).
 * DML_ERR_UNAVAILABLE  the library cannot start here; DML_ERR_NOMEM  no device memory for its workspace */
dml_err dml_gemm_open(bool deterministic, dml_gemm **out);
void dml_gemm_close(dml_gemm *g); /* NULL is fine */

/* From now on a new shape is DML_ERR_BUG. */
void dml_gemm_seal(dml_gemm *g);

/* Enqueues one product.  The first call of a shape asks the library for its plan. */
dml_err dml_gemm_run(dml_gemm *g, const dml_gemm_shape *shape, float *c, const float *a,
                     const float *b, const float *bias, cudaStream_t stream);

#endif
