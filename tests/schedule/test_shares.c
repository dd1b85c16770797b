/* Who runs which micro-batch when shares differ. */
#include "tests/schedule/support.h"

#include "schedule/shares.h"

enum { MOST = 8, MBS = 240 };

static void equal_shares_take_turns(void **state)
{
    (void)state;
    for (int32_t share = 1; share <= 5; share += 4)
        for (int32_t n = 1; n <= MOST; n++) {
            int32_t shares[MOST], taker[MBS];
            for (int32_t i = 0; i < n; i++)
                shares[i] = share;
            dml_deal(shares, n, MBS, taker);
            for (int32_t mb = 0; mb < MBS; mb++)
                DML_CHECK_EQ(mb % n, taker[mb]);
        }
}

static void one_of_four_goes_to_a_share_of_one_beside_three(void **state)
{
    (void)state;
    static const int32_t share[] = {1, 3}, want[] = {1, 0, 1, 1, 1, 0, 1, 1};
    int32_t taker[8];
    dml_deal(share, 2, 8, taker);
    for (int32_t mb = 0; mb < 8; mb++)
        DML_CHECK_EQ(want[mb], taker[mb]);
}

/* The formula of the header, word for word. */
static int32_t furthest_behind(const int32_t *share, const int32_t *given, int32_t n, int32_t mb)
{
    int64_t all = 0, most = INT64_MIN;
    int32_t best = 0;
    for (int32_t i = 0; i < n; i++)
        all += share[i];
    for (int32_t i = 0; i < n; i++) {
        const int64_t behind = (int64_t)share[i] * (mb + 1) - all * given[i];
        if (behind <= most) continue;
        most = behind;
        best = i;
    }
    return best;
}

static void each_has_its_share_and_gets_it_as_the_formula_says(void **state)
{
    (void)state;
    rnd r = rnd_of(21);
    for (int32_t trial = 0; trial < 300; trial++) {
        const int32_t n = 1 + rnd_below(&r, MOST);
        int32_t share[MOST], given[MOST] = {0}, taker[MBS], all = 0;
        for (int32_t i = 0; i < n; i++)
            all += share[i] = 1 + rnd_below(&r, 12);
        dml_deal(share, n, MBS, taker);
        for (int32_t mb = 0; mb < MBS; mb++) {
            DML_CHECK_EQ(furthest_behind(share, given, n, mb), taker[mb]);
            given[taker[mb]]++;
            for (int32_t i = 0; i < n && (mb + 1) % all == 0; i++)
                DML_CHECK_EQ(share[i] * ((mb + 1) / all), given[i]);
        }
    }
}

static void a_chunk_s_routes_name_the_workers(void **state)
{
    (void)state;
    dml_program p;
    static const int32_t worker[] = {3, 0}, share[] = {1, 2};
    DML_CHECK_OK(dml_program_init(&p, 4, 2, 6));
    dml_route_by_shares(&p, 1, worker, share, 2);
    static const int32_t want[] = {0, 3, 0, 0, 3, 0};
    for (int32_t mb = 0; mb < 6; mb++) {
        DML_CHECK_EQ(-1, *dml_program_route(&p, 0, mb));
        DML_CHECK_EQ(want[mb], *dml_program_route(&p, 1, mb));
    }
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_shares_take_turns),
        cmocka_unit_test(one_of_four_goes_to_a_share_of_one_beside_three),
        cmocka_unit_test(each_has_its_share_and_gets_it_as_the_formula_says),
        cmocka_unit_test(a_chunk_s_routes_name_the_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
