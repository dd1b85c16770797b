/* Nothing allocates inside a step.
 *
 * Every allocation that our code makes (it is linked statically, so --wrap sees all of it) is counted between
 * the end of step 2 and the end of the last step, on all threads of all workers.  What shared libraries do
 * inside is not seen: oneDNN fills a small argument table on the heap at each call.
 */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

static atomic_bool counting;
static atomic_int allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);

static void count(void)
{
    if (atomic_load(&counting)) atomic_fetch_add(&allocations, 1);
}

void *__wrap_malloc(size_t n)
{
    count();
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    count();
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    count();
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    count();
    return __real_aligned_alloc(align, n);
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
    count();
    return __real_posix_memalign(out, align, n);
}

enum { FIRST = 2, LAST = 10 };

static void watch(void *context, int64_t step, dml_control *control)
{
    (void)context;
    (void)control;
    if (step == FIRST) atomic_store(&counting, true);
    if (step == LAST) atomic_store(&counting, false);
}

static int allocations_in_steps(const char *backend, const char *numerics, const char *clip,
                                const char *trace)
{
    char b[64], n[64], c[64];
    snprintf(b, sizeof b, "parallelism.backend=%s", backend);
    snprintf(n, sizeof n, "training.numerics=%s", numerics);
    snprintf(c, sizeof c, "training.grad_clip=%s", clip);
    const char *const overrides[] = {b,
                                     n,
                                     c,
                                     trace,
                                     "training.max_steps=10",
                                     "logging.trace_steps=3-8",
                                     "data.last_batch=short",
                                     "parallelism.pipeline_parallel_size=2",
                                     "parallelism.data_parallel_size=2",
                                     NULL};
    atomic_store(&allocations, 0);
    const run_result r = run_threads_hooked(DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml", overrides,
                                            (run_hooks){.step = watch});
    atomic_store(&counting, false);
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    DML_CHECK_EQ(10, r.steps);
    return atomic_load(&allocations);
}

static void nothing_allocates_inside_a_step(void **state)
{
    (void)state;
    DML_CHECK_EQ(0, allocations_in_steps("ref", "exact", "1.0", "logging.trace=trace.json"));
    DML_CHECK_EQ(0, allocations_in_steps("cpu", "exact", "1.0", "logging.trace=trace.json"));
    DML_CHECK_EQ(0, allocations_in_steps("cpu", "fast", "0", "logging.interval=1"));
}

static void the_counter_counts(void **state)
{
    (void)state;
    atomic_store(&allocations, 0);
    atomic_store(&counting, true);
    void *volatile p = malloc(16); /* volatile: the pair must not be optimised away */
    free(p);
    atomic_store(&counting, false);
    DML_CHECK_EQ(1, atomic_load(&allocations));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_counter_counts),
        cmocka_unit_test(nothing_allocates_inside_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
