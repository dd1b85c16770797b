/* tests/kernels/test_threads.c - the bits of the cpu backend do not depend on its number of threads.
 *
 *   test_kernels_threads [rounds [seed]]
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/problem.h"

#include <stdlib.h>

enum { MAX_THREADS = 4 };

static int32_t rounds = 8;
static uint64_t seed = 1;

/* Runs problem (kernel, key) in a context of its own, so that nothing is left of another run. */
static void run(dml_problem *p, int32_t kernel, uint64_t key, int32_t threads)
{
    const dml_kctx_config config = {.threads = threads, .deterministic = true};
    dml_kctx *k;
    dml_problem_make(p, kernel, key);
    DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
    DML_CHECK_OK(dml_problem_run(p, &dml_cpu_kernels, k));
    dml_cpu_kernels.close(k);
}

static void check_same(const dml_problem *a, const dml_problem *b, int32_t threads)
{
    for (int32_t i = 0; i < a->n_args; i++)
        if (memcmp(a->arg[i].host.data, b->arg[i].host.data,
                   (size_t)dml_tensor_bytes(&a->arg[i].host)) != 0)
            fail_msg("%s differs between 1 and %d threads: %s", a->arg[i].name, threads,
                     dml_problem_text(a));
}

static void every_kernel_gives_the_same_bits_with_1_to_4_threads(void **state)
{
    (void)state;
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        for (int32_t round = 0; round < rounds; round++) {
            const uint64_t key = dml_rng_key(seed, DML_RNG_TEST, (uint64_t)(kernel << 16 | round));
            dml_problem one, several;
            run(&one, kernel, key, 1);
            for (int32_t threads = 2; threads <= MAX_THREADS; threads++) {
                run(&several, kernel, key, threads);
                check_same(&one, &several, threads);
                dml_problem_free(&several);
            }
            dml_problem_free(&one);
        }
}

/* One layer of the size that training has, by kernel name; data as the problem draws it. */
typedef struct size {
    int64_t n, hw, in, out; /* hw 0: linear */
} size;

static dml_err run_layer(dml_kctx *k, const size *s, const float *data, float *result)
{
    const int64_t x_dim[] = {s->n, s->hw, s->hw, s->in}, y_dim[] = {s->n, s->hw, s->hw, s->out};
    const int64_t w_dim[] = {s->out, s->in, 3, 3};
    const int64_t lx[] = {s->n, s->in}, ly[] = {s->n, s->out}, lw[] = {s->out, s->in};
    const bool conv = s->hw > 0;
    void *const from = (void *)(uintptr_t)data;
    const dml_tensor x = dml_tensor_of(from, DML_F32, conv ? 4 : 2, conv ? x_dim : lx);
    const dml_tensor dy = dml_tensor_of(from, DML_F32, conv ? 4 : 2, conv ? y_dim : ly);
    const dml_tensor w = dml_tensor_of(from, DML_F32, conv ? 4 : 2, conv ? w_dim : lw);
    const dml_conv2d p = {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 1};
    dml_tensor y = dy, dx = x, dw = w;
    y.data = result;
    dx.data = result + dml_tensor_elems(&y);
    dw.data = (float *)dx.data + dml_tensor_elems(&dx);
    if (conv) {
        DML_TRY(dml_cpu_conv2d_fwd(k, &p, &y, &x, &w, NULL));
        DML_TRY(dml_cpu_conv2d_bwd_input(k, &p, &dx, &dy, &w));
        return dml_cpu_conv2d_bwd_weight(k, &p, &dw, NULL, &dy, &x);
    }
    DML_TRY(dml_cpu_linear_fwd(k, &y, &x, &w, NULL));
    DML_TRY(dml_cpu_linear_bwd_input(k, &dx, &dy, &w));
    return dml_cpu_linear_bwd_weight(k, &dw, NULL, &dy, &x);
}

static void layers_of_real_size_give_the_same_bits_with_1_to_4_threads(void **state)
{
    (void)state;
    static const size sizes[] = {{16, 14, 64, 128}, {17, 7, 128, 128},  {64, 8, 32, 64},
                                 {33, 28, 1, 64},   {64, 0, 2304, 512}, {50, 0, 512, 10},
                                 {8192, 0, 64, 64}};
    enum { ELEMS = 6 << 20 };
    float *data = malloc(ELEMS * sizeof *data), *result[2];
    for (int i = 0; i < 2; i++)
        result[i] = malloc(ELEMS * sizeof **result);
    for (uint32_t i = 0; i < ELEMS; i++)
        data[i] = (float)(int32_t)(i * UINT32_C(2654435761)) * 0x1p-31f;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int32_t threads = 1; threads <= MAX_THREADS; threads++) {
            const dml_kctx_config config = {.threads = threads, .deterministic = true};
            float *to = result[threads > 1];
            dml_kctx *k;
            memset(to, 0, ELEMS * sizeof *to);
            DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
            DML_CHECK_OK(run_layer(k, &sizes[i], data, to));
            dml_cpu_kernels.close(k);
            if (threads > 1 && memcmp(result[0], to, ELEMS * sizeof *to) != 0)
                fail_msg("size %zu differs between 1 and %d threads", i, threads);
        }
    free(data);
    free(result[0]);
    free(result[1]);
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_gives_the_same_bits_with_1_to_4_threads),
        cmocka_unit_test(layers_of_real_size_give_the_same_bits_with_1_to_4_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
