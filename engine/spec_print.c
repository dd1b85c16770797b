/* engine/spec_print.c - the spec and the reference of its keys, both from the table. */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A path as it must be written so that nothing in it expands. */
static const char *unexpandable(const char *path, dml_str *s)
{
    for (const char *c = path; *c; c++)
        dml_str_printf(s, *c == '%' || *c == '$' ? "%c%c" : "%c", *c, *c);
    return dml_str_text(s);
}

static void print_word(FILE *to, const char *words, int32_t i)
{
    for (; i > 0; i--) {
        words += strcspn(words, " ");
        words += strspn(words, " ");
    }
    fprintf(to, "%.*s", (int)strcspn(words, " "), words);
}

static void print_floats(dml_str *s, const float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        dml_str_printf(s, i ? ", " : "[");
        dml_value_print_float(s, v[i]);
    }
    dml_str_printf(s, "]");
}

static void print_ints(dml_str *s, const int32_t *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        dml_str_printf(s, "%s%" PRId32, i ? ", " : "[", v[i]);
    dml_str_printf(s, "]");
}

static void print_numbers(dml_str *s, const dml_number_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        dml_str_printf(s, i ? ", " : "[");
        dml_value_print_double(s, list->v[i]);
    }
    dml_str_printf(s, "]");
}

static void print_sizes(dml_str *s, const dml_size_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        dml_str_printf(s, i ? ", " : "[");
        dml_value_print_bytes(s, list->v[i]);
    }
    dml_str_printf(s, "]");
}

static void print_words(dml_str *s, const char *allowed, uint32_t words)
{
    const char *sep = "[";
    for (int32_t i = 0; *allowed; i++) {
        const size_t n = strcspn(allowed, " ");
        if (words >> i & 1) {
            dml_str_printf(s, "%s", sep);
            dml_str_append(s, allowed, n);
            sep = ", ";
        }
        allowed += n + strspn(allowed + n, " ");
    }
    dml_str_printf(s, "]");
}

static void print_value(const dml_spec *spec, const dml_spec_key *key, FILE *to)
{
    const void *field = (const char *)spec + key->offset;
    const float *f = field;
    const int32_t *i = field;
    const int64_t *l = field;
    const dml_int_list *list = field;
    dml_str s = {0};
    switch (key->type) {
    case DML_SPEC_PATH:
        dml_yaml_print_text(to, unexpandable(*(const char *const *)field, &s), true);
        dml_str_clear(&s);
        break;
    case DML_SPEC_TEXT:
    case DML_SPEC_NAME:
    case DML_SPEC_SCHEDULE: dml_yaml_print_text(to, *(const char *const *)field, true); break;
    case DML_SPEC_WORD: print_word(to, key->allowed, *i); break;
    case DML_SPEC_FLAG: print_word(to, key->allowed, *(const bool *)field); break;
    case DML_SPEC_BOOL: dml_str_printf(&s, *(const bool *)field ? "true" : "false"); break;
    case DML_SPEC_INT: dml_str_printf(&s, "%" PRId32, *i); break;
    case DML_SPEC_LONG: dml_str_printf(&s, "%" PRId64, *l); break;
    case DML_SPEC_FLOAT: dml_value_print_float(&s, *f); break;
    case DML_SPEC_EPOCHS: dml_value_print_double(&s, *(const double *)field); break;
    case DML_SPEC_INTERVAL: dml_value_print_interval(&s, *(const dml_interval *)field); break;
    case DML_SPEC_STEPS: dml_value_print_steps(&s, *(const dml_step_range *)field); break;
    case DML_SPEC_TIME: dml_value_print_time(&s, *l); break;
    case DML_SPEC_RATE:
        dml_value_print_double(&s, *(const double *)field);
        dml_str_printf(&s, "B/s");
        break;
    case DML_SPEC_SCALE: dml_value_print_scale(&s, *f); break;
    case DML_SPEC_BYTES: dml_value_print_bytes(&s, *l); break;
    case DML_SPEC_PAIR: print_floats(&s, f, 2); break;
    case DML_SPEC_CHANNELS:
        print_floats(&s, f, f[0] == f[1] && f[0] == f[2] ? 1 : spec->model.input[0]);
        break;
    case DML_SPEC_SIZE: print_ints(&s, i, 2); break;
    case DML_SPEC_INTS: print_ints(&s, list->v, list->n); break;
    case DML_SPEC_SHAPE: print_ints(&s, i, spec->model.input_rank); break;
    case DML_SPEC_SPLIT:
        if (spec->parallelism.split == DML_SPLIT_LIST)
            print_ints(&s, spec->parallelism.split_list, dml_spec_stages(spec));
        else
            dml_str_printf(&s, spec->parallelism.split == DML_SPLIT_AUTO ? "auto" : "uniform");
        break;
    case DML_SPEC_NUMBER: dml_value_print_double(&s, *(const double *)field); break;
    case DML_SPEC_NUMBERS: print_numbers(&s, field); break;
    case DML_SPEC_SIZES: print_sizes(&s, field); break;
    case DML_SPEC_LINKS: dml_spec_print_links(&s, spec); break;
    case DML_SPEC_SLOW: dml_spec_print_slow(&s, spec); break;
    case DML_SPEC_FAULTS: dml_spec_print_faults(&s, spec); break;
    case DML_SPEC_WORDS: print_words(&s, key->allowed, *(const uint32_t *)field); break;
    case DML_SPEC_FAULT_TYPES: dml_spec_print_fault_types(&s, *(const uint32_t *)field); break;
    case DML_SPEC_STAGES:
    case DML_SPEC_LAYERS:
    case DML_SPEC_COSTS:       /* a block of its own */
    case DML_SPEC_NODE: break; /* no key is one */
    }
    fputs(dml_str_text(&s), to);
    dml_str_free(&s);
}

/* Whether a literal block of YAML keeps the text: lines that no blank begins, the last one ended. */
static bool is_rows(const char *text)
{
    const size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        const bool begins = i == 0 || text[i - 1] == '\n';
        if (begins && (text[i] == ' ' || text[i] == '\n')) return false;
        if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~')) return false;
    }
    return n > 0 && text[n - 1] == '\n';
}

static void print_rows(FILE *to, const char *text, int32_t indent)
{
    while (*text) {
        const int n = (int)strcspn(text, "\n") + 1;
        fprintf(to, "%*s%.*s", indent, "", n, text);
        text += n;
    }
}

/* The file's name, unless it holds what would end a comment. */
static const char *comment_safe(const char *file)
{
    return strpbrk(file, "\r\n") ? "file" : file;
}

static void print_plan_origin(const dml_spec_source *source, const dml_spec_entry *e, FILE *to)
{
    if (strcmp(source->text.plan_file, DML_PLAN_CHOSEN) == 0)
        fprintf(to, "  # chosen");
    else
        fprintf(to, "  # %s:%d", comment_safe(source->text.plan_file), e->value->place.line);
}

static void print_origin(const dml_spec_source *source, const dml_spec_entry *e, FILE *to)
{
    if (e->value && e->value->place.file == dml_spec_command_line)
        fprintf(to, "  # command line");
    else if (e->value && e->value->place.file == source->text.plan_file)
        print_plan_origin(source, e, to);
    else if (e->value)
        fprintf(to, "  # %s:%d", comment_safe(source->text.file), e->value->place.line);
    else
        fprintf(to, e->derived ? "  # derived" : "  # default");
}

/* Opens the sections of `path` that the path before it was not in; returns the depth of its last part. */
static int32_t open_sections(FILE *to, const char *before, const char *path)
{
    int32_t depth = 0;
    bool same = true;
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1, depth++) {
        const size_t n = (size_t)(dot - path) + 1;
        same = same && strncmp(before, path, n) == 0;
        if (same)
            before += n;
        else
            fprintf(to, "%*s%.*s:\n", 2 * depth, "", (int)n - 1, path);
    }
    return depth;
}

dml_err dml_spec_print(const dml_spec *spec, FILE *to)
{
    const dml_spec_source *source = spec->source;
    const char *before = "";
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        const dml_spec_entry *e = &source->entry[k];
        if (!dml_spec_key_applies(spec, key) || !dml_spec_key_is_shown(spec, (dml_spec_key_id)k))
            continue;
        const bool list = key->type == DML_SPEC_LAYERS || key->type == DML_SPEC_STAGES,
                   rows = k == DML_KEY_ORDER && is_rows(spec->parallelism.order),
                   block = list || key->type == DML_SPEC_COSTS;
        const int32_t depth = open_sections(to, before, key->path);
        fprintf(to, "%*s%s:%s", 2 * depth, "", dml_spec_last_part(key->path), block ? "" : " ");
        before = key->path;
        if (rows)
            fputc('|', to);
        else
            print_value(spec, key, to);
        print_origin(source, e, to);
        fputc('\n', to);
        if (rows) print_rows(to, spec->parallelism.order, 2 * depth + 2);
        if (list) dml_yaml_print_list(to, e->value, 2 * depth + 2);
        if (block && !list) dml_spec_print_costs(spec, to, 2 * depth + 2);
    }
    if (ferror(to)) DML_FAIL(DML_ERR_UNAVAILABLE, "cannot write the spec");
    return DML_ERR_OK;
}

/* ---- reference --------------------------------------------------------------------------------------- */

static void print_schedules(FILE *to)
{
    dml_arena arena = {0};
    fputs(dml_spec_schedule_names(&arena), to);
    dml_arena_free(&arena);
}

/* What may be written: the words, or the type with its range. */
static void print_allowed(FILE *to, const dml_spec_key *key)
{
    static const char *const type_text[] = {
#define X(type, text) text,
        DML_SPEC_TYPE_LIST(X)
#undef X
    };
    const bool words =
        key->type == DML_SPEC_NAME || key->type == DML_SPEC_WORD || key->type == DML_SPEC_FLAG;
    if (key->type == DML_SPEC_SCHEDULE)
        print_schedules(to);
    else if (words)
        fputs(key->allowed, to);
    else
        fprintf(to, "%s%s%s", type_text[key->type], key->allowed[0] ? ", " : "", key->allowed);
}

static dml_err print_to_end(const dml_spec *spec, FILE *to)
{
    const dml_err err = dml_spec_print(spec, to);
    if (fclose(to) != 0 && err == DML_ERR_OK)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot keep the spec in memory: %s", strerror(errno));
    return err;
}

dml_err dml_spec_to_memory(const dml_spec *spec, int *fd)
{
    *fd = memfd_create("dml-spec", MFD_CLOEXEC);
    const int copy = *fd < 0 ? -1 : dup(*fd);
    FILE *to = copy < 0 ? NULL : fdopen(copy, "w");
    const dml_err err = to ? print_to_end(spec, to)
                           : dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__,
                                         "memfd_create(dml-spec): %s", strerror(errno));
    if (err == DML_ERR_OK) return err;
    if (!to && copy >= 0) close(copy);
    if (*fd >= 0) close(*fd);
    *fd = -1;
    return err;
}

static void help_row(FILE *to, int32_t indent, const dml_spec_key *key)
{
    enum { MEANING_AT = 24 };
    fprintf(to, "%*s%-*s", indent, "", MEANING_AT - indent, dml_spec_last_part(key->path));
    if (key->meaning[0]) fprintf(to, "  %s\n%*s", key->meaning, MEANING_AT, "");
    fputs("  ", to);
    print_allowed(to, key);
    if (key->fallback) fprintf(to, "; default %s", key->fallback);
    if (key->only[0]) fprintf(to, "; only for %s", key->only);
    if (key->aliases[0]) fprintf(to, "; also written %s", key->aliases);
    fputc('\n', to);
}

void dml_spec_help(FILE *to)
{
    fprintf(to, "Keys of a spec, by section.  On the command line: section.key=value\n\n");
    const char *before = "";
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const int32_t depth = open_sections(to, before, dml_spec_keys[k].path);
        before = dml_spec_keys[k].path;
        help_row(to, 2 * depth, &dml_spec_keys[k]);
    }
    fprintf(to, "\nLayers of model.layers; each takes `name`, and `residual: {body: [...], "
                "shortcut: [...]}` joins two branches\n\nadd    `add: NAME` is `add: {with: "
                "NAME}`: what comes before plus what the earlier layer NAME gave\n");
    for (int32_t kind = 0; kind < DML_LAYER_KINDS; kind++) {
        if (kind == DML_LAYER_ADD || kind == DML_LAYER_CROSS_ENTROPY || kind == DML_LAYER_MSE)
            continue;
        const char *bare = dml_layer_bare_option((dml_layer_kind)kind);
        fprintf(to, "%s", dml_layer_kind_name((dml_layer_kind)kind));
        if (bare)
            fprintf(to, "    `%s: x` is `%s: {%s: x}`", dml_layer_kind_name((dml_layer_kind)kind),
                    dml_layer_kind_name((dml_layer_kind)kind), bare);
        fputc('\n', to);
        for (int32_t o = 0; o < DML_LAYER_OPTIONS; o++)
            if ((int32_t)dml_layer_option_kind[o] == kind) help_row(to, 2, &dml_layer_options[o]);
    }
}
