/* kernels/cuda/emulation/host_step.h - host code in the place of a library's kernels. */
#ifndef DML_EMULATION_HOST_STEP_H
#define DML_EMULATION_HOST_STEP_H

#include <cuda_runtime_api.h>

#if defined(__cplusplus)
#include <cstdbool>
extern "C" {
#else
#include <stdbool.h>
#endif
/* Appends step(arg) to a stream.  `arg` is borrowed until the step can no longer run, which under capture is
 * when the graph is gone. */
cudaError_t dml_emu_host_step(cudaStream_t stream, void (*step)(void *), void *arg);
/* The same with a copy of the `bytes` at arg, as a kernel's arguments are copied. */
cudaError_t dml_emu_host_call(cudaStream_t stream, void (*step)(void *), const void *arg,
                              size_t bytes);
/* At the head of a stood-in call: not 0: it is to fail on purpose.  `site` is __builtin_return_address(0). */
int dml_emu_judge(const char *call, void *site);
/* Inside a step: it reads or writes these bytes of device or pinned memory. */
void dml_emu_touch(const void *at, size_t bytes, bool write);
#if defined(__cplusplus)
}
#endif

#endif
