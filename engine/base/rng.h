/* base/rng.h - counter-based random numbers: Philox4x32-10 (Random123, equal to cuRAND's).
 *
 * No state: a draw is a pure function of (key, counter), so it does not matter which worker makes it.
 * Every stream names what it is for, so that no two uses share numbers.
 */
#ifndef DML_BASE_RNG_H
#define DML_BASE_RNG_H

#include <stdint.h>

typedef enum dml_rng_stream {
    DML_RNG_INIT = 1, /* initial weights: id = hash of the parameter's name */
    DML_RNG_SHUFFLE,  /* permutations: id = epoch */
    DML_RNG_DROPOUT,  /* masks: id = layer, counter = (step, sample position, element) */
    DML_RNG_DATA,     /* synthetic samples: id = sample index */
    DML_RNG_TEST,     /* whatever a test needs */
    DML_RNG_FAULTS,   /* faults at random: id 0, counter = draw */
} dml_rng_stream;

/* 64-bit Philox key of (seed, stream, id), mixed so that neighbouring ids give unrelated keys. */
uint64_t dml_rng_key(uint64_t seed, dml_rng_stream stream, uint64_t id);

/* The four 32-bit words of block (hi, lo) under `key`. */
void dml_rng_block(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[4]);

/* Uniform on [0, 1): the word's top 24 bits / 2^24, exact in float. */
static inline float dml_rng_unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* out[0..n) a uniform random permutation of 0..n-1 (Fisher-Yates from the end, unbiased by Lemire's
 * multiply-and-reject); a function of `key` alone.  Words come from blocks (0, 0), (0, 1) ..., each used from
 * its last word to its first. */
void dml_rng_permutation(uint64_t key, int64_t n, int32_t *out);

#endif
