/* engine/profile_run.c - the parent of the measuring job: starts the ranks, and makes a profile of what they saw. */
#include "engine/profile_run.h"

#include "engine/agent.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/chunk_bucket.h"
#include "engine/chunk_impl.h"
#include "engine/chunk_sum.h"
#include "engine/profile_board.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { GATE_S = 600 }; /* the others may take so long for a size */

/* ---- processes --------------------------------------------------------------------------------------- */

static void *shared(int64_t bytes)
{
    void *memory =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

dml_err dml_profile_gate(const dml_profile_job *j, int32_t times)
{
    dml_profile_board *b = j->board;
    dml_wait_advance(&b->arrived);
    return dml_wait_reached(&b->arrived, (uint32_t)(times * j->ranks),
                            dml_clock_ns() + GATE_S * DML_NS_PER_S, &b->abort,
                            "the other workers of the profile");
}

/* What a rank does from its start to its end. */
static dml_err rank_job(const dml_profile_job *j, int32_t rank)
{
    int32_t gates = 0;
    for (int32_t i = 0; i < j->n_rows; i++) {
        DML_TRY(dml_profile_gate(j, ++gates));
        if (rank < j->computing) DML_TRY(dml_profile_size(j, rank, i));
    }
    DML_TRY(dml_profile_gate(j, ++gates));
    return j->ranks > 1 ? dml_profile_links(j, rank) : DML_ERR_OK;
}

/* Workers that compute at once. */
static int32_t computing(const dml_profile_job *j)
{
    return j->options->workers > 0 ? j->options->workers : dml_spec_workers(j->spec);
}

/* Whose backend it is, and how many devices it has: what the parent must know before it starts the others. */
static dml_err look(const dml_profile_job *j, int32_t rank)
{
    (void)rank;
    dml_profile_board *b = j->board;
    const dml_backend *backend = NULL;
    dml_arena arena = {0};
    dml_profile here = {0};
    char why[256] = "";
    dml_spec one = *j->spec; /* borrows */
    one.parallelism.workers_per_device = 64;
    one.costs = NULL;
    dml_plan plan;
    DML_TRY(dml_plan_make(&one, &plan));
    dml_err err = dml_agent_backend(&plan, &backend, why, sizeof why);
    if (err == DML_ERR_OK) {
        dml_profile_machine(backend, &arena, &here);
        snprintf(b->backend, sizeof b->backend, "%s", backend->name);
        snprintf(b->device, sizeof b->device, "%s", here.machine.device);
        snprintf(b->libraries, sizeof b->libraries, "%s", here.machine.libraries);
        snprintf(b->transport, sizeof b->transport, "%s", backend->transport);
        b->on_host = backend->on_host;
        b->devices = backend->device->count(why, sizeof why);
        b->threads =
            dml_agent_threads(&one, computing(j)); /* not as many as the spec's layout has */
    }
    dml_arena_free(&arena);
    dml_plan_free(&plan);
    return err;
}

typedef dml_err (*rank_main)(const dml_profile_job *j, int32_t rank);

static void become_rank(const dml_profile_job *j, int32_t rank, rank_main job)
{
    char who[16];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(who, sizeof who, "p%d", rank);
    dml_log_setup(DML_LOG_WARN, who);
    const dml_err err = job(j, rank);
    dml_profile_board *b = j->board;
    b->err[rank] = err;
    if (err != DML_ERR_OK) {
        snprintf(b->trail[rank], sizeof b->trail[rank], "%s", dml_err_trail());
        atomic_store(&b->abort.raised, 1);
    }
    _exit(dml_err_exit_code(err));
}

/* The first that says what went wrong, rather than that others were gone. */
static dml_err blame(const dml_profile_job *j, int32_t n)
{
    int32_t found = -1;
    for (int32_t r = n - 1; r >= 0; r--)
        if (j->board->err[r] != DML_ERR_OK && (found < 0 || j->board->err[r] != DML_ERR_PEER))
            found = r;
    if (found < 0) return DML_ERR_OK;
    dml_err_trail_put(j->board->trail[found]);
    return j->board->err[found];
}

static dml_err run_ranks(const dml_profile_job *j, int32_t n, rank_main job)
{
    pid_t pid[DML_PROFILE_RANKS];
    int32_t started = 0, killed = -1;
    fflush(NULL);
    for (; started < n; started++) {
        pid[started] = fork();
        if (pid[started] < 0) break;
        if (pid[started] == 0) become_rank(j, started, job);
    }
    if (started < n) atomic_store(&j->board->abort.raised, 1);
    for (int32_t r = 0; r < started; r++) {
        int status = 0;
        while (waitpid(pid[r], &status, 0) < 0 && errno == EINTR)
            continue;
        if (!WIFSIGNALED(status)) continue;
        killed = r;
        atomic_store(&j->board->abort.raised, 1);
    }
    if (started < n) DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start process %d of %d", started, n);
    DML_TRY(blame(j, n));
    if (killed >= 0)
        DML_FAIL(DML_ERR_PEER, "worker %d of the profile was killed by a signal", killed);
    return DML_ERR_OK;
}

/* ---- what the layers are ----------------------------------------------------------------------------- */

/* Bytes of a sample that the layer leaves in the stash of a micro-batch of `rows`. */
static int64_t stash_of(const dml_chunk_impl *impl, int32_t layer, int32_t rows)
{
    const dml_layer_plan *p = &impl->layer[layer];
    int64_t bytes = 0;
    if (p->y != DML_NO_BUFFER && impl->buffer[p->y].where == DML_AT_STASH)
        bytes += impl->buffer[p->y].bytes;
    if (p->keep != DML_NO_BUFFER && impl->buffer[p->keep].where == DML_AT_STASH)
        bytes += impl->buffer[p->keep].bytes;
    return bytes / rows;
}

static void describe_layer(const dml_profile_job *j, const dml_chunk *c, int32_t i,
                           dml_profile_layer *out)
{
    const dml_layer *l = &j->model.layer[i];
    const dml_chunk_impl *impl = c->impl;
    const int32_t words = dml_sum_info_of(j->spec->training.numerics)->words;
    int64_t elems = 0;
    for (int32_t p = l->param_begin; p < l->param_end; p++)
        elems += j->model.param[p].elems;
    const bool adamw = j->spec->optimizer.name == DML_OPT_ADAMW,
               momentum = adamw || j->spec->optimizer.momentum != 0.0f;
    out->name = l->spec->name;
    out->kind = dml_layer_kind_name(l->spec->kind);
    out->within = impl->layer[i].acted ? j->model.layer[i - 1].spec->name : "";
    out->parameter_bytes = elems * (int64_t)sizeof(float);
    out->gradient_bytes =
        elems * (words > 0 ? words * (int64_t)sizeof(int64_t) : (int64_t)sizeof(float));
    out->optimizer_bytes = elems * (int64_t)sizeof(float) * (momentum + adamw);
    out->activation_bytes = dml_shape_elems(l->out) * dml_dtype_bytes(c->act);
    out->stash_bytes = stash_of(impl, i, c->mb_rows);
}

/* The whole model as one chunk, at the spec's size. */
static dml_err describe_layers(const dml_profile_job *j, dml_arena *arena, dml_profile *out)
{
    dml_chunk chunk;
    DML_TRY(dml_chunk_plan(j->spec, &j->model, 0, j->model.n_layers, false, arena, &chunk));
    out->layer = DML_NEW_N(arena, dml_profile_layer, j->model.n_layers);
    out->n_layers = j->model.n_layers;
    for (int32_t i = 0; i < out->n_layers; i++)
        describe_layer(j, &chunk, i, &out->layer[i]);
    for (int32_t i = 0; i < out->n_rows; i++)
        out->whole[i].stash_bytes = chunk.size.stash / chunk.mb_rows * out->rows[i];
    return DML_ERR_OK;
}

/* ---- what the ranks saw ------------------------------------------------------------------------------ */

/* Means over the ranks of what each found in the middle. */
static dml_spread mean_spread(const dml_profile_job *j, int32_t size, int32_t layer, dml_pass pass)
{
    dml_spread sum = {0};
    for (int32_t r = 0; r < j->computing; r++) {
        const dml_spread *s = &dml_profile_seen_at(j, r, size, layer)->ns[pass];
        sum.median_ns += s->median_ns;
        sum.p25_ns += s->p25_ns;
        sum.p75_ns += s->p75_ns;
        sum.n += s->n;
    }
    sum.median_ns /= j->computing;
    sum.p25_ns /= j->computing;
    sum.p75_ns /= j->computing;
    return sum;
}

/* What the first micro-batch of a step takes more, mean over sizes and ranks. */
static int64_t begin_of(const dml_profile_job *j, int32_t layer)
{
    int64_t sum = 0;
    for (int32_t r = 0; r < j->computing; r++)
        for (int32_t i = 0; i < j->n_rows; i++) {
            const dml_profile_seen *s = dml_profile_seen_at(j, r, i, layer);
            for (dml_pass pass = 0; pass < DML_PASSES; pass++)
                if (s->ns[pass].n > 0) sum += s->first_ns[pass] - s->ns[pass].median_ns;
        }
    sum /= j->computing * j->n_rows;
    return sum > 0 ? sum : 0;
}

static void merge_whole(const dml_profile_job *j, dml_profile *out)
{
    for (int32_t i = 0; i < j->n_rows; i++) {
        dml_profile_whole sum = {.rows = j->rows[i]};
        for (int32_t r = 0; r < j->computing; r++) {
            const dml_profile_whole *w = &j->board->whole[r][i];
            sum.forward_ns += w->forward_ns / j->computing;
            sum.backward_ns += w->backward_ns / j->computing;
            sum.step_ns += w->step_ns / j->computing;
            sum.norm_ns += w->norm_ns / j->computing;
            sum.wall_ns += w->wall_ns / j->computing;
            sum.overhead_ns += w->overhead_ns / j->computing;
        }
        out->whole[i] = sum;
    }
}

/* The optimizer and the norm run over all parameters in one call: layers have their share of the elements. */
static void share_step(const dml_profile_job *j, dml_profile *out)
{
    double step_ns = 0.0, norm_ns = 0.0;
    for (int32_t i = 0; i < out->n_rows; i++) {
        step_ns += (double)out->whole[i].step_ns / out->n_rows;
        norm_ns += (double)out->whole[i].norm_ns / out->n_rows;
    }
    const double all = (double)j->model.param_elems * (double)sizeof(float);
    for (int32_t l = 0; l < out->n_layers && all > 0.0; l++) {
        const double share = (double)out->layer[l].parameter_bytes / all;
        out->layer[l].step_ns = (int64_t)(step_ns * share + 0.5);
        out->layer[l].norm_ns = (int64_t)(norm_ns * share + 0.5);
    }
}

static void merge_layers(const dml_profile_job *j, dml_arena *arena, dml_profile *out)
{
    for (int32_t l = 0; l < out->n_layers; l++) {
        for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
            out->layer[l].ns[pass] = DML_NEW_N(arena, dml_spread, out->n_rows);
            for (int32_t i = 0; i < out->n_rows; i++)
                out->layer[l].ns[pass][i] = mean_spread(j, i, l, pass);
        }
        out->layer[l].begin_ns = begin_of(j, l);
    }
    share_step(j, out);
}

/* ---- lines through links and sums -------------------------------------------------------------------- */

/* Bytes that cross borders of stages: outputs of layers at the sizes measured. */
static void sent_range(const dml_profile *p, int64_t *least, int64_t *most)
{
    *least = INT64_MAX;
    *most = 0;
    for (int32_t l = 0; l + 1 < p->n_layers; l++) {
        const int64_t bytes = p->layer[l].activation_bytes;
        if (bytes * p->rows[0] < *least) *least = bytes * p->rows[0];
        if (bytes * p->rows[p->n_rows - 1] > *most) *most = bytes * p->rows[p->n_rows - 1];
    }
}

/* Bytes that replicas sum up: buckets, from the smallest layer to all of them. */
static void summed_range(const dml_profile *p, int64_t *least, int64_t *most)
{
    *least = INT64_MAX;
    *most = 0;
    for (int32_t l = 0; l < p->n_layers; l++) {
        const int64_t bytes = p->layer[l].gradient_bytes;
        if (bytes > 0 && bytes < *least) *least = bytes;
        *most += bytes;
    }
}

static void fit_links(const dml_profile_job *j, dml_arena *arena, dml_profile *out)
{
    const dml_profile_board *b = j->board;
    int64_t least, most;
    out->n_transfers = b->n_transfers;
    out->transfer = DML_NEW_N(arena, dml_profile_transfer, b->n_transfers);
    memcpy(out->transfer, b->transfer, (size_t)b->n_transfers * sizeof *out->transfer);
    out->n_sums = b->n_sums;
    out->sum = DML_NEW_N(arena, dml_profile_transfer, b->n_sums);
    memcpy(out->sum, b->sum, (size_t)b->n_sums * sizeof *out->sum);
    out->vote_ns = b->vote_ns;
    sent_range(out, &least, &most);
    if (b->n_transfers > 0)
        out->link = dml_profile_fit_of(out->transfer, b->n_transfers, least / 4, most * 4);
    summed_range(out, &least, &most);
    out->reduce = DML_NEW_N(arena, dml_profile_fit, b->n_sums);
    for (int32_t i = 0, n; i < b->n_sums; i += n) {
        for (n = 1; i + n < b->n_sums && out->sum[i + n].members == out->sum[i].members;)
            n++;
        out->reduce[out->n_reduces++] = dml_profile_fit_of(&out->sum[i], n, least / 4, most * 4);
    }
}

/* ---- the whole --------------------------------------------------------------------------------------- */

/* Between ranks 0 and 1, which are in one block of the innermost level. */
static const char *link_text(const dml_spec *spec, dml_arena *arena)
{
    const dml_links links = dml_spec_links(spec);
    if (dml_links_are_free(&links)) return "real";
    const dml_link *link = dml_links_between(&links, 0, 1);
    return dml_arena_printf(arena, "emulated, %" PRId64 " ns and %.0f B/s", link->latency_ns,
                            link->bytes_per_s);
}

static void date_it(dml_arena *arena, dml_profile *out)
{
    char date[32];
    struct tm tm;
    const time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    out->made.date = dml_arena_strdup(arena, date);
    out->made.version = DML_VERSION;
}

static dml_err make_profile(const dml_profile_job *j, dml_arena *arena, dml_profile *out)
{
    const dml_profile_board *b = j->board;
    date_it(arena, out);
    dml_profile_machine(NULL, arena, out);
    out->machine.backend = dml_arena_strdup(arena, b->backend);
    out->machine.device = dml_arena_strdup(arena, b->device);
    out->machine.libraries = dml_arena_strdup(arena, b->libraries);
    out->machine.transport = dml_arena_strdup(arena, b->transport);
    out->machine.link = link_text(j->spec, arena);
    dml_profile_describe(j->spec, &j->model, arena, out);
    out->model.threads = b->threads;
    out->workers = j->computing;
    out->iterations = j->options->iterations;
    out->micro_batches = DML_PROFILE_MICRO_BATCHES;
    out->n_rows = j->n_rows;
    out->rows = DML_NEW_N(arena, int64_t, j->n_rows);
    out->whole = DML_NEW_N(arena, dml_profile_whole, j->n_rows);
    for (int32_t i = 0; i < j->n_rows; i++)
        out->rows[i] = j->rows[i];
    merge_whole(j, out);
    DML_TRY(describe_layers(j, arena, out));
    merge_layers(j, arena, out);
    fit_links(j, arena, out);
    return DML_ERR_OK;
}

/* Half, whole and twice the spec's, unless they are given. */
static void choose_rows(dml_profile_job *j)
{
    const int32_t whole = j->spec->training.micro_batch_size;
    const dml_profile_options *o = j->options;
    for (int32_t i = 0; i < o->n_rows; i++)
        j->rows[j->n_rows++] = o->rows[i];
    if (j->n_rows > 0) return;
    if (whole > 1) j->rows[j->n_rows++] = whole / 2;
    j->rows[j->n_rows++] = whole;
    j->rows[j->n_rows++] = 2 * whole;
}

/* Links want two ends: where the layout is one worker, and the host computes, a second process helps. */
static dml_err count_ranks(dml_profile_job *j)
{
    const dml_profile_board *b = j->board;
    j->computing = computing(j);
    const int32_t room = b->devices * j->spec->parallelism.workers_per_device;
    if (j->computing > DML_PROFILE_RANKS)
        DML_FAIL(DML_ERR_SPEC, "a profile measures at most %d workers at once, not %d: --workers",
                 DML_PROFILE_RANKS, j->computing);
    if (!b->on_host && j->computing > room)
        DML_FAIL(DML_ERR_UNAVAILABLE, "%s: %d devices for %d workers; --workers %d would do",
                 b->backend, b->devices, j->computing, room);
    j->ranks = j->computing > 1 || (!b->on_host && room < 2) ? j->computing : 2;
    return DML_ERR_OK;
}

static dml_err measure(dml_profile_job *j, dml_arena *arena, dml_profile *out)
{
    FILE *to = j->options->progress;
    DML_TRY(run_ranks(j, 1, look));
    DML_TRY(count_ranks(j));
    choose_rows(j);
    j->seen = shared((int64_t)sizeof *j->seen * j->ranks * j->n_rows * j->model.n_layers);
    if (!j->seen)
        DML_FAIL(DML_ERR_NOMEM, "no memory for the times of %d layers", j->model.n_layers);
    for (int32_t r = 0; r < j->ranks; r++) {
        j->data_fd[r] = memfd_create("dml-profile", MFD_CLOEXEC);
        j->vote_fd[r] = memfd_create("dml-profile", MFD_CLOEXEC);
        if (j->data_fd[r] < 0 || j->vote_fd[r] < 0)
            DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create: %s", strerror(errno));
    }
    if (to) {
        fprintf(to, "profile of %s on %s: %d worker%s at once, %d thread%s each, micro-batches of",
                j->spec->run.name, j->board->backend, j->computing, j->computing > 1 ? "s" : "",
                j->board->threads, j->board->threads > 1 ? "s" : "");
        for (int32_t i = 0; i < j->n_rows; i++)
            fprintf(to, "%s%d", i ? ", " : " ", j->rows[i]);
        fprintf(to, ", %d of each\n", j->options->iterations);
    }
    DML_TRY(run_ranks(j, j->ranks, rank_job));
    return make_profile(j, arena, out);
}

dml_err dml_profile_measure(const dml_spec *spec, const dml_profile_options *options,
                            dml_arena *arena, dml_profile *out)
{
    dml_profile_job *j = DML_NEW(arena, dml_profile_job);
    *j = (dml_profile_job){.spec = spec, .options = options};
    *out = (dml_profile){.file = "the profile"};
    DML_TRY(dml_model_make(spec, arena, &j->model));
    j->board = shared(sizeof *j->board);
    if (!j->board) DML_FAIL(DML_ERR_NOMEM, "no memory for the measuring job");
    const dml_err err = measure(j, arena, out);
    for (int32_t r = 0; r < j->ranks; r++) {
        close(j->data_fd[r]);
        close(j->vote_fd[r]);
    }
    if (j->seen)
        munmap(j->seen,
               sizeof *j->seen * (size_t)j->ranks * (size_t)j->n_rows * (size_t)j->model.n_layers);
    munmap(j->board, sizeof *j->board);
    return err;
}

/* ---- without measuring ------------------------------------------------------------------------------- */

static dml_spread said(int64_t ns)
{
    return (dml_spread){.median_ns = ns, .p25_ns = ns, .p75_ns = ns};
}

/* Layers' times of size i, and what they add up to. */
static void estimate_size(const dml_costs *c, int32_t i, dml_profile *out)
{
    dml_profile_whole *w = &out->whole[i];
    w->rows = out->rows[i];
    for (int32_t l = 0; l < c->n_layers; l++) {
        const int64_t *ns = c->ns[(int64_t)i * c->n_layers + l];
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            out->layer[l].ns[pass][i] = said(ns[pass]);
        w->forward_ns += ns[DML_PASS_FORWARD];
        w->backward_ns += ns[DML_PASS_INPUT] + ns[DML_PASS_WEIGHT];
        w->step_ns += c->step_ns[l];
        w->norm_ns += dml_costs_norm_ns(c, l);
    }
    w->wall_ns = w->forward_ns + w->backward_ns + w->step_ns + w->norm_ns;
}

dml_err dml_profile_estimate(const dml_spec *spec, dml_arena *arena, dml_profile *out)
{
    const dml_costs *c = spec->costs;
    dml_profile_job *j = DML_NEW(arena, dml_profile_job);
    j->spec = spec;
    *out = (dml_profile){.file = "the estimate"};
    if (!c) DML_FAIL(DML_ERR_SPEC, "an estimate needs cluster.hardware");
    DML_TRY(dml_model_make(spec, arena, &j->model));
    date_it(arena, out);
    dml_profile_machine(NULL, arena, out);
    out->machine.backend = DML_PROFILE_ESTIMATED;
    out->machine.device = dml_arena_strdup(arena, c->source);
    out->machine.libraries = out->machine.transport = "";
    out->machine.link = DML_PROFILE_ESTIMATED;
    dml_profile_describe(spec, &j->model, arena, out);
    const int32_t threads = spec->parallelism.threads_per_worker;
    out->model.threads = threads > 0 ? threads : 1;
    out->workers = out->iterations = out->micro_batches = 1;
    out->n_rows = c->n_rows;
    out->rows = DML_NEW_N(arena, int64_t, c->n_rows);
    out->whole = DML_NEW_N(arena, dml_profile_whole, c->n_rows);
    for (int32_t i = 0; i < c->n_rows; i++)
        out->rows[i] = c->rows[i];
    DML_TRY(describe_layers(j, arena, out));
    for (int32_t l = 0; l < out->n_layers; l++) {
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            out->layer[l].ns[pass] = DML_NEW_N(arena, dml_spread, c->n_rows);
        out->layer[l].begin_ns = dml_costs_begin_ns(c, l);
        out->layer[l].step_ns = c->step_ns[l];
        out->layer[l].norm_ns = dml_costs_norm_ns(c, l);
    }
    for (int32_t i = 0; i < c->n_rows; i++)
        estimate_size(c, i, out);
    out->link = (dml_profile_fit){
        .members = 2, .latency_ns = c->link_latency_ns, .bytes_per_s = c->link_bytes_per_s};
    out->vote_ns = c->vote_ns;
    return DML_ERR_OK;
}
