/* kernels/cpu/product.c - a product in the types of its tensors where the library has one, else as float.
 *
 * The library has bf16 on processors with AVX-512; elsewhere, and for fp16 on most, samples are widened to
 * float, the float operation runs and the result is rounded: the same contract, about the speed of F32.
 */
#include "kernels/cpu/wide.h"

dml_err dml_cpu_run(dml_kctx *k, const dml_dnn_shape *shape, dml_in x, dml_in w, dml_in b, dml_in y)
{
    dml_dnn_op *op;
    DML_TRY(dml_cpu_op(k, shape, NULL, &op));
    const bool writes_weights =
        op->shape.kind == DML_DNN_CONV_BWD_WEIGHT || op->shape.kind == DML_DNN_LINEAR_BWD_WEIGHT;
    const int64_t copy_bytes = writes_weights ? op->packed_bytes : dml_cpu_copy_bytes(op, w);
    char *scratch;
    DML_TRY(dml_cpu_buffer(k, DML_CPU_SCRATCH, dml_cpu_aligned(op->scratch_bytes) + copy_bytes + 64,
                           (void **)&scratch));
    void *at[DML_DNN_ROLES] = {[DML_DNN_X] = x->data,
                               [DML_DNN_W] = w->data,
                               [DML_DNN_B] = b ? b->data : NULL,
                               [DML_DNN_Y] = y->data,
                               [DML_DNN_SCRATCH] = scratch};
    void *spare = scratch + dml_cpu_aligned(op->scratch_bytes);
    if (!writes_weights)
        DML_TRY(dml_cpu_packed_weights(k, op, w, spare, &at[DML_DNN_W]));
    else if (op->reorder)
        at[DML_DNN_W] = spare;
    DML_TRY(dml_dnn_run(&k->dnn, op, 0, at));
    if (op->reorder && writes_weights) DML_TRY(dml_dnn_pack(&k->dnn, op, w->data, spare));
    return DML_ERR_OK;
}

static dml_err run(dml_kctx *k, const dml_dnn_shape *shape, int64_t count, dml_in x, dml_in w,
                   dml_in b, dml_in y)
{
    if (k->deterministic) return dml_cpu_run_blocks(k, shape, count, x, w, b, y);
    return dml_cpu_run(k, shape, x, w, b, y);
}

dml_err dml_cpu_product(dml_kctx *k, dml_dnn_shape shape, int64_t count, dml_in x, dml_in w,
                        dml_in b, dml_in y)
{
    const bool forward = shape.kind == DML_DNN_LINEAR_FWD || shape.kind == DML_DNN_CONV_FWD;
    const dml_tensor *read = forward ? x : y, *written = forward ? y : x;
    bool native;
    shape.type = (int32_t)read->dtype;
    DML_TRY(dml_cpu_native(k, &shape, &native));
    if (native) return run(k, &shape, count, x, w, b, y);
    shape.type = DML_F32;
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){written, read, b}, 3));
    DML_TRY(run(k, &shape, count, forward ? &v.t[1] : &v.t[0], w, b ? &v.t[2] : NULL,
                forward ? &v.t[0] : &v.t[1]));
    return dml_cpu_narrow(&v);
}
