/* engine/spec_read.h - the insides of engine/spec: keys, what was written for each, values into fields.
 *
 * For engine/spec*.c only.
 *
 *   YAML text -> nodes (spec_yaml) -> entries, one per key (spec_read) -> fields of dml_spec (spec_read)
 *             -> derived values and cross checks (spec_check) -> layers (spec_layers, spec_blocks, spec_family)
 */
#ifndef DML_ENGINE_SPEC_READ_H
#define DML_ENGINE_SPEC_READ_H

#include "engine/base/str.h"
#include "engine/spec.h"
#include "engine/spec_complaints.h"
#include "engine/spec_keys.h"
#include "engine/spec_yaml.h"

#include <stddef.h>

typedef enum dml_spec_type {
#define X(type, text) DML_SPEC_##type,
    DML_SPEC_TYPE_LIST(X)
#undef X
} dml_spec_type;

typedef enum dml_spec_key_id {
#define X(id, ...) DML_KEY_##id,
    DML_SPEC_KEY_LIST(X)
#undef X
} dml_spec_key_id;
#define X(...) +1
enum { DML_SPEC_KEYS = 0 DML_SPEC_KEY_LIST(X) };
enum { DML_LAYER_OPTIONS = 0 DML_LAYER_OPTION_LIST(X) };
enum { DML_LAYER_KINDS = 0 DML_LAYER_LIST(X) };
#undef X

/* A row of either table of spec_keys.h. */
typedef struct dml_spec_key {
    const char *path; /* dotted; of a layer: the option's name */
    dml_spec_type type;
    size_t offset; /* of the field in dml_spec, or in dml_layer_spec */
    const char *fallback, *allowed, *only, *aliases, *meaning;
} dml_spec_key;

extern const dml_spec_key dml_spec_keys[DML_SPEC_KEYS];

/* dml_number_list and dml_size_list while they are read. */
typedef struct dml_any_list {
    const void *v;
    int32_t n;
} dml_any_list;

/* What was written for a key. */
typedef struct dml_spec_entry {
    const dml_yaml *key, *value; /* NULL: nothing */
    bool bad;                    /* complained about: cross checks leave it alone */
    bool derived;                /* not written, and computed from others rather than the default */
} dml_spec_entry;

/* dml_spec.source: lives in the spec's arena. */
typedef struct dml_spec_source {
    dml_spec_text text;
    dml_spec_entry entry[DML_SPEC_KEYS];
    const dml_yaml *plan_model, *plan_batch; /* what the plan was made for; NULL: there is none */
} dml_spec_source;

typedef struct dml_spec_reader {
    dml_spec *spec;
    dml_spec_source *source;
    dml_complaints report;
    dml_arena *arena; /* the spec's */
} dml_spec_reader;

/* Files the nodes under their keys; complains about unknown, misplaced and doubled ones. */
void dml_spec_read_file(dml_spec_reader *r, const dml_yaml *root);
void dml_spec_read_override(dml_spec_reader *r, int32_t index);

/* Fills every field of the spec from its entry or its default, layers excepted. */
void dml_spec_fill(dml_spec_reader *r);

/* Reads `node` into the field of `key` at `base`; false after a complaint about `label`. */
bool dml_spec_convert(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, void *base);
/* The same from a default's text. */
void dml_spec_convert_text(dml_spec_reader *r, const dml_spec_key *key, const char *text,
                           void *base);

/* "expected a list of layers, got a number" */
void dml_spec_expected(dml_spec_reader *r, const dml_yaml *node, const char *what);

/* Reads a mapping whose options are `options`, a row each, into the struct at `base`; `what` is "a stage".  false
 * after a complaint. */
bool dml_spec_read_options(dml_spec_reader *r, const dml_yaml *node, const char *what,
                           const dml_spec_key *options, int32_t n, void *base);
/* What is written for one of them in a mapping that was read, or NULL. */
const dml_yaml *dml_spec_option(const dml_yaml *map, const dml_spec_key *option);

/* Whether `name` is the last part of the key's path or one of its aliases. */
bool dml_spec_key_is(const dml_spec_key *key, const char *name);
/* The last part of a dotted path. */
const char *dml_spec_last_part(const char *path);
/* The key that chooses among the variants of the key's section (model.type, optimizer.name ...), and the
 * index of its value in its allowed words; NULL where a section has no variants. */
const dml_spec_key *dml_spec_selector(const dml_spec *spec, const dml_spec_key *key,
                                      int32_t *chosen);
/* Whether the key means something under that choice. */
bool dml_spec_key_applies(const dml_spec *spec, const dml_spec_key *key);

/* Derived values, paths, and what must hold between keys. */
void dml_spec_check(dml_spec_reader *r);

/* The path in a key's value, expanded and absolute: from the spec's folder when `from_file`, else from the current
 * one.  "" after a complaint. */
const char *dml_spec_path(dml_spec_reader *r, dml_spec_key_id id, const char *text, bool from_file);

/* The whole of a text file, or of standard input for "-". */
dml_err dml_spec_read_text(const char *path, dml_arena *arena, const char **out);

/* plan (spec_plan.c): files a plan's settings among the entries, before they are filled in; checks that the plan is
 * for this spec; whether a key is one that plans set. */
void dml_spec_read_plan(dml_spec_reader *r);
void dml_spec_check_plan(dml_spec_reader *r);
bool dml_spec_key_is_planned(dml_spec_key_id id);

/* parallelism.stages (spec_stages.c): the list, which of it and the sizes of equal pipelines counts, what must hold
 * for it, and whether a key is to be printed. */
bool dml_spec_read_stages(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec);
void dml_spec_settle_layout(dml_spec_reader *r);
void dml_spec_check_stages(dml_spec_reader *r);
bool dml_spec_key_is_shown(const dml_spec *spec, dml_spec_key_id id);

/* cluster (spec_cluster.c): its lists, what must hold for them, whether a key is to be printed, and how.  A list for each
 * worker is read by elements of type `of`, `bytes` each. */
bool dml_spec_read_list(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                        const dml_yaml *node, dml_spec_type of, size_t bytes, dml_any_list *out);
bool dml_spec_read_links(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec);
bool dml_spec_read_slow(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec);
void dml_spec_check_cluster(dml_spec_reader *r);
void dml_spec_print_links(dml_str *s, const dml_spec *spec);
void dml_spec_print_slow(dml_str *s, const dml_spec *spec);
bool dml_spec_cluster_is_shown(const dml_spec *spec, dml_spec_key_id id);

/* failures (spec_faults.c): faults on purpose, and types of them as bits, read and printed. */
bool dml_spec_read_faults(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec);
bool dml_spec_read_fault_types(dml_spec_reader *r, const dml_yaml *node, uint32_t *out);
void dml_spec_print_faults(dml_str *s, const dml_spec *spec);
void dml_spec_print_fault_types(dml_str *s, uint32_t types);

/* costs (spec_costs.c): the table, that its layers are those of the model, and the table printed as a block. */
bool dml_spec_read_costs(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec);
void dml_spec_check_costs(dml_spec_reader *r);
void dml_spec_print_costs(const dml_spec *spec, FILE *to, int32_t indent);

/* The names of all schedules, separated by spaces. */
const char *dml_spec_schedule_names(dml_arena *arena);

/* Layers under construction. */
typedef struct dml_layer_maker {
    dml_spec_reader *r;
    dml_layer_spec *layer; /* [n], room for `room` */
    int32_t n, room;
    int32_t tail;    /* the next layer reads this one; -1: the model's input */
    int32_t visited; /* entries of lists looked at; bounds what aliases of aliases can unfold to */
} dml_layer_maker;

/* Names within a block are "<prefix><short><count>". */
typedef struct dml_layer_scope {
    const char *prefix;
    int32_t count[DML_LAYER_KINDS];
    int32_t blocks;
} dml_layer_scope;

/* Appends a layer of `kind` with default options, reading the tail, and makes it the tail.  `name` NULL:
 * numbered.  The result is valid until the next push. */
dml_layer_spec *dml_layer_push(dml_layer_maker *m, dml_layer_scope *scope, dml_layer_kind kind,
                               const char *name, dml_place place);
/* The layer of that full name, or NULL. */
const dml_layer_spec *dml_layer_named(const dml_layer_maker *m, const char *name);
/* A name the user gives, which becomes part of parameter and file names: "<prefix><name>".  `self` may have it
 * already.  NULL after a complaint. */
const char *dml_layer_read_name(dml_layer_maker *m, const char *prefix, const dml_layer_spec *self,
                                const dml_yaml *node);
/* Reads what a user wrote: a list of layers, `depth` blocks deep (spec_layers.c); a residual block, and an add
 * (spec_blocks.c).  `value` NULL: nothing was written after the key. */
void dml_layer_read_list(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *list,
                         int32_t depth);
void dml_layer_read_residual(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *value,
                             dml_place place, int32_t depth);
void dml_layer_read_add(dml_layer_maker *m, dml_layer_scope *scope, const dml_yaml *value,
                        dml_place place);
/* Joins the tail with layer `with` (-1: the model's input) by an ADD. */
void dml_layer_join(dml_layer_maker *m, dml_layer_scope *scope, int32_t with, dml_place place);

/* spec.model.layers from `layers:` or from the family, and the loss. */
void dml_spec_make_layers(dml_spec_reader *r);
void dml_layers_of_family(dml_layer_maker *m);

/* Rows of DML_LAYER_OPTION_LIST; `kinds[i]` is the kind of row i. */
extern const dml_spec_key dml_layer_options[DML_LAYER_OPTIONS];
extern const dml_layer_kind dml_layer_option_kind[DML_LAYER_OPTIONS];
/* The option a bare value of this kind stands for, or NULL. */
const char *dml_layer_bare_option(dml_layer_kind kind);

#endif
