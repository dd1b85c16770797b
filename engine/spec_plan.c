/* engine/spec_plan.c - plan: none, auto or FILE: what a plan sets, among what the user wrote.
 *
 *   spec.yaml    plan: plan.json                   plan.json    {"dml_plan": 1,
 *                parallelism: {schedule: zb_h1}                   "for": {"model": "5d..", "global_batch_size": 64},
 *                                                               "set": {"parallelism": {"schedule": "zb_h1", ...}}}
 *
 * A plan's settings are entries like those of the spec's own file, with places in the plan's, so whatever is checked
 * of a spec is checked of a plan edited by hand.  A setting that the user wrote too must be the same there.
 *
 * plan=... on the command line replaces the layout that a file writes, as parallelism.stages there replaces its
 * sizes; what else the command line says stays.  The batch stays, since it is numerics: training.micro_batch_size=auto
 * leaves that to the planner, too.
 */
#include "engine/spec_read.h"

#include "engine/base/hash.h"
#include "engine/base/str.h"
#include "engine/spec_value.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PLAN_VERSION = 1 };

/* What a plan may set.  Layout: of no meaning to the numbers of a run.  Leaves: `auto` is no value of its own, and
 * leaves the key to the plan. */
static const struct {
    dml_spec_key_id id;
    bool layout, leaves;
} planned[] = {
    {DML_KEY_GLOBAL_BATCH, false, false}, {DML_KEY_MICRO_BATCH, false, true},
    {DML_KEY_PIPELINE, true, true},       {DML_KEY_VIRTUAL, true, true},
    {DML_KEY_REPLICAS, true, true},       {DML_KEY_STAGES, true, false},
    {DML_KEY_SCHEDULE, true, false},      {DML_KEY_RECOMPUTE, true, true},
    {DML_KEY_SPLIT, true, false},         {DML_KEY_COSTS, false, false},
};
enum { PLANNED = sizeof planned / sizeof *planned };

bool dml_spec_key_is_planned(dml_spec_key_id id)
{
    for (int32_t i = 0; i < PLANNED; i++)
        if (planned[i].id == id) return true;
    return false;
}

/* ---- what the user leaves to the plan ---------------------------------------------------------------- */

static bool from_command_line(const dml_spec_entry *e)
{
    return e->value && e->value->place.file == dml_spec_command_line;
}

static const char *text_of(const dml_spec_entry *e)
{
    return e->value && e->value->kind == DML_YAML_SCALAR ? e->value->text : "";
}

static bool is_file(const char *text)
{
    return text[0] && strcmp(text, DML_PLAN_NONE) != 0 && strcmp(text, DML_PLAN_AUTO) != 0;
}

/* `pipeline_parallel_size: auto` is as if it were not written, where there is a plan. */
static void drop_auto(dml_spec_reader *r, bool plan)
{
    for (int32_t i = 0; i < PLANNED; i++) {
        dml_spec_entry *e = &r->source->entry[planned[i].id];
        if (!planned[i].leaves || strcmp(text_of(e), "auto") != 0) continue;
        if (!plan) {
            dml_complain_at(&r->report, e->value->place,
                            "'%s: auto' leaves the choice to a plan, and there is none",
                            e->key->text);
            dml_complain_note(&r->report,
                              "plan: auto makes one, for parallelism.world_size workers");
        }
        *e = (dml_spec_entry){0};
    }
}

static void drop_layout_of_file(dml_spec_reader *r)
{
    for (int32_t i = 0; i < PLANNED; i++) {
        dml_spec_entry *e = &r->source->entry[planned[i].id];
        if (planned[i].layout && !from_command_line(e)) *e = (dml_spec_entry){0};
    }
}

/* ---- reading a plan ---------------------------------------------------------------------------------- */

typedef struct plan_parts {
    const dml_yaml *version, *model, *batch, *set;
} plan_parts;

/* The entries of a map, by name; complains about names that are none. */
static void read_parts(dml_spec_reader *r, const dml_yaml *map, const char *what,
                       const char *const *name, const dml_yaml **out, int32_t n)
{
    for (int32_t i = 0; i < map->n; i++) {
        int32_t k = 0;
        while (k < n && strcmp(name[k], map->key[i].text) != 0)
            k++;
        if (k < n) {
            out[k] = &map->item[i];
            continue;
        }
        dml_nearest close = dml_nearest_to(map->key[i].text);
        for (k = 0; k < n; k++)
            dml_nearest_offer(&close, name[k], name[k]);
        dml_complain_at(&r->report, map->key[i].place, "unknown key '%s' in %s", map->key[i].text,
                        what);
        if (close.best) dml_complain_note(&r->report, "did you mean '%s'?", close.best);
    }
}

static bool need_map(dml_spec_reader *r, const dml_yaml *node, dml_place near, const char *name)
{
    if (node && node->kind == DML_YAML_MAP) return true;
    if (node)
        dml_spec_expected(r, node, dml_arena_printf(r->arena, "'%s' to be a mapping", name));
    else
        dml_complain_at(&r->report, near, "a plan needs '%s'", name);
    return false;
}

static bool read_plan(dml_spec_reader *r, const dml_yaml *root, plan_parts *out)
{
    static const char *const top[] = {"dml_plan", "for", "set", "made", "predicted"};
    static const char *const whom[] = {"model", "global_batch_size", "name"};
    const dml_yaml *part[5] = {0}, *whose[3] = {0};
    const int32_t complaints = r->report.n;
    if (!need_map(r, root, (dml_place){r->source->text.plan_file, 1, 1}, "dml_plan")) return false;
    read_parts(r, root, "a plan", top, part, 5);
    int64_t version;
    if (!part[0])
        dml_complain_at(&r->report, root->place,
                        "this is no plan: it has no 'dml_plan', the "
                        "version of its form");
    else if (!dml_value_whole(part[0]->text, &version) || version != PLAN_VERSION)
        dml_complain_at(&r->report, part[0]->place,
                        "a plan of version %s is not known here: this program reads version %d",
                        part[0]->kind == DML_YAML_SCALAR ? part[0]->text : "?", PLAN_VERSION);
    if (r->report.n > complaints) return false;
    if (need_map(r, part[1], root->place, "for")) read_parts(r, part[1], "'for'", whom, whose, 3);
    for (int32_t k = 0; k < 2 && r->report.n == complaints; k++)
        if (!whose[k])
            dml_complain_at(&r->report, part[1]->place,
                            "'for' needs '%s', which this plan was made for", whom[k]);
    need_map(r, part[2], root->place, "set");
    *out = (plan_parts){part[0], whose[0], whose[1], part[2]};
    return r->report.n == complaints;
}

/* ---- merging ----------------------------------------------------------------------------------------- */

static bool same_nodes(const dml_yaml *a, const dml_yaml *b)
{
    if (a->kind != b->kind || a->n != b->n) return false;
    if (a->kind == DML_YAML_SCALAR) return strcmp(a->text, b->text) == 0;
    for (int32_t i = 0; i < a->n; i++) {
        if (a->kind == DML_YAML_MAP && !same_nodes(&a->key[i], &b->key[i])) return false;
        if (!same_nodes(&a->item[i], &b->item[i])) return false;
    }
    return true;
}

static bool same_list(const dml_int_list *a, const dml_int_list *b)
{
    return a->n == b->n && memcmp(a->v, b->v, (size_t)a->n * sizeof *a->v) == 0;
}

static bool same_stages(const dml_spec *a, const dml_spec *b)
{
    if (a->parallelism.n_stages != b->parallelism.n_stages) return false;
    for (int32_t s = 0; s < a->parallelism.n_stages; s++) {
        const dml_stage_spec *x = &a->parallelism.stage[s], *y = &b->parallelism.stage[s];
        if (!same_list(&x->workers, &y->workers) || !same_list(&x->shares, &y->shares))
            return false;
    }
    return true;
}

/* Whether two ways to write a value mean the same: 1f1b and one_f_one_b, 4 and 4.  What cannot be read differs; that
 * complaint is made elsewhere. */
static bool same_value(const dml_spec_reader *r, dml_spec_key_id id, const dml_yaml *a,
                       const dml_yaml *b)
{
    const dml_spec_key *key = &dml_spec_keys[id];
    if (same_nodes(a, b)) return true;
    dml_spec_reader quiet = *r;
    dml_spec *left = DML_NEW(r->arena, dml_spec), *right = DML_NEW(r->arena, dml_spec);
    const bool scalars = a->kind == DML_YAML_SCALAR && b->kind == DML_YAML_SCALAR;
    if (!scalars && key->type != DML_SPEC_STAGES) return false;
    if (!dml_spec_convert(&quiet, key, key->path, a, left)) return false;
    if (!dml_spec_convert(&quiet, key, key->path, b, right)) return false;
    if (key->type == DML_SPEC_STAGES) return same_stages(left, right);
    if (key->type == DML_SPEC_SCHEDULE)
        return strcmp(left->parallelism.schedule, right->parallelism.schedule) == 0;
    return memcmp(left, right, sizeof *left) == 0;
}

static const char *shown(dml_arena *arena, const dml_yaml *node)
{
    if (node->kind == DML_YAML_SCALAR) return node->text;
    return dml_arena_printf(arena, "a list of %d", node->n);
}

static void merge_entry(dml_spec_reader *r, dml_spec_key_id id, const dml_spec_entry *plan)
{
    dml_spec_entry *user = &r->source->entry[id];
    if (!dml_spec_key_is_planned(id)) {
        dml_complain_at(&r->report, plan->key->place,
                        "a plan does not set '%s': write it in the spec", dml_spec_keys[id].path);
    } else if (!user->value) {
        *user = *plan;
    } else if (!same_value(r, id, user->value, plan->value)) {
        dml_complain_at(
            &r->report, plan->value->place, "the plan sets '%s' to %s, %s says %s: keep one",
            dml_spec_keys[id].path, shown(r->arena, plan->value),
            dml_complain_where(&r->report, user->value->place), shown(r->arena, user->value));
        dml_complain_note(&r->report, "plan: auto makes a plan around what is written");
    }
}

/* The settings, as entries of their own first: they are looked up and complained about as a spec's. */
static void merge(dml_spec_reader *r, const dml_yaml *set)
{
    dml_spec_reader p = *r;
    p.source = DML_NEW(r->arena, dml_spec_source);
    p.source->text = r->source->text;
    dml_spec_read_file(&p, set);
    r->report = p.report;
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++)
        if (p.source->entry[k].value) merge_entry(r, (dml_spec_key_id)k, &p.source->entry[k]);
}

/* ---- in the course of loading ------------------------------------------------------------------------ */

/* The text of the file that `plan` names; NULL after a complaint. */
static bool open_plan(dml_spec_reader *r, const dml_spec_entry *e)
{
    const bool from_file = e->value->place.file != dml_spec_command_line;
    const char *path = dml_spec_path(r, DML_KEY_PLAN, text_of(e), from_file);
    dml_spec_text *source = &r->source->text;
    if (!path[0]) return false;
    source->plan_file = path;
    if (dml_spec_read_text(path, r->arena, &source->plan_text) == DML_ERR_OK) return true;
    const char *why = strstr(dml_err_trail(), "error: ");
    dml_complain_at(&r->report, e->value->place, "the plan '%s': %.*s", path,
                    why ? (int)strcspn(why + 7, "\n") : 0, why ? why + 7 : "");
    dml_complain_note(&r->report, "dml-plan SPEC plan=auto --save FILE makes one");
    return false;
}

void dml_spec_read_plan(dml_spec_reader *r)
{
    dml_spec_source *source = r->source;
    dml_spec_entry *e = &source->entry[DML_KEY_PLAN];
    const char *text = text_of(e);
    const bool chosen = strcmp(text, DML_PLAN_AUTO) == 0;
    if ((chosen || is_file(text)) && from_command_line(e)) drop_layout_of_file(r);
    drop_auto(r, chosen || is_file(text));
    if (!source->text.plan_text && (!is_file(text) || !open_plan(r, e))) return;
    const dml_yaml *root =
        dml_yaml_parse(&r->report, source->text.plan_file, 0, source->text.plan_text);
    plan_parts parts;
    if (!root || !read_plan(r, root, &parts)) {
        if (!root && r->report.n == 0)
            dml_complain_at(&r->report, (dml_place){source->text.plan_file, 0, 0},
                            "nothing is written there");
        return;
    }
    merge(r, parts.set);
    source->plan_model = parts.model;
    source->plan_batch = parts.batch;
}

void dml_spec_check_plan(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    const dml_spec_source *source = r->source;
    if (!source->plan_model) return;
    spec->planner.plan = DML_PLAN_NONE; /* now it is part of the spec */
    r->source->entry[DML_KEY_PLAN] = (dml_spec_entry){.derived = true};
    char hash[32];
    snprintf(hash, sizeof hash, "%016" PRIx64, dml_spec_model_hash(spec));
    int64_t batch = 0;
    if (strcmp(source->plan_model->text, hash) != 0) {
        dml_complain_at(&r->report, source->plan_model->place,
                        "this plan was made for another model: that of the spec is %s", hash);
        dml_complain_note(&r->report, "dml-plan SPEC plan=auto --save FILE makes one for it");
    } else if (!dml_value_whole(source->plan_batch->text, &batch) ||
               batch != spec->training.global_batch_size) {
        dml_complain_at(&r->report, source->plan_batch->place,
                        "this plan was made for a global_batch_size of %s, the spec's is %d",
                        source->plan_batch->text, spec->training.global_batch_size);
        dml_complain_note(&r->report, "dml-plan SPEC plan=auto --save FILE makes one for it");
    } else if (spec->parallelism.world_size > 0 &&
               dml_spec_workers(spec) > spec->parallelism.world_size) {
        dml_complain_at(&r->report, r->source->entry[DML_KEY_WORLD_SIZE].value->place,
                        "the plan has %d workers, world_size is %d", dml_spec_workers(spec),
                        spec->parallelism.world_size);
    }
}

/* ---- what a plan is for ------------------------------------------------------------------------------ */

static uint64_t add(uint64_t hash, const void *bytes, size_t n)
{
    return dml_hash(bytes, (int64_t)n, hash);
}

/* Field by field: padding is anything. */
static uint64_t add_layer(uint64_t hash, const dml_layer_spec *l)
{
    const int32_t numbers[] = {(int32_t)l->kind,
                               l->input,
                               l->with,
                               l->out,
                               l->bias,
                               l->tanh_form,
                               l->per_micro_batch,
                               l->zero_init,
                               l->pool.count_include_pad};
    const float reals[] = {l->rate, l->eps, l->momentum};
    hash = add(hash, l->name, strlen(l->name));
    hash = add(hash, numbers, sizeof numbers);
    hash = add(hash, reals, sizeof reals);
    hash = add(hash, &l->conv, sizeof l->conv);
    hash = add(hash, l->pool.kernel, sizeof l->pool.kernel);
    hash = add(hash, l->pool.stride, sizeof l->pool.stride);
    hash = add(hash, l->pool.pad, sizeof l->pool.pad);
    return add(hash, l->ns, sizeof l->ns);
}

uint64_t dml_spec_model_hash(const dml_spec *spec)
{
    uint64_t hash = add(0, spec->model.input, (size_t)spec->model.input_rank * sizeof(int32_t));
    hash = add(hash, &spec->model.classes, sizeof spec->model.classes);
    for (int32_t i = 0; i < spec->model.n_layers; i++)
        hash = add_layer(hash, &spec->model.layers[i]);
    return hash;
}
