/* Orders that are no schedule's: made for the spec, or read from a file; and the memory a worker may hold. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/plan.h"
#include "schedule/csv.h"
#include "schedule/sim.h"

#include <stdlib.h>
#include <unistd.h>

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define U_NET  DML_SOURCE_DIR "/tests/specs/u-net.yaml"
#define DELAYS DML_SOURCE_DIR "/examples/pipe4-delay.yaml"

/* Loads and plans; *spec lives as long as the plan. */
static dml_err plan_of(const char *path, const char *const *overrides, dml_spec *spec,
                       dml_plan *plan)
{
    int32_t n = 0;
    while (overrides[n])
        n++;
    *plan = (dml_plan){0};
    DML_CHECK_OK(dml_spec_load(path, overrides, n, spec));
    return dml_plan_make(spec, plan);
}

static void free_both(dml_spec *spec, dml_plan *plan)
{
    dml_plan_free(plan);
    dml_spec_free(spec);
}

static void auto_reaches_its_bound_on_even_stages(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    static const char *const overrides[] = {"parallelism.schedule=auto", NULL};
    DML_CHECK_OK(plan_of(DELAYS, overrides, &spec, &plan));
    dml_sim sim;
    DML_CHECK_OK(dml_simulate(&plan.train, &plan.cost, &sim));
    DML_CHECK(plan.bound_ns >= 270000000 &&
              plan.bound_ns < 270001000); /* the linear layer's few ns */
    DML_CHECK(sim.makespan_ns >= plan.bound_ns);
    DML_CHECK(sim.makespan_ns < plan.bound_ns + 1000000);
    dml_sim_free(&sim);
    free_both(&spec, &plan);
}

static void auto_and_a_file_give_the_bits_of_a_schedule(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    static const char *const zero_bubble[] = {"parallelism.pp=3", "parallelism.schedule=zb_h1",
                                              NULL};
    DML_CHECK_OK(plan_of(TINY, zero_bubble, &spec, &plan));
    char path[] = "/tmp/dml-test-order-XXXXXX", csv[64];
    const int fd = mkstemp(path);
    dml_str text = {0};
    dml_csv_print(&plan.train, &text);
    DML_CHECK(write(fd, dml_str_text(&text), text.len) == (ssize_t)text.len);
    close(fd);
    snprintf(csv, sizeof csv, "csv:%s", path);
    const layout layouts[] = {{"1", "1", "1f1b", "1"},
                              {"3", "1", csv, "1"},
                              {"3", "1", "auto", "1"},
                              {"2", "2", "auto", "1"},
                              {"2", "1", "auto x2", "1"}};
    expect_all_same(TINY, layouts, sizeof layouts / sizeof *layouts, NULL);
    unlink(path);
    dml_str_free(&text);
    free_both(&spec, &plan);
}

static void a_file_of_another_size_says_what_would_fit(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    char path[] = "/tmp/dml-test-order-XXXXXX", schedule[96];
    const int fd = mkstemp(path);
    static const char one[] = "0F0,0B0\n1F0,1B0\n";
    DML_CHECK(write(fd, one, sizeof one - 1) == (ssize_t)sizeof one - 1);
    close(fd);
    snprintf(schedule, sizeof schedule, "parallelism.schedule=csv:%s", path);
    const char *const three[] = {schedule, "parallelism.pp=3", NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "is for 2 ranks and 2 stages, the spec for pipeline_parallel_size 3",
                    plan_of(TINY, three, &spec, &plan));
    free_both(&spec, &plan);
    const char *const two[] = {schedule, "parallelism.pp=2", NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC, "is for 1 micro-batches, the spec has",
                    plan_of(TINY, two, &spec, &plan));
    free_both(&spec, &plan);
    unlink(path);
    static const char *const none[] = {"parallelism.schedule=csv:/nowhere/x.csv",
                                       "parallelism.pp=2", NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC, "cannot read the schedule '/nowhere/x.csv'",
                    plan_of(TINY, none, &spec, &plan));
    free_both(&spec, &plan);
}

static void what_a_schedule_refuses_is_refused_at_its_place_in_the_spec(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    static const char *const two[] = {"parallelism.vpp=2", "parallelism.schedule=zb_h1", NULL},
                             *const odd[] = {"parallelism.schedule=chimera", NULL},
                             *const small[] = {"parallelism.pp=2", "parallelism.memory=1KB",
                                               "parallelism.schedule=auto",
                                               "parallelism.split=uniform", NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "override 'parallelism.schedule=zb_h1': zb_h1 runs one chunk on each rank, not "
                    "2; several are for sequential, ",
                    plan_of(TINY, two, &spec, &plan));
    free_both(&spec, &plan);
    DML_CHECK_FAILS(DML_ERR_SPEC, "override 'parallelism.schedule=chimera': chimera mirrors",
                    plan_of(TINY, odd, &spec, &plan));
    free_both(&spec, &plan);
    DML_CHECK_FAILS(DML_ERR_SPEC, "override 'parallelism.memory=1KB': no order fits: micro-batch 0",
                    plan_of(TINY, small, &spec, &plan));
    free_both(&spec, &plan);
}

static void memory_is_a_limit_that_auto_keeps(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    int64_t most = 0;
    static const char *const gpipe[] = {"parallelism.pp=2", "parallelism.schedule=gpipe", NULL};
    DML_CHECK_OK(plan_of(TINY, gpipe, &spec, &plan));
    for (int32_t w = 0; w < plan.workers; w++)
        if (dml_plan_worker_bytes(&plan, w) > most) most = dml_plan_worker_bytes(&plan, w);
    free_both(&spec, &plan);

    char memory[64];
    snprintf(memory, sizeof memory, "parallelism.memory=%lld", (long long)most - 1);
    const char *const tight_gpipe[] = {"parallelism.pp=2", "parallelism.schedule=gpipe", memory,
                                       NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "no cut fits parallelism.memory: no cut into 2 stages fits: the nearest leaves "
                    "stage 1 ('block1.conv2' to 'loss') 1 bytes short",
                    plan_of(TINY, tight_gpipe, &spec, &plan));
    free_both(&spec, &plan);
    const char *const tight[] = {"parallelism.pp=2", "parallelism.schedule=auto", memory, NULL};
    DML_CHECK_OK(plan_of(TINY, tight, &spec, &plan));
    for (int32_t w = 0; w < plan.workers; w++)
        DML_CHECK(dml_plan_worker_bytes(&plan, w) < most);
    free_both(&spec, &plan);
}

/* Weight gradients that wait keep what was recomputed; skips, labels and what is reduced take room, too. */
static void auto_counts_every_byte_that_a_micro_batch_keeps(void **state)
{
    (void)state;
    static const char *const policy[] = {"none", "full"}, *const memory[] = {"49152", "98304"};
    for (int k = 0; k < 2; k++) {
        dml_spec spec;
        dml_plan plan;
        char recompute[64], most[64];
        snprintf(recompute, sizeof recompute, "parallelism.recompute=%s", policy[k]);
        snprintf(most, sizeof most, "parallelism.memory=%s", memory[k]);
        const char *const overrides[] = {"parallelism.pp=3",
                                         "training.micro_batch_size=1",
                                         "training.global_batch_size=12",
                                         "parallelism.schedule=auto",
                                         recompute,
                                         most,
                                         NULL};
        DML_CHECK_OK(plan_of(U_NET, overrides, &spec, &plan));
        for (int32_t w = 0; w < plan.workers; w++)
            DML_CHECK(dml_plan_worker_bytes(&plan, w) <= strtoll(memory[k], NULL, 10));
        free_both(&spec, &plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_reaches_its_bound_on_even_stages),
        cmocka_unit_test(auto_and_a_file_give_the_bits_of_a_schedule),
        cmocka_unit_test(a_file_of_another_size_says_what_would_fit),
        cmocka_unit_test(what_a_schedule_refuses_is_refused_at_its_place_in_the_spec),
        cmocka_unit_test(memory_is_a_limit_that_auto_keeps),
        cmocka_unit_test(auto_counts_every_byte_that_a_micro_batch_keeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
