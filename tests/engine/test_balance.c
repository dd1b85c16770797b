/* tests/engine/test_balance.c - entropy by hand, shares against all shares, speeds from measured loads. */
#include "tests/support/test.h"

#include "engine/balance.h"
#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>

#define FLOWS DML_SOURCE_DIR "/tests/specs/flows.yaml"

static void near(double want, double got)
{
    if (!(fabs(want - got) <= 1e-12 * fabs(want) + 1e-15))
        fail_msg("%.17g is not %.17g", got, want);
}

/* 5, 5 and 10 of 20: - (2 x 1/4 ln 1/4 + 1/2 ln 1/2) / ln 3 = (ln 2 + ln 2 / 2) / ln 3. */
static void entropy_is_one_when_even_and_nothing_when_one_does_all(void **state)
{
    (void)state;
    near(1.0, dml_balance_entropy((const double[]){3, 3, 3}, 3));
    near(1.5 * log(2) / log(3), dml_balance_entropy((const double[]){5, 5, 10}, 3));
    near(0.0, dml_balance_entropy((const double[]){0, 7}, 2));
    near(1.0, dml_balance_entropy((const double[]){7}, 1));
    near(1.0, dml_balance_entropy((const double[]){0, 0}, 2));
}

/* The least possible largest share x time over all ways to deal `left` to workers i .. n - 1, one at least to each. */
static double least(const double *mb_ns, int32_t n, int32_t i, int32_t left)
{
    if (i == n - 1) return left * mb_ns[i];
    double best = INFINITY;
    for (int32_t m = 1; m <= left - (n - 1 - i); m++)
        best = fmin(best, fmax(m * mb_ns[i], least(mb_ns, n, i + 1, left - m)));
    return best;
}

static void shares_equal_the_best_of_all_shares(void **state)
{
    (void)state;
    const uint64_t key = dml_rng_key(3, DML_RNG_TEST, 0);
    for (uint32_t trial = 0; trial < 2000; trial++) {
        uint32_t word[4];
        double mb_ns[5];
        int32_t share[5], all = 0;
        dml_rng_block(key, 0, trial, word);
        const int32_t n = 1 + (int32_t)(word[0] % 5), mbs = n + (int32_t)(word[1] % 12);
        double longest = 0.0;
        for (int32_t i = 0; i < n; i++) {
            uint32_t more[4];
            dml_rng_block(key, 1 + (uint64_t)i, trial, more);
            mb_ns[i] = 1.0 + (double)(more[0] % 64); /* ties are common */
        }
        dml_balance_shares(mb_ns, n, mbs, share);
        for (int32_t i = 0; i < n; i++) {
            DML_CHECK(share[i] >= 1);
            all += share[i];
            longest = fmax(longest, share[i] * mb_ns[i]);
        }
        DML_CHECK_EQ(mbs, all);
        near(least(mb_ns, n, 0, mbs), longest);
    }
}

static void one_of_three_at_half_speed_gets_half(void **state)
{
    (void)state;
    int32_t share[3];
    dml_balance_shares((const double[]){10, 10, 20}, 3, 15, share);
    DML_CHECK_EQ(6, share[0]);
    DML_CHECK_EQ(6, share[1]);
    DML_CHECK_EQ(3, share[2]);
}

/* ---- speeds ---- */

typedef struct fixture {
    dml_spec spec;
    dml_plan plan;
    dml_arena arena;
    dml_report_load load[4];
} fixture;

static void open_plan(fixture *f, const char *const *overrides, int32_t n)
{
    *f = (fixture){0};
    DML_CHECK_OK(dml_spec_load(FLOWS, overrides, n, &f->spec));
    DML_CHECK_OK(dml_plan_make(&f->spec, &f->plan));
}

static void close_plan(fixture *f)
{
    dml_plan_free(&f->plan);
    dml_spec_free(&f->spec);
    dml_arena_free(&f->arena);
}

static void took(fixture *f, int32_t worker, int32_t stage, int64_t fwd_ns, int64_t bwd_ns)
{
    dml_report_load *l = &f->load[worker];
    l->chunk[l->n_chunks++] =
        (dml_report_chunk){.chunk = stage, .fwd_ns = fwd_ns, .bwd_ns = bwd_ns, .step_ns = 700};
}

/* Delays say what a stage takes: 3 ms; who takes 6 is half as fast. */
static void where_delays_say_the_times_a_worker_that_takes_longer_is_slow(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "model.layers=[{delay: {forward: 1ms, input: 1ms, weight: 1ms}}, {linear: 4}]",
        "parallelism.dp=2"};
    fixture f;
    dml_measured m;
    open_plan(&f, overrides, 2);
    const int64_t unit_ns = 3 * INT64_C(1000000);
    took(&f, 0, 0, unit_ns / 3, unit_ns * 2 / 3);
    took(&f, 1, 0, unit_ns * 2 / 3, unit_ns * 4 / 3);
    DML_CHECK(dml_balance_measure(&f.plan, f.load, &f.arena, &m));
    DML_CHECK(fabs(m.speed[0] - 1.0) < 1e-3 && fabs(m.speed[1] - 0.5) < 1e-3);
    near(6.0 * (double)unit_ns, m.load_ns[0]); /* six micro-batches of twelve */
    near(12.0 * (double)unit_ns, m.load_ns[1]);
    DML_CHECK(!m.costs);
    close_plan(&f);
}

/* Nobody knows what products take here: of two holders the faster counts as speed 1, and stages take what they took. */
static void elsewhere_replicas_differ_by_device_and_stages_by_layers(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "model.layers=[{linear: 16}, {linear: 16}, {linear: 16}, {linear: 4}]",
        "parallelism.stages=[{workers: [0, 1]}, {workers: [2]}]", "parallelism.split=[2, 2]"};
    fixture f;
    dml_measured m;
    open_plan(&f, overrides, 3);
    took(&f, 0, 0, 1000, 2000);
    took(&f, 1, 0, 2000, 4000);
    took(&f, 2, 1, 5000, 7000);
    DML_CHECK(dml_balance_measure(&f.plan, f.load, &f.arena, &m));
    near(1.0, m.speed[0]);
    near(0.5, m.speed[1]);
    near(1.0, m.speed[2]);
    int64_t stage_ns[2] = {0, 0}, step_ns = 0;
    for (int32_t i = 0; i < f.plan.model.n_layers; i++) {
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            stage_ns[i >= 2] += dml_costs_ns(m.costs, i, 2, pass);
        step_ns += m.costs->step_ns[i];
    }
    DML_CHECK(llabs(stage_ns[0] - 3000) <= 6);
    DML_CHECK(llabs(stage_ns[1] - 12000) <= 6);
    DML_CHECK(step_ns > 1390 && step_ns <= 1400); /* 700 of each stage, dealt out by parameters */
    close_plan(&f);
}

static void a_chunk_that_did_not_run_says_nothing(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.dp=2"};
    fixture f;
    dml_measured m;
    open_plan(&f, overrides, 1);
    took(&f, 0, 0, 1000, 2000);
    took(&f, 1, 0, 0, 0);
    DML_CHECK(!dml_balance_measure(&f.plan, f.load, &f.arena, &m));
    close_plan(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entropy_is_one_when_even_and_nothing_when_one_does_all),
        cmocka_unit_test(shares_equal_the_best_of_all_shares),
        cmocka_unit_test(one_of_three_at_half_speed_gets_half),
        cmocka_unit_test(where_delays_say_the_times_a_worker_that_takes_longer_is_slow),
        cmocka_unit_test(elsewhere_replicas_differ_by_device_and_stages_by_layers),
        cmocka_unit_test(a_chunk_that_did_not_run_says_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
