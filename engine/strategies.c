/* engine/strategies.c - the formulas of the table in strategies.h, row by row. */
#include "engine/strategies.h"

#include "engine/layers/layer.h"

#include <math.h>

const char *dml_strategy_name(dml_strategy strategy)
{
    static const char *const name[] = {
#define X(id, name, bound) name,
        DML_STRATEGY_LIST(X)
#undef X
    };
    return name[strategy];
}

const char *dml_strategy_bound(dml_strategy strategy)
{
    static const char *const bound[] = {
#define X(id, name, bound) bound,
        DML_STRATEGY_LIST(X)
#undef X
    };
    return bound[strategy];
}

/* ---- sums over layers ---- */

/* FW and BW of a sample where a device runs `rows` at once. */
static double forward_ns(const dml_strategy_problem *p, int32_t l, double rows)
{
    const int32_t n = rows < 1.0 ? 1 : (int32_t)llround(rows);
    return (double)dml_costs_ns(p->costs, l, n, DML_PASS_FORWARD) / n;
}

static double backward_ns(const dml_strategy_problem *p, int32_t l, double rows)
{
    const int32_t n = rows < 1.0 ? 1 : (int32_t)llround(rows);
    return (double)(dml_costs_ns(p->costs, l, n, DML_PASS_INPUT) +
                    dml_costs_ns(p->costs, l, n, DML_PASS_WEIGHT)) /
           n;
}

static double all_ns(const dml_strategy_problem *p, double rows)
{
    double ns = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++)
        ns += forward_ns(p, l, rows) + backward_ns(p, l, rows);
    return ns;
}

static double step_ns(const dml_strategy_problem *p)
{
    double ns = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++)
        ns += (double)p->costs->step_ns[l];
    return ns;
}

static double weight_bytes(const dml_strategy_problem *p)
{
    double n = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++)
        n += (double)p->layer[l].w;
    return n * (double)p->weight_bytes;
}

/* 2 d sum over [begin, end) of samples (x + y) + share w */
static double memory(const dml_strategy_problem *p, int32_t begin, int32_t end, double samples,
                     double share)
{
    double bytes = 0.0;
    for (int32_t l = begin; l < end; l++)
        bytes += samples * (double)(p->layer[l].x + p->layer[l].y) * (double)p->act_bytes +
                 share * (double)p->layer[l].w * (double)p->weight_bytes;
    return 2.0 * bytes;
}

/* ---- links ---- */

/* `steps` of a ring of n devices, `stride` apart, each moving bytes / n. */
static double ring_ns(const dml_strategy_problem *p, int32_t n, int32_t stride, double steps,
                      double bytes)
{
    dml_arena arena = {0};
    int32_t *member = DML_NEW_N(&arena, int32_t, n);
    for (int32_t i = 0; i < n; i++)
        member[i] = i * stride;
    const int64_t ns = dml_links_ring_ns(&p->links, member, n, (int64_t)steps, bytes);
    dml_arena_free(&arena);
    return (double)ns;
}

static double all_reduce_ns(const dml_strategy_problem *p, int32_t n, int32_t stride, double bytes)
{
    return ring_ns(p, n, stride, 2.0 * (n - 1), bytes);
}

/* The slowest link between neighbours of 0 .. n - 1. */
static double neighbour_ns(const dml_strategy_problem *p, int32_t n, double messages, double bytes)
{
    double worst = 0.0;
    for (int32_t i = 0; i + 1 < n; i++) {
        const dml_link *link = dml_links_between(&p->links, i, i + 1);
        const double beta = link->bytes_per_s > 0.0 ? 1e9 / link->bytes_per_s : 0.0;
        worst = fmax(worst, messages * (double)link->latency_ns + bytes * beta);
    }
    return worst;
}

static double halo_ns(const dml_strategy_problem *p, int32_t devices)
{
    double ns = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++) {
        const double halo = (double)(p->layer[l].halo_x + p->layer[l].halo_dy);
        if (halo > 0.0)
            ns += neighbour_ns(p, devices, 2.0, (double)p->batch * halo * (double)p->act_bytes);
    }
    return ns;
}

/* Outputs of `samples` gathered in forward, input gradients summed in backward, by a group of devices. */
static double gather_ns(const dml_strategy_problem *p, int32_t devices, double samples)
{
    double ns = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++)
        if (p->layer[l].filters > 0)
            ns += ring_ns(p, devices, 1, 3.0 * (devices - 1),
                          samples * (double)(p->layer[l].y * p->act_bytes));
    return ns;
}

/* ---- limits ---- */

static int64_t smaller(int64_t least, int64_t n)
{
    return n > 0 && n < least ? n : least;
}

static int64_t most_devices(const dml_strategy_problem *p, dml_strategy strategy)
{
    int64_t filters = INT32_MAX, channels = INT32_MAX, pixels = INT32_MAX;
    for (int32_t l = 0; l < p->n_layers; l++) {
        filters = smaller(filters, p->layer[l].filters);
        channels = smaller(channels, p->layer[l].channels);
        pixels = smaller(pixels, p->layer[l].pixels);
    }
    switch (strategy) {
    case DML_STRATEGY_SERIAL: return 1;
    case DML_STRATEGY_DATA: return p->batch;
    case DML_STRATEGY_SPATIAL: return pixels == INT32_MAX ? 1 : pixels;
    case DML_STRATEGY_PIPELINE: return p->cuts;
    case DML_STRATEGY_FILTER: return filters;
    case DML_STRATEGY_CHANNEL: return channels;
    case DML_STRATEGY_DATA_FILTER: return p->batch * filters;
    }
    return 1;
}

/* ---- rows ---- */

static void pipeline(const dml_strategy_problem *p, const dml_strategy_layout *at,
                     dml_strategy_price *out)
{
    const double stages = at->devices, segments = at->segments, rows = (double)p->batch / segments;
    double fwd = 0.0, bwd = 0.0, step = 0.0, sent = 0.0;
    for (int32_t s = 0; s < at->devices; s++) {
        double f = 0.0, b = 0.0, u = 0.0;
        for (int32_t l = at->begin[s]; l < at->begin[s + 1]; l++) {
            f += forward_ns(p, l, rows);
            b += backward_ns(p, l, rows);
            u += (double)p->costs->step_ns[l];
        }
        fwd = fmax(fwd, f);
        bwd = fmax(bwd, b);
        step = fmax(step, u);
        if (s + 1 < at->devices) sent = fmax(sent, (double)p->layer[at->begin[s + 1] - 1].y);
        out->memory_bytes = fmax(out->memory_bytes,
                                 memory(p, at->begin[s], at->begin[s + 1], (double)p->batch, 1.0));
    }
    out->compute_ns = (double)p->batch * (stages + segments - 1.0) / segments * (fwd + bwd) + step;
    out->comm_ns = 2.0 * (stages + segments - 2.0) *
                   neighbour_ns(p, at->devices, 1.0, rows * sent * (double)p->act_bytes);
}

dml_strategy_price dml_strategy_of(const dml_strategy_problem *problem, dml_strategy strategy,
                                   const dml_strategy_layout *layout)
{
    const dml_strategy_problem *p = problem;
    const int32_t devices = layout->devices;
    const double n = devices, batch = (double)p->batch;
    dml_strategy_price out = {.most_devices = most_devices(p, strategy)};
    switch (strategy) {
    case DML_STRATEGY_SERIAL:
        out.compute_ns = batch * all_ns(p, batch) + step_ns(p);
        out.memory_bytes = memory(p, 0, p->n_layers, batch, 1.0);
        break;
    case DML_STRATEGY_DATA:
    case DML_STRATEGY_SPATIAL:
        out.compute_ns = batch / n * all_ns(p, batch / n) + step_ns(p);
        out.comm_ns = all_reduce_ns(p, devices, 1, weight_bytes(p));
        if (strategy == DML_STRATEGY_SPATIAL) out.comm_ns += halo_ns(p, devices);
        out.memory_bytes = memory(p, 0, p->n_layers, batch / n, 1.0);
        break;
    case DML_STRATEGY_PIPELINE: pipeline(p, layout, &out); break;
    case DML_STRATEGY_FILTER:
    case DML_STRATEGY_CHANNEL:
        out.compute_ns = batch / n * all_ns(p, batch) + step_ns(p) / n;
        out.comm_ns = gather_ns(p, devices, batch);
        out.memory_bytes = memory(p, 0, p->n_layers, batch, 1.0 / n);
        break;
    case DML_STRATEGY_DATA_FILTER: {
        const int32_t inner = layout->inner, outer = devices / inner;
        out.compute_ns = batch / n * all_ns(p, batch / outer) + step_ns(p) / inner;
        out.comm_ns =
            gather_ns(p, inner, batch / outer) + all_reduce_ns(p, outer, inner, weight_bytes(p));
        out.memory_bytes = memory(p, 0, p->n_layers, batch / outer, 1.0 / inner);
        break;
    }
    }
    out.comm_binds = out.comm_ns > out.compute_ns;
    return out;
}

/* ---- sizes ---- */

static dml_strategy_layer sizes_of(const dml_model *model, const dml_layer *l)
{
    dml_strategy_layer s = {.x = dml_shape_elems(l->in), .y = dml_shape_elems(l->out)};
    for (int32_t i = l->param_begin; i < l->param_end; i++)
        s.w += model->param[i].elems;
    const bool image = l->in.rank == 3 && l->out.rank == 3;
    const int64_t pixels = image ? (int64_t)l->out.dim[0] * l->out.dim[1] : 0;
    if (pixels > 1) s.pixels = pixels;
    int32_t window = 1;
    if (l->spec->kind == DML_LAYER_CONV2D) window = l->spec->conv.kernel[0];
    if (l->spec->kind == DML_LAYER_MAX_POOL2D || l->spec->kind == DML_LAYER_AVG_POOL2D)
        window = l->pool.kernel[0];
    if (s.pixels > 0 && window > 1) {
        s.halo_x = (window - 1) / 2 * (int64_t)l->in.dim[1] * l->in.dim[2];
        s.halo_dy = (window - 1) / 2 * (int64_t)l->out.dim[1] * l->out.dim[2];
    }
    if (l->spec->kind == DML_LAYER_CONV2D || l->spec->kind == DML_LAYER_LINEAR) {
        s.filters = l->out.dim[l->out.rank - 1];
        s.channels = l->in.dim[l->in.rank - 1];
    }
    return s;
}

const dml_strategy_layer *dml_strategy_layers(const dml_model *model, dml_arena *arena)
{
    dml_strategy_layer *layer = DML_NEW_N(arena, dml_strategy_layer, model->n_layers);
    for (int32_t l = 0; l < model->n_layers; l++)
        layer[l] = sizes_of(model, &model->layer[l]);
    return layer;
}
