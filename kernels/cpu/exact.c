/* kernels/cpu/exact.c - order-free sums and the norm's partial sums. */
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

#include <math.h>
#include <string.h>

enum { LO_BITS = 56 };
#define LO_MASK ((UINT64_C(1) << LO_BITS) - 1)

typedef struct exact_sum {
    uint64_t *acc; /* unsigned: the sum wraps; wide: hi */
    uint64_t *lo;  /* wide only */
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

/* ---- wide: hi 2^-28 + lo 2^-84, lo kept in 0 .. 2^56-1 ---- */

/* The nearest float within +-2^35, by bits: the compiler would turn a minimum of floats into branches. */
static inline float inside_wide(float v, uint32_t magnitude)
{
    const uint32_t top = 0x50ffffff, inside = magnitude < top ? magnitude : top;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = (bits & UINT32_C(0x80000000)) | inside;
    memcpy(&v, &bits, sizeof bits);
    return v;
}

/* rint_even(g 2^84) = whole 2^56 + rint_even(part 2^56): whole 2^56 is even, and all but rint is exact. */
static inline void wide_range(exact_sum *s, int64_t begin, int64_t end, bool first)
{
    uint64_t *hi = s->acc, *lo = s->lo;
    const float *g = s->g;
    uint32_t max = 0;
#pragma omp simd reduction(max : max)
    for (int64_t i = begin; i < end; i++) {
        const uint32_t bits = magnitude_bits(g[i]);
        max = bits > max ? bits : max;
        const float v = inside_wide(g[i], bits) * 0x1p28f;
        const int64_t whole = (int64_t)v;
        const int64_t part = (int64_t)rintf((v - (float)whole) * 0x1p56f);
        const int64_t low = (first ? 0 : (int64_t)lo[i]) + part; /* in -2^56 .. 2^57 */
        hi[i] = (first ? 0 : hi[i]) + (uint64_t)whole + (uint64_t)(low >> LO_BITS);
        lo[i] = (uint64_t)low & LO_MASK;
    }
    raise_max(s, max);
}

static void range_wide_first(void *arg, int64_t begin, int64_t end)
{
    wide_range(arg, begin, end, true);
}

static void range_wide_next(void *arg, int64_t begin, int64_t end)
{
    wide_range(arg, begin, end, false);
}

dml_err dml_cpu_accumulate_wide(dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g,
                                bool first)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide("accumulate_wide", &d, hi, lo, max_bits, g));
    uint32_t *max = max_bits->data;
    exact_sum s = {.acc = hi->data, .lo = lo->data, .g = g->data, .max = *max};
    dml_par_ranges(k->threads, dml_tensor_elems(g), 36, first ? range_wide_first : range_wide_next,
                   &s);
    *max = s.max;
    return DML_ERR_OK;
}

/* A sum of 118 bits to float, rounded once.  Its top 64 bits are enough, the last of them set when anything
 * below is (round to odd, Boldo and Melquiond 2008): three windows, each with over 26 bits of the sum. */
static inline float wide_to_float(uint64_t high, uint64_t low)
{
    const int64_t hi = (int64_t)(high + (low >> LO_BITS));
    const uint64_t lo = low & LO_MASK, top = (uint64_t)hi;
    const bool below_6 = hi >= -64 && hi < 64;
    const bool below_34 = hi >= -(INT64_C(1) << 34) && hi < INT64_C(1) << 34;
    const uint64_t small = (top << 56) + lo;
    const uint64_t middle = ((top << 28) + (lo >> 28)) | ((lo & ((1u << 28) - 1)) != 0);
    const uint64_t large = top | (lo != 0);
    const float unit = below_6 ? 0x1p-84f : below_34 ? 0x1p-56f : 0x1p-28f;
    return (float)(int64_t)(below_6 ? small : below_34 ? middle : large) * unit;
}

static void range_finish_wide(void *arg, int64_t begin, int64_t end)
{
    const exact_sum s = *(const exact_sum *)arg;
#pragma omp simd
    for (int64_t i = begin; i < end; i++)
        s.g_out[i] = wide_to_float(s.acc[i], s.lo[i]);
}

dml_err dml_cpu_finish_wide(dml_kctx *k, dml_out g, dml_in hi, dml_in lo)
{
    dml_dims d = {0};
    DML_TRY(dml_check_wide("finish_wide", &d, hi, lo, NULL, g));
    exact_sum s = {.acc = hi->data, .lo = lo->data, .g_out = g->data};
    dml_par_ranges(k->threads, dml_tensor_elems(g), 20, range_finish_wide, &s);
    return DML_ERR_OK;
}

/* ---- the norm ---- */

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
