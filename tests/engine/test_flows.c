/* No synchronous schedule stalls, and none changes a bit, whatever it is asked for and whatever the real times are:
 *
 *   test_engine_flows [RUNS [SEED]]      default 12, 1
 *
 * draws a schedule, ranks, stages of a rank, replicas, a delay for every pass of every layer, what is recomputed and how
 * gradients are cut for their reduction; the run, a thread per worker and lane, must end in time with the weights of
 * the sequential loop.  Samples do not fill the second step: of its micro-batches one is short, some are empty.  Sanitizers see
 * all of it. */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/layouts.h"

#include "engine/base/str.h"
#include "schedule/schedule.h"

#include <stdlib.h>

#define SPEC DML_SOURCE_DIR "/tests/specs/flows.yaml"

enum { BLOCKS = 12, MBS = 12, MAX_DELAY_US = 300 };

static int32_t runs = 12;

/* BLOCKS times: a delay, a product, an activation. */
static void draw_layers(dml_str *out)
{
    dml_str_printf(out, "model.layers=[");
    for (int32_t b = 0; b < BLOCKS; b++)
        dml_str_printf(out,
                       "{delay: {forward: %dus, input: %dus, weight: %dus}}, {linear: 16}, tanh, ",
                       below(MAX_DELAY_US), below(MAX_DELAY_US), below(MAX_DELAY_US));
    dml_str_printf(out, "{linear: 4}]");
}

/* False: the schedule refuses what was drawn. */
static bool draw_schedule(const dml_schedule **schedule, dml_schedule_args *args, int32_t *replicas)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    *schedule = all[below(n)];
    if ((*schedule)->version) return false; /* asynchronous: other weights, by design */
    *replicas = 1 + below(2);
    *args = (dml_schedule_args){.stages = 1 + below(4),
                                .virtual_stages = (*schedule)->many_chunks ? 1 + below(3) : 1,
                                .mbs = MBS / *replicas};
    dml_program one;
    if (dml_schedule_build(*schedule, args, &one) != DML_ERR_OK) return false;
    dml_program_free(&one);
    return true;
}

static uint64_t run_drawn(const dml_schedule *schedule, const dml_schedule_args *args,
                          int32_t replicas)
{
    dml_str layers = {0};
    draw_layers(&layers);
    char name[64], pp[16], dp[16];
    snprintf(name, sizeof name, "%s x%d", schedule->name, args->virtual_stages);
    snprintf(pp, sizeof pp, "%d", args->stages);
    snprintf(dp, sizeof dp, "%d", replicas);
    const layout l = {pp, dp, name, "1"};
    static const char *const recompute[] = {
        "parallelism.recompute=none", "parallelism.recompute=selective",
        "parallelism.recompute=full", "parallelism.recompute=except_last"};
    static const char *const reduce[] = {"comm.overlap=false", "comm.bucket_bytes=1KiB",
                                         "comm.bucket_bytes=1"};
    const int32_t policy = below(4), cut = below(3);
    const char *const extra[] = {
        dml_str_text(&layers),   recompute[policy], reduce[cut], "comm.first_bucket_bytes=1",
        "data.last_batch=short", "data.samples=41", NULL};
    const run_result r = run_layout(SPEC, &l, extra);
    dml_str_free(&layers);
    DML_CHECK_EQ(3, r.steps);
    return r.weights_hash;
}

static void drawn_runs_end_with_the_weights_of_the_sequential_loop(void **state)
{
    (void)state;
    const dml_schedule *schedule;
    DML_CHECK_OK(dml_schedule_find("sequential", &schedule));
    const dml_schedule_args alone = {.stages = 1, .virtual_stages = 1, .mbs = MBS};
    const uint64_t expected = run_drawn(schedule, &alone, 1);
    for (int32_t done = 0; done < runs;) {
        dml_schedule_args args;
        int32_t replicas;
        if (!draw_schedule(&schedule, &args, &replicas)) {
            DML_CHECK(drawn < (uint64_t)(1000 + 1000 * runs)); /* most draws are schedules */
            continue;
        }
        const uint64_t begun = drawn;
        if (run_drawn(schedule, &args, replicas) != expected)
            fail_msg("%s, %d ranks of %d stages, %d replicas, seed %llu at draw %llu: other bits",
                     schedule->name, args.stages, args.virtual_stages, replicas,
                     (unsigned long long)seed, (unsigned long long)begun);
        done++;
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) runs = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_runs_end_with_the_weights_of_the_sequential_loop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
