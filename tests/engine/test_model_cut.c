/* What crosses when a model is cut: by hand, and against the layers' own reading. */
#include "tests/support/nets_by_hand.h"
#include "tests/support/test.h"

#include "engine/layers/layer.h"
#include "engine/model.h"

static dml_model model_of(const dml_spec *spec, dml_arena *arena)
{
    dml_model m;
    DML_CHECK_OK(dml_model_make(spec, arena, &m));
    return m;
}

static void add_linear(by_hand *h, const char *name)
{
    by_hand_linear(h, name, 8);
}

/* Layers a to e in a chain, then adds of c's, b's and a's output on top of what there is. */
static const dml_spec *nested_adds(by_hand *h)
{
    static const char *const down[] = {"a", "b", "c"}, *const up[] = {"addc", "addb", "adda"};
    int32_t output[3];
    by_hand_begin(h, 8, 0, 0, 8);
    for (int i = 0; i < 3; i++) {
        add_linear(h, down[i]);
        output[i] = h->last;
    }
    add_linear(h, "d");
    for (int i = 2; i >= 0; i--)
        by_hand_add(h, up[2 - i], output[i]);
    add_linear(h, "e");
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

static void check_skip(const dml_model *m, int32_t k, const char *value, int32_t from, int32_t to,
                       int32_t back)
{
    const dml_model_skip *s = &m->cut->skip[k];
    assert_string_equal(value, m->layer[s->value].spec->name);
    DML_CHECK_EQ(from, s->from);
    DML_CHECK_EQ(to, s->to);
    DML_CHECK_EQ(back, s->back);
    DML_CHECK_EQ(8, s->elems);
}

static void a_u_of_four_stages_has_a_skip_for_each_value_that_passes_a_stage(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    dml_model m = model_of(nested_adds(&h), &arena);
    /* a | b c d addc | addb | adda e loss */
    DML_CHECK_OK(dml_model_cut(&m, 4, (const int32_t[]){0, 1, 5, 6, 9}, &arena));
    DML_CHECK_EQ(2, m.cut->n_skips);
    check_skip(&m, 0, "b", 1, 2, 1);
    check_skip(&m, 1, "a", 0, 3, 1); /* stage 1 has it, too: as its input */
    dml_arena_free(&arena);
}

static void a_gradient_goes_down_through_all_who_have_the_value(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 8, 0, 0, 8);
    add_linear(&h, "a");
    const int32_t a = h.last;
    for (int i = 0; i < 4; i++) {
        char add[BY_HAND_NAME], fc[BY_HAND_NAME];
        snprintf(fc, sizeof fc, "fc%d", i);
        snprintf(add, sizeof add, "add%d", i);
        add_linear(&h, fc);
        if (i != 1) by_hand_add(&h, add, a);
    }
    dml_model m = model_of(by_hand_end(&h, DML_LAYER_CROSS_ENTROPY), &arena);
    /* a fc0 | add0 | fc1 | fc2 add2 | fc3 add3 loss */
    DML_CHECK_OK(dml_model_cut(&m, 5, (const int32_t[]){0, 2, 3, 4, 6, 9}, &arena));
    DML_CHECK_EQ(3, m.cut->n_skips);
    check_skip(&m, 0, "a", 0, 1, 0);
    check_skip(&m, 1, "a", 0, 3, 1);
    check_skip(&m, 2, "a", 0, 4, 3);
    dml_arena_free(&arena);
}

static void the_same_bytes_under_another_name_are_the_same_value(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 8, 0, 0, 8);
    add_linear(&h, "a");
    const int32_t a = h.last;
    by_hand_layer(&h, DML_LAYER_FLATTEN, "flat");
    const int32_t flat = h.last;
    add_linear(&h, "b");
    by_hand_add(&h, "add1", a);
    by_hand_layer(&h, DML_LAYER_TANH, "tanh");
    by_hand_add(&h, "add2", flat);
    dml_model m = model_of(by_hand_end(&h, DML_LAYER_CROSS_ENTROPY), &arena);
    /* a flat | b | add1 | tanh | add2 loss: stage 1 has the value as its input, 2 and 4 by skips */
    DML_CHECK_OK(dml_model_cut(&m, 5, (const int32_t[]){0, 2, 3, 4, 5, 7}, &arena));
    DML_CHECK_EQ(2, m.cut->n_skips);
    check_skip(&m, 0, "a", 0, 2, 1);
    check_skip(&m, 1, "a", 0, 4, 2);
    dml_arena_free(&arena);
}

static void the_loaded_batch_stays_with_the_first_stage(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 8, 0, 0, 8);
    by_hand_layer(&h, DML_LAYER_FLATTEN, "flat");
    add_linear(&h, "a");
    by_hand_add(&h, "add", -1);
    add_linear(&h, "b");
    dml_model m = model_of(by_hand_end(&h, DML_LAYER_CROSS_ENTROPY), &arena);
    DML_CHECK(m.layer[0].may_end_stage); /* what crosses is the batch itself */
    DML_CHECK(!m.layer[1].may_end_stage);
    DML_CHECK(m.layer[2].may_end_stage);
    DML_CHECK_FAILS(DML_ERR_BUG, "stage 1 reads the loaded batch",
                    dml_model_cut(&m, 2, (const int32_t[]){0, 2, 5}, &arena));
    static const int32_t list[2] = {2, 2};
    int32_t begin[3];
    h.spec.parallelism.split = DML_SPLIT_LIST;
    h.spec.parallelism.split_list = (int32_t *)(uintptr_t)list;
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "stage 1 would begin at layer 'add', but 'add' reads the loaded batch, which "
                    "only stage 0 has",
                    dml_model_split(&h.spec, &m, 2, false, begin));
    dml_arena_free(&arena);
}

static void a_stage_reads_the_one_before_it(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    dml_model m = model_of(net_wires(&h), &arena);
    int32_t right = 0;
    while (strcmp(m.layer[right].spec->name, "right") != 0)
        right++;
    DML_CHECK(!m.layer[right - 1].may_end_stage);
    DML_CHECK_FAILS(
        DML_ERR_BUG, "stage 1 does not read 'tanh4', with which stage 0 ends",
        dml_model_cut(&m, 3, (const int32_t[]){0, right, right + 1, m.n_layers}, &arena));
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_u_of_four_stages_has_a_skip_for_each_value_that_passes_a_stage),
        cmocka_unit_test(a_gradient_goes_down_through_all_who_have_the_value),
        cmocka_unit_test(the_same_bytes_under_another_name_are_the_same_value),
        cmocka_unit_test(the_loaded_batch_stays_with_the_first_stage),
        cmocka_unit_test(a_stage_reads_the_one_before_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
