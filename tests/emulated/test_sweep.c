/* tests/emulated/test_sweep.c - every call of a library fails once, and every one that can hang does.
 *
 *   test_sweep [fail|hang [EVERY]]      EVERY: a sample, each EVERY-th place (1)
 *
 * A small network is trained at 2 x 2, again and again; in run n the n-th place of our code that calls the CUDA
 * runtime, cuBLASLt, cuDNN or NCCL on device 0, then on device 3, gets an error or an answer that never comes.
 * Until there is no n-th place.  Every run must end: with an error that names the call and the device, or, where
 * the call only gave something back or the run recovered, with the weights of a run in which nothing fails.
 */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "kernels/cuda/emulation/emulation.h"
#include "tests/support/run_threads.h"

#include <stdbool.h>
#include <stdlib.h>

#define MLP DML_SOURCE_DIR "/tests/specs/emulated-mlp.yaml"
#define CNN DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { SLOW_S = 2 };

static bool hang;
static int32_t every = 1;

/* What a person needs: which call, or the kernel it was for and its queue, and on which device.  Communicators
 * are asked for, and given back, by calls that stand for others and threads that set no device. */
static bool names_it(const char *trail, const char *call, int32_t device)
{
    char text[32];
    snprintf(text, sizeof text, "device %d", device);
    if (strcmp(call, "cudaGetDeviceCount") == 0) return strstr(trail, "CUDA device ");
    if (strncmp(call, "nccl", 4) == 0) return strstr(trail, "nccl") && strstr(trail, "device ");
    if (strcmp(call, "cudaSetDevice") == 0) device = -1; /* the thread is still on another one */
    return (strstr(trail, call) || strstr(trail, "(queue '")) &&
           strstr(trail, device < 0 ? "device " : text);
}

typedef struct place {
    int32_t device;
    int64_t n;
    bool named; /* by some worker: what others meet in consequence may be reported first */
} place;

static void read_trail(void *context, int32_t rank, const char *trail)
{
    (void)rank;
    place *p = context;
    p->named = p->named || names_it(trail, dml_emu_failed(), p->device);
}

/* The workers are about to begin: asking whether there is a device at all is behind us. */
static void arm(void *context, dml_plan *plan)
{
    (void)plan;
    const place *p = context;
    dml_emu_fail(p->device, p->n, hang);
}

/* False: there is no such place. */
static bool try_place(const char *spec, const char *const *overrides, place at, uint64_t weights,
                      int32_t *bad)
{
    dml_emu_fail(-1, 0, false);
    dml_emu_reset();
    at.named = hang;
    const run_hooks hooks = {.plan = arm, .failed = read_trail, .context = &at};
    const int64_t begin_ns = dml_clock_ns();
    const run_result r = run_threads_hooked(spec, overrides, hooks);
    const char *call = dml_emu_failed();
    if (call[0] == '\0') {
        if (r.err != DML_ERR_OK) fail_msg("without a fault: %s", r.trail);
        return false;
    }
    const bool right = r.err == DML_ERR_OK ? r.weights_hash == weights : at.named;
    if (!right) {
        print_message("place %lld of device %d, %s: %s: %s\n", (long long)at.n, at.device, call,
                      dml_err_text(r.err), r.err == DML_ERR_OK ? "wrong weights" : r.trail);
        ++*bad;
    }
    const double s = (double)(dml_clock_ns() - begin_ns) * 1e-9;
    if (s > SLOW_S) print_message("place %lld, %s: %.1f s\n", (long long)at.n, call, s);
    return true;
}

static void sweep(const char *spec, const char **overrides)
{
    /* A failure ends a run by itself; of what hangs the deadline is the end. */
    overrides[0] = hang ? "parallelism.timeout=400ms" : "parallelism.timeout=5s";
    static const int32_t devices[] = {0, 3};
    int32_t tried = 0, bad = 0;
    dml_emu_reset();
    const run_result whole = run_threads(spec, overrides);
    if (whole.err != DML_ERR_OK) fail_msg("without a fault: %s", whole.trail);
    for (int d = 0; d < 2; d++)
        for (place at = {devices[d], 1, false};
             try_place(spec, overrides, at, whole.weights_hash, &bad); at.n += every)
            tried++;
    dml_emu_fail(-1, 0, false);
    dml_emu_reset();
    print_message("%d places, every %d. of devices 0 and 3, %s once: %d unclear\n", tried, every,
                  hang ? "hung" : "failed", bad);
    DML_CHECK(tried * every > 20);
    DML_CHECK_EQ(0, bad);
}

static void a_run_ends_clearly_whichever_call_fails(void **state)
{
    (void)state;
    const char *overrides[] = {"", "training.max_steps=1", "training.numerics=exact", NULL};
    sweep(MLP, overrides);
}

static void also_with_convolutions(void **state)
{
    (void)state;
    const char *overrides[] = {
        "",
        "training.max_steps=1",
        "training.numerics=fast",
        "training.global_batch_size=4",
        "training.micro_batch_size=1",
        "data.samples=4",
        "data.test_samples=4",
        "parallelism.backend=cuda",
        "parallelism.pipeline_parallel_size=2",
        "parallelism.data_parallel_size=2",
        "parallelism.threads_per_worker=1",
        "failures.policy=abort", /* fast sums: a recovered run's bits are its own */
        NULL};
    sweep(CNN, overrides);
}

int main(int argc, char **argv)
{
    hang = argc > 1 && strcmp(argv[1], "hang") == 0;
    if (argc > 2) every = (int32_t)strtol(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_ends_clearly_whichever_call_fails),
        cmocka_unit_test(also_with_convolutions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
