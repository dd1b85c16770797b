/* comm/nccl/nccl.c - NCCL behind comm/transport.h.
 *
 * One communicator of all ranks for point to point, one more for each group.  All are non-blocking: a call
 * returns at once, and `settle` polls the communicator until it is ready, the deadline passes or the abort
 * flag is raised.  So no thread is ever stuck inside NCCL, which is what makes ncclCommAbort safe.
 *
 * After a failure all communicators are aborted at close, none is finalized: the peers may be dead.  NCCL
 * does not notice a dead peer on the same host; who watches raises the abort flag.
 *
 * Two differences from the CPU transports.  NCCL adds floats in an order of its own: the bits are the same
 * on all members and in repeats on the same machines, not in group order; sums of integers (exact mode) have
 * one result.  And it checks neither tags nor sizes: the checker has proved them before the run.
 */
#include "comm/nccl/nccl.h"

#include "comm/nccl/id_page.h"
#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"

#include <nccl.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ncclUniqueId) == DML_ID_BYTES, "an id fits its page");

enum { ALIGN_BYTES = 256, SPINS = 200, NAP_NS = 20000 };

/* Groups are numbered by the caller in 32 bits; this is no such number. */
static const uint64_t WORLD = UINT64_C(1) << 32;

struct dml_transport {
    dml_device *device;
    int32_t rank, n_ranks, index; /* index: the CUDA device's */
    uint32_t epoch;
    int64_t timeout_ns;
    const dml_abort *abort;
    dml_id_page **pages; /* [n_ranks] owned */
    ncclComm_t world;    /* NULL: one rank, or not open */
    bool failed;         /* some call has: abort, do not finalize */
    char *memory;        /* owned device memory */
    int64_t memory_bytes, used_bytes;
};

struct dml_group {
    dml_transport *transport;
    ncclComm_t comm;   /* NULL: a group of one */
    int32_t n, member; /* this rank is ranks[member] */
};

/* ---- statuses ---- */

static dml_err meaning(ncclResult_t status)
{
    if (status == ncclInvalidArgument || status == ncclInvalidUsage) return DML_ERR_BUG;
    if (status == ncclUnhandledCudaError || status == ncclSystemError) return DML_ERR_UNAVAILABLE;
    return DML_ERR_PEER;
}

static dml_err failed(dml_transport *t, ncclResult_t status, int line, const char *call)
{
    t->failed = true;
    return dml_err_set(meaning(status), __FILE__, line, "%s: %s: %s", call,
                       ncclGetErrorString(status), ncclGetLastError(NULL));
}

static bool stopped(const dml_transport *t)
{
    return t->abort && atomic_load_explicit(&t->abort->raised, memory_order_relaxed);
}

/* Polls until `comm`, whose last call gave `status`, is ready or has failed.  ncclInProgress: the deadline
 * passed, or the run is being stopped. */
static ncclResult_t await(const dml_transport *t, ncclComm_t comm, ncclResult_t status)
{
    const int64_t deadline_ns = dml_clock_ns() + t->timeout_ns;
    for (int32_t turn = 0; status == ncclInProgress; turn++) {
        const int64_t now_ns = dml_clock_ns();
        if (stopped(t) || now_ns >= deadline_ns) break;
        if (turn > SPINS) dml_sleep_until_ns(now_ns + NAP_NS);
        const ncclResult_t asked = ncclCommGetAsyncError(comm, &status);
        if (asked != ncclSuccess) return asked;
    }
    return status;
}

static dml_err settle(dml_transport *t, ncclComm_t comm, ncclResult_t status, int line,
                      const char *call)
{
    status = await(t, comm, status);
    if (status == ncclSuccess) return DML_ERR_OK;
    if (status != ncclInProgress) return failed(t, status, line, call);
    t->failed = true;
    return dml_err_set(DML_ERR_PEER, __FILE__, line, "%s: %s", call,
                       stopped(t) ? "the run is being stopped" : "not all peers came in time");
}

#define SETTLE(t, comm, call, args) DML_TRY(settle((t), (comm), call args, __LINE__, #call))

/* ---- communicators ---- */

/* ranks[0] makes the id; everyone joins as `member`. */
static dml_err join(dml_transport *t, const int32_t *ranks, int32_t n, int32_t member,
                    uint64_t group, ncclComm_t *out)
{
    ncclUniqueId id;
    if (member == 0) {
        const ncclResult_t made = ncclGetUniqueId(&id);
        if (made != ncclSuccess) return failed(t, made, __LINE__, "ncclGetUniqueId");
        dml_id_publish(t->pages[t->rank], t->epoch, group, id.internal);
    } else {
        DML_TRY(dml_id_await(t->pages[ranks[0]], ranks[0], t->epoch, group,
                             dml_clock_ns() + t->timeout_ns, t->abort, id.internal));
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t status = ncclCommInitRankConfig(out, n, id, member, &config);
    const dml_err err = settle(t, *out, status, __LINE__, "ncclCommInitRankConfig");
    if (member == 0) dml_id_withdraw(t->pages[t->rank]);
    return err;
}

/* Orderly when all went well, since peers may still be reading; else at once. */
static void leave(const dml_transport *t, ncclComm_t comm)
{
    if (!comm) return;
    if (!t->failed && await(t, comm, ncclCommFinalize(comm)) == ncclSuccess)
        ncclCommDestroy(comm);
    else
        ncclCommAbort(comm);
}

static dml_err use(const dml_transport *t)
{
    return DML_CUDA(cudaSetDevice, (t->index), "device %d", t->index);
}

/* ---- open and close ---- */

static dml_err map_pages(dml_transport *t, const int *fds)
{
    if (t->n_ranks == 1) return DML_ERR_OK;
    for (int32_t r = 0; r < t->n_ranks; r++)
        DML_TRY(dml_id_page_open(fds[r], &t->pages[r]));
    return DML_ERR_OK;
}

static void unmap_pages(dml_transport *t)
{
    for (int32_t r = 0; r < t->n_ranks; r++)
        dml_id_page_close(t->pages[r]);
}

static dml_err take_memory(dml_transport *t)
{
    if (t->memory_bytes == 0) return DML_ERR_OK;
    DML_TRY(DML_CUDA(cudaMalloc, ((void **)&t->memory, (size_t)t->memory_bytes),
                     "%lld bytes that peers can reach, on device %d", (long long)t->memory_bytes,
                     t->index));
    DML_TRY(DML_CUDA(cudaMemset, (t->memory, 0, (size_t)t->memory_bytes), "%lld bytes",
                     (long long)t->memory_bytes));
    return DML_CUDA(cudaDeviceSynchronize, (), "after clearing %lld bytes",
                    (long long)t->memory_bytes);
}

static dml_err join_world(dml_transport *t)
{
    if (t->n_ranks == 1) return DML_ERR_OK;
    static const int32_t first = 0; /* join asks only for ranks[0] */
    return join(t, &first, t->n_ranks, t->rank, WORLD, &t->world);
}

static void transport_close(dml_transport *t)
{
    if (!t) return;
    cudaSetDevice(t->index);
    leave(t, t->world);
    cudaFree(t->memory);
    unmap_pages(t);
    free(t->pages);
    free(t);
}

static dml_err transport_open(const dml_transport_config *config, dml_device *device,
                              dml_transport **out)
{
    DML_ASSERT_OP(config->world, >=, 1);
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
    dml_err err = DML_ERR_NOMEM;
    t->pages = calloc((size_t)config->world, sizeof *t->pages);
    if (!t->pages)
        dml_err_set(err, __FILE__, __LINE__, "no memory for %d pages", config->world);
    else if ((err = map_pages(t, config->fds)) == DML_ERR_OK && (err = use(t)) == DML_ERR_OK &&
             (err = take_memory(t)) == DML_ERR_OK)
        err = join_world(t);
    if (err != DML_ERR_OK) {
        if (!t->pages) t->n_ranks = 0;
        transport_close(t);
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

static dml_err transport_send(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                              int64_t bytes, uint32_t tag)
{
    (void)tag;
    SETTLE(t, t->world, ncclSend,
           (src, (size_t)bytes, ncclUint8, peer, t->world, dml_cuda_stream(queue)));
    return DML_ERR_OK;
}

static dml_err transport_recv(dml_transport *t, dml_queue *queue, int32_t peer, void *dst,
                              int64_t bytes, uint32_t tag)
{
    (void)tag;
    SETTLE(t, t->world, ncclRecv,
           (dst, (size_t)bytes, ncclUint8, peer, t->world, dml_cuda_stream(queue)));
    return DML_ERR_OK;
}

/* ---- groups ---- */

static void group_close(dml_group *g)
{
    if (!g) return;
    cudaSetDevice(g->transport->index);
    leave(g->transport, g->comm);
    free(g);
}

static dml_err group_open(dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                          dml_group **out)
{
    int32_t member = 0;
    while (member < n && ranks[member] != t->rank)
        member++;
    if (member == n) DML_FAIL(DML_ERR_BUG, "worker %d is not in group %u", t->rank, id);
    dml_group *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for a group");
    *g = (dml_group){.transport = t, .n = n, .member = member};
    dml_err err = use(t);
    if (err == DML_ERR_OK && n > 1) err = join(t, ranks, n, member, id, &g->comm);
    if (err != DML_ERR_OK) {
        group_close(g);
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    *out = g;
    return DML_ERR_OK;
}

static dml_err type_of(dml_dtype dtype, ncclDataType_t *out)
{
    switch (dtype) {
    case DML_F32: *out = ncclFloat; return DML_ERR_OK;
    case DML_F64: *out = ncclDouble; return DML_ERR_OK;
    case DML_I64: *out = ncclInt64; return DML_ERR_OK;
    case DML_I32: *out = ncclInt32; return DML_ERR_OK;
    case DML_U32: *out = ncclUint32; return DML_ERR_OK;
    case DML_U8: break;
    }
    DML_FAIL(DML_ERR_BUG, "no reduction of element type %d", (int)dtype);
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
    SETTLE(g->transport, g->comm, ncclAllReduce,
           (buffer, buffer, (size_t)elems, type, operation(reduction), g->comm,
            dml_cuda_stream(queue)));
    return DML_ERR_OK;
}

static dml_err group_all_gather(dml_group *g, dml_queue *queue, void *dst, const void *src,
                                int64_t bytes)
{
    if (g->n == 1)
        return src == dst
                   ? DML_ERR_OK
                   : DML_CUDA(cudaMemcpyAsync,
                              (dst, src, (size_t)bytes, cudaMemcpyDefault, dml_cuda_stream(queue)),
                              "%lld bytes of a group of one", (long long)bytes);
    SETTLE(g->transport, g->comm, ncclAllGather,
           (src, dst, (size_t)bytes, ncclUint8, g->comm, dml_cuda_stream(queue)));
    return DML_ERR_OK;
}

static dml_err group_reduce_scatter(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                                    dml_dtype dtype, dml_reduction reduction)
{
    ncclDataType_t type = ncclNumTypes;
    DML_TRY(type_of(dtype, &type));
    if (g->n == 1) return DML_ERR_OK;
    const int64_t elem_bytes = dtype == DML_F64 || dtype == DML_I64 ? 8 : 4;
    char *own = (char *)buffer + g->member * elems * elem_bytes; /* in place, as NCCL defines it */
    SETTLE(
        g->transport, g->comm, ncclReduceScatter,
        (buffer, own, (size_t)elems, type, operation(reduction), g->comm, dml_cuda_stream(queue)));
    return DML_ERR_OK;
}

const dml_transport_api dml_nccl_transport = {
    .name = "nccl",
    .doc = "GPU to GPU by NCCL",
    .open = transport_open,
    .close = transport_close,
    .alloc = transport_alloc,
    .send = transport_send,
    .recv = transport_recv,
    .group_open = group_open,
    .group_close = group_close,
    .all_reduce = group_all_reduce,
    .all_gather = group_all_gather,
    .reduce_scatter = group_reduce_scatter,
};
