/* engine/spec_layers.c - layers one by one, and the list of them that a user wrote.
 *
 *   - conv2d: {out: 64, kernel: 3}       one key: the kind, with its options
 *   - relu                               a kind without options
 *   - linear: 10                         a bare value stands for one option (spec_keys.h)
 *   - residual, add                      read in spec_blocks.c
 */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"

#include <ctype.h>
#include <string.h>

enum { LAYERS_MAX = 8192, NESTED_MAX = 16 };

const dml_spec_key dml_layer_options[DML_LAYER_OPTIONS] = {
#define X(kind, option, type, field, fallback, allowed, aliases, meaning)              \
    {option,  DML_SPEC_##type, offsetof(dml_layer_spec, field), fallback, allowed, "", \
     aliases, meaning},
    DML_LAYER_OPTION_LIST(X)
#undef X
};

const dml_layer_kind dml_layer_option_kind[DML_LAYER_OPTIONS] = {
#define X(kind, ...) DML_LAYER_##kind,
    DML_LAYER_OPTION_LIST(X)
#undef X
};

const char *dml_layer_kind_name(dml_layer_kind kind)
{
    static const char *const name[] = {
#define X(kind, name) name,
        DML_LAYER_LIST(X)
#undef X
    };
    return name[kind];
}

const char *dml_layer_bare_option(dml_layer_kind kind)
{
    static const char *const option[DML_LAYER_KINDS] = {
#define X(kind, option) [DML_LAYER_##kind] = option,
        DML_LAYER_BARE_LIST(X)
#undef X
    };
    return option[kind];
}

/* What PyTorch users call an attribute of this kind. */
static const char *short_name(dml_layer_kind kind)
{
    switch (kind) {
    case DML_LAYER_LINEAR: return "fc";
    case DML_LAYER_CONV2D: return "conv";
    case DML_LAYER_MAX_POOL2D: return "maxpool";
    case DML_LAYER_AVG_POOL2D: return "avgpool";
    case DML_LAYER_BATCH_NORM: return "bn";
    case DML_LAYER_RELU:
    case DML_LAYER_GELU:
    case DML_LAYER_TANH:
    case DML_LAYER_DROPOUT:
    case DML_LAYER_FLATTEN:
    case DML_LAYER_ADD:
    case DML_LAYER_CROSS_ENTROPY:
    case DML_LAYER_MSE:
    case DML_LAYER_DELAY: break;
    }
    return dml_layer_kind_name(kind);
}

const dml_layer_spec *dml_layer_named(const dml_layer_maker *m, const char *name)
{
    for (int32_t i = 0; i < m->n; i++)
        if (m->layer[i].name && strcmp(m->layer[i].name, name) == 0) return &m->layer[i];
    return NULL;
}

/* The next number that no layer has. */
static const char *numbered(dml_layer_maker *m, dml_layer_scope *scope, dml_layer_kind kind)
{
    const char *name;
    do
        name = dml_arena_printf(m->r->arena, "%s%s%d", scope->prefix, short_name(kind),
                                ++scope->count[kind]);
    while (dml_layer_named(m, name));
    return name;
}

dml_layer_spec *dml_layer_push(dml_layer_maker *m, dml_layer_scope *scope, dml_layer_kind kind,
                               const char *name, dml_place place)
{
    if (m->n == m->room) {
        const int32_t room = m->room ? 2 * m->room : 64;
        dml_layer_spec *layer = DML_NEW_N(m->r->arena, dml_layer_spec, room);
        if (m->n) memcpy(layer, m->layer, (size_t)m->n * sizeof *layer);
        m->layer = layer;
        m->room = room;
    }
    if (!name) name = numbered(m, scope, kind);
    dml_layer_spec *l = &m->layer[m->n];
    *l = (dml_layer_spec){.kind = kind, .name = name, .input = m->tail, .with = -1, .place = place};
    for (int32_t i = 0; i < DML_LAYER_OPTIONS; i++)
        if (dml_layer_option_kind[i] == kind && dml_layer_options[i].fallback)
            dml_spec_convert_text(m->r, &dml_layer_options[i], dml_layer_options[i].fallback, l);
    if (kind == DML_LAYER_BATCH_NORM) {
        l->eps = m->r->spec->model.family.bn_eps;
        l->momentum = m->r->spec->model.family.bn_momentum;
        l->per_micro_batch = m->r->spec->model.family.per_micro_batch;
    }
    m->tail = m->n++;
    return l;
}

/* The kind a user means; false after a complaint.  *residual: the block, which is no kind. */
static bool read_kind(dml_layer_maker *m, const dml_yaml *word, dml_layer_kind *kind,
                      bool *residual)
{
    *residual = dml_value_same_word(word->text, "residual");
    if (*residual) return true;
    dml_nearest close = dml_nearest_to(word->text);
    dml_nearest_offer(&close, "residual", "residual");
    dml_str names = {0};
    for (int32_t k = 0; k < DML_LAYER_KINDS; k++) {
        const char *name = dml_layer_kind_name((dml_layer_kind)k);
        const bool same = dml_value_same_word(word->text, name);
        if (k == DML_LAYER_CROSS_ENTROPY || k == DML_LAYER_MSE) {
            if (!same) continue;
            dml_str_free(&names);
            dml_complain_at(&m->r->report, word->place,
                            "'%s' is not written in layers: it comes from training.loss", name);
            return false;
        }
        if (same) {
            *kind = (dml_layer_kind)k;
            dml_str_free(&names);
            return true;
        }
        dml_nearest_offer(&close, name, name);
        dml_str_printf(&names, "%s, ", name);
    }
    if (close.best)
        dml_complain_at(&m->r->report, word->place, "unknown layer '%s'; nearest is '%s'",
                        word->text, close.best);
    else
        dml_complain_at(&m->r->report, word->place, "unknown layer '%s'", word->text);
    dml_complain_note(&m->r->report, "allowed: %sresidual", dml_str_text(&names));
    dml_str_free(&names);
    return false;
}

const char *dml_layer_read_name(dml_layer_maker *m, const char *prefix, const dml_layer_spec *self,
                                const dml_yaml *node)
{
    dml_complaints *report = &m->r->report;
    if (node->kind != DML_YAML_SCALAR || dml_yaml_is_null(node)) {
        dml_spec_expected(m->r, node, "a name");
        return NULL;
    }
    for (const char *c = node->text; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-' && *c != '.') {
            dml_complain_at(report, node->place,
                            "a name has letters, digits, '_', '-' and '.' only");
            return NULL;
        }
    const char *name = dml_arena_printf(m->r->arena, "%s%s", prefix, node->text);
    const dml_layer_spec *other = dml_layer_named(m, name);
    if (!other || other == self) return name;
    dml_complain_at(report, node->place, "the name '%s' is taken by the %s on %s", name,
                    dml_layer_kind_name(other->kind), dml_complain_where(report, other->place));
    return NULL;
}

static int32_t find_option(dml_layer_kind kind, const char *name)
{
    for (int32_t i = 0; i < DML_LAYER_OPTIONS; i++)
        if (dml_layer_option_kind[i] == kind && dml_spec_key_is(&dml_layer_options[i], name))
            return i;
    return -1;
}

static void unknown_option(dml_layer_maker *m, dml_layer_kind kind, const dml_yaml *key)
{
    dml_str names = {0};
    dml_nearest close = dml_nearest_to(key->text);
    for (int32_t i = 0; i < DML_LAYER_OPTIONS; i++) {
        if (dml_layer_option_kind[i] != kind) continue;
        dml_nearest_offer(&close, dml_layer_options[i].path, dml_layer_options[i].path);
        dml_str_printf(&names, "%s, ", dml_layer_options[i].path);
    }
    dml_complain_at(&m->r->report, key->place, "unknown option '%s' of %s", key->text,
                    dml_layer_kind_name(kind));
    if (close.best) dml_complain_note(&m->r->report, "did you mean '%s'?", close.best);
    dml_complain_note(&m->r->report, "options: %sname", dml_str_text(&names));
    dml_str_free(&names);
}

/* What PyTorch fixes after the options are known; see dml_pool2d. */
static void finish_pool(dml_layer_maker *m, dml_layer_spec *l)
{
    for (int i = 0; i < 2; i++) {
        const bool whole = l->pool.kernel[i] == 0;
        if (l->pool.stride[i] == 0) l->pool.stride[i] = whole ? 1 : l->pool.kernel[i];
        if (whole != (l->pool.kernel[0] == 0) || l->pool.pad[i] * 2 > l->pool.kernel[i]) {
            dml_complain_at(&m->r->report, l->place, "%s: padding is at most half of the kernel",
                            dml_layer_kind_name(l->kind));
            return;
        }
    }
}

/* Options from a map, a bare value or nothing. */
static void read_options(dml_layer_maker *m, const dml_layer_scope *scope, dml_layer_spec *l,
                         const dml_yaml *value)
{
    const dml_yaml *given[DML_LAYER_OPTIONS] = {0};
    const char *bare = dml_layer_bare_option(l->kind);
    const bool delays = l->kind == DML_LAYER_DELAY;
    bool fine = true;
    if (value && value->kind == DML_YAML_MAP) {
        for (int32_t i = 0; i < value->n; i++) {
            const dml_yaml *key = &value->key[i];
            const int32_t o = find_option(l->kind, key->text);
            if (strcmp(key->text, "name") == 0) {
                const char *name = dml_layer_read_name(m, scope->prefix, l, &value->item[i]);
                if (name) l->name = name;
            } else if (o < 0) {
                unknown_option(m, l->kind, key);
                fine = false;
            } else if (given[o]) {
                dml_complain_at(&m->r->report, key->place, "'%s' is given twice", key->text);
            } else {
                given[o] = &value->item[i];
            }
        }
    } else if (value && !dml_yaml_is_null(value)) {
        for (int32_t o = 0; o < DML_LAYER_OPTIONS; o++)
            if (dml_layer_option_kind[o] == l->kind &&
                (delays || (bare && strcmp(dml_layer_options[o].path, bare) == 0)))
                given[o] = value;
        if (!bare && !delays) {
            dml_spec_expected(m->r, value, "options such as {name: first}");
            fine = false;
        }
    }
    for (int32_t o = 0; o < DML_LAYER_OPTIONS; o++) {
        const dml_spec_key *option = &dml_layer_options[o];
        if (dml_layer_option_kind[o] != l->kind) continue;
        const bool required = !option->fallback && l->kind != DML_LAYER_BATCH_NORM;
        if (given[o])
            fine &= dml_spec_convert(m->r, option, option->path, given[o], l);
        else if (required && fine)
            dml_complain_at(&m->r->report, l->place, "%s needs '%s'", dml_layer_kind_name(l->kind),
                            option->path);
        if (given[o] && delays && !fine) return; /* one bare value, one complaint */
    }
    if (fine && (l->kind == DML_LAYER_MAX_POOL2D || l->kind == DML_LAYER_AVG_POOL2D))
        finish_pool(m, l);
}

static void read_item(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *item,
                      int32_t depth)
{
    const dml_yaml *word = item, *value = NULL;
    if (item->kind == DML_YAML_MAP && item->n == 1) {
        word = &item->key[0];
        value = &item->item[0];
    } else if (item->kind == DML_YAML_MAP && item->n > 1) {
        dml_complain_at(&m->r->report, item->key[1].place,
                        "a layer is one key: indent '%s' below '%s'", item->key[1].text,
                        item->key[0].text);
        return;
    } else if (item->kind != DML_YAML_SCALAR || dml_yaml_is_null(item)) {
        dml_spec_expected(m->r, item, "a layer");
        return;
    }
    dml_layer_kind kind;
    bool residual;
    if (!read_kind(m, word, &kind, &residual)) return;
    if (residual)
        dml_layer_read_residual(m, scope, value, word->place, depth);
    else if (kind == DML_LAYER_ADD)
        dml_layer_read_add(m, scope, value, word->place);
    else
        read_options(m, scope, dml_layer_push(m, scope, kind, NULL, word->place), value);
}

void dml_layer_read_list(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *list,
                         int32_t depth)
{
    if (depth > NESTED_MAX) {
        dml_complain_at(&m->r->report, list->place, "residual blocks nested more than %d deep",
                        NESTED_MAX);
        return;
    }
    for (int32_t i = 0; i < list->n && m->visited <= LAYERS_MAX; i++) {
        if (m->visited++ == LAYERS_MAX)
            dml_complain_at(&m->r->report, list->place, "more than %d layers", LAYERS_MAX);
        else
            read_item(m, scope, &list->item[i], depth);
    }
}

void dml_spec_make_layers(dml_spec_reader *r)
{
    static const dml_layer_kind losses[] = {DML_LAYER_CROSS_ENTROPY, DML_LAYER_MSE};
    dml_spec *spec = r->spec;
    dml_layer_maker m = {.r = r, .tail = -1};
    dml_layer_scope top = {.prefix = ""};
    const dml_spec_entry *loss = &r->source->entry[DML_KEY_LOSS];
    if (strcmp(spec->model.type, "layers") == 0)
        dml_layer_read_list(&m, &top, r->source->entry[DML_KEY_LAYERS].value, 0);
    else
        dml_layers_of_family(&m);
    dml_layer_push(&m, &top, losses[spec->training.loss], "loss",
                   loss->value ? loss->value->place : (dml_place){0});
    spec->model.layers = m.layer;
    spec->model.n_layers = m.n;
}
