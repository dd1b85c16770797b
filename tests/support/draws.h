/* tests/support/draws.h - a test program's own row of random numbers: the same for a seed, and a failure can name the place
 * in it. */
#ifndef DML_TEST_DRAWS_H
#define DML_TEST_DRAWS_H

#include "engine/base/rng.h"

static uint64_t seed = 1, drawn; /* how many there were so far */

/* 0 .. n - 1 */
static inline int32_t below(int32_t n)
{
    uint32_t word[4];
    dml_rng_block(seed, 0, drawn++, word);
    return (int32_t)(word[0] % (uint32_t)n);
}

#endif
