/* tests/engine/test_partition_replicas.c - PipeDream's recurrence against all cuts and all replica counts. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/partition_replicas.h"

#include <math.h>

enum { LAYERS = 128 };

typedef struct problem {
    dml_replica_layer layer[LAYERS];
    dml_replica_level level[DML_REPLICA_LEVELS];
    int32_t n, n_levels;
} problem;

static dml_replica_plan solve(const problem *p, dml_arena *arena)
{
    dml_replica_plan plan;
    DML_CHECK_OK(dml_partition_replicas(p->layer, p->n, p->level, p->n_levels, arena, &plan));
    return plan;
}

static void check_close(double want, double got)
{
    if (fabs(want - got) > 1e-9 * want) fail_msg("%.12g is not %.12g", got, want);
}

/* One level's stages, "[begin, end) x replicas" in order. */
typedef struct known {
    double bandwidth;
    int32_t workers;
    double time[6], out[6], params[6];
    int32_t n;
    double want;
    int32_t stages;
    struct {
        int32_t begin, end, replicas;
    } stage[2];
} known;

static void the_known_plans_come_out(void **state)
{
    (void)state;
    /* clang-format off */
    static const known all[] = {
        {1e6, 2, {1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}, 4, 2.0, 1, {{0, 4, 2}}},
        {1000, 4, {4, 4, 4, 4, 1, 1}, {2, 2, 2, 1, 1, 0}, {1, 1, 1, 1, 40, 40}, 6,
         4.5, 1, {{0, 6, 4}}},
        {10, 4, {4, 4, 4, 4, 1, 1}, {2, 2, 2, 1, 1, 0}, {1, 1, 1, 1, 40, 40}, 6,
         16.0 / 3, 2, {{0, 4, 3}, {4, 6, 1}}},
        {10, 4, {4, 4, 4, 4, 1, 1}, {200, 200, 200, 100, 10, 0}, {1, 1, 1, 1, 40, 40}, 6,
         17.6 / 3, 2, {{0, 5, 3}, {5, 6, 1}}},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const known *k = &all[i];
        problem p = {.level = {{k->workers, k->bandwidth}}, .n = k->n, .n_levels = 1};
        for (int32_t l = 0; l < k->n; l++)
            p.layer[l] = (dml_replica_layer){k->time[l], k->out[l], k->params[l]};
        dml_arena arena = {0};
        const dml_replica_plan plan = solve(&p, &arena);
        check_close(k->want, plan.time);
        DML_CHECK_EQ(k->stages, plan.n_stages);
        for (int32_t s = 0; s < k->stages; s++) {
            DML_CHECK_EQ(k->stage[s].begin, plan.stage[s].begin);
            DML_CHECK_EQ(k->stage[s].end, plan.stage[s].end);
            DML_CHECK_EQ(k->stage[s].replicas, plan.stage[s].replicas);
        }
        dml_arena_free(&arena);
    }
}

/* ---- everything that the recurrence chooses from ---- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double try_all(const problem *p, int32_t k, int32_t i, int32_t j);

/* One stage of layers i..j on m components of level k. */
static double stage_time(const problem *p, int32_t k, int32_t i, int32_t j, int32_t m)
{
    double params = 0.0;
    for (int32_t l = i; l <= j; l++)
        params += p->layer[l].params;
    const double reduce = 2.0 * (m - 1) * params / p->level[k].bandwidth;
    return larger(try_all(p, k - 1, i, j), reduce) / m;
}

/* The best way to give `left` components to layers i..j: the first stage ends at any `e`, on any count. */
static double try_stages(const problem *p, int32_t k, int32_t i, int32_t j, int32_t left)
{
    double best = stage_time(p, k, i, j, left);
    for (int32_t e = i; e < j; e++) {
        const double border = 2.0 * p->layer[e].out / p->level[k].bandwidth;
        for (int32_t m = 1; m < left; m++) {
            const double first = larger(stage_time(p, k, i, e, m), border);
            const double time = larger(first, try_stages(p, k, e + 1, j, left - m));
            if (time < best) best = time;
        }
    }
    return best;
}

/* Layers i..j on one whole component of level k + 1; below the first, on a device. */
static double try_all(const problem *p, int32_t k, int32_t i, int32_t j)
{
    if (k >= 0) return try_stages(p, k, i, j, p->level[k].components);
    double time = 0.0;
    for (int32_t l = i; l <= j; l++)
        time += p->layer[l].time;
    return time;
}

/* What the stages that came back take, with those of one outer stage grouped: level k of stages [s, t). */
static double price(const problem *p, const dml_replica_plan *plan, int32_t k, int32_t s, int32_t t)
{
    if (k < 0) {
        double time = 0.0;
        DML_CHECK_EQ(s + 1, t);
        for (int32_t l = plan->stage[s].begin; l < plan->stage[s].end; l++)
            time += p->layer[l].time;
        return time;
    }
    double time = 0.0;
    int32_t components = 0;
    for (int32_t a = s, b; a < t; a = b) {
        const int32_t m = plan->stage[a].at[k];
        int32_t below = 1; /* components of the level below that a whole one has */
        for (int32_t q = 0; q < k; q++)
            below *= p->level[q].components;
        double params = 0.0;
        int32_t devices = 0;
        for (b = a; devices < below; b++) { /* the stages that share whole components */
            DML_CHECK(b < t);
            DML_CHECK_EQ(m, plan->stage[b].at[k]);
            int32_t inner = 1;
            for (int32_t q = 0; q < k; q++)
                inner *= plan->stage[b].at[q];
            devices += inner;
            for (int32_t l = plan->stage[b].begin; l < plan->stage[b].end; l++)
                params += p->layer[l].params;
        }
        DML_CHECK_EQ(below, devices);
        const double reduce = 2.0 * (m - 1) * params / p->level[k].bandwidth;
        time = larger(time, larger(price(p, plan, k - 1, a, b), reduce) / m);
        if (b < t)
            time = larger(time,
                          2.0 * p->layer[plan->stage[b - 1].end - 1].out / p->level[k].bandwidth);
        components += m;
    }
    DML_CHECK_EQ(p->level[k].components, components);
    return time;
}

static void check_plan(const problem *p, const dml_replica_plan *plan)
{
    int32_t next = 0;
    for (int32_t s = 0; s < plan->n_stages; s++) {
        const dml_replica_stage *stage = &plan->stage[s];
        DML_CHECK_EQ(next, stage->begin);
        DML_CHECK(stage->end > stage->begin);
        next = stage->end;
        int32_t replicas = 1;
        for (int32_t k = 0; k < p->n_levels; k++)
            replicas *= stage->at[k];
        DML_CHECK_EQ(replicas, stage->replicas);
    }
    DML_CHECK_EQ(p->n, next);
    check_close(plan->time, price(p, plan, p->n_levels - 1, 0, plan->n_stages));
}

static void make(problem *p, uint32_t number, int32_t n, int32_t n_levels,
                 const int32_t *components)
{
    *p = (problem){.n = n, .n_levels = n_levels};
    const uint64_t key = dml_rng_key(8, DML_RNG_TEST, number);
    uint32_t word[4];
    for (int32_t l = 0; l < n; l++) {
        dml_rng_block(key, 0, (uint64_t)l, word);
        p->layer[l] =
            (dml_replica_layer){word[0] % 50, word[1] % 100, word[2] % (word[3] % 2 ? 20 : 400)};
    }
    for (int32_t k = 0; k < n_levels; k++) {
        dml_rng_block(key, 1, (uint64_t)k, word);
        p->level[k] = (dml_replica_level){components[k], 1 + word[0] % 30};
    }
}

static void one_level_equals_all_cuts_and_counts(void **state)
{
    (void)state;
    for (uint32_t number = 0; number < 1000; number++) {
        problem p;
        make(&p, number, 1 + (int32_t)(number % 6), 1,
             (const int32_t[]){1 + (int32_t)(number / 6 % 5)});
        dml_arena arena = {0};
        const dml_replica_plan plan = solve(&p, &arena);
        check_close(try_all(&p, 0, 0, p.n - 1), plan.time);
        check_plan(&p, &plan);
        dml_arena_free(&arena);
    }
}

static void levels_nest(void **state)
{
    (void)state;
    static const int32_t components[][3] = {{2, 2, 1}, {3, 2, 1}, {2, 3, 1},
                                            {1, 4, 1}, {2, 1, 2}, {2, 2, 2}};
    int32_t nested = 0; /* plans with several stages inside one replica of an outer one */
    for (uint32_t number = 0; number < 300; number++) {
        problem p;
        make(&p, number, 1 + (int32_t)(number % 5), number % 6 < 4 ? 2 : 3, components[number % 6]);
        dml_arena arena = {0};
        const dml_replica_plan plan = solve(&p, &arena);
        check_close(try_all(&p, p.n_levels - 1, 0, p.n - 1), plan.time);
        check_plan(&p, &plan);
        for (int32_t s = 0; s < plan.n_stages; s++)
            nested += plan.stage[s].at[0] < p.level[0].components && plan.stage[s].at[1] > 1;
        dml_arena_free(&arena);
    }
    DML_CHECK(nested > 20);
}

/* 64 nodes of eight: never worse than one stage on all, nor better than no overhead at all. */
static void many_devices_stay_between_their_bounds(void **state)
{
    (void)state;
    problem p;
    make(&p, 1, LAYERS, 2, (const int32_t[]){8, 64});
    double time = 0.0, params = 0.0;
    for (int32_t l = 0; l < p.n; l++) {
        time += p.layer[l].time;
        params += p.layer[l].params;
    }
    dml_arena arena = {0};
    const dml_replica_plan plan = solve(&p, &arena);
    check_plan(&p, &plan);
    const double node = larger(time, 2.0 * 7 * params / p.level[0].bandwidth) / 8;
    DML_CHECK(plan.time <= larger(node, 2.0 * 63 * params / p.level[1].bandwidth) / 64);
    DML_CHECK(plan.time >= time / 512);
    dml_arena_free(&arena);
}

static void links_that_cost_nothing_make_data_parallel_best(void **state)
{
    (void)state;
    problem p;
    make(&p, 3, 6, 2, (const int32_t[]){2, 3});
    p.level[0].bandwidth = p.level[1].bandwidth = INFINITY;
    double time = 0.0;
    for (int32_t l = 0; l < p.n; l++)
        time += p.layer[l].time;
    dml_arena arena = {0};
    const dml_replica_plan plan = solve(&p, &arena);
    check_close(time / 6, plan.time);
    DML_CHECK_EQ(1, plan.n_stages);
    DML_CHECK_EQ(6, plan.stage[0].replicas);
    dml_arena_free(&arena);
}

static void what_is_no_problem_is_refused(void **state)
{
    (void)state;
    const dml_replica_layer layer = {1, 1, 1};
    const dml_replica_level none = {0, 1.0}, slow = {1, 0.0};
    dml_arena arena = {0};
    dml_replica_plan plan;
    DML_CHECK_FAILS(DML_ERR_SPEC, "0 layers",
                    dml_partition_replicas(&layer, 0, &none, 1, &arena, &plan));
    DML_CHECK_FAILS(DML_ERR_SPEC, "1 to 4",
                    dml_partition_replicas(&layer, 1, &none, 0, &arena, &plan));
    DML_CHECK_FAILS(DML_ERR_SPEC, "level 1 has 0 components",
                    dml_partition_replicas(&layer, 1, &none, 1, &arena, &plan));
    DML_CHECK_FAILS(DML_ERR_SPEC, "level 1 has a bandwidth of 0",
                    dml_partition_replicas(&layer, 1, &slow, 1, &arena, &plan));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_known_plans_come_out),
        cmocka_unit_test(one_level_equals_all_cuts_and_counts),
        cmocka_unit_test(levels_nest),
        cmocka_unit_test(many_devices_stay_between_their_bounds),
        cmocka_unit_test(links_that_cost_nothing_make_data_parallel_best),
        cmocka_unit_test(what_is_no_problem_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
