/* engine/agent_start.c - what workers are given, and their processes. */
#include "engine/agent_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/launch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static dml_err segment(const char *name, int *fd)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create(%s): %s", name, strerror(errno));
    return DML_ERR_OK;
}

/* Workers read the spec as it was resolved here: same dates, same defaults, the backend by its name. */
static dml_err publish_spec(dml_agent *a)
{
    a->spec.parallelism.backend = a->backend->name;
    a->spec.parallelism.threads_per_worker = a->threads;
    DML_TRY(segment("dml-spec", &a->spec_fd));
    FILE *f = fdopen(dup(a->spec_fd), "w");
    if (!f) DML_FAIL(DML_ERR_UNAVAILABLE, "spec for the workers: %s", strerror(errno));
    const dml_err err = dml_spec_print(&a->spec, f);
    if (fclose(f) != 0 && err == DML_ERR_OK)
        DML_FAIL(DML_ERR_UNAVAILABLE, "spec for the workers: %s", strerror(errno));
    return err;
}

/* A worker's reports end in an error rather than wait for an agent that does not read. */
static dml_err open_reports(const dml_agent *a, int pair[2])
{
    const struct timeval limit = {.tv_sec = a->spec.parallelism.timeout_ns / DML_NS_PER_S + 1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    setsockopt(pair[1], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return DML_ERR_OK;
}

/* In the order of DML_WORKER_FD_... of engine/worker.h, the report socket first. */
static int32_t gather(const dml_agent *a, int reports, int fds[DML_LAUNCH_FDS])
{
    int32_t n = 0;
    fds[n++] = reports;
    fds[n++] = a->control_fd;
    fds[n++] = a->spec_fd;
    fds[n++] = a->bank_fd[0];
    fds[n++] = a->bank_fd[1];
    fds[n++] = a->plan_fd;
    for (int32_t r = 0; r < a->plan.workers; r++)
        fds[n++] = a->data_fd[r];
    for (int32_t r = 0; r < a->plan.workers; r++)
        fds[n++] = a->vote_fd[r];
    if (a->trace.memory) fds[n++] = a->trace_fd;
    return n;
}

/* The answer comes as an event. */
static dml_err ask_for(dml_agent *a, int32_t rank)
{
    int pair[2], fds[DML_LAUNCH_FDS];
    DML_TRY(DML_FAILPOINT(AGENT_START));
    DML_TRY(dml_detect_expect(a->detect, rank));
    DML_TRY(open_reports(a, pair));
    const dml_err err = dml_launch_worker(rank, fds, gather(a, pair[1], fds));
    close(pair[1]);
    a->worker[rank] = (dml_followed){.socket = pair[0]};
    DML_TRY(err);
    return dml_agent_keep_reports(a, rank);
}

dml_err dml_agent_respawn(dml_agent *a, int32_t rank)
{
    if (a->worker[rank].socket >= 0) close(a->worker[rank].socket);
    return ask_for(a, rank);
}

/* Returns when the worker has a process: descriptors on their way count against a limit of the user, so there
 * is one request at a time. */
static dml_err start_worker(dml_agent *a, int32_t rank)
{
    DML_TRY(ask_for(a, rank));
    while (!a->worker[rank].started)
        DML_TRY(dml_agent_next_event(a));
    return DML_ERR_OK;
}

dml_err dml_agent_start(dml_agent *a)
{
    DML_TRY(dml_control_create(&a->control, &a->control_fd));
    DML_TRY(publish_spec(a));
    DML_TRY(segment("dml-plan", &a->plan_fd));
    for (int32_t b = 0; b < 2; b++)
        DML_TRY(dml_depot_create(&a->spec, &a->plan.model, &a->bank[b], &a->bank_fd[b]));
    for (int32_t r = 0; r < a->plan.workers; r++) {
        DML_TRY(segment("dml-data", &a->data_fd[r]));
        DML_TRY(segment("dml-vote", &a->vote_fd[r]));
    }
    DML_TRY(dml_agent_open_keeper(a));
    DML_TRY(dml_agent_open_recovery(a));
    DML_TRY(dml_agent_open_injector(a));
    for (int32_t r = 0; r < a->plan.workers; r++)
        DML_TRY(start_worker(a, r));
    return dml_agent_leave_behind(a);
}
