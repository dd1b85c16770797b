/* tests/comm/nccl/test_leave.c - how communicators end.  The linker's --wrap puts the functions below between
 * the transport and the emulated NCCL. */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"

#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>

static const dml_transport_api *const api = &dml_nccl_transport;

/* ---- between the transport and NCCL ---- */

static _Atomic int finalized, destroyed, revoked, aborted, revoked_late, version, never;
static _Thread_local int aborted_here;

static void note_revoke(void)
{
    revoked++;
    if (aborted_here > 0) revoked_late++;
}

static void note_abort(void)
{
    aborted++;
    aborted_here++;
    while (never)
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
}

/* clang-format off */
#define WRAP_LIST(X)                                                     \
    X(ncclCommFinalize, (ncclComm_t comm), (comm), finalized++)          \
    X(ncclCommDestroy,  (ncclComm_t comm), (comm), destroyed++)          \
    X(ncclCommRevoke,   (ncclComm_t comm, int flags), (comm, flags), note_revoke()) \
    X(ncclCommAbort,    (ncclComm_t comm), (comm), note_abort())
/* clang-format on */

#define X(name, params, args, note)    \
    ncclResult_t __real_##name params; \
    ncclResult_t __wrap_##name params; \
    ncclResult_t __wrap_##name params  \
    {                                  \
        note;                          \
        return __real_##name args;     \
    }
WRAP_LIST(X)
#undef X

ncclResult_t __real_ncclGetVersion(int *out);
ncclResult_t __wrap_ncclGetVersion(int *out);
ncclResult_t __wrap_ncclGetVersion(int *out)
{
    const ncclResult_t status = __real_ncclGetVersion(out);
    if (version) *out = version;
    return status;
}

static void forget(void)
{
    finalized = destroyed = revoked = aborted = revoked_late = version = never = 0;
}

/* ---- orderly ---- */

static dml_err exchange(gpu_rank *r)
{
    static const int32_t both[] = {0, 1};
    int32_t *word;
    dml_group *g;
    DML_TRY(gpu_meet_ring(r));
    DML_TRY(api->group_open(r->transport, both, 2, 0, &g));
    DML_TRY(api->alloc(r->transport, 64, (void **)&word));
    *word = 1;
    DML_TRY(api->all_reduce(g, r->send, word, 1, DML_I32, DML_SUM));
    DML_TRY(gpu_settle(r));
    GPU_EXPECT(*word == 2);
    api->group_close(g);
    return DML_ERR_OK;
}

static void a_good_end_finalizes_and_destroys(void **state)
{
    (void)state;
    forget();
    gpu_run_ok(&(gpu_world){.world = 2}, exchange);
    DML_CHECK_EQ(6, finalized); /* two ranks: up, down and the group */
    DML_CHECK_EQ(6, destroyed);
    DML_CHECK_EQ(0, aborted);
    DML_CHECK_EQ(0, revoked);
}

/* ---- after a failure ---- */

/* Both wait for what the other does not send; the first to give up stops the other. */
static dml_err get_stuck(gpu_rank *r)
{
    void *in;
    DML_TRY(exchange(r));
    DML_TRY(api->alloc(r->transport, 64, &in));
    DML_TRY(api->recv(r->transport, r->recv, 1 - r->rank, in, 64, 0));
    return gpu_wait(r->recv, 20);
}

static void end_stuck(gpu_rank ranks[2])
{
    dml_abort stop = {0};
    gpu_run(&(gpu_world){.world = 2, .abort = &stop, .stop = &stop, .timeout_ms = 1000}, get_stuck,
            ranks);
    for (int i = 0; i < 2; i++)
        if (ranks[i].err != DML_ERR_PEER) fail_msg("rank %d: %s", i, ranks[i].trail);
}

static void after_a_failure_all_are_revoked_then_aborted(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    forget();
    end_stuck(ranks);
    for (int i = 0; i < 2; i++)
        DML_CHECK_EQ(DML_ERR_OK, ranks[i].closed);
    DML_CHECK_EQ(6, revoked);
    DML_CHECK_EQ(0, revoked_late);
    DML_CHECK_EQ(6, aborted);
    DML_CHECK_EQ(0, finalized);
    DML_CHECK_EQ(0, destroyed);
}

static void an_older_library_aborts_without_revoking(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    for (int i = 0; i < 2; i++) {
        forget();
        version = i ? 21801 : 22203; /* the older one: no group of aborts either */
        end_stuck(ranks);
        for (int r = 0; r < 2; r++)
            DML_CHECK_EQ(DML_ERR_OK, ranks[r].closed);
        DML_CHECK_EQ(0, revoked);
        DML_CHECK_EQ(6, aborted);
    }
}

/* ---- abandoned, then closed ---- */

static pthread_barrier_t all_abandoned;

static dml_err get_stuck_and_abandon(gpu_rank *r)
{
    const dml_err err = get_stuck(r);
    const int before = revoked + aborted;
    dml_err abandoned = api->abandon(r->transport);
    if (abandoned == DML_ERR_OK) abandoned = api->abandon(r->transport); /* fenced once more */
    const int after = revoked + aborted, unwanted = version ? revoked : aborted;
    pthread_barrier_wait(&all_abandoned); /* as the run sees to it */
    DML_TRY(abandoned);
    GPU_EXPECT(after >= before + 3 && unwanted == 0);
    DML_TRY(dml_cuda_device.renew(r->recv, dml_clock_ns() + 20 * DML_NS_PER_S));
    return err;
}

/* Where it can be revoked the memory stays until the others have stopped as well. */
static void what_is_abandoned_is_revoked_or_else_aborted_and_all_is_aborted_once(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    pthread_barrier_init(&all_abandoned, NULL, 2);
    for (int i = 0; i < 2; i++) {
        forget();
        version = i ? 22203 : 0;
        dml_abort stop = {0};
        gpu_run(&(gpu_world){.world = 2, .abort = &stop, .stop = &stop, .timeout_ms = 1000},
                get_stuck_and_abandon, ranks);
        for (int r = 0; r < 2; r++) {
            if (ranks[r].err != DML_ERR_PEER) fail_msg("rank %d: %s", r, ranks[r].trail);
            DML_CHECK_EQ(DML_ERR_OK, ranks[r].closed);
        }
        DML_CHECK_EQ(i ? 0 : 6, revoked);
        DML_CHECK_EQ(6, aborted);
        DML_CHECK_EQ(0, finalized + destroyed);
    }
    pthread_barrier_destroy(&all_abandoned);
}

/* The last test: its threads stay where they are until the process ends. */
static void a_library_that_does_not_come_back_ends_the_process(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    forget();
    never = 1;
    end_stuck(ranks);
    for (int i = 0; i < 2; i++)
        DML_CHECK_EQ(DML_ERR_PEER, ranks[i].closed);
    DML_CHECK(aborted > 0);
}

/* ---- versions ---- */

static dml_err nothing(gpu_rank *r)
{
    (void)r;
    return DML_ERR_OK;
}

static void a_library_that_is_too_old_is_named(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    forget();
    version = 21701;
    gpu_run(&(gpu_world){.world = 2}, nothing, ranks);
    for (int i = 0; i < 2; i++) {
        DML_CHECK_EQ(DML_ERR_UNAVAILABLE, ranks[i].err);
        DML_CHECK(strstr(ranks[i].trail, "NCCL 2.17.1 was loaded, and 2.18 is the oldest"));
    }
    assert_string_equal("NCCL 2.17.1", api->library());
    version = 2804;
    assert_string_equal("NCCL 2.8.4", api->library());
    version = 0;
    assert_string_equal("NCCL 2.28.9", api->library());
}

/* ---- what NCCL is told by environment ---- */

static void configure(dml_nvls nvls, int32_t rank, int32_t per_device)
{
    unsetenv("NCCL_HOSTID");
    unsetenv("NCCL_NVLS_ENABLE");
    dml_nccl_configure(&(dml_transport_config){
        .rank = rank, .world = 4, .nvls = nvls, .ranks_per_device = per_device});
}

static const char *host_id(void)
{
    const char *id = getenv("NCCL_HOSTID");
    return id ? id : "";
}

static void nvls_is_left_alone_unless_the_spec_says(void **state)
{
    (void)state;
    configure(DML_NVLS_AUTO, 0, 0);
    DML_CHECK(getenv("NCCL_NVLS_ENABLE") == NULL);
    configure(DML_NVLS_ON, 0, 1);
    assert_string_equal("1", getenv("NCCL_NVLS_ENABLE"));
    configure(DML_NVLS_OFF, 0, 1);
    assert_string_equal("0", getenv("NCCL_NVLS_ENABLE"));
}

static void ranks_on_one_gpu_are_on_hosts_of_their_own(void **state)
{
    (void)state;
    configure(DML_NVLS_AUTO, 3, 1);
    assert_string_equal("", host_id());
    char id[4][128];
    for (int32_t r = 0; r < 4; r++) {
        configure(DML_NVLS_AUTO, r, 2);
        snprintf(id[r], sizeof id[r], "%s", host_id());
        assert_string_equal("0", getenv("NCCL_NVLS_ENABLE"));
    }
    DML_CHECK(strcmp(id[0], id[1]) != 0); /* GPU 0 */
    DML_CHECK(strcmp(id[2], id[3]) != 0); /* GPU 1 */
    assert_string_equal(id[0], id[2]);
    assert_string_equal(id[1], id[3]);
    assert_string_equal("0", getenv("NCCL_MNNVL_ENABLE"));
    setenv("NCCL_HOSTID", "mine", 1); /* a user's own stays */
    dml_nccl_configure(&(dml_transport_config){.world = 4, .ranks_per_device = 2});
    assert_string_equal("mine", host_id());
    unsetenv("NCCL_HOSTID");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_end_finalizes_and_destroys),
        cmocka_unit_test(after_a_failure_all_are_revoked_then_aborted),
        cmocka_unit_test(an_older_library_aborts_without_revoking),
        cmocka_unit_test(what_is_abandoned_is_revoked_or_else_aborted_and_all_is_aborted_once),
        cmocka_unit_test(a_library_that_is_too_old_is_named),
        cmocka_unit_test(nvls_is_left_alone_unless_the_spec_says),
        cmocka_unit_test(ranks_on_one_gpu_are_on_hosts_of_their_own),
        cmocka_unit_test(a_library_that_does_not_come_back_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
