/* engine/ctl.c - the agent's end: a listening socket and a few clients, none of which is waited for. */
#include "engine/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "ctl.sock"

typedef struct client {
    int fd; /* -1: nobody */
    size_t n;
    char line[DML_CTL_LINE_BYTES]; /* [n] of a request so far */
    dml_str answer;
    size_t sent;
} client;

struct dml_ctl {
    dml_ctl_calls calls;
    int folder, listener;
    client client[DML_CTL_CLIENTS];
};

/* ---- opening ----------------------------------------------------------------------------------------- */

static struct sockaddr_un address_in(int folder)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/" SOCKET_NAME, folder);
    return a;
}

/* Nobody but the user may connect, not even before the mode could be set. */
static bool bind_privately(const dml_ctl *c)
{
    const struct sockaddr_un a = address_in(c->folder);
    const mode_t before = umask(0177);
    const bool bound = bind(c->listener, (const struct sockaddr *)&a, sizeof a) == 0;
    umask(before);
    return bound;
}

dml_err dml_ctl_open(const char *folder, const dml_ctl_calls *calls, dml_ctl **out)
{
    dml_err err;
    dml_ctl *c = calloc(1, sizeof *c);
    if (!c) DML_FAIL(DML_ERR_NOMEM, "no memory for the control socket");
    c->calls = *calls;
    for (int32_t i = 0; i < DML_CTL_CLIENTS; i++)
        c->client[i].fd = -1;
    c->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (c->folder < 0) {
        err =
            dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "%s: %s", folder, strerror(errno));
        goto fail_folder;
    }
    c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listener < 0) {
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "socket: %s", strerror(errno));
        goto fail_socket;
    }
    unlinkat(c->folder, SOCKET_NAME, 0); /* of a run that was killed */
    if (!bind_privately(c) || listen(c->listener, DML_CTL_CLIENTS) != 0) {
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "%s/" SOCKET_NAME ": %s", folder,
                          strerror(errno));
        goto fail_bind;
    }
    *out = c;
    return DML_ERR_OK;
fail_bind:
    close(c->listener);
fail_socket:
    close(c->folder);
fail_folder:
    free(c);
    return err;
}

static void drop(client *k)
{
    if (k->fd >= 0) close(k->fd);
    dml_str_free(&k->answer);
    *k = (client){.fd = -1};
}

void dml_ctl_close(dml_ctl *c)
{
    if (!c) return;
    for (int32_t i = 0; i < DML_CTL_CLIENTS; i++)
        drop(&c->client[i]);
    unlinkat(c->folder, SOCKET_NAME, 0);
    close(c->listener);
    close(c->folder);
    free(c);
}

/* ---- a request --------------------------------------------------------------------------------------- */

/* {"ok": false, "error": "..."} */
static void refuse(dml_str *out, const char *why)
{
    json_t *o = json_pack("{s:b, s:s}", "ok", 0, "error", why);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    dml_str_printf(out, "%s\n", text ? text : "{\"ok\":false,\"error\":\"unreadable\"}");
    free(text);
    json_decref(o);
}

static void answer_err(dml_str *out, dml_err err)
{
    if (err == DML_ERR_OK)
        dml_str_printf(out, "{\"ok\":true}\n");
    else
        refuse(out, dml_err_trail());
}

static dml_err inject(const dml_ctl *c, const json_t *request)
{
    dml_fault fault;
    const char *text = json_string_value(json_object_get(request, "fault"));
    if (!text) DML_FAIL(DML_ERR_SPEC, "inject needs \"fault\", such as \"kill@rank=1\"");
    DML_TRY(dml_fault_parse(text, &fault));
    return c->calls.inject(c->calls.context, &fault);
}

static void status(const dml_ctl *c, dml_str *out)
{
    dml_str_printf(out, "{\"ok\":true,\"status\":");
    c->calls.status(c->calls.context, out);
    dml_str_printf(out, "}\n");
}

static void carry_out(const dml_ctl *c, const char *line, size_t n, dml_str *out)
{
    json_error_t where;
    json_t *request = json_loadb(line, n, JSON_REJECT_DUPLICATES, &where);
    const char *command = json_string_value(json_object_get(request, "command"));
    if (!request)
        refuse(out, "this is no JSON");
    else if (!command)
        refuse(out, "\"command\" is missing: status, inject, checkpoint or stop");
    else if (strcmp(command, "status") == 0)
        status(c, out);
    else if (strcmp(command, "inject") == 0)
        answer_err(out, inject(c, request));
    else if (strcmp(command, "checkpoint") == 0)
        answer_err(out, c->calls.checkpoint(c->calls.context));
    else if (strcmp(command, "stop") == 0)
        answer_err(out, c->calls.stop(c->calls.context));
    else
        refuse(out, "no such command: status, inject, checkpoint or stop");
    json_decref(request);
}

/* ---- clients ----------------------------------------------------------------------------------------- */

static bool is_ours(int fd)
{
    struct ucred who;
    socklen_t bytes = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) return false;
    return who.uid == geteuid() || who.uid == 0;
}

static void accept_one(dml_ctl *c)
{
    const int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    for (int32_t i = 0; i < DML_CTL_CLIENTS && is_ours(fd); i++) {
        if (c->client[i].fd >= 0) continue;
        c->client[i].fd = fd;
        return;
    }
    close(fd);
}

/* As much as goes out now.  False: it is gone. */
static bool send_answer(client *k)
{
    while (k->sent < k->answer.len) {
        const ssize_t n = send(k->fd, k->answer.text + k->sent, k->answer.len - k->sent,
                               MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return k->answer.len - k->sent < DML_CTL_ANSWER_BYTES;
        if (n <= 0) return false;
        k->sent += (size_t)n;
    }
    dml_str_clear(&k->answer);
    k->sent = 0;
    return true;
}

/* Every whole line of what has come is a request; what follows the last waits for its end.  False: it is gone, or has
 * nothing to say to us. */
static bool receive(const dml_ctl *c, client *k)
{
    const ssize_t got = recv(k->fd, k->line + k->n, sizeof k->line - k->n, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    k->n += (size_t)got;
    char *begin = k->line, *end;
    while ((end = memchr(begin, '\n', k->n))) {
        const size_t n = (size_t)(end - begin);
        carry_out(c, begin, n, &k->answer);
        k->n -= n + 1;
        begin = end + 1;
    }
    memmove(k->line, begin, k->n);
    return k->n < sizeof k->line;
}

void dml_ctl_poll(const dml_ctl *c, struct pollfd on[DML_CTL_FDS])
{
    for (int32_t i = 0; i < DML_CTL_CLIENTS; i++) {
        const client *k = c ? &c->client[i] : NULL;
        const bool waits = k && k->sent < k->answer.len;
        on[i] = (struct pollfd){k ? k->fd : -1, waits ? POLLOUT : POLLIN, 0};
    }
    on[DML_CTL_CLIENTS] = (struct pollfd){c ? c->listener : -1, POLLIN, 0};
}

void dml_ctl_serve(dml_ctl *c, const struct pollfd on[DML_CTL_FDS])
{
    for (int32_t i = 0; c && i < DML_CTL_CLIENTS; i++) {
        client *k = &c->client[i];
        if (k->fd < 0 || k->fd != on[i].fd || on[i].revents == 0) continue;
        const bool reads = on[i].events == POLLIN;
        if ((reads && !receive(c, k)) || !send_answer(k)) drop(k);
    }
    if (c && on[DML_CTL_CLIENTS].revents) accept_one(c);
}
