/* Four stages that sleep, 2 to 4 pipelines of 8 and 16 micro-batches, one loss and two: the step of the plan that is chosen
 * against what no re-route and no re-cut could be shorter than. */
#include "tests/support/test.h"

#include "engine/replan.h"
#include "schedule/check.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define DELAYS DML_SOURCE_DIR "/examples/pipe4-delay.yaml"

enum { MOST_WORKERS = 16, ONE, APART, TOGETHER, PATTERNS };

typedef struct run {
    dml_spec spec;
    dml_plan plan;
    int fd; /* the spec's text */
} run;

static void open_run(run *r, const char *schedule, int32_t pipelines, int32_t mbs)
{
    char text[3][64];
    const char *const overrides[] = {text[0], text[1], text[2], "training.micro_batch_size=1"};
    snprintf(text[0], sizeof text[0], "parallelism.schedule=%s", schedule);
    snprintf(text[1], sizeof text[1], "parallelism.data_parallel_size=%d", pipelines);
    snprintf(text[2], sizeof text[2], "training.global_batch_size=%d", pipelines * mbs);
    DML_CHECK_OK(dml_spec_load(DELAYS, overrides, 4, &r->spec));
    DML_CHECK_OK(dml_spec_to_memory(&r->spec, &r->fd));
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
}

static void close_run(run *r)
{
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
    close(r->fd);
}

/* One of stage 1, with it one of stage 2, or another one of stage 1. */
static void lose(int pattern, int32_t pipelines, bool lost[MOST_WORKERS])
{
    lost[pipelines + 1] = true;
    if (pattern == APART) lost[2 * pipelines] = true;
    if (pattern == TOGETHER) lost[pipelines] = true;
}

static int64_t best_bound(const dml_repair_options *o, bool helped)
{
    int64_t least = INT64_MAX;
    for (int32_t i = 0; i < o->n; i++) {
        const dml_repair_option *x = &o->option[i];
        if (!x->why && (helped || x->repair != DML_REPAIR_HELPED) && x->bound_ns < least)
            least = x->bound_ns;
    }
    return least;
}

/* 0.95 of the best bound of re-routes and re-cuts; 0.93 where 88 passes of a stage are left to 11 workers, who have
 * 8 each and no micro-batch to spare.  Of the best bound of all, that of helped plans included, 0.88. */
static void expect_near(const dml_repair_options *o, int32_t pipelines, int32_t mbs, int pattern)
{
    const dml_repair_option *best = &o->option[o->best];
    const double step_ns = (double)best->step_ns,
                 of_others = (double)best_bound(o, false) / step_ns,
                 of_all = (double)best_bound(o, true) / step_ns,
                 least = pipelines == 3 && mbs == 8 && pattern == ONE ? 0.93 : 0.95;
    if (of_others < least || of_all < 0.88)
        fail_msg(
            "%d pipelines of %d, pattern %d: %s, %.1f ms: %.3f of the best bound of re-route and "
            "re-cut, %.3f of any",
            pipelines, mbs, pattern, dml_repair_text(best->repair), step_ns * 1e-6, of_others,
            of_all);
}

static void expect_sound(const run *r, const bool *lost, const dml_repair_option *best)
{
    const dml_plan *p = &best->planned->plan;
    DML_CHECK_OK(dml_check(&p->train, NULL));
    for (int32_t s = 0; s < p->stages; s++) {
        int32_t mbs = 0;
        for (int32_t w = 0; w < p->workers; w++)
            mbs += dml_plan_share(p, w, s);
        DML_CHECK_EQ(r->plan.mbs, mbs);
    }
    for (int32_t w = 0; w < p->workers; w++)
        if (lost[w]) DML_CHECK_EQ(0, p->train.list[w].n);
}

static void run_matrix(const char *schedule)
{
    for (int32_t pipelines = 2; pipelines <= 4; pipelines++)
        for (int32_t mbs = 8; mbs <= 16; mbs += 8) {
            run r;
            open_run(&r, schedule, pipelines, mbs);
            for (int pattern = ONE; pattern < PATTERNS; pattern++) {
                bool lost[MOST_WORKERS] = {false};
                dml_repair_options o;
                lose(pattern, pipelines, lost);
                DML_CHECK_OK(dml_replan_best(r.fd, &r.plan, lost, NULL, &o));
                expect_near(&o, pipelines, mbs, pattern);
                expect_sound(&r, lost, &o.option[o.best]);
                dml_repair_options_free(&o);
            }
            close_run(&r);
        }
}

static void one_f_one_b_goes_on_near_the_bound(void **state)
{
    (void)state;
    run_matrix("1f1b");
}

static void chimera_goes_on_near_the_bound(void **state)
{
    (void)state;
    run_matrix("chimera");
}

/* Two pipelines of 16: one of eight workers is lost, and a step takes as long as before, where the other holder of its
 * stage alone would have made it take 960 ms. */
static void helpers_take_a_whole_loss_up(void **state)
{
    (void)state;
    run r;
    dml_repair_options o;
    const bool lost[MOST_WORKERS] = {[3] = true};
    open_run(&r, "1f1b", 2, 16);
    DML_CHECK_OK(dml_replan_best(r.fd, &r.plan, lost, NULL, &o));
    const dml_repair_option *best = &o.option[o.best];
    DML_CHECK_EQ(570, o.before_ns / 1000000);
    DML_CHECK_EQ(DML_REPAIR_HELPED, best->repair);
    DML_CHECK_EQ(570, best->step_ns / 1000000);
    /* nobody gives up what it held, and what is left of stage 1 has company */
    for (int32_t w = 0; w < 8; w++)
        for (int32_t s = 0; s < 4 && !lost[w]; s++)
            DML_CHECK(!dml_plan_holds(&r.plan, w, s) || dml_plan_holds(&best->planned->plan, w, s));
    DML_CHECK(dml_plan_holders(&best->planned->plan, 1, NULL) > 2);
    dml_repair_options_free(&o);
    close_run(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_f_one_b_goes_on_near_the_bound),
                                       cmocka_unit_test(chimera_goes_on_near_the_bound),
                                       cmocka_unit_test(helpers_take_a_whole_loss_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
