/* engine/replay_draw.c - the lines of a replay.
 *
 *   1.0 |---.   .-----       a line for each policy over the hours; a stall goes down to 0 where it is half a pixel wide
 *       |   '---'            or more, and is left out where it is less
 *     0 +-------------- h
 */
#include "engine/replay_report.h"

#include <math.h>
#include <string.h>

enum {
    LEFT = 48,
    TOP = 40,
    WIDTH = 1000,
    HEIGHT = 360,
    RIGHT = 250,
    BELOW = 60,
    ROW = 22,
    MOST_TICKS = 12,
};
#define LEAST_PIXELS 0.5
#define HOUR_NS      3.6e12

static const char *const color[DML_REPLAY_POLICIES] = {
    [DML_REPLAY_OURS] = "#1b6ec2",    [DML_REPLAY_SLIPSTREAM] = "#3a9d5d",
    [DML_REPLAY_DROP] = "#8a6fc0",    [DML_REPLAY_RESTART] = "#777777",
    [DML_REPLAY_RECYCLE] = "#9ccf8f", [DML_REPLAY_OOBLECK] = "#e08a1e",
    [DML_REPLAY_BAMBOO] = "#c0504d",  [DML_REPLAY_SCALED] = "#000000",
};

typedef struct canvas {
    const dml_replay_report *r;
    double px_per_ns, top; /* top: the rate at the upper edge */
    dml_str *out;
} canvas;

static double x_of(const canvas *c, int64_t ns)
{
    return LEFT + (double)ns * c->px_per_ns;
}

static double y_of(const canvas *c, double rate)
{
    return TOP + HEIGHT * (1 - rate / c->top);
}

static void escaped(dml_str *out, const char *text)
{
    for (; *text; text++)
        if (*text == '<')
            dml_str_printf(out, "&lt;");
        else if (*text == '&')
            dml_str_printf(out, "&amp;");
        else
            dml_str_append(out, text, 1);
}

static void line(const canvas *c, const dml_replay_result *y)
{
    const bool scaled = y->policy == DML_REPLAY_SCALED;
    bool begun = false;
    dml_str_printf(c->out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s d=\"",
                   color[y->policy], y->policy == DML_REPLAY_OURS ? "2.4" : "1.4",
                   scaled ? " stroke-dasharray=\"5 4\"" : "");
    for (int32_t i = 0; i < y->n; i++) {
        const dml_replay_span *s = &y->span[i];
        const double from = x_of(c, s->from_ns), to = x_of(c, s->to_ns);
        if (to - from < LEAST_PIXELS) continue;
        dml_str_printf(c->out, "%c%.2f %.2f H%.2f", begun ? 'L' : 'M', from, y_of(c, s->rate), to);
        begun = true;
    }
    dml_str_printf(c->out, "\"><title>");
    escaped(c->out, dml_replay_policy_meaning(y->policy));
    dml_str_printf(c->out, "</title></path>\n");
}

static void legend(const canvas *c)
{
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++) {
        const dml_replay_result *y = &c->r->result[k];
        const int32_t at = TOP + 8 + k * ROW, x = LEFT + WIDTH + 16;
        dml_str_printf(
            c->out,
            "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\" "
            "stroke-width=\"2\"%s/><text x=\"%d\" y=\"%d\">%s%s: mean %.3f</text>\n",
            x, at, x + 24, at, color[k], k == DML_REPLAY_SCALED ? " stroke-dasharray=\"5 4\"" : "",
            x + 30, at + 4, dml_replay_policy_text((dml_replay_policy)k),
            k >= DML_REPLAY_RECYCLE && k <= DML_REPLAY_BAMBOO ? " (published)" : "", y->mean);
    }
}

static void axes(const canvas *c)
{
    for (int32_t t = 0; t * 0.2 < c->top; t++)
        dml_str_printf(c->out,
                       "<line x1=\"%d\" y1=\"%.2f\" x2=\"%d\" y2=\"%.2f\" stroke=\"#e4e4e4\"/>"
                       "<text x=\"%d\" y=\"%.2f\" text-anchor=\"end\">%.1f</text>\n",
                       LEFT, y_of(c, t * 0.2), LEFT + WIDTH, y_of(c, t * 0.2), LEFT - 6,
                       y_of(c, t * 0.2) + 4, t * 0.2);
    const double hours = (double)c->r->outages->end_ns / HOUR_NS;
    double every = 1.0 / 64; /* of an hour; doubled until few are left */
    while (hours / every > MOST_TICKS)
        every *= 2;
    for (int32_t t = 0; t * every <= hours; t++) {
        const double x = x_of(c, (int64_t)(t * every * HOUR_NS));
        dml_str_printf(c->out,
                       "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%d\" stroke=\"#999999\"/>"
                       "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                       x, TOP + HEIGHT, x, TOP + HEIGHT + 5, x, TOP + HEIGHT + 18, t * every);
    }
    dml_str_printf(c->out,
                   "<text x=\"%d\" y=\"%d\">hours.  Throughput over that without a fault; changes "
                   "charged as the table says</text>\n",
                   LEFT, TOP + HEIGHT + 38);
}

void dml_replay_draw(const dml_replay_report *r, dml_str *out)
{
    double most = 1;
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++)
        for (int32_t i = 0; i < r->result[k].n; i++)
            most = fmax(most, r->result[k].span[i].rate);
    const canvas c = {r, (double)WIDTH / (double)r->outages->end_ns, most * 1.05, out};
    dml_str_printf(out,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                   "font-family=\"sans-serif\" font-size=\"11\">\n"
                   "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
                   "<text x=\"%d\" y=\"20\" font-size=\"14\">",
                   LEFT + WIDTH + RIGHT, TOP + HEIGHT + BELOW, LEFT);
    escaped(out, r->trace);
    dml_str_printf(out, ": ");
    escaped(out, r->run);
    dml_str_printf(out, ", %d pipelines of %d, %d micro-batches</text>\n", r->planner->replicas,
                   r->planner->ranks, r->planner->mbs);
    axes(&c);
    for (int32_t k = DML_REPLAY_POLICIES - 1; k >= 0; k--) /* ours on top */
        line(&c, &r->result[k]);
    legend(&c);
    dml_str_printf(out, "</svg>\n");
}
