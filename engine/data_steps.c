/* engine/data_steps.c - epochs into steps. */
#include "engine/data_steps.h"

#include "engine/data.h"

enum { TRACED = 3 };

/* The first step meets cold caches, the second their end: three behind them, if the run is that long. */
static dml_err resolve_trace(dml_spec *spec, int64_t total_steps)
{
    static const char key[] = "logging.trace_steps";
    dml_step_range *s = &spec->logging.trace_steps;
    if (s->first > total_steps)
        return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                             "no step to trace: the run has %lld, trace_steps begins at %lld",
                             (long long)total_steps, (long long)s->first);
    const bool chosen = s->first > 0;
    if (!chosen) s->last = 2 * TRACED - 1;
    if (s->last > total_steps) s->last = total_steps;
    if (!chosen) s->first = s->last > TRACED ? s->last - TRACED + 1 : 1;
    return DML_ERR_OK;
}

dml_err dml_data_resolve_steps(dml_spec *spec)
{
    dml_data *data;
    DML_TRY(dml_data_open(spec, false, DML_DATA_COUNTS, &data));
    const int64_t samples = dml_data_count(data), total_steps = dml_data_total_steps(data);
    dml_data_close(data);
    DML_TRY(dml_spec_set_samples(spec, samples));
    const bool traces = spec->logging.trace[0] || spec->logging.draw[0];
    return traces ? resolve_trace(spec, total_steps) : DML_ERR_OK;
}
