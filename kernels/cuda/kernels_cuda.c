/* kernels/cuda/kernels_cuda.c - the kernel table: checks shapes, then launches.
 *
 * A context belongs to one queue.  It holds a cuBLASLt handle, and scratch for the rows of a loss, grown at
 * the first call with more rows and fixed once sealed.  A status from a launcher is that launch's alone, or
 * the device's sticky error.
 */
#include "kernels/cuda/kernels_cuda.h"

#include "kernels/check.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launchers.h"

#include <stdlib.h>

_Static_assert((int)DML_CU_NORM_CHUNK == (int)DML_NORM_CHUNK, "chunks are the contract's");

struct dml_kctx {
    dml_device *device;
    dml_queue *queue;
    cudaStream_t stream;
    dml_gemm *gemm;
    double *row_loss; /* [loss_rows] owned device memory, as row_hit */
    int32_t *row_hit;
    int64_t loss_rows;
    bool sealed;
};

/* ---- context ---- */

static dml_err open_context(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                            dml_kctx **out)
{
    DML_TRY(DML_CUDA(cudaSetDevice, (dml_cuda_index(device)), "device %d", dml_cuda_index(device)));
    dml_kctx *k = calloc(1, sizeof *k);
    if (!k) DML_FAIL(DML_ERR_NOMEM, "no memory for a kernel context");
    k->device = device;
    k->queue = queue;
    k->stream = dml_cuda_stream(queue);
    const dml_err err = dml_gemm_open(config->deterministic, &k->gemm);
    if (err != DML_ERR_OK) {
        free(k);
        return err;
    }
    *out = k;
    return DML_ERR_OK;
}

static void close_context(dml_kctx *k)
{
    if (!k) return;
    cudaSetDevice(dml_cuda_index(k->device));
    cudaFree(k->row_loss);
    cudaFree(k->row_hit);
    dml_gemm_close(k->gemm);
    free(k);
}

/* Nothing is packed: products read the weights as they lie. */
static void weights_changed(dml_kctx *k)
{
    (void)k;
}

static void seal(dml_kctx *k)
{
    k->sealed = true;
    dml_gemm_seal(k->gemm);
}

static dml_err launched(const dml_kctx *k, cudaError_t status, int line, const char *kernel)
{
    return dml_cuda_status(status, __FILE__, line, kernel, "queue '%s' of device %d",
                           dml_cuda_queue_name(k->queue), dml_cuda_index(k->device));
}

#define LAUNCHED(k, launch) return launched((k), (launch), __LINE__, __func__)

/* The functions below are named as their entries: __func__ is what check.h wants to be told. */

/* ---- linear ---- */

static bool aligned(const void *p)
{
    return (uintptr_t)p % DML_GEMM_ALIGN == 0;
}

/* c = op(a) op(b) (+ bias, which may be NULL) */
static dml_err multiply(dml_kctx *k, const char *kernel, const dml_gemm_shape *shape, dml_out c,
                        dml_in a, dml_in b, dml_in bias)
{
    if (!aligned(a->data) || !aligned(b->data) || !aligned(c->data))
        DML_FAIL(DML_ERR_BUG, "%s: a matrix is not aligned to %d bytes", kernel, DML_GEMM_ALIGN);
    return dml_gemm_run(k->gemm, shape, c->data, a->data, b->data, bias ? bias->data : NULL,
                        k->stream);
}

static dml_err linear_fwd(dml_kctx *k, dml_out y, dml_in x, dml_in w, dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear(__func__, &d, y, x, w, b));
    const dml_gemm_shape shape = {.m = DML_DIM(d, 'n'),
                                  .n = DML_DIM(d, 'o'),
                                  .k = DML_DIM(d, 'i'),
                                  .b_transposed = true,
                                  .bias = b != NULL};
    return multiply(k, __func__, &shape, y, x, w, b);
}

static dml_err linear_bwd_input(dml_kctx *k, dml_out dx, dml_in dy, dml_in w)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear(__func__, &d, dy, dx, w, NULL));
    const dml_gemm_shape shape = {.m = DML_DIM(d, 'n'), .n = DML_DIM(d, 'i'), .k = DML_DIM(d, 'o')};
    return multiply(k, __func__, &shape, dx, dy, w, NULL);
}

static dml_err linear_bwd_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear(__func__, &d, dy, x, dw, db));
    const int64_t n = DML_DIM(d, 'n'), out = DML_DIM(d, 'o');
    const dml_gemm_shape shape = {.m = out, .n = DML_DIM(d, 'i'), .k = n, .a_transposed = true};
    DML_TRY(multiply(k, __func__, &shape, dw, dy, x, NULL));
    if (!db) return DML_ERR_OK;
    LAUNCHED(k, dml_cu_column_sums(db->data, dy->data, n, out, k->stream));
}

/* ---- element-wise ---- */

#define UNARY(name)                                                                   \
    static dml_err name(dml_kctx *k, dml_out y, dml_in x)                             \
    {                                                                                 \
        dml_dims d = {0};                                                             \
        DML_TRY(dml_check_same(#name, &d, y, x, NULL));                               \
        LAUNCHED(k, dml_cu_##name(y->data, x->data, dml_tensor_elems(y), k->stream)); \
    }
#define BINARY(name)                                                                           \
    static dml_err name(dml_kctx *k, dml_out y, dml_in a, dml_in b)                            \
    {                                                                                          \
        dml_dims d = {0};                                                                      \
        DML_TRY(dml_check_same(#name, &d, y, a, b));                                           \
        LAUNCHED(k, dml_cu_##name(y->data, a->data, b->data, dml_tensor_elems(y), k->stream)); \
    }
UNARY(relu_fwd)
UNARY(gelu_fwd)
UNARY(tanh_fwd)
BINARY(relu_bwd)
BINARY(gelu_bwd)
BINARY(tanh_bwd)
BINARY(add)

static dml_err dropout(dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_dropout(p));
    DML_TRY(dml_check_same(__func__, &d, y, x, NULL));
    const dml_cu_dropout_args args = {.key = p->key,
                                      .step = p->step,
                                      .first_sample = p->first_sample,
                                      .rows = x->dim[0],
                                      .row_elems = dml_tensor_row_elems(x),
                                      .rate = p->rate,
                                      .scale = 1.0f / (1.0f - p->rate)};
    LAUNCHED(k, dml_cu_dropout(&args, y->data, x->data, k->stream));
}

static dml_err fill(dml_kctx *k, dml_out y, float value)
{
    DML_TRY(dml_check_fill(y, value));
    if (y->dtype == DML_F32)
        LAUNCHED(k, dml_cu_fill(y->data, value, dml_tensor_elems(y), k->stream));
    LAUNCHED(k, cudaMemsetAsync(y->data, 0, (size_t)dml_tensor_bytes(y), k->stream));
}

static dml_err delay(dml_kctx *k, int64_t ns)
{
    LAUNCHED(k, dml_cu_delay(ns, k->stream));
}

/* ---- loss ---- */

static dml_err loss_scratch(dml_kctx *k, int64_t rows)
{
    if (rows <= k->loss_rows) return DML_ERR_OK;
    if (k->sealed) DML_FAIL(DML_ERR_BUG, "a loss over %lld rows was not planned", (long long)rows);
    cudaFree(k->row_loss); /* waits for the kernels that use it */
    cudaFree(k->row_hit);
    k->row_loss = NULL;
    k->row_hit = NULL;
    k->loss_rows = 0;
    DML_TRY(DML_CUDA(cudaMalloc, ((void **)&k->row_loss, sizeof *k->row_loss * (size_t)rows),
                     "scratch for %lld rows", (long long)rows));
    DML_TRY(DML_CUDA(cudaMalloc, ((void **)&k->row_hit, sizeof *k->row_hit * (size_t)rows),
                     "scratch for %lld rows", (long long)rows));
    k->loss_rows = rows;
    return DML_ERR_OK;
}

#define LOSS(name)                                                                          \
    static dml_err name(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,   \
                        dml_in labels)                                                      \
    {                                                                                       \
        dml_dims d = {0};                                                                   \
        DML_TRY(dml_check_loss(#name, &d, loss, correct, dx, x, labels));                   \
        const int64_t n = DML_DIM(d, 'n'), c = DML_DIM(d, 'c');                             \
        DML_TRY(loss_scratch(k, n));                                                        \
        LAUNCHED(k, dml_cu_##name(loss->data, correct->data, dx ? dx->data : NULL, x->data, \
                                  labels->data, k->row_loss, k->row_hit, n, c, k->stream)); \
    }
LOSS(softmax_xent)
LOSS(mse_onehot)

/* ---- gradients ---- */

static dml_err accumulate(dml_kctx *k, dml_out acc, dml_in g, bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_same(__func__, &d, acc, g, NULL));
    const int64_t n = dml_tensor_elems(g);
    if (first)
        LAUNCHED(k, cudaMemcpyAsync(acc->data, g->data, (size_t)dml_tensor_bytes(g),
                                    cudaMemcpyDefault, k->stream));
    LAUNCHED(k, dml_cu_add(acc->data, acc->data, g->data, n, k->stream));
}

static dml_err accumulate_exact(dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g,
                                int32_t scale_log2, bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact(__func__, &d, acc, max_bits, g, scale_log2));
    const int64_t n = dml_tensor_elems(g);
    LAUNCHED(k, dml_cu_accumulate_exact(acc->data, max_bits->data, g->data, scale_log2, first, n,
                                        k->stream));
}

static dml_err finish_exact(dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact(__func__, &d, acc, NULL, g, scale_log2));
    const int64_t n = dml_tensor_elems(g);
    LAUNCHED(k, dml_cu_finish_exact(g->data, acc->data, scale_log2, n, k->stream));
}

static dml_err accumulate_wide(dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g,
                               bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide(__func__, &d, hi, lo, max_bits, g));
    const int64_t n = dml_tensor_elems(g);
    LAUNCHED(k, dml_cu_accumulate_wide(hi->data, lo->data, max_bits->data, g->data, first, n,
                                       k->stream));
}

static dml_err finish_wide(dml_kctx *k, dml_out g, dml_in hi, dml_in lo)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide(__func__, &d, hi, lo, NULL, g));
    const int64_t n = dml_tensor_elems(g);
    LAUNCHED(k, dml_cu_finish_wide(g->data, hi->data, lo->data, n, k->stream));
}

static dml_err sum_squares(dml_kctx *k, dml_out partial, dml_in x)
{
    dml_dims d = {0};
    const int64_t n = dml_tensor_elems(x);
    DML_DIM(d, 'p') = (n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
    DML_TRY(dml_check_shapes(__func__, &d, "x=f[*] partial=d[p]", x, partial));
    LAUNCHED(k, dml_cu_sum_squares(partial->data, x->data, n, k->stream));
}

/* ---- optimizer ---- */

/* Tensors from t on that one launch takes. */
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
        table->blocks += (t[i].n + DML_CU_OPT_TILE - 1) / DML_CU_OPT_TILE;
    }
}

static dml_err sgd(dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    const dml_cu_sgd_rule rule = {p->lr, p->momentum, p->grad_scale, p->nesterov, p->first};
    for (int32_t i = 0; i < n_tensors; i += DML_CU_OPT_TENSORS) {
        dml_cu_opt_table table;
        fill_table(&table, t + i, n_tensors - i);
        DML_TRY(launched(k, dml_cu_sgd(&rule, &table, k->stream), __LINE__, __func__));
    }
    return DML_ERR_OK;
}

static dml_err adamw(dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    const dml_cu_adamw_rule rule = {p->lr,         p->beta1, p->beta2,     p->eps,
                                    p->grad_scale, p->bias1, p->sqrt_bias2};
    for (int32_t i = 0; i < n_tensors; i += DML_CU_OPT_TENSORS) {
        dml_cu_opt_table table;
        fill_table(&table, t + i, n_tensors - i);
        DML_TRY(launched(k, dml_cu_adamw(&rule, &table, k->stream), __LINE__, __func__));
    }
    return DML_ERR_OK;
}

const dml_kernel_table dml_cuda_kernels = {
    .open = open_context,
    .close = close_context,
    .weights_changed = weights_changed,
    .seal = seal,
    .linear_fwd = linear_fwd,
    .linear_bwd_input = linear_bwd_input,
    .linear_bwd_weight = linear_bwd_weight,
    .relu_fwd = relu_fwd,
    .relu_bwd = relu_bwd,
    .gelu_fwd = gelu_fwd,
    .gelu_bwd = gelu_bwd,
    .tanh_fwd = tanh_fwd,
    .tanh_bwd = tanh_bwd,
    .dropout = dropout,
    .add = add,
    .softmax_xent = softmax_xent,
    .mse_onehot = mse_onehot,
    .accumulate = accumulate,
    .accumulate_exact = accumulate_exact,
    .finish_exact = finish_exact,
    .accumulate_wide = accumulate_wide,
    .finish_wide = finish_wide,
    .sum_squares = sum_squares,
    .fill = fill,
    .sgd = sgd,
    .adamw = adamw,
    .delay = delay,
};
