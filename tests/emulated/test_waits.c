/* tests/emulated/test_waits.c - no wait of a lowered program can be spared, and the emulator sees each that is.
 *
 * A small network trained at 2 x 2 with the race finder and its clocks.  As lowered it is silent; then, for
 * every wait of one op on another before the vote, once more without that wait: the clocks must report two
 * steps that use the same memory in no order, whatever the order in which they happened to run.
 */
#include "tests/support/test.h"

#include "kernels/cuda/emulation/emulation.h"
#include "tests/support/run_threads.h"

#include <stdlib.h>

#define MLP DML_SOURCE_DIR "/tests/specs/emulated-mlp.yaml"

/* One wait of the program, by where it is; n counts all, from 0. */
typedef struct target {
    int32_t wanted; /* -1: none is deleted */
    int32_t n;
    char name[160];
} target;

/* What comes after the vote waits for nothing but it, and that the host does by itself. */
static int32_t vote_of(const dml_op_list *list)
{
    for (int32_t i = 0; i < list->n; i++)
        if (list->op[i].kind == DML_OP_VOTE) return i;
    return list->n;
}

static void visit(target *t, dml_op_list *list, const char *program, int32_t worker)
{
    const int32_t vote = vote_of(list);
    for (int32_t i = 0; i < vote; i++)
        for (int32_t w = 0; w < DML_OP_WAITS; w++) {
            dml_op *op = &list->op[i];
            if (op->wait[w] == DML_NO_WAIT || t->n++ != t->wanted) continue;
            snprintf(t->name, sizeof t->name, "%s of worker %d: %s waits for %s", program, worker,
                     dml_op_name_of(op).text, dml_op_name_of(&list->op[op->wait[w]]).text);
            op->wait[w] = DML_NO_WAIT;
        }
}

static void delete_wait(void *context, dml_plan *plan)
{
    target *t = context;
    for (int32_t w = 0; w < plan->workers; w++) {
        visit(t, &plan->train.list[w], "training", w);
        visit(t, &plan->eval.list[w], "evaluation", w);
    }
}

static run_result run_without(target *t, const char *const *overrides)
{
    dml_emu_reset();
    const run_hooks hooks = {.plan = delete_wait, .context = t};
    return run_threads_hooked(MLP, overrides, hooks);
}

static void try_them_all(const char *const *overrides)
{
    target whole = {.wanted = -1};
    const run_result r = run_without(&whole, overrides);
    for (int32_t i = 0; i < dml_emu_faults() && dml_emu_fault(i)[0]; i++)
        print_message("%s\n", dml_emu_fault(i));
    if (r.err != DML_ERR_OK) fail_msg("%s", r.trail);
    DML_CHECK_EQ(0, dml_emu_faults());
    int32_t missed = 0;
    for (int32_t i = 0; i < whole.n; i++) {
        target one = {.wanted = i};
        run_without(&one, overrides);
        if (dml_emu_faults() > 0 && strstr(dml_emu_fault(0), "a wait is missing")) continue;
        print_message("not missed: %s (%s)\n", one.name, dml_emu_fault(0));
        missed++;
    }
    print_message("%d waits deleted one by one, %d unnoticed\n", whole.n, missed);
    DML_CHECK(whole.n > 40);
    DML_CHECK_EQ(0, missed);
    dml_emu_clear();
}

static void each_deleted_wait_is_reported(void **state)
{
    (void)state;
    static const char *const none[] = {NULL};
    try_them_all(none);
}

static void and_with_gradients_reduced_in_buckets(void **state)
{
    (void)state;
    static const char *const small[] = {"comm.first_bucket_bytes=1", "comm.bucket_bytes=1", NULL};
    try_them_all(small);
}

int main(int argc, char **argv)
{
    if (argc > 1) dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LOTTERY, strtoull(argv[1], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_deleted_wait_is_reported),
        cmocka_unit_test(and_with_gradients_reduced_in_buckets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
