/* engine/plan.c - spec -> model -> cut -> order -> program, each step a pure function. */
#include "engine/plan.h"

#include "engine/chunk_bucket.h"
#include "engine/chunk_sum.h"
#include "engine/plan_async.h"
#include "engine/plan_lost.h"
#include "engine/plan_order.h"
#include "schedule/check.h"
#include "schedule/lower.h"
#include "schedule/recompute.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <string.h>

/* Time of a pass of layer `i` for one micro-batch; adds to the share that is not exactly that. */
static int64_t layer_ns(const dml_plan *plan, int32_t i, dml_pass pass, int64_t *inexact_ns)
{
    const int64_t ns = dml_layer_ns(plan->spec, &plan->model, i, pass);
    if (plan->model.layer[i].spec->kind != DML_LAYER_DELAY) *inexact_ns += ns;
    return ns;
}

int64_t dml_plan_layer_ns(const dml_plan *plan, int32_t layer, dml_pass pass)
{
    int64_t inexact_ns = 0;
    return layer_ns(plan, layer, pass, &inexact_ns);
}

/* Links and speeds: as emulated, else as measured. */
static dml_err price_cluster(dml_plan *plan)
{
    const dml_links links = dml_spec_known_links(plan->spec);
    DML_TRY(dml_cost_links(&plan->cost, &links));
    return dml_cost_speeds(&plan->cost, plan->spec->cluster.speed.n, plan->spec->cluster.speed.v);
}

static dml_err make_cost(dml_plan *plan)
{
    const dml_costs *costs = plan->spec->costs;
    const int64_t rows = plan->spec->training.micro_batch_size;
    DML_TRY(dml_cost_init(&plan->cost, plan->stages));
    DML_TRY(price_cluster(plan));
    int64_t all_ns = 0, inexact_ns = 0;
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_chunk_cost *c = &plan->cost.chunk[s];
        for (int32_t i = plan->stage_begin[s]; i < plan->stage_begin[s + 1]; i++) {
            c->fwd_ns += layer_ns(plan, i, DML_PASS_FORWARD, &inexact_ns);
            c->bwd_input_ns += layer_ns(plan, i, DML_PASS_INPUT, &inexact_ns);
            c->bwd_weight_ns += layer_ns(plan, i, DML_PASS_WEIGHT, &inexact_ns);
            if (costs) c->step_ns += costs->step_ns[i];
            if (costs) c->begin_ns += dml_costs_begin_ns(costs, i);
        }
        all_ns += c->fwd_ns + c->bwd_input_ns + c->bwd_weight_ns;
        const dml_layer *last = &plan->model.layer[plan->stage_begin[s + 1] - 1];
        if (s + 1 < plan->stages)
            c->out_bytes =
                dml_shape_elems(last->out) * rows * dml_dtype_bytes(dml_act_type(plan->spec));
    }
    plan->cost_is_exact = inexact_ns * 100 <= all_ns;
    if (costs) plan->cost.vote_ns = costs->vote_ns;
    DML_TRY(dml_cost_skips(&plan->cost, plan->model.cut->n_skips));
    for (int32_t k = 1; k <= plan->model.cut->n_skips; k++)
        plan->cost.skip_bytes[k - 1] = dml_plan_skip_bytes(plan, k);
    return DML_ERR_OK;
}

int64_t dml_plan_skip_bytes(const dml_plan *plan, int32_t skip)
{
    const int64_t rows = plan->spec->training.micro_batch_size;
    return plan->model.cut->skip[skip - 1].elems * rows * dml_dtype_bytes(dml_act_type(plan->spec));
}

/* ---- buckets ---- */

typedef struct reduction {
    const int32_t *members; /* [n] the stage's holders */
    int32_t n;
    int64_t ns, bytes;
} reduction;

/* By the links where those are given, else as measured for that many members, if it was. */
static void add_all_reduce(const dml_plan *plan, int64_t bytes, reduction *sum)
{
    const dml_links given = dml_spec_links(plan->spec);
    const dml_costs *costs = plan->spec->costs;
    int64_t ns = -1;
    if (costs && dml_links_are_free(&given)) ns = dml_costs_reduce_ns(costs, sum->n, bytes);
    sum->ns += ns >= 0 ? ns : dml_all_reduce_ns(&plan->cost, sum->members, sum->n, bytes);
    sum->bytes += bytes;
}

/* Its gradients' squares, summed up for the norm with the reduction.  A layer's parameters are in one bucket. */
static int64_t norm_ns(const dml_plan *plan, const dml_chunk *c, const dml_bucket *b)
{
    const dml_costs *costs = plan->spec->costs;
    int64_t ns = 0;
    for (int32_t i = b->param_begin; costs && i < b->param_end; i++) {
        const int32_t p = c->param_begin + i, layer = plan->model.param[p].layer;
        if (p == plan->model.layer[layer].param_begin) ns += dml_costs_norm_ns(costs, layer);
    }
    return ns;
}

/* What reducing bucket `b` of stage s takes: the calls that the executor makes (engine/exec_op.c). */
static reduction price_bucket(const dml_plan *plan, int32_t stage, const dml_chunk *c,
                              const dml_bucket *b, bool last, dml_arena *arena)
{
    int32_t *holders = DML_NEW_N(arena, int32_t, plan->workers * (int64_t)plan->alike);
    const int32_t words = dml_sum_info_of(plan->spec->training.numerics)->words,
                  n = dml_plan_holders(plan, stage, holders) * plan->alike;
    for (int32_t i = n - 1; i >= 0 && plan->alike > 1; i--)
        holders[i] = holders[i / plan->alike] * plan->alike + i % plan->alike;
    reduction sum = {.members = holders, .n = n, .ns = norm_ns(plan, c, b)};
    if (last) add_all_reduce(plan, c->slot_words * (int64_t)sizeof(int32_t), &sum);
    if (b->elems == 0) return sum;
    if (words > 0)
        add_all_reduce(plan, (b->param_end - b->param_begin) * (int64_t)sizeof(uint32_t), &sum);
    const int32_t calls = words > 0 ? words : 1;
    for (int32_t k = 0; k < calls; k++)
        add_all_reduce(plan, dml_bucket_bytes(c, b) / calls, &sum);
    return sum;
}

/* Turns amounts into shares of them and all before; amounts of nothing into equal shares. */
static void accumulate(double *amount, int32_t n)
{
    double all = 0.0, sum = 0.0;
    for (int32_t k = 0; k < n; k++)
        all += amount[k];
    for (int32_t k = 0; k < n; k++) {
        sum += amount[k];
        amount[k] = k + 1 == n ? 1.0 : all > 0.0 ? sum / all : (double)(k + 1) / n;
    }
}

/* [layers of the chunk][3] */
static int64_t (*layer_times(const dml_plan *plan, const dml_chunk *c, dml_arena *arena))[3]
{
    int64_t(*ns)[3] = dml_arena_alloc(arena, (int64_t)sizeof *ns * (c->layer_end - c->layer_begin));
    int64_t inexact_ns = 0;
    for (int32_t i = c->layer_begin; i < c->layer_end; i++)
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            ns[i - c->layer_begin][pass] = layer_ns(plan, i, pass, &inexact_ns);
    return ns;
}

/* What recomputing stage s takes; and its buckets: what each takes of a backward, by the steps that a chunk makes of these layers, and of the
 * reduction, by the link or, where that is not emulated, by its bytes; and the reduction of the whole. */
static dml_err price_buckets(dml_plan *plan, int32_t s, dml_arena *arena)
{
    dml_chunk chunk;
    DML_TRY(dml_chunk_plan(plan->spec, &plan->model, plan->stage_begin[s], plan->stage_begin[s + 1],
                           false, arena, &chunk));
    const int32_t n = chunk.n_buckets;
    const int64_t(*ns)[3] = (const int64_t(*)[3])layer_times(plan, &chunk, arena);
    double *bwd = DML_NEW_N(arena, double, n), *weight = DML_NEW_N(arena, double, n),
           *reduce = DML_NEW_N(arena, double, n);
    dml_chunk_cost *cost = &plan->cost.chunk[s];
    cost->recompute_ns = dml_chunk_recompute_ns(&chunk, ns);
    for (int32_t k = 0; k < n; k++) {
        const dml_part_times t = dml_chunk_part_times(&chunk, k + 1, ns);
        const reduction sum = price_bucket(plan, s, &chunk, &chunk.bucket[k], k + 1 == n, arena);
        bwd[k] = (double)t.bwd_ns;
        weight[k] = (double)t.weight_ns;
        reduce[k] = (double)sum.ns;
        cost->reduce_ns += sum.ns;
        plan->reduce_bytes[s] += sum.bytes;
    }
    for (int32_t k = 0; k < n && cost->reduce_ns == 0; k++)
        reduce[k] = (double)dml_bucket_bytes(&chunk, &chunk.bucket[k]);
    accumulate(bwd, n);
    accumulate(weight, n);
    accumulate(reduce, n);
    DML_TRY(dml_cost_buckets(&plan->cost, s, n));
    for (int32_t k = 0; k < n; k++)
        cost->bucket[k] = (dml_bucket_cost){bwd[k], weight[k], reduce[k]};
    return DML_ERR_OK;
}

static dml_err price_all_buckets(dml_plan *plan)
{
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_arena arena = {0};
        const dml_err err = price_buckets(plan, s, &arena);
        dml_arena_free(&arena);
        DML_TRY(err);
    }
    return DML_ERR_OK;
}

/* ---- programs ---- */

/* Stage s holds chunk s: its layers, the parameters of these, and their buckets. */
static void fill_spans(const dml_plan *plan, dml_program *p)
{
    for (int32_t s = 0; s < plan->stages; s++) {
        p->buckets[s] = plan->cost.chunk[s].buckets;
        const dml_layer *first = &plan->model.layer[plan->stage_begin[s]];
        const dml_layer *last = &plan->model.layer[plan->stage_begin[s + 1] - 1];
        p->span[s] = (dml_chunk_span){plan->stage_begin[s], plan->stage_begin[s + 1],
                                      first->param_begin, last->param_end};
    }
}

static dml_err fill_skips(const dml_plan *plan, dml_program *p)
{
    const dml_cut *cut = plan->model.cut;
    dml_arena arena = {0};
    dml_skip *skip = DML_NEW_N(&arena, dml_skip, cut->n_skips);
    for (int32_t k = 0; k < cut->n_skips; k++)
        skip[k] = (dml_skip){cut->skip[k].from, cut->skip[k].to, cut->skip[k].back};
    const dml_err err = dml_program_set_skips(p, cut->n_skips, skip);
    dml_arena_free(&arena);
    return err;
}

/* The checker sees that spans follow each other; only the model knows where they must end. */
static dml_err check_coverage(const dml_plan *plan, const dml_program *p)
{
    const dml_chunk_span *last = &p->span[p->chunks - 1];
    if (last->layer_end != plan->model.n_layers || last->param_end != plan->model.n_params)
        DML_FAIL(DML_ERR_BUG, "placed: the stages end at layer %d and parameter %d of %d and %d",
                 last->layer_end, last->param_end, plan->model.n_layers, plan->model.n_params);
    return DML_ERR_OK;
}

static dml_err lower_checked(const dml_plan *plan, const dml_program *order, dml_program *out)
{
    DML_TRY(dml_check(order, NULL));
    DML_TRY(dml_lower(order, &plan->cost, out));
    dml_plan_drop_lost(plan, out);
    return dml_check(out, NULL);
}

/* Everyone is there, in its own place. */
static bool is_whole(const dml_plan *plan)
{
    return plan->spec->parallelism.lost.n == 0 && plan->spec->parallelism.seats.n == 0;
}

/* Nothing is made around those that are lost: there are none, or it was done before. */
static bool is_settled(const dml_plan *plan)
{
    return is_whole(plan) || dml_spec_has_order(plan->spec);
}

/* The order of all replicas, as if none were lost. */
static dml_err make_whole_order(dml_plan *plan)
{
    if (!dml_plan_is_equal(plan)) return dml_plan_order(plan, &plan->train, &plan->bound_ns);
    dml_program one = {0};
    DML_TRY(dml_plan_order(plan, &one, &plan->bound_ns));
    const dml_err err =
        dml_expand_replicas(&one, plan->replicas, one.mbs * plan->replicas, &plan->train);
    dml_program_free(&one);
    return err;
}

/* The order of those who are there, before it is lowered, in plan->train: whose routes the costs need. */
static dml_err make_order(dml_plan *plan, const int64_t *less_bytes)
{
    if (dml_spec_has_order(plan->spec)) return dml_plan_read_order(plan, &plan->train);
    DML_TRY(make_whole_order(plan));
    dml_plan_seat(plan, &plan->train);
    if (plan->spec->parallelism.lost.n == 0) return DML_ERR_OK;
    return dml_plan_lose(plan, less_bytes, &plan->train, &plan->bound_ns);
}

static dml_err make_programs(dml_plan *plan)
{
    dml_program order = plan->train, forward = {0};
    plan->train = (dml_program){0};
    fill_spans(plan, &order);
    if (plan->updates > 1) order.votes = dml_plan_votes(plan->spec);
    order.staggered = plan->spec->parallelism.staggered;
    dml_err err = check_coverage(plan, &order);
    if (err == DML_ERR_OK) err = fill_skips(plan, &order);
    if (err == DML_ERR_OK) err = dml_schedule_recompute(&order, plan->spec->parallelism.recompute);
    if (err == DML_ERR_OK) err = lower_checked(plan, &order, &plan->train);
    if (err == DML_ERR_OK) err = dml_schedule_forward_only(&order, &forward);
    if (err == DML_ERR_OK) err = lower_checked(plan, &forward, &plan->eval);
    dml_program_free(&order);
    dml_program_free(&forward);
    return err;
}

int64_t dml_plan_limit(const dml_plan *plan, int32_t worker)
{
    int64_t least = 0;
    for (int32_t k = 0; k < plan->alike; k++) {
        const int64_t most = dml_spec_memory(plan->spec, worker * plan->alike + k);
        if (most > 0 && (least == 0 || most < least)) least = most;
    }
    return least;
}

/* A worker that holds more than the spec allows is a mistake of the spec, known before a device is touched. */
static dml_err check_memory(const dml_plan *plan)
{
    const char *key = plan->spec->cluster.memory.n > 0 ? "cluster.memory" : "parallelism.memory";
    for (int32_t w = 0; w < plan->workers; w++) {
        const int64_t most = dml_plan_limit(plan, w);
        const int64_t bytes = most > 0 ? dml_plan_worker_bytes(plan, w) : 0;
        if (bytes <= most) continue;
        return dml_spec_fail(plan->spec, dml_spec_place(plan->spec, key), key,
                             "worker %d holds %.2f MiB under %s, %s is %.2f MiB", w,
                             (double)bytes / 0x1p20, plan->spec->parallelism.schedule, key,
                             (double)most / 0x1p20);
    }
    return DML_ERR_OK;
}

/* ---- one of equal pipelines -------------------------------------------------------------------------- */

/* How slow one is: 1 / speed of its workers, and what a chunk's output takes between neighbours. */
static double slowness(const dml_plan *plan, const dml_cost *cost)
{
    double sum = 0.0;
    for (int32_t r = 0; r < plan->ranks; r++) {
        sum += 1e9 / dml_speed_of(cost, r);
        if (r + 1 < plan->ranks)
            sum += (double)dml_link_ns(dml_links_between(&cost->links, r, r + 1),
                                       (double)cost->chunk[r].out_bytes);
    }
    return sum;
}

/* The plan's costs become those that the slowest pipeline sees. */
static dml_err take_slowest(dml_plan *plan)
{
    double most = -1.0;
    dml_cost slowest = {0};
    for (int32_t k = 0; k < plan->alike; k++) {
        dml_cost cost;
        const dml_err err = dml_cost_of_replica(&plan->cost, plan->alike, k, &cost);
        if (err != DML_ERR_OK) {
            dml_cost_free(&slowest);
            return err;
        }
        const double now = slowness(plan, &cost);
        dml_cost_free(now > most ? &slowest : &cost);
        if (now > most) slowest = cost;
        most = now > most ? now : most;
        if (!plan->cost.speed && plan->cost.links.levels == 0) break; /* they are alike */
    }
    dml_cost_free(&plan->cost);
    plan->cost = slowest;
    return DML_ERR_OK;
}

static dml_err show_one(dml_plan *plan)
{
    DML_TRY(dml_plan_order(plan, &plan->train, &plan->bound_ns));
    plan->alike = plan->replicas;
    plan->replicas = 1;
    plan->workers = plan->ranks;
    plan->mbs /= plan->alike;
    return DML_ERR_OK;
}

/* ---- all of it --------------------------------------------------------------------------------------- */

static void set_sizes(dml_plan *plan)
{
    const dml_spec *spec = plan->spec;
    plan->alike = 1;
    plan->stages = dml_spec_stages(spec);
    plan->workers = dml_spec_workers(spec);
    plan->mbs = spec->training.num_microbatches;
    if (spec->parallelism.n_stages == 0) {
        plan->ranks = spec->parallelism.pipeline_parallel_size;
        plan->replicas = spec->parallelism.data_parallel_size;
    }
}

/* A spec that was read has neither; one of another layout made of it may. */
static dml_err check_lost(const dml_plan *plan)
{
    DML_ASSERT(plan->spec->parallelism.seats.n == 0 ||
               plan->spec->parallelism.seats.n == plan->workers);
    static const char key[] = "parallelism.lost";
    const dml_int_list *lost = &plan->spec->parallelism.lost;
    for (int32_t i = 0; i < lost->n; i++)
        if (lost->v[i] >= plan->workers)
            return dml_spec_fail(plan->spec, dml_spec_place(plan->spec, key), key,
                                 "there is no worker %d to lose: the layout has %d", lost->v[i],
                                 plan->workers);
    return DML_ERR_OK;
}

static dml_err make_layout(dml_plan *plan)
{
    const dml_spec *spec = plan->spec;
    if (strcmp(spec->planner.plan, DML_PLAN_AUTO) == 0)
        DML_FAIL(DML_ERR_BUG, "plan: auto is chosen before a plan is made (engine/choose.h)");
    set_sizes(plan);
    if (dml_plan_is_equal(plan) && plan->mbs % plan->replicas != 0)
        return dml_spec_fail(spec, dml_spec_place(spec, "parallelism.data_parallel_size"),
                             "parallelism.data_parallel_size",
                             "%d micro-batches of a step do not divide among %d replicas",
                             plan->mbs, plan->replicas);
    DML_TRY(check_lost(plan));
    DML_TRY(dml_plan_updates(plan));
    DML_TRY(dml_model_make(spec, &plan->arena, &plan->model));
    plan->stage_begin = DML_NEW_N(&plan->arena, int32_t, plan->stages + 1);
    plan->reduce_bytes = DML_NEW_N(&plan->arena, int64_t, plan->stages);
    return DML_ERR_OK;
}

/* What is known before the plan is made. */
typedef struct known {
    bool one;             /* of equal pipelines the programs show one */
    bool within_memory;   /* cut to fit */
    const int32_t *begin; /* [stages + 1] the cut; NULL: it is made here */
    int64_t *less_bytes;  /* [workers] engine/plan_lost.h */
} known;

static dml_err split_model(dml_plan *plan, const known *k)
{
    if (k->begin) {
        memcpy(plan->stage_begin, k->begin, ((size_t)plan->stages + 1) * sizeof *k->begin);
        return DML_ERR_OK;
    }
    return dml_model_split(plan->spec, &plan->model, plan->stages, k->within_memory,
                           plan->stage_begin);
}

/* All that depends on where the model is cut. */
static dml_err make_cut(dml_plan *plan, const known *k)
{
    DML_TRY(split_model(plan, k));
    DML_TRY(dml_model_cut(&plan->model, plan->stages, plan->stage_begin, &plan->arena));
    DML_TRY(make_cost(plan));
    if (k->one && dml_plan_is_equal(plan))
        DML_TRY(show_one(plan));
    else
        DML_TRY(make_order(plan, k->less_bytes));
    DML_TRY(price_all_buckets(plan));
    if (plan->alike > 1) DML_TRY(take_slowest(plan));
    DML_TRY(make_programs(plan));
    return check_memory(plan);
}

/* Frees what make_cut made but for the arena, for another try. */
static void drop_cut(dml_plan *plan)
{
    dml_program_free(&plan->train);
    dml_program_free(&plan->eval);
    dml_cost_free(&plan->cost);
}

static void begin_again(dml_plan *plan)
{
    drop_cut(plan);
    set_sizes(plan);
    memset(plan->reduce_bytes, 0, (size_t)plan->stages * sizeof *plan->reduce_bytes);
}

/* Only a cut whose plan is known tells to the byte what it holds: the best without limits comes first, and one that is
 * cut to fit only where that does not. */
static bool may_cut_to_fit(const dml_spec *spec)
{
    return dml_spec_has_limits(spec) && spec->parallelism.split == DML_SPLIT_AUTO;
}

static dml_err make(dml_plan *plan, bool one)
{
    DML_TRY(make_layout(plan));
    const dml_err err = make_cut(plan, &(known){.one = one});
    if (err != DML_ERR_SPEC || !may_cut_to_fit(plan->spec)) return err;
    begin_again(plan);
    return make_cut(plan, &(known){.one = one, .within_memory = true});
}

/* ---- without some of the workers --------------------------------------------------------------------- */

/* By how much programs that are made are over the workers' limits; false: there are none, or none is. */
static bool add_excess(const dml_plan *plan, int64_t *less_bytes)
{
    bool any = false;
    for (int32_t w = 0; plan->eval.lowered && w < plan->workers; w++) {
        const int64_t most = dml_plan_limit(plan, w);
        const int64_t over = most > 0 ? dml_plan_worker_bytes(plan, w) - most : 0;
        if (over <= 0) continue;
        less_bytes[w] += over;
        any = true;
    }
    return any;
}

/* The cut is that of the whole plan, which may have been made to fit.  The list scheduler knows what micro-batches
 * keep, not what values on their way hold beside it: what that comes to is known afterwards. */
static dml_err make_without(dml_plan *plan)
{
    enum { TRIES = 8 };
    dml_spec spec = *plan->spec;
    dml_plan whole = {.spec = &spec};
    known k = {0};
    spec.parallelism.lost.n = 0;
    spec.parallelism.seats.n = 0;
    DML_TRY(make_layout(plan));
    k.less_bytes = DML_NEW_N(&plan->arena, int64_t, plan->workers);
    if (may_cut_to_fit(plan->spec)) {
        DML_TRY(dml_plan_make(&spec, &whole));
        k.begin = whole.stage_begin;
    }
    dml_err err = make_cut(plan, &k);
    for (int32_t n = 1; n < TRIES && err == DML_ERR_SPEC; n++) {
        if (!add_excess(plan, k.less_bytes)) break;
        begin_again(plan);
        err = make_cut(plan, &k);
    }
    dml_plan_free(&whole);
    return err;
}

dml_err dml_plan_make(const dml_spec *spec, dml_plan *out)
{
    *out = (dml_plan){.spec = spec};
    const dml_err err = is_settled(out) ? make(out, false) : make_without(out);
    if (err != DML_ERR_OK) dml_plan_free(out);
    return err;
}

dml_err dml_plan_make_one(const dml_spec *spec, dml_plan *out)
{
    *out = (dml_plan){.spec = spec};
    const bool one = !dml_spec_has_order(spec);
    const dml_err err = is_settled(out) ? make(out, one) : make_without(out);
    if (err != DML_ERR_OK) dml_plan_free(out);
    return err;
}

void dml_plan_free(dml_plan *plan)
{
    drop_cut(plan);
    dml_arena_free(&plan->arena);
    *plan = (dml_plan){0};
}

dml_err dml_plan_predict(const dml_plan *plan, const dml_cost *cost, int64_t *step_ns,
                         double *bubble, int32_t *stash_peak, int64_t *exposed_ns)
{
    dml_sim sim;
    int64_t period_ns;
    DML_TRY(dml_simulate_period(&plan->train, cost, &period_ns));
    DML_TRY(dml_simulate(&plan->train, cost, &sim));
    *step_ns = period_ns / plan->updates;
    for (int32_t w = 0; w < plan->workers; w++) {
        bubble[w] = period_ns > 0 ? 1.0 - (double)sim.busy_ns[w] / (double)period_ns : 0.0;
        stash_peak[w] = sim.peak_stash[w];
        exposed_ns[w] = sim.exposed_ns[w] / plan->updates;
    }
    dml_sim_free(&sim);
    return DML_ERR_OK;
}
