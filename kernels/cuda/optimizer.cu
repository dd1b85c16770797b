// kernels/cuda/optimizer.cu - SGD and AdamW over all tensors of a chunk in one launch.
//
// The table of tensors travels in the launch's parameters (launchers.h); a block finds its tensor by
// bisection over first_block and takes one tile of it.
// Bytes an element: SGD 12, with momentum 20, AdamW 28; limited by memory.
#include "kernels/cuda/launch.cuh"

#include <math.h>

static_assert(sizeof(dml_cu_opt_table) + sizeof(dml_cu_adamw_rule) <= 4096,
              "the launch's parameters must fit");
static_assert(static_cast<int>(DML_CU_OPT_TILE) == TILE, "a block takes one tile");

static __device__ inline int find_tensor(const dml_cu_opt_table &t, int64_t block)
{
    int low = 0, high = t.n - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (t.tensor[middle].first_block <= block)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static __device__ inline void update(const dml_cu_sgd_rule &p, const dml_cu_opt_tensor &t,
                                     int64_t i)
{
    const float w = t.w[i];
    float g = t.g[i] * p.grad_scale;
    g += t.weight_decay * w;
    if (t.m) {
        const float m = p.first ? g : p.momentum * t.m[i] + g;
        t.m[i] = m;
        g = p.nesterov ? g + p.momentum * m : m;
    }
    t.w[i] = w - p.lr * g;
}

static __device__ inline void update(const dml_cu_adamw_rule &p, const dml_cu_opt_tensor &t,
                                     int64_t i)
{
    const float g = t.g[i] * p.grad_scale;
    const float w = t.w[i] * (1.0f - p.lr * t.weight_decay);
    const float m = p.beta1 * t.m[i] + (1.0f - p.beta1) * g;
    const float v = p.beta2 * t.v[i] + (1.0f - p.beta2) * (g * g);
    t.m[i] = m;
    t.v[i] = v;
    t.w[i] = w - p.lr / p.bias1 * (m / (sqrtf(v) / p.sqrt_bias2 + p.eps));
}

template <class Rule>
static __global__ void optimize(const __grid_constant__ Rule p,
                                const __grid_constant__ dml_cu_opt_table all)
{
    const int64_t block = blockIdx.x;
    const dml_cu_opt_tensor &t = all.tensor[find_tensor(all, block)];
    const int64_t begin = (block - t.first_block) * TILE + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        const int64_t i = begin + k * BLOCK;
        if (i < t.n) update(p, t, i);
    }
}

cudaError_t dml_cu_sgd(const dml_cu_sgd_rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(t->blocks, BLOCK, stream);
    return cudaLaunchKernelEx(&c, optimize<dml_cu_sgd_rule>, *p, *t);
}

cudaError_t dml_cu_adamw(const dml_cu_adamw_rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(t->blocks, BLOCK, stream);
    return cudaLaunchKernelEx(&c, optimize<dml_cu_adamw_rule>, *p, *t);
}
