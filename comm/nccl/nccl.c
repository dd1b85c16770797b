/* comm/nccl/nccl.c - NCCL behind comm/transport.h.
 *
 *   stage 0 (workers 0 1)  --- pair 0 up --->   stage 1 (workers 2 3)  --- pair 1 up --->   stage 2 ...
 *                          <-- pair 0 down --                          <-- pair 1 down --
 *
 * Communicators: two for each pair of neighbouring stages, one a direction, and one for each group.  A rank uses
 * each on one lane only: on the lower side `up` sends and `down` receives, on the upper side it is the reverse.
 * So sends and receives overlap, and the order NCCL asks for, the same on both sides of a communicator, is
 * the order of one lane, which the program's global order gives.  A death touches the communicators of two
 * stages, not all.
 *
 * All connections are made before the first step: `meet` moves a note over each, a new group sums one.  The notes
 * carry the epoch and which communicator this is, and a rank that hears another epoch refuses to go on.
 *
 * NCCL does not notice a dead peer on the same host; who watches raises the abort flag.  After a failure a
 * transport can only be abandoned and closed (comm/nccl/clique.c says how), and those left open the next epoch on
 * the same pages or new ones, without those who are absent.  Memory from alloc is the device's, not NCCL's: to
 * abandon takes nothing from it.
 *
 * Two differences from the CPU transports.  NCCL adds floats in an order of its own: the bits are the same
 * on all members and in repeats on the same machines, not in group order; sums of integers (exact mode) have
 * one result.  And it checks neither tags nor sizes: the checker has proved them before the run.
 */
#include "comm/nccl/nccl.h"

#include "comm/nccl/clique.h"
#include "comm/pair.h"
#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ncclUniqueId) == DML_ID_BYTES, "an id fits its page");

enum {
    ALIGN_BYTES = 256,
    WARM_MOST = 64 << 20, /* the largest sum of a new group; above, algorithms change no more */
    WARM_LEAST = 256,
    WARM_STEP = 8, /* each is an eighth of the one before */
};

struct dml_group {
    dml_transport *t;
    dml_clique *clique; /* borrowed; NULL: a group of one */
    int32_t n, member;  /* this rank is ranks[member] */
};

/* ---- open and close ---- */

static dml_err map_pages(dml_transport *t, const dml_transport_config *config)
{
    if (!config->fds) DML_FAIL(DML_ERR_BUG, "the nccl transport needs a memfd per rank");
    for (int32_t r = 0; r < t->n_ranks; r++)
        if (!config->absent || !config->absent[r])
            DML_TRY(dml_id_page_open(config->fds[r], &t->pages[r]));
    return DML_ERR_OK;
}

static dml_err take_memory(dml_transport *t)
{
    const dml_device_api *device = &dml_cuda_device;
    void *memory = NULL, *scratch = NULL, *notes = NULL;
    DML_TRY(device->alloc(t->device, t->memory_bytes, &memory));
    t->memory = memory;
    if (t->n_ranks == 1) return DML_ERR_OK;
    DML_TRY(device->alloc(t->device, dml_notes_bytes(t), &scratch));
    t->scratch = scratch;
    DML_TRY(device->host_alloc(t->device, dml_notes_bytes(t), &notes));
    t->notes = notes;
    return device->queue_open(t->device, "introductions", &t->queue);
}

static dml_err begin(dml_transport *t, const dml_transport_config *config)
{
    const int64_t n = t->n_ranks;
    t->pages = calloc((size_t)n, sizeof *t->pages);
    t->route = calloc((size_t)n, sizeof *t->route);
    t->server = malloc((size_t)(n * n) * sizeof *t->server);
    if (!t->pages || !t->route || !t->server)
        DML_FAIL(DML_ERR_NOMEM, "no memory for the tables of %d ranks", t->n_ranks);
    for (int64_t i = 0; i < n * n; i++)
        t->server[i] = -1;
    DML_TRY(take_memory(t));
    if (n == 1) return DML_ERR_OK;
    dml_nccl_configure(config);
    DML_TRY(dml_nccl_library_find(&t->library));
    DML_TRY(map_pages(t, config));
    return dml_id_meet(t->pages, t->n_ranks, t->rank, t->epoch, dml_clock_ns() + t->timeout_ns,
                       t->abort);
}

static dml_err transport_close(dml_transport *t)
{
    if (!t) return DML_ERR_OK;
    DML_TRY(dml_cliques_leave(t));
    const dml_device_api *device = &dml_cuda_device;
    device->queue_close(t->queue);
    if (t->memory) device->free(t->device, t->memory);
    if (t->scratch) device->free(t->device, t->scratch);
    if (t->notes) device->host_free(t->device, t->notes);
    for (int32_t r = 0; t->pages && r < t->n_ranks; r++)
        dml_id_page_close(t->pages[r]);
    free(t->pages);
    free(t->route);
    free(t->server);
    free(t);
    return DML_ERR_OK;
}

static dml_err transport_open(const dml_transport_config *config, dml_device *device,
                              dml_transport **out)
{
    if (config->world < 1 || config->rank < 0 || config->rank >= config->world ||
        config->memory_bytes < 0)
        DML_FAIL(DML_ERR_BUG, "rank %d of %d with %lld bytes", config->rank, config->world,
                 (long long)config->memory_bytes);
    dml_transport *t = calloc(1, sizeof *t);
    if (!t) DML_FAIL(DML_ERR_NOMEM, "no memory for a transport");
    *t = (dml_transport){.device = device,
                         .rank = config->rank,
                         .n_ranks = config->world,
                         .index = dml_cuda_index(device),
                         .epoch = config->epoch,
                         .timeout_ns = config->timeout_ns,
                         .abort = config->abort,
                         .memory_bytes = config->memory_bytes};
    const dml_err err = begin(t, config);
    if (err != DML_ERR_OK) {
        transport_close(t); /* no communicator yet: nothing that could hang */
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    *out = t;
    return DML_ERR_OK;
}

static dml_err transport_alloc(dml_transport *t, int64_t bytes, void **out)
{
    const int64_t padded = (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    if (bytes < 0 || padded > t->memory_bytes - t->used_bytes)
        DML_FAIL(DML_ERR_NOMEM, "%lld bytes do not fit: %lld of %lld are taken", (long long)bytes,
                 (long long)t->used_bytes, (long long)t->memory_bytes);
    *out = t->memory + t->used_bytes;
    t->used_bytes += padded;
    return DML_ERR_OK;
}

/* ---- point to point ---- */

static dml_err route_to(const dml_transport *t, int32_t peer, int64_t bytes, const dml_route **out)
{
    if (peer < 0 || peer >= t->n_ranks || peer == t->rank || bytes < 0)
        DML_FAIL(DML_ERR_BUG, "worker %d of %d exchanges %lld bytes with worker %d", t->rank,
                 t->n_ranks, (long long)bytes, peer);
    *out = &t->route[peer];
    if (!(*out)->out)
        DML_FAIL(DML_ERR_BUG,
                 "workers %d and %d exchange %lld bytes, but no pair of `meet` has both", t->rank,
                 peer, (long long)bytes);
    return DML_ERR_OK;
}

static void count(dml_clique *c, int64_t bytes)
{
    c->calls++;
    c->bytes += bytes;
}

static dml_err transport_send(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                              int64_t bytes, uint32_t tag)
{
    (void)tag;
    const dml_route *to = NULL;
    DML_TRY(route_to(t, peer, bytes, &to));
    DML_TRY(DML_NCCL(
        to->out, peer, ncclSend,
        (src, (size_t)bytes, ncclUint8, to->place, to->out->comm, dml_cuda_stream(queue))));
    count(to->out, bytes);
    return DML_ERR_OK;
}

static dml_err transport_recv(dml_transport *t, dml_queue *queue, int32_t peer, void *dst,
                              int64_t bytes, uint32_t tag)
{
    (void)tag;
    const dml_route *from = NULL;
    DML_TRY(route_to(t, peer, bytes, &from));
    DML_TRY(DML_NCCL(
        from->in, peer, ncclRecv,
        (dst, (size_t)bytes, ncclUint8, from->place, from->in->comm, dml_cuda_stream(queue))));
    count(from->in, bytes);
    return DML_ERR_OK;
}

/* ---- groups ---- */

/* The first transfer: all members hold the same words {x, -x, ...} exactly if their maximum is what each holds.
 *   bytes  in: this rank's memory that is not handed out; out: the least of all members' */
static dml_err compare_members(dml_clique *c, uint32_t id, int32_t n, int64_t *bytes)
{
    dml_transport *t = c->t;
    const dml_device_api *device = &dml_cuda_device;
    const int64_t epoch = t->epoch;
    const int64_t own[] = {epoch, -epoch, id, -(int64_t)id, n, -n, -*bytes};
    enum { SAME = sizeof own - sizeof *own };
    int64_t *words = (int64_t *)(void *)t->notes;
    memcpy(words, own, sizeof own);
    DML_TRY(device->copy(t->queue, t->scratch, words, sizeof own));
    DML_TRY(DML_NCCL(c, -1, ncclAllReduce,
                     (t->scratch, t->scratch, sizeof own / sizeof *own, ncclInt64, ncclMax, c->comm,
                      dml_cuda_stream(t->queue))));
    DML_TRY(device->copy(t->queue, words, t->scratch, sizeof own));
    DML_TRY(dml_clique_finish(c));
    if (words[0] != epoch || words[1] != -epoch)
        DML_FAIL(DML_ERR_PEER, "refused: %s has members at epochs %lld to %lld, worker %d is at %u",
                 c->name, (long long)-words[1], (long long)words[0], t->rank, t->epoch);
    if (memcmp(words, own, SAME) != 0)
        DML_FAIL(DML_ERR_BUG, "worker %d opens group %u of %d, another member group %lld of %lld",
                 t->rank, id, n, (long long)words[2], (long long)words[4]);
    *bytes = -words[SAME / sizeof *own];
    return DML_ERR_OK;
}

/* Since 2.22 NCCL connects an algorithm when a sum first wants it, and the size of the sum decides which.  So sums
 * of all sizes: of the zeros that all members have not yet handed out, which stay zeros.  A step sums what `alloc`
 * gives, so nothing larger comes.  (Not used: NCCL_RUNTIME_CONNECT=0.  It is for all communicators of a process,
 * and those of pairs, which never sum, would have the connections and their memory too.) */
static dml_err warm_group(dml_clique *c, int64_t most_bytes)
{
    dml_transport *t = c->t;
    char *zeros = t->memory + t->used_bytes;
    const cudaStream_t stream = dml_cuda_stream(t->queue);
    int64_t bytes = most_bytes < WARM_MOST ? most_bytes : WARM_MOST;
    for (; bytes >= WARM_LEAST; bytes /= WARM_STEP)
        DML_TRY(DML_NCCL(
            c, -1, ncclAllReduce,
            (zeros, zeros, (size_t)bytes / sizeof(float), ncclFloat, ncclSum, c->comm, stream)));
    return dml_clique_finish(c);
}

static dml_err open_clique(dml_group *g, const int32_t *ranks, uint32_t id)
{
    const dml_clique_plan plan = {.maker = ranks[0], .n = g->n, .member = g->member, .key = id};
    DML_TRY(dml_clique_join(g->t, &plan, &g->clique, "group %u of %d", id, g->n));
    int64_t bytes = g->t->memory_bytes - g->t->used_bytes;
    DML_TRY(compare_members(g->clique, id, g->n, &bytes));
    return warm_group(g->clique, bytes);
}

static dml_err group_open(dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                          dml_group **out)
{
    const int32_t member = dml_pair_place(ranks, n, t->rank);
    if (member < 0) DML_FAIL(DML_ERR_BUG, "worker %d is not in group %u", t->rank, id);
    for (int32_t i = 0; n > 1 && i < n; i++)
        if (!t->pages[ranks[i]])
            DML_FAIL(DML_ERR_BUG, "worker %d of group %u is absent", ranks[i], id);
    dml_group *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for a group");
    *g = (dml_group){.t = t, .n = n, .member = member};
    const dml_err err = n > 1 ? open_clique(g, ranks, id) : DML_ERR_OK;
    if (err != DML_ERR_OK) {
        t->failed = true; /* refused: the others do not know */
        free(g);
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    *out = g;
    return DML_ERR_OK;
}

/* Its communicator ends with the transport's others. */
static void group_close(dml_group *g)
{
    free(g);
}

static dml_err type_of(dml_dtype dtype, ncclDataType_t *out)
{
    switch (dtype) {
    case DML_F32: *out = ncclFloat; return DML_ERR_OK;
    case DML_F64: *out = ncclDouble; return DML_ERR_OK;
    case DML_BF16: *out = ncclBfloat16; return DML_ERR_OK;
    case DML_F16: *out = ncclFloat16; return DML_ERR_OK;
    case DML_I64: *out = ncclInt64; return DML_ERR_OK;
    case DML_I32: *out = ncclInt32; return DML_ERR_OK;
    case DML_U32: *out = ncclUint32; return DML_ERR_OK;
    case DML_U8: break;
    }
    DML_FAIL(DML_ERR_BUG, "no reduction of element type %s", dml_dtype_name(dtype));
}

static ncclRedOp_t operation(dml_reduction reduction)
{
    return reduction == DML_SUM ? ncclSum : ncclMax;
}

static dml_err group_all_reduce(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                                dml_dtype dtype, dml_reduction reduction)
{
    ncclDataType_t type = ncclNumTypes;
    DML_TRY(type_of(dtype, &type));
    if (g->n == 1) return DML_ERR_OK;
    DML_TRY(DML_NCCL(g->clique, -1, ncclAllReduce,
                     (buffer, buffer, (size_t)elems, type, operation(reduction), g->clique->comm,
                      dml_cuda_stream(queue))));
    count(g->clique, elems * dml_dtype_bytes(dtype));
    return DML_ERR_OK;
}

static dml_err group_all_gather(dml_group *g, dml_queue *queue, void *dst, const void *src,
                                int64_t bytes)
{
    if (g->n == 1) return src == dst ? DML_ERR_OK : dml_cuda_device.copy(queue, dst, src, bytes);
    DML_TRY(
        DML_NCCL(g->clique, -1, ncclAllGather,
                 (src, dst, (size_t)bytes, ncclUint8, g->clique->comm, dml_cuda_stream(queue))));
    count(g->clique, g->n * bytes);
    return DML_ERR_OK;
}

static dml_err group_reduce_scatter(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                                    dml_dtype dtype, dml_reduction reduction)
{
    ncclDataType_t type = ncclNumTypes;
    DML_TRY(type_of(dtype, &type));
    if (g->n == 1) return DML_ERR_OK;
    const int64_t part = elems * dml_dtype_bytes(dtype);
    char *own = (char *)buffer + g->member * part; /* in place, as NCCL defines it */
    DML_TRY(DML_NCCL(g->clique, -1, ncclReduceScatter,
                     (buffer, own, (size_t)elems, type, operation(reduction), g->clique->comm,
                      dml_cuda_stream(queue))));
    count(g->clique, g->n * part);
    return DML_ERR_OK;
}

const dml_transport_api dml_nccl_transport = {
    .name = "nccl",
    .doc = "GPU to GPU by NCCL",
    .library = dml_nccl_library_name,
    .open = transport_open,
    .abandon = dml_cliques_abandon,
    .close = transport_close,
    .alloc = transport_alloc,
    .meet = dml_nccl_meet,
    .send = transport_send,
    .recv = transport_recv,
    .group_open = group_open,
    .group_close = group_close,
    .all_reduce = group_all_reduce,
    .all_gather = group_all_gather,
    .reduce_scatter = group_reduce_scatter,
};
