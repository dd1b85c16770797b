/* schedule/recompute.c - one pass over every list. */
#include "schedule/recompute.h"

/* [chunks] the micro-batch whose forward the worker runs last, -1 none. */
static void find_last(const dml_program *p, const dml_op_list *list, int32_t *last)
{
    for (int32_t c = 0; c < p->chunks; c++)
        last[c] = -1;
    for (int32_t i = 0; i < list->n; i++)
        if (list->op[i].kind == DML_OP_FWD) last[list->op[i].chunk] = list->op[i].mb;
}

static void put_into(const dml_program *from, dml_program *to, int32_t w, const int32_t *spared)
{
    const dml_op_list *list = &from->list[w];
    to->list[w].n = 0;
    for (int32_t i = 0; i < list->n; i++) {
        const dml_op *op = &list->op[i];
        const bool again = dml_op_is_input_grad(op) && op->mb != spared[op->chunk];
        if (again) {
            const int32_t rc = dml_program_push(to, w, DML_OP_RECOMPUTE, op->chunk, op->mb);
            to->list[w].op[rc].version = op->version;
        }
        const int32_t at = dml_program_push(to, w, (dml_op_kind)op->kind, op->chunk, op->mb);
        to->list[w].op[at].version = op->version;
    }
}

static void spare_nobody(const dml_program *p, int32_t *spared)
{
    for (int32_t c = 0; c < p->chunks; c++)
        spared[c] = -1;
}

dml_err dml_schedule_recompute(dml_program *order, dml_recompute policy)
{
    if (order->lowered || order->recompute != DML_RECOMPUTE_NONE)
        DML_FAIL(DML_ERR_SPEC, "recomputation is put into an order, once");
    order->recompute = policy;
    if (policy == DML_RECOMPUTE_NONE || order->forward_only) return DML_ERR_OK;
    dml_program before;
    DML_TRY(dml_program_copy(order, &before));
    dml_arena arena = {0};
    int32_t *spared = DML_NEW_N(&arena, int32_t, order->chunks);
    for (int32_t w = 0; w < order->workers; w++) {
        if (policy == DML_RECOMPUTE_EXCEPT_LAST)
            find_last(&before, &before.list[w], spared);
        else
            spare_nobody(&before, spared);
        put_into(&before, order, w, spared);
    }
    dml_arena_free(&arena);
    dml_program_free(&before);
    return DML_ERR_OK;
}
