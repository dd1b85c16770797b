/* engine/launch.c - the supervisor. */
#include "engine/launch_impl.h"

#include "engine/base/failpoint.h"
#include "engine/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGS = 64, MAX_RESTARTS = 5 };

/* The ways to ask for a stop. */
static const int stop_signal[] = {SIGINT, SIGTERM, SIGHUP};
enum { STOP_SIGNALS = sizeof stop_signal / sizeof *stop_signal };

typedef struct supervisor {
    pid_t self, agent;
    int agent_socket, signals;
    pid_t worker[DML_HOST_WORKERS]; /* 0: none */
    pid_t last
        [DML_HOST_WORKERS]; /* the newest there was, 0: none; and its status when it has ended */
    int status[DML_HOST_WORKERS];
    char *const *args;        /* the agent's */
    int kept[DML_KEEP_SLOTS]; /* 1 + descriptor; 0: none */
    int restarts;
    bool resuming;                 /* the agent is told nothing before it has recalled all */
    int stop_signals, last_signal; /* how often the user asked to stop, and how the last time */
    int agent_status;
    bool agent_ended;
} supervisor;

dml_err dml_die_with_parent(pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "prctl(PR_SET_PDEATHSIG): %s", strerror(errno));
    if (getppid() != parent) /* it died before the call above */
        DML_FAIL(DML_ERR_PEER, "the supervisor died at start");
    return DML_ERR_OK;
}

void dml_fill_standard_fds(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR); /* takes the lowest free number */
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

void dml_process_name(const char *name)
{
    prctl(PR_SET_NAME, name); /* else it is "exe", after /proc/self/exe */
}

/* ---- children ---- */

/* Moves fds[i] to number DML_FD_LAUNCHER + i; all others are close-on-exec. */
static bool place_fds(const int *fds, int n)
{
    int high[DML_LAUNCH_FDS];
    for (int i = 0; i < n; i++) /* out of the way first: a target may be another one's source */
        if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, DML_FD_LAUNCHER + n)) < 0) return false;
    for (int i = 0; i < n; i++)
        if (dup2(high[i], DML_FD_LAUNCHER + i) < 0) return false;
    return true;
}

/* What a child does between fork and exec.  Nobody follows it yet, so what goes wrong is printed. */
static void become(const supervisor *s, char *const argv[], const int *fds, int n_fds)
{
    for (int i = 0; i < STOP_SIGNALS; i++)
        signal(stop_signal[i], SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dml_die_with_parent(s->self) != DML_ERR_OK) _exit(dml_err_exit_code(DML_ERR_PEER));
    if (place_fds(fds, n_fds)) execv("/proc/self/exe", argv);
    fprintf(stderr, "dml-train: cannot start %s with %d descriptors: %s\n", argv[0], n_fds,
            strerror(errno));
    _exit(dml_err_exit_code(DML_ERR_UNAVAILABLE));
}

static pid_t start(const supervisor *s, char *const argv[], const int *fds, int n_fds)
{
    const pid_t pid = fork();
    if (pid == 0) become(s, argv, fds, n_fds);
    return pid;
}

static void tell_agent(const supervisor *s, const dml_launch_event *e)
{
    if (s->resuming) return;
    /* An agent that is gone is noticed by its exit status. */
    (void)!send(s->agent_socket, e, sizeof *e, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void start_worker(supervisor *s, int32_t rank, const int *fds, int n_fds)
{
    char rank_text[16], parent_text[16];
    snprintf(rank_text, sizeof rank_text, "%d", rank);
    snprintf(parent_text, sizeof parent_text, "%d", (int)s->self);
    char name[] = "dml-worker", flag[] = "--worker";
    char *const argv[] = {name, flag, rank_text, parent_text, NULL};
    errno = EAGAIN; /* what a failpoint stands for */
    const bool fails = DML_FAILPOINT(SUPERVISOR_START) != DML_ERR_OK;
    const pid_t pid = fails ? -1 : start(s, argv, fds, n_fds);
    if (pid < 0) {
        tell_agent(s, &(dml_launch_event){DML_LAUNCH_FAILED, rank, 0, errno});
        return;
    }
    s->worker[rank] = s->last[rank] = pid;
    tell_agent(s, &(dml_launch_event){DML_LAUNCH_STARTED, rank, (int32_t)pid, 0});
}

static void kill_worker(const supervisor *s, int32_t rank)
{
    if (s->worker[rank]) kill(s->worker[rank], SIGKILL);
}

static void kill_workers(const supervisor *s)
{
    for (int r = 0; r < DML_HOST_WORKERS; r++)
        kill_worker(s, r);
}

static void wait_for_workers(supervisor *s)
{
    kill_workers(s);
    for (int r = 0; r < DML_HOST_WORKERS; r++)
        if (s->worker[r]) waitpid(s->worker[r], NULL, 0); /* SIGKILL was sent: it comes */
}

/* With the flag that says whether it is the first. */
static dml_err start_agent(supervisor *s, const char *how)
{
    char name[] = "dml-agent", flag[16], parent[16];
    int pair[2], n = 3;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    snprintf(flag, sizeof flag, "%s", how);
    snprintf(parent, sizeof parent, "%d", (int)s->self);
    char *argv[ARGS + 4] = {name, flag, parent};
    for (char *const *arg = s->args; *arg; arg++) {
        if (n == ARGS + 3) DML_FAIL(DML_ERR_SPEC, "more than %d arguments", ARGS);
        argv[n++] = *arg;
    }
    s->agent = start(s, argv, &pair[1], 1);
    close(pair[1]);
    if (s->agent < 0) {
        close(pair[0]);
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start the agent: %s", strerror(errno));
    }
    s->agent_socket = pair[0];
    return DML_ERR_OK;
}

/* The agent is dead, and SIGCHLD yet to come: poll must not return for its socket again. */
static void drop_agent_socket(supervisor *s, int socket)
{
    if (s->agent_socket != socket) return; /* another's by now */
    close(socket);
    s->agent_socket = -1;
}

/* ---- what the agent leaves to the next one ---- */

static void keep(supervisor *s, int32_t slot, int fd)
{
    if (s->kept[slot]) close(s->kept[slot] - 1);
    s->kept[slot] = 1 + fd;
}

static void give_back(const supervisor *s, int32_t slot)
{
    const dml_launch_request e = {DML_LAUNCH_RECALL, slot};
    dml_launch_put(s->agent_socket, &e, sizeof e, &(int){s->kept[slot] - 1}, s->kept[slot] ? 1 : 0);
}

static void resume(supervisor *s)
{
    s->resuming = false;
    for (int r = 0; r < DML_HOST_WORKERS; r++) {
        if (!s->last[r]) continue;
        tell_agent(s, &(dml_launch_event){DML_LAUNCH_STARTED, r, (int32_t)s->last[r], 0});
        if (!s->worker[r])
            tell_agent(s,
                       &(dml_launch_event){DML_LAUNCH_ENDED, r, (int32_t)s->last[r], s->status[r]});
    }
    if (s->stop_signals > 0)
        tell_agent(s, &(dml_launch_event){DML_LAUNCH_SIGNAL, 0, 0, s->last_signal});
}

/* ---- what can happen ---- */

/* False: there is nothing more to serve. */
static bool serve_agent(supervisor *s)
{
    dml_launch_request q;
    int fds[DML_LAUNCH_FDS], n;
    if (!dml_launch_get(s->agent_socket, &q, sizeof q, fds, &n)) return false;
    switch (q.kind) {
    case DML_LAUNCH_START:
        if (n < 0)
            tell_agent(s, &(dml_launch_event){DML_LAUNCH_FAILED, q.rank, 0, EMFILE});
        else
            start_worker(s, q.rank, fds, n);
        break;
    case DML_LAUNCH_KILL: kill_worker(s, q.rank); break;
    case DML_LAUNCH_KILL_ALL: kill_workers(s); break;
    case DML_LAUNCH_KEEP:
        if (n == 1) keep(s, q.rank, fds[0]);
        return true;
    case DML_LAUNCH_RECALL: give_back(s, q.rank); break;
    case DML_LAUNCH_RESUME: resume(s); break;
    }
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return true;
}

/* What an agent had asked for when it was killed. */
static void take_last_requests(supervisor *s)
{
    while (s->agent_socket >= 0) {
        struct pollfd on = {s->agent_socket, POLLIN, 0};
        if (poll(&on, 1, 0) <= 0 || !(on.revents & POLLIN) || !serve_agent(s)) return;
    }
}

/* Whoever was started by an agent that had not come to the end of it is of no use to another. */
static void clear_away(supervisor *s)
{
    wait_for_workers(s);
    memset(s->worker, 0, sizeof s->worker);
    memset(s->last, 0, sizeof s->last);
    for (int slot = 0; slot < DML_KEEP_SLOTS; slot++) {
        if (s->kept[slot]) close(s->kept[slot] - 1);
        s->kept[slot] = 0;
    }
}

/* Another agent in its place, if it was killed: it follows on where all that needs is kept, and begins anew where not all
 * workers were there.  What cannot be read twice is not begun twice; and an agent that ends by itself as it begins would
 * do so each time. */
static bool restart_agent(supervisor *s)
{
    const int sig = WIFSIGNALED(s->agent_status) ? WTERMSIG(s->agent_status) : 0;
    take_last_requests(s);
    const bool follows = s->kept[DML_KEEP_LAST] != 0;
    const bool may = follows
                         ? s->stop_signals <= 1
                         : s->stop_signals == 0 && sig == SIGKILL && strcmp(s->args[0], "-") != 0;
    if (sig == 0 || !may || s->restarts == MAX_RESTARTS) return false;
    fprintf(stderr,
            "dml-train: the agent (pid %d) was killed by signal %d (%s); starting it again\n",
            (int)s->agent, sig, strsignal(sig));
    drop_agent_socket(s, s->agent_socket);
    s->restarts++;
    s->resuming = follows;
    if (!follows) clear_away(s);
    if (DML_FAILPOINT(SUPERVISOR_AGAIN) != DML_ERR_OK) return false;
    return start_agent(s, follows ? "--agent-again" : "--agent-anew") == DML_ERR_OK;
}

static void reap(supervisor *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->agent) {
            s->agent_status = status;
            s->agent_ended = !restart_agent(s);
        }
        for (int r = 0; r < DML_HOST_WORKERS; r++)
            if (s->worker[r] == pid) {
                s->worker[r] = 0;
                s->status[r] = status;
                (void)!DML_FAILPOINT(SUPERVISOR_ENDED);
                tell_agent(s, &(dml_launch_event){DML_LAUNCH_ENDED, r, (int32_t)pid, status});
            }
    }
}

static void take_signals(supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue; /* several may have merged: reap looks for itself */
        s->last_signal = (int)info.ssi_signo;
        if (s->stop_signals++ == 0) {
            tell_agent(s, &(dml_launch_event){DML_LAUNCH_SIGNAL, 0, 0, (int32_t)info.ssi_signo});
        } else { /* asked again: at once */
            kill(s->agent, SIGKILL);
            kill_workers(s);
        }
    }
    reap(s);
}

static int exit_code(const supervisor *s)
{
    if (WIFEXITED(s->agent_status)) return WEXITSTATUS(s->agent_status);
    if (s->stop_signals > 1) {
        fprintf(stderr, "dml-train: stopped at once by the second signal (%s)\n",
                strsignal(s->last_signal));
        return 128 + s->last_signal;
    }
    const int sig = WTERMSIG(s->agent_status);
    fprintf(stderr, "dml-train: the agent (pid %d) was killed by signal %d (%s); the run is over\n",
            (int)s->agent, sig, strsignal(sig));
    return dml_err_exit_code(DML_ERR_PEER);
}

/* Stop requests and ends of children, by descriptor. */
static dml_err open_signals(supervisor *s)
{
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    for (int i = 0; i < STOP_SIGNALS; i++) {
        struct sigaction now;
        sigaction(stop_signal[i], NULL, &now);
        if (now.sa_handler != SIG_IGN) sigaddset(&wanted, stop_signal[i]);
    }
    signal(SIGCHLD, SIG_DFL); /* whoever started us may have ignored it */
    signal(SIGPIPE, SIG_IGN); /* this one and the next are for the children too: */
    signal(SIGXFSZ, SIG_IGN); /* as errors of a write they have a text and a code */
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    s->signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "signalfd: %s", strerror(errno));
    return DML_ERR_OK;
}

int dml_supervise(char *const argv[])
{
    supervisor s = {.self = getpid(), .args = argv};
    dml_err err = dml_failpoints_from_environment(DML_FAILPOINT_AGENT, false);
    if (err == DML_ERR_OK) err = open_signals(&s);
    if (err == DML_ERR_OK) err = start_agent(&s, "--agent");
    if (err != DML_ERR_OK) {
        fprintf(stderr, "dml-train: %s\n", dml_err_trail());
        return dml_err_exit_code(err);
    }
    while (!s.agent_ended) {
        struct pollfd on[] = {{s.signals, POLLIN, 0}, {s.agent_socket, POLLIN, 0}};
        if (poll(on, 2, -1) < 0) continue; /* EINTR; an idle wait: SIGCHLD ends it */
        if (on[1].revents & POLLIN) (void)serve_agent(&s);
        if (on[0].revents & POLLIN) take_signals(&s);
        if (on[1].revents == POLLHUP) drop_agent_socket(&s, on[1].fd);
    }
    wait_for_workers(&s);
    return exit_code(&s);
}
