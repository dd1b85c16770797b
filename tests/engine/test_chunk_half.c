/* Chunks in BF16 and F16: what is stored in which type, gradients near those of float, and the same bits
 * however the layers are cut.
 *
 *   test_engine_chunk_half [backend]
 */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/nets_by_hand.h"

static const char *backend = "ref";

/* How far a gradient may be from float's, of its norm: some roundings of 2^-9 and 2^-12, more where a kink or a
 * small difference of large values makes them larger. */
static const struct half {
    dml_precision precision;
    dml_dtype type;
    double near;
} halves[] = {{DML_PRECISION_BF16, DML_BF16, 0.12}, {DML_PRECISION_FP16, DML_F16, 0.03}};
enum { HALVES = 2 };

static const dml_spec *half_net(by_hand *h, int net, int half)
{
    nets[net].make(h);
    h->spec.training.precision = halves[half].precision;
    return &h->spec;
}

static double norm_of(const float *x, const float *less, int64_t n)
{
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - (less ? (double)less[i] : 0.0);
        squares += d * d;
    }
    return sqrt(squares);
}

static void gradients_are_near_those_of_float(void **state)
{
    (void)state;
    by_hand h, g;
    for (int net = 0; net < NETS; net++)
        for (int half = 0; half < HALVES; half++) {
            rig wide, r;
            rig_open(&wide, backend, nets[net].make(&h), 1, NULL, 0);
            rig_open(&r, backend, half_net(&g, net, half), 1, NULL, 0);
            rig_step(&wide);
            rig_step(&r);
            double off = 0.0, all = 0.0;
            for (int32_t p = 0; p < r.model.n_params; p++) {
                const int64_t n = r.model.param[p].elems;
                const float *want = rig_grad(&wide, p), *got = rig_grad(&r, p);
                off = hypot(off, norm_of(got, want, n));
                all = hypot(all, norm_of(want, NULL, n));
            }
            if (!(off <= halves[half].near * all) || off == 0.0)
                fail_msg("%s in %s: gradients are off by %.4f of their norm", nets[net].name,
                         dml_dtype_name(halves[half].type), off / all);
            rig_close(&wide);
            rig_close(&r);
        }
}

static void check_same(rig *a, rig *b, const char *what)
{
    const double x = rig_loss(a), y = rig_loss(b);
    if (memcmp(&x, &y, sizeof x) != 0) fail_msg("%s: loss %g, not %g", what, y, x);
    for (int32_t p = 0; p < a->model.n_params; p++)
        if (memcmp(rig_grad(a, p), rig_grad(b, p),
                   (size_t)a->model.param[p].elems * sizeof(float)) != 0)
            fail_msg("%s: %s has another gradient", what, a->model.param[p].name);
}

static void cuts_and_half_backwards_do_not_change_a_bit(void **state)
{
    (void)state;
    by_hand h;
    for (int net = 0; net < NETS; net++)
        for (int half = 0; half < HALVES; half++) {
            rig whole;
            rig_open(&whole, backend, half_net(&h, net, half), 1, NULL, 0);
            rig_step(&whole);
            for (int32_t n = 1; n <= 4; n++) {
                rig cut;
                rig_open(&cut, backend, &h.spec, n, NULL, RIG_SPLIT);
                rig_step(&cut);
                check_same(&whole, &cut, nets[net].name);
                rig_begin(&cut);
                for (int32_t mb = 0; mb < cut.mbs; mb++) {
                    rig_forward(&cut, mb);
                    rig_backward_input(&cut, mb);
                }
                for (int32_t mb = 0; mb < cut.mbs; mb++)
                    rig_backward_weight(&cut, mb);
                check_same(&whole, &cut, nets[net].name);
                rig_close(&cut);
            }
            rig_close(&whole);
        }
}

/* Activations and what crosses the borders are half as large; the loaded batch is not, and weights have a copy. */
static void memory_is_half_where_samples_are(void **state)
{
    (void)state;
    by_hand h, g;
    for (int half = 0; half < HALVES; half++) {
        rig wide, r;
        rig_open(&wide, backend, nets[0].make(&h), 2, NULL, 0);
        rig_open(&r, backend, half_net(&g, 0, half), 2, NULL, 0);
        const dml_chunk *first = &r.chunk[0], *last = &r.chunk[1];
        DML_CHECK_EQ(halves[half].type, first->act);
        DML_CHECK_EQ(wide.chunk[0].size.in, first->size.in);
        DML_CHECK_EQ(wide.chunk[0].size.dy, 2 * first->size.dy);
        DML_CHECK_EQ(wide.chunk[1].size.in, 2 * last->size.in);
        DML_CHECK_EQ(wide.chunk[1].size.dx, 2 * last->size.dx);
        DML_CHECK_EQ(wide.chunk[0].size.shared, first->size.shared);
        DML_CHECK(last->size.stash < wide.chunk[1].size.stash);
        const dml_chunk_impl *impl = last->impl;
        DML_CHECK(impl->w_act && !((const dml_chunk_impl *)wide.chunk[1].impl)->w_act);
        rig_close(&wide);
        rig_close(&r);
    }
}

/* A chunk's output row, as the next one reads it. */
static void what_crosses_a_border_is_of_that_type(void **state)
{
    (void)state;
    by_hand h;
    rig r;
    rig_open(&r, backend, half_net(&h, 0, 0), 2, NULL, 0);
    rig_step(&r);
    const uint16_t *out = rig_in(&r, 1, 0);
    const int64_t n = r.chunk[1].size.in / 2;
    for (int64_t i = 0; i < n; i++) {
        const float v = dml_bf16_to_float(out[i]);
        if (!(fabsf(v) < 100.0f)) fail_msg("element %d is %g", (int)i, (double)v);
    }
    rig_close(&r);
}

static void weights_are_copied_when_they_changed_and_only_then(void **state)
{
    (void)state;
    by_hand h;
    rig r;
    rig_open(&r, backend, half_net(&h, 0, 0), 1, NULL, 0);
    rig_step(&r);
    const double before = rig_loss(&r);
    float *w = rig_weight(&r, 0);
    for (int64_t i = 0; i < r.model.param[0].elems; i++)
        w[i] *= 2.0f;
    rig_step(&r);
    DML_CHECK(rig_loss(&r) == before); /* nobody was told */
    dml_chunk_weights_written(&r.chunk[0]);
    rig_step(&r);
    DML_CHECK(rig_loss(&r) != before);
    rig_close(&r);
}

/* A power of two passes through every rounding, as long as nothing leaves the range: BF16 has float's. */
static void the_loss_scale_scales_gradients_and_nothing_else(void **state)
{
    (void)state;
    by_hand h;
    for (int net = 0; net < NETS; net++) {
        rig one, large;
        rig_open(&one, backend, half_net(&h, net, 0), 1, NULL, 0);
        rig_open(&large, backend, &h.spec, 1, NULL, 0);
        large.loss_scale = 4096.0f;
        rig_step(&one);
        rig_step(&large);
        DML_CHECK(rig_loss(&one) == rig_loss(&large));
        for (int32_t p = 0; p < one.model.n_params; p++)
            for (int64_t i = 0; i < one.model.param[p].elems; i++)
                if (rig_grad(&large, p)[i] != 4096.0f * rig_grad(&one, p)[i])
                    fail_msg("%s of %s: %g, not 4096 times %g", one.model.param[p].name,
                             nets[net].name, (double)rig_grad(&large, p)[i],
                             (double)rig_grad(&one, p)[i]);
        rig_close(&one);
        rig_close(&large);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_near_those_of_float),
        cmocka_unit_test(cuts_and_half_backwards_do_not_change_a_bit),
        cmocka_unit_test(memory_is_half_where_samples_are),
        cmocka_unit_test(what_crosses_a_border_is_of_that_type),
        cmocka_unit_test(weights_are_copied_when_they_changed_and_only_then),
        cmocka_unit_test(the_loss_scale_scales_gradients_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
