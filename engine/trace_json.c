/* engine/trace_json.c - one function per kind of event; nothing is kept, so a long trace takes no memory. */
#include "engine/trace_json.h"

#include "engine/base/hash.h"
#include "engine/base/str.h"
#include "engine/update.h"
#include "schedule/paint.h"
#include "schedule/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { ROW_STEPS, ROW_LANES, ROWS = ROW_LANES + DML_LANES };

typedef struct writer {
    const dml_trace *trace;
    const dml_program *p;
    FILE *to;
    int64_t base_ns; /* what ts counts from */
    int32_t n;       /* events so far */
} writer;

/* A row of the picture: 0 is left out, as pid and tid it is the kernel's idle thread. */
typedef struct place {
    int32_t pid, tid;
} place;

static place place_of(const writer *t, int32_t worker, bool predicted, int32_t row)
{
    const int32_t pid = 1 + worker + (predicted ? t->p->workers : 0);
    return (place){pid, pid * ROWS + row};
}

/* ---- writing ---- */

static void put_us(FILE *to, const char *key, int64_t ns)
{
    const int64_t abs_ns = ns < 0 ? -ns : ns;
    fprintf(to, ",\"%s\":%s%" PRId64 ".%03d", key, ns < 0 ? "-" : "", abs_ns / 1000,
            (int)(abs_ns % 1000));
}

/* {"ph":"X","pid":0,"tid":1,"name":"F0.3": the caller goes on, and closes it. */
static void open_event(writer *t, const char *ph, place at, const char *name)
{
    fprintf(t->to, "%s\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\"", t->n++ ? "," : "",
            ph, at.pid, at.tid, name);
}

/* From begin to end; without an end one that was not done. */
static void open_span(writer *t, place at, const char *name, int64_t begin_ns, int64_t end_ns)
{
    open_event(t, end_ns ? "X" : "B", at, name);
    put_us(t->to, "ts", begin_ns - t->base_ns);
    if (end_ns) put_us(t->to, "dur", end_ns - begin_ns);
}

static void put_instant(writer *t, place at, const char *name, int64_t ns)
{
    open_event(t, "i", at, name);
    put_us(t->to, "ts", ns - t->base_ns);
    fprintf(t->to, ",\"s\":\"t\"}");
}

/* ---- rows ---- */

static void put_name(writer *t, const char *what, place at, const char *name, int32_t sort)
{
    char event[32];
    snprintf(event, sizeof event, "%s_name", what);
    open_event(t, "M", at, event);
    fprintf(t->to, ",\"args\":{\"name\":\"%s\"}}", name);
    snprintf(event, sizeof event, "%s_sort_index", what);
    open_event(t, "M", at, event);
    fprintf(t->to, ",\"args\":{\"sort_index\":%d}}", sort);
}

/* "worker 3, stage 1"; "worker 0, stages 0,2"; the worker first, for viewers that sort by name. */
static void name_worker(writer *t, int32_t worker, bool predicted)
{
    dml_str stages = {0}, name = {0};
    dml_plan_print_stages(t->trace->plan, worker, &stages);
    dml_str_printf(&name, "%sworker %d, stage%s %s", predicted ? "predicted: " : "", worker,
                   strchr(dml_str_text(&stages), ',') ? "s" : "", dml_str_text(&stages));
    const place steps = place_of(t, worker, predicted, ROW_STEPS);
    put_name(t, "process", steps, dml_str_text(&name), steps.pid);
    put_name(t, "thread", steps, "steps", ROW_STEPS);
    for (int32_t lane = 0; lane < DML_LANES; lane++)
        put_name(t, "thread", place_of(t, worker, predicted, ROW_LANES + lane),
                 dml_lane_text((dml_lane)lane), ROW_LANES + lane);
    dml_str_free(&stages);
    dml_str_free(&name);
}

/* ---- ops ---- */

/* The step that the op is of, in a run that begins with step `run`: of a micro-batch's, or an update's first one. */
static int64_t step_of(const writer *t, const dml_op *op, int64_t run)
{
    const bool has_mb = dml_op_info_of((dml_op_kind)op->kind)->has_mb;
    const int32_t mb = has_mb ? op->mb : dml_op_update(t->p, op) * t->p->update_mbs[op->chunk];
    return run + mb / t->trace->plan->mbs;
}

static void put_args(const writer *t, const dml_op *op, int64_t run, int64_t bytes)
{
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    FILE *to = t->to;
    fprintf(to, ",\"args\":{\"step\":%" PRId64, step_of(t, op, run));
    if (op->kind != DML_OP_VOTE) fprintf(to, ",\"chunk\":%d", op->chunk);
    if (info->has_mb) fprintf(to, ",\"micro_batch\":%d", op->mb);
    if (dml_program_is_async(t->p)) fprintf(to, ",\"update\":%d", dml_op_update(t->p, op));
    if (op->edge > 0)
        fprintf(to, ",\"%s\":%d",
                info->has_peer       ? "skip"
                : dml_op_is_part(op) ? "part"
                                     : "bucket",
                op->edge);
    if (op->version != 0) fprintf(to, ",\"version\":%d", op->version);
    if (info->has_peer) fprintf(to, ",\"peer\":%d", op->peer);
    if (bytes > 0) fprintf(to, ",\"bytes\":%" PRId64, bytes);
    fprintf(to, "}}");
}

/* The arrow from a send to its receive: both ends compute the same number, from what the send is called. */
static void put_arrow(writer *t, int32_t worker, bool predicted, const dml_op *op, int64_t run,
                      int64_t begin_ns, int64_t end_ns)
{
    const bool sends = dml_op_lane(op) == DML_LANE_SEND;
    const dml_op send = sends ? *op : dml_op_other_end(t->p, op);
    char key[DML_OP_NAME_BYTES + 64];
    const int n =
        snprintf(key, sizeof key, "%d %d %d %" PRId64 " %s", predicted, sends ? worker : op->peer,
                 sends ? op->peer : worker, run, dml_op_name_of(&send).text);
    const uint64_t id = dml_hash(key, n, 0) >> 12; /* whole in a double */
    open_event(t, sends ? "s" : "f",
               place_of(t, worker, predicted, ROW_LANES + (int32_t)dml_op_lane(op)), "transfer");
    put_us(t->to, "ts", (sends ? begin_ns : end_ns - 1) - t->base_ns);
    fprintf(t->to, ",\"cat\":\"transfer\",\"id\":%" PRIu64 "%s}", id, sends ? "" : ",\"bp\":\"e\"");
}

static void put_op(writer *t, int32_t worker, bool predicted, const dml_op *op, int64_t run,
                   const dml_trace_span *s)
{
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    const place at = place_of(t, worker, predicted, ROW_LANES + (int32_t)info->lane);
    open_span(t, at, dml_op_name_of(op).text, s->begin_ns, s->end_ns);
    fprintf(t->to, ",\"cat\":\"%s\",\"cname\":\"%s\"", info->text,
            dml_paint_of((dml_op_kind)op->kind).trace);
    put_args(t, op, run, s->bytes);
    if (info->has_peer && s->end_ns > s->begin_ns)
        put_arrow(t, worker, predicted, op, run, s->begin_ns, s->end_ns);
}

/* ---- what ran ---- */

static const char *verdict_text(int32_t verdict)
{
    switch ((dml_verdict)verdict) {
    case DML_COMMIT: return "commit";
    case DML_REDO: return "redo";
    case DML_SKIP: return "skip";
    }
    return "?";
}

static void put_step(writer *t, int32_t worker, const dml_trace_step *s)
{
    const place at = place_of(t, worker, false, ROW_STEPS);
    open_span(t, at, dml_trace_step_name(s).text, s->begin_ns, s->end_ns);
    fprintf(t->to, ",\"args\":{\"step\":%" PRId64 ",\"attempts\":%d", s->first, s->attempts);
    if (s->end_ns) fprintf(t->to, ",\"verdict\":\"%s\"", verdict_text(s->verdict));
    fprintf(t->to, "}}");
    if (s->attempts > 1) put_instant(t, at, verdict_text(DML_REDO), s->attempt_ns);
    if (s->end_ns) put_instant(t, at, verdict_text(s->verdict), s->end_ns);
}

static void put_measured(writer *t, int32_t worker, int64_t step)
{
    const dml_recorder r = dml_trace_recorder(t->trace, worker);
    const dml_trace_step *s = dml_recorder_step(&r, step);
    if (!s->begin_ns) return;
    put_step(t, worker, s);
    const dml_trace_span *begin = dml_recorder_span(&r, step, r.ops);
    if (begin->begin_ns) {
        open_span(t, place_of(t, worker, false, ROW_LANES + DML_LANE_COMPUTE), "begin",
                  begin->begin_ns, begin->end_ns);
        fprintf(t->to,
                ",\"cat\":\"begin\",\"cname\":\"generic_work\",\"args\":{\"step\":%" PRId64 "}}",
                s->first);
    }
    for (int32_t i = 0; i < r.ops; i++) {
        const dml_trace_span *span = dml_recorder_span(&r, step, i);
        if (span->begin_ns) put_op(t, worker, false, &t->p->list[worker].op[i], s->first, span);
    }
}

/* As the worker has it that began it first; NULL: none did. */
static const dml_trace_step *first_to_begin(const dml_trace *trace, int64_t step)
{
    const dml_trace_step *first = NULL;
    for (int32_t w = 0; w < trace->plan->workers; w++) {
        const dml_recorder r = dml_trace_recorder(trace, w);
        const dml_trace_step *s = dml_recorder_step(&r, step);
        if (s->begin_ns && (!first || s->begin_ns < first->begin_ns)) first = s;
    }
    return first;
}

/* ---- what was predicted ---- */

static void put_predicted(writer *t, const dml_sim *sim, const dml_trace_step *run,
                          int64_t begin_ns)
{
    for (int32_t w = 0; w < t->p->workers; w++) {
        open_span(t, place_of(t, w, true, ROW_STEPS), dml_trace_step_name(run).text, begin_ns,
                  begin_ns + sim->makespan_ns);
        fprintf(t->to, ",\"args\":{\"step\":%" PRId64 ",\"bubble_ratio\":%.4f}}", run->first,
                dml_sim_bubble(sim, w));
        for (int32_t i = 0; i < t->p->list[w].n; i++) {
            const int32_t k = sim->first[w] + i;
            if (step_of(t, &t->p->list[w].op[i], run->first) > run->last)
                continue; /* a short run */
            const dml_trace_span s = {.begin_ns = begin_ns + sim->start_ns[k],
                                      .end_ns = begin_ns + sim->end_ns[k]};
            put_op(t, w, true, &t->p->list[w].op[i], run->first, &s);
        }
    }
}

/* ---- all of it ---- */

static void put_all(writer *t, const dml_sim *sim)
{
    const dml_step_range steps = t->trace->plan->spec->logging.trace_steps;
    for (int32_t w = 0; w < t->p->workers; w++) {
        name_worker(t, w, false);
        name_worker(t, w, true);
    }
    int64_t free_ns = 0; /* the predicted rows are free again */
    for (int64_t step = steps.first; step <= steps.last && !ferror(t->to); step++) {
        const dml_trace_step *s = first_to_begin(t->trace, step);
        if (!s) continue;
        for (int32_t w = 0; w < t->p->workers; w++)
            put_measured(t, w, step);
        if (free_ns < s->begin_ns) free_ns = s->begin_ns;
        put_predicted(t, sim, s, free_ns);
        free_ns += sim->makespan_ns;
    }
}

dml_err dml_trace_json(const dml_trace *trace, const dml_cost *cost, const char *from, FILE *to)
{
    const dml_plan *plan = trace->plan;
    const dml_step_range steps = plan->spec->logging.trace_steps;
    dml_sim sim;
    DML_TRY(dml_simulate(&plan->train, cost, &sim));
    writer t = {.trace = trace, .p = &plan->train, .to = to};
    for (int64_t step = steps.first; step <= steps.last && !t.base_ns; step++) {
        const dml_trace_step *s = first_to_begin(trace, step);
        t.base_ns = s ? s->begin_ns : 0;
    }
    fprintf(
        to,
        "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"program\":\"dml %s\",\"first_step\":%" PRId64
        ",\"last_step\":%" PRId64 ",\"ts_0_monotonic_ns\":%" PRId64
        ",\"predicted_from\":\"%s\"},\n\"traceEvents\":[",
        DML_VERSION, steps.first, steps.last, t.base_ns, from);
    put_all(&t, &sim);
    fprintf(to, "\n]}\n");
    dml_sim_free(&sim);
    if (fflush(to) != 0 || ferror(to))
        DML_FAIL(DML_ERR_DATA, "cannot write '%s': %s", plan->spec->logging.trace, strerror(errno));
    return DML_ERR_OK;
}
