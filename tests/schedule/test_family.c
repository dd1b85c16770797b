/* The op set and the lowering are ready for schedules that are not in the table: those of the ZB-V and the DualPipe
 * families, as orders from files (tests/golden/family).
 *
 *   two stages of a rank that are not neighbours   ZB-V, V-Half, V-Min, DualPipeV: rank r holds r and 2 p - 1 - r
 *   two copies of the weights                      DualPipe: rank r holds r for some micro-batches, p - 1 - r for others
 *   a forward and a backward that overlap          DualPipe, DualPipeV: here the forward, then the backward
 *
 * p = 4, m = 8, F = I = W = 1 for a rank's worth of layers; walls as published, in halves, but for the overlapped pairs.
 * There a pair is one op, which waits for both inputs and gives both outputs at its end: DualPipeV 27, DualPipe 26.
 * As two ops the forward need not wait for the gradient, nor the next stage for the backward: 25.5 and 25.
 */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/csv.h"
#include "schedule/list.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <stdlib.h>

enum { RANKS = 4, MBS = 8, UNIT_NS = 10 };

static const struct member {
    const char *name;
    int32_t stages;
    bool copies;
    int32_t halves; /* of a unit: the wall */
    int32_t stash;  /* stages' activations on every rank */
} family[] = {
    {"zb_v", 8, false, 51, 8},       {"v_half", 8, false, 53, 6},  {"v_min", 8, false, 59, 4},
    {"dualpipe_v", 8, false, 51, 9}, {"dualpipe", 4, true, 50, 5},
};
enum { MEMBERS = sizeof family / sizeof *family };

static dml_program read_order(const struct member *m)
{
    char path[256], *text = NULL;
    size_t room = 0;
    dml_program order;
    snprintf(path, sizeof path, DML_SOURCE_DIR "/tests/golden/family/%s.csv", m->name);
    FILE *f = fopen(path, "r");
    if (!f || getdelim(&text, &room, '\0', f) < 0) fail_msg("cannot read %s", path);
    fclose(f);
    DML_CHECK_OK(dml_csv_parse(path, text, &order));
    free(text);
    DML_CHECK_EQ(RANKS, order.workers);
    DML_CHECK_EQ(m->stages, order.chunks);
    DML_CHECK_EQ(MBS, order.mbs);
    return order;
}

/* F = I = W = 1 unit for the stages of a rank together. */
static dml_cost cost_of(const struct member *m)
{
    const int64_t ns = UNIT_NS * RANKS / m->stages;
    return make_cost(m->stages, ns, ns, ns, 0);
}

static dml_program lower_checked(const dml_program *order, const dml_cost *cost)
{
    dml_program program;
    DML_CHECK_OK(dml_check(order, NULL));
    DML_CHECK_OK(dml_lower(order, cost, &program));
    DML_CHECK_OK(dml_check(&program, NULL));
    return program;
}

static void walls_and_stashes_are_those_published(void **state)
{
    (void)state;
    for (int32_t k = 0; k < MEMBERS; k++) {
        const struct member *m = &family[k];
        dml_program order = read_order(m);
        dml_cost cost = cost_of(m);
        dml_program program = lower_checked(&order, &cost);
        dml_sim sim, ideal;
        DML_CHECK_OK(dml_simulate(&program, &cost, &sim));
        DML_CHECK_OK(dml_simulate(&order, &cost, &ideal));
        DML_CHECK_EQ(ideal.makespan_ns, sim.makespan_ns);
        DML_CHECK_EQ(m->halves * UNIT_NS / 2, sim.makespan_ns);
        for (int32_t w = 0; w < RANKS; w++) {
            DML_CHECK_EQ(m->stash, sim.peak_stash[w]);
            DML_CHECK_EQ(3 * MBS * UNIT_NS, sim.busy_ns[w]);
        }
        dml_sim_free(&sim);
        dml_sim_free(&ideal);
        dml_program_free(&program);
        dml_cost_free(&cost);
        dml_program_free(&order);
    }
}

/* Rank r holds stages r and 2 p - 1 - r: at the turn of the V, stages 3 and 4, and at no other place, the same rank
 * runs neighbours, and nothing is sent there. */
static void the_turn_of_a_v_is_no_transfer(void **state)
{
    (void)state;
    for (int32_t k = 0; k < MEMBERS; k++) {
        const struct member *m = &family[k];
        if (m->copies) continue;
        dml_program order = read_order(m);
        dml_cost cost = cost_of(m);
        dml_program program = lower_checked(&order, &cost);
        for (int32_t c = 0; c < m->stages; c++)
            for (int32_t mb = 0; mb < MBS; mb++)
                DML_CHECK_EQ(c < RANKS ? c : 2 * RANKS - 1 - c,
                             *dml_program_route(&program, c, mb));
        int32_t sends = 0;
        for (int32_t w = 0; w < RANKS; w++)
            for (int32_t i = 0; i < program.list[w].n; i++) {
                const dml_op *op = &program.list[w].op[i];
                if (dml_op_lane(op) != DML_LANE_SEND) continue;
                sends++;
                DML_CHECK(!(op->kind == DML_OP_SEND_ACT && op->chunk == RANKS - 1));
                DML_CHECK(!(op->kind == DML_OP_SEND_GRAD && op->chunk == RANKS));
            }
        DML_CHECK_EQ(2 * MBS * (m->stages - 2), sends);
        dml_program_free(&program);
        dml_cost_free(&cost);
        dml_program_free(&order);
    }
}

/* Every stage has two holders; each reduces its gradients and steps, as replicas do. */
static void copies_of_a_stage_are_reduced_on_both_holders(void **state)
{
    (void)state;
    const struct member *m = &family[MEMBERS - 1];
    DML_CHECK(m->copies);
    dml_program order = read_order(m);
    dml_cost cost = cost_of(m);
    dml_program program = lower_checked(&order, &cost);
    for (int32_t w = 0; w < RANKS; w++) {
        DML_CHECK_EQ(2, count_ops(&program, w, DML_OP_REDUCE));
        DML_CHECK_EQ(2, count_ops(&program, w, DML_OP_STEP));
        DML_CHECK_EQ(1, count_ops(&program, w, DML_OP_VOTE));
        for (int32_t mb = 0; mb < MBS; mb++)
            for (int32_t c = 0; c < m->stages; c++)
                DML_CHECK_EQ(mb < MBS / 2 ? c : RANKS - 1 - c, *dml_program_route(&program, c, mb));
    }
    dml_program_free(&program);
    dml_cost_free(&cost);
    dml_program_free(&order);
}

/* A wave goes down and up the ranks `waves` times: stage s lies on rank s mod 2p or its mirror image. */
static dml_program wave_routes(int32_t waves, int32_t mbs)
{
    dml_program routes;
    DML_CHECK_OK(dml_program_init(&routes, RANKS, 2 * RANKS * waves, mbs));
    for (int32_t c = 0; c < routes.chunks; c++)
        for (int32_t mb = 0; mb < mbs; mb++) {
            const int32_t at = c % (2 * RANKS);
            *dml_program_route(&routes, c, mb) = at < RANKS ? at : 2 * RANKS - 1 - at;
        }
    return routes;
}

/* Hanayo's placement with orders of the list scheduler, m = p: the bubble shrinks with the waves. */
static void waves_flow_and_each_has_less_bubble(void **state)
{
    (void)state;
    double before = 1.0;
    for (int32_t waves = 1; waves <= 4; waves *= 2) {
        dml_program routes = wave_routes(waves, RANKS), order;
        dml_cost cost = make_cost(routes.chunks, 4, 4, 4, 0);
        const dml_list_args args = {.routes = &routes, .cost = &cost, .trials = 100};
        int64_t wall_ns;
        DML_CHECK_OK(dml_list_schedule(&args, &order, &wall_ns));
        dml_program program = lower_checked(&order, &cost);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&program, &cost, &sim));
        DML_CHECK_EQ(wall_ns, sim.makespan_ns);
        DML_CHECK(dml_sim_bubble(&sim, 0) < before);
        before = dml_sim_bubble(&sim, 0);
        int32_t sends = 0;
        for (int32_t w = 0; w < RANKS; w++)
            sends += count_ops(&program, w, DML_OP_SEND_ACT);
        DML_CHECK_EQ((routes.chunks - 2 * waves) * RANKS, sends); /* none where it turns */
        dml_sim_free(&sim);
        dml_program_free(&program);
        dml_program_free(&order);
        dml_cost_free(&cost);
        dml_program_free(&routes);
    }
}

/* Replicas of them, in buckets, under times that nobody planned for. */
static void replicas_and_buckets_of_them_flow_under_any_durations(void **state)
{
    (void)state;
    rnd r = rnd_of(31);
    for (int32_t k = 0; k < 20 * MEMBERS; k++) {
        dml_program one = read_order(&family[k % MEMBERS]), order;
        const int32_t replicas = 1 + rnd_below(&r, 3);
        DML_CHECK_OK(dml_expand_replicas(&one, replicas, MBS * replicas, &order));
        for (int32_t c = 0; c < order.chunks; c++)
            order.buckets[c] = 1 + rnd_below(&r, 3);
        dml_cost planned = random_cost(&r, &order), real = random_cost(&r, &order);
        dml_program program = lower_checked(&order, &planned);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&program, &real, &sim));
        dml_sim_free(&sim);
        dml_cost_free(&planned);
        dml_cost_free(&real);
        dml_program_free(&program);
        dml_program_free(&order);
        dml_program_free(&one);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walls_and_stashes_are_those_published),
        cmocka_unit_test(the_turn_of_a_v_is_no_transfer),
        cmocka_unit_test(copies_of_a_stage_are_reduced_on_both_holders),
        cmocka_unit_test(waves_flow_and_each_has_less_bubble),
        cmocka_unit_test(replicas_and_buckets_of_them_flow_under_any_durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
