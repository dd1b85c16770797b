/* tests/kernels/test_ref.c - the reference against answers known from elsewhere.
 *
 * The suite compares everything with the reference, so what it should be itself is written here by
 * hand: small cases worked out on paper, and Random123's known answers for the dropout stream.
 */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kernels/ref/ref.h"

#include <inttypes.h>
#include <math.h>

#define DIM(...)    \
    (int64_t[])     \
    {               \
        __VA_ARGS__ \
    }

static dml_tensor reals(float *data, int32_t rank, const int64_t dim[])
{
    return dml_tensor_of(data, DML_F32, rank, dim);
}

static void philox_gives_random123s_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t key, hi, lo;
        uint32_t word[4];
    } known[] = {
        /* kat_vectors of Random123: philox4x32 10 */
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t word[4];
        dml_rng_block(known[i].key, known[i].hi, known[i].lo, word);
        assert_memory_equal(known[i].word, word, sizeof word);
    }
}

static void dropout_keeps_what_the_stream_says_and_scales_it(void **state)
{
    (void)state;
    float x[10], y[10];
    for (int i = 0; i < 10; i++)
        x[i] = (float)(i + 1);
    const dml_tensor tx = reals(x, 2, DIM(2, 5)), ty = reals(y, 2, DIM(2, 5));
    const dml_dropout p = {.rate = 0.25f, .key = 42, .first_sample = 6};
    const dml_step_words words = {.step = 9, .loss_scale = 1.0f};
    dml_kctx *k;
    DML_CHECK_OK(dml_ref_kernels.open(NULL, NULL, NULL, &k));
    DML_CHECK_OK(dml_ref_kernels.begin_step(k, &words));
    DML_CHECK_OK(dml_ref_dropout(k, &p, &ty, &tx));
    dml_ref_kernels.close(k);
    for (uint64_t i = 0; i < 10; i++) {
        uint32_t word[4];
        dml_rng_block(42, 9, (6 + i / 5) << 32 | (i % 5) / 4, word);
        const bool kept = (double)(word[i % 5 % 4] >> 8) / 16777216.0 >= 0.25;
        DML_CHECK(y[i] == (kept ? x[i] * (1.0f / 0.75f) : 0.0f));
    }
}

/* Never faster than that: a lower bound holds on any machine. */
static void a_delay_takes_its_time_by_the_pace_of_the_step(void **state)
{
    (void)state;
    DML_CHECK_EQ(1000, dml_paced_ns(1000, 0.0f)); /* nobody said: 1 */
    DML_CHECK_EQ(1000, dml_paced_ns(1000, 1.0f));
    DML_CHECK_EQ(4000, dml_paced_ns(1000, 0.25f));
    DML_CHECK_EQ(250, dml_paced_ns(1000, 4.0f));
    dml_kctx *k;
    DML_CHECK_OK(dml_ref_kernels.open(NULL, NULL, NULL, &k));
    for (int slow = 0; slow < 2; slow++) {
        const dml_step_words words = {.step = slow, .loss_scale = 1.0f, .pace = slow ? 0.25f : 0};
        DML_CHECK_OK(dml_ref_kernels.begin_step(k, &words));
        const int64_t begin_ns = dml_clock_ns();
        DML_CHECK_OK(dml_ref_delay(k, DML_NS_PER_MS));
        DML_CHECK(dml_clock_ns() - begin_ns >= (slow ? 4 : 1) * DML_NS_PER_MS);
    }
    dml_ref_kernels.close(k);
}

/* torch.nn.functional.gelu(x, approximate="tanh") and its derivative, to float's digits. */
static void gelu_has_a_tanh_form(void **state)
{
    (void)state;
    float x[] = {-2.0f, -1.0f, 0.0f, 0.5f, 1.0f, 2.0f}, one[] = {1, 1, 1, 1, 1, 1}, y[6], dx[6];
    const double value[] = {-0.0454023, -0.158808, 0.0, 0.345714, 0.841192, 1.9545977};
    const double slope[] = {-0.0860994, -0.0829641, 0.5, 0.867370, 1.0829641, 1.0860994};
    const dml_tensor tx = reals(x, 1, DIM(6)), t1 = reals(one, 1, DIM(6));
    const dml_tensor ty = reals(y, 1, DIM(6)), tdx = reals(dx, 1, DIM(6));
    DML_CHECK_OK(dml_ref_gelu_tanh_fwd(NULL, &ty, &tx));
    DML_CHECK_OK(dml_ref_gelu_tanh_bwd(NULL, &tdx, &t1, &tx));
    for (int i = 0; i < 6; i++) {
        if (!(fabs((double)y[i] - value[i]) < 2e-6))
            fail_msg("%g at %g", (double)y[i], (double)x[i]);
        if (!(fabs((double)dx[i] - slope[i]) < 2e-6))
            fail_msg("slope %g at %g", (double)dx[i], (double)x[i]);
    }
}

static void a_convolution_slides_its_window(void **state)
{
    (void)state;
    float x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, w[] = {1, 10, 100, 1000}, b[] = {0.5f}, y[4];
    const dml_conv2d p = {{2, 2}, {1, 1}, {0, 0}, {1, 1}, 1};
    const dml_tensor tx = reals(x, 4, DIM(1, 3, 3, 1)), tw = reals(w, 4, DIM(1, 1, 2, 2));
    const dml_tensor tb = reals(b, 1, DIM(1)), ty = reals(y, 4, DIM(1, 2, 2, 1));
    DML_CHECK_OK(dml_ref_conv2d_fwd(NULL, &p, &ty, &tx, &tw, &tb));
    const float want[] = {5421.5f, 6532.5f, 8754.5f, 9865.5f};
    assert_memory_equal(want, y, sizeof y);
}

static void pools_take_the_first_maximum_and_both_averages(void **state)
{
    (void)state;
    float x[] = {4, 4, 2, 6}, y[1];
    int32_t which[1];
    const dml_tensor tx = reals(x, 4, DIM(1, 2, 2, 1)), ty = reals(y, 4, DIM(1, 1, 1, 1));
    const dml_tensor tw = dml_tensor_of(which, DML_I32, 4, DIM(1, 1, 1, 1));
    dml_pool2d p = {{2, 2}, {2, 2}, {0, 0}, true};
    DML_CHECK_OK(dml_ref_max_pool_fwd(NULL, &p, &ty, &tw, &tx));
    DML_CHECK(y[0] == 6.0f && which[0] == 3);
    x[3] = 4.0f;
    DML_CHECK_OK(dml_ref_max_pool_fwd(NULL, &p, &ty, &tw, &tx));
    DML_CHECK(y[0] == 4.0f && which[0] == 0);
    p = (dml_pool2d){{2, 2}, {4, 4}, {1, 1}, true};
    DML_CHECK_OK(dml_ref_avg_pool_fwd(NULL, &p, &ty, &tx));
    DML_CHECK(y[0] == 1.0f); /* 4 of 4 cells, three of them padding */
    p.count_include_pad = false;
    DML_CHECK_OK(dml_ref_avg_pool_fwd(NULL, &p, &ty, &tx));
    DML_CHECK(y[0] == 4.0f);
}

static void batch_norm_centres_and_scales_each_channel(void **state)
{
    (void)state;
    float x[] = {1, 10, 3, 10}, gamma[] = {2, 1}, beta[] = {5, 7}, y[4], mean[2], var[2];
    const dml_tensor tx = reals(x, 2, DIM(2, 2)), ty = reals(y, 2, DIM(2, 2));
    const dml_tensor tg = reals(gamma, 1, DIM(2)), tb = reals(beta, 1, DIM(2));
    const dml_tensor tm = reals(mean, 1, DIM(2)), tv = reals(var, 1, DIM(2));
    DML_CHECK_OK(dml_ref_batch_norm_fwd(NULL, 0.0f + 1e-12f, &ty, &tm, &tv, &tx, &tg, &tb));
    DML_CHECK(mean[0] == 2.0f && mean[1] == 10.0f && var[0] == 1.0f && var[1] == 0.0f);
    DML_CHECK(fabsf(y[0] - 3.0f) < 1e-6f && fabsf(y[2] - 7.0f) < 1e-6f);
    DML_CHECK(y[1] == 7.0f && y[3] == 7.0f);
}

static void losses_of_a_row_worked_out_by_hand(void **state)
{
    (void)state;
    float x[] = {0, 0, 0, 0, 1, 3}, dx[6];
    int32_t labels[] = {2, 0}, correct;
    double loss;
    const dml_tensor tx = reals(x, 2, DIM(2, 3)), td = reals(dx, 2, DIM(2, 3));
    const dml_tensor tl = dml_tensor_of(&loss, DML_F64, 1, DIM(1));
    const dml_tensor tc = dml_tensor_of(&correct, DML_I32, 1, DIM(1));
    const dml_tensor ty = dml_tensor_of(labels, DML_I32, 1, DIM(2));
    DML_CHECK_OK(dml_ref_softmax_xent(NULL, &tl, &tc, &td, &tx, &ty));
    const double z = 1.0 + exp(1.0) + exp(3.0);
    DML_CHECK(fabs(loss - (log(3.0) + log(z))) < 1e-12);
    DML_CHECK_EQ(0, correct); /* the first maximum of equal scores is class 0 */
    DML_CHECK(fabs((double)dx[2] + 2.0 / 3.0) < 1e-7 && fabs((double)dx[3] - (1 / z - 1)) < 1e-7);
    DML_CHECK_OK(dml_ref_mse_onehot(NULL, &tl, &tc, &td, &tx, &ty));
    DML_CHECK(fabs(loss - (1.0 / 3.0 + (1.0 + 1.0 + 9.0) / 3.0)) < 1e-12);
    DML_CHECK(fabs((double)dx[5] - 2.0) < 1e-7);
}

static void exact_sums_round_to_even_wrap_and_come_back(void **state)
{
    (void)state;
    float g[] = {0.5f, 1.5f, -2.5f, 0x1p-140f}, back[4];
    int64_t acc[] = {INT64_MAX, 1, 1, 7};
    uint32_t max = 0;
    const dml_tensor ta = dml_tensor_of(acc, DML_I64, 1, DIM(4)), tg = reals(g, 1, DIM(4));
    const dml_tensor tm = dml_tensor_of(&max, DML_U32, 1, DIM(1)), tb = reals(back, 1, DIM(4));
    DML_CHECK_OK(dml_ref_accumulate_exact(NULL, &ta, &tm, &tg, 1, false));
    DML_CHECK(acc[0] == INT64_MIN && acc[1] == 4 && acc[2] == -4 && acc[3] == 7);
    DML_CHECK_EQ(0x40200000, max);
    DML_CHECK_OK(dml_ref_accumulate_exact(NULL, &ta, &tm, &tg, 0, true));
    DML_CHECK(acc[0] == 0 && acc[1] == 2 && acc[2] == -2 && acc[3] == 0);
    DML_CHECK_OK(dml_ref_finish_exact(NULL, &tb, &ta, -3));
    DML_CHECK(back[1] == 16.0f && back[2] == -16.0f);
}

/* One addend after the other into a pair of words, then `finish`. */
typedef struct wide {
    int64_t hi, lo;
    uint32_t max;
} wide;

static void wide_add(wide *w, float g, bool first)
{
    const dml_tensor hi = dml_tensor_of(&w->hi, DML_I64, 1, DIM(1)), tg = reals(&g, 1, DIM(1)),
                     lo = dml_tensor_of(&w->lo, DML_I64, 1, DIM(1)),
                     max = dml_tensor_of(&w->max, DML_U32, 1, DIM(1));
    DML_CHECK_OK(dml_ref_accumulate_wide(NULL, &hi, &lo, &max, &tg, first));
}

static float wide_finish(const wide *w)
{
    wide copy = *w;
    float g;
    const dml_tensor hi = dml_tensor_of(&copy.hi, DML_I64, 1, DIM(1)), tg = reals(&g, 1, DIM(1)),
                     lo = dml_tensor_of(&copy.lo, DML_I64, 1, DIM(1));
    DML_CHECK_OK(dml_ref_finish_wide(NULL, &tg, &hi, &lo));
    return g;
}

static void wide_words_worked_out_by_hand(void **state)
{
    (void)state;
    static const struct {
        float g;
        int64_t hi, lo;
        float back;
    } row[] = {
        {0.0f, 0, 0, 0.0f},
        {-0.0f, 0, 0, 0.0f},
        {1.5f, INT64_C(3) << 27, 0, 1.5f},
        {-1.5f, -(INT64_C(3) << 27), 0, -1.5f},
        {0x1p-29f, 0, INT64_C(1) << 55, 0x1p-29f},
        {-0x1p-29f, -1, INT64_C(1) << 55, -0x1p-29f},
        {0x1p-84f, 0, 1, 0x1p-84f},
        {-0x1p-84f, -1, (INT64_C(1) << 56) - 1, -0x1p-84f},
        {0x1p-85f, 0, 0, 0.0f}, /* a tie, to even */
        {0x3p-85f, 0, 2, 0x2p-84f},
        {-0x3p-85f, -1, (INT64_C(1) << 56) - 2, -0x2p-84f},
        {0x1p-149f, 0, 0, 0.0f},
        {0x1.fffffep33f, INT64_C(0xffffff) << 38, 0, 0x1.fffffep33f},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        wide w = {.hi = 99, .lo = 99, .max = 1};
        wide_add(&w, row[i].g, true);
        if (w.hi != row[i].hi || w.lo != row[i].lo || wide_finish(&w) != row[i].back)
            fail_msg("%a: %" PRId64 ", %" PRId64 ", back %a", (double)row[i].g, w.hi, w.lo,
                     (double)wide_finish(&w));
        DML_CHECK(!signbit(wide_finish(&w)) || row[i].back < 0);
    }
}

static void wide_sums_carry_cancel_and_tell_of_inf_and_nan(void **state)
{
    (void)state;
    wide w = {0};
    wide_add(&w, 0x1p-29f, true);
    wide_add(&w, 0x1p-29f, false);
    DML_CHECK(w.hi == 1 && w.lo == 0); /* carried */
    wide_add(&w, -0x1p-84f, false);
    DML_CHECK(w.hi == 0 && w.lo == (INT64_C(1) << 56) - 1); /* borrowed */
    wide_add(&w, 0x1p33f, true);
    wide_add(&w, 1e-10f, false);
    wide_add(&w, -0x1p33f, false);
    DML_CHECK(wide_finish(&w) == 1e-10f);
    wide_add(&w, -1e-10f, false);
    DML_CHECK(w.hi == 0 && w.lo == 0);
    DML_CHECK_EQ(0x50000000, w.max); /* 2^33 */
    wide_add(&w, -INFINITY, false);
    DML_CHECK_EQ(0x7f800000, w.max);
    wide_add(&w, NAN, false);
    DML_CHECK(w.max > 0x7f800000);
}

/* 64 addends over 110 binary orders in other orders, and cut among replicas whose words are added. */
static void wide_sums_do_not_depend_on_order_or_replicas(void **state)
{
    (void)state;
    enum { N = 64, REPLICAS = 5 };
    float g[N];
    wide in_order = {0};
    for (int i = 0; i < N; i++) {
        uint32_t word[4];
        dml_rng_block(dml_rng_key(3, DML_RNG_TEST, 0), 0, (uint64_t)i, word);
        g[i] = ldexpf(dml_rng_unit(word[0]) - 0.5f, 28 - (int)(word[1] % 110));
        wide_add(&in_order, g[i], i == 0);
    }
    for (uint64_t seed = 1; seed <= 20; seed++) {
        int32_t order[N];
        dml_rng_permutation(dml_rng_key(seed, DML_RNG_TEST, 1), N, order);
        wide one = {0}, part[REPLICAS] = {{0}}, sum = {0};
        for (int i = 0; i < N; i++) {
            wide_add(&one, g[order[i]], i == 0);
            wide_add(&part[i % REPLICAS], g[order[i]], i < REPLICAS);
        }
        for (int r = 0; r < REPLICAS; r++) {
            sum.hi += part[r].hi;
            sum.lo += part[r].lo;
        }
        DML_CHECK(one.hi == in_order.hi && one.lo == in_order.lo && one.max == in_order.max);
        DML_CHECK(sum.lo >= 0 && wide_finish(&sum) == wide_finish(&in_order));
    }
}

static void sgd_with_momentum_follows_two_steps_by_hand(void **state)
{
    (void)state;
    float w = 1.0f, g = 2.0f, m = 99.0f;
    const dml_opt_tensor t = {.w = &w, .g = &g, .m = &m, .n = 1, .weight_decay = 0.5f};
    dml_sgd p = {.lr = 0.5f, .momentum = 0.5f, .grad_scale = 0.25f, .first = true};
    DML_CHECK_OK(dml_ref_sgd(NULL, &p, &t, 1)); /* g = 0.5 + 0.5 = 1 */
    DML_CHECK(m == 1.0f && w == 0.5f);
    p.first = false;
    p.nesterov = true;
    DML_CHECK_OK(dml_ref_sgd(NULL, &p, &t, 1)); /* g = 0.75, m = 1.25, step 0.75 + 0.625 */
    DML_CHECK(m == 1.25f && w == 0.5f - 0.5f * 1.375f);
}

static void adamw_takes_a_step_of_lr_at_first(void **state)
{
    (void)state;
    float w = 1.0f, g = -8.0f, m = 0.0f, v = 0.0f;
    const dml_opt_tensor t = {.w = &w, .g = &g, .m = &m, .v = &v, .n = 1, .weight_decay = 0.1f};
    const dml_adamw p = {.lr = 0.125f,
                         .beta1 = 0.5f,
                         .beta2 = 0.75f,
                         .grad_scale = 1.0f,
                         .bias1 = 0.5f,
                         .sqrt_bias2 = 0.5f};
    DML_CHECK_OK(dml_ref_adamw(NULL, &p, &t, 1));
    DML_CHECK(m == -4.0f && v == 16.0f && fabsf(w - (1.0f - 0.0125f + 0.125f)) < 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_random123s_known_answers),
        cmocka_unit_test(dropout_keeps_what_the_stream_says_and_scales_it),
        cmocka_unit_test(a_delay_takes_its_time_by_the_pace_of_the_step),
        cmocka_unit_test(gelu_has_a_tanh_form),
        cmocka_unit_test(a_convolution_slides_its_window),
        cmocka_unit_test(pools_take_the_first_maximum_and_both_averages),
        cmocka_unit_test(batch_norm_centres_and_scales_each_channel),
        cmocka_unit_test(losses_of_a_row_worked_out_by_hand),
        cmocka_unit_test(exact_sums_round_to_even_wrap_and_come_back),
        cmocka_unit_test(wide_words_worked_out_by_hand),
        cmocka_unit_test(wide_sums_carry_cancel_and_tell_of_inf_and_nan),
        cmocka_unit_test(wide_sums_do_not_depend_on_order_or_replicas),
        cmocka_unit_test(sgd_with_momentum_follows_two_steps_by_hand),
        cmocka_unit_test(adamw_takes_a_step_of_lr_at_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
