/* tests/engine/test_trace.c - what is recorded of a run, and what becomes of it in files. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"
#include "tests/support/trace_read.h"

#include "engine/data_steps.h"
#include "engine/trace_draw.h"
#include "engine/trace_json.h"
#include "engine/update.h"

#include <stdlib.h>
#include <unistd.h>

#define SPEC DML_SOURCE_DIR "/tests/specs/trace.yaml"

enum { MAX_OPS = 1024 };

/* ---- helpers ---- */

static void write_json(const dml_trace *trace, const char *path)
{
    FILE *f = fopen(path, "w");
    DML_CHECK(f);
    DML_CHECK_OK(dml_trace_json(trace, &trace->plan->cost, "a test", f));
    fclose(f);
}

static void temporary(char *path, const char *end)
{
    sprintf(path, DML_BINARY_DIR "/trace-XXXXXX%s", end);
    const int fd = mkstemps(path, (int)strlen(end));
    DML_CHECK(fd >= 0);
    close(fd);
}

/* Into `out`, through a file. */
static void read_back(const dml_trace *trace, trace_file *out)
{
    char path[256];
    temporary(path, ".json");
    write_json(trace, path);
    const char *wrong = trace_read(path, out);
    unlink(path);
    if (wrong) fail_msg("%s", wrong);
}

/* The spans of a worker in a run of the program, which makes the steps first .. last, by op; each op once. */
static void spans_by_op(const trace_file *f, const dml_program *p, int32_t worker, int64_t first,
                        int64_t last, bool predicted, const trace_span **out)
{
    const dml_op_list *list = &p->list[worker];
    int32_t ops = 0;
    DML_CHECK(list->n <= MAX_OPS);
    memset(out, 0, (size_t)list->n * sizeof *out);
    for (int32_t k = 0; k < f->n; k++) {
        const trace_span *s = &f->span[k];
        if (s->worker != worker || s->predicted != predicted) continue;
        if (s->step < first || s->step > last) continue;
        if (strcmp(s->row, "steps") == 0 || strcmp(s->name, "begin") == 0) continue;
        ops++;
        for (int32_t i = 0; i < list->n; i++) {
            if (strcmp(s->name, dml_op_name_of(&list->op[i]).text) != 0) continue;
            if (out[i]) fail_msg("%s of step %lld is there twice", s->name, (long long)s->step);
            assert_string_equal(s->row, dml_lane_text(dml_op_lane(&list->op[i])));
            out[i] = s;
        }
    }
    DML_CHECK_EQ(list->n, ops);
    for (int32_t i = 0; i < list->n; i++)
        if (!out[i]) fail_msg("%s is not there", dml_op_name_of(&list->op[i]).text);
}

static int64_t arg(const trace_span *s, const char *key)
{
    const json_t *v = json_object_get(s->args, key);
    return v ? json_integer_value(v) : -1;
}

/* What an op's arguments say, and that it began after what it waits for. */
static void check_op(const dml_op_list *list, int32_t i, const trace_span *const *at)
{
    const dml_op *op = &list->op[i];
    const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
    DML_CHECK_EQ(info->has_peer ? op->peer : -1, arg(at[i], "peer"));
    DML_CHECK_EQ(info->has_mb ? op->mb : -1, arg(at[i], "micro_batch"));
    DML_CHECK_EQ(dml_op_is_part(op) ? op->edge : -1, arg(at[i], "part"));
    if (op->kind != DML_OP_VOTE) DML_CHECK_EQ(op->chunk, arg(at[i], "chunk"));
    for (int32_t w = 0; w < DML_OP_WAITS; w++)
        if (op->wait[w] != DML_NO_WAIT && at[i]->begin_ns < at[op->wait[w]]->end_ns)
            fail_msg("%s began before %s was done", at[i]->name, at[op->wait[w]]->name);
    for (int32_t j = i - 1; j >= 0; j--) { /* the lane's order is the list's */
        if (dml_op_lane(&list->op[j]) != dml_op_lane(op)) continue;
        DML_CHECK(at[i]->begin_ns >= at[j]->end_ns);
        break;
    }
}

static run_result traced(const char *const *overrides,
                         void (*look)(void *, const dml_trace *, const run_result *))
{
    const run_result r = run_threads_hooked(SPEC, overrides, (run_hooks){.trace = look});
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    return r;
}

/* ---- runs ---- */

static void check_all(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    const dml_program *p = &trace->plan->train;
    const trace_span *at[MAX_OPS];
    trace_file f;
    read_back(trace, &f);
    DML_CHECK_EQ(p->workers, f.workers);
    int32_t sends = 0;
    for (int predicted = 0; predicted < 2; predicted++)
        for (int64_t step = 2; step <= 3; step++)
            for (int32_t w = 0; w < p->workers; w++) {
                spans_by_op(&f, p, w, step, step, predicted, at);
                for (int32_t i = 0; i < p->list[w].n; i++) {
                    check_op(&p->list[w], i, at);
                    const bool send = dml_op_lane(&p->list[w].op[i]) == DML_LANE_SEND;
                    /* 2 samples of 16 floats */
                    if (send && !predicted) DML_CHECK_EQ(2 * 16 * 4, arg(at[i], "bytes"));
                    sends += send && !predicted;
                }
            }
    DML_CHECK_EQ(2 * p->workers, f.instants[DML_COMMIT]);
    DML_CHECK_EQ(0, f.instants[DML_REDO] + f.instants[DML_SKIP]);
    DML_CHECK(f.arrows >= sends); /* predicted transfers take no time here, and have none */
    DML_CHECK_EQ(0, f.loose);
    trace_free(&f);
}

static void every_op_of_the_traced_steps_is_there_once_after_what_it_waits_for(void **state)
{
    (void)state;
    static const char *const replicas[] = {"parallelism.data_parallel_size=2", NULL};
    static const char *const zero_bubble[] = {"parallelism.schedule=zb_h1", NULL};
    static const char *const interleaved[] = {"parallelism.schedule=interleaved_1f1b",
                                              "parallelism.virtual_pipeline_stages=2", NULL};
    static const char *const buckets[] = {"parallelism.pipeline_parallel_size=1",
                                          "parallelism.data_parallel_size=2",
                                          "comm.first_bucket_bytes=1", "comm.bucket_bytes=1", NULL};
    static const char *const chimera[] = {"parallelism.schedule=chimera", NULL};
    static const char *const placed[] = {
        "parallelism.stages=[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]",
        "parallelism.schedule=auto", "parallelism.split=auto", NULL};
    static const char *const recomputed[] = {"parallelism.recompute=full", NULL};
    traced(NULL, check_all);
    traced(recomputed, check_all);
    traced(placed, check_all);
    traced(replicas, check_all);
    traced(zero_bubble, check_all);
    traced(interleaved, check_all);
    traced(buckets, check_all);
    traced(chimera, check_all);
}

/* Of steps 2 and 3 the one is made by the run that makes 1 and 2, the other by that of 3 and 4. */
static void check_segments(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    const dml_program *p = &trace->plan->train;
    const trace_span *at[MAX_OPS];
    trace_file f;
    read_back(trace, &f);
    for (int predicted = 0; predicted < 2; predicted++)
        for (int64_t first = 1; first <= 3; first += 2)
            for (int32_t w = 0; w < p->workers; w++) {
                spans_by_op(&f, p, w, first, first + 1, predicted, at);
                for (int32_t i = 0; i < p->list[w].n; i++) {
                    const int32_t update = dml_op_update(p, &p->list[w].op[i]);
                    check_op(&p->list[w], i, at);
                    DML_CHECK_EQ(update, arg(at[i], "update"));
                    DML_CHECK_EQ(first + update, at[i]->step);
                }
            }
    for (int32_t i = 0; i < f.n; i++)
        if (strcmp(f.span[i].row, "steps") == 0)
            assert_string_equal(f.span[i].step == 1 ? "steps 1-2" : "steps 3-4", f.span[i].name);
    DML_CHECK_EQ(0, f.loose);
    trace_free(&f);
}

static void a_run_of_several_steps_is_there_whole(void **state)
{
    (void)state;
    static const char *const plain[] = {"parallelism.schedule=pipedream_2bw",
                                        "parallelism.drain_interval=2", NULL};
    static const char *const voted[] = {"parallelism.schedule=pipedream_2bw",
                                        "parallelism.drain_interval=2", "training.grad_clip=1",
                                        NULL};
    traced(plain, check_segments);
    traced(voted, check_segments);
}

static void check_drawing(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    const dml_program *p = &trace->plan->train;
    static char text[1 << 17];
    FILE *f = fmemopen(text, sizeof text, "w");
    int64_t step;
    DML_CHECK_OK(dml_trace_draw(trace, f, &step));
    fclose(f);
    DML_CHECK(step == 2 || step == 3);
    DML_CHECK(strstr(text, "as it ran"));
    const char *at = text;
    for (int32_t w = 0; w < p->workers; w++) {
        double right = 0.0;
        for (int32_t i = 0; i < p->list[w].n; i++) {
            if (dml_op_lane(&p->list[w].op[i]) != DML_LANE_COMPUTE) continue;
            char title[64];
            double x, width;
            snprintf(title, sizeof title, "<title>%s:", dml_op_name_of(&p->list[w].op[i]).text);
            at = strstr(at, title);
            if (!at) fail_msg("%s of worker %d is not drawn in its turn", title, w);
            DML_CHECK_EQ(1, sscanf(strstr(at, " x=\""), " x=\"%lf", &x));
            DML_CHECK_EQ(1, sscanf(strstr(at, " width=\""), " width=\"%lf", &width));
            DML_CHECK(x >= right - 0.011); /* two decimals */
            right = x + width;
        }
    }
}

static void a_drawing_shows_the_ops_of_the_program_in_its_order(void **state)
{
    (void)state;
    static const char *const one[] = {"logging.draw=step.svg", NULL};
    static const char *const split[] = {"logging.draw=step.svg", "parallelism.schedule=zb_h1",
                                        NULL};
    traced(one, check_drawing);
    traced(split, check_drawing);
}

static void check_redone(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    const dml_program *p = &trace->plan->train;
    const trace_span *at[MAX_OPS];
    trace_file f;
    int32_t redone = 0;
    read_back(trace, &f);
    for (int32_t w = 0; w < p->workers; w++)
        for (int64_t step = 1; step <= 4; step++) {
            const dml_recorder r = dml_trace_recorder(trace, w);
            const dml_trace_step *s = dml_recorder_step(&r, step);
            DML_CHECK(s->attempt_ns >= s->begin_ns && s->end_ns > s->attempt_ns);
            DML_CHECK(dml_recorder_span(&r, step, 0)->begin_ns >= s->attempt_ns);
            if (s->attempts < 2 || s->verdict != DML_COMMIT) continue;
            spans_by_op(&f, p, w, step, step, false, at);
            redone++;
        }
    DML_CHECK(redone >= p->workers);
    DML_CHECK_EQ(redone, f.instants[DML_REDO]);
    trace_free(&f);
}

/* Gradients that grow a hundredfold at once leave the range of their exact scales. */
static void a_step_that_was_redone_shows_its_last_attempt(void **state)
{
    (void)state;
    static const char *const overrides[] = {"training.numerics=exact", "optimizer.lr=100",
                                            "logging.trace_steps=1-4", NULL};
    traced(overrides, check_redone);
}

/* As if worker 1 had been killed in its second forward of step 3. */
static void check_broken(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    const dml_recorder r = dml_trace_recorder(trace, 1);
    dml_trace_step *step = (dml_trace_step *)dml_recorder_step(&r, 3);
    step->end_ns = 0;
    bool after = false;
    int32_t done = 0;
    for (int32_t i = 0; i < r.ops; i++) {
        dml_trace_span *s = (dml_trace_span *)dml_recorder_span(&r, 3, i);
        const bool here = !after && trace->plan->train.list[1].op[i].kind == DML_OP_FWD && done > 1;
        if (here) s->end_ns = 0;
        if (after) *s = (dml_trace_span){0};
        after = after || here;
        done += !after;
    }
    trace_file f;
    read_back(trace, &f);
    int32_t ran = 0, open = 0;
    for (int32_t i = 0; i < f.n; i++) {
        const trace_span *s = &f.span[i];
        if (s->predicted || s->worker != 1 || s->step != 3) continue;
        ran += strcmp(s->row, "steps") != 0 && strcmp(s->name, "begin") != 0;
        open += s->end_ns == -1;
    }
    DML_CHECK_EQ(done + 1, ran);
    DML_CHECK_EQ(2, open); /* the forward and the step */
    trace_free(&f);
    dml_sim sim;
    DML_CHECK(!dml_trace_timeline(trace, 3, &sim));
    DML_CHECK(dml_trace_timeline(trace, 2, &sim));
    dml_sim_free(&sim);
}

static void what_was_not_done_has_no_end(void **state)
{
    (void)state;
    traced(NULL, check_broken);
}

static void check_short(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    DML_CHECK_EQ(2, result->steps);
    const dml_recorder r = dml_trace_recorder(trace, 0);
    DML_CHECK(dml_recorder_step(&r, 2)->end_ns > 0);
    const dml_op_list *list = &trace->plan->train.list[0];
    for (int32_t i = 0; i < list->n; i++) /* 4 samples in 2 of 4 micro-batches */
        DML_CHECK_EQ(list->op[i].mb<2, dml_recorder_span(&r, 2, i)->end_ns> 0);
    dml_sim sim;
    DML_CHECK(dml_trace_timeline(trace, 2, &sim));
    dml_sim_free(&sim);
}

static void ops_of_micro_batches_without_samples_did_not_run(void **state)
{
    (void)state;
    static const char *const overrides[] = {"data.samples=12", "data.last_batch=short",
                                            "training.max_steps=2", "logging.trace_steps=2", NULL};
    traced(overrides, check_short);
}

/* ---- the recorder ---- */

static void an_attempt_begins_with_an_empty_record_of_its_step_alone(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    dml_trace trace;
    int fd;
    DML_CHECK_OK(dml_spec_load(SPEC, NULL, 0, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_OK(dml_trace_create(&plan, &trace, &fd));
    close(fd);
    const dml_recorder r = dml_trace_recorder(&trace, 0), other = dml_trace_recorder(&trace, 1);
    DML_CHECK(!dml_recorder_attempt(&r, 1, 1) && !dml_recorder_attempt(&r, 4, 1));
    DML_CHECK(!dml_recorder_attempt(&(dml_recorder){0}, 2, 1));
    dml_recorder_end(&r, 4, 1, DML_COMMIT);
    dml_trace_span *span = dml_recorder_attempt(&r, 2, 1);
    for (int32_t i = 0; i <= r.ops; i++)
        span[i] = (dml_trace_span){1, 2, 3};
    const int64_t begin_ns = dml_recorder_step(&r, 2)->begin_ns;
    DML_CHECK(dml_recorder_attempt(&r, 2, 1) == span);
    for (int32_t i = 0; i <= r.ops; i++)
        DML_CHECK_EQ(0, span[i].begin_ns + span[i].end_ns + span[i].bytes);
    DML_CHECK_EQ(begin_ns, dml_recorder_step(&r, 2)->begin_ns);
    DML_CHECK(dml_recorder_step(&r, 2)->attempt_ns >= begin_ns);
    DML_CHECK_EQ(0, dml_recorder_step(&r, 3)->begin_ns + dml_recorder_step(&r, 3)->end_ns);
    span[r.ops].end_ns = 7; /* the last of the step: nothing of the next one, nor of worker 1 */
    DML_CHECK_EQ(0, dml_recorder_span(&r, 3, 0)->end_ns);
    span = dml_recorder_attempt(&r, 3, 1);
    span[r.ops].end_ns = 7;
    DML_CHECK_EQ(0, dml_recorder_step(&other, 2)->begin_ns);
    dml_trace_close(&trace);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

/* Steps 2 and 3 are traced: of runs of 4 the first makes both, of runs of 2 each makes one. */
static void a_run_of_several_steps_is_recorded_once_where_it_makes_a_traced_one(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    dml_trace trace;
    int fd;
    DML_CHECK_OK(dml_spec_load(SPEC, NULL, 0, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_OK(dml_trace_create(&plan, &trace, &fd));
    close(fd);
    const dml_recorder four = dml_trace_recorder(&trace, 0), two = dml_trace_recorder(&trace, 1);
    DML_CHECK(dml_recorder_attempt(&four, 1, 4) && !dml_recorder_attempt(&four, 5, 4));
    dml_recorder_end(&four, 1, 4, DML_COMMIT);
    dml_recorder_end(&four, 5, 4, DML_SKIP);
    const dml_trace_step *s = dml_recorder_step(&four, 2);
    DML_CHECK(s->first == 1 && s->last == 4 && s->end_ns > 0 && s->verdict == DML_COMMIT);
    DML_CHECK_EQ(0, dml_recorder_step(&four, 3)->begin_ns);
    for (int64_t step = 1; step < 7; step += 2)
        DML_CHECK_EQ(step < 4, dml_recorder_attempt(&two, step, 2) != NULL);
    DML_CHECK_EQ(1, dml_recorder_step(&two, 2)->first);
    DML_CHECK_EQ(3, dml_recorder_step(&two, 3)->first);
    dml_trace_close(&trace);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

/* ---- which steps ---- */

static dml_err resolve(const char *max_steps, const char *steps, dml_spec *spec)
{
    const char *const overrides[] = {max_steps, steps};
    DML_CHECK_OK(dml_spec_load(SPEC, overrides, 2, spec));
    return dml_data_resolve_steps(spec);
}

static void steps_are_chosen_behind_the_warm_up_and_cut_to_the_run(void **state)
{
    (void)state;
    static const struct {
        const char *run, *steps;
        int64_t first, last;
    } known[] = {
        {"training.max_steps=20", "logging.trace_steps=auto", 3, 5},
        {"training.max_steps=4", "logging.trace_steps=auto", 2, 4},
        {"training.max_steps=2", "logging.trace_steps=auto", 1, 2},
        {"training.max_steps=1", "logging.trace_steps=auto", 1, 1},
        {"training.max_steps=20", "logging.trace_steps=9-100", 9, 20},
        {"training.max_steps=20", "logging.trace_steps=20", 20, 20},
    };
    dml_spec spec;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        DML_CHECK_OK(resolve(known[i].run, known[i].steps, &spec));
        DML_CHECK_EQ(known[i].first, spec.logging.trace_steps.first);
        DML_CHECK_EQ(known[i].last, spec.logging.trace_steps.last);
        dml_spec_free(&spec);
    }
    DML_CHECK_FAILS(DML_ERR_SPEC, "no step to trace: the run has 20, trace_steps begins at 30",
                    resolve("training.max_steps=20", "logging.trace_steps=30-40", &spec));
    dml_spec_free(&spec);
}

static void a_trace_that_would_fill_the_memory_is_refused(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    dml_trace trace;
    int fd;
    DML_CHECK_OK(resolve("training.max_steps=100000000", "logging.trace_steps=1-90000000", &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_FAILS(DML_ERR_SPEC, "do not fit into a trace of 1 GiB; ",
                    dml_trace_create(&plan, &trace, &fd));
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_of_the_traced_steps_is_there_once_after_what_it_waits_for),
        cmocka_unit_test(a_run_of_several_steps_is_there_whole),
        cmocka_unit_test(a_drawing_shows_the_ops_of_the_program_in_its_order),
        cmocka_unit_test(a_step_that_was_redone_shows_its_last_attempt),
        cmocka_unit_test(what_was_not_done_has_no_end),
        cmocka_unit_test(ops_of_micro_batches_without_samples_did_not_run),
        cmocka_unit_test(an_attempt_begins_with_an_empty_record_of_its_step_alone),
        cmocka_unit_test(a_run_of_several_steps_is_recorded_once_where_it_makes_a_traced_one),
        cmocka_unit_test(steps_are_chosen_behind_the_warm_up_and_cut_to_the_run),
        cmocka_unit_test(a_trace_that_would_fill_the_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
