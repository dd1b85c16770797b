/* kernels/cuda/kernels_cuda.c - the kernel table, and its entries that check shapes and launch one kernel. */
#include "kernels/cuda/kernels_cuda.h"

#include "kernels/check.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/entries.h"

_Static_assert((int)DML_CU_NORM_CHUNK == (int)DML_NORM_CHUNK, "chunks are the contract's");

/* Nothing is packed: products read the weights as they lie. */
static void weights_changed(dml_kctx *k)
{
    (void)k;
}

/* ---- element-wise ---- */

#define X(name)                                                                                  \
    dml_err dml_cuda_##name(dml_kctx *k, dml_out y, dml_in x)                                    \
    {                                                                                            \
        dml_dims d = {0};                                                                        \
        DML_TRY(dml_check_same(#name, &d, y, x, NULL));                                          \
        DML_LAUNCHED(k,                                                                          \
                     dml_cu_##name(y->data, x->data, dml_tensor_elems(y), y->dtype, k->stream)); \
    }
DML_CU_UNARY_LIST(X)
#undef X

#define X(name)                                                                                 \
    dml_err dml_cuda_##name(dml_kctx *k, dml_out y, dml_in a, dml_in b)                         \
    {                                                                                           \
        dml_dims d = {0};                                                                       \
        DML_TRY(dml_check_same(#name, &d, y, a, b));                                            \
        DML_LAUNCHED(k, dml_cu_##name(y->data, a->data, b->data, dml_tensor_elems(y), y->dtype, \
                                      k->stream));                                              \
    }
DML_CU_BINARY_LIST(X)
#undef X

dml_err dml_cuda_convert(dml_kctx *k, dml_out y, dml_in x)
{
    DML_TRY(dml_check_convert(y, x));
    DML_LAUNCHED(
        k, dml_cu_convert(y->data, y->dtype, x->data, x->dtype, dml_tensor_elems(x), k->stream));
}

dml_err dml_cuda_dropout(dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_dropout(p));
    DML_TRY(dml_check_same("dropout", &d, y, x, NULL));
    const dml_cu_dropout_args args = {.key = p->key,
                                      .first_sample = p->first_sample,
                                      .rows = x->dim[0],
                                      .row_elems = dml_tensor_row_elems(x),
                                      .rate = p->rate,
                                      .scale = 1.0f / (1.0f - p->rate)};
    DML_LAUNCHED(k, dml_cu_dropout(&args, k->step, y->data, x->data, x->dtype, k->stream));
}

dml_err dml_cuda_fill(dml_kctx *k, dml_out y, float value)
{
    DML_TRY(dml_check_fill(y, value));
    if (value == 0.0f || y->dtype != DML_F32)
        DML_LAUNCHED(k, cudaMemsetAsync(y->data, 0, (size_t)dml_tensor_bytes(y), k->stream));
    DML_LAUNCHED(k, dml_cu_fill(y->data, value, dml_tensor_elems(y), y->dtype, k->stream));
}

dml_err dml_cuda_delay(dml_kctx *k, int64_t ns)
{
    DML_LAUNCHED(k, dml_cu_delay(ns, k->step, k->stream));
}

/* ---- loss ---- */

#define X(name)                                                                                  \
    dml_err dml_cuda_##name(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,    \
                            dml_in labels)                                                       \
    {                                                                                            \
        dml_dims d = {0};                                                                        \
        DML_TRY(dml_check_loss(#name, &d, loss, correct, dx, x, labels));                        \
        const int64_t n = DML_DIM(d, 'n'), c = DML_DIM(d, 'c');                                  \
        const int64_t bytes = n * (int64_t)(sizeof(double) + sizeof(int32_t));                   \
        void *rows = NULL; /* of each its loss, then of each its hit */                          \
        DML_TRY(dml_cuda_scratch(k, #name, bytes, &rows));                                       \
        DML_LAUNCHED(k,                                                                          \
                     dml_cu_##name(loss->data, correct->data, dx ? dx->data : NULL, x->data,     \
                                   labels->data, k->step, rows, (int32_t *)((double *)rows + n), \
                                   n, c, x->dtype, k->stream));                                  \
    }
DML_CU_LOSS_LIST(X)
#undef X

/* ---- gradients ---- */

dml_err dml_cuda_accumulate(dml_kctx *k, dml_out acc, dml_in g, bool first)
{
    DML_TRY(dml_check_accumulate(acc, g));
    const int64_t n = dml_tensor_elems(g);
    if (first)
        DML_LAUNCHED(k, cudaMemcpyAsync(acc->data, g->data, (size_t)dml_tensor_bytes(g),
                                        cudaMemcpyDefault, k->stream));
    DML_LAUNCHED(k, dml_cu_add(acc->data, acc->data, g->data, n, DML_F32, k->stream));
}

dml_err dml_cuda_accumulate_exact(dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g,
                                  int32_t scale_log2, bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact("accumulate_exact", &d, acc, max_bits, g, scale_log2));
    const int64_t n = dml_tensor_elems(g);
    DML_LAUNCHED(k, dml_cu_accumulate_exact(acc->data, max_bits->data, g->data, scale_log2, first,
                                            n, k->stream));
}

dml_err dml_cuda_finish_exact(dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact("finish_exact", &d, acc, NULL, g, scale_log2));
    const int64_t n = dml_tensor_elems(g);
    DML_LAUNCHED(k, dml_cu_finish_exact(g->data, acc->data, scale_log2, n, k->stream));
}

dml_err dml_cuda_accumulate_wide(dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g,
                                 bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide("accumulate_wide", &d, hi, lo, max_bits, g));
    const int64_t n = dml_tensor_elems(g);
    DML_LAUNCHED(k, dml_cu_accumulate_wide(hi->data, lo->data, max_bits->data, g->data, first, n,
                                           k->stream));
}

dml_err dml_cuda_finish_wide(dml_kctx *k, dml_out g, dml_in hi, dml_in lo)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide("finish_wide", &d, hi, lo, NULL, g));
    const int64_t n = dml_tensor_elems(g);
    DML_LAUNCHED(k, dml_cu_finish_wide(g->data, hi->data, lo->data, n, k->stream));
}

dml_err dml_cuda_sum_squares(dml_kctx *k, dml_out partial, dml_in x)
{
    dml_dims d = {0};
    const int64_t n = dml_tensor_elems(x);
    DML_DIM(d, 'p') = (n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
    DML_TRY(dml_check_shapes("sum_squares", &d, "x=f[*] partial=d[p]", x, partial));
    DML_LAUNCHED(k, dml_cu_sum_squares(partial->data, x->data, n, k->stream));
}

/* ---- optimizer ---- */

/* Tensors from t on that one launch takes: all of a stage, up to DML_CU_OPT_TENSORS. */
static void fill_table(dml_cu_opt_table *table, const dml_opt_tensor *t, int32_t n)
{
    table->n = n < DML_CU_OPT_TENSORS ? n : DML_CU_OPT_TENSORS;
    table->blocks = 0;
    for (int32_t i = 0; i < table->n; i++) {
        table->tensor[i] = (dml_cu_opt_tensor){.w = t[i].w,
                                               .g = t[i].g,
                                               .m = t[i].m,
                                               .v = t[i].v,
                                               .n = t[i].n,
                                               .first_block = table->blocks,
                                               .weight_decay = t[i].weight_decay};
        table->blocks += (uint32_t)((t[i].n + DML_CU_OPT_TILE - 1) / DML_CU_OPT_TILE);
    }
}

dml_err dml_cuda_sgd(dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    const dml_cu_sgd_rule rule = {p->lr, p->momentum, p->grad_scale, p->nesterov, p->first};
    for (int32_t i = 0; i < n_tensors; i += DML_CU_OPT_TENSORS) {
        dml_cu_opt_table table;
        fill_table(&table, t + i, n_tensors - i);
        DML_LAUNCH(k, dml_cu_sgd(&rule, &table, k->stream));
    }
    return DML_ERR_OK;
}

dml_err dml_cuda_adamw(dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    const dml_cu_adamw_rule rule = {p->lr,         p->beta1, p->beta2,     p->eps,
                                    p->grad_scale, p->bias1, p->sqrt_bias2};
    for (int32_t i = 0; i < n_tensors; i += DML_CU_OPT_TENSORS) {
        dml_cu_opt_table table;
        fill_table(&table, t + i, n_tensors - i);
        DML_LAUNCH(k, dml_cu_adamw(&rule, &table, k->stream));
    }
    return DML_ERR_OK;
}

#define ENTRY(name) .name = dml_cuda_##name

const dml_kernel_table dml_cuda_kernels = {
    .open = dml_cuda_open_context,
    .close = dml_cuda_close_context,
    .weights_changed = weights_changed,
    .seal = dml_cuda_seal,
    ENTRY(begin_step),
    ENTRY(choices),
    ENTRY(choose),
    ENTRY(linear_fwd),
    ENTRY(linear_bwd_input),
    ENTRY(linear_bwd_weight),
    ENTRY(linear_add_weight),
    ENTRY(linear_act_fwd),
    ENTRY(linear_act_bwd),
    ENTRY(conv2d_fwd),
    ENTRY(conv2d_bwd_input),
    ENTRY(conv2d_bwd_weight),
    ENTRY(max_pool_fwd),
    ENTRY(max_pool_bwd),
    ENTRY(avg_pool_fwd),
    ENTRY(avg_pool_bwd),
    ENTRY(batch_norm_fwd),
    ENTRY(batch_norm_eval),
    ENTRY(batch_norm_bwd),
    ENTRY(relu_fwd),
    ENTRY(relu_bwd),
    ENTRY(gelu_fwd),
    ENTRY(gelu_bwd),
    ENTRY(gelu_tanh_fwd),
    ENTRY(gelu_tanh_bwd),
    ENTRY(tanh_fwd),
    ENTRY(tanh_bwd),
    ENTRY(dropout),
    ENTRY(add),
    ENTRY(nhwc_to_nchw),
    ENTRY(nchw_to_nhwc),
    ENTRY(softmax_xent),
    ENTRY(mse_onehot),
    ENTRY(convert),
    ENTRY(move_moments),
    ENTRY(accumulate),
    ENTRY(accumulate_exact),
    ENTRY(finish_exact),
    ENTRY(accumulate_wide),
    ENTRY(finish_wide),
    ENTRY(sum_squares),
    ENTRY(fill),
    ENTRY(sgd),
    ENTRY(adamw),
    ENTRY(delay),
};
