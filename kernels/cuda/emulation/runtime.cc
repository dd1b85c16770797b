/* kernels/cuda/emulation/runtime.cc - devices, memory and copies of the emulated CUDA runtime.
 *
 * Devices are alike and share the host's memory; what is theirs are streams, and being the current one of a
 * thread.  Our code has no default stream; only cudaMemset runs there, which of device memory returns before
 * it is done: its callers must wait for the device.
 */
#include "kernels/cuda/emulation/stream.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/memory.h"
#include "kernels/cuda/emulation/order.h"

#include <stdio.h>
#include <string.h>

using namespace emu;

/* Of all devices of the process together. */
static const size_t DEVICE_BYTES = size_t{8} << 30;

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

/* A failed launch says what the emulator found: that is what a person needs to read. */
const char *cudaGetErrorString(cudaError_t error)
{
    if (error == cudaErrorLaunchFailure && dml_emu_faults() > 0) return dml_emu_fault(0);
    switch (error) {
#define X(name, value, text) \
    case name: return text;
        DML_EMU_STATUS_LIST(X)
#undef X
    }
    return "unrecognized error code";
}

/* Gives the last error of this thread and forgets it, unless it sticks. */
cudaError_t cudaGetLastError(void)
{
    EMU_HOLD();
    const cudaError_t status = sticky != cudaSuccess ? sticky : last_error;
    last_error = cudaSuccess;
    return status;
}

cudaError_t cudaPeekAtLastError(void)
{
    EMU_HOLD();
    return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    EMU_CALL(cudaDriverGetVersion);
    *version = 13000;
    return returned(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    EMU_CALL(cudaRuntimeGetVersion);
    *version = 13000;
    return returned(cudaSuccess);
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    EMU_CALL(cudaGetDeviceCount);
    *count = number_of_devices();
    return returned(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    EMU_CALL(cudaSetDevice);
    if (device < 0 || device >= number_of_devices()) return returned(cudaErrorInvalidDevice);
    current_device = device;
    return returned(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device)
{
    EMU_CALL(cudaGetDevice);
    *device = current_device;
    return returned(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    EMU_CALL(cudaGetDeviceProperties);
    if (device < 0 || device >= number_of_devices()) return returned(cudaErrorInvalidDevice);
    *out = {};
    snprintf(out->name, sizeof out->name, "emulated GPU");
    out->totalGlobalMem = DEVICE_BYTES;
    out->major = 9;
    out->multiProcessorCount = 4;
    return returned(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    EMU_CALL(cudaDeviceGetAttribute);
    if (device < 0 || device >= number_of_devices()) return returned(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; return returned(cudaSuccess);
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; return returned(cudaSuccess);
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return returned(cudaSuccess);
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return returned(cudaSuccess);
    }
    return returned(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int device)
{
    EMU_CALL(cudaDeviceGetPCIBusId);
    if (device < 0 || device >= number_of_devices()) return returned(cudaErrorInvalidDevice);
    if (bytes < 13) return returned(cudaErrorInvalidValue);
    snprintf(out, static_cast<size_t>(bytes), "ffff:%02x:00.0", device); /* no machine has it */
    return returned(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    EMU_CALL(cudaMemGetInfo);
    *total_bytes = DEVICE_BYTES;
    *free_bytes = DEVICE_BYTES - memory_live_bytes();
    return returned(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize(void)
{
    EMU_CALL(cudaDeviceSynchronize);
    const cudaError_t unsafe = unsafe_call();
    return returned(unsafe != cudaSuccess ? unsafe : synchronize(current_device));
}

/* ---- memory ---- */

/* The head of a call that allocates or frees. */
#define MEMORY_CALL(name, on_failure)                                        \
    EMU_HOLD();                                                              \
    if (EMU_JUDGE(#name, false) != verdict::go) return returned(on_failure); \
    const cudaError_t unsafe = unsafe_call();                                \
    if (unsafe != cudaSuccess) return returned(unsafe);                      \
    if (sticky != cudaSuccess) return sticky

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    MEMORY_CALL(cudaMalloc, cudaErrorMemoryAllocation);
    *out = nullptr;
    if (bytes > 0 && bytes <= DEVICE_BYTES - memory_live_bytes())
        *out = memory_new(bytes, place_of_memory::device);
    return returned(*out || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    MEMORY_CALL(cudaHostAlloc, cudaErrorMemoryAllocation);
    if (flags != cudaHostAllocDefault) return returned(cudaErrorInvalidValue);
    *out = nullptr;
    if (bytes > 0) *out = memory_new(bytes, place_of_memory::pinned);
    return returned(*out || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation);
}

/* As the real ones: nothing that is under way may still use it, so they wait for all of it. */
static cudaError_t release(void *memory, place_of_memory where)
{
    if (!memory) return cudaSuccess;
    if (!memory_live(memory, where)) return cudaErrorInvalidValue;
    synchronize(current_device);
    memory_free(memory);
    return sticky;
}

cudaError_t cudaFree(void *memory)
{
    MEMORY_CALL(cudaFree, cudaErrorUnknown);
    return returned(release(memory, place_of_memory::device));
}

cudaError_t cudaFreeHost(void *memory)
{
    MEMORY_CALL(cudaFreeHost, cudaErrorUnknown);
    return returned(release(memory, place_of_memory::pinned));
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    MEMORY_CALL(cudaMemset, cudaErrorUnknown);
    const stamp_of_step before = clocks_enter(default_stream_step("cudaMemset"));
    clocks_access(memory, bytes, true);
    clocks_enter(before);
    memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaMemsetAsync, stream);
    const auto set = [=] {
        clocks_access(memory, bytes, true);
        memset(memory, value, bytes);
    };
    return returned(enqueue(stream, {set, nullptr, "cudaMemsetAsync", {}, {}}));
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    EMU_QUEUED_CALL(cudaMemcpyAsync, stream);
    if (kind != cudaMemcpyDefault) return returned(cudaErrorInvalidValue);
    const auto copy = [=] {
        clocks_access(src, bytes, false);
        clocks_access(dst, bytes, true);
        memmove(dst, src, bytes);
    };
    return returned(enqueue(stream, {copy, nullptr, "cudaMemcpyAsync", {}, {}}));
}
