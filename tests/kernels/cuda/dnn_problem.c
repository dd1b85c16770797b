/* tests/kernels/cuda/dnn_problem.c - the definition of convolution in double, one product at a time. */
#include "tests/support/test.h"

#include "tests/kernels/cuda/dnn_problem.h"

#include "kernels/half.h"

#include <math.h>
#include <stdlib.h>

cudaStream_t dml_dnn_stream;

void dml_dnn_problem_wait(void)
{
    cudaError_t status = cudaStreamQuery(dml_dnn_stream);
    while (status == cudaErrorNotReady)
        status = cudaStreamQuery(dml_dnn_stream);
    DML_CHECK_EQ(cudaSuccess, status);
}

/* ---- an operation with its tensors on both sides ---- */

bool dml_dnn_problem_is_half(const dml_dnn_problem *p, int slot)
{
    const bool samples = slot == DML_CUDNN_X || slot == DML_CUDNN_Y || slot == DML_CUDNN_DX;
    const bool filter =
        (slot == DML_CUDNN_W || slot == DML_CUDNN_B) && p->op.kind < DML_CUDNN_NORM_FWD;
    return p->op.dtype != DML_F32 && (samples || filter);
}

int64_t dml_dnn_problem_bytes(const dml_dnn_problem *p, int slot)
{
    return p->elems[slot] * (dml_dnn_problem_is_half(p, slot) ? 2 : 4);
}

static float rounded(const dml_dnn_problem *p, int slot, float value)
{
    if (!dml_dnn_problem_is_half(p, slot)) return value;
    return p->op.dtype == DML_BF16 ? dml_bf16_to_float(dml_bf16_of_float(value))
                                   : dml_f16_to_float(dml_f16_of_float(value));
}

void dml_dnn_problem_copy(dml_dnn_problem *p, int slot, bool in)
{
    const int64_t n = p->elems[slot];
    uint16_t *half = malloc(2 * (size_t)n);
    void *host = dml_dnn_problem_is_half(p, slot) ? (void *)half : p->host[slot];
    const bool bf16 = p->op.dtype == DML_BF16;
    for (int64_t i = 0; in && i < n; i++)
        half[i] = bf16 ? dml_bf16_of_float(p->host[slot][i]) : dml_f16_of_float(p->host[slot][i]);
    DML_DNN_CUDA(cudaMemcpyAsync(in ? p->device[slot] : host, in ? host : p->device[slot],
                                 (size_t)dml_dnn_problem_bytes(p, slot), cudaMemcpyDefault,
                                 dml_dnn_stream));
    dml_dnn_problem_wait();
    for (int64_t i = 0; !in && dml_dnn_problem_is_half(p, slot) && i < n; i++)
        p->host[slot][i] = bf16 ? dml_bf16_to_float(half[i]) : dml_f16_to_float(half[i]);
    free(half);
}

/* Values that differ and cancel: multiples of 1/64 in -1 .. 1, shifted for gamma. */
void dml_dnn_problem_make(dml_dnn_problem *p, const dml_cudnn_op *op, dml_cudnn *d)
{
    *p = (dml_dnn_problem){.op = *op, .eps = 1e-3f};
    const bool conv = op->kind < DML_CUDNN_NORM_FWD;
    p->elems[DML_CUDNN_X] = op->n * op->h * op->w * op->c;
    p->elems[DML_CUDNN_Y] = conv ? op->n * op->p * op->q * op->o : p->elems[DML_CUDNN_X];
    p->elems[DML_CUDNN_W] =
        conv ? op->o * op->conv.kernel[0] * op->conv.kernel[1] * (op->c / op->conv.groups) : op->c;
    p->elems[DML_CUDNN_B] = conv                             ? (op->bias ? op->o : 0)
                            : op->kind == DML_CUDNN_NORM_FWD ? op->c
                                                             : 0;
    if (op->kind == DML_CUDNN_NORM_BWD) {
        p->elems[DML_CUDNN_DX] = p->elems[DML_CUDNN_X];
        p->elems[DML_CUDNN_DW] = p->elems[DML_CUDNN_DB] = op->c;
    }
    if (!conv) p->elems[DML_CUDNN_MEAN] = p->elems[DML_CUDNN_RSTD] = op->c;
    uint32_t word = 1;
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++) {
        if (p->elems[slot] == 0) continue;
        p->host[slot] = malloc(sizeof(float) * (size_t)p->elems[slot]);
        DML_DNN_CUDA(cudaMalloc(&p->device[slot], (size_t)dml_dnn_problem_bytes(p, slot)));
        for (int64_t i = 0; i < p->elems[slot]; i++) {
            word = word * 1664525u + 1013904223u;
            const float value = (float)(int32_t)(word >> 25) / 64.0f - 1.0f;
            const bool positive = slot == DML_CUDNN_RSTD || (!conv && slot == DML_CUDNN_W);
            p->host[slot][i] = rounded(p, slot, positive ? 1.5f + 0.5f * value : value);
        }
        dml_dnn_problem_copy(p, slot, true);
    }
    p->device[DML_CUDNN_EPS] = &p->eps;
    int64_t workspace = 0;
    DML_CHECK_OK(dml_cudnn_plan(d, op, &workspace));
    DML_DNN_CUDA(cudaMalloc(&p->workspace, (size_t)workspace + 1));
}

void dml_dnn_problem_unmake(dml_dnn_problem *p)
{
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++) {
        free(p->host[slot]);
        if (p->elems[slot] > 0) DML_DNN_CUDA(cudaFree(p->device[slot]));
    }
    DML_DNN_CUDA(cudaFree(p->workspace));
}

dml_cudnn_slot dml_dnn_problem_result(const dml_cudnn_op *op)
{
    static const dml_cudnn_slot slot[] = {DML_CUDNN_Y, DML_CUDNN_X, DML_CUDNN_W, DML_CUDNN_Y,
                                          DML_CUDNN_DX};
    return slot[op->kind];
}

/* ---- the definition, in double; `size` gets the sums of |terms| ---- */

static void visit(const dml_dnn_problem *p, double *sum, double *size, int64_t x, int64_t w,
                  int64_t y)
{
    const int slot = (int)dml_dnn_problem_result(&p->op);
    const int64_t at = slot == DML_CUDNN_X ? x : slot == DML_CUDNN_W ? w : y;
    double term = 1.0;
    if (slot != DML_CUDNN_X) term *= (double)p->host[DML_CUDNN_X][x];
    if (slot != DML_CUDNN_W) term *= (double)p->host[DML_CUDNN_W][w];
    if (slot != DML_CUDNN_Y) term *= (double)p->host[DML_CUDNN_Y][y];
    sum[at] += term;
    size[at] += fabs(term);
}

static void define(const dml_dnn_problem *p, double *sum, double *size)
{
    const dml_cudnn_op *op = &p->op;
    const dml_conv2d *v = &op->conv;
    const int64_t cg = op->c / v->groups, og = op->o / v->groups;
    for (int64_t y = 0; y < p->elems[DML_CUDNN_Y]; y++) {
        const int64_t o = y % op->o, col = y / op->o % op->q, row = y / op->o / op->q % op->p;
        const int64_t n = y / op->o / op->q / op->p;
        for (int64_t w = o * (p->elems[DML_CUDNN_W] / op->o);
             w < (o + 1) * (p->elems[DML_CUDNN_W] / op->o); w++) {
            const int64_t c = w % cg, l = w / cg % v->kernel[1],
                          k = w / cg / v->kernel[1] % v->kernel[0];
            const int64_t h = row * v->stride[0] - v->pad[0] + k * v->dilation[0];
            const int64_t i = col * v->stride[1] - v->pad[1] + l * v->dilation[1];
            if (h >= 0 && h < op->h && i >= 0 && i < op->w)
                visit(p, sum, size, ((n * op->h + h) * op->w + i) * op->c + o / og * cg + c, w, y);
        }
        if (!op->bias) continue;
        sum[y] += (double)p->host[DML_CUDNN_B][o];
        size[y] += fabs((double)p->host[DML_CUDNN_B][o]);
    }
}

/* Half a unit in the last place of 1. */
double dml_dnn_problem_rounding(const dml_cudnn_op *op)
{
    return op->dtype == DML_BF16 ? 0x1p-8 : op->dtype == DML_F16 ? 0x1p-11 : 0x1p-24;
}

void dml_dnn_problem_check(dml_dnn_problem *p)
{
    const dml_cudnn_slot slot = dml_dnn_problem_result(&p->op);
    const int64_t n = p->elems[slot];
    double *sum = calloc((size_t)n, sizeof *sum), *size = calloc((size_t)n, sizeof *size);
    define(p, sum, size);
    dml_dnn_problem_copy(p, slot, false);
    const double terms = (double)p->elems[DML_CUDNN_Y] * (double)p->elems[DML_CUDNN_W] / (double)n;
    char text[DML_CUDNN_TEXT];
    dml_cudnn_text(&p->op, text, sizeof text);
    for (int64_t i = 0; i < n; i++) {
        const double allowed = (8.0 + sqrt(terms)) * 0x1p-24 * size[i] +
                               1.01 * dml_dnn_problem_rounding(&p->op) * fabs(sum[i]);
        if (!(fabs((double)p->host[slot][i] - sum[i]) <= allowed + 0x1p-24))
            fail_msg("%s: element %lld is %.9g, not %.9g", text, (long long)i,
                     (double)p->host[slot][i], sum[i]);
    }
    free(sum);
    free(size);
}
