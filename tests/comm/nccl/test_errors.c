/* tests/comm/nccl/test_errors.c - what the transport says when NCCL refuses a call, answers late, or not at all.
 * The linker's --wrap puts the functions below between the two. */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include <nccl.h>

static const dml_transport_api *const api = &dml_nccl_transport;

/* ---- between the transport and NCCL ---- */

static _Atomic int send_says, id_says, abort_says, lose_receives;

ncclResult_t __real_ncclSend(const void *src, size_t n, ncclDataType_t type, int peer,
                             ncclComm_t comm, cudaStream_t stream);
ncclResult_t __wrap_ncclSend(const void *src, size_t n, ncclDataType_t type, int peer,
                             ncclComm_t comm, cudaStream_t stream);
ncclResult_t __wrap_ncclSend(const void *src, size_t n, ncclDataType_t type, int peer,
                             ncclComm_t comm, cudaStream_t stream)
{
    return send_says ? (ncclResult_t)send_says : __real_ncclSend(src, n, type, peer, comm, stream);
}

ncclResult_t __real_ncclRecv(void *dst, size_t n, ncclDataType_t type, int peer, ncclComm_t comm,
                             cudaStream_t stream);
ncclResult_t __wrap_ncclRecv(void *dst, size_t n, ncclDataType_t type, int peer, ncclComm_t comm,
                             cudaStream_t stream);
ncclResult_t __wrap_ncclRecv(void *dst, size_t n, ncclDataType_t type, int peer, ncclComm_t comm,
                             cudaStream_t stream)
{
    return lose_receives ? ncclSuccess : __real_ncclRecv(dst, n, type, peer, comm, stream);
}

ncclResult_t __real_ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t __wrap_ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t __wrap_ncclGetUniqueId(ncclUniqueId *id)
{
    return id_says ? (ncclResult_t)id_says : __real_ncclGetUniqueId(id);
}

ncclResult_t __real_ncclCommAbort(ncclComm_t comm);
ncclResult_t __wrap_ncclCommAbort(ncclComm_t comm);
ncclResult_t __wrap_ncclCommAbort(ncclComm_t comm)
{
    const ncclResult_t status = __real_ncclCommAbort(comm);
    return abort_says ? (ncclResult_t)abort_says : status;
}

static void forget(void)
{
    send_says = id_says = abort_says = lose_receives = 0;
}

/* ---- what a call returns ---- */

static dml_err send_something(gpu_rank *r)
{
    void *out;
    DML_TRY(gpu_meet_ring(r));
    DML_TRY(api->alloc(r->transport, 64, &out));
    if (r->rank == 1) return DML_ERR_OK;
    send_says = *(const int *)r->arg;
    const dml_err err = api->send(r->transport, r->send, 1, out, 64, 0);
    return err == DML_ERR_OK ? DML_ERR_CHECK : err;
}

static void a_status_is_told_with_call_peer_communicator_and_device(void **state)
{
    (void)state;
    static const struct {
        int status;
        dml_err err;
        const char *words;
    } cases[] = {
        {ncclInvalidUsage, DML_ERR_BUG, "invalid usage"},
        {ncclInvalidArgument, DML_ERR_BUG, "invalid argument"},
        {ncclSystemError, DML_ERR_PEER, "unhandled system error"},
        {ncclUnhandledCudaError, DML_ERR_UNAVAILABLE, "unhandled cuda error"},
        {ncclRemoteError, DML_ERR_PEER, "remote process exited or there was a network error"},
        {ncclInternalError, DML_ERR_PEER, "internal error"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gpu_rank ranks[2];
        dml_abort stop = {0};
        char want[256];
        forget();
        gpu_run(&(gpu_world){.world = 2,
                             .epoch = {5, 5},
                             .abort = &stop,
                             .stop = &stop,
                             .arg = &cases[i].status},
                send_something, ranks);
        snprintf(want, sizeof want,
                 "ncclSend with worker 1, call 2 (after 0 bytes) of pair 0 up (1 and 1 workers), "
                 "epoch 5, device 0: %s",
                 cases[i].words);
        DML_CHECK_EQ(cases[i].err, ranks[0].err);
        if (!strstr(ranks[0].trail, want)) fail_msg("%s", ranks[0].trail);
        DML_CHECK_EQ(DML_ERR_OK, ranks[0].closed);
    }
}

/* ---- meetings ---- */

static void meet_and_fail(dml_err err, const char *want)
{
    gpu_rank ranks[2];
    dml_abort stop = {0};
    gpu_run(&(gpu_world){.world = 2, .abort = &stop, .stop = &stop, .timeout_ms = 100},
            gpu_meet_ring, ranks);
    for (int r = 0; r < 2; r++)
        if (ranks[r].err == err && strstr(ranks[r].trail, want)) return;
    fail_msg("rank 0 says %s, rank 1 says %s", ranks[0].trail, ranks[1].trail);
}

static void an_id_that_cannot_be_made_is_told(void **state)
{
    (void)state;
    forget();
    id_says = ncclSystemError;
    meet_and_fail(DML_ERR_PEER, "ncclGetUniqueId, device 0: unhandled system error");
}

static void notes_that_do_not_arrive_end_the_meeting(void **state)
{
    (void)state;
    forget();
    lose_receives = 1;
    meet_and_fail(DML_ERR_PEER, "the first transfers of pair 0");
}

static dml_err leave_the_other(gpu_rank *r)
{
    if (r->rank == 1) return DML_ERR_DIVERGED; /* anything: the run is stopped */
    return gpu_meet_ring(r);
}

static void a_meeting_ends_at_the_abort_flag(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    dml_abort stop = {0};
    forget();
    gpu_run(&(gpu_world){.world = 2, .abort = &stop, .stop = &stop}, leave_the_other, ranks);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[0].err);
    if (!strstr(ranks[0].trail, "device 0: the run is being stopped"))
        fail_msg("%s", ranks[0].trail);
    DML_CHECK_EQ(DML_ERR_OK, ranks[0].closed);
}

/* ---- closing ---- */

static void an_abort_that_fails_ends_the_process(void **state)
{
    (void)state;
    gpu_rank ranks[2];
    dml_abort stop = {0};
    const int status = ncclRemoteError;
    forget();
    abort_says = ncclUnhandledCudaError;
    gpu_run(&(gpu_world){.world = 2, .abort = &stop, .stop = &stop, .arg = &status}, send_something,
            ranks);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[0].closed);
    DML_CHECK_EQ(DML_ERR_PEER, ranks[1].closed);
    const char *const want =
        "NCCL does not let go of device 1, epoch 0 (pair 0 down (1 and 1 workers) "
        "and others): ncclCommAbort: unhandled cuda error; this process must end";
    if (!strstr(ranks[1].closing, want)) fail_msg("%s", ranks[1].closing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_status_is_told_with_call_peer_communicator_and_device),
        cmocka_unit_test(an_id_that_cannot_be_made_is_told),
        cmocka_unit_test(notes_that_do_not_arrive_end_the_meeting),
        cmocka_unit_test(a_meeting_ends_at_the_abort_flag),
        cmocka_unit_test(an_abort_that_fails_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
