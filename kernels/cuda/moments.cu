// kernels/cuda/moments.cu - running moments of batch norm, moved once a step.
//
// One thread a channel: the operations of kernels/ref/moments.c one after another, in double, for the same bits.
// Reads 8 bytes a channel and micro-batch; a few thousand channels at most, so it lasts as long as its launch.
#include "kernels/cuda/launch.cuh"

struct moments {
    int64_t n; /* values behind them */
    double mean, var;
};

static __device__ inline moments of_micro_batch(const dml_cu_moments &p, const float *slots, int mb,
                                                int64_t col)
{
    const float *slot = slots + 2 * p.channels * mb + col;
    const int64_t left = p.samples - static_cast<int64_t>(mb) * p.mb_rows;
    const int64_t rows = left < 0 ? 0 : left < p.mb_rows ? left : p.mb_rows;
    return {rows * p.pixels, slot[0], slot[p.channels]};
}

static __device__ inline moments of_step(const dml_cu_moments &p, const float *slots, int64_t col)
{
    moments all = {};
    for (int mb = 0; mb < p.mbs; mb++) {
        const moments m = of_micro_batch(p, slots, mb, col);
        all.n += m.n;
        if (m.n > 0) all.mean += static_cast<double>(m.n) * m.mean;
    }
    if (all.n == 0) return all;
    all.mean /= static_cast<double>(all.n);
    for (int mb = 0; mb < p.mbs; mb++) {
        const moments m = of_micro_batch(p, slots, mb, col);
        const double off = m.mean - all.mean;
        if (m.n > 0) all.var += static_cast<double>(m.n) * (m.var + off * off);
    }
    all.var /= static_cast<double>(all.n);
    return all;
}

static __device__ inline void move(float momentum, float *mean, float *var, const moments &m)
{
    if (m.n == 0) return;
    const double in = momentum, keep = 1.0 - in, n = static_cast<double>(m.n);
    const double unbiased = m.n > 1 ? m.var * (n / static_cast<double>(m.n - 1)) : m.var;
    *mean = static_cast<float>(keep * *mean + in * m.mean);
    *var = static_cast<float>(keep * *var + in * unbiased);
}

static __global__ void move_moments(const dml_cu_moments p, float *mean, float *var,
                                    const float *slots)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    if (col >= p.channels) return;
    if (!p.per_micro_batch) move(p.momentum, mean + col, var + col, of_step(p, slots, col));
    for (int mb = 0; mb < p.mbs && p.per_micro_batch; mb++)
        move(p.momentum, mean + col, var + col, of_micro_batch(p, slots, mb, col));
}

cudaError_t dml_cu_move_moments(const dml_cu_moments *p, float *mean, float *var,
                                const float *slots, cudaStream_t stream)
{
    const cudaLaunchConfig_t c = over(tiles(p->channels, BLOCK), BLOCK, stream);
    return cudaLaunchKernelEx(&c, move_moments, *p, mean, var, slots);
}
