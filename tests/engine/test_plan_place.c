/* parallelism.stages: unequal replica counts, unequal shares, stages of a worker that are not neighbours. */
#include "tests/support/test.h"

#include "engine/plan.h"
#include "engine/plan_compare.h"
#include "tests/engine/spec_file.h"
#include "tests/support/run_threads.h"

#include <math.h>
#include <stdlib.h>

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define DELAYS DML_SOURCE_DIR "/examples/placed-delay.yaml"

typedef struct rig {
    dml_spec spec;
    dml_plan plan;
} rig;

static dml_err open_rig(rig *r, const char *path, const char *const *overrides)
{
    int32_t n = 0;
    while (overrides && overrides[n])
        n++;
    *r = (rig){0};
    DML_CHECK_OK(dml_spec_load(path, overrides, n, &r->spec));
    return dml_plan_make(&r->spec, &r->plan);
}

static void close_rig(rig *r)
{
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
}

/* tiny-cnn has 8 micro-batches a step, and names a schedule. */
#define AUTO "parallelism.schedule=auto"
static const char stages[] =
    "parallelism.stages=[{workers: [0, 1]}, {workers: [2]}, {workers: [3, 0], shares: [3, 1]}]";

static void the_route_table_follows_workers_and_shares(void **state)
{
    (void)state;
    static const char *const overrides[] = {stages, AUTO, NULL};
    static const int32_t want[3][8] = {
        {0, 1, 0, 1, 0, 1, 0, 1}, {2, 2, 2, 2, 2, 2, 2, 2}, {3, 3, 0, 3, 3, 3, 0, 3}};
    rig r;
    DML_CHECK_OK(open_rig(&r, TINY, overrides));
    const dml_plan *p = &r.plan;
    DML_CHECK_EQ(3, p->stages);
    DML_CHECK_EQ(4, p->workers);
    DML_CHECK_EQ(8, p->mbs);
    DML_CHECK(!dml_plan_is_equal(p));
    const dml_program *const programs[] = {&p->train, &p->eval};
    for (int i = 0; i < 2; i++)
        for (int32_t s = 0; s < 3; s++)
            for (int32_t mb = 0; mb < 8; mb++)
                DML_CHECK_EQ(want[s][mb], *dml_program_route(programs[i], s, mb));
    close_rig(&r);
}

static void holders_shares_and_places_are_read_off_the_routes(void **state)
{
    (void)state;
    static const char *const overrides[] = {stages, AUTO, NULL};
    rig r;
    DML_CHECK_OK(open_rig(&r, TINY, overrides));
    const dml_plan *p = &r.plan;
    int32_t holder[4];
    DML_CHECK_EQ(2, dml_plan_holders(p, 2, holder));
    DML_CHECK_EQ(0, holder[0]);
    DML_CHECK_EQ(3, holder[1]);
    DML_CHECK_EQ(2, dml_plan_share(p, 0, 2));
    DML_CHECK_EQ(6, dml_plan_share(p, 3, 2));
    DML_CHECK_EQ(0, dml_plan_share(p, 3, 0));
    static const int32_t rank[] = {0, 0, 1, 2}, replica[] = {0, 1, 0, 1};
    static const char *const held[] = {"0,2", "0", "1", "2"};
    for (int32_t w = 0; w < 4; w++) {
        dml_str text = {0};
        DML_CHECK_EQ(rank[w], dml_plan_rank(p, w));
        DML_CHECK_EQ(replica[w], dml_plan_replica(p, w));
        dml_plan_print_stages(p, w, &text);
        assert_string_equal(held[w], dml_str_text(&text));
        dml_str_free(&text);
    }
    close_rig(&r);
}

/* A worker's bytes are those of each stage that it holds. */
static void a_worker_of_two_stages_holds_both(void **state)
{
    (void)state;
    static const char *const two[] = {"parallelism.stages=[{workers: [0]}, {workers: [1]}, "
                                      "{workers: [0]}]",
                                      AUTO, NULL},
                             *const apart[] = {
                                 "parallelism.stages=[{workers: [0]}, {workers: [1]}, "
                                 "{workers: [2]}]",
                                 AUTO, NULL};
    rig a, b;
    DML_CHECK_OK(open_rig(&a, TINY, two));
    DML_CHECK_OK(open_rig(&b, TINY, apart));
    DML_CHECK_EQ(2, a.plan.workers);
    DML_CHECK_EQ(3, b.plan.workers);
    DML_CHECK(dml_plan_worker_bytes(&a.plan, 0) > dml_plan_worker_bytes(&b.plan, 0));
    DML_CHECK(dml_plan_worker_bytes(&a.plan, 0) > dml_plan_worker_bytes(&b.plan, 2));
    close_rig(&a);
    close_rig(&b);
}

/* As the run's own allocator counts: beside what is planned, labels, the norm's partial sums and padding. */
static void workers_take_the_bytes_that_the_plan_says(void **state)
{
    (void)state;
    enum { OTHER = 4096, PARTS = 16, ALIGN = 256 };
    static const char *const overrides[] = {stages, AUTO, NULL};
    const run_result run = run_threads(TINY, overrides);
    DML_CHECK_OK(run.err);
    DML_CHECK_EQ(4, run.workers);
    rig r;
    DML_CHECK_OK(open_rig(&r, TINY, overrides));
    for (int32_t w = 0; w < 4; w++) {
        const int64_t planned = dml_plan_worker_bytes(&r.plan, w), taken = run.end[w].memory_bytes;
        const int32_t held = w == 0 ? 2 : 1;
        DML_CHECK_EQ(held, run.end[w].n_chunks);
        DML_CHECK(taken >= planned && taken <= planned + OTHER + held * PARTS * ALIGN);
    }
    close_rig(&r);
}

static void memory_is_a_limit_here_too(void **state)
{
    (void)state;
    char memory[64];
    static const char *const free_overrides[] = {stages, AUTO, NULL};
    const char *const tight[] = {stages, AUTO, memory, NULL};
    rig r;
    DML_CHECK_OK(open_rig(&r, TINY, free_overrides));
    int64_t most = 0;
    for (int32_t w = 0; w < r.plan.workers; w++)
        if (dml_plan_worker_bytes(&r.plan, w) > most) most = dml_plan_worker_bytes(&r.plan, w);
    close_rig(&r);
    snprintf(memory, sizeof memory, "parallelism.memory=%lld", (long long)most - 1);
    DML_CHECK_OK(open_rig(&r, TINY, tight));
    for (int32_t w = 0; w < r.plan.workers; w++)
        DML_CHECK(dml_plan_worker_bytes(&r.plan, w) < most);
    close_rig(&r);
    snprintf(memory, sizeof memory, "parallelism.memory=100");
    DML_CHECK_FAILS(DML_ERR_SPEC, "which no cut divides, are too large for every stage: ",
                    open_rig(&r, TINY, tight));
    close_rig(&r);
}

static void a_fourth_worker_that_helps_two_stages_fills_the_pipeline(void **state)
{
    (void)state;
    static const char *const three[] = {"parallelism.stages=[]", "parallelism.pp=3", NULL};
    rig r;
    int64_t step_ns, three_ns;
    double bubble[4];
    int32_t stash[4];
    int64_t exposed_ns[DML_HOST_WORKERS];
    DML_CHECK_OK(open_rig(&r, DELAYS, NULL));
    DML_CHECK_OK(dml_plan_predict(&r.plan, &r.plan.cost, &step_ns, bubble, stash, exposed_ns));
    for (int32_t w = 0; w < 4; w++) /* 12 x 30 ms of work each */
        DML_CHECK(fabs(1.0 - 360e6 / (double)step_ns - bubble[w]) < 1e-4);
    DML_CHECK(step_ns < 386000000);
    DML_CHECK(r.plan.bound_ns >= 385000000 && step_ns >= r.plan.bound_ns);
    close_rig(&r);
    DML_CHECK_OK(open_rig(&r, DELAYS, three));
    DML_CHECK(dml_plan_is_equal(&r.plan));
    DML_CHECK_OK(dml_plan_predict(&r.plan, &r.plan.cost, &three_ns, bubble, stash, exposed_ns));
    DML_CHECK(three_ns > 12 * INT64_C(45000000)); /* the longest stage alone */
    close_rig(&r);
}

static void schedules_that_place_their_stages_are_refused(void **state)
{
    (void)state;
    static const char *const named[] = {"parallelism.schedule=zb_h1", NULL},
                             *const file[] = {"parallelism.schedule=csv:/nowhere/x.csv", NULL};
    rig r;
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "schedule zb_h1 places the stages of equal pipelines itself; "
                    "parallelism.stages takes schedule auto",
                    open_rig(&r, DELAYS, named));
    close_rig(&r);
    DML_CHECK_FAILS(DML_ERR_SPEC, "schedule csv:FILE places the stages",
                    open_rig(&r, DELAYS, file));
    close_rig(&r);
    dml_str text = {0};
    DML_CHECK_OK(dml_spec_load(DELAYS, NULL, 0, &r.spec));
    DML_CHECK_OK(dml_plan_compare(&r.spec, &text));
    DML_CHECK(strstr(dml_str_text(&text), "\nall but auto          -  schedule 1f1b places"));
    DML_CHECK(strstr(dml_str_text(&text), "\nauto                    385.00"));
    dml_str_free(&text);
    dml_spec_free(&r.spec);
}

static void more_stages_than_the_model_has_say_where_they_are_written(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "parallelism.stages=[{workers: [0]}, {workers: [0]}, {workers: [0]}, {workers: [0]}, "
        "{workers: [0]}, {workers: [0]}]",
        "parallelism.split=auto", NULL};
    rig r;
    DML_CHECK_FAILS(DML_ERR_SPEC, "override 'parallelism.stages=", open_rig(&r, DELAYS, overrides));
    DML_CHECK_FAILS(DML_ERR_SPEC, "6 stages, but the model can be cut into 4 at most",
                    dml_plan_make(&r.spec, &r.plan));
    close_rig(&r);
}

/* ---- the spec ---- */

static const char mlp[] = "model: {type: mlp, hidden: [64, 64]}\n";

static void the_list_is_read_and_makes_auto_the_schedule(void **state)
{
    (void)state;
    char text[512];
    dml_spec s;
    snprintf(text, sizeof text,
             "%sparallelism:\n"
             "  stages:\n"
             "    - workers: [0, 1]\n"
             "    - {workers: [2, 0, 1], shares: [4, 1, 1]}\n",
             mlp);
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    DML_CHECK_EQ(2, s.parallelism.n_stages);
    DML_CHECK_EQ(2, dml_spec_stages(&s));
    DML_CHECK_EQ(3, dml_spec_workers(&s));
    DML_CHECK_EQ(3, dml_spec_replicas(&s));
    DML_CHECK_EQ(2, s.parallelism.stage[1].workers.v[0]);
    DML_CHECK_EQ(4, s.parallelism.stage[1].shares.v[0]);
    DML_CHECK_EQ(2, s.parallelism.stage[0].shares.n);
    DML_CHECK_EQ(1, s.parallelism.stage[0].shares.v[1]);
    assert_string_equal("auto", s.parallelism.schedule);
    char *shown = printed(&s);
    DML_CHECK(strstr(shown, "  stages:") && !strstr(shown, "pipeline_parallel_size"));
    DML_CHECK(strstr(shown, "schedule: auto\n"));
    free(shown);
    dml_spec_free(&s);
}

static void an_empty_list_gives_way_to_equal_pipelines(void **state)
{
    (void)state;
    char text[256];
    dml_spec s;
    static const char *const overrides[] = {"parallelism.stages=[]", "parallelism.pp=2"};
    snprintf(text, sizeof text, "%sparallelism: {stages: [{workers: [0]}]}\n", mlp);
    DML_CHECK_OK(spec_of(text, overrides, 2, &s));
    DML_CHECK_EQ(2, dml_spec_stages(&s));
    assert_string_equal("1f1b", s.parallelism.schedule);
    char *shown = printed(&s);
    DML_CHECK(!strstr(shown, "stages:\n") && strstr(shown, "pipeline_parallel_size: 2"));
    free(shown);
    dml_spec_free(&s);
}

static void a_list_on_the_command_line_replaces_the_sizes_of_the_file(void **state)
{
    (void)state;
    char text[256];
    dml_spec s;
    static const char *const overrides[] = {"parallelism.stages=[{workers: [0]}, {workers: [1]}]"};
    snprintf(text, sizeof text, "%sparallelism: {pp: 3, dp: 3}\n", mlp); /* 8 / 3 would not do */
    DML_CHECK_OK(spec_of(text, overrides, 1, &s));
    DML_CHECK_EQ(2, dml_spec_stages(&s));
    DML_CHECK_EQ(2, dml_spec_workers(&s));
    DML_CHECK_EQ(1, dml_spec_replicas(&s));
    DML_CHECK_EQ(1, s.parallelism.data_parallel_size);
    dml_spec_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_route_table_follows_workers_and_shares),
        cmocka_unit_test(holders_shares_and_places_are_read_off_the_routes),
        cmocka_unit_test(a_worker_of_two_stages_holds_both),
        cmocka_unit_test(workers_take_the_bytes_that_the_plan_says),
        cmocka_unit_test(memory_is_a_limit_here_too),
        cmocka_unit_test(a_fourth_worker_that_helps_two_stages_fills_the_pipeline),
        cmocka_unit_test(schedules_that_place_their_stages_are_refused),
        cmocka_unit_test(more_stages_than_the_model_has_say_where_they_are_written),
        cmocka_unit_test(the_list_is_read_and_makes_auto_the_schedule),
        cmocka_unit_test(an_empty_list_gives_way_to_equal_pipelines),
        cmocka_unit_test(a_list_on_the_command_line_replaces_the_sizes_of_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
