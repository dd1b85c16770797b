/* tests/base/test_rng.c - Philox against Random123's known answers, and what is built on it. */
#include "tests/support/test.h"

#include "engine/base/rng.h"

#include <stdlib.h>

/* philox4x32-10 rows of Random123's kat_vectors; counter words 0 and 1 are `lo`, 2 and 3 are `hi`. */
static void blocks_are_the_known_answers_of_philox4x32_10(void **state)
{
    (void)state;
    static const struct {
        uint64_t key, hi, lo;
        uint32_t out[4];
    } kat[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        dml_rng_block(kat[i].key, kat[i].hi, kat[i].lo, out);
        for (int w = 0; w < 4; w++)
            DML_CHECK_EQ(kat[i].out[w], out[w]);
    }
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void keys_of_neighbouring_seeds_streams_and_ids_all_differ(void **state)
{
    (void)state;
    enum { SEEDS = 20, IDS = 20, N = SEEDS * DML_RNG_TEST * IDS };
    static uint64_t key[N];
    int n = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        for (int stream = DML_RNG_INIT; stream <= DML_RNG_TEST; stream++)
            for (uint64_t id = 0; id < IDS; id++)
                key[n++] = dml_rng_key(seed, (dml_rng_stream)stream, id);
    DML_CHECK_EQ(N, n);
    qsort(key, N, sizeof *key, by_value);
    for (int i = 1; i < N; i++)
        DML_CHECK(key[i] != key[i - 1]);
}

static void units_lie_in_0_to_1_with_1_left_out(void **state)
{
    (void)state;
    DML_CHECK(dml_rng_unit(0) == 0.0f);
    DML_CHECK(dml_rng_unit(UINT32_MAX) == 1.0f - 0x1p-24f);
    DML_CHECK(dml_rng_unit(UINT32_C(1) << 31) == 0.5f);
}

static void a_permutation_holds_every_number_once(void **state)
{
    (void)state;
    enum { MOST = 1000 };
    int32_t perm[MOST];
    for (int64_t n = 0; n <= MOST; n += n < 20 ? 1 : 98) {
        char seen[MOST] = {0};
        dml_rng_permutation(dml_rng_key(7, DML_RNG_TEST, (uint64_t)n), n, perm);
        for (int64_t i = 0; i < n; i++) {
            DML_CHECK(perm[i] >= 0 && perm[i] < n);
            DML_CHECK_EQ(0, seen[perm[i]]++);
        }
    }
}

/* All 24 orders of 4 things, 24,000 draws: chi-square with 23 degrees of freedom is below 49.7 with
 * probability 0.999.  The draws are fixed, so this cannot flicker. */
static void permutations_of_four_are_equally_likely(void **state)
{
    (void)state;
    enum { DRAWS = 24000 };
    int count[256] = {0};
    for (uint64_t d = 0; d < DRAWS; d++) {
        int32_t p[4];
        dml_rng_permutation(dml_rng_key(1, DML_RNG_TEST, d), 4, p);
        count[p[0] | p[1] << 2 | p[2] << 4 | p[3] << 6]++;
    }
    double chi = 0;
    int orders = 0;
    for (int i = 0; i < 256; i++) {
        if (!count[i]) continue;
        chi += (count[i] - DRAWS / 24.0) * (count[i] - DRAWS / 24.0) / (DRAWS / 24.0);
        orders++;
    }
    DML_CHECK_EQ(24, orders);
    DML_CHECK(chi < 49.7);
}

/* Over 300,000 elements 4 draws of key 2024 fall into Lemire's rejected zone; the checksum is that of an
 * independent program. */
static void rejected_draws_are_drawn_again(void **state)
{
    (void)state;
    enum { N = 300000 };
    static int32_t perm[N];
    dml_rng_permutation(2024, N, perm);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < N; i++)
        sum += (i + 1) * (uint64_t)perm[i];
    DML_CHECK_EQ(6746077896370932, sum);
}

static void a_permutation_depends_on_its_key_alone(void **state)
{
    (void)state;
    int32_t a[100], b[100], c[100];
    dml_rng_permutation(11, 100, a);
    dml_rng_permutation(12, 100, c);
    dml_rng_permutation(11, 100, b);
    assert_memory_equal(a, b, sizeof a);
    DML_CHECK(memcmp(a, c, sizeof a) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_the_known_answers_of_philox4x32_10),
        cmocka_unit_test(keys_of_neighbouring_seeds_streams_and_ids_all_differ),
        cmocka_unit_test(units_lie_in_0_to_1_with_1_left_out),
        cmocka_unit_test(a_permutation_holds_every_number_once),
        cmocka_unit_test(permutations_of_four_are_equally_likely),
        cmocka_unit_test(rejected_draws_are_drawn_again),
        cmocka_unit_test(a_permutation_depends_on_its_key_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
