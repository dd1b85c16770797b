/* kernels/cuda/emulation/stream.h - for stand-ins of libraries that work on streams. */
#ifndef DML_EMULATION_STREAM_H
#define DML_EMULATION_STREAM_H

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <mutex>

namespace emu
{
/* Held by every call of the emulated runtime and by every step it runs. */
extern std::recursive_mutex lock;

/* Appends `arrive`, and then a stop: the stream goes on once *gate is true. */
cudaError_t hold(cudaStream_t stream, std::function<void()> arrive, std::shared_ptr<bool> gate);
} // namespace emu

#endif
