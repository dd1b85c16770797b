/* engine/model_split.c - where to cut the layers into stages.
 *
 * Legal borders cut the chain into segments that no stage may split:
 *
 *   conv1 bn1 | relu1 | conv2 bn2 relu2 conv3 add1 | relu3 | fc loss
 *                       (a residual block)            (the loss stays with its input)
 *
 * auto, two passes over best[s][j], the first j segments in s stages:
 *   least maximum   best[s][j] = min over i of max(best[s-1][i], flops(i, j))
 *   fewest bytes    the same recurrence on sums of bytes, over stages within that maximum
 */
#include "engine/model.h"

#include "engine/layers/layer.h"

typedef struct segments {
    int32_t n;
    int32_t *begin;  /* [n + 1] first layer; begin[n] is the number of layers */
    int64_t *before; /* [n + 1] flops of the segments before it */
    int64_t *wire;   /* [n + 1] bytes a sample sends across the border before it; 0 at both ends */
} segments;

static segments find_segments(const dml_model *model, dml_arena *arena)
{
    const int32_t n_layers = model->n_layers;
    segments s = {
        .begin = DML_NEW_N(arena, int32_t, n_layers + 1),
        .before = DML_NEW_N(arena, int64_t, n_layers + 1),
        .wire = DML_NEW_N(arena, int64_t, n_layers + 1),
    };
    int64_t flops = 0;
    for (int32_t i = 0; i < n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        flops += l->flops[0] + l->flops[1] + l->flops[2];
        if (!l->may_end_stage && i < n_layers - 1) continue;
        s.n++;
        s.begin[s.n] = i + 1;
        s.before[s.n] = flops;
        s.wire[s.n] = i < n_layers - 1 ? dml_shape_elems(l->out) * (int64_t)sizeof(float) : 0;
    }
    return s;
}

/* Stage costs under which the recurrences choose; INT64_MAX: not allowed. */
typedef struct choice {
    const segments *s;
    bool count_bytes;   /* sum the bytes of the borders, or take the maximum of flops */
    int64_t flops_most; /* a stage with more is not allowed */
} choice;

static int64_t join(const choice *c, int64_t first, int32_t from, int32_t to)
{
    const int64_t flops = c->s->before[to] - c->s->before[from];
    if (first == INT64_MAX || flops > c->flops_most) return INT64_MAX;
    if (c->count_bytes) return first + c->s->wire[from];
    return first > flops ? first : flops;
}

/* The best value for all segments in `stages` stages; cut[s] receives the first segment of stage s. */
static int64_t best_cuts(const choice *c, int32_t stages, dml_arena *arena, int32_t *cut)
{
    const int32_t n = c->s->n, row = n + 1;
    int64_t *best = DML_NEW_N(arena, int64_t, (int64_t)(stages + 1) * row);
    int32_t *from = DML_NEW_N(arena, int32_t, (int64_t)(stages + 1) * row);
    for (int32_t j = 1; j <= n; j++)
        best[j] = INT64_MAX; /* no stages hold no segments */
    for (int32_t s = 1; s <= stages; s++) {
        for (int32_t j = 0; j <= n; j++) {
            best[s * row + j] = INT64_MAX;
            for (int32_t i = s - 1; i < j; i++) {
                const int64_t value = join(c, best[(s - 1) * row + i], i, j);
                if (value >= best[s * row + j]) continue;
                best[s * row + j] = value;
                from[s * row + j] = i;
            }
        }
    }
    cut[stages] = n;
    for (int32_t s = stages; s > 0; s--)
        cut[s - 1] = from[s * row + cut[s]];
    return best[stages * row + n];
}

static void split_auto(const segments *s, int32_t stages, dml_arena *arena, int32_t *cut)
{
    choice c = {.s = s, .flops_most = INT64_MAX};
    c.flops_most = best_cuts(&c, stages, arena, cut);
    c.count_bytes = true;
    best_cuts(&c, stages, arena, cut);
}

/* The join that a cut before layer `at` would tear from its other branch. */
static const dml_layer *torn_join(const dml_model *model, int32_t at)
{
    for (int32_t i = at; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        const bool body = l->spec->input < at - 1, shortcut = l->spec->with < at - 1;
        if ((l->cls->traits & DML_JOIN) && (body || shortcut)) return l;
    }
    return NULL;
}

static dml_err split_list(const dml_spec *spec, const dml_model *model, int32_t stages,
                          int32_t *begin)
{
    const dml_place place = dml_spec_place(spec, "parallelism.split");
    const char *key = "parallelism.split";
    begin[0] = 0;
    for (int32_t s = 0; s < stages; s++) {
        if (spec->parallelism.split_list[s] < 1)
            return dml_spec_fail(spec, place, key, "stage %d would have no layers", s);
        begin[s + 1] = begin[s] + spec->parallelism.split_list[s];
    }
    const int32_t total = begin[stages], n = model->n_layers;
    if (total != n && total != n - 1)
        return dml_spec_fail(spec, place, key,
                             "the split lists %d layers, but the model has %d before its loss",
                             total, n - 1);
    begin[stages] = n;
    for (int32_t s = 1; s < stages; s++) {
        if (model->layer[begin[s] - 1].may_end_stage) continue;
        const char *first = model->layer[begin[s]].spec->name;
        const dml_layer *torn = torn_join(model, begin[s]);
        if (torn)
            return dml_spec_fail(
                spec, place, key,
                "stage %d would begin at layer '%s', inside the residual block that ends "
                "with '%s'",
                s, first, torn->spec->name);
        return dml_spec_fail(spec, place, key, "stage %d would hold nothing but the loss", s);
    }
    return DML_ERR_OK;
}

dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        int32_t *begin)
{
    if (stages < 1) DML_FAIL(DML_ERR_BUG, "a model in %d stages", stages);
    if (spec->parallelism.split == DML_SPLIT_LIST) return split_list(spec, model, stages, begin);

    dml_arena arena = {0};
    const segments s = find_segments(model, &arena);
    dml_err err = DML_ERR_OK;
    if (stages > s.n) {
        const char *key = spec->parallelism.n_stages > 0 ? "parallelism.stages"
                                                         : "parallelism.pipeline_parallel_size";
        err = dml_spec_fail(
            spec, dml_spec_place(spec, key), key,
            "%d stages, but the model can be cut into %d at most (a residual block stays "
            "whole, and the loss with the layer before it)",
            stages, s.n);
        goto done;
    }
    int32_t *cut = DML_NEW_N(&arena, int32_t, stages + 1);
    if (spec->parallelism.split == DML_SPLIT_AUTO)
        split_auto(&s, stages, &arena, cut);
    else
        for (int32_t i = 0; i <= stages; i++)
            cut[i] = (int32_t)((int64_t)i * s.n / stages);
    for (int32_t i = 0; i <= stages; i++)
        begin[i] = s.begin[cut[i]];
done:
    dml_arena_free(&arena);
    return err;
}
