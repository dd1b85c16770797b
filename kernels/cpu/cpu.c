/* kernels/cpu/cpu.c - the CPU backend's table, its context, and what the context remembers. */
#include "kernels/cpu/cpu.h"

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "kernels/cpu/wide.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 64 };

static dml_err aligned_new(int64_t bytes, void **out)
{
    *out = aligned_alloc(64, (size_t)dml_cpu_aligned(bytes));
    if (!*out) DML_FAIL(DML_ERR_NOMEM, "no memory for %lld bytes of scratch", (long long)bytes);
    return DML_ERR_OK;
}

dml_err dml_cpu_buffer(dml_kctx *k, dml_cpu_buffer_id which, int64_t bytes, void **out)
{
    if (bytes > k->buffer_bytes[which]) {
        if (k->sealed)
            DML_FAIL(DML_ERR_BUG,
                     "a new shape after seal: it needs %lld bytes of scratch, not %lld",
                     (long long)bytes, (long long)k->buffer_bytes[which]);
        void *larger;
        DML_TRY(aligned_new(bytes, &larger));
        free(k->buffer[which]);
        k->buffer[which] = larger;
        k->buffer_bytes[which] = dml_cpu_aligned(bytes);
    }
    *out = k->buffer[which];
    return DML_ERR_OK;
}

/* Slot of `shape`: its own, or the free one where it belongs.  The table is never full. */
static int64_t op_slot(dml_dnn_op *const *op, int64_t slots, const dml_dnn_shape *shape)
{
    int64_t at = (int64_t)(dml_hash(shape, (int64_t)sizeof *shape, 0) % (uint64_t)slots);
    while (op[at] && memcmp(&op[at]->shape, shape, sizeof *shape) != 0)
        at = (at + 1) % slots;
    return at;
}

static dml_err grow_ops(dml_kctx *k)
{
    const int64_t slots = k->op_slots ? 2 * k->op_slots : FIRST_SLOTS;
    dml_dnn_op **op = calloc((size_t)slots, sizeof(dml_dnn_op *));
    if (!op) DML_FAIL(DML_ERR_NOMEM, "no memory for %lld operations", (long long)slots);
    for (int64_t i = 0; i < k->op_slots; i++)
        if (k->op[i]) op[op_slot(op, slots, &k->op[i]->shape)] = k->op[i];
    free(k->op);
    k->op = op;
    k->op_slots = slots;
    return DML_ERR_OK;
}

/* The place of `shape` in the table; *found says whether something is there. */
static dml_err find_op(dml_kctx *k, const dml_dnn_shape *shape, dml_dnn_op ***out, bool *found)
{
    int64_t at = k->op_slots ? op_slot(k->op, k->op_slots, shape) : 0;
    *found = k->op_slots && k->op[at];
    if (!*found) {
        if (k->sealed)
            DML_FAIL(DML_ERR_BUG, "a new shape after seal: n %lld, %lld -> %lld",
                     (long long)shape->n, (long long)shape->in, (long long)shape->out);
        if (2 * (k->n_ops + 1) > k->op_slots) DML_TRY(grow_ops(k));
        at = op_slot(k->op, k->op_slots, shape);
    }
    *out = &k->op[at];
    return DML_ERR_OK;
}

dml_err dml_cpu_op(dml_kctx *k, const dml_dnn_shape *shape, const dml_dnn_op *like,
                   dml_dnn_op **out)
{
    dml_dnn_op **slot;
    bool found;
    DML_TRY(find_op(k, shape, &slot, &found));
    if (!found) {
        DML_TRY(dml_dnn_op_new(&k->dnn, shape, like, slot));
        k->n_ops++;
    }
    *out = *slot;
    return DML_ERR_OK;
}

dml_err dml_cpu_native(dml_kctx *k, const dml_dnn_shape *shape, bool *out)
{
    *out = true;
    if (shape->type == DML_F32) return DML_ERR_OK;
    dml_dnn_shape question = *shape;
    question.threads = 1;
    question.lanes = 0; /* what no operation to be run has */
    dml_dnn_op **slot;
    bool found;
    DML_TRY(find_op(k, &question, &slot, &found));
    if (!found) {
        DML_TRY(dml_dnn_ask(&k->dnn, &question, slot));
        k->n_ops++;
    }
    *out = (*slot)->native;
    return DML_ERR_OK;
}

static int64_t packed_slot(const dml_cpu_packed *packed, int64_t slots, const dml_dnn_op *op,
                           const void *weights)
{
    const void *const key[] = {op, weights};
    int64_t at = (int64_t)(dml_hash(key, (int64_t)sizeof key, 0) % (uint64_t)slots);
    while (packed[at].op && (packed[at].op != op || packed[at].weights != weights))
        at = (at + 1) % slots;
    return at;
}

static dml_err grow_packed(dml_kctx *k)
{
    const int64_t slots = k->packed_slots ? 2 * k->packed_slots : FIRST_SLOTS;
    dml_cpu_packed *packed = calloc((size_t)slots, sizeof *packed);
    if (!packed) DML_FAIL(DML_ERR_NOMEM, "no memory for %lld packed weights", (long long)slots);
    for (int64_t i = 0; i < k->packed_slots; i++) {
        const dml_cpu_packed *p = &k->packed[i];
        if (p->op) packed[packed_slot(packed, slots, p->op, p->weights)] = *p;
    }
    free(k->packed);
    k->packed = packed;
    k->packed_slots = slots;
    return DML_ERR_OK;
}

int64_t dml_cpu_copy_bytes(const dml_dnn_op *op, dml_in weights)
{
    return op->reorder || (int32_t)weights->dtype != op->shape.type ? op->packed_bytes : 0;
}

static dml_err pack(dml_kctx *k, dml_dnn_op *op, dml_in weights, void *to)
{
    if ((int32_t)weights->dtype == op->shape.type)
        return dml_dnn_pack(&k->dnn, op, weights->data, to);
    const int64_t n = dml_tensor_elems(weights);
    if (!op->reorder) {
        dml_cpu_load(to, weights->data, weights->dtype, n);
        return DML_ERR_OK;
    }
    void *wide;
    DML_TRY(dml_cpu_buffer(k, DML_CPU_WEIGHTS, n * (int64_t)sizeof(float), &wide));
    dml_cpu_load(wide, weights->data, weights->dtype, n);
    return dml_dnn_pack(&k->dnn, op, wide, to);
}

dml_err dml_cpu_packed_weights(dml_kctx *k, dml_dnn_op *op, dml_in weights, void *spare, void **out)
{
    *out = weights->data;
    if (dml_cpu_copy_bytes(op, weights) == 0) return DML_ERR_OK;
    const void *key = weights->data;
    int64_t at = k->packed_slots ? packed_slot(k->packed, k->packed_slots, op, key) : 0;
    if (!k->packed_slots || !k->packed[at].op) {
        if (k->sealed) {
            *out = spare;
            return pack(k, op, weights, spare);
        }
        if (2 * (k->n_packed + 1) > k->packed_slots) DML_TRY(grow_packed(k));
        at = packed_slot(k->packed, k->packed_slots, op, key);
        void *copy;
        DML_TRY(aligned_new(op->packed_bytes, &copy));
        k->packed[at] = (dml_cpu_packed){.op = op, .weights = key, .copy = copy};
        k->n_packed++;
    }
    dml_cpu_packed *p = &k->packed[at];
    if (p->generation != k->generation) {
        DML_TRY(pack(k, op, weights, p->copy));
        p->generation = k->generation;
    }
    *out = p->copy;
    return DML_ERR_OK;
}

static void close_context(dml_kctx *k)
{
    if (!k) return;
    for (int64_t i = 0; i < k->packed_slots; i++)
        free(k->packed[i].copy);
    for (int64_t i = 0; i < k->op_slots; i++)
        dml_dnn_op_free(k->op[i]);
    free(k->packed);
    free(k->op);
    for (int32_t i = 0; i < DML_CPU_BUFFERS; i++)
        free(k->buffer[i]);
    dml_dnn_free(&k->dnn);
    free(k);
}

static dml_err open_context(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                            dml_kctx **out)
{
    (void)device;
    (void)queue;
    if (config->threads < 1)
        DML_FAIL(DML_ERR_BUG, "a kernel context needs a thread, not %d", config->threads);
    dml_kctx *k = calloc(1, sizeof *k);
    if (!k) DML_FAIL(DML_ERR_NOMEM, "no memory for a kernel context");
    k->threads = config->threads;
    k->passes = config->passes;
    k->deterministic = config->deterministic;
    k->words.loss_scale = 1.0f;
    k->generation = 1;
    const dml_err err = dml_dnn_init(&k->dnn, config->threads);
    if (err != DML_ERR_OK) {
        free(k);
        return err;
    }
    *out = k;
    return DML_ERR_OK;
}

static void weights_changed(dml_kctx *k)
{
    k->generation++;
}

static void seal(dml_kctx *k)
{
    k->sealed = true;
}

static dml_err begin_step(dml_kctx *k, const dml_step_words *words)
{
    k->words = *words;
    return DML_ERR_OK;
}

dml_err dml_cpu_delay(dml_kctx *k, int64_t ns)
{
    dml_sleep_until_ns(dml_clock_ns() + dml_paced_ns(ns, k->words.pace));
    return DML_ERR_OK;
}

const dml_kernel_table dml_cpu_kernels = {.open = open_context,
                                          .close = close_context,
                                          .weights_changed = weights_changed,
                                          .seal = seal,
                                          .begin_step = begin_step,
#define X(name, args) .name = dml_cpu_##name,
                                          DML_KERNEL_LIST(X)
#undef X
};
