/* kernels/ref/conv.c - convolution by its definition.
 *
 *   y[n,p,q,o] = b[o] + sum over c,k,l of  x[n, p s - pad + k dil, q s - pad + l dil, g(o) + c] w[o,c,k,l]
 *
 * where c runs over the channels of o's group and cells outside the image count as 0.  All three
 * entries visit the same (output, tap, input) triples; they differ in which of them they write.
 */
#include "kernels/check.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

/* The input row (or column) under tap `k` of output row `p`, or -1 outside [0, in). */
static int64_t under(const dml_conv2d *c, int axis, int64_t p, int64_t k, int64_t in)
{
    const int64_t i = p * c->stride[axis] - c->pad[axis] + k * c->dilation[axis];
    return i >= 0 && i < in ? i : -1;
}

dml_err dml_ref_conv2d_fwd(dml_kctx *k, const dml_conv2d *p, dml_out y, dml_in x, dml_in w,
                           dml_in b)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_conv2d("conv2d_fwd", &d, p, y, x, w, b));
    const int64_t out_per_group = y->dim[3] / p->groups;
    for (int64_t e = 0; e < dml_tensor_elems(y); e++) {
        const int64_t o = e % y->dim[3], oq = e / y->dim[3] % y->dim[2];
        const int64_t op = e / y->dim[3] / y->dim[2] % y->dim[1];
        const int64_t n = e / dml_tensor_row_elems(y), first = o / out_per_group * w->dim[1];
        double sum = b ? dml_real_get(b, o) : 0.0;
        for (int64_t kh = 0; kh < w->dim[2]; kh++)
            for (int64_t kw = 0; kw < w->dim[3]; kw++) {
                const int64_t h = under(p, 0, op, kh, x->dim[1]);
                const int64_t v = under(p, 1, oq, kw, x->dim[2]);
                for (int64_t c = 0; c < w->dim[1] && h >= 0 && v >= 0; c++)
                    sum += dml_real_get(x, dml_real_at(x, n, h, v, first + c)) *
                           dml_real_get(w, dml_real_at(w, o, c, kh, kw));
            }
        dml_real_put(y, e, sum);
    }
    return DML_ERR_OK;
}

/* The output row (or column) that reads input row `i` through tap `k`, or -1: solves `under`. */
static int64_t over(const dml_conv2d *c, int axis, int64_t i, int64_t k, int64_t out)
{
    const int64_t p = i + c->pad[axis] - k * c->dilation[axis];
    return p >= 0 && p % c->stride[axis] == 0 && p / c->stride[axis] < out ? p / c->stride[axis]
                                                                           : -1;
}

dml_err dml_ref_conv2d_bwd_input(dml_kctx *k, const dml_conv2d *p, dml_out dx, dml_in dy, dml_in w)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_conv2d("conv2d_bwd_input", &d, p, dy, dx, w, NULL));
    const int64_t out_per_group = dy->dim[3] / p->groups;
    for (int64_t e = 0; e < dml_tensor_elems(dx); e++) {
        const int64_t c = e % dx->dim[3], v = e / dx->dim[3] % dx->dim[2];
        const int64_t h = e / dx->dim[3] / dx->dim[2] % dx->dim[1];
        const int64_t n = e / dml_tensor_row_elems(dx), group = c / w->dim[1];
        double sum = 0.0;
        for (int64_t kh = 0; kh < w->dim[2]; kh++)
            for (int64_t kw = 0; kw < w->dim[3]; kw++) {
                const int64_t op = over(p, 0, h, kh, dy->dim[1]);
                const int64_t oq = over(p, 1, v, kw, dy->dim[2]);
                for (int64_t i = 0; i < out_per_group && op >= 0 && oq >= 0; i++) {
                    const int64_t o = group * out_per_group + i;
                    sum += dml_real_get(dy, dml_real_at(dy, n, op, oq, o)) *
                           dml_real_get(w, dml_real_at(w, o, c % w->dim[1], kh, kw));
                }
            }
        dml_real_put(dx, e, sum);
    }
    return DML_ERR_OK;
}

dml_err dml_ref_conv2d_bwd_weight(dml_kctx *k, const dml_conv2d *p, dml_out dw, dml_out db,
                                  dml_in dy, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_conv2d_grads("conv2d_bwd_weight", &d, p, dw, db, dy, x));
    const int64_t out_per_group = dy->dim[3] / p->groups;
    for (int64_t e = 0; e < dml_tensor_elems(dw); e++) {
        const int64_t kw = e % dw->dim[3], kh = e / dw->dim[3] % dw->dim[2];
        const int64_t c = e / dw->dim[3] / dw->dim[2] % dw->dim[1];
        const int64_t o = e / dml_tensor_row_elems(dw),
                      channel = o / out_per_group * dw->dim[1] + c;
        double sum = 0.0;
        for (int64_t n = 0; n < x->dim[0]; n++)
            for (int64_t op = 0; op < dy->dim[1]; op++)
                for (int64_t oq = 0; oq < dy->dim[2]; oq++) {
                    const int64_t h = under(p, 0, op, kh, x->dim[1]);
                    const int64_t v = under(p, 1, oq, kw, x->dim[2]);
                    if (h >= 0 && v >= 0)
                        sum += dml_real_get(dy, dml_real_at(dy, n, op, oq, o)) *
                               dml_real_get(x, dml_real_at(x, n, h, v, channel));
                }
        dml_real_put(dw, e, sum);
    }
    for (int64_t o = 0; db && o < dy->dim[3]; o++) {
        double sum = 0.0;
        for (int64_t e = o; e < dml_tensor_elems(dy); e += dy->dim[3])
            sum += dml_real_get(dy, e);
        dml_real_put(db, o, sum);
    }
    return DML_ERR_OK;
}
