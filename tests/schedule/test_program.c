/* The container. */
#include "tests/support/test.h"

#include "schedule/program.h"

static void a_new_program_is_empty(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_OK(dml_program_init(&p, 2, 3, 4));
    DML_CHECK_EQ(0, dml_program_ops(&p));
    for (int32_t c = 0; c < 3; c++)
        for (int32_t mb = 0; mb < 4; mb++)
            DML_CHECK_EQ(-1, *dml_program_route(&p, c, mb));
    DML_CHECK_EQ(0, *dml_program_slots(&p, 1, 2, DML_POOL_DX));
    DML_CHECK(!p.lowered && !p.forward_only);
    dml_program_free(&p);
    DML_CHECK(p.list == NULL && p.workers == 0);
}

static void counts_out_of_range_are_refused(void **state)
{
    (void)state;
    dml_program p;
    DML_CHECK_FAILS(DML_ERR_SPEC, "1 to 32767 workers, not 0", dml_program_init(&p, 0, 1, 1));
    DML_CHECK_FAILS(DML_ERR_SPEC, "workers, not 32768", dml_program_init(&p, 32768, 1, 1));
    DML_CHECK_FAILS(DML_ERR_SPEC, "chunks, not -1", dml_program_init(&p, 1, -1, 1));
    DML_CHECK_FAILS(DML_ERR_SPEC, "1 to 1048576 micro-batches, not 1048577",
                    dml_program_init(&p, 1, 1, 1048577));
    DML_CHECK_FAILS(DML_ERR_SPEC, "too many together", dml_program_init(&p, 1, 100, 1048576));
    DML_CHECK_FAILS(DML_ERR_SPEC, "too many together", dml_program_init(&p, 32767, 32767, 1));
}

static void push_appends_and_copy_is_equal_until_something_differs(void **state)
{
    (void)state;
    dml_program p, q;
    DML_CHECK_OK(dml_program_init(&p, 2, 1, 200));
    for (int32_t mb = 0; mb < 200; mb++)
        DML_CHECK_EQ(mb, dml_program_push(&p, 1, DML_OP_FWD, 0, mb));
    dml_program_route_by_ops(&p);
    DML_CHECK_EQ(1, *dml_program_route(&p, 0, 199));
    DML_CHECK_OK(dml_program_copy(&p, &q));
    DML_CHECK(dml_program_equal(&p, &q));
    q.list[1].op[7].slot = 1;
    DML_CHECK(!dml_program_equal(&p, &q));
    q.list[1].op[7].slot = DML_NO_SLOT;
    q.list[1].n--;
    DML_CHECK(!dml_program_equal(&p, &q));
    q.list[1].n++;
    q.buckets[0] = 2;
    DML_CHECK(!dml_program_equal(&p, &q));
    q.buckets[0] = 1;
    *dml_program_slots(&q, 0, 0, DML_POOL_IN) = 1;
    DML_CHECK(!dml_program_equal(&p, &q));
    dml_program_free(&p);
    dml_program_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_program_is_empty),
        cmocka_unit_test(counts_out_of_range_are_refused),
        cmocka_unit_test(push_appends_and_copy_is_equal_until_something_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
