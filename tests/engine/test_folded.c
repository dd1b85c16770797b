/* tests/engine/test_folded.c - a worker with several chunks: edges inside it, and backward in two ops. */
#include "tests/support/test.h"

#include "tests/support/folded.h"
#include "tests/support/layouts.h"

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static void fold(void *context, dml_plan *plan)
{
    plan_folded(plan, *(const bool *)context);
}

static run_result run_folded(const char *stages, const char *replicas, bool split)
{
    char pp[64], dp[64];
    snprintf(pp, sizeof pp, "parallelism.pipeline_parallel_size=%s", stages);
    snprintf(dp, sizeof dp, "parallelism.data_parallel_size=%s", replicas);
    const char *const overrides[] = {pp, dp, "data.last_batch=short", NULL};
    const run_result r =
        run_threads_hooked(TINY, overrides, (run_hooks){.plan = fold, .context = &split});
    if (r.err != DML_ERR_OK)
        fail_msg("%s chunks, %s replicas, split %d: %s", stages, replicas, split, r.trail);
    return r;
}

static void chunks_on_one_worker_give_the_bits_of_one_chunk(void **state)
{
    (void)state;
    static const char *const extra[] = {"data.last_batch=short", NULL};
    const layout one = {"1", "1", "1f1b", "1"};
    const run_result want = run_layout(TINY, &one, extra);
    static const struct {
        const char *stages, *replicas;
        bool split;
    } row[] = {
        {"2", "1", false}, {"2", "1", true}, {"3", "2", false}, {"3", "2", true}, {"4", "4", true}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const run_result r = run_folded(row[i].stages, row[i].replicas, row[i].split);
        const layout l = {row[i].stages, row[i].replicas, row[i].split ? "folded, split" : "folded",
                          "1"};
        expect_same(&want, &r, &l);
        for (int32_t w = 0; w < r.workers; w++)
            DML_CHECK_EQ(row[i].stages[0] - '0', r.end[w].n_chunks);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_on_one_worker_give_the_bits_of_one_chunk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
