/* kernels/cuda/emulation/include/cuda_runtime_api.h - the part of the CUDA runtime we call, for C.
 *
 * Names, types and signatures are the toolkit's; the same sources are also compiled against the real
 * header (kernels/cuda/CMakeLists.txt), which keeps this one honest.  Semantics: emulation/runtime.cc.
 */
#ifndef DML_EMULATED_CUDA_RUNTIME_API_H
#define DML_EMULATED_CUDA_RUNTIME_API_H

#include <stddef.h>

/* clang-format off */
/*    name                             value  text                                              */
#define DML_EMU_STATUS_LIST(X)                                                                     \
    X(cudaSuccess,                     0,     "no error")                                          \
    X(cudaErrorInvalidValue,           1,     "invalid argument")                                  \
    X(cudaErrorMemoryAllocation,       2,     "out of memory")                                     \
    X(cudaErrorInvalidConfiguration,   9,     "invalid configuration argument")                    \
    X(cudaErrorInsufficientDriver,     35,    "CUDA driver version is insufficient for CUDA runtime version") \
    X(cudaErrorNoDevice,               100,   "no CUDA-capable device is detected")                \
    X(cudaErrorInvalidDevice,          101,   "invalid device ordinal")                            \
    X(cudaErrorNoKernelImageForDevice, 209,   "no kernel image is available for execution on the device") \
    X(cudaErrorInvalidResourceHandle,  400,   "invalid resource handle")                           \
    X(cudaErrorNotReady,               600,   "device not ready")                                  \
    X(cudaErrorLaunchFailure,          719,   "unspecified launch failure")                        \
    X(cudaErrorNotSupported,           801,   "operation not supported")
/* clang-format on */
typedef enum cudaError {
#define X(name, value, text) name = value,
    DML_EMU_STATUS_LIST(X)
#undef X
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

typedef enum cudaMemcpyKind { cudaMemcpyDefault = 4 } cudaMemcpyKind;

enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };

#if defined(__cplusplus)
extern "C" {
#endif
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemset(void *memory, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
#if defined(__cplusplus)
}
#endif

#endif
