/* kernels/cpu/exact.c - order-free sums and the norm's partial sums. */
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

#include <math.h>
#include <string.h>

typedef struct exact_sum {
    uint64_t *acc; /* unsigned: the sum wraps */
    float *g_out;
    const float *g;
    float scale;
    uint32_t max; /* over ranges; order-free, so atomic */
} exact_sum;

/* As the reference rounds it: beyond int64 the nearest float inside, NaN the upper end. */
static inline uint64_t rounded(float v)
{
    const float top = 0x1.fffffep62f, inside = v < top ? v : top;
    return (uint64_t)(int64_t)rintf(inside > -0x1p63f ? inside : -0x1p63f);
}

static inline uint32_t magnitude_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits & UINT32_C(0x7fffffff);
}

static void raise_max(exact_sum *s, uint32_t max)
{
    uint32_t seen = __atomic_load_n(&s->max, __ATOMIC_RELAXED);
    while (max > seen && !__atomic_compare_exchange_n(&s->max, &seen, max, true, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED))
        continue;
}

static void range_first(void *arg, int64_t begin, int64_t end)
{
    exact_sum *s = arg;
    uint64_t *acc = s->acc;
    const float *g = s->g, scale = s->scale;
    uint32_t max = 0;
#pragma omp simd reduction(max : max)
    for (int64_t i = begin; i < end; i++) {
        const uint32_t bits = magnitude_bits(g[i]);
        max = bits > max ? bits : max;
        acc[i] = rounded(g[i] * scale);
    }
    raise_max(s, max);
}

static void range_next(void *arg, int64_t begin, int64_t end)
{
    exact_sum *s = arg;
    uint64_t *acc = s->acc;
    const float *g = s->g, scale = s->scale;
    uint32_t max = 0;
#pragma omp simd reduction(max : max)
    for (int64_t i = begin; i < end; i++) {
        const uint32_t bits = magnitude_bits(g[i]);
        max = bits > max ? bits : max;
        acc[i] += rounded(g[i] * scale);
    }
    raise_max(s, max);
}

dml_err dml_cpu_accumulate_exact(dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g,
                                 int32_t scale_log2, bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact("accumulate_exact", &d, acc, max_bits, g, scale_log2));
    uint32_t *max = max_bits->data;
    exact_sum s = {.acc = acc->data, .g = g->data, .scale = ldexpf(1.0f, scale_log2), .max = *max};
    dml_par_ranges(k->threads, dml_tensor_elems(g), 20, first ? range_first : range_next, &s);
    *max = s.max;
    return DML_ERR_OK;
}

static void range_finish(void *arg, int64_t begin, int64_t end)
{
    const exact_sum s = *(const exact_sum *)arg;
#pragma omp simd
    for (int64_t i = begin; i < end; i++)
        s.g_out[i] = (float)(int64_t)s.acc[i] * s.scale;
}

dml_err dml_cpu_finish_exact(dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2)
{
    dml_dims d = {0};
    DML_TRY(dml_check_exact("finish_exact", &d, acc, NULL, g, scale_log2));
    exact_sum s = {.acc = acc->data, .g_out = g->data, .scale = ldexpf(1.0f, -scale_log2)};
    dml_par_ranges(k->threads, dml_tensor_elems(g), 12, range_finish, &s);
    return DML_ERR_OK;
}

typedef struct squares {
    double *partial;
    const float *x;
    int64_t n;
} squares;

/* Lane l takes elements l, l + 8, ...; the product of two floats is exact in double. */
static void chunk_squares(void *arg, int64_t chunk, int32_t thread)
{
    (void)thread;
    const squares *s = arg;
    const float *x = s->x + chunk * DML_NORM_CHUNK;
    const int64_t left = s->n - chunk * DML_NORM_CHUNK;
    const int64_t n = left < DML_NORM_CHUNK ? left : DML_NORM_CHUNK;
    double lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
#pragma omp simd
        for (int64_t l = 0; l < 8; l++)
            lane[l] += (double)x[i + l] * (double)x[i + l];
    for (int64_t l = 0; i + l < n; l++)
        lane[l] += (double)x[i + l] * (double)x[i + l];
    s->partial[chunk] =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

dml_err dml_cpu_sum_squares(dml_kctx *k, dml_out partial, dml_in x)
{
    dml_dims d = {0};
    squares s = {.partial = partial->data, .x = x->data, .n = dml_tensor_elems(x)};
    const int64_t chunks = (s.n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
    DML_DIM(d, 'p') = chunks;
    DML_TRY(dml_check_shapes("sum_squares", &d, "x=f[*] partial=d[p]", x, partial));
    dml_par_items(chunks < 16 ? 1 : k->threads, chunks, chunk_squares, &s);
    return DML_ERR_OK;
}
