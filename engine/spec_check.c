/* engine/spec_check.c - what follows from the keys, and what must hold between them. */
#include "engine/roofline.h"
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Written, and read without complaint. */
static bool written(const dml_spec_reader *r, dml_spec_key_id id)
{
    return r->source->entry[id].value && !r->source->entry[id].bad;
}

static bool bad(const dml_spec_reader *r, dml_spec_key_id id)
{
    return r->source->entry[id].bad;
}

/* Place of the first of two keys that is written. */
static dml_place place_of(const dml_spec_reader *r, dml_spec_key_id a, dml_spec_key_id b)
{
    const dml_spec_entry *e = r->source->entry;
    if (e[a].value) return e[a].value->place;
    return e[b].value ? e[b].value->place : (dml_place){0};
}

static dml_place at(const dml_spec_reader *r, dml_spec_key_id id)
{
    return place_of(r, id, id);
}

/* ---- names and paths --------------------------------------------------------------------------------- */

static void check_name(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    if (written(r, DML_KEY_RUN_NAME)) {
        if (!spec->run.name[0] || strchr(spec->run.name, '/'))
            dml_complain_at(&r->report, at(r, DML_KEY_RUN_NAME),
                            "'name' becomes a folder's name: not empty, and without '/'");
        return;
    }
    const char *file = r->source->text.file;
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    const char *dot = strrchr(base, '.');
    const int length = (int)(dot && dot > base ? (size_t)(dot - base) : strlen(base));
    spec->run.name =
        strcmp(file, "-") == 0 ? "run" : dml_arena_printf(r->arena, "%.*s", length, base);
    r->source->entry[DML_KEY_RUN_NAME].derived = true;
}

/* Appends what `${NAME}` at *text stands for and moves *text behind it. */
static bool expand_environment(dml_spec_reader *r, dml_place place, const char **text, dml_str *s)
{
    const char *close = strchr(*text, '}');
    if ((*text)[1] != '{' || !close) {
        dml_complain_at(&r->report, place, "write ${NAME} for an environment variable, $$ for '$'");
        return false;
    }
    const char *name = dml_arena_printf(r->arena, "%.*s", (int)(close - *text - 2), *text + 2);
    const char *value = getenv(name);
    if (!value) {
        dml_complain_at(&r->report, place, "the environment has no '%s'", name);
        return false;
    }
    dml_str_printf(s, "%s", value);
    *text = close + 1;
    return true;
}

/* The same for `%name`, `%date` and `%%`. */
static bool expand_percent(dml_spec_reader *r, dml_place place, const char **text, dml_str *s)
{
    if ((*text)[1] == '%') {
        dml_str_printf(s, "%%");
        *text += 2;
    } else if (strncmp(*text, "%name", 5) == 0 && r->spec->run.name) {
        dml_str_printf(s, "%s", r->spec->run.name);
        *text += 5;
    } else if (strncmp(*text, "%date", 5) == 0) {
        char date[32];
        struct tm tm;
        const time_t now = time(NULL);
        strftime(date, sizeof date, "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
        dml_str_printf(s, "%s", date);
        *text += 5;
    } else {
        dml_complain_at(&r->report, place, "unknown '%.8s'; allowed: %%name, %%date, %%%%", *text);
        return false;
    }
    return true;
}

/* Replaces `~/`, `${NAME}`, `%name`, `%date`; false after a complaint. */
static bool expand(dml_spec_reader *r, dml_place place, const char *text, dml_str *s)
{
    const char *home = getenv("HOME");
    bool ok = true;
    if (text[0] == '~' && text[1] == '/' && home) {
        dml_str_printf(s, "%s", home);
        text++;
    }
    while (ok && *text) {
        const size_t plain = strcspn(text, "$%");
        dml_str_append(s, text, plain);
        text += plain;
        if (*text == '$' && text[1] == '$') {
            dml_str_printf(s, "$");
            text += 2;
        } else if (*text == '$') {
            ok = expand_environment(r, place, &text, s);
        } else if (*text == '%') {
            ok = expand_percent(r, place, &text, s);
        }
    }
    return ok;
}

const char *dml_spec_path(dml_spec_reader *r, dml_spec_key_id id, const char *text, bool from_file)
{
    dml_str s = {0};
    if (!expand(r, at(r, id), text, &s)) {
        dml_str_free(&s);
        return "";
    }
    const char *path = dml_str_text(&s);
    if (path[0] != '/') {
        const char *file = r->source->text.file;
        const char *slash = from_file ? strrchr(file, '/') : NULL;
        const int folder = slash ? (int)(slash - file + 1) : 0;
        char *here = folder && file[0] == '/' ? NULL : getcwd(NULL, 0);
        if (strncmp(path, "./", 2) == 0) path += 2;
        path = dml_arena_printf(r->arena, "%s%s%.*s%s", here ? here : "", here ? "/" : "", folder,
                                file, path);
        free(here);
    } else {
        path = dml_arena_strdup(r->arena, path);
    }
    dml_str_free(&s);
    return path;
}

static void check_schedule_path(dml_spec_reader *r)
{
    const char **schedule = &r->spec->parallelism.schedule;
    const size_t n = strlen(DML_ORDER_CSV);
    if (bad(r, DML_KEY_SCHEDULE) || strncmp(*schedule, DML_ORDER_CSV, n) != 0) return;
    const bool from_file = at(r, DML_KEY_SCHEDULE).file != dml_spec_command_line;
    const char *path = dml_spec_path(r, DML_KEY_SCHEDULE, *schedule + n, from_file);
    *schedule = dml_arena_printf(r->arena, "%s%s", DML_ORDER_CSV, path);
}

/* A file to write; "" where there is none. */
static const char *output_path(dml_spec_reader *r, dml_spec_key_id id, const char *text)
{
    return bad(r, id) || !text || !text[0] ? "" : dml_spec_path(r, id, text, false);
}

static void check_output_paths(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    spec->checkpoint.folder = output_path(r, DML_KEY_CKPT_FOLDER, spec->checkpoint.folder);
    spec->logging.trace = output_path(r, DML_KEY_TRACE, spec->logging.trace);
    spec->logging.draw = output_path(r, DML_KEY_DRAW, spec->logging.draw);
    const char *dot = strrchr(spec->logging.draw, '.');
    if (spec->logging.draw[0] && (!dot || (strcmp(dot, ".svg") != 0 && strcmp(dot, ".txt") != 0)))
        dml_complain_at(&r->report, at(r, DML_KEY_DRAW),
                        "'draw': the file's name ends in .svg, for a picture, or .txt, for text");
    if (spec->logging.draw[0] && strcmp(spec->logging.draw, spec->logging.trace) == 0)
        dml_complain_at(&r->report, at(r, DML_KEY_DRAW), "'draw' and 'trace' are the same file");
}

/* A file to read, relative to the one that names it; "" where there is none. */
static const char *input_path(dml_spec_reader *r, dml_spec_key_id id, const char *text)
{
    const bool from_file = at(r, id).file != dml_spec_command_line;
    return bad(r, id) || !text || !text[0] ? "" : dml_spec_path(r, id, text, from_file);
}

static void check_paths(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    check_output_paths(r);
    if (!spec->cluster.hardware || strcmp(spec->cluster.hardware, DML_HARDWARE_HERE) != 0)
        spec->cluster.hardware = input_path(r, DML_KEY_HARDWARE, spec->cluster.hardware);
    spec->profile.file = input_path(r, DML_KEY_PROFILE, spec->profile.file);
    if (!bad(r, DML_KEY_OUTPUT_DIR))
        spec->run.output_dir = dml_spec_path(r, DML_KEY_OUTPUT_DIR, spec->run.output_dir, false);
    check_schedule_path(r);
    if (spec->data.format == DML_DATA_SYNTHETIC || bad(r, DML_KEY_DATA_PATH)) {
        spec->data.path = "";
        return;
    }
    if (!spec->data.path[0]) {
        dml_complain_at(&r->report, at(r, DML_KEY_DATA_PATH), "'path' is empty");
        return;
    }
    const bool from_file = at(r, DML_KEY_DATA_PATH).file != dml_spec_command_line;
    spec->data.path = dml_spec_path(r, DML_KEY_DATA_PATH, spec->data.path, from_file);
}

/* ---- the batch --------------------------------------------------------------------------------------- */

/* global = micro x num.  Of the three, what is not written follows from what is; a default gives way to
 * the nearest value that fits the others. */
static void derive_batch(dml_spec_reader *r, int64_t *global, int64_t *micro, int64_t *num)
{
    const bool g = written(r, DML_KEY_GLOBAL_BATCH), m = written(r, DML_KEY_MICRO_BATCH);
    const bool n = written(r, DML_KEY_NUM_MICROBATCHES);
    const int64_t replicas = r->spec->parallelism.data_parallel_size;
    if (n && !g) *global = *micro * *num;
    if (n && g && !m) *micro = *global % *num ? *micro : *global / *num;
    if (!n && !g) {
        const int64_t unit = *micro * replicas;
        const int64_t units = (*global + unit / 2) / unit;
        *global = unit * (units > 0 ? units : 1);
    }
    if (!n && g && !m) {
        while (*micro > 1 && (*global % *micro || *global / *micro % replicas))
            --*micro;
    }
    if (!n) *num = *global / *micro;
    r->source->entry[DML_KEY_GLOBAL_BATCH].derived =
        !g && *global != r->spec->training.global_batch_size;
    r->source->entry[DML_KEY_MICRO_BATCH].derived =
        !m && *micro != r->spec->training.micro_batch_size;
    r->source->entry[DML_KEY_NUM_MICROBATCHES].derived = !n;
}

/* "64 or 96", the multiples of `unit` around `value`. */
static const char *multiples(dml_spec_reader *r, int64_t value, int64_t unit)
{
    const long long below = value / unit * unit, above = below + unit;
    if (below == 0) return dml_arena_printf(r->arena, "%lld", above);
    return dml_arena_printf(r->arena, "%lld or %lld", below, above);
}

static int64_t largest_divisor(int64_t value, int64_t at_most)
{
    int64_t d = at_most < value ? at_most : value;
    while (value % d)
        d--;
    return d;
}

static void check_batch(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    if (bad(r, DML_KEY_GLOBAL_BATCH) || bad(r, DML_KEY_MICRO_BATCH) ||
        bad(r, DML_KEY_NUM_MICROBATCHES) || bad(r, DML_KEY_REPLICAS))
        return;
    int64_t global = spec->training.global_batch_size, micro = spec->training.micro_batch_size;
    int64_t num = spec->training.num_microbatches;
    derive_batch(r, &global, &micro, &num);
    const int64_t replicas = spec->parallelism.data_parallel_size;
    const dml_place place = place_of(r, DML_KEY_GLOBAL_BATCH, DML_KEY_MICRO_BATCH);
    const bool by_num = written(r, DML_KEY_NUM_MICROBATCHES);
    if (global > INT32_MAX) {
        dml_complain_at(&r->report, at(r, DML_KEY_NUM_MICROBATCHES),
                        "a step of %lld samples is too large", (long long)global);
    } else if (by_num && !written(r, DML_KEY_MICRO_BATCH) && global % num) {
        dml_complain_at(
            &r->report, place,
            "global_batch_size %lld cannot be cut into num_microbatches %lld equal parts",
            (long long)global, (long long)num);
        dml_complain_note(&r->report, "global_batch_size %s would work", multiples(r, global, num));
    } else if (global % micro) {
        dml_complain_at(&r->report, place,
                        "global_batch_size %lld is not a multiple of micro_batch_size %lld",
                        (long long)global, (long long)micro);
        dml_complain_note(&r->report, "global_batch_size %s would work, or micro_batch_size %lld",
                          multiples(r, global, micro), (long long)largest_divisor(global, micro));
    } else if (by_num && num != global / micro) {
        dml_complain_at(&r->report, at(r, DML_KEY_NUM_MICROBATCHES),
                        "num_microbatches %lld disagrees with global_batch_size %lld / "
                        "micro_batch_size %lld = %lld",
                        (long long)num, (long long)global, (long long)micro,
                        (long long)(global / micro));
    } else if (num % replicas) {
        dml_complain_at(&r->report, place_of(r, DML_KEY_REPLICAS, DML_KEY_GLOBAL_BATCH),
                        "num_microbatches %lld (= %lld / %lld) is not divisible by "
                        "data_parallel_size %lld",
                        (long long)num, (long long)global, (long long)micro, (long long)replicas);
        dml_complain_note(&r->report, "global_batch_size %s would work, or data_parallel_size %lld",
                          multiples(r, global, micro * replicas),
                          (long long)largest_divisor(num, replicas));
    }
    spec->training.global_batch_size = (int32_t)global;
    spec->training.micro_batch_size = (int32_t)micro;
    spec->training.num_microbatches = (int32_t)num;
}

/* ---- sections ---------------------------------------------------------------------------------------- */

/* The type says which other keys count, so it comes before them; `layers` names itself. */
static void check_type(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    if (spec->model.type || bad(r, DML_KEY_MODEL_TYPE)) return;
    if (written(r, DML_KEY_LAYERS)) {
        spec->model.type = "layers";
        r->source->entry[DML_KEY_MODEL_TYPE].derived = true;
        return;
    }
    dml_complain_at(&r->report, (dml_place){0}, "'model.type' is missing");
    dml_complain_note(&r->report, "allowed: %s", dml_spec_keys[DML_KEY_MODEL_TYPE].allowed);
}

/* "'betas' is for optimizer.name adamw, not sgd" */
static void check_applicable(dml_spec_reader *r)
{
    for (int32_t k = 0; k < DML_SPEC_KEYS; k++) {
        const dml_spec_key *key = &dml_spec_keys[k];
        int32_t chosen;
        const dml_spec_key *selector = dml_spec_selector(r->spec, key, &chosen);
        if (!r->source->entry[k].value || dml_spec_key_applies(r->spec, key) || chosen < 0 ||
            bad(r, (dml_spec_key_id)(selector - dml_spec_keys)))
            continue;
        dml_complain_at(&r->report, r->source->entry[k].key->place, "'%s' is for %s %s, not %s",
                        dml_spec_last_part(key->path), selector->path, key->only,
                        dml_value_nth(r->arena, selector->allowed, chosen));
    }
}

/* Of table 1 of He et al. 2015, whose stem is chosen by the image's size. */
static bool is_large_resnet(int32_t depth)
{
    return depth == 18 || depth == 34 || depth == 50 || depth == 101 || depth == 152;
}

static void derive_stem(dml_spec_reader *r)
{
    enum { LARGE_IMAGE = 64 };
    dml_spec *spec = r->spec;
    if (written(r, DML_KEY_STEM)) return;
    const bool large = spec->model.input_rank == 3 && spec->model.input[1] >= LARGE_IMAGE &&
                       spec->model.input[2] >= LARGE_IMAGE;
    spec->model.family.stem =
        large && is_large_resnet(spec->model.family.depth) ? DML_STEM_IMAGENET : DML_STEM_CIFAR;
    r->source->entry[DML_KEY_STEM].derived = true;
}

static void check_model(dml_spec_reader *r)
{
    const dml_spec *spec = r->spec;
    const char *type = spec->model.type;
    const bool vgg = strcmp(type, "vgg") == 0, resnet = strcmp(type, "resnet") == 0;
    const int32_t depth = spec->model.family.depth;
    const dml_place where = place_of(r, DML_KEY_DEPTH, DML_KEY_MODEL_TYPE);
    if (vgg && depth != 8 && depth != 11 && depth != 13 && depth != 16 && depth != 19) {
        dml_complain_at(&r->report, where, "no vgg of depth %d; there are 8, 11, 13, 16, 19",
                        depth);
        return;
    }
    const bool large = is_large_resnet(depth);
    if (resnet && !large && (depth < 8 || depth > 1202 || depth % 6 != 2)) {
        dml_complain_at(&r->report, where, "no resnet of depth %d", depth);
        dml_complain_note(&r->report,
                          "allowed: 18, 34, 50, 101, 152; or 6n + 2: 8, 14, 20, 32, 44, 56, ...");
    }
    if (resnet && !large && r->spec->model.family.stem == DML_STEM_IMAGENET)
        dml_complain_at(&r->report, at(r, DML_KEY_STEM),
                        "stem imagenet is for depths 18, 34, 50, 101, 152, not %d", depth);
    const bool image = spec->model.input_rank == 3;
    if ((vgg || resnet) && !image && !bad(r, DML_KEY_MODEL_INPUT))
        dml_complain_at(&r->report, place_of(r, DML_KEY_MODEL_INPUT, DML_KEY_MODEL_TYPE),
                        "%s reads images: input is [channels, height, width]", type);
    const int32_t least = depth == 8 ? 8 : 32;
    if (vgg && image && (spec->model.input[1] < least || spec->model.input[2] < least))
        dml_complain_at(&r->report, place_of(r, DML_KEY_MODEL_INPUT, DML_KEY_MODEL_TYPE),
                        "vgg halves the image %s times: it needs at least %dx%d",
                        depth == 8 ? "three" : "five", least, least);
    if (strcmp(type, "layers") == 0 && !r->source->entry[DML_KEY_LAYERS].value)
        dml_complain_at(&r->report, at(r, DML_KEY_MODEL_TYPE), "model.type layers needs 'layers'");
}

/* One number stands for all channels. */
static void spread_channels(dml_spec_reader *r, dml_spec_key_id id, float *v)
{
    if (bad(r, id) || bad(r, DML_KEY_MODEL_INPUT)) return;
    const int32_t n = written(r, id) ? r->source->entry[id].value->n : 1;
    const int32_t channels = r->spec->model.input_rank == 3 ? r->spec->model.input[0] : 1;
    if (n == 1)
        v[1] = v[2] = v[0];
    else if (n != channels)
        dml_complain_at(&r->report, at(r, id), "%d numbers for %d channel%s", n, channels,
                        channels == 1 ? "" : "s");
}

static void check_training(dml_spec_reader *r)
{
    const dml_spec *spec = r->spec;
    if (spec->training.max_steps == 0 && spec->training.epochs == 0 && !bad(r, DML_KEY_EPOCHS) &&
        !bad(r, DML_KEY_MAX_STEPS))
        dml_complain_at(&r->report, place_of(r, DML_KEY_EPOCHS, DML_KEY_MAX_STEPS),
                        "nothing to do: epochs and max_steps are both 0");
    if (spec->optimizer.nesterov && spec->optimizer.name == DML_OPT_SGD &&
        spec->optimizer.momentum == 0.0f)
        dml_complain_at(&r->report, at(r, DML_KEY_NESTEROV), "nesterov needs momentum > 0");
    if (spec->training.loss_scale != 0.0f && spec->training.precision != DML_PRECISION_FP16 &&
        !bad(r, DML_KEY_PRECISION))
        dml_complain_at(&r->report, at(r, DML_KEY_LOSS_SCALE),
                        "loss_scale is for training.precision fp16: the others have float's range");
    if (spec->lr_scheduler.name == DML_LR_STEP && spec->lr_scheduler.step.n == 0 &&
        !bad(r, DML_KEY_STEP_SIZE))
        dml_complain_at(&r->report, place_of(r, DML_KEY_STEP_SIZE, DML_KEY_LR_SCHEDULER),
                        "lr_scheduler step needs step_size > 0, such as 10 epochs");
}

static void check_split(dml_spec_reader *r)
{
    const dml_spec *spec = r->spec;
    if (spec->parallelism.split != DML_SPLIT_LIST || bad(r, DML_KEY_PIPELINE) ||
        bad(r, DML_KEY_VIRTUAL) || bad(r, DML_KEY_STAGES))
        return;
    const int32_t n = r->source->entry[DML_KEY_SPLIT].value->n,
                  ranks = spec->parallelism.pipeline_parallel_size,
                  each = spec->parallelism.virtual_stages;
    if (n == dml_spec_stages(spec)) return;
    if (spec->parallelism.n_stages > 0)
        dml_complain_at(&r->report, at(r, DML_KEY_SPLIT),
                        "split lists %d stages, parallelism.stages %d", n,
                        spec->parallelism.n_stages);
    else if (each == 1)
        dml_complain_at(&r->report, at(r, DML_KEY_SPLIT),
                        "split lists %d stages, pipeline_parallel_size is %d", n, ranks);
    else
        dml_complain_at(&r->report, at(r, DML_KEY_SPLIT),
                        "split lists %d stages, not %d: pipeline_parallel_size %d with "
                        "virtual_pipeline_stages %d",
                        n, ranks * each, ranks, each);
}

/* Sums in the NVSwitch are not known to survive the abort of a communicator. */
static void settle_nvls(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    if (spec->failures.policy != DML_POLICY_REPLAN || bad(r, DML_KEY_NVLS)) return;
    if (spec->comm.nvls == DML_NVLS_ON)
        dml_complain_at(&r->report, at(r, DML_KEY_NVLS),
                        "nvls: on is not known to survive what failures.policy: replan does to "
                        "those who are left; leave it out, or take policy restart or abort");
    if (spec->comm.nvls != DML_NVLS_AUTO) return;
    spec->comm.nvls = DML_NVLS_OFF;
    r->source->entry[DML_KEY_NVLS].derived = true;
}

void dml_spec_check(dml_spec_reader *r)
{
    if (!bad(r, DML_KEY_VERSION) && r->spec->version != 1)
        dml_complain_at(&r->report, at(r, DML_KEY_VERSION),
                        "version %d is not known here: this program reads version 1",
                        r->spec->version);
    check_name(r);
    check_paths(r);
    check_type(r);
    check_applicable(r);
    dml_spec_settle_layout(r);
    check_batch(r);
    check_training(r);
    settle_nvls(r);
    dml_spec_check_stages(r);
    dml_spec_check_cluster(r);
    check_split(r);
    spread_channels(r, DML_KEY_MEAN, r->spec->data.mean);
    spread_channels(r, DML_KEY_STD, r->spec->data.std);
    const bool model = r->spec->model.type && !bad(r, DML_KEY_DEPTH) && !bad(r, DML_KEY_HIDDEN) &&
                       !bad(r, DML_KEY_LAYERS) && !bad(r, DML_KEY_LOSS);
    if (!model) return;
    const int32_t complaints = r->report.n;
    derive_stem(r);
    check_model(r);
    if (r->report.n == complaints) dml_spec_make_layers(r);
    if (r->report.n == complaints) dml_spec_check_costs(r);
    if (r->report.n == 0) dml_spec_check_plan(r);
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* At least one where anything was asked for. */
static int64_t steps_of(dml_interval v, double per_epoch)
{
    const int64_t steps = v.epochs ? llround(v.n * per_epoch) : (int64_t)v.n;
    return v.n > 0 && steps == 0 ? 1 : steps;
}

dml_err dml_spec_set_samples(dml_spec *spec, int64_t train_samples)
{
    static const char key[] = "training.global_batch_size";
    const int64_t batch = spec->training.global_batch_size;
    double per_epoch = (double)train_samples / (double)batch; /* wrap: epochs are one long stream */
    if (spec->data.last_batch == DML_LAST_SHORT) per_epoch = ceil(per_epoch);
    if (spec->data.last_batch == DML_LAST_DROP) per_epoch = floor(per_epoch);
    if (train_samples < 1 || per_epoch == 0)
        return dml_spec_fail(spec, dml_spec_place(spec, key), key,
                             "a step takes %lld samples and there are %lld: no step in an epoch",
                             (long long)batch, (long long)train_samples);
    spec->training.eval_interval_steps = steps_of(spec->training.eval_interval, per_epoch);
    spec->checkpoint.interval_steps = steps_of(spec->checkpoint.every, per_epoch);
    spec->lr_scheduler.warmup_steps = steps_of(spec->lr_scheduler.warmup, per_epoch);
    spec->lr_scheduler.step_size = steps_of(spec->lr_scheduler.step, per_epoch);
    return DML_ERR_OK;
}
