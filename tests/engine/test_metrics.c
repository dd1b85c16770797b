/* tests/engine/test_metrics.c - what stands in metrics.jsonl, read back with a JSON parser. */
#include "tests/support/test.h"

#include "engine/metrics.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

static char folder[256];

static int make(void **state)
{
    (void)state;
    strcpy(folder, DML_BINARY_DIR "/metrics-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static int clean(void **state)
{
    (void)state;
    return nftw(folder, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *below(const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* The lines of the file, each a JSON object without duplicate keys; the count is returned. */
static int read_lines(const char *path, json_t *object[], int most)
{
    FILE *f = fopen(path, "r");
    DML_CHECK(f != NULL);
    static char line[1 << 16];
    int n = 0;
    while (fgets(line, sizeof line, f)) {
        DML_CHECK(n < most && line[strlen(line) - 1] == '\n');
        object[n] = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        DML_CHECK(json_is_object(object[n]));
        n++;
    }
    fclose(f);
    return n;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("'%s' is not a number", key);
    return json_number_value(value);
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    if (!value) fail_msg("'%s' is not a text", key);
    return value;
}

static void a_step_is_one_line_with_its_figures(void **state)
{
    (void)state;
    dml_metrics m;
    json_t *line[2];
    DML_CHECK_OK(dml_metrics_open(below("runs/deep/mnist"), &m));
    const dml_step_record step = {.step = INT64_C(9007199254740993),
                                  .total_steps = 20,
                                  .epoch = 0.5,
                                  .loss = 0.1,
                                  .grad_norm = 2.0,
                                  .lr = 6e-4,
                                  .loss_scale = 1024.0,
                                  .step_time_s = 0.25,
                                  .samples = 64,
                                  .samples_per_second = 256,
                                  .bubble_ratio = 0.125,
                                  .eta_s = 3};
    DML_CHECK_OK(dml_metrics_step(&m, &step));
    dml_metrics_close(&m);
    DML_CHECK_EQ(1, read_lines(below("runs/deep/mnist/metrics.jsonl"), line, 2));
    DML_CHECK_EQ(1, number(line[0], "v"));
    assert_string_equal(text(line[0], "type"), "step");
    DML_CHECK(number(line[0], "time_unix_s") > 1.7e9);
    DML_CHECK(number(line[0], "wall_time_s") >= 0);
    DML_CHECK_EQ(INT64_C(9007199254740993), json_integer_value(json_object_get(line[0], "step")));
    DML_CHECK(number(line[0], "loss") == 0.1 && number(line[0], "lr") == 6e-4);
    DML_CHECK(number(line[0], "samples_per_second") == 256.0);
    DML_CHECK(number(line[0], "loss_scale") == 1024.0);
    DML_CHECK_EQ(4 + 15, json_object_size(line[0]));
    json_decref(line[0]);
}

static void numbers_that_are_not_finite_are_null_and_named(void **state)
{
    (void)state;
    dml_metrics m;
    json_t *line[1];
    DML_CHECK_OK(dml_metrics_open(folder, &m));
    const dml_step_record step = {
        .loss = (double)NAN, .grad_norm = (double)INFINITY, .lr = -(double)INFINITY};
    DML_CHECK_OK(dml_metrics_step(&m, &step));
    dml_metrics_close(&m);
    DML_CHECK_EQ(1, read_lines(below("metrics.jsonl"), line, 1));
    DML_CHECK(json_is_null(json_object_get(line[0], "loss")));
    assert_string_equal(text(line[0], "loss_nonfinite"), "nan");
    assert_string_equal(text(line[0], "grad_norm_nonfinite"), "inf");
    assert_string_equal(text(line[0], "lr_nonfinite"), "-inf");
    DML_CHECK(json_object_get(line[0], "epoch_nonfinite") == NULL);
    json_decref(line[0]);
}

static void every_kind_of_record_has_its_type_and_texts_may_be_absent(void **state)
{
    (void)state;
    dml_metrics m;
    json_t *line[8];
    static const char *const type[] = {"run_start", "plan",    "step",   "eval",
                                       "failure",   "message", "worker", "run_end"};
    DML_CHECK_OK(dml_metrics_open(folder, &m));
    DML_CHECK_OK(dml_metrics_run_start(
        &m, &(dml_run_start_record){.run = "a \"quoted\"\nname", .host = "caf\xe9"}));
    DML_CHECK_OK(dml_metrics_plan(&m, &(dml_plan_record){.schedule = "1f1b", .world_size = 4}));
    DML_CHECK_OK(dml_metrics_step(&m, &(dml_step_record){.step = 1}));
    DML_CHECK_OK(dml_metrics_eval(&m, &(dml_eval_record){.accuracy_ratio = 0.5}));
    DML_CHECK_OK(dml_metrics_failure(&m, &(dml_failure_record){.rank = 3, .signal = 9}));
    DML_CHECK_OK(dml_metrics_message(&m, &(dml_message_record){.level = "warn", .text = "x"}));
    DML_CHECK_OK(dml_metrics_worker(&m, &(dml_worker_record){.worker = 2, .stages = "0,2"}));
    DML_CHECK_OK(dml_metrics_run_end(&m, &(dml_run_end_record){.weights_hash = "00ff"}));
    dml_metrics_close(&m);
    DML_CHECK_EQ(8, read_lines(below("metrics.jsonl"), line, 8));
    for (int i = 0; i < 8; i++)
        assert_string_equal(text(line[i], "type"), type[i]);
    assert_string_equal(text(line[0], "run"), "a \"quoted\"\nname");
    assert_string_equal(text(line[0], "host"), "caf?");
    DML_CHECK(json_object_get(line[0], "version") == NULL);
    assert_string_equal(text(line[1], "schedule"), "1f1b");
    DML_CHECK_EQ(9, number(line[4], "signal"));
    assert_string_equal(text(line[6], "stages"), "0,2");
    assert_string_equal(text(line[7], "weights_hash"), "00ff");
    for (int i = 0; i < 8; i++)
        json_decref(line[i]);
}

static void an_existing_file_is_appended_to(void **state)
{
    (void)state;
    dml_metrics m;
    json_t *line[3];
    for (int i = 0; i < 3; i++) {
        DML_CHECK_OK(dml_metrics_open(folder, &m));
        DML_CHECK_OK(dml_metrics_step(&m, &(dml_step_record){.step = i}));
        dml_metrics_close(&m);
    }
    DML_CHECK_EQ(3, read_lines(below("metrics.jsonl"), line, 3));
    for (int i = 0; i < 3; i++) {
        DML_CHECK_EQ(i, number(line[i], "step"));
        json_decref(line[i]);
    }
}

/* A packet socket in place of the file keeps writes apart. */
static void every_line_is_one_write(void **state)
{
    (void)state;
    char long_text[9000], got[1 << 14];
    memset(long_text, 'm', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    dml_metrics m;
    int pair[2];
    DML_CHECK_OK(dml_metrics_open(folder, &m));
    DML_CHECK_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    DML_CHECK(dup2(pair[0], m.fd) == m.fd);
    for (int i = 0; i < 3; i++)
        DML_CHECK_OK(dml_metrics_message(&m, &(dml_message_record){.text = long_text + 4000 * i}));
    for (int i = 0; i < 3; i++) {
        const ssize_t n = recv(pair[1], got, sizeof got, MSG_DONTWAIT);
        DML_CHECK(n > 0 && got[0] == '{' && got[n - 2] == '}' && got[n - 1] == '\n');
        DML_CHECK(memchr(got, '\n', (size_t)n) == got + n - 1);
    }
    dml_metrics_close(&m);
    close(pair[0]);
    close(pair[1]);
}

static void what_cannot_be_made_or_written_is_named(void **state)
{
    (void)state;
    dml_metrics m;
    const int fd = open(below("plain"), O_CREAT | O_WRONLY, 0666);
    DML_CHECK(fd >= 0);
    close(fd);
    DML_CHECK_FAILS(DML_ERR_DATA, "plain/sub", dml_metrics_open(below("plain/sub"), &m));
    DML_CHECK_FAILS(DML_ERR_DATA, "plain/metrics.jsonl", dml_metrics_open(below("plain"), &m));
    if (access("/dev/full", W_OK) != 0) skip();
    DML_CHECK_EQ(0, symlink("/dev/full", below("metrics.jsonl")));
    DML_CHECK_OK(dml_metrics_open(folder, &m));
    DML_CHECK_FAILS(DML_ERR_DATA, "metrics.jsonl': No space left",
                    dml_metrics_step(&m, &(dml_step_record){0}));
    dml_metrics_close(&m);
}

static void quantiles_of_few_values_are_values(void **state)
{
    (void)state;
    static dml_stats s;
    s = (dml_stats){0};
    DML_CHECK(isnan(dml_stats_quantile(&s, 0.5)));
    for (int i = 100; i >= 1; i--)
        dml_stats_add(&s, i);
    DML_CHECK(dml_stats_quantile(&s, 0.5) == 50.0);
    DML_CHECK(dml_stats_quantile(&s, 0.95) == 95.0);
    DML_CHECK(dml_stats_quantile(&s, 1.0) == 100.0);
    DML_CHECK(dml_stats_quantile(&s, 1e-9) == 1.0);
    DML_CHECK(s.sum == 5050.0 && s.count == 100);
}

/* 100,000 values through a sample of 2048: the median's standard error is half a percent and a bit. */
static void quantiles_of_many_values_come_from_the_whole_run(void **state)
{
    (void)state;
    static dml_stats s;
    s = (dml_stats){0};
    for (int i = 0; i < 100000; i++)
        dml_stats_add(&s, i / 100000.0);
    DML_CHECK_EQ(100000, s.count);
    DML_CHECK(fabs(dml_stats_quantile(&s, 0.5) - 0.5) < 0.04);
    DML_CHECK(fabs(dml_stats_quantile(&s, 0.95) - 0.95) < 0.02);
    DML_CHECK(dml_stats_quantile(&s, 0.001) < 0.02);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make, clean)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_step_is_one_line_with_its_figures),
        IN_FOLDER(numbers_that_are_not_finite_are_null_and_named),
        IN_FOLDER(every_kind_of_record_has_its_type_and_texts_may_be_absent),
        IN_FOLDER(an_existing_file_is_appended_to),
        IN_FOLDER(every_line_is_one_write),
        IN_FOLDER(what_cannot_be_made_or_written_is_named),
        cmocka_unit_test(quantiles_of_few_values_are_values),
        cmocka_unit_test(quantiles_of_many_values_come_from_the_whole_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
