/* engine/chunk_skips.c - the ends of skips at a chunk.
 *
 *   stash   | ... | a value | the output | ...        out: where the value lies that later chunks read
 *   dx      | of the input | of skip 2 | of skip 5 |  in: where its gradient goes
 */
#include "engine/chunk_impl.h"

/* The chunk's number in the model's cut, -1 when it is not a stage of it. */
static int32_t stage_of(const dml_chunk *c)
{
    const dml_cut *cut = c->model->cut;
    for (int32_t s = 0; cut && s < cut->stages; s++)
        if (cut->begin[s] == c->layer_begin && cut->begin[s + 1] == c->layer_end) return s;
    return -1;
}

const dml_chunk_skip *dml_chunk_end(const dml_chunk_skip *ends, int32_t n, int32_t skip)
{
    for (int32_t i = 0; i < n; i++)
        if (ends[i].skip == skip) return &ends[i];
    dml_assert_failed("a skip without an end", skip, n, __FILE__, __LINE__);
}

static int32_t end_of(const dml_model_skip *s, int32_t which)
{
    const int32_t end[] = {s->from, s->to, s->back};
    return end[which];
}

/* Skips whose end `which` (from, to, back) is at stage s. */
static dml_chunk_skip *find_ends(const dml_chunk *c, int32_t stage, int32_t which, int32_t *n,
                                 dml_arena *arena)
{
    const dml_cut *cut = c->model->cut;
    const int64_t row = c->mb_rows * dml_dtype_bytes(c->act);
    *n = 0;
    if (stage < 0) return NULL;
    dml_chunk_skip *end = DML_NEW_N(arena, dml_chunk_skip, cut->n_skips);
    for (int32_t k = 0; k < cut->n_skips; k++)
        if (end_of(&cut->skip[k], which) == stage)
            end[(*n)++] = (dml_chunk_skip){.skip = k + 1, .bytes = cut->skip[k].elems * row};
    return end;
}

dml_chunk_skip *dml_chunk_plan_skips(dml_chunk *c, dml_arena *arena)
{
    const int32_t stage = stage_of(c);
    dml_chunk_skip *out = find_ends(c, stage, 0, &c->n_skip_out, arena);
    dml_chunk_skip *in = find_ends(c, stage, 1, &c->n_skip_in, arena);
    c->skip_back = find_ends(c, stage, 2, &c->n_skip_back, arena);
    for (int32_t i = 0; i < c->n_skip_in; i++) {
        in[i].at = dml_align_bytes(c->size.dx);
        c->size.dx = in[i].at + in[i].bytes;
    }
    c->skip_in = in;
    c->skip_out = out;
    return out;
}

const dml_model_skip *dml_chunk_skip_of(const dml_chunk *c, const dml_chunk_skip *end)
{
    return &c->model->cut->skip[end->skip - 1];
}

bool dml_chunk_sends(const dml_chunk *c, int32_t i)
{
    for (int32_t k = 0; k < c->n_skip_out; k++)
        if (dml_chunk_skip_of(c, &c->skip_out[k])->value == c->layer_begin + i) return true;
    return false;
}
