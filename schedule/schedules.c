/* schedule/schedules.c - the table, names, and what all schedules have in common. */
#include "schedule/schedule.h"

#include "engine/base/str.h"
#include "schedule/versions.h"

#include <ctype.h>
#include <string.h>

static const dml_schedule *const table[] = {
#define X(id) &dml_schedule_##id,
    DML_SCHEDULE_LIST(X)
#undef X
};
enum { N_SCHEDULES = sizeof table / sizeof *table, NAME_BYTES = 64 };

const dml_schedule *const *dml_schedules(int32_t *n)
{
    *n = N_SCHEDULES;
    return table;
}

/* Letters and digits of the first word of `name`, lower case; returns what follows the word. */
static const char *fold(const char *name, char out[NAME_BYTES])
{
    size_t n = 0;
    for (; *name && *name != ' '; name++)
        if (*name != '-' && *name != '_' && n < NAME_BYTES - 1)
            out[n++] = (char)tolower((unsigned char)*name);
    out[n] = '\0';
    return name + strspn(name, " ");
}

/* Smallest distance of the folded `want` to any name of the schedule: 0 when it is one of them. */
static int distance(const dml_schedule *s, const char *want)
{
    char have[NAME_BYTES];
    fold(s->name, have);
    int best = dml_str_distance(want, have);
    for (const char *rest = s->aliases; *rest;) {
        rest = fold(rest, have);
        const int d = dml_str_distance(want, have);
        if (d < best) best = d;
    }
    return best;
}

dml_err dml_schedule_find(const char *name, const dml_schedule **out)
{
    char want[NAME_BYTES];
    fold(name, want);
    int32_t nearest = 0;
    int best = distance(table[0], want);
    for (int32_t i = 1; i < N_SCHEDULES; i++) {
        const int d = distance(table[i], want);
        if (d >= best) continue;
        best = d;
        nearest = i;
    }
    if (best == 0) {
        *out = table[nearest];
        return DML_ERR_OK;
    }
    dml_str allowed = {0};
    for (int32_t i = 0; i < N_SCHEDULES; i++)
        dml_str_printf(&allowed, "%s%s", i ? ", " : "", table[i]->name);
    const dml_err err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                                    "unknown schedule '%s'; nearest is '%s'\n  allowed: %s", name,
                                    table[nearest]->name, dml_str_text(&allowed));
    dml_str_free(&allowed);
    return err;
}

static dml_err check_updates(const dml_schedule *schedule, const dml_schedule_args *args)
{
    if (args->update_mbs < 1 || args->mbs % args->update_mbs != 0)
        DML_FAIL(DML_ERR_SPEC,
                 "%s is asynchronous: its updates have a number of micro-batches each that divides "
                 "the %d between two drains, and %d does not",
                 schedule->name, args->mbs, args->update_mbs);
    return DML_ERR_OK;
}

typedef struct reading {
    const dml_schedule *schedule;
    const dml_schedule_args *args;
} reading;

static int32_t version_of(const void *ctx, int32_t chunk, int32_t mb)
{
    const reading *r = ctx;
    return r->schedule->version(r->args, chunk, mb);
}

/* A segment of one update is a synchronous step. */
static dml_err set_updates(const dml_schedule *schedule, const dml_schedule_args *args,
                           dml_program *out)
{
    for (int32_t c = 0; c < out->chunks; c++)
        out->update_mbs[c] = args->update_mbs;
    out->votes = !dml_program_is_async(out);
    return dml_versions_set(out, version_of, &(reading){schedule, args});
}

/* " a, b or c" */
static void append_those_of_many_chunks(dml_str *out)
{
    const char *last = NULL;
    for (int32_t k = 0; k < N_SCHEDULES; k++) {
        if (!table[k]->many_chunks) continue;
        if (last) dml_str_printf(out, "%s %s", out->len ? "," : "", last);
        last = table[k]->name;
    }
    if (last) dml_str_printf(out, "%s %s", out->len ? " or" : "", last);
}

static dml_err refuse_chunks(const dml_schedule *schedule, int32_t chunks)
{
    dml_str others = {0};
    append_those_of_many_chunks(&others);
    const dml_err err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                                    "%s runs one chunk on each rank, not %d; several are for%s",
                                    schedule->name, chunks, dml_str_text(&others));
    dml_str_free(&others);
    return err;
}

dml_err dml_schedule_build(const dml_schedule *schedule, const dml_schedule_args *args,
                           dml_program *out)
{
    *out = (dml_program){0};
    if (args->virtual_stages < 1)
        DML_FAIL(DML_ERR_SPEC, "a rank runs at least one chunk, not %d", args->virtual_stages);
    if (args->virtual_stages > 1 && !schedule->many_chunks)
        return refuse_chunks(schedule, args->virtual_stages);
    if (args->stages > DML_MAX_CHUNKS / args->virtual_stages)
        DML_FAIL(DML_ERR_SPEC, "%d stages of %d chunks each are more than %d chunks", args->stages,
                 args->virtual_stages, DML_MAX_CHUNKS);
    DML_TRY(dml_program_init(out, args->stages, args->stages * args->virtual_stages, args->mbs));
    dml_err err = schedule->version ? check_updates(schedule, args) : DML_ERR_OK;
    if (err == DML_ERR_OK) err = schedule->build(args, out);
    if (err == DML_ERR_OK) dml_program_route_by_ops(out);
    if (err == DML_ERR_OK && schedule->version) err = set_updates(schedule, args, out);
    if (err != DML_ERR_OK) dml_program_free(out);
    return err;
}
