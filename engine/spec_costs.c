/* engine/spec_costs.c - the section `costs`: what layers, links and all-reduces take, as dml_costs has it.
 *
 *   costs:
 *     source: profile vgg8.profile.json
 *     rows: [16, 32]                       a layer's times are those of micro-batches of so many samples
 *     link_latency_ns: 3000
 *     link_bytes_per_s: 5000000000
 *     vote_ns: 8000
 *     reduce: [{members: 2, latency_ns: 9000, bytes_per_s: 4000000000}]
 *     layers:                              all of the model, its loss, too, in its order
 *       - {name: conv1, forward_ns: [9000, 17000], input_ns: [0, 0], weight_ns: [7000, 13000], step_ns: 300}
 *
 * Times are whole nanoseconds, so that what is printed loads back equal, bit for bit.
 */
#include "engine/spec_read.h"

#include "engine/base/str.h"

#include <inttypes.h>
#include <string.h>

#define TIMES "[0,1000000000000000]" /* ns: eleven days; sums over all layers fit int64_t */
#define RATES "[0,1000000000000000000]"

enum { SIZES_MAX = 64 };

/* ---- options ----------------------------------------------------------------------------------------- */

/* What a list is read into before its length is known to be right. */
typedef struct table {
    dml_costs costs;
    dml_int_list rows;
    const dml_yaml *layers, *reduce;
} table;

static const dml_spec_key options[] = {
    {"source", DML_SPEC_TEXT, offsetof(table, costs.source), DML_SPEC_NONE, "", "", "", ""},
    {"rows", DML_SPEC_INTS, offsetof(table, rows), DML_SPEC_NONE, ">=1", "", "", ""},
    {"link_latency_ns", DML_SPEC_LONG, offsetof(table, costs.link_latency_ns), DML_SPEC_NONE, TIMES,
     "", "", ""},
    {"link_bytes_per_s", DML_SPEC_LONG, offsetof(table, costs.link_bytes_per_s), DML_SPEC_NONE,
     RATES, "", "", ""},
    {"vote_ns", DML_SPEC_LONG, offsetof(table, costs.vote_ns), DML_SPEC_NONE, TIMES, "", "", ""},
    {"reduce", DML_SPEC_NODE, offsetof(table, reduce), DML_SPEC_NONE, "", "", "", ""},
    {"layers", DML_SPEC_NODE, offsetof(table, layers), DML_SPEC_NONE, "", "", "", ""},
};
enum { ROWS = 1, LAYERS = 6, OPTIONS = sizeof options / sizeof *options };

/* One layer as written. */
typedef struct layer {
    const char *name;
    const dml_yaml *ns[DML_PASSES];
    int64_t step_ns, begin_ns, norm_ns;
} layer;

static const dml_spec_key layer_options[] = {
    {"name", DML_SPEC_TEXT, offsetof(layer, name), DML_SPEC_NONE, "", "", "", ""},
    {"forward_ns", DML_SPEC_NODE, offsetof(layer, ns[DML_PASS_FORWARD]), DML_SPEC_NONE, "", "", "",
     ""},
    {"input_ns", DML_SPEC_NODE, offsetof(layer, ns[DML_PASS_INPUT]), DML_SPEC_NONE, "", "", "", ""},
    {"weight_ns", DML_SPEC_NODE, offsetof(layer, ns[DML_PASS_WEIGHT]), DML_SPEC_NONE, "", "", "",
     ""},
    {"step_ns", DML_SPEC_LONG, offsetof(layer, step_ns), DML_SPEC_NONE, TIMES, "", "", ""},
    {"begin_ns", DML_SPEC_LONG, offsetof(layer, begin_ns), DML_SPEC_NONE, TIMES, "", "", ""},
    {"norm_ns", DML_SPEC_LONG, offsetof(layer, norm_ns), DML_SPEC_NONE, TIMES, "", "", ""},
};
enum { FIRST_PASS = 1, LAYER_OPTIONS = sizeof layer_options / sizeof *layer_options };

static const dml_spec_key reduce_options[] = {
    {"members", DML_SPEC_INT, offsetof(dml_reduce_cost, members), DML_SPEC_NONE, "[2,1048576]", "",
     "", ""},
    {"latency_ns", DML_SPEC_LONG, offsetof(dml_reduce_cost, latency_ns), DML_SPEC_NONE, TIMES, "",
     "", ""},
    {"bytes_per_s", DML_SPEC_LONG, offsetof(dml_reduce_cost, bytes_per_s), DML_SPEC_NONE, RATES, "",
     "", ""},
};
enum { REDUCE_OPTIONS = sizeof reduce_options / sizeof *reduce_options };

static const dml_spec_key one_time = {"time", DML_SPEC_LONG, 0, DML_SPEC_NONE, TIMES, "", "", ""};

/* ---- reading ----------------------------------------------------------------------------------------- */

static bool missing(dml_spec_reader *r, const dml_yaml *node, const char *what, const char *name)
{
    dml_complain_at(&r->report, node->place, "%s without '%s'", what, name);
    return false;
}

static bool read_rows(dml_spec_reader *r, const dml_yaml *node, table *t)
{
    if (!t->rows.v) return missing(r, node, "costs", "rows");
    const dml_yaml *list = dml_spec_option(node, &options[ROWS]);
    if (t->rows.n > SIZES_MAX) {
        dml_complain_at(&r->report, list->place, "'rows' has more than %d sizes", SIZES_MAX);
        return false;
    }
    for (int32_t i = 1; i < t->rows.n; i++) {
        if (t->rows.v[i] > t->rows.v[i - 1]) continue;
        dml_complain_at(&r->report, list->item[i].place, "'rows' must ascend: %d after %d",
                        t->rows.v[i], t->rows.v[i - 1]);
        return false;
    }
    t->costs.rows = t->rows.v;
    t->costs.n_rows = t->rows.n;
    return true;
}

/* The times of layer `l` in one pass, one for each size. */
static bool read_pass(dml_spec_reader *r, const dml_yaml *list, const char *label,
                      const dml_costs *c, int32_t l, dml_pass pass, int64_t (*ns)[DML_PASSES])
{
    if (list->kind != DML_YAML_LIST) {
        dml_spec_expected(r, list, "a list of times in ns, one for each of 'rows'");
        return false;
    }
    if (list->n != c->n_rows) {
        dml_complain_at(&r->report, list->place, "'%s' lists %d times, 'rows' %d sizes", label,
                        list->n, c->n_rows);
        return false;
    }
    bool ok = true;
    for (int32_t i = 0; i < list->n; i++)
        ok &= dml_spec_convert(r, &one_time, label, &list->item[i],
                               &ns[(int64_t)i * c->n_layers + l][pass]);
    return ok;
}

static bool read_layers(dml_spec_reader *r, const dml_yaml *node, table *t)
{
    dml_costs *c = &t->costs;
    if (!t->layers) return missing(r, node, "costs", "layers");
    if (t->layers->kind != DML_YAML_LIST || t->layers->n == 0) {
        dml_spec_expected(r, t->layers, "a list of layers");
        return false;
    }
    c->n_layers = t->layers->n;
    int64_t(*ns)[DML_PASSES] =
        dml_arena_alloc(r->arena, (int64_t)sizeof *ns * c->n_rows * c->n_layers);
    int64_t *step_ns = DML_NEW_N(r->arena, int64_t, c->n_layers),
            *begin_ns = DML_NEW_N(r->arena, int64_t, c->n_layers),
            *norm_ns = DML_NEW_N(r->arena, int64_t, c->n_layers);
    bool ok = true;
    for (int32_t l = 0; l < c->n_layers; l++) {
        const dml_yaml *item = &t->layers->item[l];
        layer read = {0};
        if (!dml_spec_read_options(r, item, "a layer's costs", layer_options, LAYER_OPTIONS,
                                   &read)) {
            ok = false;
            continue;
        }
        for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
            const char *label = layer_options[FIRST_PASS + pass].path;
            ok &= read.ns[pass] ? read_pass(r, read.ns[pass], label, c, l, pass, ns)
                                : missing(r, item, "a layer's costs", label);
        }
        step_ns[l] = read.step_ns;
        begin_ns[l] = read.begin_ns;
        norm_ns[l] = read.norm_ns;
    }
    c->ns = (const int64_t(*)[DML_PASSES])ns;
    c->step_ns = step_ns;
    c->begin_ns = begin_ns;
    c->norm_ns = norm_ns;
    return ok;
}

static bool read_reduces(dml_spec_reader *r, table *t)
{
    if (!t->reduce) return true;
    if (t->reduce->kind != DML_YAML_LIST) {
        dml_spec_expected(r, t->reduce, "a list such as [{members: 2, latency_ns: 9000}]");
        return false;
    }
    dml_reduce_cost *reduce = DML_NEW_N(r->arena, dml_reduce_cost, t->reduce->n);
    bool ok = true;
    for (int32_t i = 0; i < t->reduce->n && ok; i++) {
        const dml_yaml *item = &t->reduce->item[i];
        ok = dml_spec_read_options(r, item, "an all-reduce's costs", reduce_options, REDUCE_OPTIONS,
                                   &reduce[i]);
        if (ok && reduce[i].members == 0) ok = missing(r, item, "an all-reduce's costs", "members");
        if (!ok || i == 0 || reduce[i].members > reduce[i - 1].members) continue;
        dml_complain_at(&r->report, item->place, "'members' must ascend: %d after %d",
                        reduce[i].members, reduce[i - 1].members);
        ok = false;
    }
    t->costs.reduce = reduce;
    t->costs.n_reduces = t->reduce->n;
    return ok;
}

bool dml_spec_read_costs(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec)
{
    table *t = DML_NEW(r->arena, table);
    t->costs.source = "costs of the spec";
    spec->costs = NULL;
    if (node->kind == DML_YAML_MAP && node->n == 0) return true;
    if (!dml_spec_read_options(r, node, "costs", options, OPTIONS, t)) return false;
    if (!read_rows(r, node, t) || !read_layers(r, node, t) || !read_reduces(r, t)) return false;
    spec->costs = &t->costs;
    return true;
}

/* ---- what must hold ---------------------------------------------------------------------------------- */

void dml_spec_check_costs(dml_spec_reader *r)
{
    const dml_spec_entry *e = &r->source->entry[DML_KEY_COSTS];
    const dml_spec *spec = r->spec;
    if (!e->value || e->bad || !spec->costs) return;
    const dml_yaml *list = dml_spec_option(e->value, &options[LAYERS]);
    if (list->n != spec->model.n_layers) {
        dml_complain_at(&r->report, list->place,
                        "costs of %d layers, but the model has %d, its loss among them", list->n,
                        spec->model.n_layers);
        return;
    }
    for (int32_t i = 0; i < list->n; i++) {
        const dml_yaml *name = dml_spec_option(&list->item[i], &layer_options[0]);
        if (!name || strcmp(name->text, spec->model.layers[i].name) == 0) continue;
        dml_complain_at(&r->report, name->place,
                        "these are the costs of layer '%s', but layer %d of the model is '%s'",
                        name->text, i, spec->model.layers[i].name);
        return;
    }
}

/* ---- printing ---------------------------------------------------------------------------------------- */

static void print_pass(const dml_costs *c, int32_t l, dml_pass pass, FILE *to)
{
    fprintf(to, ", %s: [", layer_options[FIRST_PASS + pass].path);
    for (int32_t i = 0; i < c->n_rows; i++)
        fprintf(to, "%s%" PRId64, i ? ", " : "", c->ns[(int64_t)i * c->n_layers + l][pass]);
    fputc(']', to);
}

void dml_spec_print_costs(const dml_spec *spec, FILE *to, int32_t indent)
{
    const dml_costs *c = spec->costs;
    fprintf(to, "%*ssource: ", indent, "");
    dml_yaml_print_text(to, c->source, true);
    fprintf(to, "\n%*srows: [", indent, "");
    for (int32_t i = 0; i < c->n_rows; i++)
        fprintf(to, "%s%" PRId32, i ? ", " : "", c->rows[i]);
    fprintf(to, "]\n%*slink_latency_ns: %" PRId64 "\n%*slink_bytes_per_s: %" PRId64, indent, "",
            c->link_latency_ns, indent, "", c->link_bytes_per_s);
    fprintf(to, "\n%*svote_ns: %" PRId64 "\n%*sreduce: [", indent, "", c->vote_ns, indent, "");
    for (int32_t i = 0; i < c->n_reduces; i++)
        fprintf(to, "%s{members: %" PRId32 ", latency_ns: %" PRId64 ", bytes_per_s: %" PRId64 "}",
                i ? ", " : "", c->reduce[i].members, c->reduce[i].latency_ns,
                c->reduce[i].bytes_per_s);
    fprintf(to, "]\n%*slayers:\n", indent, "");
    for (int32_t l = 0; l < c->n_layers; l++) {
        fprintf(to, "%*s- {name: ", indent + 2, "");
        dml_yaml_print_text(to, spec->model.layers[l].name, true);
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            print_pass(c, l, pass, to);
        fprintf(to, ", step_ns: %" PRId64 ", begin_ns: %" PRId64 ", norm_ns: %" PRId64 "}\n",
                c->step_ns[l], dml_costs_begin_ns(c, l), dml_costs_norm_ns(c, l));
    }
}
