/* tests/engine/test_recovery.c - workers are lost at every point of a step and of a recovery, and at all of the agent's: the
 * run ends with the bits of the run that was left alone.
 *
 *   test_engine_recovery [ROUNDS [SEED]]      default 1, 1: draws of double losses */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { OVERRIDES = 16 };

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

/* Layouts in which each stage has two holders or more. */
static const char *const layouts[][3] = {
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=1f1b"},
    {"parallelism.pp=1", "parallelism.dp=4", "parallelism.schedule=gpipe"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=zb_h1"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=chimera"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=eager_1f1b"},
    {"parallelism.stages=[{workers: [0, 1, 3]}, {workers: [2, 0]}]", "parallelism.schedule=auto",
     NULL},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static run_result run_at(int32_t at, const char *const *extra, const char *points)
{
    const char *const layout_[] = {layouts[at][0], layouts[at][1], layouts[at][2], NULL};
    return run(layout_, extra, points, NULL);
}

static const char *const of_a_step[] = {"worker.vote.before", "worker.vote.after", "worker.commit"};
static const char *const of_a_move[] = {"worker.park", "worker.put", "worker.saved", "worker.close",
                                        "worker.open", "worker.get", "worker.ready"};
enum { OF_A_STEP = 3, OF_A_MOVE = 7, WORLD = 4 };

static void a_worker_is_lost_at_each_point_of_a_step(void **state)
{
    (void)state;
    for (int32_t at = 0; at < LAYOUTS; at++) {
        const run_result want = run_at(at, NULL, NULL);
        for (int32_t p = 0; p < OF_A_STEP; p++) {
            char text[96];
            snprintf(text, sizeof text, "%s@rank=%d,hit=%d:kill", of_a_step[p], below(want.workers),
                     1 + below(5));
            const run_result r = run_at(at, NULL, text);
            expect_same_bits(&want, &r, text);
            DML_CHECK_EQ(1, r.losses);
            DML_CHECK_EQ(1, r.recoveries);
        }
    }
}

/* A point of the recovery that the rank comes to again and again: the first time is the run's begin. */
static int32_t hit_of(const char *point)
{
    return strcmp(point, "worker.open") == 0 || strcmp(point, "worker.ready") == 0 ? 2 : 1;
}

/* The second is lost in the midst of the recovery from the first, and no other stage loses its last holder. */
static void another_is_lost_at_each_point_of_the_recovery(void **state)
{
    (void)state;
    static const char *const three[] = {"parallelism.pp=1", "parallelism.dp=4", NULL};
    const run_result want = run(three, NULL, NULL, NULL);
    for (int32_t p = 0; p < OF_A_MOVE; p++) {
        char text[160];
        const int32_t first = below(WORLD), second = (first + 1 + below(WORLD - 1)) % WORLD;
        snprintf(text, sizeof text, "worker.vote.after@rank=%d,hit=3:kill; %s@rank=%d,hit=%d:kill",
                 first, of_a_move[p], second, hit_of(of_a_move[p]));
        const run_result r = run(three, NULL, text, NULL);
        expect_same_bits(&want, &r, text);
        DML_CHECK(r.losses >= 1 && r.losses <= 2); /* a replica puts nothing */
    }
}

/* Three holders of each stage: whichever two are lost, whenever the second is, in the same stage or another.  Each ordered
 * pair meets one point of the recovery, all of them with ROUNDS of at least OF_A_MOVE; and both at the same instant. */
static void any_two_of_three_holders_are_lost(void **state)
{
    (void)state;
    static const char *const threefold[] = {"parallelism.pp=2", "parallelism.dp=3",
                                            "training.max_steps=6", "training.global_batch_size=18",
                                            NULL};
    const run_result want = run(threefold, NULL, NULL, NULL);
    const int32_t n = want.workers, points = rounds < OF_A_MOVE ? rounds : OF_A_MOVE;
    for (int32_t pair = 0; pair < n * n; pair++) {
        const int32_t first = pair / n, second = pair % n;
        char text[160];
        if (first == second) continue;
        for (int32_t i = 0; i < points; i++) {
            const char *point = of_a_move[(pair + i) % OF_A_MOVE];
            snprintf(text, sizeof text,
                     "worker.vote.after@rank=%d,hit=3:kill; %s@rank=%d,hit=%d:kill", first, point,
                     second, hit_of(point));
            const run_result r = run(threefold, NULL, text, NULL);
            expect_same_bits(&want, &r, text);
            DML_CHECK(r.losses >= 1 && r.losses <= 2); /* a replica puts nothing */
        }
        if (first > second) continue;
        snprintf(text, sizeof text,
                 "worker.vote.before@rank=%d,hit=4:kill; worker.vote.before@rank=%d,hit=4:kill",
                 first, second);
        const run_result both = run(threefold, NULL, text, NULL);
        expect_same_bits(&want, &both, text);
        DML_CHECK_EQ(2, both.losses);
    }
}

/* The third is lost while the second loss is mended. */
static void three_of_four_are_lost_one_recovery_in_another(void **state)
{
    (void)state;
    static const char *const fourfold[] = {"parallelism.pp=1", "parallelism.dp=4", NULL};
    const run_result want = run(fourfold, NULL, NULL, NULL);
    for (int32_t p = 0; p < OF_A_MOVE; p++) {
        char text[200];
        snprintf(text, sizeof text,
                 "worker.vote.after@rank=3,hit=3:kill; worker.park@rank=1:kill; "
                 "%s@rank=0,hit=%d:kill",
                 of_a_move[p], hit_of(of_a_move[p]) + (p == 0));
        const run_result r = run(fourfold, NULL, text, NULL);
        expect_same_bits(&want, &r, text);
        DML_CHECK(r.losses >= 2 && r.losses <= 3); /* the fences of two may be one */
    }
}

/* Sums in floats are made in another order by those who are left: the ten losses that follow agree within rounding. */
static void in_fast_mode_the_next_ten_losses_agree(void **state)
{
    (void)state;
    static const char *const fast[] = {"training.numerics=fast", "training.max_steps=16", NULL};
    enum { LOST_IN = 4, NEXT = 10 };
    for (int32_t at = 0; at < LAYOUTS; at++) {
        const run_result want = run_at(at, fast, NULL);
        for (int32_t p = 0; p < OF_A_STEP; p++) {
            char text[96];
            snprintf(text, sizeof text, "%s@rank=%d,hit=%d:kill", of_a_step[p], below(want.workers),
                     LOST_IN);
            const run_result r = run_at(at, fast, text);
            if (r.err != DML_ERR_OK) fail_msg("%s: %s", text, r.trail);
            DML_CHECK_EQ(1, r.recoveries);
            for (int32_t s = 0; s < LOST_IN + NEXT - 1; s++) {
                const double off = fabs(r.step[s].loss - want.step[s].loss) / want.step[s].loss;
                if (off > (s < LOST_IN - 2 ? 0.0 : 1e-5))
                    fail_msg("layout %d, %s: the loss of step %d is off by %.2e", at, text, s + 1,
                             off);
            }
        }
    }
}

/* Whoever is lost comes back; the plan is the first one again. */
static void who_is_lost_comes_back(void **state)
{
    (void)state;
    static const char *const respawn[] = {"failures.respawn=on", "training.max_steps=16", NULL};
    for (int32_t at = 0; at < LAYOUTS; at++) {
        const run_result want = run_at(at, respawn, NULL);
        char text[160];
        const int32_t first = below(want.workers);
        snprintf(text, sizeof text,
                 "worker.vote.before@rank=%d,hit=2:kill; worker.vote.after@rank=%d,hit=9:kill",
                 first, (first + 1) % want.workers);
        const run_result r = run_at(at, respawn, text);
        expect_same_bits(&want, &r, text);
        DML_CHECK(r.losses >= 1);
        DML_CHECK(r.joined >= 1);
    }
}

/* A stage without holders: from the newest snapshot, and the model is cut anew. */
static void a_stage_is_lost_as_a_whole(void **state)
{
    (void)state;
    static const char *const pipeline[] = {"parallelism.pp=2", "parallelism.dp=1", NULL},
                             *const snapshots[] = {"failures.snapshot_interval=2", NULL};
    const run_result want = run(pipeline, NULL, NULL, NULL);
    for (int32_t rank = 0; rank < 2; rank++) {
        char text[96];
        snprintf(text, sizeof text, "worker.vote.after@rank=%d,hit=6:kill", rank);
        const run_result r = run(pipeline, snapshots, text, NULL);
        expect_same_bits(&want, &r, text);
        DML_CHECK_EQ(1, r.recoveries);
        snprintf(text, sizeof text, "worker.vote.after@rank=%d,hit=2:kill", rank);
        const run_result early = run(pipeline, snapshots, text, NULL); /* none is there yet */
        expect_same_bits(&want, &early, text);
        const run_result end = run(pipeline, NULL, text, NULL);
        DML_CHECK_EQ(DML_ERR_PEER, end.err);
        DML_CHECK(strstr(end.trail, "failures.snapshot_interval"));
    }
}

static void all_start_again_where_policy_says_so(void **state)
{
    (void)state;
    static const char *const pipeline[] = {"parallelism.pp=2", "parallelism.dp=1", NULL},
                             *const restart[] = {"failures.policy=restart",
                                                 "failures.snapshot_interval=2", NULL};
    const run_result want = run(pipeline, NULL, NULL, NULL);
    const char *text = "worker.vote.after@rank=1,hit=5:kill";
    const run_result r = run(pipeline, restart, text, NULL);
    expect_same_bits(&want, &r, text);
    DML_CHECK_EQ(2, r.joined);
}

/* "2: worker.put@rank=1,..." anywhere, to anyone; a stage may lose all its holders, for which there are snapshots. */
static void losses_drawn_at_random(void **state)
{
    (void)state;
    static const char *const extra[] = {"failures.snapshot_interval=2", "failures.respawn=on",
                                        "training.max_steps=12", NULL};
    int32_t unsaved = 0;
    for (int32_t i = 0; i < 12 * rounds; i++) {
        const int32_t at = below(LAYOUTS);
        const uint64_t begun = drawn;
        const run_result want = run_at(at, extra, NULL);
        char text[256] = "";
        for (int32_t k = 0, n = 1 + below(3); k < n; k++) {
            const int32_t p = below(OF_A_STEP + OF_A_MOVE);
            const size_t used = strlen(text);
            snprintf(text + used, sizeof text - used, "%s%s@rank=%d,hit=%d:kill", k ? "; " : "",
                     p < OF_A_STEP ? of_a_step[p] : of_a_move[p - OF_A_STEP], below(want.workers),
                     1 + below(p < OF_A_STEP ? 9 : 3));
        }
        const run_result r = run_at(at, extra, text);
        if (r.err == DML_ERR_PEER && strstr(r.trail, "no worker that held")) {
            unsaved++; /* before the first snapshot */
            continue;
        }
        if (r.err != DML_ERR_OK || r.weights_hash != want.weights_hash)
            print_message("seed %" PRIu64 " at draw %" PRIu64 ", layout %d\n", seed, begun, at);
        expect_same_bits(&want, &r, text);
    }
    DML_CHECK(4 * unsaved <= 12 * rounds);
}

/* ---- the agent's points ---- */

static void an_error_in_the_agent_ends_the_run_with_its_reason(void **state)
{
    (void)state;
    static const char *const points[] = {"agent.fence",   "agent.parked", "agent.decide",
                                         "agent.publish", "agent.moved",  "agent.ready"};
    for (int32_t p = 0; p < 6; p++) {
        char text[160];
        const char *hit = p == 5 ? "@hit=2" : ""; /* the first is the run's begin */
        snprintf(text, sizeof text, "worker.vote.after@rank=1,hit=3:kill; %s%s:error", points[p],
                 hit);
        const run_result r = run_at(0, NULL, text);
        DML_CHECK_EQ(DML_ERR_PEER, r.err);
        DML_CHECK(strstr(r.trail, points[p]));
        snprintf(text, sizeof text, "worker.vote.after@rank=1,hit=3:kill; %s%s:pause=20ms",
                 points[p], hit);
        const run_result paused = run_at(0, NULL, text), want = run_at(0, NULL, NULL);
        expect_same_bits(&want, &paused, text);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_is_lost_at_each_point_of_a_step),
        cmocka_unit_test(another_is_lost_at_each_point_of_the_recovery),
        cmocka_unit_test(any_two_of_three_holders_are_lost),
        cmocka_unit_test(three_of_four_are_lost_one_recovery_in_another),
        cmocka_unit_test(in_fast_mode_the_next_ten_losses_agree),
        cmocka_unit_test(who_is_lost_comes_back),
        cmocka_unit_test(a_stage_is_lost_as_a_whole),
        cmocka_unit_test(all_start_again_where_policy_says_so),
        cmocka_unit_test(losses_drawn_at_random),
        cmocka_unit_test(an_error_in_the_agent_ends_the_run_with_its_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
