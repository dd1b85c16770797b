/* kernels/cuda/backend_cuda.c - the door of libdml_cuda.so. */
#include "kernels/cuda/kernels_cuda.h"

#include "kernels/cuda/device_cuda.h"

const dml_backend *dml_cuda_backend(void)
{
    static const dml_backend backend = {
        .name = "cuda",
        .label = dml_cuda_label,
        .doc = "NVIDIA GPUs: CUDA kernels and cuBLASLt",
        .transport = "nccl",
        .device = &dml_cuda_device,
        .kernels = &dml_cuda_kernels,
    };
    return &backend;
}
