/* engine/spec_blocks.c - what joins two layers: the block, and the skip by name.
 *
 *   - residual: {body: [...], shortcut: [...]}      both read what the block reads; an ADD joins their ends
 *
 *         input -+- body ------+- add        shortcut: none, or [], hands the input on
 *                +- shortcut --+
 *
 *   - add: stem                          what comes before plus what the layer `stem` gave
 */
#include "engine/spec_read.h"

#include "engine/spec_value.h"

#include <string.h>

void dml_layer_join(dml_layer_maker *m, dml_layer_scope *scope, int32_t with, dml_place place)
{
    const char *name = dml_arena_printf(m->r->arena, "%sadd", scope->prefix);
    dml_layer_push(m, scope, DML_LAYER_ADD, name, place)->with = with;
}

void dml_layer_read_residual(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *value,
                             dml_place place, int32_t depth)
{
    dml_complaints *report = &m->r->report;
    const dml_yaml *body = value, *shortcut = NULL;
    const char *name = NULL;
    scope->blocks++;
    if (value && value->kind == DML_YAML_MAP) {
        body = NULL;
        for (int32_t i = 0; i < value->n; i++) {
            const dml_yaml *key = &value->key[i];
            if (strcmp(key->text, "body") == 0) {
                body = &value->item[i];
            } else if (strcmp(key->text, "shortcut") == 0) {
                shortcut = &value->item[i];
            } else if (strcmp(key->text, "name") == 0) {
                name = dml_layer_read_name(m, scope->prefix, NULL, &value->item[i]);
            } else {
                dml_complain_at(report, key->place, "unknown option '%s' of residual", key->text);
                dml_complain_note(report, "options: body, shortcut, name");
            }
        }
    }
    if (!body || body->kind != DML_YAML_LIST || body->n == 0) {
        dml_complain_at(report, place, "residual needs 'body', a list of layers");
        dml_complain_note(report, "such as  - residual: {body: [relu], shortcut: []}");
        return;
    }
    if (shortcut && shortcut->kind != DML_YAML_LIST && !dml_yaml_is_null(shortcut)) {
        dml_spec_expected(m->r, shortcut, "a list of layers");
        return;
    }
    const char *block = dml_arena_printf(m->r->arena, "%sblock%d", scope->prefix, scope->blocks);
    dml_layer_scope inner = {dml_arena_printf(m->r->arena, "%s.", name ? name : block), {0}, 0};
    const int32_t input = m->tail;
    dml_layer_read_list(m, &inner, body, depth + 1);
    const int32_t end_of_body = m->tail;
    m->tail = input;
    if (shortcut && shortcut->n > 0) {
        dml_layer_scope side = {dml_arena_printf(m->r->arena, "%sshortcut.", inner.prefix), {0}, 0};
        dml_layer_read_list(m, &side, shortcut, depth + 1);
    }
    const int32_t with = m->tail;
    m->tail = end_of_body;
    dml_layer_join(m, &inner, with, place);
}

/* Its `with` and `name`; NULL where it has none.  False after a complaint. */
static bool read_add_options(dml_layer_maker *m, const dml_yaml *value, const dml_yaml **with,
                             const dml_yaml **name)
{
    *with = value;
    *name = NULL;
    if (!value || value->kind != DML_YAML_MAP) return true;
    *with = NULL;
    for (int32_t i = 0; i < value->n; i++) {
        const char *key = value->key[i].text;
        if (strcmp(key, "with") == 0) {
            *with = &value->item[i];
        } else if (strcmp(key, "name") == 0) {
            *name = &value->item[i];
        } else {
            dml_complain_at(&m->r->report, value->key[i].place, "unknown option '%s' of add", key);
            dml_complain_note(&m->r->report, "options: with, name");
            return false;
        }
    }
    return true;
}

/* The layer of that name, of this block or by its full name; -1 after a complaint. */
static int32_t find_layer(dml_layer_maker *m, const dml_layer_scope *scope, const dml_yaml *name)
{
    const dml_layer_spec *l =
        dml_layer_named(m, dml_arena_printf(m->r->arena, "%s%s", scope->prefix, name->text));
    if (!l) l = dml_layer_named(m, name->text);
    if (l && l != &m->layer[m->tail]) return (int32_t)(l - m->layer);
    dml_nearest close = dml_nearest_to(name->text);
    for (int32_t i = 0; i < m->tail; i++)
        dml_nearest_offer(&close, m->layer[i].name, m->layer[i].name);
    if (l)
        dml_complain_at(&m->r->report, name->place,
                        "'%s' comes right before: add would read it twice", l->name);
    else if (close.best)
        dml_complain_at(&m->r->report, name->place,
                        "no layer before this one is named '%s'; nearest is '%s'", name->text,
                        close.best);
    else
        dml_complain_at(&m->r->report, name->place, "no layer before this one is named '%s'",
                        name->text);
    return -1;
}

void dml_layer_read_add(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *value,
                        dml_place place)
{
    const dml_yaml *with, *name;
    if (!read_add_options(m, value, &with, &name)) return;
    if (!with || with->kind != DML_YAML_SCALAR || dml_yaml_is_null(with)) {
        dml_complain_at(&m->r->report, place, "add needs 'with', the name of an earlier layer");
        dml_complain_note(&m->r->report, "such as  - add: conv1");
        return;
    }
    if (m->tail < 0) {
        dml_complain_at(&m->r->report, place, "add needs a layer before it");
        return;
    }
    const int32_t other = find_layer(m, scope, with);
    if (other < 0) return;
    dml_layer_spec *l = dml_layer_push(m, scope, DML_LAYER_ADD, NULL, place);
    l->with = other;
    const char *given = name ? dml_layer_read_name(m, scope->prefix, l, name) : NULL;
    if (given) l->name = given;
}
