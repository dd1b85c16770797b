/* PyTorch's CSV: there and back, what it passes over, and where a mistake is. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/csv.h"
#include "schedule/schedule.h"

#include <stdlib.h>

static char *read_text(const char *path)
{
    char *text = NULL;
    size_t room = 0;
    FILE *f = fopen(path, "r");
    if (!f || getdelim(&text, &room, '\0', f) < 0) fail_msg("cannot read %s", path);
    fclose(f);
    return text;
}

/* The lists; what an asynchronous order says of versions has no place in the form. */
static bool same_lists(const dml_program *a, const dml_program *b)
{
    bool same = a->workers == b->workers && a->mbs == b->mbs;
    for (int32_t w = 0; same && w < a->workers; w++) {
        same = a->list[w].n == b->list[w].n;
        for (int32_t i = 0; same && i < a->list[w].n; i++) {
            const dml_op *x = &a->list[w].op[i], *y = &b->list[w].op[i];
            same = x->kind == y->kind && x->chunk == y->chunk && x->mb == y->mb;
        }
    }
    return same;
}

static void every_schedule_goes_there_and_back(void **state)
{
    (void)state;
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    for (int32_t k = 0; k < n; k++)
        for (int32_t v = 1; v <= (all[k]->many_chunks ? 3 : 1); v++) {
            const dml_schedule_args args = with_updates(
                all[k], (dml_schedule_args){.stages = 4, .virtual_stages = v, .mbs = 8});
            dml_program order, back;
            dml_str text = {0};
            DML_CHECK_OK(dml_schedule_build(all[k], &args, &order));
            dml_csv_print(&order, &text);
            DML_CHECK_OK(dml_csv_parse("x.csv", dml_str_text(&text), &back));
            DML_CHECK(all[k]->version ? same_lists(&order, &back)
                                      : dml_program_equal(&order, &back));
            dml_str_free(&text);
            dml_program_free(&back);
            dml_program_free(&order);
        }
}

/* tests/oracle/torch_schedules.py wrote these with PyTorch: for 4 ranks its lists are ours. */
static void lists_are_those_that_pytorch_makes(void **state)
{
    (void)state;
    static const struct {
        const char *schedule;
        int32_t virtual_stages;
    } had[] = {
        {"gpipe", 1},      {"1f1b", 1},          {"interleaved_1f1b", 2}, {"interleaved_1f1b", 3},
        {"looped_bfs", 2}, {"interleaved_zb", 2}};
    for (size_t k = 0; k < sizeof had / sizeof *had; k++)
        for (int32_t mbs = 8; mbs <= 12; mbs += 4) {
            const dml_schedule_args args = {
                .stages = 4, .virtual_stages = had[k].virtual_stages, .mbs = mbs};
            const dml_schedule *s;
            dml_program ours, theirs;
            char path[256];
            snprintf(path, sizeof path, DML_SOURCE_DIR "/tests/golden/torch/%s_x%d_m%d.csv",
                     had[k].schedule, had[k].virtual_stages, mbs);
            char *text = read_text(path);
            DML_CHECK_OK(dml_csv_parse(path, text, &theirs));
            DML_CHECK_OK(dml_schedule_find(had[k].schedule, &s));
            DML_CHECK_OK(dml_schedule_build(s, &args, &ours));
            if (!dml_program_equal(&ours, &theirs)) fail_msg("%s: another list", path);
            free(text);
            dml_program_free(&ours);
            dml_program_free(&theirs);
        }
}

/* As torch writes it: idle ticks are empty cells; with communication, sends and receives are actions. */
static void what_pytorch_writes_is_read(void **state)
{
    (void)state;
    static const char torch[] =
        "0UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,,0RECV_B0,0I0,0W0,0RECV_B1,0B1,0RESHARD\r\n"
        "# a remark\n"
        "\n"
        ",1RECV_F0,1F0,1B0,1SEND_B0,\"1RECV_F1\",1F1,1I1,1SEND_B1,1W1,1REDUCE_GRAD\n";
    dml_program p;
    DML_CHECK_OK(dml_csv_parse("torch.csv", torch, &p));
    DML_CHECK_OK(dml_check(&p, NULL));
    dml_str text = {0};
    dml_csv_print(&p, &text);
    assert_string_equal("0F0,0F1,0I0,0W0,0B1\n1F0,1B0,1F1,1I1,1W1\n", dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void actions_that_overlap_are_read_in_turn(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(dml_csv_parse(
        "v.csv", "0F0,1F0,0F1,( 0F2;1B0 )OVERLAP_F_B , \"(1F1;0B0)OVERLAP_F_B\"\n", &p));
    dml_str text = {0};
    dml_csv_print(&p, &text);
    assert_string_equal("0F0,1F0,0F1,0F2,1B0,1F1,0B0\n", dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void a_rank_without_work_keeps_its_row(void **state)
{
    (void)state;
    dml_program p;
    dml_str text = {0};
    DML_CHECK_OK(dml_csv_parse("x.csv", "0F0,0B0\n,\n", &p));
    DML_CHECK_EQ(2, p.workers);
    dml_csv_print(&p, &text);
    assert_string_equal("0F0,0B0\n,\n", dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void mistakes_are_shown_where_they_are(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "x.csv:1:1: there is no action in it"},
        {"0F0,F1\n",
         "x.csv:1:5: a cell is STAGE ACTION MICRO-BATCH, such as 2F7: 'F1' has no stage"},
        {"0F0\n1F\n",
         "x.csv:2:3: a cell is STAGE ACTION MICRO-BATCH, such as 2F7: '1F' has no micro-batch"},
        {"0F0,0X1\n", "x.csv:1:6: '0X1' has no action that is known: F, B, I, W"},
        {"0F0 0F1\n", "x.csv:1:5: a comma or the end of the line was expected, not '0F1'"},
        {"0F0,(0F1;0B0)\n",
         "x.csv:1:13: actions that overlap are written (2F7;5B1)OVERLAP_F_B, not "
         "'(0F1;0B0)'"},
        {"(0F1;B0)OVERLAP_F_B\n", "x.csv:1:6: a cell is STAGE ACTION MICRO-BATCH"},
        {"(0F1;0B0)OVERLAP_F_B0F2\n", "x.csv:1:21: a comma or the end of the line was expected"},
        {"0F9999999\n", "x.csv:1:3: micro-batch 9999999 is beyond the most"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        dml_program p;
        DML_CHECK_FAILS(DML_ERR_SPEC, bad[k].says, dml_csv_parse("x.csv", bad[k].text, &p));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_goes_there_and_back),
        cmocka_unit_test(lists_are_those_that_pytorch_makes),
        cmocka_unit_test(what_pytorch_writes_is_read),
        cmocka_unit_test(actions_that_overlap_are_read_in_turn),
        cmocka_unit_test(a_rank_without_work_keeps_its_row),
        cmocka_unit_test(mistakes_are_shown_where_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
