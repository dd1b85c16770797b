/* engine/worker_memory.c - all of a worker's memory, from sizes that the plan and the lowered programs state.
 *
 *   peers reach it   the transport's: per chunk accumulators and slots; IN and DY slots, which neighbours write
 *   state slab       per chunk weights and state, the norm's partials
 *   activation slab  STASH, KEPT and DX slots, loaded batches, labels
 *   host slab        pinned: what the vote reads back, the loaders' rings
 *
 * A slab is one allocation.  Its parts are named in one walk, done twice: without memory, which tells its size,
 * and with it.
 */
#include "engine/worker_state.h"

#include <string.h>

/* NULL for no bytes, and while only counting. */
static void *take(dml_slab *s, int64_t bytes)
{
    void *here = s->base && bytes > 0 ? s->base + s->bytes : NULL;
    s->bytes += dml_worker_align(bytes);
    return here;
}

/* ---- sizes ---- */

static int64_t pool_bytes(const dml_worker *w, int32_t port, dml_pool pool)
{
    if (w->idle) return 0;
    return w->held[port].bytes[pool] * dml_plan_slots(w->plan, w->config->rank, port, pool);
}

static void plan_pools(dml_held *h)
{
    const dml_chunk_sizes *size = &h->chunk->size;
    h->bytes[DML_POOL_IN] = dml_worker_align(size->in);
    h->bytes[DML_POOL_STASH] = dml_worker_align(size->stash);
    h->bytes[DML_POOL_DY] = dml_worker_align(size->dy);
    h->bytes[DML_POOL_DX] = dml_worker_align(size->dx);
    h->bytes[DML_POOL_KEPT] = dml_worker_align(size->kept);
}

/* What is received along skips, and the gradients of it that come back. */
static void plan_skips(dml_worker *w)
{
    const dml_program *p = &w->plan->train;
    for (int32_t k = 1; k <= p->n_skips; k++) {
        dml_held *h = &w->held[dml_skip_port(p, k)];
        h->bytes[DML_POOL_IN] = h->bytes[DML_POOL_DY] =
            dml_worker_align(dml_plan_skip_bytes(w->plan, k));
    }
}

int64_t dml_worker_shared_bytes(const dml_worker *w)
{
    int64_t bytes = 0;
    for (int32_t port = 0; port < dml_program_ports(&w->plan->train); port++) {
        if (w->held[port].chunk) bytes += dml_worker_align(w->chunk[port].size.shared);
        bytes += pool_bytes(w, port, DML_POOL_IN) + pool_bytes(w, port, DML_POOL_DY);
    }
    return bytes;
}

/* ---- the walk ---- */

static void walk_chunk(dml_worker *w, int32_t c)
{
    dml_slab *state = &w->state_slab, *activations = &w->activation_slab;
    dml_held *h = &w->held[c];
    dml_chunk_memory *m = &w->chunk_memory[c];
    const dml_chunk *chunk = h->chunk;
    const int64_t batches = dml_plan_batches(w->plan, w->config->rank, c);
    m->private_ = take(state, chunk->size.private_);
    m->partial = take(state, dml_update_device_bytes(chunk));
    h->pool[DML_POOL_STASH] = take(activations, pool_bytes(w, c, DML_POOL_STASH));
    h->pool[DML_POOL_KEPT] = take(activations, pool_bytes(w, c, DML_POOL_KEPT));
    h->pool[DML_POOL_DX] = take(activations, pool_bytes(w, c, DML_POOL_DX));
    h->kept_slots = dml_plan_slots(w->plan, w->config->rank, c, DML_POOL_KEPT);
    if (c == 0) h->input = take(activations, h->bytes[DML_POOL_IN] * batches);
    if (c == w->plan->train.chunks - 1)
        h->labels = take(activations, chunk->mb_rows * (int64_t)sizeof(int32_t) * batches);
    m->readback = take(&w->host_slab, dml_update_host_bytes(chunk));
}

static void walk_feed(dml_worker *w, dml_feed *f)
{
    const int32_t depth = w->spec->data.prefetch;
    if (w->held[0].chunk)
        f->images_ring = take(&w->host_slab, dml_loader_bytes(f->data, DML_DATA_IMAGES, depth));
    if (w->held[w->plan->train.chunks - 1].chunk)
        f->labels_ring = take(&w->host_slab, dml_loader_bytes(f->data, DML_DATA_LABELS, depth));
}

static void walk(dml_worker *w)
{
    w->state_slab.bytes = w->activation_slab.bytes = w->host_slab.bytes = 0;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) walk_chunk(w, c);
    walk_feed(w, &w->train);
    walk_feed(w, &w->test);
}

/* ---- taking it ---- */

/* Device memory is an emulated worker's own limit, too: what does not fit is refused here, whatever the plan said. */
static dml_err claim(dml_worker *w, int64_t bytes, const char *what)
{
    const int64_t most = dml_spec_memory(w->spec, w->config->rank);
    if (most > 0 && w->taken_bytes + bytes > most)
        DML_FAIL(DML_ERR_NOMEM,
                 "worker %d: %lld bytes of %s do not fit into the %lld left of the %lld that %s "
                 "gives it",
                 w->config->rank, (long long)bytes, what, (long long)(most - w->taken_bytes),
                 (long long)most,
                 w->spec->cluster.memory.n > 0 ? "cluster.memory" : "parallelism.memory");
    w->taken_bytes += bytes;
    return DML_ERR_OK;
}

static dml_err take_shared(dml_worker *w, int64_t bytes, void *out)
{
    void *p = NULL;
    DML_TRY(claim(w, bytes, "what neighbours and replicas reach"));
    if (bytes > 0) DML_TRY(w->comm->alloc(w->transport, bytes, &p));
    memcpy(out, &p, sizeof p);
    return DML_ERR_OK;
}

void dml_worker_plan_memory(dml_worker *w)
{
    w->chunk_memory = DML_NEW_N(&w->arena, dml_chunk_memory, w->plan->train.chunks);
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) plan_pools(&w->held[c]);
    plan_skips(w);
    walk(w);
    w->memory_bytes = w->state_slab.bytes + w->activation_slab.bytes + dml_worker_shared_bytes(w);
}

static dml_err take_slab(dml_worker *w, dml_slab *slab, const char *what)
{
    void *memory = NULL;
    DML_TRY(claim(w, slab->bytes, what));
    if (slab->bytes > 0) DML_TRY(w->backend->device->alloc(w->device, slab->bytes, &memory));
    slab->base = memory;
    return DML_ERR_OK;
}

dml_err dml_worker_take_memory(dml_worker *w)
{
    void *on_host = NULL;
    DML_TRY(take_slab(w, &w->state_slab, "weights and optimizer state"));
    DML_TRY(take_slab(w, &w->activation_slab, "activations"));
    if (w->host_slab.bytes > 0)
        DML_TRY(w->backend->device->host_alloc(w->device, w->host_slab.bytes, &on_host));
    w->host_slab.base = on_host;
    walk(w);
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk)
            DML_TRY(take_shared(w, dml_worker_align(w->chunk[c].size.shared),
                                &w->chunk_memory[c].shared));
    for (int32_t port = 0; port < dml_program_ports(&w->plan->train); port++) {
        dml_held *h = &w->held[port];
        DML_TRY(take_shared(w, pool_bytes(w, port, DML_POOL_IN), &h->pool[DML_POOL_IN]));
        DML_TRY(take_shared(w, pool_bytes(w, port, DML_POOL_DY), &h->pool[DML_POOL_DY]));
    }
    return DML_ERR_OK;
}

void dml_worker_free_memory(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    if (w->state_slab.base) device->free(w->device, w->state_slab.base);
    if (w->activation_slab.base) device->free(w->device, w->activation_slab.base);
    if (w->host_slab.base) device->host_free(w->device, w->host_slab.base);
}
