/* Recomputation with the fast kernels: VGG-8 (dropout) and ResNet-20 (batch norm) have the bits of a sequential loop
 * without it. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

static const layout layouts[] = {
    {"1", "1", "sequential", "1"}, {"4", "1", "gpipe", "1"},   {"2", "2", "1f1b", "1"},
    {"3", "2", "zb_h1", "1"},      {"4", "1", "chimera", "2"}, {"2", "1", "interleaved_zb x2", "1"},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void same_bits(const char *spec)
{
    static const char *const policies[] = {"full", "selective", "except_last"};
    const run_result want = run_layout(spec, &layouts[0], NULL);
    for (size_t k = 0; k < sizeof policies / sizeof *policies; k++)
        for (int32_t l = 0; l < LAYOUTS; l++) {
            char recompute[64];
            snprintf(recompute, sizeof recompute, "parallelism.recompute=%s", policies[k]);
            const char *const extra[] = {recompute, NULL};
            const run_result r = run_layout(spec, &layouts[l], extra);
            expect_same(&want, &r, &layouts[l]);
        }
}

static void vgg8_has_the_bits_of_plain_training(void **state)
{
    (void)state;
    same_bits(DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml");
}

static void resnet20_has_the_bits_of_plain_training(void **state)
{
    (void)state;
    same_bits(DML_SOURCE_DIR "/tests/specs/resnet20-synthetic.yaml");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vgg8_has_the_bits_of_plain_training),
        cmocka_unit_test(resnet20_has_the_bits_of_plain_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
