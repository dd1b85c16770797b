/* engine/leader.c - reports become lines for people and records for programs, from the header to the last report.
 * The figures at the end are made in engine/leader_end.c. */
#include "engine/leader.h"

#include "comm/transport.h"
#include "engine/base/clock.h"
#include "engine/chunk_sum.h"
#include "engine/leader_impl.h"
#include "engine/plan_async.h"
#include "engine/update.h"
#include "schedule/versions.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

dml_err dml_leader_written(dml_leader *l, dml_err err)
{
    if (err != DML_ERR_OK) l->has_metrics = false;
    return err;
}

/* ---- header ---- */

static dml_err count_steps(dml_leader *l, int64_t *train_samples, int64_t *test_samples)
{
    const dml_spec *spec = l->plan->spec;
    dml_data *data;
    DML_TRY(dml_data_open(spec, false, DML_DATA_COUNTS, &l->counts));
    l->total_steps = dml_data_total_steps(l->counts);
    l->epoch_steps = dml_data_epoch_steps(l->counts);
    l->train_samples = *train_samples = dml_data_count(l->counts);
    DML_TRY(dml_data_open(spec, true, DML_DATA_COUNTS, &data));
    *test_samples = dml_data_count(data);
    dml_data_close(data);
    return DML_ERR_OK;
}

static dml_run_start_record run_start(const dml_leader *l, const dml_leader_config *c,
                                      const char *host, const char *backend, int64_t train_samples,
                                      int64_t test_samples)
{
    const dml_spec *spec = l->plan->spec;
    return (dml_run_start_record){
        .run = spec->run.name,
        .version = DML_VERSION,
        .spec_path = c->spec_path,
        .output_dir = spec->run.output_dir,
        .host = host,
        .backend = backend,
        .numerics = dml_sum_info_of(spec->training.numerics)->name,
        .precision = dml_precision_name(spec->training.precision),
        .model = spec->model.type,
        .layers = l->plan->model.n_layers,
        .parameters = l->plan->model.param_elems,
        .data = spec->data.format == DML_DATA_SYNTHETIC ? "synthetic" : spec->data.path,
        .train_samples = train_samples,
        .test_samples = test_samples,
        .seed = (int64_t)spec->run.seed,
        .global_batch_size = spec->training.global_batch_size,
        .micro_batch_size = spec->training.micro_batch_size,
        .num_microbatches = l->plan->mbs,
        .total_steps = l->total_steps,
        .epochs = (double)l->total_steps / (double)l->epoch_steps,
    };
}

static double flops_of(const dml_model *m, int32_t begin, int32_t end)
{
    double sum = 0.0;
    for (int32_t i = begin; i < end; i++)
        for (int pass = 0; pass < 3; pass++)
            sum += (double)m->layer[i].flops[pass];
    return sum;
}

static void describe_stages(const dml_leader *l, dml_stage_figures *out, dml_arena *arena)
{
    const dml_plan *p = l->plan;
    const double all = flops_of(&p->model, 0, p->model.n_layers);
    for (int32_t s = 0; s < p->stages; s++) {
        const int32_t begin = p->stage_begin[s], end = p->stage_begin[s + 1];
        const char *workers = "";
        int32_t holder[DML_HOST_WORKERS];
        const int32_t n = dml_plan_holders(p, s, holder);
        int64_t most_bytes = 0;
        for (int32_t r = 0; r < n; r++) {
            workers = dml_arena_printf(arena, "%s%s%d", workers, r ? "," : "", holder[r]);
            const int64_t bytes = dml_plan_worker_bytes(p, holder[r]);
            most_bytes = bytes > most_bytes ? bytes : most_bytes;
        }
        int64_t parameters = 0;
        for (int32_t i = p->train.span[s].param_begin; i < p->train.span[s].param_end; i++)
            parameters += p->model.param[i].elems;
        out[s] = (dml_stage_figures){
            .stage = s,
            .first_layer = begin,
            .last_layer = end - 1,
            .workers = workers,
            .parameters = parameters,
            .flops_share = all > 0.0 ? flops_of(&p->model, begin, end) / all : 0.0,
            .memory_bytes = most_bytes,
        };
    }
}

static void describe_updates(const dml_plan *p, dml_plan_record *out, dml_arena *arena)
{
    if (!dml_plan_is_asynchronous(p->spec)) return;
    out->drain_steps = p->updates;
    out->versions = out->staleness = "";
    for (int32_t s = 0; s < p->stages; s++) {
        const char *space = s > 0 ? " " : "";
        out->versions =
            dml_arena_printf(arena, "%s%s%d", out->versions, space, p->train.versions[s]);
        out->staleness = dml_arena_printf(arena, "%s%s%d", out->staleness, space,
                                          dml_program_staleness(&p->train, s));
    }
}

double dml_leader_mean(const dml_plan *p, const double *x)
{
    double sum = 0.0;
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        if (dml_plan_lost(p, w)) continue;
        sum += x[w];
        n++;
    }
    return sum / n;
}

dml_err dml_leader_plan_ahead(dml_leader *l)
{
    const dml_plan *p = l->plan;
    int32_t stash[DML_HOST_WORKERS];
    int64_t exposed_ns[DML_HOST_WORKERS];
    int64_t step_ns;
    l->planned_step_s = NAN;
    for (int32_t w = 0; w < p->workers; w++)
        l->planned_bubble[w] = NAN;
    if (!p->cost_is_exact && !p->spec->costs) return DML_ERR_OK;
    DML_TRY(dml_plan_predict(p, &p->cost, &step_ns, l->planned_bubble, stash, exposed_ns));
    l->planned_step_s = (double)step_ns * 1e-9;
    return DML_ERR_OK;
}

/* What moves this backend's tensors, with its version; "": nothing that has one. */
static const char *library_of(const dml_backend *backend)
{
    const dml_transport_api *transport;
    const bool found = dml_transport_find(backend->transport, &transport) == DML_ERR_OK;
    return found && transport->library ? transport->library() : "";
}

/* The plan of now, and its stages [p->stages]; texts are the arena's. */
static dml_err describe_plan(dml_leader *l, dml_arena *arena, dml_stage_figures *stages,
                             dml_plan_record *out)
{
    const dml_plan *p = l->plan;
    describe_stages(l, stages, arena);
    const char *split = "", *workers = "";
    int64_t peak = 0;
    for (int32_t s = 0; s < p->stages; s++) {
        workers = dml_arena_printf(arena, "%s%s%s", workers, s ? " " : "", stages[s].workers);
        split = dml_arena_printf(arena, "%s%s%d-%d", split, s ? " " : "", stages[s].first_layer,
                                 stages[s].last_layer);
        peak = stages[s].memory_bytes > peak ? stages[s].memory_bytes : peak;
    }
    *out = (dml_plan_record){.schedule = p->spec->parallelism.schedule,
                             .world_size = p->workers,
                             .pipeline_parallel_size = p->ranks,
                             .data_parallel_size = p->replicas,
                             .stages = p->stages,
                             .workers = workers,
                             .split = split,
                             .costs = p->spec->costs ? p->spec->costs->source : NULL,
                             .memory_peak_bytes = peak};
    describe_updates(p, out, arena);
    DML_TRY(dml_leader_plan_ahead(l));
    out->predicted_step_time_s = l->planned_step_s;
    out->predicted_bubble_ratio = dml_leader_mean(p, l->planned_bubble);
    return DML_ERR_OK;
}

static dml_err write_header(dml_leader *l, const dml_leader_config *c, int64_t train_samples,
                            int64_t test_samples)
{
    const dml_plan *p = l->plan;
    dml_arena arena = {0};
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    const char *library = library_of(c->backend);
    const char *backend =
        dml_arena_printf(&arena, "%s (%s%s%s), %d thread%s per worker%s%s", c->backend->label,
                         c->backend->doc, library[0] ? "; " : "", library, c->threads,
                         c->threads == 1 ? "" : "s", c->why[0] ? "; " : "", c->why);
    const dml_run_start_record run = run_start(l, c, host, backend, train_samples, test_samples);
    dml_stage_figures *stages = DML_NEW_N(&arena, dml_stage_figures, p->stages);
    dml_plan_record plan;
    dml_err err = describe_plan(l, &arena, stages, &plan);
    dml_console_header(&l->view, &run, &plan, stages, p->stages);
    if (err == DML_ERR_OK && l->has_metrics)
        err = dml_leader_written(l, dml_metrics_run_start(&l->metrics, &run));
    if (err == DML_ERR_OK && l->has_metrics)
        err = dml_leader_written(l, dml_metrics_plan(&l->metrics, &plan));
    dml_arena_free(&arena);
    return err;
}

/* Records of two runs at once would mix.  A file system without locks is taken as it is. */
static dml_err claim_folder(const dml_leader *l)
{
    if (flock(l->metrics.fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        DML_FAIL(DML_ERR_UNAVAILABLE, "another run is writing to '%s'; set run.output_dir",
                 l->metrics.path);
    return DML_ERR_OK;
}

/* Now, not after an hour of training: they may be where nobody can write. */
static dml_err open_for_writing(const char *path, FILE **out)
{
    *out = path[0] ? fopen(path, "we") : NULL;
    if (path[0] && !*out) DML_FAIL(DML_ERR_DATA, "cannot write '%s': %s", path, strerror(errno));
    return DML_ERR_OK;
}

static dml_err open_all(dml_leader *l, const dml_leader_config *config, int64_t *train_samples,
                        int64_t *test_samples)
{
    const dml_spec *spec = config->plan->spec;
    *l = (dml_leader){.plan = config->plan,
                      .processes = config->plan->workers,
                      .entropy = {NAN, NAN},
                      .trace = config->trace,
                      .begin_ns = dml_clock_ns(),
                      .test_loss = NAN,
                      .test_accuracy = NAN,
                      .loss = NAN,
                      .mended = {.first = config->plan, .time_max_s = NAN, .before = NAN}};
    FILE *to = config->console;
    l->view = dml_console_open(to ? to : stderr, to ? spec->logging.console : DML_CONSOLE_QUIET,
                               spec->logging.interval, dml_console_env_of(to ? to : stderr));
    DML_TRY(count_steps(l, train_samples, test_samples));
    if (spec->logging.jsonl) {
        DML_TRY(dml_metrics_open(spec->run.output_dir, &l->metrics));
        DML_TRY(claim_folder(l));
        l->has_metrics = true;
    }
    if (l->trace) {
        DML_TRY(open_for_writing(spec->logging.trace, &l->trace_to));
        DML_TRY(open_for_writing(spec->logging.draw, &l->draw_to));
    }
    return DML_ERR_OK;
}

dml_err dml_leader_open(dml_leader *l, const dml_leader_config *config)
{
    int64_t train_samples = 0, test_samples = 0;
    DML_TRY(open_all(l, config, &train_samples, &test_samples));
    return write_header(l, config, train_samples, test_samples);
}

dml_err dml_leader_reopen(dml_leader *l, const dml_leader_config *config)
{
    int64_t train_samples, test_samples;
    return open_all(l, config, &train_samples, &test_samples);
}

/* ---- reports ---- */

static double eta_s(const dml_leader *l)
{
    return l->step_time_s > 0.0 ? l->step_time_s * (double)(l->total_steps - l->steps) : NAN;
}

static dml_err take_step(dml_leader *l, const dml_report_step *r)
{
    const double seconds = (double)r->wall_ns * 1e-9;
    if (r->step <= l->steps) return DML_ERR_OK;
    l->steps = r->step;
    l->samples += r->samples;
    l->train_time_s += seconds;
    l->loss = r->loss;
    /* the first step met cold caches, or a change of plan: it counts only where it is the only one */
    if (r->step == l->first_step + 2) {
        l->step_times = (dml_stats){0};
        l->bubble_sum = 0.0;
    }
    dml_stats_add(&l->step_times, seconds);
    l->bubble_sum += r->bubble;
    if (r->step > l->first_step + 1) {
        l->step_time_s = l->step_time_s > 0.0 ? 0.95 * l->step_time_s + 0.05 * seconds : seconds;
    }
    const dml_step_record s = {
        .step = r->step,
        .total_steps = l->total_steps,
        .epoch = (double)l->samples / (double)l->train_samples,
        .loss = r->loss,
        .grad_norm = r->grad_norm,
        .lr = r->lr,
        .loss_scale = r->loss_scale,
        .staggered = r->staggered,
        .undone = r->undone,
        .step_time_s = seconds,
        .samples = r->samples,
        .samples_per_second = (double)r->samples / seconds,
        .bubble_ratio = r->bubble,
        .eta_s = eta_s(l),
        .generation = r->generation,
        .verdict = r->verdict == DML_SKIP ? "skip" : "commit",
    };
    dml_console_step(&l->view, &s);
    if (r->verdict == DML_SKIP && r->loss_scale > 1.0)
        dml_console_note(&l->view,
                         "step %" PRId64 ": gradients left fp16's range at loss scale %.0f; the "
                         "step was skipped",
                         r->step, r->loss_scale);
    else if (r->verdict == DML_SKIP)
        dml_console_note(&l->view,
                         "step %" PRId64 ": loss or gradients are not finite; the step was skipped",
                         r->step);
    if (l->has_metrics) DML_TRY(dml_leader_written(l, dml_metrics_step(&l->metrics, &s)));
    return dml_leader_pace(l);
}

static dml_err take_eval(dml_leader *l, const dml_report_eval *r)
{
    const dml_eval_record e = {.step = r->step,
                               .loss = r->loss,
                               .accuracy_ratio = (double)r->correct / (double)r->samples,
                               .correct = r->correct,
                               .samples = r->samples,
                               .eval_time_s = (double)r->wall_ns * 1e-9};
    l->test_loss = e.loss;
    l->test_accuracy = e.accuracy_ratio;
    dml_console_eval(&l->view, &e);
    return l->has_metrics ? dml_leader_written(l, dml_metrics_eval(&l->metrics, &e)) : DML_ERR_OK;
}

/* Who holds a stage holds the same weights as the others, or something is badly wrong; stages add up. */
dml_err dml_leader_hash(const dml_plan *p, const dml_report_end *end, uint64_t *out)
{
    dml_arena arena = {0};
    int32_t *first =
        DML_NEW_N(&arena, int32_t, p->stages); /* worker + 1 that spoke for the stage */
    uint64_t *hash = DML_NEW_N(&arena, uint64_t, p->stages);
    dml_err err = DML_ERR_OK;
    *out = 0;
    for (int32_t w = 0; w < p->workers && err == DML_ERR_OK; w++)
        for (int32_t i = 0; i < end[w].n_chunks && err == DML_ERR_OK; i++) {
            const dml_report_chunk *c = &end[w].chunk[i];
            if (first[c->chunk] == 0) {
                first[c->chunk] = w + 1;
                hash[c->chunk] = c->weights_hash;
                *out += c->weights_hash;
            } else if (c->weights_hash != hash[c->chunk]) {
                err =
                    dml_err_set(DML_ERR_BUG, __FILE__, __LINE__,
                                "workers %d and %d, which both hold stage %d, ended with different "
                                "weights",
                                first[c->chunk] - 1, w, c->chunk);
            }
        }
    dml_arena_free(&arena);
    return err;
}

bool dml_leader_is_complete(const dml_leader *l)
{
    for (int32_t w = 0; w < l->processes; w++)
        if (!l->ended[w] && !(l->mended.lost >> w & 1)) return false;
    return true;
}

dml_err dml_leader_take(dml_leader *l, const dml_report *r)
{
    switch ((dml_report_kind)r->kind) {
    case DML_REPORT_STEP: return take_step(l, &r->step);
    case DML_REPORT_EVAL: return take_eval(l, &r->eval);
    case DML_REPORT_END:
        l->ended[r->rank] = true;
        l->end[r->rank] = r->end;
        return dml_leader_is_complete(l) ? dml_leader_hash(l->plan, l->end, &l->weights_hash)
                                         : DML_ERR_OK;
    case DML_REPORT_READY:
    case DML_REPORT_LOAD:
    case DML_REPORT_FAIL:
    case DML_REPORT_PARKED:
    case DML_REPORT_SAVED:
    case DML_REPORT_JOIN:
    case DML_REPORT_SUSPECT:
    case DML_REPORT_FAULT: return DML_ERR_OK;
    }
    DML_FAIL(DML_ERR_BUG, "a report of kind %d", r->kind);
}

dml_err dml_leader_balance(dml_leader *l, const dml_balance_record *b)
{
    if (isnan(l->entropy[0])) l->entropy[0] = b->entropy;
    l->entropy[1] = b->entropy;
    if (b->changed) {
        const bool cut = strcmp(b->split, b->planned_split) != 0;
        dml_console_note(&l->view,
                         "balance  step %" PRId64 ": entropy %.3f -> %.3f%s%s%s%s%s%s%s%s, step "
                         "%.1f -> %.1f ms predicted",
                         b->step, b->entropy, b->planned_entropy, b->shares[0] ? ", shares " : "",
                         b->shares, b->shares[0] ? " -> " : "", b->planned_shares,
                         cut ? ", split " : "", cut ? b->split : "", cut ? " -> " : "",
                         cut ? b->planned_split : "", b->step_time_s * 1e3,
                         b->planned_step_time_s * 1e3);
    }
    return l->has_metrics ? dml_leader_written(l, dml_metrics_balance(&l->metrics, b)) : DML_ERR_OK;
}

dml_err dml_leader_change(dml_leader *l, const dml_plan *plan)
{
    dml_arena arena = {0};
    dml_plan_record record;
    DML_TRY(dml_leader_pace_now(l));
    l->plan = plan;
    l->changes++;
    l->first_step = l->steps;
    dml_stage_figures *stages = DML_NEW_N(&arena, dml_stage_figures, plan->stages);
    dml_err err = describe_plan(l, &arena, stages, &record);
    if (err == DML_ERR_OK && l->has_metrics)
        err = dml_leader_written(l, dml_metrics_plan(&l->metrics, &record));
    dml_arena_free(&arena);
    return err;
}

void dml_leader_failures(dml_leader *l, dml_failure_record *failures, int32_t n)
{
    dml_console_failures(&l->view, failures, n);
    for (int32_t i = 0; i < n && l->has_metrics; i++)
        (void)!dml_leader_written(l, dml_metrics_failure(&l->metrics, &failures[i]));
}

void dml_leader_close(dml_leader *l)
{
    dml_metrics_close(&l->metrics);
    l->has_metrics = false;
    if (l->trace_to) fclose(l->trace_to);
    if (l->draw_to) fclose(l->draw_to);
    l->trace_to = l->draw_to = NULL;
    dml_data_close(l->counts);
    l->counts = NULL;
}
