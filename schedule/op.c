/* schedule/op.c - the property table and the short name of an op. */
#include "schedule/op.h"

#include "engine/base/err.h"

#include <stdio.h>

const dml_op_info *dml_op_info_of(dml_op_kind kind)
{
    static const dml_op_info info[DML_OP_KINDS] = {
#define X(kind, text, lane, peer, mb, pool) {text, DML_LANE_##lane, peer, mb, DML_POOL_##pool},
        DML_OP_LIST(X)
#undef X
    };
    DML_ASSERT_OP((int32_t)kind, <, DML_OP_KINDS);
    return &info[kind];
}

const char *dml_pool_text(dml_pool pool)
{
    static const char *const text[] = {
#define X(pool) #pool,
        DML_POOL_LIST(X)
#undef X
    };
    DML_ASSERT_OP((int32_t)pool, <, DML_POOLS);
    return text[pool];
}

const char *dml_lane_text(dml_lane lane)
{
    static const char *const text[] = {
#define X(lane, text) text,
        DML_LANE_LIST(X)
#undef X
    };
    DML_ASSERT_OP((int32_t)lane, <, DML_LANES);
    return text[lane];
}

dml_op_name dml_op_name_of(const dml_op *op)
{
    dml_op_name name;
    const char *kind = op->kind < DML_OP_KINDS ? dml_op_info_of((dml_op_kind)op->kind)->text : "?";
    int n = snprintf(name.text, sizeof name.text, "%s", kind);
    if (op->kind != DML_OP_VOTE || op->chunk != 0)
        n += snprintf(name.text + n, sizeof name.text - (size_t)n, "%d", op->chunk);
    if (op->mb != DML_NO_MB)
        n += snprintf(name.text + n, sizeof name.text - (size_t)n, ".%d", op->mb);
    if (op->edge != 0) snprintf(name.text + n, sizeof name.text - (size_t)n, "/%d", op->edge);
    return name;
}
