/* engine/profile.c - what a profile holds for, and what a planner reads of it. */
#include "engine/profile.h"

#include "comm/transport.h"
#include "engine/base/hash.h"
#include "engine/base/str.h"
#include "engine/chunk_sum.h"
#include "engine/layers/layer.h"
#include "kernels/backend.h"

#include <ctype.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the machine ------------------------------------------------------------------------------------- */

/* What follows the colon of the first line of `file` that begins with `key`; "" where there is none. */
static const char *line_of(const char *file, const char *key, dml_arena *arena)
{
    char line[512];
    const char *found = "";
    FILE *f = fopen(file, "r");
    while (f && !*found && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
        for (colon++; isspace((unsigned char)*colon);)
            colon++;
        found = dml_arena_printf(arena, "%.*s", (int)strcspn(colon, "\n"), colon);
    }
    if (f) fclose(f);
    return found;
}

/* "2 x NVIDIA H100 80GB HBM3": what the driver lists, without a call to it. */
static const char *gpus(dml_arena *arena)
{
    glob_t found;
    const char *name = "";
    if (glob("/proc/driver/nvidia/gpus/*/information", 0, NULL, &found) != 0) return name;
    if (found.gl_pathc > 0)
        name = dml_arena_printf(arena, "%zu x %s", found.gl_pathc,
                                line_of(found.gl_pathv[0], "Model", arena));
    globfree(&found);
    return name;
}

static const char *libraries_of(const dml_backend *b, dml_arena *arena)
{
    const dml_transport_api *transport;
    const char *own = b->libraries ? b->libraries() : "", *other = "";
    if (dml_transport_find(b->transport, &transport) == DML_ERR_OK && transport->library)
        other = transport->library();
    return dml_arena_printf(arena, "%s%s%s", own, *own && *other ? ", " : "", other);
}

void dml_profile_machine(const dml_backend *backend, dml_arena *arena, dml_profile *out)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    out->machine.host = dml_arena_strdup(arena, host);
    out->machine.cpu = line_of("/proc/cpuinfo", "model name", arena);
    out->machine.cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!backend) return;
    out->machine.backend = dml_arena_strdup(arena, backend->label);
    out->machine.device = backend->on_host ? "" : gpus(arena);
    out->machine.libraries = libraries_of(backend, arena);
    out->machine.transport = dml_arena_strdup(arena, backend->transport);
}

/* ---- what it holds for ------------------------------------------------------------------------------- */

const char *dml_profile_model_hash(const dml_model *model, dml_arena *arena)
{
    dml_str s = {0};
    for (int32_t i = 0; i < model->n_layers; i++) {
        const dml_layer *l = &model->layer[i];
        dml_str_printf(&s, "%s %s %d %d", l->spec->name, dml_layer_kind_name(l->spec->kind),
                       l->spec->input, l->spec->with);
        for (int32_t d = 0; d < l->out.rank; d++)
            dml_str_printf(&s, " %d", l->out.dim[d]);
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            dml_str_printf(&s, " %" PRId64, l->flops[pass]);
        for (int32_t p = l->param_begin; p < l->param_end; p++)
            dml_str_printf(&s, " %" PRId64, model->param[p].elems);
        dml_str_printf(&s, "\n");
    }
    const char *hash = dml_arena_printf(arena, "%016" PRIx64, dml_hash_text(dml_str_text(&s)));
    dml_str_free(&s);
    return hash;
}

static const char *optimizer_name(const dml_spec *spec)
{
    if (spec->optimizer.name == DML_OPT_ADAMW) return "adamw";
    return spec->optimizer.momentum != 0.0f ? "sgd with momentum" : "sgd";
}

void dml_profile_describe(const dml_spec *spec, const dml_model *model, dml_arena *arena,
                          dml_profile *out)
{
    out->model.name = dml_arena_strdup(arena, spec->run.name);
    out->model.hash = dml_profile_model_hash(model, arena);
    out->model.precision = dml_precision_name(spec->training.precision);
    out->model.numerics = dml_sum_info_of(spec->training.numerics)->name;
    out->model.optimizer = optimizer_name(spec);
}

/* The first layer that is not the model's, in words. */
static const char *difference(const dml_profile *p, const dml_model *model, dml_arena *arena)
{
    if (p->n_layers != model->n_layers)
        return dml_arena_printf(arena, "it has %d layers, the model %d", p->n_layers,
                                model->n_layers);
    for (int32_t i = 0; i < p->n_layers; i++)
        if (strcmp(p->layer[i].name, model->layer[i].spec->name) != 0)
            return dml_arena_printf(arena, "its layer %d is '%s', the model's '%s'", i,
                                    p->layer[i].name, model->layer[i].spec->name);
    return "its layers have the model's names, but other sizes";
}

static dml_err refuse(const dml_profile *p, const char *what, const char *then, const char *now)
{
    DML_FAIL(DML_ERR_SPEC,
             "%s: error: this profile was measured with %s %s, and here it is %s\n"
             "  run dml-plan profile again",
             p->file, what, *then ? then : "none", *now ? now : "none");
}

static dml_err refuse_machine(const dml_profile *p, const char *what, const char *then,
                              const char *now)
{
    DML_FAIL(DML_ERR_SPEC,
             "%s: error: this profile was made on %s %s (host %s), and this machine has %s\n"
             "  run dml-plan profile again here, or set profile_check: model to plan for that "
             "machine",
             p->file, what, *then ? then : "none", p->machine.host, *now ? now : "none");
}

/* The backend that it was made with must be here, too. */
static dml_err check_machine(const dml_profile *p)
{
    const dml_backend *backend = NULL;
    dml_profile here = {0};
    dml_arena arena = {0};
    const char *label = p->machine.backend, *dash = strrchr(label, '-');
    dml_err err = DML_ERR_OK;
    if (dml_backend_find(dash ? dash + 1 : label, &backend) != DML_ERR_OK ||
        strcmp(backend->label, label) != 0)
        err = refuse_machine(p, "backend", label, "no such backend");
    if (err == DML_ERR_OK) {
        dml_profile_machine(backend, &arena, &here);
        if (strcmp(p->machine.device, here.machine.device) != 0)
            err = refuse_machine(p, "devices", p->machine.device, here.machine.device);
        else if (strcmp(p->machine.cpu, here.machine.cpu) != 0)
            err = refuse_machine(p, "the processor", p->machine.cpu, here.machine.cpu);
        else if (p->machine.cores != here.machine.cores)
            err = refuse_machine(p, "cores", dml_arena_printf(&arena, "%" PRId64, p->machine.cores),
                                 dml_arena_printf(&arena, "%" PRId64, here.machine.cores));
        else if (strcmp(p->machine.libraries, here.machine.libraries) != 0)
            err = refuse_machine(p, "libraries", p->machine.libraries, here.machine.libraries);
    }
    dml_arena_free(&arena);
    return err;
}

dml_err dml_profile_check(const dml_profile *p, const dml_spec *spec, const dml_model *model,
                          bool machine)
{
    dml_arena arena = {0};
    dml_profile now = {0};
    dml_err err = DML_ERR_OK;
    dml_profile_describe(spec, model, &arena, &now);
    const int64_t threads = spec->parallelism.threads_per_worker;
    if (strcmp(p->model.hash, now.model.hash) != 0)
        err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                          "%s: error: this profile is of another model, '%s': %s\n"
                          "  run dml-plan profile again",
                          p->file, p->model.name, difference(p, model, &arena));
    else if (strcmp(p->model.precision, now.model.precision) != 0)
        err = refuse(p, "training.precision", p->model.precision, now.model.precision);
    else if (strcmp(p->model.numerics, now.model.numerics) != 0)
        err = refuse(p, "training.numerics", p->model.numerics, now.model.numerics);
    else if (strcmp(p->model.optimizer, now.model.optimizer) != 0)
        err = refuse(p, "optimizer", p->model.optimizer, now.model.optimizer);
    else if (threads > 0 && p->model.threads != threads)
        err = refuse(p, "parallelism.threads_per_worker",
                     dml_arena_printf(&arena, "%" PRId64, p->model.threads),
                     dml_arena_printf(&arena, "%" PRId64, threads));
    else if (machine && strcmp(p->machine.backend, DML_PROFILE_ESTIMATED) != 0)
        err = check_machine(p);
    dml_arena_free(&arena);
    return err;
}

/* ---- costs ------------------------------------------------------------------------------------------- */

static double sum_of(const dml_profile *p, int32_t i, dml_pass pass)
{
    double sum = 0.0;
    for (int32_t l = 0; l < p->n_layers; l++)
        sum += (double)p->layer[l].ns[pass][i].median_ns;
    return sum;
}

/* What layers' times of size i are multiplied by: what is between the layers of a whole pass belongs to them, and
 * where the probe made the passes longer (kernels launched one by one, not as a graph) that is taken off. */
static double scale_of(const dml_profile *p, int32_t i, dml_pass pass)
{
    const bool forward = pass == DML_PASS_FORWARD;
    const double parts = forward ? sum_of(p, i, pass)
                                 : sum_of(p, i, DML_PASS_INPUT) + sum_of(p, i, DML_PASS_WEIGHT),
                 whole = (double)(forward ? p->whole[i].forward_ns : p->whole[i].backward_ns);
    return parts > 0.0 ? whole / parts : 1.0;
}

static int64_t mean_overhead(const dml_profile *p)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < p->n_rows; i++)
        sum += p->whole[i].overhead_ns;
    return sum / p->n_rows;
}

const dml_costs *dml_profile_costs(const dml_profile *p, dml_arena *arena)
{
    dml_costs *c = DML_NEW(arena, dml_costs);
    int64_t(*ns)[DML_PASSES] =
        dml_arena_alloc(arena, (int64_t)sizeof *ns * p->n_rows * p->n_layers);
    int32_t *rows = DML_NEW_N(arena, int32_t, p->n_rows);
    int64_t *step_ns = DML_NEW_N(arena, int64_t, p->n_layers),
            *begin_ns = DML_NEW_N(arena, int64_t, p->n_layers),
            *norm_ns = DML_NEW_N(arena, int64_t, p->n_layers);
    dml_reduce_cost *reduce = DML_NEW_N(arena, dml_reduce_cost, p->n_reduces);
    for (int32_t i = 0; i < p->n_rows; i++) {
        rows[i] = (int32_t)p->rows[i];
        for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
            const double scale = scale_of(p, i, pass);
            for (int32_t l = 0; l < p->n_layers; l++)
                ns[(int64_t)i * p->n_layers + l][pass] =
                    llround((double)p->layer[l].ns[pass][i].median_ns * scale);
        }
    }
    for (int32_t l = 0; l < p->n_layers; l++) {
        step_ns[l] = p->layer[l].step_ns;
        begin_ns[l] = p->layer[l].begin_ns;
        norm_ns[l] = p->layer[l].norm_ns;
    }
    for (int32_t i = 0; i < p->n_reduces; i++)
        reduce[i] = (dml_reduce_cost){(int32_t)p->reduce[i].members, p->reduce[i].latency_ns,
                                      p->reduce[i].bytes_per_s};
    const char *slash = strrchr(p->file, '/');
    *c = (dml_costs){.source = dml_arena_printf(
                         arena, "profile %s of %.10s, %s", slash ? slash + 1 : p->file,
                         p->made.date, *p->machine.device ? p->machine.device : p->machine.cpu),
                     .n_layers = p->n_layers,
                     .n_rows = p->n_rows,
                     .rows = rows,
                     .ns = (const int64_t(*)[DML_PASSES])ns,
                     .step_ns = step_ns,
                     .begin_ns = begin_ns,
                     .norm_ns = norm_ns,
                     .link_latency_ns = p->link.latency_ns,
                     .link_bytes_per_s = p->link.bytes_per_s,
                     .reduce = reduce,
                     .n_reduces = p->n_reduces,
                     .vote_ns = p->vote_ns + mean_overhead(p)};
    return c;
}

dml_err dml_profile_apply(dml_spec *spec)
{
    dml_arena arena = {0};
    dml_profile p;
    dml_model model;
    if (spec->costs || !spec->profile.file[0]) return DML_ERR_OK;
    dml_err err = dml_profile_read(spec->profile.file, &arena, &p);
    if (err == DML_ERR_OK) err = dml_model_make(spec, &arena, &model);
    if (err == DML_ERR_OK) err = dml_profile_check(&p, spec, &model, !spec->profile.model_only);
    if (err == DML_ERR_OK) spec->costs = dml_profile_costs(&p, &spec->arena);
    dml_arena_free(&arena);
    return err;
}

/* ---- the line through measurements ------------------------------------------------------------------- */

/* Least squares of (a + b bytes - t) / t. */
static void weigh(const dml_profile_transfer *t, int32_t n, int64_t from, int64_t to, double *a,
                  double *b)
{
    double w = 0.0, x = 0.0, xx = 0.0, y = 0.0, xy = 0.0;
    for (int32_t i = 0; i < n; i++) {
        if (t[i].bytes < from || t[i].bytes > to) continue;
        const double ns = fmax((double)t[i].ns, 1.0), bytes = (double)t[i].bytes,
                     weight = 1.0 / (ns * ns);
        w += weight;
        x += weight * bytes;
        xx += weight * bytes * bytes;
        y += weight * ns;
        xy += weight * bytes * ns;
    }
    const double det = w * xx - x * x;
    *b = det > 0.0 ? (w * xy - x * y) / det : 0.0;
    *a = w > 0.0 ? (y - *b * x) / w : 0.0;
}

dml_profile_fit dml_profile_fit_of(const dml_profile_transfer *t, int32_t n, int64_t from_bytes,
                                   int64_t to_bytes)
{
    enum { LEAST = 3 };
    int32_t within = 0;
    double a, b;
    for (int32_t i = 0; i < n; i++)
        within += t[i].bytes >= from_bytes && t[i].bytes <= to_bytes;
    if (within < LEAST && within < n) { /* too few to draw a line through: the sizes around, too */
        from_bytes = 0;
        to_bytes = INT64_MAX;
    }
    weigh(t, n, from_bytes, to_bytes, &a, &b);
    if (a < 0.0) { /* no latency: the rate alone */
        double ratio = 0.0, weight = 0.0;
        for (int32_t i = 0; i < n; i++) {
            if (t[i].bytes < from_bytes || t[i].bytes > to_bytes || t[i].ns == 0) continue;
            ratio += (double)t[i].bytes / (double)t[i].ns;
            weight +=
                ((double)t[i].bytes / (double)t[i].ns) * ((double)t[i].bytes / (double)t[i].ns);
        }
        a = 0.0;
        b = weight > 0.0 ? ratio / weight : 0.0;
    }
    dml_profile_fit fit = {.members = t[0].members,
                           .latency_ns = llround(a),
                           .bytes_per_s = b > 0.0 ? llround(1e9 / b) : 0,
                           .from_bytes = t[0].bytes,
                           .to_bytes = t[n - 1].bytes};
    for (int32_t i = n - 1; i >= 0; i--)
        if (t[i].bytes >= from_bytes) fit.from_bytes = t[i].bytes;
    for (int32_t i = 0; i < n; i++)
        if (t[i].bytes <= to_bytes) fit.to_bytes = t[i].bytes;
    return fit;
}
