/* engine/detect.c - beacons, each with a thread that sleeps on it; and looks at vital signs (detect_look.c). */
#include "engine/detect_impl.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { STACK_BYTES = 256 << 10, WATCH_MS = 100, LIMIT_MS = 350, LIMIT_CROWDED_MS = 1000 };

static const struct {
    const char *name;
    bool is_loss;
} sign[] = {
#define X(kind, text, is_loss) {text, is_loss},
    DML_SIGN_LIST(X)
#undef X
};

const char *dml_sign_name(dml_sign_kind kind)
{
    return sign[kind].name;
}

bool dml_sign_is_loss(dml_sign_kind kind)
{
    return sign[kind].is_loss;
}

int64_t dml_detect_limit(int32_t workers, int32_t cores, int64_t heartbeat_ns)
{
    const int64_t least_ns = heartbeat_ns * 7 / 2,
                  limit_ns = (workers > cores ? LIMIT_CROWDED_MS : LIMIT_MS) * DML_NS_PER_MS;
    return limit_ns > least_ns ? limit_ns : least_ns;
}

/* That this process may run on. */
static int32_t count_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* ---- beacons ---- */

static void *watch(void *arg)
{
    dml_watched *w = arg;
    dml_life life = DML_LIFE_ON;
    while (life == DML_LIFE_ON && !atomic_load(&w->ends)) {
        const int64_t until_ns = dml_clock_ns() + WATCH_MS * DML_NS_PER_MS;
        if (dml_beacon_watch(&w->page->beacon, until_ns, &life) != DML_ERR_OK) break;
    }
    if (life != DML_LIFE_LOST) return NULL;
    atomic_store(&w->died_ns, dml_clock_ns());
    (void)!write(w->fd, &(uint64_t){1}, sizeof(uint64_t));
    return NULL;
}

static dml_err begin_watch(dml_detect *d, int32_t rank)
{
    dml_watched *w = &d->worker[rank];
    pthread_attr_t attr;
    *w = (dml_watched){.page = &d->control->worker[rank], .fd = d->fd, .runs = true};
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    const int rc = pthread_create(&w->thread, &attr, watch, w);
    pthread_attr_destroy(&attr);
    if (rc == 0) return DML_ERR_OK;
    w->runs = false;
    DML_FAIL(DML_ERR_UNAVAILABLE, "no thread to watch worker %d: %s (ulimit -u)", rank,
             strerror(rc));
}

dml_err dml_detect_expect(dml_detect *d, int32_t rank)
{
    dml_worker_page *page = &d->control->worker[rank];
    dml_detect_forget(d, rank);
    DML_TRY(dml_beacon_init(&page->beacon));
    atomic_store(&page->beat_ns, 0);
    atomic_store(&page->op_begin_ns, 0);
    return begin_watch(d, rank);
}

dml_err dml_detect_resume(dml_detect *d, int32_t rank)
{
    dml_detect_forget(d, rank);
    return begin_watch(d, rank);
}

void dml_detect_forget(dml_detect *d, int32_t rank)
{
    dml_watched *w = &d->worker[rank];
    if (!w->runs) return;
    atomic_store(&w->ends, true);
    pthread_join(w->thread, NULL);
    *w = (dml_watched){0};
}

/* ---- the whole ---- */

dml_err dml_detect_open(const dml_detect_config *config, dml_detect **out)
{
    DML_ASSERT_OP(config->workers, <=, DML_HOST_WORKERS);
    const int32_t cores = config->cores > 0 ? config->cores : count_cores();
    dml_detect *d = calloc(1, sizeof *d);
    if (!d) DML_FAIL(DML_ERR_NOMEM, "detection");
    d->control = config->control;
    d->workers = config->workers;
    d->heartbeat_ns = config->heartbeat_ns;
    d->limit_ns = config->limit_ns > 0
                      ? config->limit_ns
                      : dml_detect_limit(config->workers, cores, config->heartbeat_ns);
    d->control->heartbeat_ns = config->heartbeat_ns;
    d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->fd < 0) {
        free(d);
        DML_FAIL(DML_ERR_UNAVAILABLE, "eventfd: %s", strerror(errno));
    }
    *out = d;
    return DML_ERR_OK;
}

void dml_detect_close(dml_detect *d)
{
    if (!d) return;
    for (int32_t r = 0; r < d->workers; r++)
        atomic_store(&d->worker[r].ends, true); /* all at once: each looks only now and then */
    for (int32_t r = 0; r < d->workers; r++)
        dml_detect_forget(d, r);
    close(d->fd);
    free(d);
}

int dml_detect_fd(const dml_detect *d)
{
    return d->fd;
}

int64_t dml_detect_due_ns(const dml_detect *d)
{
    return d->due_ns;
}
