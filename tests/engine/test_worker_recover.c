/* tests/engine/test_worker_recover.c - a worker is lost at any op, or at any point of its own part of a recovery: whoever it
 * is, and under every schedule, the run ends with the bits of the run that was left alone.
 *
 *   test_engine_worker_recover [ROUNDS [SEED]]      default 1, 1 */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"
#include "engine/inject.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { OVERRIDES = 24, TEXT = 160, STEPS = 6 };

static int32_t rounds = 1;

/* Where a stage's replicas, or Chimera's mirrored copies, take over: what a run may lose. */
typedef struct scene {
    const char *layout[4];
    int32_t workers;
} scene;

static const scene scenes[] = {
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=1f1b"}, 4},
    {{"parallelism.pp=1", "parallelism.dp=4", "parallelism.schedule=gpipe"}, 4},
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=gpipe"}, 4},
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=eager_1f1b"}, 4},
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=zb_h1"}, 4},
    {{"parallelism.pp=4", "parallelism.dp=1", "parallelism.schedule=chimera"}, 4},
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=interleaved_1f1b",
      "parallelism.vpp=2"},
     4},
    {{"parallelism.stages=[{workers: [2, 0, 1], shares: [5, 1, 2]}]", "parallelism.schedule=auto"},
     3},
};
enum { SCENES = sizeof scenes / sizeof *scenes };

static const char *const common[] = {"training.max_steps=6", "failures.policy=replan",
                                     "parallelism.timeout=20s", "training.eval_interval=3", NULL};

/* What befalls a run. */
typedef struct blow {
    char points[TEXT]; /* failpoints; "": none */
    char fault[TEXT];  /* of engine/inject.h; "": none */
} blow;

static void begin(void *context, dml_control *control)
{
    const blow *b = context;
    dml_fault fault;
    if (!b->fault[0]) return;
    DML_CHECK_OK(dml_fault_parse(b->fault, &fault));
    DML_CHECK_OK(dml_board_add(&control->faults, &fault));
}

static run_result run(const scene *s, const char *const *extra, blow *b)
{
    const char *list[OVERRIDES];
    int32_t n = 0;
    for (int32_t i = 0; i < 4 && s->layout[i]; i++)
        list[n++] = s->layout[i];
    for (int32_t i = 0; common[i]; i++)
        list[n++] = common[i];
    for (; extra && *extra; extra++)
        list[n++] = *extra;
    list[n] = NULL;
    if (b->points[0]) DML_CHECK_OK(dml_failpoints_arm(b->points));
    const run_result r = run_threads_hooked(TINY, list, (run_hooks){.begin = begin, .context = b});
    dml_failpoints_disarm();
    return r;
}

static void expect_same_bits(const run_result *want, const run_result *r, const scene *s,
                             const blow *b)
{
    const char *schedule = s->layout[2] ? s->layout[2] : s->layout[1];
    if (r->err != DML_ERR_OK)
        fail_msg("%s: %s%s: %s: %s", schedule, b->points, b->fault, dml_err_text(r->err), r->trail);
    if (r->weights_hash != want->weights_hash || r->steps != want->steps)
        fail_msg("%s: %s%s: %" PRId64 " steps, weights %016" PRIx64 ", want %" PRId64
                 ", %016" PRIx64,
                 schedule, b->points, b->fault, r->steps, r->weights_hash, want->steps,
                 want->weights_hash);
    for (int64_t i = 0; i < want->steps; i++)
        DML_CHECK(memcmp(&want->step[i].loss, &r->step[i].loss, sizeof(double)) == 0);
    DML_CHECK(memcmp(&want->eval.loss, &r->eval.loss, sizeof(double)) == 0);
    DML_CHECK_EQ(want->eval.correct, r->eval.correct);
}

/* Two blows may take all copies of a stage, and then that is the end. */
static bool is_hopeless(const run_result *r)
{
    return r->err == DML_ERR_PEER && r->losses > 1 && strstr(r->trail, "no worker that held");
}

/* Each of `n` scenes by itself, then with a blow for each rank. */
static void strike_all(const scene *list, int32_t n, const char *const *extra,
                       void (*draw)(blow *b, const scene *s, int32_t rank))
{
    int32_t runs = 0, losses = 0;
    for (int32_t k = 0; k < n; k++) {
        const scene *s = &list[k];
        blow none = {0};
        const run_result want = run(s, extra, &none);
        if (want.err != DML_ERR_OK) fail_msg("%s", want.trail);
        for (int32_t i = 0; i < rounds * s->workers; i++) {
            blow b = {0};
            draw(&b, s, i % s->workers);
            const run_result r = run(s, extra, &b);
            runs++;
            losses += r.losses;
            if (!is_hopeless(&r)) expect_same_bits(&want, &r, s, &b);
        }
    }
    DML_CHECK(2 * losses > runs); /* some ops are not those of every worker */
}

static void kill_at(blow *b, int32_t step, int32_t rank)
{
    static const char *const phases[] = {"forward", "backward", "send", "receive",
                                         "reduce",  "commit",   "eval"};
    snprintf(b->fault, sizeof b->fault, "kill@step=%d,phase=%s,rank=%d", step, phases[below(7)],
             rank);
}

static void at_an_op(blow *b, const scene *s, int32_t rank)
{
    (void)s;
    kill_at(b, 2 + below(STEPS - 1), rank);
}

static void a_worker_is_lost_at_any_op(void **state)
{
    (void)state;
    strike_all(scenes, SCENES, NULL, at_an_op);
}

static void nor_does_it_matter_under_adamw_in_half_precision(void **state)
{
    (void)state;
    static const char *const extra[] = {"optimizer.name=adamw", "optimizer.lr=0.001",
                                        "training.grad_clip=0.5", "training.precision=fp16", NULL};
    strike_all(scenes, 3, extra, at_an_op);
}

/* One is lost in a step, and another, or the same part of the work again, in the recovery from it. */
static void in_its_recovery(blow *b, const scene *s, int32_t rank)
{
    static const char *const points[] = {"worker.put",  "worker.saved", "worker.close",
                                         "worker.open", "worker.get",   "worker.ready"};
    const int32_t first = below(s->workers), point = below(6);
    snprintf(b->fault, sizeof b->fault, "kill@step=%d,rank=%d", 2 + below(STEPS - 2), first);
    snprintf(b->points, sizeof b->points, "%s@rank=%d,hit=%d:kill", points[point], rank,
             point > 2 ? 2 : 1);
}

static void another_is_lost_in_the_recovery(void **state)
{
    (void)state;
    static const char *const extra[] = {"failures.respawn=off", NULL};
    strike_all(scenes, SCENES, extra, in_its_recovery);
}

/* Segments stand or fall as a whole, and begin where they began without a loss. */
static const scene late[] = {
    {{"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=2bw"}, 4},
    {{"parallelism.pp=1", "parallelism.dp=2", "parallelism.schedule=2bw", "training.grad_clip=0.5"},
     2},
};

static void a_segment_is_made_again(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide",
                                        "parallelism.drain_interval=3", NULL};
    strike_all(late, 2, extra, at_an_op);
}

static void when_there_is_a_snapshot(blow *b, const scene *s, int32_t rank)
{
    (void)s;
    kill_at(b, 10 + below(7), rank);
}

/* A stage that one worker alone holds: from the newest snapshot, whose steps are made again. */
static void snapshots_bring_back_what_nobody_holds(void **state)
{
    (void)state;
    static const scene alone[] = {
        {{"parallelism.pp=3", "parallelism.dp=1", "parallelism.schedule=1f1b"}, 3},
    };
    static const char *const extra[] = {"failures.snapshot_interval=1", "training.max_steps=16",
                                        NULL};
    strike_all(alone, 1, extra, when_there_is_a_snapshot);
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_is_lost_at_any_op),
        cmocka_unit_test(nor_does_it_matter_under_adamw_in_half_precision),
        cmocka_unit_test(another_is_lost_in_the_recovery),
        cmocka_unit_test(a_segment_is_made_again),
        cmocka_unit_test(snapshots_bring_back_what_nobody_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
