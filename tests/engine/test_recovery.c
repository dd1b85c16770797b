/* tests/engine/test_recovery.c - workers are lost at every point of a step and of a recovery, and at all of the agent's: the
 * run ends with the bits of the run that was left alone.
 *
 *   test_engine_recovery [ROUNDS [SEED]]      default 1, 1: draws of double losses */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"
#include "engine/base/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { OVERRIDES = 16, STEPS = 8 };

static int32_t rounds = 1;
static uint64_t seed = 1, drawn;

/* 0 .. n - 1 */
static int32_t below(int32_t n)
{
    uint32_t word[4];
    dml_rng_block(seed, 0, drawn++, word);
    return (int32_t)(word[0] % (uint32_t)n);
}

typedef struct list {
    const char *v[OVERRIDES];
    int32_t n;
} list;

static void add(list *l, const char *const *more)
{
    for (; more && *more; more++)
        l->v[l->n++] = *more;
    DML_CHECK(l->n < OVERRIDES);
}

static const char *const common[] = {"training.max_steps=8", "failures.policy=replan",
                                     "parallelism.timeout=20s", NULL};

/* Runs with failpoints armed; NULL: undisturbed. */
static run_result run(const char *const *layout_, const char *const *extra, const char *points,
                      const run_hooks *hooks)
{
    list l = {0};
    add(&l, layout_);
    add(&l, common);
    add(&l, extra);
    if (points) DML_CHECK_OK(dml_failpoints_arm(points));
    const run_result r = run_threads_hooked(TINY, l.v, hooks ? *hooks : (run_hooks){0});
    dml_failpoints_disarm();
    return r;
}

static void expect_same_bits(const run_result *want, const run_result *r, const char *points)
{
    if (r->err != DML_ERR_OK) fail_msg("%s: %s: %s", points, dml_err_text(r->err), r->trail);
    if (r->weights_hash != want->weights_hash || r->steps != want->steps)
        fail_msg("%s: %" PRId64 " steps, weights %016" PRIx64 ", want %" PRId64 ", %016" PRIx64,
                 points, r->steps, r->weights_hash, want->steps, want->weights_hash);
    for (int64_t s = 0; s < want->steps; s++)
        DML_CHECK(want->step[s].loss == r->step[s].loss);
    DML_CHECK(want->eval.loss == r->eval.loss);
    DML_CHECK_EQ(want->eval.correct, r->eval.correct);
}

static const char *const two_by_two[] = {"parallelism.pp=2", "parallelism.dp=2",
                                         "parallelism.schedule=1f1b", NULL};

static void a_worker_is_lost_at_each_point_of_a_step(void **state)
{
    (void)state;
    static const char *const points[] = {"worker.vote.before", "worker.vote.after",
                                         "worker.commit"};
    const run_result want = run(two_by_two, NULL, NULL, NULL);
    for (int32_t p = 0; p < 3; p++)
        for (int32_t rank = 0; rank < 4; rank++) {
            char text[96];
            snprintf(text, sizeof text, "%s@rank=%d,hit=%d:kill", points[p], rank, 1 + below(5));
            const run_result r = run(two_by_two, NULL, text, NULL);
            expect_same_bits(&want, &r, text);
            DML_CHECK_EQ(1, r.losses);
            DML_CHECK_EQ(1, r.recoveries);
        }
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_is_lost_at_each_point_of_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
