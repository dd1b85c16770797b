/* Exact mode with the fast kernels: VGG-8 (dropout) and ResNet-20, layouts, schedules and thread counts. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

static const layout layouts[] = {
    {"1", "1", "1f1b", "1"},
    {"1", "1", "gpipe", "2"},
    {"4", "1", "1f1b", "1"},
    {"2", "2", "gpipe", "2"},
    {"2", "2", "gpipe_reverse", "1"},
    {"1", "4", "sequential", "1"},
    {"3", "2", "1f1b", "1"},
    {"1", "1", "sequential", "3"},
    {"4", "1", "csv:" DML_SOURCE_DIR "/tests/golden/family/zb_v.csv x2", "1"},
    {"4", "1", "chimera_doubling", "1"},
    {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]", "-", "auto", "1"},
    {"[{workers: [1]}, {workers: [0, 1, 2]}]", "-", "auto", "2"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void vgg8_has_the_same_bits_everywhere(void **state)
{
    (void)state;
    expect_all_same(DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml", layouts, LAYOUTS, NULL);
}

static void resnet20_has_the_same_bits_everywhere(void **state)
{
    (void)state;
    expect_all_same(DML_SOURCE_DIR "/tests/specs/resnet20-synthetic.yaml", layouts, LAYOUTS, NULL);
}

/* Cut inside its blocks: a shortcut's value, or a block's, passes a stage over. */
static void resnet20_cut_inside_its_blocks_too(void **state)
{
    (void)state;
    const char *const spec = DML_SOURCE_DIR "/tests/specs/resnet20-synthetic.yaml";
    static const char *const four[] = {"parallelism.split=[5, 3, 23, 43]", NULL},
                             *const eight[] = {"parallelism.split=[5, 3, 3, 15, 4, 12, 13, 19]",
                                               NULL};
    static const layout whole = {"1", "1", "sequential", "1"},
                        cut[] =
                            {
                                {"4", "1", "1f1b", "1"},
                                {"4", "2", "zb_h1", "1"},
                                {"2", "1", "interleaved_1f1b x2", "2"},
                                {"4", "1", "chimera", "1"},
                            },
                        twice = {"4", "1", "interleaved_zb x2", "1"};
    const run_result want = run_layout(spec, &whole, NULL);
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        const run_result r = run_layout(spec, &cut[i], four);
        expect_same(&want, &r, &cut[i]);
    }
    const run_result r = run_layout(spec, &twice, eight);
    expect_same(&want, &r, &twice);
}

static void wide_sums_have_the_same_bits_everywhere(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=exact_wide", NULL};
    expect_all_same(DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml", layouts, LAYOUTS, extra);
}

static void fast_mode_repeats_on_one_layout(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.numerics=fast", NULL};
    const layout twice[] = {{"2", "2", "1f1b", "1"}, {"2", "2", "1f1b", "1"}};
    expect_all_same(DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml", twice, 2, extra);
}

/* Fast mode: buckets under backward, and one reduction after it. */
static void reducing_in_buckets_changes_no_bit(void **state)
{
    (void)state;
    static const char *const off[] = {"training.numerics=fast", "comm.overlap=false", NULL};
    static const char *const each[] = {"training.numerics=fast", "comm.first_bucket_bytes=1",
                                       "comm.bucket_bytes=1", NULL};
    static const char *const some[] = {"training.numerics=fast", "comm.first_bucket_bytes=20kB",
                                       "comm.bucket_bytes=100kB", NULL};
    const char *const spec = DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml";
    static const layout replicated[] = {
        {"1", "2", "1f1b", "1"},
        {"2", "2", "gpipe", "1"},
        {"[{workers: [0, 1, 2]}, {workers: [3]}, {workers: [2, 3]}]", "-", "auto", "1"}};
    for (int l = 0; l < 3; l++) {
        const run_result want = run_layout(spec, &replicated[l], off);
        const run_result a = run_layout(spec, &replicated[l], each);
        const run_result b = run_layout(spec, &replicated[l], some);
        expect_same(&want, &a, &replicated[l]);
        expect_same(&want, &b, &replicated[l]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vgg8_has_the_same_bits_everywhere),
        cmocka_unit_test(resnet20_has_the_same_bits_everywhere),
        cmocka_unit_test(resnet20_cut_inside_its_blocks_too),
        cmocka_unit_test(wide_sums_have_the_same_bits_everywhere),
        cmocka_unit_test(fast_mode_repeats_on_one_layout),
        cmocka_unit_test(reducing_in_buckets_changes_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
