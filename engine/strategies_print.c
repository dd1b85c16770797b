/* engine/strategies_print.c - the oracle's table: strategies by formula, this engine's layouts by their programs. */
#include "engine/strategies.h"

#include "engine/plan.h"
#include "engine/roofline.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { NAME = 48, NOTE = 120, MICRO_SIZES = 4, MOST_STAGES = 1024, PER_STAGE = 8 };

typedef struct row {
    char name[NAME], binds[NAME], note[NOTE];
    double step_ns, compute_ns, comm_ns, exposed_ns, memory_bytes;
    bool formula; /* the engine does not run it */
    bool out;     /* does not fit: the note says why */
} row;

typedef struct table {
    const dml_spec *spec;
    dml_model model;
    dml_strategy_problem problem;
    int32_t devices;
    int64_t memory_bytes; /* a device has; 0: not known */
    bool all;
    row *row; /* [n], room for `room`; owned */
    int32_t n, room;
    dml_arena arena;
} table;

static row *add_row(table *t)
{
    if (t->n == t->room) {
        t->room = MAX2(2 * t->room, 64);
        row *more = realloc(t->row, (size_t)t->room * sizeof *more);
        DML_ASSERT(more);
        t->row = more;
    }
    t->row[t->n] = (row){0};
    return &t->row[t->n++];
}

static void check_memory(const table *t, row *r)
{
    if (t->memory_bytes == 0 || r->memory_bytes <= (double)t->memory_bytes || r->out) return;
    r->out = true;
    snprintf(r->note, NOTE, "%.2f GiB short of memory",
             (r->memory_bytes - (double)t->memory_bytes) / 0x1p30);
}

/* ---- formulas ---- */

static const char *comm_of(dml_strategy strategy)
{
    switch (strategy) {
    case DML_STRATEGY_SERIAL: return "compute";
    case DML_STRATEGY_DATA: return "all-reduce of gradients";
    case DML_STRATEGY_SPATIAL: return "all-reduce and halos";
    case DML_STRATEGY_PIPELINE: return "transfers between stages";
    case DML_STRATEGY_FILTER:
    case DML_STRATEGY_CHANNEL: return "gathering outputs";
    case DML_STRATEGY_DATA_FILTER: return "gathering, all-reduce";
    }
    return "";
}

/* The stages of `devices`; false where the model cannot be cut so. */
static bool cut(table *t, dml_strategy_layout *at)
{
    dml_spec variant = *t->spec; /* borrows everything; never freed */
    variant.parallelism.pipeline_parallel_size = at->devices;
    variant.parallelism.virtual_stages = variant.parallelism.data_parallel_size = 1;
    variant.parallelism.n_stages = 0;
    variant.parallelism.split = DML_SPLIT_AUTO;
    dml_spec_drop_limits(&variant);
    int32_t *begin = DML_NEW_N(&t->arena, int32_t, at->devices + 1);
    at->begin = begin;
    return at->devices <= t->problem.cuts &&
           dml_model_split(&variant, &t->model, at->devices, false, begin) == DML_ERR_OK;
}

/* The division into groups that takes least; false where there is none within the limits. */
static bool best_groups(const table *t, dml_strategy_layout *at)
{
    const dml_strategy_layout filter = {.devices = 1};
    const int64_t widest = dml_strategy_of(&t->problem, DML_STRATEGY_FILTER, &filter).most_devices;
    double best = INFINITY;
    for (int32_t inner = 2; inner <= widest && inner < t->devices; inner++) {
        if (t->devices % inner != 0 || t->devices / inner > t->problem.batch) continue;
        const dml_strategy_layout with = {.devices = t->devices, .inner = inner};
        const dml_strategy_price p = dml_strategy_of(&t->problem, DML_STRATEGY_DATA_FILTER, &with);
        if (p.compute_ns + p.comm_ns >= best) continue;
        best = p.compute_ns + p.comm_ns;
        at->inner = inner;
    }
    return isfinite(best);
}

static void add_formula(table *t, dml_strategy strategy)
{
    dml_strategy_layout at = {.devices = strategy == DML_STRATEGY_SERIAL ? 1 : t->devices,
                              .inner = 1,
                              .segments = t->spec->training.num_microbatches};
    bool here = true;
    if (strategy == DML_STRATEGY_PIPELINE) here = cut(t, &at);
    if (strategy == DML_STRATEGY_DATA_FILTER) here = best_groups(t, &at);
    dml_strategy_price p = {.most_devices = t->problem.cuts};
    if (here) p = dml_strategy_of(&t->problem, strategy, &at);
    row *r = add_row(t);
    snprintf(r->name, NAME, "%s", dml_strategy_name(strategy));
    if (strategy == DML_STRATEGY_DATA_FILTER && here)
        snprintf(r->name, NAME, "data %d + filter %d", t->devices / at.inner, at.inner);
    if (strategy == DML_STRATEGY_PIPELINE)
        snprintf(r->name, NAME, "pipeline, %d segments", at.segments);
    r->formula = strategy == DML_STRATEGY_SPATIAL || strategy == DML_STRATEGY_FILTER ||
                 strategy == DML_STRATEGY_CHANNEL || strategy == DML_STRATEGY_DATA_FILTER;
    r->compute_ns = p.compute_ns;
    r->comm_ns = r->exposed_ns = p.comm_ns;
    r->step_ns = p.compute_ns + p.comm_ns;
    r->memory_bytes = p.memory_bytes;
    snprintf(r->binds, NAME, "%s", p.comm_binds ? comm_of(strategy) : "compute");
    if (!here || t->devices > p.most_devices) {
        r->out = true;
        snprintf(r->note, NOTE, "at most %" PRId64 ": %s", p.most_devices,
                 dml_strategy_bound(strategy));
    }
    check_memory(t, r);
}

/* ---- programs ---- */

typedef struct layout {
    int32_t ranks, replicas, virtual_stages, micro;
    const dml_schedule *schedule;
} layout;

/* Replicas that stand for all: they are alike, and two see an all-reduce and its overlap as more do. */
static int32_t stand_in(int32_t replicas)
{
    int32_t d = 2;
    while (replicas > 1 && replicas % d != 0)
        d++;
    return replicas > 1 ? d : 1;
}

/* All-reduces of what stage s reduces among all replicas, ranks being whole blocks of them: bucket by bucket, and the
 * slots with the last. */
static int64_t reduce_ns(const dml_plan *plan, const layout *l, int32_t stage, int32_t rank,
                         dml_arena *arena)
{
    const dml_links links = dml_spec_links(plan->spec);
    const int32_t n = l->replicas, calls = plan->train.buckets[stage] + 1;
    int32_t *member = DML_NEW_N(arena, int32_t, n);
    for (int32_t i = 0; i < n; i++)
        member[i] = rank * n + i;
    const int64_t steps = 2 * ((int64_t)n - 1);
    return dml_links_ring_ns(&links, member, n, steps, (double)plan->reduce_bytes[stage]) +
           (calls - 1) * dml_links_ring_ns(&links, member, n, steps, 0.0);
}

/* The plan of the stand-ins with the all-reduces of all: what it takes, and with free links. */
static dml_err simulate(dml_plan *plan, const layout *l, row *r)
{
    dml_arena arena = {0};
    dml_cost *cost = &plan->cost, without;
    dml_sim sim;
    cost->links.first = 0;
    cost->links.stride = l->replicas / plan->replicas;
    for (int32_t s = 0; s < plan->stages; s++)
        cost->chunk[s].reduce_ns =
            l->replicas > 1 ? reduce_ns(plan, l, s, s % l->ranks, &arena) : 0;
    dml_arena_free(&arena);
    DML_TRY(dml_cost_copy(cost, &without));
    for (int32_t s = 0; s < plan->stages; s++)
        without.chunk[s].reduce_ns = 0;
    dml_err err = dml_cost_links(&without, &(dml_links){0});
    if (err == DML_ERR_OK) err = dml_simulate(&plan->train, &without, &sim);
    if (err == DML_ERR_OK) {
        r->compute_ns = (double)sim.makespan_ns;
        dml_sim_free(&sim);
        err = dml_simulate(&plan->train, cost, &sim);
    }
    dml_cost_free(&without);
    if (err != DML_ERR_OK) return err;
    r->step_ns = (double)sim.makespan_ns;
    r->exposed_ns = r->step_ns - r->compute_ns;
    int32_t busiest = 0;
    for (int32_t w = 0; w < plan->workers; w++) {
        double ns = 0.0;
        for (int32_t i = 0; i < plan->train.list[w].n; i++) {
            const dml_op *op = &plan->train.list[w].op[i];
            if (dml_op_lane(op) != DML_LANE_COMPUTE) ns += (double)dml_op_ns(cost, w, op);
        }
        r->comm_ns = fmax(r->comm_ns, ns);
        if (sim.busy_ns[w] > sim.busy_ns[busiest]) busiest = w;
    }
    const double busy = (double)sim.busy_ns[busiest] / r->step_ns;
    if (r->exposed_ns > 0.1 * r->step_ns)
        snprintf(r->binds, NAME, "communication, %.0f %% exposed",
                 100.0 * r->exposed_ns / r->step_ns);
    else if (busy < 0.75)
        snprintf(r->binds, NAME, "bubble, %.0f %%", 100.0 - 100.0 * busy);
    else
        snprintf(r->binds, NAME, "rank %d, %.0f %% busy", busiest / plan->replicas, 100.0 * busy);
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

static dml_err price(const table *t, const layout *l, row *r)
{
    const int32_t batch = t->spec->training.global_batch_size, replicas = stand_in(l->replicas);
    dml_spec variant = *t->spec; /* borrows everything; never freed */
    variant.parallelism.pipeline_parallel_size = l->ranks;
    variant.parallelism.data_parallel_size = replicas;
    variant.parallelism.virtual_stages = l->virtual_stages;
    variant.parallelism.n_stages = 0;
    variant.parallelism.split = DML_SPLIT_AUTO;
    variant.parallelism.schedule = l->schedule->name;
    variant.training.micro_batch_size = l->micro;
    variant.training.num_microbatches = batch / l->replicas / l->micro * replicas;
    variant.training.global_batch_size = variant.training.num_microbatches * l->micro;
    dml_spec_drop_limits(&variant);
    dml_plan plan;
    DML_TRY(dml_plan_make(&variant, &plan));
    for (int32_t w = 0; w < plan.workers; w++)
        r->memory_bytes = fmax(r->memory_bytes, (double)dml_plan_worker_bytes(&plan, w));
    const dml_err err = simulate(&plan, l, r);
    dml_plan_free(&plan);
    return err;
}

/* The best of a few sizes of micro-batches, from the spec's down; false where the schedule takes none. */
static bool best_size(const table *t, layout *l, row *out)
{
    const int32_t share = t->spec->training.global_batch_size / l->replicas;
    bool any = false;
    int32_t most = t->spec->training.micro_batch_size;
    for (int32_t i = 0; i < MICRO_SIZES && most >= 1; i++, most /= 2) {
        int32_t micro = most < share ? most : share;
        while (share % micro != 0)
            micro--;
        if (i > 0 && share / micro > PER_STAGE * l->ranks) break;
        row r = {0};
        l->micro = micro;
        if (price(t, l, &r) != DML_ERR_OK) continue;
        char twice[8] = "";
        if (l->virtual_stages > 1) snprintf(twice, sizeof twice, " x%d", l->virtual_stages);
        snprintf(r.name, NAME, "%d x %d %s%s, %d", l->ranks, l->replicas,
                 l->ranks > 1 ? l->schedule->name : "no pipeline", twice, micro);
        check_memory(t, &r);
        const bool better = r.out != out->out ? out->out
                            : r.out           ? r.memory_bytes < out->memory_bytes
                                              : r.step_ns < out->step_ns;
        if (!any || better) *out = r;
        any = true;
    }
    return any;
}

/* Each schedule, and each that takes several stages a rank with two; of one rank a single one, since all are alike. */
static void add_layout(table *t, int32_t ranks, int32_t replicas)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    row best = {0};
    bool any = false;
    for (int32_t k = 0; k < n; k++)
        for (int32_t v = 1; v <= (all[k]->many_chunks ? 2 : 1); v++) {
            layout l = {ranks, replicas, v, 0, all[k]};
            row r = {0};
            if (all[k]->version || (ranks == 1 && (v > 1 || all[k] != &dml_schedule_one_f_one_b)))
                continue;
            if (!best_size(t, &l, &r)) continue;
            if (t->all) *add_row(t) = r;
            if (!any || (r.out == best.out ? r.step_ns < best.step_ns : best.out)) best = r;
            any = true;
        }
    if (any && !t->all) *add_row(t) = best;
}

static void add_layouts(table *t)
{
    const int32_t batch = t->spec->training.global_batch_size;
    for (int32_t ranks = 1; ranks <= t->devices && ranks <= MOST_STAGES; ranks++)
        if (t->devices % ranks == 0 && ranks <= t->problem.cuts &&
            batch % (t->devices / ranks) == 0)
            add_layout(t, ranks, t->devices / ranks);
}

/* ---- the table ---- */

static int compare(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->out != y->out) return x->out ? 1 : -1;
    const int by_time = (x->step_ns > y->step_ns) - (x->step_ns < y->step_ns);
    return by_time ? by_time : strcmp(x->name, y->name);
}

static void print_row(const table *t, int32_t rank, const row *r, dml_str *out)
{
    const double batch = t->spec->training.global_batch_size;
    const char *const note = r->note[0] ? r->note : r->formula ? "formula only" : "";
    char place[16] = "-";
    if (!r->out) snprintf(place, sizeof place, "%d", rank);
    dml_str_printf(out, "%4s  %-34s ", place, r->name);
    if (r->step_ns > 0.0)
        dml_str_printf(out, "%10.3f %10.3f %10.3f %10.3f %11.1f %9.2f  %s", r->step_ns * 1e-6,
                       r->compute_ns * 1e-6, r->comm_ns * 1e-6, r->exposed_ns * 1e-6,
                       batch * 1e9 / r->step_ns, r->memory_bytes / 0x1p30, r->binds);
    else
        dml_str_printf(out, "%10s %10s %10s %10s %11s %9s  ", "-", "-", "-", "-", "-", "-");
    dml_str_printf(out, "%s%s\n", note[0] && r->step_ns > 0.0 ? "; " : "", note);
}

static void print_head(const table *t, dml_str *out)
{
    const dml_spec *spec = t->spec;
    dml_str_printf(out, "%s on %d devices: %s\n", spec->run.name, t->devices, spec->costs->source);
    dml_str_printf(out, "batch %d, %s; an epoch is %.1f steps; %.3f GFLOP a sample\n\n",
                   spec->training.global_batch_size, dml_precision_name(spec->training.precision),
                   (double)spec->data.samples / spec->training.global_batch_size,
                   (double)dml_model_flops(&t->model) * 1e-9);
    dml_str_printf(out, "%4s  %-34s %10s %10s %10s %10s %11s %9s  %s\n", "rank",
                   "strategy; pp x dp schedule, micro", "step ms", "compute ms", "comm ms",
                   "exposed", "samples/s", "GiB", "what binds");
}

static dml_err prepare(table *t)
{
    const dml_spec *spec = t->spec;
    DML_TRY(dml_model_make(spec, &t->arena, &t->model));
    t->problem = (dml_strategy_problem){
        .layer = dml_strategy_layers(&t->model, &t->arena),
        .n_layers = t->model.n_layers,
        .costs = spec->costs,
        .batch = spec->training.global_batch_size,
        .act_bytes = dml_dtype_bytes(dml_act_type(spec)),
        .weight_bytes = (int64_t)sizeof(float),
        .cuts = 1,
        .links = dml_spec_links(spec),
    };
    for (int32_t l = 0; l < t->model.n_layers; l++)
        t->problem.cuts += t->model.layer[l].may_end_stage;
    return DML_ERR_OK;
}

dml_err dml_strategies_print(const dml_spec *spec, int32_t devices, bool all, dml_str *out)
{
    if (!spec->costs)
        DML_FAIL(DML_ERR_SPEC, "the oracle needs costs of the layers: name a hardware file "
                               "(--hardware examples/hardware/h100-sxm.yaml) or a profile");
    table t = {.spec = spec,
               .devices = devices,
               .all = all,
               .memory_bytes = spec->parallelism.memory_bytes};
    const dml_err err = prepare(&t);
    if (err == DML_ERR_OK) {
        for (dml_strategy s = 0; s < (dml_strategy)DML_STRATEGIES; s++)
            add_formula(&t, s);
        add_layouts(&t);
        qsort(t.row, (size_t)t.n, sizeof *t.row, compare);
        print_head(&t, out);
        for (int32_t i = 0; i < t.n; i++)
            print_row(&t, i + 1, &t.row[i], out);
    }
    free(t.row);
    dml_arena_free(&t.arena);
    return err;
}
