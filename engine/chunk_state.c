/* engine/chunk_state.c - running moments of batch norm, moved when a step commits. */
#include "engine/chunk_impl.h"

dml_err dml_chunk_commit_state(dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                               int64_t samples)
{
    const dml_chunk_impl *impl = c->impl;
    for (int32_t i = c->layer_begin; i < c->layer_end; i++) {
        const dml_layer *l = &c->model->layer[i];
        if (l->state_begin == l->state_end) continue;
        const int64_t channels = c->model->state[l->state_begin].elems;
        const dml_moments p = {
            .mbs = c->mbs,
            .mb_rows = c->mb_rows,
            .samples = samples,
            .pixels = dml_shape_elems(l->in) / channels,
            .momentum = l->spec->momentum,
            .per_micro_batch = l->spec->per_micro_batch,
        };
        float *mean_at = dml_chunk_state(c, l->state_begin);
        float *var_at = dml_chunk_state(c, l->state_begin + 1);
        float *slots_at = c->moments + impl->layer[i - c->layer_begin].moments_at;
        const dml_tensor mean = dml_tensor_of(mean_at, DML_F32, 1, &channels);
        const dml_tensor var = dml_tensor_of(var_at, DML_F32, 1, &channels);
        const dml_tensor slots =
            dml_tensor_of(slots_at, DML_F32, 3, (const int64_t[]){c->mbs, 2, channels});
        DML_TRY(kt->move_moments(k, &p, &mean, &var, &slots));
    }
    return DML_ERR_OK;
}
