/* tests/base/test_arena.c - build-time memory: zeroed, aligned, apart, freed at once. */
#include "tests/support/test.h"

#include "engine/base/arena.h"

static void allocations_are_zeroed_and_aligned_to_16_bytes(void **state)
{
    (void)state;
    dml_arena arena = {0};
    for (int64_t bytes = 1; bytes < 3000; bytes += 37) {
        const unsigned char *p = dml_arena_alloc(&arena, bytes);
        DML_CHECK_EQ(0, (uintptr_t)p % 16);
        for (int64_t i = 0; i < bytes; i++)
            DML_CHECK_EQ(0, p[i]);
    }
    dml_arena_free(&arena);
}

static void allocations_do_not_overlap(void **state)
{
    (void)state;
    enum { N = 500 };
    dml_arena arena = {0};
    unsigned char *p[N];
    for (int i = 0; i < N; i++) {
        p[i] = dml_arena_alloc(&arena, i + 1);
        memset(p[i], i & 0xff, (size_t)i + 1);
    }
    for (int i = 0; i < N; i++)
        for (int b = 0; b <= i; b++)
            DML_CHECK_EQ(i & 0xff, p[i][b]);
    dml_arena_free(&arena);
}

static void nothing_and_more_than_a_block_are_fine(void **state)
{
    (void)state;
    dml_arena arena = {0};
    DML_CHECK(dml_arena_alloc(&arena, 0) != NULL);
    unsigned char *big = dml_arena_alloc(&arena, 5 << 20);
    big[0] = big[(5 << 20) - 1] = 1;
    int32_t *n = DML_NEW_N(&arena, int32_t, 3);
    DML_CHECK_EQ(0, n[2]);
    dml_arena_free(&arena);
}

static void free_leaves_an_arena_that_can_be_used_again(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_arena_alloc(&arena, 100);
    dml_arena_free(&arena);
    DML_CHECK(arena.head == NULL);
    dml_arena_free(&arena);
    DML_CHECK(dml_arena_alloc(&arena, 100) != NULL);
    dml_arena_free(&arena);
}

static void texts_are_copies(void **state)
{
    (void)state;
    dml_arena arena = {0};
    char text[] = "stage";
    const char *copy = dml_arena_strdup(&arena, text);
    text[0] = 'S';
    assert_string_equal(copy, "stage");
    assert_string_equal(dml_arena_printf(&arena, "%s %d of %d", copy, 3, 4), "stage 3 of 4");
    assert_string_equal(dml_arena_printf(&arena, "%s", ""), "");
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zeroed_and_aligned_to_16_bytes),
        cmocka_unit_test(allocations_do_not_overlap),
        cmocka_unit_test(nothing_and_more_than_a_block_are_fine),
        cmocka_unit_test(free_leaves_an_arena_that_can_be_used_again),
        cmocka_unit_test(texts_are_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
