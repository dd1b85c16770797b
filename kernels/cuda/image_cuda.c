/* kernels/cuda/image_cuda.c - pooling, batch norm and layouts of images. */
#include "kernels/cuda/context.h"
#include "kernels/cuda/entries.h"
#include "kernels/cuda/norm_cuda.h"

#include "kernels/check.h"

/* ---- pooling ---- */

static dml_cu_pool pool_of(const dml_pool2d *p, const dml_dims *d)
{
    return (dml_cu_pool){.n = DML_DIM(*d, 'n'),
                         .h = DML_DIM(*d, 'h'),
                         .w = DML_DIM(*d, 'w'),
                         .c = DML_DIM(*d, 'c'),
                         .oh = DML_DIM(*d, 'p'),
                         .ow = DML_DIM(*d, 'q'),
                         .kernel = {p->kernel[0], p->kernel[1]},
                         .stride = {p->stride[0], p->stride[1]},
                         .pad = {p->pad[0], p->pad[1]},
                         .count_include_pad = p->count_include_pad};
}

dml_err dml_cuda_max_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_out which, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_pool2d("max_pool_fwd", &d, p, y, x, which));
    const dml_cu_pool pool = pool_of(p, &d);
    DML_LAUNCHED(k, dml_cu_max_pool_fwd(&pool, y->data, which->data, x->data, x->dtype, k->stream));
}

dml_err dml_cuda_max_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy, dml_in which)
{
    dml_dims d = {0};
    DML_TRY(dml_check_pool2d("max_pool_bwd", &d, p, dy, dx, which));
    const dml_cu_pool pool = pool_of(p, &d);
    DML_LAUNCHED(k,
                 dml_cu_max_pool_bwd(&pool, dx->data, dy->data, which->data, dy->dtype, k->stream));
}

dml_err dml_cuda_avg_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_pool2d("avg_pool_fwd", &d, p, y, x, NULL));
    const dml_cu_pool pool = pool_of(p, &d);
    DML_LAUNCHED(k, dml_cu_avg_pool_fwd(&pool, y->data, x->data, x->dtype, k->stream));
}

dml_err dml_cuda_avg_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy)
{
    dml_dims d = {0};
    DML_TRY(dml_check_pool2d("avg_pool_bwd", &d, p, dy, dx, NULL));
    const dml_cu_pool pool = pool_of(p, &d);
    DML_LAUNCHED(k, dml_cu_avg_pool_bwd(&pool, dx->data, dy->data, dy->dtype, k->stream));
}

/* ---- batch norm ---- */

/* Samples times pixels: all dims but the channels. */
static int64_t norm_rows(dml_in x)
{
    return dml_tensor_elems(x) / x->dim[x->rank - 1];
}

dml_err dml_cuda_batch_norm_fwd(dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var,
                                dml_in x, dml_in gamma, dml_in beta)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_fwd", &d, y, x, NULL, mean, var, gamma, beta));
    bool done = false;
    if (k->library_norm)
        DML_TRY(dml_cuda_library_norm_fwd(k, eps, y, mean, var, x, gamma, beta, &done));
    if (done) return DML_ERR_OK;
    const int64_t rows = norm_rows(x), cols = DML_DIM(d, 'c');
    void *part = NULL;
    DML_TRY(dml_cuda_scratch(k, "batch_norm_fwd", dml_cu_batch_norm_bytes(rows, cols), &part));
    DML_LAUNCHED(k, dml_cu_batch_norm_fwd(eps, y->data, mean->data, var->data, x->data, gamma->data,
                                          beta->data, part, rows, cols, x->dtype, k->stream));
}

dml_err dml_cuda_batch_norm_eval(dml_kctx *k, float eps, dml_out y, dml_in x, dml_in mean,
                                 dml_in var, dml_in gamma, dml_in beta)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_eval", &d, y, x, NULL, mean, var, gamma, beta));
    DML_LAUNCHED(k, dml_cu_batch_norm_eval(eps, y->data, x->data, mean->data, var->data,
                                           gamma->data, beta->data, norm_rows(x), DML_DIM(d, 'c'),
                                           x->dtype, k->stream));
}

dml_err dml_cuda_batch_norm_bwd(dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta,
                                dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_bwd", &d, dx, x, dy, mean, var, gamma, NULL));
    DML_TRY(dml_check_shapes("batch_norm_bwd", &d, "dgamma=f[c] dbeta=f[c]", dgamma, dbeta));
    bool done = false;
    if (k->library_norm)
        DML_TRY(
            dml_cuda_library_norm_bwd(k, eps, dx, dgamma, dbeta, dy, x, mean, var, gamma, &done));
    if (done) return DML_ERR_OK;
    const int64_t rows = norm_rows(x), cols = DML_DIM(d, 'c');
    void *part = NULL;
    DML_TRY(dml_cuda_scratch(k, "batch_norm_bwd", dml_cu_batch_norm_bytes(rows, cols), &part));
    DML_LAUNCHED(k, dml_cu_batch_norm_bwd(eps, dx->data, dgamma->data, dbeta->data, dy->data,
                                          x->data, mean->data, var->data, gamma->data, part, rows,
                                          cols, x->dtype, k->stream));
}

dml_err dml_cuda_move_moments(dml_kctx *k, const dml_moments *p, dml_out mean, dml_out var,
                              dml_in slots)
{
    dml_dims d = {0};
    DML_TRY(dml_check_moments(&d, p, mean, var, slots));
    const dml_cu_moments moments = {.samples = p->samples,
                                    .pixels = p->pixels,
                                    .channels = DML_DIM(d, 'c'),
                                    .mbs = p->mbs,
                                    .mb_rows = p->mb_rows,
                                    .per_micro_batch = p->per_micro_batch,
                                    .momentum = p->momentum};
    DML_LAUNCHED(k, dml_cu_move_moments(&moments, mean->data, var->data, slots->data, k->stream));
}

/* ---- layouts ---- */

dml_err dml_cuda_nhwc_to_nchw(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nhwc_to_nchw", &d, x, y));
    DML_LAUNCHED(k, dml_cu_transpose(y->data, x->data, x->dim[0], x->dim[1] * x->dim[2], x->dim[3],
                                     dml_dtype_bytes(x->dtype), k->stream));
}

dml_err dml_cuda_nchw_to_nhwc(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nchw_to_nhwc", &d, y, x));
    DML_LAUNCHED(k, dml_cu_transpose(y->data, x->data, x->dim[0], x->dim[1], x->dim[2] * x->dim[3],
                                     dml_dtype_bytes(x->dtype), k->stream));
}
