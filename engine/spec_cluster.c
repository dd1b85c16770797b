/* engine/spec_cluster.c - cluster: workers of different speed and memory, and what lies between them.
 *
 *   cluster:
 *     speed: [1, 1, 0.5, 0.5]          against a worker of speed 1
 *     memory: [80GB, 80GB, 40GB, 40GB]
 *     links:                           innermost first; the last joins all
 *       - {workers: 2, latency: 5us, bandwidth: 50GB/s}
 *       - {latency: 20us, bandwidth: 5GB/s}
 *     rails: 2                         such links side by side out of each innermost block, which rings share
 *     slow:                            emulation only: no planner knows
 *       - {worker: 1, speed: 0.5, step: 20}
 *
 * A cluster may have more workers than the layout takes: it takes the first.
 */
#include "engine/spec_read.h"

#include "engine/spec_value.h"

enum { WORKERS, LATENCY, BANDWIDTH, LINK_OPTIONS };
enum { WORKER, SPEED, STEP, SLOW_OPTIONS };

static const dml_spec_key link_options[LINK_OPTIONS] = {
    [WORKERS] = {"workers", DML_SPEC_INT, offsetof(dml_link_level, workers), DML_SPEC_NONE,
                 "[1,65536]", "", "", ""},
    [LATENCY] = {"latency", DML_SPEC_TIME, offsetof(dml_link_level, link.latency_ns), DML_SPEC_NONE,
                 "", "", "", ""},
    [BANDWIDTH] = {"bandwidth", DML_SPEC_RATE, offsetof(dml_link_level, link.bytes_per_s),
                   DML_SPEC_NONE, "", "", "", ""},
};

static const dml_spec_key slow_options[SLOW_OPTIONS] = {
    [WORKER] = {"worker", DML_SPEC_INT, offsetof(dml_slow_spec, worker), DML_SPEC_NONE, "[0,65535]",
                "", "", ""},
    [SPEED] = {"speed", DML_SPEC_NUMBER, offsetof(dml_slow_spec, speed), DML_SPEC_NONE, ">0", "",
               "", ""},
    [STEP] = {"step", DML_SPEC_LONG, offsetof(dml_slow_spec, step), DML_SPEC_NONE, ">=0", "", "",
              ""},
};

/* ---- the cluster, worker by worker ------------------------------------------------------------------- */

dml_links dml_spec_links(const dml_spec *spec)
{
    const int32_t n = spec->cluster.n_links;
    if (n == 0)
        return (dml_links){
            .outer = {spec->parallelism.link_latency_ns, spec->parallelism.link_bytes_per_s}};
    return (dml_links){.outer = spec->cluster.link[n - 1].link,
                       .levels = n - 1,
                       .level = spec->cluster.link,
                       .rails = spec->cluster.rails};
}

dml_links dml_spec_known_links(const dml_spec *spec)
{
    const dml_links links = dml_spec_links(spec);
    if (!spec->costs || !dml_links_are_free(&links)) return links;
    return (dml_links){
        .outer = {spec->costs->link_latency_ns, (double)spec->costs->link_bytes_per_s}};
}

double dml_spec_speed(const dml_spec *spec, int32_t worker)
{
    return worker < spec->cluster.speed.n ? spec->cluster.speed.v[worker] : 1.0;
}

int64_t dml_spec_memory(const dml_spec *spec, int32_t worker)
{
    return worker < spec->cluster.memory.n ? spec->cluster.memory.v[worker]
                                           : spec->parallelism.memory_bytes;
}

bool dml_spec_has_limits(const dml_spec *spec)
{
    return spec->parallelism.memory_bytes > 0 || spec->cluster.memory.n > 0;
}

void dml_spec_drop_limits(dml_spec *spec)
{
    spec->parallelism.memory_bytes = 0;
    spec->cluster.memory = (dml_size_list){0};
}

double dml_spec_pace(const dml_spec *spec, int32_t worker, int64_t step)
{
    double pace = dml_spec_speed(spec, worker);
    int64_t since = -1;
    for (int32_t i = 0; i < spec->cluster.n_slow; i++) {
        const dml_slow_spec *s = &spec->cluster.slow[i];
        if (s->worker != worker || s->step > step || s->step < since) continue;
        pace = s->speed;
        since = s->step;
    }
    return pace;
}

/* Of two keys for one thing the one that says it. */
bool dml_spec_cluster_is_shown(const dml_spec *spec, dml_spec_key_id id)
{
    if (id == DML_KEY_MEMORY) return spec->cluster.memory.n == 0;
    if (id == DML_KEY_LINK_LATENCY || id == DML_KEY_LINK_BANDWIDTH)
        return spec->cluster.n_links == 0;
    if (id == DML_KEY_SPEED) return spec->cluster.speed.n > 0;
    if (id == DML_KEY_MEMORIES) return spec->cluster.memory.n > 0;
    if (id == DML_KEY_LINKS) return spec->cluster.n_links > 0;
    return id != DML_KEY_SLOW || spec->cluster.n_slow > 0;
}

/* ---- printing ---------------------------------------------------------------------------------------- */

void dml_spec_print_links(dml_str *s, const dml_spec *spec)
{
    for (int32_t i = 0; i < spec->cluster.n_links; i++) {
        const dml_link_level *l = &spec->cluster.link[i];
        dml_str_printf(s, i ? ", {" : "[{");
        if (l->workers > 0) dml_str_printf(s, "workers: %d, ", l->workers);
        dml_str_printf(s, "latency: ");
        dml_value_print_time(s, l->link.latency_ns);
        dml_str_printf(s, ", bandwidth: ");
        dml_value_print_double(s, l->link.bytes_per_s);
        dml_str_printf(s, "B/s}");
    }
    dml_str_printf(s, "]");
}

void dml_spec_print_slow(dml_str *s, const dml_spec *spec)
{
    for (int32_t i = 0; i < spec->cluster.n_slow; i++) {
        const dml_slow_spec *w = &spec->cluster.slow[i];
        dml_str_printf(s, "%sworker: %d, speed: ", i ? ", {" : "[{", w->worker);
        dml_value_print_double(s, w->speed);
        dml_str_printf(s, ", step: %lld}", (long long)w->step);
    }
    dml_str_printf(s, "]");
}

/* ---- reading ----------------------------------------------------------------------------------------- */

bool dml_spec_read_list(dml_spec_reader *r, const dml_spec_key *key, const char *label,
                        const dml_yaml *node, dml_spec_type of, size_t bytes, dml_any_list *out)
{
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, "a list, a value for each worker");
        return false;
    }
    dml_spec_key each = *key;
    each.type = of;
    each.offset = 0;
    char *v = dml_arena_alloc(r->arena, (int64_t)bytes * node->n);
    bool ok = true;
    for (int32_t i = 0; i < node->n; i++)
        ok &= dml_spec_convert(r, &each, label, &node->item[i], v + bytes * (size_t)i);
    *out = (dml_any_list){v, ok ? node->n : 0};
    return ok;
}

/* Complains unless the mapping, read already, has every option from `first` on. */
static bool has_options(dml_spec_reader *r, const dml_yaml *node, const char *what,
                        const dml_spec_key *options, int32_t first, int32_t n)
{
    for (int32_t o = first; o < n; o++) {
        if (dml_spec_option(node, &options[o])) continue;
        dml_complain_at(&r->report, node->place, "%s needs '%s'", what, options[o].path);
        return false;
    }
    return true;
}

/* Blocks of a level hold whole blocks of the one within. */
static bool level_fits(dml_spec_reader *r, const dml_yaml *list, const dml_link_level *level,
                       int32_t i)
{
    const dml_yaml *node = &list->item[i], *workers = dml_spec_option(node, &link_options[WORKERS]);
    if (!workers && i + 1 < list->n) {
        dml_complain_at(&r->report, node->place,
                        "a level of links needs 'workers', how many it joins; only the last, "
                        "which joins all, does not");
        return false;
    }
    if (!workers || i == 0) return true;
    if (level[i].workers > level[i - 1].workers && level[i].workers % level[i - 1].workers == 0)
        return true;
    dml_complain_at(&r->report, workers->place,
                    "blocks of %d workers do not hold whole blocks of %d, the level within: "
                    "innermost first, each a multiple of the one before",
                    level[i].workers, level[i - 1].workers);
    return false;
}

bool dml_spec_read_links(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec)
{
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, "a list of links such as [{workers: 8, bandwidth: 50GB/s}]");
        return false;
    }
    dml_link_level *level = DML_NEW_N(r->arena, dml_link_level, node->n);
    bool ok = true;
    for (int32_t i = 0; i < node->n && ok; i++)
        ok = dml_spec_read_options(r, &node->item[i], "a level of links", link_options,
                                   LINK_OPTIONS, &level[i]) &&
             level_fits(r, node, level, i);
    spec->cluster.link = level;
    spec->cluster.n_links = ok ? node->n : 0;
    return ok;
}

bool dml_spec_read_slow(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec)
{
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, "a list such as [{worker: 2, speed: 0.5, step: 20}]");
        return false;
    }
    dml_slow_spec *slow = DML_NEW_N(r->arena, dml_slow_spec, node->n);
    bool ok = true;
    for (int32_t i = 0; i < node->n; i++)
        ok &= dml_spec_read_options(r, &node->item[i], "a slow worker", slow_options, SLOW_OPTIONS,
                                    &slow[i]) &&
              has_options(r, &node->item[i], "a slow worker", slow_options, 0, STEP);
    spec->cluster.slow = slow;
    spec->cluster.n_slow = ok ? node->n : 0;
    return ok;
}

/* ---- what must hold ---------------------------------------------------------------------------------- */

/* A list of the cluster says something of every worker. */
static void check_length(dml_spec_reader *r, dml_spec_key_id id, int32_t n)
{
    const dml_spec_entry *e = &r->source->entry[id];
    const int32_t workers = dml_spec_workers(r->spec);
    if (n == 0 || e->bad || n >= workers) return;
    dml_complain_at(&r->report, e->value->place, "'%s' lists %d workers, the layout has %d",
                    e->key->text, n, workers);
}

/* Two keys for one thing. */
static void keep_one(dml_spec_reader *r, dml_spec_key_id list, dml_spec_key_id one)
{
    const dml_spec_entry *a = &r->source->entry[list], *b = &r->source->entry[one];
    if (!a->value || a->value->n == 0 || !b->value) return;
    if (one == DML_KEY_MEMORY && r->spec->parallelism.memory_bytes == 0) return; /* no limit */
    dml_complain_at(&r->report, a->key->place, "'%s' and '%s' on %s say the same: keep one",
                    dml_spec_keys[list].path, dml_spec_keys[one].path,
                    dml_complain_where(&r->report, b->key->place));
    dml_complain_note(&r->report, "%s=[] on the command line drops the list",
                      dml_spec_keys[list].path);
}

static void check_last_level(dml_spec_reader *r)
{
    const dml_spec_entry *e = &r->source->entry[DML_KEY_LINKS];
    const int32_t n = r->spec->cluster.n_links, workers = dml_spec_workers(r->spec);
    if (n == 0 || e->bad) return;
    const int32_t joined = r->spec->cluster.link[n - 1].workers;
    if (joined == 0 || joined >= workers) return;
    dml_complain_at(&r->report, e->value->item[n - 1].place,
                    "the last level joins all workers: blocks of %d are too small for %d; leave "
                    "'workers' out, or add a level",
                    joined, workers);
}

void dml_spec_check_cluster(dml_spec_reader *r)
{
    check_length(r, DML_KEY_SPEED, r->spec->cluster.speed.n);
    check_length(r, DML_KEY_MEMORIES, r->spec->cluster.memory.n);
    check_last_level(r);
    keep_one(r, DML_KEY_MEMORIES, DML_KEY_MEMORY);
    keep_one(r, DML_KEY_LINKS, DML_KEY_LINK_LATENCY);
    keep_one(r, DML_KEY_LINKS, DML_KEY_LINK_BANDWIDTH);
}
