/* tests/engine/test_inject_text.c - faults are read as written, printed as read, and bad ones name their place. */
#include "tests/support/test.h"

#include "engine/inject.h"

static void what_is_printed_is_what_was_read(void **state)
{
    (void)state;
    static const char *const good[] = {
        "kill",
        "kill@step=200,stage=2,replica=0",
        "segfault@time=90s,rank=3",
        "exit@step=3,rank=1,code=9",
        "hang@step=400,phase=backward,micro_batch=3,rank=5,duration=20s",
        "slow@rank=1,factor=2.5",
        "xid@step=7,rank=0,code=79",
        "link_down@rank=0,peers=2",
        "partition@step=4,rank=1,duration=500ms,peers=0+2+63",
        "corrupt@step=9,stage=0,tensor=conv1.weight",
        "gpu_oom@step=5,phase=eval,micro_batch=0",
        "comm_abort@step=5,phase=reduce",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        dml_fault f;
        char text[DML_FAULT_TEXT_BYTES];
        DML_CHECK_OK(dml_fault_parse(good[i], &f));
        dml_fault_print(&f, text);
        assert_string_equal(good[i], text);
    }
}

static void every_type_can_be_asked_for(void **state)
{
    (void)state;
    for (int32_t t = 0; t < DML_FAULT_TYPES; t++) {
        dml_fault f = dml_fault_none(), again;
        char text[DML_FAULT_TEXT_BYTES], twice[DML_FAULT_TEXT_BYTES];
        f.type = t;
        f.step = 3;
        f.rank = 1;
        if (t == DML_FAULT_XID) f.code = 48;
        if (t == DML_FAULT_LINK_DOWN || t == DML_FAULT_PARTITION) f.peers = 1;
        DML_CHECK_OK(dml_fault_check(&f));
        dml_fault_print(&f, text);
        DML_CHECK_OK(dml_fault_parse(text, &again));
        dml_fault_print(&again, twice);
        assert_string_equal(text, twice);
        DML_CHECK_EQ(t, again.type);
    }
}

static void words_may_be_written_in_other_ways(void **state)
{
    (void)state;
    dml_fault f;
    DML_CHECK_OK(dml_fault_parse("Comm-Abort@micro-batch=2,Step=4,phase=Forward", &f));
    DML_CHECK_EQ(DML_FAULT_COMM_ABORT, f.type);
    DML_CHECK_EQ(2, f.mb);
    DML_CHECK_OK(dml_fault_parse("xid:94@rank=2", &f));
    DML_CHECK_EQ(94, f.code);
}

static void bad_ones_name_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"", "no such fault"},
        {"kil@step=3", "  kil@step=3\n  ^ no such fault; did you mean 'kill'?"},
        {"kill@stpe=3", "\n       ^ no such option; did you mean 'step'?"},
        {"kill@step", "'=' and a step"},
        {"kill@step=0", "\n            ^ expected a step, from 1"},
        {"kill@step=three", "expected a step"},
        {"kill@step=3,", "no such option"},
        {"kill step=3", "no such fault"},
        {"kill@rank=64", "expected a rank"},
        {"kill@rank=-1", "expected a rank"},
        {"kill@phase=sideways", "expected any, forward"},
        {"kill@step=3:9", "expected '@' and options, or the end"},
        {"slow@factor=0.5", "at least 1"},
        {"hang@duration=0s", "a time such as 20s"},
        {"partition@rank=1,peers=2+", "ranks such as 2"},
        {"kill@step=3,time=5s", "by step or by time"},
        {"kill@phase=forward", "are of a step"},
        {"kill@step=3,phase=vote,micro_batch=1", "no micro-batch"},
        {"kill@rank=1,stage=0", "not both"},
        {"kill@replica=1", "replica is of a stage"},
        {"kill@duration=3s", "takes no duration"},
        {"kill@factor=3", "takes no factor"},
        {"kill@code=3", "takes no code"},
        {"kill@peers=3", "takes no peers"},
        {"kill@tensor=a", "takes no tensor"},
        {"xid@rank=1", "code=N, the Xid, is missing"},
        {"link_down@rank=1", "peers=R"},
        {"link_down@rank=1,peers=2+3", "a link has one peer"},
        {"partition@rank=1,peers=0+1", "not its own peer"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dml_fault f = {.step = 77};
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[i].complaint, dml_fault_parse(bad[i].text, &f));
        DML_CHECK_EQ(77, f.step); /* untouched */
    }
}

static void a_fault_on_the_board_is_claimed_once(void **state)
{
    (void)state;
    static dml_fault_board board;
    dml_fault f = dml_fault_none();
    f.rank = 2;
    DML_CHECK_OK(dml_board_add(&board, &f));
    f.time_ns = 5;
    DML_CHECK_OK(dml_board_add(&board, &f));
    DML_CHECK_EQ(1, board.wanted[2]); /* the other's time has not come */
    DML_CHECK(dml_board_claim(&board, 0));
    DML_CHECK(!dml_board_claim(&board, 0));
    DML_CHECK_EQ(0, board.wanted[2]);
    dml_board_wake(&board, 1);
    dml_board_wake(&board, 1);
    DML_CHECK_EQ(1, board.wanted[2]);
    DML_CHECK(dml_board_claim(&board, 1));
    DML_CHECK_EQ(0, board.wanted[2]);
    for (uint32_t i = 2; i < DML_FAULTS; i++)
        DML_CHECK_OK(dml_board_add(&board, &f));
    DML_CHECK_FAILS(DML_ERR_SPEC, "takes 512 faults", dml_board_add(&board, &f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_printed_is_what_was_read),
        cmocka_unit_test(every_type_can_be_asked_for),
        cmocka_unit_test(words_may_be_written_in_other_ways),
        cmocka_unit_test(bad_ones_name_the_place),
        cmocka_unit_test(a_fault_on_the_board_is_claimed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
