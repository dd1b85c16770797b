/* The section `costs` of a spec: read, refused, and printed so that it loads back equal. */
#include "tests/support/test.h"

#include "tests/engine/spec_file.h"

static const char two[] =
    "model: {type: layers, input: [4], layers: [{linear: {out: 3, name: fc}}]}\n"
    "data: {format: synthetic}\n";

static const char table[] =
    "costs:\n"
    "  source: \"a file, by hand\"\n"
    "  rows: [8, 32]\n"
    "  link_latency_ns: 3000\n"
    "  link_bytes_per_s: 999999999999999999\n"
    "  vote_ns: 17\n"
    "  reduce: [{members: 2, latency_ns: 5, bytes_per_s: 7}, {members: 4, latency_ns: 9}]\n"
    "  layers:\n"
    "    - {name: fc, forward_ns: [10, 41], input_ns: [0, 0], weight_ns: [12, 999999999999999], "
    "step_ns: 3, begin_ns: 2}\n"
    "    - {forward_ns: [1, 2], input_ns: [3, 4], weight_ns: [0, 0]}\n";

static char *joined(const char *a, const char *b)
{
    char *text = malloc(strlen(a) + strlen(b) + 1);
    DML_CHECK(text);
    return strcat(strcpy(text, a), b);
}

static void check_table(const dml_costs *c)
{
    DML_CHECK(c);
    assert_string_equal("a file, by hand", c->source);
    DML_CHECK_EQ(2, c->n_rows);
    DML_CHECK_EQ(8, c->rows[0]);
    DML_CHECK_EQ(32, c->rows[1]);
    DML_CHECK_EQ(2, c->n_layers);
    DML_CHECK_EQ(41, c->ns[2][DML_PASS_FORWARD]);
    DML_CHECK_EQ(12, c->ns[0][DML_PASS_WEIGHT]);
    DML_CHECK_EQ(INT64_C(999999999999999), c->ns[2][DML_PASS_WEIGHT]);
    DML_CHECK_EQ(3, c->ns[1][DML_PASS_INPUT]);
    DML_CHECK_EQ(3, c->step_ns[0]);
    DML_CHECK_EQ(0, c->step_ns[1]);
    DML_CHECK_EQ(2, dml_costs_begin_ns(c, 0));
    DML_CHECK_EQ(0, dml_costs_begin_ns(c, 1));
    DML_CHECK_EQ(3000, c->link_latency_ns);
    DML_CHECK_EQ(INT64_C(999999999999999999), c->link_bytes_per_s);
    DML_CHECK_EQ(17, c->vote_ns);
    DML_CHECK_EQ(2, c->n_reduces);
    DML_CHECK_EQ(4, c->reduce[1].members);
    DML_CHECK_EQ(5, c->reduce[0].latency_ns);
    DML_CHECK_EQ(0, c->reduce[1].bytes_per_s);
}

static void every_number_reaches_its_field_and_prints_back_equal(void **state)
{
    (void)state;
    char *text = joined(two, table);
    dml_spec s, again;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    check_table(s.costs);
    char *first = printed(&s);
    DML_CHECK_OK(spec_of(first, NULL, 0, &again));
    check_table(again.costs);
    char *second = printed(&again);
    assert_string_equal(first, second);
    free(text);
    free(first);
    free(second);
    dml_spec_free(&s);
    dml_spec_free(&again);
}

/* Where the planner filled them in: no line of the spec has them. */
static void costs_that_nobody_wrote_print_too(void **state)
{
    (void)state;
    char *text = joined(two, table);
    dml_spec s, bare, again;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    DML_CHECK_OK(spec_of(two, NULL, 0, &bare));
    DML_CHECK(!bare.costs);
    bare.costs = dml_costs_copy(s.costs, &bare.arena);
    char *print = printed(&bare);
    DML_CHECK_OK(spec_of(print, NULL, 0, &again));
    check_table(again.costs);
    free(text);
    free(print);
    dml_spec_free(&s);
    dml_spec_free(&bare);
    dml_spec_free(&again);
}

static void an_empty_mapping_drops_the_costs_of_a_file(void **state)
{
    (void)state;
    char *text = joined(two, table);
    const char *drop = "costs={}";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, &drop, 1, &s));
    DML_CHECK(!s.costs);
    char *print = printed(&s);
    DML_CHECK(!strstr(print, "costs"));
    free(text);
    free(print);
    dml_spec_free(&s);
}

/* `from` of the table becomes `to`; the complaint has `says` in it. */
static void refused(const char *from, const char *to, const char *says)
{
    char *text = joined(two, table);
    char *at = strstr(text, from), *damaged = NULL;
    DML_CHECK(at);
    *at = '\0';
    DML_CHECK(asprintf(&damaged, "%s%s%s", text, to, at + strlen(from)) > 0);
    dml_spec s;
    DML_CHECK_EQ(DML_ERR_SPEC, spec_of(damaged, NULL, 0, &s));
    if (!strstr(dml_err_trail(), says)) fail_msg("'%s' is not in:\n%s", says, dml_err_trail());
    free(text);
    free(damaged);
}

static void damage_is_named(void **state)
{
    (void)state;
    refused("rows: [8, 32]", "rows: [32, 8]", "'rows' must ascend: 8 after 32");
    refused("rows: [8, 32]", "rows: [0, 32]", "'rows' must be >= 1");
    refused("rows: [8, 32]", "rows: [8]", "'forward_ns' lists 2 times, 'rows' 1 sizes");
    refused("rows: [8, 32]", "rows: []", "'rows' is an empty list");
    refused("  rows: [8, 32]\n", "", "costs without 'rows'");
    refused("vote_ns: 17", "vote_ns: -1", "'vote_ns' must be in [0, 1000000000000000], not -1");
    refused("vote_ns: 17", "vote_ns: 1.5", "'vote_ns' must be a whole number");
    refused("vote_ns: 17", "vote: 17", "unknown option 'vote' of costs");
    refused("vote_ns: 17", "vote_ns: .nan", "expected a whole number");
    refused("link_latency_ns: 3000", "link_latency_ns: 3us", "expected a whole number");
    refused("members: 4", "members: 2", "'members' must ascend: 2 after 2");
    refused("members: 2", "members: 1", "'members' must be in [2, 1048576], not 1");
    refused("members: 2, ", "", "an all-reduce's costs without 'members'");
    refused("name: fc, forward", "name: conv, forward",
            "these are the costs of layer 'conv', but layer 0 of the model is 'fc'");
    refused("    - {forward_ns: [1, 2], input_ns: [3, 4], weight_ns: [0, 0]}\n", "",
            "costs of 1 layers, but the model has 2, its loss among them");
    refused("forward_ns: [1, 2], ", "", "a layer's costs without 'forward_ns'");
    refused("forward_ns: [1, 2]", "forward_ns: [1, 9000000000000000]", "'forward_ns' must be in");
    refused("forward_ns: [1, 2]", "forward_ns: 1", "expected a list of times in ns");
    refused("forward_ns: [1, 2]", "forward_ns: [1, x]", "expected a whole number");
    refused("forward_ns: [1, 2]", "forward_ms: [1, 2]", "did you mean 'forward_ns'?");
    refused("  layers:\n", "  layer:\n", "did you mean 'layers'?");
    refused("[{members: 2", "[3, {members: 2", "expected an all-reduce's costs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_reaches_its_field_and_prints_back_equal),
        cmocka_unit_test(costs_that_nobody_wrote_print_too),
        cmocka_unit_test(an_empty_mapping_drops_the_costs_of_a_file),
        cmocka_unit_test(damage_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
