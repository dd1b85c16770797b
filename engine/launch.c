/* engine/launch.c - the supervisor and the agent's way to talk to it. */
#include "engine/launch.h"

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

enum { ARGS = 64 };

/* The ways to ask for a stop. */
static const int stop_signal[] = {SIGINT, SIGTERM, SIGHUP};
enum { STOP_SIGNALS = sizeof stop_signal / sizeof *stop_signal };

typedef struct request {
    enum { REQUEST_START, REQUEST_KILL, REQUEST_KILL_ALL } kind;
    int32_t rank;
} request;

typedef struct supervisor {
    pid_t self, agent;
    int agent_socket, signals;
    pid_t worker[DML_HOST_WORKERS]; /* 0: none */
    int stop_signals, last_signal;  /* how often the user asked to stop, and how the last time */
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
    const pid_t pid = start(s, argv, fds, n_fds);
    if (pid < 0) {
        tell_agent(s, &(dml_launch_event){DML_LAUNCH_FAILED, rank, 0, errno});
        return;
    }
    s->worker[rank] = pid;
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

/* ---- what can happen ---- */

static void serve_agent(supervisor *s)
{
    request q;
    int fds[DML_LAUNCH_FDS];
    char control[CMSG_SPACE(sizeof fds)];
    struct iovec io = {&q, sizeof q};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(s->agent_socket, &m, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof q) return;
    int n = 0;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), (size_t)n * sizeof(int));
    }
    if (q.kind == REQUEST_KILL_ALL)
        kill_workers(s);
    else if (q.kind == REQUEST_KILL)
        kill_worker(s, q.rank);
    else if (m.msg_flags & MSG_CTRUNC) /* some did not fit under this process' limit */
        tell_agent(s, &(dml_launch_event){DML_LAUNCH_FAILED, q.rank, 0, EMFILE});
    else
        start_worker(s, q.rank, fds, n);
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

static void reap(supervisor *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->agent) {
            s->agent_ended = true;
            s->agent_status = status;
        }
        for (int r = 0; r < DML_HOST_WORKERS; r++)
            if (s->worker[r] == pid) {
                s->worker[r] = 0;
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

static void wait_for_workers(supervisor *s)
{
    kill_workers(s);
    for (int r = 0; r < DML_HOST_WORKERS; r++)
        if (s->worker[r]) waitpid(s->worker[r], NULL, 0); /* SIGKILL was sent: it comes */
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

static dml_err open_supervisor(supervisor *s, char *const args[])
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    DML_TRY(open_signals(s));
    char name[] = "dml-agent", flag[] = "--agent", parent[16];
    snprintf(parent, sizeof parent, "%d", (int)s->self);
    char *argv[ARGS + 4] = {name, flag, parent};
    int n = 3;
    while (*args && n < ARGS + 3)
        argv[n++] = *args++;
    if (*args) DML_FAIL(DML_ERR_SPEC, "more than %d arguments", ARGS);
    s->agent = start(s, argv, &pair[1], 1);
    if (s->agent < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start the agent: %s", strerror(errno));
    close(pair[1]);
    s->agent_socket = pair[0];
    return DML_ERR_OK;
}

int dml_supervise(char *const argv[])
{
    supervisor s = {.self = getpid()};
    const dml_err err = open_supervisor(&s, argv);
    if (err != DML_ERR_OK) {
        fprintf(stderr, "dml-train: %s\n", dml_err_trail());
        return dml_err_exit_code(err);
    }
    struct pollfd on[] = {{s.signals, POLLIN, 0}, {s.agent_socket, POLLIN, 0}};
    while (!s.agent_ended) {
        if (poll(on, 2, -1) < 0) continue; /* EINTR; an idle wait: SIGCHLD ends it */
        if (on[1].revents & POLLIN) serve_agent(&s);
        if (on[0].revents & POLLIN) take_signals(&s);
        if (!(on[1].revents & POLLIN) && on[1].revents & POLLHUP) on[1].fd = -1;
    }
    wait_for_workers(&s);
    return exit_code(&s);
}

/* ---- the agent's side ---- */

static dml_err ask(const request *q, const int *fds, int32_t n_fds)
{
    char control[CMSG_SPACE(sizeof(int) * DML_LAUNCH_FDS)] = {0};
    request copy = *q;
    struct iovec io = {&copy, sizeof copy};
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
    if (sendmsg(DML_FD_LAUNCHER, &m, MSG_NOSIGNAL) != (ssize_t)sizeof copy)
        DML_FAIL(DML_ERR_PEER, "the supervisor does not answer: %s", strerror(errno));
    return DML_ERR_OK;
}

dml_err dml_launch_worker(int32_t rank, const int *fds, int32_t n_fds)
{
    DML_ASSERT_OP(rank, <, DML_HOST_WORKERS);
    DML_ASSERT_OP(n_fds, <=, DML_LAUNCH_FDS);
    return ask(&(request){REQUEST_START, rank}, fds, n_fds);
}

dml_err dml_launch_kill(int32_t rank)
{
    return ask(&(request){REQUEST_KILL, rank}, NULL, 0);
}

dml_err dml_launch_kill_all(void)
{
    return ask(&(request){REQUEST_KILL_ALL, 0}, NULL, 0);
}

dml_err dml_launch_next(dml_launch_event *out, bool *got)
{
    const ssize_t n = recv(DML_FD_LAUNCHER, out, sizeof *out, 0);
    *got = n == (ssize_t)sizeof *out;
    if (n < 0 && errno != ECONNRESET)
        DML_FAIL(DML_ERR_BUG, "receiving from the supervisor: %s", strerror(errno));
    return DML_ERR_OK;
}
