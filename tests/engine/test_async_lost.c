/* tests/engine/test_async_lost.c - workers of asynchronous runs are killed: every update is that of the recurrence all the same
 * (tests/support/delayed.h), with a flush at the version that the run went on from.
 *
 *   0 1 2 3 4 | 5 6 7 x           the segment that is broken off is discarded: what it began with is the version of
 *             | 5 6 7 8 9 | ...   the drain before it, to which everyone returns, and from which the pipeline fills again
 *
 * So the flush is the drain that the segment began with, and the recurrence needs no other.
 *
 *   test_engine_async_lost [FIRST COUNT]      seeds; a line of what was seen for each schedule at the end
 */
#include "tests/support/test.h"

#include "tests/support/delayed.h"
#include "tests/support/layouts.h"

#include "engine/base/failpoint.h"
#include "engine/base/rng.h"

#include <inttypes.h>
#include <stdlib.h>

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { SAMPLE = 40, UPDATES = 13, DRAIN = 5, EXTRA = 12 };

static uint64_t first_seed = 1;
static uint64_t n_seeds = SAMPLE;

/* Two replicas of each stage or three, so that the loss of one leaves the stages as they are. */
static const struct {
    const char *name, *schedule;
    delayed_mode mode;
    int32_t stages, replicas;
    const char *batch, *sync;
} rows[] = {
    {"pipedream", "pipedream", DELAYED_STASHING, 2, 2, "training.global_batch_size=6",
     "parallelism.vertical_sync=false"},
    {"pipedream", "pipedream", DELAYED_STASHING, 3, 2, "training.global_batch_size=6",
     "parallelism.vertical_sync=false"},
    {"pipedream", "pipedream", DELAYED_STASHING, 2, 3, "training.global_batch_size=9",
     "parallelism.vertical_sync=false"},
    {"pipedream", "pipedream", DELAYED_VERTICAL_SYNC, 3, 2, "training.global_batch_size=6",
     "parallelism.vertical_sync=true"},
    {"2bw", "2bw", DELAYED_2BW, 2, 2, "training.global_batch_size=12", NULL},
    {"2bw", "2bw", DELAYED_2BW, 3, 2, "training.global_batch_size=18", NULL},
    {"2bw", "2bw", DELAYED_2BW, 2, 3, "training.global_batch_size=18", NULL},
    {"2bw", "2bw", DELAYED_2BW, 1, 2, "training.global_batch_size=6", NULL},
};
enum { ROWS = sizeof rows / sizeof *rows, PIPEDREAMS = 4 };

typedef struct scenario {
    int32_t row;
    char what[96]; /* a failpoint, or "" */
    dml_fault fault;
    bool recut; /* stages became others: the delays are those of another recurrence from there on */
} scenario;

static int32_t draw(uint64_t key, uint64_t n, int64_t below)
{
    uint32_t word[4];
    dml_rng_block(key, 0, n, word);
    return (int32_t)((uint64_t)word[0] * (uint64_t)below >> 32);
}

/* Odd seeds are of PipeDream, even ones of 2BW. */
static scenario draw_scenario(uint64_t seed)
{
    static const dml_fault_phase phases[] = {DML_FAULT_AT_FORWARD, DML_FAULT_AT_BACKWARD,
                                             DML_FAULT_AT_SEND, DML_FAULT_AT_REDUCE,
                                             DML_FAULT_AT_ANY};
    const uint64_t key = dml_rng_key(seed, DML_RNG_TEST, 9);
    scenario s = {.fault = dml_fault_none()};
    s.row = seed % 2 ? draw(key, 0, PIPEDREAMS) : PIPEDREAMS + draw(key, 0, ROWS - PIPEDREAMS);
    const int32_t rank = draw(key, 1, rows[s.row].stages * rows[s.row].replicas);
    if (draw(key, 2, 3) == 0) {
        snprintf(s.what, sizeof s.what, "worker.vote.%s@rank=%d,hit=%d:kill",
                 draw(key, 3, 2) ? "before" : "after", rank, 1 + draw(key, 4, 3));
        return s;
    }
    s.fault.type = DML_FAULT_KILL;
    s.fault.rank = rank;
    s.fault.step = 1 + draw(key, 5, UPDATES);
    s.fault.phase = phases[draw(key, 6, sizeof phases / sizeof *phases)];
    return s;
}

static void put_fault(void *context, dml_control *control)
{
    const scenario *s = context;
    if (s->fault.rank >= 0) DML_CHECK_OK(dml_board_add(&control->faults, &s->fault));
}

static void look(void *context, const dml_recovery_event *e)
{
    scenario *s = context;
    if (e->kind == DML_RECOVERY_PLAN) s->recut |= e->after->stages != rows[s->row].stages;
}

/* Of both. */
static void overrides_of(const scenario *s, const char *out[EXTRA])
{
    int32_t n = 0;
    out[n++] = "training.numerics=exact_wide";
    out[n++] = "training.max_steps=13";
    out[n++] = "training.eval_interval=0";
    out[n++] = "parallelism.drain_interval=5";
    out[n++] = rows[s->row].batch;
    if (rows[s->row].sync) out[n++] = rows[s->row].sync;
    out[n] = NULL;
}

static run_result run_scenario(scenario *s)
{
    const char *extra[EXTRA];
    char pp[16], dp[16];
    overrides_of(s, extra);
    int32_t n = 0;
    while (extra[n])
        n++;
    extra[n++] = "failures.policy=replan";
    extra[n++] = "parallelism.timeout=20s";
    extra[n] = NULL;
    snprintf(pp, sizeof pp, "%d", rows[s->row].stages);
    snprintf(dp, sizeof dp, "%d", rows[s->row].replicas);
    const layout at = {pp, dp, rows[s->row].schedule, "1"};
    if (s->what[0]) DML_CHECK_OK(dml_failpoints_arm(s->what));
    const run_result r = run_layout_hooked(
        TINY, &at, extra, (run_hooks){.control = put_fault, .recovery = look, .context = s});
    dml_failpoints_disarm();
    return r;
}

/* The first update that is another; -1: none is; -2: only the weights are. */
static int32_t first_other(const delayed_result *want, const run_result *got)
{
    for (int32_t t = 0; t < UPDATES; t++)
        if (memcmp(&want->loss[t], &got->step[t].loss, sizeof(double)) != 0) return t;
    return want->weights_hash == got->weights_hash ? -1 : -2;
}

static bool is_right(uint64_t seed, scenario *s, const run_result *r)
{
    const char *extra[EXTRA];
    overrides_of(s, extra);
    const delayed_result want =
        delayed_train(TINY, extra, rows[s->row].mode, rows[s->row].stages, DRAIN);
    const int32_t other =
        r->err == DML_ERR_OK && r->steps == UPDATES ? first_other(&want, r) : UPDATES;
    if (other == -1) return true;
    char fault[DML_FAULT_TEXT_BYTES] = "";
    if (s->fault.rank >= 0) dml_fault_print(&s->fault, fault);
    fprintf(stderr,
            "seed %" PRIu64 ": %s %dx%d, %s%s: %s\n  update %d is not that of the recurrence\n",
            seed, rows[s->row].name, rows[s->row].stages, rows[s->row].replicas, fault, s->what,
            r->err == DML_ERR_OK ? "finished" : r->trail, other);
    return false;
}

static void whoever_is_killed_updates_follow_the_recurrence(void **state)
{
    (void)state;
    struct {
        int32_t runs, losses, recoveries;
    } seen[2] = {{0}};
    int32_t wrong = 0, recut = 0;
    for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++) {
        scenario s = draw_scenario(seed);
        const run_result r = run_scenario(&s);
        const bool is_2bw = s.row >= PIPEDREAMS;
        seen[is_2bw].runs++;
        seen[is_2bw].losses += r.losses;
        seen[is_2bw].recoveries += r.recoveries;
        recut += s.recut;
        if (!s.recut) wrong += !is_right(seed, &s, &r);
    }
    for (int k = 0; k < 2; k++)
        printf("%s: %d runs, %d losses, %d recoveries\n", k ? "2bw" : "pipedream", seen[k].runs,
               seen[k].losses, seen[k].recoveries);
    printf("%d with other updates than those of the recurrence, %d cut anew\n", wrong, recut);
    DML_CHECK_EQ(0, wrong);
    DML_CHECK_EQ(0, recut);
    DML_CHECK(seen[0].losses + seen[1].losses > 0);
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        first_seed = strtoull(argv[1], NULL, 10);
        n_seeds = strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_is_killed_updates_follow_the_recurrence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
