/* engine/hardware.c - reads hardware files: a map of figures, each with its source. */
#include "engine/hardware.h"

#include "engine/spec_complaints.h"
#include "engine/spec_value.h"
#include "engine/spec_yaml.h"

#include <errno.h>
#include <string.h>

typedef enum unit { FLOPS, BYTES, RATE, TIME, COUNT, NUMBER } unit;

static const char *const unit_text[] = {
    [FLOPS] = "a rate of arithmetic such as 989.4TFLOP/s",
    [BYTES] = "a size such as 80GB",
    [RATE] = "a bandwidth such as 3.35TB/s",
    [TIME] = "a time such as 5us",
    [COUNT] = "a whole number",
    [NUMBER] = "a number",
};

typedef struct figure_key {
    const char *path;
    unit unit;
    const char *range;
    bool must;
} figure_key;

static const figure_key keys[DML_HARDWARE_FIGURES] = {
#define X(id, path, unit, range, must) {path, unit, range, must},
    DML_HARDWARE_LIST(X)
#undef X
};

enum { FILE_BYTES_MAX = 1 << 18 };

typedef struct reader {
    dml_complaints report;
    dml_spec_text text;
    dml_hardware *out;
    dml_arena *arena;
    bool inner; /* the file that another one names */
    bool has_name;
} reader;

static void load(reader *r, const char *path);

/* ---- values ---- */

static bool number_of(unit kind, const char *text, double *out)
{
    int64_t whole;
    switch (kind) {
    case FLOPS: return dml_value_flops(text, out);
    case RATE: return dml_value_rate(text, out);
    case NUMBER: return dml_value_number(text, out);
    case BYTES:
        if (!dml_value_bytes(text, &whole)) return false;
        break;
    case TIME:
        if (!dml_value_time(text, &whole)) return false;
        break;
    case COUNT:
        if (!dml_value_whole(text, &whole)) return false;
        break;
    }
    *out = (double)whole;
    return true;
}

/* The entry of a map, or NULL. */
static const dml_yaml *entry(const dml_yaml *map, const char *name)
{
    for (int32_t i = 0; i < map->n; i++)
        if (strcmp(map->key[i].text, name) == 0) return &map->item[i];
    return NULL;
}

/* Complains about keys of `map` that are none of the words in `known`. */
static void check_keys(reader *r, const dml_yaml *map, const char *what, const char *known)
{
    for (int32_t i = 0; i < map->n; i++) {
        if (dml_value_word(known, map->key[i].text) >= 0) continue;
        dml_complain_at(&r->report, map->key[i].place, "unknown key '%s' in %s", map->key[i].text,
                        what);
        dml_complain_note(&r->report, "keys here: %s", known);
    }
}

/* {value: ..., source: ...} */
static void read_figure(reader *r, const dml_yaml *node, const char *name, unit kind,
                        const char *range, dml_figure *out)
{
    if (node->kind != DML_YAML_MAP) {
        dml_complain_at(&r->report, node->place,
                        "'%s' is a figure: {value: ..., source: where it is from}", name);
        return;
    }
    check_keys(r, node, "a figure", "value source");
    const dml_yaml *value = entry(node, "value"), *source = entry(node, "source");
    if (!value || value->kind != DML_YAML_SCALAR) {
        dml_complain_at(&r->report, node->place, "'%s' has no value: %s", name, unit_text[kind]);
        return;
    }
    dml_figure f = {0};
    if (!number_of(kind, value->text, &f.value))
        dml_complain_at(&r->report, value->place, "'%s' is %s, not '%s'", name, unit_text[kind],
                        value->text);
    else if (!dml_value_in_range(range, f.value))
        dml_complain_at(&r->report, value->place, "'%s' is %s here: it has to be %s", name,
                        value->text, range);
    if (!source || source->kind != DML_YAML_SCALAR || !source->text[0]) {
        dml_complain_at(&r->report, node->place, "'%s' does not say where it is from", name);
        dml_complain_note(&r->report, "source: a document and its page, a measurement with its "
                                      "name, or assumed, with the reason");
        return;
    }
    f.source = dml_arena_strdup(r->arena, source->text);
    *out = f;
}

/* ---- links ---- */

static void read_link(reader *r, const dml_yaml *node, dml_hardware_link *out)
{
    if (node->kind != DML_YAML_MAP) {
        dml_complain_at(&r->report, node->place,
                        "a level of links is {workers: N or all, latency: ..., bandwidth: ...}");
        return;
    }
    check_keys(r, node, "a level of links", "workers latency bandwidth");
    const dml_yaml *workers = entry(node, "workers"), *latency = entry(node, "latency"),
                   *bandwidth = entry(node, "bandwidth");
    if (!workers || !latency || !bandwidth) {
        dml_complain_at(&r->report, node->place,
                        "a level of links has workers, latency and bandwidth");
        return;
    }
    int64_t n = 0;
    const bool all = workers->kind == DML_YAML_SCALAR && strcmp(workers->text, "all") == 0;
    const bool ok = workers->kind == DML_YAML_SCALAR && dml_value_whole(workers->text, &n);
    if (!all && (!ok || n < 2 || n > INT32_MAX))
        dml_complain_at(&r->report, workers->place, "'workers' is all, or a whole number >= 2");
    out->workers = (int32_t)n;
    read_figure(r, latency, "latency", TIME, "", &out->latency_ns);
    read_figure(r, bandwidth, "bandwidth", RATE, ">0", &out->bytes_per_s);
}

static void read_links(reader *r, const dml_yaml *list)
{
    if (list->kind != DML_YAML_LIST) {
        dml_complain_at(&r->report, list->place, "'links' is a list of levels, innermost first");
        return;
    }
    dml_hardware_link *link = DML_NEW_N(r->arena, dml_hardware_link, list->n);
    const int32_t before = r->report.n;
    for (int32_t i = 0; i < list->n; i++) {
        read_link(r, &list->item[i], &link[i]);
        const bool last = i + 1 == list->n, all = link[i].workers == 0;
        if (r->report.n > before) continue;
        if (last != all)
            dml_complain_at(&r->report, list->item[i].place,
                            all ? "only the last level joins all workers"
                                : "the last level has workers: all");
        else if (i > 0 && !all &&
                 (link[i].workers <= link[i - 1].workers ||
                  link[i].workers % link[i - 1].workers != 0))
            dml_complain_at(&r->report, list->item[i].place,
                            "a level of %d workers after one of %d: the innermost is first, and "
                            "each holds whole blocks of the one before",
                            link[i].workers, link[i - 1].workers);
    }
    r->out->link = link;
    r->out->n_links = list->n;
}

/* ---- keys ---- */

/* "name, device, peak.fp32, ..." */
static void note_keys(reader *r)
{
    dml_str s = {0};
    dml_str_printf(&s, "name, device, links");
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++)
        dml_str_printf(&s, ", %s", keys[k].path);
    dml_complain_note(&r->report, "keys: %s", dml_str_text(&s));
    dml_str_free(&s);
}

static bool is_section(const char *path)
{
    const size_t n = strlen(path);
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++)
        if (strncmp(keys[k].path, path, n) == 0 && keys[k].path[n] == '.') return true;
    return false;
}

static void read_entry(reader *r, const char *path, const dml_yaml *key, const dml_yaml *value)
{
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++) {
        if (strcmp(keys[k].path, path) != 0) continue;
        read_figure(r, value, path, keys[k].unit, keys[k].range, &r->out->figure[k]);
        return;
    }
    if (is_section(path) && value->kind == DML_YAML_MAP) {
        for (int32_t i = 0; i < value->n; i++)
            read_entry(r, dml_arena_printf(r->arena, "%s.%s", path, value->key[i].text),
                       &value->key[i], &value->item[i]);
        return;
    }
    if (is_section(path)) {
        dml_complain_at(&r->report, value->place, "'%s' is a section of figures", path);
        return;
    }
    dml_nearest close = dml_nearest_to(path);
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++)
        dml_nearest_offer(&close, keys[k].path, keys[k].path);
    dml_complain_at(&r->report, key->place, "unknown key '%s'", path);
    if (close.best)
        dml_complain_note(&r->report, "did you mean '%s'?", close.best);
    else
        note_keys(r);
}

static void read_name(reader *r, const dml_yaml *node)
{
    r->has_name = node->kind == DML_YAML_SCALAR && node->text[0];
    if (r->has_name)
        r->out->name = dml_arena_strdup(r->arena, node->text);
    else
        dml_complain_at(&r->report, node->place, "'name' is a text");
}

/* The figures of the file that `device` names; complaints of that file end the reading of this one. */
static void read_device(reader *r, const dml_yaml *node)
{
    if (node->kind != DML_YAML_SCALAR || !node->text[0]) {
        dml_complain_at(&r->report, node->place, "'device' is a path, relative to this file");
        return;
    }
    if (r->inner) {
        dml_complain_at(&r->report, node->place, "a file that another one names has no 'device'");
        return;
    }
    const char *slash = strrchr(r->text.file, '/');
    const int folder = slash && node->text[0] != '/' ? (int)(slash - r->text.file) + 1 : 0;
    reader inner = {.out = r->out, .arena = r->arena, .inner = true};
    load(&inner, dml_arena_printf(r->arena, "%.*s%s", folder, r->text.file, node->text));
    if (inner.report.n > 0) r->report = inner.report;
}

static void read_root(reader *r, const dml_yaml *root)
{
    if (!root || root->kind != DML_YAML_MAP) {
        dml_complain_at(&r->report, root ? root->place : (dml_place){0},
                        "a hardware file is a mapping: name, peak, memory, ...");
        return;
    }
    const dml_yaml *device = entry(root, "device");
    if (device) read_device(r, device);
    if (r->report.n > 0) return;
    for (int32_t i = 0; i < root->n; i++) {
        const dml_yaml *key = &root->key[i], *value = &root->item[i];
        if (strcmp(key->text, "name") == 0)
            read_name(r, value);
        else if (strcmp(key->text, "links") == 0)
            read_links(r, value);
        else if (strcmp(key->text, "device") != 0)
            read_entry(r, key->text, key, value);
    }
    if (!r->has_name) dml_complain_at(&r->report, (dml_place){0}, "'name' is missing");
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES && r->report.n == 0; k++)
        if (keys[k].must && !r->out->figure[k].source)
            dml_complain_at(&r->report, (dml_place){0}, "'%s' is missing", keys[k].path);
}

static const char *read_text(reader *r, const char *path)
{
    FILE *in = fopen(path, "rb");
    if (!in) {
        dml_complain_at(&r->report, (dml_place){0}, "cannot open: %s", strerror(errno));
        return NULL;
    }
    char *text = dml_arena_alloc(r->arena, FILE_BYTES_MAX + 1);
    const size_t n = fread(text, 1, FILE_BYTES_MAX + 1, in);
    const bool failed = ferror(in);
    fclose(in);
    if (!failed && n <= FILE_BYTES_MAX && !memchr(text, '\0', n)) return text;
    dml_complain_at(&r->report, (dml_place){0},
                    failed ? "cannot read it" : "this is no text file of at most 256 KiB");
    return NULL;
}

static void load(reader *r, const char *path)
{
    dml_spec_text *source = DML_NEW(r->arena, dml_spec_text);
    source->file = dml_arena_strdup(r->arena, path);
    r->report = (dml_complaints){.arena = r->arena, .source = source};
    r->text = *source;
    source->text = read_text(r, path);
    if (!source->text) return;
    const dml_yaml *root = dml_yaml_parse(&r->report, source->file, 0, source->text);
    if (r->report.n == 0) read_root(r, root);
}

dml_err dml_hardware_load(const char *path, dml_hardware *out)
{
    dml_hardware hardware = {0};
    reader r = {.out = &hardware, .arena = &hardware.arena};
    load(&r, path);
    const dml_err err = dml_complain_finish(&r.report);
    if (err == DML_ERR_OK)
        *out = hardware;
    else
        dml_hardware_free(&hardware);
    return err;
}

void dml_hardware_free(dml_hardware *hardware)
{
    dml_arena_free(&hardware->arena);
    *hardware = (dml_hardware){0};
}

/* ---- what it says ---- */

dml_figure dml_hardware_peak(const dml_hardware *hardware, dml_precision precision)
{
    const dml_figure *f = hardware->figure;
    switch (precision) {
    case DML_PRECISION_FP32: return f[DML_HW_PEAK_FP32];
    case DML_PRECISION_TF32:
        return f[f[DML_HW_PEAK_TF32].source ? DML_HW_PEAK_TF32 : DML_HW_PEAK_FP32];
    case DML_PRECISION_BF16: return f[DML_HW_PEAK_BF16];
    case DML_PRECISION_FP16: return f[DML_HW_PEAK_FP16];
    }
    return (dml_figure){0};
}

const dml_hardware_link *dml_hardware_link_of(const dml_hardware *hardware, int32_t workers)
{
    for (int32_t i = 0; i < hardware->n_links; i++)
        if (hardware->link[i].workers >= workers || i + 1 == hardware->n_links)
            return &hardware->link[i];
    return NULL;
}

static void print_figure(FILE *to, const char *name, unit kind, const dml_figure *f)
{
    char value[48];
    switch (kind) {
    case FLOPS: snprintf(value, sizeof value, "%.4g TFLOP/s", f->value * 1e-12); break;
    case BYTES: snprintf(value, sizeof value, "%.4g GB", f->value * 1e-9); break;
    case RATE: snprintf(value, sizeof value, "%.4g GB/s", f->value * 1e-9); break;
    case TIME: snprintf(value, sizeof value, "%.4g us", f->value * 1e-3); break;
    case COUNT:
    case NUMBER: snprintf(value, sizeof value, "%.4g", f->value); break;
    }
    fprintf(to, "%-24s %-16s %s\n", name, value, f->source);
}

void dml_hardware_print(const dml_hardware *hardware, FILE *to)
{
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++)
        if (hardware->figure[k].source)
            print_figure(to, keys[k].path, keys[k].unit, &hardware->figure[k]);
    for (int32_t i = 0; i < hardware->n_links; i++) {
        const dml_hardware_link *l = &hardware->link[i];
        char block[24] = "all", name[48];
        if (l->workers > 0) snprintf(block, sizeof block, "%d", l->workers);
        snprintf(name, sizeof name, "links.%s.latency", block);
        print_figure(to, name, TIME, &l->latency_ns);
        snprintf(name, sizeof name, "links.%s.bandwidth", block);
        print_figure(to, name, RATE, &l->bytes_per_s);
    }
}
