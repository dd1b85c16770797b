/* The worked example of ReCycle (Gandhi et al., SOSP 2024): three pipelines of four stages, six micro-batches each, lose
 * workers; F = I = W = 1, optimizer 3.  Its printed schedule, and what ours comes to beside the bounds. */
#include "tests/schedule/support.h"

#include "schedule/check.h"
#include "schedule/fuse.h"
#include "schedule/list.h"
#include "schedule/reroute.h"

#include <ctype.h>
#include <stdlib.h>

enum { STAGES = 4, PIPELINES = 3, MBS = 6, WORKERS = STAGES * PIPELINES, STEP = 3 };

/* Worker of stage s in pipeline k. */
static int32_t at(int32_t k, int32_t s)
{
    return s * PIPELINES + k;
}

static dml_program example(void)
{
    dml_program one = make_order("1f1b", STAGES, MBS), all;
    DML_CHECK_OK(dml_expand_replicas(&one, PIPELINES, PIPELINES * MBS, &all));
    dml_program_free(&one);
    return all;
}

/* Pipeline and stage of each lost one: "12 01". */
static void lose(const char *text, bool *lost)
{
    for (int32_t w = 0; w < WORKERS; w++)
        lost[w] = false;
    for (; *text; text += text[2] ? 3 : 2)
        lost[at(text[0] - '0', text[1] - '0')] = true;
}

/* ---- the printed schedule ---- */

/* As on the authors' poster, micro-batches from 1, pipeline by pipeline; b input gradient, w weight gradient.  One
 * repair: worker 1 of pipeline 2 cuts the backward of 18, which its neighbour needs a slot earlier. */
static const char *const printed[PIPELINES][STAGES] = {
    {"F1 F2 F3 F4 B1 F5 B2 F6 B3 B4 B5 b6 w6", "F1 F2 F3 F4 B1 B2 F5 B3 F6 B4 B5 b6 w6",
     "F7 F1 F2 F3 b7 b1 F9 F4 B2 b9 b3 F11 F5 B4 F6 b11 b5 w7 B6 w1 w9 w3 w11 w5",
     "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6"},
    {"F7 F8 F9 F10 B7 F11 B8 F12 B9 B10 B11 B12", "F7 F8 F9 B7 F10 B8 F11 B9 F12 B10 B11 B12", "",
     "F7 B7 F8 B8 F9 B9 F10 B10 F11 B11 F12 B12"},
    {"F13 F14 F15 F16 B13 F17 B14 F18 B15 B16 B17 b18 w18",
     "F13 F14 F15 F16 B13 B14 F17 B15 F18 B16 B17 b18 w18",
     "F13 F8 F14 F15 B13 F16 b8 b14 F10 B15 F17 b10 b16 F12 F18 B17 b12 b18 w8 w14 w10 w16 w12 w18",
     "F13 B13 F14 B14 F15 B15 F16 B16 F17 B17 F18 B18"}};

static dml_op_kind kind_of(char letter)
{
    return letter == 'F'   ? DML_OP_FWD
           : letter == 'B' ? DML_OP_BWD
           : letter == 'b' ? DML_OP_BWD_INPUT
                           : DML_OP_BWD_WEIGHT;
}

/* Their micro-batch m is our m / 3 of pipeline m % 3. */
static dml_program printed_order(void)
{
    dml_program p;
    DML_CHECK_OK(dml_program_init(&p, WORKERS, STAGES, PIPELINES * MBS));
    for (int32_t k = 0; k < PIPELINES; k++)
        for (int32_t s = 0; s < STAGES; s++)
            for (const char *text = printed[k][s]; *text;) {
                const dml_op_kind kind = kind_of(*text++);
                char *end;
                const int32_t m = (int32_t)strtol(text, &end, 10) - 1;
                dml_program_push(&p, at(k, s), kind, s, m % MBS * PIPELINES + m / MBS);
                text = *end ? end + 1 : end;
            }
    dml_program_route_by_ops(&p);
    return p;
}

static void the_printed_schedule_is_legal_and_takes_the_slots_it_says(void **state)
{
    (void)state;
    dml_program p = printed_order(), all = example(), routes;
    dml_cost cost = make_cost(STAGES, 1, 1, 1, 0);
    bool lost[WORKERS];
    int64_t span, wall;
    DML_CHECK_OK(dml_check(&p, NULL));
    lose("12", lost);
    DML_CHECK_OK(dml_reroute(&all, lost, &routes));
    for (int32_t i = 0; i < STAGES * PIPELINES * MBS; i++)
        DML_CHECK_EQ(routes.route[i], p.route[i]);
    DML_CHECK_OK(dml_order_length(&p, &cost, DML_LIST_SPAN, &span));
    DML_CHECK_OK(dml_order_length(&p, &cost, DML_LIST_WALL, &wall));
    DML_CHECK_EQ(27, span);
    DML_CHECK_EQ(29, wall);
    for (int32_t s = 0; s < STAGES; s++)
        cost.chunk[s].step_ns = STEP;
    DML_CHECK_OK(dml_order_length(&p, &cost, DML_LIST_SPAN, &span));
    DML_CHECK_EQ(27 + STEP, span);
    const int64_t one[STAGES] = {1, 1, 1, 1};
    static const int32_t peak[PIPELINES][STAGES] = {{4, 4, 7, 1}, {4, 3, 0, 1}, {4, 4, 7, 1}};
    for (int32_t k = 0; k < PIPELINES; k++)
        for (int32_t s = 0; s < STAGES; s++)
            DML_CHECK_EQ(peak[k][s], dml_order_peak(&p, at(k, s), one));
    dml_program_free(&routes);
    dml_program_free(&all);
    dml_program_free(&p);
    dml_cost_free(&cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_printed_schedule_is_legal_and_takes_the_slots_it_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
