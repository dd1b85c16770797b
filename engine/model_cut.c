/* engine/model_cut.c - what crosses when a model is cut into stages.
 *
 *   layers    conv0 | conv1 | conv2  add1 | add0          add1 reads conv1, add0 reads conv0, too
 *   stage       0   |   1   |      2      |   3
 *   crosses         >       >             >               to the next stage: what the last layer leaves
 *   skips           +---------------------+               value conv0: from 0 to 3, its gradient back to 0
 *                           1 -> 2: conv1 crosses anyway, no skip
 */
#include "engine/model.h"

#include "engine/layers/layer.h"

#include <string.h>

typedef struct cutting {
    const dml_model *model;
    dml_cut *cut;
    int32_t *stage_of; /* [layers] */
    int32_t *newest;   /* [layers] of a value: the last stage so far that has it */
} cutting;

static int32_t value_of(const dml_model *model, int32_t layer)
{
    return layer < 0 ? -1 : model->layer[layer].value;
}

/* Stage s reads the output of `layer`, which lies below it. */
static dml_err read_from_below(cutting *c, int32_t s, int32_t layer)
{
    const int32_t value = value_of(c->model, layer), before = c->cut->begin[s] - 1;
    const bool crosses = value_of(c->model, before) == value;
    if (value < 0 && !crosses)
        DML_FAIL(DML_ERR_BUG, "stage %d reads the loaded batch, which only stage 0 has", s);
    if (value < 0 || c->newest[value] == s) return DML_ERR_OK;
    if (!crosses)
        c->cut->skip[c->cut->n_skips++] =
            (dml_model_skip){.value = value,
                             .from = c->stage_of[value],
                             .to = s,
                             .back = c->newest[value],
                             .elems = dml_shape_elems(c->model->layer[value].out)};
    c->newest[value] = s;
    return DML_ERR_OK;
}

static dml_err read_layer(cutting *c, int32_t i)
{
    const int32_t s = c->stage_of[i], begin = c->cut->begin[s];
    const dml_layer *l = &c->model->layer[i];
    if (s > 0 && l->spec->input < begin) DML_TRY(read_from_below(c, s, l->spec->input));
    if (s > 0 && l->cls->traits & DML_JOIN && l->spec->with < begin)
        DML_TRY(read_from_below(c, s, l->spec->with));
    return DML_ERR_OK;
}

/* Something crosses each border: the stage above reads it. */
static dml_err check_border(const cutting *c, int32_t s)
{
    const int32_t value = value_of(c->model, c->cut->begin[s] - 1);
    if (value >= 0 && c->newest[value] < s)
        DML_FAIL(DML_ERR_BUG, "stage %d does not read '%s', with which stage %d ends", s,
                 c->model->layer[c->cut->begin[s] - 1].spec->name, s - 1);
    return DML_ERR_OK;
}

dml_err dml_model_cut(dml_model *model, int32_t stages, const int32_t *begin, dml_arena *arena)
{
    const int32_t n = model->n_layers;
    dml_cut *cut = DML_NEW(arena, dml_cut);
    *cut = (dml_cut){.stages = stages,
                     .begin = DML_NEW_N(arena, int32_t, stages + 1),
                     .skip = DML_NEW_N(arena, dml_model_skip, 2 * (int64_t)n)};
    memcpy(cut->begin, begin, (size_t)(stages + 1) * sizeof *begin);
    cutting c = {.model = model,
                 .cut = cut,
                 .stage_of = DML_NEW_N(arena, int32_t, n),
                 .newest = DML_NEW_N(arena, int32_t, n)};
    for (int32_t s = 0; s < stages; s++)
        for (int32_t i = begin[s]; i < begin[s + 1]; i++)
            c.stage_of[i] = c.newest[i] = s;
    for (int32_t s = 0; s < stages; s++) {
        for (int32_t i = begin[s]; i < begin[s + 1]; i++)
            DML_TRY(read_layer(&c, i));
        if (s > 0) DML_TRY(check_border(&c, s));
    }
    model->cut = cut;
    return DML_ERR_OK;
}
