/* kernels/ref/pool.c - maximum and average over windows. */
#include "kernels/check.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* The part of output cell (op, oq)'s window that lies in the image: [top, bottom) x [left, right). */
typedef struct window {
    int64_t top, bottom, left, right;
} window;

static window window_of(const dml_pool2d *p, int64_t op, int64_t oq, int64_t h, int64_t w)
{
    const int64_t top = op * p->stride[0] - p->pad[0], left = oq * p->stride[1] - p->pad[1];
    const int64_t bottom = top + p->kernel[0], right = left + p->kernel[1];
    return (window){.top = top < 0 ? 0 : top,
                    .bottom = bottom > h ? h : bottom,
                    .left = left < 0 ? 0 : left,
                    .right = right > w ? w : right};
}

dml_err dml_ref_max_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_out which, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_pool2d("max_pool_fwd", &d, p, y, x, which));
    for (int64_t e = 0; e < dml_tensor_elems(y); e++) {
        const int64_t c = e % y->dim[3], oq = e / y->dim[3] % y->dim[2];
        const int64_t op = e / y->dim[3] / y->dim[2] % y->dim[1], n = e / dml_tensor_row_elems(y);
        const window win = window_of(p, op, oq, x->dim[1], x->dim[2]);
        double best = -INFINITY;
        int64_t best_h = win.top, best_w = win.left;
        for (int64_t h = win.top; h < win.bottom; h++)
            for (int64_t w = win.left; w < win.right; w++) {
                const double v = dml_real_get(x, dml_real_at(x, n, h, w, c));
                if (v > best || isnan(v)) { /* a NaN must stay visible */
                    best = v;
                    best_h = h;
                    best_w = w;
                }
            }
        dml_real_put(y, e, best);
        ((int32_t *)which->data)[e] =
            (int32_t)((best_h - (op * p->stride[0] - p->pad[0])) * p->kernel[1] + best_w -
                      (oq * p->stride[1] - p->pad[1]));
    }
    return DML_ERR_OK;
}

/* The output rows (or columns) whose windows cover input row `i`: [first, last]. */
static int64_t first_over(const dml_pool2d *p, int axis, int64_t i)
{
    const int64_t beyond =
        i + p->pad[axis] - p->kernel[axis]; /* starts at or before this: ends before i */
    return beyond < 0 ? 0 : beyond / p->stride[axis] + 1;
}

static int64_t last_over(const dml_pool2d *p, int axis, int64_t i, int64_t out)
{
    const int64_t last = (i + p->pad[axis]) / p->stride[axis];
    return last < out ? last : out - 1;
}

dml_err dml_ref_max_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy, dml_in which)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_pool2d("max_pool_bwd", &d, p, dy, dx, which));
    for (int64_t e = 0; e < dml_tensor_elems(dx); e++) {
        const int64_t c = e % dx->dim[3], w = e / dx->dim[3] % dx->dim[2];
        const int64_t h = e / dx->dim[3] / dx->dim[2] % dx->dim[1];
        const int64_t n = e / dml_tensor_row_elems(dx);
        double sum = 0.0;
        for (int64_t op = first_over(p, 0, h); op <= last_over(p, 0, h, dy->dim[1]); op++)
            for (int64_t oq = first_over(p, 1, w); oq <= last_over(p, 1, w, dy->dim[2]); oq++) {
                const int64_t at = dml_real_at(dy, n, op, oq, c);
                const int64_t tap = (h - op * p->stride[0] + p->pad[0]) * p->kernel[1] + w -
                                    oq * p->stride[1] + p->pad[1];
                if (((const int32_t *)which->data)[at] == tap) sum += dml_real_get(dy, at);
            }
        dml_real_put(dx, e, sum);
    }
    return DML_ERR_OK;
}

static double divisor(const dml_pool2d *p, const window *win)
{
    return p->count_include_pad ? (double)(p->kernel[0] * p->kernel[1])
                                : (double)((win->bottom - win->top) * (win->right - win->left));
}

dml_err dml_ref_avg_pool_fwd(dml_kctx *k, const dml_pool2d *p, dml_out y, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_pool2d("avg_pool_fwd", &d, p, y, x, NULL));
    for (int64_t e = 0; e < dml_tensor_elems(y); e++) {
        const int64_t c = e % y->dim[3], oq = e / y->dim[3] % y->dim[2];
        const int64_t op = e / y->dim[3] / y->dim[2] % y->dim[1], n = e / dml_tensor_row_elems(y);
        const window win = window_of(p, op, oq, x->dim[1], x->dim[2]);
        double sum = 0.0;
        for (int64_t h = win.top; h < win.bottom; h++)
            for (int64_t w = win.left; w < win.right; w++)
                sum += dml_real_get(x, dml_real_at(x, n, h, w, c));
        dml_real_put(y, e, sum / divisor(p, &win));
    }
    return DML_ERR_OK;
}

dml_err dml_ref_avg_pool_bwd(dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_pool2d("avg_pool_bwd", &d, p, dy, dx, NULL));
    for (int64_t e = 0; e < dml_tensor_elems(dx); e++) {
        const int64_t c = e % dx->dim[3], w = e / dx->dim[3] % dx->dim[2];
        const int64_t h = e / dx->dim[3] / dx->dim[2] % dx->dim[1];
        const int64_t n = e / dml_tensor_row_elems(dx);
        double sum = 0.0;
        for (int64_t op = first_over(p, 0, h); op <= last_over(p, 0, h, dy->dim[1]); op++)
            for (int64_t oq = first_over(p, 1, w); oq <= last_over(p, 1, w, dy->dim[2]); oq++) {
                const window win = window_of(p, op, oq, dx->dim[1], dx->dim[2]);
                sum += dml_real_get(dy, dml_real_at(dy, n, op, oq, c)) / divisor(p, &win);
            }
        dml_real_put(dx, e, sum);
    }
    return DML_ERR_OK;
}
