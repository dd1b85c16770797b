/* kernels/cpu/blocks.c - an operation by blocks of samples, each in a primitive of one thread.
 *
 * Left alone, the library may cut a sum by the number of threads: it does so in the weight gradient of
 * a convolution, and on processors without AVX-512 in any matrix product with a long sum.  Here the
 * samples are cut instead, by a rule that knows n alone; who runs which block changes nothing.
 *
 *   n = 70, 4 blocks:  [ 0..16 | 17..34 | 35..51 | 52..69 ]
 *
 *   reads weights    every block writes its own samples of the output
 *   writes weights   every block leaves a gradient in the packed format, dw = ((dw0 + dw1) + dw2) + dw3
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

#include <string.h>

/* One call.  Block i is samples border(i) .. border(i + 1) - 1: n / count of them, or one more. */
typedef struct blocks {
    dml_kctx *k;
    dml_dnn_op *few, *more; /* of n / count samples, of one more (NULL: no such block) */
    int64_t n, count;
    const char *x, *y;
    int64_t x_bytes, y_bytes; /* of a sample */
    char *w, *b;              /* of block 0 */
    int64_t w_bytes, b_bytes; /* from block to block: 0 where all read the same */
    char *scratch;            /* [threads][lane_bytes] */
    int64_t lane_bytes;
    dml_err err; /* of any block; its trail may be another thread's */
} blocks;

static int64_t border(const blocks *s, int64_t block)
{
    return block * s->n / s->count;
}

static void run_block(void *arg, int64_t i, int32_t thread)
{
    blocks *s = arg;
    const int64_t first = border(s, i), n = border(s, i + 1) - first;
    void *const at[DML_DNN_ROLES] = {
        [DML_DNN_X] = (void *)(uintptr_t)(s->x + first * s->x_bytes),
        [DML_DNN_W] = s->w + i * s->w_bytes,
        [DML_DNN_B] = s->b + i * s->b_bytes,
        [DML_DNN_Y] = (void *)(uintptr_t)(s->y + first * s->y_bytes),
        [DML_DNN_SCRATCH] = s->scratch + thread * s->lane_bytes,
    };
    dml_dnn_op *op = n == s->n / s->count ? s->few : s->more;
    const dml_err err = dml_dnn_run(&s->k->dnn, op, thread, at);
    if (err != DML_ERR_OK) {
#pragma omp atomic write
        s->err = err;
    }
}

/* The operations of both sizes, in one packed format. */
static dml_err plan(blocks *s, dml_dnn_shape shape, dml_in x, dml_in y, int64_t count)
{
    s->n = shape.n;
    s->count = count < shape.n ? count : shape.n;
    s->x = x->data;
    s->y = y->data;
    s->x_bytes = dml_tensor_bytes(x) / shape.n;
    s->y_bytes = dml_tensor_bytes(y) / shape.n;
    shape.threads = 1;
    shape.lanes = s->k->threads;
    shape.n = s->n / s->count;
    DML_TRY(dml_cpu_op(s->k, &shape, NULL, &s->few));
    s->lane_bytes = dml_cpu_aligned(s->few->scratch_bytes);
    if (s->n % s->count == 0) return DML_ERR_OK;
    shape.like_n = shape.n++;
    DML_TRY(dml_cpu_op(s->k, &shape, s->few, &s->more));
    const int64_t bytes = dml_cpu_aligned(s->more->scratch_bytes);
    if (bytes > s->lane_bytes) s->lane_bytes = bytes;
    return DML_ERR_OK;
}

static dml_err run(blocks *s, int32_t threads)
{
    dml_par_items(threads, s->count, run_block, s);
    if (s->err != DML_ERR_OK) DML_FAIL(s->err, "a block of samples failed");
    return DML_ERR_OK;
}

dml_err dml_cpu_run_blocks(dml_kctx *k, const dml_dnn_shape *shape, int64_t count, dml_in x,
                           dml_in w, dml_in b, dml_in y)
{
    blocks s = {.k = k};
    DML_TRY(plan(&s, *shape, x, y, count));
    const int64_t copy_bytes = dml_cpu_copy_bytes(s.few, w);
    DML_TRY(dml_cpu_buffer(k, DML_CPU_SCRATCH, k->threads * s.lane_bytes + copy_bytes + 64,
                           (void **)&s.scratch));
    void *packed;
    DML_TRY(dml_cpu_packed_weights(k, s.few, w, s.scratch + k->threads * s.lane_bytes, &packed));
    s.w = packed;
    s.b = b ? b->data : NULL;
    return run(&s, shape->threads);
}

/* Partial sums to be added: into part 0, which lies in `to` and whose successors are `pitch` after. */
typedef struct parts {
    float *to;
    int64_t pitch, count;
} parts;

static void add_parts(void *arg, int64_t begin, int64_t end)
{
    const parts *p = arg;
    for (int64_t part = 1; part < p->count; part++) {
        const float *from = p->to + part * p->pitch;
#pragma omp simd
        for (int64_t i = begin; i < end; i++)
            p->to[i] += from[i];
    }
}

static void sum_parts(const blocks *s, char *first, int64_t bytes)
{
    parts p = {
        .to = (float *)(void *)first, .pitch = bytes / (int64_t)sizeof(float), .count = s->count};
    dml_par_ranges(s->k->threads, p.pitch, (s->count + 1) * (int64_t)sizeof(float), add_parts, &p);
}

dml_err dml_cpu_sum_blocks(dml_kctx *k, const dml_dnn_shape *shape, int64_t count, dml_in x,
                           dml_out dw, dml_out db, dml_in dy)
{
    blocks s = {.k = k};
    DML_TRY(plan(&s, *shape, x, dy, count));
    s.w_bytes = dml_cpu_aligned(s.few->packed_bytes);
    s.b_bytes = dml_cpu_aligned(shape->out * (int64_t)sizeof(float));
    DML_TRY(dml_cpu_buffer(k, DML_CPU_SCRATCH,
                           s.count * (s.w_bytes + s.b_bytes) + k->threads * s.lane_bytes + 64,
                           (void **)&s.w));
    s.b = s.w + s.count * s.w_bytes;
    s.scratch = s.b + s.count * s.b_bytes;
    DML_TRY(run(&s, shape->threads));
    sum_parts(&s, s.w, s.w_bytes);
    if (db) {
        sum_parts(&s, s.b, s.b_bytes);
        memcpy(db->data, s.b, (size_t)dml_tensor_bytes(db));
    }
    if (s.few->reorder) return dml_dnn_pack(&k->dnn, s.few, dw->data, s.w);
    memcpy(dw->data, s.w, (size_t)dml_tensor_bytes(dw));
    return DML_ERR_OK;
}
