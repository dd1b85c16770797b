/* engine/worker_memory.c - all of a worker's memory, from sizes that the plan and the lowered programs state.
 *
 *   peers reach it   the transport's: per chunk accumulators and slots; IN and DY slots, which neighbours write
 *   device slab      per chunk weights and state, STASH and DX slots, loaded batches, labels, the norm's partials
 *   host slab        pinned: what the vote reads back, the loaders' rings
 *
 * A slab is one allocation.  Its parts are named in one walk, done twice: without memory, which tells its size,
 * and with it.
 */
#include "engine/worker_state.h"

#include <string.h>

static int64_t aligned(int64_t bytes)
{
    return (bytes + DML_WORKER_ALIGN - 1) / DML_WORKER_ALIGN * DML_WORKER_ALIGN;
}

/* NULL for no bytes, and while only counting. */
static void *take(dml_slab *s, int64_t bytes)
{
    void *here = s->base && bytes > 0 ? s->base + s->bytes : NULL;
    s->bytes += aligned(bytes);
    return here;
}

/* ---- sizes ---- */

static int32_t slots_of(const dml_worker *w, int32_t chunk, dml_pool pool)
{
    const int32_t a = *dml_program_slots(&w->plan->train, w->config->rank, chunk, pool);
    const int32_t b = *dml_program_slots(&w->plan->eval, w->config->rank, chunk, pool);
    return a > b ? a : b;
}

static int64_t pool_bytes(const dml_worker *w, int32_t chunk, dml_pool pool)
{
    return w->held[chunk].bytes[pool] * slots_of(w, chunk, pool);
}

static void plan_pools(dml_held *h)
{
    const dml_chunk_sizes *size = &h->chunk->size;
    h->bytes[DML_POOL_IN] = aligned(size->in);
    h->bytes[DML_POOL_STASH] = aligned(size->stash);
    h->bytes[DML_POOL_DY] = aligned(size->dy);
    h->bytes[DML_POOL_DX] = aligned(size->dx);
}

int64_t dml_worker_shared_bytes(const dml_worker *w)
{
    int64_t bytes = 0;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk)
            bytes += aligned(w->chunk[c].size.shared) + pool_bytes(w, c, DML_POOL_IN) +
                     pool_bytes(w, c, DML_POOL_DY);
    return bytes;
}

/* ---- the walk ---- */

static void walk_chunk(dml_worker *w, int32_t c)
{
    dml_slab *device = &w->device_slab;
    dml_held *h = &w->held[c];
    dml_chunk_memory *m = &w->chunk_memory[c];
    const dml_chunk *chunk = h->chunk;
    const int64_t labels = chunk->mb_rows * (int64_t)sizeof(int32_t);
    const int32_t stashes = slots_of(w, c, DML_POOL_STASH);
    m->private_ = take(device, chunk->size.private_);
    h->pool[DML_POOL_STASH] = take(device, pool_bytes(w, c, DML_POOL_STASH));
    h->pool[DML_POOL_DX] = take(device, pool_bytes(w, c, DML_POOL_DX));
    if (c == 0) h->input = take(device, h->bytes[DML_POOL_IN] * stashes);
    if (c == w->plan->train.chunks - 1) h->labels = take(device, labels * stashes);
    m->partial = take(device, dml_update_device_bytes(chunk));
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
    w->device_slab.bytes = w->host_slab.bytes = 0;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) walk_chunk(w, c);
    walk_feed(w, &w->train);
    walk_feed(w, &w->test);
}

/* ---- taking it ---- */

static dml_err take_shared(dml_worker *w, int64_t bytes, void *out)
{
    void *p = NULL;
    if (bytes > 0) DML_TRY(w->comm->alloc(w->transport, bytes, &p));
    memcpy(out, &p, sizeof p);
    return DML_ERR_OK;
}

void dml_worker_plan_memory(dml_worker *w)
{
    w->chunk_memory = DML_NEW_N(&w->arena, dml_chunk_memory, w->plan->train.chunks);
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) plan_pools(&w->held[c]);
    walk(w);
    w->memory_bytes = w->device_slab.bytes + dml_worker_shared_bytes(w);
}

dml_err dml_worker_take_memory(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    void *on_device = NULL, *on_host = NULL;
    DML_TRY(device->alloc(w->device, w->device_slab.bytes, &on_device));
    w->device_slab.base = on_device;
    DML_TRY(device->host_alloc(w->device, w->host_slab.bytes, &on_host));
    w->host_slab.base = on_host;
    walk(w);
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        if (!w->held[c].chunk) continue;
        dml_held *h = &w->held[c];
        DML_TRY(take_shared(w, aligned(h->chunk->size.shared), &w->chunk_memory[c].shared));
        DML_TRY(take_shared(w, pool_bytes(w, c, DML_POOL_IN), &h->pool[DML_POOL_IN]));
        DML_TRY(take_shared(w, pool_bytes(w, c, DML_POOL_DY), &h->pool[DML_POOL_DY]));
    }
    return DML_ERR_OK;
}

void dml_worker_free_memory(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    if (w->device_slab.base) device->free(w->device, w->device_slab.base);
    if (w->host_slab.base) device->host_free(w->device, w->host_slab.base);
}
