/* A cluster of unequal workers and two levels of links, run: every op takes at least what the plan says it costs there,
 * which holds on any machine, moves the bytes it says, and no bit of the result is another. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#define SPEC DML_SOURCE_DIR "/tests/specs/trace.yaml"

static const char *const layers = "model.layers=[{delay: {forward: 2ms, input: 1ms, weight: 1ms}}, "
                                  "{linear: 32}, {delay: {forward: "
                                  "1ms, input: 2ms, weight: 1ms}}, {linear: 4}]";

/* Two ranks of two replicas: a rank in a box of its own.  The second rank is four times slower, and its second replica
 * slows down again in step 3. */
static const char *const cluster[] = {
    "cluster.speed=[1, 1, 0.25, 0.25]",
    "cluster.links=[{workers: 2, latency: 1ms, bandwidth: 10MB/s}, "
    "{latency: 3ms, bandwidth: 1MB/s}]",
    "cluster.slow=[{worker: 3, speed: 0.125, step: 2}]"};

static run_result run(bool unequal, void (*look)(void *, const dml_trace *, const run_result *))
{
    const char *with[] = {layers,
                          "parallelism.pipeline_parallel_size=2",
                          "parallelism.data_parallel_size=2",
                          "parallelism.split=[2, 3]",
                          "parallelism.schedule=1f1b",
                          "training.global_batch_size=16",
                          "training.micro_batch_size=2",
                          "training.max_steps=4",
                          "training.eval_interval=0",
                          "training.numerics=exact_wide",
                          "logging.trace=" DML_BINARY_DIR "/cluster-run.json",
                          "logging.trace_steps=2-4",
                          unequal ? cluster[0] : NULL,
                          cluster[1],
                          cluster[2],
                          NULL};
    const run_result r = run_threads_hooked(SPEC, with, (run_hooks){.trace = look});
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    return r;
}

static const dml_trace_span *span_of(const dml_trace *t, int32_t worker, int64_t step, int32_t i)
{
    const dml_recorder r = dml_trace_recorder(t, worker);
    return dml_recorder_span(&r, step, i);
}

/* When the last of all that the op meets came to it. */
static int64_t met_ns(const dml_trace *t, int32_t worker, int64_t step, const dml_op *op, int32_t i)
{
    const dml_program *p = &t->plan->train;
    const dml_op other =
        dml_op_info_of((dml_op_kind)op->kind)->has_peer ? dml_op_other_end(p, op) : *op;
    int64_t last_ns = span_of(t, worker, step, i)->begin_ns;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t k = 0; k < p->list[w].n; k++) {
            const dml_op *o = &p->list[w].op[k];
            if (o->kind != other.kind || o->chunk != other.chunk || o->mb != other.mb ||
                o->edge != other.edge)
                continue;
            const int64_t ns = span_of(t, w, step, k)->begin_ns;
            if (ns > last_ns) last_ns = ns;
        }
    return last_ns;
}

static void check_op(const dml_trace *t, int32_t w, int64_t step, int32_t i)
{
    const dml_plan *p = t->plan;
    const dml_op *op = &p->train.list[w].op[i];
    const dml_trace_span *s = span_of(t, w, step, i);
    int64_t ns = dml_op_ns(&p->cost, w, op);
    if (op->kind == DML_OP_STEP || op->kind == DML_OP_VOTE) return; /* arithmetic, and the host's */
    if (w == 3 && step >= 3 && dml_op_lane(op) == DML_LANE_COMPUTE) ns *= 2; /* not in the plan */
    if (dml_op_lane(op) == DML_LANE_COMPUTE) {
        const int64_t delay_ns =
            ns * 9 / 10; /* the rest stands for the linear layers' arithmetic */
        if (s->end_ns - s->begin_ns < delay_ns)
            fail_msg("worker %d, step %lld: %s took %lld ns, not %lld", w, (long long)step,
                     dml_op_name_of(op).text, (long long)(s->end_ns - s->begin_ns), (long long)ns);
        return;
    }
    if (dml_op_lane(op) == DML_LANE_SEND) { /* its lane is free again before the latency is over */
        DML_CHECK_EQ(dml_op_bytes(&p->cost, op), s->bytes);
        return;
    }
    const int64_t took_ns = s->end_ns - met_ns(t, w, step, op, i);
    if (took_ns < ns)
        fail_msg("worker %d, step %lld: %s took %lld ns, not %lld", w, (long long)step,
                 dml_op_name_of(op).text, (long long)took_ns, (long long)ns);
}

static void check_all(void *context, const dml_trace *t, const run_result *result)
{
    (void)context;
    (void)result;
    for (int64_t step = 2; step <= 4; step++)
        for (int32_t w = 0; w < t->plan->workers; w++)
            for (int32_t i = 0; i < t->plan->train.list[w].n; i++)
                check_op(t, w, step, i);
}

static void every_op_takes_what_its_worker_and_its_link_say(void **state)
{
    (void)state;
    const run_result unequal = run(true, check_all), alike = run(false, NULL);
    DML_CHECK_EQ(alike.weights_hash, unequal.weights_hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_takes_what_its_worker_and_its_link_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
