/* Plans without some of their workers: what stays, what moves, what it costs and what it holds. */
#include "tests/schedule/machine.h"

#include "engine/base/rng.h"
#include "engine/replan.h"
#include "schedule/check.h"
#include "schedule/schedule.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TINY   DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"
#define U_NET  DML_SOURCE_DIR "/tests/specs/u-net.yaml"
#define DELAYS DML_SOURCE_DIR "/examples/pipe4-delay.yaml"
#define GOLDEN DML_SOURCE_DIR "/examples/slipstream-delay.yaml"
#define PLACED DML_SOURCE_DIR "/examples/placed-delay.yaml"

enum { MOST_OVERRIDES = 12 };

typedef struct run {
    dml_spec spec;
    dml_plan plan;
    int fd; /* the spec's text */
} run;

static run open_run(const char *path, const char *const *overrides)
{
    run r = {.fd = memfd_create("spec", MFD_CLOEXEC)};
    int32_t n = 0;
    while (overrides[n])
        n++;
    DML_CHECK_OK(dml_spec_load(path, overrides, n, &r.spec));
    FILE *f = fdopen(dup(r.fd), "w");
    DML_CHECK_OK(dml_spec_print(&r.spec, f));
    fclose(f);
    return r;
}

/* dml_plan_make keeps a pointer to the spec, so `r` stays where it is from here on. */
static void plan_run(run *r)
{
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
}

static void close_run(run *r)
{
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
    close(r->fd);
}

enum { REROUTE = 1 << DML_REPAIR_REROUTE, RECUT = 1 << DML_REPAIR_RECUT };

/* Of the repairs in the mask; 0: of all. */
static dml_err replan(int fd, const dml_plan *first, uint64_t lost, uint32_t repairs,
                      dml_replan *out)
{
    return dml_replan_make(fd, first, lost, &(dml_replan_input){.repairs = repairs}, out);
}

/* ---- what stays ---- */

static void expect_machine_runs(const dml_program *p, uint64_t seed)
{
    rnd luck = rnd_of(seed);
    char why[MACHINE_WHY_BYTES];
    DML_CHECK_OK(dml_check(p, NULL));
    if (!machine_run(p, &luck, why)) fail_msg("%s", why);
}

/* The same stages of the same layers; micro-batches stay, but those of the lost go round robin to the other holders. */
static void expect_rerouted(const dml_plan *was, const dml_plan *is, uint64_t lost)
{
    for (int32_t s = 0; s <= was->stages; s++)
        DML_CHECK_EQ(was->stage_begin[s], is->stage_begin[s]);
    for (int32_t s = 0; s < was->stages; s++) {
        int32_t live[DML_HOST_WORKERS], n = 0, k = 0;
        for (int32_t w = 0; w < was->workers; w++)
            if (dml_plan_holds(was, w, s) && !(lost >> w & 1)) live[n++] = w;
        for (int32_t mb = 0; mb < was->train.mbs; mb++) {
            const int32_t before = *dml_program_route(&was->train, s, mb),
                          after = *dml_program_route(&is->train, s, mb);
            DML_CHECK_EQ(lost >> before & 1 ? live[k++ % n] : before, after);
            if (mb < was->eval.mbs) DML_CHECK_EQ(*dml_program_route(&is->eval, s, mb), after);
        }
    }
    for (int32_t w = 0; w < was->workers; w++) {
        DML_CHECK_EQ(lost >> w & 1, dml_plan_lost(is, w));
        DML_CHECK_EQ(dml_plan_rank(was, w), dml_plan_rank(is, w));
        DML_CHECK_EQ(dml_plan_replica(was, w), dml_plan_replica(is, w));
        DML_CHECK_EQ(lost >> w & 1, is->train.list[w].n == 0);
        if (lost >> w & 1) DML_CHECK(is->eval.list[w].n == 0 && dml_plan_worker_bytes(is, w) == 0);
    }
    DML_CHECK_EQ(dml_program_splits_backward(&was->train), dml_program_splits_backward(&is->train));
}

/* Random losses that leave every stage a holder. */
static uint64_t random_losses(rnd *r, const dml_plan *p)
{
    for (;;) {
        uint64_t lost = 0;
        bool all = true;
        for (int32_t w = 0; w < p->workers; w++)
            if (rnd_below(r, 3) == 0) lost |= (uint64_t)1 << w;
        for (int32_t s = 0; s < p->stages; s++) {
            bool any = false;
            for (int32_t w = 0; w < p->workers; w++)
                any |= dml_plan_holds(p, w, s) && !(lost >> w & 1);
            all = all && any;
        }
        if (all && lost) return lost;
    }
}

static void try_losses(const char *path, const char *const *overrides, int32_t times, uint64_t seed)
{
    run r = open_run(path, overrides);
    rnd luck = rnd_of(seed);
    plan_run(&r);
    for (int32_t i = 0; i < times; i++) {
        const uint64_t lost = random_losses(&luck, &r.plan);
        dml_replan now;
        DML_CHECK_OK(replan(r.fd, &r.plan, lost, REROUTE, &now));
        DML_CHECK_EQ(DML_REPAIR_REROUTE, now.repair);
        expect_rerouted(&r.plan, &now.planned->plan, lost);
        expect_machine_runs(&now.planned->plan.train, seed + (uint64_t)i);
        expect_machine_runs(&now.planned->plan.eval, seed + (uint64_t)i);
        DML_CHECK(now.after_ns >= now.planned->plan.bound_ns);
        dml_planned_free(now.planned);
    }
    close_run(&r);
}

static void every_schedule_goes_on_without_any_of_its_workers(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *s = dml_schedules(&n);
    for (int32_t k = 0; k < n; k++) {
        char name[64];
        const bool one = s[k] == &dml_schedule_pipedream, two = s[k]->many_chunks;
        snprintf(name, sizeof name, "parallelism.schedule=%s", s[k]->name);
        const char *const overrides[] = {
            name,
            strcmp(s[k]->name, "sequential") == 0 ? "parallelism.pp=1" : "parallelism.pp=2",
            "parallelism.dp=3",
            two ? "parallelism.virtual_pipeline_stages=2" : "parallelism.virtual_pipeline_stages=1",
            "training.micro_batch_size=1",
            one ? "training.global_batch_size=3" : "training.global_batch_size=24",
            s[k]->version ? "training.numerics=exact_wide" : "training.numerics=exact",
            NULL};
        try_losses(TINY, overrides, 3, (uint64_t)k);
    }
}

static void placed_stages_skips_and_recomputation_go_on_too(void **state)
{
    (void)state;
    static const char *const
        placed[] = {"parallelism.stages=[{workers: [0, 1, 2], shares: [1, 2, 3]}, "
                    "{workers: [3, 4]}, {workers: [0, 5]}]",
                    "parallelism.schedule=auto", "training.micro_batch_size=1", NULL},
        *const recomputed[] = {"parallelism.pp=2", "parallelism.dp=2", "parallelism.recompute=full",
                               "training.micro_batch_size=1", NULL},
        *const skips[] = {"parallelism.pp=4", "parallelism.dp=2", "training.micro_batch_size=1",
                          NULL},
        *const automatic[] = {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=auto",
                              "training.micro_batch_size=1", NULL};
    try_losses(TINY, placed, 4, 1);
    try_losses(TINY, recomputed, 4, 2);
    try_losses(U_NET, skips, 4, 3);
    try_losses(TINY, automatic, 4, 4);
}

static void nobody_lost_is_the_first_plan(void **state)
{
    (void)state;
    static const char *const overrides[] = {NULL};
    run r = open_run(DELAYS, overrides);
    dml_replan now;
    plan_run(&r);
    DML_CHECK_OK(replan(r.fd, &r.plan, 0, 0, &now));
    DML_CHECK_EQ(DML_REPAIR_NONE, now.repair);
    DML_CHECK(!now.planned && now.ratio == 1.0 && now.bound_holds);
    close_run(&r);
}

/* ---- what moves ---- */

/* Everyone who is left has something to do, nobody else has, and the batch is what it was. */
static void expect_recut(const run *r, const dml_replan *now, uint64_t lost)
{
    const dml_plan *is = &now->planned->plan;
    DML_CHECK_EQ(DML_REPAIR_RECUT, now->repair);
    DML_CHECK_EQ(r->plan.workers, is->workers);
    DML_CHECK_EQ(r->plan.mbs, is->mbs);
    DML_CHECK_EQ(r->spec.training.micro_batch_size, is->spec->training.micro_batch_size);
    for (int32_t w = 0; w < is->workers; w++)
        DML_CHECK_EQ(lost >> w & 1, is->train.list[w].n == 0);
    expect_machine_runs(&is->train, lost);
    expect_machine_runs(&is->eval, lost);
}

static void a_stage_that_nobody_holds_any_more_is_cut_anew(void **state)
{
    (void)state;
    static const char *const overrides[] = {NULL};
    run r = open_run(DELAYS, overrides);
    plan_run(&r);
    for (uint64_t lost = 1; lost < 15; lost++) {
        dml_replan now;
        DML_CHECK_OK(replan(r.fd, &r.plan, lost, RECUT, &now));
        expect_recut(&r, &now, lost);
        const int32_t left = 4 - __builtin_popcountll(lost);
        DML_CHECK(now.after_ns >= 4 * 240000000LL / left); /* 8 x 4 x 30 ms of work */
        DML_CHECK(now.after_ns < 4 * 240000000LL / left + 100000000);
        dml_planned_free(now.planned);
    }
    close_run(&r);
}

static void limits_of_memory_make_stages_of_those_who_are_left(void **state)
{
    (void)state;
    static const char *const plain[] = {"parallelism.pp=3", "training.micro_batch_size=1", NULL};
    run r = open_run(TINY, plain);
    plan_run(&r);
    int64_t all = 0, most = 0;
    for (int32_t w = 0; w < 3; w++) {
        const int64_t bytes = dml_plan_worker_bytes(&r.plan, w);
        all += bytes;
        most = bytes > most ? bytes : most;
    }
    close_run(&r);
    int32_t fitted = 0;
    for (int64_t kib = most >> 10; kib < all >> 10; kib += (all - most) >> 13) {
        char limit[64];
        snprintf(limit, sizeof limit, "parallelism.memory=%lldKiB", (long long)kib + 1);
        const char *const overrides[] = {plain[0], plain[1], limit, NULL};
        dml_replan now;
        r = open_run(TINY, overrides);
        plan_run(&r);
        const dml_err err = replan(r.fd, &r.plan, 2, RECUT, &now);
        DML_CHECK(err == DML_ERR_OK || err == DML_ERR_PEER);
        if (err == DML_ERR_OK) {
            expect_recut(&r, &now, 2);
            for (int32_t w = 0; w < 3; w++)
                DML_CHECK(dml_plan_worker_bytes(&now.planned->plan, w) <= (kib + 1) << 10);
            dml_planned_free(now.planned);
            fitted++;
        }
        close_run(&r);
    }
    DML_CHECK(fitted > 0);
}

static void who_cannot_go_on_is_told_why(void **state)
{
    (void)state;
    static const char *const plain[] = {NULL}, *const late[] = {
                                                   "parallelism.schedule=pipedream_2bw", NULL};
    run r = open_run(DELAYS, plain);
    dml_replan now;
    plan_run(&r);
    DML_CHECK_FAILS(DML_ERR_PEER, "nobody is left", replan(r.fd, &r.plan, 15, 0, &now));
    close_run(&r);
    r = open_run(DELAYS, late);
    plan_run(&r);
    DML_CHECK_FAILS(
        DML_ERR_PEER,
        "re-route: stage 2 has no worker left: worker 2 held it; re-route, helped: "
        "under pipedream_2bw a stage has one holder in each pipeline; re-cut: the model "
        "is not cut anew under pipedream_2bw",
        replan(r.fd, &r.plan, 4, 0, &now));
    close_run(&r);
}

/* ---- within memory ---- */

static int64_t most_bytes(const dml_plan *p)
{
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        const int64_t bytes = dml_plan_worker_bytes(p, w);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* With a little less each time than the order before held, down to where only other stages fit, and then nothing. */
static void a_tighter_limit_gives_an_order_that_keeps_it(void **state)
{
    (void)state;
    static const char *const plain[] = {"parallelism.pp=2", "parallelism.dp=2",
                                        "parallelism.schedule=gpipe", "training.micro_batch_size=1",
                                        NULL};
    run r = open_run(TINY, plain);
    dml_replan now;
    plan_run(&r);
    DML_CHECK_OK(replan(r.fd, &r.plan, 1, REROUTE, &now));
    int64_t limit = most_bytes(&now.planned->plan), least = most_bytes(&r.plan);
    DML_CHECK(limit > least);
    dml_planned_free(now.planned);
    close_run(&r);
    int32_t rerouted = 0;
    for (; limit >= least; limit -= (limit - least) / 8 + 1024) {
        char text[64];
        snprintf(text, sizeof text, "parallelism.memory=%lldB", (long long)limit);
        const char *const overrides[] = {plain[0], plain[1], plain[2], plain[3], text, NULL};
        r = open_run(TINY, overrides);
        plan_run(&r);
        if (replan(r.fd, &r.plan, 1, REROUTE, &now) != DML_ERR_OK)
            DML_CHECK_OK(replan(r.fd, &r.plan, 1, 0, &now));
        DML_CHECK(most_bytes(&now.planned->plan) <= limit);
        rerouted += now.repair == DML_REPAIR_REROUTE;
        if (now.repair == DML_REPAIR_REROUTE) expect_rerouted(&r.plan, &now.planned->plan, 1);
        dml_planned_free(now.planned);
        close_run(&r);
    }
    DML_CHECK(rerouted >= 4);
}

/* ---- what it costs ---- */

/* Three pipelines of four stages of equal length: the bubble takes one loss of 6 micro-batches up, no more. */
static void the_bound_is_that_of_its_formula(void **state)
{
    (void)state;
    static const struct {
        const char *batch;
        uint64_t lost;
        int32_t stage;
        int64_t more, idle;
        bool holds;
    } rows[] = {{"training.global_batch_size=18", 1 << 7, 2, 6, 6, true},
                {"training.global_batch_size=21", 1 << 7, 2, 7, 6, false},
                {"training.global_batch_size=18", 3 << 7, 2, 12, 3, false},
                {"training.global_batch_size=18", 1 << 7, 1, 0, 9, true},
                {"training.global_batch_size=18", 7 << 6, 2, 18, 0, false}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        const char *const overrides[] = {"parallelism.dp=3", "training.micro_batch_size=1",
                                         rows[k].batch, NULL};
        run r = open_run(DELAYS, overrides);
        plan_run(&r);
        const dml_bound b = dml_replan_bound(&r.plan, rows[k].lost, rows[k].stage);
        DML_CHECK_EQ(3, b.holders);
        DML_CHECK_EQ(rows[k].more, b.more);
        DML_CHECK_EQ(rows[k].idle, b.idle);
        DML_CHECK_EQ(rows[k].holds, dml_bound_holds(&b));
        close_run(&r);
    }
}

static void throughput_is_predicted_from_both_plans(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.dp=3", "training.micro_batch_size=1",
                                            "training.global_batch_size=18", NULL};
    run r = open_run(DELAYS, overrides);
    dml_replan now;
    dml_str out = {0};
    plan_run(&r);
    DML_CHECK_OK(replan(r.fd, &r.plan, 1 << 7, REROUTE, &now));
    DML_CHECK_EQ(27, now.before_ns / 10000000);
    DML_CHECK_EQ(34, now.after_ns / 10000000); /* 36 with what 1F1B keeps, 33 at least */
    DML_CHECK_EQ(33, now.planned->plan.bound_ns / 10000000);
    DML_CHECK(now.ratio > 0.79 && now.ratio < 0.80 && now.bound_holds);
    dml_replan_print(&r.plan, 1 << 7, &now, &out);
    DML_CHECK(strstr(dml_str_text(&out), "repair: re-route"));
    DML_CHECK(strstr(dml_str_text(&out), "step ms                       270.000      340.000"));
    DML_CHECK(
        strstr(dml_str_text(&out), "2               3      1          6              6   yes"));
    DML_CHECK(strstr(dml_str_text(&out), "lost"));
    dml_str_free(&out);
    dml_planned_free(now.planned);
    close_run(&r);
}

static const dml_repair_option *option_of(const dml_repair_options *o, dml_repair repair)
{
    for (int32_t i = 0; i < o->n; i++)
        if (o->option[i].repair == repair) return &o->option[i];
    fail_msg("no option '%s'", dml_repair_text(repair));
    return NULL;
}

/* ReCycle's example, 10 ms a slot: 33 to 36 whole, 29 decoupled, 27 staggered; 29 again where steps wait for the norm.
 * Only what may be the best is planned by dml_replan_best. */
static void every_option_has_the_price_of_its_plan(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.dp=3", "training.micro_batch_size=1",
                                            "training.global_batch_size=18", NULL};
    static const uint32_t reroutes = 1u << DML_REPAIR_REROUTE | 1u << DML_REPAIR_DECOUPLED;
    run r = open_run(DELAYS, overrides);
    plan_run(&r);
    bool lost[12] = {[7] = true};
    for (int clipping = 0; clipping < 2; clipping++) {
        const dml_replan_input input = {.clipping = clipping, .repairs = reroutes};
        dml_repair_options all, best;
        DML_CHECK_OK(dml_replan_options(r.fd, &r.plan, lost, &input, &all));
        DML_CHECK_OK(dml_replan_best(r.fd, &r.plan, lost, &input, &best));
        const dml_repair_option *whole = option_of(&all, DML_REPAIR_REROUTE),
                                *cut = option_of(&all, DML_REPAIR_DECOUPLED),
                                *late = option_of(&all, DML_REPAIR_STAGGERED);
        DML_CHECK(whole->step_ns >= 330000000 && whole->step_ns <= 360000000);
        DML_CHECK_EQ(290000000, cut->step_ns);
        DML_CHECK(late->step_ns >= (clipping ? 290000000 : 270000000));
        DML_CHECK(late->bound_ns <= late->step_ns);
        DML_CHECK(option_of(&all, DML_REPAIR_RESTART)->why);
        DML_CHECK_EQ(DML_REPAIR_DECOUPLED, all.option[all.best].repair);
        DML_CHECK_EQ(DML_REPAIR_DECOUPLED, best.option[best.best].repair);
        DML_CHECK(!option_of(&best, DML_REPAIR_REROUTE)->planned);
        assert_string_equal("parallelism.lost=[7]\nparallelism.decoupled=true",
                            cut->planned->overrides);
        dml_repair_options_free(&all);
        dml_repair_options_free(&best);
    }
    close_run(&r);
}

/* ReCycle's example by stash limit and by who is lost, in slots of 10 ms; 0: no limit.  A bar that was reached by searching
 * is an upper one, those that equal a lower bound are exact. */
static void the_golden_table_is_kept(void **state)
{
    (void)state;
    enum { WHOLE, CUT, LATE, WAYS };
    static const dml_repair way[WAYS] = {DML_REPAIR_REROUTE, DML_REPAIR_DECOUPLED,
                                         DML_REPAIR_STAGGERED};
    static const struct {
        int32_t limit;
        uint64_t lost;
        int32_t slots[WAYS]; /* 0: not asked */
        bool exact[WAYS];
    } rows[] = {
        {0, 1 << 7, {33, 29, 27}, {true, true, true}},
        {3, 1 << 7, {0, 0, 30}, {0}},
        {4, 1 << 7, {0, 29, 29}, {0, true, false}},
        {5, 1 << 7, {0, 29, 28}, {0, true, false}},
        {6, 1 << 7, {0, 29, 27}, {0, true, true}},
        {0, 1 << 1, {29, 27, 27}, {false, true, true}},
        {0, 1 << 4, {30, 28, 27}, {true, true, true}},
        {0, 1 << 10, {36, 30, 27}, {true, true, true}},
        {0, 1 << 7 | 1 << 3, {34, 30, 28}, {0}},                   /* 29 and 27 are possible */
        {0, 1 << 0 | 1 << 4 | 1 << 8 | 1 << 9, {38, 31, 28}, {0}}, /* 36, 30 and 27 are possible */
        {0, 1 << 1 | 1 << 4 | 1 << 7 | 1 << 10, {36, 30, 27}, {true, true, true}},
        {0, 1 << 6 | 1 << 7, {60, 56, 54}, {true, true, true}},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        char limit[64];
        const char *const overrides[] = {"parallelism.memory=0", limit, NULL};
        snprintf(limit, sizeof limit, "parallelism.stash_limit=%d",
                 rows[k].limit ? rows[k].limit : 18);
        run r = open_run(GOLDEN, overrides);
        plan_run(&r);
        bool lost[12];
        for (int32_t w = 0; w < 12; w++)
            lost[w] = rows[k].lost >> w & 1;
        dml_repair_options all;
        DML_CHECK_OK(dml_replan_options(r.fd, &r.plan, lost, NULL, &all));
        for (int32_t v = 0; v < WAYS; v++) {
            const dml_repair_option *o = option_of(&all, way[v]);
            /* what a linear layer and its parameters take is no slot */
            const int64_t most_ns = rows[k].slots[v] * INT64_C(10000000) + 1000000;
            if (rows[k].slots[v] == 0) continue;
            if (!o->planned) fail_msg("row %zu, %s: %s", k, dml_repair_text(way[v]), o->why);
            if (o->step_ns > most_ns || o->step_ns < o->bound_ns ||
                (rows[k].exact[v] && o->step_ns < most_ns - 1000000))
                fail_msg("row %zu, %s: %.1f slots, want %s%d", k, dml_repair_text(way[v]),
                         (double)o->step_ns * 1e-7, rows[k].exact[v] ? "" : "at most ",
                         rows[k].slots[v]);
            expect_machine_runs(&o->planned->plan.train, k);
        }
        dml_repair_options_free(&all);
        close_run(&r);
    }
}

static int32_t fewest_holders(const dml_plan *plan)
{
    int32_t fewest = plan->workers;
    for (int32_t s = 0; s < plan->stages; s++) {
        int32_t n = 0;
        for (int32_t w = 0; w < plan->workers; w++)
            n += dml_plan_holds(plan, w, s);
        fewest = n < fewest ? n : fewest;
    }
    return fewest;
}

/* A re-cut that is 0.02 ms shorter leaves a stage to worker 2 alone; with snapshots that may be. */
static void no_stage_is_left_to_one_holder_without_need(void **state)
{
    (void)state;
    for (int snapshots = 0; snapshots < 2; snapshots++) {
        const char *const overrides[] = {snapshots ? "failures.snapshot_interval=1" : NULL, NULL};
        run r = open_run(GOLDEN, overrides);
        plan_run(&r);
        dml_replan got;
        DML_CHECK_OK(replan(r.fd, &r.plan, 1 << 7, 0, &got));
        DML_CHECK_EQ(snapshots ? DML_REPAIR_RECUT : DML_REPAIR_STAGGERED, got.repair);
        DML_CHECK_EQ(snapshots ? 1 : 2, fewest_holders(&got.planned->plan));
        dml_planned_free(got.planned);
        close_run(&r);
    }
}

/* ---- the key ---- */

static void what_is_lost_is_there_and_once(void **state)
{
    (void)state;
    static const struct {
        const char *lost, *text;
    } rows[] = {{"parallelism.lost=[4]", "there is no worker 4 to lose: the layout has 4"},
                {"parallelism.lost=[1, 2, 1]", "worker 1 is lost twice"}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        dml_spec spec;
        const char *const overrides[] = {rows[k].lost};
        DML_CHECK_FAILS(DML_ERR_SPEC, rows[k].text, dml_spec_load(DELAYS, overrides, 1, &spec));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_goes_on_without_any_of_its_workers),
        cmocka_unit_test(placed_stages_skips_and_recomputation_go_on_too),
        cmocka_unit_test(nobody_lost_is_the_first_plan),
        cmocka_unit_test(a_stage_that_nobody_holds_any_more_is_cut_anew),
        cmocka_unit_test(limits_of_memory_make_stages_of_those_who_are_left),
        cmocka_unit_test(who_cannot_go_on_is_told_why),
        cmocka_unit_test(a_tighter_limit_gives_an_order_that_keeps_it),
        cmocka_unit_test(the_bound_is_that_of_its_formula),
        cmocka_unit_test(throughput_is_predicted_from_both_plans),
        cmocka_unit_test(every_option_has_the_price_of_its_plan),
        cmocka_unit_test(the_golden_table_is_kept),
        cmocka_unit_test(no_stage_is_left_to_one_holder_without_need),
        cmocka_unit_test(what_is_lost_is_there_and_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
