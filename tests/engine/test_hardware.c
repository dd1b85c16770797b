/* tests/engine/test_hardware.c - hardware files: every figure with its source, or a complaint with its place. */
#include "tests/support/test.h"

#include "tests/engine/hardware_file.h"

#include <dirent.h>
#include <stdlib.h>

static const char folder[] = DML_SOURCE_DIR "/examples/hardware";

static void check_sources(const dml_hardware *hw)
{
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++) {
        const dml_figure *f = &hw->figure[k];
        DML_CHECK((f->source == NULL) == (f->value == 0.0));
        DML_CHECK(!f->source || strlen(f->source) > 8);
    }
    DML_CHECK(hw->n_links >= 2);
    for (int32_t i = 0; i < hw->n_links; i++) {
        DML_CHECK(strlen(hw->link[i].latency_ns.source) > 8);
        DML_CHECK(strlen(hw->link[i].bytes_per_s.source) > 8);
        DML_CHECK(i == 0 || hw->link[i].bytes_per_s.value <= hw->link[i - 1].bytes_per_s.value);
    }
}

static void every_shipped_file_loads_and_every_figure_says_where_it_is_from(void **state)
{
    (void)state;
    DIR *d = opendir(folder);
    DML_CHECK(d);
    int32_t n = 0;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!strstr(e->d_name, ".yaml")) continue;
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        dml_hardware hw;
        DML_CHECK_OK(dml_hardware_load(path, &hw));
        check_sources(&hw);
        dml_hardware_free(&hw);
        n++;
    }
    closedir(d);
    DML_CHECK(n >= 10);
}

/* The figures with sparsity are twice these: the mistake that users report again and again. */
static void peaks_are_dense(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        double bf16, tf32;
    } dense[] = {{"h100-sxm", 989.4e12, 494.7e12}, {"h200", 989.4e12, 494.7e12},
                 {"h100-pcie", 756e12, 378e12},    {"a100-sxm-80gb", 312e12, 156e12},
                 {"l40s", 362.05e12, 183e12},      {"l4", 121e12, 60e12},
                 {"rtx4090", 165.2e12, 82.6e12}};
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s.yaml", folder, dense[i].file);
        dml_hardware hw;
        DML_CHECK_OK(dml_hardware_load(path, &hw));
        DML_CHECK(dml_hardware_peak(&hw, DML_PRECISION_BF16).value == dense[i].bf16);
        DML_CHECK(dml_hardware_peak(&hw, DML_PRECISION_TF32).value == dense[i].tf32);
        dml_hardware_free(&hw);
    }
}

static void a_node_is_its_device_with_other_links(void **state)
{
    (void)state;
    dml_hardware node, device;
    DML_CHECK_OK(dml_hardware_load(DML_SOURCE_DIR "/examples/hardware/dgx-h100.yaml", &node));
    DML_CHECK_OK(dml_hardware_load(DML_SOURCE_DIR "/examples/hardware/h100-sxm.yaml", &device));
    assert_string_equal("DGX H100", node.name);
    for (int32_t k = 0; k < DML_HARDWARE_FIGURES; k++)
        DML_CHECK(node.figure[k].value == device.figure[k].value);
    DML_CHECK_EQ(3, node.n_links);
    DML_CHECK_EQ(2, device.n_links);
    dml_hardware_free(&node);
    dml_hardware_free(&device);
}

static void a_level_is_found_by_the_workers_it_joins(void **state)
{
    (void)state;
    dml_hardware hw;
    DML_CHECK_OK(hardware_of(PLAIN_FIGURES PLAIN_LINKS, &hw));
    DML_CHECK(dml_hardware_link_of(&hw, 2)->bytes_per_s.value == 100e9);
    DML_CHECK(dml_hardware_link_of(&hw, 3)->bytes_per_s.value == 10e9);
    DML_CHECK(dml_hardware_link_of(&hw, 4096)->latency_ns.value == 5000);
    DML_CHECK(dml_hardware_peak(&hw, DML_PRECISION_TF32).value == 20e12); /* fp32's */
    DML_CHECK(!dml_hardware_peak(&hw, DML_PRECISION_FP16).source);
    dml_hardware_free(&hw);
    DML_CHECK_OK(hardware_of(PLAIN_FIGURES, &hw));
    DML_CHECK(!dml_hardware_link_of(&hw, 2));
    dml_hardware_free(&hw);
}

/* ---- mistakes ---- */

static void mistakes_are_shown_where_they_are(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } mistake[] = {
        {"", "a hardware file is a mapping"},
        {"- 1\n", ":1:1: error: a hardware file is a mapping"},
        {"name: x\n", "'peak.fp32' is missing"},
        {PLAIN_FIGURES "pek: 1\n", "unknown key 'pek'"},
        {PLAIN_FIGURES "units: {value: 3, source: t}\n", "units"},
        {"peak:\n  fp33: {value: 1TFLOP/s, source: t}\n", ":2:3: error: unknown key 'peak.fp33'"},
        {"peak:\n  fp33: {value: 1TFLOP/s, source: t}\n", "did you mean 'peak.fp32'?"},
        {"peak: {fp32: 100TFLOP/s}\n", ":1:14: error: 'peak.fp32' is a figure"},
        {"peak: {fp32: {value: 100GB/s, source: t}}\n",
         ":1:22: error: 'peak.fp32' is a rate of arithmetic"},
        {"peak: {fp32: {value: 100, source: t}}\n", "'peak.fp32' is a rate of arithmetic"},
        {"peak: {fp32: {value: 0TFLOP/s, source: t}}\n", "it has to be >0"},
        {"peak: {fp32: {value: 100TFLOP/s}}\n", "'peak.fp32' does not say where it is from"},
        {"peak: {fp32: {value: 100TFLOP/s, source: ''}}\n",
         "'peak.fp32' does not say where it is from"},
        {"peak: {fp32: {source: t}}\n", "'peak.fp32' has no value"},
        {"peak: {fp32: {value: 1TFLOP/s, source: t, page: 3}}\n",
         ":1:43: error: unknown key 'page' in a figure"},
        {"peak: 7\n", "'peak' is a section of figures"},
        {"memory: {capacity: {value: 80GB/s, source: t}}\n", "'memory.capacity' is a size"},
        {"memory: {bandwidth: {value: 3ms, source: t}}\n", "'memory.bandwidth' is a bandwidth"},
        {"launch: {value: 3GB, source: t}\n", "'launch' is a time"},
        {"units: {value: 1.5, source: t}\n", "'units' is a whole number"},
        {"share: {matmul: {value: 1.2, source: t}}\n", "it has to be (0,1]"},
        {"links: {}\n", "'links' is a list of levels"},
        {"links: [3]\n", "a level of links is"},
        {"links: [{workers: all}]\n", "a level of links has workers, latency and bandwidth"},
        {"links: [{workers: 1, latency: {value: 1us, source: t}, bandwidth: {value: 1GB/s, "
         "source: t}}]\n",
         "'workers' is all, or a whole number >= 2"},
        {"links: [{workers: 8, latency: {value: 1us, source: t}, bandwidth: {value: 1GB/s, "
         "source: t}}]\n",
         "the last level has workers: all"},
        {"device: missing.yaml\n", "missing.yaml: error: cannot open"},
        {"name: [1]\n", "'name' is a text"},
    };
    for (size_t i = 0; i < sizeof mistake / sizeof *mistake; i++) {
        dml_hardware hw;
        DML_CHECK_FAILS(DML_ERR_SPEC, mistake[i].says, hardware_of(mistake[i].text, &hw));
    }
    dml_hardware hw;
    DML_CHECK_FAILS(DML_ERR_SPEC, "no/such.yaml: error: cannot open",
                    dml_hardware_load("no/such.yaml", &hw));
}

static void levels_come_innermost_first(void **state)
{
    (void)state;
#define LEVEL(workers)                                              \
    "  - {workers: " workers ", latency: {value: 1us, source: t}, " \
    "bandwidth: {value: 1GB/s, source: t}}\n"
    dml_hardware hw;
    DML_CHECK_FAILS(DML_ERR_SPEC, "a level of 4 workers after one of 8",
                    hardware_of("links:\n" LEVEL("8") LEVEL("4") LEVEL("all"), &hw));
    DML_CHECK_FAILS(DML_ERR_SPEC, "each holds whole blocks",
                    hardware_of("links:\n" LEVEL("8") LEVEL("12") LEVEL("all"), &hw));
    DML_CHECK_FAILS(DML_ERR_SPEC, "only the last level joins all workers",
                    hardware_of("links:\n" LEVEL("all") LEVEL("all"), &hw));
}

static void printing_names_every_figure_and_source(void **state)
{
    (void)state;
    dml_hardware hw;
    DML_CHECK_OK(hardware_of(PLAIN_FIGURES PLAIN_LINKS, &hw));
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    dml_hardware_print(&hw, to);
    fclose(to);
    DML_CHECK(strstr(text, "peak.bf16                80 TFLOP/s       test"));
    DML_CHECK(strstr(text, "links.2.bandwidth        100 GB/s         t"));
    DML_CHECK(strstr(text, "links.all.latency        5 us             t"));
    DML_CHECK(!strstr(text, "peak.fp16"));
    free(text);
    dml_hardware_free(&hw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shipped_file_loads_and_every_figure_says_where_it_is_from),
        cmocka_unit_test(peaks_are_dense),
        cmocka_unit_test(a_node_is_its_device_with_other_links),
        cmocka_unit_test(a_level_is_found_by_the_workers_it_joins),
        cmocka_unit_test(mistakes_are_shown_where_they_are),
        cmocka_unit_test(levels_come_innermost_first),
        cmocka_unit_test(printing_names_every_figure_and_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
