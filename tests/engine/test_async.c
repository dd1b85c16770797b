/* Asynchronous runs on threads against the reference of the recurrence (tests/support/delayed.h): every loss, every norm
 * where there is one, and the weights at the end, bit for bit. */
#include "tests/support/test.h"

#include "tests/support/delayed.h"
#include "tests/support/layouts.h"

#include <inttypes.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { MOST = 16 };

/* A run and what to compare it with. */
typedef struct setting {
    const char *schedule;
    delayed_mode mode;
    int32_t stages, replicas, drain, batch;
    bool vertical_sync;
    const char *const *extra;
} setting;

typedef struct text {
    char of[64];
} text;

/* The overrides of both: NULL-terminated, in `out`. */
static void overrides_of(const setting *s, text own[3], const char *out[MOST])
{
    int32_t n = 0;
    snprintf(own[0].of, sizeof own[0].of, "training.global_batch_size=%d", s->batch);
    snprintf(own[1].of, sizeof own[1].of, "parallelism.drain_interval=%d", s->drain);
    snprintf(own[2].of, sizeof own[2].of, "parallelism.vertical_sync=%s",
             s->vertical_sync ? "true" : "false");
    for (int32_t k = 0; k < (s->mode == DELAYED_2BW ? 2 : 3); k++)
        out[n++] = own[k].of;
    out[n++] = "training.eval_interval=0"; /* but at the end; `extra` may say otherwise */
    for (int32_t k = 0; s->extra[k]; k++) {
        DML_CHECK(n < MOST - 1);
        out[n++] = s->extra[k];
    }
    out[n] = NULL;
}

static bool same_double(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static run_result train(const setting *s)
{
    text own[3];
    char pp[16], dp[16];
    const char *overrides[MOST];
    overrides_of(s, own, overrides);
    snprintf(pp, sizeof pp, "%d", s->stages);
    snprintf(dp, sizeof dp, "%d", s->replicas);
    const layout at = {pp, dp, s->schedule, "1"};
    return run_layout(TINY, &at, overrides);
}

static delayed_result reference(const setting *s)
{
    text own[3];
    const char *overrides[MOST];
    overrides_of(s, own, overrides);
    return delayed_train(TINY, overrides, s->mode, s->stages, s->drain);
}

static void check(const setting *s)
{
    const run_result got = train(s);
    const delayed_result want = reference(s);
    DML_CHECK_EQ(want.updates, got.steps);
    for (int64_t t = 0; t < want.updates; t++)
        if (!same_double(want.loss[t], got.step[t].loss))
            fail_msg("%s, %d stages, %d replicas, drained every %d: loss of update %d is %.17g, "
                     "not %.17g",
                     s->schedule, s->stages, s->replicas, s->drain, (int)t, got.step[t].loss,
                     want.loss[t]);
    if (want.weights_hash != got.weights_hash)
        fail_msg(
            "%s, %d stages, %d replicas, drained every %d: weights %016" PRIx64 ", not %016" PRIx64,
            s->schedule, s->stages, s->replicas, s->drain, got.weights_hash, want.weights_hash);
}

static const char *const wide[] = {"training.numerics=exact_wide", "training.max_steps=13", NULL};
static const char *const fast[] = {"training.numerics=fast", "training.max_steps=13", NULL};

/* 13 updates: drained in the middle, and with a last segment that is shorter. */
static void weight_stashing_follows_the_recurrence(void **state)
{
    (void)state;
    static const int32_t drains[] = {5, 8, 13};
    for (int32_t p = 2; p <= 6; p++)
        for (size_t k = 0; k < sizeof drains / sizeof *drains; k++)
            check(&(setting){"pipedream", DELAYED_STASHING, p, 1, drains[k], 3, false, wide});
}

static void vertical_sync_does_too(void **state)
{
    (void)state;
    for (int32_t p = 2; p <= 6; p++)
        for (int32_t drain = 5; drain <= 13; drain += 8)
            check(&(setting){"pipedream", DELAYED_VERTICAL_SYNC, p, 1, drain, 3, true, wide});
}

static void two_buffered_weights_do_too(void **state)
{
    (void)state;
    for (int32_t p = 2; p <= 6; p++)
        for (int32_t drain = 5; drain <= 13; drain += 8)
            check(&(setting){"2bw", DELAYED_2BW, p, 1, drain, 3 * (p + 1), false, wide});
}

/* One pipeline adds in the order of the reference, so sums in floats are the same, too. */
static void sums_in_floats_too(void **state)
{
    (void)state;
    for (int32_t p = 2; p <= 4; p++) {
        check(&(setting){"pipedream", DELAYED_STASHING, p, 1, 6, 3, false, fast});
        check(&(setting){"pipedream", DELAYED_VERTICAL_SYNC, p, 1, 6, 3, true, fast});
        check(&(setting){"2bw", DELAYED_2BW, p, 1, 6, 3 * p, false, fast});
    }
}

/* Micro-batch k on replica k mod r, one update of r of them. */
static void replicas_take_turns(void **state)
{
    (void)state;
    for (int32_t p = 1; p <= 3; p++)
        for (int32_t r = 2; r <= 3; r++) {
            check(&(setting){"pipedream", DELAYED_STASHING, p, r, 5, 3 * r, false, wide});
            check(&(setting){"pipedream", DELAYED_VERTICAL_SYNC, p, r, 5, 3 * r, true, wide});
            check(&(setting){"2bw", DELAYED_2BW, p, r, 5, 3 * r * p, false, wide});
        }
}

static void adamw_with_a_moving_rate_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide", "training.max_steps=13",
                                        "optimizer.name=adamw",         "optimizer.lr=0.01",
                                        "optimizer.weight_decay=0.1",   "lr_scheduler.name=cosine",
                                        "lr_scheduler.warmup_steps=3",  NULL};
    check(&(setting){"pipedream", DELAYED_STASHING, 4, 1, 6, 3, false, extra});
    check(&(setting){"2bw", DELAYED_2BW, 3, 2, 6, 18, false, extra});
}

/* Copies of the weights in two bytes are as many as the weights; a recomputed forward reads what the first one read. */
static void two_bytes_and_recomputation_too(void **state)
{
    (void)state;
    static const char *const bf16[] = {"training.numerics=exact_wide", "training.max_steps=13",
                                       "training.precision=bf16", NULL};
    static const char *const again[] = {"training.numerics=exact_wide", "training.max_steps=13",
                                        "parallelism.recompute=full", NULL};
    check(&(setting){"pipedream", DELAYED_STASHING, 4, 1, 6, 3, false, bf16});
    check(&(setting){"2bw", DELAYED_2BW, 3, 1, 6, 9, false, bf16});
    check(&(setting){"pipedream", DELAYED_STASHING, 4, 1, 6, 3, false, again});
    check(&(setting){"pipedream", DELAYED_VERTICAL_SYNC, 3, 2, 6, 6, true, again});
}

/* Both drain: every 5 updates, and every 4 for the evaluation. */
static void evaluation_drains_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide", "training.max_steps=13",
                                        "training.eval_interval=4", NULL};
    check(&(setting){"pipedream", DELAYED_STASHING, 4, 1, 5, 3, false, extra});
    check(&(setting){"pipedream", DELAYED_VERTICAL_SYNC, 3, 2, 3, 6, true, extra});
    check(&(setting){"2bw", DELAYED_2BW, 3, 1, 13, 9, false, extra});
}

/* The norm of all stages, at no stop of the pipeline. */
static void clipping_by_the_norm_too(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide", "training.max_steps=13",
                                        "training.grad_clip=0.5", NULL};
    const setting settings[] = {
        {"pipedream", DELAYED_VERTICAL_SYNC, 4, 1, 6, 3, true, extra},
        {"pipedream", DELAYED_VERTICAL_SYNC, 3, 2, 13, 6, true, extra},
        {"2bw", DELAYED_2BW, 4, 1, 6, 12, false, extra},
        {"2bw", DELAYED_2BW, 2, 2, 13, 12, false, extra},
    };
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        check(&settings[k]);
        const run_result got = train(&settings[k]);
        const delayed_result want = reference(&settings[k]);
        for (int64_t t = 0; t < want.updates; t++)
            DML_CHECK(same_double(want.norm[t], got.step[t].grad_norm));
        DML_CHECK(want.norm[0] > 0.5); /* so it was clipped */
    }
}

/* The engine keeps what the reference can also do without, and the difference shows. */
static void without_stashing_the_weights_are_others(void **state)
{
    (void)state;
    for (int32_t p = 2; p <= 4; p++) {
        const setting s = {"pipedream", DELAYED_STASHING, p, 1, 13, 3, false, wide};
        setting without = s;
        without.mode = DELAYED_WITHOUT_STASHING;
        const run_result got = train(&s);
        const delayed_result other = reference(&without);
        DML_CHECK(same_double(other.loss[0], got.step[0].loss)); /* nothing was late yet */
        DML_CHECK(other.weights_hash != got.weights_hash);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weight_stashing_follows_the_recurrence),
        cmocka_unit_test(vertical_sync_does_too),
        cmocka_unit_test(two_buffered_weights_do_too),
        cmocka_unit_test(sums_in_floats_too),
        cmocka_unit_test(replicas_take_turns),
        cmocka_unit_test(adamw_with_a_moving_rate_too),
        cmocka_unit_test(two_bytes_and_recomputation_too),
        cmocka_unit_test(evaluation_drains_too),
        cmocka_unit_test(clipping_by_the_norm_too),
        cmocka_unit_test(without_stashing_the_weights_are_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
