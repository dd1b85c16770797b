/* tests/comm/test_faults.c - kill -9 in the middle of things: survivors return, regroup and are right.
 *
 * The parent plays the agent: it watches the beacon of the worker it will kill, raises the abort flag, and
 * when all survivors have reported their error starts the next epoch with one worker less.
 */
#include "tests/support/test.h"

#include "comm/beacon.h"
#include "comm/transport.h"
#include "engine/base/clock.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORLD = 4, ELEMS = 50000, EPOCHS = WORLD - 1, TRAIL = 1024 };

typedef struct control {
    dml_abort abort;
    _Atomic uint32_t epoch;    /* epochs begun; the last one only sums a few times */
    _Atomic uint32_t reported; /* survivors that met the failure */
    int32_t members[WORLD];    /* of the epoch: worker numbers, ascending */
    int32_t n;
    _Atomic uint32_t sums; /* calls completed in all */
    struct {
        dml_beacon beacon;
        dml_err err;
        char trail[TRAIL];
        int64_t noticed_ns;
    } worker[WORLD];
} control;

static const dml_transport_api *api;

static int64_t in_ms(int64_t ms)
{
    return dml_clock_ns() + ms * DML_NS_PER_MS;
}

/* ---- the worker ---- */

typedef struct step {
    control *c;
    dml_group *g;
    float *buffer;   /* [ELEMS] */
    int32_t me, n;   /* rank in the epoch */
    int32_t sum_sum; /* 1 + 2 + .. + n */
} step;

static dml_err sum_once(step *s, int64_t elems)
{
    for (int64_t i = 0; i < elems; i++)
        s->buffer[i] = (float)((s->me + 1) * (int32_t)(i % 97));
    DML_TRY(api->all_reduce(s->g, NULL, s->buffer, elems, DML_F32, DML_SUM));
    for (int64_t i = 0; i < elems; i++)
        if (s->buffer[i] != (float)(s->sum_sum * (int32_t)(i % 97)))
            DML_FAIL(DML_ERR_CHECK, "element %lld of a sum of %d is wrong", (long long)i, s->n);
    atomic_fetch_add(&s->c->sums, 1);
    return DML_ERR_OK;
}

static dml_err sum_for_long(dml_transport *t, control *c, int32_t me, int32_t n, bool last)
{
    static const int32_t ranks[WORLD] = {0, 1, 2, 3};
    step s = {.c = c, .me = me, .n = n, .sum_sum = n * (n + 1) / 2};
    DML_TRY(api->alloc(t, ELEMS * (int64_t)sizeof *s.buffer, (void **)&s.buffer));
    DML_TRY(api->group_open(t, ranks, n, 1, &s.g));
    for (int k = 0; k < 20 || !last; k++)
        DML_TRY(sum_once(&s, k % 2 ? ELEMS : 300));
    api->group_close(s.g);
    return DML_ERR_OK;
}

static dml_err run_epoch(control *c, const int *fds, int32_t me, uint32_t epoch)
{
    const dml_transport_config config = {
        .rank = me,
        .world = c->n,
        .epoch = epoch,
        .memory_bytes = ELEMS * (int64_t)sizeof(float) + 64,
        .timeout_ns = 20 * DML_NS_PER_S,
        .abort = &c->abort,
        .fds = fds,
    };
    dml_transport *t;
    DML_TRY(api->open(&config, NULL, &t));
    const dml_err err = sum_for_long(t, c, me, c->n, epoch == EPOCHS - 1);
    api->close(t);
    return err;
}

static int32_t place_of(const control *c, int32_t worker)
{
    for (int32_t i = 0; i < c->n; i++)
        if (c->members[i] == worker) return i;
    return -1;
}

static void report(control *c, int32_t worker, dml_err err)
{
    c->worker[worker].err = err;
    c->worker[worker].noticed_ns = dml_clock_ns();
    snprintf(c->worker[worker].trail, TRAIL, "%s", dml_err_trail());
    dml_wait_advance(&c->reported);
}

static void work(control *c, int fds[EPOCHS][WORLD], int32_t worker)
{
    if (dml_beacon_hold(&c->worker[worker].beacon) != DML_ERR_OK) _exit(1);
    for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
        if (dml_wait_reached(&c->epoch, epoch + 1, in_ms(30000), NULL, "epoch") != DML_ERR_OK)
            _exit(1);
        report(c, worker, run_epoch(c, fds[epoch], place_of(c, worker), epoch));
    }
    _exit(0);
}

/* ---- the agent ---- */

static int count_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void begin_epoch(control *c)
{
    atomic_store(&c->abort.raised, 0);
    atomic_store(&c->reported, 0);
    atomic_store(&c->sums, 0);
    dml_wait_advance(&c->epoch);
}

/* Kills member `victim` of the epoch; the time until the last survivor was out of its call, in ns. */
static int64_t kill_one(control *c, pid_t pid[WORLD], int32_t victim)
{
    const int32_t worker = c->members[victim];
    dml_life life;
    const int64_t kill_ns = dml_clock_ns();
    kill(pid[worker], SIGKILL);
    DML_CHECK_OK(dml_beacon_watch(&c->worker[worker].beacon, in_ms(20000), &life));
    DML_CHECK_EQ(DML_LIFE_LOST, life);
    atomic_store(&c->abort.raised, 1);
    DML_CHECK_OK(dml_wait_reached(&c->reported, (uint32_t)c->n - 1, in_ms(20000), NULL, "reports"));
    memmove(c->members + victim, c->members + victim + 1,
            (size_t)(c->n - victim - 1) * sizeof *c->members);
    c->n--;
    int64_t last_ns = kill_ns;
    for (int32_t i = 0; i < c->n; i++) {
        const int32_t w = c->members[i];
        if (c->worker[w].err != DML_ERR_PEER) fail_msg("worker %d: %s", w, c->worker[w].trail);
        DML_CHECK(strstr(c->worker[w].trail, "being stopped"));
        if (c->worker[w].noticed_ns > last_ns) last_ns = c->worker[w].noticed_ns;
    }
    int status;
    DML_CHECK_EQ(pid[worker], waitpid(pid[worker], &status, 0));
    return last_ns - kill_ns;
}

/* Kills two of four workers in two epochs, each after some random time of summing; returns the slower. */
static int64_t one_life(uint32_t seed)
{
    control *c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(c != MAP_FAILED);
    int fds[EPOCHS][WORLD];
    pid_t pid[WORLD];
    for (int e = 0; e < EPOCHS; e++)
        for (int r = 0; r < WORLD; r++)
            assert_true((fds[e][r] = memfd_create("dml-test", MFD_CLOEXEC)) >= 0);
    c->n = WORLD;
    for (int32_t w = 0; w < WORLD; w++) {
        c->members[w] = w;
        DML_CHECK_OK(dml_beacon_init(&c->worker[w].beacon));
    }
    for (int32_t w = 0; w < WORLD; w++) {
        pid[w] = fork();
        assert_true(pid[w] >= 0);
        if (pid[w] == 0) work(c, fds, w);
    }
    int64_t slowest_ns = 0;
    for (int e = 0; e < EPOCHS - 1; e++) {
        begin_epoch(c);
        seed = seed * 1664525u + 1013904223u;
        while (atomic_load(&c->sums) < seed >> 27)
            dml_sleep_until_ns(dml_clock_ns() + 100000);
        dml_sleep_until_ns(dml_clock_ns() + (seed >> 8) % 500000);
        const int64_t ns = kill_one(c, pid, (int32_t)((seed >> 4) % (uint32_t)c->n));
        slowest_ns = ns > slowest_ns ? ns : slowest_ns;
    }
    begin_epoch(c);
    DML_CHECK_OK(dml_wait_reached(&c->reported, (uint32_t)c->n, in_ms(20000), NULL, "the end"));
    for (int32_t i = 0; i < c->n; i++) {
        int status;
        const int32_t w = c->members[i];
        if (c->worker[w].err != DML_ERR_OK) fail_msg("worker %d: %s", w, c->worker[w].trail);
        DML_CHECK_EQ(pid[w], waitpid(pid[w], &status, 0));
        DML_CHECK_EQ(0, status);
    }
    for (int e = 0; e < EPOCHS; e++)
        for (int r = 0; r < WORLD; r++)
            close(fds[e][r]);
    munmap(c, sizeof *c);
    return slowest_ns;
}

static void survivors_of_kill_9_return_regroup_and_sum_right(void **state)
{
    (void)state;
    enum { LIVES = 8 };
    DML_CHECK_OK(dml_transport_find("shm", &api));
    const int before = count_fds();
    int64_t slowest_ns = 0;
    for (uint32_t life = 0; life < LIVES; life++) {
        const int64_t ns = one_life(life * 7919 + 1);
        slowest_ns = ns > slowest_ns ? ns : slowest_ns;
    }
    print_message("kill to last survivor out of its call: at most %.2f ms in %d kills\n",
                  (double)slowest_ns * 1e-6, LIVES * (EPOCHS - 1));
    DML_CHECK_EQ(before, count_fds());
    DML_CHECK_EQ(-1, waitpid(-1, NULL, 0)); /* no process is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survivors_of_kill_9_return_regroup_and_sum_right),
    };
    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
