/* kernels/cuda/device_cuda.h - inside the CUDA module: devices, queues and what a CUDA status means. */
#ifndef DML_KERNELS_CUDA_DEVICE_CUDA_H
#define DML_KERNELS_CUDA_DEVICE_CUDA_H

#include "kernels/device.h"

#include <cuda_runtime_api.h>

extern const dml_device_api dml_cuda_device;

/* Ordinal of a device, and its run's abort flag (borrowed, may be NULL). */
int32_t dml_cuda_index(const dml_device *device);
const dml_abort *dml_cuda_abort(const dml_device *device);

/* Entries watch and unwatch of a device: watch_nvml.c. */
dml_err dml_cuda_watch(int32_t index, dml_tell tell_whom, void *context, dml_watch **out);
void dml_cuda_unwatch(dml_watch *watch);

cudaStream_t dml_cuda_stream(dml_queue *queue);
const char *dml_cuda_queue_name(const dml_queue *queue);

/* DML_ERR_OK, or a trail of call, operation, the runtime's words and its name for them:
 *
 *   cudaMalloc (1024 bytes on device 0): out of memory (cudaErrorMemoryAllocation)
 *
 * DML_ERR_NOMEM        the device's or the pinned memory is used up
 * DML_ERR_BUG          we asked for something that cannot be
 * DML_ERR_UNAVAILABLE  the rest: driver or device are missing or too old, or this process has lost its device (a
 *                      sticky error ends with the process)
 */
dml_err dml_cuda_status(cudaError_t status, const char *file, int line, const char *call,
                        const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Calls `call args`; the rest says on what, as printf does. */
#define DML_CUDA(call, args, ...) dml_cuda_status(call args, __FILE__, __LINE__, #call, __VA_ARGS__)

#endif
