/* tests/base/test_wait.c - every wait ends: reached, past its deadline, or with the run's abort. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/base/wait.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void sequence_numbers_compare_across_the_wrap(void **state)
{
    (void)state;
    DML_CHECK(dml_seq_reached(5, 5));
    DML_CHECK(dml_seq_reached(6, 5));
    DML_CHECK(!dml_seq_reached(4, 5));
    DML_CHECK(dml_seq_reached(2, UINT32_MAX));
    DML_CHECK(!dml_seq_reached(UINT32_MAX, 2));
}

static void what_is_reached_returns_at_once(void **state)
{
    (void)state;
    _Atomic uint32_t word = 7;
    DML_CHECK_OK(dml_wait_reached(&word, 7, 0, NULL, "nothing"));
    DML_CHECK_OK(dml_wait_reached(&word, 3, 0, NULL, "nothing"));
}

static void a_deadline_ends_a_wait_and_not_before_its_time(void **state)
{
    (void)state;
    _Atomic uint32_t word = 0;
    const int64_t deadline_ns = dml_clock_ns() + 30 * DML_NS_PER_MS;
    DML_CHECK_FAILS(DML_ERR_PEER, "while waiting for the other side",
                    dml_wait_reached(&word, 1, deadline_ns, NULL, "the other side"));
    DML_CHECK(dml_clock_ns() >= deadline_ns);
    DML_CHECK(strstr(dml_err_trail(), "nothing for"));
}

static void a_raised_abort_ends_a_wait(void **state)
{
    (void)state;
    _Atomic uint32_t word = 0;
    dml_abort abort = {.raised = 1};
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped (while waiting for a gradient)",
                    dml_wait_reached(&word, 1, INT64_MAX, &abort, "a gradient"));
    word = 1;
    DML_CHECK_OK(dml_wait_reached(&word, 1, INT64_MAX, &abort, "a gradient"));
}

static void *raise_later(void *arg)
{
    dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    atomic_store(&((dml_abort *)arg)->raised, 1);
    return NULL;
}

static void an_abort_is_noticed_during_a_wait(void **state)
{
    (void)state;
    _Atomic uint32_t word = 0;
    dml_abort abort = {0};
    pthread_t t;
    DML_CHECK_EQ(0, pthread_create(&t, NULL, raise_later, &abort));
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped",
                    dml_wait_reached(&word, 1, INT64_MAX, &abort, "it"));
    pthread_join(t, NULL);
}

/* Two threads hand a word and an unguarded number to and fro: every hand-over is seen, with the data
 * that came before it. */
enum { ROUNDS = 2000 };
typedef struct ping_pong {
    _Atomic uint32_t ping, pong;
    int data;
} ping_pong;

static void *answer(void *arg)
{
    ping_pong *p = arg;
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        if (dml_wait_reached(&p->ping, i, INT64_MAX, NULL, "ping") != DML_ERR_OK) return arg;
        p->data++;
        dml_wait_set(&p->pong, i);
    }
    return NULL;
}

static void threads_wake_each_other_and_see_what_was_written_before(void **state)
{
    (void)state;
    ping_pong p = {0};
    pthread_t t;
    DML_CHECK_EQ(0, pthread_create(&t, NULL, answer, &p));
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        p.data++;
        dml_wait_advance(&p.ping);
        DML_CHECK_OK(dml_wait_reached(&p.pong, i, INT64_MAX, NULL, "pong"));
        DML_CHECK_EQ(2 * i, p.data);
    }
    void *failed = NULL;
    pthread_join(t, &failed);
    DML_CHECK(failed == NULL);
}

static void processes_wake_each_other_through_shared_memory(void **state)
{
    (void)state;
    ping_pong *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    DML_CHECK(p != MAP_FAILED);
    const pid_t child = fork();
    if (child == 0) _exit(answer(p) == NULL ? 0 : 1);
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        dml_wait_advance(&p->ping);
        DML_CHECK_OK(dml_wait_reached(&p->pong, i, dml_clock_ns() + 20 * DML_NS_PER_S, NULL,
                                      "the other process"));
    }
    int status;
    DML_CHECK_EQ(child, waitpid(child, &status, 0));
    DML_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    DML_CHECK_EQ(ROUNDS, p->data);
    munmap(p, sizeof *p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequence_numbers_compare_across_the_wrap),
        cmocka_unit_test(what_is_reached_returns_at_once),
        cmocka_unit_test(a_deadline_ends_a_wait_and_not_before_its_time),
        cmocka_unit_test(a_raised_abort_ends_a_wait),
        cmocka_unit_test(an_abort_is_noticed_during_a_wait),
        cmocka_unit_test(threads_wake_each_other_and_see_what_was_written_before),
        cmocka_unit_test(processes_wake_each_other_through_shared_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
