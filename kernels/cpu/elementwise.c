/* kernels/cpu/elementwise.c - maps of one element, and dropout.  Memory-bound, so a map is one loop
 * that the compiler vectorises, cut among threads anywhere. */
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/curves.h"
#include "kernels/cpu/par.h"
#include "kernels/cpu/wide.h"

#include <string.h>

/* Of one map: y[i] from a[i] and, where it has a second input, b[i].  y may be a. */
typedef struct map {
    float *y;
    const float *a, *b;
} map;

/* The same map over elements of another type, a tile at a time. */
typedef struct half_map {
    dml_dtype type;
    char *y;
    const char *a, *b;
    dml_par_range range; /* over floats */
} half_map;

enum { HALF_TILE = 256 };

static void range_half(void *arg, int64_t begin, int64_t end)
{
    const half_map h = *(const half_map *)arg;
    const int64_t bytes = dml_dtype_bytes(h.type);
    float y[HALF_TILE], a[HALF_TILE], b[HALF_TILE];
    map tile = {.y = y, .a = a, .b = b};
    for (int64_t i = begin; i < end; i += HALF_TILE) {
        const int64_t n = end - i < HALF_TILE ? end - i : HALF_TILE;
        dml_cpu_load(a, h.a + i * bytes, h.type, n);
        if (h.b) dml_cpu_load(b, h.b + i * bytes, h.type, n);
        h.range(&tile, 0, n);
        dml_cpu_store(h.y + i * bytes, h.type, y, n);
    }
}

/* y = range(a, b); b may be NULL. */
static void run_map(dml_kctx *k, dml_out y, dml_in a, dml_in b, dml_par_range range)
{
    const int64_t n = dml_tensor_elems(y), cost = (b ? 3 : 2) * dml_dtype_bytes(y->dtype);
    if (dml_cpu_is_half(y)) {
        half_map h = {y->dtype, y->data, a->data, b ? b->data : NULL, range};
        dml_par_ranges(k->threads, n, cost, range_half, &h);
    } else {
        map m = {.y = y->data, .a = a->data, .b = b ? b->data : NULL};
        dml_par_ranges(k->threads, n, cost, range, &m);
    }
}

/* clang-format off */
/*    entry                 a: the first input's element, b: the second's.  NaN passes relu            */
#define FORWARD_LIST(X)                                                                             \
    X(relu_fwd,             a <= 0.0f ? 0.0f : a)                                                   \
    X(gelu_fwd,             a * dml_vnormal_cdf(a))                                                 \
    X(gelu_tanh_fwd,        dml_vgelu_tanh(a))                                                      \
    X(tanh_fwd,             dml_vtanh(a))
#define BACKWARD_LIST(X)                                                                            \
    X(relu_bwd,  y,         b <= 0.0f ? 0.0f : a)                                                   \
    X(gelu_bwd,  x,         a * dml_vgelu_slope(b))                                                 \
    X(gelu_tanh_bwd, x,     a * dml_vgelu_tanh_slope(b))                                            \
    X(tanh_bwd,  y,         a * (1.0f - b * b))
/* clang-format on */

#define X(entry, result)                                             \
    static void range_##entry(void *arg, int64_t begin, int64_t end) \
    {                                                                \
        const map m = *(const map *)arg;                             \
        _Pragma("omp simd") for (int64_t i = begin; i < end; i++)    \
        {                                                            \
            const float a = m.a[i];                                  \
            m.y[i] = result;                                         \
        }                                                            \
    }                                                                \
    dml_err dml_cpu_##entry(dml_kctx *k, dml_out y, dml_in x)        \
    {                                                                \
        dml_dims d = {0};                                            \
        DML_TRY(dml_check_same(#entry, &d, y, x, NULL));             \
        run_map(k, y, x, NULL, range_##entry);                       \
        return DML_ERR_OK;                                           \
    }
FORWARD_LIST(X)
#undef X

#define X(entry, second, result)                                               \
    static void range_##entry(void *arg, int64_t begin, int64_t end)           \
    {                                                                          \
        const map m = *(const map *)arg;                                       \
        _Pragma("omp simd") for (int64_t i = begin; i < end; i++)              \
        {                                                                      \
            const float a = m.a[i], b = m.b[i];                                \
            m.y[i] = result;                                                   \
        }                                                                      \
    }                                                                          \
    dml_err dml_cpu_##entry(dml_kctx *k, dml_out dx, dml_in dy, dml_in second) \
    {                                                                          \
        dml_dims d = {0};                                                      \
        DML_TRY(dml_check_same(#entry, &d, dx, dy, second));                   \
        run_map(k, dx, dy, second, range_##entry);                             \
        return DML_ERR_OK;                                                     \
    }
BACKWARD_LIST(X)
#undef X

static void range_add(void *arg, int64_t begin, int64_t end)
{
    const map m = *(const map *)arg;
#pragma omp simd
    for (int64_t i = begin; i < end; i++)
        m.y[i] = m.a[i] + m.b[i];
}

dml_err dml_cpu_add(dml_kctx *k, dml_out y, dml_in a, dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_same("add", &d, y, a, b));
    run_map(k, y, a, b, range_add);
    return DML_ERR_OK;
}

static void range_copy(void *arg, int64_t begin, int64_t end)
{
    const map *m = arg;
    memcpy(m->y + begin, m->a + begin, (size_t)(end - begin) * sizeof(float));
}

dml_err dml_cpu_accumulate(dml_kctx *k, dml_out acc, dml_in g, bool first)
{
    DML_TRY(dml_check_accumulate(acc, g));
    map m = {.y = acc->data, .a = first ? g->data : acc->data, .b = g->data};
    dml_par_ranges(k->threads, dml_tensor_elems(g), 12, first ? range_copy : range_add, &m);
    return DML_ERR_OK;
}

typedef struct filling {
    float *y;
    float value;
} filling;

static void range_fill(void *arg, int64_t begin, int64_t end)
{
    const filling f = *(const filling *)arg;
#pragma omp simd
    for (int64_t i = begin; i < end; i++)
        f.y[i] = f.value;
}

dml_err dml_cpu_fill(dml_kctx *k, dml_out y, float value)
{
    DML_TRY(dml_check_fill(y, value));
    if (y->dtype != DML_F32) {
        memset(y->data, 0, (size_t)dml_tensor_bytes(y));
        return DML_ERR_OK;
    }
    filling f = {.y = y->data, .value = value};
    dml_par_ranges(k->threads, dml_tensor_elems(y), 4, range_fill, &f);
    return DML_ERR_OK;
}

/* Dropout: one Philox block of four words masks four elements of a sample. */
typedef struct masking {
    const dml_dropout *p;
    int64_t step;
    dml_dtype type;
    char *y;
    const char *x;
    int64_t per_sample, tiles; /* elements, and tiles, of a sample */
} masking;

enum { TILE_BLOCKS = 64, TILE = 4 * TILE_BLOCKS, PHILOX_ROUNDS = 10 };

/* Philox4x32-10 of blocks first .. first + n-1 of a sample, one word of each at a time: the same
 * numbers as dml_rng_block, in a form that vectorises. */
static void philox_tile(const masking *m, uint32_t sample, uint32_t first, uint32_t n,
                        uint32_t word[TILE])
{
#pragma omp simd
    for (uint32_t b = 0; b < n; b++) {
        uint32_t c0 = first + b, c1 = sample;
        uint32_t c2 = (uint32_t)m->step, c3 = (uint32_t)((uint64_t)m->step >> 32);
        uint32_t k0 = (uint32_t)m->p->key, k1 = (uint32_t)(m->p->key >> 32);
        for (int round = 0; round < PHILOX_ROUNDS; round++) {
            const uint64_t m0 = (uint64_t)UINT32_C(0xD2511F53) * c0;
            const uint64_t m1 = (uint64_t)UINT32_C(0xCD9E8D57) * c2;
            c0 = (uint32_t)(m1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(m0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)m1;
            c3 = (uint32_t)m0;
            k0 += UINT32_C(0x9E3779B9);
            k1 += UINT32_C(0xBB67AE85);
        }
        word[4 * b] = c0;
        word[4 * b + 1] = c1;
        word[4 * b + 2] = c2;
        word[4 * b + 3] = c3;
    }
}

static void mask_tile(void *arg, int64_t item, int32_t thread)
{
    (void)thread;
    const masking *m = arg;
    const int64_t row = item / m->tiles, first = item % m->tiles * TILE;
    const int64_t left = m->per_sample - first, n = left < TILE ? left : TILE;
    uint32_t word[TILE];
    philox_tile(m, (uint32_t)(m->p->first_sample + row), (uint32_t)(first / 4),
                (uint32_t)(n + 3) / 4, word);
    const float rate = m->p->rate, scale = 1.0f / (1.0f - rate);
    const int64_t at = (row * m->per_sample + first) * dml_dtype_bytes(m->type);
    float x[TILE];
    dml_cpu_load(x, m->x + at, m->type, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float unit = (float)(int32_t)(word[i] >> 8) * 0x1p-24f; /* dml_rng_unit */
        x[i] = unit >= rate ? x[i] * scale : 0.0f;
    }
    dml_cpu_store(m->y + at, m->type, x, n);
}

dml_err dml_cpu_dropout(dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_dropout(p));
    DML_TRY(dml_check_same("dropout", &d, y, x, NULL));
    masking m = {.p = p,
                 .step = k->words.step,
                 .type = x->dtype,
                 .y = y->data,
                 .x = x->data,
                 .per_sample = dml_tensor_row_elems(x)};
    m.tiles = (m.per_sample + TILE - 1) / TILE;
    const int64_t items = x->dim[0] * m.tiles;
    dml_par_items(items < 64 ? 1 : k->threads, items, mask_tile, &m);
    return DML_ERR_OK;
}
