/* kernels/cuda/status_cuda.c - a CUDA status as one of our errors. */
#include "kernels/cuda/device_cuda.h"

#include <stdarg.h>
#include <stdio.h>

/* Statuses of stream capture, all about what must not be done in one. */
enum { CAPTURE_FIRST = 900, CAPTURE_LAST = 908 };

static dml_err meaning(cudaError_t status)
{
    if ((int)status >= CAPTURE_FIRST && (int)status <= CAPTURE_LAST) return DML_ERR_BUG;
    switch ((int)status) {
    case cudaErrorMemoryAllocation: return DML_ERR_NOMEM;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorIllegalState:
    case cudaErrorNotReady:
    case cudaErrorInvalidResourceHandle: return DML_ERR_BUG;
    default:
        return DML_ERR_UNAVAILABLE; /* an open list: whatever a driver may report of a device */
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
