/* Workers in other places, and orders for those who are left: examples/slipstream-delay.yaml, three pipelines of four
 * stages, F = I = W = 10 ms, six micro-batches each. */
#include "tests/support/test.h"

#include "engine/plan_lost.h"
#include "schedule/check.h"
#include "schedule/reroute.h"

#include <stdio.h>

#define SPEC DML_SOURCE_DIR "/examples/slipstream-delay.yaml"

enum { MOST = 8, MS = 1000000 };

typedef struct rig {
    dml_spec spec;
    dml_plan plan;
} rig;

/* Overrides end with NULL. */
static dml_err open_rig(rig *r, const char *const *overrides)
{
    const char *all[MOST + 1];
    int32_t n = 0;
    *r = (rig){0};
    all[n++] = "parallelism.memory=0"; /* orders without limits */
    for (int32_t i = 0; i < MOST && overrides[i]; i++)
        all[n++] = overrides[i];
    DML_TRY(dml_spec_load(SPEC, all, n, &r->spec));
    const dml_err err = dml_plan_make(&r->spec, &r->plan);
    if (err != DML_ERR_OK) dml_spec_free(&r->spec);
    return err;
}

static void close_rig(rig *r)
{
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
}

static int64_t step_ns(const dml_plan *p)
{
    enum { WORKERS = 12 };
    int64_t ns, exposed[WORKERS];
    double bubble[WORKERS];
    int32_t peak[WORKERS];
    DML_CHECK(p->workers <= WORKERS);
    DML_CHECK_OK(dml_plan_predict(p, &p->cost, &ns, bubble, peak, exposed));
    return ns;
}

/* Micro-batches that any worker keeps at once. */
static int32_t stash_of(const dml_plan *p)
{
    static const int64_t one[] = {1, 1, 1, 1, 1, 1, 1, 1};
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        const int64_t kept = dml_order_peak(&p->train, w, one);
        most = kept > most ? kept : most;
    }
    return (int32_t)most;
}

/* ---- places ---- */

/* Worker 0 for worker 7, which is in place 0. */
#define SEATS "parallelism.seats=[7, 1, 2, 3, 4, 5, 6, 0, 8, 9, 10, 11]"

static void a_worker_does_what_its_place_does(void **state)
{
    (void)state;
    static const char *const none[] = {NULL}, *const seats[] = {SEATS, NULL};
    rig a, b;
    DML_CHECK_OK(open_rig(&a, none));
    DML_CHECK_OK(open_rig(&b, seats));
    const dml_program *was = &a.plan.train, *is = &b.plan.train;
    for (int32_t w = 0; w < is->workers; w++) {
        const int32_t place = b.spec.parallelism.seats.v[w];
        DML_CHECK_EQ(was->list[place].n, is->list[w].n);
        for (int32_t i = 0; i < is->list[w].n; i++) {
            DML_CHECK_EQ(was->list[place].op[i].kind, is->list[w].op[i].kind);
            DML_CHECK_EQ(was->list[place].op[i].mb, is->list[w].op[i].mb);
        }
        DML_CHECK_EQ(place / 3, dml_plan_rank(&b.plan, w));
        DML_CHECK_EQ(place % 3, dml_plan_replica(&b.plan, w));
        DML_CHECK(dml_plan_holds(&b.plan, w, place / 3));
        DML_CHECK_EQ(dml_plan_worker_bytes(&a.plan, place), dml_plan_worker_bytes(&b.plan, w));
    }
    DML_CHECK_EQ(step_ns(&a.plan), step_ns(&b.plan));
    close_rig(&a);
    close_rig(&b);
}

/* Stage 2 has lost a worker, and gets one of stage 0, which is then the one that has. */
static void who_changes_places_moves_the_loss(void **state)
{
    (void)state;
    static const char *const lost[] = {SEATS, "parallelism.lost=[7]", NULL};
    rig r;
    DML_CHECK_OK(open_rig(&r, lost));
    int32_t holder[12];
    DML_CHECK_EQ(2, dml_plan_holders(&r.plan, 0, holder));
    DML_CHECK_EQ(1, holder[0]);
    DML_CHECK_EQ(2, holder[1]);
    DML_CHECK_EQ(3, dml_plan_holders(&r.plan, 2, holder));
    DML_CHECK_EQ(0, holder[0]);
    DML_CHECK_EQ(0, r.plan.train.list[7].n);
    DML_CHECK_EQ(0, dml_plan_rank(&r.plan, 7));
    DML_CHECK(dml_plan_lost(&r.plan, 7));
    close_rig(&r);
}

/* A limit, or a speed, is of the worker, wherever it sits. */
static void limits_and_speeds_stay_the_workers_own(void **state)
{
    (void)state;
    static const char *const slow[] = {
        SEATS, "cluster.speed=[1, 1, 1, 1, 1, 1, 1, 0.5, 1, 1, 1, 1]", NULL};
    static const char *const slow_place[] = {"cluster.speed=[0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]",
                                             NULL};
    rig a, b;
    DML_CHECK_OK(open_rig(&a, slow));
    DML_CHECK_OK(open_rig(&b, slow_place));
    DML_CHECK_EQ(step_ns(&b.plan), step_ns(&a.plan));
    close_rig(&a);
    close_rig(&b);
    static const char *const little[] = {
        SEATS, "cluster.memory=[0, 0, 0, 0, 0, 0, 0, 1KiB, 0, 0, 0, 0]", NULL};
    DML_CHECK_FAILS(DML_ERR_SPEC, "worker 7 holds", open_rig(&a, little));
}

/* ---- orders ---- */

static void the_step_without_worker_7_takes_what_the_example_says(void **state)
{
    (void)state;
    static const struct {
        const char *override[5];
        int64_t least_ms, most_ms;
        int32_t stash;
    } rows[] = {
        {{NULL}, 270, 270, 4},
        {{"parallelism.lost=[7]"}, 330, 360, 4},
        {{"parallelism.lost=[7]", "parallelism.stash_limit=18"}, 330, 330, 18},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true"}, 290, 290, 18},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", "parallelism.stash_limit=4"},
         290,
         290,
         4},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", SEATS}, 270, 270, 18},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", "parallelism.schedule=zb_h1"},
         290,
         290,
         18},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", "parallelism.staggered=true"},
         270,
         270,
         18},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", "parallelism.staggered=true",
          "parallelism.stash_limit=6"},
         270,
         270,
         6},
        {{"parallelism.lost=[7]", "parallelism.decoupled=true", "parallelism.staggered=true",
          "parallelism.stash_limit=4"},
         290,
         290,
         4},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        rig r;
        DML_CHECK_OK(open_rig(&r, rows[k].override));
        const int64_t ns = step_ns(&r.plan), ms = ns / MS; /* the linear layer takes 84 ns */
        DML_CHECK(ms >= rows[k].least_ms && ms <= rows[k].most_ms);
        DML_CHECK(stash_of(&r.plan) <= rows[k].stash);
        DML_CHECK(r.plan.bound_ns <= ns);
        DML_CHECK_OK(dml_check(&r.plan.train, NULL));
        close_rig(&r);
    }
}

/* Also for an order that is made with everyone there, and for several stages of a worker. */
static void a_stash_limit_is_kept_or_refused(void **state)
{
    (void)state;
    for (int32_t most = 1; most <= 4; most++) {
        char text[64];
        snprintf(text, sizeof text, "parallelism.stash_limit=%d", most);
        const char *const whole[] = {text, "parallelism.schedule=auto", NULL};
        rig r;
        DML_CHECK_OK(open_rig(&r, whole));
        DML_CHECK(stash_of(&r.plan) <= most);
        close_rig(&r);
    }
    static const char *const two[] = {
        "parallelism.virtual_pipeline_stages=2", "parallelism.pipeline_parallel_size=2",
        "parallelism.schedule=auto", "parallelism.stash_limit=1", NULL};
    rig r;
    DML_CHECK_FAILS(DML_ERR_SPEC, "parallelism.stash_limit", open_rig(&r, two));
    DML_CHECK_FAILS(DML_ERR_SPEC, "no order keeps so few", open_rig(&r, two));
}

static void an_asynchronous_schedule_is_not_decoupled(void **state)
{
    (void)state;
    static const char *const late[] = {"parallelism.decoupled=true", "parallelism.lost=[7]",
                                       "parallelism.schedule=pipedream_2bw", NULL};
    rig r;
    DML_CHECK_FAILS(DML_ERR_SPEC, "parallelism.decoupled", open_rig(&r, late));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_does_what_its_place_does),
        cmocka_unit_test(who_changes_places_moves_the_loss),
        cmocka_unit_test(limits_and_speeds_stay_the_workers_own),
        cmocka_unit_test(the_step_without_worker_7_takes_what_the_example_says),
        cmocka_unit_test(a_stash_limit_is_kept_or_refused),
        cmocka_unit_test(an_asynchronous_schedule_is_not_decoupled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
