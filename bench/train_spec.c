/* bench/train_spec.c - what all layouts of a spec share, and a hash by which results of two days are known to be of
 * the same spec. */
#include "bench/train.h"

#include "bench/products.h"
#include "engine/base/hash.h"
#include "engine/hardware.h"
#include "engine/model.h"
#include "engine/roofline.h"
#include "kernels/backend.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the resolved spec says that is no default, without origins, which are comments, and without the folder it writes
 * to, which has the date in it.  A default that is new, or another than it was, is a change of the program, and results
 * carry its commit. */
static dml_err hash_of(const dml_spec *spec, char hash[17])
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    if (!to) DML_FAIL(DML_ERR_NOMEM, "no memory for the resolved spec");
    const dml_err err = dml_spec_print(spec, to);
    fclose(to);
    uint64_t sum = 0;
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = '\0';
        char *origin = strstr(line, "  # ");
        if (origin && strcmp(origin, "  # default") == 0) continue;
        if (!origin && end - line > 1 && line[strlen(line) - 1] == ':') continue; /* a section */
        if (origin) *origin = '\0';
        if (!strstr(line, "output_dir: ")) sum = dml_hash(line, (int64_t)strlen(line), sum);
    }
    free(text);
    snprintf(hash, 17, "%016" PRIx64, sum);
    return err;
}

/* ---- MFU: samples/s x FLOPs of a sample / (devices x dense peak of the precision) ---- */

static dml_err peak_of(const dml_spec *spec, train_spec *out)
{
    if (!spec->cluster.hardware[0]) return DML_ERR_OK;
    dml_hardware hw;
    DML_TRY(dml_hardware_load(spec->cluster.hardware, &hw));
    const dml_figure peak = dml_hardware_peak(&hw, out->precision);
    out->peak_flop_s = peak.value;
    if (peak.value > 0)
        snprintf(out->peak_source, sizeof out->peak_source, "%s: %s", hw.name, peak.source);
    dml_hardware_free(&hw);
    return DML_ERR_OK;
}

static dml_err flops_of(const dml_spec *spec, train_spec *out)
{
    dml_arena arena = {0};
    dml_model model;
    const dml_err err = dml_model_make(spec, &arena, &model);
    if (err == DML_ERR_OK) out->flops = (double)dml_model_flops(&model);
    dml_arena_free(&arena);
    return err;
}

static dml_err backend_of(const dml_spec *spec, train_spec *out)
{
    const char *const asked[] = {spec->parallelism.backend};
    const bool choose = strcmp(asked[0], "auto") == 0;
    int32_t n = 1;
    const char *const *names = choose ? dml_backend_auto(&n) : asked;
    const dml_backend *backend = NULL;
    for (int32_t i = 0; i < n && !backend; i++)
        if (dml_backend_find(names[i], &backend) != DML_ERR_OK) backend = NULL;
    if (!backend) DML_FAIL(DML_ERR_UNAVAILABLE, "no backend '%s' here", asked[0]);
    snprintf(out->backend, sizeof out->backend, "%s", backend->name);
    out->on_host = backend->on_host;
    return DML_ERR_OK;
}

dml_err train_spec_measure_peak(train_spec *spec)
{
    if (spec->emulated || spec->peak_flop_s > 0 || !spec->on_host) return DML_ERR_OK;
    DML_TRY(bench_gemm_peak(spec->backend, 1, spec->precision, &spec->peak_flop_s));
    snprintf(spec->peak_source, sizeof spec->peak_source,
             "a product of 1024 x 1024 x 1024 on one core, just before");
    return DML_ERR_OK;
}

double train_peak_flop_s(const train_spec *spec, int32_t devices)
{
    if (spec->peak_flop_s <= 0 || spec->emulated) return (double)NAN;
    if (!spec->on_host) return spec->peak_flop_s * devices;
    const int32_t share = spec->cores / devices;
    const int32_t threads = spec->threads ? spec->threads : share > 1 ? share : 1;
    const int32_t used = devices * threads;
    return spec->peak_flop_s * (used < spec->cores ? used : spec->cores);
}

/* ---- the spec ---- */

static dml_err describe(const dml_spec *spec, train_spec *out)
{
    *out = (train_spec){
        .global_batch = spec->training.global_batch_size,
        .exact = spec->training.numerics != DML_FAST,
        .precision = spec->training.precision,
        .threads = spec->parallelism.threads_per_worker,
        .cores = (int32_t)sysconf(_SC_NPROCESSORS_ONLN),
    };
    for (int32_t i = 0; i < spec->model.n_layers; i++)
        out->emulated = out->emulated || spec->model.layers[i].kind == DML_LAYER_DELAY;
    DML_TRY(backend_of(spec, out));
    DML_TRY(peak_of(spec, out));
    DML_TRY(flops_of(spec, out));
    return hash_of(spec, out->hash);
}

dml_err train_spec_load(const char *path, const char *const *overrides, int32_t n, train_spec *out)
{
    dml_spec spec;
    DML_TRY(dml_spec_load(path, overrides, n, &spec));
    const dml_err err = describe(&spec, out);
    dml_spec_free(&spec);
    return err;
}
