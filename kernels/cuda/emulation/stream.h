/* kernels/cuda/emulation/stream.h - streams, for the stand-ins of libraries that work on them.
 *
 * A stream is a list of steps.  Its first step runs when it is ready and somebody lets the stream advance:
 * at once (eager), when the host asks for something (lazy), or at random moments between (lottery).
 */
#ifndef DML_EMULATION_STREAM_H
#define DML_EMULATION_STREAM_H

#include <cuda_runtime_api.h>

#include "kernels/cuda/emulation/clocks.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace emu
{
/* Held by every call of the emulated libraries and by every step they run. */
extern std::recursive_mutex lock;

struct step {
    std::function<void()> run;   /* may run again when it is in a graph; empty: nothing to do */
    std::function<bool()> ready; /* asked before run; empty: at once */
    const char *what;            /* for reports; static */
    vclock host;                 /* what the host had seen when it enqueued this; set by enqueue */
    stamp_of_step stamp;         /* from when it is first of its stream */
};

/* In a step: its stream now knows what `other` does. */
void learn(const vclock &other);

struct event_state {
    uint64_t recorded, reached;
    int64_t reached_ns;
    cudaStream_t on;           /* of the newest record */
    int device;                /* its */
    std::deque<vclock> clocks; /* of the last records that were reached, the newest last */

    void reach(uint64_t number, const vclock &at);
    const vclock &clock_of(uint64_t number) const; /* reached */
};

/* Appends to the stream, or to the graph it is being captured in. */
cudaError_t enqueue(cudaStream_t stream, step next);
void enqueue_hang(cudaStream_t stream); /* a step that is never ready */
bool is_capturing(cudaStream_t stream);
/* What this thread may not do while it captures, CUDA's "potentially unsafe" calls: ends every capture that
 * forbids it.  cudaSuccess: nothing was being captured. */
cudaError_t unsafe_call();
/* A step of the stream that has no handle: done, but unknown to all until the host next synchronizes. */
stamp_of_step default_stream_step(const char *what);
/* Waits until all streams of the device are dry. */
cudaError_t synchronize(int device);

/* The host asks how far `s` has come (nullptr: it only waits): lets a stream of this process advance, or naps. */
void ask(cudaStream_t s);

/* Forgets all that is enqueued: a device after a fault, before the next test.  And all handles. */
void drop_steps();
void drop_handles();
void drop_events();
void drop_graphs();

/* The first fault or failed launch: every call from then on gives it. */
extern cudaError_t sticky;
/* What a call returns, kept for cudaGetLastError. */
cudaError_t returned(cudaError_t status);
extern thread_local cudaError_t last_error;
extern thread_local int current_device;

/* Whether this call of an emulated library is the one that is to fail (emulation.h). */
enum class verdict { go, fail, hang };
/* `can_hang`: what it asks for may also never be done; else the answer is never hang. */
verdict judge_at(const char *call, void *site, bool can_hang);
bool hangs_on_purpose(); /* some call does by now */
} // namespace emu

/* The handles.  Their lists make a stale one an error. */
struct CUevent_st {
    bool timed;
    std::shared_ptr<emu::event_state>
        state; /* steps share it: destroying the handle waits for nothing */
};

struct CUgraph_st {
    std::vector<emu::step> steps;
};

struct CUgraphExec_st {
    std::vector<emu::step> steps;
};

struct CUstream_st {
    int device;
    uint32_t actor;
    emu::vclock at; /* of the steps that have run */
    std::deque<emu::step> steps;
    bool closed;       /* destroyed: gone when dry */
    CUgraph_st *graph; /* owned; not nullptr: being captured */
    bool invalid;      /* the capture is */
    cudaStreamCaptureMode mode;
    std::thread::id captor;
};

namespace emu
{
extern std::vector<CUstream_st *> streams;
bool known(const CUstream_st *s); /* and not destroyed */
} // namespace emu

#define EMU_JUDGE(call, can_hang) emu::judge_at(call, __builtin_return_address(0), can_hang)
#define EMU_HOLD()                const std::lock_guard<std::recursive_mutex> hold(emu::lock)
/* The head of a call whose work is done when it returns, and of one that enqueues. */
#define EMU_CALL(name) \
    EMU_HOLD();        \
    if (EMU_JUDGE(#name, false) != emu::verdict::go) return emu::returned(cudaErrorUnknown)
#define EMU_QUEUED_CALL(name, stream)                                \
    EMU_HOLD();                                                      \
    switch (EMU_JUDGE(#name, true)) {                                \
    case emu::verdict::go: break;                                    \
    case emu::verdict::fail: return emu::returned(cudaErrorUnknown); \
    case emu::verdict::hang: emu::enqueue_hang(stream);              \
    }

#endif
