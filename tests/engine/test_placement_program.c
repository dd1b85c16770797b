/* tests/engine/test_placement_program.c - what a placement foretells, against programs that the list scheduler makes of it:
 * the micro-batches it counts in flight are enough for the time it promises, and fewer are not. */
#include "tests/support/test.h"

#include "engine/placement.h"
#include "schedule/list.h"
#include "schedule/shares.h"

#include <stdlib.h>

enum { STAGES = 5, DEVICES = 12, MBS = 24, UNIT = 1000 };

/* Stage s: `replicas` devices from the first that is free, work of forward and backward in units. */
typedef struct known {
    int32_t n;
    struct {
        int32_t replicas, units;
    } stage[STAGES];
    double speed[DEVICES];         /* 0: 1 */
    double at_most, with_one_more; /* wall over what the placement says */
} known;

typedef struct rig {
    dml_partition_layer layer[STAGES];
    dml_placement_device device[DEVICES];
    dml_placement_problem p;
    dml_placement placement;
    dml_arena arena;
} rig;

static void price(rig *r, const known *k)
{
    *r = (rig){.p = {.n_layers = k->n, .mbs = MBS}};
    r->p.layer = r->layer;
    r->p.device = r->device;
    r->placement =
        (dml_placement){.n_stages = k->n, .stage = DML_NEW_N(&r->arena, dml_placement_stage, k->n)};
    for (int32_t s = 0; s < k->n; s++) {
        dml_placement_stage *stage = &r->placement.stage[s];
        const int64_t ns = (int64_t)k->stage[s].units * UNIT;
        r->layer[s] = (dml_partition_layer){
            .name = "l", .ns = {ns / 3, ns / 3, ns - 2 * (ns / 3)}, .may_end_stage = true};
        int32_t *device = DML_NEW_N(&r->arena, int32_t, k->stage[s].replicas);
        *stage = (dml_placement_stage){
            .begin = s, .end = s + 1, .replicas = k->stage[s].replicas, .device = device};
        for (int32_t i = 0; i < stage->replicas; i++)
            device[i] = r->p.n_devices++;
    }
    for (int32_t d = 0; d < r->p.n_devices; d++)
        r->device[d].speed = k->speed[d] > 0.0 ? k->speed[d] : 1.0;
    dml_placement_price_of(&r->p, &r->arena, &r->placement);
}

/* The wall of the best order found when every device may keep its in_flight + more. */
static int64_t wall_of(const rig *r, int32_t more)
{
    const dml_placement *g = &r->placement;
    dml_program routes, order;
    dml_cost cost;
    int64_t limit[DEVICES], wall_ns;
    double speed[DEVICES];
    DML_CHECK_OK(dml_program_init(&routes, r->p.n_devices, g->n_stages, MBS));
    DML_CHECK_OK(dml_cost_init(&cost, g->n_stages));
    for (int32_t s = 0; s < g->n_stages; s++) {
        const dml_placement_stage *stage = &g->stage[s];
        const int64_t *ns = r->layer[s].ns;
        dml_route_by_shares(&routes, s, stage->device, stage->share, stage->replicas);
        cost.chunk[s].fwd_ns = ns[0];
        cost.chunk[s].bwd_input_ns = ns[1];
        cost.chunk[s].bwd_weight_ns = ns[2];
        for (int32_t i = 0; i < stage->replicas; i++) {
            limit[stage->device[i]] = stage->in_flight[i] + more;
            if (limit[stage->device[i]] < 1) limit[stage->device[i]] = 1;
        }
    }
    for (int32_t d = 0; d < r->p.n_devices; d++)
        speed[d] = r->device[d].speed;
    DML_CHECK_OK(dml_cost_speeds(&cost, r->p.n_devices, speed));
    const dml_list_args args = {
        .routes = &routes, .cost = &cost, .limit_bytes = limit, .trials = 300};
    DML_CHECK_OK(dml_list_schedule(&args, &order, &wall_ns));
    dml_program_free(&order);
    dml_program_free(&routes);
    dml_cost_free(&cost);
    return wall_ns;
}

/* Ratios of the wall: with what is counted, and with one more. */
static const known all[] = {
    {4, {{1, 30}, {1, 30}, {1, 30}, {1, 30}}, {0}, 1.0, 1.0},
    {2, {{3, 90}, {1, 30}}, {0}, 1.0, 1.0},
    {3, {{2, 60}, {1, 30}, {1, 30}}, {0}, 1.0, 1.0},
    {2, {{4, 120}, {2, 60}}, {0}, 1.0, 1.0},
    /* Longer ops behind, which must be free when their turn comes. */
    {2, {{1, 30}, {3, 90}}, {0}, 1.09, 1.06},
    {3, {{1, 30}, {2, 60}, {1, 30}}, {0}, 1.19, 1.0},
    {3, {{3, 90}, {2, 60}, {1, 30}}, {0}, 1.11, 1.0},
    {2, {{1, 30}, {2, 60}}, {1, 1.6, 0.4}, 1.02, 1.0},
    {3, {{2, 60}, {1, 30}, {2, 60}}, {1.5, 0.5, 1, 0.8, 1.2}, 1.0, 1.0},
};

static void check_ratio(size_t i, int more, double least, double most)
{
    rig r;
    price(&r, &all[i]);
    const double ratio = (double)wall_of(&r, more) / (double)r.placement.step_ns;
    if (ratio < least || ratio > most + 0.002)
        fail_msg("instance %zu, %+d in flight: %.3f of what was foretold, not %.3f to %.3f", i,
                 more, ratio, least, most);
    dml_arena_free(&r.arena);
}

static void what_is_held_in_flight_is_enough_for_the_time_promised(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        check_ratio(i, 0, 0.9, all[i].at_most);
        check_ratio(i, 1, 0.9, all[i].with_one_more);
    }
}

static void with_one_less_every_pipeline_is_slower(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        check_ratio(i, -1, 1.05, 3.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_held_in_flight_is_enough_for_the_time_promised),
        cmocka_unit_test(with_one_less_every_pipeline_is_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
