/* engine/graphs.h - what compute ops enqueue, captured once and replayed (CUDA graphs).
 *
 * A captured op is a pure function of its key: the chunk's memory, the buffers it reads and writes, and which
 * micro-batch it is.  What changes from step to step the kernels read from device memory (dml_step_words).  So the
 * cache belongs to the worker: a new plan whose ops have the same keys finds them captured.
 *
 * Transfers, reductions, loads and optimizer steps are never captured: a communicator can so be taken back at any
 * time without a graph that still holds it.
 */
#ifndef DML_ENGINE_GRAPHS_H
#define DML_ENGINE_GRAPHS_H

#include "engine/chunk.h"

typedef struct dml_graph_key {
    const dml_chunk *chunk;
    const void *in, *labels, *stash, *kept, *dy, *dx;
    const void *const *skip_in; /* [chunk->n_skip_in] what it holds counts, not where; NULL: none */
    const void *const *skip_dy; /* [chunk->n_skip_back] likewise */
    int32_t kind, part, mb;     /* of the op: kind, edge, mb */
    int32_t mode;               /* bit 0: adds first; bit 1: evaluation */
} dml_graph_key;
_Static_assert(sizeof(dml_graph_key) == 9 * sizeof(void *) + 4 * sizeof(int32_t), "no padding");

typedef struct dml_graphs dml_graphs;

/* A cache for ops of `queue`; both borrowed until close.  The device can capture. */
dml_err dml_graphs_open(const dml_device_api *device, dml_queue *queue, dml_graphs **out);
void dml_graphs_close(dml_graphs *graphs); /* the queue is idle; NULL is fine */

/* The replay of `key`, whose lists live as long as the cache; it is the cache's until close; `job` is captured when it has none.  Allocates, so not inside a
 * step; all shapes have been prepared.  DML_ERR_NOMEM, or what the job or the device gives. */
dml_err dml_graphs_get(dml_graphs *graphs, const dml_graph_key *key, dml_job job, void *arg,
                       dml_replay **out);

/* Captured so far. */
int32_t dml_graphs_count(const dml_graphs *graphs);

#endif
