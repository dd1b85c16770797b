/* tests/emulated/contract_runtime.c - what we count on of each CUDA runtime call.
 *
 * Built twice: against the emulated runtime, where it runs in CI under several orders of streams, and against
 * the real one, where it runs when there is a GPU.  A stand-in that differs fails on one side.
 */
#include "tests/support/test.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>

#define OK(call)           DML_CHECK_EQ(cudaSuccess, call)
#define SAYS(status, call) DML_CHECK_EQ(status, call)

enum { BYTES = 1 << 20, SMALL = 4096 };

static cudaStream_t stream, other;
static unsigned char *device, *pinned;

/* Polls, as all our code does. */
static void finish(cudaStream_t s)
{
    cudaError_t status;
    while ((status = cudaStreamQuery(s)) == cudaErrorNotReady) {
    }
    OK(status);
    SAYS(cudaSuccess, cudaPeekAtLastError()); /* not ready is no error */
}

static void await(cudaEvent_t e)
{
    cudaError_t status;
    while ((status = cudaEventQuery(e)) == cudaErrorNotReady) {
    }
    OK(status);
}

static int set_up(void **state)
{
    (void)state;
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) return 0;
    OK(cudaSetDevice(0));
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaMalloc((void **)&device, BYTES));
    OK(cudaHostAlloc((void **)&pinned, BYTES, cudaHostAllocDefault));
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(other));
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    return 0;
}

static void versions_are_known_before_a_device_is_touched(void **state)
{
    (void)state;
    int runtime = 0, driver = 0;
    OK(cudaRuntimeGetVersion(&runtime));
    OK(cudaDriverGetVersion(&driver));
    DML_CHECK(runtime >= 12000 && driver >= runtime / 1000 * 1000);
}

static void a_device_that_is_not_there_is_refused_and_the_current_one_stays(void **state)
{
    (void)state;
    int n = 0, current = -1;
    OK(cudaGetDeviceCount(&n));
    SAYS(cudaErrorInvalidDevice, cudaSetDevice(n));
    SAYS(cudaErrorInvalidDevice, cudaSetDevice(-1));
    SAYS(cudaErrorInvalidDevice, cudaGetLastError()); /* kept until asked for */
    SAYS(cudaSuccess, cudaGetLastError());
    OK(cudaGetDevice(&current));
    DML_CHECK_EQ(0, current);
}

static void a_device_says_what_it_is(void **state)
{
    (void)state;
    struct cudaDeviceProp p;
    int sms = 0, major = 0, threads = 0, domain, bus, slot;
    char id[32];
    OK(cudaGetDeviceProperties(&p, 0));
    OK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    OK(cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, 0));
    DML_CHECK(p.name[0] && sms == p.multiProcessorCount && major == p.major && threads >= 1024);
    OK(cudaDeviceGetPCIBusId(id, sizeof id, 0));
    DML_CHECK_EQ(3, sscanf(id, "%x:%x:%x.0", &domain, &bus, &slot));
    SAYS(cudaErrorInvalidDevice, cudaDeviceGetPCIBusId(id, sizeof id, 4096));
    cudaGetLastError();
}

static void memory_is_given_and_taken_back(void **state)
{
    (void)state;
    size_t free_bytes = 0, total = 0;
    void *p = NULL;
    OK(cudaMemGetInfo(&free_bytes, &total));
    DML_CHECK(free_bytes <= total && total > 0);
    SAYS(cudaErrorMemoryAllocation, cudaMalloc(&p, total + total / 2));
    SAYS(cudaErrorMemoryAllocation, cudaGetLastError()); /* and goes on: it does not stick */
    SAYS(cudaSuccess, cudaGetLastError());
    OK(cudaMalloc(&p, SMALL));
    DML_CHECK_EQ(0, (uintptr_t)p % 256);
    OK(cudaFree(p));
    OK(cudaFree(NULL));
    SAYS(cudaErrorInvalidValue, cudaFree(&p)); /* host memory */
    cudaGetLastError();
}

static void steps_of_a_stream_go_in_order(void **state)
{
    (void)state;
    memset(pinned, 7, SMALL);
    OK(cudaMemcpyAsync(device, pinned, SMALL, cudaMemcpyDefault, stream));
    OK(cudaMemsetAsync(device, 9, SMALL / 2, stream));
    OK(cudaMemcpyAsync(pinned + SMALL, device, SMALL, cudaMemcpyDefault, stream));
    finish(stream);
    DML_CHECK(pinned[SMALL] == 9 && pinned[SMALL + SMALL / 2] == 7);
}

static void memset_is_done_when_the_device_is_idle(void **state)
{
    (void)state;
    OK(cudaMemset(device, 3, SMALL));
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpyAsync(pinned, device, SMALL, cudaMemcpyDefault, stream));
    finish(stream);
    DML_CHECK(pinned[0] == 3 && pinned[SMALL - 1] == 3);
}

static void a_wait_orders_two_streams(void **state)
{
    (void)state;
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    OK(cudaStreamWaitEvent(other, e, 0)); /* never recorded: no wait */
    finish(other);
    for (int turn = 1; turn < 8; turn++) {
        OK(cudaMemsetAsync(device, turn, BYTES, stream));
        OK(cudaEventRecord(e, stream));
        OK(cudaStreamWaitEvent(other, e, 0));
        OK(cudaMemcpyAsync(pinned, device, BYTES, cudaMemcpyDefault, other));
        finish(other);
        DML_CHECK(pinned[0] == turn && pinned[BYTES - 1] == turn);
    }
    OK(cudaEventDestroy(e));
}

static void an_event_is_passed_when_what_came_before_it_is(void **state)
{
    (void)state;
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    OK(cudaEventQuery(e)); /* never recorded: passed */
    OK(cudaMemsetAsync(device, 5, BYTES, stream));
    OK(cudaMemcpyAsync(pinned, device, BYTES, cudaMemcpyDefault, stream));
    OK(cudaEventRecord(e, stream));
    await(e);
    DML_CHECK(pinned[0] == 5 && pinned[BYTES - 1] == 5);
    OK(cudaEventDestroy(e));
}

static void time_lies_between_two_passed_events(void **state)
{
    (void)state;
    cudaEvent_t begin, end, untimed;
    float ms = -1.0f;
    OK(cudaEventCreateWithFlags(&begin, cudaEventDefault));
    OK(cudaEventCreateWithFlags(&end, cudaEventDefault));
    OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    SAYS(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, begin, end)); /* unrecorded */
    OK(cudaEventRecord(begin, stream));
    OK(cudaMemsetAsync(device, 1, BYTES, stream));
    OK(cudaEventRecord(end, stream));
    OK(cudaEventRecord(untimed, stream));
    await(end);
    await(untimed);
    OK(cudaEventElapsedTime(&ms, begin, end));
    DML_CHECK(ms >= 0.0f && ms < 10000.0f);
    SAYS(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, begin, untimed));
    cudaGetLastError();
    OK(cudaEventDestroy(begin));
    OK(cudaEventDestroy(end));
    OK(cudaEventDestroy(untimed));
}

static void what_is_captured_runs_at_each_launch_and_not_before(void **state)
{
    (void)state;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    enum cudaStreamCaptureStatus capturing;
    memset(pinned, 1, 2 * SMALL);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaStreamIsCapturing(stream, &capturing));
    DML_CHECK_EQ(cudaStreamCaptureStatusActive, capturing);
    OK(cudaMemcpyAsync(device, pinned, SMALL, cudaMemcpyDefault, stream));
    OK(cudaMemcpyAsync(pinned + SMALL, device, SMALL, cudaMemcpyDefault, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaStreamIsCapturing(stream, &capturing));
    DML_CHECK_EQ(cudaStreamCaptureStatusNone, capturing);
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph)); /* the executable one lives on */
    OK(cudaGraphUpload(exec, stream));
    finish(stream);
    DML_CHECK(pinned[SMALL] == 1); /* and has not run */
    for (int turn = 2; turn < 5; turn++) {
        memset(pinned, turn, SMALL); /* read by the launch, not by the capture */
        OK(cudaGraphLaunch(exec, turn == 4 ? other : stream));
        finish(turn == 4 ? other : stream);
        DML_CHECK(pinned[SMALL] == turn && pinned[2 * SMALL - 1] == turn);
    }
    OK(cudaGraphExecDestroy(exec));
}

/* The wrong call says so, and so does the end of the capture. */
static void spoils(cudaError_t status, cudaError_t got)
{
    cudaGraph_t graph = (cudaGraph_t)&stream;
    SAYS(status, got);
    SAYS(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
    DML_CHECK(graph == NULL);
    cudaGetLastError();
    finish(stream); /* usable again */
}

static void what_may_wait_spoils_a_capture(void **state)
{
    (void)state;
    void *p = NULL;
    cudaEvent_t e;
    cudaGraph_t graph;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    OK(cudaEventRecord(e, other));
    await(e);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    spoils(cudaErrorStreamCaptureUnsupported, cudaMalloc(&p, SMALL));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    spoils(cudaErrorStreamCaptureUnsupported, cudaStreamQuery(stream));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    spoils(cudaErrorStreamCaptureIsolation, cudaStreamWaitEvent(stream, e, 0));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    SAYS(cudaErrorIllegalState, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphDestroy(graph));
    SAYS(cudaErrorIllegalState, cudaStreamEndCapture(stream, &graph));
    cudaGetLastError();
    OK(cudaEventDestroy(e));
}

static void a_destroyed_stream_still_does_what_it_was_given(void **state)
{
    (void)state;
    cudaStream_t brief;
    memset(pinned, 0, SMALL);
    OK(cudaStreamCreateWithFlags(&brief, cudaStreamNonBlocking));
    OK(cudaMemsetAsync(device, 8, SMALL, brief));
    OK(cudaMemcpyAsync(pinned, device, SMALL, cudaMemcpyDefault, brief));
    OK(cudaStreamDestroy(brief));
    OK(cudaDeviceSynchronize());
    DML_CHECK(pinned[0] == 8 && pinned[SMALL - 1] == 8);
}

static void errors_have_names_and_texts(void **state)
{
    (void)state;
    assert_string_equal("cudaErrorMemoryAllocation", cudaGetErrorName(cudaErrorMemoryAllocation));
    assert_string_equal("out of memory", cudaGetErrorString(cudaErrorMemoryAllocation));
    assert_string_equal("no error", cudaGetErrorString(cudaSuccess));
}

int main(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_known_before_a_device_is_touched),
        cmocka_unit_test(a_device_that_is_not_there_is_refused_and_the_current_one_stays),
        cmocka_unit_test(a_device_says_what_it_is),
        cmocka_unit_test(memory_is_given_and_taken_back),
        cmocka_unit_test(steps_of_a_stream_go_in_order),
        cmocka_unit_test(memset_is_done_when_the_device_is_idle),
        cmocka_unit_test(a_wait_orders_two_streams),
        cmocka_unit_test(an_event_is_passed_when_what_came_before_it_is),
        cmocka_unit_test(time_lies_between_two_passed_events),
        cmocka_unit_test(what_is_captured_runs_at_each_launch_and_not_before),
        cmocka_unit_test(what_may_wait_spoils_a_capture),
        cmocka_unit_test(a_destroyed_stream_still_does_what_it_was_given),
        cmocka_unit_test(errors_have_names_and_texts),
    };
    return cmocka_run_group_tests(tests, set_up, take_down);
}
