/* engine/profile_json.c - a profile to JSON and back, by tables of fields that both ways read.
 *
 *   {"dml_profile": 1, "made": {...}, "machine": {...}, "model": {...}, "workers": 2, ..., "rows": [16, 32],
 *    "layers": [{"name": "conv1", ..., "forward_ns": [[median, p25, p75, n], ...], ...}], "whole": [{...}], ...}
 */
#include "engine/profile.h"

#include "engine/base/str.h"

#include <jansson.h>

#include <inttypes.h>
#include <string.h>

enum { COUNT_MAX = 1 << 20 };

/* ---- tables ------------------------------------------------------------------------------------------ */

typedef enum field_type { TEXT, WHOLE } field_type;

typedef struct field {
    const char *name;
    field_type type;
    size_t at;     /* of a const char * or int64_t in its struct */
    int64_t least; /* of a number */
} field;

/* clang-format off */
static const field made_fields[] = {
    {"date",    TEXT, offsetof(dml_profile, made.date), 0},
    {"version", TEXT, offsetof(dml_profile, made.version), 0},
};
static const field machine_fields[] = {
    {"host",      TEXT,  offsetof(dml_profile, machine.host), 0},
    {"cpu",       TEXT,  offsetof(dml_profile, machine.cpu), 0},
    {"cores",     WHOLE, offsetof(dml_profile, machine.cores), 1},
    {"backend",   TEXT,  offsetof(dml_profile, machine.backend), 0},
    {"device",    TEXT,  offsetof(dml_profile, machine.device), 0},
    {"libraries", TEXT,  offsetof(dml_profile, machine.libraries), 0},
    {"transport", TEXT,  offsetof(dml_profile, machine.transport), 0},
    {"link",      TEXT,  offsetof(dml_profile, machine.link), 0},
};
static const field model_fields[] = {
    {"name",      TEXT,  offsetof(dml_profile, model.name), 0},
    {"hash",      TEXT,  offsetof(dml_profile, model.hash), 0},
    {"precision", TEXT,  offsetof(dml_profile, model.precision), 0},
    {"numerics",  TEXT,  offsetof(dml_profile, model.numerics), 0},
    {"optimizer", TEXT,  offsetof(dml_profile, model.optimizer), 0},
    {"threads",   WHOLE, offsetof(dml_profile, model.threads), 1},
};
static const field root_fields[] = {
    {"workers",       WHOLE, offsetof(dml_profile, workers), 1},
    {"iterations",    WHOLE, offsetof(dml_profile, iterations), 1},
    {"micro_batches", WHOLE, offsetof(dml_profile, micro_batches), 1},
    {"vote_ns",       WHOLE, offsetof(dml_profile, vote_ns), 0},
};
static const field layer_fields[] = {
    {"name",             TEXT,  offsetof(dml_profile_layer, name), 0},
    {"kind",             TEXT,  offsetof(dml_profile_layer, kind), 0},
    {"within",           TEXT,  offsetof(dml_profile_layer, within), 0},
    {"parameter_bytes",  WHOLE, offsetof(dml_profile_layer, parameter_bytes), 0},
    {"gradient_bytes",   WHOLE, offsetof(dml_profile_layer, gradient_bytes), 0},
    {"optimizer_bytes",  WHOLE, offsetof(dml_profile_layer, optimizer_bytes), 0},
    {"activation_bytes", WHOLE, offsetof(dml_profile_layer, activation_bytes), 0},
    {"stash_bytes",      WHOLE, offsetof(dml_profile_layer, stash_bytes), 0},
    {"begin_ns",         WHOLE, offsetof(dml_profile_layer, begin_ns), 0},
    {"step_ns",          WHOLE, offsetof(dml_profile_layer, step_ns), 0},
    {"norm_ns",          WHOLE, offsetof(dml_profile_layer, norm_ns), 0},
};
static const char *const pass_names[DML_PASSES] = {"forward_ns", "input_ns", "weight_ns"};
static const field whole_fields[] = {
    {"rows",        WHOLE, offsetof(dml_profile_whole, rows), 1},
    {"forward_ns",  WHOLE, offsetof(dml_profile_whole, forward_ns), 0},
    {"backward_ns", WHOLE, offsetof(dml_profile_whole, backward_ns), 0},
    {"step_ns",     WHOLE, offsetof(dml_profile_whole, step_ns), 0},
    {"norm_ns",     WHOLE, offsetof(dml_profile_whole, norm_ns), 0},
    {"wall_ns",     WHOLE, offsetof(dml_profile_whole, wall_ns), 0},
    {"overhead_ns", WHOLE, offsetof(dml_profile_whole, overhead_ns), 0},
    {"stash_bytes", WHOLE, offsetof(dml_profile_whole, stash_bytes), 0},
};
static const field transfer_fields[] = {
    {"members", WHOLE, offsetof(dml_profile_transfer, members), 2},
    {"bytes",   WHOLE, offsetof(dml_profile_transfer, bytes), 1},
    {"ns",      WHOLE, offsetof(dml_profile_transfer, ns), 0},
};
static const field fit_fields[] = {
    {"members",     WHOLE, offsetof(dml_profile_fit, members), 0},
    {"latency_ns",  WHOLE, offsetof(dml_profile_fit, latency_ns), 0},
    {"bytes_per_s", WHOLE, offsetof(dml_profile_fit, bytes_per_s), 0},
    {"from_bytes",  WHOLE, offsetof(dml_profile_fit, from_bytes), 0},
    {"to_bytes",    WHOLE, offsetof(dml_profile_fit, to_bytes), 0},
};
/* clang-format on */
#define COUNT(table) ((int32_t)(sizeof(table) / sizeof *(table)))

/* ---- writing ----------------------------------------------------------------------------------------- */

static void put_fields(json_t *to, const field *fields, int32_t n, const void *base)
{
    for (int32_t i = 0; i < n; i++) {
        const char *at = (const char *)base + fields[i].at;
        if (fields[i].type == TEXT)
            json_object_set_new(to, fields[i].name, json_string(*(const char *const *)at));
        else
            json_object_set_new(to, fields[i].name, json_integer(*(const int64_t *)at));
    }
}

static json_t *object_of(const field *fields, int32_t n, const void *base)
{
    json_t *o = json_object();
    put_fields(o, fields, n, base);
    return o;
}

static json_t *list_of(const field *fields, int32_t n_fields, const void *items, int32_t n,
                       size_t each)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list,
                              object_of(fields, n_fields, (const char *)items + (size_t)i * each));
    return list;
}

static json_t *spreads_of(const dml_spread *s, int32_t n)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("[I, I, I, I]", (json_int_t)s[i].median_ns,
                                              (json_int_t)s[i].p25_ns, (json_int_t)s[i].p75_ns,
                                              (json_int_t)s[i].n));
    return list;
}

static json_t *layers_of(const dml_profile *p)
{
    json_t *list = json_array();
    for (int32_t l = 0; l < p->n_layers; l++) {
        json_t *o = object_of(layer_fields, COUNT(layer_fields), &p->layer[l]);
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            json_object_set_new(o, pass_names[pass], spreads_of(p->layer[l].ns[pass], p->n_rows));
        json_array_append_new(list, o);
    }
    return list;
}

dml_err dml_profile_write(const dml_profile *p, const char *path)
{
    json_t *root = json_object(), *rows = json_array();
    for (int32_t i = 0; i < p->n_rows; i++)
        json_array_append_new(rows, json_integer(p->rows[i]));
    json_object_set_new(root, "dml_profile", json_integer(DML_PROFILE_VERSION));
    json_object_set_new(root, "made", object_of(made_fields, COUNT(made_fields), p));
    json_object_set_new(root, "machine", object_of(machine_fields, COUNT(machine_fields), p));
    json_object_set_new(root, "model", object_of(model_fields, COUNT(model_fields), p));
    put_fields(root, root_fields, COUNT(root_fields), p);
    json_object_set_new(root, "rows", rows);
    json_object_set_new(
        root, "whole",
        list_of(whole_fields, COUNT(whole_fields), p->whole, p->n_rows, sizeof *p->whole));
    json_object_set_new(root, "layers", layers_of(p));
    json_object_set_new(root, "link", object_of(fit_fields, COUNT(fit_fields), &p->link));
    json_object_set_new(root, "transfers",
                        list_of(transfer_fields, COUNT(transfer_fields), p->transfer,
                                p->n_transfers, sizeof *p->transfer));
    json_object_set_new(
        root, "reduce",
        list_of(fit_fields, COUNT(fit_fields), p->reduce, p->n_reduces, sizeof *p->reduce));
    json_object_set_new(
        root, "sums",
        list_of(transfer_fields, COUNT(transfer_fields), p->sum, p->n_sums, sizeof *p->sum));
    const int failed = json_dump_file(root, path, JSON_INDENT(1));
    json_decref(root);
    if (failed) DML_FAIL(DML_ERR_DATA, "cannot write the profile '%s'", path);
    return DML_ERR_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

typedef struct reader {
    const char *file;
    dml_arena *arena;
} reader;

static dml_err refuse(const reader *r, const char *where, const char *what)
{
    DML_FAIL(DML_ERR_SPEC, "%s: error: %s: %s", r->file, where, what);
}

/* "layers[3].name"; at top level the name alone. */
static const char *inside(const reader *r, const char *where, const char *name)
{
    return dml_arena_printf(r->arena, "%s%s%s", where, *where ? "." : "", name);
}

static const char *nth(const reader *r, const char *where, int64_t i)
{
    return dml_arena_printf(r->arena, "%s[%" PRId64 "]", where, i);
}

static dml_err need(const reader *r, const json_t *o, const char *where, const char *name,
                    json_t **out)
{
    *out = json_object_get(o, name);
    return *out ? DML_ERR_OK : refuse(r, inside(r, where, name), "is missing");
}

static dml_err whole_number(const reader *r, const json_t *v, const char *where, int64_t least,
                            int64_t *out)
{
    const int64_t most = INT64_C(1000000000000000000);
    if (!json_is_integer(v)) return refuse(r, where, "expected a whole number");
    *out = json_integer_value(v);
    if (*out >= least && *out <= most) return DML_ERR_OK;
    return refuse(r, where,
                  dml_arena_printf(r->arena, "must be >= %" PRId64 ", not %" PRId64, least, *out));
}

static dml_err take_fields(const reader *r, const json_t *o, const char *where, const field *fields,
                           int32_t n, void *base)
{
    for (int32_t i = 0; i < n; i++) {
        json_t *v;
        char *at = (char *)base + fields[i].at;
        const char *name = inside(r, where, fields[i].name);
        DML_TRY(need(r, o, where, fields[i].name, &v));
        if (fields[i].type == WHOLE) {
            DML_TRY(whole_number(r, v, name, fields[i].least, (int64_t *)at));
            continue;
        }
        if (!json_is_string(v)) return refuse(r, name, "expected a text");
        *(const char **)at = dml_arena_strdup(r->arena, json_string_value(v));
    }
    return DML_ERR_OK;
}

static bool known(const char *key, const field *fields, int32_t n, const char *const *others)
{
    for (int32_t i = 0; i < n; i++)
        if (strcmp(fields[i].name, key) == 0) return true;
    for (; others && *others; others++)
        if (strcmp(*others, key) == 0) return true;
    return false;
}

/* `others` NULL-terminated: fields that are no text and no number.  NULL: none. */
static dml_err no_more(const reader *r, json_t *o, const char *where, const field *fields,
                       int32_t n, const char *const *others)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        if (!known(key, fields, n, others))
            return refuse(r, inside(r, where, key), "no such field in a profile");
    }
    return DML_ERR_OK;
}

static dml_err take_object(const reader *r, json_t *o, const char *where, const field *fields,
                           int32_t n, const char *const *others, void *base)
{
    if (!json_is_object(o)) return refuse(r, where, "expected an object");
    DML_TRY(no_more(r, o, where, fields, n, others));
    return take_fields(r, o, where, fields, n, base);
}

/* A list of at least `least` items; *n of them. */
static dml_err take_list(const reader *r, const json_t *o, const char *name, int32_t least,
                         json_t **list, int32_t *n)
{
    DML_TRY(need(r, o, "", name, list));
    if (!json_is_array(*list)) return refuse(r, name, "expected a list");
    if (json_array_size(*list) > COUNT_MAX) return refuse(r, name, "is too long");
    *n = (int32_t)json_array_size(*list);
    if (*n < least) return refuse(r, name, "is empty");
    return DML_ERR_OK;
}

static dml_err take_items(const reader *r, const json_t *root, const char *name,
                          const field *fields, int32_t n_fields, size_t each, void **items,
                          int32_t *n)
{
    json_t *list;
    DML_TRY(take_list(r, root, name, 0, &list, n));
    *items = dml_arena_alloc(r->arena, (int64_t)each * *n);
    for (int32_t i = 0; i < *n; i++)
        DML_TRY(take_object(r, json_array_get(list, (size_t)i), nth(r, name, i), fields, n_fields,
                            NULL, (char *)*items + (size_t)i * each));
    return DML_ERR_OK;
}

static dml_err take_spread(const reader *r, const json_t *v, const char *where, dml_spread *out)
{
    int64_t *const to[] = {&out->median_ns, &out->p25_ns, &out->p75_ns, &out->n};
    if (!json_is_array(v) || json_array_size(v) != 4)
        return refuse(r, where, "expected [median, p25, p75, n]");
    for (int32_t i = 0; i < 4; i++)
        DML_TRY(whole_number(r, json_array_get(v, (size_t)i), nth(r, where, i), 0, to[i]));
    if (out->p25_ns > out->median_ns || out->median_ns > out->p75_ns)
        return refuse(r, where, "the median is not between the quartiles");
    return DML_ERR_OK;
}

static dml_err take_passes(const reader *r, const json_t *o, const char *where, int32_t n_rows,
                           dml_profile_layer *out)
{
    for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
        json_t *list;
        const char *name = inside(r, where, pass_names[pass]);
        DML_TRY(need(r, o, where, pass_names[pass], &list));
        if (!json_is_array(list) || (int32_t)json_array_size(list) != n_rows)
            return refuse(r, name, "expected a list, as long as 'rows'");
        out->ns[pass] = DML_NEW_N(r->arena, dml_spread, n_rows);
        for (int32_t i = 0; i < n_rows; i++)
            DML_TRY(take_spread(r, json_array_get(list, (size_t)i), nth(r, name, i),
                                &out->ns[pass][i]));
    }
    return DML_ERR_OK;
}

static dml_err take_rows(const reader *r, const json_t *root, dml_profile *out)
{
    json_t *list;
    DML_TRY(take_list(r, root, "rows", 1, &list, &out->n_rows));
    out->rows = DML_NEW_N(r->arena, int64_t, out->n_rows);
    for (int32_t i = 0; i < out->n_rows; i++) {
        const char *where = nth(r, "rows", i);
        DML_TRY(whole_number(r, json_array_get(list, (size_t)i), where, 1, &out->rows[i]));
        if (out->rows[i] > INT32_MAX) return refuse(r, where, "is too large");
        if (i > 0 && out->rows[i] <= out->rows[i - 1]) return refuse(r, where, "must ascend");
    }
    return DML_ERR_OK;
}

static dml_err take_layers(const reader *r, const json_t *root, dml_profile *out)
{
    static const char *const others[] = {"forward_ns", "input_ns", "weight_ns", NULL};
    json_t *list;
    DML_TRY(take_list(r, root, "layers", 1, &list, &out->n_layers));
    out->layer = DML_NEW_N(r->arena, dml_profile_layer, out->n_layers);
    for (int32_t l = 0; l < out->n_layers; l++) {
        json_t *o = json_array_get(list, (size_t)l);
        const char *where = nth(r, "layers", l);
        DML_TRY(
            take_object(r, o, where, layer_fields, COUNT(layer_fields), others, &out->layer[l]));
        DML_TRY(take_passes(r, o, where, out->n_rows, &out->layer[l]));
    }
    return DML_ERR_OK;
}

static dml_err take_whole(const reader *r, const json_t *root, dml_profile *out)
{
    void *items = NULL;
    int32_t n;
    DML_TRY(take_items(r, root, "whole", whole_fields, COUNT(whole_fields), sizeof *out->whole,
                       &items, &n));
    out->whole = items;
    if (n != out->n_rows) return refuse(r, "whole", "expected a list, as long as 'rows'");
    for (int32_t i = 0; i < n; i++)
        if (out->whole[i].rows != out->rows[i])
            return refuse(r, inside(r, nth(r, "whole", i), "rows"), "is not that of 'rows'");
    return DML_ERR_OK;
}

static dml_err take_links(const reader *r, const json_t *root, dml_profile *out)
{
    json_t *link;
    void *items = NULL;
    DML_TRY(need(r, root, "", "link", &link));
    DML_TRY(take_object(r, link, "link", fit_fields, COUNT(fit_fields), NULL, &out->link));
    DML_TRY(take_items(r, root, "transfers", transfer_fields, COUNT(transfer_fields),
                       sizeof *out->transfer, &items, &out->n_transfers));
    out->transfer = items;
    DML_TRY(take_items(r, root, "sums", transfer_fields, COUNT(transfer_fields), sizeof *out->sum,
                       &items, &out->n_sums));
    out->sum = items;
    DML_TRY(take_items(r, root, "reduce", fit_fields, COUNT(fit_fields), sizeof *out->reduce,
                       &items, &out->n_reduces));
    out->reduce = items;
    for (int32_t i = 0; i < out->n_reduces; i++) {
        const int64_t members = out->reduce[i].members, least = i ? out->reduce[i - 1].members : 1;
        if (members <= least || members > INT32_MAX)
            return refuse(r, inside(r, nth(r, "reduce", i), "members"),
                          "must ascend, and be at least 2");
    }
    return DML_ERR_OK;
}

static dml_err take_part(const reader *r, const json_t *root, const char *name, const field *fields,
                         int32_t n, dml_profile *out)
{
    json_t *part;
    DML_TRY(need(r, root, "", name, &part));
    return take_object(r, part, name, fields, n, NULL, out);
}

static dml_err take_all(const reader *r, json_t *root, dml_profile *out)
{
    static const char *const others[] = {"dml_profile", "made",  "machine", "model",
                                         "rows",        "whole", "layers",  "link",
                                         "transfers",   "sums",  "reduce",  NULL};
    json_t *version;
    if (!json_is_object(root)) return refuse(r, "this", "expected an object");
    DML_TRY(need(r, root, "", "dml_profile", &version));
    if (json_integer_value(version) != DML_PROFILE_VERSION)
        return refuse(r, "dml_profile",
                      "not a version that is known here: run dml-plan profile again");
    DML_TRY(take_object(r, root, "", root_fields, COUNT(root_fields), others, out));
    DML_TRY(take_part(r, root, "made", made_fields, COUNT(made_fields), out));
    DML_TRY(take_part(r, root, "machine", machine_fields, COUNT(machine_fields), out));
    DML_TRY(take_part(r, root, "model", model_fields, COUNT(model_fields), out));
    DML_TRY(take_rows(r, root, out));
    DML_TRY(take_whole(r, root, out));
    DML_TRY(take_layers(r, root, out));
    return take_links(r, root, out);
}

dml_err dml_profile_read(const char *path, dml_arena *arena, dml_profile *out)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root && error.line <= 0)
        DML_FAIL(DML_ERR_SPEC, "%s: error: no profile: %s", path, error.text);
    if (!root)
        DML_FAIL(DML_ERR_SPEC, "%s:%d:%d: error: %s", path, error.line, error.column, error.text);
    *out = (dml_profile){.file = dml_arena_strdup(arena, path)};
    const dml_err err = take_all(&(reader){out->file, arena}, root, out);
    json_decref(root);
    return err;
}
