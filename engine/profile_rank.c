/* engine/profile_rank.c - one rank of the measuring job at one size of micro-batches: a run of a single worker, whose
 * reports and probe are read.
 *
 *   step 1                warm-up: packed weights, first touch, caches
 *   steps 2 .. n + 1      taken: the probe's layers, the executor's ops, the wall
 *   then                  asked to stop, so that nothing is evaluated
 */
#include "engine/profile_board.h"

#include "engine/agent.h"
#include "engine/probe.h"
#include "engine/worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WARM_UP = 1 };

typedef struct watch {
    dml_probe *probe; /* NULL: none */
    dml_control *control;
    int32_t steps; /* to take */
    int64_t *wall_ns, busy_ns, all_ns;
    int32_t taken;
    dml_report_chunk chunk; /* the whole model's medians */
} watch;

static dml_err take_step(watch *w, const dml_report_step *r)
{
    const bool wanted = r->step > WARM_UP && w->taken < w->steps;
    if (w->probe) DML_TRY(dml_probe_take(w->probe, wanted));
    if (wanted) w->wall_ns[w->taken++] = r->wall_ns;
    if (w->taken == w->steps) atomic_store(&w->control->stop, 1);
    return DML_ERR_OK;
}

static dml_err put(void *context, const dml_report *r)
{
    watch *w = context;
    if (r->kind == DML_REPORT_STEP) return take_step(w, &r->step);
    if (r->kind != DML_REPORT_END) return DML_ERR_OK;
    w->busy_ns = r->end.busy_ns;
    w->all_ns = r->end.wall_ns;
    w->chunk = r->end.chunk[0];
    return DML_ERR_OK;
}

/* The spec of one worker that runs the whole model on `rows` samples at a time.  Borrows; never freed. */
static dml_spec alone(const dml_spec *of, int32_t rows)
{
    dml_spec s = *of;
    s.training.micro_batch_size = rows;
    s.training.num_microbatches = DML_PROFILE_MICRO_BATCHES;
    s.training.global_batch_size = rows * DML_PROFILE_MICRO_BATCHES;
    s.training.max_steps = INT32_MAX;
    s.training.eval_interval_steps = 0;
    s.data.last_batch = DML_LAST_WRAP;
    s.parallelism.pipeline_parallel_size = s.parallelism.data_parallel_size = 1;
    s.parallelism.virtual_stages = 1;
    s.parallelism.n_stages = 0;
    s.parallelism.schedule = "1f1b";
    s.parallelism.split = DML_SPLIT_AUTO;
    s.parallelism.recompute = DML_RECOMPUTE_NONE;
    s.parallelism.memory_bytes = 0;
    s.logging.trace = s.logging.draw = "";
    s.costs = NULL;
    return s;
}

static dml_err open_fds(int *data_fd, int *vote_fd)
{
    *data_fd = memfd_create("dml-profile", MFD_CLOEXEC);
    *vote_fd = memfd_create("dml-profile", MFD_CLOEXEC);
    if (*data_fd < 0 || *vote_fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create failed");
    return DML_ERR_OK;
}

/* Trains, watched; *w has the control page then. */
static dml_err run(const dml_plan *plan, const dml_backend *backend, int32_t device,
                   int32_t threads, watch *w)
{
    int control_fd, data_fd, vote_fd;
    DML_TRY(dml_control_create(&w->control, &control_fd));
    DML_TRY(open_fds(&data_fd, &vote_fd));
    const dml_worker_config c = {.plan = plan,
                                 .backend = backend,
                                 .first_device = device,
                                 .threads = threads,
                                 .control = w->control,
                                 .reporter = {put, w},
                                 .data_fds = &data_fd,
                                 .vote_fds = &vote_fd,
                                 .probe = w->probe};
    const dml_err err = dml_worker_run(&c);
    close(control_fd);
    close(data_fd);
    close(vote_fd);
    dml_control_unmap(w->control);
    return err;
}

/* ---- what was seen ----------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

dml_spread dml_spread_of(int64_t *v, int32_t n)
{
    if (n == 0) return (dml_spread){0};
    qsort(v, (size_t)n, sizeof *v, by_value);
    return (dml_spread){v[n / 2], v[n / 4], v[n - 1 - n / 4], n};
}

static void see_layers(const dml_profile_job *j, int32_t rank, int32_t size, const dml_probe *p,
                       dml_arena *arena)
{
    for (int32_t l = 0; l < j->model.n_layers; l++)
        for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
            dml_profile_seen *seen = dml_profile_seen_at(j, rank, size, l);
            for (dml_probe_turn turn = 0; turn < DML_PROBE_TURNS; turn++) {
                int32_t n;
                const int64_t *samples = dml_probe_samples(p, l, pass, turn, &n);
                int64_t *sorted = DML_NEW_N(arena, int64_t, n);
                if (n > 0) memcpy(sorted, samples, (size_t)n * sizeof *sorted);
                const dml_spread spread = dml_spread_of(sorted, n);
                if (turn == DML_PROBE_FIRST)
                    seen->first_ns[pass] = spread.median_ns;
                else
                    seen->ns[pass] = spread;
            }
        }
}

/* Of the wall what neither the compute lane nor the norm explains; means, since only sums of both are known, taken off
 * in proportion. */
static void see_whole(const dml_profile_job *j, int32_t rank, int32_t size, watch *w)
{
    dml_profile_whole *out = &j->board->whole[rank][size];
    out->rows = j->rows[size];
    out->forward_ns = w->chunk.fwd_ns;
    out->backward_ns = w->chunk.bwd_ns;
    out->step_ns = w->chunk.step_ns;
    out->norm_ns = w->chunk.reduce_ns;
    out->wall_ns = dml_spread_of(w->wall_ns, w->taken).median_ns;
    const double idle = w->all_ns > 0 ? 1.0 - (double)w->busy_ns / (double)w->all_ns : 0.0;
    const int64_t rest_ns = (int64_t)((double)out->wall_ns * idle) - out->norm_ns;
    out->overhead_ns = rest_ns > 0 ? rest_ns : 0;
}

/* ---- one size ---------------------------------------------------------------------------------------- */

/* Kernels of a device are replayed as graphs where nobody probes, which is how training runs them: then the whole passes
 * are taken from a run of its own. */
static dml_err watched_run(const dml_profile_job *j, int32_t rank, int32_t size,
                           const dml_plan *plan, bool probed, dml_arena *arena)
{
    const int32_t per_device = plan->spec->parallelism.workers_per_device;
    const dml_backend *backend = NULL;
    char why[256];
    const int32_t steps =
        (j->options->iterations + DML_PROFILE_MICRO_BATCHES - 1) / DML_PROFILE_MICRO_BATCHES;
    watch w = {.steps = steps, .wall_ns = DML_NEW_N(arena, int64_t, steps)};
    DML_TRY(dml_agent_backend(plan, &backend, why, sizeof why));
    if (probed)
        w.probe = dml_probe_new(j->model.n_layers, DML_PROFILE_MICRO_BATCHES,
                                steps * DML_PROFILE_MICRO_BATCHES, arena);
    DML_TRY(run(plan, backend, backend->on_host ? 0 : rank / per_device, j->board->threads, &w));
    if (probed) see_layers(j, rank, size, w.probe, arena);
    if (!probed || backend->on_host) see_whole(j, rank, size, &w);
    return DML_ERR_OK;
}

dml_err dml_profile_size(const dml_profile_job *j, int32_t rank, int32_t size)
{
    const dml_spec spec = alone(j->spec, j->rows[size]);
    dml_arena arena = {0};
    dml_plan plan = {0};
    dml_err err = dml_plan_make(&spec, &plan);
    if (err == DML_ERR_OK && !j->board->on_host)
        err = watched_run(j, rank, size, &plan, false, &arena);
    if (err == DML_ERR_OK) err = watched_run(j, rank, size, &plan, true, &arena);
    dml_plan_free(&plan);
    dml_arena_free(&arena);
    return err;
}
