/* schedule/replicas.c - equal replicas of one pipeline.
 *
 *   2 stages, 3 replicas:   rank 0 -> workers 0 1 2      micro-batch  0 1 2 3 4 5 ...
 *                           rank 1 -> workers 3 4 5      replica      0 1 2 0 1 2 ...
 */
#include "schedule/schedule.h"

#include <string.h>

static dml_err check_shares(const dml_program *one, int32_t replicas, int32_t mbs)
{
    if (one->lowered) DML_FAIL(DML_ERR_SPEC, "replicas are made from an order, not from a program");
    if (replicas < 1) DML_FAIL(DML_ERR_SPEC, "a stage has at least one replica, not %d", replicas);
    if (mbs < 1) DML_FAIL(DML_ERR_SPEC, "a step needs at least one micro-batch, not %d", mbs);
    if (mbs % replicas != 0) {
        const int32_t below = mbs - mbs % replicas, above = below + replicas;
        if (below == 0)
            DML_FAIL(DML_ERR_SPEC,
                     "%d micro-batches of a step do not divide among %d replicas; try %d", mbs,
                     replicas, above);
        DML_FAIL(DML_ERR_SPEC,
                 "%d micro-batches of a step do not divide among %d replicas (%d %% %d = %d); try "
                 "%d or %d",
                 mbs, replicas, mbs, replicas, mbs % replicas, below, above);
    }
    if (one->mbs != mbs / replicas)
        DML_FAIL(DML_ERR_SPEC,
                 "a pipeline's order of %d micro-batches does not fit %d replicas of %d in all: "
                 "each has %d",
                 one->mbs, replicas, mbs, mbs / replicas);
    if (one->workers > DML_MAX_WORKERS / replicas)
        DML_FAIL(DML_ERR_SPEC, "%d ranks with %d replicas are more than %d workers", one->workers,
                 replicas, DML_MAX_WORKERS);
    return DML_ERR_OK;
}

dml_err dml_expand_replicas(const dml_program *one, int32_t replicas, int32_t mbs, dml_program *out)
{
    *out = (dml_program){0};
    DML_TRY(check_shares(one, replicas, mbs));
    DML_TRY(dml_program_init(out, one->workers * replicas, one->chunks, mbs));
    out->forward_only = one->forward_only;
    const dml_err err = dml_program_set_skips(out, one->n_skips, one->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    memcpy(out->span, one->span, (size_t)one->chunks * sizeof *one->span);
    memcpy(out->buckets, one->buckets, (size_t)one->chunks * sizeof *one->buckets);
    dml_program_copy_updates(one, out);
    for (int32_t c = 0; c < one->chunks; c++)
        out->update_mbs[c] *= replicas;
    for (int32_t rank = 0; rank < one->workers; rank++)
        for (int32_t r = 0; r < replicas; r++)
            for (int32_t i = 0; i < one->list[rank].n; i++) {
                const dml_op *op = &one->list[rank].op[i];
                const int32_t w = rank * replicas + r;
                const int32_t at = dml_program_push(out, w, (dml_op_kind)op->kind, op->chunk,
                                                    op->mb * replicas + r);
                out->list[w].op[at].version = op->version;
            }
    for (int32_t c = 0; c < one->chunks; c++)
        for (int32_t mb = 0; mb < mbs; mb++)
            *dml_program_route(out, c, mb) =
                *dml_program_route(one, c, mb / replicas) * replicas + mb % replicas;
    return DML_ERR_OK;
}
