/* The probe counts what a worker runs: by layer, pass and micro-batch; fused layers in those that carry them. */
#include "tests/support/test.h"

#include "tests/engine/spec_file.h"

#include "engine/agent.h"
#include "engine/plan.h"
#include "engine/probe.h"
#include "engine/worker.h"

#define NET                                                                                   \
    "model: {type: mlp, input: [1, 4, 4], hidden: [8, 8], activation: relu, classes: 4}\n"    \
    "data: {format: synthetic, samples: 64, test_samples: 8, pool: 8}\n"                      \
    "training: {max_steps: 3, global_batch_size: 8, micro_batch_size: 4, eval_interval: 0}\n" \
    "logging: {jsonl: false}\n"
enum { LAYERS = 7, MBS = 2, KEEP = 8 }; /* flatten, fc1, relu1, fc2, relu2, fc3, loss */

typedef struct watch {
    dml_probe *probe;
    int32_t steps, calls[LAYERS][DML_PASSES];
} watch;

static dml_err put(void *context, const dml_report *r)
{
    watch *w = context;
    if (r->kind == DML_REPORT_FAIL) fail_msg("%s", r->fail.trail);
    if (r->kind != DML_REPORT_STEP) return DML_ERR_OK;
    DML_TRY(dml_probe_take(w->probe, w->steps++ > 0));
    for (int32_t l = 0; l < LAYERS; l++)
        for (dml_pass p = 0; p < DML_PASSES; p++) {
            w->calls[l][p] = dml_probe_calls(w->probe, l, p, 0);
            DML_CHECK_EQ(w->calls[l][p], dml_probe_calls(w->probe, l, p, 1));
        }
    return DML_ERR_OK;
}

/* Runs three steps on one worker; the probe and what it counted live in `arena`. */
static watch *watched(const char *override, dml_arena *arena)
{
    watch *w = DML_NEW(arena, watch);
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    dml_local_hub *data, *vote;
    dml_control control = {0};
    char why[256];
    DML_CHECK_OK(spec_of(NET, &override, override ? 1 : 0, &spec));
    spec.parallelism.backend = "ref";
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_OK(dml_agent_backend(&plan, &backend, why, sizeof why));
    DML_CHECK_OK(dml_local_hub_new(1, &data));
    DML_CHECK_OK(dml_local_hub_new(1, &vote));
    w->probe = dml_probe_new(plan.model.n_layers, MBS, KEEP, arena);
    DML_CHECK_EQ(LAYERS, plan.model.n_layers);
    const dml_worker_config c = {.plan = &plan,
                                 .backend = backend,
                                 .threads = 1,
                                 .control = &control,
                                 .reporter = {put, w},
                                 .data_hub = data,
                                 .vote_hub = vote,
                                 .probe = w->probe};
    DML_CHECK_OK(dml_worker_run(&c));
    DML_CHECK_EQ(3, w->steps);
    dml_local_hub_free(data);
    dml_local_hub_free(vote);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    return w;
}

static void check_calls(const watch *w, const int32_t (*expected)[DML_PASSES])
{
    for (int32_t l = 0; l < LAYERS; l++)
        for (dml_pass p = 0; p < DML_PASSES; p++)
            if (w->calls[l][p] != expected[l][p])
                fail_msg("layer %d, pass %d: %d calls, not %d", l, (int)p, w->calls[l][p],
                         expected[l][p]);
}

static void every_layer_is_timed_and_a_fused_one_by_the_one_that_carries_it(void **state)
{
    (void)state;
    static const int32_t fused[LAYERS][DML_PASSES] = {{0, 0, 0}, {1, 0, 1}, {0, 0, 0}, {1, 1, 1},
                                                      {0, 0, 0}, {1, 1, 1}, {1, 0, 0}};
    dml_arena arena = {0};
    check_calls(watched(NULL, &arena), fused);
    dml_arena_free(&arena);
}

/* Exact numerics fuse nothing: the activations have steps of their own. */
static void where_nothing_is_fused_activations_have_times_of_their_own(void **state)
{
    (void)state;
    static const int32_t apart[LAYERS][DML_PASSES] = {{0, 0, 0}, {1, 0, 1}, {1, 1, 0}, {1, 1, 1},
                                                      {1, 1, 0}, {1, 1, 1}, {1, 0, 0}};
    dml_arena arena = {0};
    check_calls(watched("training.numerics=exact", &arena), apart);
    dml_arena_free(&arena);
}

static void recomputation_runs_forwards_again(void **state)
{
    (void)state;
    dml_arena arena = {0};
    const watch *w = watched("parallelism.recompute=full", &arena);
    DML_CHECK_EQ(2, w->calls[1][DML_PASS_FORWARD]);
    DML_CHECK_EQ(2, w->calls[3][DML_PASS_FORWARD]);
    DML_CHECK_EQ(1, w->calls[3][DML_PASS_INPUT]);
    DML_CHECK_EQ(1, w->calls[3][DML_PASS_WEIGHT]);
    dml_arena_free(&arena);
}

/* Two steps are kept of three: of each the first micro-batch, and the other. */
static void the_first_micro_batch_of_a_step_is_kept_apart(void **state)
{
    (void)state;
    dml_arena arena = {0};
    const watch *w = watched(NULL, &arena);
    for (dml_probe_turn turn = 0; turn < DML_PROBE_TURNS; turn++) {
        int32_t n;
        const int64_t *ns = dml_probe_samples(w->probe, 3, DML_PASS_WEIGHT, turn, &n);
        DML_CHECK_EQ(2, n);
        DML_CHECK(ns[0] > 0 && ns[1] > 0);
        dml_probe_samples(w->probe, 2, DML_PASS_FORWARD, turn, &n);
        DML_CHECK_EQ(0, n);
    }
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layer_is_timed_and_a_fused_one_by_the_one_that_carries_it),
        cmocka_unit_test(where_nothing_is_fused_activations_have_times_of_their_own),
        cmocka_unit_test(recomputation_runs_forwards_again),
        cmocka_unit_test(the_first_micro_batch_of_a_step_is_kept_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
