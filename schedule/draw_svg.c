/* schedule/draw_svg.c - boxes, and the few words round them. */
#include "schedule/draw_svg.h"

#include "schedule/paint.h"

#include <stdio.h>
#include <string.h>

enum {
    ROW = 28,
    BOX = 22,
    LEFT = 34,
    RIGHT = 110,
    TOP = 34,
    BELOW = 40,
    CHARACTER = 7,
    TICKS = 8,
    GAP = 22 /* of the axis below a panel */
};

static void escaped(dml_str *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<': dml_str_printf(out, "&lt;"); break;
        case '>': dml_str_printf(out, "&gt;"); break;
        case '&': dml_str_printf(out, "&amp;"); break;
        default: dml_str_append(out, text, 1);
        }
}

typedef struct canvas {
    const dml_program *p;
    const dml_sim *sim;
    const bool *lost, *moved; /* as in a dml_panel */
    double px_per_ns;
    int32_t top; /* of the first row */
    dml_str *out;
} canvas;

static double x_of(const canvas *c, int64_t ns)
{
    return LEFT + (double)ns * c->px_per_ns;
}

static const char *fill_of(const canvas *c, int32_t w, const dml_op *op)
{
    const dml_paint color = dml_paint_of((dml_op_kind)op->kind);
    const bool moved = c->moved && dml_op_reads_weights(op) &&
                       c->moved[op->chunk * c->p->mbs + op->mb % c->p->mbs];
    if (moved) return color.fill_moved;
    return dml_paint_is_odd(c->p, w, op->chunk) ? color.fill_odd : color.fill;
}

static void box(const canvas *c, int32_t w, const dml_op *op, int64_t from_ns, int64_t to_ns)
{
    const double x = x_of(c, from_ns), wide = x_of(c, to_ns) - x;
    const int32_t y = c->top + w * ROW;
    const dml_op_name name = dml_op_name_of(op);
    if (wide <= 0) return;
    dml_str_printf(
        c->out,
        "<g><title>%s: %.3f ms + %.3f ms</title><rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" "
        "height=\"%d\" fill=\"%s\"/>",
        name.text, (double)from_ns / 1e6, (double)(to_ns - from_ns) / 1e6, x, y, wide, BOX,
        fill_of(c, w, op));
    char text[16];
    const int n =
        op->mb == DML_NO_MB
            ? snprintf(text, sizeof text, "%s", dml_op_info_of((dml_op_kind)op->kind)->text)
            : snprintf(text, sizeof text, "%s%d", dml_op_info_of((dml_op_kind)op->kind)->text,
                       op->mb);
    if (n * CHARACTER < wide)
        dml_str_printf(c->out,
                       "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\" fill=\"%s\">%s</text>",
                       x + wide / 2, y + BOX - 7, dml_paint_of((dml_op_kind)op->kind).text, text);
    dml_str_printf(c->out, "</g>\n");
}

/* `wall` is where the step ends, `right` where words begin. */
static void row(const canvas *c, int32_t w, double wall, double right)
{
    const int32_t y = c->top + w * ROW;
    const bool lost = c->lost && c->lost[w];
    dml_str_printf(c->out,
                   "<text x=\"4\" y=\"%d\">%d</text><rect x=\"%d\" y=\"%d\" width=\"%.2f\" "
                   "height=\"%d\" fill=\"%s\"/>\n",
                   y + BOX - 7, w, LEFT, y, wall - LEFT, BOX, lost ? "#e3b4b4" : "#f2f2f2");
    for (int32_t i = 0; i < c->p->list[w].n; i++) {
        const dml_op *op = &c->p->list[w].op[i];
        const int32_t k = c->sim->first[w] + i;
        if (dml_op_lane(op) == DML_LANE_COMPUTE)
            box(c, w, op, c->sim->start_ns[k], c->sim->end_ns[k]);
    }
    if (lost)
        dml_str_printf(c->out, "<text x=\"%.2f\" y=\"%d\">lost</text>\n", right + 8, y + BOX - 7);
    else
        dml_str_printf(c->out, "<text x=\"%.2f\" y=\"%d\">idle %.1f%%, holds %d</text>\n",
                       right + 8, y + BOX - 7, 100.0 * dml_sim_bubble(c->sim, w),
                       c->sim->peak_stash[w]);
}

static void axis(const canvas *c, int64_t wall_ns)
{
    const int32_t y = c->top + c->p->workers * ROW;
    for (int32_t t = 0; t <= TICKS; t++) {
        const int64_t ns = wall_ns * t / TICKS;
        dml_str_printf(c->out,
                       "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%d\" stroke=\"#999999\"/>"
                       "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>\n",
                       x_of(c, ns), y, x_of(c, ns), y + 5, x_of(c, ns), y + 18, (double)ns / 1e6);
    }
}

static void legend(int32_t y, const char *more, dml_str *out)
{
    dml_str_printf(out,
                   "<text x=\"%d\" y=\"%d\">ms.  F forward, B backward, I input gradient, W weight "
                   "gradient, U optimizer; number: micro-batch%s</text>\n",
                   LEFT, y, more);
}

static void begin(int32_t width, int32_t height, dml_str *out)
{
    dml_str_printf(out,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                   "font-family=\"sans-serif\" font-size=\"11\">\n"
                   "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
                   LEFT + width + RIGHT, height);
}

static void title_at(int32_t y, const char *title, dml_str *out)
{
    dml_str_printf(out, "<text x=\"%d\" y=\"%d\" font-size=\"14\">", LEFT, y);
    escaped(out, title);
    dml_str_printf(out, "</text>\n");
}

void dml_draw_svg(const dml_program *p, const dml_sim *sim, const char *title, int32_t width,
                  dml_str *out)
{
    const int64_t wall_ns = sim->makespan_ns > 0 ? sim->makespan_ns : 1;
    const canvas c = {
        .p = p, .sim = sim, .px_per_ns = (double)width / (double)wall_ns, .top = TOP, .out = out};
    begin(width, TOP + p->workers * ROW + BELOW, out);
    title_at(TOP - 14, title, out);
    for (int32_t w = 0; w < p->workers; w++)
        row(&c, w, LEFT + width, LEFT + width);
    axis(&c, sim->makespan_ns);
    legend(TOP + p->workers * ROW + 34, "", out);
    dml_str_printf(out, "</svg>\n");
}

void dml_draw_panels_svg(const dml_panel *panel, int32_t n, int32_t width, dml_str *out)
{
    int64_t wall_ns = 1;
    int32_t height = BELOW - GAP;
    for (int32_t k = 0; k < n; k++) {
        if (panel[k].sim->makespan_ns > wall_ns) wall_ns = panel[k].sim->makespan_ns;
        height += TOP + panel[k].program->workers * ROW + GAP;
    }
    begin(width, height, out);
    canvas c = {.px_per_ns = (double)width / (double)wall_ns, .out = out};
    for (int32_t k = 0; k < n; k++) {
        c.p = panel[k].program;
        c.sim = panel[k].sim;
        c.lost = panel[k].lost;
        c.moved = panel[k].moved;
        c.top += TOP;
        title_at(c.top - 14, panel[k].title, out);
        for (int32_t w = 0; w < c.p->workers; w++)
            row(&c, w, x_of(&c, c.sim->makespan_ns), LEFT + width);
        axis(&c, wall_ns);
        c.top += c.p->workers * ROW + GAP;
    }
    legend(height - 6, "; orange: another worker ran it before; red: lost", out);
    dml_str_printf(out, "</svg>\n");
}
