/* kernels/ref/exact.c - sums whose bits do not depend on their order, and the norm's partial sums. */
#include "kernels/check.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

/* rint to even as int64.  Beyond int64 the nearest float inside, NaN as the upper end: the caller's
 * maximum has told of both, and a fixed value keeps repeats equal. */
static int64_t rounded(float v)
{
    const float top = 0x1.fffffep62f, inside = v < top ? v : top;
    return (int64_t)rintf(inside > -0x1p63f ? inside : -0x1p63f);
}

static void raise_max(uint32_t *max, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits &= UINT32_C(0x7fffffff);
    *max = bits > *max ? bits : *max;
}

dml_err dml_ref_accumulate_exact(dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g,
                                 int32_t scale_log2, bool first)
{
    (void)k;
    dml_dims d = {0};
    DML_TRY(dml_check_exact("accumulate_exact", &d, acc, max_bits, g, scale_log2));
    uint64_t *sum = acc->data; /* unsigned: the sum wraps */
    uint32_t *max = max_bits->data;
    const float *value = g->data, scale = ldexpf(1.0f, scale_log2);
    for (int64_t i = 0; i < dml_tensor_elems(g); i++) {
        raise_max(max, value[i]);
        sum[i] = (first ? 0 : sum[i]) + (uint64_t)rounded(value[i] * scale);
    }
    return DML_ERR_OK;
}

dml_err dml_ref_finish_exact(dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2)
{
    (void)k;
    dml_dims d = {0};
    DML_TRY(dml_check_exact("finish_exact", &d, acc, NULL, g, scale_log2));
    const float scale = ldexpf(1.0f, -scale_log2);
    for (int64_t i = 0; i < dml_tensor_elems(g); i++)
        ((float *)g->data)[i] = (float)((const int64_t *)acc->data)[i] * scale;
    return DML_ERR_OK;
}

/* 128 bits, signed: a wide sum in one piece.  Unsigned arithmetic, since hi may wrap. */
typedef unsigned __int128 whole;

static whole join(int64_t hi, int64_t lo)
{
    return ((whole)(__int128)hi << 56) + (uint64_t)lo;
}

dml_err dml_ref_accumulate_wide(dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g,
                                bool first)
{
    (void)k;
    dml_dims d = {0};
    DML_TRY(dml_check_wide("accumulate_wide", &d, hi, lo, max_bits, g));
    int64_t *high = hi->data, *low = lo->data;
    const float *value = g->data;
    for (int64_t i = 0; i < dml_tensor_elems(g); i++) {
        raise_max(max_bits->data, value[i]);
        const float inside = copysignf(fminf(fabsf(value[i]), 0x1.fffffep34f), value[i]);
        const double q = rint((double)inside * 0x1p84);
        const whole sum = (first ? 0 : join(high[i], low[i])) + (whole)(__int128)q;
        high[i] = (int64_t)(uint64_t)(sum >> 56);
        low[i] = (int64_t)(sum & ((UINT64_C(1) << 56) - 1));
    }
    return DML_ERR_OK;
}

dml_err dml_ref_finish_wide(dml_kctx *k, dml_out g, dml_in hi, dml_in lo)
{
    (void)k;
    dml_dims d = {0};
    DML_TRY(dml_check_wide("finish_wide", &d, hi, lo, NULL, g));
    const int64_t *high = hi->data, *low = lo->data;
    for (int64_t i = 0; i < dml_tensor_elems(g); i++)
        ((float *)g->data)[i] = (float)(__int128)join(high[i], low[i]) * 0x1p-84f;
    return DML_ERR_OK;
}

dml_err dml_ref_sum_squares(dml_kctx *k, dml_out partial, dml_in x)
{
    (void)k;
    dml_dims d = {0};
    const int64_t n = dml_tensor_elems(x);
    DML_DIM(d, 'p') = (n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
    DML_TRY(dml_check_shapes("sum_squares", &d, "x=f[*] partial=d[p]", x, partial));
    const float *v = x->data;
    for (int64_t p = 0; p < DML_DIM(d, 'p'); p++) {
        double lane[8] = {0};
        for (int64_t i = 0; i < DML_NORM_CHUNK && p * DML_NORM_CHUNK + i < n; i++) {
            const double value = (double)v[p * DML_NORM_CHUNK + i];
            lane[i % 8] += value * value; /* the product of two floats is exact in double */
        }
        ((double *)partial->data)[p] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
                                       ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
    return DML_ERR_OK;
}
