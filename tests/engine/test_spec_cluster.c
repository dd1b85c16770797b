/* The section `cluster`: read, printed so that it loads back equal, and what the plan makes of it. */
#include "tests/support/test.h"

#include "engine/plan.h"
#include "tests/engine/spec_file.h"

static const char net[] =
    "model: {type: layers, input: [4], layers: [{delay: {forward: 4ms, input: 2ms, weight: 2ms}}, "
    "{delay: {forward: 4ms, input: 2ms, weight: 2ms}}, {linear: {out: 10}}]}\n"
    "data: {format: synthetic}\n"
    "training: {global_batch_size: 8, micro_batch_size: 2}\n"
    "parallelism: {pp: 2, dp: 2, split: [1, 2]}\n";

static const char cluster[] =
    "cluster.links=[{workers: 2, latency: 10us, bandwidth: 1GB/s}, {latency: 3ms, bandwidth: "
    "100B/s}]";

static void every_list_reaches_its_field_and_prints_back_equal(void **state)
{
    (void)state;
    static const char *const with[] = {
        "cluster.speed=[1, 0.5, 0.1, 2]", "cluster.memory=[1GiB, 0, 1000B, 3MiB]", cluster,
        "cluster.slow=[{worker: 3, speed: 0.3, step: 7}, {worker: 0, speed: 2}]"};
    dml_spec s, again;
    DML_CHECK_OK(spec_of(net, with, 4, &s));
    char *first = printed(&s);
    DML_CHECK_OK(spec_of(first, NULL, 0, &again));
    for (const dml_spec *of = &s; of; of = of == &s ? &again : NULL) {
        DML_CHECK(of->cluster.speed.n == 4 && of->cluster.speed.v[2] == 0.1);
        DML_CHECK_EQ(4, of->cluster.memory.n);
        DML_CHECK_EQ(INT64_C(1) << 30, dml_spec_memory(of, 0));
        DML_CHECK_EQ(1000, dml_spec_memory(of, 2));
        DML_CHECK_EQ(2, of->cluster.n_links);
        DML_CHECK_EQ(2, of->cluster.link[0].workers);
        DML_CHECK_EQ(10000, of->cluster.link[0].link.latency_ns);
        DML_CHECK(of->cluster.link[0].link.bytes_per_s == 1e9);
        DML_CHECK_EQ(0, of->cluster.link[1].workers);
        DML_CHECK_EQ(2, of->cluster.n_slow);
        DML_CHECK_EQ(3, of->cluster.slow[0].worker);
        DML_CHECK(of->cluster.slow[0].speed == 0.3 && of->cluster.slow[0].step == 7);
        DML_CHECK_EQ(0, of->cluster.slow[1].step);
    }
    char *second = printed(&again);
    assert_string_equal(first, second);
    free(first);
    free(second);
    dml_spec_free(&s);
    dml_spec_free(&again);
}

static void without_a_cluster_all_workers_are_alike(void **state)
{
    (void)state;
    static const char *const with[] = {"parallelism.link={latency: 7us, bandwidth: 2GB/s}",
                                       "parallelism.memory=5MiB", "cluster.speed=[]",
                                       "cluster.links=[]"};
    dml_spec s;
    DML_CHECK_OK(spec_of(net, with, 4, &s));
    const dml_links links = dml_spec_links(&s);
    DML_CHECK(links.levels == 0 && links.outer.latency_ns == 7000);
    DML_CHECK(links.outer.bytes_per_s == 2e9);
    DML_CHECK(dml_spec_speed(&s, 3) == 1.0);
    DML_CHECK_EQ(5 << 20, dml_spec_memory(&s, 3));
    char *text = printed(&s);
    DML_CHECK(!strstr(text, "cluster:"));
    free(text);
    dml_spec_free(&s);
}

static void a_worker_runs_at_the_last_speed_that_has_begun(void **state)
{
    (void)state;
    static const char *const with[] = {
        "cluster.speed=[1, 0.5, 1, 1]",
        "cluster.slow=[{worker: 1, speed: 0.25, step: 10}, {worker: 1, speed: 2, step: 5}, "
        "{worker: 2, speed: 0.1, step: 0}, {worker: 1, speed: 3, step: 10}]"};
    dml_spec s;
    DML_CHECK_OK(spec_of(net, with, 2, &s));
    DML_CHECK(dml_spec_pace(&s, 0, 99) == 1.0);
    DML_CHECK(dml_spec_pace(&s, 1, 4) == 0.5);
    DML_CHECK(dml_spec_pace(&s, 1, 5) == 2.0 && dml_spec_pace(&s, 1, 9) == 2.0);
    DML_CHECK(dml_spec_pace(&s, 1, 10) == 3.0); /* of one step the last written */
    DML_CHECK(dml_spec_pace(&s, 2, 0) == 0.1);
    DML_CHECK(dml_spec_speed(&s, 2) == 1.0); /* what the planner believes */
    dml_spec_free(&s);
}

static int64_t ns_of(const dml_plan *p, int32_t worker, dml_op_kind kind, int32_t chunk,
                     int32_t peer)
{
    const dml_op op = {.kind = (uint8_t)kind, .chunk = chunk, .peer = (int16_t)peer};
    return dml_op_ns(&p->cost, worker, &op);
}

/* Workers 0 and 1 run stage 0, in one box; 2 and 3 stage 1.  Every transfer crosses boxes. */
static void the_plan_prices_each_worker_and_each_link(void **state)
{
    (void)state;
    static const char *const with[] = {"cluster.speed=[1, 0.5, 0.25, 1]", cluster};
    dml_spec s;
    dml_plan p;
    DML_CHECK_OK(spec_of(net, with, 2, &s));
    DML_CHECK_OK(dml_plan_make(&s, &p));
    DML_CHECK_EQ(4000000, ns_of(&p, 0, DML_OP_FWD, 0, DML_NO_PEER));
    DML_CHECK_EQ(8000000, ns_of(&p, 1, DML_OP_FWD, 0, DML_NO_PEER));
    DML_CHECK(ns_of(&p, 2, DML_OP_FWD, 1, DML_NO_PEER) >= 16000000);
    const int64_t bytes = p.cost.chunk[0].out_bytes; /* 2 rows of 4 floats */
    DML_CHECK_EQ(32, bytes);
    DML_CHECK_EQ(3000000 + 320000000, ns_of(&p, 0, DML_OP_SEND_ACT, 0, 2));
    DML_CHECK_EQ(10000 + 32, ns_of(&p, 0, DML_OP_SEND_ACT, 0, 1));
    /* Stage 1's parameters go among 2 and 3, one box: 2 (n - 1) / n of the bytes, twice the latency. */
    const int64_t reduced = p.reduce_bytes[1];
    DML_CHECK(reduced > 0 && p.cost.chunk[1].reduce_ns < 60000 + 2 * reduced);
    DML_CHECK(p.cost.chunk[1].reduce_ns >= 20000 + reduced);
    dml_plan_free(&p);
    dml_spec_free(&s);
}

static void a_worker_s_own_limit_is_checked_and_named(void **state)
{
    (void)state;
    static const char *const with[] = {"cluster.memory=[1GiB, 1GiB, 1GiB, 100B]"};
    dml_spec s;
    dml_plan p;
    DML_CHECK_OK(spec_of(net, with, 1, &s));
    DML_CHECK_FAILS(DML_ERR_SPEC, "worker 3 holds", dml_plan_make(&s, &p));
    DML_CHECK(strstr(dml_err_trail(), "cluster.memory is 0.00 MiB"));
    dml_spec_drop_limits(&s);
    DML_CHECK_OK(dml_plan_make(&s, &p));
    dml_plan_free(&p);
    dml_spec_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_list_reaches_its_field_and_prints_back_equal),
        cmocka_unit_test(without_a_cluster_all_workers_are_alike),
        cmocka_unit_test(a_worker_runs_at_the_last_speed_that_has_begun),
        cmocka_unit_test(the_plan_prices_each_worker_and_each_link),
        cmocka_unit_test(a_worker_s_own_limit_is_checked_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
