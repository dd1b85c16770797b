/* tests/comm/test_beacon.c - real processes, killed for real.  Prints the times it took to notice. */
#include "tests/support/test.h"

#include "comm/beacon.h"
#include "engine/base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct page {
    dml_beacon beacon;
    _Atomic uint32_t ready, go;
    _Atomic int64_t killed_ns;
} page;

static page *page_new(void)
{
    page *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    DML_CHECK_OK(dml_beacon_init(&p->beacon));
    return p;
}

static int64_t in_ms(int64_t ms)
{
    return dml_clock_ns() + ms * DML_NS_PER_MS;
}

/* A worker that holds its beacon, touches `bytes` of memory and then lives until told to end. */
static pid_t start_worker(page *p, int64_t bytes)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    if (dml_beacon_hold(&p->beacon) != DML_ERR_OK) _exit(1);
    char *memory = bytes > 0 ? malloc((size_t)bytes) : NULL;
    for (int64_t i = 0; i < bytes; i += 4096)
        memory[i] = 1;
    dml_wait_set(&p->ready, 1);
    dml_wait_reached(&p->go, 1, in_ms(20000), NULL, "the test");
    _exit(0);
}

static void wait_ready(page *p)
{
    DML_CHECK_OK(dml_wait_reached(&p->ready, 1, in_ms(20000), NULL, "the worker"));
}

static void reap(pid_t pid)
{
    int status;
    DML_CHECK_EQ(pid, waitpid(pid, &status, 0));
}

static void a_living_worker_is_not_announced(void **state)
{
    (void)state;
    page *p = page_new();
    dml_life life = DML_LIFE_LOST;
    DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(5), &life)); /* before it is held */
    DML_CHECK_EQ(DML_LIFE_ON, life);
    const pid_t pid = start_worker(p, 0);
    wait_ready(p);
    for (int i = 0; i < 3; i++) {
        DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(5), &life));
        DML_CHECK_EQ(DML_LIFE_ON, life);
    }
    DML_CHECK_FAILS(DML_ERR_BUG, "cannot be held", dml_beacon_hold(&p->beacon));
    kill(pid, SIGKILL);
    reap(pid);
    munmap(p, sizeof *p);
}

static void an_end_without_release_is_announced_too(void **state)
{
    (void)state;
    page *p = page_new();
    const pid_t pid = start_worker(p, 0);
    wait_ready(p);
    dml_wait_set(&p->go, 1);
    dml_life life = DML_LIFE_ON;
    DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(20000), &life));
    DML_CHECK_EQ(DML_LIFE_LOST, life);
    reap(pid);
    munmap(p, sizeof *p);
}

static void an_orderly_end_is_told_from_a_death(void **state)
{
    (void)state;
    page *p = page_new();
    dml_life life = DML_LIFE_LOST;
    DML_CHECK_OK(dml_beacon_hold(&p->beacon));
    DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(1), &life));
    DML_CHECK_EQ(DML_LIFE_ON, life);
    dml_beacon_release(&p->beacon);
    for (int i = 0; i < 2; i++) {
        DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(20000), &life));
        DML_CHECK_EQ(DML_LIFE_LEFT, life);
    }
    munmap(p, sizeof *p);
}

static void *kill_soon(void *arg)
{
    void *const *both = arg;
    page *p = both[0];
    dml_sleep_until_ns(in_ms(5)); /* so that the watcher is already asleep */
    atomic_store(&p->killed_ns, dml_clock_ns());
    kill(*(const pid_t *)both[1], SIGKILL);
    return NULL;
}

/* Kills a worker with `bytes` resident while it is being watched; the time to notice in ns. */
static int64_t notice_ns(int64_t bytes)
{
    page *p = page_new();
    pid_t pid = start_worker(p, bytes);
    wait_ready(p);
    void *both[2] = {p, &pid};
    pthread_t thread;
    assert_int_equal(0, pthread_create(&thread, NULL, kill_soon, both));
    dml_life life = DML_LIFE_ON;
    DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(20000), &life));
    const int64_t seen_ns = dml_clock_ns();
    DML_CHECK_EQ(DML_LIFE_LOST, life);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) { /* and every later watch says so at once */
        life = DML_LIFE_ON;
        DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(20000), &life));
        DML_CHECK_EQ(DML_LIFE_LOST, life);
    }
    reap(pid);
    const int64_t took_ns = seen_ns - atomic_load(&p->killed_ns);
    munmap(p, sizeof *p);
    return took_ns;
}

static void a_killed_worker_is_announced_whatever_its_size(void **state)
{
    (void)state;
    static const int64_t mib[] = {0, 512};
    enum { TIMES = 5 };
    for (int s = 0; s < 2; s++) {
        int64_t least = INT64_MAX, most = 0;
        for (int i = 0; i < TIMES; i++) {
            const int64_t ns = notice_ns(mib[s] << 20);
            least = ns < least ? ns : least;
            most = ns > most ? ns : most;
        }
        print_message("noticed after %.2f .. %.2f ms with %d MiB resident (%d kills)\n",
                      (double)least * 1e-6, (double)most * 1e-6, (int)mib[s], TIMES);
    }
}

typedef struct watcher {
    page *p;
    dml_life life;
    dml_err err;
} watcher;

static void *watch(void *arg)
{
    watcher *w = arg;
    w->err = dml_beacon_watch(&w->p->beacon, in_ms(20000), &w->life);
    return NULL;
}

static void all_watchers_are_told(void **state)
{
    (void)state;
    enum { WATCHERS = 4 };
    page *p = page_new();
    const pid_t pid = start_worker(p, 0);
    wait_ready(p);
    pthread_t thread[WATCHERS];
    watcher w[WATCHERS];
    for (int i = 0; i < WATCHERS; i++) {
        w[i] = (watcher){.p = p};
        assert_int_equal(0, pthread_create(&thread[i], NULL, watch, &w[i]));
    }
    dml_sleep_until_ns(in_ms(5));
    kill(pid, SIGKILL);
    for (int i = 0; i < WATCHERS; i++) {
        pthread_join(thread[i], NULL);
        DML_CHECK_EQ(DML_ERR_OK, w[i].err);
        DML_CHECK_EQ(DML_LIFE_LOST, w[i].life);
    }
    reap(pid);
    munmap(p, sizeof *p);
}

static void a_page_serves_the_next_worker(void **state)
{
    (void)state;
    page *p = page_new();
    for (int i = 0; i < 3; i++) {
        DML_CHECK_OK(dml_beacon_init(&p->beacon));
        atomic_store(&p->ready, 0);
        const pid_t pid = start_worker(p, 0);
        wait_ready(p);
        dml_life life = DML_LIFE_LOST;
        DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(1), &life));
        DML_CHECK_EQ(DML_LIFE_ON, life);
        kill(pid, SIGKILL);
        DML_CHECK_OK(dml_beacon_watch(&p->beacon, in_ms(20000), &life));
        DML_CHECK_EQ(DML_LIFE_LOST, life);
        reap(pid);
    }
    munmap(p, sizeof *p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_living_worker_is_not_announced),
        cmocka_unit_test(an_end_without_release_is_announced_too),
        cmocka_unit_test(an_orderly_end_is_told_from_a_death),
        cmocka_unit_test(a_killed_worker_is_announced_whatever_its_size),
        cmocka_unit_test(all_watchers_are_told),
        cmocka_unit_test(a_page_serves_the_next_worker),
    };
    return cmocka_run_group_tests_name("beacon", tests, NULL, NULL);
}
