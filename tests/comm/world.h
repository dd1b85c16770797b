/* tests/comm/world.h - runs one function on every rank of a world: threads or processes.
 *
 * Rank functions return errors instead of using cmocka's checks (a failed check jumps, and only the main
 * thread may); the test looks at `err` and `trail` of each rank afterwards.
 */
#ifndef DML_TEST_WORLD_H
#define DML_TEST_WORLD_H

#include "comm/transport.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct rank {
    const dml_transport_api *api;
    dml_transport *transport; /* opened; NULL when the world opens nothing by itself */
    dml_transport_config config;
    dml_abort *abort; /* shared by all ranks and the test */
    int64_t *board;   /* [BOARD] shared scratch of all ranks and the test */
    const void *arg;
} rank;

typedef dml_err (*rank_fn)(rank *r);

enum { MAX_WORLD = 8, BOARD = 64, TRAIL = 2048 };

typedef struct outcome {
    dml_err err;
    bool killed; /* the process ended by a signal */
    char trail[TRAIL];
} outcome;

typedef struct world_config {
    const char *transport; /* "local", "shm" */
    int32_t world;
    int64_t memory_bytes; /* of each rank */
    int64_t timeout_ms;   /* 0: 20 s */
    dml_links links;
    uint32_t epoch[MAX_WORLD]; /* all zero: epoch 0 */
    bool closed;               /* ranks open the transport themselves */
    const void *arg;
    /* Runs in the test while the ranks do: may signal `pid` (processes only) and raise the flag. */
    void (*meanwhile)(const int *pid, dml_abort *abort, int64_t *board);
} world_config;

/* Pairs each rank with all above it: everyone may send to everyone.  The world does so for what it opens. */
dml_err meet_everyone(const dml_transport_api *api, dml_transport *t, int32_t world);

/* Runs fn on all ranks, fills out[world]; what the world opened is closed again. */
void run_world(const world_config *config, rank_fn fn, outcome *out);

/* As run_world, failing the test unless every rank returned DML_ERR_OK. */
void run_world_ok(const world_config *config, rank_fn fn);

#endif
