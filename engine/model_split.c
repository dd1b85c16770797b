/* engine/model_split.c - where to cut the layers into stages.
 *
 * Legal borders cut the chain into segments that no stage may split.  At most of them one value crosses; at the
 * others (:) a skip leads past, too:
 *
 *   conv1 bn1 | relu1 | conv2 : bn2 : relu2 : conv3 : add1 | relu3 | fc loss
 *                       (a residual block)                          (the loss stays with its input)
 *
 * auto is the exact cut of engine/partition.h.  Where times are known (costs, or nearly all is in delays) a stage takes
 * what its slowest worker and its link take, to the ns if they were measured.  Otherwise flops stand for times, and
 * links for nothing; flops foretell no time to the percent, so behind the slowest stage only differences of 1/64 of it
 * count; then fewer bytes do.  Skips cost bytes and memory: a cut with them is taken where it makes the slowest
 * stage faster by more than a tenth, or where the others do not suffice.
 *
 * The speed of a stage is 1 / load, load being the most that one of its workers has to run over all the stages it holds,
 * by its speed.  If load x time <= L for every stage, no worker has more than L to do: under parallelism.stages
 * sum of share x time <= sum of share x L / load <= L.
 *
 * Memory counts where the cut that is best without it does not fit (engine/plan.c).  Bytes are those of the engine but for
 * what an order decides: how many values lie at the borders at a time.  First they are what most orders hold; where no
 * such cut is, the least that any can do with; and the plan has the last word.
 */
#include "engine/model.h"

#include "engine/layers/layer.h"
#include "engine/partition.h"
#include "engine/plan.h"
#include "engine/split_stages.h"

#include <string.h>

enum { GRAIN = 64 };

/* Which borders a cut may use. */
typedef enum borders { ALONE, ALL } borders;

static bool may_end(const dml_model *model, int32_t layer, borders of)
{
    const dml_layer *l = &model->layer[layer];
    return layer + 1 == model->n_layers || (of == ALL ? l->may_end_stage : l->ends_alone);
}

static int32_t count_segments(const dml_model *model, borders of)
{
    int32_t n = 0;
    for (int32_t i = 0; i < model->n_layers; i++)
        n += may_end(model, i, of);
    return n;
}

/* ---- memory ---- */

typedef enum counting {
    NO_MEMORY,
    USUAL, /* one input ahead, up to three gradients behind */
    LEAST  /* one gradient; auto, and who shares a worker, one micro-batch, too */
} counting;

typedef struct bytes_of {
    const dml_spec *spec;
    const dml_model *model;
    const dml_split_stages *stages;
    counting counting;
    dml_stage_need
        *need;   /* [n_layers][n_layers + 1] by first and end; once < 0: not asked for yet */
    dml_err err; /* of the last that failed */
} bytes_of;

static int64_t stage_bytes(void *of, int32_t s, int32_t begin, int32_t end)
{
    bytes_of *b = of;
    const dml_split_stage *stage = &b->stages->stage[s];
    dml_stage_need *need = &b->need[(int64_t)begin * (b->model->n_layers + 1) + end];
    if (need->once < 0 && b->err == DML_ERR_OK)
        b->err = dml_stage_need_of(b->spec, b->model, begin, end, b->stages->splits_backward, need);
    const int64_t usual = stage->in_flight, late = usual < 3 ? usual : 3;
    if (b->counting == USUAL)
        return stage->held_with *
               (need->once + usual * need->stash + (usual + 1) * need->in + late * need->dy +
                need->dx + dml_worker_align(usual * need->labels));
    const int64_t least = b->stages->ordered && stage->held_with == 1 ? usual : 1;
    return need->once + least * (need->stash + need->in) + need->dy + need->dx +
           dml_worker_align(least * need->labels);
}

static bytes_of *begin_bytes(const dml_spec *spec, const dml_model *model,
                             const dml_split_stages *stages, counting how, dml_arena *arena)
{
    const int64_t cells = (int64_t)model->n_layers * (model->n_layers + 1);
    bytes_of *b = DML_NEW(arena, bytes_of);
    *b = (bytes_of){spec, model, stages, how, DML_NEW_N(arena, dml_stage_need, cells), DML_ERR_OK};
    for (int64_t i = 0; i < cells; i++)
        b->need[i].once = -1;
    return b;
}

/* ---- auto ---- */

/* What a stage, as a problem of engine/partition.h has it, is made from. */
typedef struct source {
    const dml_spec *spec;
    const dml_model *model;
    const dml_split_stages *stages;
    bool known; /* times are ns */
    counting counting;
    dml_arena *arena;
} source;

/* Measured, or at least 99 % of the work in delays. */
static bool times_are_known(const dml_spec *spec, const dml_model *model)
{
    int64_t all = 0, delays = 0;
    for (int32_t i = 0; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
            all += l->flops[pass];
            if (l->spec->kind == DML_LAYER_DELAY) delays += l->flops[pass];
        }
    }
    return spec->costs || delays >= all - all / 100;
}

static dml_partition_layer layer_of(const source *from, int32_t i, borders of)
{
    const dml_layer *l = &from->model->layer[i];
    const int64_t elems = dml_shape_elems(l->out), rows = from->spec->training.micro_batch_size;
    dml_partition_layer layer = {.name = l->spec->name,
                                 .out_bytes = elems * (int64_t)sizeof(float),
                                 .may_end_stage = may_end(from->model, i, of)};
    if (from->known) layer.out_bytes = elems * rows * dml_dtype_bytes(dml_act_type(from->spec));
    for (dml_pass pass = 0; pass < DML_PASSES; pass++)
        layer.ns[pass] =
            from->known ? dml_layer_ns(from->spec, from->model, i, pass) : l->flops[pass];
    return layer;
}

static dml_partition_problem problem_of(const source *from, borders of)
{
    const dml_model *model = from->model;
    const int32_t n = model->n_layers, stages = from->stages->stages;
    dml_partition_layer *layer = DML_NEW_N(from->arena, dml_partition_layer, n);
    dml_partition_stage *stage = DML_NEW_N(from->arena, dml_partition_stage, stages);
    dml_partition_skip *skip = DML_NEW_N(from->arena, dml_partition_skip, 2 * (int64_t)n);
    const int32_t n_skips = of == ALL ? dml_model_skips(model, skip) : 0;
    for (int32_t i = 0; i < n; i++)
        layer[i] = layer_of(from, i, of);
    for (int32_t s = 0; s < stages; s++) {
        const dml_split_stage *on = &from->stages->stage[s];
        stage[s] = (dml_partition_stage){.speed = on->speed, .in_flight = on->in_flight};
        if (from->counting != NO_MEMORY) stage[s].memory_bytes = on->memory_bytes;
        if (!from->known) continue;
        stage[s].link_latency_ns = on->link.latency_ns;
        stage[s].link_bytes_per_s = (int64_t)on->link.bytes_per_s;
    }
    dml_partition_problem p = {.layer = layer,
                               .skip = skip,
                               .stage = stage,
                               .n_layers = n,
                               .n_skips = n_skips,
                               .n_stages = stages,
                               .grain = from->spec->costs ? 0 : GRAIN};
    if (from->counting == NO_MEMORY) return p;
    p.bytes = stage_bytes;
    p.of = begin_bytes(from->spec, model, from->stages, from->counting, from->arena);
    return p;
}

/* The best cut over those borders, and the work of its slowest stage. */
static dml_err cut_over(const source *from, borders of, int32_t *begin, int64_t *slowest_ns)
{
    const dml_partition_problem p = problem_of(from, of);
    DML_TRY(dml_partition(&p, begin));
    if (p.bytes) DML_TRY(((bytes_of *)p.of)->err);
    dml_partition_price *price = DML_NEW_N(from->arena, dml_partition_price, from->stages->stages);
    dml_partition_price_of(&p, begin, price);
    *slowest_ns = 0;
    for (int32_t s = 0; s < from->stages->stages; s++)
        if (price[s].ns > *slowest_ns) *slowest_ns = price[s].ns;
    return DML_ERR_OK;
}

/* A cut that leaves skips alone unless one through them is faster by more than a tenth, or the only one. */
static dml_err cut_both_ways(const source *from, int32_t *begin)
{
    const int32_t stages = from->stages->stages, alone = count_segments(from->model, ALONE);
    int64_t alone_ns = INT64_MAX, all_ns = INT64_MAX;
    dml_err err = DML_ERR_NOMEM;
    if (stages <= alone) err = cut_over(from, ALONE, begin, &alone_ns);
    if (err != DML_ERR_OK && err != DML_ERR_NOMEM) return err;
    if (count_segments(from->model, ALL) == alone) return err;
    int32_t *cut = DML_NEW_N(from->arena, int32_t, stages + 1);
    const dml_err all = cut_over(from, ALL, cut, &all_ns);
    if (all != DML_ERR_OK) return err == DML_ERR_OK ? DML_ERR_OK : all;
    if (err != DML_ERR_OK || all_ns + all_ns / 10 < alone_ns)
        memcpy(begin, cut, (size_t)(stages + 1) * sizeof *cut);
    return DML_ERR_OK;
}

/* Text of the trail behind the place in our sources, one line. */
static dml_err refuse_memory(const dml_spec *spec)
{
    const char *key = spec->cluster.memory.n > 0 ? "cluster.memory" : "parallelism.memory";
    const char *text = strstr(dml_err_trail(), ": ");
    text = text ? text + strlen(": ") : dml_err_trail();
    return dml_spec_fail(spec, dml_spec_place(spec, key), key, "no cut fits %s: %.*s", key,
                         (int)strcspn(text, "\n"), text);
}

static dml_err split_auto(const dml_spec *spec, const dml_model *model, int32_t stages,
                          bool within_memory, dml_arena *arena, int32_t *begin)
{
    dml_split_stages on;
    DML_TRY(dml_split_stages_of(spec, stages, arena, &on));
    source from = {spec, model, &on, times_are_known(spec, model), NO_MEMORY, arena};
    if (!within_memory) return cut_both_ways(&from, begin);
    from.counting = LEAST;
    dml_err err = cut_both_ways(&from, begin);
    if (err == DML_ERR_NOMEM) return refuse_memory(spec);
    DML_TRY(err);
    int32_t *cut = DML_NEW_N(arena, int32_t, stages + 1);
    from.counting = USUAL;
    err = cut_both_ways(&from, cut);
    if (err == DML_ERR_NOMEM) return DML_ERR_OK;
    DML_TRY(err);
    memcpy(begin, cut, (size_t)(stages + 1) * sizeof *cut);
    return DML_ERR_OK;
}

/* Equal counts of the segments, the longer stages last. */
static void split_uniform(const dml_model *model, int32_t stages, int32_t *begin)
{
    const borders of = stages <= count_segments(model, ALONE) ? ALONE : ALL;
    const int32_t n = count_segments(model, of);
    begin[0] = 0;
    int32_t s = 1;
    for (int32_t i = 0, segments = 0; i < model->n_layers; i++)
        if (may_end(model, i, of) && ++segments == (int32_t)((int64_t)s * n / stages))
            begin[s++] = i + 1;
}

static bool is_batch(const dml_model *model, int32_t layer)
{
    return layer < 0 || model->layer[layer].value < 0;
}

static dml_err refuse_border(const dml_spec *spec, const dml_model *model, int32_t s, int32_t begin)
{
    const dml_place place = dml_spec_place(spec, "parallelism.split");
    const char *key = "parallelism.split", *first = model->layer[begin].spec->name,
               *last = model->layer[begin - 1].spec->name;
    if (begin == model->n_layers - 1)
        return dml_spec_fail(spec, place, key, "stage %d would hold nothing but the loss", s);
    for (int32_t i = begin; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        const bool with = (l->cls->traits & DML_JOIN) && is_batch(model, l->spec->with);
        if ((is_batch(model, l->spec->input) || with) && !is_batch(model, begin - 1))
            return dml_spec_fail(spec, place, key,
                                 "stage %d would begin at layer '%s', but '%s' reads the loaded "
                                 "batch, which only stage 0 has",
                                 s, first, l->spec->name);
    }
    return dml_spec_fail(spec, place, key,
                         "stage %d would begin at layer '%s', which does not read '%s' before it; "
                         "a stage begins with a layer that does",
                         s, first, last);
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
    for (int32_t s = 1; s < stages; s++)
        if (!model->layer[begin[s] - 1].may_end_stage)
            return refuse_border(spec, model, s, begin[s]);
    return DML_ERR_OK;
}

dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        bool within_memory, int32_t *begin)
{
    if (stages < 1) DML_FAIL(DML_ERR_BUG, "a model in %d stages", stages);
    if (spec->parallelism.split == DML_SPLIT_LIST) return split_list(spec, model, stages, begin);

    const int32_t segments = count_segments(model, ALL);
    if (stages > segments) {
        const char *key = spec->parallelism.n_stages > 0 ? "parallelism.stages"
                                                         : "parallelism.pipeline_parallel_size";
        return dml_spec_fail(
            spec, dml_spec_place(spec, key), key,
            "%d stages, but the model can be cut into %d at most (a stage begins with a layer "
            "that reads the one before it; the loss stays with its layer)",
            stages, segments);
    }
    if (spec->parallelism.split == DML_SPLIT_UNIFORM) {
        split_uniform(model, stages, begin);
        return DML_ERR_OK;
    }
    dml_arena arena = {0};
    const dml_err err = split_auto(spec, model, stages, within_memory, &arena, begin);
    dml_arena_free(&arena);
    return err;
}
