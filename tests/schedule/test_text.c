/* Text, mostly wrong text. */
#include "tests/schedule/support.h"

#include "engine/base/str.h"
#include "schedule/text.h"

static void an_order_reads_as_it_is_written(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(dml_text_parse("x",
                                "\n# a comment\norder workers=2 chunks=2 mbs=1\n\n"
                                "0: F0.0  B0.0 # done\n1: F1.0\n   I1.0\n   2 W1.0\n",
                                &p));
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal("order workers=2 chunks=2 mbs=1\n0: F0.0 B0.0\n1: F1.0 I1.0 W1.0\n",
                        dml_str_text(&text));
    DML_CHECK_EQ(1, *dml_program_route(&p, 1, 0));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void routes_are_written_when_the_ops_do_not_say_them(void **state)
{
    (void)state;
    static const char want[] =
        "order workers=2 chunks=1 mbs=2\nroute 0: 1 -1\n0: F0.0 version=-1\n1:\n";
    dml_program p;
    DML_CHECK_OK(dml_text_parse("x", want, &p));
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal(want, dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void operands_at_their_limits_survive(void **state)
{
    (void)state;
    static const char want[] = "program workers=2 chunks=1 mbs=1 forward_only\n"
                               "chunk 0: layers=0-3 params=0-2147483647 buckets=65535\n"
                               "route 0: 0\n"
                               "pools 1.0: IN=0 STASH=32768 DY=0 DX=1\n"
                               "0:\n"
                               "     0 F0.0/65535 version=-128 peer=1 slot=32767 wait=0 "
                               "wait=2147483647\n"
                               "1:\n"
                               "     0 V\n"
                               "     1 R0/17\n";
    dml_program p;
    DML_CHECK_OK(dml_text_parse("x", want, &p));
    dml_str text = {0};
    dml_text_print(&p, &text);
    assert_string_equal(want, dml_str_text(&text));
    dml_str_free(&text);
    dml_program_free(&p);
}

static void errors_name_line_and_column_and_what_was_expected(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } wrong[] = {
        {"", "x:1:1: expected 'order or program'"},
        {"\n\norder workers=0", "x:3:15: workers is 0"},
        {"ordre workers=1", "x:1:1: expected 'order', not 'ordre'"},
        {"order workers=1 chunks=1", "x:1:25: expected 'mbs=', not the end of the line"},
        {"order workers=0 chunks=1 mbs=1", "x:1:15: workers is 0, not from 1 to 32767"},
        {"order workers=two", "x:1:15: expected a number (workers), not 'two'"},
        {"order workers=1 chunks=1 mbs=1 and more", "x:1:32: expected the end of the line"},
        {"order workers=1 chunks=1 mbs=1\n1: F0.0", "x:2:1: worker is 1, not from 0 to 0"},
        {"order workers=1 chunks=1 mbs=1\n0 F0.0", "x:2:2: expected ':'"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.0 X0.0", "x:2:9: expected an op, not 'X0.0'"},
        {"order workers=1 chunks=1 mbs=1\n0: F0", "x:2:6: expected '.'"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.", "x:2:7: expected a number (micro-batch)"},
        {"order workers=1 chunks=1 mbs=1\n0: F1.0", "x:2:5: chunk is 1, not from 0 to 0"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.5", "x:2:7: micro-batch is 5, not from 0 to 0"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.0 slot=x", "x:2:14: expected a number (slot)"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.0 slot= 1", "x:2:14: expected a number (slot)"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.0 peer=1", "x:2:14: peer is 1"},
        {"order workers=1 chunks=1 mbs=1\n0: F0.0 wait=1 wait=2 wait=3", "x:2:23: expected an op"},
        {"order workers=1 chunks=1 mbs=1\n\n  F0.0",
         "x:3:3: expected 'chunk', 'skip', 'route', 'pools'"},
        {"order workers=1 chunks=1 mbs=1\nrouet 0: 0",
         "x:2:1: expected 'chunk', 'skip', 'route', 'pools'"},
        {"order workers=1 chunks=1 mbs=2\nroute 0: 0", "x:2:11: expected a number (worker)"},
        {"order workers=1 chunks=1 mbs=1\nchunk 0: layers=0", "x:2:18: expected '-'"},
        {"order workers=1 chunks=1 mbs=1\npools 0.0: IN=0 DY=1", "x:2:17: expected 'STASH'"},
        {"program workers=1 chunks=1 mbs=1\n0:\n  0 F0.0\n  2 B0.0",
         "x:4:3: number of the op is 2, not from 1 to 1"},
        {"order workers=1 chunks=32767 mbs=1048576", "too many together"},
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        dml_program p;
        DML_CHECK_FAILS(DML_ERR_SPEC, wrong[k].want, dml_text_parse("x", wrong[k].text, &p));
        DML_CHECK(p.list == NULL);
    }
}

/* Any text is either refused or understood: bytes of a good one replaced at random. */
static void damaged_text_does_no_damage(void **state)
{
    (void)state;
    dml_program p = make_program("1f1b", 2, 2, 1, 1, 1), q;
    dml_str text = {0};
    dml_text_print(&p, &text);
    static const char bytes[] = "0123456789 .:=-\nFBIWRVUSTE_#x";
    int32_t refused = 0;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        rnd r = rnd_of(seed);
        dml_str damaged = {0};
        dml_str_append(&damaged, text.text, text.len);
        for (int32_t k = 0; k <= rnd_below(&r, 3); k++)
            damaged.text[rnd_below(&r, (int32_t)text.len)] =
                bytes[rnd_below(&r, (int32_t)sizeof bytes)]; /* the end of the text too */
        if (dml_text_parse("x", damaged.text, &q) != DML_ERR_OK) refused++;
        dml_program_free(&q);
        dml_str_free(&damaged);
    }
    DML_CHECK(refused > 500);
    dml_str_free(&text);
    dml_program_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_reads_as_it_is_written),
        cmocka_unit_test(routes_are_written_when_the_ops_do_not_say_them),
        cmocka_unit_test(operands_at_their_limits_survive),
        cmocka_unit_test(errors_name_line_and_column_and_what_was_expected),
        cmocka_unit_test(damaged_text_does_no_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
