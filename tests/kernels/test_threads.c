/* tests/kernels/test_threads.c - the bits of the cpu backend depend neither on its number of threads
 * nor on where its tensors lie.
 *
 *   test_kernels_threads [rounds [seed]]
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/half.h"
#include "tests/kernels/problem.h"

#include <stdlib.h>

enum { MAX_THREADS = 4 };

static int32_t rounds = 9;
static uint64_t seed = 1;

/* Runs problem (kernel, key) in a context of its own, so that nothing is left of another run. */
static void run(dml_problem *p, int32_t kernel, uint64_t key, dml_dtype type, int32_t threads)
{
    const dml_kctx_config config = {.threads = threads, .deterministic = true};
    dml_kctx *k;
    dml_problem_make_as(p, kernel, key, type);
    DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
    DML_CHECK_OK(dml_problem_run(p, &dml_cpu_kernels, k));
    dml_cpu_kernels.close(k);
}

/* Samples of a round: each type in its turn. */
static dml_dtype type_of(int32_t round)
{
    static const dml_dtype types[] = {DML_F32, DML_BF16, DML_F16};
    return types[round % 3];
}

static void check_same(const dml_problem *a, const dml_problem *b, const char *what)
{
    for (int32_t i = 0; i < a->n_args; i++)
        if (memcmp(a->arg[i].host.data, b->arg[i].host.data,
                   (size_t)dml_tensor_bytes(&a->arg[i].host)) != 0)
            fail_msg("%s differs with %s: %s", a->arg[i].name, what, dml_problem_text(a));
}

static void every_kernel_gives_the_same_bits_with_1_to_4_threads(void **state)
{
    (void)state;
    static const char *const names[] = {"", "", "2 threads", "3 threads", "4 threads"};
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        for (int32_t round = 0; round < rounds && dml_kernel_here(&dml_cpu_kernels, kernel);
             round++) {
            const uint64_t key = dml_rng_key(seed, DML_RNG_TEST, (uint64_t)(kernel << 16 | round));
            dml_problem one, several;
            run(&one, kernel, key, type_of(round), 1);
            for (int32_t threads = 2; threads <= MAX_THREADS; threads++) {
                run(&several, kernel, key, type_of(round), threads);
                check_same(&one, &several, names[threads]);
                dml_problem_free(&several);
            }
            dml_problem_free(&one);
        }
}

/* Moves a problem's tensors to `shift` floats past a 64-byte border, in `memory`. */
static void move(dml_problem *p, char *memory, int64_t shift)
{
    for (int32_t i = 0; i < p->n_args; i++) {
        dml_tensor *t = &p->arg[i].host;
        const int64_t offset = shift * dml_dtype_bytes(t->dtype), bytes = dml_tensor_bytes(t);
        memcpy(memory + offset, t->data, (size_t)bytes);
        t->data = memory + offset;
        memory += (bytes + offset + 63) / 64 * 64;
    }
}

static void every_kernel_gives_the_same_bits_wherever_its_tensors_lie(void **state)
{
    (void)state;
    enum { BYTES = 8 << 20 };
    const dml_kctx_config config = {.threads = 1, .deterministic = true};
    char *memory[2] = {aligned_alloc(64, BYTES), aligned_alloc(64, BYTES)};
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        for (int32_t round = 0; round < rounds && dml_kernel_here(&dml_cpu_kernels, kernel);
             round++) {
            const uint64_t key = dml_rng_key(seed, DML_RNG_TEST, (uint64_t)(kernel << 16 | round));
            dml_problem p[2];
            for (int i = 0; i < 2; i++) {
                dml_kctx *k;
                dml_problem_make_as(&p[i], kernel, key, type_of(round));
                move(&p[i], memory[i], i * (1 + round % 15));
                DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
                DML_CHECK_OK(dml_problem_run(&p[i], &dml_cpu_kernels, k));
                dml_cpu_kernels.close(k);
            }
            check_same(&p[0], &p[1], "other addresses");
            dml_problem_free(&p[0]);
            dml_problem_free(&p[1]);
        }
    free(memory[0]);
    free(memory[1]);
}

enum { ELEMENTS = 37 };

/* Element-wise kernels on elements begin .. end-1. */
static void run_maps(dml_kctx *k, float *a, float *b, float out[5][ELEMENTS], int64_t begin,
                     int64_t end)
{
    dml_tensor x[2], y[5];
    for (int i = 0; i < 5; i++)
        y[i] = dml_tensor_of(out[i] + begin, DML_F32, 1, (int64_t[]){end - begin});
    x[0] = dml_tensor_of(a + begin, DML_F32, 1, y[0].dim);
    x[1] = dml_tensor_of(b + begin, DML_F32, 1, y[0].dim);
    DML_CHECK_OK(dml_cpu_gelu_fwd(k, &y[0], &x[0]));
    DML_CHECK_OK(dml_cpu_gelu_bwd(k, &y[1], &x[0], &x[1]));
    DML_CHECK_OK(dml_cpu_tanh_fwd(k, &y[2], &x[0]));
    const dml_adamw p = {0.01f, 0.9f, 0.99f, 1e-8f, 0.5f, 0.1f, 0.1f};
    const dml_opt_tensor t = {y[3].data, x[0].data, y[4].data, x[1].data, end - begin, 0.01f};
    DML_CHECK_OK(dml_cpu_adamw(k, &p, &t, 1));
}

/* The vector body of a loop and its tail, and shards of an optimizer, must do the same arithmetic. */
static void an_element_has_the_same_bits_wherever_it_stands(void **state)
{
    (void)state;
    const dml_kctx_config config = {.threads = 1, .deterministic = true};
    static float a[ELEMENTS], b[2][ELEMENTS], whole[5][ELEMENTS], single[5][ELEMENTS];
    dml_kctx *k;
    DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
    for (int i = 0; i < ELEMENTS; i++) {
        a[i] = 0.31f * (float)(i - ELEMENTS / 2);
        b[0][i] = b[1][i] = 0.17f * (float)(i + 1);
    }
    run_maps(k, a, b[0], whole, 0, ELEMENTS);
    for (int64_t i = 0; i < ELEMENTS; i++)
        run_maps(k, a, b[1], single, i, i + 1);
    assert_memory_equal(whole, single, sizeof whole);
    assert_memory_equal(b[0], b[1], sizeof b[0]);
    dml_cpu_kernels.close(k);
}

/* One layer of the size that training has, by kernel name; data as the problem draws it. */
typedef struct size {
    int64_t n, hw, in, out; /* hw 0: linear */
} size;

static dml_err run_layer(dml_kctx *k, const size *s, dml_dtype type, const void *data,
                         float *result)
{
    const int64_t x_dim[] = {s->n, s->hw, s->hw, s->in}, y_dim[] = {s->n, s->hw, s->hw, s->out};
    const int64_t w_dim[] = {s->out, s->in, 3, 3};
    const int64_t lx[] = {s->n, s->in}, ly[] = {s->n, s->out}, lw[] = {s->out, s->in};
    const bool conv = s->hw > 0;
    void *const from = (void *)(uintptr_t)data;
    const dml_tensor x = dml_tensor_of(from, type, conv ? 4 : 2, conv ? x_dim : lx);
    const dml_tensor dy = dml_tensor_of(from, type, conv ? 4 : 2, conv ? y_dim : ly);
    const dml_tensor w = dml_tensor_of(from, type, conv ? 4 : 2, conv ? w_dim : lw);
    const dml_conv2d p = {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 1};
    dml_tensor y = dy, dx = x, dw = w;
    dw.dtype = DML_F32;
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

static void check_layer(const size *s, dml_dtype type, const void *data, float *const result[2],
                        int64_t elems)
{
    for (int32_t threads = 1; threads <= MAX_THREADS; threads++) {
        const dml_kctx_config config = {.threads = threads, .deterministic = true};
        float *to = result[threads > 1];
        dml_kctx *k;
        memset(to, 0, (size_t)elems * sizeof *to);
        DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
        DML_CHECK_OK(run_layer(k, s, type, data, to));
        dml_cpu_kernels.close(k);
        if (threads > 1 && memcmp(result[0], to, (size_t)elems * sizeof *to) != 0)
            fail_msg("%lld -> %lld in %s differs between 1 and %d threads", (long long)s->in,
                     (long long)s->out, dml_dtype_name(type), threads);
    }
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
    dml_bf16 *narrow = malloc(ELEMS * sizeof *narrow);
    for (int32_t i = 0; i < ELEMS; i++)
        narrow[i] = dml_bf16_of_float(data[i]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_layer(&sizes[i], DML_F32, data, result, ELEMS);
        check_layer(&sizes[i], DML_BF16, narrow, result, ELEMS);
    }
    free(narrow);
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
        cmocka_unit_test(every_kernel_gives_the_same_bits_wherever_its_tensors_lie),
        cmocka_unit_test(an_element_has_the_same_bits_wherever_it_stands),
        cmocka_unit_test(layers_of_real_size_give_the_same_bits_with_1_to_4_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
