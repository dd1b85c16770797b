/* tests/engine/test_model.c - shapes, parameter counts, costs and initial values of known models. */
#include "tests/support/test.h"

#include "engine/model.h"
#include "tests/support/spec_by_hand.h"

#include <math.h>
#include <stdlib.h>

static dml_model model_of(const dml_spec *spec, dml_arena *arena)
{
    dml_model m;
    DML_CHECK_OK(dml_model_make(spec, arena, &m));
    return m;
}

static const dml_layer *layer_called(const dml_model *m, const char *name)
{
    for (int32_t i = 0; i < m->n_layers; i++)
        if (strcmp(m->layer[i].spec->name, name) == 0) return &m->layer[i];
    fail_msg("no layer '%s'", name);
    return NULL;
}

static const dml_param *param_called(const dml_model *m, const char *name)
{
    for (int32_t p = 0; p < m->n_params; p++)
        if (strcmp(m->param[p].name, name) == 0) return &m->param[p];
    fail_msg("no parameter '%s'", name);
    return NULL;
}

static void check_shape(const dml_model *m, const char *name, int32_t rank, int32_t a, int32_t b,
                        int32_t c)
{
    const dml_shape s = layer_called(m, name)->out;
    const int32_t want[] = {a, b, c};
    DML_CHECK_EQ(rank, s.rank);
    for (int32_t i = 0; i < rank; i++)
        DML_CHECK_EQ(want[i], s.dim[i]);
}

static void known_models_have_their_known_parameter_counts(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    DML_CHECK_EQ(784 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10,
                 model_of(by_hand_mlp(&h), &arena).param_elems);
    DML_CHECK_EQ(2330442, model_of(by_hand_vgg8(&h), &arena).param_elems);
    DML_CHECK_EQ(272474, model_of(by_hand_resnet(&h, 3, 3), &arena).param_elems);
    DML_CHECK_EQ(272186, model_of(by_hand_resnet(&h, 1, 3), &arena).param_elems);
    dml_arena_free(&arena);
}

static void vgg8_has_the_shapes_of_the_paper(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_model m = model_of(by_hand_vgg8(&h), &arena);
    DML_CHECK_EQ(28, m.input.dim[0]);
    DML_CHECK_EQ(1, m.input.dim[2]);
    check_shape(&m, "conv1", 3, 28, 28, 64);
    check_shape(&m, "pool1", 3, 14, 14, 64);
    check_shape(&m, "bn4", 3, 14, 14, 128);
    check_shape(&m, "pool3", 3, 3, 3, 256);
    check_shape(&m, "flatten", 1, 2304, 0, 0);
    check_shape(&m, "fc2", 1, 10, 0, 0);
    DML_CHECK_EQ(22, m.n_params); /* six convolutions, six batch norms, two linear layers */
    DML_CHECK_EQ(12, m.n_states);
    const dml_param *w = param_called(&m, "conv3.weight");
    DML_CHECK_EQ(4, w->rank);
    DML_CHECK_EQ(128, w->dim[0]);
    DML_CHECK_EQ(64, w->dim[1]);
    DML_CHECK_EQ(9 * 64, w->fan_in);
    DML_CHECK_EQ(9 * 128, w->fan_out);
    DML_CHECK(w->decay && !param_called(&m, "bn3.weight")->decay &&
              !param_called(&m, "fc1.bias")->decay);
    dml_arena_free(&arena);
}

static void resnet20_halves_its_images_twice(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_model m = model_of(by_hand_resnet(&h, 3, 3), &arena);
    check_shape(&m, "block1.add", 3, 32, 32, 16);
    check_shape(&m, "block4.add", 3, 16, 16, 32);
    check_shape(&m, "block9.relu2", 3, 8, 8, 64);
    check_shape(&m, "pool", 3, 1, 1, 64);
    DML_CHECK(layer_called(&m, "flatten")->alias); /* one pixel is in PyTorch's order already */
    dml_arena_free(&arena);
}

static void flops_are_two_a_multiplication_and_the_first_layer_has_no_input_gradient(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_model m = model_of(by_hand_vgg8(&h), &arena);
    const dml_layer *conv1 = layer_called(&m, "conv1"), *conv2 = layer_called(&m, "conv2"),
                    *fc2 = layer_called(&m, "fc2");
    DML_CHECK_EQ(2 * 9 * 64 * 28 * 28, conv1->flops[0]);
    DML_CHECK_EQ(0, conv1->flops[1]);
    DML_CHECK_EQ(conv1->flops[0], conv1->flops[2]);
    DML_CHECK_EQ(2 * 9 * 64 * 64 * 28 * 28, conv2->flops[1]);
    DML_CHECK_EQ(2 * 512 * 10, fc2->flops[2]);
    DML_CHECK(!conv1->back && layer_called(&m, "bn1")->back);
    dml_arena_free(&arena);
}

static void stages_may_end_anywhere_but_before_another_branch_and_the_loss(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_model m = model_of(by_hand_resnet(&h, 3, 3), &arena);
    const char *alone[] = {"conv0", "relu0", "block1.add", "block1.relu2", "pool", "flatten"};
    const char *legal[] = {"block1.conv1", "block1.bn2", "block4.short", "block4.relu1"};
    const char *not_legal[] = {"block4.bn2", "fc", "loss"};
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
        if (!layer_called(&m, alone[i])->ends_alone) fail_msg("'%s' crosses alone", alone[i]);
    for (size_t i = 0; i < sizeof legal / sizeof *legal; i++)
        if (!layer_called(&m, legal[i])->may_end_stage || layer_called(&m, legal[i])->ends_alone)
            fail_msg("'%s' may end a stage, with a skip", legal[i]);
    for (size_t i = 0; i < sizeof not_legal / sizeof *not_legal; i++)
        if (layer_called(&m, not_legal[i])->may_end_stage)
            fail_msg("'%s' may not end a stage", not_legal[i]);
    dml_arena_free(&arena);
}

/* ---- initial values ---- */

typedef struct statistics {
    double mean, deviation, least, most;
} statistics;

static statistics init_statistics(const dml_spec *spec, const dml_param *p)
{
    float *x = malloc((size_t)p->elems * sizeof *x);
    dml_param_init(spec, p, x);
    statistics s = {.least = INFINITY, .most = -INFINITY};
    for (int64_t i = 0; i < p->elems; i++) {
        s.mean += (double)x[i] / (double)p->elems;
        s.least = fmin(s.least, (double)x[i]);
        s.most = fmax(s.most, (double)x[i]);
    }
    for (int64_t i = 0; i < p->elems; i++)
        s.deviation += pow((double)x[i] - s.mean, 2) / (double)p->elems;
    s.deviation = sqrt(s.deviation);
    free(x);
    return s;
}

static void near(double want, double got, double tolerance)
{
    if (!(fabs(want - got) <= tolerance)) fail_msg("%g is not %g within %g", got, want, tolerance);
}

static void initial_values_have_the_spread_they_should(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    dml_spec *spec = &h.spec;
    const dml_model m = model_of(by_hand_vgg8(&h), &arena);
    const dml_param *conv = param_called(&m, "conv5.weight"), *fc = param_called(&m, "fc1.weight"),
                    *bias = param_called(&m, "fc1.bias");

    const double bound = 1 / sqrt(2304.0);
    statistics s = init_statistics(spec, fc); /* PyTorch's default */
    near(0, s.mean, bound * 0.01);
    near(bound / sqrt(3), s.deviation, bound * 0.01);
    near(-bound, s.least, bound * 1e-3);
    near(bound, s.most, bound * 1e-3);
    s = init_statistics(spec, bias);
    near(bound, s.most, bound * 0.05);

    spec->model.init = DML_INIT_KAIMING_NORMAL;
    const double he = sqrt(2.0 / (9 * 256));
    s = init_statistics(spec, conv);
    near(0, s.mean, he * 0.01);
    near(he, s.deviation, he * 0.01);
    DML_CHECK(s.most > 4 * he && s.most < 6 * he);
    near(bound / sqrt(3), init_statistics(spec, fc).deviation, bound * 0.01);

    spec->model.init = DML_INIT_XAVIER_UNIFORM;
    near(sqrt(6.0 / (2304 + 512)), init_statistics(spec, fc).most, 1e-4);
    near(0, init_statistics(spec, bias).most, 0);

    s = init_statistics(spec, param_called(&m, "bn1.weight"));
    near(1, s.least, 0);
    near(1, s.most, 0);
    near(0, init_statistics(spec, param_called(&m, "bn1.bias")).most, 0);
    dml_arena_free(&arena);
}

static void initial_values_depend_on_seed_and_name_alone(void **state)
{
    (void)state;
    by_hand h;
    by_hand_mlp(&h);
    dml_param p = {
        .name = "fc1.weight", .layer = 0, .rank = 2, .dim = {5, 7, 1, 1}, .elems = 35, .fan_in = 7};
    float a[35], b[35], prefix[10];
    dml_param_init(&h.spec, &p, a);
    p.layer = 3;
    dml_param_init(&h.spec, &p, b);
    DML_CHECK(memcmp(a, b, sizeof a) == 0);
    p.elems = 10; /* an element does not depend on how many there are */
    dml_param_init(&h.spec, &p, prefix);
    DML_CHECK(memcmp(a, prefix, sizeof prefix) == 0);
    p.elems = 35;
    p.name = "fc2.weight";
    dml_param_init(&h.spec, &p, b);
    DML_CHECK(memcmp(a, b, sizeof a) != 0);
    p.name = "fc1.weight";
    h.spec.run.seed++;
    dml_param_init(&h.spec, &p, b);
    DML_CHECK(memcmp(a, b, sizeof a) != 0);
}

static void a_backend_without_a_kernel_is_named_before_training(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_model m = model_of(by_hand_mlp(&h), &arena);
    const dml_kernel_table none = {0};
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE,
                    "backend 'toy' has no kernel 'linear_fwd', which fc1 needs",
                    dml_model_check_kernels(&m, &none, "toy"));
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_models_have_their_known_parameter_counts),
        cmocka_unit_test(vgg8_has_the_shapes_of_the_paper),
        cmocka_unit_test(resnet20_halves_its_images_twice),
        cmocka_unit_test(flops_are_two_a_multiplication_and_the_first_layer_has_no_input_gradient),
        cmocka_unit_test(stages_may_end_anywhere_but_before_another_branch_and_the_loss),
        cmocka_unit_test(initial_values_have_the_spread_they_should),
        cmocka_unit_test(initial_values_depend_on_seed_and_name_alone),
        cmocka_unit_test(a_backend_without_a_kernel_is_named_before_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
