/* engine/split_stages.c - routes and orders read for what a cut must know of its stages. */
#include "engine/split_stages.h"

#include "engine/chunk_bucket.h"
#include "engine/layers/layer.h"
#include "engine/placement.h"
#include "engine/plan.h"
#include "engine/update.h"
#include "schedule/schedule.h"
#include "schedule/shares.h"

#include <math.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* ---- routes ---- */

static bool is_placed(const dml_spec *spec)
{
    return spec->parallelism.n_stages > 0;
}

static bool is_named(const dml_spec *spec)
{
    const char *text = spec->parallelism.schedule;
    return strcmp(text, DML_ORDER_AUTO) != 0 &&
           strncmp(text, DML_ORDER_CSV, strlen(DML_ORDER_CSV)) != 0;
}

/* Workers of the spec that a worker of the routes stands for: of equal pipelines one of each. */
static int32_t each_of(const dml_spec *spec)
{
    return is_placed(spec) ? 1 : MAX2(spec->parallelism.data_parallel_size, 1);
}

static dml_err build_named(const dml_spec *spec, int32_t mbs, dml_program *out)
{
    const dml_schedule *schedule;
    DML_TRY(dml_schedule_find(spec->parallelism.schedule, &schedule));
    const int32_t stages = spec->parallelism.pipeline_parallel_size;
    /* Asynchronous: enough updates for the pipeline to be full. */
    const int32_t updates = schedule->version ? 1 + (stages + mbs - 1) / mbs : 1;
    const dml_schedule_args args = {.stages = stages,
                                    .virtual_stages = spec->parallelism.virtual_stages,
                                    .mbs = mbs * updates,
                                    .update_mbs = schedule->version ? mbs : 0,
                                    .vertical_sync = spec->parallelism.vertical_sync};
    return dml_schedule_build(schedule, &args, out);
}

/* Stage s on rank s mod ranks. */
static dml_err route_in_turn(int32_t ranks, int32_t stages, int32_t mbs, dml_program *out)
{
    DML_TRY(dml_program_init(out, ranks, stages, mbs));
    for (int32_t s = 0; s < stages; s++)
        for (int32_t mb = 0; mb < mbs; mb++)
            *dml_program_route(out, s, mb) = s % ranks;
    return DML_ERR_OK;
}

static dml_err route_by_shares(const dml_spec *spec, int32_t stages, int32_t mbs, dml_program *out)
{
    DML_TRY(dml_program_init(out, dml_spec_workers(spec), stages, mbs));
    for (int32_t s = 0; s < stages; s++) {
        const dml_stage_spec *stage = &spec->parallelism.stage[s];
        dml_route_by_shares(out, s, stage->workers.v, stage->shares.v, stage->workers.n);
    }
    return DML_ERR_OK;
}

/* What a schedule refuses is refused where the plan asks for its order, in better words; until then it is in turn. */
static dml_err make_routes(const dml_spec *spec, int32_t stages, dml_program *out)
{
    const int32_t mbs = MAX2(spec->training.num_microbatches, 1);
    if (is_placed(spec)) return route_by_shares(spec, stages, mbs, out);
    if (stages != dml_spec_stages(spec)) return route_in_turn(stages, stages, 1, out);
    const int32_t own = MAX2(mbs / spec->parallelism.data_parallel_size, 1);
    if (is_named(spec) && build_named(spec, own, out) == DML_ERR_OK) return DML_ERR_OK;
    return route_in_turn(spec->parallelism.pipeline_parallel_size, stages, own, out);
}

/* share[s workers + w]: micro-batches of stage s that worker w runs. */
static int32_t *count_shares(const dml_program *p, dml_arena *arena)
{
    int32_t *share = DML_NEW_N(arena, int32_t, (int64_t)p->chunks * p->workers);
    for (int32_t s = 0; s < p->chunks; s++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            share[(int64_t)s * p->workers + *dml_program_route(p, s, mb)]++;
    return share;
}

/* ---- figures ---- */

static double slowest_of(const dml_spec *spec, int32_t worker)
{
    double least = INFINITY;
    for (int32_t k = 0; k < each_of(spec); k++)
        least = fmin(least, dml_spec_speed(spec, worker * each_of(spec) + k));
    return least;
}

/* A stage's speed is 1 / the largest load of its workers: micro-batches of all the stages it runs, per micro-batch of the
 * step and per stage of equal pipelines, over its speed. */
static void set_speeds(const dml_spec *spec, const dml_program *p, const int32_t *share,
                       dml_split_stage *out)
{
    const double usual = (double)p->mbs * (is_placed(spec) ? 1 : MAX2(p->chunks / p->workers, 1));
    for (int32_t s = 0; s < p->chunks; s++)
        out[s].speed = INFINITY;
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t all = 0, held = 0;
        for (int32_t s = 0; s < p->chunks; s++) {
            all += share[(int64_t)s * p->workers + w];
            held += share[(int64_t)s * p->workers + w] > 0;
        }
        for (int32_t s = 0; s < p->chunks; s++) {
            if (share[(int64_t)s * p->workers + w] == 0) continue;
            out[s].speed = fmin(out[s].speed, slowest_of(spec, w) * usual / all);
            out[s].held_with = MAX2(out[s].held_with, held);
        }
    }
}

static void set_limits(const dml_spec *spec, const dml_program *p, const int32_t *share,
                       dml_split_stage *out)
{
    const int32_t each = each_of(spec);
    for (int32_t s = 0; s < p->chunks; s++)
        for (int32_t w = 0; w < p->workers; w++)
            for (int32_t k = 0; k < each && share[(int64_t)s * p->workers + w] > 0; k++) {
                const int64_t limit = dml_spec_memory(spec, w * each + k);
                if (limit > 0 && (out[s].memory_bytes == 0 || limit < out[s].memory_bytes))
                    out[s].memory_bytes = limit;
            }
}

/* The slowest latency and bandwidth that any micro-batch meets between stage s - 1 and s. */
static void set_link(const dml_spec *spec, const dml_program *p, int32_t s, dml_split_stage *out)
{
    const dml_links links = dml_spec_known_links(spec);
    const int32_t each = each_of(spec);
    dml_link *slow = &out[s].link;
    for (int32_t mb = 0; mb < p->mbs; mb++) {
        const int32_t from = *dml_program_route(p, s - 1, mb), to = *dml_program_route(p, s, mb);
        for (int32_t k = 0; k < each && from != to; k++) {
            const dml_link *link = dml_links_between(&links, from * each + k, to * each + k);
            const bool slower = link->bytes_per_s > 0 &&
                                !(slow->bytes_per_s > 0 && slow->bytes_per_s < link->bytes_per_s);
            slow->latency_ns = MAX2(slow->latency_ns, link->latency_ns);
            if (slower) slow->bytes_per_s = link->bytes_per_s;
        }
    }
}

/* Between forward and backward in the order. */
static void count_in_flight(const dml_program *p, dml_split_stage *out)
{
    dml_arena arena = {0};
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t *held = DML_NEW_N(&arena, int32_t, p->chunks);
        const bool split = dml_program_splits_backward(p);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind == DML_OP_FWD && ++held[op->chunk] > out[op->chunk].in_flight)
                out[op->chunk].in_flight = held[op->chunk];
            if (op->kind == (split ? DML_OP_BWD_WEIGHT : DML_OP_BWD)) held[op->chunk]--;
        }
    }
    dml_arena_free(&arena);
}

/* As many as engine/placement.h says: a micro-batch in the stage and the worker's part of those in the stages behind. */
static void guess_in_flight(const dml_program *p, const int32_t *share, dml_split_stage *out)
{
    dml_arena arena = {0};
    bool *seen = DML_NEW_N(&arena, bool, p->workers);
    int32_t behind = 0;
    for (int32_t s = p->chunks - 1; s >= 0; s--) {
        int32_t most = 0;
        for (int32_t w = 0; w < p->workers; w++)
            most = MAX2(most, share[(int64_t)s * p->workers + w]);
        out[s].in_flight = (int32_t)MIN2(most, 1 + ((int64_t)behind * most + p->mbs - 1) / p->mbs);
        for (int32_t w = 0; w < p->workers; w++) {
            if (share[(int64_t)s * p->workers + w] == 0 || seen[w]) continue;
            seen[w] = true;
            behind++;
        }
    }
    dml_arena_free(&arena);
}

dml_err dml_split_stages_of(const dml_spec *spec, int32_t stages, dml_arena *arena,
                            dml_split_stages *out)
{
    dml_program p;
    DML_TRY(make_routes(spec, stages, &p));
    dml_split_stage *stage = DML_NEW_N(arena, dml_split_stage, stages);
    const int32_t *share = count_shares(&p, arena);
    *out = (dml_split_stages){.stages = stages,
                              .stage = stage,
                              .splits_backward = dml_program_splits_backward(&p),
                              .ordered = dml_program_ops(&p) > 0};
    set_speeds(spec, &p, share, stage);
    set_limits(spec, &p, share, stage);
    for (int32_t s = 1; s < stages; s++)
        set_link(spec, &p, s, stage);
    if (out->ordered)
        count_in_flight(&p, stage);
    else
        guess_in_flight(&p, share, stage);
    dml_program_free(&p);
    return DML_ERR_OK;
}

/* ---- skips ---- */

/* Layer r reads the output of `layer`, beside the chain if it is not what the layer before leaves. */
static void add_skip(const dml_model *model, int32_t r, int32_t layer, dml_partition_skip *skip,
                     int32_t *n)
{
    if (layer < 0 || model->layer[layer].value < 0) return;
    const int32_t value = model->layer[layer].value;
    if (value != model->layer[r - 1].value) skip[(*n)++] = (dml_partition_skip){value, r};
}

int32_t dml_model_skips(const dml_model *model, dml_partition_skip *skip)
{
    int32_t n = 0;
    for (int32_t i = 0; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        add_skip(model, i, l->spec->input, skip, &n);
        if (l->cls->traits & DML_JOIN) add_skip(model, i, l->spec->with, skip, &n);
    }
    return n;
}

/* ---- bytes ---- */

/* Of recomputed micro-batches that go back whole one at a time has its stash, beside that of one which is spared. */
dml_stage_need dml_chunk_need(const dml_spec *spec, const dml_model *model, const dml_chunk *c)
{
    const bool split = c->split_backward;
    const dml_recompute policy = spec->parallelism.recompute;
    const int64_t stash = dml_worker_align(c->size.stash), kept = dml_worker_align(c->size.kept);
    dml_stage_need need = {
        .once = dml_worker_align(c->size.shared) + dml_worker_align(c->size.private_) +
                dml_worker_align(dml_update_device_bytes(c)),
        .stash = policy == DML_RECOMPUTE_NONE ? stash
                 : split                      ? kept + stash
                                              : kept,
        .in = dml_worker_align(c->size.in),
        .dy = dml_worker_align(c->size.dy),
        .dx = dml_worker_align(c->size.dx),
    };
    if (c->layer_end == model->n_layers) need.labels = c->mb_rows * (int64_t)sizeof(int32_t);
    for (int32_t k = 0; k < c->n_buckets; k++)
        need.reduce += dml_bucket_bytes(c, &c->bucket[k]);
    for (int32_t i = 0; i < c->n_skip_in; i++)
        need.in += dml_worker_align(c->skip_in[i].bytes);
    for (int32_t i = 0; i < c->n_skip_back; i++)
        need.dy += dml_worker_align(c->skip_back[i].bytes);
    if (policy != DML_RECOMPUTE_NONE && !split)
        need.once += policy == DML_RECOMPUTE_EXCEPT_LAST ? 2 * stash : stash;
    return need;
}

/* The model cut before and behind the layers, so that skips end there. */
static dml_err cut_around(dml_model *model, int32_t begin, int32_t end, dml_arena *arena)
{
    int32_t border[4] = {0}, n = 0;
    if (begin > 0) border[++n] = begin;
    if (end < model->n_layers) border[++n] = end;
    border[++n] = model->n_layers;
    return dml_model_cut(model, n, border, arena);
}

dml_err dml_stage_need_of(const dml_spec *spec, const dml_model *model, int32_t begin, int32_t end,
                          bool splits_backward, dml_stage_need *out)
{
    dml_arena arena = {0};
    dml_model part = *model;
    dml_chunk c;
    dml_err err = cut_around(&part, begin, end, &arena);
    if (err == DML_ERR_OK)
        err = dml_chunk_plan(spec, &part, begin, end, splits_backward, &arena, &c);
    if (err == DML_ERR_OK) *out = dml_chunk_need(spec, model, &c);
    dml_arena_free(&arena);
    return err;
}
