/* Traces of losses: both forms, draws by the seed, scaling, and mistakes by their line. */
#include "tests/support/test.h"

#include "engine/outages.h"

#define GCP DML_SOURCE_DIR "/examples/traces/gcp-24.csv"

#define HOUR_NS 3600000000000

static int32_t count(uint64_t set)
{
    return __builtin_popcountll(set);
}

static dml_outages read(const char *text, int32_t workers, uint64_t seed, dml_arena *arena)
{
    dml_outages o;
    DML_CHECK_OK(dml_outages_parse(text, "t.csv", workers, seed, arena, &o));
    return o;
}

static void events_name_who_goes_and_who_comes(void **state)
{
    (void)state;
    dml_arena arena = {0};
    const dml_outages o =
        read("# head\nhours,event,worker\n 0, fail , 3\n0.5,fail,1 # with a remark\n"
             "0.5,return,3\n\n1,return,1\n1.5,end\n",
             4, 1, &arena);
    DML_CHECK_EQ(3, o.n);
    DML_CHECK_EQ(0, o.at[0].at_ns);
    DML_CHECK_EQ(1 << 3, o.at[0].lost);
    DML_CHECK_EQ(HOUR_NS / 2, o.at[1].at_ns);
    DML_CHECK_EQ(1 << 1, o.at[1].lost); /* two events of one moment are one change */
    DML_CHECK_EQ(HOUR_NS, o.at[2].at_ns);
    DML_CHECK_EQ(0, o.at[2].lost);
    DML_CHECK_EQ(3 * HOUR_NS / 2, o.end_ns);
    DML_CHECK_EQ(0, o.full);
    DML_CHECK(dml_outages_mean_live(&o) > 3.333 && dml_outages_mean_live(&o) < 3.334);
    dml_arena_free(&arena);
}

static void who_goes_at_a_moment_and_returns_at_it_changes_nothing(void **state)
{
    (void)state;
    dml_arena arena = {0};
    const dml_outages o =
        read("hours,event,worker\n0,fail,0\n1,fail,2\n1,return,2\n2,end\n", 4, 1, &arena);
    DML_CHECK_EQ(1, o.n);
    dml_arena_free(&arena);
}

/* What is published of it: 19 times GPUs go, 27 in all, 18 times they come, 27 in all; 21.72 on average. */
static void the_published_trace_adds_up(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_outages o;
    DML_CHECK_OK(dml_outages_load(GCP, 24, 1, &arena, &o));
    int32_t falls = 0, rises = 0, went = 0, came = 0;
    for (int32_t i = 0; i < o.n; i++) {
        const uint64_t before = i > 0 ? o.at[i - 1].lost : 0;
        went += count(o.at[i].lost & ~before);
        came += count(before & ~o.at[i].lost);
        falls += count(o.at[i].lost) > count(before);
        rises += count(o.at[i].lost) < count(before);
        DML_CHECK(!(o.at[i].lost & before) || !(o.at[i].lost & ~before) ||
                  !(before & ~o.at[i].lost));
    }
    DML_CHECK_EQ(37, o.n);
    DML_CHECK_EQ(19, falls);
    DML_CHECK_EQ(18, rises);
    DML_CHECK_EQ(27, went);
    DML_CHECK_EQ(27, came);
    DML_CHECK_EQ(24, o.full);
    DML_CHECK_EQ(632 * HOUR_NS / 100, o.end_ns);
    DML_CHECK_EQ(21715, (int64_t)(dml_outages_mean_live(&o) * 1000));
    dml_arena_free(&arena);
}

static void who_goes_depends_on_the_seed_alone(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_outages a, b, c;
    DML_CHECK_OK(dml_outages_load(GCP, 24, 7, &arena, &a));
    DML_CHECK_OK(dml_outages_load(GCP, 24, 7, &arena, &b));
    DML_CHECK_OK(dml_outages_load(GCP, 24, 8, &arena, &c));
    uint64_t ever = 0;
    bool other = false;
    for (int32_t i = 0; i < a.n; i++) {
        DML_CHECK_EQ(a.at[i].lost, b.at[i].lost);
        DML_CHECK_EQ(count(a.at[i].lost), count(c.at[i].lost));
        other |= a.at[i].lost != c.at[i].lost;
        ever |= a.at[i].lost;
    }
    DML_CHECK(other);
    DML_CHECK(count(ever) > 12); /* of 24: with 27 losses nearly all of them */
    dml_arena_free(&arena);
}

static void a_trace_of_more_workers_is_scaled_and_rounded(void **state)
{
    (void)state;
    dml_arena arena = {0};
    /* 24 -> 16: 23 are 15.3, 22 are 14.7, 21 are 14 */
    const dml_outages o = read("hours,live\n0,24\n1,23\n2,22\n3,21\n4,24\n5,24\n", 16, 1, &arena);
    static const int32_t lost[] = {1, 2, 0};
    DML_CHECK_EQ(3, o.n); /* 22 are as many as 23 */
    for (int32_t i = 0; i < o.n; i++)
        DML_CHECK_EQ(lost[i], count(o.at[i].lost));
    const dml_outages all = read("hours,live\n0,64\n1,0\n2,64\n3,64\n", 64, 1, &arena);
    DML_CHECK(all.at[0].lost == UINT64_MAX);
    dml_arena_free(&arena);
}

static void mistakes_are_named_by_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"", "t.csv:0: the trace has no end"},
        {"0,24\n", "t.csv:1: a trace begins with a line that names its columns"},
        {"hours,live,worker\n", "'hours,live' or 'hours,event,worker'"},
        {"hours,live\n0,24\n\n# x\n1;23\n", "t.csv:5: no row of a trace"},
        {"hours,live\n0,24\n1,2,3,4\n", "t.csv:3: no row of a trace"},
        {"hours,live\n0,24\nsoon,23\n", "t.csv:3: 'soon' is no time"},
        {"hours,live\n0,24\n-1,23\n", "t.csv:3: '-1' is no time"},
        {"hours,live\n0.5,24\n", "t.csv:2: the trace does not begin at 0"},
        {"hours,live\n0,24\n2,23\n1,24\n", "t.csv:4: earlier than the row before"},
        {"hours,live\n0,24\n1,many\n", "t.csv:3: 'many' is no number of workers"},
        {"hours,live\n0,24\n1,25\n", "t.csv:3: 25 workers; no more than the first row has"},
        {"hours,live\n0,0\n", "t.csv:2: the trace begins with nobody"},
        {"hours,live\n0,24\n1,23,4\n", "t.csv:3: three fields"},
        {"hours,live\n0,24\n", "t.csv:2: the trace has no end"},
        {"hours,event,worker\n0,fail,4\n", "t.csv:2: '4' is no worker of this run; 0 to 3"},
        {"hours,event,worker\n0,fail,1\n1,fail,1\n", "t.csv:3: worker 1 is gone already"},
        {"hours,event,worker\n0,return,1\n", "t.csv:2: worker 1 is not gone"},
        {"hours,event,worker\n0,lost,1\n", "t.csv:2: 'lost'"},
        {"hours,event,worker\n0,fail,1\n1,end\n2,return,1\n", "t.csv:4: a row behind the end"},
        {"hours,event,worker\n0,fail,1\n1,return,1\n", "t.csv:3: the trace has no end"},
    };
    dml_arena arena = {0};
    dml_outages o;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        DML_CHECK_FAILS(DML_ERR_SPEC, wrong[i].says,
                        dml_outages_parse(wrong[i].text, "t.csv", 4, 1, &arena, &o));
    DML_CHECK_FAILS(DML_ERR_SPEC, "cannot open the trace",
                    dml_outages_load("/no/such/trace.csv", 4, 1, &arena, &o));
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_name_who_goes_and_who_comes),
        cmocka_unit_test(who_goes_at_a_moment_and_returns_at_it_changes_nothing),
        cmocka_unit_test(the_published_trace_adds_up),
        cmocka_unit_test(who_goes_depends_on_the_seed_alone),
        cmocka_unit_test(a_trace_of_more_workers_is_scaled_and_rounded),
        cmocka_unit_test(mistakes_are_named_by_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
