/* kernels/cuda/norm_cuda.c - batch norm by dnn.h.
 *
 * The library keeps 1 / sqrt(var + eps) where our contract has var; a small kernel turns one into the other.
 *
 *   scratch   | 1 / sqrt(var + eps) of every channel | the library's workspace |
 */
#include "kernels/cuda/norm_cuda.h"

#include "kernels/cuda/conv_cuda.h"

#include <stdlib.h>
#include <string.h>

enum { SCRATCH_ALIGN = 256 };

bool dml_cuda_norm_by_library(void)
{
    const char *by = getenv("DML_CUDA_NORM");
    return by && strcmp(by, "library") == 0;
}

static dml_cudnn_op op_of(dml_cudnn_kind kind, dml_in x)
{
    const int32_t r = x->rank;
    dml_cudnn_op op = {.n = 1,
                       .h = r > 2 ? x->dim[r - 3] : 1,
                       .w = r > 1 ? x->dim[r - 2] : 1,
                       .c = x->dim[r - 1],
                       .kind = (int32_t)kind,
                       .dtype = (int32_t)x->dtype};
    op.n = dml_tensor_elems(x) / (op.h * op.w * op.c);
    return op;
}

static bool aligned(void *const memory[DML_CUDNN_SLOTS])
{
    bool all = true;
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++)
        all = all && (slot == DML_CUDNN_EPS || (uintptr_t)memory[slot] % DML_CUDNN_ALIGN == 0);
    return all;
}

/* Plans, and finds scratch; *here is false where the library has no engine for these tensors. */
static dml_err prepare(dml_kctx *k, const char *kernel, const dml_cudnn_op *op,
                       void *memory[DML_CUDNN_SLOTS], void **workspace, bool *here)
{
    dml_cudnn *dnn;
    int64_t bytes = 0;
    void *scratch = NULL;
    *here = false;
    if (!aligned(memory)) return DML_ERR_OK;
    DML_TRY(dml_cuda_cudnn(k, &dnn));
    const dml_err err = dml_cudnn_plan(dnn, op, &bytes);
    if (err == DML_ERR_UNAVAILABLE) return DML_ERR_OK;
    DML_TRY(err);
    const int64_t rstd =
        (op->c * (int64_t)sizeof(float) + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    DML_TRY(dml_cuda_scratch(k, kernel, rstd + bytes, &scratch));
    *here = true;
    if (!scratch) return DML_ERR_OK; /* only a plan */
    memory[DML_CUDNN_RSTD] = scratch;
    *workspace = (char *)scratch + rstd;
    return DML_ERR_OK;
}

dml_err dml_cuda_library_norm_fwd(dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var,
                                  dml_in x, dml_in gamma, dml_in beta, bool *done)
{
    static const char *const kernel = "batch_norm_fwd";
    const dml_cudnn_op op = op_of(DML_CUDNN_NORM_FWD, x);
    void *workspace = NULL;
    void *memory[DML_CUDNN_SLOTS] = {
        [DML_CUDNN_X] = x->data,    [DML_CUDNN_Y] = y->data,       [DML_CUDNN_W] = gamma->data,
        [DML_CUDNN_B] = beta->data, [DML_CUDNN_MEAN] = mean->data, [DML_CUDNN_EPS] = &eps};
    DML_TRY(prepare(k, kernel, &op, memory, &workspace, done));
    if (!*done || k->config.plan_only) return DML_ERR_OK;
    DML_TRY(dml_cudnn_run(k->dnn, &op, memory, workspace));
    return dml_cuda_launched(
        k, dml_cu_var_of_rstd(var->data, memory[DML_CUDNN_RSTD], eps, op.c, k->stream), __FILE__,
        __LINE__, kernel);
}

dml_err dml_cuda_library_norm_bwd(dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta,
                                  dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma,
                                  bool *done)
{
    static const char *const kernel = "batch_norm_bwd";
    const dml_cudnn_op op = op_of(DML_CUDNN_NORM_BWD, x);
    void *workspace = NULL;
    void *memory[DML_CUDNN_SLOTS] = {
        [DML_CUDNN_X] = x->data,      [DML_CUDNN_Y] = dy->data,      [DML_CUDNN_W] = gamma->data,
        [DML_CUDNN_DX] = dx->data,    [DML_CUDNN_DW] = dgamma->data, [DML_CUDNN_DB] = dbeta->data,
        [DML_CUDNN_MEAN] = mean->data};
    DML_TRY(prepare(k, kernel, &op, memory, &workspace, done));
    if (!*done || k->config.plan_only) return DML_ERR_OK;
    DML_TRY(dml_cuda_launched(
        k, dml_cu_rstd_of_var(memory[DML_CUDNN_RSTD], var->data, eps, op.c, k->stream), __FILE__,
        __LINE__, kernel));
    return dml_cudnn_run(k->dnn, &op, memory, workspace);
}
