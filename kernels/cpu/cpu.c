/* kernels/cpu/cpu.c - the CPU backend's table, its context, and what the context remembers. */
#include "kernels/cpu/cpu.h"

#include "engine/base/clock.h"
#include "engine/base/hash.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 64 };

static dml_err aligned_new(int64_t bytes, void **out)
{
    *out = aligned_alloc(64, (size_t)dml_cpu_aligned(bytes));
    if (!*out) DML_FAIL(DML_ERR_NOMEM, "no memory for %lld bytes of scratch", (long long)bytes);
    return DML_ERR_OK;
}

dml_err dml_cpu_scratch(dml_kctx *k, int64_t bytes, void **out)
{
    if (bytes > k->scratch_bytes) {
        if (k->sealed)
            DML_FAIL(DML_ERR_BUG,
                     "a new shape after seal: it needs %lld bytes of scratch, not %lld",
                     (long long)bytes, (long long)k->scratch_bytes);
        void *larger;
        DML_TRY(aligned_new(bytes, &larger));
        free(k->scratch);
        k->scratch = larger;
        k->scratch_bytes = dml_cpu_aligned(bytes);
    }
    *out = k->scratch;
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

dml_err dml_cpu_op(dml_kctx *k, const dml_dnn_shape *shape, const dml_dnn_op *like,
                   dml_dnn_op **out)
{
    int64_t at = k->op_slots ? op_slot(k->op, k->op_slots, shape) : 0;
    if (!k->op_slots || !k->op[at]) {
        if (k->sealed)
            DML_FAIL(DML_ERR_BUG, "a new shape after seal: n %lld, %lld -> %lld",
                     (long long)shape->n, (long long)shape->in, (long long)shape->out);
        if (2 * (k->n_ops + 1) > k->op_slots) DML_TRY(grow_ops(k));
        at = op_slot(k->op, k->op_slots, shape);
        DML_TRY(dml_dnn_op_new(&k->dnn, shape, like, &k->op[at]));
        k->n_ops++;
    }
    *out = k->op[at];
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

dml_err dml_cpu_packed_weights(dml_kctx *k, dml_dnn_op *op, void *weights, void *spare, void **out)
{
    int64_t at = k->packed_slots ? packed_slot(k->packed, k->packed_slots, op, weights) : 0;
    if (!k->packed_slots || !k->packed[at].op) {
        if (k->sealed) {
            *out = spare;
            return dml_dnn_pack(&k->dnn, op, weights, spare);
        }
        if (2 * (k->n_packed + 1) > k->packed_slots) DML_TRY(grow_packed(k));
        at = packed_slot(k->packed, k->packed_slots, op, weights);
        void *copy;
        DML_TRY(aligned_new(op->packed_bytes, &copy));
        k->packed[at] = (dml_cpu_packed){.op = op, .weights = weights, .copy = copy};
        k->n_packed++;
    }
    dml_cpu_packed *p = &k->packed[at];
    if (p->generation != k->generation) {
        DML_TRY(dml_dnn_pack(&k->dnn, op, weights, p->copy));
        p->generation = k->generation;
    }
    *out = p->copy;
    return DML_ERR_OK;
}

dml_err dml_cpu_run(dml_kctx *k, const dml_dnn_shape *shape, dml_in x, dml_in w, dml_in b, dml_in y)
{
    dml_dnn_op *op;
    DML_TRY(dml_cpu_op(k, shape, NULL, &op));
    const bool writes_weights = op->shape.kind == DML_DNN_CONV_BWD_WEIGHT;
    const int64_t packed_bytes = op->reorder ? op->packed_bytes : 0;
    char *scratch;
    DML_TRY(dml_cpu_scratch(k, dml_cpu_aligned(op->scratch_bytes) + packed_bytes + 64,
                            (void **)&scratch));
    void *at[DML_DNN_ROLES] = {[DML_DNN_X] = x->data,
                               [DML_DNN_W] = w->data,
                               [DML_DNN_B] = b ? b->data : NULL,
                               [DML_DNN_Y] = y->data,
                               [DML_DNN_SCRATCH] = scratch};
    void *spare = scratch + dml_cpu_aligned(op->scratch_bytes);
    if (op->reorder && writes_weights)
        at[DML_DNN_W] = spare;
    else if (op->reorder)
        DML_TRY(dml_cpu_packed_weights(k, op, w->data, spare, &at[DML_DNN_W]));
    DML_TRY(dml_dnn_run(&k->dnn, op, 0, at));
    if (op->reorder && writes_weights) DML_TRY(dml_dnn_pack(&k->dnn, op, w->data, spare));
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
    free(k->scratch);
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
    k->deterministic = config->deterministic;
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

dml_err dml_cpu_delay(dml_kctx *k, int64_t ns)
{
    (void)k;
    dml_sleep_until_ns(dml_clock_ns() + ns);
    return DML_ERR_OK;
}

const dml_kernel_table dml_cpu_kernels = {.open = open_context,
                                          .close = close_context,
                                          .weights_changed = weights_changed,
                                          .seal = seal,
#define X(name, args) .name = dml_cpu_##name,
                                          DML_KERNEL_LIST(X)
#undef X
};
