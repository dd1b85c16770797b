/* tests/kernels/test_device_cpu.c - order in queues, order between queues, and how failures travel. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "kernels/cpu/device_cpu.h"
#include "tests/kernels/device_contract.h"

#include <pthread.h>
#include <stdlib.h>

static const dml_device_api *const api = &dml_cpu_device;

enum { QUEUES = 4, CAPACITY = 4 };

typedef struct bench {
    dml_abort abort;
    dml_device *device;
    dml_queue *queue[QUEUES];
    dml_event *event;
} bench;

static bench *bench_new(void)
{
    static const char *const names[QUEUES] = {"a", "b", "c", "d"};
    bench *b = calloc(1, sizeof *b);
    const dml_device_config config = {.threads = 1, .queue_capacity = CAPACITY, .abort = &b->abort};
    DML_CHECK_OK(api->open(&config, &b->device));
    for (int i = 0; i < QUEUES; i++)
        DML_CHECK_OK(api->queue_open(b->device, names[i], &b->queue[i]));
    DML_CHECK_OK(api->event_open(b->device, &b->event));
    return b;
}

static void bench_free(bench *b)
{
    for (int i = 0; i < QUEUES; i++)
        api->queue_close(b->queue[i]);
    api->event_close(b->event);
    api->close(b->device);
    free(b);
}

static int64_t soon(void)
{
    return dml_clock_ns() + 20 * DML_NS_PER_S;
}

/* ---- jobs ---- */

/* Appends `value` to the list that all jobs of a test share. */
typedef struct note {
    int32_t *list;
    int32_t *n;
    int32_t value;
} note;

static dml_err write_note(void *arg)
{
    const note *e = arg;
    e->list[(*e->n)++] = e->value;
    return DML_ERR_OK;
}

static dml_err write_note_late(void *arg)
{
    dml_sleep_until_ns(dml_clock_ns() + 5 * DML_NS_PER_MS);
    return write_note(arg);
}

static dml_err always_fail(void *arg)
{
    DML_FAIL(DML_ERR_DATA, "job %d cannot", *(const int *)arg);
}

typedef struct gate {
    _Atomic uint32_t open;
    const dml_abort *abort;
} gate;

static dml_err wait_for_gate(void *arg)
{
    gate *g = arg;
    return dml_wait_reached(&g->open, 1, soon(), g->abort, "the gate");
}

/* ---- tests ---- */

static void count_is_at_least_one(void **state)
{
    (void)state;
    char why[16] = "x";
    DML_CHECK(api->count(why, sizeof why) >= 1);
    DML_CHECK_EQ('\0', why[0]);
}

static void memory_is_aligned_and_zeroed_whatever_its_size(void **state)
{
    (void)state;
    bench *b = bench_new();
    static const int64_t sizes[] = {0, 1, 63, 64, 65, 4096, (2 << 20) - 64, 2 << 20, 9999999};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *memory;
        DML_CHECK_OK(api->alloc(b->device, sizes[i], (void **)&memory));
        DML_CHECK_EQ(0, (uintptr_t)memory % 64);
        for (int64_t j = 0; j < sizes[i]; j++)
            if (memory[j] != 0) fail_msg("byte %lld of %lld", (long long)j, (long long)sizes[i]);
        if (sizes[i] > 0) memset(memory, 0xa5, (size_t)sizes[i]);
        api->free(b->device, memory);
    }
    api->free(b->device, NULL);
    void *none;
    DML_CHECK_FAILS(DML_ERR_NOMEM, "4611686018427387904 bytes",
                    api->alloc(b->device, INT64_C(1) << 62, &none));
    bench_free(b);
}

static void jobs_run_in_order_even_when_the_ring_is_full(void **state)
{
    (void)state;
    bench *b = bench_new();
    enum { JOBS = 10 * CAPACITY };
    int32_t list[JOBS], n = 0;
    note notes[JOBS];
    for (int32_t i = 0; i < JOBS; i++) {
        notes[i] = (note){list, &n, i};
        DML_CHECK_OK(api->submit(b->queue[0], i == 0 ? write_note_late : write_note, &notes[i]));
    }
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    DML_CHECK_EQ(JOBS, n);
    for (int32_t i = 0; i < JOBS; i++)
        DML_CHECK_EQ(i, list[i]);
    bench_free(b);
}

static void copies_are_in_queue_order(void **state)
{
    (void)state;
    bench *b = bench_new();
    int32_t list[1] = {0}, n = 0, seen = -1;
    note late = {list, &n, 7};
    DML_CHECK_OK(api->submit(b->queue[0], write_note_late, &late));
    DML_CHECK_OK(api->copy(b->queue[0], &seen, list, sizeof seen));
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    DML_CHECK_EQ(7, seen);
    bench_free(b);
}

typedef struct copier {
    dml_queue *queue;
    int32_t from, to, seen;
} copier;

static dml_err copy_and_look(void *arg)
{
    copier *c = arg;
    DML_TRY(api->copy(c->queue, &c->to, &c->from, sizeof c->to));
    c->seen = c->to;
    return DML_ERR_OK;
}

static void a_copy_from_inside_a_job_takes_place_there_and_then(void **state)
{
    (void)state;
    bench *b = bench_new();
    copier c = {.queue = b->queue[0], .from = 5};
    for (int i = 0; i < 2 * CAPACITY; i++) /* a copy that queued up would wait for itself */
        DML_CHECK_OK(api->submit(b->queue[0], copy_and_look, &c));
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    DML_CHECK_EQ(5, c.seen);
    bench_free(b);
}

/* a -> b -> c -> d -> a ...: without the waits, late notes would be overtaken (and TSan would see it). */
static void events_order_jobs_of_different_queues(void **state)
{
    (void)state;
    bench *b = bench_new();
    enum { JOBS = 200 };
    int32_t list[JOBS], n = 0;
    note notes[JOBS];
    for (int32_t i = 0; i < JOBS; i++) {
        notes[i] = (note){list, &n, i};
        dml_queue *q = b->queue[i % QUEUES];
        DML_CHECK_OK(api->wait(q, b->event));
        DML_CHECK_OK(api->submit(q, i % 17 == 0 ? write_note_late : write_note, &notes[i]));
        DML_CHECK_OK(api->record(q, b->event));
    }
    for (int i = 0; i < QUEUES; i++)
        DML_CHECK_OK(api->sync(b->queue[i], soon()));
    DML_CHECK_EQ(JOBS, n);
    for (int32_t i = 0; i < JOBS; i++)
        DML_CHECK_EQ(i, list[i]);
    bench_free(b);
}

static void a_wait_means_the_newest_record_submitted_before_it(void **state)
{
    (void)state;
    bench *b = bench_new();
    gate shut = {.abort = &b->abort};
    int32_t list[2], n = 0;
    note first = {list, &n, 1};
    DML_CHECK_OK(api->wait(b->queue[1], b->event)); /* never recorded: no wait */
    DML_CHECK_OK(api->submit(b->queue[0], write_note, &first));
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_OK(api->wait(b->queue[1], b->event));
    DML_CHECK_OK(api->submit(b->queue[0], wait_for_gate, &shut));
    DML_CHECK_OK(api->record(b->queue[0], b->event)); /* later: must not hold up queue b */
    DML_CHECK_OK(api->sync(b->queue[1], soon()));
    DML_CHECK_EQ(1, n);
    dml_wait_set(&shut.open, 1);
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    bench_free(b);
}

static void the_first_failure_sticks_and_its_text_reaches_sync(void **state)
{
    (void)state;
    bench *b = bench_new();
    int one = 1, two = 2;
    int32_t list[1], n = 0;
    note skipped = {list, &n, 0};
    DML_CHECK_OK(api->submit(b->queue[0], always_fail, &one));
    for (int i = 0; i < 3 * CAPACITY; i++)
        DML_CHECK_OK(api->submit(b->queue[0], write_note, &skipped));
    DML_CHECK_OK(api->submit(b->queue[0], always_fail, &two));
    for (int i = 0; i < 2; i++)
        DML_CHECK_FAILS(DML_ERR_DATA, "job 1 cannot", api->sync(b->queue[0], soon()));
    DML_CHECK_EQ(0, n);
    DML_CHECK_OK(api->sync(b->queue[1], soon()));
    bench_free(b);
}

static void a_failure_travels_along_events_and_no_further(void **state)
{
    (void)state;
    bench *b = bench_new();
    int one = 1;
    int32_t list[2], n = 0;
    note skipped = {list, &n, 0}, runs = {list, &n, 1};
    dml_event *before;
    DML_CHECK_OK(api->event_open(b->device, &before));
    DML_CHECK_OK(api->record(b->queue[0], before)); /* recorded before the failure: sound */
    DML_CHECK_OK(api->submit(b->queue[0], always_fail, &one));
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_OK(api->wait(b->queue[1], b->event));
    DML_CHECK_OK(api->submit(b->queue[1], write_note, &skipped));
    DML_CHECK_OK(api->record(b->queue[1], b->event));
    DML_CHECK_OK(api->wait(b->queue[2], b->event));
    DML_CHECK_OK(api->wait(b->queue[3], before));
    DML_CHECK_OK(api->submit(b->queue[3], write_note, &runs));
    DML_CHECK_FAILS(DML_ERR_DATA, "job 1 cannot", api->sync(b->queue[2], soon()));
    DML_CHECK_FAILS(DML_ERR_DATA, "job 1 cannot", api->sync(b->queue[1], soon()));
    DML_CHECK_OK(api->sync(b->queue[3], soon()));
    DML_CHECK_EQ(1, n);
    DML_CHECK_EQ(1, list[0]);
    api->event_close(before);
    bench_free(b);
}

static void sync_ends_at_its_deadline(void **state)
{
    (void)state;
    bench *b = bench_new();
    gate shut = {.abort = &b->abort};
    DML_CHECK_OK(api->submit(b->queue[0], wait_for_gate, &shut));
    DML_CHECK_FAILS(DML_ERR_PEER, "queue 'a' to finish",
                    api->sync(b->queue[0], dml_clock_ns() + 2 * DML_NS_PER_MS));
    dml_wait_set(&shut.open, 1);
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    bench_free(b);
}

static void *raise_soon(void *arg)
{
    dml_abort *abort = arg;
    dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    atomic_store(&abort->raised, 1);
    return NULL;
}

static void abort_ends_a_wait_a_full_ring_and_a_sync(void **state)
{
    (void)state;
    bench *b = bench_new();
    gate shut = {.abort = &b->abort};
    int32_t list[1], n = 0;
    note skipped = {list, &n, 0};
    DML_CHECK_OK(api->submit(b->queue[0], wait_for_gate, &shut));
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_OK(api->wait(b->queue[1], b->event));
    for (int i = 0; i < CAPACITY - 1; i++)
        DML_CHECK_OK(api->submit(b->queue[0], write_note, &skipped));
    pthread_t thread;
    DML_CHECK_EQ(0, pthread_create(&thread, NULL, raise_soon, &b->abort));
    /* The ring is full: this blocks until abort, which may come as room or as an error. */
    (void)api->submit(b->queue[0], write_note, &skipped);
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", api->sync(b->queue[0], soon()));
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", api->sync(b->queue[1], soon()));
    DML_CHECK_EQ(0, n);
    pthread_join(thread, NULL);
    bench_free(b);
}

static void closing_a_queue_skips_the_rest_and_fails_who_waits_for_it(void **state)
{
    (void)state;
    bench *b = bench_new();
    int32_t list[2], n = 0;
    note runs = {list, &n, 0}, skipped = {list, &n, 1};
    gate shut = {.abort = NULL};
    DML_CHECK_OK(api->submit(b->queue[0], write_note, &runs));
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    DML_CHECK_OK(api->submit(b->queue[2], wait_for_gate, &shut));
    DML_CHECK_OK(api->record(b->queue[2], b->event));
    DML_CHECK_OK(api->wait(b->queue[0], b->event)); /* holds queue a until the gate opens */
    DML_CHECK_OK(api->submit(b->queue[0], write_note, &skipped));
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_OK(api->wait(b->queue[1], b->event));
    atomic_store(&b->abort.raised, 1); /* frees queue a's thread; then its job is skipped */
    api->queue_close(b->queue[0]);
    b->queue[0] = NULL;
    DML_CHECK(api->sync(b->queue[1], soon()) == DML_ERR_PEER);
    DML_CHECK_EQ(1, n);
    dml_wait_set(&shut.open, 1);
    bench_free(b);
}

static void two_devices_of_one_process_do_not_meet(void **state)
{
    (void)state;
    bench *x = bench_new(), *y = bench_new();
    int one = 1;
    int32_t list[1], n = 0;
    note runs = {list, &n, 3};
    DML_CHECK_OK(api->submit(x->queue[0], always_fail, &one));
    DML_CHECK_OK(api->submit(y->queue[0], write_note, &runs));
    DML_CHECK_OK(api->sync(y->queue[0], soon()));
    DML_CHECK_EQ(3, list[0]);
    DML_CHECK(api->sync(x->queue[0], soon()) == DML_ERR_DATA);
    bench_free(x);
    bench_free(y);
}

static void it_keeps_the_contract_of_a_device(void **state)
{
    (void)state;
    device_contract(api);
}

static void await_ends_at_its_deadline_and_at_the_abort_flag(void **state)
{
    (void)state;
    bench *b = bench_new();
    gate shut = {.abort = NULL};
    DML_CHECK_OK(api->submit(b->queue[0], wait_for_gate, &shut));
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_FAILS(DML_ERR_PEER, "an event of queue 'a'",
                    api->await(b->event, dml_clock_ns() + 2 * DML_NS_PER_MS));
    int64_t ns;
    DML_CHECK_FAILS(DML_ERR_BUG, "has not passed", api->elapsed(b->event, b->event, &ns));
    atomic_store(&b->abort.raised, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", api->await(b->event, soon()));
    atomic_store(&b->abort.raised, 0);
    dml_wait_set(&shut.open, 1);
    DML_CHECK_OK(api->await(b->event, soon()));
    bench_free(b);
}

typedef struct nap {
    dml_abort *abort;
    _Atomic uint32_t ended;
} nap;

/* A kernel under way when the run is stopped: it does not look at the flag. */
static dml_err stop_the_run_and_nap(void *arg)
{
    nap *n = arg;
    atomic_store(&n->abort->raised, 1);
    dml_sleep_until_ns(dml_clock_ns() + 20 * DML_NS_PER_MS);
    atomic_store(&n->ended, 1);
    return DML_ERR_OK;
}

static void a_stopped_sync_leaves_no_job_running(void **state)
{
    (void)state;
    bench *b = bench_new();
    nap n = {.abort = &b->abort}, skipped = {.abort = &b->abort};
    DML_CHECK_OK(api->submit(b->queue[0], stop_the_run_and_nap, &n));
    DML_CHECK_OK(api->submit(b->queue[0], stop_the_run_and_nap, &skipped));
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", api->sync(b->queue[0], soon()));
    DML_CHECK_EQ(1, atomic_load(&n.ended));
    DML_CHECK_EQ(0, atomic_load(&skipped.ended));
    bench_free(b);
}

/* The stamps are those of the work between the records, however late the host asks. */
static void elapsed_is_the_time_of_what_lies_between_two_records(void **state)
{
    (void)state;
    bench *b = bench_new();
    dml_event *end, *after;
    DML_CHECK_OK(api->event_open(b->device, &end));
    DML_CHECK_OK(api->event_open(b->device, &after));
    int32_t list[4], n = 0;
    note late = {list, &n, 0};
    DML_CHECK_OK(api->record(b->queue[0], b->event));
    DML_CHECK_OK(api->submit(b->queue[0], write_note_late, &late)); /* 5 ms */
    DML_CHECK_OK(api->record(b->queue[0], end));
    DML_CHECK_OK(api->submit(b->queue[0], write_note, &late));
    DML_CHECK_OK(api->record(b->queue[0], after));
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    int64_t job_ns, both_ns;
    DML_CHECK_OK(api->elapsed(b->event, end, &job_ns));
    DML_CHECK_OK(api->elapsed(b->event, after, &both_ns));
    DML_CHECK(job_ns >= 5 * DML_NS_PER_MS && both_ns >= job_ns);
    for (int i = 0; i < CAPACITY; i++) /* the ring forgets */
        DML_CHECK_OK(api->copy(b->queue[0], list, list + 1, 4));
    DML_CHECK_OK(api->sync(b->queue[0], soon()));
    DML_CHECK_FAILS(DML_ERR_BUG, "commands late", api->elapsed(b->event, end, &job_ns));
    api->event_close(end);
    api->event_close(after);
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(count_is_at_least_one),
        cmocka_unit_test(memory_is_aligned_and_zeroed_whatever_its_size),
        cmocka_unit_test(jobs_run_in_order_even_when_the_ring_is_full),
        cmocka_unit_test(copies_are_in_queue_order),
        cmocka_unit_test(a_copy_from_inside_a_job_takes_place_there_and_then),
        cmocka_unit_test(events_order_jobs_of_different_queues),
        cmocka_unit_test(a_wait_means_the_newest_record_submitted_before_it),
        cmocka_unit_test(the_first_failure_sticks_and_its_text_reaches_sync),
        cmocka_unit_test(a_failure_travels_along_events_and_no_further),
        cmocka_unit_test(sync_ends_at_its_deadline),
        cmocka_unit_test(abort_ends_a_wait_a_full_ring_and_a_sync),
        cmocka_unit_test(closing_a_queue_skips_the_rest_and_fails_who_waits_for_it),
        cmocka_unit_test(two_devices_of_one_process_do_not_meet),
        cmocka_unit_test(it_keeps_the_contract_of_a_device),
        cmocka_unit_test(await_ends_at_its_deadline_and_at_the_abort_flag),
        cmocka_unit_test(a_stopped_sync_leaves_no_job_running),
        cmocka_unit_test(elapsed_is_the_time_of_what_lies_between_two_records),
    };
    return cmocka_run_group_tests_name("device_cpu", tests, NULL, NULL);
}
