/* engine/profile_board.h - what the parts of the measuring job share: engine/profile_*.c only. */
#ifndef DML_ENGINE_PROFILE_BOARD_H
#define DML_ENGINE_PROFILE_BOARD_H

#include "engine/control.h"
#include "engine/plan.h"
#include "engine/profile_run.h"
#include "kernels/backend.h"

enum { DML_PROFILE_GROUPS = 8, DML_PROFILE_TRANSFERS = 12 };

/* One layer at one size, as one rank saw it. */
typedef struct dml_profile_seen {
    dml_spread ns[DML_PASSES];
    int64_t first_ns
        [DML_PASSES]; /* median of the first micro-batches of steps; where there is none, 0 */
} dml_profile_seen;

/* Memory that parent and ranks share. */
typedef struct dml_profile_board {
    dml_abort abort;
    _Atomic uint32_t arrived; /* at gates, all in all */
    dml_err err[DML_PROFILE_RANKS];
    char trail[DML_PROFILE_RANKS][DML_TRAIL_BYTES];
    char backend[32], device[128], libraries[128], transport[32];
    bool on_host;
    int32_t devices, threads;
    dml_profile_whole whole[DML_PROFILE_RANKS][DML_PROFILE_SIZES];
    dml_profile_transfer transfer[DML_PROFILE_TRANSFERS],
        sum[DML_PROFILE_GROUPS * DML_PROFILE_TRANSFERS];
    int32_t n_transfers, n_sums;
    int64_t vote_ns;
} dml_profile_board;

typedef struct dml_profile_job {
    const dml_spec *spec;
    const dml_profile_options *options;
    dml_model model;          /* uncut */
    int32_t computing, ranks; /* workers that compute; those and who only helps with links */
    int32_t rows[DML_PROFILE_SIZES];
    int32_t n_rows;
    int data_fd[DML_PROFILE_RANKS], vote_fd[DML_PROFILE_RANKS]; /* of links and sums */
    dml_profile_board *board;                                   /* shared */
    dml_profile_seen *seen; /* shared: [ranks][n_rows][n_layers] */
} dml_profile_job;

static inline dml_profile_seen *dml_profile_seen_at(const dml_profile_job *j, int32_t rank,
                                                    int32_t size, int32_t layer)
{
    return &j->seen[((int64_t)rank * j->n_rows + size) * j->model.n_layers + layer];
}

/* All ranks have come as often as this one.  `times` counts the gates of a rank, from 1. */
dml_err dml_profile_gate(const dml_profile_job *j, int32_t times);

/* In a rank: size `size` (profile_rank.c); links and sums, collective (profile_links.c). */
dml_err dml_profile_size(const dml_profile_job *j, int32_t rank, int32_t size);
dml_err dml_profile_links(const dml_profile_job *j, int32_t rank);

/* The middle of v[n], which is sorted; {0} of none. */
dml_spread dml_spread_of(int64_t *v, int32_t n);

#endif
