/* bench/comm_rank.h - one rank of `dml-bench comm`: opens the transport of a backend and times its operations.
 *
 * On the host a transport call blocks, as inside a lane's job; on a GPU it enqueues on a stream, and a timing ends
 * when the stream is idle.  What is sent and checked is made on the host either way.
 */
#ifndef DML_BENCH_COMM_RANK_H
#define DML_BENCH_COMM_RANK_H

#include "comm/transport.h"

enum { COMM_RANKS = 64, COMM_LINES = 512, COMM_TRAIL_BYTES = 2048 };

typedef struct comm_options {
    int64_t min_bytes, max_bytes;
    int factor, iterations, warmups, ranks;
    bool check;
    const char *backend;
    const char *op;   /* NULL: all */
    const char *json; /* NULL: none */
} comm_options;

/* One operation at one size. */
typedef struct comm_line {
    int32_t op; /* of comm_op_name */
    int64_t bytes, count;
    double time_us[COMM_RANKS];
    int64_t wrong[COMM_RANKS];
    double beside_gflop_s[COMM_RANKS]; /* of products while it was timed; 0: there were none */
} comm_line;

/* What ranks tell the parent, in memory all share. */
typedef struct comm_board {
    dml_abort abort;
    int32_t lines; /* the same on all ranks, written by rank 0 */
    dml_err err[COMM_RANKS];
    char trail[COMM_RANKS][COMM_TRAIL_BYTES];
    char backend[32], transport[32], library[32]; /* "cuda", "nccl", "NCCL 2.28.9" or "" */
    int32_t devices;                              /* GPUs; 0: the ranks are on the host */
    comm_line line[COMM_LINES];
} comm_board;

/* Runs all operations asked for.  fds: [ranks] a memfd of each rank */
dml_err comm_rank_run(const comm_options *o, int32_t me, const int *fds, comm_board *b);

/* NULL: there are no more. */
const char *comm_op_name(int32_t op);
const char *comm_op_reduction(int32_t op); /* "sum", "none" */
/* What each link carries, in sizes of the whole buffer (nccl-tests, doc/PERFORMANCE.md). */
double comm_op_bus_factor(int32_t op, int32_t ranks);

#endif
