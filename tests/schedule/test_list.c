/* The list scheduler: legal, within its memory, never below the bound, and better than the named schedules where
 * stages are uneven. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/list.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

enum { TRIALS = 60 };

static int64_t most_held(const dml_program *order, int32_t w, const int64_t *held_bytes)
{
    int64_t now = 0, most = 0;
    for (int32_t i = 0; i < order->list[w].n; i++) {
        const dml_op *op = &order->list[w].op[i];
        if (op->kind == DML_OP_FWD) now += held_bytes[op->chunk];
        if (now > most) most = now;
        if (dml_op_is_weight_grad(op)) now -= held_bytes[op->chunk];
    }
    return most;
}

/* A random instance: chunks anywhere, equal replicas, unequal ones, or every micro-batch on its own way. */
static dml_program random_routes(rnd *r)
{
    dml_program p;
    DML_CHECK_OK(
        dml_program_init(&p, 1 + rnd_below(r, 6), 1 + rnd_below(r, 7), 1 + rnd_below(r, 9)));
    const int32_t way = rnd_below(r, 3);
    for (int32_t c = 0; c < p.chunks; c++) {
        const int32_t first = rnd_below(r, p.workers), replicas = 1 + rnd_below(r, p.workers);
        for (int32_t mb = 0; mb < p.mbs; mb++) {
            const int32_t to[] = {first, first + mb % replicas, rnd_below(r, p.workers)};
            *dml_program_route(&p, c, mb) = to[way] % p.workers;
        }
    }
    return p;
}

static void fill_held(rnd *r, const dml_program *p, int64_t *held_bytes, int64_t *limit_bytes)
{
    for (int32_t c = 0; c < p->chunks; c++)
        held_bytes[c] = 1 + rnd_below(r, 5);
    for (int32_t w = 0; w < p->workers; w++) {
        limit_bytes[w] = 0;
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            int64_t need = 0;
            for (int32_t c = 0; c < p->chunks; c++)
                if (*dml_program_route(p, c, mb) == w) need += held_bytes[c];
            if (need > limit_bytes[w]) limit_bytes[w] = need;
        }
        limit_bytes[w] += rnd_below(r, 8); /* from just enough for one at a time */
    }
}

static void orders_are_legal_within_memory_and_not_below_the_bound(void **state)
{
    (void)state;
    rnd r = rnd_of(11);
    for (int32_t n = 0; n < 400; n++) {
        dml_program p = random_routes(&r), order, lowered;
        dml_cost cost = random_cost(&r, &p);
        int64_t held_bytes[8], limit_bytes[8];
        if (n % 4 > 1) random_cluster(&r, p.workers, &cost);
        fill_held(&r, &p, held_bytes, limit_bytes);
        const dml_list_args args = {.routes = &p,
                                    .cost = &cost,
                                    .split = n % 2,
                                    .held_bytes = held_bytes,
                                    .limit_bytes = n % 3 ? limit_bytes : NULL,
                                    .trials = 30};
        int64_t wall_ns;
        DML_CHECK_OK(dml_list_schedule(&args, &order, &wall_ns));
        DML_CHECK_OK(dml_check(&order, NULL));
        DML_CHECK(dml_list_bound_ns(&args) <= wall_ns);
        for (int32_t w = 0; w < p.workers && n % 3; w++)
            DML_CHECK(most_held(&order, w, held_bytes) <= limit_bytes[w]);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&order, &cost, &sim));
        DML_CHECK_EQ(sim.makespan_ns, wall_ns);
        DML_CHECK_OK(dml_lower(&order, &cost, &lowered));
        DML_CHECK_OK(dml_check(&lowered, NULL));
        dml_sim_free(&sim);
        dml_program_free(&lowered);
        dml_program_free(&order);
        dml_program_free(&p);
        dml_cost_free(&cost);
    }
}

static void the_same_arguments_give_the_same_order(void **state)
{
    (void)state;
    rnd r = rnd_of(12);
    dml_program p = random_routes(&r), a, b;
    dml_cost cost = random_cost(&r, &p);
    const dml_list_args args = {.routes = &p, .cost = &cost, .split = true, .trials = TRIALS};
    int64_t a_ns, b_ns;
    DML_CHECK_OK(dml_list_schedule(&args, &a, &a_ns));
    DML_CHECK_OK(dml_list_schedule(&args, &b, &b_ns));
    DML_CHECK(dml_program_equal(&a, &b));
    dml_program_free(&a);
    dml_program_free(&b);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

static void skips_of_the_routes_are_the_order_s(void **state)
{
    (void)state;
    dml_program p, order;
    DML_CHECK_OK(dml_program_init(&p, 3, 3, 4));
    const dml_skip skip = {.from = 0, .to = 2, .back = 0};
    DML_CHECK_OK(dml_program_set_skips(&p, 1, &skip));
    for (int32_t c = 0; c < 3; c++)
        for (int32_t mb = 0; mb < 4; mb++)
            *dml_program_route(&p, c, mb) = c;
    dml_cost cost = make_cost(3, 10, 10, 10, 0);
    const dml_list_args args = {.routes = &p, .cost = &cost, .trials = 1};
    int64_t wall_ns;
    DML_CHECK_OK(dml_list_schedule(&args, &order, &wall_ns));
    DML_CHECK_EQ(1, order.n_skips);
    DML_CHECK_EQ(2, order.skip[0].to);
    DML_CHECK_OK(dml_check(&order, NULL));
    dml_program_free(&order);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

static void what_cannot_be_done_is_named(void **state)
{
    (void)state;
    dml_program p, out;
    DML_CHECK_OK(dml_program_init(&p, 2, 2, 3));
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    int64_t wall_ns;
    dml_list_args args = {.routes = &p, .cost = &cost, .trials = 1};
    DML_CHECK_FAILS(DML_ERR_SPEC, "micro-batch 0 of chunk 0 has no worker",
                    dml_list_schedule(&args, &out, &wall_ns));
    for (int32_t c = 0; c < 2; c++)
        for (int32_t mb = 0; mb < 3; mb++)
            *dml_program_route(&p, c, mb) = 1;
    const int64_t limit_bytes[] = {0, 1};
    args.limit_bytes = limit_bytes;
    DML_CHECK_FAILS(DML_ERR_NOMEM,
                    "micro-batch 0 alone keeps 2 bytes on worker 1, which has room for 1",
                    dml_list_schedule(&args, &out, &wall_ns));
    args.trials = 0;
    DML_CHECK_FAILS(DML_ERR_SPEC, "at least one trial", dml_list_schedule(&args, &out, &wall_ns));
    dml_program_free(&p);
    dml_cost_free(&cost);
}

/* ---- an order as priority ---- */

/* Over the order's own routes: each worker runs its ops one after another, so its list is the order's. */
static void as_priority_an_order_gives_itself(void **state)
{
    (void)state;
    static const char *const names[] = {"gpipe", "1f1b", "eager_1f1b", "zb_h1", "zb_h2"};
    rnd r = rnd_of(31);
    for (int32_t n = 0; n < 100; n++) {
        const int32_t p = 1 + rnd_below(&r, 5), m = 2 * p + rnd_below(&r, 8);
        dml_program order = make_order(names[n % 5], p, m), out;
        dml_cost cost = random_cost(&r, &order);
        const bool split = n % 5 >= 3;
        int64_t wall_ns;
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&order, &cost, &sim));
        dml_list_args args = {
            .routes = &order, .cost = &cost, .split = split, .priority = &order, .trials = 1};
        DML_CHECK_OK(dml_list_schedule(&args, &out, &wall_ns));
        DML_CHECK_EQ(sim.makespan_ns, wall_ns);
        DML_CHECK(dml_program_equal(&order, &out));
        dml_program_free(&out);
        args.trials = TRIALS;
        DML_CHECK_OK(dml_list_schedule(&args, &out, &wall_ns));
        DML_CHECK(wall_ns <= sim.makespan_ns);
        dml_program_free(&out);
        dml_sim_free(&sim);
        dml_program_free(&order);
        dml_cost_free(&cost);
    }
}

/* Other routes than the order's, with and without a limit: legal, and within it. */
static void an_order_for_other_workers_serves_as_priority(void **state)
{
    (void)state;
    rnd r = rnd_of(32);
    for (int32_t n = 0; n < 300; n++) {
        dml_program routes = random_routes(&r), before, out;
        dml_cost cost = random_cost(&r, &routes);
        int64_t held_bytes[8], limit_bytes[8], wall_ns;
        dml_list_args args = {.routes = &routes,
                              .cost = &cost,
                              .split = n % 2,
                              .held_bytes = held_bytes,
                              .trials = 5};
        fill_held(&r, &routes, held_bytes, limit_bytes);
        DML_CHECK_OK(dml_list_schedule(&args, &before, &wall_ns));
        for (int32_t i = 0; i < routes.chunks * routes.mbs; i++)
            if (rnd_below(&r, 3) == 0) routes.route[i] = rnd_below(&r, routes.workers);
        fill_held(&r, &routes, held_bytes, limit_bytes);
        args.limit_bytes = n % 3 ? limit_bytes : NULL;
        args.split = rnd_below(&r, 2);
        if (args.split && n % 2 == 0) args.trials = 1;
        args.priority = &before;
        DML_CHECK_OK(dml_list_schedule(&args, &out, &wall_ns));
        DML_CHECK_OK(dml_check(&out, NULL));
        DML_CHECK(dml_list_bound_ns(&args) <= wall_ns);
        for (int32_t w = 0; w < routes.workers && args.limit_bytes; w++)
            DML_CHECK(most_held(&out, w, held_bytes) <= limit_bytes[w]);
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&out, &cost, &sim));
        DML_CHECK_EQ(sim.makespan_ns, wall_ns);
        dml_sim_free(&sim);
        dml_program_free(&out);
        dml_program_free(&before);
        dml_program_free(&routes);
        dml_cost_free(&cost);
    }
}

/* 1F1B of two stages, two workers each; worker 1 is lost and worker 0 takes its micro-batches.  Those of the second
 * stage keep their workers, and each runs what it has as before: F before B of the same age. */
static void who_takes_over_runs_the_work_of_both_in_the_old_turn(void **state)
{
    (void)state;
    dml_program one = make_order("1f1b", 2, 4), all, routes, out;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 8, &all));
    DML_CHECK_OK(dml_program_copy(&all, &routes));
    for (int32_t i = 0; i < 2 * 8; i++)
        if (routes.route[i] == 1) routes.route[i] = 0;
    const dml_list_args args = {.routes = &routes, .cost = &cost, .priority = &all, .trials = 1};
    int64_t wall_ns;
    DML_CHECK_OK(dml_list_schedule(&args, &out, &wall_ns));
    DML_CHECK_OK(dml_check(&out, NULL));
    DML_CHECK_EQ(0, out.list[1].n);
    DML_CHECK_EQ(2 * all.list[0].n, out.list[0].n);
    for (int32_t i = 0; i < out.list[0].n; i++) {
        const dml_op *was = &all.list[i % 2].op[i / 2], *is = &out.list[0].op[i];
        DML_CHECK_EQ(was->kind, is->kind);
        DML_CHECK_EQ(was->mb, is->mb);
    }
    for (int32_t w = 2; w < 4; w++)
        for (int32_t i = 0; i < all.list[w].n; i++)
            DML_CHECK_EQ(all.list[w].op[i].mb, out.list[w].op[i].mb);
    dml_program_free(&out);
    dml_program_free(&routes);
    dml_program_free(&all);
    dml_program_free(&one);
    dml_cost_free(&cost);
}

static void a_priority_of_another_size_or_with_a_gap_is_named(void **state)
{
    (void)state;
    dml_program order = make_order("1f1b", 2, 4), more = make_order("1f1b", 2, 5), out;
    dml_cost cost = make_cost(2, 10, 10, 10, 0);
    dml_list_args args = {.routes = &order, .cost = &cost, .priority = &more, .trials = 1};
    int64_t wall_ns;
    DML_CHECK_FAILS(DML_ERR_SPEC, "of 2 chunks and 5 micro-batches, the routes of 2 and 4",
                    dml_list_schedule(&args, &out, &wall_ns));
    dml_program_free(&more);
    DML_CHECK_OK(dml_program_copy(&order, &more));
    drop_op(&more, 0, more.list[0].n - 1);
    DML_CHECK_FAILS(DML_ERR_SPEC, "has no input gradient of chunk 0, micro-batch 3",
                    dml_list_schedule(&args, &out, &wall_ns));
    dml_program_free(&more);
    dml_program_free(&order);
    dml_cost_free(&cost);
}

/* ---- against the named schedules ---- */

typedef struct instance {
    dml_program routes; /* one chunk on each worker */
    dml_cost cost;
    int64_t limit[8]; /* micro-batches that a worker may keep */
} instance;

/* Stages up to a half longer than the shortest, links up to half an op, room for 1.5 p to 2.5 p micro-batches. */
static instance uneven_instance(rnd *r)
{
    instance in;
    const int32_t p = 3 + rnd_below(r, 6), m = p + rnd_below(r, 3 * p);
    DML_CHECK_OK(dml_program_init(&in.routes, p, p, m));
    in.cost = make_cost(p, 0, 0, 0, rnd_below(r, 500));
    for (int32_t c = 0; c < p; c++) {
        dml_chunk_cost *k = &in.cost.chunk[c];
        *k = (dml_chunk_cost){.fwd_ns = 1000 + rnd_below(r, 500)};
        k->bwd_input_ns = k->fwd_ns * (80 + rnd_below(r, 40)) / 100;
        k->bwd_weight_ns = k->fwd_ns * (60 + rnd_below(r, 40)) / 100;
        in.limit[c] = p + p / 2 + rnd_below(r, p);
        for (int32_t mb = 0; mb < m; mb++)
            *dml_program_route(&in.routes, c, mb) = c;
    }
    return in;
}

/* The shortest wall of a named schedule that keeps within the memory. */
static int64_t best_named_ns(const instance *in)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    const int32_t p = in->routes.workers;
    const int64_t one[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    int64_t best_ns = INT64_MAX;
    for (int32_t k = 0; k < n; k++) {
        dml_program order;
        const dml_schedule_args args = {.stages = p, .virtual_stages = 1, .mbs = in->routes.mbs};
        if (all[k] == &dml_schedule_chimera || all[k] == &dml_schedule_chimera_doubling)
            continue; /* two copies of the weights */
        if (dml_schedule_build(all[k], &args, &order) != DML_ERR_OK) continue;
        bool fits = true;
        for (int32_t w = 0; w < p; w++)
            fits = fits && most_held(&order, w, one) <= in->limit[w];
        dml_sim sim;
        DML_CHECK_OK(dml_simulate(&order, &in->cost, &sim));
        if (fits && sim.makespan_ns < best_ns) best_ns = sim.makespan_ns;
        dml_sim_free(&sim);
        dml_program_free(&order);
    }
    return best_ns;
}

static void it_beats_every_named_schedule_where_stages_are_uneven(void **state)
{
    (void)state;
    rnd r = rnd_of(13);
    int32_t beaten = 0, near_bound = 0, worse = 0;
    for (int32_t n = 0; n < 50; n++) {
        instance in = uneven_instance(&r);
        dml_program order;
        int64_t wall_ns;
        const dml_list_args args = {.routes = &in.routes,
                                    .cost = &in.cost,
                                    .split = true,
                                    .limit_bytes = in.limit,
                                    .trials = 200};
        DML_CHECK_OK(dml_list_schedule(&args, &order, &wall_ns));
        const int64_t named_ns = best_named_ns(&in);
        beaten += wall_ns < named_ns;
        worse += wall_ns > named_ns;
        near_bound += (double)wall_ns <= 1.03 * (double)dml_list_bound_ns(&args);
        dml_program_free(&order);
        dml_program_free(&in.routes);
        dml_cost_free(&in.cost);
    }
    print_message(
        "of 50: %d better than every named schedule, %d worse than the best, %d within 3%% "
        "of the lower bound\n",
        beaten, worse, near_bound);
    DML_CHECK(beaten >= 30);
    DML_CHECK(near_bound >= 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_are_legal_within_memory_and_not_below_the_bound),
        cmocka_unit_test(the_same_arguments_give_the_same_order),
        cmocka_unit_test(skips_of_the_routes_are_the_order_s),
        cmocka_unit_test(what_cannot_be_done_is_named),
        cmocka_unit_test(as_priority_an_order_gives_itself),
        cmocka_unit_test(an_order_for_other_workers_serves_as_priority),
        cmocka_unit_test(who_takes_over_runs_the_work_of_both_in_the_old_turn),
        cmocka_unit_test(a_priority_of_another_size_or_with_a_gap_is_named),
        cmocka_unit_test(it_beats_every_named_schedule_where_stages_are_uneven),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
