/* kernels/cuda/emulation/include/cuda_runtime_api.h - the part of the CUDA runtime we call, for C.
 *
 * Names, types and signatures are the toolkit's; the same sources are also compiled against the real
 * header (kernels/cuda/CMakeLists.txt), which keeps this one honest.  Semantics: emulation/runtime.cc for
 * devices and memory, emulation/stream.cc for what is ordered.
 */
#ifndef DML_EMULATED_CUDA_RUNTIME_API_H
#define DML_EMULATED_CUDA_RUNTIME_API_H

#include <stddef.h>

/* clang-format off */
/*    name                               value  text                                              */
#define DML_EMU_STATUS_LIST(X)                                                                       \
    X(cudaSuccess,                       0,     "no error")                                          \
    X(cudaErrorInvalidValue,             1,     "invalid argument")                                  \
    X(cudaErrorMemoryAllocation,         2,     "out of memory")                                     \
    X(cudaErrorInvalidConfiguration,     9,     "invalid configuration argument")                    \
    X(cudaErrorInsufficientDriver,       35,    "CUDA driver version is insufficient for CUDA runtime version") \
    X(cudaErrorNoDevice,                 100,   "no CUDA-capable device is detected")                \
    X(cudaErrorInvalidDevice,            101,   "invalid device ordinal")                            \
    X(cudaErrorNoKernelImageForDevice,   209,   "no kernel image is available for execution on the device") \
    X(cudaErrorInvalidResourceHandle,    400,   "invalid resource handle")                           \
    X(cudaErrorIllegalState,             401,   "the operation cannot be performed in the present state") \
    X(cudaErrorNotReady,                 600,   "device not ready")                                  \
    X(cudaErrorIllegalAddress,           700,   "an illegal memory access was encountered")          \
    X(cudaErrorLaunchFailure,            719,   "unspecified launch failure")                        \
    X(cudaErrorNotSupported,             801,   "operation not supported")                           \
    X(cudaErrorStreamCaptureUnsupported, 900,   "operation not permitted when stream is capturing")  \
    X(cudaErrorStreamCaptureInvalidated, 901,   "operation failed due to a previous error during capture") \
    X(cudaErrorStreamCaptureUnmatched,   903,   "capture was not initiated in this stream")          \
    X(cudaErrorStreamCaptureIsolation,   905,   "dependency created on uncaptured work in another stream") \
    X(cudaErrorStreamCaptureWrongThread, 908,   "attempt to terminate a thread-local capture sequence from another thread") \
    X(cudaErrorUnknown,                  999,   "unknown error")
/* clang-format on */
typedef enum cudaError {
#define X(name, value, text) name = value,
    DML_EMU_STATUS_LIST(X)
#undef X
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

enum cudaMemcpyKind { cudaMemcpyDefault = 4 };

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};

enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated
};

/* clang-format off */
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount         = 16,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor      = 75,
    cudaDevAttrComputeCapabilityMinor      = 76,
};

enum {
    cudaStreamNonBlocking  = 1,
    cudaEventDefault       = 0,
    cudaEventDisableTiming = 2,
    cudaHostAllocDefault   = 0,
};
/* clang-format on */

/* The members we read; the real one has many more. */
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

#if defined(__cplusplus)
extern "C" {
#endif
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemset(void *memory, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
#if defined(__cplusplus)
}
#endif

#endif
