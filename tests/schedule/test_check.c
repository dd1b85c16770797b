/* Every rule is broken on purpose, and the checker must name it. */
#include "tests/schedule/machine.h"

#include "engine/base/str.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/schedule.h"
#include "schedule/text.h"

/* 1F1B: 3 stages of 2 replicas, 8 micro-batches, layers and parameters; transfers cost something,
 * so that slots are reused while others are in use. */
static dml_program base_order(void)
{
    dml_program one = make_order("1f1b", 3, 4), order;
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 8, &order));
    for (int32_t c = 0; c < 3; c++)
        order.span[c] = (dml_chunk_span){2 * c, 2 * c + 2, 4 * c, 4 * c + 4};
    dml_program_free(&one);
    return order;
}

/* PipeDream over the same stages and replicas: an update takes a micro-batch of both. */
static dml_program async_order(bool voted)
{
    const dml_schedule_args args = {
        .stages = 3, .virtual_stages = 1, .mbs = 4, .update_mbs = 1, .vertical_sync = voted};
    dml_program one, order;
    DML_CHECK_OK(dml_schedule_build(&dml_schedule_pipedream, &args, &one));
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 8, &order));
    order.votes = voted;
    dml_program_free(&one);
    return order;
}

/* The same with the gradients of chunks 0 and 1 in three and in two buckets. */
static dml_program bucket_order(void)
{
    dml_program order = base_order();
    order.buckets[0] = 3;
    order.buckets[1] = 2;
    return order;
}

static dml_program lowered(dml_program order, int64_t latency_ns)
{
    dml_cost cost = make_cost(order.chunks, 10, 10, 10, latency_ns);
    for (int32_t c = 0; c < order.chunks; c++)
        DML_CHECK_OK(dml_cost_buckets(&cost, c, order.buckets[c]));
    dml_program p;
    DML_CHECK_OK(dml_lower(&order, &cost, &p));
    dml_cost_free(&cost);
    dml_program_free(&order);
    return p;
}

/* Two chunks on each of two workers, everything replicated on both. */
static dml_program two_chunk_program(void)
{
    dml_program one, order;
    DML_CHECK_OK(
        dml_schedule_build(&dml_schedule_sequential,
                           &(dml_schedule_args){.stages = 1, .virtual_stages = 2, .mbs = 2}, &one));
    DML_CHECK_OK(dml_expand_replicas(&one, 2, 4, &order));
    dml_program_free(&one);
    return lowered(order, 0);
}

/* Index of the n-th op of the kind (from 0), -1: none. */
static int32_t nth(const dml_program *p, int32_t w, dml_op_kind kind, int32_t n)
{
    for (int32_t i = 0; i < p->list[w].n; i++)
        if (p->list[w].op[i].kind == kind && n-- == 0) return i;
    return -1;
}

static dml_op *nth_op(const dml_program *p, int32_t w, dml_op_kind kind, int32_t n)
{
    const int32_t i = nth(p, w, kind, n);
    DML_CHECK(i >= 0);
    return &p->list[w].op[i];
}

static void swap_ops(dml_program *p, int32_t w, int32_t i, int32_t j)
{
    const dml_op op = p->list[w].op[i];
    p->list[w].op[i] = p->list[w].op[j];
    p->list[w].op[j] = op;
}

static void append_copy(dml_program *p, int32_t to, const dml_op *op)
{
    const dml_op copy = *op; /* the push may move it */
    const int32_t i = dml_program_push(p, to, DML_OP_FWD, 0, 0);
    p->list[to].op[i] = copy;
}

/* Takes op `from` to place `to`; waits are left as they are. */
static void move_op(dml_program *p, int32_t w, int32_t from, int32_t to)
{
    const int32_t by = from < to ? 1 : -1;
    for (int32_t i = from; i != to; i += by)
        swap_ops(p, w, i, i + by);
}

/* clang-format off */
static void layer_gap(dml_program *p) { p->span[1].layer_begin++; }
static void layer_twice(dml_program *p) { p->span[1].layer_begin--; }
static void no_layers(dml_program *p) { p->span[2].layer_end = p->span[2].layer_begin; }
static void first_layer_lost(dml_program *p) { p->span[0].layer_begin = 1; }
static void param_gap(dml_program *p) { p->span[2].param_begin++; }
static void param_twice(dml_program *p) { p->span[1].param_end++; }
static void skip_to_itself(dml_program *p) { DML_CHECK_OK(dml_program_set_skips(p, 1, &(dml_skip){1, 1, 1})); }
static void no_route(dml_program *p) { *dml_program_route(p, 1, 3) = -1; }
static void other_route(dml_program *p) { *dml_program_route(p, 1, 3) = 0; }
static void other_peer(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 1)->peer = 3; }
static void no_peer(dml_program *p) { nth_op(p, 2, DML_OP_RECV_ACT, 0)->peer = DML_NO_PEER; }
static void peer_of_compute(dml_program *p) { nth_op(p, 2, DML_OP_FWD, 0)->peer = 0; }
static void other_chunk(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->chunk = 1; }
static void no_such_chunk(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->chunk = 3; }
static void no_such_mb(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->mb = 8; }
static void no_such_kind(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->kind = DML_OP_KINDS; }
static void unknown_edge(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 0)->edge = 1; }
static void reduce_of_mb(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 0)->mb = 0; }
static void vote_of_chunk(dml_program *p) { nth_op(p, 0, DML_OP_VOTE, 0)->chunk = 1; }
static void elsewhere(dml_program *p) { append_copy(p, 1, nth_op(p, 0, DML_OP_FWD, 0)); }
static void fwd_twice(dml_program *p) { append_copy(p, 0, nth_op(p, 0, DML_OP_FWD, 0)); }
static void recv_twice(dml_program *p) { append_copy(p, 2, nth_op(p, 2, DML_OP_RECV_ACT, 0)); }
static void no_fwd(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_FWD, 1)); }
static void no_bwd(dml_program *p) { drop_op(p, 4, nth(p, 4, DML_OP_BWD, 3)); }
static void half_bwd(dml_program *p) { nth_op(p, 4, DML_OP_BWD, 3)->kind = DML_OP_BWD_INPUT; }
static void other_mb(dml_program *p) { nth_op(p, 4, DML_OP_BWD, 3)->mb -= 2; }
static void bwd_first(dml_program *p) { swap_ops(p, 4, nth(p, 4, DML_OP_FWD, 0), nth(p, 4, DML_OP_BWD, 0)); }
static void old_bwd(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 0)->version = -1; }
static void old_both(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 0)->version = nth_op(p, 0, DML_OP_FWD, 0)->version = -1; }
static void no_recv(dml_program *p) { drop_op(p, 2, nth(p, 2, DML_OP_RECV_ACT, 2)); }
static void no_recv_grad(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_RECV_GRAD, 0)); }
static void late_recv(dml_program *p) { swap_ops(p, 4, nth(p, 4, DML_OP_RECV_ACT, 0), nth(p, 4, DML_OP_FWD, 0)); }
static void early_send(dml_program *p) { swap_ops(p, 0, nth(p, 0, DML_OP_SEND_ACT, 0), nth(p, 0, DML_OP_FWD, 0)); }
static void no_send(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_SEND_ACT, 3)); }
static void no_send_grad(dml_program *p) { drop_op(p, 5, nth(p, 5, DML_OP_SEND_GRAD, 0)); }
static void recv_too_early(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_RECV_GRAD, 1), nth(p, 0, DML_OP_RECV_GRAD, 0)); }
static void send_too_late(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_SEND_ACT, 0), nth(p, 0, DML_OP_SEND_ACT, 1)); }
static void no_reduce(dml_program *p) { drop_op(p, 3, nth(p, 3, DML_OP_REDUCE, 0)); }
static void reduce_twice(dml_program *p) { append_copy(p, 3, nth_op(p, 3, DML_OP_REDUCE, 0)); }
static void reduce_unheld(dml_program *p) { nth_op(p, 3, DML_OP_REDUCE, 0)->chunk = 0; }
static void early_reduce(dml_program *p) { move_op(p, 3, nth(p, 3, DML_OP_REDUCE, 0), nth(p, 3, DML_OP_BWD, 3)); }
static void no_vote(dml_program *p) { drop_op(p, 1, nth(p, 1, DML_OP_VOTE, 0)); }
static void vote_twice(dml_program *p) { append_copy(p, 1, nth_op(p, 1, DML_OP_VOTE, 0)); }
static void early_vote(dml_program *p) { swap_ops(p, 1, nth(p, 1, DML_OP_REDUCE, 0), nth(p, 1, DML_OP_VOTE, 0)); }
static void no_step(dml_program *p) { drop_op(p, 1, nth(p, 1, DML_OP_STEP, 0)); }
static void step_twice(dml_program *p) { append_copy(p, 1, nth_op(p, 1, DML_OP_STEP, 0)); }
static void early_step(dml_program *p) { swap_ops(p, 1, nth(p, 1, DML_OP_STEP, 0), nth(p, 1, DML_OP_VOTE, 0)); }
static void step_unheld(dml_program *p) { nth_op(p, 1, DML_OP_STEP, 0)->chunk = 1; }
static void no_such_slot(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 0)->slot = 3; }
static void no_slot(dml_program *p) { nth_op(p, 2, DML_OP_RECV_GRAD, 0)->slot = DML_NO_SLOT; }
static void needless_slot(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 0)->slot = 0; }
static void slot_in_use(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->slot = nth_op(p, 0, DML_OP_SEND_ACT, 1)->slot = 0; }
static void sends_other_slot(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 0)->slot = 1; }
static void small_pool(dml_program *p) { *dml_program_slots(p, 0, 0, DML_POOL_STASH) = 2; }
static void huge_pool(dml_program *p) { *dml_program_slots(p, 0, 0, DML_POOL_STASH) = 1000; }
static void negative_pool(dml_program *p) { *dml_program_slots(p, 0, 0, DML_POOL_DY) = -1; }
static void wait_for_later(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 0)->wait[0] = nth(p, 0, DML_OP_SEND_ACT, 0); }
static void wait_for_self(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->wait[0] = nth(p, 0, DML_OP_FWD, 1); }
static void wait_on_own_lane(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->wait[0] = nth(p, 0, DML_OP_FWD, 0); }
static void negative_wait(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 1)->wait[1] = -7; }
static void no_wait(dml_program *p) { nth_op(p, 0, DML_OP_SEND_ACT, 1)->wait[0] = DML_NO_WAIT; }
static void wait_for_earlier(dml_program *p) { nth_op(p, 2, DML_OP_FWD, 1)->wait[0] = nth(p, 2, DML_OP_RECV_ACT, 0); }
static void step_without_vote(dml_program *p) { nth_op(p, 1, DML_OP_STEP, 0)->wait[0] = DML_NO_WAIT; }
static void vote_before_bwd(dml_program *p) { append_copy(p, 0, nth_op(p, 0, DML_OP_REDUCE, 0)); drop_op(p, 0, nth(p, 0, DML_OP_REDUCE, 0)); }

/* Of what bucket_order lowers to: behind 3 whole ones the last B is cut, in three on worker 0, in two on worker 2. */
static void no_buckets(dml_program *p) { p->buckets[2] = 0; }
static void too_few_buckets(dml_program *p) { p->buckets[0] = 2; }
static void no_such_bucket(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 2)->edge = 4; }
static void reduce_of_no_bucket(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 1)->edge = 0; }
static void bucket_of_one(dml_program *p) { nth_op(p, 4, DML_OP_REDUCE, 0)->edge = 1; }
static void part_of_fwd(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 0)->edge = 1; }
static void part_of_send(dml_program *p) { nth_op(p, 2, DML_OP_SEND_GRAD, 0)->edge = 2; }
static void part_lost(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_BWD, 4)); }
static void first_part_lost(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_BWD, 3)); }
static void last_part_lost(dml_program *p) { drop_op(p, 0, nth(p, 0, DML_OP_BWD, 5)); }
static void part_twice(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 4)->edge = 1; }
static void parts_swapped(dml_program *p) { swap_ops(p, 0, nth(p, 0, DML_OP_BWD, 3), nth(p, 0, DML_OP_BWD, 4)); }
static void part_of_other_mb(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 4)->mb -= 2; }
static void whole_and_parts(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 2)->mb += 2; }
static void parts_torn_apart(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_BWD, 2), nth(p, 0, DML_OP_BWD, 4)); }
static void sent_after_first_part(dml_program *p) { move_op(p, 2, nth(p, 2, DML_OP_SEND_GRAD, 3), nth(p, 2, DML_OP_BWD, 4)); }
static void bucket_lost(dml_program *p) { drop_op(p, 1, nth(p, 1, DML_OP_REDUCE, 1)); }
static void bucket_twice(dml_program *p) { nth_op(p, 1, DML_OP_REDUCE, 1)->edge = 1; }
static void bucket_too_early(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_REDUCE, 1), nth(p, 0, DML_OP_BWD, 4)); }
static void buckets_in_another_order(dml_program *p)
{
    const int32_t a = nth(p, 1, DML_OP_REDUCE, 1), b = nth(p, 1, DML_OP_REDUCE, 2);
    move_op(p, 1, a, b);
}
static void step_before_last_bucket(dml_program *p) { swap_ops(p, 1, nth(p, 1, DML_OP_REDUCE, 2), nth(p, 1, DML_OP_VOTE, 0)); }
static void slot_of_first_part(dml_program *p) { nth_op(p, 2, DML_OP_BWD, 3)->slot = nth_op(p, 2, DML_OP_BWD, 4)->slot; }
static void no_slot_of_last_part(dml_program *p) { nth_op(p, 2, DML_OP_BWD, 4)->slot = DML_NO_SLOT; }
static void bucket_without_wait(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 1)->wait[0] = DML_NO_WAIT; }
static void bucket_waits_for_part_before(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 1)->wait[0] = nth(p, 0, DML_OP_BWD, 3); }

/* Of what async_order lowers to: 4 updates, each of a micro-batch of both replicas; in `voted` all versions are the first
 * stage's, and worker 4 keeps three sums. */
static void update_lost(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 1)->mb = DML_NO_MB; }
static void no_such_update(dml_program *p) { nth_op(p, 0, DML_OP_STEP, 1)->mb = 4; }
static void no_updates(dml_program *p) { p->update_mbs[1] = 0; }
static void torn_updates(dml_program *p) { p->update_mbs[1] = 3; }
static void no_versions(dml_program *p) { p->versions[1] = 0; }
static void more_versions_than_made(dml_program *p) { p->versions[1] = 6; }
static void no_sums(dml_program *p) { p->sums[1] = 0; }
static void other_updates_vote(dml_program *p) { p->update_mbs[1] = 4; }
static void flushed_without_votes(dml_program *p) { p->votes = false; for (int32_t c = 0; c < 3; c++) p->update_mbs[c] = 8; }
static void reads_the_future(dml_program *p) { nth_op(p, 0, DML_OP_FWD, 3)->version = 1; }
static void reads_before_the_first(dml_program *p) { nth_op(p, 4, DML_OP_FWD, 0)->version = nth_op(p, 4, DML_OP_BWD, 0)->version = -1; }
static void bwd_of_newest(dml_program *p) { nth_op(p, 0, DML_OP_BWD, 2)->version = 0; }
static void no_reduce_of_update(dml_program *p) { drop_op(p, 3, nth(p, 3, DML_OP_REDUCE, 2)); }
static void update_reduced_twice(dml_program *p) { nth_op(p, 3, DML_OP_REDUCE, 2)->mb = 1; }
static void update_reduced_early(dml_program *p) { move_op(p, 3, nth(p, 3, DML_OP_REDUCE, 2), nth(p, 3, DML_OP_BWD, 2)); }
static void vote_of_nobody(dml_program *p) { append_copy(p, 0, &(dml_op){.kind = DML_OP_VOTE, .peer = DML_NO_PEER, .slot = DML_NO_SLOT, .wait = {-1, -1}}); }
static void no_step_of_update(dml_program *p) { drop_op(p, 1, nth(p, 1, DML_OP_STEP, 3)); }
static void update_stepped_twice(dml_program *p) { nth_op(p, 1, DML_OP_STEP, 3)->mb = 2; }
static void steps_swapped(dml_program *p) { nth_op(p, 1, DML_OP_STEP, 2)->mb = 3; nth_op(p, 1, DML_OP_STEP, 3)->mb = 2; }
static void step_before_reduce(dml_program *p) { move_op(p, 1, nth(p, 1, DML_OP_STEP, 0), nth(p, 1, DML_OP_REDUCE, 0)); }
static void no_vote_of_update(dml_program *p) { drop_op(p, 1, nth(p, 1, DML_OP_VOTE, 2)); }
static void update_voted_twice(dml_program *p) { nth_op(p, 1, DML_OP_VOTE, 2)->mb = 1; }
static void step_before_vote(dml_program *p) { move_op(p, 4, nth(p, 4, DML_OP_STEP, 0), nth(p, 4, DML_OP_VOTE, 0)); }
static void one_version_less(dml_program *p) { p->versions[0]--; }
static void one_sum_less(dml_program *p) { p->sums[2]--; }
static void step_too_late(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_STEP, 0), nth(p, 0, DML_OP_FWD, 3)); }
static void sum_still_in_use(dml_program *p) { move_op(p, 0, nth(p, 0, DML_OP_STEP, 2), nth(p, 0, DML_OP_BWD, 3)); }
static void step_without_wait(dml_program *p) { nth_op(p, 0, DML_OP_STEP, 1)->wait[0] = DML_NO_WAIT; }
static void step_waits_for_update_before(dml_program *p) { nth_op(p, 0, DML_OP_STEP, 1)->wait[0] = nth(p, 0, DML_OP_REDUCE, 0); }
static void reduce_waits_for_update_before(dml_program *p) { nth_op(p, 0, DML_OP_REDUCE, 1)->wait[0] = nth(p, 0, DML_OP_BWD, 0); }

typedef struct mutation {
    dml_rule rule;
    void (*break_it)(dml_program *);
    const char *how;
} mutation;

static const mutation mutations[] = {
#define M(rule, how) {DML_RULE_##rule, how, #how}
    M(placed, layer_gap), M(placed, layer_twice), M(placed, no_layers), M(placed, first_layer_lost),
    M(owned, param_gap), M(owned, param_twice),
    M(skips, skip_to_itself),
    M(routed, no_route), M(routed, other_route), M(routed, other_peer), M(routed, no_peer),
    M(routed, peer_of_compute), M(routed, other_chunk), M(routed, no_such_chunk), M(routed, no_such_mb),
    M(routed, no_such_kind), M(routed, unknown_edge), M(routed, reduce_of_mb), M(routed, vote_of_chunk),
    M(routed, elsewhere),
    M(once, fwd_twice), M(once, recv_twice), M(once, no_fwd), M(once, no_bwd), M(once, half_bwd),
    M(once, other_mb),
    M(order, bwd_first),
    M(versions, old_bwd), M(versions, old_both),
    M(fed, no_recv), M(fed, no_recv_grad), M(fed, late_recv), M(fed, early_send),
    M(paired, no_send), M(paired, no_send_grad), M(paired, recv_too_early), M(paired, send_too_late),
    M(replicas, no_reduce), M(replicas, reduce_twice), M(replicas, reduce_unheld), M(replicas, early_reduce),
    M(stepped, no_vote), M(stepped, vote_twice), M(stepped, early_vote), M(stepped, no_step),
    M(stepped, step_twice), M(stepped, early_step), M(stepped, step_unheld), M(stepped, vote_before_bwd),
    M(slots, no_such_slot), M(slots, no_slot), M(slots, needless_slot), M(slots, slot_in_use),
    M(slots, sends_other_slot), M(slots, small_pool), M(slots, huge_pool), M(slots, negative_pool),
    M(waits, wait_for_later), M(waits, wait_for_self), M(waits, wait_on_own_lane), M(waits, negative_wait),
    M(waits, no_wait), M(waits, wait_for_earlier), M(waits, step_without_vote),
}, bucket_mutations[] = {
    M(routed, no_buckets), M(routed, too_few_buckets), M(routed, no_such_bucket), M(routed, reduce_of_no_bucket),
    M(routed, bucket_of_one), M(routed, part_of_fwd), M(routed, part_of_send),
    M(once, part_lost), M(once, first_part_lost), M(once, last_part_lost), M(once, part_twice),
    M(once, parts_swapped), M(once, part_of_other_mb), M(once, whole_and_parts), M(once, parts_torn_apart),
    M(fed, sent_after_first_part),
    M(replicas, bucket_lost), M(replicas, bucket_twice), M(replicas, bucket_too_early),
    M(replicas, buckets_in_another_order),
    M(stepped, step_before_last_bucket),
    M(slots, slot_of_first_part), M(slots, no_slot_of_last_part),
    M(waits, bucket_without_wait), M(waits, bucket_waits_for_part_before),
}, async_mutations[] = {
    M(routed, update_lost), M(routed, no_such_update), M(routed, no_updates), M(routed, torn_updates),
    M(routed, no_versions), M(routed, more_versions_than_made), M(routed, no_sums), M(routed, flushed_without_votes),
    M(versions, reads_the_future), M(versions, reads_before_the_first), M(versions, bwd_of_newest),
    M(replicas, no_reduce_of_update), M(replicas, update_reduced_twice), M(replicas, update_reduced_early),
    M(stepped, vote_of_nobody), M(stepped, no_step_of_update), M(stepped, update_stepped_twice),
    M(stepped, steps_swapped), M(stepped, step_before_reduce),
    M(intact, one_version_less), M(intact, step_too_late), M(intact, sum_still_in_use),
    M(waits, step_without_wait), M(waits, step_waits_for_update_before), M(waits, reduce_waits_for_update_before),
}, voted_mutations[] = {
    M(routed, other_updates_vote), M(stepped, no_vote_of_update), M(stepped, update_voted_twice),
    M(stepped, step_before_vote), M(intact, one_sum_less), M(intact, one_version_less),
#undef M
};
/* clang-format on */

/* `order` is what the mutation's program is made of; moved. */
static void check_named(const mutation *m, dml_program order)
{
    dml_program p = lowered(order, 5);
    DML_CHECK_OK(dml_check(&p, NULL));
    m->break_it(&p);
    dml_check_report report;
    if (dml_check(&p, &report) != DML_ERR_BUG) fail_msg("%s passes", m->how);
    if (report.rule != m->rule)
        fail_msg("%s should break %s: %s", m->how, dml_rule_text(m->rule), dml_err_trail());
    dml_str start = {0};
    dml_str_printf(&start, ": %s: ", dml_rule_text(report.rule));
    if (!strstr(dml_err_trail(), dml_str_text(&start)))
        fail_msg("%s: does not say '%s': %s", m->how, dml_str_text(&start), dml_err_trail());
    dml_str_free(&start);
    dml_program_free(&p);
}

static void each_broken_rule_is_named(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof mutations / sizeof *mutations; m++)
        check_named(&mutations[m], base_order());
}

static void each_rule_knows_parts_and_buckets(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof bucket_mutations / sizeof *bucket_mutations; m++)
        check_named(&bucket_mutations[m], bucket_order());
}

static void each_rule_knows_updates(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof async_mutations / sizeof *async_mutations; m++)
        check_named(&async_mutations[m], async_order(false));
    for (size_t m = 0; m < sizeof voted_mutations / sizeof *voted_mutations; m++)
        check_named(&voted_mutations[m], async_order(true));
}

static void every_rule_is_broken_by_some_test(void **state)
{
    (void)state;
    bool broken[DML_RULES] = {[DML_RULE_flows] = true}; /* by the stalls below */
    for (size_t m = 0; m < sizeof mutations / sizeof *mutations; m++)
        broken[mutations[m].rule] = true;
    for (size_t m = 0; m < sizeof async_mutations / sizeof *async_mutations; m++)
        broken[async_mutations[m].rule] = true;
    for (int32_t r = 0; r < DML_RULES; r++)
        if (!broken[r]) fail_msg("no test breaks %s", dml_rule_text((dml_rule)r));
}

static void an_order_is_checked_too_and_its_author_is_told(void **state)
{
    (void)state;
    dml_program order = base_order();
    dml_check_report report;
    DML_CHECK_OK(dml_check(&order, &report));
    DML_CHECK_EQ(DML_RULES, report.rule);
    dml_program_push(&order, 2, DML_OP_FWD, 1, 0);
    DML_CHECK_FAILS(DML_ERR_SPEC, "once: worker 2, op 8, F1.0: is there already, as op 0",
                    dml_check(&order, &report));
    DML_CHECK_EQ(2, report.worker);
    DML_CHECK_EQ(8, report.op);
    order.list[2].n--;
    dml_program_push(&order, 2, DML_OP_REDUCE, 1, DML_NO_MB);
    DML_CHECK_FAILS(DML_ERR_SPEC, "routed:", dml_check(&order, NULL));
    order.list[2].n--;
    order.buckets[1] = 2;
    nth_op(&order, 2, DML_OP_BWD, 3)->edge = 1; /* cutting is for dml_lower */
    DML_CHECK_FAILS(DML_ERR_SPEC, "routed: worker 2, op 7, B1.6/1: unknown edge 1",
                    dml_check(&order, NULL));
    nth_op(&order, 2, DML_OP_BWD, 3)->edge = 0;
    order.list[2].op[0].wait[1] = 3;
    DML_CHECK_FAILS(DML_ERR_SPEC, "routed:", dml_check(&order, NULL));
    dml_program_free(&order);
}

static void a_local_input_made_later_is_not_fed(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(
        dml_schedule_build(&dml_schedule_sequential,
                           &(dml_schedule_args){.stages = 1, .virtual_stages = 2, .mbs = 1}, &p));
    swap_ops(&p, 0, 0, 1);
    DML_CHECK_FAILS(DML_ERR_SPEC, "fed: worker 0, op 0, F1.0", dml_check(&p, NULL));
    swap_ops(&p, 0, 0, 1);
    swap_ops(&p, 0, 2, 3);
    DML_CHECK_FAILS(DML_ERR_SPEC, "fed: worker 0, op 2, B0.0", dml_check(&p, NULL));
    dml_program_free(&p);
}

static void replicas_that_reduce_in_other_orders_are_named(void **state)
{
    (void)state;
    dml_program p = two_chunk_program();
    DML_CHECK_OK(dml_check(&p, NULL));
    const int32_t a = nth(&p, 1, DML_OP_REDUCE, 0), b = nth(&p, 1, DML_OP_REDUCE, 1);
    DML_CHECK(nth(&p, 1, DML_OP_BWD, 3) < b);
    move_op(&p, 1, a, b);
    DML_CHECK_FAILS(DML_ERR_BUG, "replicas: the workers do not agree", dml_check(&p, NULL));
    dml_program_free(&p);
}

static void an_evaluation_has_no_buckets(void **state)
{
    (void)state;
    dml_program order = bucket_order(), eval;
    DML_CHECK_OK(dml_schedule_forward_only(&order, &eval));
    DML_CHECK_OK(dml_check(&eval, NULL));
    eval.buckets[1] = 2;
    DML_CHECK_FAILS(DML_ERR_SPEC, "routed: chunk 1 has 2 buckets and nothing to reduce",
                    dml_check(&eval, NULL));
    dml_program_free(&order);
    dml_program_free(&eval);
}

/* A whole backward adds to every bucket: none of them may have gone before. */
static void a_whole_backward_after_any_buckets_reduction_is_too_late(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(
        dml_text_parse("late",
                       "program workers=1 chunks=1 mbs=2\n"
                       "chunk 0: layers=0-0 params=0-0 buckets=2\n"
                       "route 0: 0 0\n"
                       "pools 0.0: IN=0 STASH=1 DY=0 DX=0\n"
                       "0: F0.0 slot=0 B0.0 R0/2 wait=1 F0.1 slot=0 B0.1 R0/1 wait=4 V U0 wait=6\n",
                       &p));
    DML_CHECK_FAILS(
        DML_ERR_BUG,
        "replicas: worker 0, op 4, B0.1: comes after the reduction of what it adds to, op 2",
        dml_check(&p, NULL));
    swap_ops(&p, 0, 3, 2); /* both backwards whole, then both buckets: that holds */
    swap_ops(&p, 0, 4, 3);
    p.list[0].op[4].wait[0] = 3;
    p.list[0].op[5].wait[0] = 3;
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_program_free(&p);
}

static void an_order_that_waits_in_a_circle_does_not_flow(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(dml_program_init(&p, 2, 2, 2));
    static const dml_op_kind f = DML_OP_FWD, b = DML_OP_BWD;
    const dml_op_kind kind[2][4] = {{f, b, f, b}, {f, f, b, b}};
    const int32_t mb[2][4] = {{0, 0, 1, 1}, {0, 1, 0, 1}};
    for (int32_t w = 0; w < 2; w++)
        for (int32_t k = 0; k < 4; k++)
            dml_program_push(&p, w, kind[w][k], w, mb[w][k]);
    dml_program_route_by_ops(&p);
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    "flows: nothing can move any more\n"
                    "  worker 0, compute: at op 1, B0.0\n"
                    "  worker 1, compute: at op 1, F1.1",
                    dml_check(&p, NULL));
    dml_program_free(&p);
}

static int32_t push_op(dml_program *p, int32_t w, dml_op op)
{
    const int32_t i = dml_program_push(p, w, (dml_op_kind)op.kind, op.chunk, op.mb);
    op.wait[1] = DML_NO_WAIT;
    p->list[w].op[i] = op;
    return i;
}

static void naive_worker(dml_program *p, const dml_op_list *order, int32_t w)
{
    const dml_op blank = {.peer = DML_NO_PEER, .slot = DML_NO_SLOT, .chunk = w, .wait = {-1, -1}};
    dml_op op = blank;
    int32_t last = -1;
    for (int32_t k = 0; k < order->n; k++) {
        const bool fwd = order->op[k].kind == DML_OP_FWD;
        const int32_t from = fwd ? w - 1 : w + 1, to = fwd ? w + 1 : w - 1;
        op = (dml_op){.chunk = w, .mb = order->op[k].mb, .slot = (int16_t)order->op[k].mb};
        op.wait[0] = DML_NO_WAIT;
        if (from >= 0 && from < p->workers) {
            op.kind = fwd ? DML_OP_RECV_ACT : DML_OP_RECV_GRAD;
            op.peer = (int16_t)from;
            op.wait[0] = push_op(p, w, op);
        }
        op.kind = order->op[k].kind;
        op.peer = DML_NO_PEER;
        if (!fwd && w == 0) op.slot = DML_NO_SLOT;
        last = op.wait[0] = push_op(p, w, op);
        if (to >= 0 && to < p->workers) {
            op.kind = fwd ? DML_OP_SEND_ACT : DML_OP_SEND_GRAD;
            op.peer = (int16_t)to;
            push_op(p, w, op);
        }
    }
    op = blank;
    op.mb = DML_NO_MB;
    op.kind = DML_OP_REDUCE;
    op.wait[0] = last;
    push_op(p, w, op);
    op.wait[0] = dml_program_push(p, w, DML_OP_VOTE, 0, DML_NO_MB);
    op.kind = DML_OP_STEP;
    push_op(p, w, op);
}

/* Receive just before use, send just after, a slot for every micro-batch: what one would do at
 * first. */
static dml_program naive_program(const char *schedule, int32_t stages, int32_t mbs)
{
    dml_program order = make_order(schedule, stages, mbs), p;
    DML_CHECK_OK(dml_program_init(&p, stages, stages, mbs));
    p.lowered = true;
    for (int32_t w = 0; w < stages; w++) {
        for (int32_t pool = 0; pool < DML_POOL_KEPT; pool++)
            *dml_program_slots(&p, w, w, (dml_pool)pool) = mbs;
        naive_worker(&p, &order.list[w], w);
    }
    dml_program_route_by_ops(&p);
    dml_program_free(&order);
    return p;
}

static void the_natural_lowering_of_1f1b_does_not_flow_but_that_of_gpipe_does(void **state)
{
    (void)state;
    for (int32_t stages = 2; stages <= 8; stages++)
        for (int32_t mbs = stages; mbs <= 2 * stages; mbs++) {
            dml_program p = naive_program("1f1b", stages, mbs);
            DML_CHECK_FAILS(DML_ERR_BUG, "flows: nothing can move any more", dml_check(&p, NULL));
            DML_CHECK(strstr(dml_err_trail(), "worker 0, comm: at op "));
            dml_program_free(&p);
            p = naive_program("gpipe", stages, mbs);
            DML_CHECK_OK(dml_check(&p, NULL));
            dml_program_free(&p);
        }
}

/* Every wait of the program, taken away alone, is missed. */
static void check_each_wait_is_needed(const dml_program *p, int64_t *waits)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            for (int32_t a = 0; a < DML_OP_WAITS; a++) {
                int32_t *wait = &p->list[w].op[i].wait[a];
                const int32_t kept = *wait;
                if (kept == DML_NO_WAIT) continue;
                *wait = DML_NO_WAIT;
                dml_check_report report;
                if (dml_check(p, &report) != DML_ERR_BUG || report.rule != DML_RULE_waits)
                    fail_msg("worker %d, op %d, %s: its wait for %d is not missed", w, i,
                             dml_op_name_of(&p->list[w].op[i]).text, kept);
                *wait = kept;
                (*waits)++;
            }
}

static void any_one_wait_taken_away_is_missed(void **state)
{
    (void)state;
    int64_t waits = 0;
    dml_program p = lowered(base_order(), 5);
    check_each_wait_is_needed(&p, &waits);
    dml_program_free(&p);
    for (uint64_t seed = 0; seed < 150; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_any_order(&r);
        dml_cost cost = random_cost(&r, &order);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        check_each_wait_is_needed(&p, &waits);
        dml_program_free(&p);
        dml_program_free(&order);
        dml_cost_free(&cost);
    }
    DML_CHECK(waits > 2000);
}

/* One random change; false when it changes nothing. */
static bool mutate(dml_program *p, rnd *r)
{
    const int32_t w = rnd_below(r, p->workers);
    dml_op_list *list = &p->list[w];
    if (list->n < 2) return false;
    const int32_t i = rnd_below(r, list->n), j = rnd_below(r, list->n);
    dml_op *op = &list->op[i];
    const dml_op before = *op;
    switch (rnd_below(r, 16)) {
    case 0: drop_op(p, w, i); return true;
    case 1: append_copy(p, rnd_below(r, p->workers), op); return true;
    case 2: swap_ops(p, w, i, j); return i != j;
    case 3: swap_ops(p, w, i, (i + 1) % list->n); return true;
    case 4: op->chunk = rnd_below(r, p->chunks + 1); break;
    case 5: op->mb = rnd_below(r, p->mbs + 1) - 1; break;
    case 6: op->peer = (int16_t)(rnd_below(r, p->workers + 1) - 1); break;
    case 7: op->slot = (int16_t)(rnd_below(r, 4) - 1); break;
    case 8: op->wait[rnd_below(r, DML_OP_WAITS)] = rnd_below(r, i + 2) - 1; break;
    case 9: op->kind = (uint8_t)rnd_below(r, DML_OP_KINDS); break;
    case 10: op->edge = (uint16_t)rnd_below(r, 4); break;
    case 11: p->buckets[op->chunk] = rnd_below(r, 4); return true;
    case 12: op->version = (int8_t)(rnd_below(r, 4) - 2); break;
    case 13: p->versions[op->chunk] += rnd_below(r, 3) - 1; return true;
    case 14: p->sums[op->chunk] += rnd_below(r, 3) - 1; return true;
    case 15: p->update_mbs[op->chunk] = rnd_below(r, 5); return true;
    }
    return memcmp(&before, op, sizeof before) != 0;
}

static void a_random_change_is_caught_or_does_no_harm(void **state)
{
    (void)state;
    int32_t caught = 0, harmless = 0, by_rule[DML_RULES] = {0};
    for (uint64_t seed = 0; seed < 6000; seed++) {
        rnd r = rnd_of(seed);
        dml_program order = random_any_order(&r), p;
        dml_cost cost = random_cost(&r, &order);
        DML_CHECK_OK(dml_lower(&order, &cost, &p));
        dml_check_report report;
        if (mutate(&p, &r)) {
            if (dml_check(&p, &report) != DML_ERR_OK) {
                caught++;
                by_rule[report.rule]++;
            } else {
                harmless++;
                char why[MACHINE_WHY_BYTES];
                for (int32_t run = 0; run < 3; run++)
                    if (!machine_run(&p, &r, why))
                        fail_msg("seed %d passes the checker, but: %s", (int)seed, why);
            }
        }
        dml_program_free(&p);
        dml_program_free(&order);
        dml_cost_free(&cost);
    }
    print_message("caught %d, harmless %d;", caught, harmless);
    for (int32_t k = 0; k < DML_RULES; k++)
        print_message(" %s %d", dml_rule_text((dml_rule)k), by_rule[k]);
    print_message("\n");
    DML_CHECK(caught > 1000 && harmless > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_broken_rule_is_named),
        cmocka_unit_test(each_rule_knows_parts_and_buckets),
        cmocka_unit_test(each_rule_knows_updates),
        cmocka_unit_test(every_rule_is_broken_by_some_test),
        cmocka_unit_test(an_order_is_checked_too_and_its_author_is_told),
        cmocka_unit_test(a_local_input_made_later_is_not_fed),
        cmocka_unit_test(replicas_that_reduce_in_other_orders_are_named),
        cmocka_unit_test(an_evaluation_has_no_buckets),
        cmocka_unit_test(a_whole_backward_after_any_buckets_reduction_is_too_late),
        cmocka_unit_test(an_order_that_waits_in_a_circle_does_not_flow),
        cmocka_unit_test(the_natural_lowering_of_1f1b_does_not_flow_but_that_of_gpipe_does),
        cmocka_unit_test(any_one_wait_taken_away_is_missed),
        cmocka_unit_test(a_random_change_is_caught_or_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
