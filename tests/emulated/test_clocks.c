/* tests/emulated/test_clocks.c - host code that forgets to wait is found, in every order of streams.
 *
 * A double-buffered pipeline of three streams, this file's own memory accesses instrumented as a kernel's:
 *
 *   host fills in[b] -> up: copy to x[b] -> compute: y[b] = 2 x[b] -> down: copy to out[turn] -> host reads
 *
 * Right as it is, and once with each fault.
 */
#include "tests/support/test.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/host_step.h"

#include <stdlib.h>

enum { TURNS = 6, N = 1000, BYTES = N * 4, SEEDS = 20 };

/* clang-format off */
/*    fault           what is reported                                                                       */
#define FAULT_LIST(X)                                                                                         \
    X(NONE,           "")                                                                                     \
    X(REFILL_EARLY,   "a wait is missing") /* the host fills in[b] before its last copy is done            */ \
    X(OVERWRITE,      "a wait is missing") /* the next copy does not wait for who still reads x[b]         */ \
    X(NOT_UPLOADED,   "a wait is missing") /* compute does not wait for the copy to x[b]                   */ \
    X(BACK_EARLY,     "a wait is missing") /* the copy to the host does not wait for compute               */ \
    X(WRONG_EVENT,    "a wait is missing") /* ... waits for an event that nobody ever recorded             */ \
    X(WRONG_STREAM,   "a wait is missing") /* the host waits for compute and reads what down copies        */ \
    X(TOO_FAR,        "outside of any block") /* compute writes one element past y[b]                      */ \
    X(HOST_READS,     "the host reads device memory itself")                                                  \
    X(FREED,          "outside of any block") /* x[1] is used after it was freed                           */
/* clang-format on */
typedef enum fault {
#define X(name, text) name,
    FAULT_LIST(X)
#undef X
} fault;
#define X(name, text) +1
enum { FAULTS = 0 FAULT_LIST(X) };
#undef X

typedef struct kernel {
    const int *x;
    int *y;
    size_t n;
} kernel;

static void twice(void *arg)
{
    const kernel *k = arg;
    dml_emu_touch(k->x, N * sizeof *k->x, false);
    dml_emu_touch(k->y, k->n * sizeof *k->y, true);
}

static void ok(cudaError_t status)
{
    if (status != cudaSuccess && dml_emu_faults() == 0) fail_msg("%s", cudaGetErrorString(status));
}

static void await(cudaEvent_t e)
{
    cudaError_t status;
    while ((status = cudaEventQuery(e)) == cudaErrorNotReady) {
    }
    ok(status);
}

static void finish(cudaStream_t s)
{
    cudaError_t status;
    while ((status = cudaStreamQuery(s)) == cudaErrorNotReady) {
    }
    ok(status);
}

static void run(fault f)
{
    cudaStream_t up, compute, down;
    cudaEvent_t uploaded[2], computed[2], downloaded[2], never;
    int *in[2], *x[2], *y[2], *out;
    cudaStream_t *const streams[] = {&up, &compute, &down};
    for (int i = 0; i < 3; i++)
        ok(cudaStreamCreateWithFlags(streams[i], cudaStreamNonBlocking));
    ok(cudaEventCreateWithFlags(&never, cudaEventDisableTiming));
    ok(cudaHostAlloc((void **)&out, TURNS * BYTES, cudaHostAllocDefault));
    for (int b = 0; b < 2; b++) {
        ok(cudaHostAlloc((void **)&in[b], BYTES, cudaHostAllocDefault));
        ok(cudaMalloc((void **)&x[b], BYTES));
        ok(cudaMalloc((void **)&y[b], BYTES));
        ok(cudaEventCreateWithFlags(&uploaded[b], cudaEventDisableTiming));
        ok(cudaEventCreateWithFlags(&computed[b], cudaEventDisableTiming));
        ok(cudaEventCreateWithFlags(&downloaded[b], cudaEventDisableTiming));
    }
    for (int turn = 0; turn < TURNS && dml_emu_faults() == 0; turn++) {
        const int b = turn % 2;
        if (f != REFILL_EARLY) await(uploaded[b]);
        for (int i = 0; i < N; i++)
            in[b][i] = turn + i;
        if (f != OVERWRITE) ok(cudaStreamWaitEvent(up, computed[b], 0));
        ok(cudaMemcpyAsync(x[b], in[b], BYTES, cudaMemcpyDefault, up));
        ok(cudaEventRecord(uploaded[b], up));
        if (f != NOT_UPLOADED) ok(cudaStreamWaitEvent(compute, uploaded[b], 0));
        ok(cudaStreamWaitEvent(compute, downloaded[b], 0));
        const kernel k = {x[b], y[b], f == TOO_FAR ? N + 1 : N};
        ok(dml_emu_host_call(compute, twice, &k, sizeof k));
        ok(cudaEventRecord(computed[b], compute));
        if (f != BACK_EARLY)
            ok(cudaStreamWaitEvent(down, f == WRONG_EVENT ? never : computed[b], 0));
        ok(cudaMemcpyAsync(out + turn * N, y[b], BYTES, cudaMemcpyDefault, down));
        ok(cudaEventRecord(downloaded[b], down));
    }
    finish(f == WRONG_STREAM ? compute : down);
    volatile int sum = 0;
    for (int i = 0; i < TURNS * N; i++)
        sum += out[i];
    if (f == HOST_READS) sum += y[0][0];
    finish(up);
    finish(down);
    if (f == FREED) {
        ok(cudaFree(x[1]));
        ok(cudaMemcpyAsync(y[0], x[1], 0, cudaMemcpyDefault, up)); /* nothing: fine */
        const kernel k = {x[1], y[0], N};
        ok(dml_emu_host_call(compute, twice, &k, sizeof k));
        finish(compute);
    }
}

/* Each run leaves its memory: after a fault a device takes no more calls. */
static void one_order(dml_emu_streams streams, uint64_t seed)
{
    static const char *const wanted[FAULTS] = {
#define X(name, text) text,
        FAULT_LIST(X)
#undef X
    };
    for (int f = 0; f < FAULTS; f++) {
        dml_emu_clear();
        dml_emu_setup(DML_EMU_FORWARD, streams, seed);
        run((fault)f);
        if ((dml_emu_faults() > 0) != (f != NONE) || !strstr(dml_emu_fault(0), wanted[f]))
            fail_msg("fault %d, streams %d, seed %d: '%s'", f, (int)streams, (int)seed,
                     dml_emu_fault(0));
        dml_emu_clear();
    }
}

static void each_is_found_eagerly_and_lazily(void **state)
{
    (void)state;
    one_order(DML_EMU_EAGER, 0);
    one_order(DML_EMU_LAZY, 0);
}

static void each_is_found_under_every_seed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        one_order(DML_EMU_LOTTERY, seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_found_eagerly_and_lazily),
        cmocka_unit_test(each_is_found_under_every_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
