/* A plan may change after any step: the run ends with the bits of the run that was left alone.
 *
 *   test_engine_change [RUNS [SEED]]      default 12, 1
 *
 * draws layouts, schedules, cuts, shares and policies of recomputation, and after which steps one follows the other. */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/layouts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { WORLD = 4, CHANGES = 6, OVERRIDES = 16, TEXT = 128 };

static int32_t runs = 12;

/* A layout as overrides. */
typedef struct drawn_plan {
    char text[6][TEXT];
    const char *list[OVERRIDES];
    int32_t n;
} drawn_plan;

static void add(drawn_plan *p, const char *text)
{
    p->list[p->n++] = text;
    p->list[p->n] = NULL;
}

#define AUTO "parallelism.schedule=auto"

/* Layouts of up to WORLD workers: equal pipelines, and stages that name their workers. */
static const char *const layouts[][3] = {
    {"parallelism.pp=1", "parallelism.dp=1", "parallelism.schedule=1f1b"},
    {"parallelism.pp=4", "parallelism.dp=1", "parallelism.schedule=gpipe"},
    {"parallelism.pp=4", "parallelism.dp=1", "parallelism.schedule=zb_h1"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=1f1b"},
    {"parallelism.pp=1", "parallelism.dp=4", "parallelism.schedule=1f1b"},
    {"parallelism.pp=3", "parallelism.dp=1", "parallelism.schedule=eager_1f1b"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=chimera"},
    {"parallelism.pp=2", "parallelism.vpp=2", "parallelism.schedule=interleaved_1f1b"},
    {"parallelism.stages=[{workers: [2, 0, 1], shares: [5, 1, 2]}]", AUTO, NULL},
    {"parallelism.stages=[{workers: [0, 1, 2, 3], shares: [1, 1, 1, 5]}]", AUTO, NULL},
    {"parallelism.stages=[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]",
     AUTO, NULL},
    {"parallelism.stages=[{workers: [3, 1]}, {workers: [0, 2], shares: [3, 1]}]", AUTO,
     "parallelism.split=[12, 6]"},
    {"parallelism.pp=2", "parallelism.split=[15, 3]", "parallelism.schedule=1f1b"},
    {"parallelism.pp=2", "parallelism.split=[2, 16]", "parallelism.schedule=gpipe_reverse"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const char *const recompute[] = {"parallelism.recompute=none", "parallelism.recompute=full",
                                        "parallelism.recompute=selective"};

typedef struct scene {
    const char *const *extra;
    drawn_plan plan[CHANGES];
    int64_t after[CHANGES]; /* steps */
    int32_t n, made;
} scene;

static void draw_plan(drawn_plan *p, const char *const *extra)
{
    *p = (drawn_plan){0};
    const char *const *l = layouts[below(LAYOUTS)];
    for (int32_t i = 0; i < 3 && l[i]; i++)
        add(p, l[i]);
    add(p, recompute[below(3)]);
    for (; extra && *extra; extra++)
        add(p, *extra);
}

/* After each step: the plan that is due. */
static const char *const *change(void *context, int64_t step)
{
    scene *s = context;
    if (s->made == s->n || step < s->after[s->made]) return NULL;
    return s->plan[s->made++].list;
}

/* All of WORLD workers, of which the first plan may be the largest. */
static run_result run_first(const char *spec, const char *const *extra, const run_hooks *hooks)
{
    drawn_plan first = {0};
    add(&first, "parallelism.pp=2");
    add(&first, "parallelism.dp=2");
    for (; extra && *extra; extra++)
        add(&first, *extra);
    const run_result r = run_threads_hooked(spec, first.list, *hooks);
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    return r;
}

static void draw_scene(scene *s, const char *const *extra)
{
    *s = (scene){.extra = extra, .n = 1 + below(CHANGES)};
    int64_t after = 0;
    for (int32_t i = 0; i < s->n; i++) {
        draw_plan(&s->plan[i], extra);
        s->after[i] = after += 1 + below(3);
    }
}

static void expect_the_bits_of_an_undisturbed_run(const char *spec, const char *const *extra,
                                                  int32_t times)
{
    static const layout undisturbed = {"2", "2", "1f1b", "1"};
    const run_result expected = run_first(spec, extra, &(run_hooks){0});
    int32_t changes = 0;
    for (int32_t i = 0; i < times; i++) {
        scene s;
        const uint64_t begun = drawn;
        draw_scene(&s, extra);
        const run_hooks hooks = {.change = change, .context = &s};
        const run_result r = run_first(spec, extra, &hooks);
        if (r.weights_hash != expected.weights_hash)
            print_message("seed %" PRIu64 " at draw %" PRIu64 "\n", seed, begun);
        expect_same(&expected, &r, &undisturbed);
        changes += r.changes;
    }
    DML_CHECK(changes > times); /* more than one a run, or this test shows little */
}

static void changes_of_plan_leave_no_mark(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.max_steps=14", NULL};
    expect_the_bits_of_an_undisturbed_run(TINY, extra, runs);
}

static void nor_under_adamw_with_clipping(void **state)
{
    (void)state;
    static const char *const extra[] = {"optimizer.name=adamw",   "optimizer.lr=0.01",
                                        "training.grad_clip=0.1", "optimizer.weight_decay=0.1",
                                        "training.max_steps=14",  NULL};
    expect_the_bits_of_an_undisturbed_run(TINY, extra, runs);
}

/* The loss scale, that shrinks and grows with skipped steps, goes along; so does what evaluation sees in between. */
static void nor_in_half_precision_with_evaluation_between_steps(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.precision=fp16",  "training.max_steps=14",
                                        "training.eval_interval=3", "data.last_batch=short",
                                        "lr_scheduler.name=cosine", NULL};
    expect_the_bits_of_an_undisturbed_run(TINY, extra, runs / 2);
}

/* Sums then have another order. */
static void fast_numerics_agree_to_tolerance(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=fast", "training.max_steps=14", NULL};
    const run_result expected = run_first(TINY, extra, &(run_hooks){0});
    scene s;
    draw_scene(&s, extra);
    const run_hooks hooks = {.change = change, .context = &s};
    const run_result r = run_first(TINY, extra, &hooks);
    DML_CHECK(r.changes > 0);
    for (int64_t i = 0; i < expected.steps; i++)
        DML_CHECK(fabs(expected.step[i].loss - r.step[i].loss) < 1e-4);
    DML_CHECK(fabs(expected.eval.loss - r.eval.loss) < 1e-4);
}

/* ---- ends ---- */

static void stop(void *context, int64_t step, dml_control *control)
{
    (void)context;
    if (step == 5) atomic_store(&control->stop, 1);
}

/* Asked at once for another plan and for the end. */
static void a_stop_wins_over_a_change(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.max_steps=14", NULL};
    scene s = {.extra = extra, .n = 1, .after = {5}};
    draw_plan(&s.plan[0], extra);
    const run_hooks hooks = {.change = change, .step = stop, .context = &s};
    const run_result r = run_first(TINY, extra, &hooks);
    DML_CHECK_EQ(6, r.steps); /* the vote after the one that saw it */
    DML_CHECK_EQ(0, r.changes);
}

static void a_plan_that_comes_too_late_is_left(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.max_steps=6", NULL};
    scene s = {.extra = extra, .n = 1, .after = {5}};
    draw_plan(&s.plan[0], extra);
    const run_hooks hooks = {.change = change, .context = &s};
    const run_result r = run_first(TINY, extra, &hooks);
    DML_CHECK_EQ(6, r.steps);
    DML_CHECK_EQ(0, r.changes);
    DML_CHECK(r.has_eval);
}

int main(int argc, char **argv)
{
    if (argc > 1) runs = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_of_plan_leave_no_mark),
        cmocka_unit_test(nor_under_adamw_with_clipping),
        cmocka_unit_test(nor_in_half_precision_with_evaluation_between_steps),
        cmocka_unit_test(fast_numerics_agree_to_tolerance),
        cmocka_unit_test(a_stop_wins_over_a_change),
        cmocka_unit_test(a_plan_that_comes_too_late_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
