/* tests/kernels/cuda/test_faults.c - the emulator finds planted faults, each pass those it should.
 *
 *   test_faults fast|hooks|asan     as which of the three builds it was linked
 *
 * Every run is a process of its own: a sanitizer ends it at the first finding.
 */
#include "tests/support/test.h"

#include "kernels/cuda/emulation/emulation.h"
#include "tests/kernels/cuda/faults.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum pass { FAST, HOOKS, ASAN } pass;

typedef struct fault_case {
    const char *name;
    cudaError_t (*launch)(float *out, const float *in, cudaStream_t stream);
    bool orders[3], hooks, asan;
} fault_case;

static const fault_case cases[] = {
#define X(name, fwd, rev, random, hooks, asan) \
    {#name, fault_##name, {fwd, rev, random}, hooks, asan},
    FAULT_LIST(X)
#undef X
};
enum { CASES = sizeof cases / sizeof *cases };

static pass this_pass;

/* What a child says: one of these, or anything else when a sanitizer or a signal ended it. */
enum { SILENT = 0, WRONG = 40, REPORTED = 41 };

static int run_case(const fault_case *f, dml_emu_order order)
{
    dml_emu_setup(order, DML_EMU_EAGER, 7);
    cudaStream_t stream;
    float *in, *out;
    const size_t bytes = FAULT_ELEMS * sizeof(float);
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaMalloc((void **)&in, bytes) != cudaSuccess ||
        cudaMalloc((void **)&out, bytes) != cudaSuccess ||
        cudaMemset(out, 0, bytes) != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess)
        abort();
    for (int i = 0; i < FAULT_ELEMS; i++)
        in[i] = (float)(i + 1);
    const cudaError_t status = f->launch(out, in, stream);
    bool right = true;
    for (int i = 0; i < FAULT_ELEMS; i++)
        right = right && out[i] == (float)(i + 2);
    cudaFree(in);
    cudaFree(out);
    if (status != cudaSuccess || dml_emu_faults() > 0) return REPORTED;
    return right ? SILENT : WRONG;
}

/* Whether anything was found, in a child whose report nobody needs to read. */
static bool found(const fault_case *f, dml_emu_order order)
{
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        _exit(run_case(f, order));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != SILENT;
}

static void is_found_as_the_table_says(void **state)
{
    const fault_case *f = *state;
    for (int order = DML_EMU_FORWARD; order <= DML_EMU_RANDOM; order++) {
        const bool want = this_pass == HOOKS  ? f->hooks || f->orders[order]
                          : this_pass == ASAN ? f->asan || f->orders[order]
                                              : f->orders[order];
        const bool got = found(f, (dml_emu_order)order);
        if (want != got) fail_msg("%s, order %d: %s", f->name, order, got ? "found" : "not found");
    }
}

static void float_atomics_change_bits_with_the_order_but_are_no_race(void **state)
{
    (void)state;
    float sum[3];
    for (int order = DML_EMU_FORWARD; order <= DML_EMU_RANDOM; order++) {
        dml_emu_setup((dml_emu_order)order, DML_EMU_EAGER, 7);
        cudaStream_t stream;
        float *in, *out;
        assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        assert_int_equal(cudaMalloc((void **)&in, FAULT_ELEMS * sizeof(float)), cudaSuccess);
        assert_int_equal(cudaMalloc((void **)&out, sizeof(float)), cudaSuccess);
        for (int i = 0; i < FAULT_ELEMS; i++)
            in[i] = 1.0f / (float)(i + 1);
        *out = 0.0f;
        assert_int_equal(fault_float_atomics(out, in, stream), cudaSuccess);
        sum[order] = *out;
        cudaFree(in);
        cudaFree(out);
        cudaStreamDestroy(stream);
    }
    DML_CHECK_EQ(0, dml_emu_faults());
    DML_CHECK(sum[0] != sum[1] || sum[0] != sum[2]);
}

static void a_report_says_who_met_whom(void **state)
{
    (void)state;
    if (this_pass != HOOKS) skip();
    DML_CHECK_EQ(REPORTED, run_case(&cases[1], DML_EMU_FORWARD));
    DML_CHECK(strstr(dml_emu_fault(0), "race: read by thread 1 of block 0"));
    DML_CHECK(strstr(dml_emu_fault(0), "against thread 0 of block 0"));
    dml_emu_clear();
}

static void a_deadlock_names_the_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASES; i++)
        if (strcmp(cases[i].name, "early_return") == 0)
            DML_CHECK_EQ(REPORTED, run_case(&cases[i], DML_EMU_FORWARD));
    assert_string_equal(dml_emu_fault(0),
                        "deadlock in block 0: of 64 threads 41 at __syncthreads (first: thread 0), "
                        "23 at the end (first: thread 41)");
    dml_emu_clear();
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "fast";
    this_pass = strcmp(name, "hooks") == 0 ? HOOKS : strcmp(name, "asan") == 0 ? ASAN : FAST;
    struct CMUnitTest tests[CASES + 3];
    for (size_t i = 0; i < CASES; i++)
        tests[i] = (struct CMUnitTest){cases[i].name, is_found_as_the_table_says, NULL, NULL,
                                       (void *)(uintptr_t)&cases[i]};
    size_t n = CASES;
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(
        float_atomics_change_bits_with_the_order_but_are_no_race);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_report_says_who_met_whom);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_deadlock_names_the_threads);
    return _cmocka_run_group_tests("faults", tests, n, NULL, NULL);
}
