/* tests/kernels/test_seal.c - after seal nothing of ours allocates, and new shapes are our bug.
 *
 * Linked with --wrap for the allocators, so every allocation of our own code is counted; the
 * library's are not ours to count.
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/problem.h"

#include <stdlib.h>

static int64_t allocations;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    allocations++;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    allocations++;
    return __real_calloc(n, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    allocations++;
    return __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    allocations++;
    return __real_aligned_alloc(align, bytes);
}

static dml_kctx *open_context(void)
{
    const dml_kctx_config config = {.threads = 2, .deterministic = true};
    dml_kctx *k;
    DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
    return k;
}

static void after_seal_known_shapes_run_without_allocating(void **state)
{
    (void)state;
    enum { ROUNDS = 3 };
    static dml_problem p[DML_KERNELS][ROUNDS];
    dml_kctx *k = open_context();
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        for (int32_t r = 0; r < ROUNDS && dml_kernel_here(&dml_cpu_kernels, kernel); r++) {
            static const dml_dtype types[ROUNDS] = {DML_F32, DML_BF16, DML_F16};
            dml_problem_make_as(&p[kernel][r], kernel,
                                dml_rng_key(7, DML_RNG_TEST, (uint64_t)(kernel * ROUNDS + r)),
                                types[r]);
            DML_CHECK_OK(dml_problem_run(&p[kernel][r], &dml_cpu_kernels, k));
        }
    DML_CHECK(allocations > 0); /* the count counts */
    dml_cpu_kernels.seal(k);
    allocations = 0;
    for (int step = 0; step < 2; step++) {
        dml_cpu_kernels.weights_changed(k);
        for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
            for (int32_t r = 0; r < ROUNDS && dml_kernel_here(&dml_cpu_kernels, kernel); r++)
                DML_CHECK_OK(dml_problem_run(&p[kernel][r], &dml_cpu_kernels, k));
    }
    DML_CHECK_EQ(0, allocations);
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
        for (int32_t r = 0; r < ROUNDS; r++)
            dml_problem_free(&p[kernel][r]);
    dml_cpu_kernels.close(k);
}

/* y[n, out] = x[n, in] w^T with x and w of ones. */
static dml_err ones(dml_kctx *k, int64_t n, int64_t in, int64_t out, float *w, float *y)
{
    float x[4096];
    for (int64_t i = 0; i < n * in; i++)
        x[i] = 1.0f;
    const dml_tensor tx = dml_tensor_of(x, DML_F32, 2, (int64_t[]){n, in});
    const dml_tensor tw = dml_tensor_of(w, DML_F32, 2, (int64_t[]){out, in});
    const dml_tensor ty = dml_tensor_of(y, DML_F32, 2, (int64_t[]){n, out});
    return dml_cpu_linear_fwd(k, &ty, &tx, &tw, NULL);
}

static void a_new_shape_after_seal_is_our_bug(void **state)
{
    (void)state;
    static float w[64 * 64], y[64 * 64];
    dml_kctx *k = open_context();
    DML_CHECK_OK(ones(k, 4, 32, 48, w, y));
    dml_cpu_kernels.seal(k);
    DML_CHECK_OK(ones(k, 4, 32, 48, w, y));
    DML_CHECK_FAILS(DML_ERR_BUG, "a new shape after seal: n 5, 32 -> 48", ones(k, 5, 32, 48, w, y));
    dml_cpu_kernels.close(k);
}

static void weights_are_packed_again_when_they_changed(void **state)
{
    (void)state;
    static float w[48 * 32], y[4 * 48];
    dml_kctx *k = open_context();
    for (int step = 1; step <= 3; step++) {
        for (int i = 0; i < 48 * 32; i++)
            w[i] = (float)step;
        dml_cpu_kernels.weights_changed(k);
        DML_CHECK_OK(ones(k, 4, 32, 48, w, y));
        for (int i = 0; i < 4 * 48; i++)
            DML_CHECK_EQ(32 * step, y[i]);
    }
    dml_cpu_kernels.close(k);
}

static void weights_first_seen_after_seal_are_used_without_allocating(void **state)
{
    (void)state;
    static float w[2][48 * 32], y[4 * 48];
    for (int i = 0; i < 48 * 32; i++) {
        w[0][i] = 1.0f;
        w[1][i] = 2.0f;
    }
    dml_kctx *k = open_context();
    DML_CHECK_OK(ones(k, 4, 32, 48, w[0], y));
    dml_cpu_kernels.seal(k);
    allocations = 0;
    for (int version = 1; version >= 0; version--) {
        DML_CHECK_OK(ones(k, 4, 32, 48, w[version], y));
        DML_CHECK_EQ(32 * (version + 1), y[4 * 48 - 1]);
    }
    DML_CHECK_EQ(0, allocations);
    dml_cpu_kernels.close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_seal_known_shapes_run_without_allocating),
        cmocka_unit_test(a_new_shape_after_seal_is_our_bug),
        cmocka_unit_test(weights_are_packed_again_when_they_changed),
        cmocka_unit_test(weights_first_seen_after_seal_are_used_without_allocating),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
