/* schedule/index.c - one table per kind of op. */
#include "schedule/index.h"

#include <string.h>

void dml_index_init(dml_index *ix, const dml_program *p, dml_arena *arena)
{
    *ix = (dml_index){.p = p};
    const int64_t n = (int64_t)dml_program_ports(p) * p->mbs;
    for (int32_t k = 0; k < DML_OP_KINDS; k++) {
        if (!dml_op_info_of((dml_op_kind)k)->has_mb) continue;
        ix->at[k] = DML_NEW_N(arena, int32_t, n);
        memset(ix->at[k], 0xff, (size_t)n * sizeof(int32_t)); /* every entry -1 */
    }
}

bool dml_index_add(dml_index *ix, const dml_op *op, int32_t i)
{
    int32_t *at = &ix->at[op->kind][(int64_t)dml_op_port(ix->p, op) * ix->p->mbs + op->mb];
    if (*at >= 0 && (op->edge <= 1 || !dml_op_is_part(op))) return false;
    *at = i;
    return true;
}

void dml_index_build(dml_index *ix, const dml_program *p, dml_arena *arena)
{
    dml_index_init(ix, p, arena);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            if (dml_op_info_of((dml_op_kind)p->list[w].op[i].kind)->has_mb)
                dml_index_add(ix, &p->list[w].op[i], i);
}
