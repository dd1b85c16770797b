/* kernels/cuda/kernels_cuda.h - inside the CUDA module: the kernel table and the backend.
 *
 * Entries that are NULL: convolution, pooling, batch norm, layout changes.
 */
#ifndef DML_KERNELS_CUDA_KERNELS_CUDA_H
#define DML_KERNELS_CUDA_KERNELS_CUDA_H

#include "kernels/backend.h"

extern const dml_kernel_table dml_cuda_kernels;

extern const char dml_cuda_label[]; /* of the backend: "cuda", or "emulated-cuda" */
/* What libdml_cuda.so is loaded for; static. */
const dml_backend *dml_cuda_backend(void);

#endif
