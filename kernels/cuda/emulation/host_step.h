/* kernels/cuda/emulation/host_step.h - host code in the place of a library's kernels. */
#ifndef DML_EMULATION_HOST_STEP_H
#define DML_EMULATION_HOST_STEP_H

#include <cuda_runtime_api.h>

#if defined(__cplusplus)
extern "C" {
#endif
/* Appends step(arg) to a stream.  `arg` is moved to the step on success. */
cudaError_t dml_emu_host_step(cudaStream_t stream, void (*step)(void *), void *arg);
#if defined(__cplusplus)
}
#endif

#endif
