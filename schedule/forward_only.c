/* schedule/forward_only.c - evaluation over the chunks and routes of training.
 *
 * What is left of an order that cannot stall when its backwards go cannot stall either, so the
 * forwards keep the places they have: 1F1B becomes F0 F1 F2 ... on every worker.  Evaluation is a round of
 * as many micro-batches as a step has; an asynchronous order is of many steps, and its first is enough.
 */
#include "schedule/schedule.h"

#include <string.h>

/* Micro-batches of a step, or of the longest first update of an asynchronous segment. */
static int32_t mbs_of_round(const dml_program *training)
{
    int32_t mbs = 0;
    for (int32_t c = 0; c < training->chunks; c++)
        if (training->update_mbs[c] > mbs) mbs = training->update_mbs[c];
    return mbs;
}

dml_err dml_schedule_forward_only(const dml_program *training, dml_program *out)
{
    const int32_t mbs = mbs_of_round(training);
    DML_TRY(dml_program_init(out, training->workers, training->chunks, mbs));
    const dml_err err = dml_program_set_skips(out, training->n_skips, training->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    out->forward_only = true;
    out->recompute = training->recompute;
    memcpy(out->span, training->span, (size_t)training->chunks * sizeof *training->span);
    for (int32_t c = 0; c < training->chunks; c++)
        memcpy(dml_program_route(out, c, 0), dml_program_route(training, c, 0),
               (size_t)mbs * sizeof *out->route);
    for (int32_t w = 0; w < training->workers; w++)
        for (int32_t i = 0; i < training->list[w].n; i++) {
            const dml_op *op = &training->list[w].op[i];
            if (op->kind == DML_OP_FWD && op->mb < mbs)
                dml_program_push(out, w, DML_OP_FWD, op->chunk, op->mb);
        }
    return DML_ERR_OK;
}
