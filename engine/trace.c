/* engine/trace.c - the memory of a trace, and who writes where. */
#include "engine/trace.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool dml_trace_wanted(const dml_spec *spec)
{
    return spec->logging.trace[0] || spec->logging.draw[0];
}

static int64_t steps_of(const dml_plan *plan)
{
    const dml_step_range s = plan->spec->logging.trace_steps;
    return s.last - s.first + 1;
}

/* Of one step of a worker. */
static int64_t step_bytes(const dml_plan *plan, int32_t worker)
{
    const int64_t spans = (int64_t)plan->train.list[worker].n + 1;
    return (int64_t)sizeof(dml_trace_step) + spans * (int64_t)sizeof(dml_trace_span);
}

/* Of one step of the workers before this one. */
static int64_t step_bytes_before(const dml_plan *plan, int32_t worker)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < worker; w++)
        bytes += step_bytes(plan, w);
    return bytes;
}

/* ---- the mapping ---- */

static dml_err check_bytes(const dml_plan *plan)
{
    static const char key[] = "logging.trace_steps";
    const int64_t each = step_bytes_before(plan, plan->workers), most = DML_TRACE_BYTES / each;
    if (steps_of(plan) <= most) return DML_ERR_OK;
    return dml_spec_fail(plan->spec, dml_spec_place(plan->spec, key), key,
                         "%lld steps of %lld ops do not fit into a trace of 1 GiB; %lld would",
                         (long long)steps_of(plan), (long long)dml_program_ops(&plan->train),
                         (long long)most);
}

dml_err dml_trace_map(const dml_plan *plan, int fd, dml_trace *out)
{
    const int64_t bytes = step_bytes_before(plan, plan->workers) * steps_of(plan);
    struct stat st;
    *out = (dml_trace){0};
    if (fstat(fd, &st) != 0 || st.st_size != bytes)
        DML_FAIL(DML_ERR_BUG, "a trace of %lld bytes, not %lld", (long long)st.st_size,
                 (long long)bytes);
    void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        DML_FAIL(DML_ERR_NOMEM, "a trace of %lld bytes: %s", (long long)bytes, strerror(errno));
    *out = (dml_trace){.plan = plan, .memory = p, .bytes = bytes};
    return DML_ERR_OK;
}

dml_err dml_trace_create(const dml_plan *plan, dml_trace *out, int *fd)
{
    DML_TRY(check_bytes(plan));
    const int64_t bytes = step_bytes_before(plan, plan->workers) * steps_of(plan);
    *fd = memfd_create("dml-trace", MFD_CLOEXEC);
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create(dml-trace): %s", strerror(errno));
    dml_err err;
    const int full = posix_fallocate(*fd, 0, bytes); /* now, not at the first write inside a step */
    if (full)
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "a trace of %lld bytes: %s",
                          (long long)bytes, strerror(full));
    else
        err = dml_trace_map(plan, *fd, out);
    if (err != DML_ERR_OK) close(*fd);
    return err;
}

void dml_trace_close(dml_trace *trace)
{
    if (trace->memory) munmap(trace->memory, (size_t)trace->bytes);
    *trace = (dml_trace){0};
}

/* ---- a worker's part ---- */

dml_recorder dml_trace_recorder(const dml_trace *trace, int32_t worker)
{
    const dml_plan *plan = trace->plan;
    const int64_t steps = steps_of(plan);
    char *part = trace->memory + step_bytes_before(plan, worker) * steps;
    return (dml_recorder){
        .step = (dml_trace_step *)(void *)part,
        .span = (dml_trace_span *)(void *)(part + steps * (int64_t)sizeof(dml_trace_step)),
        .first = plan->spec->logging.trace_steps.first,
        .last = plan->spec->logging.trace_steps.last,
        .ops = plan->train.list[worker].n};
}

/* The first traced step of those that the run makes; 0: none is. */
static int64_t traced_of(const dml_recorder *r, int64_t step, int32_t n)
{
    const int64_t first = step > r->first ? step : r->first;
    return r->step && first <= r->last && first < step + n ? first : 0;
}

static dml_trace_span *spans_of(const dml_recorder *r, int64_t step)
{
    return &r->span[(step - r->first) * ((int64_t)r->ops + 1)];
}

const dml_trace_step *dml_recorder_step(const dml_recorder *r, int64_t step)
{
    return &r->step[step - r->first];
}

const dml_trace_span *dml_recorder_span(const dml_recorder *r, int64_t step, int32_t op)
{
    return &spans_of(r, step)[op];
}

dml_trace_name dml_trace_step_name(const dml_trace_step *step)
{
    dml_trace_name name;
    if (step->first == step->last)
        snprintf(name.text, sizeof name.text, "step %" PRId64, step->first);
    else
        snprintf(name.text, sizeof name.text, "steps %" PRId64 "-%" PRId64, step->first,
                 step->last);
    return name;
}

dml_trace_span *dml_recorder_attempt(const dml_recorder *r, int64_t step, int32_t n)
{
    const int64_t traced = traced_of(r, step, n);
    if (traced == 0) return NULL;
    dml_trace_step *s = &r->step[traced - r->first];
    dml_trace_span *span = spans_of(r, traced);
    s->first = step;
    s->last = step + n - 1;
    s->attempt_ns = dml_clock_ns();
    if (s->attempts++ == 0)
        s->begin_ns = s->attempt_ns;
    else
        memset(span, 0, ((size_t)r->ops + 1) * sizeof *span);
    return span;
}

void dml_recorder_end(const dml_recorder *r, int64_t step, int32_t n, int32_t verdict)
{
    const int64_t traced = traced_of(r, step, n);
    if (traced == 0) return;
    dml_trace_step *s = &r->step[traced - r->first];
    s->verdict = verdict;
    s->end_ns = dml_clock_ns();
}
