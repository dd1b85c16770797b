/* bench/comm.c - dml-bench-comm: collectives and transfers over forked processes, in nccl-tests' columns.
 *
 *   size    bytes of the whole buffer             algbw   size / time
 *   time    mean of the iterations and the ranks  busbw   algbw * factor: what each link carries
 *
 * Factors (nccl-tests, doc/PERFORMANCE.md): all_reduce 2 (n-1)/n; all_gather and reduce_scatter (n-1)/n;
 * sendrecv, where each rank sends to the next while it receives from the one before, 1.
 * All operations are in place.  `#wrong` counts elements that differ in a checked call of its own.
 */
#include "comm/transport.h"
#include "engine/base/clock.h"
#include "engine/base/err.h"

#include <argp.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_RANKS = 64, MAX_LINES = 512, TRAIL_BYTES = 2048 };

/* ---- options ---- */

typedef struct options {
    int64_t min_bytes, max_bytes;
    int factor, iterations, warmups, ranks;
    const char *op;   /* NULL: all */
    const char *json; /* NULL: none */
} options;

static const struct argp_option argp_options[] = {
    {"minbytes", 'b', "BYTES", 0, "smallest size (8); K, M, G are understood", 0},
    {"maxbytes", 'e', "BYTES", 0, "largest size (32M)", 0},
    {"stepfactor", 'f', "N", 0, "a size is N times the one before (4)", 0},
    {"iters", 'n', "N", 0, "timed iterations (20)", 0},
    {"warmup_iters", 'w', "N", 0, "iterations before them (5)", 0},
    {"ranks", 'r', "N", 0, "processes (2)", 0},
    {"op", 'o', "OP", 0, "all_reduce, all_gather, reduce_scatter or sendrecv (all of them)", 0},
    {"json", 'J', "FILE", 0, "write the results there too", 0},
    {0},
};

static int64_t parse_bytes(const char *text, struct argp_state *state)
{
    char *end;
    const double value = strtod(text, &end);
    const char *const units = "KMG";
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (value < 1 || (*end && (!unit || end[1])))
        argp_error(state, "'%s' is no number of bytes", text);
    return (int64_t)(value * (double)(unit ? INT64_C(1) << 10 * (unit - units + 1) : 1));
}

static int parse_count(const char *text, int least, int most, struct argp_state *state)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (*end || value < least || value > most)
        argp_error(state, "'%s' is no number from %d to %d", text, least, most);
    return (int)value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'b': o->min_bytes = parse_bytes(arg, state); return 0;
    case 'e': o->max_bytes = parse_bytes(arg, state); return 0;
    case 'f': o->factor = parse_count(arg, 2, 1 << 20, state); return 0;
    case 'n': o->iterations = parse_count(arg, 1, 1 << 30, state); return 0;
    case 'w': o->warmups = parse_count(arg, 0, 1 << 30, state); return 0;
    case 'r': o->ranks = parse_count(arg, 2, MAX_RANKS, state); return 0;
    case 'o': o->op = arg; return 0;
    case 'J': o->json = arg; return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

/* ---- one rank ---- */

typedef struct rank {
    const options *o;
    const dml_transport_api *api;
    dml_transport *t;
    dml_group *g;
    float *buffer; /* as large as the largest size, and once more for what sendrecv sends */
    float *source;
    int32_t me, n;
} rank;

/* Member m's element i: sums over members stay exact in float. */
static float value(int32_t m, int64_t i)
{
    return (float)((m + 1) * (int32_t)(i % 1021));
}

static void fill(rank *r, float *out, int64_t elems)
{
    for (int64_t i = 0; i < elems; i++)
        out[i] = value(r->me, i);
}

static int64_t differ(const float *got, int64_t from, int64_t to, int32_t m, int32_t times)
{
    int64_t wrong = 0;
    for (int64_t i = from; i < to; i++)
        wrong += got[i - from] != value(m, i) * (float)times;
    return wrong;
}

/* Each op runs `times` iterations, or prepares and checks one. */
typedef struct op {
    const char *name, *redop;
    bool parts; /* the buffer is n parts of `count` elements each */
    dml_err (*run)(rank *r, int64_t count, int times);
    void (*prepare)(rank *r, int64_t count);
    int64_t (*wrong)(const rank *r, int64_t count);
} op;

static dml_err run_all_reduce(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->all_reduce(r->g, NULL, r->buffer, count, DML_F32, DML_SUM));
    return DML_ERR_OK;
}

static void prepare_all_reduce(rank *r, int64_t count)
{
    fill(r, r->buffer, count);
}

static int64_t wrong_all_reduce(const rank *r, int64_t count)
{
    return differ(r->buffer, 0, count, 0, r->n * (r->n + 1) / 2);
}

static dml_err run_all_gather(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->all_gather(r->g, NULL, r->buffer, r->buffer + r->me * count,
                                   count * (int64_t)sizeof(float)));
    return DML_ERR_OK;
}

static void prepare_all_gather(rank *r, int64_t count)
{
    memset(r->buffer, 0, (size_t)(r->n * count) * sizeof(float));
    fill(r, r->buffer + r->me * count, count);
}

static int64_t wrong_all_gather(const rank *r, int64_t count)
{
    int64_t wrong = 0;
    for (int32_t m = 0; m < r->n; m++)
        wrong += differ(r->buffer + m * count, 0, count, m, 1);
    return wrong;
}

static dml_err run_reduce_scatter(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->reduce_scatter(r->g, NULL, r->buffer, count, DML_F32, DML_SUM));
    return DML_ERR_OK;
}

static void prepare_reduce_scatter(rank *r, int64_t count)
{
    fill(r, r->buffer, r->n * count);
}

static int64_t wrong_reduce_scatter(const rank *r, int64_t count)
{
    const int64_t from = r->me * count;
    return differ(r->buffer + from, from, from + count, 0, r->n * (r->n + 1) / 2);
}

/* Sends block, so they have a thread of their own, as a worker's send lane. */
typedef struct sender {
    rank *r;
    int64_t count;
    int times;
    dml_err err;
    char trail[TRAIL_BYTES];
} sender;

static void *send_all(void *arg)
{
    sender *s = arg;
    const rank *r = s->r;
    for (int k = 0; k < s->times && s->err == DML_ERR_OK; k++)
        s->err = r->api->send(r->t, NULL, (r->me + 1) % r->n, r->source,
                              s->count * (int64_t)sizeof(float), 0);
    snprintf(s->trail, sizeof s->trail, "%s", dml_err_trail());
    return NULL;
}

static dml_err receive_all(const sender *s)
{
    const rank *r = s->r;
    for (int k = 0; k < s->times; k++)
        DML_TRY(r->api->recv(r->t, NULL, (r->me + r->n - 1) % r->n, r->buffer,
                             s->count * (int64_t)sizeof(float), 0));
    return DML_ERR_OK;
}

static dml_err run_sendrecv(rank *r, int64_t count, int times)
{
    sender s = {.r = r, .count = count, .times = times};
    pthread_t thread;
    if (pthread_create(&thread, NULL, send_all, &s) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start the sending thread");
    const dml_err err = receive_all(&s);
    pthread_join(thread, NULL);
    DML_TRY(err);
    if (s.err != DML_ERR_OK) dml_err_trail_put(s.trail);
    return s.err;
}

static void prepare_sendrecv(rank *r, int64_t count)
{
    fill(r, r->source, count);
    memset(r->buffer, 0, (size_t)count * sizeof(float));
}

static int64_t wrong_sendrecv(const rank *r, int64_t count)
{
    return differ(r->buffer, 0, count, (r->me + r->n - 1) % r->n, 1);
}

static const op ops[] = {
    {"all_reduce", "sum", false, run_all_reduce, prepare_all_reduce, wrong_all_reduce},
    {"all_gather", "none", true, run_all_gather, prepare_all_gather, wrong_all_gather},
    {"reduce_scatter", "sum", true, run_reduce_scatter, prepare_reduce_scatter,
     wrong_reduce_scatter},
    {"sendrecv", "none", false, run_sendrecv, prepare_sendrecv, wrong_sendrecv},
};
enum { OPS = sizeof ops / sizeof *ops };

static double bus_factor(const op *p, int32_t n)
{
    if (p->run == run_sendrecv) return 1;
    return (p->run == run_all_reduce ? 2.0 : 1.0) * (n - 1) / n;
}

/* ---- what the ranks tell the parent ---- */

typedef struct line {
    int32_t op;
    int64_t bytes, count;
    double time_us[MAX_RANKS];
    int64_t wrong[MAX_RANKS];
} line;

typedef struct board {
    dml_abort abort;
    int32_t lines; /* the same on all ranks, written by rank 0 */
    dml_err err[MAX_RANKS];
    char trail[MAX_RANKS][TRAIL_BYTES];
    line line[MAX_LINES];
} board;

static dml_err together(rank *r)
{
    return r->api->all_reduce(r->g, NULL, r->source, 1, DML_F32, DML_SUM);
}

static dml_err measure(rank *r, const op *p, line *out)
{
    const int64_t count = out->count;
    p->prepare(r, count);
    DML_TRY(p->run(r, count, 1));
    out->wrong[r->me] = p->wrong(r, count);
    memset(r->buffer, 0, (size_t)out->bytes); /* repeated sums of zeros stay zeros */
    DML_TRY(p->run(r, count, r->o->warmups));
    DML_TRY(together(r));
    const int64_t begin_ns = dml_clock_ns();
    DML_TRY(p->run(r, count, r->o->iterations));
    out->time_us[r->me] = (double)(dml_clock_ns() - begin_ns) * 1e-3 / r->o->iterations;
    return together(r);
}

static dml_err measure_all(rank *r, board *b)
{
    int32_t lines = 0;
    for (int32_t k = 0; k < OPS; k++) {
        if (r->o->op && strcmp(r->o->op, ops[k].name) != 0) continue;
        for (int64_t bytes = r->o->min_bytes; bytes <= r->o->max_bytes; bytes *= r->o->factor) {
            const int64_t elems = bytes / (int64_t)sizeof(float);
            const int64_t count = ops[k].parts ? elems / r->n : elems;
            if (count < 1 || lines == MAX_LINES) continue;
            line *out = &b->line[lines++];
            if (r->me == 0) {
                out->op = k;
                out->count = count;
                out->bytes = count * (ops[k].parts ? r->n : 1) * (int64_t)sizeof(float);
            }
            DML_TRY(together(r)); /* rank 0 has written the line */
            DML_TRY(measure(r, &ops[k], out));
        }
    }
    b->lines = lines;
    return DML_ERR_OK;
}

static dml_err run_rank(const options *o, int32_t me, const int *fds, board *b)
{
    int32_t ranks[MAX_RANKS];
    for (int32_t i = 0; i < o->ranks; i++)
        ranks[i] = i;
    const int64_t room = o->max_bytes + 64;
    rank r = {.o = o, .me = me, .n = o->ranks};
    const dml_transport_config config = {
        .rank = me,
        .world = o->ranks,
        .memory_bytes = 2 * room,
        .timeout_ns = 60 * DML_NS_PER_S,
        .abort = &b->abort,
        .fds = fds,
    };
    DML_TRY(dml_transport_find("shm", &r.api));
    DML_TRY(r.api->open(&config, NULL, &r.t));
    DML_TRY(r.api->alloc(r.t, o->max_bytes, (void **)&r.buffer));
    DML_TRY(r.api->alloc(r.t, o->max_bytes, (void **)&r.source));
    DML_TRY(r.api->group_open(r.t, ranks, r.n, 0, &r.g));
    DML_TRY(measure_all(&r, b));
    r.api->group_close(r.g);
    r.api->close(r.t);
    return DML_ERR_OK;
}

/* ---- the parent ---- */

static dml_err run_ranks(const options *o, board *b)
{
    int fds[MAX_RANKS];
    pid_t pid[MAX_RANKS];
    for (int r = 0; r < o->ranks; r++) {
        fds[r] = memfd_create("dml-bench", MFD_CLOEXEC);
        if (fds[r] < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no memfd for rank %d", r);
    }
    for (int r = 0; r < o->ranks; r++) {
        pid[r] = fork();
        if (pid[r] < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no process for rank %d", r);
        if (pid[r] > 0) continue;
        b->err[r] = run_rank(o, r, fds, b);
        snprintf(b->trail[r], TRAIL_BYTES, "%s", dml_err_trail());
        if (b->err[r] != DML_ERR_OK) atomic_store(&b->abort.raised, 1);
        _exit(0);
    }
    dml_err err = DML_ERR_OK;
    for (int r = 0; r < o->ranks; r++) {
        waitpid(pid[r], NULL, 0);
        close(fds[r]);
        if (b->err[r] == DML_ERR_OK || err != DML_ERR_OK) continue;
        err = b->err[r];
        dml_err_trail_put(b->trail[r]);
    }
    return err;
}

/* Means over the ranks. */
static void summarise(const line *l, int32_t n, double *time_us, int64_t *wrong)
{
    *time_us = 0;
    *wrong = 0;
    for (int32_t r = 0; r < n; r++) {
        *time_us += l->time_us[r] / n;
        *wrong += l->wrong[r];
    }
}

static json_t *print_lines(const options *o, const board *b, int64_t *all_wrong)
{
    json_t *results = json_array();
    *all_wrong = 0;
    printf("# dml-bench-comm: shm, %d processes on %ld CPUs, %d iterations after %d\n", o->ranks,
           sysconf(_SC_NPROCESSORS_ONLN), o->iterations, o->warmups);
    for (int32_t i = 0; i < b->lines; i++) {
        const line *l = &b->line[i];
        const op *p = &ops[l->op];
        double time_us;
        int64_t wrong;
        summarise(l, o->ranks, &time_us, &wrong);
        const double algbw = (double)l->bytes / time_us * 1e-3;
        const double busbw = algbw * bus_factor(p, o->ranks);
        if (i == 0 || b->line[i - 1].op != l->op)
            printf(
                "#\n# %s\n#%11s %12s %7s %6s %10s %7s %7s %7s\n#%11s %12s %7s %6s %10s %7s %7s\n",
                p->name, "size", "count", "type", "redop", "time", "algbw", "busbw", "#wrong",
                "(B)", "(elements)", "", "", "(us)", "(GB/s)", "(GB/s)");
        printf("%12lld %12lld %7s %6s %10.2f %7.2f %7.2f %7lld\n", (long long)l->bytes,
               (long long)l->count, "float", p->redop, time_us, algbw, busbw, (long long)wrong);
        *all_wrong += wrong;
        json_array_append_new(
            results, json_pack("{s:s, s:I, s:I, s:s, s:s, s:f, s:f, s:f, s:I}", "op", p->name,
                               "size", (json_int_t)l->bytes, "count", (json_int_t)l->count, "type",
                               "float", "redop", p->redop, "time_us", time_us, "algbw_gb_s", algbw,
                               "busbw_gb_s", busbw, "wrong", (json_int_t)wrong));
    }
    return results;
}

static dml_err write_json(const options *o, json_t *results)
{
    json_t *root =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:O}", "program", "dml-bench-comm", "transport",
                  "shm", "ranks", o->ranks, "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN),
                  "iterations", o->iterations, "warmup_iterations", o->warmups, "results", results);
    const int rc = json_dump_file(root, o->json, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    if (rc != 0) DML_FAIL(DML_ERR_SPEC, "cannot write '%s'", o->json);
    return DML_ERR_OK;
}

static dml_err bench(const options *o)
{
    bool known = o->op == NULL;
    for (int k = 0; k < OPS; k++)
        known = known || strcmp(o->op, ops[k].name) == 0;
    if (!known) DML_FAIL(DML_ERR_SPEC, "no operation '%s'", o->op);
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) DML_FAIL(DML_ERR_NOMEM, "no memory for the results");
    DML_TRY(run_ranks(o, b));
    int64_t wrong;
    json_t *results = print_lines(o, b, &wrong);
    const dml_err err = o->json ? write_json(o, results) : DML_ERR_OK;
    json_decref(results);
    DML_TRY(err);
    if (wrong > 0) DML_FAIL(DML_ERR_CHECK, "%lld elements are wrong", (long long)wrong);
    return DML_ERR_OK;
}

int main(int argc, char **argv)
{
    options o = {.min_bytes = 8,
                 .max_bytes = 32 << 20,
                 .factor = 4,
                 .iterations = 20,
                 .warmups = 5,
                 .ranks = 2};
    const struct argp argp = {
        .options = argp_options,
        .parser = parse_option,
        .doc = "Measures the shared-memory transport between processes of this host.",
    };
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = bench(&o);
    if (err != DML_ERR_OK)
        fprintf(stderr, "dml-bench-comm: %s: %s\n", dml_err_text(err), dml_err_trail());
    return dml_err_exit_code(err);
}
