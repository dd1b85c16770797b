/* tests/kernels/cases_samples.c - what maps samples to samples: pooling, batch norm, curves, layouts, losses. */
#include "tests/kernels/cases.h"

/* --- pooling ----------------------------------------------------------------------------------- */

typedef struct pooled {
    int64_t n, h, w, c, oh, ow;
} pooled;

static pooled draw_pool(dml_problem *p)
{
    pooled s = {.n = dml_problem_between(p, 1, 5)};
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
void dml_case_max_pool_fwd(dml_problem *p)
{
    const pooled s = draw_pool(p);
    sample_out(p, "y", SHAPE(POOL_Y), DML_BITWISE, 0);
    dml_problem_out(p, "which", DML_I32, SHAPE(POOL_Y), DML_BITWISE, 0);
    float *x = sample_in(p, "x", SHAPE(POOL_X))->host.data;
    if (p->key % 2) /* many equal values: the first must win */
        for (int64_t i = 0; i < s.n * s.h * s.w * s.c; i++)
            x[i] = roundf(2.0f * x[i]);
    x[p->key % (uint64_t)(s.n * s.h * s.w * s.c)] = NAN; /* a diverged run must show it */
    p->call = call_max_pool_fwd;
}

CALL(max_pool_bwd, &p->pool, T(0), T(1), T(2))
void dml_case_max_pool_bwd(dml_problem *p)
{
    const pooled s = draw_pool(p);
    sample_out(p, "dx", SHAPE(POOL_X), DML_BY_TERMS, 8);
    sample_in(p, "dy", SHAPE(POOL_Y));
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
void dml_case_avg_pool_fwd(dml_problem *p)
{
    const pooled s = draw_pool(p);
    sample_out(p, "y", SHAPE(POOL_Y), DML_BY_TERMS, 8);
    sample_in(p, "x", SHAPE(POOL_X));
    p->call = call_avg_pool_fwd;
}

CALL(avg_pool_bwd, &p->pool, T(0), T(1))
void dml_case_avg_pool_bwd(dml_problem *p)
{
    const pooled s = draw_pool(p);
    sample_out(p, "dx", SHAPE(POOL_X), DML_BY_TERMS, 8);
    sample_in(p, "dy", SHAPE(POOL_Y));
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
    dml_problem_arg *a = sample_in(p, "x", s->rank, s->dim);
    dml_problem_spread(a, 1.0, (double)dml_problem_between(p, -20, 20));
    return a;
}

CALL(batch_norm_fwd, p->value, T(0), T(1), T(2), T(3), T(4), T(5))
void dml_case_batch_norm_fwd(dml_problem *p)
{
    const norm s = draw_norm(p);
    sample_out(p, "y", s.rank, s.dim, DML_BY_UNIT, 400);
    out(p, "mean", SHAPE(s.c), DML_BY_UNIT, 8);
    out(p, "var", SHAPE(s.c), DML_BY_UNIT, 16);
    norm_input(p, &s);
    in(p, "gamma", SHAPE(s.c));
    in(p, "beta", SHAPE(s.c));
    p->call = call_batch_norm_fwd;
}

CALL(batch_norm_eval, p->value, T(0), T(1), T(2), T(3), T(4), T(5))
void dml_case_batch_norm_eval(dml_problem *p)
{
    const norm s = draw_norm(p);
    sample_out(p, "y", s.rank, s.dim, DML_BY_UNIT, 16);
    sample_in(p, "x", s.rank, s.dim);
    in(p, "mean", SHAPE(s.c));
    dml_problem_spread(in(p, "var", SHAPE(s.c)), 0.5, 1.0);
    in(p, "gamma", SHAPE(s.c));
    in(p, "beta", SHAPE(s.c));
    p->call = call_batch_norm_eval;
}

CALL(batch_norm_bwd, p->value, T(0), T(1), T(2), T(3), T(4), T(5), T(6), T(7))
void dml_case_batch_norm_bwd(dml_problem *p)
{
    const norm s = draw_norm(p);
    sample_out(p, "dx", s.rank, s.dim, DML_BY_UNIT, 64);
    out(p, "dgamma", SHAPE(s.c), DML_BY_UNIT, 16.0 * sum_of(s.rows));
    out(p, "dbeta", SHAPE(s.c), DML_BY_UNIT, 4.0 * sum_of(s.rows));
    sample_in(p, "dy", s.rank, s.dim);
    sample_in(p, "x", s.rank, s.dim);
    dml_problem_spread(in(p, "mean", SHAPE(s.c)), 0.1, 0.0);
    dml_problem_spread(in(p, "var", SHAPE(s.c)), 0.3, 0.8);
    in(p, "gamma", SHAPE(s.c));
    p->call = call_batch_norm_bwd;
}

/* --- element-wise ------------------------------------------------------------------------------ */

static norm draw_map(dml_problem *p)
{
    norm s = {.rank = 2};
    draw_matrix(p, s.dim);
    return s;
}

static void make_forward(dml_problem *p, dml_problem_call call, double spread,
                         dml_problem_scale scale, double tolerance)
{
    const norm s = draw_map(p);
    sample_out(p, "y", s.rank, s.dim, scale, tolerance)->same_as = 1;
    dml_problem_spread(sample_in(p, "x", s.rank, s.dim), spread, 0.0);
    p->call = call;
}

static void make_backward(dml_problem *p, dml_problem_call call, const char *second, double spread,
                          dml_problem_scale scale, double tolerance)
{
    const norm s = draw_map(p);
    sample_out(p, "dx", s.rank, s.dim, scale, tolerance)->same_as = 1;
    sample_in(p, "dy", s.rank, s.dim);
    dml_problem_spread(sample_in(p, second, s.rank, s.dim), spread, 0.0);
    p->call = call;
}

CALL(relu_fwd, T(0), T(1))
void dml_case_relu_fwd(dml_problem *p)
{
    make_forward(p, call_relu_fwd, 1.0, DML_BITWISE, 0);
    ((float *)p->arg[1].host.data)[0] = NAN; /* must stay visible, as in max_pool */
}

CALL(relu_bwd, T(0), T(1), T(2))
void dml_case_relu_bwd(dml_problem *p)
{
    make_backward(p, call_relu_bwd, "y", 1.0, DML_BITWISE, 0);
}

CALL(gelu_fwd, T(0), T(1))
void dml_case_gelu_fwd(dml_problem *p)
{
    make_forward(p, call_gelu_fwd, 6.0, DML_BY_TERMS, 8);
}

CALL(gelu_bwd, T(0), T(1), T(2))
void dml_case_gelu_bwd(dml_problem *p)
{
    make_backward(p, call_gelu_bwd, "x", 6.0, DML_BY_TERMS, 8);
}

CALL(gelu_tanh_fwd, T(0), T(1))
void dml_case_gelu_tanh_fwd(dml_problem *p)
{
    make_forward(p, call_gelu_tanh_fwd, 6.0, DML_BY_TERMS, 8);
}

CALL(gelu_tanh_bwd, T(0), T(1), T(2))
void dml_case_gelu_tanh_bwd(dml_problem *p)
{
    make_backward(p, call_gelu_tanh_bwd, "x", 6.0, DML_BY_TERMS, 16);
}

CALL(tanh_fwd, T(0), T(1))
void dml_case_tanh_fwd(dml_problem *p)
{
    make_forward(p, call_tanh_fwd, p->key % 2 ? 10.0 : 1.0, DML_BY_ELEMENT, 8);
}

CALL(tanh_bwd, T(0), T(1), T(2))
void dml_case_tanh_bwd(dml_problem *p)
{
    make_backward(p, call_tanh_bwd, "y", 0.9, DML_BY_ELEMENT, 32);
}

CALL(dropout, &p->drop, T(0), T(1))
void dml_case_dropout(dml_problem *p)
{
    static const float rates[] = {0.0f, 0.1f, 0.5f, 0.875f};
    const norm s = {.rank = 2,
                    .dim = {dml_problem_between(p, 1, 20), dml_problem_between(p, 1, 700)}};
    p->drop = (dml_dropout){.rate = rates[dml_problem_between(p, 0, 3)],
                            .key = (uint64_t)dml_problem_draw(p) << 32 | dml_problem_draw(p),
                            .first_sample = dml_problem_between(p, 0, 1 << 20)};
    p->words.step = dml_problem_between(p, 0, 1 << 20) << 20;
    sample_out(p, "y", s.rank, s.dim, DML_BITWISE, 0)->same_as = 1;
    sample_in(p, "x", s.rank, s.dim);
    p->call = call_dropout;
}

CALL(add, T(0), T(1), T(2))
void dml_case_add(dml_problem *p)
{
    const norm s = draw_map(p);
    sample_out(p, "y", s.rank, s.dim, DML_BITWISE, 0)->same_as = 1;
    sample_in(p, "a", s.rank, s.dim);
    sample_in(p, "b", s.rank, s.dim);
    p->call = call_add;
}

static void make_layout(dml_problem *p, dml_problem_call call, bool to_nchw)
{
    const int64_t n = dml_problem_between(p, 1, 4), h = dml_problem_between(p, 1, 9);
    const int64_t w = dml_problem_between(p, 1, 9), c = dml_problem_between(p, 1, 40);
    const int64_t nhwc[] = {n, h, w, c}, nchw[] = {n, c, h, w};
    sample_out(p, "y", 4, to_nchw ? nchw : nhwc, DML_BITWISE, 0);
    sample_in(p, "x", 4, to_nchw ? nhwc : nchw);
    p->call = call;
}

CALL(nhwc_to_nchw, T(0), T(1))
void dml_case_nhwc_to_nchw(dml_problem *p)
{
    make_layout(p, call_nhwc_to_nchw, true);
}

CALL(nchw_to_nhwc, T(0), T(1))
void dml_case_nchw_to_nhwc(dml_problem *p)
{
    make_layout(p, call_nchw_to_nhwc, false);
}

/* --- losses ------------------------------------------------------------------------------------ */

/* Rows of up to 90 classes; dx may be x, or be absent. */
static void make_loss(dml_problem *p, dml_problem_call call)
{
    const int64_t n = samples(p), c = dml_problem_between(p, 2, coin(p) ? 90 : 10);
    dml_problem_out(p, "loss", DML_F64, SHAPE(1), DML_BY_UNIT, 16.0 * (double)n);
    dml_problem_out(p, "correct", DML_I32, SHAPE(1), DML_BITWISE, 0);
    dml_problem_arg *dx = sample_out(p, "dx", SHAPE(n, c), DML_BY_UNIT, 8);
    dx->same_as = 3;
    dx->absent = dml_problem_between(p, 0, 3) == 0;
    dml_problem_arg *x = sample_in(p, "x", SHAPE(n, c));
    dml_problem_spread(x, 5.0, 0.0);
    for (int64_t i = 0; i < n * c && p->key % 2; i++) /* equal scores: the first maximum counts */
        ((float *)x->host.data)[i] = roundf(((float *)x->host.data)[i]);
    int32_t *label = dml_problem_in(p, "labels", DML_I32, SHAPE(n))->host.data;
    for (int64_t i = 0; i < n; i++)
        label[i] = (int32_t)dml_problem_between(p, 0, c - 1);
    p->words.loss_scale = coin(p) ? 1.0f : 1024.0f;
    dx->tolerance *= (double)p->words.loss_scale;
    p->call = call;
}

CALL(softmax_xent, T(0), T(1), T(2), T(3), T(4))
void dml_case_softmax_xent(dml_problem *p)
{
    make_loss(p, call_softmax_xent);
}

CALL(mse_onehot, T(0), T(1), T(2), T(3), T(4))
void dml_case_mse_onehot(dml_problem *p)
{
    make_loss(p, call_mse_onehot);
    p->arg[0].tolerance *= 10.0; /* sums of squares up to 36 */
}
