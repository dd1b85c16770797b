/* kernels/check.c - reads the shape words of check.h against the tensors of a call. */
#include "kernels/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One word of a shape list. */
typedef struct word {
    const char *name;
    int name_len;
    char type;
    char dim[DML_MAX_RANK]; /* a letter, a digit, or '*' alone */
    int32_t rank;
    bool optional;
} word;

static const char *read_word(const char *at, word *out)
{
    *out = (word){.name = at};
    while (*at != '=')
        at++;
    out->name_len = (int)(at - out->name);
    out->type = at[1];
    for (at += 3; at[-1] != ']'; at += 2) /* past "=f[", then "n," by "n," */
        out->dim[out->rank++] = *at;
    if (*at == '?') {
        out->optional = true;
        at++;
    }
    return at + (*at == ' ');
}

/* The element type a word asks for, given the one its tensor has. */
static dml_dtype type_wanted(const word *w, const dml_tensor *t, dml_dims *d)
{
    const bool half = t->dtype == DML_BF16 || t->dtype == DML_F16;
    switch (w->type) {
    case 'd': return DML_F64;
    case 'l': return DML_I64;
    case 'i': return DML_I32;
    case 'u': return DML_U32;
    case 'b': return DML_U8;
    case 'r': return half || t->dtype == DML_F32 ? t->dtype : DML_F32;
    case 's':
        if (!d->sample) d->sample = t;
        if (d->sample != t) return d->sample->dtype;
        return half || (d->real64 && t->dtype == DML_F64) ? t->dtype : DML_F32;
    default: return d->real64 && t->dtype == DML_F64 ? DML_F64 : DML_F32;
    }
}

static void print_shape(char *out, size_t bytes, dml_dtype dtype, int32_t rank, const int64_t dim[])
{
    int at = snprintf(out, bytes, "%s [", dml_dtype_name(dtype));
    for (int32_t i = 0; i < rank && at > 0 && (size_t)at < bytes; i++)
        at += snprintf(out + at, bytes - (size_t)at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (at > 0 && (size_t)at < bytes) snprintf(out + at, bytes - (size_t)at, "]");
}

static dml_err wrong(const char *kernel, const word *w, const dml_tensor *t, dml_dtype dtype,
                     int32_t rank, const int64_t want[])
{
    char is[128], should[128];
    print_shape(is, sizeof is, t->dtype, t->rank, t->dim);
    print_shape(should, sizeof should, dtype, rank, want);
    DML_FAIL(DML_ERR_BUG, "%s: %.*s is %s, not %s", kernel, w->name_len, w->name, is, should);
}

static dml_err check_tensor(const char *kernel, dml_dims *d, const word *w, const dml_tensor *t,
                            const dml_tensor **star)
{
    if (!t->data) DML_FAIL(DML_ERR_BUG, "%s: %.*s has no data", kernel, w->name_len, w->name);
    const dml_dtype dtype = type_wanted(w, t, d);
    if (w->dim[0] == '*') {
        if (!*star) *star = t;
        const dml_tensor *first = *star;
        const bool same = t->dtype == dtype && t->rank == first->rank &&
                          memcmp(t->dim, first->dim, sizeof t->dim) == 0;
        return same && dml_tensor_elems(t) >= 1
                   ? DML_ERR_OK
                   : wrong(kernel, w, t, dtype, first->rank, first->dim);
    }
    int64_t want[DML_MAX_RANK];
    bool same = t->dtype == dtype && t->rank == w->rank;
    for (int32_t i = 0; i < w->rank; i++) {
        const char c = w->dim[i];
        if (c >= '0' && c <= '9') {
            want[i] = c - '0';
        } else {
            int64_t *bound = &d->of[c - 'a'];
            if (*bound == 0 && same) *bound = t->dim[i];
            want[i] = *bound;
        }
        same = same && t->dim[i] == want[i] && t->dim[i] >= 1;
    }
    return same ? DML_ERR_OK : wrong(kernel, w, t, dtype, w->rank, want);
}

dml_err dml_check_shapes(const char *kernel, dml_dims *d, const char *shapes, ...)
{
    const dml_tensor *star = NULL;
    dml_err err = DML_ERR_OK;
    va_list ap;
    va_start(ap, shapes);
    while (*shapes && err == DML_ERR_OK) {
        word w;
        shapes = read_word(shapes, &w);
        const dml_tensor *t = va_arg(ap, const dml_tensor *);
        if (t)
            err = check_tensor(kernel, d, &w, t, &star);
        else if (!w.optional)
            err = dml_err_set(DML_ERR_BUG, __FILE__, __LINE__, "%s: %.*s is missing", kernel,
                              w.name_len, w.name);
    }
    va_end(ap);
    return err;
}

dml_err dml_check_linear(const char *kernel, dml_dims *d, dml_in y, dml_in x, dml_in w, dml_in b)
{
    return dml_check_shapes(kernel, d, "y=s[n,o] x=s[n,i]? w=s[o,i]? b=s[o]?", y, x, w, b);
}

dml_err dml_check_linear_grads(const char *kernel, dml_dims *d, dml_in dw, dml_in db, dml_in dy,
                               dml_in x)
{
    return dml_check_shapes(kernel, d, "dy=s[n,o] x=s[n,i] dw=f[o,i] db=f[o]?", dy, x, dw, db);
}

dml_err dml_check_aux(const char *kernel, dml_act act, dml_in y, dml_in aux)
{
    dml_dims d = {0};
    DML_DIM(d, 'n') = y->dim[0];
    DML_DIM(d, 'a') = dml_act_aux_bytes(act, y->dtype, y->dim[1]);
    return dml_check_shapes(kernel, &d, "aux=b[n,a]", aux);
}

/* Cells along one axis: (in + 2 pad - dilation (kernel - 1) - 1) / stride + 1; below 1: none. */
static int64_t cells(int64_t in, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation)
{
    const int64_t span = in + 2 * (int64_t)pad - (int64_t)dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

static dml_err bad_window(const char *kernel)
{
    DML_FAIL(DML_ERR_BUG, "%s: kernel, stride and dilation are >= 1, padding is >= 0", kernel);
}

/* Binds the dims of a convolution, x first; y, w and b are still to be checked against them. */
static dml_err bind_conv2d(const char *kernel, dml_dims *d, const dml_conv2d *p, dml_in x)
{
    for (int i = 0; i < 2; i++)
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->dilation[i] < 1 || p->pad[i] < 0)
            return bad_window(kernel);
    DML_TRY(dml_check_shapes(kernel, d, "x=s[n,h,w,c]", x));
    if (p->groups < 1 || DML_DIM(*d, 'c') % p->groups != 0)
        DML_FAIL(DML_ERR_BUG, "%s: %d groups do not divide %lld channels", kernel, p->groups,
                 (long long)DML_DIM(*d, 'c'));
    DML_DIM(*d, 'g') = DML_DIM(*d, 'c') / p->groups;
    DML_DIM(*d, 'k') = p->kernel[0];
    DML_DIM(*d, 'l') = p->kernel[1];
    DML_DIM(*d, 'p') =
        cells(DML_DIM(*d, 'h'), p->kernel[0], p->stride[0], p->pad[0], p->dilation[0]);
    DML_DIM(*d, 'q') =
        cells(DML_DIM(*d, 'w'), p->kernel[1], p->stride[1], p->pad[1], p->dilation[1]);
    if (DML_DIM(*d, 'p') < 1 || DML_DIM(*d, 'q') < 1)
        DML_FAIL(DML_ERR_BUG, "%s: the window is larger than the padded image", kernel);
    return DML_ERR_OK;
}

static dml_err check_groups(const char *kernel, const dml_dims *d, const dml_conv2d *p)
{
    if (DML_DIM(*d, 'o') % p->groups != 0)
        DML_FAIL(DML_ERR_BUG, "%s: %d groups do not divide %lld output channels", kernel, p->groups,
                 (long long)DML_DIM(*d, 'o'));
    return DML_ERR_OK;
}

dml_err dml_check_conv2d(const char *kernel, dml_dims *d, const dml_conv2d *p, dml_in y, dml_in x,
                         dml_in w, dml_in b)
{
    DML_TRY(bind_conv2d(kernel, d, p, x));
    DML_TRY(dml_check_shapes(kernel, d, "y=s[n,p,q,o] w=s[o,g,k,l] b=s[o]?", y, w, b));
    return check_groups(kernel, d, p);
}

dml_err dml_check_conv2d_grads(const char *kernel, dml_dims *d, const dml_conv2d *p, dml_in dw,
                               dml_in db, dml_in dy, dml_in x)
{
    DML_TRY(bind_conv2d(kernel, d, p, x));
    DML_TRY(dml_check_shapes(kernel, d, "dy=s[n,p,q,o] dw=f[o,g,k,l] db=f[o]?", dy, dw, db));
    return check_groups(kernel, d, p);
}

dml_err dml_check_pool2d(const char *kernel, dml_dims *d, const dml_pool2d *p, dml_in y, dml_in x,
                         dml_in which)
{
    for (int i = 0; i < 2; i++) {
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->pad[i] < 0) return bad_window(kernel);
        /* else a window could lie in the padding alone */
        if (2 * p->pad[i] > p->kernel[i])
            DML_FAIL(DML_ERR_BUG, "%s: padding %d is over half of the kernel, %d", kernel,
                     p->pad[i], p->kernel[i]);
    }
    DML_TRY(dml_check_shapes(kernel, d, "x=s[n,h,w,c]", x));
    DML_DIM(*d, 'p') = cells(DML_DIM(*d, 'h'), p->kernel[0], p->stride[0], p->pad[0], 1);
    DML_DIM(*d, 'q') = cells(DML_DIM(*d, 'w'), p->kernel[1], p->stride[1], p->pad[1], 1);
    if (DML_DIM(*d, 'p') < 1 || DML_DIM(*d, 'q') < 1)
        DML_FAIL(DML_ERR_BUG, "%s: the window is larger than the padded image", kernel);
    return dml_check_shapes(kernel, d, "y=s[n,p,q,c] which=i[n,p,q,c]?", y, which);
}

dml_err dml_check_norm(const char *kernel, dml_dims *d, dml_in y, dml_in x, dml_in dy, dml_in mean,
                       dml_in var, dml_in gamma, dml_in beta)
{
    DML_TRY(dml_check_shapes(kernel, d, "x=s[*] y=s[*] dy=s[*]?", x, y, dy));
    DML_DIM(*d, 'c') = x->dim[x->rank - 1];
    return dml_check_shapes(kernel, d, "mean=f[c] var=f[c] gamma=f[c] beta=f[c]?", mean, var, gamma,
                            beta);
}

dml_err dml_check_loss(const char *kernel, dml_dims *d, dml_in loss, dml_in correct, dml_in dx,
                       dml_in x, dml_in labels)
{
    return dml_check_shapes(kernel, d, "x=s[n,c] dx=s[n,c]? loss=d[1] correct=i[1] labels=i[n]", x,
                            dx, loss, correct, labels);
}

dml_err dml_check_same(const char *kernel, dml_dims *d, dml_in a, dml_in b, dml_in c)
{
    return dml_check_shapes(kernel, d, "y=s[*] x=s[*] z=s[*]?", a, b, c);
}

dml_err dml_check_accumulate(dml_in acc, dml_in g)
{
    dml_dims d = {0};
    return dml_check_shapes("accumulate", &d, "acc=f[*] g=f[*]", acc, g);
}

dml_err dml_check_convert(dml_in y, dml_in x)
{
    dml_dims d = {0};
    return dml_check_shapes("convert", &d, "y=r[*] x=r[*]", y, x);
}

dml_err dml_check_moments(dml_dims *d, const dml_moments *p, dml_in mean, dml_in var, dml_in slots)
{
    if (p->mbs < 1 || p->mb_rows < 1 || p->pixels < 1 || p->samples < 0)
        DML_FAIL(DML_ERR_BUG, "move_moments: %d micro-batches of %d samples of %lld values", p->mbs,
                 p->mb_rows, (long long)p->pixels);
    DML_DIM(*d, 'm') = p->mbs;
    return dml_check_shapes("move_moments", d, "mean=f[c] var=f[c] slots=f[m,2,c]", mean, var,
                            slots);
}

dml_err dml_check_exact(const char *kernel, dml_dims *d, dml_in acc, dml_in max_bits, dml_in g,
                        int32_t scale_log2)
{
    if (scale_log2 < -126 || scale_log2 > 126)
        DML_FAIL(DML_ERR_BUG, "%s: the scale is 2^%d, beyond 2^-126 .. 2^126", kernel, scale_log2);
    return dml_check_shapes(kernel, d, "acc=l[*] g=f[*] max_bits=u[1]?", acc, g, max_bits);
}

dml_err dml_check_wide(const char *kernel, dml_dims *d, dml_in hi, dml_in lo, dml_in max_bits,
                       dml_in g)
{
    return dml_check_shapes(kernel, d, "hi=l[*] lo=l[*] g=f[*] max_bits=u[1]?", hi, lo, g,
                            max_bits);
}

dml_err dml_check_layout(const char *kernel, dml_dims *d, dml_in nhwc, dml_in nchw)
{
    return dml_check_shapes(kernel, d, "nhwc=s[n,h,w,c] nchw=s[n,c,h,w]", nhwc, nchw);
}

dml_err dml_check_label(const char *kernel, int64_t row, int32_t label, int64_t classes)
{
    if (label < 0 || label >= classes)
        DML_FAIL(DML_ERR_BUG, "%s: the label of row %lld is %d, of %lld classes", kernel,
                 (long long)row, label, (long long)classes);
    return DML_ERR_OK;
}

dml_err dml_check_fill(dml_in y, float value)
{
    if (!y->data) DML_FAIL(DML_ERR_BUG, "fill: y has no data");
    if (y->dtype != DML_F32 && !(value == 0.0f))
        DML_FAIL(DML_ERR_BUG, "fill: %s is filled with 0 only, not %g", dml_dtype_name(y->dtype),
                 (double)value);
    return DML_ERR_OK;
}

dml_err dml_check_dropout(const dml_dropout *p)
{
    if (!(p->rate >= 0.0f && p->rate < 1.0f))
        DML_FAIL(DML_ERR_BUG, "dropout: the rate %g is not in [0, 1)", (double)p->rate);
    return DML_ERR_OK;
}
