/* base/rng.c - Philox4x32-10 from Random123. */
#include "engine/base/rng.h"

#include <Random123/philox.h>

/* SplitMix64's finaliser: a bijection, so distinct inputs give distinct keys. */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t dml_rng_key(uint64_t seed, dml_rng_stream stream, uint64_t id)
{
    return mix(mix(mix(seed) ^ (uint64_t)stream) ^ id);
}

void dml_rng_block(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[4])
{
    const philox4x32_ctr_t c = {
        {(uint32_t)lo, (uint32_t)(lo >> 32), (uint32_t)hi, (uint32_t)(hi >> 32)}};
    const philox4x32_key_t k = {{(uint32_t)key, (uint32_t)(key >> 32)}};
    const philox4x32_ctr_t r = philox4x32(c, k);
    for (int i = 0; i < 4; i++)
        out[i] = r.v[i];
}

void dml_rng_permutation(uint64_t key, int64_t n, int32_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (int32_t)i;
    uint32_t words[4];
    uint64_t block = 0;
    int have = 0;
    for (int64_t i = n - 1; i > 0; i--) {
        const uint32_t bound = (uint32_t)(i + 1), reject = (uint32_t)-bound % bound;
        uint64_t product;
        do {
            if (have == 0) {
                dml_rng_block(key, 0, block++, words);
                have = 4;
            }
            product = (uint64_t)words[--have] * bound;
        } while ((uint32_t)product < reject);
        const int64_t j = (int64_t)(product >> 32);
        const int32_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}
