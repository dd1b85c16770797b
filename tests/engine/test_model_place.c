/* tests/engine/test_model_place.c - placements of specs: what is found, and what it foretells against the plan of it. */
#include "tests/support/test.h"

#include "engine/model_place.h"
#include "engine/plan.h"

#define SLOW_LINK DML_SOURCE_DIR "/examples/vgg-like-slow-link.yaml"
#define VGG8      DML_SOURCE_DIR "/examples/vgg8-fashion-mnist.yaml"
enum { MOST = 8 };

typedef struct rig {
    dml_spec spec;
    dml_model model;
    dml_placement_problem p;
    dml_placement got;
    dml_arena arena;
} rig;

static void find(rig *r, const char *path, int32_t workers, const char *const *override)
{
    int32_t n = 0;
    *r = (rig){.arena = {0}};
    while (override[n])
        n++;
    DML_CHECK_OK(dml_spec_load(path, override, n, &r->spec));
    DML_CHECK_OK(dml_model_make(&r->spec, &r->arena, &r->model));
    DML_CHECK_OK(dml_model_placement(&r->spec, &r->model, workers, &r->arena, &r->p));
    DML_CHECK_OK(dml_placement_find(&r->p, &r->arena, &r->got));
}

static void close_rig(rig *r)
{
    dml_spec_free(&r->spec);
    dml_arena_free(&r->arena);
}

static void a_slow_link_replicates_convolutions_and_not_the_wide_dense_part(void **state)
{
    (void)state;
    rig r;
    find(&r, SLOW_LINK, 4, (const char *const[MOST]){NULL});
    DML_CHECK_EQ(2, r.got.n_stages);
    DML_CHECK_EQ(3, r.got.stage[0].replicas);
    DML_CHECK_EQ(2, r.got.stage[0].end);
    DML_CHECK_EQ(1, r.got.stage[1].replicas);
    dml_plan plan; /* the spec has these stages written out */
    int64_t step_ns;
    double bubble[4];
    int32_t stash[4];
    int64_t exposed_ns[4];
    DML_CHECK_OK(dml_plan_make(&r.spec, &plan));
    DML_CHECK_OK(dml_plan_predict(&plan, &plan.cost, &step_ns, bubble, stash, exposed_ns));
    /* 1F1B's drain is foretold; `auto` puts weight gradients there. */
    const double ratio = (double)r.got.step_ns / (double)step_ns;
    if (ratio < 1.0 || ratio > 1.2) fail_msg("foretold %.3f of what the plan takes", ratio);
    dml_plan_free(&plan);
    close_rig(&r);
}

static void a_fast_link_replicates_everything(void **state)
{
    (void)state;
    rig r;
    find(&r, SLOW_LINK, 4, (const char *const[MOST]){"parallelism.link.bandwidth=2GB/s", NULL});
    DML_CHECK_EQ(1, r.got.n_stages);
    DML_CHECK_EQ(4, r.got.stage[0].replicas);
    close_rig(&r);
}

static void bytes_are_those_of_the_plan_or_a_little_more(void **state)
{
    (void)state;
    static const char *const two[MOST] = {"data.path=/", "parallelism.pp=2", "parallelism.dp=1",
                                          NULL},
                             *const three[MOST] = {"data.path=/", "parallelism.pp=3",
                                                   "parallelism.dp=1", NULL};
    const char *const *const layouts[] = {two, three};
    for (int k = 0; k < 2; k++) {
        rig r;
        dml_plan plan;
        find(&r, VGG8, 2 + k, layouts[k]);
        DML_CHECK_OK(dml_plan_make(&r.spec, &plan));
        dml_placement got = {.n_stages = plan.stages,
                             .stage = DML_NEW_N(&r.arena, dml_placement_stage, plan.stages)};
        for (int32_t s = 0; s < plan.stages; s++) {
            int32_t *device = DML_NEW(&r.arena, int32_t);
            *device = s;
            got.stage[s] = (dml_placement_stage){.begin = plan.stage_begin[s],
                                                 .end = plan.stage_begin[s + 1],
                                                 .replicas = 1,
                                                 .device = device};
        }
        dml_placement_price_of(&r.p, &r.arena, &got);
        for (int32_t s = 0; s < plan.stages; s++) {
            const double ratio =
                (double)got.stage[s].bytes[0] / (double)dml_plan_worker_bytes(&plan, s);
            if (ratio < 1.0 || ratio > 1.07)
                fail_msg("stage %d of %d: %.3f of what it holds", s, plan.stages, ratio);
        }
        dml_plan_free(&plan);
        close_rig(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_link_replicates_convolutions_and_not_the_wide_dense_part),
        cmocka_unit_test(a_fast_link_replicates_everything),
        cmocka_unit_test(bytes_are_those_of_the_plan_or_a_little_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
