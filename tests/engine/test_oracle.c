/* Right numbers: 20 steps against PyTorch, from goldens that tests/oracle/oracle.py wrote.
 *
 *   tensors   max |ours - PyTorch| / max |PyTorch| <= 1e-4 over the sampled elements of each parameter and
 *             running moment; the initial values have to be the same bits
 *   losses    of every step and of the evaluation at the end: 1e-5, relative; right answers: equal
 *
 * A golden says which spec and overrides it is of, so this file knows no hyperparameters.
 *
 *   test_oracle                     all cases
 *   test_oracle --dump CASE FILE    every element after training, for oracle.py --compare
 */
#include "tests/support/test.h"

#include "tests/engine/idx_folder.h"
#include "tests/support/run_threads.h"

#include "engine/base/hash.h"
#include "engine/idx.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

enum { SAMPLED = 64, TEST_IMAGES = 128, OVERRIDES_MAX = 32, HOW_OVERRIDES = 5, PATH_ROOM = 512 };
enum { SKIPPED = 77 }; /* of ctest: the data set is not here */

#define TENSOR_BAR 1e-4
#define LOSS_BAR   1e-5
#define NORM_BAR   1e-4
#define LR_BAR     1e-6

typedef struct oracle {
    json_t *golden;
    json_t *tensors; /* by name; of the golden */
    int32_t starts, ends;
    double worst; /* of the tensors */
    const char *worst_in;
    char trouble[256];
    FILE *dump; /* NULL: none */
} oracle;

/* What changes nothing but round-off. */
typedef struct how {
    const char *backend, *stages, *replicas, *numerics;
} how;

/* Fashion-MNIST with a test split that is quick to evaluate; path "" without the data set. */
static idx_folder folder;

/* ---- the data set ---- */

static void link_train_file(const char *name)
{
    char from[PATH_ROOM], to[PATH_MAX];
    snprintf(from, sizeof from, DML_IDX_DEFAULT_FOLDER "/%s", name);
    idx_folder_path(&folder, name, to);
    DML_CHECK_EQ(0, symlink(from, to));
}

/* The training files as they are and the first 128 test images: evaluation is part of every run. */
static int make_folder(void **state)
{
    (void)state;
    dml_idx test;
    if (dml_idx_load(DML_IDX_DEFAULT_FOLDER, true, true, true, 10, &test) != DML_ERR_OK) {
        print_message("without %s (Debian: dataset-fashion-mnist) only synthetic cases run\n",
                      DML_IDX_DEFAULT_FOLDER);
        return 0;
    }
    folder = idx_folder_make();
    link_train_file("train-images-idx3-ubyte.gz");
    link_train_file("train-labels-idx1-ubyte.gz");
    const uint32_t dim[3] = {TEST_IMAGES, (uint32_t)test.height, (uint32_t)test.width};
    idx_folder_put(&folder, "t10k-images-idx3-ubyte", 0x803, dim, 3, test.images,
                   (int64_t)TEST_IMAGES * test.height * test.width);
    idx_folder_put(&folder, "t10k-labels-idx1-ubyte", 0x801, dim, 1, test.labels, TEST_IMAGES);
    dml_idx_free(&test);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    if (folder.path[0]) idx_folder_remove(&folder);
    return 0;
}

/* ---- the golden ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text) fail_msg("the golden lacks the text '%s'", key);
    return text;
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *number = json_object_get(object, key);
    if (!json_is_number(number)) fail_msg("the golden lacks the number '%s'", key);
    return json_number_value(number);
}

static oracle read_golden(const char *name)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, DML_SOURCE_DIR "/tests/golden/oracle-%s.json", name);
    json_error_t error;
    oracle o = {.golden = json_load_file(path, 0, &error), .tensors = json_object()};
    if (!o.golden) fail_msg("%s:%d: %s", path, error.line, error.text);
    const json_t *list = json_object_get(o.golden, "tensors");
    DML_CHECK(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *tensor = json_array_get(list, i);
        (void)number_of(tensor, "max");
        (void)text_of(tensor, "start");
        DML_CHECK_EQ(0, json_object_set(o.tensors, text_of(tensor, "name"), tensor));
    }
    return o;
}

static void free_golden(oracle *o)
{
    json_decref(o->tensors);
    json_decref(o->golden);
}

/* ---- tensors: seen on workers' threads, where cmocka cannot fail, so trouble is noted ---- */

/* Which elements a golden holds: all of a small tensor, else some spread by the golden ratio. */
static int64_t sampled_at(int64_t n, int64_t i)
{
    return n <= SAMPLED ? i : (int64_t)((uint32_t)i * UINT32_C(2654435769)) * n >> 32;
}

static void note(oracle *o, const char *what, const char *name)
{
    if (!o->trouble[0]) snprintf(o->trouble, sizeof o->trouble, "%s: %s", name, what);
}

static void see_start(oracle *o, const json_t *tensor, const float *value, int64_t n)
{
    const char *name = text_of(tensor, "name");
    const uint64_t hash = strtoull(text_of(tensor, "start"), NULL, 16);
    if (dml_hash(value, n * (int64_t)sizeof *value, 0) != hash) note(o, "starts elsewhere", name);
    o->starts++;
}

static void see_end(oracle *o, const json_t *tensor, const float *value, int64_t n)
{
    const char *name = text_of(tensor, "name");
    const json_t *end = json_object_get(tensor, "end");
    const int64_t sampled = n < SAMPLED ? n : SAMPLED;
    if (sampled != (int64_t)json_array_size(end)) note(o, "has another size", name);
    const double largest = number_of(tensor, "max");
    for (int64_t i = 0; i < sampled; i++) {
        const double want = json_number_value(json_array_get(end, (size_t)i)),
                     ratio = fabs((double)value[sampled_at(n, i)] - want) / largest;
        if (ratio <= o->worst) continue;
        o->worst = isnan(ratio) ? (double)INFINITY : ratio;
        o->worst_in = name;
    }
    o->ends++;
}

static void see_tensor(oracle *o, const char *name, const float *value, int64_t n, bool after)
{
    const json_t *tensor = json_object_get(o->tensors, name);
    if (o->dump && after) {
        fprintf(o->dump, "%s %lld\n", name, (long long)n);
        fwrite(value, sizeof *value, (size_t)n, o->dump);
    }
    if (tensor)
        (after ? see_end : see_start)(o, tensor, value, n);
    else
        note(o, "is not in the golden", name);
}

static void see_chunk(void *context, const dml_chunk *c, bool after)
{
    oracle *o = context;
    for (int32_t p = c->param_begin; p < c->param_end; p++)
        see_tensor(o, c->model->param[p].name, dml_chunk_param(c, p), c->model->param[p].elems,
                   after);
    for (int32_t s = c->state_begin; s < c->state_end; s++)
        see_tensor(o, c->model->state[s].name, dml_chunk_state(c, s), c->model->state[s].elems,
                   after);
}

/* ---- a run ---- */

static double off(double want, double got)
{
    return fabs(got - want) / fabs(want);
}

static void keep_worst(double *worst, double value)
{
    if (!(value <= *worst)) *worst = value;
}

/* Some ReLU or max pool comes so near to its kink that round-off decides, in PyTorch as here
 * (tests/oracle/README.md): only what the first step computes forward can be compared. */
static bool has_kinks(const oracle *o)
{
    return json_is_true(json_object_get(o->golden, "kinks"));
}

/* Losses, norms and learning rates of all steps, the evaluation, and the tensors' worst. */
static void check(const oracle *o, const run_result *r)
{
    const json_t *steps = json_object_get(o->golden, "steps"),
                 *eval = json_object_get(o->golden, "eval");
    double loss = 0.0, norm = 0.0, lr = 0.0;
    DML_CHECK_EQ(json_array_size(steps), r->steps);
    for (int64_t i = 0; i < (has_kinks(o) ? 1 : r->steps); i++) {
        const json_t *want = json_array_get(steps, (size_t)i);
        const dml_report_step *got = &r->step[i];
        DML_CHECK_EQ(number_of(want, "samples"), got->samples);
        DML_CHECK_EQ(number_of(want, "correct"), got->correct);
        keep_worst(&loss, off(number_of(want, "loss"), got->loss));
        keep_worst(&norm, off(number_of(want, "grad_norm"), got->grad_norm));
        keep_worst(&lr, off(number_of(want, "lr"), got->lr));
    }
    DML_CHECK(r->has_eval);
    DML_CHECK_EQ(number_of(eval, "samples"), r->eval.samples);
    const double eval_loss = off(number_of(eval, "loss"), r->eval.loss);
    print_message("tensors %.1e (%s), losses %.1e, gradient norms %.1e, evaluation %.1e\n",
                  o->worst, o->worst_in, loss, norm, eval_loss);
    DML_CHECK(loss <= LOSS_BAR);
    DML_CHECK(lr <= LR_BAR);
    if (has_kinks(o)) return;
    DML_CHECK(norm <= NORM_BAR);
    DML_CHECK_EQ(number_of(eval, "correct"), r->eval.correct);
    DML_CHECK(eval_loss <= LOSS_BAR);
    DML_CHECK(o->worst <= TENSOR_BAR);
}

static bool needs_folder(const oracle *o)
{
    return strcmp(text_of(o->golden, "data"), "synthetic") != 0;
}

static void push(const char **list, int32_t *n, char text[PATH_ROOM], const char *key,
                 const char *value)
{
    snprintf(text, PATH_ROOM, "%s=%s", key, value);
    list[(*n)++] = text;
}

/* The golden's overrides, then what the case varies and the folder of the data. */
static run_result run(oracle *o, const how *h)
{
    char spec[PATH_ROOM], text[HOW_OVERRIDES][PATH_ROOM];
    const char *override[OVERRIDES_MAX + HOW_OVERRIDES + 1] = {0};
    const json_t *listed = json_object_get(o->golden, "overrides");
    int32_t n = 0;
    DML_CHECK(json_array_size(listed) <= OVERRIDES_MAX);
    for (size_t i = 0; i < json_array_size(listed); i++)
        override[n++] = json_string_value(json_array_get(listed, i));
    push(override, &n, text[0], "parallelism.backend", h->backend);
    push(override, &n, text[1], "parallelism.pipeline_parallel_size", h->stages);
    push(override, &n, text[2], "parallelism.data_parallel_size", h->replicas);
    push(override, &n, text[3], "training.numerics", h->numerics);
    if (needs_folder(o)) push(override, &n, text[4], "data.path", folder.path);
    snprintf(spec, sizeof spec, DML_SOURCE_DIR "/%s", text_of(o->golden, "spec"));
    return run_threads_hooked(spec, override, (run_hooks){.inspect = see_chunk, .context = o});
}

static void expect_as_pytorch(const char *name, how h)
{
    oracle o = read_golden(name);
    if (needs_folder(&o) && !folder.path[0]) {
        free_golden(&o);
        skip();
    }
    const run_result r = run(&o, &h);
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    if (o.trouble[0]) fail_msg("%s", o.trouble);
    const int32_t seen = (int32_t)json_object_size(o.tensors) * atoi(h.replicas);
    DML_CHECK_EQ(seen, o.starts);
    DML_CHECK_EQ(seen, o.ends);
    print_message("%s, %s %sx%s %s: ", name, h.backend, h.stages, h.replicas, h.numerics);
    check(&o, &r);
    free_golden(&o);
}

/* clang-format off */
/*    sentence                                          golden          backend  stages  replicas  numerics */
#define CASE_LIST(X)                                                                                            \
    X(an_mlp_trains_with_sgd_as_in_pytorch,             "mlp-sgd",      "cpu",   "1",    "1",      "fast")      \
    X(naive_kernels_train_it_alike,                     "mlp-sgd",      "ref",   "1",    "1",      "fast")      \
    X(four_workers_train_it_alike,                      "mlp-sgd",      "cpu",   "2",    "2",      "fast")      \
    X(an_mlp_trains_with_adamw_as_in_pytorch,           "mlp-adamw",    "cpu",   "1",    "1",      "fast")      \
    X(four_workers_train_it_with_adamw_alike,           "mlp-adamw",    "cpu",   "2",    "2",      "fast")      \
    X(the_example_mlp_trains_as_in_pytorch,             "mlp-example",  "cpu",   "1",    "1",      "fast")      \
    X(vgg8_trains_with_sgd_as_in_pytorch,               "vgg8-sgd",     "cpu",   "1",    "1",      "fast")      \
    X(naive_kernels_train_vgg8_alike,                   "vgg8-sgd",     "ref",   "1",    "1",      "fast")      \
    X(four_workers_train_vgg8_alike,                    "vgg8-sgd",     "cpu",   "2",    "2",      "fast")      \
    X(vgg8_trains_with_adamw_as_in_pytorch,             "vgg8-adamw",   "cpu",   "1",    "1",      "fast")      \
    X(four_workers_train_vgg8_with_adamw_alike,         "vgg8-adamw",   "cpu",   "2",    "2",      "fast")      \
    X(smooth_vgg8_trains_with_sgd_on_fashion_mnist,     "smooth-sgd",   "cpu",   "1",    "1",      "fast")      \
    X(four_workers_train_smooth_vgg8_alike,             "smooth-sgd",   "cpu",   "2",    "2",      "fast")      \
    X(smooth_vgg8_trains_with_adamw_on_fashion_mnist,   "smooth-adamw", "cpu",   "1",    "1",      "fast")      \
    X(the_example_vgg8_begins_as_in_pytorch,            "vgg8-example", "cpu",   "1",    "1",      "fast")      \
    X(every_layer_trains_with_sgd_as_in_pytorch,        "layers-sgd",   "cpu",   "1",    "1",      "fast")      \
    X(naive_kernels_train_every_layer_alike,            "layers-sgd",   "ref",   "1",    "1",      "fast")      \
    X(four_workers_train_every_layer_alike,             "layers-sgd",   "cpu",   "2",    "2",      "fast")      \
    X(exact_sums_train_every_layer_alike,               "layers-sgd",   "cpu",   "2",    "2",      "exact")     \
    X(every_layer_trains_with_adamw_as_in_pytorch,      "layers-adamw", "cpu",   "1",    "1",      "fast")      \
    X(naive_kernels_train_every_layer_with_adamw_alike, "layers-adamw", "ref",   "1",    "1",      "fast")      \
    X(exact_sums_train_every_layer_with_adamw_alike,    "layers-adamw", "cpu",   "2",    "2",      "exact")
/* clang-format on */

#define X(sentence, golden, ...)                       \
    static void sentence(void **state)                 \
    {                                                  \
        (void)state;                                   \
        expect_as_pytorch(golden, (how){__VA_ARGS__}); \
    }
CASE_LIST(X)
#undef X

static const char *dump_case, *dump_path;

static void dump(void **state)
{
    (void)state;
    oracle o = read_golden(dump_case);
    o.dump = fopen(dump_path, "wb");
    if (!o.dump) fail_msg("cannot write '%s'", dump_path);
    const run_result r = run(&o, &(how){"cpu", "1", "1", "fast"});
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    DML_CHECK_EQ(0, fclose(o.dump));
    free_golden(&o);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--dump") == 0) {
        dump_case = argv[2];
        dump_path = argv[3];
        const struct CMUnitTest tests[] = {cmocka_unit_test(dump)};
        return cmocka_run_group_tests(tests, make_folder, remove_folder);
    }
    const struct CMUnitTest tests[] = {
#define X(sentence, ...) cmocka_unit_test(sentence),
        CASE_LIST(X)
#undef X
    };
    const int failed = cmocka_run_group_tests(tests, make_folder, remove_folder);
    return failed || folder.path[0] ? failed : SKIPPED;
}
