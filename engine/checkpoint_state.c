/* engine/checkpoint_state.c - train_state.json: what a run has come to, and what it is a run of. */
#include "engine/checkpoint_files.h"

#include "engine/base/hash.h"
#include "engine/data.h"
#include "engine/plan_async.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    dml_checkpoint_when when;
} key_of[] = {
#define X(id, name, when) {name, DML_CHECKPOINT_##when},
    DML_CHECKPOINT_LIST(X)
#undef X
};

/* ---- what a run is a run of ---- */

enum { LABEL_STEPS = 8 }; /* of which labels are hashed */

static dml_err hash_labels(dml_data *d, const dml_spec *spec, uint64_t *out)
{
    const int32_t mbs = spec->training.num_microbatches, rows = spec->training.micro_batch_size;
    int32_t *labels = calloc((size_t)rows, sizeof *labels);
    if (!labels) DML_FAIL(DML_ERR_NOMEM, "labels of a micro-batch");
    *out = 0;
    for (int64_t s = 0; s < LABEL_STEPS && s < dml_data_epoch_steps(d); s++)
        for (int32_t mb = 0; mb < mbs; mb++) { /* one by one: the same for any micro_batch_size */
            const int32_t n = dml_data_rows(d, s, mb);
            if (n > 0) dml_data_fill_labels(d, s, mb, labels);
            for (int32_t i = 0; i < n; i++)
                *out = dml_hash(&labels[i], sizeof *labels, *out);
        }
    free(labels);
    return DML_ERR_OK;
}

static dml_err identify_data(const dml_spec *spec, char *to, size_t bytes)
{
    dml_data *d;
    uint64_t hash = 0;
    DML_TRY(dml_data_open(spec, false, DML_DATA_LABELS, &d));
    const dml_err err = hash_labels(d, spec, &hash);
    uint64_t images = dml_hash(spec->data.mean, sizeof spec->data.mean, 0);
    images = dml_hash(spec->data.std, sizeof spec->data.std, images);
    snprintf(to, bytes, "%s %" PRId64 "x%" PRId64 " pool %d pad %d shuffle %d last %d %016" PRIx64,
             spec->data.format == DML_DATA_IDX ? "idx" : "synthetic", dml_data_count(d),
             dml_data_sample_elems(d), spec->data.pool, spec->data.pad, spec->data.shuffle,
             (int)spec->data.last_batch, hash ^ images);
    dml_data_close(d);
    return err;
}

dml_err dml_checkpoint_identify(const dml_spec *spec, dml_checkpoint_identity *out)
{
    static const char *const numerics[] = {
        [DML_FAST] = "fast", [DML_EXACT] = "exact", [DML_EXACT_WIDE] = "exact_wide"};
    *out = (dml_checkpoint_identity){0};
#define PUT(id, ...) snprintf(out->value[DML_CHECKPOINT_##id], sizeof out->value[0], __VA_ARGS__)
    PUT(MODEL, "%016" PRIx64, dml_spec_model_hash(spec));
    PUT(OPTIMIZER, "%s%s%s", spec->optimizer.name == DML_OPT_ADAMW ? "adamw" : "sgd",
        dml_optimizer_has_m(spec) ? " m" : "", dml_optimizer_has_v(spec) ? " v" : "");
    PUT(NUMERICS, "%s", numerics[spec->training.numerics]);
    PUT(PRECISION, "%s", dml_precision_name(spec->training.precision));
    PUT(SEED, "%" PRIu64, spec->run.seed);
    PUT(GLOBAL_BATCH, "%d", spec->training.global_batch_size);
    PUT(MICRO_BATCH, "%d", spec->training.micro_batch_size);
    PUT(RATES,
        "lr %.9g momentum %.9g nesterov %d betas %.9g %.9g eps %.9g decay %.9g all %d clip %.9g",
        (double)spec->optimizer.lr, (double)spec->optimizer.momentum, spec->optimizer.nesterov,
        (double)spec->optimizer.betas[0], (double)spec->optimizer.betas[1],
        (double)spec->optimizer.eps, (double)spec->optimizer.weight_decay,
        spec->optimizer.decay_all, (double)spec->training.grad_clip);
    PUT(SCHEDULE_OF_RATES, "kind %d warmup %" PRId64 " step %" PRId64 " gamma %.9g min %.9g",
        (int)spec->lr_scheduler.name, spec->lr_scheduler.warmup_steps, spec->lr_scheduler.step_size,
        (double)spec->lr_scheduler.gamma, (double)spec->lr_scheduler.min_lr_ratio);
    PUT(TOTAL_STEPS, "%" PRId64 " epochs %.9g", spec->training.max_steps, spec->training.epochs);
    if (dml_plan_is_asynchronous(spec))
        PUT(UPDATES, "%s, drained every %d", spec->parallelism.schedule,
            spec->parallelism.drain_interval);
    else
        PUT(UPDATES, "synchronous");
    return identify_data(spec, out->value[DML_CHECKPOINT_DATA], sizeof out->value[0]);
#undef PUT
}

/* ---- text ---- */

static void add(json_t *to, const char *key, json_t *value)
{
    if (json_object_set_new(to, key, value) != 0)
        dml_assert_failed("out of memory in a checkpoint's state", 0, 0, __FILE__, __LINE__);
}

void dml_ckpt_state_print(const dml_checkpoint_job *job, dml_str *out)
{
    const dml_depot_run *run = job->bank->run;
    json_t *all = json_object(), *is = json_object();
    add(all, "format", json_integer(DML_CKPT_FORMAT));
    add(all, "written_by", json_string("dml-train " DML_VERSION));
    add(all, "step", json_integer(run->step));
    add(all, "commits", json_integer(run->commits));
    add(all, "skipped", json_integer(run->skipped));
    add(all, "good_steps", json_integer(run->good_steps));
    add(all, "loss_scale", json_real((double)run->loss_scale));
    add(all, "evaluated_at", json_integer(run->evaluated_at));
    for (int32_t k = 0; k < DML_CHECKPOINT_KEYS; k++)
        add(is, key_of[k].name, json_string(job->identity->value[k]));
    add(all, "of", is);
    add(all, "plan", json_string(job->plan)); /* for people: nothing reads it */
    char *text = json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    if (!text) dml_assert_failed("a checkpoint's state is text", 0, 0, __FILE__, __LINE__);
    dml_str_printf(out, "%s\n", text);
    free(text);
}

/* A whole number in [least, most]. */
static dml_err whole(const char *path, const json_t *of, const char *key, int64_t least,
                     int64_t most, int64_t *out)
{
    const json_t *v = json_object_get(of, key);
    if (!json_is_integer(v)) DML_FAIL(DML_ERR_DATA, "'%s': %s is no whole number", path, key);
    *out = json_integer_value(v);
    if (*out < least || *out > most)
        DML_FAIL(DML_ERR_DATA, "'%s': %s is %" PRId64, path, key, *out);
    return DML_ERR_OK;
}

static dml_err read_run(const char *path, const json_t *all, dml_depot_run *run)
{
    int64_t format = 0, skipped = 0, good = 0;
    DML_TRY(whole(path, all, "format", 1, INT32_MAX, &format));
    if (format != DML_CKPT_FORMAT)
        DML_FAIL(DML_ERR_DATA, "'%s': format %" PRId64 ", this version reads %d", path, format,
                 DML_CKPT_FORMAT);
    DML_TRY(whole(path, all, "step", 0, INT64_C(1) << 39, &run->step));
    DML_TRY(whole(path, all, "commits", 0, run->step, &run->commits));
    DML_TRY(whole(path, all, "skipped", 0, INT32_MAX, &skipped));
    DML_TRY(whole(path, all, "good_steps", 0, INT32_MAX, &good));
    DML_TRY(whole(path, all, "evaluated_at", -1, run->step, &run->evaluated_at));
    run->skipped = (int32_t)skipped;
    run->good_steps = (int32_t)good;
    const json_t *scale = json_object_get(all, "loss_scale");
    const double value = json_is_number(scale) ? json_number_value(scale) : 0.0;
    if (!(value >= 1.0 && value <= 0x1p24))
        DML_FAIL(DML_ERR_DATA, "'%s': loss_scale is no number from 1 to 2^24", path);
    run->loss_scale = (float)value;
    return DML_ERR_OK;
}

static dml_err read_all(const char *path, const json_t *all, dml_ckpt_state *out)
{
    DML_TRY(read_run(path, all, &out->run));
    const json_t *is = json_object_get(all, "of");
    for (int32_t k = 0; k < DML_CHECKPOINT_KEYS; k++) {
        const char *text = json_string_value(json_object_get(is, key_of[k].name));
        if (!text || strlen(text) >= sizeof out->identity.value[k])
            DML_FAIL(DML_ERR_DATA, "'%s': of.%s is no short text", path, key_of[k].name);
        strcpy(out->identity.value[k], text);
    }
    return DML_ERR_OK;
}

dml_err dml_ckpt_state_parse(const char *path, const char *text, int64_t bytes, dml_ckpt_state *out)
{
    json_error_t why;
    json_t *all = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &why);
    *out = (dml_ckpt_state){0};
    if (!all) DML_FAIL(DML_ERR_DATA, "'%s': line %d: %s", path, why.line, why.text);
    const dml_err err = read_all(path, all, out);
    json_decref(all);
    return err;
}

dml_err dml_ckpt_state_compare(const char *path, const dml_ckpt_state *there,
                               const dml_checkpoint_identity *here, bool is_exact, dml_str *told,
                               bool *other_model)
{
    *other_model = false;
    for (int32_t k = 0; k < DML_CHECKPOINT_KEYS; k++) {
        const char *was = there->identity.value[k], *is = here->value[k];
        if (strcmp(was, is) == 0) continue;
        const bool refuse = key_of[k].when == DML_CHECKPOINT_REFUSE ||
                            (key_of[k].when == DML_CHECKPOINT_EXACT && is_exact);
        if (refuse && k == DML_CHECKPOINT_MODEL)
            *other_model = true;
        else if (refuse)
            DML_FAIL(DML_ERR_SPEC,
                     "the checkpoint '%s' is of another run: %s is \"%s\", there \"%s\"", path,
                     key_of[k].name, is, was);
        else
            dml_str_printf(told, "%s%s: \"%s\", was \"%s\"", told->len ? "; " : "", key_of[k].name,
                           is, was);
    }
    return DML_ERR_OK;
}
