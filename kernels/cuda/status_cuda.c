/* kernels/cuda/status_cuda.c - a CUDA status as one of our errors. */
#include "kernels/cuda/device_cuda.h"

#include <stdarg.h>
#include <stdio.h>

static dml_err meaning(cudaError_t status)
{
    switch ((int)status) {
    case cudaErrorMemoryAllocation: return DML_ERR_NOMEM;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorNotSupported: return DML_ERR_UNAVAILABLE;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle: return DML_ERR_BUG;
    default: return DML_ERR_PEER; /* an open list: whatever a driver may report of a device */
    }
}

dml_err dml_cuda_status(cudaError_t status, const char *file, int line, const char *call,
                        const char *fmt, ...)
{
    if (status == cudaSuccess) return DML_ERR_OK;
    char on[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(on, sizeof on, fmt, ap);
    va_end(ap);
    return dml_err_set(meaning(status), file, line, "%s (%s): %s (%s)", call, on,
                       cudaGetErrorString(status), cudaGetErrorName(status));
}
