/* Exact modes on a U of blocks within blocks: one weights hash whatever passes which stages over. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#define U_NET DML_SOURCE_DIR "/tests/specs/u-net.yaml"
#define NAMED DML_SOURCE_DIR "/tests/specs/named-skips.yaml"

/* Four stages through the arms of the U, and four that each read one value more than the one before; eight. */
static const char *const arms[] = {"parallelism.split=[4, 4, 6, 10]", NULL},
                         *const readers[] = {"parallelism.split=[17, 3, 1, 3]", NULL},
                         *const eight[] = {"parallelism.split=[3, 2, 3, 2, 3, 2, 3, 6]", NULL};

static const layout whole = {"1", "1", "sequential", "1"};

static void check_all(const layout *layouts, size_t n, const char *const *split)
{
    const run_result first = run_layout(U_NET, &whole, NULL);
    for (size_t i = 0; i < n; i++) {
        const run_result r = run_layout(U_NET, &layouts[i], split);
        expect_same(&first, &r, &layouts[i]);
    }
}

static void every_schedule_gives_the_bits_of_the_uncut_net(void **state)
{
    (void)state;
    static const layout four[] = {
        {"4", "1", "sequential", "1"},
        {"4", "1", "gpipe", "1"},
        {"4", "1", "gpipe_reverse", "1"},
        {"4", "1", "1f1b", "1"},
        {"4", "1", "eager_1f1b", "1"},
        {"4", "1", "zb_h1", "1"},
        {"4", "1", "zb_h2", "1"},
        {"4", "1", "chimera", "1"},
        {"4", "1", "chimera_doubling", "1"},
        {"4", "1", "auto", "1"},
    };
    check_all(four, sizeof four / sizeof *four, arms);
    check_all(four, sizeof four / sizeof *four, readers);
}

/* A worker that holds several stages reads some skips in place. */
static void virtual_stages_too(void **state)
{
    (void)state;
    static const layout two[] = {
        {"2", "1", "interleaved_1f1b x2", "1"},
        {"2", "1", "looped_bfs x2", "1"},
        {"2", "1", "interleaved_zb x2", "1"},
    };
    static const layout four[] = {
        {"4", "1", "interleaved_1f1b x2", "1"},
        {"4", "1", "looped_bfs x2", "1"},
        {"4", "1", "interleaved_zb x2", "1"},
    };
    check_all(two, sizeof two / sizeof *two, arms);
    check_all(two, sizeof two / sizeof *two, readers);
    check_all(four, sizeof four / sizeof *four, eight);
}

/* Backwards are cut into parts, buckets small enough that there are several. */
static void replicas_too(void **state)
{
    (void)state;
    static const layout four[] = {
        {"4", "2", "1f1b", "1"},
        {"4", "2", "zb_h1", "1"},
        {"4", "2", "chimera", "1"},
        {"4", "4", "gpipe", "1"},
    };
    static const char *const parts[] = {"parallelism.split=[4, 4, 6, 10]", "comm.bucket_bytes=64B",
                                        "comm.first_bucket_bytes=64B", NULL};
    check_all(four, sizeof four / sizeof *four, parts);
    check_all(four, sizeof four / sizeof *four, readers);
}

/* Micro-batches without samples, whose transfers do nothing, among others. */
static void a_short_last_batch_too(void **state)
{
    (void)state;
    static const layout some[] = {
        {"4", "1", "1f1b", "1"}, {"4", "2", "zb_h1", "1"}, {"2", "1", "interleaved_1f1b x2", "1"}};
    const char *const a[] = {arms[0], "data.last_batch=short", NULL}, *const b[] = {
                                                                          readers[0],
                                                                          "data.last_batch=short",
                                                                          NULL};
    const run_result want = run_layout(U_NET, &whole, &a[1]);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const run_result r = run_layout(U_NET, &some[i], a), s = run_layout(U_NET, &some[i], b);
        expect_same(&want, &r, &some[i]);
        expect_same(&want, &s, &some[i]);
    }
}

static void recomputed_too(void **state)
{
    (void)state;
    static const char *const policies[] = {"selective", "full", "except_last"};
    static const layout some[] = {
        {"4", "1", "gpipe", "1"}, {"4", "1", "zb_h1", "1"}, {"4", "2", "chimera", "1"}};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        char policy[64];
        snprintf(policy, sizeof policy, "parallelism.recompute=%s", policies[i]);
        const char *const a[] = {arms[0], policy, NULL}, *const b[] = {readers[0], policy, NULL},
                          *const c[] = {eight[0], policy, NULL};
        check_all(some, sizeof some / sizeof *some, a);
        check_all(some, sizeof some / sizeof *some, b);
        check_all(&(layout){"4", "1", "interleaved_1f1b x2", "1"}, 1, c);
    }
}

static void free_placement_too(void **state)
{
    (void)state;
    static const layout placed[] = {
        {"[{workers: [0, 1]}, {workers: [2]}, {workers: [0]}, {workers: [1, 2]}]", "-", "auto",
         "1"},
        {"[{workers: [0]}, {workers: [1, 2], shares: [3, 1]}, {workers: [0]}, {workers: [3]}]", "-",
         "auto", "1"},
    };
    check_all(placed, sizeof placed / sizeof *placed, arms);
    check_all(placed, sizeof placed / sizeof *placed, readers);
}

/* `add: NAME` in a chain of layers: no block says where the skip begins or ends. */
static void named_skips_too(void **state)
{
    (void)state;
    static const layout some[] = {
        {"1", "1", "sequential", "1"},
        {"4", "1", "1f1b", "1"},
        {"4", "2", "gpipe", "1"},
        {"4", "1", "zb_h1", "1"},
        {"6", "1", "eager_1f1b", "1"},
        {"4", "1", "chimera", "1"},
        {"3", "1", "interleaved_1f1b x2", "1"},
    };
    static const char *const full[] = {"parallelism.recompute=full", NULL};
    const run_result kept = expect_all_same(NAMED, some, sizeof some / sizeof *some, NULL);
    const run_result again = expect_all_same(NAMED, some, sizeof some / sizeof *some, full);
    expect_same(&kept, &again, some);
}

static void fast_mode_repeats_on_one_layout(void **state)
{
    (void)state;
    static const char *const extra[] = {"parallelism.split=[4, 4, 6, 10]", "training.numerics=fast",
                                        NULL};
    const layout twice[] = {{"4", "2", "1f1b", "1"}, {"4", "2", "1f1b", "1"}};
    expect_all_same(U_NET, twice, 2, extra);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_gives_the_bits_of_the_uncut_net),
        cmocka_unit_test(virtual_stages_too),
        cmocka_unit_test(replicas_too),
        cmocka_unit_test(a_short_last_batch_too),
        cmocka_unit_test(recomputed_too),
        cmocka_unit_test(free_placement_too),
        cmocka_unit_test(named_skips_too),
        cmocka_unit_test(fast_mode_repeats_on_one_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
