/* engine/data_loader.h - a thread that prepares the micro-batches a worker will need, ahead of time.
 *
 * The line: for each segment (a step, but for asynchronous runs: engine/segments.h) from `first_step`, the worker's
 * micro-batches in the order given, those without samples (the end of a short step or segment) left out.  A place in
 * it is the first step of the segment and the number of the micro-batch there.  The loader fills a ring of `depth` buffers in that order and
 * waits while all are full; the worker takes them in the same order and gives them back in that order:
 *
 *             filled by the thread ->    [ . . ][ready][ready][held][held]    -> taken by get, freed by release
 *
 * Several buffers may be held at once (copies to a device in flight: release when the copy has run).  Calls of
 * `get` and `seek` do not overlap each other; `release` may come from yet another thread, such as a queue's.
 */
#ifndef DML_ENGINE_DATA_LOADER_H
#define DML_ENGINE_DATA_LOADER_H

#include "engine/base/wait.h"
#include "engine/segments.h"

typedef struct dml_loader dml_loader; /* opaque */

typedef struct dml_loader_config {
    dml_data *data; /* borrowed until close; may have several loaders */
    dml_data_parts parts;
    const int32_t
        *mbs; /* [n_mbs] this worker's micro-batches of a segment; borrowed until open returns */
    int32_t n_mbs;
    dml_segments segments;        /* {0}: single steps */
    int64_t first_step, end_step; /* the line is steps [first_step, end_step) */
    int32_t depth;                /* buffers in the ring, >= 1 (data.prefetch) */
    void *memory; /* dml_loader_bytes of host memory, 64-byte aligned; borrowed until close */
    const dml_abort *abort; /* ends waits in get; borrowed, may be NULL */
} dml_loader_config;

/* One micro-batch; the memory is the loader's until release. */
typedef struct dml_batch {
    const float *images;   /* [rows, height, width, channels]; NULL when not among the parts */
    const int32_t *labels; /* [rows]; NULL when not among the parts */
    int32_t rows;
} dml_batch;

/* Bytes of `memory` for a ring of `depth` buffers. */
int64_t dml_loader_bytes(const dml_data *data, dml_data_parts parts, int32_t depth);

/* Starts the thread, which starts filling.  Nothing allocates after this.
 *
 *   out  owned; dml_loader_close
 *
 * DML_ERR_NOMEM, DML_ERR_UNAVAILABLE  no memory, no thread
 */
dml_err dml_loader_open(const dml_loader_config *config, dml_loader **out);
void dml_loader_close(dml_loader *l); /* stops the thread; NULL is fine */

/* The next micro-batch in line.  Each get that gave rows > 0 is answered by one release; one without samples
 * gives rows = 0 at once and takes nothing.
 *
 * DML_ERR_BUG   (step, mb) is not the next in line: the text names both
 * DML_ERR_PEER  not ready at deadline_ns (dml_clock_ns), or the run is being stopped
 */
dml_err dml_loader_get(dml_loader *l, int64_t step, int32_t mb, int64_t deadline_ns,
                       dml_batch *out);

/* Gives back the buffer held longest. */
void dml_loader_release(dml_loader *l);

/* Buffers in the ring: as many may be held. */
int32_t dml_loader_depth(const dml_loader *l);

/* The line starts anew at `step`: a redo, or the next evaluation.  What is ready is thrown away, and what is
 * held counts as released, so nobody may be reading it any more. */
void dml_loader_seek(dml_loader *l, int64_t step);

#endif
