/* engine/ctl.h - the socket through which a live run is asked and told: dml-ctl at one end, the agent at the other.
 *
 *   <output folder>/ctl.sock     mode 0600, and only the run's own user, or root, is answered
 *
 *   {"command": "status"}                                      {"ok": true, "status": {...}}       a line each way
 *   {"command": "inject", "fault": "kill@step=200,rank=1"}     {"ok": true}
 *   {"command": "checkpoint"}, {"command": "stop"}             {"ok": false, "error": "..."}
 *
 * The agent serves several clients from its poll loop and never waits for one: who sends a line that is too long, or does
 * not read its answers, is dropped.  The folder is named by a descriptor, so its path may be longer than a socket's name.
 */
#ifndef DML_ENGINE_CTL_H
#define DML_ENGINE_CTL_H

#include "engine/base/str.h"
#include "engine/inject.h"

#include <poll.h>

enum {
    DML_CTL_CLIENTS = 8,
    DML_CTL_FDS = DML_CTL_CLIENTS + 1,
    DML_CTL_LINE_BYTES = 4096,      /* of a request */
    DML_CTL_ANSWER_BYTES = 1 << 18, /* waiting for one client */
};

/* What the run does; each on the thread that serves.  Errors: the trail is the client's answer. */
typedef struct dml_ctl_calls {
    void *context;
    void (*status)(void *context, dml_str *json); /* appends one object, on one line */
    dml_err (*inject)(void *context, const dml_fault *fault);
    dml_err (*checkpoint)(void *context); /* asked for; it is saved a little later */
    dml_err (*stop)(void *context);       /* after the current step */
} dml_ctl_calls;

typedef struct dml_ctl dml_ctl;

/* Listens in `folder`, which is this run's alone: what another left there is replaced.
 * DML_ERR_UNAVAILABLE  there is no such folder, or no socket can be made in it: the run goes on without one */
dml_err dml_ctl_open(const char *folder, const dml_ctl_calls *calls, dml_ctl **out);
void dml_ctl_close(dml_ctl *ctl); /* removes the socket; NULL is fine */

/* What to poll: fills on[DML_CTL_FDS]; -1 where nobody is.  NULL ctl: nobody at all. */
void dml_ctl_poll(const dml_ctl *ctl, struct pollfd on[DML_CTL_FDS]);
/* Whoever is ready of those. */
void dml_ctl_serve(dml_ctl *ctl, const struct pollfd on[DML_CTL_FDS]);

/* ---- a client ---- */

/* Connects to the run of a folder, or to the socket itself.
 * DML_ERR_UNAVAILABLE  no run listens there: the text says whether there ever was one */
dml_err dml_ctl_connect(const char *run, int *fd);
/* Sends a line (without its end) and waits for the line that answers it, at most timeout_ms.
 * DML_ERR_PEER  the run has ended, or does not answer */
dml_err dml_ctl_ask(int fd, const char *line, int timeout_ms, dml_str *answer);

#endif
