/* Plans as text: with the order written out the same plan comes back, and workers can be renamed in it. */
#include "tests/support/test.h"

#include "engine/data_steps.h"
#include "engine/overrides.h"
#include "engine/recovery.h"
#include "schedule/schedule.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define DELAYS DML_SOURCE_DIR "/examples/pipe4-delay.yaml"

enum { MOST_OVERRIDES = 12 };

static int text_of(const dml_spec *spec)
{
    const int fd = memfd_create("spec", MFD_CLOEXEC);
    FILE *f = fdopen(dup(fd), "w");
    DML_CHECK_OK(dml_spec_print(spec, f));
    fclose(f);
    return fd;
}

static void load(dml_planned *p, const char *path, const char *text)
{
    dml_arena arena = {0};
    int32_t n;
    const char *const *override = dml_overrides_split(text, &arena, &n);
    DML_CHECK_OK(dml_spec_load(path, override, n, &p->spec));
    DML_CHECK_OK(dml_plan_make(&p->spec, &p->plan));
    dml_arena_free(&arena);
}

static void unload(dml_planned *p)
{
    dml_plan_free(&p->plan);
    dml_spec_free(&p->spec);
}

/* With its order written out, read back, printed, and read back again: always the same programs. */
static void expect_settled(const char *path, const char *text)
{
    dml_planned made, again;
    dml_str settled = {0};
    load(&made, path, text);
    dml_overrides_settle(text, &made.plan, &settled);
    load(&again, path, dml_str_text(&settled));
    assert_true(dml_spec_has_order(&again.spec));
    assert_true(dml_program_equal(&made.plan.train, &again.plan.train));
    assert_true(dml_program_equal(&made.plan.eval, &again.plan.eval));
    const int fd = text_of(&again.spec);
    dml_planned *printed;
    DML_CHECK_OK(dml_planned_load(fd, NULL, 0, &printed));
    assert_string_equal(printed->spec.parallelism.order, again.spec.parallelism.order);
    assert_true(dml_program_equal(&made.plan.train, &printed->plan.train));
    dml_planned_free(printed);
    close(fd);
    dml_str_free(&settled);
    unload(&made);
    unload(&again);
}

static void a_plan_that_lost_workers_comes_back_from_its_order(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t i = 0; i < n; i++) {
        const dml_schedule *s = all[i];
        if (s->version) continue;
        dml_str text = {0};
        dml_str_printf(&text,
                       "parallelism.schedule=%s\nparallelism.data_parallel_size=3\n"
                       "parallelism.pipeline_parallel_size=2\nparallelism.virtual_pipeline_stages="
                       "%d\ntraining.global_batch_size=48\ntraining.micro_batch_size=4\n"
                       "parallelism.lost=[1,5]\n",
                       s->name, s->many_chunks ? 2 : 1);
        expect_settled(TINY, dml_str_text(&text));
        dml_str_free(&text);
    }
}

static void so_does_one_with_stages_of_its_own_and_one_that_recomputes(void **state)
{
    (void)state;
    expect_settled(TINY, "parallelism.schedule=auto\nparallelism.stages=[{workers: [0, 2]}, "
                         "{workers: [3, 2], shares: [1, 3]}]\n"
                         "parallelism.lost=[1]\n");
    expect_settled(TINY, "parallelism.pipeline_parallel_size=2\nparallelism.recompute=except_last\n"
                         "parallelism.data_parallel_size=1\n");
    expect_settled(DELAYS, "parallelism.data_parallel_size=3\ntraining.global_batch_size=18\n"
                           "training.micro_batch_size=1\nparallelism.lost=[2]\n"
                           "parallelism.decoupled=true\nparallelism.staggered=true\n"
                           "parallelism.seats=[0,1,3,2,4,5,6,7,8,9,10,11]\n");
    expect_settled(DELAYS, "parallelism.data_parallel_size=2\ntraining.global_batch_size=16\n"
                           "training.micro_batch_size=1\nparallelism.lost=[2]\n");
}

static void expect_relabeled(const char *before, const char *after)
{
    static const int32_t to[] = {1, 0, 2, 3};
    dml_str out = {0};
    dml_overrides_relabel(before, to, 4, &out);
    assert_string_equal(dml_str_text(&out), after);
    dml_str_free(&out);
}

static void workers_are_renamed_wherever_a_plan_names_them(void **state)
{
    (void)state;
    expect_relabeled("parallelism.lost=[0,3]\n", "parallelism.lost=[1,3]\n");
    expect_relabeled("parallelism.seats=[0,2,1,3]\n", "parallelism.seats=[2,0,1,3]\n");
    expect_relabeled(
        "parallelism.stages=[{workers: [0,2], shares: [1, 3]}, {workers: [1], shares: [1]}]\n",
        "parallelism.stages=[{workers: [1,2], shares: [1, 3]}, {workers: [0], shares: [1]}]\n");
    expect_relabeled("parallelism.order=|\n 0F0,0B0\n ,\n 1F0\n 1B0\na.b=[0,1]\n",
                     "parallelism.order=|\n ,\n 0F0,0B0\n 1F0\n 1B0\na.b=[0,1]\n");
}

/* The plan of the renamed text is the plan with its lists renamed. */
static void a_renamed_plan_runs_the_same_work_on_other_workers(void **state)
{
    (void)state;
    static const char lost[] = "parallelism.data_parallel_size=3\n"
                               "parallelism.pipeline_parallel_size=2\n"
                               "training.global_batch_size=48\ntraining.micro_batch_size=4\n"
                               "parallelism.lost=[5]\n";
    static const int32_t to[] = {0, 2, 1, 5, 4, 3};
    dml_planned made, other;
    dml_str settled = {0}, renamed = {0};
    load(&made, TINY, lost);
    dml_overrides_settle(lost, &made.plan, &settled);
    dml_overrides_relabel(dml_str_text(&settled), to, 6, &renamed);
    load(&other, TINY, dml_str_text(&renamed));
    DML_CHECK_EQ(3, other.spec.parallelism.lost.v[0]);
    for (int32_t s = 0; s < made.plan.stages; s++)
        for (int32_t mb = 0; mb < made.plan.train.mbs; mb++)
            DML_CHECK_EQ(to[*dml_program_route(&made.plan.train, s, mb)],
                         *dml_program_route(&other.plan.train, s, mb));
    dml_str_free(&settled);
    dml_str_free(&renamed);
    unload(&made);
    unload(&other);
}

static void expect_refused(const char *text, const char *why)
{
    dml_spec spec = {0};
    dml_plan plan;
    dml_arena arena = {0};
    int32_t n;
    const char *const *override = dml_overrides_split(text, &arena, &n);
    dml_err err = dml_spec_load(TINY, override, n, &spec);
    if (err == DML_ERR_OK && (err = dml_plan_make(&spec, &plan)) == DML_ERR_OK)
        fail_msg("taken: %s", text);
    DML_CHECK_EQ(DML_ERR_SPEC, err);
    if (!strstr(dml_err_trail(), why)) fail_msg("'%s' is not in:\n%s", why, dml_err_trail());
    dml_spec_free(&spec);
    dml_arena_free(&arena);
}

static void an_order_that_is_none_is_refused_with_its_place(void **state)
{
    (void)state;
#define TWO                                                                    \
    "parallelism.pipeline_parallel_size=2\nparallelism.data_parallel_size=1\n" \
    "training.global_batch_size=8\ntraining.micro_batch_size=4\nparallelism.order=|\n"
    expect_refused(TWO " 0F0,0F1\n 1F0,1X0\n", "order:2:6");
    expect_refused(TWO " 0F0,0B0\n 1F0,1B0\n", "1 micro-batches, the spec 2 workers");
    expect_refused(TWO " 0F0,0F1,0B0,0B1\n 1F0,1B0,1F1\n", "order");
    expect_refused(TWO " 0B0,0F0,0F1,0B1\n 1F0,1B0,1F1,1B1\n", "parallelism.order");
    expect_refused("parallelism.schedule=pipedream_2bw\ntraining.numerics=fast\n" TWO
                   " 0F0,0F1,0B0,0B1\n 1F0,1B0,1F1,1B1\n",
                   "only synchronous");
    expect_refused("parallelism.pipeline_parallel_size=1\nparallelism.data_parallel_size=2\n"
                   "training.global_batch_size=8\ntraining.micro_batch_size=4\n"
                   "parallelism.lost=[1]\nparallelism.order=|\n 0F0,0B0\n 0F1,0B1\n",
                   "its row has work");
    expect_refused("parallelism.balance=dynamic\n" TWO " 0F0\n", "keep one");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_that_lost_workers_comes_back_from_its_order),
        cmocka_unit_test(so_does_one_with_stages_of_its_own_and_one_that_recomputes),
        cmocka_unit_test(workers_are_renamed_wherever_a_plan_names_them),
        cmocka_unit_test(a_renamed_plan_runs_the_same_work_on_other_workers),
        cmocka_unit_test(an_order_that_is_none_is_refused_with_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
