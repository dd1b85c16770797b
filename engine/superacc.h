/* engine/superacc.h - the sum of any doubles, in any order, rounded once.
 *
 * The accumulator is a fixed-point number wide enough for every double: 67 limbs of 32 bits, limb 0 being
 * worth 2^-1074, each held in an int64 so that carries can wait, and one word that remembers inf and nan.
 * Adding is integer addition, hence in any order and any partition the same bits; merging is plain int64
 * addition of all words, so an int64 sum all-reduce over them merges the accumulators of all ranks.
 *
 *   word   0         1         ...   33          ...   66        67
 *          2^-1074   2^-1042         2^-18 (1.0)       2^1038    non-finite
 *
 * Room: up to 2^31 additions in all, merged ones included.  (Kulisch's long accumulator.)
 */
#ifndef DML_ENGINE_SUPERACC_H
#define DML_ENGINE_SUPERACC_H

#include <stdint.h>

enum { DML_SUPERACC_LIMBS = 67, DML_SUPERACC_WORDS = DML_SUPERACC_LIMBS + 1 };

typedef struct dml_superacc {
    int64_t word[DML_SUPERACC_WORDS];
} dml_superacc; /* starts as {0}, the sum of nothing */

void dml_superacc_add(dml_superacc *a, double x);

/* a += b, word by word. */
void dml_superacc_merge(dml_superacc *a, const dml_superacc *b);

/* The exact sum rounded to nearest even; +0 when it is zero.  Beyond the largest double: inf.  With an
 * addend inf or nan: inf, -inf, or nan where an addend was nan or both infinities occurred. */
double dml_superacc_round(const dml_superacc *a);

#endif
