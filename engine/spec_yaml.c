/* engine/spec_yaml.c - libfyaml's events to our nodes.
 *
 * Its document interface has no places for lists and maps, so the tree is built from events; duplicate
 * keys are then ours to refuse, which lets the complaint name both lines.
 */
#include "engine/spec_yaml.h"

#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 64,
    ENTRIES_MAX = 4096, /* of one list or map */
};

typedef struct anchor {
    const char *name;
    dml_yaml node;
    struct anchor *next;
} anchor;

typedef struct parse {
    struct fy_parser *fyp;
    dml_complaints *report;
    dml_arena *arena;
    const char *file;
    int32_t line; /* see dml_yaml_parse */
    anchor *anchors;
} parse;

static dml_place place_of(const parse *p, const struct fy_mark *mark, dml_place otherwise)
{
    if (!mark) return otherwise;
    return (dml_place){p->file, p->line ? p->line : mark->line + 1, mark->column + 1};
}

static const char *token_text(parse *p, struct fy_token *token)
{
    size_t n = 0;
    const char *text = token ? fy_token_get_text(token, &n) : NULL;
    if (!text) return "";
    return dml_arena_printf(p->arena, "%.*s", (int)n, text);
}

static struct fy_token *anchor_token(const struct fy_event *e)
{
    if (e->type == FYET_SCALAR) return e->scalar.anchor;
    if (e->type == FYET_SEQUENCE_START) return e->sequence_start.anchor;
    return e->type == FYET_MAPPING_START ? e->mapping_start.anchor : NULL;
}

static void build_scalar(parse *p, struct fy_event *e, dml_place near, dml_yaml *out)
{
    struct fy_token *value = e->scalar.value;
    out->kind = DML_YAML_SCALAR;
    out->text = token_text(p, value);
    const enum fy_scalar_style style = value ? fy_token_scalar_style(value) : FYSS_PLAIN;
    out->plain = style == FYSS_PLAIN;
    const bool quoted = style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED;
    if (quoted && out->place.column > 1) out->place.column--; /* the library's mark is inside */
    if (out->plain && out->text[0] == '\0')
        out->place = near; /* where it puts that depends on its version */
}

static bool build_alias(parse *p, struct fy_event *e, dml_yaml *out)
{
    const char *name = token_text(p, e->alias.anchor);
    for (const anchor *a = p->anchors; a; a = a->next) {
        if (strcmp(a->name, name) != 0) continue;
        *out = a->node;
        return true;
    }
    dml_complain_at(p->report, out->place, "no anchor '&%s' above this", name);
    return false;
}

/* Makes room for entry n of an array that doubles. */
static dml_yaml *grown(parse *p, dml_yaml *array, int32_t n)
{
    if (n & (n - 1)) return array; /* full only at 0, 1, 2, 4, 8 ... */
    dml_yaml *twice = DML_NEW_N(p->arena, dml_yaml, n ? 2 * n : 1);
    if (n) memcpy(twice, array, (size_t)n * sizeof *array);
    return twice;
}

static bool key_is_fine(parse *p, const dml_yaml *map, const dml_yaml *key)
{
    if (key->kind != DML_YAML_SCALAR || key->text[0] == '\0') {
        dml_complain_at(p->report, key->place, "a key must be a word");
        return false;
    }
    for (int32_t i = 0; i < map->n; i++) {
        if (strcmp(map->key[i].text, key->text) != 0) continue;
        dml_complain_at(p->report, key->place, "duplicate key '%s': it is on %s already", key->text,
                        dml_complain_where(p->report, map->key[i].place));
        return false;
    }
    return true;
}

static bool build(parse *p, struct fy_event *e, dml_place near, int32_t depth, dml_yaml *out);

/* The entries up to the end event; `out` has its kind already. */
static bool build_entries(parse *p, int32_t depth, dml_yaml *out)
{
    const bool is_map = out->kind == DML_YAML_MAP;
    const enum fy_event_type end = is_map ? FYET_MAPPING_END : FYET_SEQUENCE_END;
    bool ok = depth < DEPTH_MAX;
    if (!ok) dml_complain_at(p->report, out->place, "nested more than %d deep", DEPTH_MAX);
    while (ok) {
        struct fy_event *e = fy_parser_parse(p->fyp);
        if (!e || e->type == end) {
            ok = e != NULL; /* what went wrong is in the library's diagnostics */
            if (e) fy_parser_event_free(p->fyp, e);
            break;
        }
        const int32_t n = out->n;
        if (n == ENTRIES_MAX) {
            dml_complain_at(p->report, out->place, "more than %d entries", ENTRIES_MAX);
            ok = false;
        }
        out->item = grown(p, out->item, n);
        dml_place near = out->place;
        if (ok && is_map) {
            out->key = grown(p, out->key, n);
            ok = build(p, e, near, depth + 1, &out->key[n]) && key_is_fine(p, out, &out->key[n]);
            near = out->key[n].place;
            fy_parser_event_free(p->fyp, e);
            e = ok ? fy_parser_parse(p->fyp) : NULL;
        }
        ok = ok && e && build(p, e, near, depth + 1, &out->item[n]);
        if (e) fy_parser_event_free(p->fyp, e);
        out->n += ok;
    }
    return ok;
}

/* `near` is the place of a value that is not written. */
static bool build(parse *p, struct fy_event *e, dml_place near, int32_t depth, dml_yaml *out)
{
    *out = (dml_yaml){.text = "", .place = place_of(p, fy_event_start_mark(e), near)};
    bool ok = true;
    if (e->type == FYET_SCALAR) {
        build_scalar(p, e, near, out);
    } else if (e->type == FYET_ALIAS) {
        ok = build_alias(p, e, out);
    } else if (e->type == FYET_SEQUENCE_START || e->type == FYET_MAPPING_START) {
        out->kind = e->type == FYET_MAPPING_START ? DML_YAML_MAP : DML_YAML_LIST;
        ok = build_entries(p, depth, out);
    } else {
        dml_complain_at(p->report, out->place, "a value was expected here");
        ok = false;
    }
    if (ok && anchor_token(e)) {
        anchor *a = DML_NEW(p->arena, anchor);
        *a = (anchor){token_text(p, anchor_token(e)), *out, p->anchors};
        p->anchors = a;
    }
    return ok;
}

/* The library's own complaint, in our form. */
static void report_syntax(parse *p, struct fy_diag *diag)
{
    void *iter = NULL;
    const struct fy_diag_error *e = fy_diag_errors_iterate(diag, &iter);
    dml_place at = {p->file, p->line, 1};
    if (e && !p->line) at = (dml_place){p->file, e->line, e->column};
    dml_complain_at(p->report, at, "%s", e ? e->msg : "this is not YAML");
    if (e && strstr(e->msg, "tab character"))
        dml_complain_note(p->report, "indent with spaces");
    else
        dml_complain_note(p->report, "check indentation, brackets, and that ': ' follows each key");
}

static const dml_yaml *parse_document(parse *p, struct fy_diag *diag)
{
    dml_yaml *root = NULL;
    bool ok = true;
    const int32_t complaints = p->report->n;
    struct fy_event *e;
    while (ok && (e = fy_parser_parse(p->fyp)) != NULL) {
        const bool frame = e->type == FYET_STREAM_START || e->type == FYET_STREAM_END ||
                           e->type == FYET_DOCUMENT_START || e->type == FYET_DOCUMENT_END;
        if (!frame && root) {
            dml_complain_at(p->report, place_of(p, fy_event_start_mark(e), (dml_place){0}),
                            "a second document starts here; a spec is one");
            ok = false;
        } else if (!frame) {
            root = DML_NEW(p->arena, dml_yaml);
            ok = build(p, e, (dml_place){p->file, p->line, 1}, 0, root);
        }
        fy_parser_event_free(p->fyp, e);
    }
    const bool broken = !ok || fy_parser_get_stream_error(p->fyp);
    if (broken && p->report->n == complaints) report_syntax(p, diag);
    return broken ? NULL : root;
}

const dml_yaml *dml_yaml_parse(dml_complaints *report, const char *file, int32_t line,
                               const char *text)
{
    parse p = {.report = report, .arena = report->arena, .file = file, .line = line};
    const dml_yaml *root = NULL;
    struct fy_diag_cfg cfg;
    fy_diag_cfg_default(&cfg);
    cfg.fp = NULL;
    struct fy_diag *diag = fy_diag_create(&cfg);
    if (!diag) goto out_of_memory;
    fy_diag_set_collect_errors(diag, true);
    p.fyp = fy_parser_create(&(struct fy_parse_cfg){.diag = diag});
    if (!p.fyp || fy_parser_set_string(p.fyp, text, strlen(text)) != 0) goto fail_parser;
    root = parse_document(&p, diag);
    fy_parser_destroy(p.fyp);
    fy_diag_destroy(diag);
    return root;
fail_parser:
    fy_parser_destroy(p.fyp);
    fy_diag_destroy(diag);
out_of_memory:
    dml_complain_at(report, (dml_place){file, line, 1}, "no memory to parse this");
    return NULL;
}

bool dml_yaml_is_null(const dml_yaml *node)
{
    return node->kind == DML_YAML_SCALAR && node->plain &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 ||
            strcmp(node->text, "null") == 0);
}

void dml_yaml_print_text(FILE *to, const char *text, bool plain)
{
    const size_t n = strlen(text);
    const size_t safe = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                     "0123456789_./+-");
    if (plain && n > 0 && safe == n && text[0] != '-' && strcmp(text, "null") != 0) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(to, "\\%c", *c);
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            fprintf(to, "\\x%02x", (unsigned char)*c);
        else
            fputc(*c, to);
    }
    fputc('"', to);
}

static bool fits_one_line(const dml_yaml *node)
{
    if (node->kind == DML_YAML_SCALAR) return true;
    for (int32_t i = 0; i < node->n; i++)
        if (node->kind == DML_YAML_LIST ? node->item[i].kind != DML_YAML_SCALAR
                                        : !fits_one_line(&node->item[i]))
            return false;
    return true;
}

/* Numbers and quantities such as "10 ms" stay plain; other texts are quoted when in doubt. */
static void print_flow(FILE *to, const dml_yaml *node)
{
    if (dml_yaml_is_null(node)) {
        fputs("null", to);
        return;
    }
    if (node->kind == DML_YAML_SCALAR) {
        const bool negative = node->text[0] == '-' && strspn(node->text + 1, "0123456789.") > 0;
        if (node->plain && negative)
            fputs(node->text, to);
        else
            dml_yaml_print_text(to, node->text, node->plain);
        return;
    }
    fputc(node->kind == DML_YAML_MAP ? '{' : '[', to);
    for (int32_t i = 0; i < node->n; i++) {
        if (i) fputs(", ", to);
        if (node->kind == DML_YAML_MAP) {
            dml_yaml_print_text(to, node->key[i].text, true);
            fputs(": ", to);
        }
        print_flow(to, &node->item[i]);
    }
    fputc(node->kind == DML_YAML_MAP ? '}' : ']', to);
}

static void print_map_entries(FILE *to, const dml_yaml *map, int32_t indent)
{
    for (int32_t i = 0; i < map->n; i++) {
        const dml_yaml *value = &map->item[i];
        if (i) fprintf(to, "%*s", indent, "");
        dml_yaml_print_text(to, map->key[i].text, true);
        fputc(':', to);
        if (fits_one_line(value)) {
            fputc(' ', to);
            print_flow(to, value);
            fputc('\n', to);
        } else if (value->kind == DML_YAML_LIST) {
            fputc('\n', to);
            dml_yaml_print_list(to, value, indent + 2);
        } else {
            fprintf(to, "\n%*s", indent + 2, "");
            print_map_entries(to, value, indent + 2);
        }
    }
}

void dml_yaml_print_list(FILE *to, const dml_yaml *list, int32_t indent)
{
    for (int32_t i = 0; i < list->n; i++) {
        const dml_yaml *item = &list->item[i];
        fprintf(to, "%*s- ", indent, "");
        if (item->kind == DML_YAML_MAP && item->n > 0) {
            print_map_entries(to, item, indent + 2);
        } else {
            print_flow(to, item);
            fputc('\n', to);
        }
    }
}
