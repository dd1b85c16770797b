/* What could become of a plan, as people see it. */
#include "tests/support/test.h"

#include "engine/lost_place.h"
#include "engine/replan_view.h"

#include <string.h>
#include <unistd.h>

#define GOLDEN DML_SOURCE_DIR "/examples/slipstream-delay.yaml"

enum { WORKERS = 12 };

typedef struct loss {
    dml_spec spec;
    dml_plan plan;
    int fd;
    bool lost[WORKERS];
    dml_repair_options options;
    dml_replan_view view;
} loss;

static void open_loss(loss *l, const char *place)
{
    *l = (loss){.fd = -1};
    DML_CHECK_OK(dml_spec_load(GOLDEN, NULL, 0, &l->spec));
    DML_CHECK_OK(dml_plan_make(&l->spec, &l->plan));
    DML_CHECK_EQ(WORKERS, l->plan.workers);
    DML_CHECK_OK(dml_spec_to_memory(&l->spec, &l->fd));
    DML_CHECK_OK(dml_lost_place(place, &l->plan, l->lost));
    DML_CHECK_OK(dml_replan_options(l->fd, &l->plan, l->lost, NULL, &l->options));
    l->view = (dml_replan_view){.first = &l->plan, .lost = l->lost, .options = &l->options};
    DML_CHECK_OK(dml_replan_rival_ns(l->fd, &l->view.rival_ns));
}

static void close_loss(loss *l)
{
    dml_repair_options_free(&l->options);
    dml_plan_free(&l->plan);
    dml_spec_free(&l->spec);
    close(l->fd);
}

static int32_t count(const char *text, const char *part)
{
    int32_t n = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
        n++;
    return n;
}

static void a_place_is_a_stage_and_a_replica_or_a_worker(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    bool a[WORKERS] = {false}, b[WORKERS] = {false}, c[WORKERS] = {false};
    DML_CHECK_OK(dml_spec_load(GOLDEN, NULL, 0, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_OK(dml_lost_place("stage=2,replica=1", &plan, a));
    DML_CHECK_OK(dml_lost_place("worker=7", &plan, b));
    DML_CHECK_OK(dml_lost_place("rank=7", &plan, c));
    DML_CHECK(a[7] && memcmp(a, b, sizeof a) == 0 && memcmp(a, c, sizeof a) == 0);
    static const char *const wrong[] = {"",
                                        "7",
                                        "stage",
                                        "stage=2",
                                        "replica=1",
                                        "stage=-1",
                                        "worker=12",
                                        "stage=4,replica=0",
                                        "stage=2,replica=3",
                                        "worker=1,rank=2"};
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++)
        DML_CHECK_EQ(DML_ERR_SPEC, dml_lost_place(wrong[k], &plan, a));
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

/* (6 + 4 - 1) x 30 ms and, of ZB-H1, 6 x 30 + 3 x 10: what neither transfers nor optimizer steps add to. */
static void prices_stand_beside_both_rivals(void **state)
{
    (void)state;
    loss l;
    dml_str text = {0};
    open_loss(&l, "stage=2,replica=1");
    dml_replan_print_prices(&l.view, &text);
    DML_CHECK_EQ(270, l.options.before_ns / 1000000);
    DML_CHECK_EQ(210, l.view.rival_ns / 1000000);
    DML_CHECK_EQ(1, count(dml_str_text(&text), "\n> "));
    DML_CHECK(strstr(dml_str_text(&text), "worker 7 (stage 2, replica 1)"));
    DML_CHECK(strstr(dml_str_text(&text), "1 of 3 holders lost, x M = 6, (D - x)(P - 1) = 6: the "
                                          "bubble can take it up"));
    for (int32_t i = 0; i < l.options.n; i++)
        DML_CHECK(strstr(dml_str_text(&text), dml_repair_text(l.options.option[i].repair)));
    dml_str_free(&text);
    close_loss(&l);
}

/* The column of the last op of a worker's row is the same time everywhere: what is longer is drawn longer. */
static void each_kind_is_drawn_once_and_the_lost_are_marked(void **state)
{
    (void)state;
    loss l;
    dml_str text = {0}, svg = {0};
    open_loss(&l, "worker=7");
    uint32_t kinds = 0;
    for (int32_t i = 0; i < l.options.n; i++)
        if (l.options.option[i].planned) kinds |= 1u << l.options.option[i].repair;
    const int32_t drawn = __builtin_popcount(kinds);
    DML_CHECK(drawn >= 4); /* three re-routes and a re-cut */
    DML_CHECK_OK(dml_replan_draw(&l.view, 120, &text));
    DML_CHECK_EQ(drawn, count(dml_str_text(&text), " 7: ///"));
    DML_CHECK_EQ(drawn, count(dml_str_text(&text), "of the throughput before"));
    DML_CHECK_EQ(1, count(dml_str_text(&text), "; chosen"));
    DML_CHECK(strstr(dml_str_text(&text), "  : ") && strstr(dml_str_text(&text), "^^^"));
    DML_CHECK_OK(dml_replan_draw_svg(&l.view, 600, &svg));
    DML_CHECK_EQ(drawn, count(dml_str_text(&svg), ">lost<"));
    DML_CHECK(count(dml_str_text(&svg), "#e8963e") > 0);
    dml_str_free(&svg);
    dml_str_free(&text);
    close_loss(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_is_a_stage_and_a_replica_or_a_worker),
        cmocka_unit_test(prices_stand_beside_both_rivals),
        cmocka_unit_test(each_kind_is_drawn_once_and_the_lost_are_marked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
