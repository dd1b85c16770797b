/* tests/emulated/test_train.c - whole trainings on emulated GPUs.
 *
 *   test_train [SEED]     threads, blocks and streams in random order by this seed; else forward, eager
 */
#include "tests/support/test.h"

#include "engine/agent.h"
#include "kernels/cuda/emulation/emulation.h"
#include "tests/support/layouts.h"

#include <math.h>
#include <stdlib.h>

#define SPEC(name) DML_SOURCE_DIR "/tests/specs/" name ".yaml"

static const layout two_by_two = {"2", "2", "1f1b", "1"};

static void expect_no_faults(void)
{
    for (int32_t i = 0; i < dml_emu_faults() && dml_emu_fault(i)[0]; i++)
        print_message("%s\n", dml_emu_fault(i));
    DML_CHECK_EQ(0, dml_emu_faults());
}

static double apart(double a, double b)
{
    return fabs(a - b) / fmax(fabs(a), 1e-30);
}

/* The same run on the CPU backend and here: losses of all steps, the test's too. */
static void expect_near_at(const layout *l, const char *spec, const char *const *extra)
{
    const char *overrides[16];
    int n = 0;
    while (extra[n]) {
        overrides[n] = extra[n];
        n++;
    }
    overrides[n + 1] = NULL;
    overrides[n] = "parallelism.backend=cpu";
    const run_result cpu = run_layout(spec, l, overrides);
    overrides[n] = "parallelism.backend=cuda";
    const run_result gpu = run_layout(spec, l, overrides);
    expect_no_faults();
    double worst = apart(cpu.eval.loss, gpu.eval.loss);
    DML_CHECK_EQ(cpu.steps, gpu.steps);
    for (int64_t i = 0; i < cpu.steps; i++)
        worst = fmax(worst, apart(cpu.step[i].loss, gpu.step[i].loss));
    print_message("%lld steps, losses at most %.1e apart\n", (long long)cpu.steps, worst);
    DML_CHECK(worst < 1e-4);
}

static void expect_near(const char *spec, const char *const *extra)
{
    expect_near_at(&two_by_two, spec, extra);
}

static void an_mlp_learns_as_on_the_cpu(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.max_steps=20", NULL};
    expect_near(SPEC("emulated-mlp"), extra);
}

static void vgg8_learns_as_on_the_cpu(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=fast",
                                        "training.max_steps=2",
                                        "training.global_batch_size=4",
                                        "training.micro_batch_size=1",
                                        "data.samples=8",
                                        "data.test_samples=2",
                                        NULL};
    expect_near(SPEC("vgg8-synthetic"), extra);
}

static void resnet20_learns_as_on_the_cpu(void **state)
{
    (void)state;
    static const char *const extra[] = {
        "training.numerics=fast",       "training.max_steps=2",
        "training.global_batch_size=4", "training.micro_batch_size=1",
        "model.input=[1, 8, 8]",        "data.samples=8",
        "data.test_samples=2",          NULL};
    expect_near(SPEC("resnet20-synthetic"), extra);
}

static const layout layouts[] = {
    {"1", "1", "1f1b", "1"},
    {"2", "1", "gpipe", "1"},
    {"2", "2", "1f1b", "1"},
    {"1", "4", "1f1b", "1"},
    {"3", "2", "1f1b", "1"},
    {"2", "2", "sequential", "1"},
    {"3", "1", "gpipe_reverse", "1"},
    {"2", "1", "chimera_doubling", "1"},
    {"4", "1", "csv:" DML_SOURCE_DIR "/tests/golden/family/dualpipe.csv", "1"},
    {"4", "1", "csv:" DML_SOURCE_DIR "/tests/golden/family/zb_v.csv x2", "1"},
    {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]", "-", "auto", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void exact_mode_has_one_hash_over_layouts(void **state)
{
    (void)state;
    static const char *const mlp[] = {"training.numerics=exact", "data.last_batch=short", NULL};
    expect_all_same(SPEC("emulated-mlp"), layouts, LAYOUTS, mlp);
    expect_no_faults();
}

static void exact_mode_of_convolutions_too(void **state)
{
    (void)state;
    static const char *const cnn[] = {"parallelism.backend=cuda", "training.max_steps=2", NULL};
    expect_all_same(SPEC("tiny-cnn"), layouts, 4, cnn);
    expect_no_faults();
}

/* Values that pass stages over: communicators between their ends, buffers of theirs in captured ops. */
static void skips_too(void **state)
{
    (void)state;
    static const char *const plain[] = {"parallelism.backend=cuda", "training.max_steps=2", NULL},
                             *const cut[] = {"parallelism.backend=cuda", "training.max_steps=2",
                                             "parallelism.split=[4, 4, 6, 10]", NULL};
    static const layout whole = {"1", "1", "sequential", "1"},
                        parts[] = {{"4", "1", "1f1b", "1"},
                                   {"2", "1", "interleaved_1f1b x2", "1"},
                                   {"4", "2", "zb_h1", "1"}};
    const run_result want = run_layout(SPEC("u-net"), &whole, plain);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const run_result r = run_layout(SPEC("u-net"), &parts[i], cut);
        expect_same(&want, &r, &parts[i]);
    }
    expect_no_faults();
}

static void low_precision_has_one_hash_too(void **state)
{
    (void)state;
    static const char *const bf16[] = {"training.numerics=exact", "training.precision=bf16", NULL};
    static const char *const fp16[] = {"training.numerics=exact", "training.precision=fp16", NULL};
    expect_all_same(SPEC("emulated-mlp"), layouts, 3, bf16);
    expect_all_same(SPEC("emulated-mlp"), layouts, 3, fp16);
    expect_no_faults();
}

/* RC ops are captured and replayed as the others are. */
static void recomputation_changes_no_bit(void **state)
{
    (void)state;
    static const char *const policies[] = {"full", "selective", "except_last"};
    static const layout split = {"3", "2", "zb_h1", "1"};
    static const layout *const where[] = {&split, &two_by_two, &two_by_two};
    static const char *const plain[] = {"training.numerics=exact", "data.last_batch=short", NULL};
    const run_result a = run_layout(SPEC("emulated-mlp"), &two_by_two, plain);
    for (int k = 0; k < 3; k++) {
        char recompute[64];
        snprintf(recompute, sizeof recompute, "parallelism.recompute=%s", policies[k]);
        const char *const extra[] = {plain[0], plain[1], recompute, NULL};
        const run_result b = run_layout(SPEC("emulated-mlp"), where[k], extra);
        expect_same(&a, &b, where[k]);
    }
    expect_no_faults();
}

/* ---- a change of plan ---- */

/* After steps 1 and 3. */
static const char *const *later(void *context, int64_t step)
{
    static const char *const one[] = {"training.numerics=exact", "training.max_steps=6",
                                      "parallelism.pp=1", "parallelism.dp=4", NULL},
                             *const two[] = {"training.numerics=exact", "training.max_steps=6",
                                             "parallelism.pp=3", "parallelism.dp=1", NULL};
    (void)context;
    return step == 1 ? one : step == 3 ? two : NULL;
}

static void a_change_of_plan_leaves_no_mark(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact", "training.max_steps=6", NULL};
    const run_result want = run_threads(SPEC("emulated-mlp"), extra);
    const run_hooks hooks = {.change = later};
    const run_result r = run_threads_hooked(SPEC("emulated-mlp"), extra, hooks);
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    DML_CHECK_EQ(2, r.changes);
    expect_same(&want, &r, &two_by_two);
    expect_no_faults();
}

static void every_layer_may_be_a_bucket(void **state)
{
    (void)state;
    static const char *const small[] = {"training.numerics=exact", "comm.first_bucket_bytes=1",
                                        "comm.bucket_bytes=1", NULL};
    static const char *const whole[] = {"training.numerics=exact", NULL};
    const run_result a = run_layout(SPEC("emulated-mlp"), &two_by_two, whole);
    const run_result b = run_layout(SPEC("emulated-mlp"), &two_by_two, small);
    expect_same(&a, &b, &two_by_two);
    expect_no_faults();
}

/* Several versions of the weights at once, a step of its own for each captured op, drains. */
static void pipedream_learns_as_on_the_cpu(void **state)
{
    (void)state;
    static const layout async = {"3", "2", "pipedream", "1"};
    static const char *const extra[] = {"training.global_batch_size=4", "training.max_steps=11",
                                        "parallelism.drain_interval=4", NULL};
    expect_near_at(&async, SPEC("emulated-mlp"), extra);
}

static void batches_a_step_late_have_one_hash_too(void **state)
{
    (void)state;
    static const layout late[] = {
        {"1", "1", "2bw", "1"}, {"3", "1", "2bw", "1"}, {"2", "2", "2bw", "1"}};
    static const char *const f32[] = {"training.numerics=exact_wide", "training.max_steps=5",
                                      "data.last_batch=short", NULL};
    static const char *const bf16[] = {"training.numerics=exact_wide", "training.max_steps=4",
                                       "training.precision=bf16", NULL};
    expect_all_same(SPEC("emulated-mlp"), late, 3, f32);
    expect_all_same(SPEC("emulated-mlp"), late, 3, bf16);
    expect_no_faults();
}

/* The host reads votes: in the middle of a segment a stream has none to wait for. */
static void votes_in_a_segment_are_refused(void **state)
{
    (void)state;
    static const char *const overrides[] = {"parallelism.schedule=2bw", "training.grad_clip=1"};
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    char why[256];
    DML_CHECK_OK(dml_spec_load(SPEC("emulated-mlp"), overrides, 2, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "pipedream_2bw runs there without training.grad_clip",
                    dml_agent_backend(&plan, &backend, why, sizeof why));
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

int main(int argc, char **argv)
{
    if (argc > 1) dml_emu_setup(DML_EMU_RANDOM, DML_EMU_LOTTERY, strtoull(argv[1], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_learns_as_on_the_cpu),
        cmocka_unit_test(vgg8_learns_as_on_the_cpu),
        cmocka_unit_test(resnet20_learns_as_on_the_cpu),
        cmocka_unit_test(exact_mode_has_one_hash_over_layouts),
        cmocka_unit_test(exact_mode_of_convolutions_too),
        cmocka_unit_test(skips_too),
        cmocka_unit_test(low_precision_has_one_hash_too),
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(a_change_of_plan_leaves_no_mark),
        cmocka_unit_test(every_layer_may_be_a_bucket),
        cmocka_unit_test(pipedream_learns_as_on_the_cpu),
        cmocka_unit_test(batches_a_step_late_have_one_hash_too),
        cmocka_unit_test(votes_in_a_segment_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
