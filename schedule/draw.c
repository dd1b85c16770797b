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

/* A time is at the column ns / wall_ns * cols; what begins at wall_ns or later is not seen. */
typedef struct frame {
    int64_t wall_ns;
    int32_t cols;
} frame;

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

static int32_t column(const frame *f, int64_t ns)
{
    if (f->wall_ns == 0) return 0;
    return (int32_t)((double)ns / (double)f->wall_ns * f->cols + 0.5);
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
                      const frame *f, char *row, const bool *small)
{
    const dml_op_list *list = &p->list[w];
    bool drawn = false; /* something of the op that is in parts */
    memset(row, lane == DML_LANE_COMPUTE ? '.' : ' ', (size_t)f->cols);
    for (int32_t i = 0; i < list->n; i++) {
        if (dml_op_lane(&list->op[i]) != lane) continue;
        const int32_t k = sim->first[w] + i;
        const int32_t from = column(f, sim->start_ns[k]);
        const int32_t to = MIN2(f->cols, column(f, sim->end_ns[k]));
        const dml_op *op = &list->op[i];
        if (!dml_op_is_part(op) || op->edge == 1) drawn = false;
        if (to > from) put_op(row + from, to - from, op, small[op->chunk], drawn);
        drawn = dml_op_is_part(op) && (drawn || to > from);
    }
}

/* Whether some reduction of some worker takes time that can be seen. */
static bool reduces(const dml_program *p, const dml_sim *sim, const frame *f)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t k = sim->first[w] + i;
            if (p->list[w].op[i].kind == DML_OP_REDUCE &&
                column(f, sim->end_ns[k]) > column(f, sim->start_ns[k]))
                return true;
        }
    return false;
}

/* Up to the last character that is no blank. */
static void print_row(int32_t label, char *row, int32_t n, dml_str *out)
{
    while (n > 0 && row[n - 1] == ' ')
        n--;
    dml_str_printf(out, "%*s: %.*s\n", label, "", n, row);
}

static void print_axis(int32_t label, const frame *f, dml_str *out)
{
    dml_str_printf(out, "%*s  0%*.3f ms   idle held\n", label, "", f->cols - 4,
                   (double)f->wall_ns / 1e6);
}

static void print_legend(const dml_program *p, bool both, dml_str *out)
{
    dml_str_printf(out, "F forward, B backward, I input gradient, W weight gradient, U optimizer; "
                        "number: micro-batch\n");
    if (p->recompute != DML_RECOMPUTE_NONE)
        dml_str_printf(out, "R in a worker's row: forward again\n");
    if (both)
        dml_str_printf(
            out, "+ next part of a backward, R reduction of gradients, V vote; number: bucket\n");
    if (p->lowered && dml_program_is_async(p))
        dml_str_printf(out, "asynchronous: the number of U, R and V is that of the update\n");
}

void dml_draw_text(const dml_program *p, const dml_sim *sim, int32_t width, dml_str *out)
{
    dml_arena arena = {0};
    const frame f = {sim->makespan_ns, columns(p, sim, MAX2(width, 10))};
    char *row = dml_arena_alloc(&arena, f.cols);
    bool *small = DML_NEW_N(&arena, bool, p->chunks);
    const int32_t label = snprintf(NULL, 0, "%d", p->workers - 1);
    const bool both = reduces(p, sim, &f);
    for (int32_t w = 0; w < p->workers; w++) {
        find_small(p, w, small);
        draw_lane(p, sim, w, DML_LANE_COMPUTE, &f, row, small);
        dml_str_printf(out, "%*d: %.*s %6.1f%% %3d\n", label, w, f.cols, row,
                       100.0 * dml_sim_bubble(sim, w), sim->peak_stash[w]);
        if (!both) continue;
        draw_lane(p, sim, w, DML_LANE_REDUCE, &f, row, small);
        print_row(label, row, f.cols, out);
    }
    print_axis(label, &f, out);
    print_legend(p, both, out);
    dml_arena_free(&arena);
}

/* ---- several at one scale ---------------------------------------------------------------------------- */

/* The shortest op of a micro-batch in any of them. */
static int64_t shortest_ns(const dml_panel *panel, int32_t n)
{
    int64_t least = INT64_MAX;
    for (int32_t k = 0; k < n; k++)
        for (int32_t w = 0; w < panel[k].program->workers; w++)
            for (int32_t i = 0; i < panel[k].program->list[w].n; i++) {
                const int32_t at = panel[k].sim->first[w] + i;
                const int64_t ns = panel[k].sim->end_ns[at] - panel[k].sim->start_ns[at];
                if (dml_op_reads_weights(&panel[k].program->list[w].op[i]) && ns > 0)
                    least = MIN2(least, ns);
            }
    return least;
}

/* Of a whole number of columns for the shortest op, where there is room for that; else all of the width. */
static frame frame_of(const dml_panel *panel, int32_t n, int32_t width)
{
    int64_t wall_ns = 0;
    for (int32_t k = 0; k < n; k++)
        wall_ns = MAX2(wall_ns, panel[k].sim->makespan_ns);
    const int64_t op_ns = shortest_ns(panel, n);
    for (int64_t each = 4; each >= 1 && op_ns != INT64_MAX; each--) {
        const int64_t cols = (wall_ns * each + op_ns - 1) / op_ns;
        if (cols <= width) return (frame){cols * op_ns / each, (int32_t)cols};
    }
    return (frame){wall_ns, width};
}

/* Marks below what others ran before; false: there is nothing. */
static bool mark_moved(const dml_panel *x, int32_t w, const frame *f, char *row)
{
    const dml_program *p = x->program;
    bool any = false;
    memset(row, ' ', (size_t)f->cols);
    for (int32_t i = 0; x->moved && i < p->list[w].n; i++) {
        const dml_op *op = &p->list[w].op[i];
        const int32_t k = x->sim->first[w] + i;
        if (!dml_op_reads_weights(op) || !x->moved[op->chunk * p->mbs + op->mb % p->mbs]) continue;
        const int32_t from = column(f, x->sim->start_ns[k]),
                      to = MIN2(f->cols, column(f, x->sim->end_ns[k]));
        for (int32_t at = from; at < to; at++)
            row[at] = '^';
        any = any || to > from;
    }
    return any;
}

static void draw_panel(const dml_panel *x, const frame *f, char *row, bool *small, dml_str *out)
{
    const dml_program *p = x->program;
    const int32_t label = snprintf(NULL, 0, "%d", p->workers - 1);
    const frame own = {x->sim->makespan_ns, column(f, x->sim->makespan_ns)};
    dml_str_printf(out, "%s\n", x->title);
    for (int32_t w = 0; w < p->workers; w++) {
        if (x->lost && x->lost[w]) {
            memset(row, '/', (size_t)own.cols);
            dml_str_printf(out, "%*d: %-*.*s    lost\n", label, w, f->cols, own.cols, row);
            continue;
        }
        find_small(p, w, small);
        draw_lane(p, x->sim, w, DML_LANE_COMPUTE, f, row, small);
        dml_str_printf(out, "%*d: %-*.*s %6.1f%% %3d\n", label, w, f->cols, own.cols, row,
                       100.0 * dml_sim_bubble(x->sim, w), x->sim->peak_stash[w]);
        if (mark_moved(x, w, f, row)) print_row(label, row, f->cols, out);
    }
    print_axis(label, &own, out);
    dml_str_printf(out, "\n");
}

void dml_draw_panels(const dml_panel *panel, int32_t n, int32_t width, dml_str *out)
{
    dml_arena arena = {0};
    const frame f = frame_of(panel, n, MAX2(width, 10));
    char *row = dml_arena_alloc(&arena, f.cols);
    bool moved = false;
    for (int32_t k = 0; k < n; k++) {
        draw_panel(&panel[k], &f, row, DML_NEW_N(&arena, bool, panel[k].program->chunks), out);
        moved = moved || panel[k].moved;
    }
    if (n > 0) print_legend(panel[0].program, false, out);
    if (moved) dml_str_printf(out, "^ another worker ran it before; / lost\n");
    dml_arena_free(&arena);
}
