/* engine/control.c - the shared page and the report socket. */
#include "engine/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

dml_err dml_control_create(dml_control **out, int *fd)
{
    *fd = memfd_create("dml-control", MFD_CLOEXEC);
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create: %s", strerror(errno));
    dml_err err;
    if (ftruncate(*fd, sizeof(dml_control)) != 0)
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "control page: %s", strerror(errno));
    else
        err = dml_control_map(*fd, out);
    if (err != DML_ERR_OK) close(*fd);
    return err;
}

dml_err dml_control_map(int fd, dml_control **out)
{
    void *p = mmap(NULL, sizeof(dml_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) DML_FAIL(DML_ERR_NOMEM, "control page: %s", strerror(errno));
    *out = p;
    return DML_ERR_OK;
}

void dml_control_unmap(dml_control *control)
{
    if (control) munmap(control, sizeof *control);
}

const char *dml_phase_name(dml_phase phase)
{
    static const char *const name[] = {"starting", "training", "evaluating", "changing plan",
                                       "parked",   "joining",  "ending"};
    return name[phase];
}

void dml_report_failure(const dml_reporter *to, int32_t rank, dml_err err)
{
    dml_report r = {.kind = DML_REPORT_FAIL, .rank = rank, .fail = {.err = (int32_t)err}};
    snprintf(r.fail.trail, sizeof r.fail.trail, "%s", dml_err_trail());
    (void)!to->put(to->context, &r);
}

dml_err dml_report_send(int fd, const dml_report *report)
{
    ssize_t n;
    do
        n = send(fd, report, sizeof *report, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof *report)
        DML_FAIL(DML_ERR_PEER, "the agent does not take reports: %s", strerror(errno));
    return DML_ERR_OK;
}

static dml_err receive(int fd, int flags, dml_report *out, bool *got)
{
    ssize_t n;
    do
        n = recv(fd, out, sizeof *out, flags);
    while (n < 0 && errno == EINTR);
    *got = n == (ssize_t)sizeof *out;
    if (n < 0 && errno != ECONNRESET && errno != EAGAIN)
        DML_FAIL(DML_ERR_BUG, "receiving a report: %s", strerror(errno));
    if (n > 0 && !*got) DML_FAIL(DML_ERR_BUG, "a report of %zd bytes", n);
    return DML_ERR_OK;
}

dml_err dml_report_look(int fd, dml_report *out, bool *got)
{
    return receive(fd, MSG_PEEK | MSG_DONTWAIT, out, got);
}

dml_err dml_report_receive(int fd, dml_report *out, bool *got)
{
    return receive(fd, 0, out, got);
}
