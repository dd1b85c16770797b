/* kernels/cuda/conv_cuda.h - inside the CUDA module: the convolution library of a context.  The entries of the
 * kernel table that use it are in entries.h. */
#ifndef DML_KERNELS_CUDA_CONV_CUDA_H
#define DML_KERNELS_CUDA_CONV_CUDA_H

#include "kernels/cuda/context.h"

/* Opened at the first call: a model without convolutions never loads it.
 * DML_ERR_UNAVAILABLE  it cannot start here */
dml_err dml_cuda_cudnn(dml_kctx *k, dml_cudnn **out);

#endif
