/* engine/spec_yaml.h - YAML text to a tree of nodes that know their place.  The only file that knows the
 * YAML library is spec_yaml.c.
 */
#ifndef DML_ENGINE_SPEC_YAML_H
#define DML_ENGINE_SPEC_YAML_H

#include "engine/spec_complaints.h"

typedef enum dml_yaml_kind { DML_YAML_SCALAR, DML_YAML_LIST, DML_YAML_MAP } dml_yaml_kind;

typedef struct dml_yaml {
    dml_yaml_kind kind;
    const char *text;     /* SCALAR: its value, "" when nothing is written */
    bool plain;           /* SCALAR: not quoted, so it may be a number or null */
    int32_t n;            /* LIST, MAP: entries */
    struct dml_yaml *key; /* MAP: [n] scalars, no two equal */
    struct dml_yaml *
        item; /* LIST, MAP: [n]; nodes behind an alias are shared, so this is no tree but has no cycle */
    dml_place place;
} dml_yaml;

/* Parses one document.
 *
 *   line  0: places carry the line of the text; else all carry this one (overrides)
 *
 * Returns the root, owned by report->arena, or NULL: after a complaint, or (report unchanged) when
 * there is nothing but comments. */
const dml_yaml *dml_yaml_parse(dml_complaints *report, const char *file, int32_t line,
                               const char *text);

/* Nothing is written there: an empty value, null or ~. */
bool dml_yaml_is_null(const dml_yaml *node);

/* Writes a list of maps in block style, each line indented by `indent` spaces; it parses back to an equal
 * tree. */
void dml_yaml_print_list(FILE *to, const dml_yaml *list, int32_t indent);

/* Writes text as one scalar, quoted where YAML would read something else. */
void dml_yaml_print_text(FILE *to, const char *text, bool plain);

#endif
