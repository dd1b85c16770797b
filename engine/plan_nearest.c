/* engine/plan_nearest.c - tries one key at a time, closest values first.
 *
 * Whether a schedule takes a number of micro-batches is asked of the schedule alone, which refuses at once; another
 * number of ranks also cuts the model anew, so there a whole plan is made.
 */
#include "engine/plan_nearest.h"

#include "engine/plan.h"
#include "schedule/schedule.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* The most that a worker of the plan holds; 0 when there is no plan. */
static int64_t most_bytes(const dml_spec *spec)
{
    dml_plan plan;
    int64_t most = 0;
    if (dml_plan_make(spec, &plan) != DML_ERR_OK) return 0;
    for (int32_t w = 0; w < plan.workers; w++)
        most = MAX2(most, dml_plan_worker_bytes(&plan, w));
    dml_plan_free(&plan);
    return MAX2(most, 1);
}

static bool append_memory(const dml_spec *spec, const char *before, dml_str *out)
{
    if (spec->parallelism.memory_bytes == 0 || spec->cluster.memory.n > 0) return false;
    dml_spec free_of = *spec;
    dml_spec_drop_limits(&free_of);
    const int64_t bytes = most_bytes(&free_of);
    if (bytes == 0) return false;
    const int64_t mib = (bytes + (1 << 20) - 1) >> 20;
    dml_str_printf(out, "%sparallelism.memory %lldMiB", before, (long long)mib);
    return true;
}

static bool takes(const dml_schedule *schedule, const dml_spec *spec, int32_t mbs)
{
    const dml_schedule_args args = {.stages = spec->parallelism.pipeline_parallel_size,
                                    .virtual_stages = spec->parallelism.virtual_stages,
                                    .mbs = mbs};
    dml_program order;
    if (mbs < 1 || dml_schedule_build(schedule, &args, &order) != DML_ERR_OK) return false;
    dml_program_free(&order);
    return true;
}

static void append_batch(const dml_spec *spec, int32_t mbs, dml_str *out)
{
    dml_str_printf(out, "%d",
                   mbs * spec->parallelism.data_parallel_size * spec->training.micro_batch_size);
}

static bool append_micro_batches(const dml_spec *spec, const char *before, dml_str *out)
{
    const dml_schedule *schedule;
    if (dml_schedule_find(spec->parallelism.schedule, &schedule) != DML_ERR_OK) return false;
    const int32_t m = spec->training.num_microbatches / spec->parallelism.data_parallel_size,
                  most = 2 * spec->parallelism.pipeline_parallel_size + m;
    if (takes(schedule, spec, m)) return false; /* something else is wrong */
    for (int32_t d = 1; d <= most; d++) {
        const bool less = takes(schedule, spec, m - d), more = takes(schedule, spec, m + d);
        if (!less && !more) continue;
        dml_str_printf(out, "%straining.global_batch_size ", before);
        if (less) append_batch(spec, m - d, out);
        if (less && more) dml_str_printf(out, " or ");
        if (more) append_batch(spec, m + d, out);
        return true;
    }
    return false;
}

static bool append_ranks(const dml_spec *spec, const char *before, dml_str *out)
{
    const int32_t ranks = spec->parallelism.pipeline_parallel_size;
    const bool listed = spec->parallelism.split == DML_SPLIT_LIST;
    dml_spec other = *spec;
    if (listed) other.parallelism.split = DML_SPLIT_AUTO;
    other.parallelism.lost.n = 0; /* workers of this layout, not of another */
    other.parallelism.seats.n = 0;
    other.parallelism.order = NULL;
    for (int32_t d = listed ? 0 : 1; d <= ranks; d++)
        for (int32_t sign = -1; sign <= 1; sign += 2) {
            other.parallelism.pipeline_parallel_size = ranks + sign * d;
            if (ranks + sign * d < 1 || most_bytes(&other) == 0) continue;
            dml_str_printf(out, "%s%s%s", before, listed ? "parallelism.split auto" : "",
                           listed && d ? ", " : "");
            if (d) dml_str_printf(out, "parallelism.pipeline_parallel_size %d", ranks + sign * d);
            return true;
        }
    return false;
}

/* The rules of asynchronous schedules (engine/plan_async.c) name what would do themselves. */
static bool is_asynchronous(const dml_spec *spec)
{
    const dml_schedule *s;
    return dml_schedule_find(spec->parallelism.schedule, &s) == DML_ERR_OK && s->version;
}

void dml_plan_nearest(const dml_spec *spec, const char *before, dml_str *out)
{
    if (append_memory(spec, before, out)) return;
    if (spec->parallelism.n_stages > 0 || is_asynchronous(spec)) return;
    if (append_micro_batches(spec, before, out)) return;
    append_ranks(spec, before, out);
}
