/* tests/comm/world.c - worlds of threads and of processes for tests. */
#include "tests/support/test.h"

#include "tests/comm/world.h"

#include "engine/base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* What all ranks and the test see, in memory shared between processes. */
typedef struct common {
    dml_abort abort;
    int64_t board[BOARD];
    outcome out[MAX_WORLD];
} common;

typedef struct start {
    rank r;
    rank_fn fn;
    bool closed;
    outcome *out;
} start;

dml_err meet_everyone(const dml_transport_api *api, dml_transport *t, int32_t world)
{
    static const int32_t ranks[MAX_WORLD] = {0, 1, 2, 3, 4, 5, 6, 7};
    dml_pair pairs[MAX_WORLD];
    for (int32_t r = 0; r + 1 < world; r++)
        pairs[r] = (dml_pair){&ranks[r], &ranks[r + 1], 1, world - r - 1};
    return api->meet(t, pairs, world - 1);
}

static dml_err run_opened(start *s)
{
    DML_TRY(s->r.api->open(&s->r.config, NULL, &s->r.transport));
    dml_err err = meet_everyone(s->r.api, s->r.transport, s->r.config.world);
    if (err == DML_ERR_OK) err = s->fn(&s->r);
    s->r.api->close(s->r.transport);
    return err;
}

static void *run_rank(void *arg)
{
    start *s = arg;
    s->out->err = s->closed ? s->fn(&s->r) : run_opened(s);
    snprintf(s->out->trail, sizeof s->out->trail, "%s", dml_err_trail());
    return NULL;
}

static void run_threads(const world_config *c, start *s, common *shared)
{
    pthread_t thread[MAX_WORLD];
    dml_local_hub *hub;
    DML_CHECK_OK(dml_local_hub_new(c->world, &hub));
    for (int32_t r = 0; r < c->world; r++) {
        s[r].r.config.hub = hub;
        DML_CHECK_EQ(0, pthread_create(&thread[r], NULL, run_rank, &s[r]));
    }
    if (c->meanwhile) c->meanwhile(NULL, &shared->abort, shared->board);
    for (int32_t r = 0; r < c->world; r++)
        pthread_join(thread[r], NULL);
    dml_local_hub_free(hub);
}

static void run_processes(const world_config *c, start *s, common *shared)
{
    int fds[MAX_WORLD], pid[MAX_WORLD];
    for (int32_t r = 0; r < c->world; r++) {
        fds[r] = memfd_create("dml-test", MFD_CLOEXEC);
        DML_CHECK(fds[r] >= 0);
    }
    for (int32_t r = 0; r < c->world; r++) {
        s[r].r.config.fds = fds;
        pid[r] = fork();
        DML_CHECK(pid[r] >= 0);
        if (pid[r] == 0) {
            run_rank(&s[r]);
            _exit(0);
        }
    }
    if (c->meanwhile) c->meanwhile(pid, &shared->abort, shared->board);
    for (int32_t r = 0; r < c->world; r++) {
        int status;
        DML_CHECK_EQ(pid[r], waitpid(pid[r], &status, 0));
        s[r].out->killed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        close(fds[r]);
    }
}

void run_world(const world_config *c, rank_fn fn, outcome *out)
{
    const dml_transport_api *api;
    DML_CHECK_OK(dml_transport_find(c->transport, &api));
    common *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    DML_CHECK(shared != MAP_FAILED);
    start s[MAX_WORLD];
    for (int32_t r = 0; r < c->world; r++) {
        const dml_transport_config config = {
            .rank = r,
            .world = c->world,
            .epoch = c->epoch[r],
            .memory_bytes = c->memory_bytes,
            .timeout_ns = (c->timeout_ms ? c->timeout_ms : 20000) * DML_NS_PER_MS,
            .abort = &shared->abort,
            .links = c->links,
        };
        s[r] = (start){.r = {.api = api,
                             .config = config,
                             .abort = &shared->abort,
                             .board = shared->board,
                             .arg = c->arg},
                       .fn = fn,
                       .closed = c->closed,
                       .out = &shared->out[r]};
    }
    if (strcmp(c->transport, "local") == 0)
        run_threads(c, s, shared);
    else
        run_processes(c, s, shared);
    memcpy(out, shared->out, (size_t)c->world * sizeof *out);
    munmap(shared, sizeof *shared);
}

void run_world_ok(const world_config *c, rank_fn fn)
{
    outcome out[MAX_WORLD];
    run_world(c, fn, out);
    for (int32_t r = 0; r < c->world; r++)
        if (out[r].err != DML_ERR_OK || out[r].killed)
            fail_msg("%s, world of %d, rank %d: %s: %s", c->transport, c->world, r,
                     out[r].killed ? "killed" : dml_err_text(out[r].err), out[r].trail);
}
