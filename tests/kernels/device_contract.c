/* tests/kernels/device_contract.c - a chain of copies shows what ran before what.
 *
 *   pinned from -> device a -> device b -> pinned to
 */
#include "tests/support/test.h"

#include "tests/kernels/device_contract.h"

#include "engine/base/clock.h"

#include <stdlib.h>

enum { ELEMS = 3000, BYTES = ELEMS * (int)sizeof(int32_t), CAPACITY = 64 };

typedef struct bench {
    const dml_device_api *api;
    dml_abort abort;
    dml_device *device;
    dml_queue *x, *y;
    dml_event *first, *second;
    int32_t *from, *to; /* pinned [ELEMS] */
    int32_t *a, *b;     /* on the device [ELEMS] */
} bench;

static bench *open_bench(const dml_device_api *api)
{
    bench *t = calloc(1, sizeof *t);
    t->api = api;
    const dml_device_config config = {.threads = 1, .queue_capacity = CAPACITY, .abort = &t->abort};
    DML_CHECK_OK(api->open(&config, &t->device));
    DML_CHECK_OK(api->queue_open(t->device, "x", &t->x));
    DML_CHECK_OK(api->queue_open(t->device, "y", &t->y));
    DML_CHECK_OK(api->event_open(t->device, &t->first));
    DML_CHECK_OK(api->event_open(t->device, &t->second));
    DML_CHECK_OK(api->host_alloc(t->device, BYTES, (void **)&t->from));
    DML_CHECK_OK(api->host_alloc(t->device, BYTES, (void **)&t->to));
    DML_CHECK_OK(api->alloc(t->device, BYTES, (void **)&t->a));
    DML_CHECK_OK(api->alloc(t->device, BYTES, (void **)&t->b));
    return t;
}

static void close_bench(bench *t)
{
    const dml_device_api *api = t->api;
    api->queue_close(t->x);
    api->queue_close(t->y);
    api->event_close(t->first);
    api->event_close(t->second);
    api->host_free(t->device, t->from);
    api->host_free(t->device, t->to);
    api->free(t->device, t->a);
    api->free(t->device, t->b);
    api->close(t->device);
    free(t);
}

static int64_t soon(void)
{
    return dml_clock_ns() + 20 * DML_NS_PER_S;
}

static void write(bench *t, int32_t base)
{
    for (int32_t i = 0; i < ELEMS; i++)
        t->from[i] = base + i;
}

static void expect(const bench *t, int32_t base)
{
    for (int32_t i = 0; i < ELEMS; i++)
        DML_CHECK_EQ(base + i, t->to[i]);
}

static void memory_is_zero_and_copies_are_in_queue_order(bench *t)
{
    DML_CHECK_OK(t->api->copy(t->x, t->to, t->a, BYTES));
    DML_CHECK_OK(t->api->sync(t->x, soon()));
    for (int32_t i = 0; i < ELEMS; i++)
        DML_CHECK(t->to[i] == 0 && t->from[i] == 0);
    write(t, 5);
    DML_CHECK_OK(t->api->copy(t->x, t->a, t->from, BYTES));
    DML_CHECK_OK(t->api->copy(t->x, t->b, t->a, BYTES));
    DML_CHECK_OK(t->api->copy(t->x, t->to, t->b, BYTES));
    DML_CHECK_OK(t->api->sync(t->x, soon()));
    expect(t, 5);
}

/* The host reads what a queue wrote, having waited for an event and for no queue. */
static void await_returns_when_the_record_has_passed(bench *t)
{
    DML_CHECK_OK(t->api->await(t->first, dml_clock_ns())); /* never recorded: no wait */
    for (int32_t round = 0; round < 10; round++) {
        write(t, round * 7);
        DML_CHECK_OK(t->api->copy(t->x, t->a, t->from, BYTES));
        DML_CHECK_OK(t->api->record(t->x, t->first));
        DML_CHECK_OK(t->api->wait(t->y, t->first));
        DML_CHECK_OK(t->api->copy(t->y, t->to, t->a, BYTES));
        DML_CHECK_OK(t->api->record(t->y, t->second));
        DML_CHECK_OK(t->api->await(t->second, soon()));
        expect(t, round * 7);
        DML_CHECK_OK(t->api->await(t->second, 0)); /* it stays passed, also for a mere question */
    }
}

static void time_passes_between_records_and_no_more_than_here(bench *t)
{
    int64_t ns = -1;
    DML_CHECK(t->api->elapsed(t->first, t->second, &ns) == DML_ERR_BUG); /* never recorded */
    for (int32_t round = 0; round < 3; round++) {
        const int64_t begin_ns = dml_clock_ns();
        DML_CHECK_OK(t->api->record(t->x, t->first));
        DML_CHECK_OK(t->api->copy(t->x, t->a, t->from, BYTES));
        DML_CHECK_OK(t->api->copy(t->x, t->b, t->a, BYTES));
        DML_CHECK_OK(t->api->record(t->x, t->second));
        DML_CHECK_OK(t->api->await(t->second, soon()));
        const int64_t here_ns = dml_clock_ns() - begin_ns;
        DML_CHECK_OK(t->api->elapsed(t->first, t->second, &ns));
        DML_CHECK(ns >= 0 &&
                  ns <= here_ns + here_ns / 100 + 1000); /* the GPU's own clock: 0.5 us, drift */
    }
}

static dml_err fail_job(void *arg)
{
    (void)arg;
    DML_FAIL(DML_ERR_DATA, "the job cannot");
}

static void a_failure_sticks_and_events_carry_it(bench *t)
{
    write(t, 9);
    DML_CHECK_OK(t->api->copy(t->x, t->a, t->from, BYTES));
    DML_CHECK_OK(t->api->record(t->x, t->first)); /* before the failure: sound */
    DML_CHECK_OK(t->api->submit(t->x, fail_job, NULL));
    DML_CHECK_OK(t->api->record(t->x, t->second));
    DML_CHECK_OK(t->api->await(t->first, soon()));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->await(t->second, soon()));
    dml_err_trail_put("");
    DML_CHECK_OK(t->api->wait(t->y, t->second));
    DML_CHECK_OK(t->api->copy(t->y, t->to, t->a, BYTES));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->y, soon()));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->x, soon()));
}

/* What failed before it is forgotten, also by events; another queue's failure is not. */
static void a_renewed_queue_goes_on_and_its_old_events_have_passed(bench *t)
{
    DML_CHECK_OK(t->api->submit(t->x, fail_job, NULL));
    DML_CHECK_OK(t->api->record(t->x, t->first));
    DML_CHECK_OK(t->api->wait(t->y, t->first));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->y, soon()));
    atomic_store(&t->abort.raised,
                 1); /* the worker is told to stop, and comes to rest all the same */
    DML_CHECK_OK(t->api->renew(t->x, soon()));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->y, soon()));
    DML_CHECK_OK(t->api->renew(t->y, soon()));
    atomic_store(&t->abort.raised, 0);
    DML_CHECK_OK(t->api->await(t->first, soon()));
    for (int32_t round = 0; round < 3; round++) {
        write(t, round * 11);
        DML_CHECK_OK(t->api->copy(t->x, t->a, t->from, BYTES));
        if (round > 0) DML_CHECK_OK(t->api->record(t->x, t->first));
        DML_CHECK_OK(t->api->wait(t->y, t->first));
        if (round == 0) DML_CHECK_OK(t->api->sync(t->x, soon()));
        DML_CHECK_OK(t->api->copy(t->y, t->to, t->a, BYTES));
        DML_CHECK_OK(t->api->sync(t->y, soon()));
        expect(t, round * 11);
    }
    DML_CHECK_OK(t->api->submit(t->x, fail_job, NULL)); /* and it may fail again */
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->x, soon()));
    DML_CHECK_OK(t->api->renew(t->x, soon()));
    DML_CHECK_OK(t->api->sync(t->x, soon()));
}

/* ---- replays ---- */

static dml_err copy_chain(void *arg)
{
    bench *t = arg;
    DML_TRY(t->api->copy(t->x, t->a, t->from, BYTES));
    DML_TRY(t->api->copy(t->x, t->b, t->a, BYTES));
    return t->api->copy(t->x, t->to, t->b, BYTES);
}

static dml_err copy_then_fail(void *arg)
{
    DML_TRY(copy_chain(arg));
    return fail_job(arg);
}

static void a_capture_runs_nothing_and_a_replay_all_of_it_each_time(bench *t)
{
    dml_replay *replay = NULL, *none = NULL;
    write(t, 1);
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot",
                    t->api->capture(t->x, copy_then_fail, t, &none));
    DML_CHECK(none == NULL);
    DML_CHECK_OK(t->api->capture(t->x, copy_chain, t, &replay));
    DML_CHECK_OK(
        t->api->sync(t->x, soon())); /* what failed in a capture is not the queue's failure */
    for (int32_t i = 0; i < ELEMS; i++)
        DML_CHECK_EQ(0, t->to[i]);
    for (int32_t round = 0; round < 3; round++) {
        write(t, 100 * round);
        DML_CHECK_OK(t->api->replay(t->x, replay));
        DML_CHECK_OK(t->api->record(t->x, t->first));
        DML_CHECK_OK(t->api->await(t->first, soon()));
        expect(t, 100 * round);
    }
    t->api->replay_close(replay);
    t->api->replay_close(NULL);
}

static void a_failed_queue_replays_nothing_until_it_is_renewed(bench *t)
{
    dml_replay *replay = NULL, *late = NULL;
    DML_CHECK_OK(t->api->capture(t->x, copy_chain, t, &replay));
    write(t, 3);
    DML_CHECK_OK(t->api->submit(t->x, fail_job, NULL));
    DML_CHECK_OK(t->api->replay(t->x, replay));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->sync(t->x, soon()));
    DML_CHECK_FAILS(DML_ERR_DATA, "the job cannot", t->api->capture(t->x, copy_chain, t, &late));
    DML_CHECK_EQ(0, t->to[0]);
    DML_CHECK_OK(t->api->renew(t->x, soon()));
    DML_CHECK_OK(t->api->replay(t->x, replay));
    DML_CHECK_OK(t->api->sync(t->x, soon()));
    expect(t, 3);
    t->api->replay_close(replay);
}

void device_contract(const dml_device_api *api)
{
    static void (*const promise[])(bench *) = {
        memory_is_zero_and_copies_are_in_queue_order,
        await_returns_when_the_record_has_passed,
        time_passes_between_records_and_no_more_than_here,
        a_failure_sticks_and_events_carry_it,
        a_renewed_queue_goes_on_and_its_old_events_have_passed,
        a_capture_runs_nothing_and_a_replay_all_of_it_each_time,
        a_failed_queue_replays_nothing_until_it_is_renewed,
    };
    const size_t n = sizeof promise / sizeof *promise, replays = 2;
    for (size_t i = 0; i < (api->capture ? n : n - replays); i++) {
        bench *t = open_bench(api);
        promise[i](t);
        close_bench(t);
    }
}
