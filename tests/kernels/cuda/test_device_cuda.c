/* tests/kernels/cuda/test_device_cuda.c - the CUDA device's host code, on emulated streams. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/host_step.h"
#include "kernels/cuda/numa.h"
#include "tests/kernels/device_contract.h"

#include <stdlib.h>

static const dml_device_api *const api = &dml_cuda_device;

static dml_device *open_device(const dml_abort *abort)
{
    const dml_device_config config = {.threads = 1, .queue_capacity = 16, .abort = abort};
    dml_device *device = NULL;
    DML_CHECK_OK(api->open(&config, &device));
    return device;
}

static dml_queue *open_queue(dml_device *device, const char *name)
{
    dml_queue *queue = NULL;
    DML_CHECK_OK(api->queue_open(device, name, &queue));
    return queue;
}

/* A step on the stream that is seen to run. */
typedef struct mark {
    dml_queue *queue;
    int *clock, at;
} mark;

static void tick(void *arg)
{
    mark *m = arg;
    m->at = ++*m->clock;
}

static dml_err enqueue_tick(void *arg)
{
    mark *m = arg;
    return DML_CUDA(dml_emu_host_step, (dml_cuda_stream(m->queue), tick, m), "tick");
}

static dml_err fail_job(void *arg)
{
    DML_FAIL(DML_ERR_DATA, "job %s failed", (const char *)arg);
}

/* Runs `body` under every way in which streams may progress. */
static void every_way(void (*body)(void))
{
    for (uint64_t seed = 0; seed < 22; seed++) {
        const dml_emu_streams streams = seed == 0   ? DML_EMU_EAGER
                                        : seed == 1 ? DML_EMU_LAZY
                                                    : DML_EMU_LOTTERY;
        dml_emu_setup(DML_EMU_FORWARD, streams, seed);
        body();
        DML_CHECK_EQ(0, dml_emu_faults());
    }
}

static void promises(void)
{
    device_contract(api);
}

static void it_keeps_the_contract_of_a_device(void **state)
{
    (void)state;
    every_way(promises);
}

static void ordered_by_an_event(void)
{
    dml_device *device = open_device(NULL);
    dml_queue *a = open_queue(device, "a"), *b = open_queue(device, "b");
    dml_event *event = NULL;
    DML_CHECK_OK(api->event_open(device, &event));
    int clock = 0;
    mark before = {a, &clock, 0}, after = {b, &clock, 0}, again = {a, &clock, 0};
    DML_CHECK_OK(api->wait(b, event)); /* never recorded: no wait */
    DML_CHECK_OK(api->submit(a, enqueue_tick, &before));
    DML_CHECK_OK(api->record(a, event));
    DML_CHECK_OK(api->wait(b, event));
    DML_CHECK_OK(api->submit(a, enqueue_tick, &again));
    DML_CHECK_OK(api->record(a, event));
    DML_CHECK_OK(api->submit(b, enqueue_tick, &after));
    DML_CHECK_OK(api->sync(b, INT64_MAX));
    DML_CHECK(before.at > 0 && before.at < after.at);
    DML_CHECK_OK(api->sync(a, INT64_MAX));
    DML_CHECK(again.at > 0);
    api->event_close(event);
    api->queue_close(a);
    api->queue_close(b);
    api->close(device);
}

static void a_wait_orders_two_queues_however_streams_progress(void **state)
{
    (void)state;
    every_way(ordered_by_an_event);
}

static void copied_round(void)
{
    enum { N = 1000 };
    dml_device *device = open_device(NULL);
    dml_queue *queue = open_queue(device, "copy");
    int32_t *from, *on, *back;
    DML_CHECK_OK(api->host_alloc(device, N * 4, (void **)&from));
    DML_CHECK_OK(api->host_alloc(device, N * 4, (void **)&back));
    DML_CHECK_OK(api->alloc(device, N * 4, (void **)&on));
    for (int32_t i = 0; i < N; i++) {
        DML_CHECK(from[i] == 0 && on[i] == 0);
        from[i] = i * 7;
    }
    DML_CHECK_EQ(0, (uintptr_t)on % 64);
    DML_CHECK_OK(api->copy(queue, on, from, N * 4));
    DML_CHECK_OK(api->copy(queue, back, on, N * 4));
    DML_CHECK_OK(api->sync(queue, INT64_MAX));
    assert_memory_equal(from, back, N * 4);
    api->host_free(device, from);
    api->host_free(device, back);
    api->free(device, on);
    api->queue_close(queue);
    api->close(device);
}

static void copies_keep_queue_order_and_fresh_memory_is_zero(void **state)
{
    (void)state;
    every_way(copied_round);
}

static void failure_spreads(void)
{
    dml_device *device = open_device(NULL);
    dml_queue *a = open_queue(device, "a"), *b = open_queue(device, "b");
    dml_event *clean = NULL, *dirty = NULL;
    DML_CHECK_OK(api->event_open(device, &clean));
    DML_CHECK_OK(api->event_open(device, &dirty));
    int clock = 0;
    mark skipped = {a, &clock, 0}, fine = {b, &clock, 0}, last = {b, &clock, 0};
    DML_CHECK_OK(api->record(a, clean));
    DML_CHECK_OK(api->submit(a, fail_job, "one"));
    DML_CHECK_OK(api->submit(a, fail_job, "two"));
    DML_CHECK_OK(api->submit(a, enqueue_tick, &skipped));
    DML_CHECK_OK(api->record(a, dirty));
    DML_CHECK_OK(api->wait(b, clean));
    DML_CHECK_OK(api->submit(b, enqueue_tick, &fine));
    DML_CHECK_OK(api->sync(b, INT64_MAX));
    DML_CHECK(fine.at > 0);
    DML_CHECK_OK(api->wait(b, dirty));
    DML_CHECK_OK(api->submit(b, enqueue_tick, &last));
    dml_err_trail_put("");
    DML_CHECK_FAILS(DML_ERR_DATA, "job one failed", api->sync(b, INT64_MAX));
    dml_err_trail_put("");
    DML_CHECK_FAILS(DML_ERR_DATA, "job one failed", api->sync(a, INT64_MAX));
    DML_CHECK(skipped.at == 0 && last.at == 0);
    api->event_close(clean);
    api->event_close(dirty);
    api->queue_close(a);
    api->queue_close(b);
    api->close(device);
}

static void the_first_failure_sticks_and_goes_with_events(void **state)
{
    (void)state;
    every_way(failure_spreads);
}

static void waits_end_at_the_deadline_and_at_the_abort_flag(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    dml_abort abort = {0};
    dml_device *device = open_device(&abort);
    dml_queue *queue = open_queue(device, "slow");
    int clock = 0;
    mark many[200];
    for (int i = 0; i < 200; i++) {
        many[i] = (mark){queue, &clock, 0};
        DML_CHECK_OK(api->submit(queue, enqueue_tick, &many[i]));
    }
    /* A lazy stream takes one step each time it is asked: the deadline is long past at the second. */
    DML_CHECK_FAILS(DML_ERR_PEER, "queue 'slow' of device 0 is not done",
                    api->sync(queue, dml_clock_ns()));
    atomic_store(&abort.raised, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "the run is being stopped", api->sync(queue, INT64_MAX));
    atomic_store(&abort.raised, 0);
    DML_CHECK_OK(api->sync(queue, INT64_MAX));
    DML_CHECK_EQ(200, clock);
    api->queue_close(queue);
    api->close(device);
}

static void await_ends_at_its_deadline_and_at_the_abort_flag(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_LAZY, 1);
    dml_abort abort = {0};
    dml_device *device = open_device(&abort);
    dml_queue *queue = open_queue(device, "slow");
    dml_event *event = NULL;
    DML_CHECK_OK(api->event_open(device, &event));
    int clock = 0;
    mark many[200];
    for (int i = 0; i < 200; i++) {
        many[i] = (mark){queue, &clock, 0};
        DML_CHECK_OK(api->submit(queue, enqueue_tick, &many[i]));
    }
    DML_CHECK_OK(api->record(queue, event));
    DML_CHECK_FAILS(DML_ERR_PEER, "an event of queue 'slow' of device 0 is not done",
                    api->await(event, 0));
    atomic_store(&abort.raised, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "the run is being stopped", api->await(event, INT64_MAX));
    atomic_store(&abort.raised, 0);
    DML_CHECK_OK(api->await(event, INT64_MAX));
    DML_CHECK_EQ(200, clock);
    api->event_close(event);
    api->queue_close(queue);
    api->close(device);
}

/* A capture that does what must not be done in one fails with the call's name, and leaves the queue usable. */
static dml_err allocate(void *arg)
{
    const mark *m = arg;
    (void)m;
    void *memory = NULL;
    return DML_CUDA(cudaMalloc, (&memory, 64), "64 bytes in a capture");
}

static void a_capture_that_allocates_fails_and_the_queue_goes_on(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    dml_device *device = open_device(NULL);
    dml_queue *queue = open_queue(device, "q");
    int clock = 0;
    mark m = {queue, &clock, 0};
    dml_replay *replay = NULL;
    DML_CHECK_FAILS(DML_ERR_BUG, "cudaMalloc (64 bytes in a capture)",
                    api->capture(queue, allocate, &m, &replay));
    DML_CHECK_OK(api->submit(queue, enqueue_tick, &m));
    DML_CHECK_OK(api->capture(queue, enqueue_tick, &m, &replay));
    DML_CHECK_OK(api->sync(queue, INT64_MAX));
    DML_CHECK_EQ(1, clock);
    DML_CHECK_OK(api->replay(queue, replay));
    DML_CHECK_OK(api->replay(queue, replay));
    DML_CHECK_OK(api->sync(queue, INT64_MAX));
    DML_CHECK_EQ(3, clock);
    api->replay_close(replay);
    api->queue_close(queue);
    api->close(device);
}

static int64_t in_ms(int64_t ms)
{
    return dml_clock_ns() + ms * DML_NS_PER_MS;
}

static void what_hangs_holds_up_its_queue_alone_and_cannot_be_renewed(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        dml_emu_setup(DML_EMU_FORWARD, seed ? DML_EMU_LOTTERY : DML_EMU_LAZY, seed);
        dml_device *device = open_device(NULL);
        dml_queue *stuck = open_queue(device, "stuck"), *free_one = open_queue(device, "free");
        int clock = 0;
        mark before = {stuck, &clock, 0}, behind = {stuck, &clock, 0},
             beside = {free_one, &clock, 0};
        DML_CHECK_OK(api->submit(stuck, enqueue_tick, &before));
        DML_CHECK_OK(api->sabotage(stuck, DML_SABOTAGE_HANG));
        DML_CHECK_OK(api->submit(stuck, enqueue_tick, &behind));
        DML_CHECK_OK(api->submit(free_one, enqueue_tick, &beside));
        DML_CHECK_OK(api->sync(free_one, in_ms(20000)));
        DML_CHECK_FAILS(DML_ERR_PEER, "queue 'stuck' of device 0 is not done",
                        api->sync(stuck, in_ms(5)));
        DML_CHECK_FAILS(DML_ERR_PEER, "queue 'stuck' of device 0 is not done",
                        api->renew(stuck, in_ms(5)));
        DML_CHECK(before.at > 0 && beside.at > 0 && behind.at == 0);
        DML_CHECK_EQ(0, dml_emu_faults());
        api->queue_close(stuck);
        api->queue_close(free_one);
        api->close(device);
        dml_emu_reset();
    }
}

static void a_device_that_traps_stays_broken_and_every_call_says_so(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        dml_emu_setup(DML_EMU_FORWARD, seed ? DML_EMU_LOTTERY : DML_EMU_LAZY, seed);
        dml_device *device = open_device(NULL);
        dml_queue *a = open_queue(device, "a"), *b = open_queue(device, "b");
        void *memory = NULL;
        int clock = 0;
        mark behind = {a, &clock, 0};
        api->sabotage(a, DML_SABOTAGE_ERROR); /* known at once, or when it is asked */
        api->submit(a, enqueue_tick, &behind);
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "traps (cudaErrorLaunchFailure)",
                        api->sync(a, in_ms(20000)));
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "traps", api->sync(b, in_ms(20000)));
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "traps", api->renew(a, in_ms(20000)));
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "traps", api->renew(b, in_ms(20000)));
        DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "traps", api->alloc(device, 64, &memory));
        DML_CHECK_EQ(0, behind.at);
        dml_emu_clear();
        api->queue_close(a);
        api->queue_close(b);
        api->close(device);
    }
}

static cpu_set_t cpus_of(int first, int last)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = first; i <= last; i++)
        CPU_SET((size_t)i, &set);
    return set;
}

static void threads_stay_on_those_of_their_cpus_that_are_near(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        bool narrows;
        int first, last; /* of 0-15, when it narrows */
    } row[] = {
        {"0-7,32-39\n", true, 0, 7}, {"12", true, 12, 12},    {"8-2000\n", true, 8, 15},
        {"0-15\n", false, 0, 0},     {"0-63\n", false, 0, 0}, /* one node */
        {"16-31\n", false, 0, 0},                             /* not ours */
        {"\n", false, 0, 0},         {"", false, 0, 0},       {"a", false, 0, 0},
        {"3-", false, 0, 0},         {"5-4", false, 0, 0},    {"0-3;", false, 0, 0},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const cpu_set_t all = cpus_of(0, 15);
        cpu_set_t cpus = all;
        if (dml_numa_narrow(row[i].list, &cpus) != row[i].narrows) fail_msg("'%s'", row[i].list);
        const cpu_set_t want = row[i].narrows ? cpus_of(row[i].first, row[i].last) : all;
        if (!CPU_EQUAL(&want, &cpus)) fail_msg("'%s' leaves other CPUs", row[i].list);
    }
}

static void errors_name_call_operation_and_cause(void **state)
{
    (void)state;
    dml_emu_setup(DML_EMU_FORWARD, DML_EMU_EAGER, 1);
    dml_device *device = open_device(NULL);
    void *memory = NULL;
    DML_CHECK_FAILS(DML_ERR_NOMEM,
                    "cudaMalloc (109951162777600 bytes (104857600.0 MiB) on device 0): out of "
                    "memory (cudaErrorMemoryAllocation)",
                    api->alloc(device, INT64_C(100) << 40, &memory));
    DML_CHECK_FAILS(DML_ERR_BUG, "-1 bytes", api->alloc(device, -1, &memory));
    const dml_device_config absent = {.index = 99, .threads = 1, .queue_capacity = 1};
    dml_device *other = NULL;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "CUDA device 99 of", api->open(&absent, &other));
    api->close(device);
}

static void more_hardware_queues_are_asked_for_than_streams_unless_the_user_says(void **state)
{
    (void)state;
    static const char name[] = "CUDA_DEVICE_MAX_CONNECTIONS";
    char why[64];
    unsetenv(name);
    DML_CHECK(api->count(why, sizeof why) > 0);
    DML_CHECK(getenv(name) && atoi(getenv(name)) == 32);
    setenv(name, "4", 1);
    DML_CHECK(api->count(why, sizeof why) > 0);
    DML_CHECK(atoi(getenv(name)) == 4);
    unsetenv(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wait_orders_two_queues_however_streams_progress),
        cmocka_unit_test(copies_keep_queue_order_and_fresh_memory_is_zero),
        cmocka_unit_test(the_first_failure_sticks_and_goes_with_events),
        cmocka_unit_test(waits_end_at_the_deadline_and_at_the_abort_flag),
        cmocka_unit_test(it_keeps_the_contract_of_a_device),
        cmocka_unit_test(await_ends_at_its_deadline_and_at_the_abort_flag),
        cmocka_unit_test(a_capture_that_allocates_fails_and_the_queue_goes_on),
        cmocka_unit_test(more_hardware_queues_are_asked_for_than_streams_unless_the_user_says),
        cmocka_unit_test(threads_stay_on_those_of_their_cpus_that_are_near),
        cmocka_unit_test(errors_name_call_operation_and_cause),
        cmocka_unit_test(what_hangs_holds_up_its_queue_alone_and_cannot_be_renewed),
        cmocka_unit_test(a_device_that_traps_stays_broken_and_every_call_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
