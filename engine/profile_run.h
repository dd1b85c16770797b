/* engine/profile_run.h - the measuring job of dml-plan profile.
 *
 *   parent --fork--+-- rank 0   for each size: trains the whole model alone, as a worker does; then links and sums
 *                  +-- rank 1   the same at the same time
 *
 * Each rank is a run of one worker on the spec's own backend and data, so what is timed is what a worker runs; that as many
 * run at once as the layout has workers puts their contention for cores and memory into the times.  Then all of them
 * open the transport, with the emulated link if the spec has one, and time transfers between two and sums among 2, 3, ...
 *
 * The parent touches no device: every library is first opened in a child.
 */
#ifndef DML_ENGINE_PROFILE_RUN_H
#define DML_ENGINE_PROFILE_RUN_H

#include "engine/profile.h"

#include <stdio.h>

enum { DML_PROFILE_SIZES = 16, DML_PROFILE_RANKS = 64, DML_PROFILE_MICRO_BATCHES = 4 };

typedef struct dml_profile_options {
    int32_t iterations;              /* micro-batches of each size, >= DML_PROFILE_MICRO_BATCHES */
    int32_t workers;                 /* that compute at once; 0: those of the spec's layout */
    int32_t rows[DML_PROFILE_SIZES]; /* ascending sizes of micro-batches */
    int32_t n_rows;                  /* 0: half, whole and twice training.micro_batch_size */
    FILE *progress;                  /* a line for each part; NULL: none */
} dml_profile_options;

/* Measures; everything of *out is the arena's.
 *
 * DML_ERR_UNAVAILABLE  no such backend, or fewer devices than workers; what a worker's set-up may give, too */
dml_err dml_profile_measure(const dml_spec *spec, const dml_profile_options *options,
                            dml_arena *arena, dml_profile *out);

/* A profile of spec->costs, which a roofline made: nothing is measured, and it is of no machine.
 * DML_ERR_SPEC  the spec has no costs */
dml_err dml_profile_estimate(const dml_spec *spec, dml_arena *arena, dml_profile *out);

#endif
