/* kernels/ref/optim.c - SGD and AdamW as kernels.h writes them, in double, rounded when stored. */
#include "kernels/ref/ref.h"

#include <math.h>

dml_err dml_ref_sgd(dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    (void)k;
    for (int32_t j = 0; j < n_tensors; j++, t++)
        for (int64_t i = 0; i < t->n; i++) {
            double g = (double)t->g[i] * (double)p->grad_scale;
            g += (double)t->weight_decay * (double)t->w[i];
            if (t->m) {
                const double m = p->first ? g : (double)p->momentum * (double)t->m[i] + g;
                t->m[i] = (float)m;
                g = p->nesterov ? g + (double)p->momentum * m : m;
            }
            t->w[i] = (float)((double)t->w[i] - (double)p->lr * g);
        }
    return DML_ERR_OK;
}

dml_err dml_ref_adamw(dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors)
{
    (void)k;
    const double b1 = (double)p->beta1, b2 = (double)p->beta2;
    for (int32_t j = 0; j < n_tensors; j++, t++)
        for (int64_t i = 0; i < t->n; i++) {
            const double g = (double)t->g[i] * (double)p->grad_scale;
            const double m = b1 * (double)t->m[i] + (1.0 - b1) * g;
            const double v = b2 * (double)t->v[i] + (1.0 - b2) * g * g;
            const double w = (double)t->w[i] * (1.0 - (double)p->lr * (double)t->weight_decay);
            const double step = (double)p->lr / (double)p->bias1;
            t->m[i] = (float)m;
            t->v[i] = (float)v;
            t->w[i] = (float)(w - step * m / (sqrt(v) / (double)p->sqrt_bias2 + (double)p->eps));
        }
    return DML_ERR_OK;
}
