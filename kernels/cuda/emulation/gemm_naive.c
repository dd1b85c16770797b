/* kernels/cuda/emulation/gemm_naive.c - gemm.h by three loops on the CPU, in stream order.
 *
 * Keeps the real one's rule that there is no new shape once sealed.
 */
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/emulation/host_step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct known_shape {
    struct known_shape *next;
    dml_gemm_shape shape;
} known_shape;

struct dml_gemm {
    known_shape *shapes; /* owned */
    bool sealed;
};

/* What a product needs when its turn in the stream comes; freed by then. */
typedef struct product {
    dml_gemm_shape shape;
    float *c;
    const float *a, *b, *bias;
} product;

dml_err dml_gemm_open(bool deterministic, dml_gemm **out)
{
    (void)deterministic; /* three loops always are */
    dml_gemm *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for a product");
    *out = g;
    return DML_ERR_OK;
}

void dml_gemm_close(dml_gemm *g)
{
    if (!g) return;
    while (g->shapes) {
        known_shape *next = g->shapes->next;
        free(g->shapes);
        g->shapes = next;
    }
    free(g);
}

void dml_gemm_seal(dml_gemm *g)
{
    g->sealed = true;
}

static bool is_known(const dml_gemm *g, const dml_gemm_shape *s)
{
    for (const known_shape *k = g->shapes; k; k = k->next)
        if (k->shape.m == s->m && k->shape.n == s->n && k->shape.k == s->k &&
            k->shape.a_transposed == s->a_transposed && k->shape.b_transposed == s->b_transposed &&
            k->shape.bias == s->bias)
            return true;
    return false;
}

static void multiply(void *arg)
{
    product *p = arg;
    const dml_gemm_shape *s = &p->shape;
    const int64_t a_row = s->a_transposed ? 1 : s->k, a_col = s->a_transposed ? s->m : 1;
    const int64_t b_row = s->b_transposed ? 1 : s->n, b_col = s->b_transposed ? s->k : 1;
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->n; j++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < s->k; k++)
                sum = fmaf(p->a[i * a_row + k * a_col], p->b[k * b_row + j * b_col], sum);
            p->c[i * s->n + j] = s->bias ? sum + p->bias[j] : sum;
        }
    free(p);
}

dml_err dml_gemm_run(dml_gemm *g, const dml_gemm_shape *shape, float *c, const float *a,
                     const float *b, const float *bias, cudaStream_t stream)
{
    if (!is_known(g, shape)) {
        if (g->sealed)
            DML_FAIL(DML_ERR_BUG, "a product of [%lld, %lld] by [%lld, %lld] was not planned",
                     (long long)shape->m, (long long)shape->k, (long long)shape->k,
                     (long long)shape->n);
        known_shape *k = calloc(1, sizeof *k);
        if (!k) DML_FAIL(DML_ERR_NOMEM, "no memory for a shape");
        k->shape = *shape;
        k->next = g->shapes;
        g->shapes = k;
    }
    product *p = malloc(sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for a product");
    *p = (product){*shape, c, a, b, bias};
    const cudaError_t status = dml_emu_host_step(stream, multiply, p);
    if (status == cudaSuccess) return DML_ERR_OK;
    free(p);
    DML_FAIL(DML_ERR_PEER, "the emulated stream: %s", cudaGetErrorString(status));
}
