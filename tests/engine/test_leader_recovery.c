/* tests/engine/test_leader_recovery.c - what the leader makes of losses: records read back, steps taken once. */
#include "tests/support/test.h"

#include "engine/leader.h"
#include "engine/recovery.h"

#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "kernels/backend.h"

#define SPEC                                                                          \
    "version: 1\n"                                                                    \
    "model: {type: mlp, input: [8], hidden: [8], classes: 4}\n"                       \
    "data: {format: synthetic, samples: 100, last_batch: short, test_samples: 8}\n"   \
    "training: {global_batch_size: 32, micro_batch_size: 8, max_steps: 100}\n"        \
    "parallelism: {backend: ref, pipeline_parallel_size: 1, data_parallel_size: 2}\n" \
    "run: {output_dir: " DML_BINARY_DIR "/leader-recovery}\n"

static const char folder[] = DML_BINARY_DIR "/leader-recovery";

typedef struct rig {
    dml_spec spec;
    dml_plan plan;
    dml_leader leader;
    char *text;
    size_t bytes;
    FILE *console;
} rig;

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void rig_open(rig *r, const char *const *overrides, int32_t n)
{
    char path[] = DML_BINARY_DIR "/leader-recovery-XXXXXX";
    (void)nftw(folder, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
    const int fd = mkstemp(path);
    DML_CHECK(fd >= 0);
    DML_CHECK_EQ((ssize_t)strlen(SPEC), write(fd, SPEC, strlen(SPEC)));
    close(fd);
    *r = (rig){0};
    DML_CHECK_OK(dml_spec_load(path, overrides, n, &r->spec));
    remove(path);
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
    const dml_backend *backend;
    DML_CHECK_OK(dml_backend_find("ref", &backend));
    r->console = open_memstream(&r->text, &r->bytes);
    const dml_leader_config config = {.plan = &r->plan,
                                      .backend = backend,
                                      .why = "",
                                      .spec_path = "x.yaml",
                                      .threads = 1,
                                      .console = r->console};
    DML_CHECK_OK(dml_leader_open(&r->leader, &config));
}

static void rig_close(rig *r)
{
    dml_leader_close(&r->leader);
    fclose(r->console);
    free(r->text);
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
    (void)nftw(folder, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void step(rig *r, int64_t step, uint32_t generation, int64_t ms)
{
    const dml_report report = {.kind = DML_REPORT_STEP,
                               .step = {.step = step,
                                        .loss = 1.0 / (double)step,
                                        .samples = step % 4 == 0 ? 4 : 32,
                                        .wall_ns = ms * 1000000,
                                        .generation = generation}};
    DML_CHECK_OK(dml_leader_take(&r->leader, &report));
}

static dml_recovery_event loss_of_rank_1(rig *r, uint32_t generation, int64_t after_step)
{
    const int64_t at = r->leader.begin_ns + INT64_C(2000000000);
    return (dml_recovery_event){
        .kind = DML_RECOVERY_PLAN,
        .reason = DML_REASON_LOSS,
        .generation = generation,
        .rank = 1,
        .death = {.detected_by = "beacon", .fault_ns = at, .detect_ns = at + 1000000},
        .newly_lost = 2,
        .lost = 2,
        .fences = 1,
        .before = &r->plan,
        .after = &r->plan,
        .source = DML_SOURCE_PEERS,
        .step = after_step,
        .mbs_rerun = 4,
        .bytes = 4096,
        .predicted_before_s = 0.01,
        .predicted_after_s = 0.02,
        .fenced_ns = at + 1100000,
        .parked_ns = at + 3000000,
        .planned_ns = at + 4000000,
        .published_ns = at + 5000000,
        .saved_ns = at + 7500000,
        .moved_ns = at + 8000000,
        .ready_ns = at + 16000000,
    };
}

static void recover(rig *r, dml_recovery_event *e)
{
    DML_CHECK_OK(dml_leader_recovery(&r->leader, e));
    e->kind = DML_RECOVERY_DONE;
    e->step_ns = e->ready_ns + 24000000;
    DML_CHECK_OK(dml_leader_recovery(&r->leader, e));
}

/* The records of a type, in order. */
static json_t *records(const char *type)
{
    char path[PATH_MAX];
    static char line[1 << 16];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    FILE *f = fopen(path, "r");
    DML_CHECK(f != NULL);
    json_t *all = json_array();
    while (fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        DML_CHECK(json_is_object(o));
        if (strcmp(json_string_value(json_object_get(o, "type")), type) == 0)
            json_array_append(all, o);
        json_decref(o);
    }
    fclose(f);
    return all;
}

static double number(const json_t *all, size_t i, const char *key)
{
    const json_t *value = json_object_get(json_array_get(all, i), key);
    if (!json_is_number(value)) fail_msg("'%s' of record %zu is not a number", key, i);
    return json_number_value(value);
}

static const char *text(const json_t *all, size_t i, const char *key)
{
    return json_string_value(json_object_get(json_array_get(all, i), key));
}

#define CHECK_NEAR(expected, actual) DML_CHECK(fabs((expected) - (actual)) < 1e-9)

static void a_step_that_is_reported_twice_is_taken_once(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    step(&r, 1, 0, 10);
    step(&r, 2, 0, 10);
    step(&r, 2, 0, 10); /* who goes on in place of the lost worker says it again */
    step(&r, 3, 1, 10);
    DML_CHECK_EQ(3, r.leader.steps);
    DML_CHECK_EQ(96, r.leader.samples);
    json_t *steps = records("step");
    DML_CHECK_EQ(3, json_array_size(steps));
    CHECK_NEAR(1, number(steps, 2, "generation"));
    assert_string_equal("commit", text(steps, 2, "verdict"));
    json_decref(steps);
    rig_close(&r);
}

static void a_recovery_is_recorded_with_the_moment_of_each_part(void **state)
{
    (void)state;
    static const char *const exact[] = {"training.numerics=exact"};
    rig r;
    rig_open(&r, exact, 1);
    for (int64_t k = 1; k <= 6; k++)
        step(&r, k, 0, 10);
    DML_CHECK_OK(dml_leader_lost(
        &r.leader, &(dml_failure_record){.rank = 1, .signal = 9, .exit_code = -1, .injected = 1}));
    dml_recovery_event e = loss_of_rank_1(&r, 1, 6);
    recover(&r, &e);
    json_t *got = records("recovery");
    DML_CHECK_EQ(1, json_array_size(got));
    CHECK_NEAR(2.0, number(got, 0, "t_fault_s"));
    CHECK_NEAR(2.001, number(got, 0, "t_detect_s"));
    CHECK_NEAR(2.003, number(got, 0, "t_park_s"));
    CHECK_NEAR(2.005, number(got, 0, "t_plan_s"));
    CHECK_NEAR(2.008, number(got, 0, "t_move_state_s"));
    CHECK_NEAR(2.016, number(got, 0, "t_rebuild_comm_s"));
    CHECK_NEAR(2.040, number(got, 0, "t_first_step_s"));
    CHECK_NEAR(0.040, number(got, 0, "recovery_time_s"));
    CHECK_NEAR(3200.0, number(got, 0, "throughput_before"));
    CHECK_NEAR(1600.0, number(got, 0, "predicted_throughput_after"));
    CHECK_NEAR(0.5, number(got, 0, "predicted_throughput_ratio"));
    assert_string_equal("same bits", text(got, 0, "bits"));
    assert_string_equal("peers", text(got, 0, "state_source"));
    assert_string_equal("0:2,1:2", text(got, 0, "plan_before"));
    assert_string_equal("1", text(got, 0, "lost"));
    fflush(r.console);
    DML_CHECK(strstr(r.text, "LOST: rank 1 was killed by signal 9 (SIGKILL)"));
    DML_CHECK(strstr(r.text, "recovered in 40.0 ms: detect 1.0, park 2.0, plan 2.0, move state "
                             "3.0, rebuild comm 8.0, first step 24.0 ms\n"));
    json_decref(got);
    rig_close(&r);
}

static void sums_in_another_order_are_not_called_the_same_bits(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    step(&r, 1, 0, 10);
    dml_recovery_event e = loss_of_rank_1(&r, 1, 1);
    recover(&r, &e);
    json_t *got = records("recovery");
    assert_string_equal("same micro-batches, other summation order", text(got, 0, "bits"));
    json_decref(got);
    rig_close(&r);
}

static void throughput_after_is_measured_beside_the_prediction_without_the_first_step(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    for (int64_t k = 1; k <= 9; k++)
        step(&r, k, 0, k <= 3 ? 500 : 10); /* caches are cold in more than the first */
    dml_recovery_event e = loss_of_rank_1(&r, 1, 9);
    recover(&r, &e);
    step(&r, 10, 1, 500); /* took the recovery along */
    for (int64_t k = 11; k <= 34; k++)
        step(&r, k, 1, 25);
    json_t *got = records("pace");
    DML_CHECK_EQ(1, json_array_size(got));
    CHECK_NEAR(1280.0, number(got, 0, "throughput_after"));
    CHECK_NEAR(0.4, number(got, 0, "throughput_ratio"));
    CHECK_NEAR(20.0, number(got, 0, "steps"));
    json_decref(got);
    DML_CHECK_OK(dml_leader_finish(&r.leader, "finished", 0, 0));
    fflush(r.console);
    DML_CHECK(strstr(r.text, "lost 1") && strstr(r.text, "0.40x      0.50x"));
    rig_close(&r);
}

/* Killed by another's hand in its third step: neither when is known, nor what a step takes. */
static void what_is_not_known_is_not_said(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    for (int64_t k = 1; k <= 3; k++)
        step(&r, k, 0, 500);
    dml_recovery_event e = loss_of_rank_1(&r, 1, 3);
    e.death.fault_ns = e.death.detect_ns;
    const double at_s = (double)(e.death.detect_ns - r.leader.begin_ns) * 1e-9;
    DML_CHECK_OK(dml_leader_lost(&r.leader, &(dml_failure_record){.rank = 1,
                                                                  .signal = 9,
                                                                  .exit_code = -1,
                                                                  .detected_by = "beacon",
                                                                  .t_fault_s = at_s,
                                                                  .t_detect_s = at_s}));
    recover(&r, &e);
    json_t *got = records("recovery");
    DML_CHECK(json_is_null(json_object_get(json_array_get(got, 0), "throughput_before")));
    json_decref(got);
    fflush(r.console);
    DML_CHECK(strstr(r.text, "noticed by beacon"));
    DML_CHECK(strstr(r.text, ": detect unknown, park "));
    rig_close(&r);
}

static void an_older_state_takes_steps_back_and_says_so(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    for (int64_t k = 1; k <= 9; k++)
        step(&r, k, 0, 10);
    dml_recovery_event e = loss_of_rank_1(&r, 1, 6);
    e.source = DML_SOURCE_BANK;
    e.steps_lost = 3;
    recover(&r, &e);
    DML_CHECK_EQ(6, r.leader.steps);
    DML_CHECK_EQ(100 + 2 * 32, r.leader.samples); /* an epoch of 4 steps, its last short */
    step(&r, 7, 1, 10);
    step(&r, 7, 1, 10);
    DML_CHECK_EQ(7, r.leader.steps);
    json_t *got = records("recovery");
    CHECK_NEAR(3, number(got, 0, "steps_lost"));
    assert_string_equal("host memory", text(got, 0, "state_source"));
    json_decref(got);
    json_t *steps = records("step");
    DML_CHECK_EQ(10, json_array_size(steps));
    json_decref(steps);
    fflush(r.console);
    DML_CHECK(strstr(r.text, "steps 7-9 are run again\n"));
    DML_CHECK_OK(dml_leader_finish(&r.leader, "finished", 0, 0));
    json_t *end = records("run_end");
    CHECK_NEAR(1, number(end, 0, "recoveries"));
    CHECK_NEAR(3, number(end, 0, "steps_lost"));
    json_decref(end);
    rig_close(&r);
}

static void the_run_is_complete_when_all_who_are_left_have_ended(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL, 0);
    step(&r, 1, 0, 10);
    dml_report end = {.kind = DML_REPORT_END, .rank = 0};
    DML_CHECK_OK(dml_leader_take(&r.leader, &end));
    dml_recovery_event e = loss_of_rank_1(&r, 1, 1);
    recover(&r, &e); /* back into the run: that END does not count */
    end.end.n_chunks = 1;
    end.end.chunk[0].weights_hash = 0xabc;
    DML_CHECK_OK(dml_leader_take(&r.leader, &end));
    DML_CHECK_OK(dml_leader_finish(&r.leader, "finished", 0, 0));
    json_t *got = records("run_end");
    assert_string_equal("0000000000000abc", text(got, 0, "weights_hash"));
    json_decref(got);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_that_is_reported_twice_is_taken_once),
        cmocka_unit_test(a_recovery_is_recorded_with_the_moment_of_each_part),
        cmocka_unit_test(sums_in_another_order_are_not_called_the_same_bits),
        cmocka_unit_test(throughput_after_is_measured_beside_the_prediction_without_the_first_step),
        cmocka_unit_test(what_is_not_known_is_not_said),
        cmocka_unit_test(an_older_state_takes_steps_back_and_says_so),
        cmocka_unit_test(the_run_is_complete_when_all_who_are_left_have_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
