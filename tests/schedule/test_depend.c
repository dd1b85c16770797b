/* Buffers, needs and clocks, by hand. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/depend.h"
#include "schedule/recompute.h"
#include "schedule/text.h"

/* Chunks 0 and 1 on worker 0, chunk 2 on worker 1, one micro-batch. */
static dml_program three_chunks(void)
{
    dml_program p;
    DML_CHECK_OK(dml_text_parse("three",
                                "order workers=2 chunks=3 mbs=1\n"
                                "0: F0.0 F1.0 B1.0 I0.0 W0.0\n"
                                "1: F2.0 B2.0\n",
                                &p));
    return p;
}

static const char *touches(const dml_program *p, dml_op_kind kind, int32_t c)
{
    static dml_str text;
    dml_str_clear(&text);
    dml_arena arena = {0};
    dml_index ix;
    dml_index_build(&ix, p, &arena);
    dml_touch touch[DML_OP_TOUCHES];
    const int32_t n =
        dml_op_touches(p, &ix, &(dml_op){.kind = (uint8_t)kind, .chunk = c, .mb = 0}, touch);
    dml_arena_free(&arena);
    for (int32_t t = 0; t < n; t++)
        dml_str_printf(&text, "%s%s %s%d", t ? ", " : "", touch[t].write ? "write" : "read",
                       dml_pool_text(touch[t].pool), touch[t].port);
    return dml_str_text(&text);
}

static void ops_touch_the_buffers_that_routes_imply(void **state)
{
    (void)state;
    dml_program p = three_chunks();
    assert_string_equal("write STASH0", touches(&p, DML_OP_FWD, 0));
    assert_string_equal("read STASH0, write STASH1", touches(&p, DML_OP_FWD, 1));
    assert_string_equal("read IN2, write STASH2", touches(&p, DML_OP_FWD, 2));
    assert_string_equal("read IN2, read STASH2, write DX2", touches(&p, DML_OP_BWD, 2));
    assert_string_equal("read STASH0, read DY1, read STASH1, write DX1",
                        touches(&p, DML_OP_BWD, 1));
    assert_string_equal("read DX1, read STASH0", touches(&p, DML_OP_BWD_INPUT, 0));
    assert_string_equal("read DX1, read STASH0", touches(&p, DML_OP_BWD_WEIGHT, 0));
    assert_string_equal("read STASH1", touches(&p, DML_OP_SEND_ACT, 1));
    assert_string_equal("write IN2", touches(&p, DML_OP_RECV_ACT, 2));
    assert_string_equal("read DX2", touches(&p, DML_OP_SEND_GRAD, 2));
    assert_string_equal("write DY1", touches(&p, DML_OP_RECV_GRAD, 1));
    assert_string_equal("", touches(&p, DML_OP_REDUCE, 1));
    dml_program_free(&p);
}

/* RC makes what the backward reads; F leaves what others read, and at the ends of the model, or where only some is
 * thrown away, what its own RC reads. */
static void a_recomputed_forward_keeps_what_is_read_before_it_is_made_again(void **state)
{
    (void)state;
    dml_program p = three_chunks();
    DML_CHECK_OK(dml_schedule_recompute(&p, DML_RECOMPUTE_FULL));
    assert_string_equal("write KEPT0", touches(&p, DML_OP_FWD, 0));
    assert_string_equal("read KEPT0, write KEPT1", touches(&p, DML_OP_FWD, 1));
    assert_string_equal("read KEPT1", touches(&p, DML_OP_SEND_ACT, 1));
    assert_string_equal("read KEPT0, write STASH0", touches(&p, DML_OP_RECOMPUTE, 0));
    assert_string_equal("read KEPT0, write STASH1", touches(&p, DML_OP_RECOMPUTE, 1));
    assert_string_equal("read IN2, read KEPT2, write STASH2", touches(&p, DML_OP_RECOMPUTE, 2));
    assert_string_equal("read KEPT0, read DY1, read STASH1, write DX1", touches(&p, DML_OP_BWD, 1));
    assert_string_equal("read DX1, read STASH0, read KEPT0", touches(&p, DML_OP_BWD_WEIGHT, 0));
    p.recompute = DML_RECOMPUTE_SELECTIVE;
    assert_string_equal("read KEPT0, read KEPT1, write STASH1", touches(&p, DML_OP_RECOMPUTE, 1));
    assert_string_equal("read KEPT0, read DY1, read STASH1, read KEPT1, write DX1",
                        touches(&p, DML_OP_BWD, 1));
    dml_program_free(&p);
}

/* Each part reads what the op reads; the input gradient is the last one's. */
static void of_an_op_in_parts_the_last_writes(void **state)
{
    (void)state;
    dml_program p = three_chunks();
    p.buckets[1] = 3;
    dml_arena arena = {0};
    dml_index ix;
    dml_index_build(&ix, &p, &arena);
    dml_touch touch[DML_OP_TOUCHES];
    for (int32_t part = 1; part <= 3; part++) {
        const dml_op op = {.kind = DML_OP_BWD, .edge = (uint16_t)part, .chunk = 1};
        const int32_t n = dml_op_touches(&p, &ix, &op, touch);
        DML_CHECK_EQ(part == 3 ? 4 : 3, n);
        for (int32_t t = 0; t < n; t++)
            DML_CHECK_EQ(t == 3, touch[t].write);
    }
    dml_arena_free(&arena);
    dml_program_free(&p);
}

static const char first_of_two[] = "program workers=2 chunks=2 mbs=2\n"
                                   "route 0: 0 0\n"
                                   "route 1: 1 1\n"
                                   "pools 0.0: IN=0 STASH=1 DY=1 DX=0\n"
                                   "pools 1.1: IN=1 STASH=1 DY=0 DX=1\n"
                                   "0:\n"
                                   "  0 F0.0 slot=0\n"
                                   "  1 SEND_F0.0 peer=1 slot=0 wait=0\n"
                                   "  2 RECV_B0.0 peer=1 slot=0\n"
                                   "  3 B0.0 wait=2\n"
                                   "  4 F0.1 slot=0\n"
                                   "  5 SEND_F0.1 peer=1 slot=0 wait=4\n"
                                   "  6 RECV_B0.1 peer=1 slot=0 wait=3\n"
                                   "  7 B0.1 wait=6\n"
                                   "  8 R0 wait=7\n"
                                   "  9 V\n"
                                   " 10 U0 wait=9\n"
                                   "1:\n"
                                   "  0 RECV_F1.0 peer=0 slot=0\n"
                                   "  1 F1.0 slot=0 wait=0\n"
                                   "  2 B1.0 slot=0\n"
                                   "  3 SEND_B1.0 peer=0 slot=0 wait=2\n"
                                   "  4 RECV_F1.1 peer=0 slot=0 wait=2\n"
                                   "  5 F1.1 slot=0 wait=4\n"
                                   "  6 B1.1 slot=0 wait=3\n";

static void needs_are_makers_and_whoever_used_the_slot_before(void **state)
{
    (void)state;
    /* Latest op needed of each lane: compute, send, recv, reduce. */
    static const int32_t want[2][11][DML_LANES] = {
        {
            {-1, -1, -1, -1}, /* F0.0 */
            {0, -1, -1, -1},  /* SEND_F0.0 */
            {-1, -1, -1, -1}, /* RECV_B0.0 */
            {-1, -1, 2, -1},  /* B0.0 */
            {-1, 1, -1, -1},  /* F0.1: SEND_F0.0 read the slot */
            {4, -1, -1, -1},  /* SEND_F0.1 */
            {3, -1, -1, -1},  /* RECV_B0.1: B0.0 read the slot */
            {-1, -1, 6, -1},  /* B0.1 */
            {7, -1, -1, -1},  /* R0 */
            {-1, -1, -1, -1}, /* V */
            {-1, -1, -1, 9},  /* U0 */
        },
        {
            {-1, -1, -1, -1}, /* RECV_F1.0 */
            {-1, -1, 0, -1},  /* F1.0 */
            {-1, -1, 0, -1},  /* B1.0 reads the input again */
            {2, -1, -1, -1},  /* SEND_B1.0 */
            {2, -1, -1, -1},  /* RECV_F1.1 */
            {-1, -1, 4, -1},  /* F1.1 */
            {-1, 3, 4, -1},   /* B1.1: SEND_B1.0 read the slot */
        },
    };
    dml_program p;
    DML_CHECK_OK(dml_text_parse("two", first_of_two, &p));
    dml_arena arena = {0};
    dml_index ix;
    dml_index_build(&ix, &p, &arena);
    for (int32_t w = 0; w < 2; w++) {
        dml_depend d;
        dml_depend_begin(&d, &p, &ix, w, &arena);
        for (int32_t i = 0; i < p.list[w].n; i++) {
            int32_t need[DML_LANES];
            dml_depend_needs(&d, i, need);
            for (int32_t l = 0; l < DML_LANES; l++)
                if (need[l] != want[w][i][l])
                    fail_msg("worker %d, op %d needs %d of lane %d", w, i, need[l], l);
            dml_depend_end(&d, i);
        }
    }
    dml_arena_free(&arena);
    dml_program_free(&p);
}

static void a_gradient_that_came_back_vouches_for_the_send(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(dml_text_parse("two", first_of_two, &p));
    dml_arena arena = {0};
    dml_index ix;
    dml_index_build(&ix, &p, &arena);
    dml_depend d;
    dml_depend_begin(&d, &p, &ix, 0, &arena);
    for (int32_t i = 0; i < 4; i++) {
        int32_t need[DML_LANES];
        dml_depend_needs(&d, i, need);
        if (i == 3) DML_CHECK_EQ(-1, dml_depend_before(&d, i).done[DML_LANE_SEND]);
        if (i == 3) DML_CHECK_EQ(1, dml_depend_start(&d, i).done[DML_LANE_SEND]);
        dml_depend_end(&d, i);
    }
    DML_CHECK_EQ(1, dml_depend_start(&d, 4).done[DML_LANE_SEND]);
    dml_arena_free(&arena);
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_touch_the_buffers_that_routes_imply),
        cmocka_unit_test(a_recomputed_forward_keeps_what_is_read_before_it_is_made_again),
        cmocka_unit_test(of_an_op_in_parts_the_last_writes),
        cmocka_unit_test(needs_are_makers_and_whoever_used_the_slot_before),
        cmocka_unit_test(a_gradient_that_came_back_vouches_for_the_send),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
