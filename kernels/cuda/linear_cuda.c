/* kernels/cuda/linear_cuda.c - linear layers: products, with what the library can fuse into them.
 *
 *   linear_fwd         y = x w^T             bias in the epilogue, else y starts as rows of it
 *   linear_bwd_input   dx = dy w
 *   linear_bwd_weight  dw = dy^T x           db in the epilogue (BGRADB) in fast mode where the library has it,
 *   linear_add_weight  dw += dy^T x          else by column_sums; in exact mode always, whose order is ours
 *   linear_act_fwd     y = act(x w^T + b)    fused, or the product and activation.cu
 *   linear_act_bwd     dx = (dy w) act'(aux)
 */
#include "kernels/cuda/context.h"
#include "kernels/cuda/entries.h"

#include "kernels/check.h"

static dml_gemm_shape shape_fwd(const dml_dims *d, bool bias)
{
    const int32_t type = (int32_t)d->sample->dtype;
    return (dml_gemm_shape){.m = DML_DIM(*d, 'n'),
                            .n = DML_DIM(*d, 'o'),
                            .k = DML_DIM(*d, 'i'),
                            .b_transposed = 1,
                            .type = type,
                            .result = type,
                            .bias = bias};
}

static dml_gemm_shape shape_bwd_input(const dml_dims *d)
{
    const int32_t type = (int32_t)d->sample->dtype;
    return (dml_gemm_shape){.m = DML_DIM(*d, 'n'),
                            .n = DML_DIM(*d, 'i'),
                            .k = DML_DIM(*d, 'o'),
                            .type = type,
                            .result = type};
}

static dml_gemm_shape shape_bwd_weight(const dml_dims *d, bool add)
{
    return (dml_gemm_shape){.m = DML_DIM(*d, 'o'),
                            .n = DML_DIM(*d, 'i'),
                            .k = DML_DIM(*d, 'n'),
                            .a_transposed = 1,
                            .type = (int32_t)d->sample->dtype,
                            .result = DML_F32,
                            .add = add};
}

/* A product that may have a bias.  Where the library has none for the shape, every row of c becomes the bias and
 * the product is added: still rounded once. */
static dml_err multiply(dml_kctx *k, const dml_gemm_shape *shape, const dml_gemm_data *data)
{
    bool here = false;
    dml_gemm_shape adding = *shape;
    DML_TRY(dml_gemm_plan(k->gemm, shape, &here));
    if (here) return dml_gemm_run(k->gemm, shape, data, k->stream);
    adding.bias = 0;
    adding.add = 1;
    DML_LAUNCH(k, dml_cu_repeat_row(data->c, data->bias, shape->m, shape->n,
                                    (dml_dtype)shape->result, k->stream));
    return dml_gemm_run(k->gemm, &adding, data, k->stream);
}

dml_err dml_cuda_linear_fwd(dml_kctx *k, dml_out y, dml_in x, dml_in w, dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_fwd", &d, y, x, w, b));
    const dml_gemm_shape shape = shape_fwd(&d, b != NULL);
    const dml_gemm_data data = {
        .c = y->data, .a = x->data, .b = w->data, .bias = b ? b->data : NULL};
    return multiply(k, &shape, &data);
}

dml_err dml_cuda_linear_bwd_input(dml_kctx *k, dml_out dx, dml_in dy, dml_in w)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_bwd_input", &d, dy, dx, w, NULL));
    const dml_gemm_shape shape = shape_bwd_input(&d);
    const dml_gemm_data data = {.c = dx->data, .a = dy->data, .b = w->data};
    return dml_gemm_run(k->gemm, &shape, &data, k->stream);
}

/* ---- weight gradients ---- */

static dml_err weight_gradient(dml_kctx *k, const dml_dims *d, dml_out dw, dml_out db, dml_in dy,
                               dml_in x, bool add)
{
    const int64_t rows = DML_DIM(*d, 'n'), cols = DML_DIM(*d, 'o');
    dml_gemm_shape shape = shape_bwd_weight(d, add);
    const dml_gemm_data data = {
        .c = dw->data, .a = dy->data, .b = x->data, .sums = db ? db->data : NULL};
    bool fused = false;
    if (db && !add && !k->config.deterministic) {
        shape.bias_gradient = 1;
        DML_TRY(dml_gemm_plan(k->gemm, &shape, &fused));
        shape.bias_gradient = fused;
    }
    DML_TRY(dml_gemm_run(k->gemm, &shape, &data, k->stream));
    if (!db || fused) return DML_ERR_OK;
    void *part = NULL;
    DML_TRY(dml_cuda_scratch(k, "linear_bwd_weight", dml_cu_column_sums_bytes(rows, cols), &part));
    DML_LAUNCHED(
        k, dml_cu_column_sums(db->data, dy->data, part, rows, cols, add, dy->dtype, k->stream));
}

dml_err dml_cuda_linear_bwd_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear_grads("linear_bwd_weight", &d, dw, db, dy, x));
    return weight_gradient(k, &d, dw, db, dy, x, false);
}

dml_err dml_cuda_linear_add_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear_grads("linear_add_weight", &d, dw, db, dy, x));
    return weight_gradient(k, &d, dw, db, dy, x, true);
}

/* ---- with an activation ---- */

/* Launches what the library could not fuse: y or dx is the plain product's. */
static dml_err activate(dml_kctx *k, dml_gemm_after after, dml_in t, dml_in aux)
{
    const int64_t rows = t->dim[0], cols = t->dim[1], row = aux->dim[1];
    switch (after) {
    case DML_GEMM_RELU:
        DML_LAUNCHED(k, dml_cu_relu_aux(t->data, aux->data, row, rows, cols, t->dtype, k->stream));
    case DML_GEMM_GELU:
        DML_LAUNCHED(
            k, dml_cu_gelu_tanh_aux(t->data, aux->data, row, rows, cols, t->dtype, k->stream));
    case DML_GEMM_DRELU:
        DML_LAUNCHED(k, dml_cu_drelu_aux(t->data, aux->data, row, rows, cols, t->dtype, k->stream));
    case DML_GEMM_DGELU:
        DML_LAUNCHED(
            k, dml_cu_dgelu_tanh_aux(t->data, aux->data, row, rows, cols, t->dtype, k->stream));
    case DML_GEMM_PLAIN: break;
    }
    return DML_ERR_OK;
}

static dml_err with_activation(dml_kctx *k, const dml_gemm_shape *plain, dml_gemm_after after,
                               const dml_gemm_data *data, dml_in t, dml_in aux)
{
    dml_gemm_shape shape = *plain;
    bool here = false;
    shape.after = (int32_t)after;
    DML_TRY(dml_gemm_plan(k->gemm, &shape, &here));
    if (here) return dml_gemm_run(k->gemm, &shape, data, k->stream);
    DML_TRY(multiply(k, plain, data));
    return activate(k, after, t, aux);
}

dml_err dml_cuda_linear_act_fwd(dml_kctx *k, dml_act act, dml_out y, dml_out aux, dml_in x,
                                dml_in w, dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_act_fwd", &d, y, x, w, b));
    DML_TRY(dml_check_aux("linear_act_fwd", act, y, aux));
    const dml_gemm_shape shape = shape_fwd(&d, b != NULL);
    const dml_gemm_data data = {
        .c = y->data, .a = x->data, .b = w->data, .bias = b ? b->data : NULL, .aux = aux->data};
    const dml_gemm_after after = act == DML_ACT_RELU ? DML_GEMM_RELU : DML_GEMM_GELU;
    return with_activation(k, &shape, after, &data, y, aux);
}

dml_err dml_cuda_linear_act_bwd(dml_kctx *k, dml_act act, dml_out dx, dml_in dy, dml_in w,
                                dml_in aux)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_act_bwd", &d, dy, dx, w, NULL));
    DML_TRY(dml_check_aux("linear_act_bwd", act, dx, aux));
    const dml_gemm_shape shape = shape_bwd_input(&d);
    const dml_gemm_data data = {.c = dx->data, .a = dy->data, .b = w->data, .aux = aux->data};
    const dml_gemm_after after = act == DML_ACT_RELU ? DML_GEMM_DRELU : DML_GEMM_DGELU;
    return with_activation(k, &shape, after, &data, dx, aux);
}
