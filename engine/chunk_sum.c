/* engine/chunk_sum.c - gradients added up by integer or by float, one switch for each verb. */
#include "engine/chunk_sum.h"

enum { WIDE_REPLICAS = 256 };

const dml_sum_info *dml_sum_info_of(dml_numerics numerics)
{
    static const dml_sum_info info[] = {
#define X(numerics, name, words, scaled) [DML_##numerics] = {name, words, scaled},
        DML_SUM_LIST(X)
#undef X
    };
    return &info[numerics];
}

dml_err dml_sum_check(const dml_spec *spec)
{
    const char *key =
        spec->parallelism.n_stages > 0 ? "parallelism.stages" : "parallelism.data_parallel_size";
    const int32_t replicas = dml_spec_replicas(spec);
    if (spec->training.numerics != DML_EXACT_WIDE || replicas <= WIDE_REPLICAS) return DML_ERR_OK;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "training.numerics exact_wide adds up at most %d replicas, not %d",
                         WIDE_REPLICAS, replicas);
}

/* ceil(log2) of what a step adds up. */
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

int32_t dml_sum_wide_log2(const dml_chunk *c)
{
    return 62 - 28 - log2_mbs(c);
}

/* One word of parameter i. */
static dml_tensor word_of(const dml_chunk *c, int32_t i, int32_t word)
{
    return dml_tensor_of(c->acc + word * c->arena_elems + c->param_at[i], DML_I64, 1,
                         &c->model->param[c->param_begin + i].elems);
}

static dml_tensor grad_of(const dml_chunk *c, int32_t i)
{
    return dml_tensor_of(c->g + c->param_at[i], DML_F32, 1,
                         &c->model->param[c->param_begin + i].elems);
}

static dml_tensor max_of(const dml_chunk *c, int32_t i)
{
    return dml_tensor_of(c->max_bits + i, DML_U32, 1, (const int64_t[]){1});
}

dml_err dml_sum_add(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i,
                    dml_in g, bool first)
{
    switch (c->spec->training.numerics) {
    case DML_FAST: {
        const dml_tensor sum = grad_of(c, i);
        return kt->accumulate(k, &sum, g, first);
    }
    case DML_EXACT: {
        const dml_tensor acc = word_of(c, i, 0), max_bits = max_of(c, i);
        return kt->accumulate_exact(k, &acc, &max_bits, g, dml_chunk_scale_log2(c, i), first);
    }
    case DML_EXACT_WIDE: {
        const dml_tensor hi = word_of(c, i, 0), lo = word_of(c, i, 1), max_bits = max_of(c, i);
        return kt->accumulate_wide(k, &hi, &lo, &max_bits, g, first);
    }
    }
    DML_FAIL(DML_ERR_BUG, "numerics %d", (int)c->spec->training.numerics);
}

dml_err dml_sum_finish(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i)
{
    const dml_tensor g = grad_of(c, i);
    switch (c->spec->training.numerics) {
    case DML_FAST: return DML_ERR_OK;
    case DML_EXACT: {
        const dml_tensor acc = word_of(c, i, 0);
        return kt->finish_exact(k, &g, &acc, dml_chunk_scale_log2(c, i));
    }
    case DML_EXACT_WIDE: {
        const dml_tensor hi = word_of(c, i, 0), lo = word_of(c, i, 1);
        return kt->finish_wide(k, &g, &hi, &lo);
    }
    }
    DML_FAIL(DML_ERR_BUG, "numerics %d", (int)c->spec->training.numerics);
}
