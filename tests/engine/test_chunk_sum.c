/* Sums by numerics: what they are called, what memory they take, and that integer ones add up over replicas. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/nets_by_hand.h"

static void a_row_is_called_as_the_spec_calls_it(void **state)
{
    (void)state;
    static const char *const names[] = {"fast", "exact", "exact_wide"};
    for (int i = 0; i < 3; i++) {
        char set[64];
        snprintf(set, sizeof set, "training.numerics=%s", names[i]);
        const char *const overrides[] = {set};
        dml_spec s;
        DML_CHECK_OK(dml_spec_load(DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml", overrides, 1, &s));
        assert_string_equal(names[i], dml_sum_info_of(s.training.numerics)->name);
        dml_spec_free(&s);
    }
}

static void wide_sums_take_a_word_more_and_no_scales(void **state)
{
    (void)state;
    by_hand h;
    net_cnn(&h);
    dml_chunk_sizes size[2];
    for (int wide = 0; wide < 2; wide++) {
        h.spec.training.numerics = wide ? DML_EXACT_WIDE : DML_EXACT;
        rig r;
        rig_open(&r, "ref", &h.spec, 1, NULL, 0);
        const dml_chunk *c = &r.chunk[0];
        DML_CHECK_EQ((1 + wide) * c->arena_elems, c->acc_elems);
        DML_CHECK((c->exponent == NULL) == wide);
        size[wide] = c->size;
        if (wide) DML_CHECK_EQ(size[0].shared + 8 * c->arena_elems, size[1].shared);
        DML_CHECK_EQ(size[0].private_, size[wide].private_);
        rig_close(&r);
    }
}

static void each_doubling_of_micro_batches_halves_the_bound(void **state)
{
    (void)state;
    static const struct {
        int32_t mbs, log2;
    } row[] = {{1, 34}, {2, 33}, {3, 32}, {64, 28}, {65, 27}, {65536, 18}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        DML_CHECK_EQ(row[i].log2, dml_sum_wide_log2(&(dml_chunk){.mbs = row[i].mbs}));
}

static void wide_sums_refuse_replicas_that_would_overflow_the_low_word(void **state)
{
    (void)state;
    by_hand h;
    net_mlp(&h);
    h.spec.training.numerics = DML_EXACT_WIDE;
    h.spec.parallelism.data_parallel_size = 256;
    DML_CHECK_OK(dml_sum_check(&h.spec));
    h.spec.parallelism.data_parallel_size = 257;
    dml_arena arena = {0};
    dml_model model;
    dml_chunk c;
    DML_CHECK_OK(dml_model_make(&h.spec, &arena, &model));
    DML_CHECK_FAILS(DML_ERR_SPEC, "at most 256 replicas, not 257",
                    dml_chunk_plan(&h.spec, &model, 0, model.n_layers, false, &arena, &c));
    h.spec.training.numerics = DML_EXACT;
    DML_CHECK_OK(dml_sum_check(&h.spec));
    dml_arena_free(&arena);
}

/* One worker against two that share the micro-batches: words added as the reduction does. */
static void integer_words_add_up_over_replicas(void **state)
{
    (void)state;
    by_hand h;
    static const dml_numerics integer[] = {DML_EXACT, DML_EXACT_WIDE};
    for (int n = 0; n < 2; n++) {
        net_cnn(&h);
        h.spec.training.numerics = integer[n];
        h.spec.training.num_microbatches = 5;
        rig whole, part[2];
        rig_open(&whole, "ref", &h.spec, 1, NULL, 0);
        rig_step(&whole);
        for (int i = 0; i < 2; i++) {
            rig_open(&part[i], "ref", &h.spec, 1, NULL, 0);
            rig_begin(&part[i]);
            for (int32_t mb = 4 - i; mb >= 0; mb -= 2) {
                rig_forward(&part[i], mb);
                rig_backward(&part[i], mb);
            }
        }
        for (int64_t i = 0; i < part[0].chunk[0].acc_elems; i++)
            part[0].chunk[0].acc[i] += part[1].chunk[0].acc[i];
        rig_begin(&part[1]); /* a replica that has nothing to do in a step adds nothing to it */
        for (int64_t i = 0; i < part[1].chunk[0].acc_elems; i++)
            DML_CHECK_EQ(0, part[1].chunk[0].acc[i]);
        for (int32_t p = 0; p < whole.model.n_params; p++)
            if (memcmp(rig_grad(&whole, p), rig_grad(&part[0], p),
                       (size_t)whole.model.param[p].elems * sizeof(float)) != 0)
                fail_msg("%s: %s differs", dml_sum_info_of(integer[n])->name,
                         whole.model.param[p].name);
        rig_close(&whole);
        rig_close(&part[0]);
        rig_close(&part[1]);
    }
}

/* Integer sums are the float sum up to its rounding. */
static void the_three_sums_are_close(void **state)
{
    (void)state;
    by_hand h[3];
    rig r[3];
    for (int n = 0; n < 3; n++) {
        net_cnn(&h[n]);
        h[n].spec.training.numerics = (dml_numerics)n;
        rig_open(&r[n], "cpu", &h[n].spec, 1, NULL, 0);
        rig_step(&r[n]);
    }
    for (int32_t p = 0; p < r[0].model.n_params; p++)
        for (int64_t i = 0; i < r[0].model.param[p].elems; i++) {
            const float fast = rig_grad(&r[0], p)[i], exact = rig_grad(&r[1], p)[i],
                        wide = rig_grad(&r[2], p)[i];
            DML_CHECK(fabsf(wide - fast) <= 1e-5f * (1 + fabsf(fast)));
            DML_CHECK(fabsf(wide - exact) <= 1e-6f * (1 + fabsf(exact)));
        }
    for (int n = 0; n < 3; n++)
        rig_close(&r[n]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_called_as_the_spec_calls_it),
        cmocka_unit_test(wide_sums_take_a_word_more_and_no_scales),
        cmocka_unit_test(each_doubling_of_micro_batches_halves_the_bound),
        cmocka_unit_test(wide_sums_refuse_replicas_that_would_overflow_the_low_word),
        cmocka_unit_test(integer_words_add_up_over_replicas),
        cmocka_unit_test(the_three_sums_are_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
