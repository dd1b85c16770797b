// kernels/cuda/optimizer.cu - SGD and AdamW over all tensors of a chunk in one launch.
//
// The table of tensors travels in the launch's parameters (launchers.h); a block finds its tensor by
// bisection over first_block and takes one tile of it, PACKS packs of 4 elements a thread, all of w, g, m and v
// loaded before any is written.
// Bytes an element: SGD 12, with momentum 20, AdamW 28; limited by memory.  37 and 56 registers.
#include "kernels/cuda/launch.cuh"

#include <math.h>

enum { QUAD = 4, PARAMETER_BYTES = 32764 };

static_assert(sizeof(dml_cu_opt_table) + sizeof(dml_cu_adamw_rule) <= PARAMETER_BYTES,
              "the launch's parameters must fit");
static_assert(static_cast<int>(DML_CU_OPT_TILE) == BLOCK * PACKS * QUAD, "a block takes one tile");

// The beginning of a dml_cu_opt_table with room for N tensors.
template <int N> struct opt_table {
    dml_cu_opt_tensor tensor[N];
    int32_t n;
};

template <int N> static __device__ inline int find_tensor(const opt_table<N> &t, uint32_t block)
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

// One element.
struct element {
    float w, g, m, v;
};

static __device__ inline bool has_m(const dml_cu_sgd_rule &, const dml_cu_opt_tensor &t)
{
    return t.m != nullptr;
}

static __device__ inline bool has_v(const dml_cu_sgd_rule &, const dml_cu_opt_tensor &)
{
    return false;
}

static __device__ inline bool has_m(const dml_cu_adamw_rule &, const dml_cu_opt_tensor &)
{
    return true;
}

static __device__ inline bool has_v(const dml_cu_adamw_rule &, const dml_cu_opt_tensor &)
{
    return true;
}

static __device__ inline void update(const dml_cu_sgd_rule &p, const dml_cu_opt_tensor &t,
                                     element *x)
{
    float g = x->g * p.grad_scale;
    g += t.weight_decay * x->w;
    if (t.m) {
        x->m = p.first ? g : p.momentum * x->m + g;
        g = p.nesterov ? g + p.momentum * x->m : x->m;
    }
    x->w -= p.lr * g;
}

static __device__ inline void update(const dml_cu_adamw_rule &p, const dml_cu_opt_tensor &t,
                                     element *x)
{
    const float g = x->g * p.grad_scale, w = x->w * (1.0f - p.lr * t.weight_decay);
    x->m = p.beta1 * x->m + (1.0f - p.beta1) * g;
    x->v = p.beta2 * x->v + (1.0f - p.beta2) * (g * g);
    x->w = w - p.lr / p.bias1 * (x->m / (sqrtf(x->v) / p.sqrt_bias2 + p.eps));
}

template <class Rule>
static __device__ inline void update_tile(const Rule &p, const dml_cu_opt_tensor &t, int64_t tile,
                                          bool whole, bool aligned)
{
    const bool m_here = has_m(p, t), v_here = has_v(p, t);
    float w[PACKS][QUAD], g[PACKS][QUAD], m[PACKS][QUAD] = {}, v[PACKS][QUAD] = {};
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int64_t i = tile * DML_CU_OPT_TILE + (k * BLOCK + threadIdx.x) * QUAD;
        const bool packed = whole || (aligned && i + QUAD <= t.n);
        load<QUAD>(w[k], t.w, i, t.n, packed);
        load<QUAD>(g[k], t.g, i, t.n, packed);
        if (m_here) load<QUAD>(m[k], t.m, i, t.n, packed);
        if (v_here) load<QUAD>(v[k], t.v, i, t.n, packed);
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int64_t i = tile * DML_CU_OPT_TILE + (k * BLOCK + threadIdx.x) * QUAD;
        const bool packed = whole || (aligned && i + QUAD <= t.n);
#pragma unroll
        for (int e = 0; e < QUAD; e++) {
            element x = {w[k][e], g[k][e], m[k][e], v[k][e]};
            update(p, t, &x);
            w[k][e] = x.w;
            m[k][e] = x.m;
            v[k][e] = x.v;
        }
        store<QUAD>(t.w, w[k], i, t.n, packed);
        if (m_here) store<QUAD>(t.m, m[k], i, t.n, packed);
        if (v_here) store<QUAD>(t.v, v[k], i, t.n, packed);
    }
}

static __device__ inline bool starts_on_pack(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % PACK_BYTES == 0;
}

template <class Rule, int N>
static __global__ void optimize(const __grid_constant__ Rule p,
                                const __grid_constant__ opt_table<N> all)
{
    const dml_cu_opt_tensor &t = all.tensor[find_tensor(all, blockIdx.x)];
    const int64_t tile = blockIdx.x - t.first_block;
    const bool aligned =
        starts_on_pack(t.w) && starts_on_pack(t.g) && starts_on_pack(t.m) && starts_on_pack(t.v);
    if (aligned && (tile + 1) * DML_CU_OPT_TILE <= t.n)
        update_tile(p, t, tile, true, true);
    else
        update_tile(p, t, tile, false, aligned);
}

template <int N, class Rule>
static cudaError_t start(const Rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    opt_table<N> table;
    const cudaLaunchConfig_t c = over(t->blocks, BLOCK, stream);
    for (int i = 0; i < t->n; i++)
        table.tensor[i] = t->tensor[i];
    table.n = t->n;
    return cudaLaunchKernelEx(&c, optimize<Rule, N>, *p, table);
}

template <class Rule>
static cudaError_t run(const Rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    return t->n <= DML_CU_OPT_FEW ? start<DML_CU_OPT_FEW>(p, t, stream)
                                  : start<DML_CU_OPT_TENSORS>(p, t, stream);
}

cudaError_t dml_cu_sgd(const dml_cu_sgd_rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    return run(p, t, stream);
}

cudaError_t dml_cu_adamw(const dml_cu_adamw_rule *p, const dml_cu_opt_table *t, cudaStream_t stream)
{
    return run(p, t, stream);
}
