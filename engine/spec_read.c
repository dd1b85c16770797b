/* engine/spec_read.c - nodes to entries: which key is which, and what to say when none is. */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"

#include <string.h>

const dml_spec_key dml_spec_keys[DML_SPEC_KEYS] = {
#define X(id, path, type, field, fallback, allowed, only, aliases, meaning) \
    {path, DML_SPEC_##type, offsetof(dml_spec, field), fallback, allowed, only, aliases, meaning},
    DML_SPEC_KEY_LIST(X)
#undef X
};

const char *dml_spec_last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* Like dml_value_word, but exact: YAML keys are case-sensitive, '-' stands for '_'. */
static bool same_key(const char *key, const char *written, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (key[i] != (written[i] == '-' ? '_' : written[i])) return false;
    return true;
}

static bool listed(const char *names, const char *name)
{
    const size_t n = strlen(name);
    for (;; names += strcspn(names, " ")) {
        names += strspn(names, " ");
        if (!*names) return false;
        if (strcspn(names, " ") == n && same_key(names, name, n)) return true;
    }
}

bool dml_spec_key_is(const dml_spec_key *key, const char *name)
{
    const char *last = dml_spec_last_part(key->path);
    return (strlen(last) == strlen(name) && same_key(last, name, strlen(name))) ||
           listed(key->aliases, name);
}

/* Bytes of the path before its last part, the dot included. */
static size_t section_length(const char *path)
{
    return (size_t)(dml_spec_last_part(path) - path);
}

static const char *section_of(dml_arena *arena, const char *path)
{
    const size_t n = section_length(path);
    return n ? dml_arena_printf(arena, "%.*s", (int)n - 1, path) : "";
}

/* The key `name` of section `prefix` ("" or ending in a dot), or -1. */
static int32_t find_key(const char *prefix, const char *name)
{
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        const bool here = section_length(key->path) == strlen(prefix) &&
                          strncmp(key->path, prefix, strlen(prefix)) == 0;
        if (here && dml_spec_key_is(key, name)) return k;
    }
    return -1;
}

/* Does any key start with this prefix? */
static bool is_section(const char *prefix)
{
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++)
        if (strncmp(dml_spec_keys[k].path, prefix, strlen(prefix)) == 0) return true;
    return false;
}

/* "<prefix><name>." with aliases of sections resolved. */
static const char *enter(dml_spec_reader *r, const char *prefix, const char *name)
{
    static const char *const alias[][2] = {
#define X(other, canonical) {other, canonical},
        DML_SPEC_SECTION_ALIAS_LIST(X)
#undef X
    };
    for (size_t i = 0; i < sizeof alias / sizeof *alias && !*prefix; i++)
        if (strcmp(alias[i][0], name) == 0) name = alias[i][1];
    char *path = dml_arena_printf(r->arena, "%s%s.", prefix, name);
    for (char *c = path; *c; c++)
        if (*c == '-') *c = '_';
    return path;
}

/* The names one may write in a section: keys and sections below it, each once. */
typedef struct name_visit {
    dml_str list;      /* "a, b, c" */
    dml_nearest close; /* to what was written */
} name_visit;

static void visit_names(dml_spec_reader *r, const char *prefix, name_visit *v)
{
    const size_t n = strlen(prefix);
    const char *last = "";
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        if (strncmp(key->path, prefix, n) != 0) continue;
        const size_t part = strcspn(key->path + n, ".");
        const char *name = dml_arena_printf(r->arena, "%.*s", (int)part, key->path + n);
        if (strcmp(name, last) == 0) continue;
        last = name;
        dml_str_printf(&v->list, "%s%s", v->list.len ? ", " : "", name);
        dml_nearest_offer(&v->close, name, name);
        for (int32_t i = 0; key->path[n + part] != '.'; i++) {
            const char *alias = dml_value_nth(r->arena, key->aliases, i);
            if (!alias) break;
            dml_nearest_offer(&v->close, alias, name);
        }
    }
}

/* The sections that do know `name`, as "'a', 'b' or 'c'"; "" when none does. */
static const char *homes_of(dml_spec_reader *r, const char *name)
{
    dml_str s = {0};
    const char *last = NULL;
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        if (section_length(key->path) == 0 || !dml_spec_key_is(key, name)) continue;
        if (last) dml_str_printf(&s, "%s'%s'", s.len ? ", " : "", last);
        last = section_of(r->arena, key->path);
    }
    if (last) dml_str_printf(&s, "%s'%s'", s.len ? " or " : "", last);
    const char *homes = dml_arena_strdup(r->arena, dml_str_text(&s));
    dml_str_free(&s);
    return homes;
}

static void unknown_key(dml_spec_reader *r, const char *prefix, const dml_yaml *key)
{
    name_visit v = {.close = dml_nearest_to(key->text)};
    visit_names(r, prefix, &v);
    const char *homes = homes_of(r, key->text);
    const int n = (int)strlen(prefix);
    if (*homes) {
        const char *here =
            n ? dml_arena_printf(r->arena, "in '%.*s'", n - 1, prefix) : "at top level";
        dml_complain_at(&r->report, key->place, "'%s' belongs in section %s (found %s)", key->text,
                        homes, here);
    } else {
        if (n)
            dml_complain_at(&r->report, key->place, "unknown key '%s' in '%.*s'", key->text, n - 1,
                            prefix);
        else
            dml_complain_at(&r->report, key->place, "unknown key '%s' at top level", key->text);
        if (v.close.best) dml_complain_note(&r->report, "did you mean '%s'?", v.close.best);
        dml_complain_note(&r->report, "keys here: %s", dml_str_text(&v.list));
    }
    dml_str_free(&v.list);
}

/* The file may write a key once; the command line replaces, and its last word counts. */
static void set_entry(dml_spec_reader *r, int32_t k, const dml_yaml *key, const dml_yaml *value)
{
    dml_spec_entry *e = &r->source->entry[k];
    const bool from_file = key->place.file != dml_spec_command_line;
    if (e->key && from_file) {
        dml_complain_at(&r->report, key->place, "'%s' and '%s' on %s are the same key: keep one",
                        key->text, e->key->text, dml_complain_where(&r->report, e->key->place));
        return;
    }
    e->key = key;
    e->value = value;
}

static void read_map(dml_spec_reader *r, const char *prefix, const dml_yaml *map);

static void read_entry(dml_spec_reader *r, const char *prefix, const dml_yaml *key,
                       const dml_yaml *value)
{
    const int32_t k = find_key(prefix, key->text);
    if (k >= 0) {
        set_entry(r, k, key, value);
        return;
    }
    const char *inside = enter(r, prefix, key->text);
    if (!is_section(inside)) {
        unknown_key(r, prefix, key);
    } else if (value->kind == DML_YAML_MAP) {
        read_map(r, inside, value);
    } else if (!dml_yaml_is_null(value)) {
        name_visit v = {.close = dml_nearest_to("")};
        visit_names(r, inside, &v);
        for (int32_t i = 0; i < DML_SPEC_KEYS; i++)
            if (strncmp(dml_spec_keys[i].path, inside, strlen(inside)) == 0)
                r->source->entry[i].bad = true;
        dml_complain_at(&r->report, value->place, "'%s' is a section: put its keys below it",
                        key->text);
        dml_complain_note(&r->report, "keys here: %s", dml_str_text(&v.list));
        dml_str_free(&v.list);
    }
}

static void read_map(dml_spec_reader *r, const char *prefix, const dml_yaml *map)
{
    for (int32_t i = 0; i < map->n; i++)
        read_entry(r, prefix, &map->key[i], &map->item[i]);
}

void dml_spec_read_file(dml_spec_reader *r, const dml_yaml *root)
{
    if (root->kind == DML_YAML_MAP) {
        read_map(r, "", root);
        return;
    }
    dml_complain_at(&r->report, root->place, "a spec is a mapping of sections, not %s",
                    root->kind == DML_YAML_LIST ? "a list" : "a single value");
    dml_complain_note(&r->report, "it starts like this:  model: {type: mlp}");
}

/* A path that no key has: the nearest of all paths, or where the bare name belongs. */
static void unknown_override(dml_spec_reader *r, dml_place place, const char *path)
{
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        if (!dml_spec_key_is(&dml_spec_keys[k], dml_spec_last_part(path))) continue;
        dml_complain_at(&r->report, place, "unknown key '%s'; write '%s'", path,
                        dml_spec_keys[k].path);
        return;
    }
    dml_nearest close = dml_nearest_to(path);
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++)
        dml_nearest_offer(&close, dml_spec_keys[k].path, dml_spec_keys[k].path);
    if (close.best)
        dml_complain_at(&r->report, place, "unknown key '%s'; did you mean '%s'?", path,
                        close.best);
    else
        dml_complain_at(&r->report, place, "unknown key '%s'; dml-train --keys lists them", path);
}

void dml_spec_read_override(dml_spec_reader *r, int32_t index)
{
    const char *text = r->source->text.overrides[index];
    const char *equals = strchr(text, '=');
    const dml_place place = {dml_spec_command_line, index + 1, 1};
    if (!equals || equals == text) {
        dml_complain_at(&r->report, place, "an override is key.path=value");
        return;
    }
    const char *path = dml_arena_printf(r->arena, "%.*s", (int)(equals - text), text);
    const char *rest = path, *prefix = "";
    for (const char *dot; (dot = strchr(rest, '.')) != NULL; rest = dot + 1) {
        const char *part = dml_arena_printf(r->arena, "%.*s", (int)(dot - rest), rest);
        prefix = enter(r, prefix, part);
    }
    if (find_key(prefix, rest) < 0 && !is_section(enter(r, prefix, rest))) {
        unknown_override(r, place, path);
        return;
    }
    const int32_t complaints = r->report.n;
    const dml_yaml *value =
        dml_yaml_parse(&r->report, dml_spec_command_line, index + 1, equals + 1);
    if (r->report.n > complaints) return;
    dml_yaml *both = DML_NEW_N(r->arena, dml_yaml, 2);
    both[0] = (dml_yaml){.kind = DML_YAML_SCALAR, .text = rest, .plain = true, .place = place};
    both[1] = (dml_yaml){.kind = DML_YAML_SCALAR, .text = "", .plain = true, .place = place};
    read_entry(r, prefix, &both[0], value ? value : &both[1]);
}
