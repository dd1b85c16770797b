/* kernels/cuda/gemm.h - row-major matrix products, the shim before cuBLASLt.
 *
 *   c[m, n] = op(a) op(b)          op(a) is [m, k], op(b) is [k, n]
 *   c[m, n] = after(op(a) op(b) + bias[n] in every row)     with `bias` and `after`
 *   c[m, n] = c + op(a) op(b)                               with `add`
 *   sums[m] = sums of op(a) over k, beside the product      with `bias_gradient`
 *
 * a and b are F32, BF16 or F16; sums run in F32; c is of the same type or F32 and rounded once.
 * gemm_cublaslt.c asks cuBLASLt; under the emulation emulation/cublaslt.c stands in for the library.
 */
#ifndef DML_KERNELS_CUDA_GEMM_H
#define DML_KERNELS_CUDA_GEMM_H

#include "engine/base/err.h"
#include "kernels/tensor.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

typedef struct dml_gemm
    dml_gemm; /* opaque: the library's handle, its workspace, one plan a shape */

/* What is done with a result on its way out.  `aux` as kernels/kernels.h has it for dml_act. */
typedef enum dml_gemm_after {
    DML_GEMM_PLAIN,
    DML_GEMM_RELU,  /* aux written */
    DML_GEMM_GELU,  /* tanh form; aux written */
    DML_GEMM_DRELU, /* times relu'(aux) */
    DML_GEMM_DGELU, /* times gelu'(aux) */
} dml_gemm_after;

/* The key of a plan, compared byte by byte: no hole in it, and flags are 0 or 1. */
typedef struct dml_gemm_shape {
    int64_t m, n, k;
    int32_t a_transposed; /* a is stored [k, m] */
    int32_t b_transposed; /* b is stored [n, k] */
    int32_t type, result; /* dml_dtype of a and b, and of c; bias is of c's */
    int32_t after;        /* dml_gemm_after */
    int32_t bias, bias_gradient, add;
} dml_gemm_shape;
_Static_assert(sizeof(dml_gemm_shape) == 3 * sizeof(int64_t) + 8 * sizeof(int32_t), "no hole");

typedef struct dml_gemm_data {
    void *c;
    const void *a, *b;
    const void *bias; /* with bias: [n] */
    void *sums;       /* with bias_gradient: F32 [m] */
    void *aux;        /* with after: [m, dml_act_aux_bytes] */
} dml_gemm_data;

enum { DML_GEMM_ALIGN = 16 }; /* bytes; every pointer of dml_gemm_data is a multiple of it */

/* deterministic: no algorithm that splits k, and for F32 IEEE products, unless tf32 lets factors be rounded to
 * 10 bits.  plan_only: dml_gemm_run makes plans and enqueues nothing. */
typedef struct dml_gemm_config {
    bool deterministic, tf32, plan_only;
} dml_gemm_config;

/* On the current device.
 * DML_ERR_UNAVAILABLE  the library cannot start here; DML_ERR_NOMEM  no device memory for its workspace */
dml_err dml_gemm_open(const dml_gemm_config *config, dml_gemm **out);
void dml_gemm_close(dml_gemm *g); /* NULL is fine */

/* From now on a new shape is DML_ERR_BUG. */
void dml_gemm_seal(dml_gemm *g);

/* Makes the plan unless there is one.  *here: the library has this product; false only with `bias`, `after` or
 * `bias_gradient`, which the caller then computes by itself. */
dml_err dml_gemm_plan(dml_gemm *g, const dml_gemm_shape *shape, bool *here);

/* Enqueues one product that is here.  The first call of a shape makes its plan. */
dml_err dml_gemm_run(dml_gemm *g, const dml_gemm_shape *shape, const dml_gemm_data *data,
                     cudaStream_t stream);

/* As the entries of the kernel table: algorithms of all plans so far, and plans to be made with those.  The
 * bytes name the library's version and the GPU (compute capability, multiprocessors): on another the
 * algorithms mean something else and are refused. */
dml_err dml_gemm_choices(const dml_gemm *g, void *out, int64_t *bytes);
dml_err dml_gemm_choose(dml_gemm *g, const void *choices, int64_t bytes);

#endif
