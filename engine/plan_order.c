/* engine/plan_order.c - three sources of an order.
 *
 *   name      schedule/<name>.c
 *   auto      the list scheduler with the plan's costs, within parallelism.memory, over stage s -> rank s mod ranks,
 *             or over the workers of parallelism.stages by their shares
 *   csv:FILE  rows of ranks in PyTorch's form; which rank runs a stage is the file's to say
 */
#include "engine/plan_order.h"

#include "engine/split_stages.h"
#include "schedule/check.h"
#include "schedule/csv.h"
#include "schedule/list_parts.h"
#include "schedule/schedule.h"
#include "schedule/shares.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIALS = 300, LARGEST_FILE = 256 << 20 };

/* ---- auto ---- */

static bool holds(const dml_program *routes, int32_t worker, int32_t stage)
{
    for (int32_t mb = 0; mb < routes->mbs; mb++)
        if (*dml_program_route(routes, stage, mb) == worker) return true;
    return false;
}

/* Of a worker of the routes: of equal pipelines of which they show one the tightest that it stands for. */
static int64_t limit_of(const dml_plan *plan, const dml_program *routes, int32_t worker)
{
    const int32_t each = plan->workers / routes->workers;
    int64_t least = INT64_MAX;
    for (int32_t k = 0; k < each; k++) {
        const int64_t bytes = dml_spec_memory(plan->spec, worker * each + k);
        if (bytes > 0 && bytes < least) least = bytes;
    }
    return least;
}

/* parallelism.stash_limit, where no bytes are a limit in micro-batches: one is kept for each chunk; else in bytes, by the
 * least that a micro-batch of the worker's keeps. */
static void limit_stash(const dml_plan *plan, const dml_program *routes, dml_arena *arena,
                        dml_order_memory *m)
{
    const int64_t most = plan->spec->parallelism.stash_limit;
    const bool bytes = m->limit_bytes;
    if (most == 0) return;
    if (!bytes) m->limit_bytes = DML_NEW_N(arena, int64_t, routes->workers);
    for (int32_t s = 0; s < plan->stages && !bytes; s++)
        m->held_bytes[s] = 1;
    for (int32_t w = 0; w < routes->workers; w++) {
        int64_t least = INT64_MAX;
        for (int32_t s = 0; s < plan->stages; s++)
            if (m->held_bytes[s] > 0 && m->held_bytes[s] < least && holds(routes, w, s))
                least = m->held_bytes[s];
        if (least == INT64_MAX) continue; /* it keeps nothing */
        if (!bytes || most * least < m->limit_bytes[w]) m->limit_bytes[w] = most * least;
    }
}

dml_err dml_plan_order_memory(const dml_plan *plan, const dml_program *routes, bool split,
                              dml_arena *arena, dml_order_memory *out)
{
    const int32_t limited = dml_spec_has_limits(plan->spec) ? routes->workers : 0;
    *out = (dml_order_memory){.held_bytes = DML_NEW_N(arena, int64_t, plan->stages)};
    if (limited > 0) out->limit_bytes = DML_NEW_N(arena, int64_t, routes->workers);
    for (int32_t w = 0; w < limited; w++)
        out->limit_bytes[w] = limit_of(plan, routes, w);
    for (int32_t s = 0; s < plan->stages; s++) {
        dml_chunk c;
        DML_TRY(dml_chunk_plan(plan->spec, &plan->model, plan->stage_begin[s],
                               plan->stage_begin[s + 1], split, arena, &c));
        const dml_stage_need need = dml_chunk_need(plan->spec, &plan->model, &c);
        out->held_bytes[s] =
            need.stash + need.in + need.dy + need.dx + dml_worker_align(need.labels);
        for (int32_t w = 0; w < limited; w++)
            if (holds(routes, w, s)) out->limit_bytes[w] -= need.once;
    }
    for (int32_t w = 0; w < limited; w++)
        if (out->limit_bytes[w] < 0) out->limit_bytes[w] = 0;
    limit_stash(plan, routes, arena, out);
    return DML_ERR_OK;
}

static dml_err make_one(const dml_plan *plan, const dml_program *routes, const dml_cost *cost,
                        bool split, dml_program *out, int64_t *wall_ns, int64_t *bound_ns)
{
    dml_arena arena = {0};
    dml_order_memory m;
    dml_err err = dml_plan_order_memory(plan, routes, split, &arena, &m);
    if (err == DML_ERR_OK) {
        const dml_list_args args = {.routes = routes,
                                    .cost = cost,
                                    .split = split,
                                    .held_bytes = m.held_bytes,
                                    .limit_bytes = m.limit_bytes,
                                    .trials = TRIALS};
        err = dml_list_schedule_parts(&args, out, wall_ns);
        *bound_ns = dml_list_bound_ns(&args);
    }
    dml_arena_free(&arena);
    return err;
}

/* Backwards cut in two fill more of the bubble, whole ones keep less: the shorter of the two that fit. */
static dml_err make_best(const dml_plan *plan, const dml_program *routes, const dml_cost *cost,
                         dml_program *out, int64_t *bound_ns)
{
    int64_t cut_ns = INT64_MAX, whole_ns = INT64_MAX, whole_bound_ns;
    dml_program whole;
    const dml_err cut = make_one(plan, routes, cost, true, out, &cut_ns, bound_ns);
    if (cut != DML_ERR_OK && cut != DML_ERR_NOMEM) return cut;
    const dml_err err = make_one(plan, routes, cost, false, &whole, &whole_ns, &whole_bound_ns);
    if (err != DML_ERR_OK) return cut == DML_ERR_OK ? DML_ERR_OK : err;
    if (cut == DML_ERR_OK && cut_ns < whole_ns) {
        dml_program_free(&whole);
        return DML_ERR_OK;
    }
    dml_program_free(out);
    *out = whole;
    return DML_ERR_OK;
}

/* One pipeline of equal ones, or all workers and micro-batches where each stage names its own. */
static dml_err make_routes(const dml_plan *plan, dml_program *out)
{
    if (!dml_plan_is_equal(plan)) {
        DML_TRY(dml_program_init(out, plan->workers, plan->stages, plan->mbs));
        for (int32_t s = 0; s < plan->stages; s++) {
            const dml_stage_spec *stage = &plan->spec->parallelism.stage[s];
            dml_route_by_shares(out, s, stage->workers.v, stage->shares.v, stage->workers.n);
        }
        return DML_ERR_OK;
    }
    DML_TRY(dml_program_init(out, plan->ranks, plan->stages, plan->mbs / plan->replicas));
    for (int32_t s = 0; s < plan->stages; s++)
        for (int32_t mb = 0; mb < out->mbs; mb++)
            *dml_program_route(out, s, mb) = s % plan->ranks;
    return DML_ERR_OK;
}

/* The costs of the routes' workers: of equal pipelines of the one that takes longest at the best, by its bound.  All
 * run its order, and no order lets the step end before it. */
static dml_err slowest_replica(const dml_plan *plan, const dml_program *routes, dml_cost *out)
{
    if (!dml_plan_is_equal(plan)) return dml_cost_copy(&plan->cost, out);
    const bool alike = !plan->cost.speed && plan->cost.links.levels == 0;
    int64_t longest_ns = -1;
    *out = (dml_cost){0};
    for (int32_t k = 0; k < (alike ? 1 : plan->replicas); k++) {
        dml_cost cost;
        DML_TRY(dml_cost_of_replica(&plan->cost, plan->replicas, k, &cost));
        const int64_t ns = dml_list_bound_ns(
            &(dml_list_args){.routes = routes, .cost = &cost, .split = true, .trials = 1});
        if (ns > longest_ns) {
            longest_ns = ns;
            dml_cost_free(out);
            *out = cost;
        } else {
            dml_cost_free(&cost);
        }
    }
    return DML_ERR_OK;
}

static dml_err make_auto(const dml_plan *plan, dml_program *out, int64_t *bound_ns)
{
    dml_program routes;
    DML_TRY(make_routes(plan, &routes));
    dml_cost cost;
    dml_err err = slowest_replica(plan, &routes, &cost);
    if (err == DML_ERR_OK) err = make_best(plan, &routes, &cost, out, bound_ns);
    dml_cost_free(&cost);
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

/* ---- in the spec ---- */

static const char order_key[] = "parallelism.order";

static dml_err refuse_order(const dml_spec *spec, const char *text)
{
    return dml_spec_fail(spec, dml_spec_place(spec, order_key), order_key, "%.*s",
                         (int)strcspn(text, "\n"), text);
}

/* Of the checker, which speaks of a mistake of ours: without the place in our sources. */
static dml_err refuse_checked(const dml_spec *spec)
{
    const char *text = strstr(dml_err_trail(), ": ");
    return refuse_order(spec, text ? text + strlen(": ") : dml_err_trail());
}

static dml_err check_workers(const dml_plan *plan, const dml_program *order)
{
    const dml_spec *spec = plan->spec;
    const dml_place place = dml_spec_place(spec, order_key);
    if (order->workers != plan->workers || order->chunks != plan->stages || order->mbs != plan->mbs)
        return dml_spec_fail(spec, place, order_key,
                             "the order has %d rows, %d stages and %d micro-batches, the spec %d "
                             "workers, %d stages and %d micro-batches",
                             order->workers, order->chunks, order->mbs, plan->workers, plan->stages,
                             plan->mbs);
    for (int32_t w = 0; w < plan->workers; w++)
        if (dml_plan_lost(plan, w) && order->list[w].n > 0)
            return dml_spec_fail(spec, place, order_key,
                                 "worker %d is lost (parallelism.lost), but its row has work", w);
    return DML_ERR_OK;
}

dml_err dml_plan_read_order(const dml_plan *plan, dml_program *out)
{
    const dml_spec *spec = plan->spec;
    *out = (dml_program){0};
    if (plan->updates > 1) return refuse_order(spec, "only synchronous orders can be written out");
    dml_err err = dml_csv_parse("order", spec->parallelism.order, out);
    if (err == DML_ERR_SPEC) return refuse_order(spec, dml_err_trail());
    DML_TRY(err);
    err = check_workers(plan, out);
    if (err == DML_ERR_OK && dml_check(out, NULL) != DML_ERR_OK) err = refuse_checked(spec);
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

/* What makes orders knows no spec: here its refusals get the place to mend. */
static dml_err at_schedule(const dml_spec *spec, dml_err err)
{
    static const char key[] = "parallelism.schedule";
    if (err != DML_ERR_SPEC) return err;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key, "%s", dml_err_trail());
}

dml_err dml_plan_at_memory(const dml_spec *spec, dml_err err)
{
    static const char stash[] = "parallelism.stash_limit";
    const char *key = spec->cluster.memory.n > 0 ? "cluster.memory" : "parallelism.memory";
    if (err != DML_ERR_NOMEM) return err;
    if (!dml_spec_has_limits(spec) && spec->parallelism.stash_limit > 0)
        return dml_spec_fail(spec, dml_spec_place(spec, stash), stash,
                             "no order keeps so few: of a micro-batch a worker keeps one for each "
                             "stage that it runs");
    if (!dml_spec_has_limits(spec)) return err;
    const char *text = strstr(dml_err_trail(), ": "); /* behind the place in our sources */
    text = text ? text + strlen(": ") : dml_err_trail();
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "no order fits: %.*s beside weights and optimizer state",
                         (int)strcspn(text, "\n"), text);
}

/* All but auto write the order of one pipeline and place its stages themselves. */
static dml_err refuse_stages(const dml_spec *spec)
{
    const char *key = "parallelism.schedule", *path = csv_path(spec);
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "schedule %s places the stages of equal pipelines itself; "
                         "parallelism.stages takes schedule auto",
                         path ? "csv:FILE" : spec->parallelism.schedule);
}

dml_err dml_plan_order(const dml_plan *plan, dml_program *out, int64_t *bound_ns)
{
    *out = (dml_program){0};
    *bound_ns = 0;
    if (!dml_plan_is_equal(plan) && !is_auto(plan->spec)) return refuse_stages(plan->spec);
    const char *path = csv_path(plan->spec);
    if (path) return read_csv(plan, path, out);
    if (is_auto(plan->spec)) return dml_plan_at_memory(plan->spec, make_auto(plan, out, bound_ns));
    const dml_schedule *schedule;
    DML_TRY(dml_schedule_find(plan->spec->parallelism.schedule, &schedule));
    const dml_schedule_args args = {.stages = plan->ranks,
                                    .virtual_stages = plan->stages / plan->ranks,
                                    .mbs = plan->mbs / plan->replicas * plan->updates,
                                    .update_mbs =
                                        schedule->version ? plan->mbs / plan->replicas : 0,
                                    .vertical_sync = plan->spec->parallelism.vertical_sync};
    return at_schedule(plan->spec, dml_schedule_build(schedule, &args, out));
}

const char *dml_plan_order_doc(const dml_spec *spec, dml_arena *arena)
{
    const char *path = csv_path(spec);
    const dml_schedule *schedule;
    if (dml_spec_has_order(spec)) return "written in the spec";
    if (path) return dml_arena_printf(arena, "read from %s", path);
    if (is_auto(spec)) return "made for these costs by the list scheduler";
    return dml_schedule_find(spec->parallelism.schedule, &schedule) == DML_ERR_OK ? schedule->doc
                                                                                  : "";
}
