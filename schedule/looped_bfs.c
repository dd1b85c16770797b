/* schedule/looped_bfs.c - breadth first over several chunks on each rank (Lamy-Poirier 2023).
 *
 *   p = 2, v = 2, m = 2, B = 2 F; rank 0 holds chunks 0 and 2, rank 1 chunks 1 and 3
 *   worker 0:  F0.0F0.1F2.0F2.1........B2.1====B2.0====B0.1====B0.0====
 *   worker 1:  ....F1.0F1.1F3.0F3.1B3.1====B3.0====B1.1====B1.0====
 *
 * All micro-batches go through a chunk before the next one begins: a chunk's weights are wanted once a pass
 * and its gradients are complete early, which is what sharded data parallelism likes.  The price is gpipe's
 * memory.  With times of a chunk:
 *
 *   wall              (m v + p - 1)(F + B), m >= p
 *   activations held  m v chunks
 */
#include "schedule/schedule.h"

static dml_err build(const dml_schedule_args *args, dml_program *order)
{
    const int32_t p = args->stages, v = args->virtual_stages, m = args->mbs;
    for (int32_t r = 0; r < p; r++) {
        for (int32_t k = 0; k < m * v; k++)
            dml_program_push(order, r, DML_OP_FWD, k / m * p + r, k % m);
        for (int32_t k = m * v - 1; k >= 0; k--)
            dml_program_push(order, r, DML_OP_BWD, k / m * p + r, k % m);
    }
    return DML_ERR_OK;
}

static int64_t wall_ns(const dml_schedule_args *args, const dml_schedule_times *t)
{
    if (args->virtual_stages > 1 && args->mbs < args->stages) return DML_WALL_UNKNOWN;
    return ((int64_t)args->mbs * args->virtual_stages + args->stages - 1) *
           (t->fwd_ns + t->bwd_input_ns + t->bwd_weight_ns);
}

static int32_t peak_stash(const dml_schedule_args *args, int32_t stage)
{
    (void)stage;
    return args->mbs * args->virtual_stages;
}

const dml_schedule dml_schedule_looped_bfs = {
    .name = "looped_bfs",
    .aliases = "loopedbfs breadth_first",
    .doc =
        "every micro-batch through a chunk before the rank's next chunk; holds every micro-batch",
    .needs = "",
    .many_chunks = true,
    .build = build,
    .wall_ns = wall_ns,
    .peak_stash = peak_stash,
};
