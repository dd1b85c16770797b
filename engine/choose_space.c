/* engine/choose_space.c - all candidates, and what none of their steps can be shorter than.
 *
 * Workers of equal pipelines: world = ranks x replicas.  Of one pipeline with m micro-batches, rank r holding chunks
 * r, r + ranks, ...:
 *
 *   rank r   | head |  m x its F, I and W, one after another  | tail |
 *            forwards below r                                  backwards below r, after the last (whole) one of r
 *
 * Where backwards are cut in two the tail counts from the last input gradient alone.  And a chunk's all-reduce begins
 * no sooner than its last backward, which has m forwards and m - 1 backwards of the chunk before it.  The cut is the one
 * that the plan has without memory limits; where those force another, whose slowest stage is no faster, the bound may be
 * off by parts of fill and drain.  Schedules that place stages elsewhere (Chimera) have other loads: then only what holds
 * for every cut counts, m x all work / ranks and a micro-batch's own way.
 */
#include "engine/choose_impl.h"

#include "engine/plan.h"
#include "schedule/schedule.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

enum {
    LIST_CELLS =
        512, /* chunks x micro-batches of a pipeline: beyond, the list scheduler takes too long to be tried */
    MOST_MBS = 65536,
    MOST_CHUNKS_EACH = 8
};

bool dml_space_fixed(const dml_spec *spec, const char *key)
{
    return dml_spec_place(spec, key).line > 0;
}

dml_candidate *dml_space_push(dml_space *s, const dml_candidate *c)
{
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        dml_candidate *twice = DML_NEW_N(s->arena, dml_candidate, s->room);
        if (s->n) memcpy(twice, s->candidate, (size_t)s->n * sizeof *twice);
        s->candidate = twice;
    }
    s->candidate[s->n] = *c;
    return &s->candidate[s->n++];
}

dml_spec dml_candidate_spec(const dml_spec *spec, const dml_candidate *c)
{
    dml_spec v = *spec;
    v.planner.plan = DML_PLAN_NONE;
    v.training.micro_batch_size = c->micro_batch;
    v.training.num_microbatches = spec->training.global_batch_size / c->micro_batch;
    v.parallelism.pipeline_parallel_size = c->ranks > 0 ? c->ranks : 1;
    v.parallelism.data_parallel_size = c->ranks > 0 ? c->replicas : 1;
    v.parallelism.virtual_stages = c->ranks > 0 ? c->virtual_stages : 1;
    v.parallelism.stage = c->stage;
    v.parallelism.n_stages = c->n_stages;
    v.parallelism.schedule = c->schedule;
    v.parallelism.recompute = c->recompute;
    if (c->split) v.parallelism.split = DML_SPLIT_LIST;
    if (c->split) v.parallelism.split_list = c->split;
    return v;
}

/* ---- bounds ---- */

/* One cut of the model, and what all share of it that have as many stages, replicas and rows. */
typedef struct cut {
    int32_t stages, ranks, replicas, rows;
    bool made;
    int64_t *ns[DML_PASSES];            /* [stages] on its rank, the slowest replica of it */
    int64_t *lag_ns;                    /* [stages] to the next */
    int64_t *reduce_ns;                 /* [stages] */
    int64_t all_ns, dearest_ns, way_ns; /* of any cut: all work at the highest speed, ... */
} cut;

typedef struct bounds {
    const dml_space *space;
    dml_links links;
    double fastest;
    cut last; /* candidates come grouped by cut */
    const dml_schedule *const *schedule;
    bool *splits,
        *in_order; /* [schedules] backwards are cut in two; stage s runs on rank s mod ranks */
} bounds;

static void add_layers(const dml_space *s, const dml_spec *v, double fastest, cut *c)
{
    c->all_ns = c->dearest_ns = c->way_ns = 0;
    for (int32_t i = 0; i < s->model.n_layers; i++) {
        int64_t ns[DML_PASSES], sum = 0;
        for (dml_pass p = 0; p < DML_PASSES; p++)
            sum += ns[p] = dml_layer_ns(v, &s->model, i, p);
        c->all_ns += (int64_t)((double)sum / fastest);
        c->dearest_ns = MAX2(c->dearest_ns, (int64_t)((double)sum / fastest));
        c->way_ns += (int64_t)((double)(ns[DML_PASS_FORWARD] + ns[DML_PASS_INPUT]) / fastest);
    }
}

static double slowest_of(const dml_spec *v, int32_t rank, int32_t replicas)
{
    double least = dml_spec_speed(v, rank * replicas);
    for (int32_t k = 1; k < replicas; k++)
        least = MIN2(least, dml_spec_speed(v, rank * replicas + k));
    return least;
}

/* Each weight once, as a float, in one call: the least that any numerics reduce. */
static int64_t least_reduce_ns(const bounds *b, const dml_spec *v, int32_t rank, int32_t replicas,
                               int64_t bytes, dml_arena *arena)
{
    const dml_links given = dml_spec_links(v);
    if (v->costs && dml_links_are_free(&given)) {
        const int64_t ns = dml_costs_reduce_ns(v->costs, replicas, bytes);
        if (ns >= 0) return ns;
    }
    int32_t *member = DML_NEW_N(arena, int32_t, replicas);
    for (int32_t k = 0; k < replicas; k++)
        member[k] = rank * replicas + k;
    return dml_links_ring_ns(&b->links, member, replicas, 2 * ((int64_t)replicas - 1),
                             (double)bytes);
}

static void fill_stage(const bounds *b, const dml_spec *v, const int32_t *begin, int32_t s,
                       dml_arena *arena, cut *c)
{
    const dml_model *model = &b->space->model;
    const int32_t rank = s % c->ranks;
    const double speed = slowest_of(v, rank, c->replicas);
    int64_t bytes = 0;
    for (dml_pass p = 0; p < DML_PASSES; p++) {
        int64_t sum = 0;
        for (int32_t i = begin[s]; i < begin[s + 1]; i++)
            sum += dml_layer_ns(v, model, i, p);
        c->ns[p][s] = (int64_t)((double)sum / speed);
    }
    for (int32_t i = begin[s]; i < begin[s + 1]; i++)
        for (int32_t k = model->layer[i].param_begin; k < model->layer[i].param_end; k++)
            bytes += model->param[k].elems * (int64_t)sizeof(float);
    c->reduce_ns[s] = c->replicas > 1 ? least_reduce_ns(b, v, rank, c->replicas, bytes, arena) : 0;
    if (s + 1 == c->stages || c->ranks == 1) return;
    const int32_t next = (s + 1) % c->ranks;
    const int64_t out = dml_shape_elems(model->layer[begin[s + 1] - 1].out) *
                        v->training.micro_batch_size * dml_dtype_bytes(dml_act_type(v));
    c->lag_ns[s] = dml_link_ns(dml_links_between(&b->links, rank * c->replicas, next * c->replicas),
                               (double)out);
}

/* The cut of a candidate, kept for the next one. */
static const cut *cut_of(bounds *b, const dml_spec *v, const dml_candidate *cand)
{
    const int32_t stages = cand->ranks * cand->virtual_stages;
    cut *c = &b->last;
    if (c->stages == stages && c->ranks == cand->ranks && c->replicas == cand->replicas &&
        c->rows == cand->micro_batch)
        return c;
    dml_arena *arena = b->space->arena;
    *c = (cut){.stages = stages,
               .ranks = cand->ranks,
               .replicas = cand->replicas,
               .rows = cand->micro_batch};
    add_layers(b->space, v, b->fastest, c);
    int32_t *begin = DML_NEW_N(arena, int32_t, stages + 1);
    c->made = dml_model_split(v, &b->space->model, stages, false, begin) == DML_ERR_OK;
    if (!c->made) return c;
    for (dml_pass p = 0; p < DML_PASSES; p++)
        c->ns[p] = DML_NEW_N(arena, int64_t, stages);
    c->lag_ns = DML_NEW_N(arena, int64_t, stages);
    c->reduce_ns = DML_NEW_N(arena, int64_t, stages);
    for (int32_t s = 0; s < stages; s++)
        fill_stage(b, v, begin, s, arena, c);
    return c;
}

/* Over the ranks of a cut, as the head of the file has it. */
static int64_t bound_of_cut(const cut *c, int64_t m, bool split)
{
    int64_t bound = 0, head = 0, tail_b = 0, tail_i = 0;
    const int64_t *f = c->ns[DML_PASS_FORWARD], *in = c->ns[DML_PASS_INPUT],
                  *w = c->ns[DML_PASS_WEIGHT];
    for (int32_t r = 0; r < c->ranks; r++) {
        int64_t work = 0, inputs = 0;
        for (int32_t s = r; s < c->stages; s += c->ranks) {
            work += m * (f[s] + in[s] + w[s]);
            inputs += m * (f[s] + in[s]);
        }
        const int64_t whole = head + work + tail_b,
                      apart = MAX2(head + work, head + inputs + tail_i);
        bound = MAX2(bound, split ? apart : whole);
        head += f[r] + c->lag_ns[r];
        tail_b += in[r] + w[r] + c->lag_ns[r];
        tail_i += in[r] + c->lag_ns[r];
    }
    head = 0;
    for (int32_t s = 0; s < c->stages && c->replicas > 1; s++) {
        bound = MAX2(bound, head + m * f[s] + (m - 1) * (in[s] + w[s]) + c->reduce_ns[s]);
        head += f[s] + c->lag_ns[s];
    }
    return bound;
}

static int32_t number_of(const bounds *b, int32_t n, const char *schedule)
{
    int32_t k = 0;
    while (k < n && strcmp(b->schedule[k]->name, schedule) != 0)
        k++;
    return k;
}

/* All work at the highest speed, over all workers. */
static void set_bound_of_placed(const bounds *b, const dml_spec *v, dml_candidate *c)
{
    cut of = {0};
    add_layers(b->space, v, b->fastest, &of);
    c->way_ns = of.all_ns;
    c->bound_ns = MAX2(v->training.num_microbatches * of.all_ns / c->workers, of.way_ns);
}

static void set_bound(bounds *b, dml_candidate *c)
{
    int32_t n;
    dml_schedules(&n);
    const dml_spec v = dml_candidate_spec(b->space->spec, c);
    if (c->ranks == 0) {
        set_bound_of_placed(b, &v, c);
        return;
    }
    const int32_t k = number_of(b, n, c->schedule);
    const cut *of = cut_of(b, &v, c);
    const int64_t m = v.training.num_microbatches / c->replicas;
    const bool list = strcmp(c->schedule, DML_ORDER_AUTO) == 0,
               in_order = list || (k < n && b->in_order[k]),
               fills = k == n || !b->schedule[k]->version; /* and drains, in every step */
    c->way_ns = of->all_ns;
    c->bound_ns = m * of->all_ns / c->ranks;
    if (fills) c->bound_ns = MAX2(c->bound_ns, of->way_ns);
    if (in_order) c->bound_ns = MAX2(c->bound_ns, m * of->dearest_ns);
    if (in_order && of->made)
        c->bound_ns = MAX2(c->bound_ns, bound_of_cut(of, m, list || b->splits[k]));
}

/* What schedules do, read off a small order of each. */
static void look_at_schedules(bounds *b)
{
    int32_t n;
    b->schedule = dml_schedules(&n);
    b->splits = DML_NEW_N(b->space->arena, bool, n);
    b->in_order = DML_NEW_N(b->space->arena, bool, n);
    for (int32_t k = 0; k < n; k++) {
        const dml_schedule_args args = {.stages = 4, .virtual_stages = 1, .mbs = 16};
        dml_program order;
        if (b->schedule[k]->version ||
            dml_schedule_build(b->schedule[k], &args, &order) != DML_ERR_OK)
            continue;
        b->splits[k] = dml_program_splits_backward(&order);
        b->in_order[k] = true;
        for (int32_t s = 0; s < order.chunks; s++)
            for (int32_t mb = 0; mb < order.mbs; mb++)
                b->in_order[k] &= *dml_program_route(&order, s, mb) == s;
        dml_program_free(&order);
    }
}

static void set_bounds(dml_space *s)
{
    bounds b = {.space = s, .links = dml_spec_known_links(s->spec), .fastest = 1.0};
    const dml_number_list *speed = &s->spec->cluster.speed;
    for (int32_t w = 0; w < speed->n && w < s->world; w++)
        b.fastest = w == 0 ? speed->v[w] : MAX2(b.fastest, speed->v[w]);
    if (speed->n > 0 && speed->n < s->world) b.fastest = MAX2(b.fastest, 1.0);
    look_at_schedules(&b);
    for (int32_t i = 0; i < s->n; i++)
        set_bound(&b, &s->candidate[i]);
}

/* ---- candidates ---- */

static void push_policies(dml_space *s, dml_candidate *c, bool policies)
{
    const bool open = !dml_space_fixed(s->spec, "parallelism.recompute");
    for (int32_t p = 0; p < DML_RECOMPUTES; p++) {
        c->recompute = open ? (dml_recompute)p : s->spec->parallelism.recompute;
        dml_space_push(s, c);
        if (!open || !policies) return;
    }
}

/* On one rank all schedules are the same to time, and 1f1b holds least. */
static void push_schedules(dml_space *s, dml_candidate *c, bool policies)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    if (dml_space_fixed(s->spec, "parallelism.schedule")) {
        c->schedule = s->spec->parallelism.schedule;
        push_policies(s, c, policies);
        return;
    }
    for (int32_t k = 0; k < n; k++) {
        const bool pointless = c->ranks == 1 && all[k] != &dml_schedule_one_f_one_b;
        if (all[k]->version || pointless || (c->virtual_stages > 1 && !all[k]->many_chunks))
            continue;
        c->schedule = all[k]->name;
        push_policies(s, c, policies);
    }
    const int64_t mbs = s->spec->training.global_batch_size / c->micro_batch / c->replicas;
    if (c->ranks == 1 || c->ranks * (int64_t)c->virtual_stages * mbs > LIST_CELLS) return;
    c->schedule = DML_ORDER_AUTO;
    push_policies(s, c, policies);
}

static bool may_be(const dml_spec *spec, const char *key, int32_t written, int32_t value)
{
    return !dml_space_fixed(spec, key) || written == value;
}

static void push_layouts(dml_space *s, int32_t workers, int32_t rows, bool policies)
{
    const dml_spec *spec = s->spec;
    const int32_t mbs = spec->training.global_batch_size / rows;
    for (int32_t pp = 1; pp <= MIN2(workers, s->segments); pp++) {
        const int32_t dp = workers / pp;
        if (workers % pp != 0 || mbs % dp != 0) continue;
        if (!may_be(spec, "parallelism.pipeline_parallel_size",
                    spec->parallelism.pipeline_parallel_size, pp) ||
            !may_be(spec, "parallelism.data_parallel_size", spec->parallelism.data_parallel_size,
                    dp))
            continue;
        const int32_t most = pp == 1 ? 1 : MIN2(MOST_CHUNKS_EACH, s->segments / pp);
        for (int32_t v = 1; v <= MAX2(most, spec->parallelism.virtual_stages); v++) {
            const bool fixed = dml_space_fixed(spec, "parallelism.virtual_pipeline_stages");
            if (fixed ? v != spec->parallelism.virtual_stages : v > most) continue;
            dml_candidate c = {.ranks = pp,
                               .replicas = dp,
                               .virtual_stages = v,
                               .workers = workers,
                               .micro_batch = rows};
            push_schedules(s, &c, policies);
        }
    }
}

/* Stages that the user placed, with what is left open. */
static void push_placed(dml_space *s, int32_t rows, bool policies)
{
    dml_candidate c = {.stage = s->spec->parallelism.stage,
                       .n_stages = s->spec->parallelism.n_stages,
                       .workers = dml_spec_workers(s->spec),
                       .micro_batch = rows,
                       .schedule = DML_ORDER_AUTO};
    push_policies(s, &c, policies);
}

static void push_rows(dml_space *s, int32_t rows, bool policies)
{
    if (s->spec->training.global_batch_size / rows > MOST_MBS) return;
    if (s->spec->parallelism.n_stages > 0) {
        push_placed(s, rows, policies);
        return;
    }
    for (int32_t w = s->spec->planner.fewer ? 1 : s->world; w <= s->world; w++)
        push_layouts(s, w, rows, policies);
    dml_space_place(s, rows);
}

/* As written, or the workers that the cluster names. */
static dml_err find_world(dml_space *s)
{
    const dml_spec *spec = s->spec;
    const bool both = dml_space_fixed(spec, "parallelism.pipeline_parallel_size") &&
                      dml_space_fixed(spec, "parallelism.data_parallel_size");
    s->world = spec->parallelism.world_size;
    if (s->world == 0 && (both || spec->parallelism.n_stages > 0))
        s->world = dml_spec_workers(spec);
    if (s->world == 0) s->world = spec->cluster.speed.n;
    if (s->world > 0) return DML_ERR_OK;
    return dml_spec_fail(
        spec, dml_spec_place(spec, "plan"), "plan",
        "plan: auto needs parallelism.world_size, the number of workers to plan for");
}

dml_err dml_space_make(const dml_spec *spec, bool policies, dml_arena *arena, dml_space *out)
{
    *out = (dml_space){.spec = spec, .arena = arena};
    DML_TRY(find_world(out));
    DML_TRY(dml_model_make(spec, arena, &out->model));
    for (int32_t i = 0; i < out->model.n_layers; i++)
        out->segments += i + 1 == out->model.n_layers || out->model.layer[i].may_end_stage;
    const int32_t batch = spec->training.global_batch_size;
    const bool fixed = dml_space_fixed(spec, "training.micro_batch_size") ||
                       dml_space_fixed(spec, "training.num_microbatches");
    for (int32_t rows = batch; rows >= 1; rows--)
        if (fixed ? rows == spec->training.micro_batch_size : batch % rows == 0)
            push_rows(out, rows, policies);
    if (out->n == 0 && fixed && batch / spec->training.micro_batch_size < out->world)
        return dml_spec_fail(spec, dml_spec_place(spec, "training.micro_batch_size"),
                             "training.micro_batch_size",
                             "no layout of %d workers: %d micro-batches of %d samples are too few "
                             "to divide among replicas of %d stages at most; a smaller "
                             "micro_batch_size would do, or training.micro_batch_size=auto, which "
                             "leaves it to the planner",
                             out->world, batch / spec->training.micro_batch_size,
                             spec->training.micro_batch_size, out->segments);
    if (out->n == 0)
        return dml_spec_fail(
            spec, dml_spec_place(spec, "parallelism.world_size"), "parallelism.world_size",
            "no layout of %d workers: the model has %d stages at most, and a batch of "
            "%d samples must divide among the replicas of each (planner.workers: "
            "fewer may leave some out)",
            out->world, out->segments, batch);
    set_bounds(out);
    return DML_ERR_OK;
}
