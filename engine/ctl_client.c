/* engine/ctl_client.c - the other end: a line is sent, a line comes back. */
#include "engine/ctl.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

/* The folder that `run` is, or that holds the socket that it is. */
static int open_folder(const char *run)
{
    char path[PATH_BYTES];
    struct stat s;
    if (stat(run, &s) == 0 && S_ISSOCK(s.st_mode)) {
        const char *slash = strrchr(run, '/');
        const int n = snprintf(path, sizeof path, "%.*s", slash ? (int)(slash - run) + 1 : 1,
                               slash ? run : ".");
        return n < PATH_BYTES ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    }
    return open(run, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

dml_err dml_ctl_connect(const char *run, int *out)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const int folder = open_folder(run);
    if (folder < 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "%s: %s; a run is named by its output folder", run,
                 strerror(errno));
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/ctl.sock", folder);
    const bool connected = fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0;
    const int why = errno;
    close(folder);
    if (connected) {
        *out = fd;
        return DML_ERR_OK;
    }
    if (fd >= 0) close(fd);
    if (why == ENOENT) DML_FAIL(DML_ERR_UNAVAILABLE, "%s: no run is under way there", run);
    if (why == ECONNREFUSED)
        DML_FAIL(DML_ERR_UNAVAILABLE, "%s: the run is over; it was killed, its socket is left",
                 run);
    DML_FAIL(DML_ERR_UNAVAILABLE, "%s: %s", run, strerror(why));
}

static dml_err send_all(int fd, const char *bytes, size_t n)
{
    for (size_t sent = 0; sent < n;) {
        const ssize_t k = send(fd, bytes + sent, n - sent, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) DML_FAIL(DML_ERR_PEER, "the run has ended");
        sent += (size_t)k;
    }
    return DML_ERR_OK;
}

dml_err dml_ctl_ask(int fd, const char *line, int timeout_ms, dml_str *answer)
{
    const int64_t deadline_ns = dml_clock_ns() + timeout_ms * DML_NS_PER_MS;
    DML_TRY(send_all(fd, line, strlen(line)));
    DML_TRY(send_all(fd, "\n", 1));
    dml_str_clear(answer);
    for (;;) {
        char bytes[4096];
        const int64_t left_ns = deadline_ns - dml_clock_ns();
        struct pollfd on = {fd, POLLIN, 0};
        if (left_ns <= 0) DML_FAIL(DML_ERR_PEER, "the run does not answer");
        if (poll(&on, 1, (int)(left_ns / DML_NS_PER_MS) + 1) <= 0) continue;
        const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) DML_FAIL(DML_ERR_PEER, "the run has ended");
        dml_str_append(answer, bytes, (size_t)n);
        if (bytes[n - 1] == '\n') return DML_ERR_OK;
    }
}
