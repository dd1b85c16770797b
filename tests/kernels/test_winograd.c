/* tests/kernels/test_winograd.c - fast convolutions are convolutions: images of even and odd sides, every padding,
 * channels in one and in several vectors, blocks that end inside an image.
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "kernels/cpu/winograd.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

typedef struct shape {
    int64_t n, h, w, in, out;
    int32_t pad_h, pad_w, threads;
    bool bias;
} shape;

static const shape shapes[] = {
    {2, 32, 32, 32, 32, 1, 1, 1, true},   {7, 15, 13, 32, 64, 1, 1, 1, false},
    {9, 14, 14, 64, 48, 1, 1, 2, false},  {6, 17, 16, 48, 32, 0, 0, 2, true},
    {5, 13, 18, 32, 32, 2, 2, 3, true},   {40, 5, 5, 80, 96, 1, 2, 2, true},
    {3, 20, 21, 112, 32, 0, 1, 1, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Tensors of a convolution: results of the CPU backend, and of the reference. */
typedef struct tensors {
    dml_tensor x, w, b, y, dx, dw, db;
} tensors;

static dml_tensor drawn(uint64_t key, int32_t rank, const int64_t dim[])
{
    dml_tensor t = dml_tensor_of(NULL, DML_F32, rank, dim);
    float *data = malloc((size_t)dml_tensor_bytes(&t));
    DML_CHECK(data != NULL);
    for (int64_t i = 0; i < dml_tensor_elems(&t); i++) {
        uint32_t word[4];
        dml_rng_block(key, 0, (uint64_t)i, word);
        data[i] = dml_rng_unit(word[0]) - 0.5f;
    }
    t.data = data;
    return t;
}

static tensors tensors_of(const shape *s, uint64_t key)
{
    const int64_t oh = s->h + 2 * s->pad_h - 2, ow = s->w + 2 * s->pad_w - 2;
    const int64_t x[] = {s->n, s->h, s->w, s->in}, y[] = {s->n, oh, ow, s->out},
                  w[] = {s->out, s->in, 3, 3}, b[] = {s->out};
    return (tensors){.x = drawn(key, 4, x),
                     .w = drawn(key + 1, 4, w),
                     .b = drawn(key + 2, 1, b),
                     .y = drawn(key + 3, 4, y),
                     .dx = drawn(key + 4, 4, x),
                     .dw = drawn(key + 5, 4, w),
                     .db = drawn(key + 6, 1, b)};
}

static void free_tensors(tensors *t)
{
    dml_tensor *const all[] = {&t->x, &t->w, &t->b, &t->y, &t->dx, &t->dw, &t->db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->data);
}

/* y from x and w, then dx and dw from y as if it were a gradient. */
static void run(const dml_kernel_table *table, dml_kctx *k, const shape *s, tensors *t)
{
    const dml_conv2d p = {{3, 3}, {1, 1}, {s->pad_h, s->pad_w}, {1, 1}, 1};
    const dml_tensor *bias = s->bias ? &t->b : NULL, *dbias = s->bias ? &t->db : NULL;
    DML_CHECK_OK(table->conv2d_bwd_input(k, &p, &t->dx, &t->y, &t->w));
    DML_CHECK_OK(table->conv2d_bwd_weight(k, &p, &t->dw, dbias, &t->y, &t->x));
    DML_CHECK_OK(table->conv2d_fwd(k, &p, &t->y, &t->x, &t->w, bias));
}

/* Largest difference over the largest value. */
static void check_close(const char *name, const shape *s, const dml_tensor *want,
                        const dml_tensor *got)
{
    const float *a = want->data, *b = got->data;
    double most = 0.0, off = 0.0;
    for (int64_t i = 0; i < dml_tensor_elems(want); i++) {
        most = fmax(most, fabs((double)a[i]));
        off = fmax(off, fabs((double)a[i] - (double)b[i]));
    }
    if (!(off <= 2e-6 * most))
        fail_msg("%s of %lldx%lld, %lld -> %lld is off by %g of its largest", name, (long long)s->h,
                 (long long)s->w, (long long)s->in, (long long)s->out, off / most);
}

static dml_kctx *open_context(int32_t threads, bool deterministic)
{
    const dml_kctx_config config = {.threads = threads, .deterministic = deterministic};
    dml_kctx *k;
    DML_CHECK_OK(dml_cpu_kernels.open(NULL, NULL, &config, &k));
    return k;
}

static dml_dnn_shape asked(const shape *s)
{
    return (dml_dnn_shape){.kind = DML_DNN_CONV_FWD,
                           .threads = s->threads,
                           .n = s->n,
                           .in = s->in,
                           .out = s->out,
                           .h = s->h,
                           .w = s->w,
                           .oh = s->h + 2 * s->pad_h - 2,
                           .ow = s->w + 2 * s->pad_w - 2,
                           .conv = {{3, 3}, {1, 1}, {s->pad_h, s->pad_w}, {1, 1}, 1},
                           .type = DML_F32};
}

/* Whether this build has the algorithm at all. */
static bool here(void)
{
    dml_kctx *k = open_context(1, false);
    const dml_dnn_shape plain = asked(&shapes[0]);
    const bool takes = dml_cpu_winograd_takes(k, &plain);
    dml_cpu_kernels.close(k);
    return takes;
}

static void fast_convolutions_are_what_the_reference_says(void **state)
{
    (void)state;
    if (!here()) skip();
    for (int32_t i = 0; i < SHAPES; i++) {
        const shape *s = &shapes[i];
        dml_kctx *k = open_context(s->threads, false);
        const dml_dnn_shape question = asked(s);
        DML_CHECK(dml_cpu_winograd_takes(k, &question));
        tensors got = tensors_of(s, 100), want = tensors_of(s, 100);
        run(&dml_cpu_kernels, k, s, &got);
        run(&dml_ref_kernels, NULL, s, &want);
        check_close("y", s, &want.y, &got.y);
        check_close("dx", s, &want.dx, &got.dx);
        check_close("dw", s, &want.dw, &got.dw);
        if (s->bias) check_close("db", s, &want.db, &got.db);
        free_tensors(&got);
        free_tensors(&want);
        dml_cpu_kernels.close(k);
    }
}

static void a_repetition_gives_the_same_bits(void **state)
{
    (void)state;
    const shape *s = &shapes[2];
    tensors first = tensors_of(s, 7), second = tensors_of(s, 7);
    dml_kctx *k = open_context(s->threads, false);
    run(&dml_cpu_kernels, k, s, &first);
    run(&dml_cpu_kernels, k, s, &second);
    DML_CHECK(memcmp(first.y.data, second.y.data, (size_t)dml_tensor_bytes(&first.y)) == 0);
    DML_CHECK(memcmp(first.dx.data, second.dx.data, (size_t)dml_tensor_bytes(&first.dx)) == 0);
    DML_CHECK(memcmp(first.dw.data, second.dw.data, (size_t)dml_tensor_bytes(&first.dw)) == 0);
    dml_cpu_kernels.close(k);
    free_tensors(&first);
    free_tensors(&second);
}

static void exact_mode_and_other_convolutions_are_left_to_the_library(void **state)
{
    (void)state;
    dml_kctx *exact = open_context(1, true), *fast = open_context(1, false);
    dml_dnn_shape plain = asked(&shapes[0]), other;
    DML_CHECK(!dml_cpu_winograd_takes(exact, &plain));
    other = plain;
    other.conv.stride[1] = 2;
    DML_CHECK(!dml_cpu_winograd_takes(fast, &other));
    other = plain;
    other.conv.kernel[0] = 5;
    DML_CHECK(!dml_cpu_winograd_takes(fast, &other));
    other = plain;
    other.conv.groups = 2;
    DML_CHECK(!dml_cpu_winograd_takes(fast, &other));
    other = plain;
    other.in = 40;
    DML_CHECK(!dml_cpu_winograd_takes(fast, &other));
    other = plain;
    other.type = DML_BF16;
    DML_CHECK(!dml_cpu_winograd_takes(fast, &other));
    dml_cpu_kernels.close(exact);
    dml_cpu_kernels.close(fast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_convolutions_are_what_the_reference_says),
        cmocka_unit_test(a_repetition_gives_the_same_bits),
        cmocka_unit_test(exact_mode_and_other_convolutions_are_left_to_the_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
