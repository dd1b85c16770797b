/* What changes hands between two plans: examples/slipstream-delay.yaml's layout over a net with state, and runs that do
 * what was predicted. */
#include "tests/support/test.h"

#include "tests/support/draws.h"
#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"
#include "engine/migration.h"

#include <inttypes.h>
#include <stdio.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { WORLD = 6, TEXT = 128 };

static const char pp[] = "parallelism.pp=2", dp[] = "parallelism.dp=3",
                  batch[] = "training.global_batch_size=36";

typedef struct rig {
    dml_spec spec;
    dml_plan plan;
} rig;

static void open_rig(rig *r, const char *a, const char *b)
{
    const char *const list[] = {pp, dp, batch, a, b};
    DML_CHECK_OK(dml_spec_load(TINY, list, 3 + !!a + !!b, &r->spec));
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
}

static void close_rig(rig *r)
{
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
}

/* Worker 4 of stage 1 is lost, and worker 0 of stage 0 takes its place: it gets stage 1, once, from worker 3. */
static void who_takes_another_place_gets_its_stage_from_who_lives(void **state)
{
    (void)state;
    static const bool lost[WORLD] = {[4] = true};
    rig was, is;
    dml_migration m;
    dml_str text = {0};
    open_rig(&was, NULL, NULL);
    open_rig(&is, "parallelism.seats=[4, 1, 2, 3, 0, 5]", "parallelism.lost=[4]");
    DML_CHECK_OK(dml_migration_make(&was.plan, &is.plan, lost, &m));
    const int32_t *begin = was.plan.stage_begin;
    const int64_t bytes = dml_state_bytes(&was.spec, &was.plan.model, begin[1], begin[2]),
                  all = dml_state_bytes(&was.spec, &was.plan.model, 0, begin[2]);
    DML_CHECK_EQ(1, m.transfers);
    DML_CHECK_EQ(1, m.movers);
    DML_CHECK_EQ(0, m.transfer[0].to);
    DML_CHECK_EQ(3, m.transfer[0].from);
    DML_CHECK_EQ(1, m.transfer[0].stage);
    DML_CHECK_EQ(bytes, m.transfer[0].bytes);
    DML_CHECK_EQ(bytes, m.in_bytes[0]);
    DML_CHECK_EQ(bytes, m.out_bytes[3]);
    DML_CHECK_EQ(bytes, m.moved_bytes);
    DML_CHECK_EQ(all, m.copied_bytes);
    DML_CHECK_EQ(all - bytes, m.put_bytes[0]); /* it speaks for stage 0 until then */
    dml_migration_print(&m, &text);
    DML_CHECK(strstr(dml_str_text(&text), "worker 0 gets layers"));
    dml_str_free(&text);
    dml_migration_free(&m);
    close_rig(&was);
    close_rig(&is);
}

/* And each way of spoiling it is seen. */
static void a_migration_that_is_wrong_is_refused(void **state)
{
    (void)state;
    static const bool lost[WORLD] = {[4] = true};
    rig was, is;
    dml_migration m;
    open_rig(&was, NULL, NULL);
    open_rig(&is, "parallelism.seats=[4, 1, 2, 3, 0, 5]", "parallelism.lost=[4]");
    DML_CHECK_OK(dml_migration_make(&was.plan, &is.plan, lost, &m));
    dml_transfer *t = m.transfer, good = *t;
    t->from = 4;
    DML_CHECK_FAILS(DML_ERR_BUG, "is lost", dml_migration_check(&m, &was.plan, &is.plan, lost));
    t->from = 1;
    DML_CHECK_FAILS(DML_ERR_BUG, "does not hold",
                    dml_migration_check(&m, &was.plan, &is.plan, lost));
    t->from = DML_FROM_BANK;
    DML_CHECK_FAILS(DML_ERR_BUG, "a holder lives",
                    dml_migration_check(&m, &was.plan, &is.plan, lost));
    *t = good;
    t->to = 5;
    DML_CHECK_FAILS(DML_ERR_BUG, "needs layer", dml_migration_check(&m, &was.plan, &is.plan, lost));
    t->to = 1;
    DML_CHECK_FAILS(DML_ERR_BUG, "needs layer", dml_migration_check(&m, &was.plan, &is.plan, lost));
    *t = good;
    m.transfers = 0;
    DML_CHECK_FAILS(DML_ERR_BUG, "gets it 0 times",
                    dml_migration_check(&m, &was.plan, &is.plan, lost));
    dml_migration_free(&m);
    close_rig(&was);
    close_rig(&is);
}

/* Nobody moves who keeps its stage; a stage without a holder comes from the bank; longer over a slower link. */
static void who_stays_gets_nothing_and_what_nobody_holds_is_in_the_bank(void **state)
{
    (void)state;
    static const bool nobody[WORLD] = {false}, stage1[WORLD] = {[3] = true, [4] = true, [5] = true};
    rig was, less, cut;
    dml_migration m;
    open_rig(&was, NULL, NULL);
    open_rig(&less, "parallelism.lost=[4]", NULL);
    open_rig(&cut, "parallelism.seats=[3, 1, 2, 0, 4, 5]", NULL);
    DML_CHECK_OK(dml_migration_make(&was.plan, &less.plan, nobody, &m));
    DML_CHECK_EQ(0, m.transfers);
    DML_CHECK(dml_migration_ns(&m, &(dml_links){0}) > 0);
    dml_migration_free(&m);
    DML_CHECK_OK(dml_migration_make(&was.plan, &cut.plan, stage1, &m));
    int32_t from_bank = 0;
    for (int32_t i = 0; i < m.transfers; i++)
        from_bank += m.transfer[i].from == DML_FROM_BANK;
    DML_CHECK_EQ(3, from_bank); /* workers 0, 4 and 5; stage 0 of worker 3 from worker 0 */
    const dml_links slow = {.outer = {.bytes_per_s = 1e6}},
                    slower = {.outer = {.bytes_per_s = 5e5}};
    const int64_t ns = dml_migration_ns(&m, &slow);
    DML_CHECK(ns > 0 && dml_migration_ns(&m, &slower) >= 2 * ns - 2);
    dml_migration_free(&m);
    close_rig(&was);
    close_rig(&less);
    close_rig(&cut);
}

/* ---- runs -------------------------------------------------------------------------------------------- */

typedef struct watch {
    int32_t recoveries;
} watch;

/* What is put is what was predicted. */
static void compare_bytes(void *context, const dml_recovery_event *e)
{
    watch *w = context;
    if (e->kind != DML_RECOVERY_DONE || e->source != DML_SOURCE_PEERS) return;
    bool lost[DML_HOST_WORKERS];
    dml_migration m;
    for (int32_t r = 0; r < DML_HOST_WORKERS; r++)
        lost[r] = e->newly_lost >> r & 1;
    DML_CHECK_OK(dml_migration_make(e->before, e->after, lost, &m));
    DML_CHECK_EQ(m.copied_bytes, e->bytes);
    dml_migration_free(&m);
    w->recoveries++;
}

static void a_recovery_copies_what_was_predicted(void **state)
{
    (void)state;
    static const char *const list[] = {
        pp,  dp, batch, "training.max_steps=6", "failures.policy=replan", "parallelism.timeout=20s",
        NULL};
    watch w = {0};
    DML_CHECK_OK(dml_failpoints_arm("worker.vote.after@rank=4,hit=2:kill"));
    const run_result r =
        run_threads_hooked(TINY, list, (run_hooks){.recovery = compare_bytes, .context = &w});
    dml_failpoints_disarm();
    DML_CHECK_OK(r.err);
    DML_CHECK_EQ(1, r.recoveries);
    DML_CHECK_EQ(1, w.recoveries);
}

/* Whoever sits where, whoever is missing, from the start or from a step on: the bits of one worker alone. */
static const char *const *now; /* NULL: stays */

static const char *const *change(void *context, int64_t step)
{
    static const char *const none[] = {NULL};
    (void)context;
    return step == 2 ? now : step == 4 ? none : NULL;
}

static void draw(char *seats, char *lost)
{
    int32_t place[WORLD], n = snprintf(seats, TEXT, "parallelism.seats=[");
    for (int32_t w = 0; w < WORLD; w++) {
        const int32_t k = below(w + 1);
        place[w] = place[k];
        place[k] = w;
    }
    for (int32_t w = 0; w < WORLD; w++)
        n += snprintf(seats + n, (size_t)(TEXT - n), "%s%d", w ? ", " : "", place[w]);
    snprintf(seats + n, (size_t)(TEXT - n), "]");
    snprintf(lost, TEXT, "parallelism.lost=[%d]", below(WORLD));
}

static void seats_and_losses_change_no_bit(void **state)
{
    (void)state;
    static const char *const schedules[] = {"1f1b", "gpipe", "eager_1f1b", "zb_h1", "auto"};
    static const char *const common[] = {batch, "training.max_steps=6", NULL};
    const layout one = {"1", "1", "1f1b", "1"};
    const run_result whole = run_layout(TINY, &one, common);
    for (size_t k = 0; k < sizeof schedules / sizeof *schedules; k++)
        for (int32_t decoupled = 0; decoupled < 2; decoupled++) {
            char seats[TEXT], lost[TEXT];
            draw(seats, lost);
            const char *const cut = decoupled ? "parallelism.decoupled=true" : NULL;
            const char *const extra[] = {batch, common[1], seats, lost, cut, NULL},
                              *const later[] = {seats, lost, cut, NULL};
            const layout l = {"2", "3", schedules[k], "1"};
            const run_result r = run_layout(TINY, &l, extra);
            expect_same(&whole, &r, &l);
            now = later;
            const run_result c = run_layout_hooked(TINY, &l, common, (run_hooks){.change = change});
            DML_CHECK_OK(c.err);
            DML_CHECK_EQ(2, c.changes);
            expect_same(&whole, &c, &l);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_takes_another_place_gets_its_stage_from_who_lives),
        cmocka_unit_test(a_migration_that_is_wrong_is_refused),
        cmocka_unit_test(who_stays_gets_nothing_and_what_nobody_holds_is_in_the_bank),
        cmocka_unit_test(a_recovery_copies_what_was_predicted),
        cmocka_unit_test(seats_and_losses_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
