/* tests/kernels/cases_products.c - linear layers and convolutions: shapes, data, tolerance, call. */
#include "tests/kernels/cases.h"

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
void dml_case_linear_fwd(dml_problem *p)
{
    const linear s = draw_linear(p);
    sample_out(p, "y", SHAPE(s.n, s.o), DML_BY_TERMS, sum_of(s.i));
    sample_in(p, "x", SHAPE(s.n, s.i));
    sample_in(p, "w", SHAPE(s.o, s.i));
    sample_in(p, "b", SHAPE(s.o))->absent = !s.bias;
    p->call = call_linear_fwd;
}

CALL(linear_bwd_input, T(0), T(1), T(2))
void dml_case_linear_bwd_input(dml_problem *p)
{
    const linear s = draw_linear(p);
    sample_out(p, "dx", SHAPE(s.n, s.i), DML_BY_TERMS, sum_of(s.o));
    sample_in(p, "dy", SHAPE(s.n, s.o));
    sample_in(p, "w", SHAPE(s.o, s.i));
    p->call = call_linear_bwd_input;
}

CALL(linear_bwd_weight, T(0), T(1), T(2), T(3))
void dml_case_linear_bwd_weight(dml_problem *p)
{
    const linear s = draw_linear(p);
    out(p, "dw", SHAPE(s.o, s.i), DML_BY_TERMS, sum_of(s.n));
    out(p, "db", SHAPE(s.o), DML_BY_TERMS, sum_of(s.n))->absent = !s.bias;
    sample_in(p, "dy", SHAPE(s.n, s.o));
    sample_in(p, "x", SHAPE(s.n, s.i));
    p->call = call_linear_bwd_weight;
}

CALL(linear_add_weight, T(0), T(1), T(2), T(3))
void dml_case_linear_add_weight(dml_problem *p)
{
    const linear s = draw_linear(p);
    inout(p, "dw", SHAPE(s.o, s.i), DML_BY_TERMS, sum_of(s.n + 1));
    inout(p, "db", SHAPE(s.o), DML_BY_TERMS, sum_of(s.n + 1))->absent = !s.bias;
    sample_in(p, "dy", SHAPE(s.n, s.o));
    sample_in(p, "x", SHAPE(s.n, s.i));
    p->call = call_linear_add_weight;
}

/* --- linear with an activation: aux is bits, or values of y's type as the bytes they are ------------- */

/* `t` as U8 [n, bytes]. */
static dml_tensor as_bytes(const dml_tensor *t)
{
    return dml_tensor_of(t->data, DML_U8, 2,
                         (int64_t[]){t->dim[0], t->dim[1] * dml_dtype_bytes(t->dtype)});
}

/* The argument of that name for rows of `width`: whole pieces of 8, which leaves no padding to GELU. */
static dml_problem_arg *aux_arg(dml_problem *p, bool is_output, int64_t n, int64_t width)
{
    const int64_t bits[] = {n, dml_act_aux_bytes(DML_ACT_RELU, DML_F32, width)};
    if (p->act == DML_ACT_RELU && is_output)
        return dml_problem_out(p, "aux", DML_U8, 2, bits, DML_UNCHECKED, 0);
    if (p->act == DML_ACT_RELU) {
        dml_problem_arg *a = dml_problem_in(p, "aux", DML_U8, 2, bits);
        for (int64_t i = 0; i < dml_tensor_elems(&a->host); i++)
            ((uint8_t *)a->host.data)[i] = (uint8_t)dml_problem_draw(p);
        return a;
    }
    if (is_output) return sample_out(p, "aux", SHAPE(n, width), DML_BY_TERMS, 0);
    dml_problem_arg *a = sample_in(p, "aux", SHAPE(n, width));
    dml_problem_spread(a, 6.0, 0.0);
    return a;
}

static linear draw_linear_act(dml_problem *p)
{
    linear s = draw_linear(p);
    p->act = coin(p) ? DML_ACT_RELU : DML_ACT_GELU_TANH;
    if (p->act == DML_ACT_GELU_TANH) {
        s.o = (s.o + 7) / 8 * 8;
        s.i = (s.i + 7) / 8 * 8;
    }
    return s;
}

static const char *check_relu_bits(const dml_problem *p)
{
    const dml_tensor *y = &p->arg[0].host, *aux = &p->arg[1].host;
    const uint8_t *bits = aux->data;
    for (int64_t e = 0; e < dml_tensor_elems(y); e++) {
        const int64_t r = e / y->dim[1], o = e % y->dim[1];
        const bool bit = bits[r * aux->dim[1] + o / 8] >> o % 8 & 1;
        if (bit != (dml_problem_element(y, e) > 0.0)) return "a bit of aux is not y > 0";
    }
    return NULL;
}

static dml_err call_linear_act_fwd(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p,
                                   const dml_tensor tensor[])
{
    const dml_tensor aux = as_bytes(&tensor[1]);
    return table->linear_act_fwd(k, p->act, T(0), &aux, T(2), T(3), T(4));
}

void dml_case_linear_act_fwd(dml_problem *p)
{
    const linear s = draw_linear_act(p);
    sample_out(p, "y", SHAPE(s.n, s.o), DML_BY_TERMS, 2.0 * sum_of(s.i));
    aux_arg(p, true, s.n, s.o)->tolerance = sum_of(s.i);
    sample_in(p, "x", SHAPE(s.n, s.i));
    sample_in(p, "w", SHAPE(s.o, s.i));
    sample_in(p, "b", SHAPE(s.o))->absent = !s.bias;
    if (p->act == DML_ACT_RELU) p->check = check_relu_bits;
    p->call = call_linear_act_fwd;
}

static dml_err call_linear_act_bwd(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p,
                                   const dml_tensor tensor[])
{
    const dml_tensor aux = as_bytes(&tensor[3]);
    return table->linear_act_bwd(k, p->act, T(0), T(1), T(2), &aux);
}

void dml_case_linear_act_bwd(dml_problem *p)
{
    const linear s = draw_linear_act(p);
    sample_out(p, "dx", SHAPE(s.n, s.i), DML_BY_TERMS, 2.0 * sum_of(s.o));
    sample_in(p, "dy", SHAPE(s.n, s.o));
    sample_in(p, "w", SHAPE(s.o, s.i));
    aux_arg(p, false, s.n, s.i);
    p->call = call_linear_act_bwd;
}

/* --- convolution ------------------------------------------------------------------------------- */

typedef struct conv {
    int64_t n, h, w, c, oh, ow, o;
    bool bias;
} conv;

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
void dml_case_conv2d_fwd(dml_problem *p)
{
    const conv s = draw_conv(p);
    sample_out(p, "y", SHAPE(CONV_Y), DML_BY_TERMS,
               sum_of(s.c * p->conv.kernel[0] * p->conv.kernel[1]));
    sample_in(p, "x", SHAPE(CONV_X));
    sample_in(p, "w", SHAPE(CONV_W));
    sample_in(p, "b", SHAPE(s.o))->absent = !s.bias;
    p->call = call_conv2d_fwd;
}

CALL(conv2d_bwd_input, &p->conv, T(0), T(1), T(2))
void dml_case_conv2d_bwd_input(dml_problem *p)
{
    const conv s = draw_conv(p);
    sample_out(p, "dx", SHAPE(CONV_X), DML_BY_TERMS,
               sum_of(s.o * p->conv.kernel[0] * p->conv.kernel[1]));
    sample_in(p, "dy", SHAPE(CONV_Y));
    sample_in(p, "w", SHAPE(CONV_W));
    p->call = call_conv2d_bwd_input;
}

CALL(conv2d_bwd_weight, &p->conv, T(0), T(1), T(2), T(3))
void dml_case_conv2d_bwd_weight(dml_problem *p)
{
    const conv s = draw_conv(p);
    out(p, "dw", SHAPE(CONV_W), DML_BY_TERMS, sum_of(s.n * s.oh * s.ow))->loose = true;
    out(p, "db", SHAPE(s.o), DML_BY_TERMS, sum_of(s.n * s.oh * s.ow))->absent = !s.bias;
    sample_in(p, "dy", SHAPE(CONV_Y));
    sample_in(p, "x", SHAPE(CONV_X));
    p->call = call_conv2d_bwd_weight;
}
