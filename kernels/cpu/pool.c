/* kernels/cpu/pool.c - maximum and average over windows.
 *
 * A pixel of NHWC is a vector of channels, so every loop ends in one over channels.  Samples (forward:
 * rows of a sample) are independent and go to threads; within one, windows are visited in order.
 */
#include "kernels/check.h"
#include "kernels/cpu/par.h"
#include "kernels/cpu/wide.h"

#include <math.h>
#include <string.h>

typedef struct pooling {
    const dml_pool2d *p;
    int64_t h, w, c, oh, ow;
    const float *in; /* x forward, dy backward */
    float *out;      /* y forward, dx backward */
    int32_t *which;
} pooling;

/* The part of a window that lies in the image, and where its tap 0 is. */
typedef struct window {
    int64_t top, left, h0, h1, w0, w1;
} window;

static window window_of(const pooling *f, int64_t op, int64_t oq)
{
    const dml_pool2d *p = f->p;
    window v = {.top = op * p->stride[0] - p->pad[0], .left = oq * p->stride[1] - p->pad[1]};
    v.h0 = v.top < 0 ? 0 : v.top;
    v.w0 = v.left < 0 ? 0 : v.left;
    v.h1 = v.top + p->kernel[0] < f->h ? v.top + p->kernel[0] : f->h;
    v.w1 = v.left + p->kernel[1] < f->w ? v.left + p->kernel[1] : f->w;
    return v;
}

static int32_t tap_of(const pooling *f, const window *v, int64_t h, int64_t w)
{
    return (int32_t)((h - v->top) * f->p->kernel[1] + w - v->left);
}

/* The larger of best and x stays, with the tap it came from; a NaN must stay visible. */
static inline void take_max(float *restrict best, int32_t *restrict which, const float *restrict x,
                            int32_t tap, int64_t c)
{
#pragma omp simd
    for (int64_t j = 0; j < c; j++) {
        const bool taken = x[j] > best[j] || x[j] != x[j];
        best[j] = taken ? x[j] : best[j];
        which[j] = taken ? tap : which[j];
    }
}

static void max_forward_row(void *arg, int64_t item, int32_t thread)
{
    (void)thread;
    const pooling *f = arg;
    const int64_t n = item / f->oh, op = item % f->oh;
    for (int64_t oq = 0; oq < f->ow; oq++) {
        const window v = window_of(f, op, oq);
        float *best = f->out + (item * f->ow + oq) * f->c;
        int32_t *which = f->which + (item * f->ow + oq) * f->c;
        for (int64_t j = 0; j < f->c; j++) {
            best[j] = -INFINITY;
            which[j] = tap_of(f, &v, v.h0, v.w0);
        }
        for (int64_t h = v.h0; h < v.h1; h++)
            for (int64_t w = v.w0; w < v.w1; w++)
                take_max(best, which, f->in + ((n * f->h + h) * f->w + w) * f->c,
                         tap_of(f, &v, h, w), f->c);
    }
}

static void max_backward_sample(void *arg, int64_t n, int32_t thread)
{
    (void)thread;
    const pooling *f = arg;
    float *image = f->out + n * f->h * f->w * f->c;
    memset(image, 0, (size_t)(f->h * f->w * f->c) * sizeof(float));
    for (int64_t op = 0; op < f->oh; op++)
        for (int64_t oq = 0; oq < f->ow; oq++) {
            const window v = window_of(f, op, oq);
            const int64_t at = ((n * f->oh + op) * f->ow + oq) * f->c;
            const float *restrict dy = f->in + at;
            const int32_t *restrict which = f->which + at;
            for (int64_t h = v.h0; h < v.h1; h++)
                for (int64_t w = v.w0; w < v.w1; w++) {
                    const int32_t tap = tap_of(f, &v, h, w);
                    float *restrict dx = image + (h * f->w + w) * f->c;
#pragma omp simd
                    for (int64_t j = 0; j < f->c; j++)
                        dx[j] += which[j] == tap ? dy[j] : 0.0f;
                }
        }
}

static float weight_of(const pooling *f, const window *v)
{
    return f->p->count_include_pad ? 1.0f / (float)(f->p->kernel[0] * f->p->kernel[1])
                                   : 1.0f / (float)((v->h1 - v->h0) * (v->w1 - v->w0));
}

static void avg_forward_row(void *arg, int64_t item, int32_t thread)
{
    (void)thread;
    const pooling *f = arg;
    const int64_t n = item / f->oh, op = item % f->oh;
    for (int64_t oq = 0; oq < f->ow; oq++) {
        const window v = window_of(f, op, oq);
        const float weight = weight_of(f, &v);
        float *restrict y = f->out + (item * f->ow + oq) * f->c;
        memset(y, 0, (size_t)f->c * sizeof(float));
        for (int64_t h = v.h0; h < v.h1; h++)
            for (int64_t w = v.w0; w < v.w1; w++) {
                const float *restrict x = f->in + ((n * f->h + h) * f->w + w) * f->c;
#pragma omp simd
                for (int64_t j = 0; j < f->c; j++)
                    y[j] += x[j];
            }
#pragma omp simd
        for (int64_t j = 0; j < f->c; j++)
            y[j] *= weight;
    }
}

static void avg_backward_sample(void *arg, int64_t n, int32_t thread)
{
    (void)thread;
    const pooling *f = arg;
    float *image = f->out + n * f->h * f->w * f->c;
    memset(image, 0, (size_t)(f->h * f->w * f->c) * sizeof(float));
    for (int64_t op = 0; op < f->oh; op++)
        for (int64_t oq = 0; oq < f->ow; oq++) {
            const window v = window_of(f, op, oq);
            const float weight = weight_of(f, &v);
            const float *restrict dy = f->in + ((n * f->oh + op) * f->ow + oq) * f->c;
            for (int64_t h = v.h0; h < v.h1; h++)
                for (int64_t w = v.w0; w < v.w1; w++) {
                    float *restrict dx = image + (h * f->w + w) * f->c;
#pragma omp simd
                    for (int64_t j = 0; j < f->c; j++)
                        dx[j] += dy[j] * weight;
                }
        }
}

static dml_err pool(dml_kctx *k, const char *kernel, const dml_pool2d *p, dml_in y, dml_in x,
                    dml_in which, bool backward, dml_par_item item)
{
    dml_dims d = {0};
    DML_TRY(dml_check_pool2d(kernel, &d, p, y, x, which));
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){backward ? x : y, backward ? y : x}, 2));
    pooling f = {.p = p,
                 .h = DML_DIM(d, 'h'),
                 .w = DML_DIM(d, 'w'),
                 .c = DML_DIM(d, 'c'),
                 .oh = DML_DIM(d, 'p'),
                 .ow = DML_DIM(d, 'q'),
                 .in = v.t[1].data,
                 .out = v.t[0].data,
                 .which = which ? which->data : NULL};
    dml_par_items(k->threads, DML_DIM(d, 'n') * (backward ? 1 : f.oh), item, &f);
    return dml_cpu_narrow(&v);
}

dml_err dml_cpu_max_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_out which, dml_in x)
{
    return pool(k, "max_pool_fwd", p, y, x, which, false, max_forward_row);
}

dml_err dml_cpu_max_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy, dml_in which)
{
    return pool(k, "max_pool_bwd", p, dy, dx, which, true, max_backward_sample);
}

dml_err dml_cpu_avg_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_in x)
{
    return pool(k, "avg_pool_fwd", p, y, x, NULL, false, avg_forward_row);
}

dml_err dml_cpu_avg_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy)
{
    return pool(k, "avg_pool_bwd", p, dy, dx, NULL, true, avg_backward_sample);
}
