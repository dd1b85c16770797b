/* Judge, vote, commit: exact scales grow once and only when they must; non-finite steps are skipped; every
 * micro-batch counts exactly once. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/run_threads.h"

#include "engine/update.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static dml_vote vote_of(int64_t nonfinite, int64_t redo, int64_t not_once)
{
    return (dml_vote){.nonfinite = nonfinite, .redo = redo, .not_once = not_once};
}

static void a_clean_vote_commits(void **state)
{
    (void)state;
    const dml_vote v = vote_of(0, 0, 0);
    dml_verdict verdict;
    DML_CHECK_OK(dml_vote_verdict(&v, false, &verdict));
    DML_CHECK_EQ(DML_COMMIT, verdict);
}

static void non_finite_wins_over_wrong_scales(void **state)
{
    (void)state;
    const dml_vote v = vote_of(1, 3, 0);
    dml_verdict verdict;
    DML_CHECK_OK(dml_vote_verdict(&v, false, &verdict));
    DML_CHECK_EQ(DML_SKIP, verdict);
}

static void scales_may_be_wrong_once_only(void **state)
{
    (void)state;
    const dml_vote v = vote_of(0, 1, 0);
    dml_verdict verdict;
    DML_CHECK_OK(dml_vote_verdict(&v, false, &verdict));
    DML_CHECK_EQ(DML_REDO, verdict);
    DML_CHECK_FAILS(DML_ERR_BUG, "second time", dml_vote_verdict(&v, true, &verdict));
}

static void a_micro_batch_counted_twice_is_our_bug(void **state)
{
    (void)state;
    const dml_vote v = vote_of(0, 0, 2);
    dml_verdict verdict;
    DML_CHECK_FAILS(DML_ERR_BUG, "exactly once", dml_vote_verdict(&v, false, &verdict));
}

static void gradients_beyond_wide_sums_end_the_run_and_say_what_to_do(void **state)
{
    (void)state;
    dml_vote v = {.too_large = 2};
    dml_verdict verdict;
    DML_CHECK_FAILS(DML_ERR_DIVERGED, "training.numerics exact has no such bound",
                    dml_vote_verdict(&v, false, &verdict));
    v.nonfinite = 1; /* the step is skipped before its size is asked for */
    DML_CHECK_OK(dml_vote_verdict(&v, false, &verdict));
    DML_CHECK_EQ(DML_SKIP, verdict);
}

/* Sets every exact exponent so that the first step must be redone: too small (overflow), or too large (too
 * few bits are left). */
typedef struct forced {
    int32_t exponent;
    int32_t after; /* of the first parameter, at the end */
} forced;

static void force(void *context, const dml_chunk *chunk, bool after)
{
    forced *f = context;
    for (int32_t i = 0; i < chunk->param_end - chunk->param_begin; i++) {
        if (!after) chunk->exponent[i] = f->exponent;
        if (chunk->param_begin + i == 0) f->after = chunk->exponent[i];
    }
}

static run_result run_forced(int32_t exponent, const char *pp, const char *dp, forced *f)
{
    char a[64], b[64];
    snprintf(a, sizeof a, "parallelism.pipeline_parallel_size=%s", pp);
    snprintf(b, sizeof b, "parallelism.data_parallel_size=%s", dp);
    const char *const overrides[] = {a, b, NULL};
    *f = (forced){.exponent = exponent};
    const run_result r =
        run_threads_hooked(TINY, overrides, (run_hooks){.inspect = force, .context = f});
    if (r.err != DML_ERR_OK) fail_msg("E = %d: %s", exponent, r.trail);
    return r;
}

static void a_redone_step_gives_the_same_bits_on_every_layout(void **state)
{
    (void)state;
    static const int32_t exponents[] = {-60, 90}; /* overflow; underflow */
    for (size_t i = 0; i < sizeof exponents / sizeof *exponents; i++) {
        forced f, g;
        const run_result one = run_forced(exponents[i], "1", "1", &f);
        const run_result four = run_forced(exponents[i], "2", "2", &g);
        DML_CHECK(one.weights_hash == four.weights_hash);
        DML_CHECK_EQ(f.after, g.after);
        DML_CHECK(abs(f.after) < 40); /* it left the forced value for the gradients' own size */
        DML_CHECK_EQ(6, one.steps);
        DML_CHECK(memcmp(&one.eval.loss, &four.eval.loss, sizeof(double)) == 0);
    }
}

static void poison(void *context, const dml_chunk *chunk, bool after)
{
    (void)context;
    if (!after && chunk->param_begin == 0) chunk->w[0] = NAN; /* fp32: there is no copy of it */
}

static void weights_that_stay_non_finite_end_the_run_as_diverged(void **state)
{
    (void)state;
    static const char *const numerics[] = {"training.numerics=exact", "training.numerics=fast",
                                           "training.numerics=exact_wide"};
    for (int i = 0; i < 3; i++) {
        const char *const overrides[] = {numerics[i], "training.max_steps=20",
                                         "parallelism.data_parallel_size=2", NULL};
        const run_result r = run_threads_hooked(TINY, overrides, (run_hooks){.inspect = poison});
        DML_CHECK_EQ(DML_ERR_DIVERGED, r.err);
        DML_CHECK(strstr(r.trail, "not finite"));
        DML_CHECK(r.steps < 20);
        for (int64_t s = 0; s < r.steps; s++)
            DML_CHECK_EQ(DML_SKIP, r.step[s].verdict);
    }
}

/* What a chunk's vote says when the largest |gradient| of its first parameter is `max`. */
static dml_vote judge_maximum(rig *r, float max)
{
    dml_chunk *c = &r->chunk[0];
    void *device = test_calloc(1, (size_t)dml_update_device_bytes(c)),
         *host = test_calloc(1, (size_t)dml_update_host_bytes(c));
    dml_update u;
    dml_update_init(&u, c, true, device, host, &r->arena);
    memcpy(&u.max_host[0], &max, sizeof max);
    const int32_t no_rows[RIG_MBS] = {0};
    dml_vote vote = {0};
    dml_update_judge(&u, 0, no_rows, &vote);
    test_free(device);
    test_free(host);
    return vote;
}

/* 8 micro-batches leave 2^31 to each. */
static void wide_sums_have_their_bound_at_a_power_of_two(void **state)
{
    (void)state;
    static const char *const wide[] = {"training.numerics=exact_wide"};
    dml_spec spec;
    DML_CHECK_OK(dml_spec_load(TINY, wide, 1, &spec));
    rig r;
    rig_open(&r, "ref", &spec, 1, NULL, 0);
    static const struct {
        float max;
        int64_t too_large, nonfinite;
    } row[] = {{0.0f, 0, 0},    {0x1p-149f, 0, 0}, {0x1.fffffep30f, 0, 0}, {0x1p31f, 1, 0},
               {FLT_MAX, 1, 0}, {INFINITY, 0, 1},  {(float)NAN, 0, 1}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const dml_vote v = judge_maximum(&r, row[i].max);
        if (v.too_large != row[i].too_large || v.nonfinite != row[i].nonfinite || v.redo != 0)
            fail_msg("%a: too large %" PRId64 ", not finite %" PRId64, (double)row[i].max,
                     v.too_large, v.nonfinite);
    }
    rig_close(&r);
    dml_spec_free(&spec);
}

/* Weights that make every gradient before the last layer finite but huge. */
static void blow_up(void *context, const dml_chunk *chunk, bool after)
{
    const dml_model *m = chunk->model;
    const int32_t last = m->n_params - 2; /* the last layer's weight; its bias follows */
    float *w = dml_chunk_param(chunk, last);
    for (int64_t i = 0; w && !after && i < m->param[last].elems; i++)
        w[i] *= *(const float *)context;
}

static void huge_gradients_diverge_with_wide_sums_and_not_with_exact(void **state)
{
    (void)state;
    static const struct {
        const char *numerics;
        float factor;
        dml_err err;
    } row[] = {
        {"training.numerics=exact_wide", 0x1p20f, DML_ERR_OK},
        {"training.numerics=exact_wide", 0x1p40f, DML_ERR_DIVERGED},
        {"training.numerics=exact", 0x1p40f, DML_ERR_OK},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        float factor = row[i].factor;
        const char *const overrides[] = {row[i].numerics,
                                         "training.max_steps=1",
                                         "optimizer.lr=1e-30",
                                         "parallelism.pipeline_parallel_size=2",
                                         "parallelism.data_parallel_size=2",
                                         NULL};
        const run_result r = run_threads_hooked(
            TINY, overrides, (run_hooks){.inspect = blow_up, .context = &factor});
        if (r.err != row[i].err) fail_msg("%s: %s", row[i].numerics, r.trail);
        if (r.err != DML_ERR_OK) DML_CHECK(strstr(r.trail, "beyond what training.numerics"));
    }
}

static void ask_to_stop(void *context, int64_t step, dml_control *control)
{
    if (step == *(const int64_t *)context) atomic_store(&control->stop, 1);
}

static void a_stop_is_agreed_on_by_all_workers(void **state)
{
    (void)state;
    int64_t at = 3;
    const char *const overrides[] = {"training.max_steps=200",
                                     "parallelism.pipeline_parallel_size=2",
                                     "parallelism.data_parallel_size=2", NULL};
    const run_result r =
        run_threads_hooked(TINY, overrides, (run_hooks){.step = ask_to_stop, .context = &at});
    DML_CHECK_EQ(DML_ERR_OK, r.err);
    DML_CHECK_EQ(4, r.steps); /* the vote of the step after next saw it */
    DML_CHECK(!r.has_eval);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clean_vote_commits),
        cmocka_unit_test(non_finite_wins_over_wrong_scales),
        cmocka_unit_test(scales_may_be_wrong_once_only),
        cmocka_unit_test(a_micro_batch_counted_twice_is_our_bug),
        cmocka_unit_test(gradients_beyond_wide_sums_end_the_run_and_say_what_to_do),
        cmocka_unit_test(wide_sums_have_their_bound_at_a_power_of_two),
        cmocka_unit_test(huge_gradients_diverge_with_wide_sums_and_not_with_exact),
        cmocka_unit_test(a_redone_step_gives_the_same_bits_on_every_layout),
        cmocka_unit_test(weights_that_stay_non_finite_end_the_run_as_diverged),
        cmocka_unit_test(a_stop_is_agreed_on_by_all_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
