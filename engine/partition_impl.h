/* engine/partition_impl.h - a chain of layers seen as segments, and what a stage of them costs. */
#ifndef DML_ENGINE_PARTITION_IMPL_H
#define DML_ENGINE_PARTITION_IMPL_H

#include "engine/base/arena.h"
#include "engine/partition.h"

/* Segment g holds layers [at[g], at[g + 1]); a stage holds segments [a, b).  Sums of them are differences. */
typedef struct dml_partition_grid {
    const dml_partition_problem *p;
    int32_t n;
    const int32_t *at;           /* [n + 1] */
    int64_t *ns, *state, *stash; /* [n + 1] sums over the segments before it */
    int64_t *main;               /* [n + 1] bytes of the border before it; 0 at both ends */
    int64_t *skips_in,
        *skips_out; /* [n + 1][n + 1] at (a, b): skip bytes of the stage; NULL: none */
} dml_partition_grid;

/* `at` is borrowed; the rest is the arena's. */
dml_partition_grid dml_partition_grid_of(const dml_partition_problem *p, const int32_t *at,
                                         int32_t n, dml_arena *arena);

/* Stage s holding segments [a, b); b < n exactly when s is not the last stage. */
dml_partition_price dml_partition_price_at(const dml_partition_grid *g, int32_t s, int32_t a,
                                           int32_t b);

#endif
