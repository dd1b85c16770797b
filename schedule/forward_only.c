/* schedule/forward_only.c - evaluation over the chunks and routes of training.
 *
 * What is left of an order that cannot stall when its backwards go cannot stall either, so the
 * forwards keep the places they have: 1F1B becomes F0 F1 F2 ... on every worker.
 */
#include "schedule/schedule.h"

#include <string.h>

dml_err dml_schedule_forward_only(const dml_program *training, dml_program *out)
{
    DML_TRY(dml_program_init(out, training->workers, training->chunks, training->mbs));
    const dml_err err = dml_program_set_skips(out, training->n_skips, training->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    out->forward_only = true;
    out->recompute = training->recompute;
    memcpy(out->span, training->span, (size_t)training->chunks * sizeof *training->span);
    memcpy(out->route, training->route,
           (size_t)training->chunks * (size_t)training->mbs * sizeof *training->route);
    for (int32_t w = 0; w < training->workers; w++)
        for (int32_t i = 0; i < training->list[w].n; i++) {
            const dml_op *op = &training->list[w].op[i];
            if (op->kind == DML_OP_FWD) dml_program_push(out, w, DML_OP_FWD, op->chunk, op->mb);
        }
    return DML_ERR_OK;
}
