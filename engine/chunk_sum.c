/* engine/chunk_sum.c - adding gradients up, by training.numerics. */
#include "engine/chunk_sum.h"

const dml_sum_info *dml_sum_info_of(dml_numerics numerics)
{
    static const dml_sum_info info[] = {
#define X(name, words, scaled) [DML_##name] = {words, scaled},
        DML_SUM_LIST(X)
#undef X
    };
    return &info[numerics];
}

/* ceil(log2) of the addends of a step. */
static int32_t log2_mbs(const dml_chunk *c)
{
    int32_t log2 = 0;
    while ((INT64_C(1) << log2) < c->mbs)
        log2++;
    return log2;
}

int32_t dml_chunk_scale_log2(const dml_chunk *c, int32_t p)
{
    const int32_t s = 62 - log2_mbs(c) - c->exponent[p];
    return s < -126 ? -126 : s > 126 ? 126 : s;
}

int32_t dml_sum_wide_limit_log2(const dml_chunk *c)
{
    return 62 - 28 - log2_mbs(c);
}

/* Parameter i within one plane of the accumulators. */
static dml_tensor words(const dml_chunk *c, int32_t i, int32_t plane, int64_t elems)
{
    return dml_tensor_of(c->acc + plane * c->arena_elems + c->param_at[i], DML_I64, 1, &elems);
}

static dml_tensor sum_of(const dml_chunk *c, int32_t i, int64_t elems)
{
    return dml_tensor_of(c->g + c->param_at[i], DML_F32, 1, &elems);
}

dml_err dml_sum_add(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i, dml_in g,
                    bool first)
{
    const dml_numerics numerics = c->spec->training.numerics;
    const int64_t elems = dml_tensor_elems(g), one = 1;
    if (numerics == DML_FAST) {
        const dml_tensor sum = sum_of(c, i, elems);
        return kt->accumulate(k, &sum, g, first);
    }
    const dml_tensor acc = words(c, i, 0, elems),
                     max_bits = dml_tensor_of(c->max_bits + i, DML_U32, 1, &one);
    if (numerics == DML_EXACT)
        return kt->accumulate_exact(k, &acc, &max_bits, g, dml_chunk_scale_log2(c, i), first);
    const dml_tensor lo = words(c, i, 1, elems);
    return kt->accumulate_wide(k, &acc, &lo, &max_bits, g, first);
}

dml_err dml_sum_finish(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i)
{
}
