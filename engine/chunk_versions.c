/* engine/chunk_versions.c - more than one of a chunk's buffers, and chunks that lead to one of each.
 *
 *   version        0      1      2      3      4         p = 3, stage 0, PipeDream: three buffers
 *   buffer of w   [0]    [1]    [2]    [0]    [1]
 *   update         0      1      2      3                makes version 1, 2, 3, 4
 *   slots         [0]    [1]    [2]    [3]
 *   sums          [0]    [0]    [0]    [0]               one buffer: an update is applied before the next begins
 */
#include "engine/chunk_impl.h"

dml_chunk *dml_chunk_view(const dml_chunk *c, int32_t version, int32_t update, dml_arena *arena)
{
    DML_ASSERT_OP(update, <, c->updates);
    dml_chunk *v = DML_NEW(arena, dml_chunk);
    dml_chunk_impl *impl = DML_NEW(arena, dml_chunk_impl);
    const int64_t slot_words = update * c->slot_words, sum = update % c->sums,
                  w = version % c->versions;
    *v = *c;
    *impl = *(const dml_chunk_impl *)c->impl;
    v->impl = impl;
    v->w += w * c->arena_elems;
    if (impl->w_act) impl->w_act = (char *)impl->w_act + w * dml_w_act_bytes(c);
    v->g += sum * c->arena_elems;
    if (v->acc) v->acc += sum * c->acc_elems;
    if (v->max_bits) v->max_bits += (int64_t)update * c->max_words;
    v->slots += slot_words;
    v->ran += slot_words;
    if (v->loss) v->loss += slot_words * (int64_t)sizeof *v->slots / (int64_t)sizeof *v->loss;
    if (v->correct) v->correct += slot_words;
    v->moments += slot_words;
    return v;
}

dml_err dml_chunk_convert(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k,
                          int32_t version)
{
    const dml_chunk_impl *impl = c->impl;
    if (!impl->w_act || c->arena_elems == 0) return DML_ERR_OK;
    const int64_t buffer = version % c->versions;
    /* In the gaps, too, and of parameters that nothing reads in that type: one call. */
    const dml_tensor from =
        dml_tensor_of(c->w + buffer * c->arena_elems, DML_F32, 1, &c->arena_elems);
    const dml_tensor to = dml_tensor_of((char *)impl->w_act + buffer * dml_w_act_bytes(c), c->act,
                                        1, &c->arena_elems);
    DML_TRY(kt->convert(k, &to, &from));
    kt->weights_changed(k);
    return DML_ERR_OK;
}

dml_err dml_chunk_carry(const dml_chunk *c, const dml_kernel_table *kt, dml_kctx *k, int32_t from,
                        int32_t to)
{
    if (from % c->versions == to % c->versions || c->arena_elems == 0) return DML_ERR_OK;
    const int64_t row[] = {1, c->arena_elems};
    const dml_tensor old =
        dml_tensor_of(c->w + from % c->versions * c->arena_elems, DML_F32, 2, row);
    const dml_tensor new = dml_tensor_of(c->w + to % c->versions * c->arena_elems, DML_F32, 2, row);
    DML_TRY(dml_layer_copy(kt, k, &new, &old));
    kt->weights_changed(k);
    return DML_ERR_OK;
}
