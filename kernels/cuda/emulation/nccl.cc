/* kernels/cuda/emulation/nccl.cc - NCCL among the threads of one process.
 *
 * An operation is a place in its stream.  When the stream comes there the operation arrives and holds the
 * stream; when all who take part have arrived, the last one moves the data and lets all streams go on.
 *
 *   send and receive   the k-th send from a to b meets the k-th receive of b from a
 *   collectives        the k-th of each rank; kind, type and count must agree
 *
 * What differs between those who meet is ncclInvalidUsage for all of them, told by ncclCommGetAsyncError.
 * A rank that aborts lets its own streams go on; who waits for it waits on, as with the real one on one host.
 */
#include "kernels/cuda/emulation/stream.h"

#include <nccl.h>

#include <list>
#include <map>
#include <stdint.h>
#include <string.h>
#include <string>
#include <vector>

enum class kind { send, recv, all_reduce, all_gather, reduce_scatter };

struct operation {
    kind what;
    ncclComm_t comm;
    const void *src;
    void *dst;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int peer;
    std::shared_ptr<bool> gate;
};

struct clique {
    size_t n;
    std::map<int, ncclComm_t> members;
    /* Arrived and not yet met: [from][to] for point to point, [rank] for collectives. */
    std::map<std::pair<int, int>, std::list<operation *>> sends, recvs;
    std::map<int, std::list<operation *>> collectives;
};

/* Never freed: steps of a stream may still name one that was aborted. */
struct ncclComm {
    clique *all;
    int rank;
    ncclResult_t error;
    std::vector<std::shared_ptr<bool>> gates; /* of all its operations so far */
    bool finalizing, aborted;
};

static std::map<std::string, clique> cliques;
#define HOLD() const std::lock_guard<std::recursive_mutex> hold(emu::lock)

static size_t size_of(ncclDataType_t type)
{
    switch (type) {
    case ncclUint8: return 1;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat: return 4;
    case ncclInt64:
    case ncclDouble: return 8;
    case ncclNumTypes: break;
    }
    return 0;
}

static void finish(operation *o, ncclResult_t error)
{
    if (error != ncclSuccess) o->comm->error = error;
    *o->gate = true;
    delete o;
}

static void meet(std::list<operation *> &sends, std::list<operation *> &recvs)
{
    if (sends.empty() || recvs.empty()) return;
    operation *s = sends.front(), *r = recvs.front();
    sends.pop_front();
    recvs.pop_front();
    const bool same = s->count == r->count && s->type == r->type;
    if (same) memcpy(r->dst, s->src, s->count * size_of(s->type));
    finish(s, same ? ncclSuccess : ncclInvalidUsage);
    finish(r, same ? ncclSuccess : ncclInvalidUsage);
}

template <class T> static void combine(void *to, const void *from, size_t n, ncclRedOp_t op)
{
    T *a = static_cast<T *>(to);
    const T *b = static_cast<const T *>(from);
    for (size_t i = 0; i < n; i++)
        a[i] = op == ncclSum ? static_cast<T>(a[i] + b[i]) : a[i] < b[i] ? b[i] : a[i];
}

static void combine(ncclDataType_t type, void *to, const void *from, size_t n, ncclRedOp_t op)
{
    switch (type) {
    case ncclUint8: combine<uint8_t>(to, from, n, op); break;
    case ncclInt32: combine<int32_t>(to, from, n, op); break;
    case ncclUint32: combine<uint32_t>(to, from, n, op); break;
    case ncclInt64: combine<int64_t>(to, from, n, op); break;
    case ncclFloat: combine<float>(to, from, n, op); break;
    case ncclDouble: combine<double>(to, from, n, op); break;
    case ncclNumTypes: break;
    }
}

/* All of `ops`, by rank, at once: results go through a buffer, since outputs may be inputs. */
static void run_collective(const std::vector<operation *> &ops)
{
    const operation &first = *ops[0];
    const size_t n = ops.size(), part = first.count * size_of(first.type);
    const bool whole = first.what == kind::all_reduce;
    std::vector<char> result(whole ? part : part * n);
    if (first.what == kind::all_gather) {
        for (size_t i = 0; i < n; i++)
            memcpy(&result[i * part], ops[i]->src, part);
    } else {
        memcpy(result.data(), first.src, result.size());
        for (size_t i = 1; i < n; i++)
            combine(first.type, result.data(), ops[i]->src, result.size() / size_of(first.type),
                    first.op);
    }
    for (size_t i = 0; i < n; i++)
        if (first.what == kind::reduce_scatter)
            memcpy(ops[i]->dst, &result[i * part], part);
        else
            memcpy(ops[i]->dst, result.data(), result.size());
}

static void meet_all(clique &c)
{
    std::vector<operation *> ops;
    for (const auto &member : c.members)
        if (!c.collectives[member.first].empty())
            ops.push_back(c.collectives[member.first].front());
    if (ops.size() < c.n) return;
    bool same = true;
    for (const operation *o : ops)
        same = same && o->what == ops[0]->what && o->count == ops[0]->count &&
               o->type == ops[0]->type && o->op == ops[0]->op;
    if (same) run_collective(ops);
    for (operation *o : ops) {
        c.collectives[o->comm->rank].pop_front();
        finish(o, same ? ncclSuccess : ncclInvalidUsage);
    }
}

static void arrive(operation *o)
{
    if (o->comm->aborted) {
        delete o;
        return;
    }
    clique &c = *o->comm->all;
    const int self = o->comm->rank;
    if (o->what == kind::send || o->what == kind::recv) {
        const bool sends = o->what == kind::send;
        const std::pair<int, int> way =
            sends ? std::make_pair(self, o->peer) : std::make_pair(o->peer, self);
        (sends ? c.sends : c.recvs)[way].push_back(o);
        meet(c.sends[way], c.recvs[way]);
    } else {
        c.collectives[self].push_back(o);
        meet_all(c);
    }
}

static ncclResult_t post(const operation &wanted, cudaStream_t stream)
{
    ncclComm_t comm = wanted.comm;
    if (!comm || size_of(wanted.type) == 0) return ncclInvalidArgument;
    if (comm->all->members.size() < comm->all->n) return ncclInvalidUsage; /* not ready yet */
    const bool pair = wanted.what == kind::send || wanted.what == kind::recv;
    if (pair && comm->all->members.count(wanted.peer) == 0) return ncclInvalidArgument;
    operation *o = new operation(wanted);
    o->gate = std::make_shared<bool>(false);
    comm->gates.push_back(o->gate);
    const cudaError_t status = emu::hold(
        stream, [o] { arrive(o); }, o->gate);
    return status == cudaSuccess ? ncclInProgress : ncclUnhandledCudaError;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const text[] = {"no error",
                                       "unhandled cuda error",
                                       "unhandled system error",
                                       "internal error",
                                       "invalid argument",
                                       "invalid usage",
                                       "remote process exited or there was a network error",
                                       "NCCL operation in progress"};
    return text[result];
}

const char *ncclGetLastError(ncclComm_t)
{
    return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    HOLD();
    static int made;
    memset(id, 0, sizeof *id);
    const std::string text = "id" + std::to_string(++made);
    memcpy(id->internal, text.c_str(), text.size());
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    HOLD();
    if (config->magic != 0xcafebeef || config->blocking != 0) return ncclInvalidArgument;
    if (id.internal[0] != 'i' || rank < 0 || rank >= n_ranks) return ncclInvalidArgument;
    clique &c = cliques[id.internal];
    if (c.n == 0) c.n = static_cast<size_t>(n_ranks);
    if (c.n != static_cast<size_t>(n_ranks) || c.members.count(rank)) return ncclInvalidUsage;
    *comm = new ncclComm{&c, rank, ncclSuccess, {}, false, false};
    c.members[rank] = *comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    HOLD();
    bool busy = comm->all->members.size() < comm->all->n;
    for (const std::shared_ptr<bool> &gate : comm->gates)
        busy = busy || (comm->finalizing && !*gate);
    *error = busy ? ncclInProgress : comm->error;
    return ncclSuccess;
}

/* Done when all that was posted is. */
ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    HOLD();
    comm->finalizing = true;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t)
{
    return ncclSuccess;
}

template <class Key>
static void withdraw(std::map<Key, std::list<operation *>> &all, ncclComm_t comm)
{
    for (auto &each : all)
        each.second.remove_if([comm](operation *o) {
            const bool its = o->comm == comm;
            if (its) delete o;
            return its;
        });
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    HOLD();
    comm->aborted = true;
    withdraw(comm->all->sends, comm);
    withdraw(comm->all->recvs, comm);
    withdraw(comm->all->collectives, comm);
    for (const std::shared_ptr<bool> &gate : comm->gates)
        *gate = true;
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *src, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    HOLD();
    return post({kind::send, comm, src, nullptr, count, type, ncclSum, peer, nullptr}, stream);
}

ncclResult_t ncclRecv(void *dst, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    HOLD();
    return post({kind::recv, comm, nullptr, dst, count, type, ncclSum, peer, nullptr}, stream);
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    HOLD();
    return post({kind::all_reduce, comm, src, dst, count, type, op, 0, nullptr}, stream);
}

ncclResult_t ncclAllGather(const void *src, void *dst, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    HOLD();
    return post({kind::all_gather, comm, src, dst, count, type, ncclSum, 0, nullptr}, stream);
}

ncclResult_t ncclReduceScatter(const void *src, void *dst, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    HOLD();
    return post({kind::reduce_scatter, comm, src, dst, count, type, op, 0, nullptr}, stream);
}
