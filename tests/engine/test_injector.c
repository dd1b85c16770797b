/* tests/engine/test_injector.c - faults of a spec: read, printed, given a rank, and struck when their time comes. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/injector.h"
#include "tests/engine/spec_file.h"

#include <signal.h>
#include <stdlib.h>

static const char net[] = "model: {type: layers, input: [4], layers: [{linear: {out: 4}}, relu, "
                          "{linear: {out: 10}}]}\n"
                          "data: {format: synthetic}\n"
                          "training: {global_batch_size: 8, micro_batch_size: 2}\n"
                          "parallelism: {pp: 2, dp: 2, split: [1, 2]}\n";

typedef struct rig {
    dml_spec spec;
    dml_plan plan;
    dml_control *control;
    dml_injector in;
    int32_t signals, rank, number, notes;
    dml_report_fault noted;
} rig;

static bool take_signal(void *context, int32_t rank, int number)
{
    rig *g = context;
    g->signals++;
    g->rank = rank;
    g->number = number;
    return true;
}

static void note(void *context, int32_t rank, const dml_report_fault *fault)
{
    rig *g = context;
    (void)rank;
    g->notes++;
    g->noted = *fault;
}

/* The last of `with`, NULL-terminated, may be refused. */
static dml_err open_rig(rig *g, const char *const *with, bool processes)
{
    int32_t n = 0;
    while (with[n])
        n++;
    *g = (rig){.rank = -1};
    DML_CHECK_OK(spec_of(net, with, n, &g->spec));
    DML_CHECK_OK(dml_plan_make(&g->spec, &g->plan));
    g->control = calloc(1, sizeof *g->control);
    DML_CHECK(g->control);
    const dml_injector_config config = {.plan = &g->plan,
                                        .control = g->control,
                                        .signal = processes ? take_signal : NULL,
                                        .note = note,
                                        .context = g};
    return dml_injector_open(&config, &g->in);
}

static void close_rig(rig *g)
{
    free(g->control);
    dml_plan_free(&g->plan);
    dml_spec_free(&g->spec);
}

static void faults_written_either_way_are_the_same_and_print_back_equal(void **state)
{
    (void)state;
    static const char *const with[] = {
        "failures.inject=['hang@step=4,phase=backward,micro_batch=3,rank=1,duration=20s', {type: "
        "hang, at: {step: 4, phase: backward, mb: 3}, target: {worker: 1}, duration: 20s}, {type: "
        "partition, at: {time: 9s}, target: {stage: 1, replica: 1}, peers: [0, 1]}, {type: "
        "corrupt, at: {step: 1}, target: {rank: 0}, tensor: fc1.weight}]",
        "failures.random={mtbf: 30s, seed: 7, types: [kill, hang, slow], max: 3}"};
    dml_spec s, again;
    DML_CHECK_OK(spec_of(net, with, 2, &s));
    char *first = printed(&s);
    DML_CHECK_OK(spec_of(first, NULL, 0, &again));
    for (const dml_spec *of = &s; of; of = of == &s ? &again : NULL) {
        char a[DML_FAULT_TEXT_BYTES], b[DML_FAULT_TEXT_BYTES];
        DML_CHECK_EQ(4, of->failures.n_faults);
        dml_fault_print(&of->failures.fault[0], a);
        dml_fault_print(&of->failures.fault[1], b);
        assert_string_equal(a, b);
        dml_fault_print(&of->failures.fault[2], b);
        assert_string_equal("partition@time=9s,stage=1,replica=1,peers=0+1", b);
        assert_string_equal("fc1.weight", of->failures.fault[3].tensor);
        DML_CHECK_EQ(30 * DML_NS_PER_S, of->failures.random.mtbf_ns);
        DML_CHECK_EQ(7, of->failures.random.seed);
        DML_CHECK_EQ(1 << DML_FAULT_KILL | 1 << DML_FAULT_HANG | 1 << DML_FAULT_SLOW,
                     of->failures.random.types);
        DML_CHECK_EQ(3, of->failures.random.max);
    }
    free(first);
    dml_spec_free(&s);
    dml_spec_free(&again);
}

static void a_bad_fault_of_a_spec_is_refused_with_its_place(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"failures.inject=kill", "expected a list of faults"},
        {"failures.inject=[kil@step=3]", "did you mean 'kill'?"},
        {"failures.inject=[kill@rank=1]", "when?"},
        {"failures.inject=[{at: {step: 3}}]", "needs 'type'"},
        {"failures.inject=[{type: kill, at: 3}]", "expected 'at'"},
        {"failures.inject=[{type: kill, at: {step: 0}}]", "'step' must be"},
        {"failures.inject=[{type: kill, at: {step: 1}, target: {rnk: 1}}]", "unknown option 'rnk'"},
        {"failures.inject=[{type: kill, at: {step: 1}, code: 3}]", "takes no code"},
        {"failures.random.types=[kil]", "nearest is 'kill'"},
        {"failures.random.types=[xid]", "needs more than a type"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dml_spec s;
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[i][1], spec_of(net, bad[i], 1, &s));
    }
}

static void a_stage_and_a_replica_are_a_rank_and_who_is_not_there_is_refused(void **state)
{
    (void)state;
    static const char *const with[] = {
        "failures.inject=['kill@step=1,stage=1,replica=1','kill@step=1,stage=1','kill@step=2']",
        NULL};
    rig g;
    DML_CHECK_OK(open_rig(&g, with, false));
    const dml_fault_slot *slot = g.control->faults.slot;
    DML_CHECK_EQ(3, slot[0].fault.rank);
    DML_CHECK_EQ(2, slot[1].fault.rank);
    DML_CHECK(slot[2].fault.rank >= 0 && slot[2].fault.rank < 4); /* drawn */
    close_rig(&g);
    static const char *const bad[][3] = {
        {"failures.inject=['kill@step=1,rank=4']", NULL, "rank 4; there are 4"},
        {"failures.inject=['kill@step=1,stage=2']", NULL, "stage 2; there are 2"},
        {"failures.inject=['kill@step=1,stage=1,replica=2']", NULL, "replica 2; there are 2"},
        {"failures.inject=['link_down@step=1,rank=1,peers=7']", NULL, "peer 7; there are 4"},
        {"failures.inject=['corrupt@step=1,rank=0,tensor=a.b']", NULL, "no such parameter"},
        {"failures.inject=['corrupt@step=1,rank=2,tensor=fc1.weight']", NULL,
         "is of stage 0, which rank 2 does not run"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[i][2], open_rig(&g, bad[i], false));
        close_rig(&g);
    }
}

static void by_time_a_process_gets_a_signal_and_a_thread_strikes_itself(void **state)
{
    (void)state;
    static const char *const with[] = {
        "failures.inject=['kill@time=2s,rank=1','slow@time=1s,rank=2']", NULL};
    for (int32_t processes = 0; processes <= 1; processes++) {
        rig g;
        DML_CHECK_OK(open_rig(&g, with, processes));
        DML_CHECK_EQ(INT64_MAX, dml_injector_tick(&g.in, 50 * DML_NS_PER_S, 0)); /* no step yet */
        dml_injector_begin(&g.in, 100 * DML_NS_PER_S);
        DML_CHECK_EQ(101 * DML_NS_PER_S, dml_injector_tick(&g.in, 100 * DML_NS_PER_S, 0));
        DML_CHECK_EQ(102 * DML_NS_PER_S, dml_injector_tick(&g.in, 101 * DML_NS_PER_S, 0));
        DML_CHECK_EQ(DML_FAULT_DUE, g.control->faults.slot[1].state);
        DML_CHECK_EQ(0, g.signals);
        g.control->worker[1].step = 17;
        DML_CHECK_EQ(INT64_MAX, dml_injector_tick(&g.in, 102 * DML_NS_PER_S, 0));
        DML_CHECK_EQ(processes, g.signals);
        DML_CHECK_EQ(processes, g.notes);
        DML_CHECK_EQ(processes ? DML_FAULT_STRUCK : DML_FAULT_DUE, g.control->faults.slot[0].state);
        if (processes) {
            DML_CHECK(g.rank == 1 && g.number == SIGKILL);
            DML_CHECK_EQ(17, g.noted.step);
            assert_string_equal("kill@time=2s,rank=1", g.noted.text);
        }
        dml_str left = {0};
        DML_CHECK_EQ(processes ? 1 : 2, dml_injector_left(&g.in, &left));
        DML_CHECK(strstr(dml_str_text(&left), "slow@time=1s,rank=2"));
        dml_str_free(&left);
        close_rig(&g);
    }
}

static void what_stops_goes_on_when_its_time_is_over(void **state)
{
    (void)state;
    static const char *const none[] = {NULL};
    rig g;
    dml_fault f;
    DML_CHECK_OK(open_rig(&g, none, true));
    DML_CHECK_OK(dml_fault_parse("hang@rank=2,duration=3s", &f));
    DML_CHECK_OK(dml_injector_add(&g.in, &f, &g.plan, 0, 10 * DML_NS_PER_S));
    DML_CHECK(g.rank == 2 && g.number == SIGSTOP);
    DML_CHECK_EQ(13 * DML_NS_PER_S, dml_injector_tick(&g.in, 11 * DML_NS_PER_S, 0));
    DML_CHECK_EQ(INT64_MAX, dml_injector_tick(&g.in, 13 * DML_NS_PER_S, 0));
    DML_CHECK(g.rank == 2 && g.number == SIGCONT);
    DML_CHECK_FAILS(DML_ERR_SPEC, "was lost before",
                    dml_injector_add(&g.in, &f, &g.plan, 1 << 2, 14 * DML_NS_PER_S));
    close_rig(&g);
}

static void random_faults_are_those_of_their_seed_and_strike_the_living(void **state)
{
    (void)state;
    static const char *const with[] = {"failures.random={mtbf: 10s, seed: 3, max: 200}", NULL};
    static const char *const other[] = {"failures.random={mtbf: 10s, seed: 4, max: 200}", NULL};
    int64_t at[3] = {0};
    for (int32_t round = 0; round < 3; round++) {
        rig g;
        DML_CHECK_OK(open_rig(&g, round < 2 ? with : other, true));
        dml_injector_begin(&g.in, 1);
        int32_t times[4] = {0}, seen = 0;
        for (int64_t now = 1; now < INT64_MAX;) {
            now = dml_injector_tick(&g.in, now, 1 << 3);
            if (now < INT64_MAX) at[round] = now;
            for (; seen < g.signals; seen++)
                times[g.rank]++;
        }
        DML_CHECK_EQ(200, g.signals);
        DML_CHECK_EQ(0, times[3]); /* it is not there */
        for (int32_t r = 0; r < 3; r++)
            DML_CHECK(times[r] > 40);
        close_rig(&g);
    }
    DML_CHECK_EQ(at[0], at[1]);
    DML_CHECK(at[0] != at[2]);
    DML_CHECK(at[0] > 1600 * DML_NS_PER_S && at[0] < 2400 * DML_NS_PER_S); /* 200 of 10 s */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_written_either_way_are_the_same_and_print_back_equal),
        cmocka_unit_test(a_bad_fault_of_a_spec_is_refused_with_its_place),
        cmocka_unit_test(a_stage_and_a_replica_are_a_rank_and_who_is_not_there_is_refused),
        cmocka_unit_test(by_time_a_process_gets_a_signal_and_a_thread_strikes_itself),
        cmocka_unit_test(what_stops_goes_on_when_its_time_is_over),
        cmocka_unit_test(random_faults_are_those_of_their_seed_and_strike_the_living),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
