/* kernels/cuda/emulation/runtime.cc - streams and events without threads.
 *
 * A call appends to its stream's list.  Eager streams run it at once; lazy ones when somebody asks whether
 * they are done; in the lottery every call also lets random streams take random steps.  A seed replays a
 * failure.  An event is a count of records: `record` gives the wait that follows its number, a wait step
 * blocks its stream until the event has come that far.
 */
#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/host_step.h"
#include "kernels/cuda/emulation/memory.h"
#include "kernels/cuda/emulation/order.h"
#include "kernels/cuda/emulation/stream.h"

#include <deque>
#include <set>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct CUevent_st {
    uint64_t recorded, reached;
};

struct step {
    std::function<void()> run;
    std::function<bool()> ready; /* empty: at once */
};

struct CUstream_st {
    std::deque<step> steps;
};

namespace emu
{
/* Streams and events live in lists so that a stale handle is an error. */
std::recursive_mutex lock;
static std::vector<CUstream_st *> streams;
static std::set<CUevent_st *> events;
static std::set<void *> host_blocks;
static cudaError_t sticky = cudaSuccess;

void forget_error()
{
    sticky = cudaSuccess;
}

/* Takes one step of `s` or, when it has to wait, of a stream not yet tried.  False: none can move. */
static bool advance(CUstream_st *s, std::set<CUstream_st *> *tried)
{
    if (!tried->insert(s).second || s->steps.empty()) return false;
    if (s->steps.front().ready && !s->steps.front().ready()) {
        for (CUstream_st *other : streams)
            if (advance(other, tried)) return true;
        return false;
    }
    const step now = std::move(s->steps.front());
    s->steps.pop_front();
    if (now.run) now.run();
    return true;
}

static bool advance(CUstream_st *s)
{
    std::set<CUstream_st *> tried;
    return advance(s, &tried);
}

static void drain(CUstream_st *s)
{
    while (!s->steps.empty() && advance(s)) {
    }
}

static void lottery()
{
    for (uint32_t n = order_draw(4); n > 0 && !streams.empty(); n--)
        advance(streams[order_draw(static_cast<uint32_t>(streams.size()))]);
}

static bool known(CUstream_st *s)
{
    for (CUstream_st *each : streams)
        if (each == s) return true;
    return false;
}

static cudaError_t enqueue(CUstream_st *s, step next)
{
    if (sticky != cudaSuccess) return sticky;
    if (!known(s)) return cudaErrorInvalidResourceHandle; /* also: no default stream in our code */
    s->steps.push_back(std::move(next));
    switch (order_of_streams()) {
    case DML_EMU_EAGER: drain(s); break;
    case DML_EMU_LAZY: break;
    case DML_EMU_LOTTERY: lottery(); break;
    }
    return sticky;
}

cudaError_t launch(grid g, cudaStream_t stream)
{
    const std::lock_guard<std::recursive_mutex> hold(lock);
    const uint64_t threads = static_cast<uint64_t>(g.threads.x) * g.threads.y * g.threads.z;
    const uint64_t blocks = static_cast<uint64_t>(g.blocks.x) * g.blocks.y * g.blocks.z;
    if (threads < 1 || threads > 1024 || threads % 32 != 0 || blocks < 1 || blocks > INT32_MAX ||
        g.dynamic_bytes > 48 << 10)
        return cudaErrorInvalidConfiguration;
    const auto go = [g] {
        if (sticky == cudaSuccess && !run(g)) sticky = cudaErrorLaunchFailure;
    };
    return enqueue(stream, {go, nullptr});
}

cudaError_t hold(cudaStream_t stream, std::function<void()> arrive, std::shared_ptr<bool> gate)
{
    const std::lock_guard<std::recursive_mutex> hold(lock);
    const cudaError_t status = enqueue(stream, {std::move(arrive), nullptr});
    return status == cudaSuccess ? enqueue(stream, {nullptr, [gate] { return *gate; }}) : status;
}
} // namespace emu

using namespace emu;

#define HOLD() const std::lock_guard<std::recursive_mutex> hold(lock)

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case name: return #name;
        DML_EMU_STATUS_LIST(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case name: return text;
        DML_EMU_STATUS_LIST(X)
#undef X
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    HOLD();
    return sticky;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceSynchronize(void)
{
    HOLD();
    for (CUstream_st *s : streams)
        drain(s);
    return sticky;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    HOLD();
    if (sticky != cudaSuccess) return sticky;
    *out = memory_new(bytes, false);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

/* As the real one: waits for the device first. */
cudaError_t cudaFree(void *memory)
{
    HOLD();
    cudaDeviceSynchronize();
    if (!memory) return sticky;
    if (!memory_live(memory)) return cudaErrorInvalidValue;
    memory_free(memory);
    return sticky;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    HOLD();
    if (flags != cudaHostAllocDefault) return cudaErrorInvalidValue;
    if (sticky != cudaSuccess) return sticky;
    *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*out) return cudaErrorMemoryAllocation;
    memset(*out, 0xff, bytes);
    host_blocks.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    HOLD();
    cudaDeviceSynchronize();
    if (!memory) return sticky;
    if (host_blocks.erase(memory) == 0) return cudaErrorInvalidValue;
    free(memory);
    return sticky;
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    HOLD();
    if (sticky != cudaSuccess) return sticky;
    memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    HOLD();
    return enqueue(stream, {[=] { memset(memory, value, bytes); }, nullptr});
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    HOLD();
    if (kind != cudaMemcpyDefault) return cudaErrorInvalidValue;
    return enqueue(stream, {[=] { memcpy(dst, src, bytes); }, nullptr});
}

cudaError_t dml_emu_host_step(cudaStream_t stream, void (*step)(void *), void *arg)
{
    HOLD();
    return enqueue(stream, {[=] { step(arg); }, nullptr});
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    HOLD();
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    if (sticky != cudaSuccess) return sticky;
    *out = new CUstream_st();
    streams.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    HOLD();
    if (!known(stream)) return cudaErrorInvalidResourceHandle;
    drain(stream);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + static_cast<long>(i));
    delete stream;
    return sticky;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    HOLD();
    if (!known(stream)) return cudaErrorInvalidResourceHandle;
    if (order_of_streams() == DML_EMU_LOTTERY) lottery();
    advance(stream);
    if (sticky != cudaSuccess) return sticky;
    return stream->steps.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    HOLD();
    if (flags != 0) return cudaErrorInvalidValue;
    if (events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    const uint64_t until = event->recorded;
    return enqueue(stream, {nullptr, [=] { return event->reached >= until; }});
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    HOLD();
    if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue;
    if (sticky != cudaSuccess) return sticky;
    *out = new CUevent_st();
    events.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    HOLD();
    if (events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    cudaDeviceSynchronize(); /* steps still hold it */
    events.erase(event);
    delete event;
    return sticky;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    HOLD();
    if (events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    const uint64_t number = ++event->recorded;
    return enqueue(stream, {[=] { event->reached = number; }, nullptr});
}
