/* The reference of late weights (tests/support/delayed.h) against what it must be where nothing is late, and where late is
 * the same by another name. */
#include "tests/support/test.h"

#include "tests/support/delayed.h"
#include "tests/support/layouts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static const char *const wide[] = {"training.numerics=exact_wide", "training.max_steps=6", NULL};
static const char *const fast[] = {"training.numerics=fast", "training.max_steps=6", NULL};
static const char *const adamw[] = {"training.numerics=exact_wide",
                                    "training.max_steps=6",
                                    "optimizer.name=adamw",
                                    "optimizer.lr=0.01",
                                    "optimizer.weight_decay=0.1",
                                    "training.grad_clip=0.1",
                                    NULL};
static const char *const *const specs[] = {wide, fast, adamw};

static bool same_double(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void expect_equal(const delayed_result *a, const delayed_result *b)
{
    DML_CHECK_EQ(a->updates, b->updates);
    for (int64_t t = 0; t < a->updates; t++) {
        DML_CHECK(same_double(a->loss[t], b->loss[t]));
        DML_CHECK(same_double(a->norm[t], b->norm[t]));
    }
    DML_CHECK(a->weights_hash == b->weights_hash);
}

/* Drained after every update nothing is late: the engine's synchronous run, bit for bit. */
static void drained_every_time_it_is_the_synchronous_run(void **state)
{
    (void)state;
    static const layout one = {"1", "1", "1f1b", "1"};
    for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
        const run_result want = run_layout(TINY, &one, specs[k]);
        for (int32_t mode = 0; mode <= DELAYED_WITHOUT_STASHING; mode++) {
            const delayed_result got = delayed_train(TINY, specs[k], (delayed_mode)mode, 3, 1);
            DML_CHECK_EQ(want.steps, got.updates);
            for (int64_t t = 0; t < got.updates; t++) {
                DML_CHECK(same_double(want.step[t].loss, got.loss[t]));
                DML_CHECK(same_double(want.step[t].grad_norm, got.norm[t]));
            }
            DML_CHECK(want.weights_hash == got.weights_hash);
        }
    }
}

/* Two stages, vertical sync: both are one update late, as in 2BW. */
static void two_stages_in_vertical_sync_are_one_update_late(void **state)
{
    (void)state;
    const delayed_result a = delayed_train(TINY, wide, DELAYED_VERTICAL_SYNC, 2, 6),
                         b = delayed_train(TINY, wide, DELAYED_2BW, 2, 6),
                         cut = delayed_train(TINY, wide, DELAYED_2BW, 4, 6);
    expect_equal(&a, &b);
    expect_equal(&b, &cut); /* all stages alike, so the cut does not matter */
}

/* tests/oracle/delayed.py trains the same in NumPy and float64. */
static void losses_are_those_of_another_hand_in_double(void **state)
{
    (void)state;
    static const char *const ways[] = {"stashing", "vertical_sync", "2bw", "without_stashing"};
    FILE *f = fopen(DML_SOURCE_DIR "/tests/golden/oracle-delayed.txt", "r");
    DML_CHECK(f);
    for (int32_t mode = 0; mode <= DELAYED_WITHOUT_STASHING; mode++) {
        char way[32];
        const delayed_result got = delayed_train(DML_SOURCE_DIR "/tests/specs/delayed-mlp.yaml",
                                                 NULL, (delayed_mode)mode, 3, 5);
        DML_CHECK_EQ(1, fscanf(f, "%31s", way));
        assert_string_equal(ways[mode], way);
        for (int64_t t = 0; t < got.updates; t++) {
            double want;
            DML_CHECK_EQ(1, fscanf(f, "%lf", &want));
            if (fabs(want - got.loss[t]) > 1e-5 * want)
                fail_msg("%s: loss of update %d is %.9f, not %.9f", way, (int)t, got.loss[t], want);
        }
    }
    fclose(f);
}

static void late_weights_go_another_way(void **state)
{
    (void)state;
    uint64_t hash[5];
    for (int32_t mode = 0; mode <= DELAYED_WITHOUT_STASHING; mode++)
        hash[mode] = delayed_train(TINY, wide, (delayed_mode)mode, 4, 6).weights_hash;
    hash[4] = delayed_train(TINY, wide, DELAYED_STASHING, 4, 3).weights_hash;
    for (int32_t a = 0; a < 5; a++)
        for (int32_t b = 0; b < a; b++)
            if (hash[a] == hash[b]) fail_msg("ways %d and %d end at %016" PRIx64, a, b, hash[a]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drained_every_time_it_is_the_synchronous_run),
        cmocka_unit_test(two_stages_in_vertical_sync_are_one_update_late),
        cmocka_unit_test(losses_are_those_of_another_hand_in_double),
        cmocka_unit_test(late_weights_go_another_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
