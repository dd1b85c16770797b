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

/* at[0..n], with room for n_layers + 1: the legal borders, both ends included; returns n. */
int32_t dml_partition_segments(const dml_partition_problem *p, int32_t *at, dml_arena *arena);
/* DML_ERR_SPEC  a skip that leads nowhere, or back */
dml_err dml_partition_check_skips(const dml_partition_problem *p);

/* `at` is borrowed; the rest is the arena's.  Of the problem, layers and skips are read. */
dml_partition_grid dml_partition_grid_of(const dml_partition_problem *p, const int32_t *at,
                                         int32_t n, dml_arena *arena);

/* Bytes that arrive at segments [a, b), and that leave them, one way. */
int64_t dml_partition_in_bytes(const dml_partition_grid *g, int32_t a, int32_t b);
int64_t dml_partition_out_bytes(const dml_partition_grid *g, int32_t a, int32_t b);

/* Stage s holding segments [a, b); b < n exactly when s is not the last stage. */
dml_partition_price dml_partition_price_at(const dml_partition_grid *g, int32_t s, int32_t a,
                                           int32_t b);

#endif
