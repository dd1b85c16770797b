/* engine/model_init.c - initial values of a parameter, from the seed and its name alone. */
#include "engine/model.h"

#include "engine/base/hash.h"
#include "engine/base/rng.h"

#include <math.h>

static void constant(const dml_param *p, float value, float *out)
{
    for (int64_t i = 0; i < p->elems; i++)
        out[i] = value;
}

/* Element i is word i % 4 of block i / 4, on [-bound, bound). */
static void uniform(const dml_param *p, uint64_t key, double bound, float *out)
{
    uint32_t word[4] = {0};
    for (int64_t i = 0; i < p->elems; i++) {
        if (i % 4 == 0) dml_rng_block(key, 0, (uint64_t)i / 4, word);
        out[i] = (float)(bound * (2.0 * (double)dml_rng_unit(word[i % 4]) - 1.0));
    }
}

/* Box and Muller: two words give two normals, sqrt(-2 ln u) times cos and sin of 2 pi v, u on (0, 1]. */
static void normal(const dml_param *p, uint64_t key, double deviation, float *out)
{
    const double turn = 6.283185307179586;
    uint32_t word[4] = {0};
    for (int64_t i = 0; i < p->elems; i++) {
        if (i % 4 == 0) dml_rng_block(key, 0, (uint64_t)i / 4, word);
        const int64_t pair = i % 4 / 2 * 2;
        const double radius = sqrt(-2.0 * log(((double)word[pair] + 1.0) * 0x1p-32)),
                     angle = turn * (double)word[pair + 1] * 0x1p-32;
        out[i] = (float)(deviation * radius * (i % 2 == 0 ? cos(angle) : sin(angle)));
    }
}

static void pytorch_default(const dml_param *p, uint64_t key, float *out)
{
    uniform(p, key, 1.0 / sqrt((double)p->fan_in), out);
}

void dml_param_init(const dml_spec *spec, const dml_param *p, float *out)
{
    const uint64_t key = dml_rng_key(spec->run.seed, DML_RNG_INIT, dml_hash_text(p->name));
    if (p->role == DML_PARAM_SCALE) {
        constant(p, spec->model.layers[p->layer].zero_init ? 0 : 1, out);
        return;
    }
    if (p->fan_in == 0) {
        constant(p, 0, out);
        return;
    }
    switch (spec->model.init) {
    case DML_INIT_KAIMING_UNIFORM: pytorch_default(p, key, out); break;
    case DML_INIT_KAIMING_NORMAL:
        if (p->role == DML_PARAM_WEIGHT && p->rank == 4)
            normal(p, key, sqrt(2.0 / (double)p->fan_out), out);
        else
            pytorch_default(p, key, out);
        break;
    case DML_INIT_XAVIER_UNIFORM:
        if (p->role == DML_PARAM_WEIGHT)
            uniform(p, key, sqrt(6.0 / (double)(p->fan_in + p->fan_out)), out);
        else
            constant(p, 0, out);
        break;
    }
}
