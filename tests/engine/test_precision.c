/* Training in less than float: exact mode keeps its promise in every precision, fp16's loss scale moves as
 * PyTorch's does, and a loss comes down as far as in float. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/update.h"

#include <math.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define MLP  DML_SOURCE_DIR "/tests/specs/tiny-mlp.yaml"

static const layout layouts[] = {
    {"1", "1", "1f1b", "1"}, {"4", "1", "gpipe", "1"},         {"2", "2", "1f1b", "1"},
    {"1", "4", "1f1b", "1"}, {"3", "2", "gpipe_reverse", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const char *const backends[] = {"parallelism.backend=ref", "parallelism.backend=cpu"};

static void bf16_ends_with_the_same_bits_on_every_layout(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        const char *const extra[] = {"training.precision=bf16", backends[b], NULL};
        const run_result r = expect_all_same(TINY, layouts, LAYOUTS, extra);
        DML_CHECK(r.step[0].loss_scale == 1.0);
    }
}

static void fp16_does_with_steps_skipped_on_the_way(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        const char *const extra[] = {"training.precision=fp16", "training.max_steps=8", backends[b],
                                     NULL};
        const run_result r = expect_all_same(TINY, layouts, LAYOUTS, extra);
        DML_CHECK(r.step[0].loss_scale == 65536.0);
        int32_t skipped = 0;
        double scale = 65536.0;
        for (int64_t i = 0; i < r.steps; i++) {
            DML_CHECK(r.step[i].loss_scale == scale);
            if (r.step[i].verdict != DML_SKIP) continue;
            skipped++;
            scale /= 2.0;
        }
        DML_CHECK(skipped >= 1 && skipped < r.steps); /* 65536 (p - 1) is beyond fp16 */
    }
}

static void a_fixed_scale_stays_and_changes_no_weight_by_much(void **state)
{
    (void)state;
    const char *const one[] = {"training.precision=fp16", "training.loss_scale=1", NULL};
    const char *const large[] = {"training.precision=fp16", "training.loss_scale=1024", NULL};
    const run_result a = run_layout(TINY, &layouts[0], one),
                     b = run_layout(TINY, &layouts[2], large);
    DML_CHECK(b.step[5].loss_scale == 1024.0);
    DML_CHECK(fabs(a.eval.loss - b.eval.loss) < 1e-2 * a.eval.loss);
    DML_CHECK(fabs(a.step[0].grad_norm - b.step[0].grad_norm) < 1e-2 * a.step[0].grad_norm);
}

static void tf32_is_float_where_nothing_rounds_factors(void **state)
{
    (void)state;
    const char *const extra[] = {"training.precision=tf32", NULL};
    const run_result a = run_layout(TINY, &layouts[0], NULL),
                     b = run_layout(TINY, &layouts[0], extra);
    expect_same(&a, &b, &layouts[0]);
}

static void a_scale_grows_after_2000_good_steps_and_halves_after_a_bad_one(void **state)
{
    (void)state;
    dml_spec spec = {.training.precision = DML_PRECISION_FP16};
    dml_loss_scale s = dml_loss_scale_of(&spec);
    for (int i = 0; i < 1999; i++)
        DML_CHECK(!dml_loss_scale_move(&s, DML_COMMIT));
    DML_CHECK(s.scale == 65536.0f);
    DML_CHECK(dml_loss_scale_move(&s, DML_SKIP)); /* and the count begins again */
    DML_CHECK(s.scale == 32768.0f);
    for (int i = 0; i < 2000; i++)
        dml_loss_scale_move(&s, DML_COMMIT);
    DML_CHECK(s.scale == 65536.0f);
    for (int i = 0; i < 16; i++)
        DML_CHECK(dml_loss_scale_move(&s, DML_SKIP));
    DML_CHECK(s.scale == 1.0f);
    DML_CHECK(!dml_loss_scale_move(&s, DML_SKIP)); /* the scale is not what is wrong */
    DML_CHECK(s.scale == 1.0f);
    spec.training.loss_scale = 256.0f;
    s = dml_loss_scale_of(&spec);
    DML_CHECK(!dml_loss_scale_move(&s, DML_SKIP) && s.scale == 256.0f);
    spec.training.precision = DML_PRECISION_BF16;
    DML_CHECK(dml_loss_scale_of(&spec).scale == 1.0f);
}

static void poison(void *context, const dml_chunk *chunk, bool after)
{
    (void)context;
    if (after || chunk->param_begin != 0) return;
    chunk->w[0] = NAN;
    dml_chunk_weights_written(chunk);
}

/* 16 halvings down to 1, and then the usual number of bad steps. */
static void weights_that_are_no_numbers_end_the_run_when_the_scale_is_down(void **state)
{
    (void)state;
    const char *const overrides[] = {"training.precision=fp16", "training.max_steps=60", NULL};
    const run_result r = run_threads_hooked(TINY, overrides, (run_hooks){.inspect = poison});
    DML_CHECK_EQ(DML_ERR_DIVERGED, r.err);
    DML_CHECK_EQ(16 + 6, r.steps);
}

static double last_loss(const char *precision)
{
    const char *const extra[] = {precision, "parallelism.backend=cpu", NULL};
    const run_result r = run_layout(MLP, &layouts[0], extra);
    return r.step[r.steps - 1].loss;
}

static void an_mlp_learns_as_well_as_in_float(void **state)
{
    (void)state;
    const double want = last_loss("training.precision=fp32");
    const double bf16 = last_loss("training.precision=bf16");
    const double fp16 = last_loss("training.precision=fp16");
    print_message("fp32 %.4f, bf16 %.4f, fp16 %.4f\n", want, bf16, fp16);
    DML_CHECK(fabs(bf16 - want) < 0.05 * want);
    DML_CHECK(fabs(fp16 - want) < 0.05 * want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_ends_with_the_same_bits_on_every_layout),
        cmocka_unit_test(fp16_does_with_steps_skipped_on_the_way),
        cmocka_unit_test(a_fixed_scale_stays_and_changes_no_weight_by_much),
        cmocka_unit_test(tf32_is_float_where_nothing_rounds_factors),
        cmocka_unit_test(a_scale_grows_after_2000_good_steps_and_halves_after_a_bad_one),
        cmocka_unit_test(weights_that_are_no_numbers_end_the_run_when_the_scale_is_down),
        cmocka_unit_test(an_mlp_learns_as_well_as_in_float),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
