/* engine/spec_convert.c - a node into a field of the type its key has. */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"
#include "schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

static const char *const type_text[] = {
#define X(type, text) text,
    DML_SPEC_TYPE_LIST(X)
#undef X
};

const dml_spec_key *dml_spec_selector(const dml_spec *spec, const dml_spec_key *key,
                                      int32_t *chosen)
{
    static const struct {
        const char *prefix;
        dml_spec_key_id id;
    } table[] = {
#define X(prefix, id) {prefix, DML_KEY_##id},
        DML_SPEC_SELECTOR_LIST(X)
#undef X
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strncmp(key->path, table[i].prefix, strlen(table[i].prefix)) != 0) continue;
        const dml_spec_key *selector = &dml_spec_keys[table[i].id];
        const char *field = (const char *)spec + selector->offset;
        if (selector->type == DML_SPEC_NAME) {
            const char *word = *(const char *const *)(const void *)field;
            *chosen = word ? dml_value_word(selector->allowed, word) : -1;
        } else {
            memcpy(chosen, field, sizeof *chosen);
        }
        return selector;
    }
    return NULL;
}

/* Is the word of `selector` with index `chosen` in this list? */
static bool chosen_in(const dml_spec_key *selector, int32_t chosen, const char *words)
{
    char word[32];
    for (words += strspn(words, " "); *words; words += strspn(words, " ")) {
        const size_t n = strcspn(words, " ");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        if (dml_value_word(selector->allowed, word) == chosen) return true;
        words += n;
    }
    return false;
}

bool dml_spec_key_applies(const dml_spec *spec, const dml_spec_key *key)
{
    int32_t chosen;
    const dml_spec_key *selector = dml_spec_selector(spec, key, &chosen);
    return !key->only[0] || chosen_in(selector, chosen, key->only);
}

/* ">0" as "> 0", "[0,1)" as "in [0, 1)"; "" where `allowed` is no range. */
static const char *range_text(dml_spec_reader *r, const dml_spec_key *key)
{
    const char *range = key->allowed;
    if (*range == '>') {
        const int n = range[1] == '=' ? 2 : 1;
        return dml_arena_printf(r->arena, "%.*s %s", n, range, range + n);
    }
    if (*range != '[' && *range != '(') return "";
    const int n = (int)strcspn(range, ",") + 1;
    return dml_arena_printf(r->arena, "in %.*s %s", n, range, range + n);
}

/* "a number > 0" */
static const char *wanted(dml_spec_reader *r, const dml_spec_key *key)
{
    const char *range = range_text(r, key);
    return dml_arena_printf(r->arena, "%s%s%s", type_text[key->type], *range ? " " : "", range);
}

void dml_spec_expected(dml_spec_reader *r, const dml_yaml *node, const char *what)
{
    double number;
    bool truth;
    const char *got;
    if (node->kind != DML_YAML_SCALAR)
        got = node->kind == DML_YAML_LIST ? "a list" : "a mapping";
    else if (dml_yaml_is_null(node))
        got = "nothing";
    else if (node->plain && dml_value_number(node->text, &number))
        got = "a number";
    else if (node->plain && dml_value_bool(node->text, &truth))
        got = node->text;
    else
        got = dml_arena_printf(r->arena, "text '%s'", node->text);
    dml_complain_at(&r->report, node->place, "expected %s, got %s", what, got);
}

/* One number of the key's range. */
static bool ranged(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                   const dml_yaml *node, double v)
{
    if (dml_value_in_range(key->allowed, v)) return true;
    dml_complain_at(&r->report, node->place, "'%s' must be %s, not %s", label, range_text(r, key),
                    node->text);
    return false;
}

static bool is_scalar(const dml_yaml *node)
{
    return node->kind == DML_YAML_SCALAR && !dml_yaml_is_null(node);
}

static bool read_number(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                        const dml_yaml *node, const char *what, double *out)
{
    if (!is_scalar(node) || !node->plain || !dml_value_number(node->text, out)) {
        dml_spec_expected(r, node, what);
        return false;
    }
    return ranged(r, key, label, node, *out);
}

static bool read_whole(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                       const dml_yaml *node, const char *what, int64_t most, int64_t *out)
{
    double fraction;
    if (!is_scalar(node) || !node->plain || !dml_value_whole(node->text, out)) {
        if (is_scalar(node) && node->plain && dml_value_number(node->text, &fraction))
            dml_complain_at(&r->report, node->place, "'%s' must be a whole number, not %s", label,
                            node->text);
        else
            dml_spec_expected(r, node, what);
        return false;
    }
    if (!ranged(r, key, label, node, (double)*out)) return false;
    if (*out <= most && *out >= -most) return true;
    dml_complain_at(&r->report, node->place, "'%s' is too large: %s", label, node->text);
    return false;
}

static bool read_bool(dml_spec_reader *r, const char *label, const dml_yaml *node, bool *out)
{
    if (is_scalar(node) && node->plain && dml_value_bool(node->text, out)) return true;
    if (is_scalar(node) && dml_value_word("yes no on off y n", node->text) >= 0) {
        const int32_t word = dml_value_word("yes no on off y n", node->text);
        dml_complain_at(&r->report, node->place, "'%s': '%s' is text in YAML 1.2; write %s", label,
                        node->text, word % 2 ? "false" : "true");
    } else {
        dml_spec_expected(r, node, "true or false");
    }
    return false;
}

/* The word's index in the key's list. */
static bool read_word(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, const char *words, int32_t *out)
{
    if (!is_scalar(node)) {
        dml_spec_expected(r, node, type_text[key->type]);
        dml_complain_note(&r->report, "allowed: %s", words);
        return false;
    }
    *out = dml_value_word(words, node->text);
    if (*out >= 0) return true;
    dml_nearest close = dml_nearest_to(node->text);
    const char *word;
    for (int32_t i = 0; (word = dml_value_nth(r->arena, words, i)) != NULL; i++)
        dml_nearest_offer(&close, word, word);
    if (close.best)
        dml_complain_at(&r->report, node->place, "unknown %s '%s'; nearest is '%s'", label,
                        node->text, close.best);
    else
        dml_complain_at(&r->report, node->place, "unknown %s '%s'", label, node->text);
    dml_complain_note(&r->report, "allowed: %s", words);
    return false;
}

const char *dml_spec_schedule_names(dml_arena *arena)
{
    int32_t n;
    const dml_schedule *const *all = dml_schedules(&n);
    const char *names = all[0]->name;
    for (int32_t i = 1; i < n; i++)
        names = dml_arena_printf(arena, "%s %s", names, all[i]->name);
    return dml_arena_printf(arena, "%s auto csv:FILE", names);
}

/* A file, or an order made for the spec, instead of a schedule by name (engine/plan_order.h). */
static const char *special_schedule(dml_spec_reader *r, const char *text)
{
    if (strcasecmp(text, DML_ORDER_AUTO) == 0) return DML_ORDER_AUTO;
    const size_t n = strlen(DML_ORDER_CSV);
    return strncmp(text, DML_ORDER_CSV, n) == 0 && text[n] ? dml_arena_strdup(r->arena, text)
                                                           : NULL;
}

static bool read_schedule(dml_spec_reader *r, const dml_spec_key *key, const dml_yaml *node,
                          const char **out)
{
    const dml_schedule *schedule;
    if (is_scalar(node) && dml_schedule_find(node->text, &schedule) == DML_ERR_OK) {
        *out = schedule->name;
        return true;
    }
    const char *special = is_scalar(node) ? special_schedule(r, node->text) : NULL;
    if (special) {
        *out = special;
        return true;
    }
    int32_t unused;
    return read_word(r, key, "schedule", node, dml_spec_schedule_names(r->arena), &unused);
}

static bool read_time(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, int64_t *out)
{
    if (!is_scalar(node) || !dml_value_time(node->text, out)) {
        dml_spec_expected(r, node, "a time");
        dml_complain_note(&r->report, "a time is a number and ns, us, ms, s, m or h: 500ms");
        return false;
    }
    return ranged(r, key, label, node, (double)*out);
}

static bool read_rate(dml_spec_reader *r, const dml_yaml *node, double *out)
{
    if (is_scalar(node) && dml_value_rate(node->text, out)) return true;
    dml_spec_expected(r, node, "a bandwidth");
    dml_complain_note(&r->report,
                      "a bandwidth is a number and B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s or "
                      "GiB/s: 1GB/s");
    return false;
}

static bool read_scale(dml_spec_reader *r, const dml_yaml *node, float *out)
{
    if (is_scalar(node) && dml_value_scale(node->text, out)) return true;
    dml_spec_expected(r, node, "dynamic or a power of two");
    dml_complain_note(&r->report, "allowed: dynamic, or 1, 2, 4 ... 16777216, such as 65536");
    return false;
}

static bool read_bytes(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                       const dml_yaml *node, int64_t *out)
{
    if (!is_scalar(node) || !dml_value_bytes(node->text, out)) {
        dml_spec_expected(r, node, "a size in bytes");
        dml_complain_note(&r->report,
                          "a size is a number and B, kB, MB, GB, KiB, MiB or GiB: 25MiB");
        return false;
    }
    return ranged(r, key, label, node, (double)*out);
}

static bool read_interval(dml_spec_reader *r, const dml_yaml *node, dml_interval *out)
{
    if (is_scalar(node) && dml_value_interval(node->text, out)) return true;
    dml_spec_expected(r, node, "steps or epochs");
    dml_complain_note(&r->report, "write a whole number of steps, 250, or 2 epochs");
    return false;
}

static bool read_steps(dml_spec_reader *r, const char *label, const dml_yaml *node,
                       dml_step_range *out)
{
    dml_step_range v;
    if (!is_scalar(node) || !dml_value_steps(node->text, &v)) {
        dml_spec_expected(r, node, "steps such as 3-5");
        dml_complain_note(&r->report, "allowed: FIRST-LAST, one step, or auto");
    } else if (v.first == 0 && !dml_value_same_word(node->text, "auto")) {
        dml_complain_at(&r->report, node->place, "'%s': steps count from 1, not 0", label);
    } else if (v.first > v.last) {
        dml_complain_at(&r->report, node->place, "'%s': no step is in %s; %lld-%lld has %lld",
                        label, node->text, (long long)v.last, (long long)v.first,
                        (long long)(v.first - v.last + 1));
    } else {
        *out = v;
        return true;
    }
    return false;
}

/* "30" and "30 epochs" */
static bool read_epochs(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                        const dml_yaml *node, double *out)
{
    dml_interval v;
    if (is_scalar(node) && dml_value_interval(node->text, &v) && v.epochs) {
        *out = v.n;
        return true;
    }
    return read_number(r, key, label, node, "a number of epochs", out);
}

/* A list of `least` to `most` numbers. */
static bool read_floats(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                        const dml_yaml *node, int32_t least, int32_t most, float *out)
{
    if (node->kind != DML_YAML_LIST || node->n < least || node->n > most) {
        if (node->kind != DML_YAML_LIST)
            dml_spec_expected(r, node, type_text[key->type]);
        else
            dml_complain_at(&r->report, node->place, "expected %s, got %d", type_text[key->type],
                            node->n);
        return false;
    }
    for (int32_t i = 0; i < node->n; i++) {
        double v;
        if (!read_number(r, key, label, &node->item[i], "a number", &v)) return false;
        out[i] = (float)v;
    }
    return true;
}

/* A list of at least one whole number. */
static bool read_ints(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, dml_int_list *out)
{
    if (node->kind == DML_YAML_LIST && node->n == 0) {
        dml_complain_at(&r->report, node->place, "'%s' is an empty list", label);
        return false;
    }
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, type_text[key->type]);
        return false;
    }
    int32_t *v = DML_NEW_N(r->arena, int32_t, node->n);
    for (int32_t i = 0; i < node->n; i++) {
        int64_t whole;
        if (!read_whole(r, key, label, &node->item[i], "a whole number", INT32_MAX, &whole))
            return false;
        v[i] = (int32_t)whole;
    }
    *out = (dml_int_list){v, node->n};
    return true;
}

/* A number for both, or [height, width]. */
static bool read_size(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, int32_t *out)
{
    if (node->kind == DML_YAML_LIST) {
        dml_int_list pair;
        if (node->n != 2) {
            dml_complain_at(&r->report, node->place, "'%s' has 2 numbers, [height, width], not %d",
                            label, node->n);
            return false;
        }
        if (!read_ints(r, key, label, node, &pair)) return false;
        memcpy(out, pair.v, 2 * sizeof *out);
        return true;
    }
    int64_t both;
    if (!read_whole(r, key, label, node, wanted(r, key), INT32_MAX, &both)) return false;
    out[0] = out[1] = (int32_t)both;
    return true;
}

static bool read_shape(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                       const dml_yaml *node, dml_spec *spec)
{
    dml_int_list shape;
    if (!read_ints(r, key, label, node, &shape)) return false;
    if (shape.n != 1 && shape.n != 3) {
        dml_complain_at(&r->report, node->place, "expected %s, got %d numbers",
                        type_text[key->type], shape.n);
        return false;
    }
    spec->model.input_rank = shape.n;
    memcpy(spec->model.input, shape.v, (size_t)shape.n * sizeof *shape.v);
    return true;
}

static bool read_split(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                       const dml_yaml *node, dml_spec *spec)
{
    if (node->kind != DML_YAML_LIST) {
        int32_t word;
        if (!read_word(r, key, label, node, "auto uniform", &word)) return false;
        spec->parallelism.split = word ? DML_SPLIT_UNIFORM : DML_SPLIT_AUTO;
        return true;
    }
    dml_int_list list;
    if (!read_ints(r, key, label, node, &list)) return false;
    spec->parallelism.split = DML_SPLIT_LIST;
    spec->parallelism.split_list = list.v;
    return true;
}

static bool read_words(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                       const dml_yaml *node, uint32_t *out)
{
    dml_spec_key word = *key;
    word.type = DML_SPEC_WORD;
    word.offset = 0;
    uint32_t words = 0;
    if (node->kind != DML_YAML_LIST || node->n == 0) {
        dml_spec_expected(r, node, "a list of words such as those that --keys names");
        return false;
    }
    for (int32_t i = 0; i < node->n; i++) {
        int32_t index = 0;
        if (!dml_spec_convert(r, &word, label, &node->item[i], &index)) return false;
        words |= UINT32_C(1) << index;
    }
    *out = words;
    return true;
}

bool dml_spec_convert(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                      const dml_yaml *node, void *base)
{
    void *const field = (char *)base + key->offset;
    int64_t whole = 0;
    int32_t word = 0;
    double number = 0;
    bool ok = false;
    switch (key->type) {
    case DML_SPEC_TEXT:
    case DML_SPEC_PATH:
        ok = is_scalar(node);
        if (ok)
            *(const char **)field = node->text;
        else
            dml_spec_expected(r, node, type_text[key->type]);
        break;
    case DML_SPEC_NAME:
        ok = read_word(r, key, label, node, key->allowed, &word);
        if (ok) *(const char **)field = dml_value_nth(r->arena, key->allowed, word);
        break;
    case DML_SPEC_SCHEDULE: ok = read_schedule(r, key, node, field); break;
    case DML_SPEC_WORD:
        ok = read_word(r, key, label, node, key->allowed, &word);
        if (ok) memcpy(field, &word, sizeof word); /* an enum is as wide as an int here */
        break;
    case DML_SPEC_FLAG:
        ok = read_word(r, key, label, node, key->allowed, &word);
        if (ok) *(bool *)field = word == 1;
        break;
    case DML_SPEC_BOOL: ok = read_bool(r, label, node, field); break;
    case DML_SPEC_INT:
        ok = read_whole(r, key, label, node, wanted(r, key), INT32_MAX, &whole);
        if (ok) *(int32_t *)field = (int32_t)whole;
        break;
    case DML_SPEC_LONG:
        ok = read_whole(r, key, label, node, wanted(r, key), INT64_MAX, &whole);
        if (ok) memcpy(field, &whole, sizeof whole);
        break;
    case DML_SPEC_FLOAT:
        ok = read_number(r, key, label, node, wanted(r, key), &number);
        if (ok) *(float *)field = (float)number;
        break;
    case DML_SPEC_EPOCHS: ok = read_epochs(r, key, label, node, field); break;
    case DML_SPEC_INTERVAL: ok = read_interval(r, node, field); break;
    case DML_SPEC_STEPS: ok = read_steps(r, label, node, field); break;
    case DML_SPEC_TIME: ok = read_time(r, key, label, node, field); break;
    case DML_SPEC_RATE: ok = read_rate(r, node, field); break;
    case DML_SPEC_SCALE: ok = read_scale(r, node, field); break;
    case DML_SPEC_BYTES: ok = read_bytes(r, key, label, node, field); break;
    case DML_SPEC_PAIR: ok = read_floats(r, key, label, node, 2, 2, field); break;
    case DML_SPEC_CHANNELS: ok = read_floats(r, key, label, node, 1, 3, field); break;
    case DML_SPEC_SIZE: ok = read_size(r, key, label, node, field); break;
    case DML_SPEC_INTS: ok = read_ints(r, key, label, node, field); break;
    case DML_SPEC_SHAPE: ok = read_shape(r, key, label, node, base); break;
    case DML_SPEC_SPLIT: ok = read_split(r, key, label, node, base); break;
    case DML_SPEC_STAGES: ok = dml_spec_read_stages(r, node, base); break;
    case DML_SPEC_COSTS: ok = dml_spec_read_costs(r, node, base); break;
    case DML_SPEC_NUMBER: ok = read_number(r, key, label, node, "a number", field); break;
    case DML_SPEC_NUMBERS:
        ok = dml_spec_read_list(r, key, label, node, DML_SPEC_NUMBER, sizeof(double), field);
        break;
    case DML_SPEC_SIZES:
        ok = dml_spec_read_list(r, key, label, node, DML_SPEC_BYTES, sizeof(int64_t), field);
        break;
    case DML_SPEC_LINKS: ok = dml_spec_read_links(r, node, base); break;
    case DML_SPEC_SLOW: ok = dml_spec_read_slow(r, node, base); break;
    case DML_SPEC_FAULTS: ok = dml_spec_read_faults(r, node, base); break;
    case DML_SPEC_WORDS: ok = read_words(r, key, label, node, field); break;
    case DML_SPEC_FAULT_TYPES: ok = dml_spec_read_fault_types(r, node, field); break;
    case DML_SPEC_NODE:
        ok = true;
        *(const dml_yaml **)field = node;
        break;
    case DML_SPEC_LAYERS:
        ok = node->kind == DML_YAML_LIST && node->n > 0; /* read by spec_layers.c */
        if (!ok) dml_spec_expected(r, node, type_text[key->type]);
        break;
    }
    return ok;
}

void dml_spec_convert_text(dml_spec_reader *r, const dml_spec_key *key, const char *text,
                           void *base)
{
    const dml_yaml scalar = {.kind = DML_YAML_SCALAR, .text = text, .plain = true};
    const bool list = *text == '[';
    const dml_yaml *node = list ? dml_yaml_parse(&r->report, "default", 0, text) : &scalar;
    const bool ok = node && dml_spec_convert(r, key, key->path, node, base);
    DML_ASSERT(ok); /* a default that its own key refuses is our mistake */
}

/* "0.1; adamw 0.001" is 0.1 but under adamw. */
static const char *default_of(dml_spec_reader *r, const dml_spec_key *key)
{
    const char *other = strchr(key->fallback, ';');
    if (!other) return key->fallback;
    int32_t chosen;
    const dml_spec_key *selector = dml_spec_selector(r->spec, key, &chosen);
    const char *word = other + 2;
    const char *value = strchr(word, ' ') + 1;
    if (chosen_in(selector, chosen, dml_arena_printf(r->arena, "%.*s", (int)(value - word), word)))
        return value;
    return dml_arena_printf(r->arena, "%.*s", (int)(other - key->fallback), key->fallback);
}

/* The last part of the path; one that says nothing alone brings its section: "model type". */
static const char *label_of(dml_spec_reader *r, const dml_spec_key *key)
{
    const char *last = dml_spec_last_part(key->path);
    if (dml_value_word("name type format stats scheme", last) < 0) return last;
    const int section = (int)strcspn(key->path, ".");
    return dml_arena_printf(r->arena, "%.*s %s", section, key->path, last);
}

void dml_spec_fill(dml_spec_reader *r)
{
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        dml_spec_entry *e = &r->source->entry[k];
        if (key->fallback) dml_spec_convert_text(r, key, default_of(r, key), r->spec);
        if (!e->value) continue;
        e->bad = dml_yaml_is_null(e->value);
        if (e->bad)
            dml_complain_at(&r->report, e->value->place, "'%s' has no value: expected %s",
                            dml_spec_last_part(key->path), wanted(r, key));
        else
            e->bad = !dml_spec_convert(r, key, label_of(r, key), e->value, r->spec);
    }
}
