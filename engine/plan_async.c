/* engine/plan_async.c - rules of pipedream and pipedream_2bw that the schedule's own code cannot know. */
#include "engine/plan_async.h"

#include "schedule/schedule.h"

#include <string.h>

enum { SEGMENT_MBS = 64, LEAST_STEPS = 8 };

/* The schedule, where it is a named one; NULL for auto and csv: both are synchronous. */
static const dml_schedule *schedule_of(const dml_spec *spec)
{
    const dml_schedule *s;
    const char *name = spec->parallelism.schedule;
    if (strcmp(name, DML_ORDER_AUTO) == 0 ||
        strncmp(name, DML_ORDER_CSV, strlen(DML_ORDER_CSV)) == 0)
        return NULL;
    return dml_schedule_find(name, &s) == DML_ERR_OK ? s : NULL;
}

/* Plain PipeDream: a stage's delay depends on where it stands. */
static bool is_pipedream(const dml_spec *spec)
{
    return strcmp(spec->parallelism.schedule, dml_schedule_pipedream.name) == 0;
}

bool dml_plan_is_asynchronous(const dml_spec *spec)
{
    const dml_schedule *s = schedule_of(spec);
    return s && s->version;
}

bool dml_plan_votes(const dml_spec *spec)
{
    return is_pipedream(spec) ? spec->parallelism.vertical_sync : spec->training.grad_clip > 0.0f;
}

/* ---- rules ---- */

static dml_err check_numbers(const dml_spec *spec)
{
    const char *name = spec->parallelism.schedule;
    if (spec->training.numerics == DML_EXACT)
        return dml_spec_fail(
            spec, dml_spec_place(spec, "training.numerics"), "training.numerics",
            "exact runs a step again when its scales were wrong, and %s has gone on by then: "
            "exact_wide needs no second run",
            name);
    if (spec->training.precision == DML_PRECISION_FP16)
        return dml_spec_fail(
            spec, dml_spec_place(spec, "training.precision"), "training.precision",
            "fp16 leaves steps out and moves its loss scale, and %s has gone on by then: bf16 "
            "needs no loss scale",
            name);
    return DML_ERR_OK;
}

static dml_err check_pipedream(const dml_plan *plan)
{
    static const char batch[] = "training.global_batch_size", clip[] = "training.grad_clip";
    const dml_spec *spec = plan->spec;
    if (plan->mbs != plan->replicas)
        return dml_spec_fail(spec, dml_spec_place(spec, batch), batch,
                             "pipedream updates the weights after one micro-batch of each replica: "
                             "global_batch_size is to be "
                             "micro_batch_size x data_parallel_size = %d, or micro_batch_size %d, "
                             "or schedule pipedream_2bw",
                             plan->replicas * spec->training.micro_batch_size,
                             spec->training.global_batch_size / plan->replicas);
    if (spec->training.grad_clip > 0.0f && !spec->parallelism.vertical_sync)
        return dml_spec_fail(
            spec, dml_spec_place(spec, clip), clip,
            "the stages of pipedream update at different times, so there is no global norm to "
            "clip by; parallelism.vertical_sync: true makes one, or schedule pipedream_2bw");
    return DML_ERR_OK;
}

static dml_err check_batches(const dml_plan *plan)
{
    static const char batch[] = "training.global_batch_size";
    const int32_t each = plan->mbs / plan->replicas;
    if (each >= plan->ranks) return DML_ERR_OK;
    return dml_spec_fail(
        plan->spec, dml_spec_place(plan->spec, batch), batch,
        "%s delays by one update only with as many micro-batches on each replica as ranks, %d, "
        "not %d; global_batch_size %d would do",
        plan->spec->parallelism.schedule, plan->ranks, each,
        plan->ranks * plan->replicas * plan->spec->training.micro_batch_size);
}

static dml_err check_sync(const dml_spec *spec)
{
    static const char key[] = "parallelism.vertical_sync";
    if (!spec->parallelism.vertical_sync || is_pipedream(spec)) return DML_ERR_OK;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "is for schedule pipedream; under %s all stages read one version anyway",
                         spec->parallelism.schedule);
}

static dml_err check_balance(const dml_spec *spec)
{
    static const char key[] = "parallelism.balance";
    if (spec->parallelism.balance == DML_BALANCE_STATIC) return DML_ERR_OK;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "%s runs equal pipelines alone; balance: dynamic deals micro-batches out "
                         "unequally, which takes a synchronous schedule",
                         spec->parallelism.schedule);
}

static dml_err check_decoupled(const dml_spec *spec)
{
    static const char key[] = "parallelism.decoupled";
    if (!spec->parallelism.decoupled) return DML_ERR_OK;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "%s keeps its own order when workers are lost; cutting backwards takes a "
                         "synchronous schedule",
                         spec->parallelism.schedule);
}

static dml_err check(const dml_plan *plan)
{
    DML_TRY(check_decoupled(plan->spec));
    DML_TRY(check_balance(plan->spec));
    DML_TRY(check_numbers(plan->spec));
    return is_pipedream(plan->spec) ? check_pipedream(plan) : check_batches(plan);
}

/* ---- segments ---- */

static int32_t steps_of_segment(const dml_plan *plan)
{
    const dml_spec *spec = plan->spec;
    const dml_interval *eval = &spec->training.eval_interval;
    const int32_t each = plan->mbs / plan->replicas, asked = spec->parallelism.drain_interval;
    int64_t n = (SEGMENT_MBS + each - 1) / each;
    if (n < LEAST_STEPS) n = LEAST_STEPS;
    if (asked > 0) n = asked;
    if (eval->n > 0.0 && !eval->epochs && n > (int64_t)eval->n) n = (int64_t)eval->n;
    if (spec->training.max_steps > 0 && n > spec->training.max_steps) n = spec->training.max_steps;
    return (int32_t)n;
}

static dml_err check_staggered(const dml_spec *spec)
{
    static const char key[] = "parallelism.staggered";
    if (!spec->parallelism.staggered) return DML_ERR_OK;
    return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                         "is for synchronous schedules; %s has no flush to stagger",
                         spec->parallelism.schedule);
}

dml_err dml_plan_updates(dml_plan *plan)
{
    plan->updates = 1;
    DML_TRY(check_sync(plan->spec));
    if (!dml_plan_is_asynchronous(plan->spec) || !dml_plan_is_equal(plan)) return DML_ERR_OK;
    DML_TRY(check_staggered(plan->spec));
    DML_TRY(check(plan));
    plan->updates = steps_of_segment(plan);
    return DML_ERR_OK;
}

void dml_plan_buffers(const dml_plan *p, int32_t stage, dml_chunk *c)
{
    dml_chunk_buffers(c, p->train.versions[stage], p->train.sums[stage], p->updates);
}
