/* tests/emulated/test_exec.c - the executor on a device whose jobs only enqueue: captured ops, loading on a queue of
 * its own, times by events, memory in one slab.
 *
 * Whole runs of the spec below on emulated GPUs, however their streams progress; the backend's entries are
 * wrapped where something is to be counted or left out.
 */
#include "tests/support/test.h"

#include "tests/support/folded.h"
#include "tests/support/run_threads.h"

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/data_steps.h"
#include "kernels/cuda/emulation/emulation.h"

#include <stdatomic.h>
#include <stdlib.h>

#define SPEC DML_SOURCE_DIR "/tests/specs/emulated-mlp.yaml"

enum { MAX_OVERRIDES = 12 };

static const char one_worker[] = "parallelism.pipeline_parallel_size=1";
static const char one_replica[] = "parallelism.data_parallel_size=1";

/* ---- a backend with entries wrapped; one test at a time ---- */

static const dml_backend *real;
static dml_device_api device;
static dml_kernel_table kernels;
static dml_backend wrapped;
static atomic_int captures, replays, device_blocks, host_blocks;
static atomic_llong device_bytes;

static dml_err count_capture(dml_queue *queue, dml_job job, void *arg, dml_replay **out)
{
    atomic_fetch_add(&captures, 1);
    return real->device->capture(queue, job, arg, out);
}

static dml_err count_replay(dml_queue *queue, dml_replay *replay)
{
    atomic_fetch_add(&replays, 1);
    return real->device->replay(queue, replay);
}

static dml_err count_alloc(dml_device *d, int64_t bytes, void **out)
{
    atomic_fetch_add(&device_blocks, 1);
    atomic_fetch_add(&device_bytes, bytes);
    return real->device->alloc(d, bytes, out);
}

static dml_err count_host_alloc(dml_device *d, int64_t bytes, void **out)
{
    atomic_fetch_add(&host_blocks, 1);
    return real->device->host_alloc(d, bytes, out);
}

static const dml_backend *counted(void *context, const dml_backend *backend)
{
    (void)context; /* of other hooks */
    real = backend;
    device = *backend->device;
    device.capture = count_capture;
    device.replay = count_replay;
    device.alloc = count_alloc;
    device.host_alloc = count_host_alloc;
    wrapped = *backend;
    wrapped.device = &device;
    atomic_store(&captures, 0);
    atomic_store(&replays, 0);
    atomic_store(&device_blocks, 0);
    atomic_store(&host_blocks, 0);
    atomic_store(&device_bytes, 0);
    return &wrapped;
}

static const dml_backend *without_graphs(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    device.capture = NULL;
    return &wrapped;
}

/* ---- runs ---- */

typedef const dml_backend *(*wrapper)(void *, const dml_backend *);

/* `more`: overrides, NULL-terminated; may be NULL. */
static run_result run(wrapper wrap, const char *const *more)
{
    const char *overrides[MAX_OVERRIDES + 1] = {0};
    for (int n = 0; more && more[n] && n < MAX_OVERRIDES; n++)
        overrides[n] = more[n];
    const run_result r = run_threads_hooked(SPEC, overrides, (run_hooks){.backend = wrap});
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    DML_CHECK_EQ(0, dml_emu_faults());
    return r;
}

static void expect_same_bits(const run_result *a, const run_result *b)
{
    DML_CHECK_EQ(a->steps, b->steps);
    for (int64_t i = 0; i < a->steps; i++)
        if (memcmp(&a->step[i].loss, &b->step[i].loss, sizeof(double)) != 0)
            fail_msg("loss of step %lld: %.17g, not %.17g", (long long)b->step[i].step,
                     b->step[i].loss, a->step[i].loss);
    DML_CHECK(memcmp(&a->eval.loss, &b->eval.loss, sizeof(double)) == 0);
    DML_CHECK(a->weights_hash == b->weights_hash);
}

/* Dropout and a short last step in every run, so that what replays must read anew and what is submitted instead of
 * replayed both count. */
static void replays_and_submitted_jobs_give_the_same_bits(void **state)
{
    (void)state;
    static const char *const numerics[] = {"training.numerics=fast", "training.numerics=exact",
                                           "training.numerics=exact_wide"};
    for (size_t i = 0; i < sizeof numerics / sizeof *numerics; i++) {
        const char *const more[] = {numerics[i], "data.last_batch=short", "training.max_steps=5",
                                    NULL};
        dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
        const run_result plain = run(without_graphs, more);
        DML_CHECK_EQ(0, atomic_load(&replays));
        const run_result eager = run(counted, more);
        DML_CHECK(atomic_load(&replays) > 0);
        expect_same_bits(&plain, &eager);
        for (uint64_t seed = 0; seed < 3; seed++) {
            dml_emu_setup(DML_EMU_FORWARD, seed == 0 ? DML_EMU_LAZY : DML_EMU_LOTTERY, seed);
            const run_result other = run(counted, more);
            expect_same_bits(&plain, &other);
        }
    }
}

/* 8 micro-batches: a forward and a backward of each in training, a forward in evaluation. */
static void each_compute_op_is_captured_once_and_then_only_replayed(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const char *const few[] = {one_worker, one_replica, "training.max_steps=2",
                               "training.eval_interval=0", NULL};
    const char *const many[] = {one_worker, one_replica, "training.max_steps=6",
                                "training.eval_interval=0", NULL};
    run(counted, few);
    const int captured = atomic_load(&captures), replayed = atomic_load(&replays);
    DML_CHECK_EQ(3 * 8, captured);
    run(counted, many);
    DML_CHECK_EQ(captured, atomic_load(&captures));
    DML_CHECK_EQ(4 * 16, atomic_load(&replays) - replayed);
}

static void fold(void *context, dml_plan *plan)
{
    plan_folded(plan, *(const bool *)context);
}

/* Edges inside a worker, gradients of inputs and of weights in ops of their own. */
static void several_chunks_on_a_worker_give_the_bits_of_stages_apart(void **state)
{
    (void)state;
    static const char *const more[] = {"training.numerics=exact", "data.last_batch=short",
                                       "training.max_steps=5", NULL};
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    const run_result want = run(NULL, more);
    for (uint64_t seed = 0; seed < 4; seed++) {
        bool split = seed % 2 == 1;
        dml_emu_setup(DML_EMU_FORWARD, seed < 2 ? DML_EMU_LAZY : DML_EMU_LOTTERY, seed);
        const run_hooks hooks = {.plan = fold, .backend = counted, .context = &split};
        const run_result r = run_threads_hooked(SPEC, more, hooks);
        if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
        DML_CHECK_EQ(0, dml_emu_faults());
        DML_CHECK_EQ(2, r.workers);
        expect_same_bits(&want, &r);
    }
}

/* With a ring of one buffer every load waits for the copy before it; with more, several are in flight.  A buffer that
 * went back early would be refilled under its copy. */
static void rings_of_every_depth_load_the_same_batches(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    const char *const first[] = {"data.prefetch=8", NULL};
    const run_result want = run(NULL, first);
    static const char *const depth[] = {"data.prefetch=1", "data.prefetch=2", "data.prefetch=3"};
    for (uint64_t seed = 0; seed < 4; seed++)
        for (size_t i = 0; i < sizeof depth / sizeof *depth; i++) {
            dml_emu_setup(DML_EMU_FORWARD, seed == 0 ? DML_EMU_LAZY : DML_EMU_LOTTERY, seed);
            const char *const more[] = {depth[i], NULL};
            const run_result r = run(NULL, more);
            expect_same_bits(&want, &r);
        }
}

static void ops_take_time_and_no_more_than_the_run(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2; seed++) {
        dml_emu_setup(DML_EMU_FORWARD, seed == 0 ? DML_EMU_EAGER : DML_EMU_LOTTERY, seed);
        const char *const more[] = {"training.max_steps=4", NULL};
        const run_result r = run(NULL, more);
        for (int32_t w = 0; w < r.workers; w++) {
            const dml_report_end *e = &r.end[w];
            DML_CHECK(e->busy_ns > 0 && e->busy_ns <= e->wall_ns);
            DML_CHECK_EQ(1, e->n_chunks);
            DML_CHECK(e->chunk[0].fwd_ns > 0 && e->chunk[0].bwd_ns > 0);
            DML_CHECK(e->chunk[0].reduce_ns > 0 && e->chunk[0].step_ns > 0);
            DML_CHECK(e->stash_peak >= 1 && e->stash_peak <= 2);
        }
    }
}

/* ---- what the compute lane was busy with ---- */

static dml_err one_microsecond(dml_event *begin, dml_event *end, int64_t *ns)
{
    const dml_err err = real->device->elapsed(begin, end, ns);
    *ns = 1000;
    return err;
}

static const dml_backend *timed_evenly(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    device.elapsed = one_microsecond;
    return &wrapped;
}

/* Of 4 steps all but the first: a forward and a backward of 8 micro-batches, an optimizer step, the begin. */
static void busy_is_ops_and_optimizer_and_what_begins_a_step(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    const char *const more[] = {one_worker, one_replica, "training.max_steps=4",
                                "training.eval_interval=2", NULL};
    const run_result r = run(timed_evenly, more);
    DML_CHECK_EQ(3 * (8 + 8 + 1 + 1) * 1000, r.end[0].busy_ns);
}

/* ---- a trace ---- */

/* Every op of step 2 has its times, transfers too, none before what it waits for; VOTE's are the host's. */
static void check_trace(void *context, const dml_trace *trace, const run_result *result)
{
    (void)context;
    (void)result;
    for (int32_t w = 0; w < trace->plan->workers; w++) {
        const dml_op_list *list = &trace->plan->train.list[w];
        const dml_recorder r = dml_trace_recorder(trace, w);
        const dml_trace_step *step = dml_recorder_step(&r, 2);
        DML_CHECK(step->begin_ns > 0 && step->end_ns > step->begin_ns);
        DML_CHECK(dml_recorder_span(&r, 2, list->n)->end_ns >= step->begin_ns);
        for (int32_t i = 0; i < list->n; i++) {
            const dml_trace_span *s = dml_recorder_span(&r, 2, i);
            if (s->begin_ns == 0 || s->end_ns < s->begin_ns)
                fail_msg("%s has no times", dml_op_name_of(&list->op[i]).text);
            DML_CHECK(s->end_ns <= step->end_ns);
            DML_CHECK_EQ(dml_op_info_of((dml_op_kind)list->op[i].kind)->has_peer, s->bytes > 0);
            for (int32_t k = 0; k < DML_OP_WAITS && list->op[i].kind != DML_OP_STEP; k++) {
                const int32_t on = list->op[i].wait[k];
                if (on == DML_NO_WAIT || s->begin_ns >= dml_recorder_span(&r, 2, on)->end_ns)
                    continue;
                fail_msg("%s began before %s was done", dml_op_name_of(&list->op[i]).text,
                         dml_op_name_of(&list->op[on]).text);
            }
        }
    }
}

static void a_trace_has_the_times_of_events(void **state)
{
    (void)state;
    static const char *const more[] = {"logging.trace=trace.json", "logging.trace_steps=2", NULL};
    for (uint64_t seed = 0; seed < 3; seed++) {
        dml_emu_setup(DML_EMU_FORWARD, seed == 0 ? DML_EMU_EAGER : DML_EMU_LOTTERY, seed);
        const run_result r = run_threads_hooked(SPEC, more, (run_hooks){.trace = check_trace});
        if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
        DML_CHECK_EQ(0, dml_emu_faults());
    }
}

/* ---- sums of gradients ---- */

static atomic_int cleared;

/* Slots and maxima are of other types, and a mark is one float. */
static dml_err count_clears(dml_kctx *k, dml_out y, float value)
{
    if ((y->dtype == DML_F32 || y->dtype == DML_I64) && y->dim[0] > 1)
        atomic_fetch_add(&cleared, 1);
    return real->kernels->fill(k, y, value);
}

static const dml_backend *clearing(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    kernels = *backend->kernels;
    kernels.fill = count_clears;
    wrapped.kernels = &kernels;
    atomic_store(&cleared, 0);
    return &wrapped;
}

/* Sums cleared in steps 4 and 5; more[4] and more[5] are the replicas' and the steps' places. */
static int clears_of_steps_4_and_5(const char **more, const char *replicas, run_result *out)
{
    more[4] = replicas;
    more[5] = "training.max_steps=3";
    run(clearing, more);
    const int before = atomic_load(&cleared); /* rehearsals clear, too */
    more[5] = "training.max_steps=5";
    *out = run(clearing, more);
    return atomic_load(&cleared) - before;
}

/* Step 4 has one micro-batch: the second of two replicas has none, and what is left of its sums of step 3 must not
 * count. */
static void sums_are_cleared_only_where_no_backward_stores_them(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    static const char *const numerics[] = {"training.numerics=fast", "training.numerics=exact",
                                           "training.numerics=exact_wide"};
    for (size_t i = 0; i < sizeof numerics / sizeof *numerics; i++) {
        const char *more[] = {
            numerics[i], "data.samples=50", "data.last_batch=short", one_worker, NULL, NULL, NULL};
        run_result alone, two;
        DML_CHECK_EQ(0, clears_of_steps_4_and_5(more, one_replica, &alone));
        DML_CHECK_EQ(1, clears_of_steps_4_and_5(more, "parallelism.data_parallel_size=2", &two));
        if (i > 0) expect_same_bits(&alone, &two);
    }
}

/* What one worker holds: state, activations, and what its transport took. */
static void memory_is_two_slabs_of_the_planned_size(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    static const char *const more[] = {one_worker, one_replica, NULL};
    const run_result r = run(counted, more);
    DML_CHECK_EQ(2, atomic_load(&device_blocks));
    DML_CHECK_EQ(1, atomic_load(&host_blocks));
    dml_spec spec = {0};
    dml_plan plan = {0};
    DML_CHECK_OK(dml_spec_load(SPEC, more, 2, &spec));
    DML_CHECK_OK(dml_data_resolve_steps(&spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    const int64_t taken = r.end[0].memory_bytes;
    DML_CHECK_EQ(dml_plan_worker_bytes(&plan, 0), taken);
    DML_CHECK(atomic_load(&device_bytes) < taken); /* the rest is the transport's */
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

/* ---- algorithms ---- */

static atomic_int plan_only_contexts, chosen;
static _Atomic uint64_t choices_hash[4];

static dml_err count_open(dml_device *d, dml_queue *queue, const dml_kctx_config *config,
                          dml_kctx **out)
{
    if (config->plan_only) atomic_fetch_add(&plan_only_contexts, 1);
    return real->kernels->open(d, queue, config, out);
}

static dml_err note_choice(dml_kctx *k, const void *choices, int64_t bytes)
{
    const int i = atomic_fetch_add(&chosen, 1);
    if (i < 4) atomic_store(&choices_hash[i], dml_hash(choices, bytes, 1));
    return real->kernels->choose(k, choices, bytes);
}

static const dml_backend *choosing(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    kernels = *backend->kernels;
    kernels.open = count_open;
    kernels.choose = note_choice;
    wrapped.kernels = &kernels;
    atomic_store(&plan_only_contexts, 0);
    atomic_store(&chosen, 0);
    return &wrapped;
}

static const dml_backend *choosing_nothing(void *context, const dml_backend *backend)
{
    (void)choosing(context, backend);
    kernels.choices = NULL;
    kernels.choose = NULL;
    return &wrapped;
}

static void the_leader_chooses_for_the_whole_model_and_everyone_takes_it(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const run_result r = run(choosing, NULL);
    DML_CHECK_EQ(1, atomic_load(&plan_only_contexts));
    DML_CHECK_EQ(4, atomic_load(&chosen));
    for (int i = 1; i < 4; i++)
        DML_CHECK(atomic_load(&choices_hash[i]) == atomic_load(&choices_hash[0]));
    const run_result none = run(choosing_nothing, NULL);
    DML_CHECK_EQ(0, atomic_load(&plan_only_contexts));
    expect_same_bits(&r, &none);
}

/* ---- failures ---- */

static void expect_said(const run_result *r, const char *const *said, size_t n)
{
    DML_CHECK_EQ(DML_ERR_PEER, r->err);
    for (size_t i = 0; i < n; i++)
        if (!strstr(r->trail, said[i])) fail_msg("no '%s' in: %s", said[i], r->trail);
}

static atomic_int losses;

static dml_err failing_loss(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,
                            dml_in labels)
{
    if (atomic_fetch_add(&losses, 1) >= 30) DML_FAIL(DML_ERR_PEER, "no loss today");
    return real->kernels->softmax_xent(k, loss, correct, dx, x, labels);
}

static const dml_backend *losing(void *context, const dml_backend *backend)
{
    (void)without_graphs(context, backend);
    kernels = *backend->kernels;
    kernels.softmax_xent = failing_loss;
    wrapped.kernels = &kernels;
    atomic_store(&losses, 0);
    return &wrapped;
}

static void a_failing_call_is_named_with_its_layer_and_op(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const char *const more[] = {
        "failures.policy=abort",    one_worker, one_replica, "training.max_steps=50",
        "training.eval_interval=0", NULL};
    const run_result r = run_threads_hooked(SPEC, more, (run_hooks){.backend = losing});
    static const char *const said[] = {"no loss today", "forward of layer", "in F0.", " of step "};
    expect_said(&r, said, sizeof said / sizeof *said);
}

static atomic_int awaits;

/* As a device that does not come back with a forward of the third step; two waits an op. */
static dml_err failing_await(dml_event *event, int64_t deadline_ns)
{
    if (deadline_ns > 0 && atomic_fetch_add(&awaits, 1) >= 70)
        DML_FAIL(DML_ERR_PEER, "an event of queue 'compute' is not done");
    return real->device->await(event, deadline_ns);
}

static const dml_backend *not_coming_back(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    device.await = failing_await;
    atomic_store(&awaits, 0);
    return &wrapped;
}

static void a_device_that_does_not_come_back_is_reported_with_the_op_it_is_at(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const char *const more[] = {
        "failures.policy=abort",    one_worker, one_replica, "training.max_steps=50",
        "training.eval_interval=0", NULL};
    const run_result r = run_threads_hooked(SPEC, more, (run_hooks){.backend = not_coming_back});
    static const char *const said[] = {"queue 'compute' is not done", "0.", " of step 3",
                                       "the first op not known to be done"};
    expect_said(&r, said, sizeof said / sizeof *said);
}

static const int64_t timeout_ns = 20 * DML_NS_PER_S;
static int64_t seen_done_ns; /* when the wait before ended; one worker */
static int hasty, endless;   /* waits that may last less than the timeout, and more */

static dml_err patient_await(dml_event *event, int64_t deadline_ns)
{
    const bool looks = deadline_ns == 0;
    if (!looks && deadline_ns > dml_clock_ns() + timeout_ns) endless++;
    if (!looks && deadline_ns < seen_done_ns + timeout_ns) hasty++;
    const dml_err err = real->device->await(event, deadline_ns);
    if (!looks) seen_done_ns = dml_clock_ns();
    return err;
}

static dml_err patient_sync(dml_queue *queue, int64_t deadline_ns)
{
    if (deadline_ns > dml_clock_ns() + timeout_ns) endless++;
    return real->device->sync(queue, deadline_ns);
}

static const dml_backend *patient(void *context, const dml_backend *backend)
{
    (void)counted(context, backend);
    device.await = patient_await;
    device.sync = patient_sync;
    seen_done_ns = 0;
    hasty = endless = 0;
    return &wrapped;
}

static void each_op_has_the_whole_timeout_and_no_more(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const char *const more[] = {"failures.policy=abort", one_worker, one_replica,
                                "parallelism.timeout=20s", NULL};
    run(patient, more);
    DML_CHECK(seen_done_ns > 0);
    DML_CHECK_EQ(0, hasty);
    DML_CHECK_EQ(0, endless);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_and_submitted_jobs_give_the_same_bits),
        cmocka_unit_test(each_compute_op_is_captured_once_and_then_only_replayed),
        cmocka_unit_test(several_chunks_on_a_worker_give_the_bits_of_stages_apart),
        cmocka_unit_test(rings_of_every_depth_load_the_same_batches),
        cmocka_unit_test(ops_take_time_and_no_more_than_the_run),
        cmocka_unit_test(a_trace_has_the_times_of_events),
        cmocka_unit_test(busy_is_ops_and_optimizer_and_what_begins_a_step),
        cmocka_unit_test(sums_are_cleared_only_where_no_backward_stores_them),
        cmocka_unit_test(memory_is_two_slabs_of_the_planned_size),
        cmocka_unit_test(the_leader_chooses_for_the_whole_model_and_everyone_takes_it),
        cmocka_unit_test(a_failing_call_is_named_with_its_layer_and_op),
        cmocka_unit_test(a_device_that_does_not_come_back_is_reported_with_the_op_it_is_at),
        cmocka_unit_test(each_op_has_the_whole_timeout_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
