/* Values that pass chunks over: straight links, chains of gradients, the rules about them. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

/* A U of four stages: 0 feeds 3, and 1 feeds 2 beside what crosses anyway.  One more value of 0 is read by 2 and 3. */
static const dml_skip u_shape[] = {{0, 3, 0}, {1, 2, 1}, {0, 2, 0}, {0, 3, 2}};
enum { SKIPS = sizeof u_shape / sizeof *u_shape };

static dml_program u_order(const char *schedule)
{
    dml_program order = make_order(schedule, 4, 4);
    DML_CHECK_OK(dml_program_set_skips(&order, SKIPS, u_shape));
    return order;
}

static dml_cost u_cost(void)
{
    dml_cost cost = make_cost(4, 10, 10, 10, 3);
    DML_CHECK_OK(dml_cost_skips(&cost, SKIPS));
    return cost;
}

static dml_program u_program(const char *schedule)
{
    dml_program order = u_order(schedule), p;
    dml_cost cost = u_cost();
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_cost_free(&cost);
    dml_program_free(&order);
    return p;
}

static int32_t count(const dml_program *p, int32_t w, dml_op_kind kind, int32_t skip)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->list[w].n; i++)
        n += p->list[w].op[i].kind == kind && p->list[w].op[i].edge == skip;
    return n;
}

static void both_ends_of_a_transfer_find_each_other(void **state)
{
    (void)state;
    dml_program p = u_order("1f1b");
    for (int32_t k = DML_OP_SEND_ACT; k <= DML_OP_RECV_GRAD; k++)
        for (int32_t skip = 0; skip <= SKIPS; skip++) {
            const dml_skip s = skip ? u_shape[skip - 1] : (dml_skip){1, 2, 1};
            const int32_t at[] = {s.from, s.to, s.to, s.back};
            const dml_op op = {.kind = (uint8_t)k,
                               .edge = (uint16_t)skip,
                               .chunk = at[k - DML_OP_SEND_ACT],
                               .mb = 7};
            const dml_op other = dml_op_other_end(&p, &op), again = dml_op_other_end(&p, &other);
            DML_CHECK_EQ(k, again.kind);
            DML_CHECK_EQ(op.chunk, again.chunk);
            DML_CHECK_EQ(skip, other.edge);
            DML_CHECK_EQ(7, other.mb);
            DML_CHECK(dml_op_lane(&op) != dml_op_lane(&other));
        }
    const dml_op act = {.kind = DML_OP_SEND_ACT, .edge = 4, .chunk = 0, .mb = 7};
    const dml_op grad = {.kind = DML_OP_SEND_GRAD, .edge = 4, .chunk = 3, .mb = 7};
    const dml_op recv_act = dml_op_other_end(&p, &act), recv_grad = dml_op_other_end(&p, &grad);
    assert_string_equal("RECV_F3.7/4", dml_op_name_of(&recv_act).text);
    assert_string_equal("RECV_B2.7/4", dml_op_name_of(&recv_grad).text);
    dml_program_free(&p);
}

/* One send and one receive a micro-batch and direction, between the ends alone. */
static void values_go_straight_and_nothing_passes_the_stages_between(void **state)
{
    (void)state;
    static const char *const schedules[] = {"gpipe", "1f1b", "eager_1f1b", "zb_h1", "sequential"};
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        dml_program p = u_program(schedules[i]);
        for (int32_t k = 1; k <= SKIPS; k++) {
            const dml_skip *s = &u_shape[k - 1];
            for (int32_t w = 0; w < 4; w++) {
                DML_CHECK_EQ(w == s->from ? 4 : 0, count(&p, w, DML_OP_SEND_ACT, k));
                DML_CHECK_EQ(w == s->to ? 4 : 0, count(&p, w, DML_OP_RECV_ACT, k));
                DML_CHECK_EQ(w == s->to ? 4 : 0, count(&p, w, DML_OP_SEND_GRAD, k));
                DML_CHECK_EQ(w == s->back ? 4 : 0, count(&p, w, DML_OP_RECV_GRAD, k));
            }
        }
        dml_program_free(&p);
    }
}

static void every_schedule_carries_skips(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    rnd r = rnd_of(1);
    for (int32_t i = 0; i < n; i++)
        for (int32_t v = 1; v <= (all[i]->many_chunks ? 2 : 1); v++) {
            const dml_schedule_args args = {.stages = 4, .virtual_stages = v, .mbs = 8};
            dml_program order, p;
            if (dml_schedule_build(all[i], &args, &order) != DML_ERR_OK) continue;
            const dml_skip far[] = {{0, 4 * v - 1, 1}, {1, 4 * v - 1, 1}, {0, 2, 0}};
            DML_CHECK_OK(dml_program_set_skips(&order, 3, far));
            dml_cost cost = make_cost(order.chunks, 10, 10, 10, 3);
            DML_CHECK_OK(dml_cost_skips(&cost, 3));
            DML_CHECK_OK(dml_lower(&order, &cost, &p));
            DML_CHECK_OK(dml_check(&p, NULL));
            char why[MACHINE_WHY_BYTES];
            if (!machine_run(&p, &r, why)) fail_msg("%s x%d: %s", all[i]->name, v, why);
            dml_cost_free(&cost);
            dml_program_free(&order);
            dml_program_free(&p);
        }
}

/* Chunks 0 and 2 on worker 0: what goes from one to the other is read in place. */
static void on_one_worker_a_skip_is_read_in_place(void **state)
{
    (void)state;
    dml_program order, p;
    DML_CHECK_OK(dml_text_parse("two",
                                "order workers=2 chunks=3 mbs=1\n"
                                "skip 1: from=0 to=2 back=0\n"
                                "0: F0.0 F2.0 B2.0 B0.0\n"
                                "1: F1.0 B1.0\n",
                                &order));
    dml_cost cost = make_cost(3, 1, 1, 1, 0);
    DML_CHECK_OK(dml_cost_skips(&cost, 1));
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    for (int32_t w = 0; w < 2; w++)
        for (int32_t k = 0; k < DML_POOLS; k++)
            DML_CHECK_EQ(0, *dml_program_slots(&p, w, dml_skip_port(&p, 1), (dml_pool)k));
    dml_cost_free(&cost);
    dml_program_free(&order);
    dml_program_free(&p);
}

static void a_skip_takes_the_time_of_its_bytes(void **state)
{
    (void)state;
    dml_program p = u_program("1f1b");
    dml_cost cost = u_cost();
    cost.links.outer.bytes_per_s = 1000000000;
    cost.chunk[0].out_bytes = 5;
    cost.skip_bytes[0] = 70;
    DML_CHECK_EQ(8, dml_op_ns(&cost, 0, &(dml_op){.kind = DML_OP_SEND_ACT, .chunk = 0}));
    DML_CHECK_EQ(73,
                 dml_op_ns(&cost, 0, &(dml_op){.kind = DML_OP_SEND_ACT, .edge = 1, .chunk = 0}));
    DML_CHECK_EQ(73,
                 dml_op_ns(&cost, 0, &(dml_op){.kind = DML_OP_RECV_ACT, .edge = 1, .chunk = 3}));
    DML_CHECK_EQ(73,
                 dml_op_ns(&cost, 0, &(dml_op){.kind = DML_OP_SEND_GRAD, .edge = 1, .chunk = 3}));
    DML_CHECK_EQ(73,
                 dml_op_ns(&cost, 0, &(dml_op){.kind = DML_OP_RECV_GRAD, .edge = 1, .chunk = 0}));
    dml_sim sim;
    DML_CHECK_OK(dml_cost_skips(&cost, 1));
    DML_CHECK_FAILS(DML_ERR_SPEC, "costs of 1 skips for a program of 4",
                    dml_simulate(&p, &cost, &sim));
    dml_cost_free(&cost);
    dml_program_free(&p);
}

static void replicas_and_evaluation_keep_the_skips(void **state)
{
    (void)state;
    dml_program one = u_order("1f1b"), all, eval, p;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 8, &all));
    DML_CHECK_OK(dml_schedule_forward_only(&all, &eval));
    dml_cost cost = u_cost();
    DML_CHECK_OK(dml_lower(&eval, &cost, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    DML_CHECK_EQ(4, count(&p, 1, DML_OP_SEND_ACT, 1));
    DML_CHECK_EQ(4, count(&p, 7, DML_OP_RECV_ACT, 1));
    DML_CHECK_EQ(0, count(&p, 7, DML_OP_SEND_GRAD, 1));
    dml_cost_free(&cost);
    dml_program_free(&one);
    dml_program_free(&all);
    dml_program_free(&eval);
    dml_program_free(&p);
}

/* ---- rules ---- */

static dml_op *nth_op(dml_program *p, int32_t w, dml_op_kind kind, int32_t skip)
{
    for (int32_t i = 0; i < p->list[w].n; i++)
        if (p->list[w].op[i].kind == kind && p->list[w].op[i].edge == skip)
            return &p->list[w].op[i];
    fail_msg("worker %d has no such op", w);
    return NULL;
}

static void drop(dml_program *p, int32_t w, dml_op_kind kind, int32_t skip)
{
    drop_op(p, w, (int32_t)(nth_op(p, w, kind, skip) - p->list[w].op));
}

/* clang-format off */
static void goes_down(dml_program *p) { p->skip[0].from = 3; }
static void goes_too_far(dml_program *p) { p->skip[0].to = 4; }
static void comes_back_above(dml_program *p) { p->skip[0].back = 3; }
static void comes_back_below(dml_program *p) { p->skip[1].back = 0; }
static void no_such_skip(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 4)->edge = 5; }
static void wrong_end(dml_program *p) { nth_op(p, 2, DML_OP_SEND_GRAD, 3)->edge = 1; }
static void twice(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 1)->edge = 4; }
static void never_received(dml_program *p) { drop(p, 3, DML_OP_RECV_ACT, 1); }
static void no_gradient(dml_program *p) { drop(p, 2, DML_OP_RECV_GRAD, 4); }
static void never_sent(dml_program *p) { drop(p, 0, DML_OP_SEND_ACT, 4); }
static void swapped(dml_program *p)
{
    dml_op *a = nth_op(p, 0, DML_OP_SEND_ACT, 1), *b = nth_op(p, 0, DML_OP_SEND_ACT, 4);
    a->edge = 4;
    b->edge = 1;
}
static void slot_of_another(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 1)->slot = 1; }
static void no_room(dml_program *p) { *dml_program_slots(p, 3, dml_skip_port(p, 1), DML_POOL_IN) = 0; }
static void unwaited(dml_program *p) { dml_op *f = nth_op(p, 3, DML_OP_FWD, 0); f->wait[0] = f->wait[1] = DML_NO_WAIT; }
/* clang-format on */

static void each_broken_rule_is_named(void **state)
{
    (void)state;
    static const struct {
        dml_rule rule;
        void (*break_it)(dml_program *);
    } broken[] = {
        {DML_RULE_skips, goes_down},
        {DML_RULE_skips, goes_too_far},
        {DML_RULE_skips, comes_back_above},
        {DML_RULE_skips, comes_back_below},
        {DML_RULE_routed, no_such_skip},
        {DML_RULE_routed, wrong_end},
        {DML_RULE_once, twice},
        {DML_RULE_fed, never_received},
        {DML_RULE_fed, no_gradient},
        {DML_RULE_paired, never_sent},
        {DML_RULE_paired, swapped},
        {DML_RULE_slots, slot_of_another},
        {DML_RULE_slots, no_room},
        {DML_RULE_waits, unwaited},
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        dml_program p = u_program("1f1b");
        dml_check_report report;
        broken[i].break_it(&p);
        DML_CHECK(dml_check(&p, &report) == DML_ERR_BUG);
        if (report.rule != broken[i].rule)
            fail_msg("%zu should break %s: %s", i, dml_rule_text(broken[i].rule), dml_err_trail());
        dml_program_free(&p);
    }
}

static void a_chunk_has_room_for_so_many(void **state)
{
    (void)state;
    dml_skip many[DML_CHUNK_SKIPS + 1];
    for (int32_t i = 0; i <= DML_CHUNK_SKIPS; i++)
        many[i] = (dml_skip){0, 3, 0};
    for (int32_t n = DML_CHUNK_SKIPS; n <= DML_CHUNK_SKIPS + 1; n++) {
        dml_program order = make_order("1f1b", 4, 2), p;
        dml_cost cost = make_cost(4, 1, 1, 1, 1);
        DML_CHECK_OK(dml_cost_skips(&cost, n));
        DML_CHECK_OK(dml_program_set_skips(&order, n, many));
        if (n > DML_CHUNK_SKIPS) {
            DML_CHECK_FAILS(DML_ERR_SPEC, "skips: 33 skips leave chunk 0",
                            dml_lower(&order, &cost, &p));
        } else {
            DML_CHECK_OK(dml_lower(&order, &cost, &p));
            DML_CHECK_OK(dml_check(&p, NULL));
            dml_program_free(&p);
        }
        dml_cost_free(&cost);
        dml_program_free(&order);
    }
}

/* ---- text ---- */

static void text_says_skips_and_reads_them_back(void **state)
{
    (void)state;
    dml_program p = u_program("1f1b"), q;
    dml_str text = {0};
    dml_text_print(&p, &text);
    const char *const has[] = {"\nskip 4: from=0 to=3 back=2\n",
                               "\npools 3.skip1: IN=", " SEND_F0.2/1 peer=3 slot="};
    for (size_t i = 0; i < sizeof has / sizeof *has; i++)
        if (!strstr(dml_str_text(&text), has[i]))
            fail_msg("no '%s' in:\n%s", has[i], dml_str_text(&text));
    DML_CHECK_OK(dml_text_parse("x", dml_str_text(&text), &q));
    DML_CHECK(dml_program_equal(&p, &q));
    q.skip[3].back = 0;
    DML_CHECK(!dml_program_equal(&p, &q));
    dml_program_free(&q);
    DML_CHECK_FAILS(
        DML_ERR_SPEC, "x:2:5: skip 2 is out of place",
        dml_text_parse("x", "order workers=1 chunks=2 mbs=1\nskip 2: from=0 to=1 back=0", &q));
    DML_CHECK_FAILS(DML_ERR_SPEC, "x:3:5: skip 1 is out of place",
                    dml_text_parse("x",
                                   "order workers=1 chunks=2 mbs=1\n0: F0.0\nskip 1: from=0 to=1 "
                                   "back=0\nskip 1: from=0 to=1 back=0",
                                   &q));
    dml_str_free(&text);
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ends_of_a_transfer_find_each_other),
        cmocka_unit_test(values_go_straight_and_nothing_passes_the_stages_between),
        cmocka_unit_test(every_schedule_carries_skips),
        cmocka_unit_test(on_one_worker_a_skip_is_read_in_place),
        cmocka_unit_test(a_skip_takes_the_time_of_its_bytes),
        cmocka_unit_test(replicas_and_evaluation_keep_the_skips),
        cmocka_unit_test(each_broken_rule_is_named),
        cmocka_unit_test(a_chunk_has_room_for_so_many),
        cmocka_unit_test(text_says_skips_and_reads_them_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
