/* kernels/cuda/emulation/nccl.cc - the emulated NCCL's communicators.  How data moves: nccl_move.cc.
 *
 * Communicators are non-blocking.  A call that returns ncclInProgress has not yet enqueued anything: that is
 * done when ncclCommGetAsyncError has been asked some times, by the seed, and from then on it says so.  Any
 * other call meanwhile is ncclInvalidArgument.  What is posted is a step of its stream; the steps of one
 * communicator go in the order they were posted in, those of a group together.
 *
 * Nothing here notices a peer that died or differs in what it calls: operations are never done.  Abort and
 * revoke let the own streams go on.  A mismatch of two posted operations is a fault.
 */
#include "kernels/cuda/emulation/nccl_move.h"

#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/order.h"
#include "kernels/cuda/emulation/stream.h"

#include <list>
#include <map>
#include <set>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <unistd.h>
#include <vector>

using namespace emu;

/* Operations that were posted together; a step of one stream. */
struct batch {
    std::list<operation> left;
    cudaStream_t stream;
};

/* What steps share with the handle; they may outlive it. */
struct party {
    meeting *at;
    int rank;
    bool stopped; /* aborted or revoked: nothing moves any more */
    progress own;
    std::list<std::shared_ptr<batch>> posted; /* not done, in order */

    ~party() { meeting_leave(at); }
};

enum class phase { joining, ready, finalizing, revoked };

struct ncclComm {
    std::shared_ptr<party> p;
    ncclUniqueId id;
    phase is;
    ncclResult_t error;
    uint32_t polls; /* to be asked before what was called is under way */
    bool stuck;     /* on purpose: in progress for ever */
    std::vector<std::shared_ptr<batch>> waiting; /* to be enqueued when the polls are over */
};

static std::set<ncclComm_t> comms;
/* Files behind ids made here, until all have joined; closed at the latest when the process ends. */
static std::map<std::string, int> made;

/* Of a thread: the operations of an open group, by communicator. */
static thread_local int depth;
static thread_local std::vector<std::pair<ncclComm_t, std::shared_ptr<batch>>> grouped;

#define FAIL_ON_PURPOSE(name) \
    if (EMU_JUDGE(#name, false) != verdict::go) return ncclInternalError

static bool known(ncclComm_t c)
{
    return comms.count(c) > 0;
}

/* ---- joining ---- */

/* Two processes on one GPU are a mistake unless each has a host id of its own. */
static bool gpu_taken(const party &p)
{
    const member &self = p.at->rank[p.rank];
    for (int r = 0; r < p.at->n_ranks; r++) {
        const member &other = p.at->rank[r];
        if (r != p.rank && other.joined && other.pid != self.pid && other.device == self.device &&
            strcmp(other.host, self.host) == 0)
            return true;
    }
    return false;
}

static void forget_id(const ncclUniqueId &id)
{
    const auto at = made.find(id.internal);
    if (at == made.end()) return;
    close(at->second);
    made.erase(at);
}

static bool all_joined(const ncclComm_t c)
{
    for (int r = 0; r < c->p->at->n_ranks; r++)
        if (!c->p->at->rank[r].joined) return false;
    return true;
}

static bool all_finalized(const ncclComm_t c)
{
    for (int r = 0; r < c->p->at->n_ranks; r++)
        if (!c->p->at->rank[r].finalized) return false;
    return true;
}

/* ---- posting ---- */

/* Moves what can be moved of the oldest operations.  True: `b` is done. */
static bool go(party *p, batch *b)
{
    if (p->stopped) return true;
    if (p->posted.front().get() != b) return false;
    for (auto o = b->left.begin(); o != b->left.end();) {
        switch (move(p->at, &p->own, p->rank, &*o)) {
        case outcome::waits: o++; break;
        case outcome::done: o = b->left.erase(o); break;
        case outcome::differs: p->stopped = true; return true;
        }
    }
    if (!b->left.empty()) return false;
    p->posted.pop_front();
    return true;
}

static ncclResult_t start(ncclComm_t c, const std::shared_ptr<batch> &b)
{
    const std::shared_ptr<party> p = c->p;
    p->posted.push_back(b);
    const cudaError_t status = enqueue(
        b->stream, {nullptr, [p, b] { return go(p.get(), b.get()); }, "NCCL operation", {}, {}});
    return status == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

static ncclResult_t post(ncclComm_t c, const std::shared_ptr<batch> &b)
{
    if (c->stuck) return ncclInProgress;
    c->polls = order_draw(3);
    if (c->polls == 0) return start(c, b);
    c->waiting.push_back(b);
    return ncclInProgress;
}

static ncclResult_t add(const char *call, void *site, ncclComm_t c, const operation &o,
                        cudaStream_t stream)
{
    switch (judge_at(call, site, true)) {
    case verdict::go: break;
    case verdict::fail: return ncclInternalError;
    case verdict::hang: c->stuck = true;
    }
    const bool pair = o.call.what == kind::send || o.call.what == kind::recv;
    if (!known(c) || size_of(o.call.type) == 0) return ncclInvalidArgument;
    if (c->is != phase::ready || c->polls > 0) return ncclInvalidArgument;
    if (pair && (o.peer < 0 || o.peer >= c->p->at->n_ranks)) return ncclInvalidArgument;
    if (is_capturing(stream)) return ncclInvalidUsage; /* our graphs hold no communication */
    if (depth == 0) return post(c, std::make_shared<batch>(batch{{o}, stream}));
    for (const auto &each : grouped)
        if (each.first == c) {
            if (each.second->stream != stream) return ncclInvalidUsage; /* not emulated */
            each.second->left.push_back(o);
            return ncclInProgress;
        }
    grouped.push_back({c, std::make_shared<batch>(batch{{o}, stream})});
    return ncclInProgress;
}

ncclResult_t ncclGroupStart(void)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclGroupStart);
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclGroupEnd);
    if (depth == 0) return ncclInvalidUsage;
    if (--depth > 0) return ncclSuccess;
    ncclResult_t result = ncclSuccess;
    for (const auto &each : grouped) {
        const ncclResult_t one = post(each.first, each.second);
        if (result == ncclSuccess || result == ncclInProgress)
            result = one == ncclSuccess ? result : one;
    }
    grouped.clear();
    return result;
}

#define ADD(name, ...) \
    EMU_HOLD();        \
    return add(#name, __builtin_return_address(0), comm, __VA_ARGS__, stream)

ncclResult_t ncclSend(const void *src, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    ADD(ncclSend, {{kind::send, type, ncclSum, count}, src, nullptr, peer, {}, {}, {}, 0, 0, 0});
}

ncclResult_t ncclRecv(void *dst, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    ADD(ncclRecv, {{kind::recv, type, ncclSum, count}, nullptr, dst, peer, {}, {}, {}, 0, 0, 0});
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    ADD(ncclAllReduce, {{kind::all_reduce, type, op, count}, src, dst, 0, {}, {}, {}, 0, 0, 0});
}

ncclResult_t ncclAllGather(const void *src, void *dst, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    ADD(ncclAllGather,
        {{kind::all_gather, type, ncclSum, count}, src, dst, 0, {}, {}, {}, 0, 0, 0});
}

ncclResult_t ncclReduceScatter(const void *src, void *dst, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    ADD(ncclReduceScatter,
        {{kind::reduce_scatter, type, op, count}, src, dst, 0, {}, {}, {}, 0, 0, 0});
}

/* ---- texts ---- */

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
    return dml_emu_faults() > 0 ? dml_emu_fault(0) : "";
}

ncclResult_t ncclGetVersion(int *version)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclGetVersion);
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

/* ---- life of a communicator ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclGetUniqueId);
    int fd;
    meeting *m = meeting_new(id, &fd);
    if (!m) return ncclSystemError;
    meeting_leave(m);
    made[id->internal] = fd;
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    EMU_HOLD();
    const verdict told = EMU_JUDGE("ncclCommInitRankConfig", true);
    if (told == verdict::fail) return ncclInternalError;
    if (config->magic != 0xcafebeef || config->size != sizeof *config) return ncclInvalidArgument;
    if (config->blocking != 0) return ncclInvalidUsage; /* blocking ones are not emulated */
    if (rank < 0 || rank >= n_ranks || n_ranks > MAX_RANKS) return ncclInvalidArgument;
    meeting *m = meeting_join(id);
    if (!m) return ncclSystemError;
    const std::shared_ptr<party> p(new party{m, rank, false, {}, {}});
    int32_t agreed = 0;
    if (!m->n_ranks.compare_exchange_strong(agreed, n_ranks) && agreed != n_ranks)
        return ncclInvalidArgument;
    member *self = &m->rank[rank];
    const char *host = getenv("NCCL_HOSTID");
    self->pid = getpid();
    self->device = current_device;
    snprintf(self->host, sizeof self->host, "%s", host ? host : "");
    if (self->joined.exchange(1) != 0) return ncclInvalidUsage;
    *comm = new ncclComm{
        p, id, phase::joining, ncclSuccess, 1 + order_draw(3), told == verdict::hang, {}};
    comms.insert(*comm);
    return ncclInProgress;
}

/* Lets the communicator come a step further and says where it is. */
static ncclResult_t come_on(ncclComm_t c)
{
    if (c->stuck) return ncclInProgress;
    if (c->error != ncclSuccess) return c->error;
    if (c->polls > 0 && --c->polls > 0) return ncclInProgress;
    switch (c->is) {
    case phase::joining:
        if (!all_joined(c)) {
            c->polls = 1;
            return ncclInProgress;
        }
        forget_id(c->id);
        c->is = phase::ready;
        return c->error = gpu_taken(*c->p) ? ncclInvalidUsage : ncclSuccess;
    case phase::finalizing:
        if (!c->p->posted.empty()) return ncclInProgress;
        c->p->at->rank[c->p->rank].finalized = 1;
        return all_finalized(c) ? ncclSuccess : ncclInProgress;
    case phase::ready:
    case phase::revoked: break;
    }
    for (const std::shared_ptr<batch> &b : c->waiting)
        if (c->error == ncclSuccess) c->error = start(c, b);
    c->waiting.clear();
    return c->error;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    EMU_HOLD();
    switch (EMU_JUDGE("ncclCommGetAsyncError", true)) {
    case verdict::go: break;
    case verdict::fail: return ncclInternalError;
    case verdict::hang: comm->stuck = true;
    }
    if (!known(comm)) return ncclInvalidArgument;
    *error = come_on(comm);
    if (*error == ncclInProgress) ask(nullptr);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclCommCount);
    if (!known(comm) || comm->is == phase::joining) return ncclInvalidArgument;
    *count = comm->p->at->n_ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    EMU_HOLD();
    switch (EMU_JUDGE("ncclCommFinalize", true)) {
    case verdict::go: break;
    case verdict::fail: return ncclInternalError;
    case verdict::hang: comm->stuck = true;
    }
    if (!known(comm) || comm->is != phase::ready || comm->polls > 0) return ncclInvalidArgument;
    comm->is = phase::finalizing;
    return ncclInProgress;
}

static void end(ncclComm_t c)
{
    forget_id(c->id);
    comms.erase(c);
    delete c;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    EMU_HOLD();
    FAIL_ON_PURPOSE(ncclCommDestroy);
    if (!known(comm)) return ncclInvalidArgument;
    const bool quiet = comm->is == phase::finalizing && all_finalized(comm);
    if (!quiet && comm->is != phase::revoked) return ncclInvalidUsage; /* would block */
    end(comm);
    return ncclSuccess;
}

static void stop(ncclComm_t c)
{
    c->p->stopped = true;
    c->p->posted.clear();
    c->waiting.clear();
}

/* An abort that hangs does so in the caller, as the real one. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    const verdict told = EMU_JUDGE("ncclCommAbort", true);
    if (told == verdict::fail) return ncclInternalError;
    while (told == verdict::hang)
        pause();
    EMU_HOLD();
    if (!known(comm)) return ncclInvalidArgument;
    stop(comm);
    end(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommRevoke(ncclComm_t comm, int flags)
{
    EMU_HOLD();
    switch (EMU_JUDGE("ncclCommRevoke", true)) {
    case verdict::go: break;
    case verdict::fail: return ncclInternalError;
    case verdict::hang: comm->stuck = true;
    }
    if (!known(comm) || flags != NCCL_REVOKE_DEFAULT) return ncclInvalidArgument;
    if (comm->is == phase::joining)
        fault("ncclCommRevoke before the communicator has joined: the real one crashes");
    stop(comm);
    comm->is = phase::revoked;
    comm->polls = 1 + order_draw(3);
    return ncclInProgress;
}
