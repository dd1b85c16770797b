/* schedule/draw_svg.c - boxes, and the few words round them. */
#include "schedule/draw_svg.h"

#include "schedule/paint.h"

#include <stdio.h>
#include <string.h>

enum { ROW = 28, BOX = 22, LEFT = 34, RIGHT = 110, TOP = 34, BELOW = 40, CHARACTER = 7, TICKS = 8 };

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
    double px_per_ns;
    dml_str *out;
} canvas;

static double x_of(const canvas *c, int64_t ns)
{
    return LEFT + (double)ns * c->px_per_ns;
}

static void box(const canvas *c, int32_t w, const dml_op *op, int64_t from_ns, int64_t to_ns)
{
    const dml_paint color = dml_paint_of((dml_op_kind)op->kind);
    const double x = x_of(c, from_ns), wide = x_of(c, to_ns) - x;
    const int32_t y = TOP + w * ROW;
    const dml_op_name name = dml_op_name_of(op);
    if (wide <= 0) return;
    dml_str_printf(
        c->out,
        "<g><title>%s: %.3f ms + %.3f ms</title><rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" "
        "height=\"%d\" fill=\"%s\"/>",
        name.text, (double)from_ns / 1e6, (double)(to_ns - from_ns) / 1e6, x, y, wide, BOX,
        dml_paint_is_odd(c->p, w, op->chunk) ? color.fill_odd : color.fill);
    char text[16];
    const int n =
        op->mb == DML_NO_MB
            ? snprintf(text, sizeof text, "%s", dml_op_info_of((dml_op_kind)op->kind)->text)
            : snprintf(text, sizeof text, "%s%d", dml_op_info_of((dml_op_kind)op->kind)->text,
                       op->mb);
    if (n * CHARACTER < wide)
        dml_str_printf(c->out,
                       "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\" fill=\"%s\">%s</text>",
                       x + wide / 2, y + BOX - 7, color.text, text);
    dml_str_printf(c->out, "</g>\n");
}

static void row(const canvas *c, int32_t w, double right)
{
    const int32_t y = TOP + w * ROW;
    dml_str_printf(c->out,
                   "<text x=\"4\" y=\"%d\">%d</text><rect x=\"%d\" y=\"%d\" width=\"%.2f\" "
                   "height=\"%d\" fill=\"#f2f2f2\"/>\n",
                   y + BOX - 7, w, LEFT, y, right - LEFT, BOX);
    for (int32_t i = 0; i < c->p->list[w].n; i++) {
        const dml_op *op = &c->p->list[w].op[i];
        const int32_t k = c->sim->first[w] + i;
        if (dml_op_lane(op) == DML_LANE_COMPUTE)
            box(c, w, op, c->sim->start_ns[k], c->sim->end_ns[k]);
    }
    dml_str_printf(c->out, "<text x=\"%.2f\" y=\"%d\">idle %.1f%%, holds %d</text>\n", right + 8,
                   y + BOX - 7, 100.0 * dml_sim_bubble(c->sim, w), c->sim->peak_stash[w]);
}

static void axis(const canvas *c)
{
    const int32_t y = TOP + c->p->workers * ROW;
    for (int32_t t = 0; t <= TICKS; t++) {
        const int64_t ns = c->sim->makespan_ns * t / TICKS;
        dml_str_printf(c->out,
                       "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%d\" stroke=\"#999999\"/>"
                       "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>\n",
                       x_of(c, ns), y, x_of(c, ns), y + 5, x_of(c, ns), y + 18, (double)ns / 1e6);
    }
    dml_str_printf(c->out,
                   "<text x=\"%d\" y=\"%d\">ms.  F forward, B backward, I input gradient, W weight "
                   "gradient, U optimizer; number: micro-batch</text>\n",
                   LEFT, y + 34);
}

void dml_draw_svg(const dml_program *p, const dml_sim *sim, const char *title, int32_t width,
                  dml_str *out)
{
    const int64_t wall_ns = sim->makespan_ns > 0 ? sim->makespan_ns : 1;
    const canvas c = {.p = p, .sim = sim, .px_per_ns = (double)width / (double)wall_ns, .out = out};
    const int32_t height = TOP + p->workers * ROW + BELOW;
    dml_str_printf(out,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                   "font-family=\"sans-serif\" font-size=\"11\">\n"
                   "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
                   "<text x=\"%d\" y=\"20\" font-size=\"14\">",
                   LEFT + width + RIGHT, height, LEFT);
    escaped(out, title);
    dml_str_printf(out, "</text>\n");
    for (int32_t w = 0; w < p->workers; w++)
        row(&c, w, LEFT + width);
    axis(&c);
    dml_str_printf(out, "</svg>\n");
}
