/* engine/chunk_sum.h - how the gradients of a step are added up: one row for each training.numerics.
 *
 * Whoever keeps, adds, reduces or judges sums asks here, and nowhere else for the name of the numerics.
 *
 * Integer sums (order-free: one result for any layout) leave in the shared memory of a chunk
 *
 *   acc       [words][arena_elems] int64; wide: the plane of hi before that of lo
 *   max_bits  [n params] the largest |gradient| of one micro-batch, as bits: inf and NaN above all others
 *
 * and are finished into the private g.  Where words is 0 the sum is g itself.
 */
#ifndef DML_ENGINE_CHUNK_SUM_H
#define DML_ENGINE_CHUNK_SUM_H

#include "engine/chunk.h"

/* clang-format off */
/*    numerics    words  scaled  a parameter's sum                                                             */
#define DML_SUM_LIST(X)                                                                                           \
    X(FAST,       0,     false) /* F32, in the order of calls and replicas                                     */ \
    X(EXACT,      1,     true)  /* int64 of 2^-s, s by parameter from the past maximum; a wrong one is redone   */ \
    X(EXACT_WIDE, 2,     false) /* two int64, of 2^-28 and 2^-84, always: no state, no redo, but a bound        */
/* clang-format on */

typedef struct dml_sum_info {
    int32_t words; /* int64 of an element's accumulator */
    bool scaled;   /* by chunk->exponent, committed with the weights */
} dml_sum_info;

const dml_sum_info *dml_sum_info_of(dml_numerics numerics);

enum { DML_WIDE_REPLICAS = 256 }; /* pairs of words that can be added before a carry (kernels.h) */

/* Exponent L of the bound of exact_wide: |gradient of a micro-batch| < 2^L, L = 34 - ceil(log2 mbs), so that
 * |sum| < 2^34 and hi stays within 2^62. */
int32_t dml_sum_wide_limit_log2(const dml_chunk *c);

/* On a queue of `k`, for parameter i (0 .. n params - 1 in the chunk).  Errors are the kernels'.
 *   add     this micro-batch's gradient [elems]; `first`: the step's first on this worker
 *   finish  c->g from what was added, here and on all replicas */
dml_err dml_sum_add(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i, dml_in g,
                    bool first);
dml_err dml_sum_finish(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i);

#endif
