/* Links by level, and what a ring over them takes. */
#include "tests/support/test.h"

#include "engine/base/link.h"

static const dml_link_level level[] = {{2, {1, 0}}, {4, {10, 1e9}}};
static const dml_links links = {.outer = {100, 1e8}, .levels = 2, .level = level};

static void two_workers_use_the_innermost_level_that_holds_both(void **state)
{
    (void)state;
    DML_CHECK_EQ(1, dml_links_between(&links, 0, 1)->latency_ns);
    DML_CHECK_EQ(1, dml_links_between(&links, 7, 6)->latency_ns);
    DML_CHECK_EQ(10, dml_links_between(&links, 1, 2)->latency_ns); /* neighbours, other blocks */
    DML_CHECK_EQ(10, dml_links_between(&links, 3, 0)->latency_ns);
    DML_CHECK_EQ(100, dml_links_between(&links, 3, 4)->latency_ns);
    DML_CHECK_EQ(100, dml_links_between(&links, 1000, 0)->latency_ns);
}

static void a_stride_names_every_nth_worker_of_the_cluster(void **state)
{
    (void)state;
    dml_links every_second = links;
    every_second.stride = 2;
    every_second.first = 1; /* 1, 3, 5, 7 */
    DML_CHECK_EQ(10, dml_links_between(&every_second, 0, 1)->latency_ns);
    DML_CHECK_EQ(100, dml_links_between(&every_second, 1, 2)->latency_ns);
}

static void a_transfer_takes_its_bytes_then_the_latency(void **state)
{
    (void)state;
    DML_CHECK_EQ(5000, dml_link_busy_ns(&level[1].link, 5000));
    DML_CHECK_EQ(5010, dml_link_ns(&level[1].link, 5000));
    DML_CHECK_EQ(1, dml_link_ns(&level[0].link, 5000)); /* no bandwidth: the latency alone */
}

static void a_ring_goes_at_the_pace_of_its_slowest_link(void **state)
{
    (void)state;
    static const int32_t box[] = {0, 1, 2, 3}, pair[] = {4, 5}, far[] = {0, 1, 4, 5};
    DML_CHECK_EQ(0, dml_links_ring_ns(&links, box, 1, 0, 4000));
    DML_CHECK_EQ(2, dml_links_ring_ns(&links, pair, 2, 2, 4000));
    DML_CHECK_EQ(6000 + 60, dml_links_ring_ns(&links, box, 4, 6, 4000));
    DML_CHECK_EQ(60000 + 600, dml_links_ring_ns(&links, far, 4, 6, 4000));
    DML_CHECK_EQ(30000 + 300, dml_links_ring_ns(&links, far, 4, 3, 4000)); /* an all-gather */
}

/* Blocks of two that all take part share two cards between boxes; one of each box has one to itself. */
static void members_of_a_block_share_its_rails(void **state)
{
    (void)state;
    static const int32_t both[] = {0, 1, 4, 5}, one[] = {0, 4}, two[] = {0, 1, 4};
    dml_links railed = links;
    railed.rails = 2;
    DML_CHECK_EQ(30000 + 600, dml_links_ring_ns(&railed, both, 4, 6, 4000));
    railed.rails = 8; /* there are but two to use them */
    DML_CHECK_EQ(30000 + 600, dml_links_ring_ns(&railed, both, 4, 6, 4000));
    DML_CHECK_EQ(40000 + 200, dml_links_ring_ns(&railed, one, 2, 2, 4000));
    DML_CHECK_EQ(40000 + 300, dml_links_ring_ns(&railed, two, 3, 3, 4000)); /* back from 4: one */
    railed.rails = 1;
    DML_CHECK_EQ(60000 + 600, dml_links_ring_ns(&railed, both, 4, 6, 4000));
}

static void links_are_free_only_when_all_are(void **state)
{
    (void)state;
    static const dml_link_level no[] = {{2, {0, 0}}};
    DML_CHECK(!dml_links_are_free(&links));
    DML_CHECK(dml_links_are_free(&(dml_links){.levels = 1, .level = no}));
    DML_CHECK(!dml_links_are_free(&(dml_links){.outer = {0, 5}, .levels = 1, .level = no}));
    DML_CHECK(!dml_links_are_free(&(dml_links){.levels = 1, .level = level}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_workers_use_the_innermost_level_that_holds_both),
        cmocka_unit_test(a_stride_names_every_nth_worker_of_the_cluster),
        cmocka_unit_test(a_transfer_takes_its_bytes_then_the_latency),
        cmocka_unit_test(a_ring_goes_at_the_pace_of_its_slowest_link),
        cmocka_unit_test(members_of_a_block_share_its_rails),
        cmocka_unit_test(links_are_free_only_when_all_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
