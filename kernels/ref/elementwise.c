/* kernels/ref/elementwise.c - maps of one element, sums, dropout, layouts, fill. */
#include "kernels/check.h"
#include "kernels/ref/curves.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

#include "engine/base/rng.h"

#include <string.h>

/* clang-format off */
/*    entry      second argument    a: the first argument's element, b: the second's (backward).  A NaN
                                    goes through the comparisons of relu: a diverged run must show it */
#define FORWARD_LIST(X)                                                                         \
    X(relu_fwd,                     a <= 0.0 ? 0.0 : a)                                         \
    X(gelu_fwd,                     a * dml_normal_cdf(a))                                      \
    X(gelu_tanh_fwd,                dml_gelu_tanh(a))                                           \
    X(tanh_fwd,                     tanh(a))
#define BACKWARD_LIST(X)                                                                        \
    X(relu_bwd,  y,                 b <= 0.0 ? 0.0 : a)                                         \
    X(gelu_bwd,  x,                 a * (dml_normal_cdf(b) + b * dml_normal_pdf(b)))            \
    X(gelu_tanh_bwd, x,             a * dml_gelu_tanh_slope(b))                                 \
    X(tanh_bwd,  y,                 a * (1.0 - b * b))
/* clang-format on */

#define X(entry, result)                                      \
    dml_err dml_ref_##entry(dml_kctx *k, dml_out y, dml_in x) \
    {                                                         \
        (void)k;                                              \
        dml_dims d = {.real64 = true};                        \
        DML_TRY(dml_check_same(#entry, &d, y, x, NULL));      \
        for (int64_t i = 0; i < dml_tensor_elems(x); i++) {   \
            const double a = dml_real_get(x, i);              \
            dml_real_put(y, i, result);                       \
        }                                                     \
        return DML_ERR_OK;                                    \
    }
FORWARD_LIST(X)
#undef X

#define X(entry, second, result)                                               \
    dml_err dml_ref_##entry(dml_kctx *k, dml_out dx, dml_in dy, dml_in second) \
    {                                                                          \
        (void)k;                                                               \
        dml_dims d = {.real64 = true};                                         \
        DML_TRY(dml_check_same(#entry, &d, dx, dy, second));                   \
        for (int64_t i = 0; i < dml_tensor_elems(dy); i++) {                   \
            const double a = dml_real_get(dy, i), b = dml_real_get(second, i); \
            dml_real_put(dx, i, result);                                       \
        }                                                                      \
        return DML_ERR_OK;                                                     \
    }
BACKWARD_LIST(X)
#undef X

dml_err dml_ref_add(dml_kctx *k, dml_out y, dml_in a, dml_in b)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_same("add", &d, y, a, b));
    for (int64_t i = 0; i < dml_tensor_elems(y); i++)
        dml_real_put(y, i, dml_real_get(a, i) + dml_real_get(b, i));
    return DML_ERR_OK;
}

dml_err dml_ref_accumulate(dml_kctx *k, dml_out acc, dml_in g, bool first)
{
    (void)k;
    DML_TRY(dml_check_accumulate(acc, g));
    float *to = acc->data;
    const float *from = g->data;
    for (int64_t i = 0; i < dml_tensor_elems(g); i++)
        to[i] = first ? from[i] : to[i] + from[i];
    return DML_ERR_OK;
}

dml_err dml_ref_convert(dml_kctx *k, dml_out y, dml_in x)
{
    (void)k;
    DML_TRY(dml_check_convert(y, x));
    for (int64_t i = 0; i < dml_tensor_elems(x); i++)
        dml_real_put(y, i, dml_real_get(x, i));
    return DML_ERR_OK;
}

dml_err dml_ref_dropout(dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x)
{
    const int64_t step = dml_ref_step(k).step;
    dml_dims d = {0};
    DML_TRY(dml_check_dropout(p));
    DML_TRY(dml_check_same("dropout", &d, y, x, NULL));
    const int64_t per_sample = dml_tensor_row_elems(x);
    const float scale = 1.0f / (1.0f - p->rate);
    for (int64_t i = 0; i < dml_tensor_elems(x); i++) {
        const uint64_t sample = (uint64_t)(p->first_sample + i / per_sample);
        const uint64_t e = (uint64_t)(i % per_sample);
        uint32_t word[4];
        dml_rng_block(p->key, (uint64_t)step, sample << 32 | e / 4, word);
        const bool kept = dml_rng_unit(word[e % 4]) >= p->rate;
        const float value = (float)dml_real_get(x, i) * scale; /* rounded here, too */
        dml_real_put(y, i, kept ? (double)value : 0.0);
    }
    return DML_ERR_OK;
}

dml_err dml_ref_nhwc_to_nchw(dml_kctx *k, dml_out y, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_layout("nhwc_to_nchw", &d, x, y));
    for (int64_t n = 0; n < x->dim[0]; n++)
        for (int64_t h = 0; h < x->dim[1]; h++)
            for (int64_t w = 0; w < x->dim[2]; w++)
                for (int64_t c = 0; c < x->dim[3]; c++)
                    dml_real_put(y, dml_real_at(y, n, c, h, w),
                                 dml_real_get(x, dml_real_at(x, n, h, w, c)));
    return DML_ERR_OK;
}

dml_err dml_ref_nchw_to_nhwc(dml_kctx *k, dml_out y, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_layout("nchw_to_nhwc", &d, y, x));
    for (int64_t n = 0; n < y->dim[0]; n++)
        for (int64_t h = 0; h < y->dim[1]; h++)
            for (int64_t w = 0; w < y->dim[2]; w++)
                for (int64_t c = 0; c < y->dim[3]; c++)
                    dml_real_put(y, dml_real_at(y, n, h, w, c),
                                 dml_real_get(x, dml_real_at(x, n, c, h, w)));
    return DML_ERR_OK;
}

dml_err dml_ref_fill(dml_kctx *k, dml_out y, float value)
{
    (void)k;
    DML_TRY(dml_check_fill(y, value));
    if (y->dtype == DML_F32)
        for (int64_t i = 0; i < dml_tensor_elems(y); i++)
            ((float *)y->data)[i] = value;
    else
        memset(y->data, 0, (size_t)dml_tensor_bytes(y));
    return DML_ERR_OK;
}
