/* engine/plan_order.c - three sources of an order.
 *
 *   name      schedule/<name>.c
 *   auto      the list scheduler over stage s -> rank s mod ranks, with the plan's costs, within parallelism.memory
 *   csv:FILE  rows of ranks in PyTorch's form; which rank runs a stage is the file's to say
 */
#include "engine/plan_order.h"

#include "engine/chunk.h"
#include "schedule/check.h"
#include "schedule/csv.h"
#include "schedule/list.h"
#include "schedule/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIALS = 300, LARGEST_FILE = 256 << 20 };

/* ---- auto ---- */

/* What each stage keeps per micro-batch, and what of parallelism.memory each rank has left for that. */
typedef struct memory {
    int64_t *held_bytes;  /* [stages] */
    int64_t *limit_bytes; /* [ranks] NULL: no limit */
} memory;

static dml_err measure_memory(const dml_plan *plan, bool split, dml_arena *arena, memory *out)
{
    const int64_t most = plan->spec->parallelism.memory_bytes;
    *out = (memory){.held_bytes = DML_NEW_N(arena, int64_t, plan->stages)};
    if (most > 0) out->limit_bytes = DML_NEW_N(arena, int64_t, plan->ranks);
    for (int32_t r = 0; r < plan->ranks && most > 0; r++)
        out->limit_bytes[r] = most;
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_chunk c;
        DML_TRY(dml_chunk_plan(plan->spec, &plan->model, plan->stage_begin[s],
                               plan->stage_begin[s + 1], split, arena, &c));
        out->held_bytes[s] = c.size.stash + c.size.in + c.size.dy + c.size.dx;
        if (most > 0) out->limit_bytes[s % plan->ranks] -= c.size.shared + c.size.private_;
    }
    for (int32_t r = 0; r < plan->ranks && most > 0; r++)
        if (out->limit_bytes[r] < 0) out->limit_bytes[r] = 0;
    return DML_ERR_OK;
}

static dml_err make_one(const dml_plan *plan, const dml_program *routes, bool split,
                        dml_program *out, int64_t *wall_ns, int64_t *bound_ns)
{
    dml_arena arena = {0};
    memory m;
    dml_err err = measure_memory(plan, split, &arena, &m);
    if (err == DML_ERR_OK) {
        const dml_list_args args = {.routes = routes,
                                    .cost = &plan->cost,
                                    .split = split,
                                    .held_bytes = m.held_bytes,
                                    .limit_bytes = m.limit_bytes,
                                    .trials = TRIALS};
        err = dml_list_schedule(&args, out, wall_ns);
        *bound_ns = dml_list_bound_ns(&args);
    }
    dml_arena_free(&arena);
    return err;
}

/* Backwards cut in two fill more of the bubble, whole ones keep less: the shorter of the two that fit. */
static dml_err make_best(const dml_plan *plan, const dml_program *routes, dml_program *out,
                         int64_t *bound_ns)
{
    int64_t cut_ns = INT64_MAX, whole_ns = INT64_MAX, whole_bound_ns;
    dml_program whole;
    const dml_err cut = make_one(plan, routes, true, out, &cut_ns, bound_ns);
    if (cut != DML_ERR_OK && cut != DML_ERR_NOMEM) return cut;
    const dml_err err = make_one(plan, routes, false, &whole, &whole_ns, &whole_bound_ns);
    if (err != DML_ERR_OK) return cut == DML_ERR_OK ? DML_ERR_OK : err;
    if (cut == DML_ERR_OK && cut_ns < whole_ns) {
        dml_program_free(&whole);
        return DML_ERR_OK;
    }
    dml_program_free(out);
    *out = whole;
    return DML_ERR_OK;
}

static dml_err make_auto(const dml_plan *plan, dml_program *out, int64_t *bound_ns)
{
    dml_program routes;
    DML_TRY(dml_program_init(&routes, plan->ranks, plan->stages, plan->mbs / plan->replicas));
    for (int32_t s = 0; s < plan->stages; s++)
        for (int32_t mb = 0; mb < routes.mbs; mb++)
            *dml_program_route(&routes, s, mb) = s % plan->ranks;
    const dml_err err = make_best(plan, &routes, out, bound_ns);
    dml_program_free(&routes);
    return err;
}

/* ---- csv ---- */

static dml_err read_file(const char *path, dml_str *out)
{
    FILE *file = fopen(path, "re");
    if (!file) DML_FAIL(DML_ERR_SPEC, "cannot read the schedule '%s': %s", path, strerror(errno));
    char block[4096];
    size_t n;
    while ((n = fread(block, 1, sizeof block, file)) > 0 && out->len < LARGEST_FILE)
        dml_str_append(out, block, n);
    const bool failed = ferror(file);
    fclose(file);
    if (failed) DML_FAIL(DML_ERR_SPEC, "cannot read the schedule '%s'", path);
    if (out->len >= LARGEST_FILE || memchr(dml_str_text(out), '\0', out->len))
        DML_FAIL(DML_ERR_SPEC, "'%s' is not a schedule: no text, or over %d MiB", path,
                 LARGEST_FILE >> 20);
    return DML_ERR_OK;
}

static dml_err check_size(const dml_plan *plan, const char *path, const dml_program *order)
{
    const int32_t mbs = plan->mbs / plan->replicas;
    if (order->workers != plan->ranks || order->chunks != plan->stages)
        DML_FAIL(DML_ERR_SPEC,
                 "%s is for %d ranks and %d stages, the spec for pipeline_parallel_size %d and %d "
                 "stages (virtual_pipeline_stages %d)",
                 path, order->workers, order->chunks, plan->ranks, plan->stages,
                 plan->stages / plan->ranks);
    if (order->mbs != mbs)
        DML_FAIL(
            DML_ERR_SPEC,
            "%s is for %d micro-batches, the spec has %d on each replica (global_batch_size %d "
            "makes as many as the file)",
            path, order->mbs, mbs,
            order->mbs * plan->replicas * plan->spec->training.micro_batch_size);
    return DML_ERR_OK;
}

static dml_err read_csv(const dml_plan *plan, const char *path, dml_program *out)
{
    dml_str text = {0};
    dml_err err = read_file(path, &text);
    if (err == DML_ERR_OK) err = dml_csv_parse(path, dml_str_text(&text), out);
    dml_str_free(&text);
    DML_TRY(err);
    err = check_size(plan, path, out);
    if (err == DML_ERR_OK && (err = dml_check(out, NULL)) != DML_ERR_OK)
        err = dml_err_add(err, path, __FILE__, __LINE__);
    if (err != DML_ERR_OK) dml_program_free(out);
    return err;
}

/* ---- any ---- */

static const char *csv_path(const dml_spec *spec)
{
    const char *text = spec->parallelism.schedule;
    const size_t n = strlen(DML_ORDER_CSV);
    return strncmp(text, DML_ORDER_CSV, n) == 0 ? text + n : NULL;
}

static bool is_auto(const dml_spec *spec)
{
    return strcmp(spec->parallelism.schedule, DML_ORDER_AUTO) == 0;
}

dml_err dml_plan_order(const dml_plan *plan, dml_program *out, int64_t *bound_ns)
{
    *out = (dml_program){0};
    *bound_ns = 0;
    const char *path = csv_path(plan->spec);
    if (path) return read_csv(plan, path, out);
    if (is_auto(plan->spec)) return make_auto(plan, out, bound_ns);
    const dml_schedule *schedule;
    DML_TRY(dml_schedule_find(plan->spec->parallelism.schedule, &schedule));
    const dml_schedule_args args = {.stages = plan->ranks,
                                    .virtual_stages = plan->stages / plan->ranks,
                                    .mbs = plan->mbs / plan->replicas};
    return dml_schedule_build(schedule, &args, out);
}

const char *dml_plan_order_doc(const dml_spec *spec, dml_arena *arena)
{
    const char *path = csv_path(spec);
    const dml_schedule *schedule;
    if (path) return dml_arena_printf(arena, "read from %s", path);
    if (is_auto(spec)) return "made for these costs by the list scheduler";
    return dml_schedule_find(spec->parallelism.schedule, &schedule) == DML_ERR_OK ? schedule->doc
                                                                                  : "";
}
