/* What the planner calls out of memory really exceeds the limit, and the reverse: the workers, given a plan that was
 * made without one, refuse an allocation exactly where the planner would have refused the plan. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static const layout layouts[] = {
    {"1", "1", "sequential", "1"},
    {"3", "1", "gpipe", "1"},
    {"2", "2", "1f1b", "1"},
    {"2", "1", "interleaved_1f1b x2", "1"},
    {"3", "1", "zb_h1", "1"},
    {"2", "2", "chimera", "1"},
    {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]", "-", "auto", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts, LIMITS = 8 };

/* The worker that has less by so much than it needs; everyone else has just enough. */
typedef struct squeeze {
    int32_t worker;
    int64_t short_bytes;
    int64_t limit[LIMITS];
    bool planned; /* whether the planner takes the plan under these limits */
} squeeze;

static void set_limits(void *context, dml_plan *plan)
{
    squeeze *q = context;
    dml_spec *spec =
        (dml_spec *)(uintptr_t)plan->spec; /* the run's own: it borrows it to the plan */
    DML_CHECK(plan->workers <= LIMITS);
    for (int32_t w = 0; w < plan->workers; w++)
        q->limit[w] = dml_plan_worker_bytes(plan, w) - (w == q->worker ? q->short_bytes : 0);
    spec->cluster.memory = (dml_size_list){q->limit, plan->workers};
    dml_plan again;
    q->planned = dml_plan_make(spec, &again) == DML_ERR_OK;
    if (q->planned) dml_plan_free(&again);
}

static run_result run_squeezed(const layout *l, const char *recompute, const char *lost, squeeze *q)
{
    char policy[64], without[64];
    snprintf(policy, sizeof policy, "parallelism.recompute=%s", recompute);
    snprintf(without, sizeof without, "parallelism.lost=[%s]", lost ? lost : "");
    const char *const extra[] = {policy, "training.max_steps=1", lost ? without : NULL, NULL};
    return run_layout_hooked(TINY, l, extra, (run_hooks){.plan = set_limits, .context = q});
}

static void just_enough_is_enough(void **state)
{
    (void)state;
    for (int32_t l = 0; l < LAYOUTS; l++)
        for (int full = 0; full < 2; full++) {
            squeeze q = {.worker = -1};
            const run_result r = run_squeezed(&layouts[l], full ? "full" : "none", NULL, &q);
            DML_CHECK_OK(r.err);
            for (int32_t w = 0; w < r.workers; w++)
                DML_CHECK_EQ(q.limit[w], r.end[w].memory_bytes);
            /* auto makes its order within the limits: then another one may come out, or none */
            DML_CHECK(q.planned || strcmp(layouts[l].schedule, "auto") == 0);
        }
}

static void one_byte_less_is_refused_by_planner_and_worker_alike(void **state)
{
    (void)state;
    for (int32_t l = 0; l < LAYOUTS; l++)
        for (int32_t w = 0; w < 2; w++) {
            char who[32];
            squeeze q = {.worker = l == 0 ? 0 : w, .short_bytes = 1};
            const run_result r = run_squeezed(&layouts[l], "none", NULL, &q);
            snprintf(who, sizeof who, "worker %d: ", q.worker);
            DML_CHECK_EQ(DML_ERR_NOMEM, r.err);
            DML_CHECK(strstr(r.trail, who) && strstr(r.trail, "cluster.memory gives it"));
            DML_CHECK(!q.planned || strcmp(layouts[l].schedule, "auto") == 0);
        }
}

static void those_who_are_left_allocate_what_the_plan_says(void **state)
{
    (void)state;
    static const struct {
        layout at;
        const char *lost;
    } rows[] = {{{"2", "2", "1f1b", "1"}, "0"},    {{"2", "4", "gpipe", "1"}, "1, 4, 5"},
                {{"2", "2", "zb_h1", "1"}, "3"},   {{"2", "2", "interleaved_1f1b x2", "1"}, "2"},
                {{"4", "1", "chimera", "1"}, "0"}, {{"2", "2", "chimera", "1"}, "0, 3"},
                {{"2", "2", "auto", "1"}, "1"}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        for (int full = 0; full < 2; full++) {
            squeeze q = {.worker = -1};
            const run_result r =
                run_squeezed(&rows[k].at, full ? "full" : "none", rows[k].lost, &q);
            DML_CHECK_OK(r.err);
            for (int32_t w = 0; w < r.workers; w++)
                DML_CHECK_EQ(q.limit[w], r.end[w].memory_bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(just_enough_is_enough),
        cmocka_unit_test(one_byte_less_is_refused_by_planner_and_worker_alike),
        cmocka_unit_test(those_who_are_left_allocate_what_the_plan_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
