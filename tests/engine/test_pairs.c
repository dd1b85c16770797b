/* tests/engine/test_pairs.c - the pairs of `meet` from hand-made routes. */
#include "tests/support/test.h"

#include "engine/pairs.h"

#include <stdio.h>

/* A program of these routes; '.' is unset.  routes: chunk by chunk, one digit a micro-batch. */
static dml_program routed(int32_t workers, const char *const *routes, int32_t chunks)
{
    dml_program p;
    const int32_t mbs = (int32_t)strlen(routes[0]);
    DML_CHECK_OK(dml_program_init(&p, workers, chunks, mbs));
    for (int32_t c = 0; c < chunks; c++)
        for (int32_t mb = 0; mb < mbs; mb++)
            if (routes[c][mb] != '.') *dml_program_route(&p, c, mb) = routes[c][mb] - '0';
    return p;
}

/* "0 1>2 3" */
static void side(char *out, const int32_t *ranks, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        sprintf(out + strlen(out), "%s%d", i ? " " : "", ranks[i]);
}

static void expect(const char *want, const dml_program *const *programs, int32_t n_programs)
{
    dml_arena arena = {0};
    int32_t n;
    const dml_pair *pairs = dml_pairs_of(programs, n_programs, &arena, &n);
    char got[512] = "";
    for (int32_t i = 0; i < n; i++) {
        if (i) strcat(got, ", ");
        side(got, pairs[i].lower, pairs[i].n_lower);
        strcat(got, ">");
        side(got, pairs[i].upper, pairs[i].n_upper);
    }
    assert_string_equal(want, got);
    dml_arena_free(&arena);
}

#define EXPECT(want, workers, ...)                                                          \
    do {                                                                                    \
        const char *const routes[] = {__VA_ARGS__};                                         \
        dml_program p = routed(workers, routes, (int32_t)(sizeof routes / sizeof *routes)); \
        expect(want, &(const dml_program *){&p}, 1);                                        \
        dml_program_free(&p);                                                               \
    } while (0)

static void neighbouring_stages_are_a_pair(void **state)
{
    (void)state;
    EXPECT("0>1, 1>2", 3, "00", "11", "22");
    EXPECT("0 1>2 3", 4, "0101", "2323");
    EXPECT("0>1 2", 3, "0000", "1212");
    EXPECT("0>1, 1>0, 0>1", 2, "00", "11", "00", "11"); /* interleaved: `meet` uses the first */
}

static void a_boundary_inside_one_worker_is_none(void **state)
{
    (void)state;
    EXPECT("", 1, "00", "00");
    EXPECT("", 2, "01", "01"); /* two replicas of both chunks */
    EXPECT("0>1", 2, "00", "11", "11");
    EXPECT("", 2, "01");
}

static void rerouted_micro_batches_count_and_unset_ones_do_not(void **state)
{
    (void)state;
    EXPECT("0 1>2", 3, "0101", "2222"); /* a replica of the second stage is lost */
    EXPECT("0 1>2 3", 4, "01.1", "23.2");
}

/* Worker 1 has taken over part of chunk 1: it is on both sides, so senders have pairs of their own. */
static void overlapping_sides_are_cut_by_sender(void **state)
{
    (void)state;
    EXPECT("0>1 2, 1>2", 3, "001", "122");
    EXPECT("0>1, 1>0", 2, "01", "10");
}

static void evaluation_adds_its_routes(void **state)
{
    (void)state;
    const char *const train[] = {"00", "11"}, *const eval[] = {"00", "22"};
    dml_program a = routed(3, train, 2), b = routed(3, eval, 2);
    expect("0>1 2", (const dml_program *const[]){&a, &b}, 2);
    dml_program_free(&a);
    dml_program_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbouring_stages_are_a_pair),
        cmocka_unit_test(a_boundary_inside_one_worker_is_none),
        cmocka_unit_test(rerouted_micro_batches_count_and_unset_ones_do_not),
        cmocka_unit_test(overlapping_sides_are_cut_by_sender),
        cmocka_unit_test(evaluation_adds_its_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
