/* schedule/versions.c - one walk from the end of the list: which update is not complete yet. */
#include "schedule/versions.h"

#include "engine/base/arena.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* For each op that reads weights, the updates of its chunk whose backwards on this worker all stand
 * before it: the first update that has one at the op or after it.  -1 for the others. */
static void made_before(const dml_program *p, int32_t worker, int32_t *out)
{
    const dml_op_list *list = &p->list[worker];
    dml_arena arena = {0};
    int32_t *first = DML_NEW_N(&arena, int32_t, p->chunks);
    for (int32_t c = 0; c < p->chunks; c++)
        first[c] = p->forward_only ? 0 : dml_program_updates(p, c);
    for (int32_t i = list->n - 1; i >= 0; i--) {
        const dml_op *op = &list->op[i];
        if (dml_op_is_weight_grad(op))
            first[op->chunk] = MIN2(first[op->chunk], dml_op_update(p, op));
        out[i] = dml_op_reads_weights(op) ? first[op->chunk] : -1;
    }
    dml_arena_free(&arena);
}

void dml_versions_read(const dml_program *p, int32_t worker, int32_t *out)
{
    made_before(p, worker, out);
    for (int32_t i = 0; i < p->list[worker].n; i++)
        if (dml_op_reads_weights(&p->list[worker].op[i])) out[i] += p->list[worker].op[i].version;
}

static dml_err set_list(dml_program *order, int32_t w,
                        int32_t (*reads)(const void *ctx, int32_t chunk, int32_t mb),
                        const void *ctx, int32_t *made)
{
    made_before(order, w, made);
    for (int32_t i = 0; i < order->list[w].n; i++) {
        dml_op *op = &order->list[w].op[i];
        const int32_t version = reads(ctx, op->chunk, op->mb) - made[i];
        if (version > 0)
            DML_FAIL(DML_ERR_SPEC,
                     "%s on worker %d would read %d updates that are not made before it",
                     dml_op_name_of(op).text, w, version);
        if (version < INT8_MIN)
            DML_FAIL(DML_ERR_SPEC,
                     "%s on worker %d reads weights %d updates old, and %d is the most: use fewer "
                     "stages",
                     dml_op_name_of(op).text, w, -version, -INT8_MIN);
        op->version = (int8_t)version;
    }
    return DML_ERR_OK;
}

dml_err dml_versions_set(dml_program *order,
                         int32_t (*reads)(const void *ctx, int32_t chunk, int32_t mb),
                         const void *ctx)
{
    dml_arena arena = {0};
    dml_err err = DML_ERR_OK;
    for (int32_t w = 0; w < order->workers && err == DML_ERR_OK; w++)
        err = set_list(order, w, reads, ctx, DML_NEW_N(&arena, int32_t, order->list[w].n));
    dml_arena_free(&arena);
    return err;
}

int32_t dml_program_staleness(const dml_program *p, int32_t chunk)
{
    dml_arena arena = {0};
    int32_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t *reads = DML_NEW_N(&arena, int32_t, p->list[w].n);
        dml_versions_read(p, w, reads);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (dml_op_is_weight_grad(op) && op->chunk == chunk)
                most = MAX2(most, dml_op_update(p, op) - reads[i]);
        }
    }
    dml_arena_free(&arena);
    return most;
}
