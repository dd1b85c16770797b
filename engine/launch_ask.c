/* engine/launch_ask.c - messages with descriptors, and the agent's way to talk to the supervisor. */
#include "engine/launch_impl.h"

#include "engine/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool dml_launch_put(int socket, const void *message, size_t bytes, const int *fds, int n_fds)
{
    char control[CMSG_SPACE(sizeof(int) * DML_LAUNCH_FDS)] = {0};
    struct iovec io = {(void *)(uintptr_t)message, bytes};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
    if (n_fds > 0) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
    }
    return sendmsg(socket, &m, MSG_NOSIGNAL) == (ssize_t)bytes;
}

bool dml_launch_get(int socket, void *message, size_t bytes, int fds[DML_LAUNCH_FDS], int *n)
{
    char control[CMSG_SPACE(sizeof(int) * DML_LAUNCH_FDS)];
    struct iovec io = {message, bytes};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    *n = 0;
    if (recvmsg(socket, &m, MSG_CMSG_CLOEXEC) != (ssize_t)bytes) return false;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        *n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), (size_t)*n * sizeof(int));
    }
    if (!(m.msg_flags & MSG_CTRUNC)) return true;
    while (*n > 0)
        close(fds[--*n]);
    *n = -1;
    return true;
}

/* ---- the agent's side ---- */

static dml_err ask(const dml_launch_request *q, const int *fds, int32_t n_fds)
{
    if (!dml_launch_put(DML_FD_LAUNCHER, q, sizeof *q, fds, n_fds))
        DML_FAIL(DML_ERR_PEER, "the supervisor does not answer: %s", strerror(errno));
    return DML_ERR_OK;
}

dml_err dml_launch_worker(int32_t rank, const int *fds, int32_t n_fds)
{
    DML_ASSERT_OP(rank, <, DML_HOST_WORKERS);
    DML_ASSERT_OP(n_fds, <=, DML_LAUNCH_FDS);
    return ask(&(dml_launch_request){DML_LAUNCH_START, rank}, fds, n_fds);
}

dml_err dml_launch_keep(int32_t slot, int fd)
{
    DML_ASSERT_OP(slot, <, DML_KEEP_SLOTS);
    return ask(&(dml_launch_request){DML_LAUNCH_KEEP, slot}, &fd, 1);
}

dml_err dml_launch_recall(int32_t slot, int *fd)
{
    dml_launch_request e;
    int fds[DML_LAUNCH_FDS], n;
    *fd = -1;
    DML_TRY(ask(&(dml_launch_request){DML_LAUNCH_RECALL, slot}, NULL, 0));
    if (!dml_launch_get(DML_FD_LAUNCHER, &e, sizeof e, fds, &n) || e.kind != DML_LAUNCH_RECALL ||
        e.rank != slot)
        DML_FAIL(DML_ERR_PEER, "the supervisor does not give back slot %d", slot);
    if (n > 0) *fd = fds[0];
    return DML_ERR_OK;
}

dml_err dml_launch_resume(void)
{
    return ask(&(dml_launch_request){DML_LAUNCH_RESUME, 0}, NULL, 0);
}

dml_err dml_launch_kill(int32_t rank)
{
    return ask(&(dml_launch_request){DML_LAUNCH_KILL, rank}, NULL, 0);
}

dml_err dml_launch_kill_all(void)
{
    return ask(&(dml_launch_request){DML_LAUNCH_KILL_ALL, 0}, NULL, 0);
}

dml_err dml_launch_next(dml_launch_event *out, bool *got)
{
    const ssize_t n = recv(DML_FD_LAUNCHER, out, sizeof *out, 0);
    *got = n == (ssize_t)sizeof *out;
    if (n < 0 && errno != ECONNRESET)
        DML_FAIL(DML_ERR_BUG, "receiving from the supervisor: %s", strerror(errno));
    return DML_ERR_OK;
}
