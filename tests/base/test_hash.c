/* tests/base/test_hash.c - the hash is XXH3-64, a fixed format: weights' hashes are compared across
 * machines and versions. */
#include "tests/support/test.h"

#include "engine/base/hash.h"

/* The published value of XXH3_64bits over nothing. */
static void nothing_hashes_to_the_published_value(void **state)
{
    (void)state;
    DML_CHECK_EQ(0x2d06800538d394c2, dml_hash("", 0, 0));
    DML_CHECK_EQ(0x2d06800538d394c2, dml_hash_text(""));
}

static void a_text_hashes_as_its_bytes_with_seed_0(void **state)
{
    (void)state;
    DML_CHECK_EQ(dml_hash("conv1.weight", 12, 0), dml_hash_text("conv1.weight"));
    DML_CHECK(dml_hash_text("conv1.weight") != dml_hash_text("conv1.weighs"));
}

static void every_bit_and_the_seed_count(void **state)
{
    (void)state;
    unsigned char bytes[257] = {0};
    const uint64_t plain = dml_hash(bytes, sizeof bytes, 0);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= 1;
        DML_CHECK(dml_hash(bytes, sizeof bytes, 0) != plain);
        bytes[i] ^= 1;
    }
    DML_CHECK(dml_hash(bytes, sizeof bytes, 1) != plain);
    DML_CHECK_EQ(plain, dml_hash(bytes, sizeof bytes, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_hashes_to_the_published_value),
        cmocka_unit_test(a_text_hashes_as_its_bytes_with_seed_0),
        cmocka_unit_test(every_bit_and_the_seed_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
