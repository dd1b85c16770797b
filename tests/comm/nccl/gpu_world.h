/* tests/comm/nccl/gpu_world.h - ranks that are threads of one process, each with an emulated GPU. */
#ifndef DML_TEST_GPU_WORLD_H
#define DML_TEST_GPU_WORLD_H

#include "comm/nccl/clique.h"
#include "comm/nccl/nccl.h"

enum { GPU_RANKS = 8, GPU_BYTES = 1 << 16, GPU_PATIENCE_MS = 20000 };

typedef struct gpu_rank {
    int32_t rank, world;
    dml_device *device;
    dml_queue *send, *recv; /* two lanes */
    dml_transport *transport;
    const dml_abort *abort;
    const void *arg;
    dml_transport_config config;
    dml_err err, closed;             /* of opening or the body; of close */
    char trail[2048], closing[2048]; /* their trails */
} gpu_rank;

typedef dml_err (*gpu_body)(gpu_rank *r);

typedef struct gpu_world {
    int32_t world;
    int32_t present;    /* the first so many come; 0: all */
    const bool *absent; /* [world] who does not come; NULL: all others do */
    int64_t timeout_ms; /* 0: GPU_PATIENCE_MS */
    uint32_t epoch[GPU_RANKS];
    int32_t per_device;
    uint64_t seed;
    const dml_abort *abort;
    dml_abort *stop; /* raised when a rank fails, as the agent does; NULL: nobody does */
    const void *arg;
} gpu_world;

/* Opens a device, two queues and the transport on each rank, runs `body`, closes all.  ranks: [world]
 * Rank 0 runs on the calling thread; in a world of one its body may use cmocka's checks. */
void gpu_run(const gpu_world *w, gpu_body body, gpu_rank *ranks);

/* As gpu_run, failing the test unless every rank was fine and the emulator found no fault. */
void gpu_run_ok(const gpu_world *w, gpu_body body);

/* Waits for both lanes. */
dml_err gpu_settle(gpu_rank *r);
/* Waits for one, as long as `ms`. */
dml_err gpu_wait(dml_queue *queue, int64_t ms);

/* Each rank and the next, and the last and the first. */
dml_err gpu_meet_ring(gpu_rank *r);

#define GPU_EXPECT(cond)                                                                   \
    do {                                                                                   \
        if (!(cond)) DML_FAIL(DML_ERR_CHECK, "rank %d: %s does not hold", r->rank, #cond); \
    } while (0)

#endif
