/* plan: auto: the chosen candidate is the best of all, what the user wrote stays, one pipeline stands for all. */
#include "tests/support/test.h"

#include "engine/choose.h"
#include "engine/choose_impl.h"
#include "engine/plan.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

#include <stdlib.h>
#include <string.h>

#define DELAYS DML_SOURCE_DIR "/tests/specs/delay8.yaml"
#define UNEVEN DML_SOURCE_DIR "/tests/specs/uneven-delays.yaml"
#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define VGG8   DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml"

enum { MOST = 10 };

/* Loads the spec for the planner, under further overrides. */
static void load(const char *path, const char *const *more, dml_spec *out)
{
    const char *override[MOST] = {"plan=auto", "training.global_batch_size=16"};
    int32_t n = strstr(path, "delay")
                    ? 2
                    : 1; /* few micro-batches, so that all can be priced in a moment */
    if (strcmp(path, UNEVEN) == 0) override[1] = "training.global_batch_size=8";
    for (; more && *more; more++)
        override[n++] = *more;
    DML_CHECK_OK(dml_spec_load(path, override, n, out));
}

static void choose(const dml_spec *spec, bool all, dml_choice *out)
{
    const dml_choose_options o = {.all = all};
    DML_CHECK_OK(dml_choose(spec, &o, out));
}

static bool same(const dml_candidate *a, const dml_candidate *b)
{
    return a->ranks == b->ranks && a->replicas == b->replicas &&
           a->virtual_stages == b->virtual_stages && a->micro_batch == b->micro_batch &&
           a->recompute == b->recompute && strcmp(a->schedule, b->schedule) == 0;
}

/* Settings that make different candidates win: slow links, memory, objectives, speeds. */
static const char *const settings[][MOST] = {
    {"parallelism.world_size=4"},
    {"parallelism.world_size=4", "training.micro_batch_size=auto"},
    {"parallelism.world_size=4", "parallelism.link.latency=5ms"},
    {"parallelism.world_size=4", "parallelism.link.bandwidth=100kB/s"},
    {"parallelism.world_size=3", "planner.workers=fewer"},
    {"parallelism.world_size=4", "planner.objective=memory", "planner.slack=0.3"},
    {"parallelism.world_size=4", "planner.objective=latency", "training.micro_batch_size=auto"},
    {"cluster.speed=[1, 1, 0.25, 0.5]"},
    {"cluster.speed=[1, 0.25]", "parallelism.recompute=full"},
    {"parallelism.world_size=4", "parallelism.pp=4"},
    {"parallelism.world_size=4", "parallelism.dp=1", "parallelism.schedule=1f1b"},
};

/* How many bounds are the very price; none may be above it. */
static int32_t tight(const dml_choice *c)
{
    int32_t n = 0;
    for (int32_t i = 0; i < c->n_priced; i++) {
        const dml_candidate *k = &c->ranked[i];
        if (k->step_ns < k->bound_ns)
            fail_msg("%dx%d v%d %s: step %lld below its bound %lld", k->ranks, k->replicas,
                     k->virtual_stages, k->schedule, (long long)k->step_ns, (long long)k->bound_ns);
        n += k->step_ns == k->bound_ns;
    }
    return n;
}

/* Best first stops early; pricing everything, every policy of recomputation included, finds nothing better, and no
 * step shorter than its bound. */
static void the_choice_is_the_best_of_all_candidates(void **state)
{
    (void)state;
    static const char *const specs[] = {DELAYS, UNEVEN};
    int32_t spared = 0, exact = 0;
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        dml_spec spec;
        dml_choice few, all;
        load(specs[k % 2], settings[k], &spec);
        choose(&spec, false, &few);
        choose(&spec, true, &all);
        const dml_candidate *a = &few.ranked[0], *b = &all.ranked[0];
        DML_CHECK_EQ(b->step_ns, a->step_ns);
        if (spec.planner.objective == DML_OBJECTIVE_MEMORY) DML_CHECK_EQ(b->bytes, a->bytes);
        if (spec.planner.objective == DML_OBJECTIVE_LATENCY) DML_CHECK_EQ(b->way_ns, a->way_ns);
        exact += tight(&all);
        spared += few.n - few.n_priced - few.n_misfit;
        DML_CHECK_EQ(all.n, all.n_priced + all.n_misfit);
        dml_choice_free(&few);
        dml_choice_free(&all);
        dml_spec_free(&spec);
    }
    DML_CHECK(spared > 100);
    DML_CHECK(exact > 20); /* bounds are no idle ones */
}

/* ---- one pipeline for all ---- */

/* Step and bytes of the whole plan. */
static void price_all(const dml_spec *spec, int64_t *step_ns, int64_t *bytes)
{
    dml_plan plan;
    dml_sim sim;
    DML_CHECK_OK(dml_plan_make(spec, &plan));
    DML_CHECK_OK(dml_simulate(&plan.train, &plan.cost, &sim));
    *step_ns = sim.makespan_ns / plan.updates;
    *bytes = 0;
    for (int32_t w = 0; w < plan.workers; w++)
        if (dml_plan_worker_bytes(&plan, w) > *bytes) *bytes = dml_plan_worker_bytes(&plan, w);
    dml_sim_free(&sim);
    dml_plan_free(&plan);
}

static void one_pipeline_takes_and_holds_what_all_do(void **state)
{
    (void)state;
    static const char *const numerics[] = {"training.numerics=fast", "training.numerics=exact"};
    int32_t n, compared = 0;
    const dml_schedule *const *schedule = dml_schedules(&n);
    for (int32_t k = 0; k < n * 2; k++) {
        char name[64];
        snprintf(name, sizeof name, "parallelism.schedule=%s", schedule[k / 2]->name);
        const char *const override[] = {name,
                                        numerics[k % 2],
                                        "parallelism.pp=2",
                                        "parallelism.dp=3",
                                        "training.global_batch_size=48",
                                        "training.micro_batch_size=4",
                                        "parallelism.link.bandwidth=1MB/s",
                                        "parallelism.link.latency=1ms"};
        dml_spec spec;
        DML_CHECK_OK(dml_spec_load(TINY, override, 8, &spec));
        dml_arena arena = {0};
        dml_candidate c = {.ranks = 2,
                           .replicas = 3,
                           .virtual_stages = 1,
                           .micro_batch = 4,
                           .schedule = spec.parallelism.schedule};
        dml_candidate_price(&spec, &c, true, &arena);
        if (c.fate == DML_FATE_PRICED) {
            int64_t step_ns, bytes;
            price_all(&spec, &step_ns, &bytes);
            DML_CHECK_EQ(step_ns, c.step_ns);
            DML_CHECK_EQ(bytes, c.bytes);
            DML_CHECK(c.share.exposed_reduce_ns > 0.0);
            compared++;
        }
        dml_arena_free(&arena);
        dml_spec_free(&spec);
    }
    DML_CHECK(compared >= 16);
}

/* Of two pipelines the one with a slow worker is the one that counts, wherever that is. */
static void the_slowest_pipeline_stands_for_all(void **state)
{
    (void)state;
    static const char *const speed[] = {"cluster.speed=[1, 0.5, 1, 1]",
                                        "cluster.speed=[1, 1, 0.5, 1]",
                                        "cluster.speed=[0.5, 1, 1, 1]"};
    for (size_t k = 0; k < 3; k++) {
        const char *const override[] = {speed[k], "parallelism.pp=2", "parallelism.dp=2"};
        dml_spec spec;
        DML_CHECK_OK(dml_spec_load(DELAYS, override, 3, &spec));
        dml_plan one;
        dml_sim sim;
        int64_t step_ns, bytes;
        price_all(&spec, &step_ns, &bytes);
        DML_CHECK_OK(dml_plan_make_one(&spec, &one));
        DML_CHECK_EQ(2, one.workers);
        DML_CHECK_OK(dml_simulate(&one.train, &one.cost, &sim));
        DML_CHECK_EQ(step_ns, sim.makespan_ns);
        dml_sim_free(&sim);
        dml_plan_free(&one);
        dml_spec_free(&spec);
    }
}

/* ---- what stays, what fits ---- */

static void what_the_user_wrote_stays(void **state)
{
    (void)state;
    static const char *const written[] = {"parallelism.world_size=4", "parallelism.pp=4",
                                          "parallelism.recompute=full",
                                          "parallelism.schedule=gpipe", NULL};
    dml_spec spec;
    dml_choice all;
    load(DELAYS, written, &spec);
    choose(&spec, true, &all);
    for (int32_t i = 0; i < all.n; i++) {
        DML_CHECK_EQ(4, all.ranked[i].ranks);
        DML_CHECK_EQ(1, all.ranked[i].replicas);
        DML_CHECK_EQ(DML_RECOMPUTE_FULL, all.ranked[i].recompute);
        DML_CHECK_EQ(spec.training.micro_batch_size, all.ranked[i].micro_batch);
        assert_string_equal("gpipe", all.ranked[i].schedule);
    }
    DML_CHECK_OK(dml_choose_resolve(&spec));
    assert_string_equal("none", spec.planner.plan);
    DML_CHECK_EQ(4, spec.parallelism.pipeline_parallel_size);
    DML_CHECK_EQ(1, spec.parallelism.data_parallel_size);
    assert_string_equal("gpipe", spec.parallelism.schedule);
    dml_choice_free(&all);
    dml_spec_free(&spec);
}

/* The resolved spec, printed, is the one that workers load: it makes the same program. */
static void a_resolved_spec_prints_and_loads_back_as_the_same_plan(void **state)
{
    (void)state;
    static const char *const four[] = {"parallelism.world_size=4", "parallelism.dp=2", NULL};
    char path[] = "/tmp/dml-chosen-XXXXXX";
    dml_spec spec, again;
    load(UNEVEN, four, &spec);
    DML_CHECK_OK(dml_choose_resolve(&spec));
    const int fd = mkstemp(path);
    FILE *to = fdopen(fd, "w");
    DML_CHECK(to);
    DML_CHECK_OK(dml_spec_print(&spec, to));
    fclose(to);
    DML_CHECK_OK(dml_spec_load(path, NULL, 0, &again));
    remove(path);
    dml_plan a, b;
    dml_str x = {0}, y = {0};
    DML_CHECK_OK(dml_plan_make(&spec, &a));
    DML_CHECK_OK(dml_plan_make(&again, &b));
    dml_text_print(&a.train, &x);
    dml_text_print(&b.train, &y);
    assert_string_equal(dml_str_text(&x), dml_str_text(&y));
    dml_str_free(&x);
    dml_str_free(&y);
    dml_plan_free(&a);
    dml_plan_free(&b);
    dml_spec_free(&spec);
    dml_spec_free(&again);
}

/* Without a limit nothing is computed again; with one that the winner exceeds, another fits within it. */
static void a_limit_is_kept_and_what_does_not_fit_says_by_how_much(void **state)
{
    (void)state;
    const char *four[] = {"parallelism.world_size=2", "training.micro_batch_size=12", NULL, NULL};
    dml_spec spec;
    dml_choice free_, bound;
    load(VGG8, four, &spec);
    choose(&spec, false, &free_);
    DML_CHECK_EQ(DML_RECOMPUTE_NONE, free_.ranked[0].recompute);
    char limit[64];
    const int64_t least = free_.ranked[0].bytes * 9 / 10;
    snprintf(limit, sizeof limit, "parallelism.memory=%lldB", (long long)least);
    dml_spec_free(&spec);
    four[2] = limit;
    load(VGG8, four, &spec);
    choose(&spec, false, &bound);
    DML_CHECK(bound.ranked[0].bytes <= least);
    DML_CHECK_EQ(least, bound.ranked[0].limit_bytes);
    DML_CHECK(bound.n_misfit > 0);
    const dml_candidate *misfit = &bound.ranked[bound.n - bound.n_misfit];
    DML_CHECK(strstr(misfit->why, "MiB") || strstr(misfit->why, "bytes"));
    dml_choice_free(&free_);
    dml_choice_free(&bound);
    dml_spec_free(&spec);
}

static void refused(const char *path, const char *const *more, const char *says)
{
    dml_spec spec;
    dml_choice choice;
    load(path, more, &spec);
    DML_CHECK_EQ(DML_ERR_SPEC, dml_choose(&spec, NULL, &choice));
    if (!strstr(dml_err_trail(), says)) fail_msg("'%s' is not in:\n%s", says, dml_err_trail());
    dml_spec_free(&spec);
}

static void what_cannot_be_planned_says_why(void **state)
{
    (void)state;
    refused(DELAYS, NULL, "needs parallelism.world_size");
    static const char *const odd[] = {"parallelism.world_size=31", NULL};
    refused(TINY, odd, "no layout of 31 workers");
    static const char *const small[] = {"parallelism.world_size=2", "parallelism.memory=1kB", NULL};
    refused(TINY, small, "none of");
    static const char *const none[] = {"parallelism.world_size=2", "parallelism.memory=1kB",
                                       "parallelism.schedule=1f1b", "parallelism.dp=1", NULL};
    refused(TINY, none, "bytes short");
}

/* Ten layers of one length, where one replica of each of two stages is as good: the first listed wins, always. */
static void the_choice_repeats(void **state)
{
    (void)state;
    static const char *const eight[] = {"parallelism.world_size=8",
                                        "training.micro_batch_size=auto", NULL};
    dml_spec spec;
    dml_choice a, b;
    load(DELAYS, eight, &spec);
    choose(&spec, false, &a);
    choose(&spec, false, &b);
    DML_CHECK_EQ(a.n, b.n);
    for (int32_t i = 0; i < a.n; i++)
        DML_CHECK(same(&a.ranked[i], &b.ranked[i]));
    assert_string_equal(a.text, b.text);
    dml_choice_free(&a);
    dml_choice_free(&b);
    dml_spec_free(&spec);
}

/* Convolutions on three workers, the wide dense stage on one: better than equal pipelines of any kind. */
static void a_slow_link_keeps_the_wide_stage_on_one_worker(void **state)
{
    (void)state;
    static const char *const override[] = {"plan=auto", "parallelism.world_size=4"};
    dml_spec spec;
    dml_choice c;
    DML_CHECK_OK(
        dml_spec_load(DML_SOURCE_DIR "/examples/vgg-like-slow-link.yaml", override, 2, &spec));
    choose(&spec, false, &c);
    const dml_candidate *best = &c.ranked[0];
    DML_CHECK_EQ(0, best->ranks);
    DML_CHECK_EQ(2, best->n_stages);
    DML_CHECK_EQ(3, best->stage[0].workers.n);
    DML_CHECK_EQ(1, best->stage[1].workers.n);
    int32_t others = 0;
    for (int32_t i = 1; i < c.n_priced; i++) {
        const dml_candidate *o = &c.ranked[i];
        if ((o->ranks != 1 || o->replicas != 4) && (o->ranks != 4 || o->replicas != 1)) continue;
        DML_CHECK((double)o->step_ns > 1.1 * (double)best->step_ns);
        others++;
    }
    DML_CHECK(others >= 1);
    DML_CHECK_OK(dml_choose_resolve(&spec));
    DML_CHECK_EQ(4, dml_spec_workers(&spec));
    DML_CHECK_EQ(2, spec.parallelism.n_stages);
    dml_choice_free(&c);
    dml_spec_free(&spec);
}

/* The ranking names the winner, the bottleneck and a rival with the reason. */
static void the_ranking_gives_its_reasons(void **state)
{
    (void)state;
    static const char *const slow[] = {"parallelism.world_size=4", "parallelism.link.latency=3ms",
                                       NULL};
    dml_spec spec;
    dml_choice c;
    dml_str out = {0};
    load(UNEVEN, slow, &spec);
    choose(&spec, false, &c);
    dml_choice_print(&spec, &c, 10, &out);
    static const char *const says[] = {"chosen: ", "bottleneck: ",         "beats ",
                                       ": there ", "objective throughput", "not priced: "};
    for (size_t k = 0; k < sizeof says / sizeof *says; k++)
        if (!strstr(dml_str_text(&out), says[k]))
            fail_msg("'%s' is not in:\n%s", says[k], dml_str_text(&out));
    double sum = 0.0;
    const dml_shares *s = &c.ranked[0].share;
    sum = s->work_ns + s->recompute_ns + s->exposed_reduce_ns + s->exposed_transfer_ns +
          s->imbalance_ns + s->bubble_ns;
    DML_CHECK(sum > (double)c.ranked[0].step_ns - 1.0 && sum < (double)c.ranked[0].step_ns + 1.0);
    dml_str_free(&out);
    dml_choice_free(&c);
    dml_spec_free(&spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_the_best_of_all_candidates),
        cmocka_unit_test(one_pipeline_takes_and_holds_what_all_do),
        cmocka_unit_test(the_slowest_pipeline_stands_for_all),
        cmocka_unit_test(what_the_user_wrote_stays),
        cmocka_unit_test(a_resolved_spec_prints_and_loads_back_as_the_same_plan),
        cmocka_unit_test(a_limit_is_kept_and_what_does_not_fit_says_by_how_much),
        cmocka_unit_test(what_cannot_be_planned_says_why),
        cmocka_unit_test(the_choice_repeats),
        cmocka_unit_test(a_slow_link_keeps_the_wide_stage_on_one_worker),
        cmocka_unit_test(the_ranking_gives_its_reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
