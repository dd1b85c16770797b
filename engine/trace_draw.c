/* engine/trace_draw.c - recorded times into a timeline, and that into a picture. */
#include "engine/trace_draw.h"

#include "schedule/draw.h"
#include "schedule/draw_svg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 120, SVG_PIXELS = 1100, TITLE_BYTES = 256 };

bool dml_trace_timeline(const dml_trace *trace, int64_t step, dml_sim *out)
{
    const dml_program *p = &trace->plan->train;
    dml_arena arena = {0};
    int64_t *start_ns = DML_NEW_N(&arena, int64_t, dml_program_ops(p));
    int64_t *end_ns = DML_NEW_N(&arena, int64_t, dml_program_ops(p));
    bool whole = true;
    for (int32_t w = 0, k = 0; w < p->workers; w++) {
        const dml_recorder r = dml_trace_recorder(trace, w);
        whole = whole && dml_recorder_step(&r, step)->end_ns != 0;
        for (int32_t i = 0; i < r.ops; i++, k++) {
            const dml_trace_span *s = dml_recorder_span(&r, step, i);
            start_ns[k] = s->begin_ns;
            end_ns[k] = s->end_ns;
        }
    }
    if (whole) dml_sim_of_times(p, start_ns, end_ns, out);
    dml_arena_free(&arena);
    return whole;
}

typedef struct length {
    int64_t step, ns;
} length;

static int by_length(const void *a, const void *b)
{
    const length *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    return x->step < y->step ? -1 : x->step > y->step;
}

/* 0: none came to its end. */
static int64_t median_step(const dml_trace *trace)
{
    const dml_step_range steps = trace->plan->spec->logging.trace_steps;
    dml_arena arena = {0};
    length *all = DML_NEW_N(&arena, length, steps.last - steps.first + 1);
    int64_t n = 0;
    for (int64_t step = steps.first; step <= steps.last; step++) {
        dml_sim sim;
        if (!dml_trace_timeline(trace, step, &sim)) continue;
        all[n++] = (length){step, sim.makespan_ns};
        dml_sim_free(&sim);
    }
    qsort(all, (size_t)n, sizeof *all, by_length);
    const int64_t step = n > 0 ? all[(n - 1) / 2].step : 0;
    dml_arena_free(&arena);
    return step;
}

dml_err dml_trace_draw(const dml_trace *trace, FILE *to, int64_t *step)
{
    const dml_plan *plan = trace->plan;
    const char *path = plan->spec->logging.draw;
    dml_sim sim;
    *step = median_step(trace);
    if (*step == 0 || !dml_trace_timeline(trace, *step, &sim)) return DML_ERR_OK;
    char title[TITLE_BYTES];
    dml_str out = {0};
    const dml_recorder r = dml_trace_recorder(trace, 0);
    snprintf(title, sizeof title, "%s, %s as it ran: %.3f ms", plan->spec->run.name,
             dml_trace_step_name(dml_recorder_step(&r, *step)).text,
             (double)sim.makespan_ns * 1e-6);
    if (strcmp(strrchr(path, '.'), ".svg") == 0) {
        dml_draw_svg(&plan->train, &sim, title, SVG_PIXELS, &out);
    } else {
        dml_str_printf(&out, "%s\n", title);
        dml_draw_text(&plan->train, &sim, COLUMNS, &out);
    }
    const bool written = fwrite(dml_str_text(&out), 1, out.len, to) == out.len && fflush(to) == 0;
    dml_str_free(&out);
    dml_sim_free(&sim);
    if (!written) DML_FAIL(DML_ERR_DATA, "cannot write '%s': %s", path, strerror(errno));
    return DML_ERR_OK;
}
