// kernels/cuda/norm_words.cu - between a variance and what a library keeps of it, 1 / sqrt(var + eps).
//
// A thread a channel, in double: one kernel of a few microseconds beside a batch norm.
#include "kernels/cuda/launch.cuh"

#include <math.h>

static __global__ void rstd_of_var(float *rstd, const float *var, float eps, int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= n) return;
    const double v = static_cast<double>(var[i]) + static_cast<double>(eps);
    rstd[i] = static_cast<float>(1.0 / sqrt(v));
}

static __global__ void var_of_rstd(float *var, const float *rstd, float eps, int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= n) return;
    const double r = rstd[i], v = 1.0 / (r * r) - static_cast<double>(eps);
    var[i] =
        static_cast<float>(v < 0.0 ? 0.0 : v); // a constant channel may round below; a NaN stays
}

cudaError_t dml_cu_rstd_of_var(float *rstd, const float *var, float eps, int64_t n,
                               cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, rstd_of_var, rstd, var, eps, n);
}

cudaError_t dml_cu_var_of_rstd(float *var, const float *rstd, float eps, int64_t n,
                               cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(n, BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, var_of_rstd, var, rstd, eps, n);
}
