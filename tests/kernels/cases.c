/* tests/kernels/cases.c - for each entry of the kernel list: shapes, data, tolerance, call.
 *
 * Shapes are small and odd, with one dim now and then past the borders at which the backends cut their
 * work (64 samples or rows, 256 elements of a mask, 4096 of a norm).  A kernel added to the list does
 * not link here until it has a case.  This file: sums, conversions, optimizers, and the table of all.
 */
#include "tests/kernels/cases.h"

/* --- sums over micro-batches --------------------------------------------------------------------- */

static int64_t many(dml_problem *p)
{
    return dml_problem_between(p, 1, coin(p) ? 100 : 9000);
}

CALL(accumulate, T(0), T(1), p->first)
void dml_case_accumulate(dml_problem *p)
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
void dml_case_accumulate_exact(dml_problem *p)
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
void dml_case_finish_exact(dml_problem *p)
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
void dml_case_accumulate_wide(dml_problem *p)
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
void dml_case_finish_wide(dml_problem *p)
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
void dml_case_sum_squares(dml_problem *p)
{
    const int64_t n = many(p);
    dml_problem_out(p, "partial", DML_F64, SHAPE((n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK),
                    DML_BITWISE, 0);
    in(p, "x", SHAPE(n));
    p->call = call_sum_squares;
}

/* --- conversion, moments, fill ------------------------------------------------------------------ */

/* Between two of the three types; every binary order of F16, beyond it on both sides, no numbers. */
CALL(convert, T(0), T(1))
void dml_case_convert(dml_problem *p)
{
    static const dml_dtype types[] = {DML_F32, DML_BF16, DML_F16};
    int64_t dim[2];
    draw_matrix(p, dim);
    const int64_t from = dml_problem_between(p, 0, 2),
                  to = (from + dml_problem_between(p, 1, 2)) % 3;
    dml_problem_out(p, "y", types[to], 2, dim, DML_BITWISE, 0);
    const dml_tensor *x = &dml_problem_in(p, "x", types[from], 2, dim)->host;
    for (int64_t i = 0; i < dml_tensor_elems(x); i++) {
        if (from != 0) {
            ((uint16_t *)x->data)[i] = (uint16_t)dml_problem_draw(p);
            continue;
        }
        float *v = (float *)x->data + i;
        *v = ldexpf(*v, (int)dml_problem_between(p, -140, 20) / (coin(p) ? 1 : 4));
        if (dml_problem_between(p, 0, 40) == 0) *v = coin(p) ? INFINITY : NAN;
        if (coin(p)) *v = ldexpf(roundf(ldexpf(*v, 12)), -12); /* often a tie */
    }
    p->call = call_convert;
}

CALL(move_moments, &p->moments, T(0), T(1), T(2))
void dml_case_move_moments(dml_problem *p)
{
    const int64_t c = dml_problem_between(p, 1, 300);
    const int32_t mbs = (int32_t)dml_problem_between(p, 1, 9);
    const int32_t rows = (int32_t)dml_problem_between(p, 1, 20);
    p->moments = (dml_moments){.mbs = mbs,
                               .mb_rows = rows,
                               .samples = dml_problem_between(p, 0, (int64_t)mbs * rows),
                               .pixels = dml_problem_between(p, 1, coin(p) ? 50 : 1),
                               .momentum = 0.1f,
                               .per_micro_batch = coin(p)};
    inout(p, "mean", SHAPE(c), DML_BY_UNIT, 2);
    dml_problem_spread(inout(p, "var", SHAPE(c), DML_BY_UNIT, 2), 0.4, 1.0);
    dml_problem_spread(in(p, "slots", SHAPE(mbs, 2, c)), 0.5, 1.0);
    p->call = call_move_moments;
}

CALL(fill, T(0), p->value)
void dml_case_fill(dml_problem *p)
{
    static const dml_dtype types[] = {DML_F32, DML_I64, DML_I32, DML_U32, DML_U8};
    int64_t dim[2];
    draw_matrix(p, dim);
    const dml_dtype type = types[dml_problem_between(p, 0, 4)];
    p->value = type == DML_F32 ? 1.5f : 0.0f;
    dml_problem_out(p, "y", type, 2, dim, DML_BITWISE, 0);
    p->call = call_fill;
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

void dml_case_sgd(dml_problem *p)
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

void dml_case_adamw(dml_problem *p)
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

void dml_case_delay(dml_problem *p)
{
    p->call = call_delay;
}

void dml_problem_case(dml_problem *p)
{
    static void (*const cases[])(dml_problem *) = {
#define X(name, args) dml_case_##name,
        DML_KERNEL_LIST(X)
#undef X
    };
    cases[p->kernel](p);
}
