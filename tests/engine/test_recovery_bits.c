/* tests/engine/test_recovery_bits.c - workers are killed at random places, and no bit of the run changes.
 *
 *   seed -> model, layout, what happens (one loss, two, one in the midst of mending another, a return), who, when, where
 *        -> losses, norms and hits of every step, and the weights, of the run on one worker that nobody disturbs
 *
 *   test_engine_recovery_bits [FIRST COUNT]      seeds; a line of what was seen at the end
 */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"
#include "engine/base/rng.h"

#include <inttypes.h>
#include <stdlib.h>

enum { SAMPLE = 60, TEXT = 256 };

static uint64_t first_seed = 1;
static uint64_t n_seeds = SAMPLE;

typedef struct model {
    const char *spec, *batch; /* 12 micro-batches: two and three replicas share them evenly */
    int64_t steps;
} model;

/* A CNN of every layer that has something to do with micro-batches; VGG-8 and ResNet-20 with small images. */
static const model models[] = {
    {DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml", "training.global_batch_size=36", 6},
    {DML_SOURCE_DIR "/tests/specs/recovery-vgg8.yaml", "training.global_batch_size=24", 4},
    {DML_SOURCE_DIR "/tests/specs/recovery-resnet20.yaml", "training.global_batch_size=24", 4}};
enum { MODELS = sizeof models / sizeof *models };

/* Every stage has at least two holders; `spare` of them at least three. */
static const struct {
    layout l;
    int32_t workers;
    bool spare;
} layouts[] = {
    {{"2", "2", "gpipe", "1"}, 4, false},
    {{"2", "2", "gpipe_reverse", "1"}, 4, false},
    {{"2", "2", "1f1b", "1"}, 4, false},
    {{"2", "2", "eager_1f1b", "1"}, 4, false},
    {{"2", "2", "zb_h1", "1"}, 4, false},
    {{"2", "2", "zb_h2", "1"}, 4, false},
    {{"2", "2", "interleaved_1f1b x2", "1"}, 4, false},
    {{"2", "2", "looped_bfs x2", "1"}, 4, false},
    {{"2", "2", "interleaved_zb x2", "1"}, 4, false},
    {{"2", "2", "auto", "1"}, 4, false},
    {{"2", "1", "chimera", "1"}, 2, false},
    {{"4", "1", "chimera", "1"}, 4, false},
    {{"2", "1", "chimera_doubling", "1"}, 2, false},
    {{"3", "2", "1f1b", "1"}, 6, false},
    {{"1", "3", "sequential", "1"}, 3, true},
    {{"2", "3", "1f1b", "1"}, 6, true},
    {{"2", "3", "zb_h1", "1"}, 6, true},
    {{"[{workers: [0, 1]}, {workers: [1, 2]}, {workers: [2, 0]}]", "1", "auto", "1"}, 3, false},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

/* Of a step, and of the mending of a loss. */
static const char *const in_step[] = {"worker.vote.before", "worker.vote.after", "worker.commit"};
static const char *const mending[] = {"worker.put",  "worker.saved", "worker.close",
                                      "worker.open", "worker.get",   "worker.ready"};

/* ---- what one seed does ---- */

typedef struct scenario {
    const model *m;
    int32_t at; /* of layouts */
    bool rejoins;
    char what[TEXT]; /* failpoints, as armed */
    dml_fault fault; /* rank -1: none */
} scenario;

typedef struct drawer {
    uint64_t key, n;
} drawer;

static int32_t draw(drawer *d, int64_t below)
{
    uint32_t word[4];
    dml_rng_block(d->key, 0, d->n++, word);
    return (int32_t)((uint64_t)word[0] * (uint64_t)below >> 32);
}

#define PICK(d, list) (list)[draw(d, (int64_t)(sizeof(list) / sizeof *(list)))]

/* A kill at an op of a step, or where the step is voted on and committed. */
static int32_t draw_loss(drawer *d, scenario *s)
{
    const int32_t rank = draw(d, layouts[s->at].workers);
    const int64_t step = 1 + draw(d, s->m->steps);
    if (draw(d, 3) > 0) {
        static const dml_fault_phase phases[] = {
            DML_FAULT_AT_FORWARD, DML_FAULT_AT_BACKWARD, DML_FAULT_AT_SEND, DML_FAULT_AT_RECEIVE,
            DML_FAULT_AT_REDUCE,  DML_FAULT_AT_COMMIT,   DML_FAULT_AT_ANY};
        s->fault = dml_fault_none();
        s->fault.type = DML_FAULT_KILL;
        s->fault.rank = rank;
        s->fault.step = step;
        s->fault.phase = PICK(d, phases);
    } else {
        snprintf(s->what, sizeof s->what, "%s@rank=%d,hit=%" PRId64 ":kill", PICK(d, in_step), rank,
                 step);
    }
    return rank;
}

/* Another rank, in the midst of mending the first loss or at a step of its own. */
static void draw_second(drawer *d, scenario *s, int32_t first)
{
    const int32_t workers = layouts[s->at].workers;
    const int32_t rank = (first + 1 + draw(d, workers - 1)) % workers;
    const size_t n = strlen(s->what);
    if (draw(d, 2) > 0)
        snprintf(s->what + n, sizeof s->what - n, "%s%s@rank=%d,hit=%d:kill", n ? "; " : "",
                 PICK(d, mending), rank, 1 + draw(d, 2));
    else
        snprintf(s->what + n, sizeof s->what - n, "%s%s@rank=%d,hit=%d:kill", n ? "; " : "",
                 PICK(d, in_step), rank, 1 + draw(d, s->m->steps));
}

/* Two in a hundred are of the larger models: they take a hundred times as long. */
static scenario draw_scenario(uint64_t seed)
{
    drawer d = {.key = dml_rng_key(seed, DML_RNG_TEST, 6)};
    scenario s = {.fault = dml_fault_none()};
    const int32_t large = draw(&d, 100);
    s.m = &models[large < 2 ? 1 + large : 0];
    s.at = draw(&d, LAYOUTS);
    s.rejoins = draw(&d, 3) == 0;
    const int32_t first = draw_loss(&d, &s);
    if (layouts[s.at].spare && draw(&d, 3) > 0) draw_second(&d, &s, first);
    return s;
}

/* ---- running ---- */

static void put_fault(void *context, dml_control *control)
{
    const scenario *s = context;
    if (s->fault.rank >= 0) DML_CHECK_OK(dml_board_add(&control->faults, &s->fault));
}

static run_result run_scenario(scenario *s)
{
    const char *extra[] = {s->m->batch, "failures.policy=replan",
                           s->rejoins ? "failures.respawn=on" : NULL, NULL};
    dml_failpoints_disarm();
    if (s->what[0]) DML_CHECK_OK(dml_failpoints_arm(s->what));
    const run_result r = run_layout_hooked(s->m->spec, &layouts[s->at].l, extra,
                                           (run_hooks){.control = put_fault, .context = s});
    dml_failpoints_disarm();
    return r;
}

static void describe(uint64_t seed, const scenario *s, const run_result *r)
{
    char fault[DML_FAULT_TEXT_BYTES] = "";
    const layout *l = &layouts[s->at].l;
    if (s->fault.rank >= 0) dml_fault_print(&s->fault, fault);
    fprintf(stderr, "seed %" PRIu64 ": %s, pp %s dp %s %s, %s %s%s: %d losses, %d recoveries, %s\n",
            seed, strrchr(s->m->spec, '/') + 1, l->pp, l->dp, l->schedule, fault, s->what,
            s->rejoins ? ", respawn" : "", r->losses, r->recoveries,
            r->err == DML_ERR_OK ? "finished" : r->trail);
}

static bool is_same(const run_result *a, const run_result *b)
{
    bool same = b->err == DML_ERR_OK && a->steps == b->steps &&
                a->weights_hash == b->weights_hash &&
                memcmp(&a->eval.loss, &b->eval.loss, sizeof a->eval.loss) == 0;
    for (int64_t i = 0; same && i < a->steps; i++)
        same = memcmp(&a->step[i].loss, &b->step[i].loss, sizeof a->step[i].loss) == 0 &&
               memcmp(&a->step[i].grad_norm, &b->step[i].grad_norm, sizeof a->step[i].grad_norm) ==
                   0 &&
               a->step[i].samples == b->step[i].samples && a->step[i].correct == b->step[i].correct;
    return same;
}

static void whoever_is_killed_and_wherever_no_bit_changes(void **state)
{
    (void)state;
    static run_result undisturbed[MODELS];
    int64_t losses = 0, recoveries = 0, joined = 0, wrong = 0;
    for (int m = 0; m < MODELS; m++)
        undisturbed[m] = run_layout(models[m].spec, &(const layout){"1", "1", "sequential", "1"},
                                    (const char *const[]){models[m].batch, NULL});
    for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++) {
        scenario s = draw_scenario(seed);
        const run_result r = run_scenario(&s);
        losses += r.losses;
        recoveries += r.recoveries;
        joined += r.joined;
        if (is_same(&undisturbed[s.m - models], &r)) continue;
        describe(seed, &s, &r);
        wrong++;
    }
    printf("%" PRIu64 " seeds: %" PRId64 " losses, %" PRId64 " recoveries, %" PRId64
           " returns, %" PRId64 " runs with other bits or without an end\n",
           n_seeds, losses, recoveries, joined, wrong);
    DML_CHECK_EQ(0, wrong);
    DML_CHECK(losses > 0 && recoveries > 0);
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        first_seed = strtoull(argv[1], NULL, 10);
        n_seeds = strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_is_killed_and_wherever_no_bit_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
