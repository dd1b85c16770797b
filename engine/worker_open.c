/* engine/worker_open.c - setting a worker up: device, chunks, memory, meeting the others, preparing shapes.
 *
 * All memory is taken here, from sizes that the plan and the lowered programs state:
 *
 *   peers reach it   per chunk: accumulators and slots; IN and DY slots, which the neighbours write
 *   device only      per chunk: weights and state, STASH and DX slots, the loaded batch, labels
 *   host             what the vote reads back
 */
#include "engine/worker_state.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"

#include <string.h>

enum { ALIGN = 64, OWNED_PER_CHUNK = 8, LOADERS = 4 };

static int64_t aligned(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static bool holds(const dml_worker *w, int32_t chunk)
{
    const dml_program *p = &w->plan->train;
    for (int32_t mb = 0; mb < p->mbs; mb++)
        if (*dml_program_route(p, chunk, mb) == w->config->rank) return true;
    return false;
}

static int64_t ballot_words(const dml_worker *w)
{
    const int64_t eval = 2 * (int64_t)w->plan->mbs;
    return eval > DML_VOTE_WORDS ? eval : DML_VOTE_WORDS;
}

/* ---- device ---- */

static dml_err open_device(dml_worker *w)
{
    static const char *const lane_name[DML_LANES] = {"compute", "send", "recv", "reduce"};
    const dml_device_api *device = w->backend->device;
    const int32_t rank = w->config->rank;
    const int32_t train = dml_exec_queue_capacity(&w->plan->train, rank);
    const int32_t eval = dml_exec_queue_capacity(&w->plan->eval, rank);
    const dml_device_config config = {.index = rank,
                                      .threads = w->config->threads,
                                      .queue_capacity = train > eval ? train : eval,
                                      .abort = &w->config->control->abort};
    DML_TRY(device->open(&config, &w->device));
    for (int32_t i = 0; i < DML_LANES; i++)
        DML_TRY(device->queue_open(w->device, lane_name[i], &w->lane[i]));
    const dml_kctx_config kernels = {.threads = w->config->threads,
                                     .deterministic = w->spec->training.numerics != DML_FAST};
    const dml_kernel_table *kt = w->backend->kernels;
    DML_TRY(kt->open(w->device, w->lane[DML_LANE_COMPUTE], &kernels, &w->compute));
    return kt->open(w->device, w->lane[DML_LANE_REDUCE], &kernels, &w->reduce);
}

/* ---- memory ---- */

static int32_t slots_of(const dml_worker *w, int32_t chunk, dml_pool pool)
{
    const int32_t a = *dml_program_slots(&w->plan->train, w->config->rank, chunk, pool);
    const int32_t b = *dml_program_slots(&w->plan->eval, w->config->rank, chunk, pool);
    return a > b ? a : b;
}

static void plan_pools(dml_worker *w, int32_t chunk)
{
    dml_held *h = &w->held[chunk];
    const dml_chunk_sizes *size = &h->chunk->size;
    h->bytes[DML_POOL_IN] = aligned(size->in);
    h->bytes[DML_POOL_STASH] = aligned(size->stash);
    h->bytes[DML_POOL_DY] = aligned(size->dy);
    h->bytes[DML_POOL_DX] = aligned(size->dx);
}

static dml_err plan_chunks(dml_worker *w)
{
    const int32_t chunks = w->plan->train.chunks;
    w->chunk = DML_NEW_N(&w->arena, dml_chunk, chunks);
    w->update = DML_NEW_N(&w->arena, dml_update, chunks);
    w->held = DML_NEW_N(&w->arena, dml_held, chunks);
    w->on_device = DML_NEW_N(&w->arena, void *, OWNED_PER_CHUNK *chunks);
    w->on_host = DML_NEW_N(&w->arena, void *, chunks + LOADERS);
    for (int32_t c = 0; c < chunks; c++) {
        if (!holds(w, c)) continue;
        const dml_chunk_span *span = &w->plan->train.span[c];
        DML_TRY(dml_chunk_plan(w->spec, &w->plan->model, span->layer_begin, span->layer_end, false,
                               &w->arena, &w->chunk[c]));
        w->held[c].chunk = &w->chunk[c];
        plan_pools(w, c);
    }
    return DML_ERR_OK;
}

static int64_t pool_bytes(const dml_worker *w, int32_t chunk, dml_pool pool)
{
    return w->held[chunk].bytes[pool] * slots_of(w, chunk, pool);
}

static int64_t transport_bytes(const dml_worker *w)
{
    int64_t bytes = 0;
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk)
            bytes += aligned(w->chunk[c].size.shared) + pool_bytes(w, c, DML_POOL_IN) +
                     pool_bytes(w, c, DML_POOL_DY);
    return bytes;
}

static dml_err take_device(dml_worker *w, int64_t bytes, void *out)
{
    void *p = NULL;
    if (bytes > 0) {
        DML_TRY(w->backend->device->alloc(w->device, bytes, &p));
        w->on_device[w->n_on_device++] = p;
        w->memory_bytes += bytes;
    }
    memcpy(out, &p, sizeof p);
    return DML_ERR_OK;
}

static dml_err take_shared(dml_worker *w, int64_t bytes, void *out)
{
    void *p = NULL;
    if (bytes > 0) {
        DML_TRY(w->comm->alloc(w->transport, bytes, &p));
        w->memory_bytes += bytes;
    }
    memcpy(out, &p, sizeof p);
    return DML_ERR_OK;
}

static dml_err take_host(dml_worker *w, int64_t bytes, void *out)
{
    void *p = NULL;
    DML_TRY(w->backend->device->host_alloc(w->device, bytes, &p));
    w->on_host[w->n_on_host++] = p;
    memcpy(out, &p, sizeof p);
    return DML_ERR_OK;
}

static dml_err bind_chunk(dml_worker *w, int32_t c)
{
    dml_chunk *chunk = &w->chunk[c];
    dml_held *h = &w->held[c];
    void *shared = NULL, *private = NULL, *partial = NULL, *readback = NULL;
    DML_TRY(take_shared(w, aligned(chunk->size.shared), &shared));
    DML_TRY(take_shared(w, pool_bytes(w, c, DML_POOL_IN), &h->pool[DML_POOL_IN]));
    DML_TRY(take_shared(w, pool_bytes(w, c, DML_POOL_DY), &h->pool[DML_POOL_DY]));
    DML_TRY(take_device(w, chunk->size.private_, &private));
    DML_TRY(take_device(w, pool_bytes(w, c, DML_POOL_STASH), &h->pool[DML_POOL_STASH]));
    DML_TRY(take_device(w, pool_bytes(w, c, DML_POOL_DX), &h->pool[DML_POOL_DX]));
    if (c == 0)
        DML_TRY(take_device(w, h->bytes[DML_POOL_IN] * slots_of(w, c, DML_POOL_STASH), &h->input));
    if (c == w->plan->train.chunks - 1)
        DML_TRY(take_device(w, chunk->mb_rows * (int64_t)sizeof(int32_t), &h->labels));
    DML_TRY(dml_chunk_bind(chunk, w->backend->device, w->lane[DML_LANE_COMPUTE], shared, private));

    DML_TRY(take_device(w, dml_update_device_bytes(chunk), &partial));
    DML_TRY(take_host(w, dml_update_host_bytes(chunk), &readback));
    h->update = &w->update[c];
    const bool counts = *dml_program_route(&w->plan->train, c, 0) == w->config->rank;
    dml_update_init(h->update, chunk, counts, partial, readback, &w->arena);
    return DML_ERR_OK;
}

/* ---- meeting the others ---- */

static dml_err open_transports(dml_worker *w)
{
    const dml_worker_config *c = w->config;
    DML_TRY(dml_transport_find(c->data_hub ? "local" : w->backend->transport, &w->comm));
    DML_TRY(dml_transport_find(c->vote_hub ? "local" : "shm", &w->vote_comm));
    dml_transport_config t = {
        .rank = c->rank,
        .world = w->plan->workers,
        .memory_bytes = transport_bytes(w) + ALIGN,
        .timeout_ns = w->spec->parallelism.timeout_ns,
        .abort = &c->control->abort,
        .link = {w->spec->parallelism.link_latency_ns, w->spec->parallelism.link_bytes_per_s},
        .fds = c->data_fds,
        .hub = c->data_hub,
    };
    DML_TRY(w->comm->open(&t, w->device, &w->transport));
    t.memory_bytes = aligned(ballot_words(w) * (int64_t)sizeof(int64_t));
    t.link = (dml_link){0};
    t.fds = c->vote_fds;
    t.hub = c->vote_hub;
    DML_TRY(w->vote_comm->open(&t, w->device, &w->vote_transport));
    void *ballot;
    DML_TRY(w->vote_comm->alloc(w->vote_transport, t.memory_bytes, &ballot));
    w->ballot = ballot;
    int32_t *all = DML_NEW_N(&w->arena, int32_t, w->plan->workers);
    for (int32_t r = 0; r < w->plan->workers; r++)
        all[r] = r;
    return w->vote_comm->group_open(w->vote_transport, all, w->plan->workers, 0, &w->world);
}

/* The replicas of a chunk are the workers that its routes name, ascending. */
static dml_err open_replicas(dml_worker *w, int32_t chunk)
{
    const dml_program *p = &w->plan->train;
    int32_t *ranks = DML_NEW_N(&w->arena, int32_t, w->plan->workers), n = 0;
    for (int32_t r = 0; r < w->plan->workers; r++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            if (*dml_program_route(p, chunk, mb) == r) {
                ranks[n++] = r;
                break;
            }
    w->held[chunk].n_replicas = n;
    return w->comm->group_open(w->transport, ranks, n, (uint32_t)chunk, &w->held[chunk].replicas);
}

/* ---- data ---- */

static dml_err open_loader(dml_worker *w, const dml_program *p, int32_t chunk, dml_data *data,
                           dml_data_parts part, int64_t end_step, dml_loader **out)
{
    int32_t *mbs = DML_NEW_N(&w->arena, int32_t, p->mbs), n = 0;
    const dml_op_list *list = &p->list[w->config->rank];
    for (int32_t i = 0; i < list->n; i++)
        if (list->op[i].kind == DML_OP_FWD && list->op[i].chunk == chunk) mbs[n++] = list->op[i].mb;
    dml_loader_config c = {.data = data,
                           .parts = part,
                           .mbs = mbs,
                           .n_mbs = n,
                           .end_step = end_step,
                           .depth = w->spec->data.prefetch,
                           .abort = &w->config->control->abort};
    DML_TRY(take_host(w, dml_loader_bytes(data, part, c.depth), &c.memory));
    return dml_loader_open(&c, out);
}

static dml_err open_feed(dml_worker *w, bool test, dml_feed *f)
{
    const dml_program *p = test ? &w->plan->eval : &w->plan->train;
    const int32_t last = p->chunks - 1;
    const bool images = w->held[0].chunk != NULL, labels = w->held[last].chunk != NULL;
    const dml_data_parts parts =
        (images ? DML_DATA_IMAGES : DML_DATA_COUNTS) | (labels ? DML_DATA_LABELS : DML_DATA_COUNTS);
    DML_TRY(dml_data_open(w->spec, test, parts, &f->data));
    const int64_t end = test ? dml_data_epoch_steps(f->data) : dml_data_total_steps(f->data);
    if (images) DML_TRY(open_loader(w, p, 0, f->data, DML_DATA_IMAGES, end, &f->images));
    if (labels) DML_TRY(open_loader(w, p, last, f->data, DML_DATA_LABELS, end, &f->labels));
    return DML_ERR_OK;
}

/* ---- preparing every shape ---- */

typedef struct rehearsal {
    dml_worker *w;
    int32_t chunk, rows;
} rehearsal;

/* Runs the chunk once, on zeros, in every way a step will: afterwards no kernel makes anything new.  What it
 * leaves in accumulators and slots is cleared by the first step's begin. */
static dml_err rehearse_chunk(void *arg)
{
    const rehearsal *r = arg;
    dml_worker *w = r->w;
    dml_held *h = &w->held[r->chunk];
    const dml_kernel_table *kt = w->backend->kernels;
    void *in = h->input ? (void *)h->input : h->pool[DML_POOL_IN];
    void *stash = h->pool[DML_POOL_STASH];
    const int32_t *labels = (const int32_t *)(const void *)h->labels;
    dml_run run = {.train = false, .rows = r->rows};
    DML_TRY(dml_chunk_begin_step(h->chunk, kt, w->compute));
    DML_TRY(dml_chunk_forward(h->chunk, kt, w->compute, &run, in, labels, stash));
    run.train = true;
    DML_TRY(dml_chunk_forward(h->chunk, kt, w->compute, &run, in, labels, stash));
    DML_TRY(dml_chunk_backward(h->chunk, kt, w->compute, &run, in, stash, h->pool[DML_POOL_DY],
                               h->pool[DML_POOL_DX]));
    return dml_chunk_begin_step(h->chunk, kt, w->compute);
}

static dml_err rehearse(dml_worker *w, int32_t rows)
{
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        if (!w->held[c].chunk) continue;
        rehearsal r = {w, c, rows};
        DML_TRY(w->backend->device->submit(w->lane[DML_LANE_COMPUTE], rehearse_chunk, &r));
        DML_TRY(w->backend->device->sync(w->lane[DML_LANE_COMPUTE],
                                         dml_clock_ns() + w->spec->parallelism.timeout_ns));
    }
    return DML_ERR_OK;
}

/* Sizes of micro-batches that occur: whole ones, and the tails of a short step and of the test split. */
static dml_err rehearse_all(dml_worker *w)
{
    const int32_t whole = w->spec->training.micro_batch_size;
    DML_TRY(rehearse(w, whole));
    const dml_feed *feeds[] = {&w->train, &w->test};
    int32_t seen = whole;
    for (size_t i = 0; i < sizeof feeds / sizeof *feeds; i++) {
        const int64_t last = dml_data_epoch_steps(feeds[i]->data) - 1;
        const int32_t tail = (int32_t)(dml_data_step_samples(feeds[i]->data, last) % whole);
        if (tail == 0 || tail == seen) continue;
        DML_TRY(rehearse(w, tail));
        seen = tail;
    }
    w->backend->kernels->seal(w->compute);
    w->backend->kernels->seal(w->reduce);
    return DML_ERR_OK;
}

/* ---- executors ---- */

static dml_err open_execs(dml_worker *w)
{
    dml_exec_config c = {.program = &w->plan->train,
                         .worker = w->config->rank,
                         .backend = w->backend,
                         .device = w->device,
                         .lane = w->lane,
                         .compute = w->compute,
                         .reduce = w->reduce,
                         .comm = w->comm,
                         .transport = w->transport,
                         .held = w->held,
                         .images = w->train.images,
                         .labels = w->train.labels,
                         .page = w->page,
                         .timeout_ns = w->spec->parallelism.timeout_ns};
    DML_TRY(dml_exec_new(&c, &w->arena, &w->train_exec));
    c.program = &w->plan->eval;
    c.images = w->test.images;
    c.labels = w->test.labels;
    return dml_exec_new(&c, &w->arena, &w->eval_exec);
}

static dml_err open_all(dml_worker *w)
{
    DML_TRY(open_device(w));
    DML_TRY(plan_chunks(w));
    DML_TRY(open_transports(w));
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) {
            DML_TRY(bind_chunk(w, c));
            DML_TRY(open_replicas(w, c));
        }
    DML_TRY(open_feed(w, false, &w->train));
    DML_TRY(open_feed(w, true, &w->test));
    DML_TRY(rehearse_all(w));
    w->rows = DML_NEW_N(&w->arena, int32_t, w->plan->mbs);
    return open_execs(w);
}

dml_err dml_worker_open(dml_worker *w, const dml_worker_config *config)
{
    *w = (dml_worker){.config = config,
                      .plan = config->plan,
                      .spec = config->plan->spec,
                      .backend = config->backend,
                      .page = &config->control->worker[config->rank]};
    return open_all(w);
}

static void close_feed(dml_feed *f)
{
    dml_loader_close(f->images);
    dml_loader_close(f->labels);
    dml_data_close(f->data);
}

/* Queues first: what they still hold is skipped, and nothing they use goes before them. */
void dml_worker_close(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    for (int32_t i = 0; i < DML_LANES; i++)
        device->queue_close(w->lane[i]);
    dml_exec_close(w->train_exec);
    dml_exec_close(w->eval_exec);
    close_feed(&w->train);
    close_feed(&w->test);
    for (int32_t c = 0; w->held && c < w->plan->train.chunks; c++)
        if (w->held[c].replicas) w->comm->group_close(w->held[c].replicas);
    if (w->world) w->vote_comm->group_close(w->world);
    if (w->vote_transport) w->vote_comm->close(w->vote_transport);
    if (w->transport) w->comm->close(w->transport);
    w->backend->kernels->close(w->compute);
    w->backend->kernels->close(w->reduce);
    for (int32_t i = 0; i < w->n_on_device; i++)
        device->free(w->device, w->on_device[i]);
    for (int32_t i = 0; i < w->n_on_host; i++)
        device->host_free(w->device, w->on_host[i]);
    device->close(w->device);
    dml_arena_free(&w->arena);
}
