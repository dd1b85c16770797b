/* tests/engine/test_graphs.c - a key has one replay, however many plans ask for it. */
#include "tests/support/test.h"

#include "engine/graphs.h"

#include <stdlib.h>

/* A device that only counts: a replay is a number. */
static int captured, closed;
static dml_err capture_err;

static dml_err capture(dml_queue *queue, dml_job job, void *arg, dml_replay **out)
{
    (void)queue;
    if (capture_err != DML_ERR_OK) DML_FAIL(capture_err, "cannot capture");
    DML_TRY(job(arg));
    int *number = malloc(sizeof *number);
    *number = ++captured;
    *out = (dml_replay *)(void *)number;
    return DML_ERR_OK;
}

static void replay_close(dml_replay *replay)
{
    closed++;
    free(replay);
}

static const dml_device_api device = {.capture = capture, .replay_close = replay_close};

static dml_graphs *open_graphs(void)
{
    captured = closed = 0;
    capture_err = DML_ERR_OK;
    dml_graphs *g = NULL;
    DML_CHECK_OK(dml_graphs_open(&device, NULL, &g));
    return g;
}

static dml_err count_job(void *arg)
{
    ++*(int *)arg;
    return DML_ERR_OK;
}

static int number_of(dml_graphs *g, const dml_graph_key *key)
{
    int runs = 0;
    dml_replay *replay = NULL;
    DML_CHECK_OK(dml_graphs_get(g, key, count_job, &runs, &replay));
    return *(const int *)(const void *)replay;
}

static void a_key_is_captured_once_and_every_field_tells_keys_apart(void **state)
{
    (void)state;
    dml_graphs *g = open_graphs();
    const int place[8] = {0};
    const dml_graph_key base = {.chunk = (const void *)&place[0]};
    dml_graph_key other[10];
    for (int i = 0; i < 10; i++)
        other[i] = base;
    other[0].chunk = (const void *)&place[1];
    other[1].in = &place[2];
    other[2].labels = &place[2];
    other[3].stash = &place[2];
    other[4].dy = &place[2];
    other[5].dx = &place[2];
    other[6].kind = 1;
    other[7].part = 1;
    other[8].mb = 1;
    other[9].mode = 1;
    DML_CHECK_EQ(1, number_of(g, &base));
    for (int i = 0; i < 10; i++)
        DML_CHECK_EQ(2 + i, number_of(g, &other[i]));
    for (int i = 0; i < 10; i++) /* a new plan with the same keys */
        DML_CHECK_EQ(2 + i, number_of(g, &other[i]));
    DML_CHECK_EQ(1, number_of(g, &base));
    DML_CHECK_EQ(11, dml_graphs_count(g));
    DML_CHECK_EQ(11, captured);
    dml_graphs_close(g);
    DML_CHECK_EQ(11, closed);
}

/* Lists are found by what they hold, wherever it lies. */
static void values_of_skips_tell_ops_apart(void **state)
{
    (void)state;
    dml_graphs *g = open_graphs();
    const int place[3] = {0};
    const dml_chunk chunk = {.n_skip_in = 2, .n_skip_back = 1};
    const void *a[] = {&place[0], &place[1]}, *same[] = {&place[0], &place[1]},
               *other[] = {&place[0], &place[2]};
    dml_graph_key key = {.chunk = &chunk};
    DML_CHECK_EQ(1, number_of(g, &key));
    key.skip_in = a;
    DML_CHECK_EQ(2, number_of(g, &key));
    key.skip_in = same;
    DML_CHECK_EQ(2, number_of(g, &key));
    key.skip_in = other;
    DML_CHECK_EQ(3, number_of(g, &key));
    key.skip_dy = a;
    DML_CHECK_EQ(4, number_of(g, &key));
    key.skip_dy = other; /* the first is all there is */
    DML_CHECK_EQ(4, number_of(g, &key));
    dml_graphs_close(g);
}

static void it_holds_as_many_as_there_are_ops(void **state)
{
    (void)state;
    dml_graphs *g = open_graphs();
    enum { N = 1000 };
    for (int32_t mb = 0; mb < N; mb++)
        DML_CHECK_EQ(mb + 1, number_of(g, &(dml_graph_key){.mb = mb}));
    for (int32_t mb = 0; mb < N; mb++)
        DML_CHECK_EQ(mb + 1, number_of(g, &(dml_graph_key){.mb = mb}));
    dml_graphs_close(g);
    DML_CHECK_EQ(N, closed);
    dml_graphs_close(NULL);
}

static void a_capture_that_fails_leaves_nothing_behind(void **state)
{
    (void)state;
    dml_graphs *g = open_graphs();
    const dml_graph_key key = {.mb = 3};
    int runs = 0;
    dml_replay *replay = NULL;
    capture_err = DML_ERR_PEER;
    DML_CHECK_FAILS(DML_ERR_PEER, "cannot capture",
                    dml_graphs_get(g, &key, count_job, &runs, &replay));
    DML_CHECK(replay == NULL && runs == 0);
    DML_CHECK_EQ(0, dml_graphs_count(g));
    capture_err = DML_ERR_OK;
    DML_CHECK_EQ(1, number_of(g, &key));
    dml_graphs_close(g);
    DML_CHECK_EQ(1, closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_captured_once_and_every_field_tells_keys_apart),
        cmocka_unit_test(values_of_skips_tell_ops_apart),
        cmocka_unit_test(it_holds_as_many_as_there_are_ops),
        cmocka_unit_test(a_capture_that_fails_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
