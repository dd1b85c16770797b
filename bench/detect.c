/* bench/detect.c - how soon a death or a stop is noticed, and that nobody is accused who lives.
 *
 * Workers here only hold their beacon and beat, as an ordinary user's may; they keep memory resident or a core busy.
 * This process is the agent: one poll on what engine/detect.h gives.  A time is from just before kill(2) to the
 * sign being told.
 *
 *   kill(2) at a random instant of a heartbeat ---- noticed ---- reaped, another worker in its place
 */
#include "bench/bench.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/detect.h"
#include "engine/warden.h"

#include <argp.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOBODY = 65534, HEARTBEAT_MS = 100, PAGE = 4096, GIVE_UP_S = 60, MAX_TRIALS = 1000 };

typedef struct scenario {
    const char *name;
    int32_t workers;
    int64_t resident_mib; /* of the one that dies */
    bool busy;            /* each spins on a core */
    int signal;
    int trials;
    double bar_ms;
} scenario;

static const scenario scenarios[] = {
    {"killed, sleeping", 2, 16, false, SIGKILL, 200, 20.0},
    {"killed, 8 GB resident", 1, 8192, false, SIGKILL, 20, 20.0},
    {"killed, 12 busy", 12, 16, true, SIGKILL, 200, 150.0},
    {"stopped, sleeping", 2, 16, false, SIGSTOP, 100, 500.0},
    {"stopped, 12 busy", 12, 16, true, SIGSTOP, 60, 1200.0},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

typedef struct rig {
    const scenario *s;
    dml_control *control;
    int fd;
    dml_detect *detect;
    pid_t pid[DML_HOST_WORKERS];
    _Atomic int32_t *ready; /* [workers] shared: its memory is resident */
} rig;

/* ---- workers ---- */

static void touch(int64_t bytes)
{
    char *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) _exit(1);
    madvise(p, (size_t)bytes, MADV_NOHUGEPAGE); /* small pages take longest to free */
    for (int64_t i = 0; i < bytes; i += PAGE)
        p[i] = 1;
}

static void work(rig *g, int32_t rank)
{
    dml_warden warden;
    if (getuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0)) _exit(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dml_warden_open(g->control, rank, &warden) != DML_ERR_OK) _exit(1);
    touch((rank == 0 ? g->s->resident_mib : 1) << 20);
    atomic_store(&g->ready[rank], 1);
    volatile uint64_t sum = 0;
    for (;;) {
        if (!g->s->busy) pause();
        sum = sum + 1;
    }
}

static dml_err start_worker(rig *g, int32_t rank)
{
    atomic_store(&g->ready[rank], 0);
    DML_TRY(dml_detect_expect(g->detect, rank));
    fflush(NULL);
    g->pid[rank] = fork();
    if (g->pid[rank] < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no process for a worker");
    if (g->pid[rank] == 0) work(g, rank);
    const int64_t end_ns = dml_clock_ns() + GIVE_UP_S * DML_NS_PER_S;
    while (!atomic_load(&g->ready[rank]) && dml_clock_ns() < end_ns)
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
    if (atomic_load(&g->ready[rank])) return DML_ERR_OK;
    DML_FAIL(DML_ERR_UNAVAILABLE, "a worker with %lld MiB does not come up",
             (long long)g->s->resident_mib);
}

static void end_worker(rig *g, int32_t rank)
{
    if (g->pid[rank] <= 0) return;
    kill(g->pid[rank], SIGKILL);
    waitpid(g->pid[rank], NULL, 0);
    g->pid[rank] = 0;
    dml_detect_forget(g->detect, rank);
}

static void close_rig(rig *g)
{
    for (int32_t r = 0; r < g->s->workers; r++)
        end_worker(g, r);
    dml_detect_close(g->detect);
    dml_control_unmap(g->control);
    if (g->fd >= 0) close(g->fd);
    munmap(g->ready, DML_HOST_WORKERS * sizeof *g->ready);
}

static dml_err open_rig(const scenario *s, rig *g)
{
    *g = (rig){.s = s, .fd = -1};
    g->ready = mmap(NULL, DML_HOST_WORKERS * sizeof *g->ready, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->ready == MAP_FAILED) DML_FAIL(DML_ERR_NOMEM, "a shared page");
    dml_err err = dml_control_create(&g->control, &g->fd);
    const dml_detect_config config = {
        .control = g->control, .workers = s->workers, .heartbeat_ns = HEARTBEAT_MS * DML_NS_PER_MS};
    if (err == DML_ERR_OK) err = dml_detect_open(&config, &g->detect);
    for (int32_t r = 0; r < s->workers && err == DML_ERR_OK; r++)
        err = start_worker(g, r);
    if (err != DML_ERR_OK) close_rig(g);
    return err;
}

/* ---- the agent ---- */

/* As the agent's loop: false when nothing was told until then. */
static bool follow(rig *g, int64_t until_ns, dml_sign *sign)
{
    struct pollfd on = {dml_detect_fd(g->detect), POLLIN, 0};
    for (;;) {
        const int64_t now_ns = dml_clock_ns();
        if (dml_detect_next(g->detect, now_ns, sign)) return true;
        if (now_ns >= until_ns) return false;
        int64_t next_ns = dml_detect_due_ns(g->detect);
        if (until_ns < next_ns) next_ns = until_ns;
        const int64_t left_ns = next_ns - dml_clock_ns();
        poll(&on, 1, left_ns > 0 ? (int)(left_ns / DML_NS_PER_MS) + 1 : 0);
    }
}

typedef struct trials {
    double ms[MAX_TRIALS];
    int n;
    int32_t accused; /* who lived */
} trials;

static dml_err one_trial(rig *g, int trial, trials *out)
{
    uint32_t word[4];
    dml_sign sign;
    dml_rng_block(dml_rng_key(1, DML_RNG_TEST, 0), 0, (uint32_t)trial, word);
    const int64_t instant_ns = (int64_t)(word[0] % (HEARTBEAT_MS * 1000)) * 1000;
    if (follow(g, dml_clock_ns() + HEARTBEAT_MS * DML_NS_PER_MS + instant_ns, &sign)) {
        out->accused++;
        DML_FAIL(DML_ERR_CHECK, "rank %d was accused and lived: %s", sign.rank, sign.text);
    }
    const int64_t kill_ns = dml_clock_ns();
    kill(g->pid[0], g->s->signal);
    if (!follow(g, kill_ns + GIVE_UP_S * DML_NS_PER_S, &sign) || sign.rank != 0)
        DML_FAIL(DML_ERR_CHECK, "%s: not noticed in %d s", g->s->name, GIVE_UP_S);
    out->ms[out->n++] = (double)(dml_clock_ns() - kill_ns) * 1e-6;
    end_worker(g, 0);
    return start_worker(g, 0);
}

static dml_err run_trials(const scenario *s, int n, trials *out)
{
    rig g;
    DML_TRY(open_rig(s, &g));
    dml_err err = DML_ERR_OK;
    for (int i = 0; i < n && err == DML_ERR_OK; i++)
        err = one_trial(&g, i, out);
    close_rig(&g);
    return err;
}

/* ---- figures ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* By nearest rank, of n sorted. */
static double quantile(const double *v, int n, double share)
{
    return v[(int)ceil(share * n) - 1];
}

/* Counts in [2^k, 2^(k+1)) ms, from 1/16 ms, those below in the first. */
static json_t *histogram(const double *ms, int n)
{
    json_t *bins = json_array();
    for (int k = -4; k <= 12; k++) {
        int count = 0;
        for (int i = 0; i < n; i++) {
            const int bin = ms[i] > 0.0625 ? (int)floor(log2(ms[i])) : -4;
            count += bin == k;
        }
        if (count > 0)
            json_array_append_new(bins,
                                  json_pack("{s:f, s:i}", "from_ms", ldexp(1, k), "n", count));
    }
    return bins;
}

static json_t *row_of(const scenario *s, trials *t)
{
    qsort(t->ms, (size_t)t->n, sizeof *t->ms, by_size);
    const double p50 = quantile(t->ms, t->n, 0.5), p99 = quantile(t->ms, t->n, 0.99);
    printf("%-24s %6d %9.2f %9.2f %9.2f %8.0f  %s\n", s->name, t->n, p50, p99, t->ms[t->n - 1],
           s->bar_ms, p99 <= s->bar_ms ? "ok" : "MISSED");
    fflush(stdout);
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:i, s:f, s:f, s:f, s:f, s:b, s:o}", "scenario",
                     s->name, "workers", s->workers, "resident_mib", (json_int_t)s->resident_mib,
                     "busy", s->busy, "signal", sigabbrev_np(s->signal), "n", t->n, "p50_ms", p50,
                     "p99_ms", p99, "max_ms", t->ms[t->n - 1], "bar_ms", s->bar_ms, "within",
                     p99 <= s->bar_ms, "histogram", histogram(t->ms, t->n));
}

typedef struct options {
    double scale; /* of the trials */
    int load_s;
    const char *json, *only;
} options;

static dml_err measure(const options *o, json_t *rows)
{
    static trials t;
    printf("%-24s %6s %9s %9s %9s %8s\n", "", "trials", "p50 ms", "p99 ms", "max ms", "bar");
    for (int i = 0; i < SCENARIOS; i++) {
        const scenario *s = &scenarios[i];
        if (o->only && !strstr(s->name, o->only)) continue;
        int n = (int)(o->scale * s->trials);
        n = n < 1 ? 1 : n > MAX_TRIALS ? MAX_TRIALS : n;
        memset(&t, 0, sizeof t);
        DML_TRY(run_trials(s, n, &t));
        json_array_append_new(rows, row_of(s, &t));
    }
    return DML_ERR_OK;
}

/* Twelve busy workers that nobody harms; the widest gap between two heartbeats seen is stated. */
static dml_err run_load(int seconds, json_t **out)
{
    static const scenario s = {"12 busy, unharmed", 12, 1, true, 0, 0, 0.0};
    rig g;
    dml_sign sign;
    DML_TRY(open_rig(&s, &g));
    const int64_t begin_ns = dml_clock_ns(), end_ns = begin_ns + seconds * DML_NS_PER_S;
    int64_t gap_ns = 0, last_ns[DML_HOST_WORKERS] = {0};
    int accused = 0;
    while (dml_clock_ns() < end_ns && accused == 0) {
        accused = follow(&g, dml_clock_ns() + 20 * DML_NS_PER_MS, &sign);
        for (int32_t r = 0; r < s.workers; r++) {
            const int64_t beat_ns = atomic_load(&g.control->worker[r].beat_ns);
            if (last_ns[r] > 0 && beat_ns - last_ns[r] > gap_ns) gap_ns = beat_ns - last_ns[r];
            last_ns[r] = beat_ns;
        }
    }
    close_rig(&g);
    printf("%d workers busy for %d s: %d accused%s%s; widest gap between two heartbeats seen %.0f "
           "ms\n",
           s.workers, seconds, accused, accused ? ": " : "", accused ? sign.text : "",
           (double)gap_ns * 1e-6);
    *out = json_pack("{s:i, s:i, s:i, s:f}", "workers", s.workers, "seconds", seconds, "accused",
                     accused, "widest_gap_ms", (double)gap_ns * 1e-6);
    return DML_ERR_OK;
}

static const struct argp_option argp_options[] = {
    {"trials", 't', "X", 0, "as many times the trials (default 1)", 0},
    {"only", 'o', "TEXT", 0, "scenarios whose name has this in it; 'none': only the load", 0},
    {"load", 'l', "S", 0, "seconds of full load in which nobody may be accused (default 0)", 0},
    {"json", 'J', "FILE", 0, "write the figures", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 't': o->scale = atof(arg); return 0;
    case 'o': o->only = arg; return 0;
    case 'l': o->load_s = atoi(arg); return 0;
    case 'J': o->json = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int dml_bench_detect(int argc, char **argv)
{
    static const struct argp argp = {argp_options, parse, NULL, "Times noticing lost workers.",
                                     NULL,         NULL,  NULL};
    options o = {.scale = 1.0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0) return dml_err_exit_code(DML_ERR_SPEC);
    json_t *rows = json_array(), *load = json_null();
    dml_err err = measure(&o, rows);
    if (err == DML_ERR_OK && o.load_s > 0) err = run_load(o.load_s, &load);
    json_t *root =
        json_pack("{s:o, s:s, s:i, s:o, s:o}", "environment", bench_environment(), "command",
                  "dml-bench detect", "heartbeat_ms", HEARTBEAT_MS, "runs", rows, "load", load);
    if (err == DML_ERR_OK && o.json) err = bench_write(root, o.json);
    json_decref(root);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-bench: %s\n", dml_err_trail());
    return dml_err_exit_code(err);
}
