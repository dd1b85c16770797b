/* engine/replay_report.c - the table and the JSON of a replay. */
#include "engine/replay_report.h"

#include "engine/spec_value.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_DIGITS = 9 };

static double seconds(int64_t ns)
{
    return (double)ns * 1e-9;
}

static const char *model_text(dml_published model)
{
    return model == DML_PUBLISHED_LARGE ? "large" : "350m";
}

/* ---- table ------------------------------------------------------------------------------------------- */

static void print_head(const dml_replay_report *r, dml_str *out)
{
    const dml_outages *o = r->outages;
    const dml_replay_planner *p = r->planner;
    int32_t went = 0, came = 0;
    for (int32_t i = 0; i < o->n; i++) {
        const uint64_t before = i > 0 ? o->at[i - 1].lost : 0;
        went += __builtin_popcountll(o->at[i].lost & ~before);
        came += __builtin_popcountll(before & ~o->at[i].lost);
    }
    dml_str_printf(
        out, "%s: %.2f h, %d changes, %d workers go, %d come back, %.2f of %d live on average",
        r->trace, seconds(o->end_ns) / 3600, o->n, went, came, dml_outages_mean_live(o),
        o->workers);
    if (o->full > 0) dml_str_printf(out, "; who, drawn with seed %" PRIu64, r->seed);
    if (o->full > 0 && o->full != o->workers)
        dml_str_printf(out, "; scaled from %d workers", o->full);
    dml_str_printf(
        out,
        "\n%s: %d pipelines of %d, %s, %d micro-batches a step, %.3f ms and %.2f samples/s "
        "without a fault\n\n",
        r->run, p->replicas, p->ranks, r->schedule, p->mbs, (double)p->step_ns * 1e-6,
        r->samples_per_s);
}

static void print_row(const dml_replay_report *r, const dml_replay_result *y, dml_str *out)
{
    const double scaled = r->result[DML_REPLAY_SCALED].mean;
    dml_str_printf(out, "%-13s %12.2f %13.4f %13.3f %8d %12.1f %8.2f%% %11.1f %6d\n",
                   dml_replay_policy_text(y->policy), y->mean * r->samples_per_s, y->mean,
                   scaled > 0 ? y->mean / scaled : 0, y->transitions, seconds(y->transition_ns),
                   100 * (double)y->transition_ns / (double)r->outages->end_ns, y->steps_lost,
                   y->rollbacks);
}

void dml_replay_print(const dml_replay_report *r, dml_str *out)
{
    const dml_replay_charges *c = r->charges;
    dml_str recovery = {0}, restart = {0}, checkpoint = {0};
    dml_value_print_time(&recovery, c->recovery_ns);
    dml_value_print_time(&restart, c->restart_ns);
    dml_value_print_time(&checkpoint, c->checkpoint_ns);
    print_head(r, out);
    dml_str_printf(out, "%-13s %12s %13s %13s %8s %12s %9s %11s %6s\n", "policy", "samples/s",
                   "of fault-free", "/fault-scaled", "changes", "in them s", "of time",
                   "steps lost", "rolled");
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++)
        print_row(r, &r->result[k], out);
    dml_str_printf(out, "\n");
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++)
        dml_str_printf(out, "%-13s %s\n", dml_replay_policy_text((dml_replay_policy)k),
                       dml_replay_policy_meaning((dml_replay_policy)k));
    dml_str_printf(
        out,
        "\ncharged: %s a recovery (ours, slipstream, drop) and what moves at %.3g GB/s; %s a "
        "restart, from a checkpoint every %s\n"
        "recycle, oobleck and bamboo are not run: published throughputs (model %s) and "
        "stalls calibrated to the published means\n",
        dml_str_text(&recovery), c->link_bytes_per_s * 1e-9, dml_str_text(&restart),
        c->checkpoint_ns > 0 ? dml_str_text(&checkpoint) : "never", model_text(c->published));
    dml_str_free(&recovery);
    dml_str_free(&restart);
    dml_str_free(&checkpoint);
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

static json_t *spans_of(const dml_replay_result *y)
{
    json_t *all = json_array();
    for (int32_t i = 0; i < y->n; i++)
        json_array_append_new(all, json_pack("{s:f, s:f, s:f, s:s}", "from_s",
                                             seconds(y->span[i].from_ns), "to_s",
                                             seconds(y->span[i].to_ns), "rate", y->span[i].rate,
                                             "what", y->span[i].what));
    return all;
}

static json_t *row_of(const dml_replay_report *r, const dml_replay_result *y)
{
    const double scaled = r->result[DML_REPLAY_SCALED].mean;
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:i, s:o}", "policy",
                     dml_replay_policy_text(y->policy), "samples_per_s", y->mean * r->samples_per_s,
                     "of_fault_free", y->mean, "of_fault_scaled", scaled > 0 ? y->mean / scaled : 0,
                     "transition_s", seconds(y->transition_ns), "steps", y->steps, "steps_lost",
                     y->steps_lost, "transitions", (int)y->transitions, "rollbacks",
                     (int)y->rollbacks, "spans", spans_of(y));
}

void dml_replay_json(const dml_replay_report *r, dml_str *out)
{
    const dml_replay_charges *c = r->charges;
    const dml_replay_planner *p = r->planner;
    json_t *rows = json_array();
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++)
        json_array_append_new(rows, row_of(r, &r->result[k]));
    json_t *charges =
        json_pack("{s:f, s:f, s:f, s:f, s:s}", "recovery_s", seconds(c->recovery_ns),
                  "link_bytes_per_s", c->link_bytes_per_s, "restart_s", seconds(c->restart_ns),
                  "checkpoint_s", seconds(c->checkpoint_ns), "published", model_text(c->published));
    json_t *all = json_pack(
        "{s:s, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:f, s:f, s:i, s:f, s:o, s:o}", "trace", r->trace,
        "run", r->run, "schedule", r->schedule, "seed", (json_int_t)r->seed, "pipelines",
        (int)p->replicas, "ranks", (int)p->ranks, "micro_batches", (int)p->mbs, "trace_workers",
        (int)r->outages->full, "hours", seconds(r->outages->end_ns) / 3600, "mean_live",
        dml_outages_mean_live(r->outages), "changes", (int)r->outages->n, "step_s",
        seconds(p->step_ns), "charges", charges, "policies", rows);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(JSON_DIGITS)) : NULL;
    DML_ASSERT(text != NULL);
    dml_str_append(out, text, strlen(text));
    free(text);
    json_decref(all);
}
