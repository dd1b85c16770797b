/* kernels/cuda/emulation/stream.cc - streams without threads.
 *
 * A stream that cannot advance lets the others; so polling any one of them moves all that the host's next
 * answer may depend on.  A seed replays a failure.
 */
#include "kernels/cuda/emulation/stream.h"

#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/host_step.h"
#include "kernels/cuda/emulation/memory.h"
#include "kernels/cuda/emulation/order.h"

#include <algorithm>
#include <deque>
#include <string.h>
#include <thread>
#include <time.h>
#include <vector>

using namespace emu;

namespace emu
{
std::recursive_mutex lock;
cudaError_t sticky = cudaSuccess;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

std::vector<CUstream_st *> streams;
static uint32_t actors = FIRST_STREAM; /* numbers given so far */
static vclock default_clocks[MAX_DEVICES];

enum { NAP_NS = 20000, STUCK_S = 20 };

cudaError_t returned(cudaError_t status)
{
    if (sticky != cudaSuccess) status = sticky;
    if (status != cudaSuccess && status != cudaErrorNotReady) last_error = status;
    return status;
}

bool known(const CUstream_st *s)
{
    const auto at = std::find(streams.begin(), streams.end(), s);
    return at != streams.end() && !s->closed;
}

/* After a fault nothing runs any more. */
static void run(const step &now)
{
    if (!now.run || sticky != cudaSuccess) return;
    const stamp_of_step before = clocks_enter(now.stamp);
    now.run();
    clocks_enter(before);
}

static void bury()
{
    for (size_t i = 0; i < streams.size();)
        if (streams[i]->closed && streams[i]->steps.empty()) {
            delete streams[i]->graph;
            delete streams[i];
            streams.erase(streams.begin() + static_cast<long>(i));
        } else {
            i++;
        }
    if (!streams.empty()) return;
    actors = FIRST_STREAM; /* nobody is left who could have seen anything */
    for (int d = 0; d < MAX_DEVICES; d++)
        host_clocks[d] = default_clocks[d] = {};
    hook_forget_all();
}

/* Whose step is being asked or run. */
static CUstream_st *acting;

void learn(const vclock &other)
{
    acting->at.join(other);
}

static bool ready(CUstream_st *s)
{
    step &next = s->steps.front();
    if (!next.stamp) {
        s->at.join(next.host);
        s->at.count(s->actor);
        next.stamp = std::make_shared<stamp>(stamp{s->actor, next.what, s->at});
    }
    if (!next.ready || sticky != cudaSuccess) return true;
    const stamp_of_step before = clocks_enter(next.stamp);
    acting = s;
    const bool yes = next.ready();
    clocks_enter(before);
    return yes;
}

/* Takes one step of `s`; false: it is dry or has to wait. */
static bool advance(CUstream_st *s)
{
    if (s->steps.empty() || !ready(s)) return false;
    const step now = std::move(s->steps.front());
    s->steps.pop_front();
    acting = s;
    run(now);
    return true;
}

void drop_steps()
{
    for (CUstream_st *s : streams)
        s->steps.clear();
    bury();
}

void drop_handles()
{
    for (CUstream_st *s : streams)
        s->closed = true;
    drop_steps();
    drop_events();
    drop_graphs();
}

/* One step of the wanted stream or, when that cannot go on, of any other. */
static bool advance_some(CUstream_st *wanted)
{
    if (wanted && advance(wanted)) return true;
    for (CUstream_st *other : streams)
        if (advance(other)) return true;
    return false;
}

static void lottery()
{
    for (uint32_t n = order_draw(4); n > 0 && !streams.empty(); n--)
        advance(streams[order_draw(static_cast<uint32_t>(streams.size()))]);
}

static void progress(CUstream_st *s)
{
    switch (order_of_streams()) {
    case DML_EMU_EAGER:
        while (!s->steps.empty() && advance_some(s)) {
        }
        break;
    case DML_EMU_LAZY: break;
    case DML_EMU_LOTTERY: lottery(); break;
    }
}

/* Without the lock, which the caller holds once. */
static void nap()
{
    const struct timespec t = {0, NAP_NS};
    lock.unlock();
    nanosleep(&t, nullptr);
    lock.lock();
}

void ask(CUstream_st *s)
{
    if (order_of_streams() == DML_EMU_LOTTERY) lottery();
    if (!advance_some(s)) nap(); /* others must do something first */
}

/* ---- steps ---- */

cudaError_t enqueue(CUstream_st *s, step next)
{
    if (sticky != cudaSuccess) return sticky;
    if (!known(s)) return cudaErrorInvalidResourceHandle; /* also: no default stream in our code */
    if (s->graph) {
        if (s->invalid) return cudaErrorStreamCaptureInvalidated;
        s->graph->steps.push_back(std::move(next));
        return cudaSuccess;
    }
    host_clocks[s->device].count(host_of(s->device));
    next.host = host_clocks[s->device];
    s->steps.push_back(std::move(next));
    progress(s);
    return sticky;
}

static step never()
{
    return {nullptr, [] { return false; }, "hang", {}, {}};
}

void enqueue_hang(CUstream_st *s)
{
    enqueue(s, never());
}

cudaError_t launch(grid g, cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaLaunchKernelEx, stream);
    const uint64_t threads = static_cast<uint64_t>(g.threads.x) * g.threads.y * g.threads.z;
    const uint64_t blocks = static_cast<uint64_t>(g.blocks.x) * g.blocks.y * g.blocks.z;
    if (threads < 1 || threads > 1024 || threads % 32 != 0 || blocks < 1 || blocks > INT32_MAX ||
        g.blocks.y > 65535 || g.blocks.z > 65535 || g.dynamic_bytes > 48 << 10)
        return returned(cudaErrorInvalidConfiguration);
    if (known(stream) && stream->device != current_device)
        return returned(cudaErrorInvalidResourceHandle);
    const auto go = [g] {
        CUstream_st *own = acting;
        if (run(g) == ending::endless) own->steps.push_front(never());
    };
    return returned(enqueue(stream, {go, nullptr, "kernel", {}, {}}));
}

stamp_of_step default_stream_step(const char *what)
{
    const uint32_t actor = default_stream_of(current_device);
    vclock *host = &host_clocks[current_device], *own = &default_clocks[current_device];
    host->count(host_of(current_device));
    own->join(*host);
    own->count(actor);
    return std::make_shared<stamp>(stamp{actor, what, *own});
}

/* A GPU waits for ever; here a fault says so in the end. */
cudaError_t synchronize(int device)
{
    const auto wet = [device](const CUstream_st *s) {
        return !s->steps.empty() && s->device == device;
    };
    const time_t begin = time(nullptr);
    while (sticky == cudaSuccess && std::any_of(streams.begin(), streams.end(), wet)) {
        if (advance_some(nullptr)) continue;
        if (time(nullptr) - begin > (hangs_on_purpose() ? 0 : STUCK_S)) {
            fault("the host waits for a device of which no stream can go on");
            break;
        }
        nap();
    }
    host_clocks[device].join(default_clocks[device]);
    for (const CUstream_st *s : streams)
        if (s->device == device) host_clocks[device].join(s->at);
    bury();
    return sticky;
}
} // namespace emu

using namespace emu;

cudaError_t dml_emu_host_step(cudaStream_t stream, void (*run)(void *), void *arg)
{
    EMU_HOLD();
    return returned(enqueue(stream, {[=] { run(arg); }, nullptr, "library call", {}, {}}));
}

cudaError_t dml_emu_host_call(cudaStream_t stream, void (*run)(void *), const void *arg,
                              size_t bytes)
{
    EMU_HOLD();
    const char *from = static_cast<const char *>(arg);
    const auto copy = std::make_shared<std::vector<char>>(from, from + bytes);
    return returned(enqueue(stream, {[=] { run(copy->data()); }, nullptr, "library call", {}, {}}));
}

void dml_emu_touch(const void *at, size_t bytes, bool write)
{
    clocks_access(at, bytes, write);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    EMU_CALL(cudaStreamCreateWithFlags);
    if (flags != cudaStreamNonBlocking) return returned(cudaErrorInvalidValue);
    if (sticky != cudaSuccess) return sticky;
    *out = new CUstream_st();
    (*out)->device = current_device;
    (*out)->actor = actors++;
    streams.push_back(*out);
    return cudaSuccess;
}

/* Waits for nothing: what is enqueued runs on. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    EMU_CALL(cudaStreamDestroy);
    if (!known(stream)) return returned(cudaErrorInvalidResourceHandle);
    stream->closed = true;
    while (!stream->steps.empty() && advance_some(stream)) {
    }
    bury();
    return returned(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    EMU_HOLD();
    switch (EMU_JUDGE("cudaStreamQuery", true)) {
    case verdict::go: break;
    case verdict::fail: return returned(cudaErrorUnknown);
    case verdict::hang: return cudaErrorNotReady;
    }
    if (!known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (stream->graph) {
        stream->invalid = true;
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    const cudaError_t unsafe = unsafe_call();
    if (unsafe != cudaSuccess) return returned(unsafe);
    ask(stream);
    if (sticky != cudaSuccess || !stream->steps.empty()) return returned(cudaErrorNotReady);
    host_clocks[stream->device].join(stream->at);
    return cudaSuccess;
}
