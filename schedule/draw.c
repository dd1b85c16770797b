/* schedule/draw.c - the timeline in characters. */
#include "schedule/draw.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* How many columns: all of `width`, unless times are multiples of a step of which a few columns
 * fit; two or more for a step, so that a letter and a digit fit into the shortest op. */
static int32_t columns(const dml_program *p, const dml_sim *sim, int32_t width)
{
    int64_t step_ns = sim->makespan_ns;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            if (dml_op_lane(&p->list[w].op[i]) != DML_LANE_COMPUTE) continue;
            step_ns = gcd(step_ns, sim->start_ns[sim->first[w] + i]);
            step_ns = gcd(step_ns, sim->end_ns[sim->first[w] + i]);
        }
    if (step_ns == 0) return width;
    const int64_t steps = sim->makespan_ns / step_ns;
    for (int64_t each = 3; each >= 1; each--)
        if (steps * each <= width) return (int32_t)(steps * each);
    return width;
}

/* Column of a time; the last op ends at the right edge. */
static int32_t column(const dml_sim *sim, int32_t cols, int64_t ns)
{
    if (sim->makespan_ns == 0) return 0;
    return (int32_t)((double)ns / (double)sim->makespan_ns * cols + 0.5);
}

/* The op over n > 0 columns; `goes_on`: a part of what is drawn before it. */
static void put_op(char *cell, int32_t n, const dml_op *op, bool small, bool goes_on)
{
    const bool reduces = op->kind == DML_OP_REDUCE;
    memset(cell, '=', (size_t)n);
    const char letter = *dml_op_info_of((dml_op_kind)op->kind)->text;
    cell[0] = small ? (char)tolower((unsigned char)letter) : letter;
    if (goes_on) cell[0] = '+';
    if ((op->mb == DML_NO_MB && !reduces) || goes_on) return;
    char number[16];
    const int32_t digits =
        snprintf(number, sizeof number, "%d", op->mb == DML_NO_MB ? op->edge : op->mb);
    const int32_t fit = MIN2(digits, n - 1);
    memcpy(cell + 1, number + digits - fit, (size_t)fit);
}

/* small[c]: chunk c is the 2nd, 4th, ... of those that the worker computes. */
static void find_small(const dml_program *p, int32_t w, bool *small)
{
    memset(small, 0, (size_t)p->chunks * sizeof *small);
    for (int32_t i = 0; i < p->list[w].n; i++)
        if (p->list[w].op[i].kind == DML_OP_FWD) small[p->list[w].op[i].chunk] = true;
    bool odd = false;
    for (int32_t c = 0; c < p->chunks; c++) {
        const bool held = small[c];
        small[c] = held && odd;
        odd = held ? !odd : odd;
    }
}

static void draw_lane(const dml_program *p, const dml_sim *sim, int32_t w, dml_lane lane,
                      int32_t cols, char *row, const bool *small)
{
    const dml_op_list *list = &p->list[w];
    bool drawn = false; /* something of the op that is in parts */
    memset(row, lane == DML_LANE_COMPUTE ? '.' : ' ', (size_t)cols);
    for (int32_t i = 0; i < list->n; i++) {
        if (dml_op_lane(&list->op[i]) != lane) continue;
        const int32_t k = sim->first[w] + i;
        const int32_t from = column(sim, cols, sim->start_ns[k]);
        const int32_t to = MIN2(cols, column(sim, cols, sim->end_ns[k]));
        const dml_op *op = &list->op[i];
        if (!dml_op_is_part(op) || op->edge == 1) drawn = false;
        if (to > from) put_op(row + from, to - from, op, small[op->chunk], drawn);
        drawn = dml_op_is_part(op) && (drawn || to > from);
    }
}

/* Whether some reduction of some worker takes time that can be seen. */
static bool reduces(const dml_program *p, const dml_sim *sim, int32_t cols)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t k = sim->first[w] + i;
            if (p->list[w].op[i].kind == DML_OP_REDUCE &&
                column(sim, cols, sim->end_ns[k]) > column(sim, cols, sim->start_ns[k]))
                return true;
        }
    return false;
}

void dml_draw_text(const dml_program *p, const dml_sim *sim, int32_t width, dml_str *out)
{
    dml_arena arena = {0};
    const int32_t cols = columns(p, sim, MAX2(width, 10));
    char *row = dml_arena_alloc(&arena, cols);
    bool *small = DML_NEW_N(&arena, bool, p->chunks);
    const int32_t label = snprintf(NULL, 0, "%d", p->workers - 1);
    const bool both = reduces(p, sim, cols);
    for (int32_t w = 0; w < p->workers; w++) {
        find_small(p, w, small);
        draw_lane(p, sim, w, DML_LANE_COMPUTE, cols, row, small);
        dml_str_printf(out, "%*d: %.*s %6.1f%% %3d\n", label, w, cols, row,
                       100.0 * dml_sim_bubble(sim, w), sim->peak_stash[w]);
        if (!both) continue;
        draw_lane(p, sim, w, DML_LANE_REDUCE, cols, row, small);
        int32_t end = cols;
        while (end > 0 && row[end - 1] == ' ')
            end--;
        dml_str_printf(out, "%*s: %.*s\n", label, "", end, row);
    }
    dml_str_printf(out, "%*s  0%*.3f ms   idle held\n", label, "", cols - 4,
                   (double)sim->makespan_ns / 1e6);
    dml_str_printf(out, "F forward, B backward, I input gradient, W weight gradient, U optimizer; "
                        "number: micro-batch\n");
    if (p->recompute != DML_RECOMPUTE_NONE)
        dml_str_printf(out, "R in a worker's row: forward again\n");
    if (both)
        dml_str_printf(
            out, "+ next part of a backward, R reduction of gradients, V vote; number: bucket\n");
    if (p->lowered && dml_program_is_async(p))
        dml_str_printf(out, "asynchronous: the number of U, R and V is that of the update\n");
    dml_arena_free(&arena);
}
