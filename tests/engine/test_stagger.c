/* tests/engine/test_stagger.c - staggered optimizer steps: the bits of steps that wait for their vote, also where those made
 * ahead are clipped, skipped or redone, and whoever is lost meanwhile.
 *
 *   test_engine_stagger [ROUNDS [SEED]]      default 1, 1: losses at random places */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/run_threads.h"

#include "engine/base/failpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { OVERRIDES = 24, BEFORE = 10 };

static int32_t rounds = 1;

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

static const char *const common[] = {"training.max_steps=40", "training.eval_interval=17",
                                     "parallelism.timeout=20s", NULL};
static const char *const staggered[] = {"parallelism.staggered=true", NULL};

static run_result run_hooked(const char *const *layout, const char *const *extra, bool stagger,
                             const char *points, run_hooks hooks)
{
    list l = {0};
    add(&l, layout);
    add(&l, common);
    add(&l, extra);
    add(&l, stagger ? staggered : NULL);
    if (points) DML_CHECK_OK(dml_failpoints_arm(points));
    const run_result r = run_threads_hooked(TINY, l.v, hooks);
    dml_failpoints_disarm();
    return r;
}

static run_result run(const char *const *layout, const char *const *extra, bool stagger,
                      const char *points)
{
    return run_hooked(layout, extra, stagger, points, (run_hooks){0});
}

static void expect_same_bits(const run_result *want, const run_result *r, const char *what)
{
    if (r->err != DML_ERR_OK) fail_msg("%s: %s: %s", what, dml_err_text(r->err), r->trail);
    for (int64_t s = 0; s < want->steps && s < r->steps; s++)
        if (want->step[s].loss != r->step[s].loss || want->step[s].verdict != r->step[s].verdict)
            fail_msg("%s: step %" PRId64 " has loss %.17g, want %.17g", what, s + 1,
                     r->step[s].loss, want->step[s].loss);
    if (r->weights_hash != want->weights_hash || r->steps != want->steps)
        fail_msg("%s: %" PRId64 " steps, weights %016" PRIx64 ", want %" PRId64 ", %016" PRIx64,
                 what, r->steps, r->weights_hash, want->steps, want->weights_hash);
    DML_CHECK(want->eval.loss == r->eval.loss);
}

typedef struct tally {
    int32_t staggered, undone;
} tally;

static tally count(const run_result *r)
{
    tally t = {0};
    for (int64_t s = 0; s < r->steps; s++) {
        t.staggered += r->step[s].staggered;
        t.undone += r->step[s].undone;
    }
    return t;
}

static const char *const layouts[][4] = {
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=1f1b", NULL},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=zb_h1", NULL},
    {"parallelism.pp=1", "parallelism.dp=4", "parallelism.schedule=gpipe", NULL},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=chimera", NULL},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=auto", NULL},
    {"parallelism.stages=[{workers: [0, 1, 3]}, {workers: [2, 0]}]", "parallelism.schedule=auto",
     NULL, NULL},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void nothing_of_it_shows_in_the_bits(void **state)
{
    (void)state;
    for (int32_t at = 0; at < LAYOUTS; at++) {
        const run_result want = run(layouts[at], NULL, false, NULL),
                         got = run(layouts[at], NULL, true, NULL);
        expect_same_bits(&want, &got, layouts[at][2] ? layouts[at][2] : layouts[at][0]);
        DML_CHECK_EQ(0, count(&want).staggered);
        DML_CHECK_EQ(want.steps - BEFORE, count(&got).staggered);
        DML_CHECK_EQ(0, count(&got).undone);
    }
}

/* ---- made again ---- */

/* The second largest norm of those steps that can be ahead: clipping there hits one of them, and those before the first. */
static double clip_for(const run_result *r)
{
    double first = 0.0, second = 0.0;
    for (int64_t s = BEFORE; s < r->steps; s++) {
        const double norm = r->step[s].grad_norm;
        if (norm > first) {
            second = first;
            first = norm;
        } else if (norm > second) {
            second = norm;
        }
    }
    return 0.5 * (first + second);
}

static void a_step_that_is_clipped_is_made_again(void **state)
{
    (void)state;
    for (int32_t at = 0; at < LAYOUTS; at++) {
        char clip[64];
        const char *const more[] = {clip, "optimizer.lr=0.3", NULL};
        snprintf(clip, sizeof clip, "training.grad_clip=%.9g", 0.0);
        const run_result free_ = run(layouts[at], more, false, NULL);
        snprintf(clip, sizeof clip, "training.grad_clip=%.9g", clip_for(&free_));
        const run_result want = run(layouts[at], more, false, NULL),
                         got = run(layouts[at], more, true, NULL);
        expect_same_bits(&want, &got, clip);
        DML_CHECK(count(&got).undone >= 1);
        DML_CHECK(count(&got).staggered >= 1);
        DML_CHECK(want.weights_hash != free_.weights_hash); /* it did clip */
    }
}

/* Loss scaling of fp16 that is far too large is halved again and again, then grows: steps are skipped. */
static void a_step_that_is_skipped_is_made_again(void **state)
{
    (void)state;
    static const char *const half[] = {"training.precision=fp16", "optimizer.name=adamw",
                                       "optimizer.lr=0.01", NULL};
    for (int32_t at = 0; at < LAYOUTS; at++) {
        const run_result want = run(layouts[at], half, false, NULL),
                         got = run(layouts[at], half, true, NULL);
        expect_same_bits(&want, &got, "fp16");
        DML_CHECK(count(&got).staggered >= 1);
    }
}

static void corrupt_step_20(void *context, dml_control *control)
{
    (void)context;
    dml_fault f;
    DML_CHECK_OK(dml_fault_parse("corrupt@step=20,rank=1", &f));
    DML_CHECK_OK(dml_board_add(&control->faults, &f));
}

/* A gradient that becomes NaN in a step that is ahead: made again without the fault, which strikes once. */
static void a_step_that_is_not_finite_is_made_again(void **state)
{
    (void)state;
    for (int32_t at = 0; at < 2; at++) {
        const run_result got = run_hooked(layouts[at], NULL, true, NULL,
                                          (run_hooks){.control = corrupt_step_20}),
                         want = run(layouts[at], NULL, false, NULL);
        expect_same_bits(&want, &got, "a NaN in step 20");
        DML_CHECK_EQ(1, got.step[19].undone);
        DML_CHECK_EQ(0, got.step[19].staggered);
        DML_CHECK_EQ(1, got.step[18].staggered);
    }
}

/* ---- losses ---- */

static const char *const points[] = {"worker.vote.before", "worker.vote.after", "worker.commit"};
enum { POINTS = 3 };

static void whoever_is_lost_no_bit_changes(void **state)
{
    (void)state;
    static const char *const policy[] = {"failures.policy=replan", "training.grad_clip=0.9",
                                         "optimizer.lr=0.3", NULL};
    for (int32_t round = 0; round < rounds; round++)
        for (int32_t at = 0; at < LAYOUTS; at++) {
            const run_result want = run(layouts[at], policy, false, NULL);
            for (int32_t p = 0; p < POINTS; p++) {
                char text[96];
                snprintf(text, sizeof text, "%s@rank=%d,hit=%d:kill", points[p],
                         below(want.workers), 1 + below(35));
                const run_result r = run(layouts[at], policy, true, text);
                expect_same_bits(&want, &r, text);
                DML_CHECK_EQ(1, r.losses);
                DML_CHECK_EQ(1, r.recoveries);
            }
        }
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = atoi(argv[1]);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_of_it_shows_in_the_bits),
        cmocka_unit_test(a_step_that_is_clipped_is_made_again),
        cmocka_unit_test(a_step_that_is_skipped_is_made_again),
        cmocka_unit_test(a_step_that_is_not_finite_is_made_again),
        cmocka_unit_test(whoever_is_lost_no_bit_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
