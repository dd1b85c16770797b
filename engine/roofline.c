/* engine/roofline.c - prices the steps that a chunk of the whole model has. */
#include "engine/roofline.h"

#include "engine/chunk_impl.h"
#include "engine/chunk_sum.h"

#include <math.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { NARROW_TILE = 32, SHORT_DEPTH = 256 };

typedef struct roofline {
    const dml_hardware *hw;
    const dml_spec *spec;
    const dml_chunk *c;
    double peak, vector; /* FLOP/s: of products, of the rest */
    double bytes_per_s, launch_ns;
    int64_t act;   /* bytes of an activation */
    int32_t words; /* int64 that an exact sum has */
} roofline;

/* One kernel. */
typedef struct work {
    double flops_ns, bytes;
    int32_t launches;
} work;

static double figure(const roofline *r, dml_hardware_id id)
{
    return r->hw->figure[id].value;
}

static int64_t price(const roofline *r, const work *w)
{
    return llround(fmax(w->flops_ns, w->bytes * 1e9 / r->bytes_per_s) + w->launches * r->launch_ns);
}

/* ---- products ---- */

/* A tile's side along an axis of n. */
static double tile_of(double n, double full)
{
    double side = NARROW_TILE;
    while (side < n && side < full)
        side *= 2;
    return fmin(side, full);
}

/* `groups` products [m, k] x [k, n]: the formula of roofline.h. */
static double product_ns(const roofline *r, double groups, double m, double n, double k,
                         double share)
{
    const double units = figure(r, DML_HW_UNITS), full = figure(r, DML_HW_TILE);
    const double tm = tile_of(m, full), tn = tile_of(n, full);
    const double tiles = groups * ceil(m / tm) * ceil(n / tn);
    const double depth =
        tiles > units ? ceil(tiles / units) * k : fmax(k * tiles / units, fmin(k, SHORT_DEPTH));
    return 2.0 * tm * tn * units * depth / (r->peak * share) * 1e9;
}

static bool is_product(const dml_layer *l)
{
    return l->spec->kind == DML_LAYER_LINEAR || l->spec->kind == DML_LAYER_CONV2D;
}

/* The product that makes y, dx or dw of a linear layer or a convolution; k follows from the flops. */
static double layer_product_ns(const roofline *r, const dml_layer *l, dml_pass pass, double rows)
{
    const bool conv = l->spec->kind == DML_LAYER_CONV2D;
    const double g = conv ? l->spec->conv.groups : 1,
                 window = conv ? (double)l->spec->conv.kernel[0] * l->spec->conv.kernel[1] : 1,
                 in = l->in.dim[l->in.rank - 1] / g, out = l->out.dim[l->out.rank - 1] / g,
                 in_cells = (double)dml_shape_elems(l->in) / in / g,
                 out_cells = (double)dml_shape_elems(l->out) / out / g;
    double m = rows * out_cells, n = out;
    if (pass == DML_PASS_INPUT) m = rows * in_cells, n = in;
    if (pass == DML_PASS_WEIGHT) m = out, n = window * in;
    const double k = 2.0 * window * in * out * out_cells * rows / (2.0 * m * n);
    return product_ns(r, g, m, n, k, figure(r, conv ? DML_HW_CONV : DML_HW_MATMUL));
}

/* ---- steps ---- */

static int64_t param_elems(const roofline *r, const dml_layer *l)
{
    int64_t n = 0;
    for (int32_t p = l->param_begin; p < l->param_end; p++)
        n += r->c->model->param[p].elems;
    return n;
}

static double weight_bytes(const roofline *r, const dml_layer *l)
{
    return (double)(param_elems(r, l) * (l->cls->traits & DML_W_LIKE_X ? r->act : 4));
}

/* What an activation leaves that a product before it applies. */
static double aux_bytes(const roofline *r, const dml_layer *linear, double rows)
{
    return rows * (double)dml_fused_aux_bytes(r->c, linear);
}

/* Times that a kernel passes over its input and its output, or their gradients. */
typedef struct passes {
    double in, out, keep;
} passes;

static passes forward_passes(dml_layer_kind kind)
{
    switch (kind) {
    case DML_LAYER_BATCH_NORM: return (passes){2, 1, 0}; /* moments, then the values */
    case DML_LAYER_ADD: return (passes){1, 2, 0};        /* the other input is as large as y */
    case DML_LAYER_MAX_POOL2D: return (passes){1, 1, 1};
    case DML_LAYER_LINEAR:
    case DML_LAYER_CONV2D:
    case DML_LAYER_AVG_POOL2D:
    case DML_LAYER_RELU:
    case DML_LAYER_GELU:
    case DML_LAYER_TANH:
    case DML_LAYER_DROPOUT:
    case DML_LAYER_FLATTEN:
    case DML_LAYER_CROSS_ENTROPY:
    case DML_LAYER_MSE: return (passes){1, 1, 0};
    case DML_LAYER_DELAY: return (passes){0};
    }
    return (passes){0};
}

static passes input_passes(dml_layer_kind kind)
{
    switch (kind) {
    case DML_LAYER_BATCH_NORM: return (passes){3, 2, 0}; /* x and dy twice, dx once */
    case DML_LAYER_RELU:
    case DML_LAYER_GELU:
    case DML_LAYER_TANH: return (passes){2, 1, 0};
    case DML_LAYER_MAX_POOL2D: return (passes){1, 1, 1};
    case DML_LAYER_LINEAR:
    case DML_LAYER_CONV2D:
    case DML_LAYER_AVG_POOL2D:
    case DML_LAYER_DROPOUT:
    case DML_LAYER_FLATTEN: return (passes){1, 1, 0};
    case DML_LAYER_ADD:
    case DML_LAYER_CROSS_ENTROPY:
    case DML_LAYER_MSE:
    case DML_LAYER_DELAY: return (passes){0};
    }
    return (passes){0};
}

static double moved(const roofline *r, const dml_layer *l, passes p, double rows)
{
    const double x = (double)dml_shape_elems(l->in), y = (double)dml_shape_elems(l->out);
    return rows * ((p.in * x + p.out * y) * (double)r->act + p.keep * 4.0 * (double)l->keep_elems);
}

static int64_t through_ns(const roofline *r, int32_t layer, dml_pass pass, double rows)
{
    const dml_layer *l = &r->c->model->layer[layer];
    const dml_layer_plan *plan = &((const dml_chunk_impl *)r->c->impl)->layer[layer];
    const dml_layer_kind kind = l->spec->kind;
    if (l->alias || kind == DML_LAYER_DELAY) return 0;
    const bool forward = pass == DML_PASS_FORWARD;
    work w = {.launches = kind == DML_LAYER_BATCH_NORM ? 2 : 1};
    w.bytes = moved(r, l, forward ? forward_passes(kind) : input_passes(kind), rows);
    w.bytes += weight_bytes(r, l);
    if (forward && plan->acts) w.bytes += aux_bytes(r, l, rows);
    if (!forward && plan->unacts) /* past the activation that stands behind a linear layer */
        w.bytes += aux_bytes(r, &r->c->model->layer[l->spec->input - 1], rows);
    w.flops_ns = is_product(l) ? layer_product_ns(r, l, pass, rows)
                               : (double)l->flops[pass] * rows / r->vector * 1e9;
    return price(r, &w);
}

/* A micro-batch after the first of a step: its gradient is added to the sum, by the product itself where that is
 * a linear layer's float sum, else by a kernel for each parameter. */
static int64_t weight_ns(const roofline *r, int32_t layer, double rows)
{
    const dml_layer *l = &r->c->model->layer[layer];
    const double elems = (double)param_elems(r, l);
    const bool in_place = l->spec->kind == DML_LAYER_LINEAR && r->words == 0;
    const double to_sum = r->words > 0 ? 16.0 * r->words : 8.0;
    work add = {.bytes = elems * (4.0 + to_sum), .launches = l->param_end - l->param_begin};
    if (!is_product(l)) return price(r, &add);
    work make = {.flops_ns = layer_product_ns(r, l, DML_PASS_WEIGHT, rows),
                 .bytes = moved(r, l, (passes){1, 1, 0}, rows) + elems * (in_place ? to_sum : 4.0),
                 .launches = 1};
    return price(r, &make) + (in_place ? 0 : price(r, &add));
}

/* ADD reads two and writes one, COPY and CONVERT read one and write one. */
static int64_t plain_ns(const roofline *r, const dml_step *s, double rows)
{
    const double elems = rows * (double)s->row_elems, act = (double)r->act;
    const double each = s->kind == DML_STEP_ADD    ? 3.0 * act
                        : s->kind == DML_STEP_COPY ? 2.0 * act
                                                   : 4.0 + act;
    const work w = {.bytes = elems * each, .launches = 1};
    return price(r, &w);
}

static void price_steps(const roofline *r, const dml_steps *list, dml_pass of, int32_t rows,
                        int64_t (*ns)[DML_PASSES])
{
    for (int32_t i = 0; i < list->n; i++) {
        const dml_step *s = &list->step[i];
        switch (s->kind) {
        case DML_STEP_FORWARD:
        case DML_STEP_INPUT_GRAD: ns[s->layer][of] += through_ns(r, s->layer, of, rows); break;
        case DML_STEP_WEIGHT_GRAD:
            ns[s->layer][DML_PASS_WEIGHT] += weight_ns(r, s->layer, rows);
            break;
        case DML_STEP_ADD:
        case DML_STEP_COPY:
        case DML_STEP_CONVERT: ns[s->layer][of] += plain_ns(r, s, rows); break;
        }
    }
}

/* ---- a step's end ---- */

/* The norm reads the gradient; the rule reads weight, gradient and moments and writes all but the gradient; the
 * weights' copy in the act type is made of them; sums in integers are finished first. */
static int64_t step_ns(const roofline *r, const dml_layer *l)
{
    const bool adamw = r->spec->optimizer.name == DML_OPT_ADAMW;
    const double moments = adamw                             ? 2
                           : r->spec->optimizer.momentum > 0 ? 1
                                                             : 0,
                 copy = l->cls->traits & DML_W_LIKE_X && r->act < 4 ? 4.0 + (double)r->act : 0.0,
                 finish = r->words > 0 ? 8.0 * r->words + 4.0 : 0.0;
    const work w = {.bytes =
                        (double)param_elems(r, l) * (4.0 + 12.0 + 8.0 * moments + copy + finish),
                    .launches = l->param_end - l->param_begin};
    return w.launches > 0 ? price(r, &w) : 0;
}

/* ---- tables ---- */

/* 1, 2, 4, ... below the batch, the batch, and micro_batch_size among them. */
static int32_t sizes_of(const dml_spec *spec, int32_t *rows)
{
    const int32_t micro = spec->training.micro_batch_size,
                  most = MAX2(spec->training.global_batch_size, micro);
    int32_t n = 0;
    for (int64_t size = 1; size < most; size *= 2) {
        if (micro < size && (n == 0 || rows[n - 1] < micro)) rows[n++] = micro;
        if (n == 0 || rows[n - 1] < size) rows[n++] = (int32_t)size;
    }
    if (n > 0 && rows[n - 1] < micro && micro < most) rows[n++] = micro;
    if (n == 0 || rows[n - 1] < most) rows[n++] = most;
    return n;
}

enum { SIZES_MAX = 40 };

static void set_links(const dml_hardware *hw, dml_costs *costs)
{
    const dml_hardware_link *l = dml_hardware_link_of(hw, 2);
    if (!l) return;
    costs->link_latency_ns = llround(l->latency_ns.value);
    costs->link_bytes_per_s = llround(l->bytes_per_s.value);
}

static void fill(const roofline *r, dml_costs *costs, dml_arena *arena)
{
    const dml_chunk_impl *impl = r->c->impl;
    const int32_t layers = r->c->model->n_layers;
    int32_t rows[SIZES_MAX];
    costs->n_layers = layers;
    costs->n_rows = sizes_of(r->spec, rows);
    int32_t *size = DML_NEW_N(arena, int32_t, costs->n_rows);
    memcpy(size, rows, (size_t)costs->n_rows * sizeof *size);
    int64_t *step = DML_NEW_N(arena, int64_t, layers);
    int64_t(*ns)[DML_PASSES] = dml_arena_alloc(arena, (int64_t)sizeof *ns * costs->n_rows * layers);
    for (int32_t i = 0; i < costs->n_rows; i++) {
        int64_t(*at)[DML_PASSES] = ns + (int64_t)i * layers;
        price_steps(r, &impl->forward, DML_PASS_FORWARD, size[i], at);
        price_steps(r, &impl->input, DML_PASS_INPUT, size[i], at);
    }
    for (int32_t l = 0; l < layers; l++)
        step[l] = step_ns(r, &r->c->model->layer[l]);
    costs->rows = size;
    costs->ns = (const int64_t(*)[DML_PASSES])ns;
    costs->step_ns = step;
}

dml_err dml_roofline(const dml_spec *spec, const dml_model *model, const dml_hardware *hardware,
                     dml_arena *arena, const dml_costs **out)
{
    const dml_precision precision = spec->training.precision;
    const dml_figure peak = dml_hardware_peak(hardware, precision);
    if (!peak.source)
        DML_FAIL(DML_ERR_SPEC, "%s has no peak for training.precision %s", hardware->name,
                 dml_precision_name(precision));
    dml_arena scratch = {0};
    dml_chunk c;
    const dml_err err = dml_chunk_plan(spec, model, 0, model->n_layers, false, &scratch, &c);
    if (err == DML_ERR_OK) {
        const dml_figure *f = hardware->figure;
        const roofline r = {
            .hw = hardware,
            .spec = spec,
            .c = &c,
            .peak = peak.value,
            .vector = f[DML_HW_PEAK_FP32].value,
            .bytes_per_s = f[DML_HW_BANDWIDTH].value * f[DML_HW_STREAM].value,
            .launch_ns = f[DML_HW_LAUNCH].value,
            .act = dml_dtype_bytes(c.act),
            .words = dml_sum_info_of(spec->training.numerics)->words,
        };
        dml_costs *costs = DML_NEW(arena, dml_costs);
        costs->source = dml_arena_printf(arena, "roofline of %s", hardware->name);
        fill(&r, costs, arena);
        set_links(hardware, costs);
        *out = costs;
    }
    dml_arena_free(&scratch);
    return err;
}

int64_t dml_model_flops(const dml_model *model)
{
    int64_t flops = 0;
    for (int32_t i = 0; i < model->n_layers; i++)
        for (int pass = 0; pass < DML_PASSES && is_product(&model->layer[i]); pass++)
            flops += model->layer[i].flops[pass];
    return flops;
}

/* ---- cluster.hardware ---- */

static dml_err apply_costs(dml_spec *spec, const dml_hardware *hw)
{
    dml_arena scratch = {0};
    dml_model model;
    dml_err err = dml_model_make(spec, &scratch, &model);
    if (err == DML_ERR_OK) err = dml_roofline(spec, &model, hw, &spec->arena, &spec->costs);
    dml_arena_free(&scratch);
    return err;
}

/* The last level says 0 in both: it joins all. */
static void apply_links(dml_spec *spec, const dml_hardware *hw)
{
    dml_link_level *level = DML_NEW_N(&spec->arena, dml_link_level, hw->n_links);
    for (int32_t i = 0; i < hw->n_links; i++) {
        const dml_hardware_link *l = &hw->link[i];
        level[i] =
            (dml_link_level){l->workers, {llround(l->latency_ns.value), l->bytes_per_s.value}};
    }
    spec->cluster.link = level;
    spec->cluster.n_links = hw->n_links;
    if (hw->figure[DML_HW_RAILS].source)
        spec->cluster.rails = (int32_t)hw->figure[DML_HW_RAILS].value;
}

dml_err dml_roofline_apply(dml_spec *spec)
{
    const int32_t threads = spec->parallelism.threads_per_worker;
    const bool here = strcmp(spec->cluster.hardware, DML_HARDWARE_HERE) == 0;
    if (!spec->cluster.hardware[0] || (here && spec->costs)) return DML_ERR_OK;
    dml_hardware hw;
    DML_TRY(here ? dml_hardware_here(MAX2(threads, 1), &hw)
                 : dml_hardware_load(spec->cluster.hardware, &hw));
    const dml_err err = spec->costs ? DML_ERR_OK : apply_costs(spec, &hw);
    if (!here && !dml_spec_has_limits(spec))
        spec->parallelism.memory_bytes = (int64_t)hw.figure[DML_HW_MEMORY].value;
    const dml_links links = dml_spec_links(spec);
    if (hw.n_links > 0 && dml_links_are_free(&links)) apply_links(spec, &hw);
    dml_hardware_free(&hw);
    return err;
}
