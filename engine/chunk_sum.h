/* engine/chunk_sum.h - how the gradients of a step are added up: one row for each training.numerics.
 *
 * Whoever keeps, adds, reduces or judges sums asks here what they are made of.  Sums of integers have one
 * result in any order and on any layout.  They lie in the shared memory of a chunk,
 *
 *   acc       [words][arena_elems] I64; with two words the plane of hi lies before that of lo
 *   max_bits  [n params] the largest |gradient| of a micro-batch as bits: inf and NaN above all else
 *
 * and are finished into its private g.  Where `words` is 0, the shared g itself is the sum.
 */
#ifndef DML_ENGINE_CHUNK_SUM_H
#define DML_ENGINE_CHUNK_SUM_H

#include "engine/chunk.h"

/* clang-format off */
/*    numerics    name         words scaled  an element's sum                                                */
#define DML_SUM_LIST(X)                                                                                         \
    X(FAST,       "fast",       0,   false) /* F32, in the order of calls, then of replicas                  */ \
    X(EXACT,      "exact",      1,   true)  /* of 2^-s, s by parameter and step; redone where s was wrong    */ \
    X(EXACT_WIDE, "exact_wide", 2,   false) /* of 2^-28 and 2^-84: no state and no redo, but a largest value */
/* clang-format on */

typedef struct dml_sum_info {
    const char *name; /* as the spec has it */
    int32_t words;    /* int64 of an element */
    bool scaled;      /* by c->exponent, which commits with the weights */
} dml_sum_info;

const dml_sum_info *dml_sum_info_of(dml_numerics numerics);

/* exact_wide adds up |gradient of a micro-batch| < 2^L, L = 34 - ceil(log2 mbs): then |sum| < 2^34, and hi
 * stays within 2^62.  Returns L. */
int32_t dml_sum_wide_log2(const dml_chunk *c);

/* DML_ERR_SPEC  exact_wide with over 256 replicas, whose lo words would run over when added (kernels.h) */
dml_err dml_sum_check(const dml_spec *spec);

/* On the queue of `k`, for parameter i (0 .. n params - 1 of the chunk); errors are the kernels'.
 *
 *   add     g [elems], this micro-batch's gradient; `first`: nothing was added yet in this step here
 *   finish  c->g becomes the sum of what was added, here and (after the reduction) by all replicas */
dml_err dml_sum_add(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i,
                    dml_in g, bool first);
dml_err dml_sum_finish(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t i);

#endif
