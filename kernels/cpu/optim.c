/* kernels/cpu/optim.c - SGD and AdamW, one pass over each tensor. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

#include <math.h>

typedef struct sgd_job {
    const dml_sgd *p;
    const dml_opt_tensor *t;
} sgd_job;

static void range_sgd(void *arg, int64_t begin, int64_t end)
{
    const sgd_job *job = arg;
    const float lr = job->p->lr, scale = job->p->grad_scale, decay = job->t->weight_decay;
    float *restrict w = job->t->w;
    const float *restrict g = job->t->g;
#pragma omp simd
    for (int64_t i = begin; i < end; i++)
        w[i] -= lr * (g[i] * scale + decay * w[i]);
}

static void range_momentum(void *arg, int64_t begin, int64_t end)
{
    const sgd_job *job = arg;
    const float lr = job->p->lr, scale = job->p->grad_scale, decay = job->t->weight_decay;
    const float momentum = job->p->momentum;
    const bool first = job->p->first, nesterov = job->p->nesterov;
    float *restrict w = job->t->w, *restrict m = job->t->m;
    const float *restrict g = job->t->g;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        const float grad = g[i] * scale + decay * w[i];
        const float moment = first ? grad : momentum * m[i] + grad;
        m[i] = moment;
        w[i] -= lr * (nesterov ? grad + momentum * moment : moment);
    }
}

dml_err dml_cpu_sgd(dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    for (int32_t i = 0; i < n_tensors; i++) {
        sgd_job job = {p, &t[i]};
        dml_par_ranges(k->threads, t[i].n, 20, t[i].m ? range_momentum : range_sgd, &job);
    }
    return DML_ERR_OK;
}

typedef struct adamw_job {
    const dml_adamw *p;
    const dml_opt_tensor *t;
} adamw_job;

static void range_adamw(void *arg, int64_t begin, int64_t end)
{
    const adamw_job *job = arg;
    const dml_adamw p = *job->p;
    const float keep1 = 1.0f - p.beta1, keep2 = 1.0f - p.beta2;
    const float shrink = 1.0f - p.lr * job->t->weight_decay, step = p.lr / p.bias1;
    float *restrict w = job->t->w, *restrict m = job->t->m, *restrict v = job->t->v;
    const float *restrict g = job->t->g;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        const float grad = g[i] * p.grad_scale;
        m[i] = p.beta1 * m[i] + keep1 * grad;
        v[i] = p.beta2 * v[i] + keep2 * grad * grad;
        w[i] = w[i] * shrink - step * m[i] / (sqrtf(v[i]) / p.sqrt_bias2 + p.eps);
    }
}

dml_err dml_cpu_adamw(dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    for (int32_t i = 0; i < n_tensors; i++) {
        adamw_job job = {p, &t[i]};
        dml_par_ranges(k->threads, t[i].n, 28, range_adamw, &job);
    }
    return DML_ERR_OK;
}
