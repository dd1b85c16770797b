/* tests/emulated/test_recovery.c - workers are lost and come back on emulated GPUs, many times over; threads.
 *
 * What is looked at besides the bits is the devices' memory: what a worker holds after twenty losses is what it held
 * after the first.
 */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include "engine/base/failpoint.h"
#include "kernels/cuda/emulation/emulation.h"

#include <cuda_runtime_api.h>

#define SPEC DML_SOURCE_DIR "/tests/specs/emulated-mlp.yaml"

enum { CYCLES = 20, EVERY = 4, MOST = 4096 };

/* Taken in use on the devices at the end of each step: everyone has voted, nobody opens or closes. */
static int64_t in_use[MOST];
static int32_t looks;

static void look(void *context, int64_t step, dml_control *control)
{
    (void)context, (void)step, (void)control;
    size_t free_bytes, total_bytes;
    if (looks >= MOST || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) return;
    in_use[looks++] = (int64_t)(total_bytes - free_bytes);
}

static int64_t most_in_use(int32_t begin, int32_t end)
{
    int64_t most = 0;
    for (int32_t i = begin; i < end; i++)
        if (in_use[i] > most) most = in_use[i];
    return most;
}

static run_result run(const char *policy)
{
    const char *const overrides[] = {"training.numerics=exact", "training.max_steps=150",
                                     "failures.respawn=on", policy, NULL};
    looks = 0;
    return run_threads_hooked(SPEC, overrides, (run_hooks){.step = look});
}

static void kill_in_turn(int32_t rank)
{
    for (int32_t i = 1; i <= CYCLES; i++) {
        char rule[80];
        snprintf(rule, sizeof rule, "worker.vote.after@rank=%d,hit=%d:kill", rank, i * EVERY);
        DML_CHECK_OK(dml_failpoints_arm(rule));
    }
}

static void memory_is_flat_over_twenty_losses_and_returns(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    const run_result want = run("failures.policy=abort");
    if (want.err != DML_ERR_OK) fail_msg("%s", want.trail);
    const int64_t plain = most_in_use(0, looks);
    kill_in_turn(3);
    const run_result r = run("failures.policy=replan");
    dml_failpoints_disarm();
    if (r.err != DML_ERR_OK) fail_msg("%s: %s", dml_err_text(r.err), r.trail);
    print_message("%d losses, %d returns, %lld bytes on the devices at most\n", r.losses, r.joined,
                  (long long)most_in_use(0, looks));
    DML_CHECK_EQ(CYCLES, r.losses);
    DML_CHECK(r.joined >= CYCLES - 1);
    DML_CHECK(r.weights_hash == want.weights_hash);
    DML_CHECK_EQ(plain, most_in_use(0, looks / 4));
    DML_CHECK_EQ(plain, most_in_use(looks / 2, looks));
    DML_CHECK_EQ(0, dml_emu_faults());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_flat_over_twenty_losses_and_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
