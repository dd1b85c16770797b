/* engine/worker_state.h - what a worker holds between its two halves: setting up, and running. */
#ifndef DML_ENGINE_WORKER_STATE_H
#define DML_ENGINE_WORKER_STATE_H

#include "engine/exec.h"
#include "engine/worker.h"

/* A data split and its loaders; a loader is NULL where this worker does not need that part. */
typedef struct dml_feed {
    dml_data *data;
    dml_loader *images, *labels;
} dml_feed;

typedef struct dml_worker {
    const dml_worker_config *config; /* borrowed */
    const dml_plan *plan;
    const dml_spec *spec;
    const dml_backend *backend;
    dml_worker_page *page;

    dml_device *device;
    dml_queue *lane[DML_LANES];
    dml_kctx *compute, *reduce;

    const dml_transport_api *comm, *vote_comm;
    dml_transport *transport, *vote_transport; /* tensors; votes between hosts' memories */
    dml_group *world;                          /* of vote_transport */
    int64_t *ballot;                           /* [ballot_words] in vote_transport's memory */

    dml_chunk *chunk;   /* [chunks] */
    dml_update *update; /* [chunks] */
    dml_held *held;     /* [chunks] */
    dml_feed train, test;
    dml_exec *train_exec, *eval_exec;
    int32_t *rows;               /* [mbs] samples of each micro-batch of the step under way */
    int64_t memory_bytes;        /* device memory allocated in all */
    void **on_device, **on_host; /* what to free */
    int32_t n_on_device, n_on_host;
    dml_arena arena;
} dml_worker;

/* Opens everything, prepares every shape, and meets the other workers.  Close `w` whatever the result. */
dml_err dml_worker_open(dml_worker *w, const dml_worker_config *config);
void dml_worker_close(dml_worker *w);

#endif
