/* tests/kernels/cuda/test_dnn.c - the contract of kernels/cuda/dnn.h, for both that keep it.
 *
 * Linked with emulation/dnn_naive.c it runs everywhere; linked with dnn_cudnn.c on a GPU, and is skipped (77) where
 * there is none.
 */
#include "tests/support/test.h"

#include "tests/kernels/cuda/dnn_problem.h"

#include <math.h>
#include <stdlib.h>

enum { SKIPPED = 77, CHOICES = 1 << 16 };

static dml_cudnn *opened(bool deterministic)
{
    const dml_cudnn_config config = {.deterministic = deterministic, .stream = dml_dnn_stream};
    dml_cudnn *d;
    DML_CHECK_OK(dml_cudnn_open(&config, &d));
    return d;
}

/* ---- tests ---- */

static void results_are_those_of_the_definition(void **state)
{
    (void)state;
    static const dml_dtype types[] = {DML_F32, DML_BF16, DML_F16};
    dml_cudnn *d = opened(true);
    for (int32_t i = DML_CUDNN_FIRST_SMALL; i < dml_cudnn_n_cases; i++)
        for (int kind = 0; kind < DML_CUDNN_NORM_FWD; kind++)
            for (int t = 0; t < 3; t++)
                for (int32_t bias = 0; bias <= (kind == DML_CUDNN_CONV_FWD); bias++) {
                    dml_cudnn_op op = dml_cudnn_case_op(i, (dml_cudnn_kind)kind, types[t]);
                    op.bias = bias;
                    dml_dnn_problem p;
                    dml_dnn_problem_make(&p, &op, d);
                    DML_CHECK_OK(dml_cudnn_run(d, &op, p.device, p.workspace));
                    dml_dnn_problem_check(&p);
                    dml_dnn_problem_unmake(&p);
                }
    dml_cudnn_close(d);
}

/* ---- batch norm ---- */

static double at(const dml_dnn_problem *p, int slot, int64_t i)
{
    return (double)p->host[slot][i];
}

/* Over the rows of one channel: x, (x - mean)^2, dy, dy (x - mean). */
typedef struct sums {
    double x, squares, dy, product;
} sums;

static sums sums_of(const dml_dnn_problem *p, int64_t c, double mean)
{
    sums s = {0};
    for (int64_t i = c; i < p->elems[DML_CUDNN_X]; i += p->op.c) {
        const double x = at(p, DML_CUDNN_X, i), dy = at(p, DML_CUDNN_Y, i);
        s.x += x;
        s.squares += (x - mean) * (x - mean);
        s.dy += dy;
        s.product += dy * (x - mean);
    }
    return s;
}

static void near(const dml_dnn_problem *p, int slot, int64_t i, double want, double scale)
{
    const double got = at(p, slot, i);
    const double allowed =
        0x1p-18 * scale +
        (dml_dnn_problem_is_half(p, slot) ? dml_dnn_problem_rounding(&p->op) * fabs(want) : 0);
    if (!(fabs(got - want) <= allowed))
        fail_msg("slot %d, element %lld of type %s is %.9g, not %.9g", slot, (long long)i,
                 dml_dtype_name((dml_dtype)p->op.dtype), got, want);
}

static void check_norm_fwd(const dml_dnn_problem *p)
{
    const double rows = (double)(p->elems[DML_CUDNN_X] / p->op.c);
    for (int64_t c = 0; c < p->op.c; c++) {
        const double mean = sums_of(p, c, 0.0).x / rows;
        const double var = sums_of(p, c, mean).squares / rows;
        const double rstd = 1.0 / sqrt(var + (double)p->eps);
        near(p, DML_CUDNN_MEAN, c, mean, 1.0);
        near(p, DML_CUDNN_RSTD, c, rstd, rstd);
        for (int64_t i = c; i < p->elems[DML_CUDNN_X]; i += p->op.c)
            near(p, DML_CUDNN_Y, i,
                 at(p, DML_CUDNN_W, c) * (at(p, DML_CUDNN_X, i) - mean) * rstd +
                     at(p, DML_CUDNN_B, c),
                 8.0);
    }
}

static void check_norm_bwd(const dml_dnn_problem *p)
{
    const double rows = (double)(p->elems[DML_CUDNN_X] / p->op.c);
    for (int64_t c = 0; c < p->op.c; c++) {
        const double mean = at(p, DML_CUDNN_MEAN, c), rstd = at(p, DML_CUDNN_RSTD, c);
        const sums s = sums_of(p, c, mean);
        near(p, DML_CUDNN_DB, c, s.dy, rows);
        near(p, DML_CUDNN_DW, c, s.product * rstd, 8.0 * rows);
        for (int64_t i = c; i < p->elems[DML_CUDNN_X]; i += p->op.c)
            near(p, DML_CUDNN_DX, i,
                 at(p, DML_CUDNN_W, c) * rstd *
                     (at(p, DML_CUDNN_Y, i) - s.dy / rows -
                      (at(p, DML_CUDNN_X, i) - mean) * rstd * s.product * rstd / rows),
                 32.0);
    }
}

static void batch_norm_is_that_of_its_formulas(void **state)
{
    (void)state;
    static const dml_dtype types[] = {DML_F32, DML_BF16, DML_F16};
    dml_cudnn *d = opened(true);
    for (int t = 0; t < 3; t++)
        for (int kind = DML_CUDNN_NORM_FWD; kind <= DML_CUDNN_NORM_BWD; kind++) {
            const dml_cudnn_op op = dml_cudnn_norm_op((dml_cudnn_kind)kind, types[t], 4, 6, 5, 16);
            dml_dnn_problem p;
            dml_dnn_problem_make(&p, &op, d);
            DML_CHECK_OK(dml_cudnn_run(d, &op, p.device, p.workspace));
            const int back = kind == DML_CUDNN_NORM_BWD;
            dml_dnn_problem_copy(&p, back ? DML_CUDNN_DX : DML_CUDNN_Y, false);
            dml_dnn_problem_copy(&p, back ? DML_CUDNN_DW : DML_CUDNN_MEAN, false);
            dml_dnn_problem_copy(&p, back ? DML_CUDNN_DB : DML_CUDNN_RSTD, false);
            if (back)
                check_norm_bwd(&p);
            else
                check_norm_fwd(&p);
            dml_dnn_problem_unmake(&p);
        }
    dml_cudnn_close(d);
}

static void batch_norm_of_odd_channels_is_not_here(void **state)
{
    (void)state;
    dml_cudnn *d = opened(true);
    const dml_cudnn_op op = dml_cudnn_norm_op(DML_CUDNN_NORM_FWD, DML_BF16, 4, 6, 5, 3);
    int64_t workspace;
    for (int again = 0; again < 2; again++)
        DML_CHECK(dml_cudnn_plan(d, &op, &workspace) == DML_ERR_UNAVAILABLE);
    static char choices[CHOICES];
    int64_t bytes = 0;
    DML_CHECK_OK(dml_cudnn_choices(d, NULL, &bytes));
    memset(choices, 0x5a, sizeof choices);
    DML_CHECK_OK(dml_cudnn_choices(d, choices, &bytes));
    DML_CHECK_EQ(0x5a, choices[bytes]); /* what has no plan is no choice */
    dml_cudnn_close(d);
}

/* ---- plans ---- */

static float *run_again(dml_dnn_problem *p, dml_cudnn *d)
{
    const dml_cudnn_slot slot = dml_dnn_problem_result(&p->op);
    DML_DNN_CUDA(cudaMemsetAsync(p->device[slot], 0xff, (size_t)dml_dnn_problem_bytes(p, (int)slot),
                                 dml_dnn_stream));
    DML_CHECK_OK(dml_cudnn_run(d, &p->op, p->device, p->workspace));
    dml_dnn_problem_copy(p, (int)slot, false);
    return p->host[slot];
}

static void the_choices_of_one_give_another_the_same_bits(void **state)
{
    (void)state;
    static char choices[CHOICES];
    for (int kind = 0; kind < DML_CUDNN_NORM_FWD; kind++) {
        dml_cudnn *leader = opened(true), *worker = opened(true);
        const dml_cudnn_op op =
            dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, (dml_cudnn_kind)kind, DML_BF16);
        dml_dnn_problem p;
        dml_dnn_problem_make(&p, &op, leader);
        const int64_t n = p.elems[dml_dnn_problem_result(&op)];
        float *first = malloc(sizeof *first * (size_t)n);
        memcpy(first, run_again(&p, leader), sizeof *first * (size_t)n);
        DML_CHECK(memcmp(first, run_again(&p, leader), sizeof *first * (size_t)n) == 0);
        int64_t bytes = 0;
        DML_CHECK_OK(dml_cudnn_choices(leader, NULL, &bytes)); /* asks for room */
        DML_CHECK(bytes > 0 && bytes <= CHOICES);
        DML_CHECK_OK(dml_cudnn_choices(leader, choices, &bytes));
        DML_CHECK_OK(dml_cudnn_choose(worker, choices, bytes));
        int64_t workspace = 0;
        DML_CHECK_OK(dml_cudnn_plan(worker, &op, &workspace));
        DML_CHECK(memcmp(first, run_again(&p, worker), sizeof *first * (size_t)n) == 0);
        free(first);
        dml_dnn_problem_unmake(&p);
        dml_cudnn_close(worker);
        dml_cudnn_close(leader);
    }
}

static void foreign_and_damaged_choices_are_refused(void **state)
{
    (void)state;
    static char choices[CHOICES];
    dml_cudnn *exact = opened(true), *fast = opened(false);
    const dml_cudnn_op op = dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, DML_CUDNN_CONV_FWD, DML_F32);
    int64_t workspace = 0, bytes = CHOICES;
    DML_CHECK_OK(dml_cudnn_plan(exact, &op, &workspace));
    DML_CHECK_OK(dml_cudnn_choices(exact, choices, &bytes));
    DML_CHECK_FAILS(DML_ERR_DATA, "no choices", dml_cudnn_choose(exact, choices, bytes - 1));
    DML_CHECK_FAILS(DML_ERR_DATA, "no choices", dml_cudnn_choose(exact, choices, 3));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "(deterministic 1, tf32 0); here",
                    dml_cudnn_choose(fast, choices, bytes));
    choices[0]++; /* another library */
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "were chosen by", dml_cudnn_choose(exact, choices, bytes));
    dml_cudnn_close(fast);
    dml_cudnn_close(exact);
}

static void an_engine_the_library_has_not_fails_the_plan_and_goes_on_failing(void **state)
{
    (void)state;
    static char choices[CHOICES];
    dml_cudnn *d = opened(true), *other = opened(true);
    const dml_cudnn_op op = dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, DML_CUDNN_CONV_FWD, DML_F32);
    int64_t workspace = 0, bytes = CHOICES;
    DML_CHECK_OK(dml_cudnn_plan(d, &op, &workspace));
    DML_CHECK_OK(dml_cudnn_choices(d, choices, &bytes));
    /* The record is origin, operation, engine ...: the engine follows the operation, which we know. */
    for (int64_t i = 0; i + (int64_t)sizeof op < bytes; i++)
        if (memcmp(choices + i, &op, sizeof op) == 0)
            memset(choices + i + sizeof op, 0x55, sizeof(int64_t));
    DML_CHECK_OK(dml_cudnn_choose(other, choices, bytes));
    const dml_err err = dml_cudnn_plan(other, &op, &workspace);
    DML_CHECK(err != DML_ERR_OK);
    DML_CHECK_EQ(err, dml_cudnn_plan(other, &op, &workspace));
    dml_cudnn_close(other);
    dml_cudnn_close(d);
}

static void once_sealed_there_is_no_new_operation(void **state)
{
    (void)state;
    dml_cudnn *d = opened(false);
    const dml_cudnn_op known =
        dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, DML_CUDNN_CONV_FWD, DML_F32);
    const dml_cudnn_op other =
        dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, DML_CUDNN_CONV_FWD, DML_BF16);
    dml_dnn_problem p;
    dml_dnn_problem_make(&p, &known, d);
    dml_cudnn_seal(d);
    DML_CHECK_OK(dml_cudnn_run(d, &known, p.device, p.workspace));
    dml_dnn_problem_check(&p);
    int64_t workspace;
    DML_CHECK_FAILS(DML_ERR_BUG, "convolution with bias of BF16 [4, 8, 9, 32] by [64, 3, 3, 16]",
                    dml_cudnn_plan(d, &other, &workspace));
    DML_CHECK_FAILS(DML_ERR_BUG, "was not planned",
                    dml_cudnn_run(d, &other, p.device, p.workspace));
    dml_dnn_problem_unmake(&p);
    dml_cudnn_close(d);
}

static void a_shape_that_does_not_fit_is_our_bug(void **state)
{
    (void)state;
    dml_cudnn *d = opened(false);
    int64_t workspace;
    dml_cudnn_op op = dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, DML_CUDNN_CONV_FWD, DML_F32);
    op.p++;
    DML_CHECK_FAILS(DML_ERR_BUG, "CUDNN_STATUS_BAD_PARAM", dml_cudnn_plan(d, &op, &workspace));
    op.p--;
    op.dtype = DML_I32;
    DML_CHECK_FAILS(DML_ERR_BUG, "I32", dml_cudnn_plan(d, &op, &workspace));
    dml_cudnn_close(d);
}

/* What a device captures and replays. */
static void a_captured_operation_replays(void **state)
{
    (void)state;
    dml_cudnn *d = opened(true);
    for (int kind = 0; kind < DML_CUDNN_NORM_FWD; kind++) {
        const dml_cudnn_op op =
            dml_cudnn_case_op(DML_CUDNN_FIRST_SMALL, (dml_cudnn_kind)kind, DML_BF16);
        dml_dnn_problem p;
        dml_dnn_problem_make(&p, &op, d);
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        DML_CHECK_OK(dml_cudnn_run(d, &op, p.device, p.workspace)); /* a capture loads no kernels */
        dml_dnn_problem_check(&p);
        DML_DNN_CUDA(cudaStreamBeginCapture(dml_dnn_stream, cudaStreamCaptureModeThreadLocal));
        DML_CHECK_OK(dml_cudnn_run(d, &op, p.device, p.workspace));
        DML_DNN_CUDA(cudaStreamEndCapture(dml_dnn_stream, &graph));
        DML_DNN_CUDA(cudaGraphInstantiate(&exec, graph, 0));
        DML_DNN_CUDA(cudaGraphDestroy(graph));
        for (int round = 0; round < 2; round++) {
            const int slot = (int)dml_dnn_problem_result(&op);
            DML_DNN_CUDA(cudaMemsetAsync(p.device[slot], 0xff,
                                         (size_t)dml_dnn_problem_bytes(&p, slot), dml_dnn_stream));
            DML_DNN_CUDA(cudaGraphLaunch(exec, dml_dnn_stream));
            dml_dnn_problem_check(&p);
        }
        DML_DNN_CUDA(cudaGraphExecDestroy(exec));
        dml_dnn_problem_unmake(&p);
    }
    dml_cudnn_close(d);
}

int main(void)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
        dml_cudnn *d = NULL;
        const dml_err err = dml_cudnn_open(&(dml_cudnn_config){.tf32 = true}, &d);
        printf("no GPU: %s\n", dml_err_trail());
        return err == DML_ERR_UNAVAILABLE ? SKIPPED : 1;
    }
    if (cudaSetDevice(0) != cudaSuccess ||
        cudaStreamCreateWithFlags(&dml_dnn_stream, cudaStreamNonBlocking) != cudaSuccess)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_those_of_the_definition),
        cmocka_unit_test(batch_norm_is_that_of_its_formulas),
        cmocka_unit_test(batch_norm_of_odd_channels_is_not_here),
        cmocka_unit_test(the_choices_of_one_give_another_the_same_bits),
        cmocka_unit_test(foreign_and_damaged_choices_are_refused),
        cmocka_unit_test(an_engine_the_library_has_not_fails_the_plan_and_goes_on_failing),
        cmocka_unit_test(once_sealed_there_is_no_new_operation),
        cmocka_unit_test(a_shape_that_does_not_fit_is_our_bug),
        cmocka_unit_test(a_captured_operation_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
