/* Loading, overriding and printing specs. */
#include "tests/support/test.h"

#include "tests/engine/spec_file.h"

#include <glob.h>

static const char mlp[] = "model: {type: mlp}\n";

static void the_shortest_spec_has_the_documented_defaults(void **state)
{
    (void)state;
    dml_spec s;
    DML_CHECK_OK(spec_of(mlp, NULL, 0, &s));
    DML_CHECK_EQ(1, s.version);
    DML_CHECK_EQ(1234, s.run.seed);
    DML_CHECK(strstr(s.run.output_dir, "/runs/"));
    DML_CHECK_EQ(3, s.model.input_rank);
    DML_CHECK_EQ(28, s.model.input[2]);
    DML_CHECK_EQ(10, s.model.classes);
    DML_CHECK_EQ(DML_INIT_KAIMING_UNIFORM, s.model.init);
    DML_CHECK_EQ(DML_DATA_IDX, s.data.format);
    assert_string_equal("/usr/share/datasets/fashion-mnist", s.data.path);
    DML_CHECK(s.data.mean[0] == 0.286f && s.data.std[0] == 0.353f && s.data.mean[2] == 0.286f);
    DML_CHECK(s.data.shuffle);
    DML_CHECK_EQ(DML_LAST_WRAP, s.data.last_batch);
    DML_CHECK(s.training.epochs == 10);
    DML_CHECK_EQ(0, s.training.max_steps);
    DML_CHECK_EQ(DML_FAST, s.training.numerics);
    DML_CHECK_EQ(DML_PRECISION_FP32, s.training.precision);
    DML_CHECK(s.training.loss_scale == 0.0f); /* dynamic */
    DML_CHECK_EQ(DML_OPT_SGD, s.optimizer.name);
    DML_CHECK(s.optimizer.lr == 0.1f && s.optimizer.momentum == 0.9f);
    DML_CHECK_EQ(DML_LR_CONSTANT, s.lr_scheduler.name);
    assert_string_equal("auto", s.parallelism.backend);
    assert_string_equal("1f1b", s.parallelism.schedule);
    DML_CHECK_EQ(1, s.parallelism.pipeline_parallel_size);
    DML_CHECK_EQ(1, s.parallelism.data_parallel_size);
    DML_CHECK_EQ(DML_SPLIT_AUTO, s.parallelism.split);
    DML_CHECK_EQ(INT64_C(60000000000), s.parallelism.timeout_ns);
    DML_CHECK_EQ(10, s.logging.interval);
    DML_CHECK_EQ(DML_CONSOLE_AUTO, s.logging.console);
    assert_string_equal("", s.logging.trace);
    assert_string_equal("", s.logging.draw);
    DML_CHECK_EQ(0, s.logging.trace_steps.first);
    dml_spec_free(&s);
}

static void every_key_reaches_its_field(void **state)
{
    (void)state;
    static const char text[] =
        "version: 1\n"
        "run: {name: all, seed: 9007199254740993, output_dir: /tmp/%name}\n"
        "model:\n"
        "  type: layers\n"
        "  input: [3, 32, 32]\n"
        "  classes: 100\n"
        "  batch_norm: {stats: per_micro_batch, momentum: 0.2, eps: 1e-3}\n"
        "  init: {scheme: xavier_uniform}\n"
        "  layers: [batch_norm, flatten, linear: 100]\n"
        "data:\n"
        "  format: synthetic\n"
        "  samples: 12_800\n"
        "  test_samples: 0x10\n"
        "  normalize: {mean: [0.1, 0.2, 0.3], std: [0.5]}\n"
        "  pad: 2\n"
        "  shuffle: false\n"
        "  last_batch: drop\n"
        "  prefetch: 7\n"
        "training:\n"
        "  max_steps: 1e3\n"
        "  epochs: 30 epochs\n"
        "  global_batch_size: 128\n"
        "  micro_batch_size: 16\n"
        "  grad_clip: 1.5\n"
        "  loss: mse\n"
        "  eval_interval: 2 epochs\n"
        "  numerics: exact\n"
        "  precision: fp16\n"
        "  loss_scale: 512\n"
        "optimizer: {name: AdamW, lr: 3e-4, weight_decay: .1, betas: [0.8, 0.95], eps: 1e-7, "
        "decay_all: true}\n"
        "lr_scheduler: {name: linear, warmup_steps: 0.5 epochs, min_lr_ratio: 0.1}\n"
        "parallelism:\n"
        "  backend: ref\n"
        "  pipeline_parallel_size: 2\n"
        "  data_parallel_size: 4\n"
        "  schedule: AFAB\n"
        "  split: [1, 2]\n"
        "  threads_per_worker: 3\n"
        "  link: {latency: 50us, bandwidth: 1GB/s}\n"
        "  timeout: 500ms\n"
        "logging: {interval: 5, jsonl: false, console: quiet, trace: /tmp/%name.json, draw: "
        "/tmp/a.svg, "
        "trace_steps: 7-9}\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    assert_string_equal("all", s.run.name);
    DML_CHECK_EQ(INT64_C(9007199254740993), s.run.seed);
    assert_string_equal("/tmp/all", s.run.output_dir);
    assert_string_equal("layers", s.model.type);
    DML_CHECK_EQ(3, s.model.input[0]);
    DML_CHECK_EQ(100, s.model.classes);
    DML_CHECK_EQ(DML_INIT_XAVIER_UNIFORM, s.model.init);
    DML_CHECK_EQ(4, s.model.n_layers);
    DML_CHECK(s.model.layers[0].per_micro_batch && s.model.layers[0].momentum == 0.2f);
    DML_CHECK(s.model.layers[0].eps == 1e-3f);
    DML_CHECK_EQ(DML_LAYER_MSE, s.model.layers[3].kind);
    DML_CHECK_EQ(DML_DATA_SYNTHETIC, s.data.format);
    assert_string_equal("", s.data.path);
    DML_CHECK_EQ(12800, s.data.samples);
    DML_CHECK_EQ(16, s.data.test_samples);
    DML_CHECK(s.data.mean[1] == 0.2f && s.data.std[2] == 0.5f);
    DML_CHECK_EQ(2, s.data.pad);
    DML_CHECK(!s.data.shuffle);
    DML_CHECK_EQ(DML_LAST_DROP, s.data.last_batch);
    DML_CHECK_EQ(7, s.data.prefetch);
    DML_CHECK_EQ(1000, s.training.max_steps);
    DML_CHECK(s.training.epochs == 30);
    DML_CHECK_EQ(8, s.training.num_microbatches);
    DML_CHECK(s.training.grad_clip == 1.5f);
    DML_CHECK_EQ(200, s.training.eval_interval_steps); /* 12800 / 128 = 100 steps an epoch */
    DML_CHECK_EQ(DML_EXACT, s.training.numerics);
    DML_CHECK_EQ(DML_PRECISION_FP16, s.training.precision);
    DML_CHECK(s.training.loss_scale == 512.0f);
    DML_CHECK_EQ(DML_OPT_ADAMW, s.optimizer.name);
    DML_CHECK(s.optimizer.lr == 3e-4f && s.optimizer.weight_decay == 0.1f);
    DML_CHECK(s.optimizer.betas[0] == 0.8f && s.optimizer.betas[1] == 0.95f);
    DML_CHECK(s.optimizer.eps == 1e-7f && s.optimizer.decay_all);
    DML_CHECK_EQ(DML_LR_LINEAR, s.lr_scheduler.name);
    DML_CHECK_EQ(50, s.lr_scheduler.warmup_steps);
    DML_CHECK(s.lr_scheduler.min_lr_ratio == 0.1f);
    assert_string_equal("ref", s.parallelism.backend);
    DML_CHECK_EQ(2, s.parallelism.pipeline_parallel_size);
    DML_CHECK_EQ(4, s.parallelism.data_parallel_size);
    assert_string_equal("gpipe", s.parallelism.schedule);
    DML_CHECK_EQ(DML_SPLIT_LIST, s.parallelism.split);
    DML_CHECK_EQ(2, s.parallelism.split_list[1]);
    DML_CHECK_EQ(3, s.parallelism.threads_per_worker);
    DML_CHECK_EQ(50000, s.parallelism.link_latency_ns);
    DML_CHECK(s.parallelism.link_bytes_per_s == 1e9);
    DML_CHECK_EQ(500000000, s.parallelism.timeout_ns);
    DML_CHECK_EQ(5, s.logging.interval);
    DML_CHECK(!s.logging.jsonl);
    DML_CHECK_EQ(DML_CONSOLE_QUIET, s.logging.console);
    assert_string_equal("/tmp/all.json", s.logging.trace);
    assert_string_equal("/tmp/a.svg", s.logging.draw);
    DML_CHECK(s.logging.trace_steps.first == 7 && s.logging.trace_steps.last == 9);
    dml_spec_free(&s);
}

static void names_of_other_tools_are_understood(void **state)
{
    (void)state;
    static const char text[] = "model: {type: mlp, num_classes: 5}\n"
                               "optim: {learning_rate: 0.5}\n"
                               "training: {clip_grad: 1, micro_batches: 4, train-steps: 7}\n"
                               "parallelism: {pp: 2, replicas: 4}\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    DML_CHECK_EQ(5, s.model.classes);
    DML_CHECK(s.optimizer.lr == 0.5f && s.training.grad_clip == 1.0f);
    DML_CHECK_EQ(7, s.training.max_steps);
    DML_CHECK_EQ(2, s.parallelism.pipeline_parallel_size);
    DML_CHECK_EQ(4, s.parallelism.data_parallel_size);
    DML_CHECK_EQ(128, s.training.global_batch_size); /* 4 x 32 */
    dml_spec_free(&s);
}

static void overrides_replace_what_the_file_says_and_the_last_one_counts(void **state)
{
    (void)state;
    static const char text[] = "model: {type: mlp, hidden: [8]}\n"
                               "optimizer: {lr: 0.1}\n"
                               "parallelism: {dp: 2}\n";
    static const char *const overrides[] = {
        "optimizer.lr=1", "optimizer={lr: 0.25, nesterov: true}", "model.hidden=[16, 32]",
        "parallelism.data-parallel-size=4", "dataset.shuffle=false"};
    dml_spec s;
    DML_CHECK_OK(spec_of(text, overrides, 5, &s));
    DML_CHECK(s.optimizer.lr == 0.25f && s.optimizer.nesterov);
    DML_CHECK_EQ(2, s.model.family.hidden.n);
    DML_CHECK_EQ(4, s.parallelism.data_parallel_size);
    DML_CHECK(!s.data.shuffle);
    assert_string_equal("command line", dml_spec_place(&s, "optimizer.lr").file);
    DML_CHECK_EQ(1, dml_spec_place(&s, "model.type").line);
    DML_CHECK_EQ(15, dml_spec_place(&s, "model.type").column);
    DML_CHECK_EQ(0, dml_spec_place(&s, "optimizer.momentum").line);
    dml_spec_free(&s);
}

static void what_is_not_written_of_the_batch_follows_from_the_rest(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t global, micro, num;
    } cases[] = {
        {"", 256, 32, 8},
        {"training: {global_batch_size: 64}", 64, 32, 2},
        {"training: {global_batch_size: 20}", 20, 20, 1},
        {"training: {global_batch_size: 100}", 100, 25, 4},
        {"training: {micro_batch_size: 100}", 300, 100, 3},
        {"training: {num_microbatches: 3}", 96, 32, 3},
        {"training: {num_microbatches: 3, micro_batch_size: 5}", 15, 5, 3},
        {"training: {num_microbatches: 3, global_batch_size: 12}", 12, 4, 3},
        {"training: {global_batch_size: 64}\nparallelism: {dp: 4}", 64, 16, 4},
        {"parallelism: {dp: 3}", 288, 32, 9},
        {"training: {micro_batch_size: 2000}\nparallelism: {dp: 2}", 4000, 2000, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "%s%s\n", mlp, cases[i].text);
        dml_spec s;
        DML_CHECK_OK(spec_of(text, NULL, 0, &s));
        DML_CHECK_EQ(cases[i].global, s.training.global_batch_size);
        DML_CHECK_EQ(cases[i].micro, s.training.micro_batch_size);
        DML_CHECK_EQ(cases[i].num, s.training.num_microbatches);
        dml_spec_free(&s);
    }
}

static void defaults_depend_on_what_they_are_defaults_of(void **state)
{
    (void)state;
    dml_spec s;
    DML_CHECK_OK(spec_of("model: {type: vgg}\noptimizer: {name: adamw}\n", NULL, 0, &s));
    DML_CHECK(s.model.family.dropout == 0.5f && s.optimizer.lr == 0.001f);
    DML_CHECK_EQ(8, s.model.family.depth);
    dml_spec_free(&s);
    DML_CHECK_OK(spec_of("model: {type: resnet}\n", NULL, 0, &s));
    DML_CHECK(s.model.family.dropout == 0.0f && s.optimizer.lr == 0.1f);
    DML_CHECK_EQ(20, s.model.family.depth);
    dml_spec_free(&s);
}

static void sums_in_the_switch_are_off_where_a_run_goes_on_without_the_lost(void **state)
{
    (void)state;
    dml_spec s;
    static const char *const policy[] = {"failures.policy=abort", "failures.policy=restart",
                                         "failures.policy=replan"};
    for (int i = 0; i < 3; i++) {
        DML_CHECK_OK(spec_of(mlp, &policy[i], 1, &s));
        DML_CHECK_EQ(i == 2 ? DML_NVLS_OFF : DML_NVLS_AUTO, s.comm.nvls);
        dml_spec_free(&s);
    }
}

static void paths_expand_and_are_relative_to_the_spec_or_the_shell(void **state)
{
    (void)state;
    char folder[] = "/tmp/dml-test-spec-XXXXXX", path[64], want[128];
    DML_CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/net.yaml", folder);
    FILE *f = fopen(path, "w");
    DML_CHECK(f);
    fputs("model: {type: mlp}\nrun: {output_dir: '$$out/100%%-%name'}\ndata: {path: ./some/data}\n",
          f);
    fclose(f);
    char here[256];
    DML_CHECK(getcwd(here, sizeof here - 32));
    setenv("DML_TEST_DATA", "/elsewhere", 1);
    setenv("HOME", "/home/someone", 1);

    dml_spec s;
    DML_CHECK_OK(dml_spec_load(path, NULL, 0, &s));
    snprintf(want, sizeof want, "%s/some/data", folder);
    assert_string_equal(want, s.data.path);
    assert_string_equal("net", s.run.name);
    DML_CHECK(strncmp(s.run.output_dir, here, strlen(here)) == 0);
    DML_CHECK(strstr(s.run.output_dir, "/$$out/100%-net") == NULL);
    DML_CHECK(strstr(s.run.output_dir, "/$out/100%-net"));
    dml_spec_free(&s);

    static const char *const overrides[] = {"data.path=mine", "run.output_dir=~/runs"};
    DML_CHECK_OK(dml_spec_load(path, overrides, 2, &s));
    strcat(here, "/mine");
    assert_string_equal(here, s.data.path);
    assert_string_equal("/home/someone/runs", s.run.output_dir);
    dml_spec_free(&s);

    static const char *const env[] = {"data.path=${DML_TEST_DATA}/set"};
    DML_CHECK_OK(dml_spec_load(path, env, 1, &s));
    assert_string_equal("/elsewhere/set", s.data.path);
    dml_spec_free(&s);
    unlink(path);
    rmdir(folder);
}

static void epochs_become_steps_once_the_data_is_known(void **state)
{
    (void)state;
    static const char text[] = "model: {type: mlp}\n"
                               "training: {eval_interval: 1 epoch, global_batch_size: 256}\n"
                               "lr_scheduler: {name: step, step_size: 2 epochs, warmup_steps: 5}\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    DML_CHECK_EQ(0, s.training.eval_interval_steps);
    DML_CHECK_OK(dml_spec_set_samples(&s, 60000)); /* 234.4 steps an epoch */
    DML_CHECK_EQ(234, s.training.eval_interval_steps);
    DML_CHECK_EQ(469, s.lr_scheduler.step_size);
    DML_CHECK_EQ(5, s.lr_scheduler.warmup_steps);
    s.data.last_batch = DML_LAST_SHORT;
    DML_CHECK_OK(dml_spec_set_samples(&s, 60000));
    DML_CHECK_EQ(470, s.lr_scheduler.step_size);
    s.data.last_batch = DML_LAST_DROP;
    DML_CHECK_OK(dml_spec_set_samples(&s, 60000));
    DML_CHECK_EQ(468, s.lr_scheduler.step_size);
    DML_CHECK_FAILS(DML_ERR_SPEC, "no step in an epoch", dml_spec_set_samples(&s, 255));
    dml_spec_free(&s);
}

static void an_anchor_repeats_a_list_of_layers(void **state)
{
    (void)state;
    static const char text[] = "model:\n"
                               "  input: [8]\n"
                               "  layers:\n"
                               "    - residual: {body: &body [linear: 8, relu]}\n"
                               "    - residual: {body: *body}\n"
                               "    - linear: 10\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    DML_CHECK_EQ(8, s.model.n_layers);
    assert_string_equal("block2.fc1", s.model.layers[3].name);
    dml_spec_free(&s);
}

/* Nine levels of ten aliases would be a billion layers. */
static void a_billion_aliases_are_refused(void **state)
{
    (void)state;
    char text[4096] = "model:\n  layers:\n    - residual: &a0 [relu]\n";
    for (int i = 1; i <= 9; i++) {
        char line[256];
        int n = snprintf(line, sizeof line, "    - residual: &a%d [", i);
        for (int j = 0; j < 10; j++)
            n += snprintf(line + n, sizeof line - (size_t)n, "%sresidual: *a%d", j ? ", " : "",
                          i - 1);
        snprintf(line + n, sizeof line - (size_t)n, "]\n");
        strcat(text, line);
    }
    dml_spec s;
    DML_CHECK_FAILS(DML_ERR_SPEC, "more than 8192 layers", spec_of(text, NULL, 0, &s));
}

static void complaints_of_later_checks_look_the_same(void **state)
{
    (void)state;
    dml_spec s;
    DML_CHECK_OK(spec_of("model: {type: mlp}\nparallelism: {pp: 9}\n", NULL, 0, &s));
    DML_CHECK_FAILS(DML_ERR_SPEC,
                    ":2:19: error: 9 stages, 4 layers\n"
                    "    2 | parallelism: {pp: 9}\n"
                    "      |                   ^",
                    dml_spec_fail(&s, (dml_place){0}, "parallelism.pipeline_parallel_size",
                                  "%d stages, %d layers", 9, 4));
    DML_CHECK_FAILS(DML_ERR_SPEC, "error: too wide\n  it follows from 'parallelism.split'",
                    dml_spec_fail(&s, (dml_place){0}, "parallelism.split", "too wide"));
    dml_spec_free(&s);
}

static void check_print_and_reload(const dml_spec *s)
{
    char *first = printed(s);
    dml_spec again;
    DML_CHECK_OK(spec_of(first, NULL, 0, &again));
    char *second = printed(&again);
    assert_string_equal(first, second);
    check_same_layers(s, &again);
    free(first);
    free(second);
    dml_spec_free(&again);
}

static void every_example_loads_and_prints_to_an_equal_spec(void **state)
{
    (void)state;
    glob_t examples;
    DML_CHECK_EQ(0, glob(DML_SOURCE_DIR "/examples/*.yaml", 0, NULL, &examples));
    DML_CHECK(examples.gl_pathc >= 6);
    for (size_t i = 0; i < examples.gl_pathc; i++) {
        dml_spec s;
        DML_CHECK_OK(dml_spec_load(examples.gl_pathv[i], NULL, 0, &s));
        check_print_and_reload(&s);
        dml_spec_free(&s);
    }
    globfree(&examples);
}

static void odd_values_survive_printing(void **state)
{
    (void)state;
    static const char text[] =
        "run: {name: 'null', output_dir: \"/tmp/a b: #%%date $${HOME} \\\" \\\\ \u00fc\"}\n"
        "model:\n"
        "  input: [3, 8, 8]\n"
        "  layers:\n"
        "    - relu:\n"
        "    - batch_norm: {momentum: 0.30000001, eps: 1.1754944e-38, stats: \"deferred\"}\n"
        "    - delay: 10 ms\n"
        "    - residual: {name: r-1, body: [relu: {name: a.b}], shortcut: null}\n"
        "    - flatten\n"
        "    - linear: {out: 1_0, bias: false}\n"
        "data: {normalize: {mean: [-0.1, 0.2, 0.3], std: [1, 1, 1]}}\n"
        "training: {epochs: 0.1, eval_interval: 0.3333333333333333 epochs}\n"
        "optimizer: {lr: 0.1000000015, weight_decay: 1e-45}\n"
        "parallelism: {link: {latency: 1.5us, bandwidth: 0.3GB/s}, timeout: 90s}\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    assert_string_equal("/tmp/a b: #%date ${HOME} \" \\ \u00fc", s.run.output_dir);
    DML_CHECK_EQ(10000000, s.model.layers[2].ns[1]);
    check_print_and_reload(&s);
    dml_spec_free(&s);
}

static void the_reference_names_every_section(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    dml_spec_help(f);
    fclose(f);
    static const char *const parts[] = {"\nmodel:\n",
                                        "\n  hidden ",
                                        "also written pp pp_size",
                                        "1f1b",
                                        "\nconv2d",
                                        "\n  link:\n    latency",
                                        "; default 0.1; adamw 0.001"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i])) fail_msg("the reference lacks '%s'", parts[i]);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shortest_spec_has_the_documented_defaults),
        cmocka_unit_test(every_key_reaches_its_field),
        cmocka_unit_test(names_of_other_tools_are_understood),
        cmocka_unit_test(overrides_replace_what_the_file_says_and_the_last_one_counts),
        cmocka_unit_test(what_is_not_written_of_the_batch_follows_from_the_rest),
        cmocka_unit_test(defaults_depend_on_what_they_are_defaults_of),
        cmocka_unit_test(sums_in_the_switch_are_off_where_a_run_goes_on_without_the_lost),
        cmocka_unit_test(paths_expand_and_are_relative_to_the_spec_or_the_shell),
        cmocka_unit_test(epochs_become_steps_once_the_data_is_known),
        cmocka_unit_test(an_anchor_repeats_a_list_of_layers),
        cmocka_unit_test(a_billion_aliases_are_refused),
        cmocka_unit_test(complaints_of_later_checks_look_the_same),
        cmocka_unit_test(every_example_loads_and_prints_to_an_equal_spec),
        cmocka_unit_test(odd_values_survive_printing),
        cmocka_unit_test(the_reference_names_every_section),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
