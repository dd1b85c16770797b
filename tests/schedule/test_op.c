/* The op table. */
#include "tests/support/test.h"

#include "schedule/op.h"

static void every_kind_has_its_own_text(void **state)
{
    (void)state;
    for (int32_t a = 0; a < DML_OP_KINDS; a++)
        for (int32_t b = 0; b < a; b++)
            DML_CHECK(strcmp(dml_op_info_of((dml_op_kind)a)->text,
                             dml_op_info_of((dml_op_kind)b)->text) != 0);
}

static void transfers_are_what_has_a_peer_and_ends_of_step_what_has_no_micro_batch(void **state)
{
    (void)state;
    for (int32_t k = 0; k < DML_OP_KINDS; k++) {
        const dml_op_info *info = dml_op_info_of((dml_op_kind)k);
        DML_CHECK_EQ(info->lane == DML_LANE_SEND || info->lane == DML_LANE_RECV, info->has_peer);
        DML_CHECK_EQ(k < DML_OP_REDUCE, info->has_mb);
    }
    DML_CHECK_EQ(DML_LANE_COMPUTE, dml_op_info_of(DML_OP_STEP)->lane);
    DML_CHECK_EQ(DML_POOL_DY, dml_op_info_of(DML_OP_RECV_GRAD)->pool);
}

static void an_op_is_named_by_kind_chunk_micro_batch_and_part(void **state)
{
    (void)state;
    const dml_op send = {.kind = DML_OP_SEND_ACT, .chunk = 2, .mb = 17};
    const dml_op reduce = {.kind = DML_OP_REDUCE, .chunk = 3, .mb = DML_NO_MB};
    const dml_op part = {.kind = DML_OP_BWD, .edge = 3, .chunk = 2, .mb = 7};
    const dml_op bucket = {.kind = DML_OP_REDUCE, .edge = 65535, .chunk = 2, .mb = DML_NO_MB};
    const dml_op vote = {.kind = DML_OP_VOTE, .mb = DML_NO_MB};
    const dml_op odd = {.kind = 99, .chunk = -1, .mb = 0};
    assert_string_equal("SEND_F2.17", dml_op_name_of(&send).text);
    assert_string_equal("R3", dml_op_name_of(&reduce).text);
    assert_string_equal("B2.7/3", dml_op_name_of(&part).text);
    assert_string_equal("R2/65535", dml_op_name_of(&bucket).text);
    assert_string_equal("V", dml_op_name_of(&vote).text);
    assert_string_equal("?-1.0", dml_op_name_of(&odd).text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_its_own_text),
        cmocka_unit_test(transfers_are_what_has_a_peer_and_ends_of_step_what_has_no_micro_batch),
        cmocka_unit_test(an_op_is_named_by_kind_chunk_micro_batch_and_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
