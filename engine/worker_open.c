/* engine/worker_open.c - setting a worker up: device, chunks, memory, meeting the others, preparing shapes. */
#include "engine/worker_state.h"

#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/probe.h"

#include <sched.h>
#include <unistd.h>

enum { IDLE_QUEUE = 16 }; /* jobs and copies, of a worker that only votes */

static int64_t aligned(int64_t bytes)
{
    return (bytes + DML_WORKER_ALIGN - 1) / DML_WORKER_ALIGN * DML_WORKER_ALIGN;
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
    const int64_t eval = 2 * (int64_t)w->plan->mbs,
                  train = ((int64_t)w->plan->updates + 1) * DML_BALLOT_WORDS;
    return eval > train ? eval : train;
}

/* ---- device ---- */

/* The most micro-batches of a step that pass through one chunk on one worker: of all, so that all choose alike. */
static int32_t most_passes(const dml_worker *w)
{
    const dml_program *p = &w->plan->train;
    int32_t most = 0;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t worker = 0; worker < p->workers; worker++) {
            int32_t n = 0;
            for (int32_t mb = 0; mb < p->mbs; mb++)
                n += *dml_program_route(p, c, mb) == worker;
            if (n > most) most = n;
        }
    return most;
}

dml_kctx_config dml_worker_kernels(const dml_worker *w)
{
    return (dml_kctx_config){.threads = w->config->threads,
                             .passes = most_passes(w),
                             .deterministic = w->spec->training.numerics != DML_FAST,
                             .tf32 = w->spec->training.precision == DML_PRECISION_TF32};
}

/* Loading has a queue of its own where a copy is not the host's work. */
static dml_err open_queues(dml_worker *w)
{
    static const char *const lane_name[DML_LANES] = {"compute", "send", "recv", "reduce"};
    const dml_device_api *device = w->backend->device;
    for (int32_t i = 0; i < DML_LANES; i++)
        DML_TRY(device->queue_open(w->device, lane_name[i], &w->lane[i]));
    w->load = w->lane[DML_LANE_COMPUTE];
    return w->backend->on_host ? DML_ERR_OK : device->queue_open(w->device, "load", &w->load);
}

/* A device may bind this thread, and so all that it starts, to the CPUs near it. */
static dml_err open_near(dml_worker *w, const dml_device_config *config)
{
    cpu_set_t before, after;
    const bool known = sched_getaffinity(0, sizeof before, &before) == 0;
    DML_TRY(w->backend->device->open(config, &w->device));
    if (known && sched_getaffinity(0, sizeof after, &after) == 0 && !CPU_EQUAL(&before, &after))
        dml_log(DML_LOG_INFO, "worker", "bound to %d of %d CPUs, those near device %d",
                CPU_COUNT(&after), CPU_COUNT(&before), config->index);
    return DML_ERR_OK;
}

static int32_t queue_capacity(const dml_worker *w)
{
    if (w->idle) return IDLE_QUEUE;
    const int32_t train = dml_exec_queue_capacity(&w->plan->train, w->config->rank);
    const int32_t eval = dml_exec_queue_capacity(&w->plan->eval, w->config->rank);
    return train > eval ? train : eval;
}

static dml_err open_device(dml_worker *w)
{
    const int32_t rank = w->config->rank;
    const dml_device_config config = {.index = w->config->first_device +
                                               rank / w->spec->parallelism.workers_per_device,
                                      .threads = w->config->threads,
                                      .queue_capacity = queue_capacity(w),
                                      .abort = &w->abort};
    DML_TRY(open_near(w, &config));
    DML_TRY(open_queues(w));
    const dml_kctx_config kernels = dml_worker_kernels(w);
    const dml_kernel_table *kt = w->backend->kernels;
    DML_TRY(kt->open(w->device, w->lane[DML_LANE_COMPUTE], &kernels, &w->compute));
    return kt->open(w->device, w->lane[DML_LANE_REDUCE], &kernels, &w->reduce);
}

/* ---- chunks ---- */

bool dml_worker_splits_backward(const dml_worker *w)
{
    return dml_program_splits_backward(&w->plan->train);
}

static dml_err plan_chunks(dml_worker *w)
{
    const int32_t chunks = w->plan->train.chunks;
    const bool split = dml_worker_splits_backward(w);
    w->chunk = DML_NEW_N(&w->arena, dml_chunk, chunks);
    w->update = DML_NEW_N(&w->arena, dml_update, chunks);
    w->held = DML_NEW_N(&w->arena, dml_held, dml_program_ports(&w->plan->train));
    for (int32_t c = 0; c < chunks; c++) {
        if (!holds(w, c)) continue;
        const dml_chunk_span *span = &w->plan->train.span[c];
        DML_TRY(dml_chunk_plan(w->spec, &w->plan->model, span->layer_begin, span->layer_end, split,
                               &w->arena, &w->chunk[c]));
        dml_plan_buffers(w->plan, c, &w->chunk[c]);
        w->held[c].chunk = &w->chunk[c];
    }
    return DML_ERR_OK;
}

static dml_err bind_chunk(dml_worker *w, int32_t c)
{
    dml_chunk *chunk = &w->chunk[c];
    const dml_chunk_memory *m = &w->chunk_memory[c];
    const bool counts = *dml_program_route(&w->plan->train, c, 0) == w->config->rank;
    w->held[c].update = &w->update[c];
    if (!w->tenure.from)
        DML_TRY(dml_chunk_bind(chunk, w->backend->device, w->lane[DML_LANE_COMPUTE], m->shared,
                               m->private_));
    else
        dml_chunk_place(chunk, m->shared, m->private_);
    dml_update_init(w->held[c].update, chunk, counts, m->partial, m->readback, &w->arena);
    return w->tenure.from ? dml_worker_get_state(w, c) : DML_ERR_OK;
}

/* ---- data ---- */

static dml_err open_data(dml_worker *w, bool test, dml_feed *f)
{
    const bool images = w->held[0].chunk, labels = w->held[w->plan->train.chunks - 1].chunk;
    const dml_data_parts parts =
        (images ? DML_DATA_IMAGES : DML_DATA_COUNTS) | (labels ? DML_DATA_LABELS : DML_DATA_COUNTS);
    return dml_data_open(w->spec, test, parts, &f->data);
}

static dml_err open_loader(dml_worker *w, const dml_program *p, int32_t chunk, dml_data *data,
                           dml_data_parts part, int64_t end_step, void *ring, dml_loader **out)
{
    const bool trains = p == &w->plan->train;
    int32_t *mbs = DML_NEW_N(&w->arena, int32_t, p->mbs), n = 0;
    const dml_op_list *list = &p->list[w->config->rank];
    for (int32_t i = 0; i < list->n; i++)
        if (list->op[i].kind == DML_OP_FWD && list->op[i].chunk == chunk) mbs[n++] = list->op[i].mb;
    const dml_loader_config c = {.data = data,
                                 .parts = part,
                                 .mbs = mbs,
                                 .n_mbs = n,
                                 .segments = trains ? w->segments : (dml_segments){0},
                                 .first_step = trains ? w->tenure.first_step : 0,
                                 .end_step = end_step,
                                 .depth = w->spec->data.prefetch,
                                 .memory = ring,
                                 .abort = &w->abort};
    return dml_loader_open(&c, out);
}

static dml_err open_loaders(dml_worker *w, bool test, dml_feed *f)
{
    const dml_program *p = test ? &w->plan->eval : &w->plan->train;
    const int32_t last = p->chunks - 1;
    const int64_t end = test ? dml_data_epoch_steps(f->data) : dml_data_total_steps(f->data);
    if (w->held[0].chunk)
        DML_TRY(open_loader(w, p, 0, f->data, DML_DATA_IMAGES, end, f->images_ring, &f->images));
    if (w->held[last].chunk)
        DML_TRY(open_loader(w, p, last, f->data, DML_DATA_LABELS, end, f->labels_ring, &f->labels));
    return DML_ERR_OK;
}

/* ---- executors ---- */

static dml_err open_execs(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    if (w->idle) return DML_ERR_OK;
    if (device->capture && !w->config->probe)
        DML_TRY(dml_graphs_open(device, w->lane[DML_LANE_COMPUTE], &w->graphs));
    dml_exec_config c = {.program = &w->plan->train,
                         .worker = w->config->rank,
                         .backend = w->backend,
                         .device = w->device,
                         .lane = w->lane,
                         .load = w->load,
                         .compute = w->compute,
                         .reduce = w->reduce,
                         .comm = w->comm,
                         .transport = w->transport,
                         .held = w->held,
                         .images = w->train.images,
                         .labels = w->train.labels,
                         .page = w->page,
                         .graphs = w->graphs,
                         .vote = dml_worker_vote,
                         .vote_context = w,
                         .recorder = &w->recorder,
                         .striker = w->config->striker,
                         .timeout_ns = w->spec->parallelism.timeout_ns};
    DML_TRY(dml_exec_new(&c, &w->arena, &w->train_exec));
    c.program = &w->plan->eval;
    c.recorder = NULL;
    c.images = w->test.images;
    c.labels = w->test.labels;
    return dml_exec_new(&c, &w->arena, &w->eval_exec);
}

/* After the rehearsal, which is not to be counted. */
static dml_err open_probe(dml_worker *w)
{
    dml_probe *probe = w->config->probe;
    int32_t steps = 0;
    if (!probe) return DML_ERR_OK;
    for (int32_t c = 0; c < w->plan->train.chunks; c++) {
        if (!w->held[c].chunk) continue;
        steps += dml_chunk_steps(w->held[c].chunk) * w->plan->mbs;
        dml_chunk_set_probe(w->held[c].chunk, probe);
    }
    return dml_probe_open(probe, w->backend->device, w->backend->on_host ? NULL : w->device,
                          w->lane[DML_LANE_COMPUTE], steps, &w->arena);
}

/* ---- all of it ---- */

static dml_err meet(dml_worker *w)
{
    w->ballot_words = ballot_words(w);
    DML_TRY(dml_worker_meet(w, dml_worker_shared_bytes(w) + DML_WORKER_ALIGN,
                            aligned(w->ballot_words * (int64_t)sizeof *w->ballot)));
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) DML_TRY(dml_worker_meet_replicas(w, c));
    return DML_ERR_OK;
}

static dml_err open_all(dml_worker *w)
{
    w->segments = (dml_segments){.steps = w->plan->updates,
                                 .mbs = w->plan->mbs,
                                 .every = w->spec->training.eval_interval_steps};
    DML_TRY(open_device(w));
    DML_TRY(plan_chunks(w));
    DML_TRY(open_data(w, false, &w->train));
    DML_TRY(open_data(w, true, &w->test));
    dml_worker_plan_memory(w);
    DML_TRY(DML_FAILPOINT(WORKER_OPEN));
    DML_TRY(meet(w));
    DML_TRY(dml_worker_choose(w));
    DML_TRY(dml_worker_take_memory(w));
    for (int32_t c = 0; c < w->plan->train.chunks; c++)
        if (w->held[c].chunk) DML_TRY(bind_chunk(w, c));
    w->holds = true;
    DML_TRY(dml_worker_rehearse(w));
    DML_TRY(open_probe(w));
    DML_TRY(open_loaders(w, false, &w->train));
    DML_TRY(open_loaders(w, true, &w->test));
    w->rows = DML_NEW_N(&w->arena, int32_t, w->plan->train.mbs);
    w->updates = DML_NEW_N(&w->arena, dml_exec_update, w->plan->updates);
    DML_TRY(dml_worker_open_keep(w));
    return open_execs(w);
}

/* Who is there, and who of them works. */
static void count_ranks(dml_worker *w)
{
    const dml_program *p = &w->plan->train;
    w->absent = DML_NEW_N(&w->arena, bool, w->processes);
    for (int32_t r = w->processes - 1; r >= 0; r--) {
        w->absent[r] = dml_is_among(w->tenure.lost, r);
        if (w->absent[r]) continue;
        w->present++;
        w->working += r < p->workers && p->list[r].n > 0;
        w->leads = r == w->config->rank; /* of the lowest rank in the end */
    }
    w->idle = w->config->rank >= p->workers || p->list[w->config->rank].n == 0;
}

/* Nothing of an earlier tenure is to be taken for one of this. */
static void clear_page(dml_worker *w)
{
    atomic_store_explicit(&w->page->contributed, 0, memory_order_relaxed);
    atomic_store_explicit(&w->page->voted, 0, memory_order_relaxed);
    atomic_store_explicit(&w->page->committed, w->tenure.first_step, memory_order_release);
}

dml_err dml_worker_open(dml_worker *w, const dml_worker_config *config, const dml_tenure *tenure,
                        dml_kept *kept)
{
    *w = (dml_worker){.config = config,
                      .tenure = *tenure,
                      .plan = tenure->plan,
                      .processes = config->plan->workers,
                      .spec = config->plan->spec,
                      .backend = config->backend,
                      .page = &config->control->worker[config->rank],
                      .kept = kept,
                      .abort = {.epoch = tenure->plan ? tenure->generation : DML_FENCE_END - 1,
                                .killed = config->dead,
                                .fence = &config->control->fence}};
    if (!w->plan) return DML_ERR_OK;
    w->spec = w->plan->spec;
    if (config->trace && tenure->generation == 0)
        w->recorder = dml_trace_recorder(config->trace, config->rank);
    dml_striker_begin(config->striker, &w->abort, w->spec->parallelism.timeout_ns, w->tenure.lost);
    count_ranks(w);
    clear_page(w);
    return open_all(w);
}

static void close_feed(dml_feed *f)
{
    dml_loader_close(f->images);
    dml_loader_close(f->labels);
    dml_data_close(f->data);
}

static void close_queues(dml_worker *w)
{
    const dml_device_api *device = w->backend->device;
    if (w->load != w->lane[DML_LANE_COMPUTE]) device->queue_close(w->load);
    for (int32_t i = 0; i < DML_LANES; i++)
        device->queue_close(w->lane[i]);
}

/* Queues first: what they still hold is skipped, and nothing they use goes before them.  Transports next: once
 * they have failed, nothing may be asked of the device before they are closed. */
dml_err dml_worker_close(dml_worker *w)
{
    close_queues(w);
    close_feed(&w->train);
    close_feed(&w->test);
    for (int32_t c = 0; w->held && c < w->plan->train.chunks; c++)
        if (w->held[c].replicas) w->comm->group_close(w->held[c].replicas);
    if (w->world) w->vote_comm->group_close(w->world);
    if (w->vote_transport) w->vote_comm->close(w->vote_transport);
    if (w->transport) DML_TRY(w->comm->close(w->transport));
    dml_exec_close(w->train_exec);
    dml_exec_close(w->eval_exec);
    dml_probe_close(w->config->probe);
    dml_graphs_close(w->graphs);
    w->backend->kernels->close(w->compute);
    w->backend->kernels->close(w->reduce);
    dml_worker_free_memory(w);
    w->backend->device->close(w->device);
    dml_depot_close(&w->start);
    dml_arena_free(&w->arena);
    return DML_ERR_OK;
}
