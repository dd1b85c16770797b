/* tests/engine/test_chunk_fuse.c - activations that the products around them apply: where, and that nothing
 * else changes. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/spec_by_hand.h"

/* fc1, an activation, fc2, another, fc3; 24 features wide but for fc2's 13. */
static const dml_spec *curves(by_hand *h, dml_layer_kind first, dml_layer_kind second)
{
    by_hand_begin(h, 12, 0, 0, 5);
    by_hand_linear(h, "fc1", 24);
    by_hand_layer(h, first, "act1")->tanh_form = true;
    by_hand_linear(h, "fc2", 13)->bias = false;
    by_hand_layer(h, second, "act2")->tanh_form = true;
    by_hand_linear(h, "fc3", 5);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

/* The layers that the plan of `spec` fuses: 'a' acts, '.' acted, 'u' unacts, 'b' both, '-' neither. */
static void check_plan(const char *want, const dml_spec *spec, int32_t begin, int32_t end)
{
    dml_arena arena = {0};
    dml_model model;
    dml_chunk chunk;
    char got[32] = {0};
    DML_CHECK_OK(dml_model_make(spec, &arena, &model));
    DML_CHECK_OK(
        dml_chunk_plan(spec, &model, begin, end < 0 ? model.n_layers : end, false, &arena, &chunk));
    const dml_chunk_impl *impl = chunk.impl;
    for (int32_t i = 0; i < chunk.layer_end - chunk.layer_begin; i++) {
        const dml_layer_plan *p = &impl->layer[i];
        got[i] = p->acted               ? '.'
                 : p->acts && p->unacts ? 'b'
                 : p->acts              ? 'a'
                 : p->unacts            ? 'u'
                                        : '-';
    }
    assert_string_equal(want, got);
    dml_arena_free(&arena);
}

static void a_linear_layer_takes_the_activation_after_it(void **state)
{
    (void)state;
    by_hand h;
    check_plan("a.b.u-", curves(&h, DML_LAYER_RELU, DML_LAYER_GELU), 0, -1);
    check_plan("--a.u-", curves(&h, DML_LAYER_TANH, DML_LAYER_RELU), 0, -1);
    h.spec.training.numerics = DML_EXACT;
    check_plan("------", &h.spec, 0, -1);
}

static void only_where_both_products_are_here(void **state)
{
    (void)state;
    by_hand h;
    curves(&h, DML_LAYER_RELU, DML_LAYER_RELU);
    check_plan("--", &h.spec, 0, 2);     /* fc2 is in another chunk */
    check_plan("-a.u-", &h.spec, 1, -1); /* fc1 is */
    curves(&h, DML_LAYER_GELU, DML_LAYER_RELU);
    h.layer[1].tanh_form = false; /* the erf form */
    check_plan("--a.u-", &h.spec, 0, -1);
}

static void not_where_something_else_reads_a_value(void **state)
{
    (void)state;
    by_hand h;
    by_hand_begin(&h, 8, 0, 0, 4);
    by_hand_linear(&h, "fc1", 8);
    const int32_t before = h.last;
    by_hand_layer(&h, DML_LAYER_RELU, "relu1");
    by_hand_linear(&h, "fc2", 8);
    by_hand_add(&h, "over", before); /* of fc1's output */
    by_hand_linear(&h, "fc3", 8);
    by_hand_layer(&h, DML_LAYER_RELU, "relu2");
    const int32_t after = h.last;
    by_hand_linear(&h, "fc4", 8);
    by_hand_add(&h, "around", after); /* of relu2's */
    by_hand_linear(&h, "fc5", 4);
    by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    check_plan("----------", &h.spec, 0, -1);
    by_hand_begin(&h, 8, 0, 0, 4);
    by_hand_linear(&h, "fc1", 8);
    by_hand_layer(&h, DML_LAYER_RELU, "relu");
    const int32_t relu = h.last;
    by_hand_linear(&h, "body", 4);
    const int32_t body = h.last;
    by_hand_linear(&h, "shortcut", 4)->input = relu;
    by_hand_add(&h, "join", body);
    by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    check_plan("------", &h.spec, 0, -1);
}

/* The same steps with the plan's fusion and, by exact mode, without: gradients agree to roundings. */
static void check_near(const char *backend, const dml_spec *spec, double tolerance,
                       const dml_kernel_table *table)
{
    rig fused, apart;
    dml_spec exact = *spec;
    exact.training.numerics = DML_EXACT;
    rig_open(&fused, backend, spec, 1, NULL, 0);
    if (table) fused.kt = table;
    rig_open(&apart, backend, &exact, 1, NULL, 0);
    rig_step(&fused);
    rig_step(&apart);
    if (!(fabs(rig_loss(&fused) - rig_loss(&apart)) <= tolerance * rig_loss(&apart)))
        fail_msg("%s: loss %g, not %g", backend, rig_loss(&fused), rig_loss(&apart));
    for (int32_t p = 0; p < fused.model.n_params; p++) {
        const float *a = rig_grad(&fused, p), *b = rig_grad(&apart, p);
        double off = 0.0, all = 0.0;
        for (int64_t i = 0; i < fused.model.param[p].elems; i++) {
            off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            all += (double)b[i] * (double)b[i];
        }
        if (!(sqrt(off) <= tolerance * sqrt(all)))
            fail_msg("%s: %s is off by %g", backend, fused.model.param[p].name, sqrt(off / all));
    }
    rig_close(&fused);
    rig_close(&apart);
}

static void gradients_stay_what_they_were(void **state)
{
    (void)state;
    static const dml_layer_kind kinds[] = {DML_LAYER_RELU, DML_LAYER_GELU};
    static const char *const backends[] = {"ref", "cpu"};
    by_hand h;
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < 2; b++) {
            curves(&h, kinds[i & 1], kinds[i >> 1]);
            check_near(backends[b], &h.spec, 1e-5, NULL);
            h.spec.training.precision = DML_PRECISION_BF16;
            check_near(backends[b], &h.spec, 0.03, NULL);
        }
}

/* A table without the joint entries runs the two that each stands for. */
static void a_backend_without_them_runs_two_entries(void **state)
{
    (void)state;
    const dml_backend *ref;
    DML_CHECK_OK(dml_backend_find("ref", &ref));
    static dml_kernel_table table;
    table = *ref->kernels;
    table.linear_act_fwd = NULL;
    table.linear_act_bwd = NULL;
    table.linear_add_weight = NULL;
    by_hand h;
    check_near("ref", curves(&h, DML_LAYER_RELU, DML_LAYER_GELU), 1e-5, &table);
    check_near("ref", curves(&h, DML_LAYER_GELU, DML_LAYER_RELU), 1e-5, &table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_linear_layer_takes_the_activation_after_it),
        cmocka_unit_test(only_where_both_products_are_here),
        cmocka_unit_test(not_where_something_else_reads_a_value),
        cmocka_unit_test(gradients_stay_what_they_were),
        cmocka_unit_test(a_backend_without_them_runs_two_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
