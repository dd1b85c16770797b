/* Profiles: written and read back equal, refused when damaged, stale or foreign, and what planners read of them. */
#include "tests/support/test.h"

#include "tests/engine/spec_file.h"

#include "engine/profile.h"
#include "kernels/backend.h"

static const char net[] =
    "model: {type: layers, input: [4], classes: 3, layers: [{linear: {out: 3, name: fc}}, relu]}\n"
    "data: {format: synthetic}\n"
    "parallelism: {backend: ref}\n";
enum { LAYERS = 3, ROWS = 2 };

/* A profile of that net on this machine by the ref backend. */
static void make(dml_arena *arena, const dml_spec *spec, dml_profile *out)
{
    dml_model model;
    const dml_backend *backend;
    static int64_t rows[] = {8, 32};
    static dml_profile_whole whole[] = {{8, 40, 100, 7, 3, 600, 25, 4096},
                                        {32, 160, 400, 9, 5, 2300, 35, 16384}};
    static dml_profile_transfer transfer[] = {{2, 64, 1000}, {2, 1 << 20, 1001000}},
                                sum[] = {{2, 64, 3000}, {2, 1 << 20, 2003000}};
    static dml_profile_fit reduce[] = {{2, 3000, 500000000, 64, 1 << 20}};
    static dml_spread times[LAYERS][DML_PASSES][ROWS] = {
        {{{30, 29, 33, 5}, {120, 110, 130, 5}}, {{0}}, {{60, 50, 70, 5}, {200, 190, 200, 5}}},
        {{{10, 9, 10, 5}, {20, 20, 20, 5}}, {{20, 20, 21, 5}, {40, 40, 40, 5}}, {{0}}},
        {{{10, 9, 10, 5}, {20, 20, 20, 5}}, {{0}}, {{0}}},
    };
    DML_CHECK_OK(dml_backend_find("ref", &backend));
    DML_CHECK_OK(dml_model_make(spec, arena, &model));
    *out = (dml_profile){.file = "made up",
                         .made = {"2026-01-02T03:04:05Z", "0.1"},
                         .workers = 2,
                         .iterations = 100,
                         .micro_batches = 4,
                         .n_rows = ROWS,
                         .n_layers = LAYERS,
                         .n_transfers = 2,
                         .n_sums = 2,
                         .n_reduces = 1,
                         .rows = rows,
                         .whole = whole,
                         .transfer = transfer,
                         .sum = sum,
                         .link = {2, 936, 1048576000, 64, 1 << 20},
                         .reduce = reduce,
                         .vote_ns = 11};
    dml_profile_machine(backend, arena, out);
    out->machine.link = "real";
    dml_profile_describe(spec, &model, arena, out);
    out->model.threads = 1;
    out->layer = DML_NEW_N(arena, dml_profile_layer, LAYERS);
    for (int32_t l = 0; l < LAYERS; l++) {
        out->layer[l] = (dml_profile_layer){.name = model.layer[l].spec->name,
                                            .kind = "kind",
                                            .within = l == 1 ? "fc" : "",
                                            .parameter_bytes = 60 * (l == 0),
                                            .activation_bytes = 12,
                                            .stash_bytes = 5,
                                            .begin_ns = l,
                                            .step_ns = 3 + l,
                                            .norm_ns = 2};
        for (dml_pass p = 0; p < DML_PASSES; p++)
            out->layer[l].ns[p] = times[l][p];
    }
}

typedef struct fixture {
    dml_arena arena;
    dml_spec spec;
    dml_model model;
    dml_profile made;
    char path[64];
} fixture;

static void open_fixture(fixture *f)
{
    *f = (fixture){.path = "/tmp/dml-profile-XXXXXX"};
    const int fd = mkstemp(f->path);
    DML_CHECK(fd >= 0);
    close(fd);
    DML_CHECK_OK(spec_of(net, NULL, 0, &f->spec));
    DML_CHECK_OK(dml_model_make(&f->spec, &f->arena, &f->model));
    make(&f->arena, &f->spec, &f->made);
    DML_CHECK_OK(dml_profile_write(&f->made, f->path));
}

static void close_fixture(fixture *f)
{
    unlink(f->path);
    dml_spec_free(&f->spec);
    dml_arena_free(&f->arena);
}

static char *text_of(const char *path)
{
    FILE *f = fopen(path, "r");
    DML_CHECK(f);
    char *text = calloc(1, 1 << 16);
    DML_CHECK(text && fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

static void what_is_written_reads_back_equal(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    dml_profile again;
    DML_CHECK_OK(dml_profile_read(f.path, &f.arena, &again));
    char *first = text_of(f.path);
    DML_CHECK_OK(dml_profile_write(&again, f.path));
    char *second = text_of(f.path);
    assert_string_equal(first, second);
    DML_CHECK_EQ(33, again.layer[0].ns[DML_PASS_FORWARD][0].p75_ns);
    DML_CHECK_EQ(16384, again.whole[1].stash_bytes);
    DML_CHECK_EQ(500000000, again.reduce[0].bytes_per_s);
    DML_CHECK_EQ(1 << 20, again.sum[1].bytes);
    assert_string_equal("fc", again.layer[1].within);
    free(first);
    free(second);
    close_fixture(&f);
}

/* `from` of the written file becomes `to`; reading it says `says`. */
static void refused(const fixture *f, const char *from, const char *to, const char *says)
{
    DML_CHECK_OK(dml_profile_write(&f->made, f->path));
    char *text = text_of(f->path), *at = strstr(text, from);
    if (!at) fail_msg("'%s' is not in the file", from);
    FILE *out = fopen(f->path, "w");
    DML_CHECK(out);
    fprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    fclose(out);
    dml_arena arena = {0};
    dml_profile p;
    DML_CHECK_EQ(DML_ERR_SPEC, dml_profile_read(f->path, &arena, &p));
    if (!strstr(dml_err_trail(), says)) fail_msg("'%s' is not in:\n%s", says, dml_err_trail());
    dml_arena_free(&arena);
    free(text);
}

static void damage_is_refused_by_the_name_of_the_field(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    refused(&f, "\"dml_profile\": 1", "\"dml_profile\": 2", "not a version that is known");
    refused(&f, "\"dml_profile\": 1,", "", "dml_profile: is missing");
    refused(&f, "\"workers\": 2", "\"workers\": 0", "workers: must be >= 1, not 0");
    refused(&f, "\"workers\": 2", "\"workers\": 2.5", "workers: expected a whole number");
    refused(&f, "\"workers\": 2", "\"workers\": \"2\"", "workers: expected a whole number");
    refused(&f, "\"workers\": 2", "\"worker\": 2", "worker: no such field");
    refused(&f, "\"workers\": 2,", "\"workers\": 2, \"workers\": 3,", "duplicate");
    refused(&f, "\"workers\": 2,", "\"workers\": 2,,", ":25:15: error"); /* a place in the file */
    refused(&f, "\"vote_ns\": 11", "\"vote_ns\": -11", "vote_ns: must be >= 0, not -11");
    refused(&f, "\"vote_ns\": 11", "\"vote_ns\": 99999999999999999999", "error");
    refused(&f, "\"cores\"", "\"cpus\"", "machine.cpus: no such field");
    refused(&f, "\"cpu\": \"", "\"cpu\": 3, \"host2\": \"", "machine.host2: no such field");
    refused(&f, "\"date\": \"2026-01-02T03:04:05Z\"", "\"date\": 2026",
            "made.date: expected a text");
    refused(&f, "\"rows\": [\n  8,\n  32\n ]", "\"rows\": [32, 8]", "rows[1]: must ascend");
    refused(&f, "\"rows\": [\n  8,\n  32\n ]", "\"rows\": []", "rows: is empty");
    refused(&f, "\"rows\": [\n  8,\n  32\n ]", "\"rows\": 8", "rows: expected a list");
    refused(&f, "\"rows\": [\n  8,\n  32\n ]", "\"rows\": [8, 16]", "whole[1].rows: is not that");
    refused(&f, "\"rows\": [\n  8,\n  32\n ]", "\"rows\": [8]", "as long as 'rows'");
    refused(&f, "     30,\n     29,", "     30,\n     31,", "layers[0].forward_ns[0]: the median");
    refused(&f, "     30,\n     29,", "     -30,\n     29,", "layers[0].forward_ns[0][0]: must be");
    refused(&f, "     30,\n     29,", "     30,", "layers[0].forward_ns[0]: expected [median");
    refused(&f, "\"weight_ns\"", "\"weights_ns\"", "layers[0].weights_ns: no such field");
    refused(&f, "\"step_ns\": 3,", "", "layers[0].step_ns: is missing");
    refused(&f, "\"kind\": \"kind\"", "\"kind\": null", "layers[0].kind: expected a text");
    refused(&f, "\"whole\"", "\"wholes\"", "wholes: no such field");
    refused(&f, "\"link\": {", "\"link\": [], \"x\": {", "x: no such field");
    refused(&f, "\"reduce\": [\n  {\n   \"members\": 2", "\"reduce\": [\n  {\n   \"members\": 1",
            "reduce[0].members: must ascend, and be at least 2");
    refused(&f, "\"transfers\": [", "\"transfers\": [3, ", "transfers[0]: expected an object");
    refused(&f, "{", "[", "error");
    close_fixture(&f);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_profile p;
    DML_CHECK_EQ(DML_ERR_SPEC, dml_profile_read("/nowhere/net.json", &arena, &p));
    DML_CHECK(strstr(dml_err_trail(), "/nowhere/net.json: error: no profile"));
    dml_arena_free(&arena);
}

static void not_for(const fixture *f, const char *override, const char *says)
{
    dml_spec spec;
    dml_model model;
    dml_arena arena = {0};
    DML_CHECK_OK(spec_of(net, &override, 1, &spec));
    DML_CHECK_OK(dml_model_make(&spec, &arena, &model));
    DML_CHECK_EQ(DML_ERR_SPEC, dml_profile_check(&f->made, &spec, &model, false));
    if (!strstr(dml_err_trail(), says)) fail_msg("'%s' is not in:\n%s", says, dml_err_trail());
    DML_CHECK(strstr(dml_err_trail(), "run dml-plan profile again"));
    dml_arena_free(&arena);
    dml_spec_free(&spec);
}

static void a_stale_profile_is_refused_with_the_reason(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    DML_CHECK_OK(dml_profile_check(&f.made, &f.spec, &f.model, true));
    not_for(&f, "training.precision=bf16", "training.precision fp32, and here it is bf16");
    not_for(&f, "training.numerics=exact", "training.numerics fast, and here it is exact");
    not_for(&f, "optimizer.name=adamw", "optimizer sgd with momentum, and here it is adamw");
    not_for(&f, "optimizer.momentum=0", "optimizer sgd with momentum, and here it is sgd");
    not_for(&f, "parallelism.threads_per_worker=2", "threads_per_worker 1, and here it is 2");
    not_for(&f, "model.input=[5]", "but other sizes");
    not_for(&f, "model.layers=[{linear: {out: 3, name: fc}}]", "it has 3 layers, the model 2");
    not_for(&f, "model.layers=[{linear: {out: 3, name: fd}}, relu]",
            "its layer 0 is 'fc', the model's 'fd'");
    close_fixture(&f);
}

static void foreign(const fixture *f, const dml_profile *p, const char *says)
{
    DML_CHECK_OK(dml_profile_check(p, &f->spec, &f->model, false));
    DML_CHECK_EQ(DML_ERR_SPEC, dml_profile_check(p, &f->spec, &f->model, true));
    if (!strstr(dml_err_trail(), says)) fail_msg("'%s' is not in:\n%s", says, dml_err_trail());
    DML_CHECK(strstr(dml_err_trail(), "profile_check: model"));
}

static void a_foreign_profile_is_refused_unless_the_model_is_enough(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    dml_profile p = f.made;
    p.machine.cpu = "Z80";
    foreign(&f, &p, "made on the processor Z80");
    p = f.made;
    p.machine.cores += 2;
    foreign(&f, &p, "made on cores");
    p = f.made;
    p.machine.libraries = "oneDNN 0.0.1";
    foreign(&f, &p, "made on libraries oneDNN 0.0.1");
    p = f.made;
    p.machine.backend = "tpu";
    foreign(&f, &p, "made on backend tpu");
    p = f.made;
    p.machine.device = "8 x NVIDIA H100";
    foreign(&f, &p, "made on devices 8 x NVIDIA H100");
    close_fixture(&f);
}

/* Sums of layers, 50 and 160 forward, become the whole passes', 40 and 160; backwards 80 and 240 become 100 and 400. */
static void layers_add_up_to_the_whole(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    const dml_costs *c = dml_profile_costs(&f.made, &f.arena);
    DML_CHECK_EQ(24, dml_costs_ns(c, 0, 8, DML_PASS_FORWARD));
    DML_CHECK_EQ(8, dml_costs_ns(c, 1, 8, DML_PASS_FORWARD));
    DML_CHECK_EQ(75, dml_costs_ns(c, 0, 8, DML_PASS_WEIGHT));
    DML_CHECK_EQ(25, dml_costs_ns(c, 1, 8, DML_PASS_INPUT));
    DML_CHECK_EQ(120, dml_costs_ns(c, 0, 32, DML_PASS_FORWARD));
    DML_CHECK_EQ(333, dml_costs_ns(c, 0, 32, DML_PASS_WEIGHT));
    DML_CHECK_EQ(4, c->step_ns[1]);
    DML_CHECK_EQ(2, dml_costs_begin_ns(c, 2));
    DML_CHECK_EQ(2, dml_costs_norm_ns(c, 0));
    DML_CHECK_EQ(11 + 30, c->vote_ns); /* and the overhead, 25 and 35 */
    DML_CHECK_EQ(936, c->link_latency_ns);
    DML_CHECK_EQ(3000 + 2000, dml_costs_reduce_ns(c, 2, 1000));
    DML_CHECK(strstr(c->source, "of 2026-01-02"));
    close_fixture(&f);
}

static void the_spec_gets_its_costs_from_the_file_and_prints_them(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f);
    char override[96];
    const char *one = override;
    snprintf(override, sizeof override, "profile=%s", f.path);
    dml_spec s, again;
    DML_CHECK_OK(spec_of(net, &one, 1, &s));
    DML_CHECK(s.costs);
    DML_CHECK_EQ(24, dml_costs_ns(s.costs, 0, 8, DML_PASS_FORWARD));
    char *text = printed(&s);
    unlink(f.path); /* the printed spec does not need it */
    DML_CHECK_OK(spec_of(text, NULL, 0, &again));
    DML_CHECK_EQ(24, dml_costs_ns(again.costs, 0, 8, DML_PASS_FORWARD));
    assert_string_equal(s.costs->source, again.costs->source);
    free(text);
    dml_spec_free(&s);
    dml_spec_free(&again);
    close_fixture(&f);
}

static void a_line_is_found_again(void **state)
{
    (void)state;
    dml_profile_transfer t[6];
    for (int32_t i = 0; i < 6; i++) {
        const int64_t bytes = INT64_C(64) << (3 * i);
        t[i] = (dml_profile_transfer){2, bytes, 5000 + bytes / 2}; /* 64, 512, .. 2 Mi */
    }
    dml_profile_fit fit = dml_profile_fit_of(t, 6, 0, INT64_MAX);
    DML_CHECK_EQ(5000, fit.latency_ns);
    DML_CHECK(fit.bytes_per_s > 1999000000 && fit.bytes_per_s < 2001000000);
    t[5].ns *= 3; /* outside the range that counts */
    fit = dml_profile_fit_of(t, 6, 64, 1 << 20);
    DML_CHECK_EQ(5000, fit.latency_ns);
    DML_CHECK_EQ(64, fit.from_bytes);
    DML_CHECK_EQ(262144, fit.to_bytes);
    fit = dml_profile_fit_of(t, 1, 0, INT64_MAX);
    DML_CHECK_EQ(t[0].ns, fit.latency_ns);
    DML_CHECK_EQ(0, fit.bytes_per_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back_equal),
        cmocka_unit_test(damage_is_refused_by_the_name_of_the_field),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(a_stale_profile_is_refused_with_the_reason),
        cmocka_unit_test(a_foreign_profile_is_refused_unless_the_model_is_enough),
        cmocka_unit_test(layers_add_up_to_the_whole),
        cmocka_unit_test(the_spec_gets_its_costs_from_the_file_and_prints_them),
        cmocka_unit_test(a_line_is_found_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
