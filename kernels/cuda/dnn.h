/* kernels/cuda/dnn.h - convolution and batch norm by a library, the shim before cuDNN's graph API.
 *
 *   y[n,p,q,o] = sum over c,k,l of  x[n, p stride - pad + k dil, q stride - pad + l dil, c] w[o,k,l,c]  (+ b[o])
 *
 * Images are NHWC and filters KRSC, [o, kernel_h, kernel_w, c / groups]: what tensor cores read without a
 * detour.  Filters are stored otherwise (kernels/tensor.h); conv_cuda.c turns them.  Sums are in F32; a result
 * is rounded once, to the type of its tensor.
 *
 * dnn_cudnn.c is the real one, over dnn_graph.c (an operation as descriptors) and dnn_plan.c (which engine
 * computes it); emulation/dnn_naive.c takes its place under the emulation.
 */
#ifndef DML_KERNELS_CUDA_DNN_H
#define DML_KERNELS_CUDA_DNN_H

#include "kernels/kernels.h"

#include <cuda_runtime_api.h>
#include <stddef.h>

typedef struct dml_cudnn dml_cudnn; /* opaque: the library's handle, one plan an operation */

/* clang-format off */
/*    kind             text                           X        W        B      Y                              */
#define DML_CUDNN_KIND_LIST(X)                                                                                 \
    X(CONV_FWD,        "convolution")              /* x        w        b      y                            */ \
    X(CONV_BWD_INPUT,  "convolution's dx")         /* dx       w        -      dy                           */ \
    X(CONV_BWD_WEIGHT, "convolution's dw")         /* x        dw       -      dy                           */ \
    X(NORM_FWD,        "batch norm")               /* x        gamma    beta   y     MEAN, RSTD are written */ \
    X(NORM_BWD,        "batch norm's gradients")   /* x        gamma    -      dy    DX, DW, DB are written */
/* clang-format on */
typedef enum dml_cudnn_kind {
#define X(kind, ...) DML_CUDNN_##kind,
    DML_CUDNN_KIND_LIST(X)
#undef X
} dml_cudnn_kind;
#define X(...) +1
enum { DML_CUDNN_KINDS = 0 DML_CUDNN_KIND_LIST(X) };
#undef X

/* Tensors of an operation.  X, Y, DX hold samples and are of op->dtype, as are W and B of a convolution; the
 * others are F32[c].  RSTD is 1 / sqrt(var + eps), MEAN and var those of the micro-batch.  EPS, of NORM_FWD, is
 * one float in memory of the host, read by dml_cudnn_run. */
typedef enum dml_cudnn_slot {
    DML_CUDNN_X,
    DML_CUDNN_W,
    DML_CUDNN_B,
    DML_CUDNN_Y,
    DML_CUDNN_DX,
    DML_CUDNN_DW,
    DML_CUDNN_DB,
    DML_CUDNN_MEAN,
    DML_CUDNN_RSTD,
    DML_CUDNN_EPS,
    DML_CUDNN_SLOTS
} dml_cudnn_slot;

/* One operation on one shape: the key of a plan, compared byte by byte, so without a hole in it.  Batch norm
 * leaves p, q, o and conv 0. */
typedef struct dml_cudnn_op {
    int64_t n, h, w, c; /* x */
    int64_t p, q, o;    /* y is [n, p, q, o] */
    dml_conv2d conv;
    int32_t kind;  /* dml_cudnn_kind */
    int32_t dtype; /* F32, BF16 or F16 */
    int32_t bias;  /* CONV_FWD: whether there is B */
} dml_cudnn_op;
_Static_assert(sizeof(dml_cudnn_op) == 7 * sizeof(int64_t) + 12 * sizeof(int32_t), "no hole");

/* "convolution of BF16 [64, 56, 56, 64] by [128, 3, 3, 64], stride 2 2, pad 1 1" */
enum { DML_CUDNN_TEXT = 192 };
void dml_cudnn_text(const dml_cudnn_op *op, char *out, size_t bytes);

typedef struct dml_cudnn_config {
    bool deterministic; /* goes with the choices; bits repeat from run to run either way */
    bool tf32;          /* F32 may go through tensor cores, which round factors to 10 bits */
    cudaStream_t stream;
} dml_cudnn_config;

enum { DML_CUDNN_ALIGN = 16 }; /* bytes; every tensor is a multiple of it */

/* DML_ERR_UNAVAILABLE  the library cannot start here, its own words say why */
dml_err dml_cudnn_open(const dml_cudnn_config *config, dml_cudnn **out);
void dml_cudnn_close(dml_cudnn *d); /* NULL is fine */

/* From now on an operation that has no plan is DML_ERR_BUG. */
void dml_cudnn_seal(dml_cudnn *d);

/* Makes the plan unless there is one, and says how much workspace it runs with.
 * DML_ERR_UNAVAILABLE  no engine computes this operation under the config: asked again, the same answer */
dml_err dml_cudnn_plan(dml_cudnn *d, const dml_cudnn_op *op, int64_t *workspace_bytes);

/* Enqueues a planned operation.  memory[slot] of slots it does not have is not read.  workspace: of the plan's
 * bytes, 256-byte aligned, this operation's until it has run. */
dml_err dml_cudnn_run(dml_cudnn *d, const dml_cudnn_op *op, void *const memory[DML_CUDNN_SLOTS],
                      void *workspace);

/* As the entries of the kernel table: engines of all plans so far, and plans to be made with those. */
dml_err dml_cudnn_choices(const dml_cudnn *d, void *out, int64_t *bytes);
dml_err dml_cudnn_choose(dml_cudnn *d, const void *choices, int64_t bytes);

#endif
