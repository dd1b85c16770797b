/* The list scheduler over pipelines that share no worker: as each by itself, at the cost of one. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/list_parts.h"
#include "schedule/sim.h"

#include <string.h>

enum { TRIALS = 20, MOST_PARTS = 4 };

/* Up to four pipelines of one or two workers a chunk; each micro-batch of one of them, and so are its workers. */
typedef struct instance {
    dml_program routes;
    int32_t parts;
    int32_t part_of[64]; /* micro-batches */
} instance;

static instance random_instance(rnd *r, bool alike)
{
    instance in = {.parts = 1 + rnd_below(r, MOST_PARTS)};
    const int32_t chunks = 1 + rnd_below(r, 5), each = 1 + rnd_below(r, 2);
    const int32_t mbs = in.parts * (2 + rnd_below(r, 4));
    DML_CHECK_OK(dml_program_init(&in.routes, in.parts * chunks * each, chunks, mbs));
    for (int32_t mb = 0; mb < mbs; mb++) {
        const int32_t part = alike ? mb % in.parts : rnd_below(r, in.parts), nth = mb / in.parts;
        in.part_of[mb] = part;
        for (int32_t c = 0; c < chunks; c++)
            *dml_program_route(&in.routes, c, mb) =
                (part * chunks + c) * each + (alike ? nth : rnd_below(r, 2)) % each;
    }
    return in;
}

/* The routes of the part alone. */
static dml_program routes_of(const instance *in, int32_t part)
{
    dml_program p;
    int32_t n = 0;
    for (int32_t mb = 0; mb < in->routes.mbs; mb++)
        n += in->part_of[mb] == part;
    if (n == 0) return (dml_program){0};
    DML_CHECK_OK(dml_program_init(&p, in->routes.workers, in->routes.chunks, n));
    for (int32_t mb = 0, i = 0; mb < in->routes.mbs; mb++) {
        if (in->part_of[mb] != part) continue;
        for (int32_t c = 0; c < p.chunks; c++)
            *dml_program_route(&p, c, i) = *dml_program_route(&in->routes, c, mb);
        i++;
    }
    return p;
}

static int64_t wall_of(const dml_list_args *args)
{
    dml_program order;
    int64_t ns;
    DML_CHECK_OK(dml_list_schedule(args, &order, &ns));
    dml_program_free(&order);
    return ns;
}

static void a_part_takes_what_it_takes_alone_and_the_longest_counts(void **state)
{
    (void)state;
    rnd r = rnd_of(5);
    for (int32_t n = 0; n < 60; n++) {
        instance in = random_instance(&r, n % 2);
        dml_cost cost = random_cost(&r, &in.routes);
        if (n % 3 == 0) random_cluster(&r, in.routes.workers, &cost);
        dml_list_args args = {
            .routes = &in.routes, .cost = &cost, .split = n % 4 > 1, .trials = TRIALS};
        dml_program order;
        dml_sim sim;
        int64_t ns, most = 0;
        DML_CHECK_OK(dml_list_schedule_parts(&args, &order, &ns));
        DML_CHECK_OK(dml_check(&order, NULL));
        DML_CHECK_OK(dml_simulate(&order, &cost, &sim));
        for (int32_t part = 0; part < in.parts; part++) {
            dml_program routes = routes_of(&in, part);
            if (routes.mbs == 0) continue;
            args.routes = &routes;
            const int64_t alone = wall_of(&args);
            most = alone > most ? alone : most;
            dml_program_free(&routes);
        }
        DML_CHECK_EQ(most, ns);
        if (cost.links.levels == 0) DML_CHECK(sim.makespan_ns >= ns);
        for (int64_t i = 0; i < (int64_t)order.chunks * order.mbs; i++)
            DML_CHECK_EQ(in.routes.route[i], order.route[i]);
        dml_sim_free(&sim);
        dml_program_free(&order);
        dml_cost_free(&cost);
        dml_program_free(&in.routes);
    }
}

static void pipelines_of_one_shape_have_one_order(void **state)
{
    (void)state;
    enum { P = 3, R = 4, M = 5 };
    dml_program routes, order;
    dml_cost cost = make_cost(P, 10, 10, 10, 0);
    DML_CHECK_OK(dml_program_init(&routes, P * R, P, M * R));
    for (int32_t c = 0; c < P; c++)
        for (int32_t mb = 0; mb < M * R; mb++)
            *dml_program_route(&routes, c, mb) = c * R + mb % R;
    const dml_list_args args = {.routes = &routes, .cost = &cost, .split = true, .trials = TRIALS};
    int64_t ns;
    DML_CHECK_OK(dml_list_schedule_parts(&args, &order, &ns));
    DML_CHECK_EQ(dml_list_bound_ns(&args), ns);
    for (int32_t w = 0; w < P * R; w++) {
        const dml_op_list *first = &order.list[w / R * R], *own = &order.list[w];
        DML_CHECK_EQ(first->n, own->n);
        for (int32_t i = 0; i < own->n; i++) {
            DML_CHECK_EQ(first->op[i].kind, own->op[i].kind);
            DML_CHECK_EQ(first->op[i].mb + w % R, own->op[i].mb);
        }
    }
    dml_program_free(&order);
    dml_program_free(&routes);
    dml_cost_free(&cost);
}

/* The short pipeline has room for one micro-batch at a time, the long one for all. */
static void limits_are_those_of_the_parts_own_workers(void **state)
{
    (void)state;
    enum { M = 6 };
    dml_program routes, order;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    DML_CHECK_OK(dml_program_init(&routes, 4, 2, 2 * M));
    for (int32_t c = 0; c < 2; c++)
        for (int32_t mb = 0; mb < 2 * M; mb++)
            *dml_program_route(&routes, c, mb) = c * 2 + mb % 2;
    const int64_t limit_bytes[] = {1, M, 1, M};
    const dml_list_args args = {.routes = &routes,
                                .cost = &cost,
                                .split = true,
                                .limit_bytes = limit_bytes,
                                .trials = TRIALS};
    int64_t ns;
    DML_CHECK_OK(dml_list_schedule_parts(&args, &order, &ns));
    DML_CHECK_EQ(M * 50, ns); /* F, F and I above, I, W, and only then the next */
    DML_CHECK_EQ(DML_OP_FWD, order.list[1].op[1].kind);
    dml_program_free(&order);
    dml_program_free(&routes);
    dml_cost_free(&cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_takes_what_it_takes_alone_and_the_longest_counts),
        cmocka_unit_test(pipelines_of_one_shape_have_one_order),
        cmocka_unit_test(limits_are_those_of_the_parts_own_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
