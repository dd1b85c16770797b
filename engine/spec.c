/* engine/spec.c - loading a spec; the steps are named in engine/spec_read.h. */
#include "engine/spec.h"

#include "engine/base/str.h"
#include "engine/profile.h"
#include "engine/roofline.h"
#include "engine/spec_read.h"

#include <errno.h>
#include <string.h>

enum { FILE_BYTES_MAX = 1 << 20 };

dml_err dml_spec_read_text(const char *path, dml_arena *arena, const char **out)
{
    const bool standard_input = strcmp(path, "-") == 0;
    FILE *in = standard_input ? stdin : fopen(path, "rb");
    if (!in) DML_FAIL(DML_ERR_SPEC, "%s: error: cannot open: %s", path, strerror(errno));
    char *text = dml_arena_alloc(arena, FILE_BYTES_MAX + 1);
    const size_t n = fread(text, 1, FILE_BYTES_MAX + 1, in);
    const bool failed = ferror(in), large = n > FILE_BYTES_MAX;
    const int why = errno;
    if (!standard_input) fclose(in);
    if (failed) DML_FAIL(DML_ERR_SPEC, "%s: error: cannot read: %s", path, strerror(why));
    if (large) DML_FAIL(DML_ERR_SPEC, "%s: error: a spec has at most 1 MiB", path);
    if (memchr(text, '\0', n)) DML_FAIL(DML_ERR_SPEC, "%s: error: this is no text file", path);
    *out = text;
    return DML_ERR_OK;
}

/* Everything up to the complaints, which `r` collects. */
static void read_spec(dml_spec_reader *r, const char *text)
{
    const dml_yaml *root = dml_yaml_parse(&r->report, r->source->text.file, 0, text);
    if (!root && r->report.n) return; /* one syntax error; the rest would be its echo */
    const bool nothing = !root || dml_yaml_is_null(root);
    if (nothing && r->source->text.n_overrides == 0) {
        dml_complain_at(&r->report, (dml_place){0}, "nothing is written there");
        dml_complain_note(&r->report, "the shortest spec is  model: {type: mlp}");
        return;
    }
    if (!nothing) dml_spec_read_file(r, root);
    for (int32_t i = 0; i < r->source->text.n_overrides; i++)
        dml_spec_read_override(r, i);
    if (!nothing && root->kind != DML_YAML_MAP) return;
    dml_spec_read_plan(r);
    dml_spec_fill(r);
    dml_spec_check(r);
}

/* Loads `source`, whose text NULL is read from its file. */
static dml_err load(const dml_spec_text *source, dml_spec *out)
{
    dml_spec spec = {0};
    dml_spec_reader *r = DML_NEW(&spec.arena, dml_spec_reader);
    r->spec = &spec;
    r->arena = &spec.arena;
    r->source = DML_NEW(&spec.arena, dml_spec_source);
    const char **copies = DML_NEW_N(&spec.arena, const char *, source->n_overrides + 1);
    for (int32_t i = 0; i < source->n_overrides; i++)
        copies[i] = dml_arena_strdup(&spec.arena, source->overrides[i]);
    dml_spec_text *text = &r->source->text;
    *text = (dml_spec_text){.file = dml_arena_strdup(&spec.arena, source->file),
                            .overrides = copies,
                            .n_overrides = source->n_overrides};
    if (source->text) text->text = dml_arena_strdup(&spec.arena, source->text);
    if (source->plan_text) {
        text->plan_file = dml_arena_strdup(&spec.arena, source->plan_file);
        text->plan_text = dml_arena_strdup(&spec.arena, source->plan_text);
    }
    r->report = (dml_complaints){.arena = &spec.arena, .source = &r->source->text};
    spec.source = r->source;

    dml_err err = DML_ERR_OK;
    if (!text->text) err = dml_spec_read_text(text->file, &spec.arena, &text->text);
    if (err == DML_ERR_OK) {
        read_spec(r, r->source->text.text);
        err = dml_complain_finish(&r->report);
    }
    if (err == DML_ERR_OK && spec.data.format == DML_DATA_SYNTHETIC)
        err = dml_spec_set_samples(&spec, spec.data.samples);
    if (err == DML_ERR_OK) err = dml_profile_apply(&spec);
    if (err == DML_ERR_OK) err = dml_roofline_apply(&spec);
    if (err == DML_ERR_OK)
        *out = spec;
    else
        dml_spec_free(&spec);
    return err;
}

dml_err dml_spec_load(const char *path, const char *const *overrides, int32_t n_overrides,
                      dml_spec *out)
{
    const dml_spec_text text = {.file = path, .overrides = overrides, .n_overrides = n_overrides};
    return load(&text, out);
}

dml_err dml_spec_load_planned(const dml_spec *spec, const char *plan, dml_spec *out)
{
    const dml_spec_source *source = spec->source;
    dml_spec_text text = source->text;
    text.plan_file = DML_PLAN_CHOSEN;
    text.plan_text = plan;
    return load(&text, out);
}

void dml_spec_free(dml_spec *spec)
{
    dml_arena_free(&spec->arena);
    *spec = (dml_spec){0};
}

static const dml_spec_entry *entry_of(const dml_spec *spec, const char *key)
{
    const dml_spec_source *source = spec->source;
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++)
        if (strcmp(dml_spec_keys[k].path, key) == 0) return &source->entry[k];
    return NULL;
}

dml_place dml_spec_place(const dml_spec *spec, const char *key)
{
    const dml_spec_entry *e = entry_of(spec, key);
    return e && e->value ? e->value->place : (dml_place){0};
}

dml_err dml_spec_fail(const dml_spec *spec, dml_place place, const char *key, const char *fmt, ...)
{
    const dml_spec_source *source = spec->source;
    dml_arena arena = {0};
    dml_complaints report = {.arena = &arena, .source = &source->text};
    if (place.line == 0 && key) place = dml_spec_place(spec, key);
    va_list ap;
    va_start(ap, fmt);
    dml_complain_at_va(&report, place, fmt, ap);
    va_end(ap);
    if (place.line == 0 && key) dml_complain_note(&report, "it follows from '%s'", key);
    const dml_err err = dml_complain_finish(&report);
    dml_arena_free(&arena);
    return err;
}
