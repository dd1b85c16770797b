/* schedule/paint.c - the table of colours. */
#include "schedule/paint.h"

dml_paint dml_paint_of(dml_op_kind kind)
{
    switch (kind) {
    case DML_OP_FWD:
        return (dml_paint){"#4c8fd8", "#2c5f9e", "#e8963e", "#ffffff", "rail_response"};
    case DML_OP_BWD: return (dml_paint){"#57a85c", "#36733b", "#c9601f", "#ffffff", "rail_load"};
    case DML_OP_BWD_INPUT:
        return (dml_paint){"#3fb1a8", "#26766f", "#db7f52", "#ffffff", "background_memory_dump"};
    case DML_OP_BWD_WEIGHT:
        return (dml_paint){"#dfe8c9", "#bccb98", "#f6dcb8", "#333333", "thread_state_sleeping"};
    case DML_OP_RECOMPUTE:
        return (dml_paint){"#b9c3d1", "#8f9db1", "#e6c3a0", "#222222", "thread_state_unknown"};
    case DML_OP_SEND_ACT:
    case DML_OP_RECV_ACT:
    case DML_OP_SEND_GRAD:
    case DML_OP_RECV_GRAD:
    case DML_OP_REDUCE:
    case DML_OP_VOTE:
    case DML_OP_STEP: break;
    }
    return (dml_paint){"#9a9a9a", "#777777", "#9a9a9a", "#ffffff", "generic_work"};
}

bool dml_paint_is_odd(const dml_program *p, int32_t worker, int32_t chunk)
{
    bool odd = false;
    for (int32_t below = 0; below < chunk; below++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            if (*dml_program_route(p, below, mb) == worker) {
                odd = !odd;
                break;
            }
    return odd;
}
