/* kernels/cuda/emulation/event.cc - events.
 *
 * An event is a count of records: `record` gives the wait that follows its number, a wait step blocks its stream
 * until the event has come that far.
 */
#include "kernels/cuda/emulation/stream.h"

#include <set>
#include <time.h>

namespace emu
{
static std::set<CUevent_st *> events;

void drop_events()
{
    for (CUevent_st *e : events)
        delete e;
    events.clear();
}

/* Who waits for an earlier record may be late: it is to learn of that one and no more. */
void event_state::reach(uint64_t number, const vclock &at)
{
    enum { KEPT = 64 };
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    reached = number;
    reached_ns = t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
    clocks.push_back(at);
    if (clocks.size() > KEPT) clocks.pop_front();
}

const vclock &event_state::clock_of(uint64_t number) const
{
    const uint64_t first = reached - clocks.size() + 1;
    return clocks[number > first ? number - first : 0];
}
} // namespace emu

using namespace emu;

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    EMU_QUEUED_CALL(cudaStreamWaitEvent, stream);
    if (flags != 0) return returned(cudaErrorInvalidValue);
    if (events.count(event) == 0 || !known(stream)) return returned(cudaErrorInvalidResourceHandle);
    const std::shared_ptr<event_state> e = event->state;
    if (stream->graph) {
        stream->invalid = true;
        return returned(cudaErrorStreamCaptureIsolation);
    }
    const uint64_t until = e->recorded;
    if (until == 0) return returned(cudaSuccess);
    return returned(enqueue(
        stream,
        {[=] { learn(e->clock_of(until)); }, [=] { return e->reached >= until; }, "wait", {}, {}}));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    EMU_CALL(cudaEventCreateWithFlags);
    if (flags != cudaEventDisableTiming && flags != cudaEventDefault)
        return returned(cudaErrorInvalidValue);
    if (sticky != cudaSuccess) return sticky;
    *out = new CUevent_st{flags == cudaEventDefault, std::make_shared<event_state>()};
    events.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    EMU_CALL(cudaEventDestroy);
    if (events.erase(event) == 0) return returned(cudaErrorInvalidResourceHandle);
    delete event;
    return returned(cudaSuccess);
}

/* Records and waits inside a capture fork and join on a GPU; our captures hold neither. */
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaEventRecord, stream);
    if (events.count(event) == 0 || !known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (stream->graph) {
        stream->invalid = true;
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    if (stream->device != current_device) return returned(cudaErrorInvalidResourceHandle);
    const std::shared_ptr<event_state> e = event->state;
    const uint64_t number = ++e->recorded;
    e->on = stream;
    e->device = stream->device;
    return returned(enqueue(
        stream, {[=] { e->reach(number, running_step()->at); }, nullptr, "record", {}, {}}));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    EMU_HOLD();
    switch (EMU_JUDGE("cudaEventQuery", true)) {
    case verdict::go: break;
    case verdict::fail: return returned(cudaErrorUnknown);
    case verdict::hang: return cudaErrorNotReady;
    }
    if (events.count(event) == 0) return returned(cudaErrorInvalidResourceHandle);
    const cudaError_t unsafe = unsafe_call();
    if (unsafe != cudaSuccess) return returned(unsafe);
    event_state *e = event->state.get();
    if (e->recorded == 0) return returned(cudaSuccess);
    if (e->reached < e->recorded) ask(known(e->on) ? e->on : nullptr);
    if (sticky != cudaSuccess || e->reached < e->recorded) return returned(cudaErrorNotReady);
    host_clocks[e->device].join(e->clock_of(e->recorded));
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    EMU_CALL(cudaEventElapsedTime);
    if (events.count(begin) == 0 || events.count(end) == 0 || !begin->timed || !end->timed)
        return returned(cudaErrorInvalidResourceHandle);
    const event_state &b = *begin->state, &e = *end->state;
    if (b.recorded == 0 || e.recorded == 0) return returned(cudaErrorInvalidResourceHandle);
    if (b.reached < b.recorded || e.reached < e.recorded) return returned(cudaErrorNotReady);
    *ms = static_cast<float>(static_cast<double>(e.reached_ns - b.reached_ns) * 1e-6);
    return returned(cudaSuccess);
}
