/* kernels/cuda/backend_cuda.c - the door of libdml_cuda.so. */
#include "kernels/cuda/kernels_cuda.h"

#include "kernels/cuda/device_cuda.h"

#include <cublasLt.h>
#include <stdio.h>

static const char *libraries(void)
{
    static char text[64];
    int runtime = 0;
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) return "";
    snprintf(text, sizeof text, "CUDA %d.%d, cuBLASLt %zu", runtime / 1000, runtime % 1000 / 10,
             cublasLtGetVersion());
    return text;
}

const dml_backend *dml_cuda_backend(void)
{
    static const dml_backend backend = {
        .name = "cuda",
        .label = dml_cuda_label,
        .doc = "NVIDIA GPUs: CUDA kernels and cuBLASLt",
        .transport = "nccl",
        .libraries = libraries,
        .device = &dml_cuda_device,
        .kernels = &dml_cuda_kernels,
    };
    return &backend;
}
