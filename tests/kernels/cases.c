/* tests/kernels/cases.c - for each entry of the kernel list: shapes, data, tolerance, call.
 *
 * Shapes are small and odd, with one dim now and then past the borders at which the backends cut their
 * work (64 samples or rows, 256 elements of a mask, 4096 of a norm).  A kernel added to the list does
 * not compile here until it has a case.
 */
#include "tests/kernels/problem.h"

#include <math.h>
#include <string.h>

#define DIMS(...)   \
    (int64_t[])     \
    {               \
        __VA_ARGS__ \
    }
#define RANK(dims) ((int32_t)(sizeof(dims) / sizeof(int64_t)))
#define SHAPE(...) RANK(((int64_t[]){__VA_ARGS__})), DIMS(__VA_ARGS__)

/* Argument i of the call, NULL where it is absent. */
#define T(i) (p->arg[i].absent ? NULL : &tensor[i])
#define CALL(entry, ...)                                                                          \
    static dml_err call_##entry(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p, \
                                const dml_tensor tensor[])                                        \
    {                                                                                             \
        return table->entry(k, __VA_ARGS__);                                                      \
    }

static dml_problem_arg *in(dml_problem *p, const char *name, int32_t rank, const int64_t dim[])
{
    return dml_problem_in(p, name, DML_F32, rank, dim);
}

static dml_problem_arg *out(dml_problem *p, const char *name, int32_t rank, const int64_t dim[],
                            dml_problem_scale scale, double tolerance)
{
    return dml_problem_out(p, name, DML_F32, rank, dim, scale, tolerance);
}

static bool coin(dml_problem *p)
{
    return dml_problem_between(p, 0, 1) == 1;
}

/* Samples: often few, now and then more than any block. */
static int64_t samples(dml_problem *p)
{
    static const int64_t n[] = {1, 2, 3, 4, 5, 7, 8, 13, 17, 64, 67, 70};
    return n[dml_problem_between(p, 0, 11)];
}

/* A sum of `terms` in some order: sqrt(terms) roundings, and some. */
static double sum_of(int64_t terms)
{
    return 8.0 + sqrt((double)terms);
}

/* --- linear ------------------------------------------------------------------------------------ */

typedef struct linear {
    int64_t n, i, o;
    bool bias;
} linear;

static linear draw_linear(dml_problem *p)
{
    linear s = {.n = samples(p)};
    s.i = dml_problem_between(p, 1, 40);
    s.o = dml_problem_between(p, 1, 30);
    if (coin(p)) s.o += 60; /* past a panel of the weight gradient */
    s.bias = coin(p);
    return s;
}

CALL(linear_fwd, T(0), T(1), T(2), T(3))
static void case_linear_fwd(dml_problem *p)
{
    const linear s = draw_linear(p);
    out(p, "y", SHAPE(s.n, s.o), DML_BY_TERMS, sum_of(s.i));
    in(p, "x", SHAPE(s.n, s.i));
    in(p, "w", SHAPE(s.o, s.i));
    in(p, "b", SHAPE(s.o))->absent = !s.bias;
    p->call = call_linear_fwd;
}

CALL(linear_bwd_input, T(0), T(1), T(2))
static void case_linear_bwd_input(dml_problem *p)
{
    const linear s = draw_linear(p);
    out(p, "dx", SHAPE(s.n, s.i), DML_BY_TERMS, sum_of(s.o));
    in(p, "dy", SHAPE(s.n, s.o));
    in(p, "w", SHAPE(s.o, s.i));
    p->call = call_linear_bwd_input;
}

CALL(linear_bwd_weight, T(0), T(1), T(2), T(3))
static void case_linear_bwd_weight(dml_problem *p)
{
    const linear s = draw_linear(p);
    out(p, "dw", SHAPE(s.o, s.i), DML_BY_TERMS, sum_of(s.n));
    out(p, "db", SHAPE(s.o), DML_BY_TERMS, sum_of(s.n))->absent = !s.bias;
    in(p, "dy", SHAPE(s.n, s.o));
    in(p, "x", SHAPE(s.n, s.i));
    p->call = call_linear_bwd_weight;
}

/* --- convolution ------------------------------------------------------------------------------- */

typedef struct conv {
    int64_t n, h, w, c, oh, ow, o;
    bool bias;
} conv;

static int64_t cells(int64_t size, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation)
{
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

static conv draw_conv(dml_problem *p)
{
    static const int32_t kernels[] = {1, 2, 3, 3, 3, 5};
    conv s = {.n = samples(p)};
    dml_conv2d *c = &p->conv;
    c->groups = (int32_t)dml_problem_between(p, 1, 3);
    if (c->groups == 3) c->groups = 1;
    for (int i = 0; i < 2; i++) {
        c->kernel[i] = kernels[dml_problem_between(p, 0, 5)];
        c->stride[i] = (int32_t)dml_problem_between(p, 1, 2);
        c->dilation[i] = (int32_t)dml_problem_between(p, 1, 2);
        c->pad[i] = (int32_t)dml_problem_between(p, 0, c->kernel[i] / 2);
    }
    const int64_t small = s.n > 16 ? 2 : 5; /* the reference is slow */
    s.h = c->dilation[0] * (c->kernel[0] - 1) + dml_problem_between(p, 1, small);
    s.w = c->dilation[1] * (c->kernel[1] - 1) + dml_problem_between(p, 1, small);
    s.c = c->groups * dml_problem_between(p, 1, s.n > 16 ? 4 : 9);
    s.o = c->groups * dml_problem_between(p, 1, s.n > 16 ? 4 : 9);
    if (s.n < 4 && coin(p)) s.c = s.o = c->groups * 16; /* the channels fast code is made for */
    s.oh = cells(s.h, c->kernel[0], c->stride[0], c->pad[0], c->dilation[0]);
    s.ow = cells(s.w, c->kernel[1], c->stride[1], c->pad[1], c->dilation[1]);
    s.bias = coin(p);
    return s;
}

#define CONV_Y s.n, s.oh, s.ow, s.o
#define CONV_X s.n, s.h, s.w, s.c
#define CONV_W s.o, s.c / p->conv.groups, p->conv.kernel[0], p->conv.kernel[1]

CALL(conv2d_fwd, &p->conv, T(0), T(1), T(2), T(3))
static void case_conv2d_fwd(dml_problem *p)
{
    const conv s = draw_conv(p);
    out(p, "y", SHAPE(CONV_Y), DML_BY_TERMS, sum_of(s.c * p->conv.kernel[0] * p->conv.kernel[1]));
    in(p, "x", SHAPE(CONV_X));
    in(p, "w", SHAPE(CONV_W));
    in(p, "b", SHAPE(s.o))->absent = !s.bias;
    p->call = call_conv2d_fwd;
}

CALL(conv2d_bwd_input, &p->conv, T(0), T(1), T(2))
static void case_conv2d_bwd_input(dml_problem *p)
{
    const conv s = draw_conv(p);
    out(p, "dx", SHAPE(CONV_X), DML_BY_TERMS, sum_of(s.o * p->conv.kernel[0] * p->conv.kernel[1]));
    in(p, "dy", SHAPE(CONV_Y));
    in(p, "w", SHAPE(CONV_W));
    p->call = call_conv2d_bwd_input;
}

CALL(conv2d_bwd_weight, &p->conv, T(0), T(1), T(2), T(3))
static void case_conv2d_bwd_weight(dml_problem *p)
{
    const conv s = draw_conv(p);
    out(p, "dw", SHAPE(CONV_W), DML_BY_TERMS, sum_of(s.n * s.oh * s.ow));
    out(p, "db", SHAPE(s.o), DML_BY_TERMS, sum_of(s.n * s.oh * s.ow))->absent = !s.bias;
    in(p, "dy", SHAPE(CONV_Y));
    in(p, "x", SHAPE(CONV_X));
    p->call = call_conv2d_bwd_weight;
}

/* --- pooling ----------------------------------------------------------------------------------- */

static conv draw_pool(dml_problem *p)
{
    conv s = {.n = dml_problem_between(p, 1, 5)};
    dml_pool2d *c = &p->pool;
    c->count_include_pad = coin(p);
    for (int i = 0; i < 2; i++) {
        c->kernel[i] = (int32_t)dml_problem_between(p, 1, 3);
        c->stride[i] = (int32_t)dml_problem_between(p, 1, 3);
        c->pad[i] = (int32_t)dml_problem_between(p, 0, c->kernel[i] / 2);
    }
    s.h = c->kernel[0] + dml_problem_between(p, 0, 6);
    s.w = c->kernel[1] + dml_problem_between(p, 0, 6);
    s.c = dml_problem_between(p, 1, 37);
    s.oh = cells(s.h, c->kernel[0], c->stride[0], c->pad[0], 1);
    s.ow = cells(s.w, c->kernel[1], c->stride[1], c->pad[1], 1);
    return s;
}

#define POOL_Y s.n, s.oh, s.ow, s.c
#define POOL_X s.n, s.h, s.w, s.c

CALL(max_pool_fwd, &p->pool, T(0), T(1), T(2))
static void case_max_pool_fwd(dml_problem *p)
{
    const conv s = draw_pool(p);
    out(p, "y", SHAPE(POOL_Y), DML_BITWISE, 0);
    dml_problem_out(p, "which", DML_I32, SHAPE(POOL_Y), DML_BITWISE, 0);
    float *x = in(p, "x", SHAPE(POOL_X))->host.data;
    if (p->key % 2) /* many equal values: the first must win */
        for (int64_t i = 0; i < s.n * s.h * s.w * s.c; i++)
            x[i] = roundf(2.0f * x[i]);
    x[p->key % (uint64_t)(s.n * s.h * s.w * s.c)] = NAN; /* a diverged run must show it */
    p->call = call_max_pool_fwd;
}

CALL(max_pool_bwd, &p->pool, T(0), T(1), T(2))
static void case_max_pool_bwd(dml_problem *p)
{
    const conv s = draw_pool(p);
    out(p, "dx", SHAPE(POOL_X), DML_BY_TERMS, 8);
    in(p, "dy", SHAPE(POOL_Y));
    int32_t *which = dml_problem_in(p, "which", DML_I32, SHAPE(POOL_Y))->host.data;
    /* A cell of the image that the window covers: the one nearest to its middle. */
    for (int64_t i = 0; i < s.n * s.oh * s.ow * s.c; i++) {
        const int64_t q = i / s.c % s.ow, r = i / s.c / s.ow % s.oh;
        const int64_t top = r * p->pool.stride[0] - p->pool.pad[0];
        const int64_t left = q * p->pool.stride[1] - p->pool.pad[1];
        const int64_t h = top + p->pool.kernel[0] / 2, w = left + p->pool.kernel[1] / 2;
        which[i] = (int32_t)(((h < s.h ? h : s.h - 1) - top) * p->pool.kernel[1] +
                             (w < s.w ? w : s.w - 1) - left);
    }
    p->call = call_max_pool_bwd;
}

CALL(avg_pool_fwd, &p->pool, T(0), T(1))
static void case_avg_pool_fwd(dml_problem *p)
{
    const conv s = draw_pool(p);
    out(p, "y", SHAPE(POOL_Y), DML_BY_TERMS, 8);
    in(p, "x", SHAPE(POOL_X));
    p->call = call_avg_pool_fwd;
}

CALL(avg_pool_bwd, &p->pool, T(0), T(1))
static void case_avg_pool_bwd(dml_problem *p)
{
    const conv s = draw_pool(p);
    out(p, "dx", SHAPE(POOL_X), DML_BY_TERMS, 8);
    in(p, "dy", SHAPE(POOL_Y));
    p->call = call_avg_pool_bwd;
}

/* --- batch norm: rows of c channels, as rank 2 or 4 ---------------------------------------------- */

typedef struct norm {
    int32_t rank;
    int64_t dim[4], rows, c;
} norm;

static norm draw_norm(dml_problem *p)
{
    norm s = {.rank = coin(p) ? 4 : 2, .c = dml_problem_between(p, 1, 70)};
    s.rows = dml_problem_between(p, 6, 40);
    if (s.c < 20 && coin(p)) s.rows += 300; /* past a block */
    if (s.rank == 2 && dml_problem_between(p, 0, 7) == 0) s.rows = 1;
    const int64_t dim[] = {s.rows, 2, 1, s.c};
    memcpy(s.dim, dim, sizeof dim);
    if (s.rank == 4) s.rows *= 2;
    if (s.rank == 2) s.dim[1] = s.c;
    p->value = 1e-5f;
    return s;
}

/* Channel values around a mean that is large beside their spread. */
static dml_problem_arg *norm_input(dml_problem *p, const norm *s)
{
    dml_problem_arg *a = in(p, "x", s->rank, s->dim);
    dml_problem_spread(a, 1.0, (double)dml_problem_between(p, -20, 20));
    return a;
}

CALL(batch_norm_fwd, p->value, T(0), T(1), T(2), T(3), T(4), T(5))
static void case_batch_norm_fwd(dml_problem *p)
{
    const norm s = draw_norm(p);
    out(p, "y", s.rank, s.dim, DML_BY_UNIT, 400);
    out(p, "mean", SHAPE(s.c), DML_BY_UNIT, 8);
    out(p, "var", SHAPE(s.c), DML_BY_UNIT, 16);
    norm_input(p, &s);
    in(p, "gamma", SHAPE(s.c));
    in(p, "beta", SHAPE(s.c));
    p->call = call_batch_norm_fwd;
}

CALL(batch_norm_eval, p->value, T(0), T(1), T(2), T(3), T(4), T(5))
static void case_batch_norm_eval(dml_problem *p)
{
    const norm s = draw_norm(p);
    out(p, "y", s.rank, s.dim, DML_BY_UNIT, 16);
    in(p, "x", s.rank, s.dim);
    in(p, "mean", SHAPE(s.c));
    dml_problem_spread(in(p, "var", SHAPE(s.c)), 0.5, 1.0);
    in(p, "gamma", SHAPE(s.c));
    in(p, "beta", SHAPE(s.c));
    p->call = call_batch_norm_eval;
}

CALL(batch_norm_bwd, p->value, T(0), T(1), T(2), T(3), T(4), T(5), T(6), T(7))
static void case_batch_norm_bwd(dml_problem *p)
{
    const norm s = draw_norm(p);
    out(p, "dx", s.rank, s.dim, DML_BY_UNIT, 64);
    out(p, "dgamma", SHAPE(s.c), DML_BY_UNIT, 16.0 * sum_of(s.rows));
    out(p, "dbeta", SHAPE(s.c), DML_BY_UNIT, 4.0 * sum_of(s.rows));
    in(p, "dy", s.rank, s.dim);
    in(p, "x", s.rank, s.dim);
    dml_problem_spread(in(p, "mean", SHAPE(s.c)), 0.1, 0.0);
    dml_problem_spread(in(p, "var", SHAPE(s.c)), 0.3, 0.8);
    in(p, "gamma", SHAPE(s.c));
    p->call = call_batch_norm_bwd;
}

/* --- element-wise ------------------------------------------------------------------------------ */

static norm draw_map(dml_problem *p)
{
    norm s = {.rank = 2};
    s.dim[0] = dml_problem_between(p, 1, 20);
    s.dim[1] = dml_problem_between(p, 1, 150);
    return s;
}

static void make_forward(dml_problem *p, dml_problem_call call, double spread,
                         dml_problem_scale scale, double tolerance)
{
    const norm s = draw_map(p);
    out(p, "y", s.rank, s.dim, scale, tolerance)->same_as = 1;
    dml_problem_spread(in(p, "x", s.rank, s.dim), spread, 0.0);
    p->call = call;
}

static void make_backward(dml_problem *p, dml_problem_call call, const char *second, double spread,
                          dml_problem_scale scale, double tolerance)
{
    const norm s = draw_map(p);
    out(p, "dx", s.rank, s.dim, scale, tolerance)->same_as = 1;
    in(p, "dy", s.rank, s.dim);
    dml_problem_spread(in(p, second, s.rank, s.dim), spread, 0.0);
    p->call = call;
}

CALL(relu_fwd, T(0), T(1))
static void case_relu_fwd(dml_problem *p)
{
    make_forward(p, call_relu_fwd, 1.0, DML_BITWISE, 0);
    ((float *)p->arg[1].host.data)[0] = NAN; /* must stay visible, as in max_pool */
}

CALL(relu_bwd, T(0), T(1), T(2))
static void case_relu_bwd(dml_problem *p)
{
    make_backward(p, call_relu_bwd, "y", 1.0, DML_BITWISE, 0);
}

CALL(gelu_fwd, T(0), T(1))
static void case_gelu_fwd(dml_problem *p)
{
    make_forward(p, call_gelu_fwd, 6.0, DML_BY_TERMS, 8);
}

CALL(gelu_bwd, T(0), T(1), T(2))
static void case_gelu_bwd(dml_problem *p)
{
    make_backward(p, call_gelu_bwd, "x", 6.0, DML_BY_TERMS, 8);
}

CALL(tanh_fwd, T(0), T(1))
static void case_tanh_fwd(dml_problem *p)
{
    make_forward(p, call_tanh_fwd, p->key % 2 ? 10.0 : 1.0, DML_BY_ELEMENT, 8);
}

CALL(tanh_bwd, T(0), T(1), T(2))
static void case_tanh_bwd(dml_problem *p)
{
    make_backward(p, call_tanh_bwd, "y", 0.9, DML_BY_ELEMENT, 32);
}

CALL(dropout, &p->drop, T(0), T(1))
static void case_dropout(dml_problem *p)
{
    static const float rates[] = {0.0f, 0.1f, 0.5f, 0.875f};
    const norm s = {.rank = 2,
                    .dim = {dml_problem_between(p, 1, 20), dml_problem_between(p, 1, 700)}};
    p->drop = (dml_dropout){.rate = rates[dml_problem_between(p, 0, 3)],
                            .key = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p),
                            .step = dml_problem_between(p, 0, 1 << 20) << 20,
                            .first_sample = dml_problem_between(p, 0, 1 << 20)};
    out(p, "y", s.rank, s.dim, DML_BITWISE, 0)->same_as = 1;
    in(p, "x", s.rank, s.dim);
    p->call = call_dropout;
}

CALL(add, T(0), T(1), T(2))
static void case_add(dml_problem *p)
{
    const norm s = draw_map(p);
    out(p, "y", s.rank, s.dim, DML_BITWISE, 0)->same_as = 1;
    in(p, "a", s.rank, s.dim);
    in(p, "b", s.rank, s.dim);
    p->call = call_add;
}

static void make_layout(dml_problem *p, dml_problem_call call, bool to_nchw)
{
    const int64_t n = dml_problem_between(p, 1, 4), h = dml_problem_between(p, 1, 9);
    const int64_t w = dml_problem_between(p, 1, 9), c = dml_problem_between(p, 1, 40);
    const int64_t nhwc[] = {n, h, w, c}, nchw[] = {n, c, h, w};
    out(p, "y", 4, to_nchw ? nchw : nhwc, DML_BITWISE, 0);
    in(p, "x", 4, to_nchw ? nhwc : nchw);
    p->call = call;
}

CALL(nhwc_to_nchw, T(0), T(1))
static void case_nhwc_to_nchw(dml_problem *p)
{
    make_layout(p, call_nhwc_to_nchw, true);
}

CALL(nchw_to_nhwc, T(0), T(1))
static void case_nchw_to_nhwc(dml_problem *p)
{
    make_layout(p, call_nchw_to_nhwc, false);
}

CALL(fill, T(0), p->value)
static void case_fill(dml_problem *p)
{
    static const dml_dtype types[] = {DML_F32, DML_I64, DML_I32, DML_U32, DML_U8};
    const norm s = draw_map(p);
    const dml_dtype type = types[dml_problem_between(p, 0, 4)];
    p->value = type == DML_F32 ? 1.5f : 0.0f;
    dml_problem_out(p, "y", type, s.rank, s.dim, DML_BITWISE, 0);
    p->call = call_fill;
}

/* --- losses ------------------------------------------------------------------------------------ */

/* Rows of up to 90 classes; dx may be x, or be absent. */
static void make_loss(dml_problem *p, dml_problem_call call)
{
    const int64_t n = samples(p), c = dml_problem_between(p, 2, coin(p) ? 90 : 10);
    dml_problem_out(p, "loss", DML_F64, SHAPE(1), DML_BY_UNIT, 16.0 * (double)n);
    dml_problem_out(p, "correct", DML_I32, SHAPE(1), DML_BITWISE, 0);
    dml_problem_arg *dx = out(p, "dx", SHAPE(n, c), DML_BY_UNIT, 8);
    dx->same_as = 3;
    dx->absent = dml_problem_between(p, 0, 3) == 0;
    dml_problem_arg *x = in(p, "x", SHAPE(n, c));
    dml_problem_spread(x, 5.0, 0.0);
    for (int64_t i = 0; i < n * c && p->key % 2; i++) /* equal scores: the first maximum counts */
        ((float *)x->host.data)[i] = roundf(((float *)x->host.data)[i]);
    int32_t *label = dml_problem_in(p, "labels", DML_I32, SHAPE(n))->host.data;
    for (int64_t i = 0; i < n; i++)
        label[i] = (int32_t)dml_problem_between(p, 0, c - 1);
    p->call = call;
}

CALL(softmax_xent, T(0), T(1), T(2), T(3), T(4))
static void case_softmax_xent(dml_problem *p)
{
    make_loss(p, call_softmax_xent);
}

CALL(mse_onehot, T(0), T(1), T(2), T(3), T(4))
static void case_mse_onehot(dml_problem *p)
{
    make_loss(p, call_mse_onehot);
    p->arg[0].tolerance *= 10.0; /* sums of squares up to 36 */
}

/* --- sums over micro-batches --------------------------------------------------------------------- */

static int64_t many(dml_problem *p)
{
    return dml_problem_between(p, 1, coin(p) ? 100 : 9000);
}

CALL(accumulate, T(0), T(1), p->first)
static void case_accumulate(dml_problem *p)
{
    const int64_t n = many(p);
    p->first = coin(p);
    in(p, "acc", SHAPE(n))->use = DML_INOUT;
    in(p, "g", SHAPE(n));
    p->call = call_accumulate;
}

#define LO_MASK ((INT64_C(1) << 56) - 1)

/* Gradients over 60 binary orders, subnormals and zeros among them; sums may wrap. */
CALL(accumulate_exact, T(0), T(1), T(2), p->scale_log2, p->first)
static void case_accumulate_exact(dml_problem *p)
{
    const int64_t n = many(p);
    p->first = coin(p);
    p->scale_log2 = (int32_t)dml_problem_between(p, -20, 61);
    dml_problem_arg *acc = dml_problem_in(p, "acc", DML_I64, SHAPE(n));
    dml_problem_arg *max = dml_problem_in(p, "max_bits", DML_U32, SHAPE(1));
    float *g = in(p, "g", SHAPE(n))->host.data;
    acc->use = max->use = DML_INOUT;
    *(uint32_t *)max->host.data = coin(p) ? 0 : UINT32_C(0x3f7fffff);
    for (int64_t i = 0; i < n; i++) {
        ((uint64_t *)acc->host.data)[i] = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p);
        g[i] = ldexpf(g[i], -(int)dml_problem_between(p, 0, coin(p) ? 30 : 160));
    }
    p->call = call_accumulate_exact;
}

CALL(finish_exact, T(0), T(1), p->scale_log2)
static void case_finish_exact(dml_problem *p)
{
    const int64_t n = many(p);
    p->scale_log2 = (int32_t)dml_problem_between(p, -60, 126);
    out(p, "g", SHAPE(n), DML_BITWISE, 0);
    int64_t *acc = dml_problem_in(p, "acc", DML_I64, SHAPE(n))->host.data;
    for (int64_t i = 0; i < n; i++)
        acc[i] = (int64_t)((uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p)) >>
                 dml_problem_between(p, 0, 63);
    p->call = call_finish_exact;
}

/* Both signs beyond the range on both sides, no numbers, sums that cancel and sums that carry. */
CALL(accumulate_wide, T(0), T(1), T(2), T(3), p->first)
static void case_accumulate_wide(dml_problem *p)
{
    const int64_t n = many(p);
    p->first = coin(p);
    dml_problem_arg *hi = dml_problem_in(p, "hi", DML_I64, SHAPE(n));
    dml_problem_arg *lo = dml_problem_in(p, "lo", DML_I64, SHAPE(n));
    dml_problem_arg *max = dml_problem_in(p, "max_bits", DML_U32, SHAPE(1));
    float *g = in(p, "g", SHAPE(n))->host.data;
    hi->use = lo->use = max->use = DML_INOUT;
    *(uint32_t *)max->host.data = coin(p) ? 0 : UINT32_C(0x3f7fffff);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t word = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p);
        const int way = (int)dml_problem_between(p, 0, 3);
        g[i] = ldexpf(g[i], (int)dml_problem_between(p, way == 0 ? -150 : -90, 40));
        if (dml_problem_between(p, 0, 99) == 0) g[i] = copysignf(coin(p) ? INFINITY : NAN, g[i]);
        const float near = fabsf(g[i]) < 0x1p35f ? g[i] : 0.0f;
        ((int64_t *)hi->host.data)[i] = way == 1 ? -(int64_t)ldexpf(near, 28) : (int64_t)word;
        ((int64_t *)lo->host.data)[i] = way == 2 ? LO_MASK : way == 3 ? 0 : (int64_t)word & LO_MASK;
    }
    p->call = call_accumulate_wide;
}

/* Sums of every size, and ones a bit off the middle between two floats, a word apart or within one. */
CALL(finish_wide, T(0), T(1), T(2))
static void case_finish_wide(dml_problem *p)
{
    const int64_t n = many(p);
    out(p, "g", SHAPE(n), DML_BITWISE, 0);
    int64_t *hi = dml_problem_in(p, "hi", DML_I64, SHAPE(n))->host.data;
    int64_t *lo = dml_problem_in(p, "lo", DML_I64, SHAPE(n))->host.data;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t a = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p);
        const uint64_t b = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p);
        hi[i] = (int64_t)a >> dml_problem_between(p, 2, 63);
        lo[i] = (int64_t)(b >> dml_problem_between(p, 0, 63)); /* of many replicas, or of one */
        if (coin(p)) continue;
        const int64_t off = dml_problem_between(p, -1, 1);
        const int shift = (int)dml_problem_between(p, 0, 92);
        const __int128 middle = (__int128)((int64_t)a >> 38 | 1) * ((__int128)1 << shift) + off;
        hi[i] = (int64_t)(middle >> 56);
        lo[i] = (int64_t)middle & LO_MASK;
    }
    p->call = call_finish_wide;
}

CALL(sum_squares, T(0), T(1))
static void case_sum_squares(dml_problem *p)
{
    const int64_t n = many(p);
    dml_problem_out(p, "partial", DML_F64, SHAPE((n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK),
                    DML_BITWISE, 0);
    in(p, "x", SHAPE(n));
    p->call = call_sum_squares;
}

/* --- optimizers: tensors of different sizes, w, g, m, v of each ---------------------------------- */

enum { OPT_TENSORS = 3 };

static void make_optimizer(dml_problem *p, dml_problem_call call, bool m, bool v)
{
    for (int i = 0; i < OPT_TENSORS; i++) {
        const int64_t n = dml_problem_between(p, 1, i == 1 ? 2000 : 60);
        dml_problem_arg *w = in(p, "w", SHAPE(n)), *g = in(p, "g", SHAPE(n));
        dml_problem_arg *first = in(p, "m", SHAPE(n)), *second = in(p, "v", SHAPE(n));
        g->use = DML_IN;
        w->use = first->use = second->use = DML_INOUT;
        w->scale = first->scale = second->scale = DML_BY_UNIT;
        w->tolerance = first->tolerance = second->tolerance = 8.0;
        first->absent = !m;
        second->absent = !v;
        dml_problem_spread(second, 0.4, 0.5); /* positive */
    }
    p->call = call;
}

static void optimizer_tensors(const dml_problem *p, const dml_tensor tensor[],
                              dml_opt_tensor t[OPT_TENSORS])
{
    for (int i = 0; i < OPT_TENSORS; i++)
        t[i] = (dml_opt_tensor){.w = tensor[4 * i].data,
                                .g = tensor[4 * i + 1].data,
                                .m = p->arg[4 * i + 2].absent ? NULL : tensor[4 * i + 2].data,
                                .v = p->arg[4 * i + 3].absent ? NULL : tensor[4 * i + 3].data,
                                .n = dml_tensor_elems(&tensor[4 * i]),
                                .weight_decay = i == 0 ? 0.0f : 0.01f};
}

static dml_err call_sgd(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p,
                        const dml_tensor tensor[])
{
    dml_opt_tensor t[OPT_TENSORS];
    optimizer_tensors(p, tensor, t);
    return table->sgd(k, &p->sgd, t, OPT_TENSORS);
}

static void case_sgd(dml_problem *p)
{
    const bool momentum = coin(p);
    p->sgd = (dml_sgd){.lr = 0.1f,
                       .momentum = momentum ? 0.9f : 0.0f,
                       .grad_scale = 0.25f,
                       .nesterov = momentum && coin(p),
                       .first = coin(p)};
    make_optimizer(p, call_sgd, momentum, false);
}

static dml_err call_adamw(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p,
                          const dml_tensor tensor[])
{
    dml_opt_tensor t[OPT_TENSORS];
    optimizer_tensors(p, tensor, t);
    return table->adamw(k, &p->adamw, t, OPT_TENSORS);
}

static void case_adamw(dml_problem *p)
{
    const double step = (double)dml_problem_between(p, 1, 50);
    p->adamw = (dml_adamw){.lr = 0.01f,
                           .beta1 = 0.9f,
                           .beta2 = 0.99f,
                           .eps = 1e-8f,
                           .grad_scale = 0.5f,
                           .bias1 = (float)(1.0 - pow(0.9, step)),
                           .sqrt_bias2 = (float)sqrt(1.0 - pow(0.99, step))};
    make_optimizer(p, call_adamw, true, true);
}

static dml_err call_delay(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p,
                          const dml_tensor tensor[])
{
    (void)p;
    (void)tensor;
    return table->delay(k, 1000);
}

static void case_delay(dml_problem *p)
{
    p->call = call_delay;
}

void dml_problem_case(dml_problem *p)
{
    static void (*const cases[])(dml_problem *) = {
#define X(name, args) case_##name,
        DML_KERNEL_LIST(X)
#undef X
    };
    cases[p->kernel](p);
}
