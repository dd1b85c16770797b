/* kernels/cuda/emulation/graph.cc - capture and replay.
 *
 * A capturing stream's steps go into a graph and run at each launch of what is made of it, in order.  What
 * CUDA forbids meanwhile is refused as it does: asking the capturing stream, and in a thread that captures
 * (or next to a capture in global mode) whatever may wait for the device, such as an allocation.  Any of it
 * invalidates the capture.
 */
#include "kernels/cuda/emulation/stream.h"

#include <set>

namespace emu
{
static std::set<CUgraph_st *> graphs;
static std::set<CUgraphExec_st *> execs;

cudaError_t unsafe_call()
{
    cudaError_t status = cudaSuccess;
    for (CUstream_st *s : streams) {
        if (!s->graph || s->mode == cudaStreamCaptureModeRelaxed) continue;
        if (s->captor != std::this_thread::get_id() && s->mode != cudaStreamCaptureModeGlobal)
            continue;
        s->invalid = true;
        status = cudaErrorStreamCaptureUnsupported;
    }
    return status;
}

void drop_graphs()
{
    for (CUgraph_st *g : graphs)
        delete g;
    for (CUgraphExec_st *e : execs)
        delete e;
    graphs.clear();
    execs.clear();
}

bool is_capturing(cudaStream_t stream)
{
    return known(stream) && stream->graph;
}
} // namespace emu

using namespace emu;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    EMU_CALL(cudaStreamBeginCapture);
    if (!known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (stream->graph) return returned(cudaErrorIllegalState);
    if (sticky != cudaSuccess) return returned(sticky);
    stream->graph = new CUgraph_st();
    stream->invalid = false;
    stream->mode = mode;
    stream->captor = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    EMU_CALL(cudaStreamEndCapture);
    *out = nullptr;
    if (!known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (!stream->graph) return returned(cudaErrorIllegalState);
    if (stream->mode != cudaStreamCaptureModeRelaxed &&
        stream->captor != std::this_thread::get_id())
        return returned(cudaErrorStreamCaptureWrongThread);
    CUgraph_st *graph = stream->graph;
    stream->graph = nullptr;
    if (stream->invalid) {
        delete graph;
        return returned(cudaErrorStreamCaptureInvalidated);
    }
    graphs.insert(*out = graph);
    return returned(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out)
{
    EMU_CALL(cudaStreamIsCapturing);
    if (!known(stream)) return returned(cudaErrorInvalidResourceHandle);
    *out = !stream->graph    ? cudaStreamCaptureStatusNone
           : stream->invalid ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
    return returned(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    EMU_CALL(cudaGraphInstantiate);
    if (graphs.count(graph) == 0 || flags != 0) return returned(cudaErrorInvalidValue);
    const cudaError_t unsafe = unsafe_call();
    if (unsafe != cudaSuccess) return returned(unsafe);
    execs.insert(*out = new CUgraphExec_st{graph->steps});
    return returned(cudaSuccess);
}

/* A step that moves nothing anyone sees. */
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaGraphUpload, stream);
    if (execs.count(exec) == 0) return returned(cudaErrorInvalidValue);
    if (is_capturing(stream)) {
        stream->invalid = true;
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    return returned(enqueue(stream, {nullptr, nullptr, "cudaGraphUpload", {}, {}}));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaGraphLaunch, stream);
    if (execs.count(exec) == 0) return returned(cudaErrorInvalidValue);
    if (is_capturing(stream)) { /* a graph as a node of another: not emulated */
        stream->invalid = true;
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    cudaError_t status = cudaSuccess;
    for (const step &each : exec->steps)
        if (status == cudaSuccess) status = enqueue(stream, each);
    return returned(status);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    EMU_CALL(cudaGraphDestroy);
    if (graphs.erase(graph) == 0) return returned(cudaErrorInvalidValue);
    delete graph;
    return returned(cudaSuccess);
}

/* Launches under way keep what they need. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    EMU_CALL(cudaGraphExecDestroy);
    if (execs.erase(exec) == 0) return returned(cudaErrorInvalidValue);
    delete exec;
    return returned(cudaSuccess);
}
