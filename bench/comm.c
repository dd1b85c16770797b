/* bench/comm.c - dml-bench comm: collectives and transfers over processes, in nccl-tests' columns.
 *
 *   size    bytes of the whole buffer             algbw   size / time
 *   time    mean of the iterations and the ranks  busbw   algbw * factor: what each link carries
 *
 * Factors (nccl-tests, doc/PERFORMANCE.md): all_reduce 2 (n-1)/n; all_gather and reduce_scatter (n-1)/n;
 * sendrecv, where each rank sends to the next while it receives from the one before, 1.
 * `sendrecv_busy` is sendrecv while every rank multiplies on a thread, or a GPU's queue, of its own: what stages meet.
 * memcpy is rank 0's alone, the physical measure of the others.
 * Nothing has a root: -1.  All operations are in place.  `#wrong` counts elements that differ in a checked call of its own.
 */
#include "bench/bench.h"

#include "bench/comm_rank.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- options ---- */

enum { OPTION_BACKEND = 256 };

static const struct argp_option argp_options[] = {
    {"minbytes", 'b', "BYTES", 0, "smallest size (8); K, M, G are understood", 0},
    {"maxbytes", 'e', "BYTES", 0, "largest size (32M)", 0},
    {"stepfactor", 'f', "N", 0, "a size is N times the one before (4)", 0},
    {"iters", 'n', "N", 0, "timed iterations (20)", 0},
    {"warmup_iters", 'w', "N", 0, "iterations before them (5)", 0},
    {"check", 'c', "0|1", 0, "count wrong elements (1)", 0},
    {"ranks", 'r', "N", 0, "processes (2)", 0},
    {"op", 'o', "OP", 0,
     "all_reduce, all_gather, reduce_scatter, sendrecv, sendrecv_busy, while products run, or "
     "memcpy "
     "(all of them)",
     0},
    {"backend", OPTION_BACKEND, "NAME", 0,
     "cpu: shared memory; cuda: NCCL, a process for each GPU, several where there are more (cpu)",
     0},
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
    comm_options *o = state->input;
    switch (key) {
    case 'b': o->min_bytes = parse_bytes(arg, state); return 0;
    case 'e': o->max_bytes = parse_bytes(arg, state); return 0;
    case 'f': o->factor = parse_count(arg, 2, 1 << 20, state); return 0;
    case 'n': o->iterations = parse_count(arg, 1, 1 << 30, state); return 0;
    case 'w': o->warmups = parse_count(arg, 0, 1 << 30, state); return 0;
    case 'c': o->check = parse_count(arg, 0, 1, state); return 0;
    case 'r': o->ranks = parse_count(arg, 2, COMM_RANKS, state); return 0;
    case 'o': o->op = arg; return 0;
    case 'J': o->json = arg; return 0;
    case OPTION_BACKEND: o->backend = arg; return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

/* ---- the parent ---- */

static dml_err run_ranks(const comm_options *o, comm_board *b)
{
    int fds[COMM_RANKS];
    pid_t pid[COMM_RANKS];
    for (int r = 0; r < o->ranks; r++) {
        fds[r] = memfd_create("dml-bench", MFD_CLOEXEC);
        if (fds[r] < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no memfd for rank %d", r);
    }
    for (int r = 0; r < o->ranks; r++) {
        pid[r] = fork();
        if (pid[r] < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no process for rank %d", r);
        if (pid[r] > 0) continue;
        b->err[r] = comm_rank_run(o, r, fds, b);
        snprintf(b->trail[r], COMM_TRAIL_BYTES, "%s", dml_err_trail());
        if (b->err[r] != DML_ERR_OK) atomic_store(&b->abort.raised, 1);
        _exit(0); /* whatever a library would do at exit */
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
static void summarise(const comm_line *l, int32_t n, double *time_us, double *beside,
                      int64_t *wrong)
{
    *time_us = *beside = 0;
    *wrong = 0;
    for (int32_t r = 0; r < n; r++) {
        *time_us += l->time_us[r] / n;
        *beside += l->beside_gflop_s[r] / n;
        *wrong += l->wrong[r];
    }
}

static json_t *print_lines(const comm_options *o, const comm_board *b, int64_t *all_wrong)
{
    json_t *results = json_array();
    *all_wrong = 0;
    char place[64];
    if (b->devices > 0)
        snprintf(place, sizeof place, "%d GPU%s", b->devices, b->devices == 1 ? "" : "s");
    else
        snprintf(place, sizeof place, "%ld CPUs", sysconf(_SC_NPROCESSORS_ONLN));
    printf("# dml-bench comm: %s: %s%s%s, %d processes on %s, %d iterations after %d\n", b->backend,
           b->transport, b->library[0] ? ", " : "", b->library, o->ranks, place, o->iterations,
           o->warmups);
    for (int32_t i = 0; i < b->lines; i++) {
        const comm_line *l = &b->line[i];
        const char *name = comm_op_name(l->op), *reduction = comm_op_reduction(l->op);
        double time_us, beside;
        int64_t wrong;
        char count[24] = "N/A";
        summarise(l, o->ranks, &time_us, &beside, &wrong);
        const double algbw = (double)l->bytes / time_us * 1e-3;
        const double busbw = algbw * comm_op_bus_factor(l->op, o->ranks);
        if (o->check) snprintf(count, sizeof count, "%lld", (long long)wrong);
        if (i == 0 || b->line[i - 1].op != l->op)
            printf(
                "#\n# %s\n#%11s %12s %7s %6s %6s %10s %7s %7s %7s\n#%11s %12s %7s %6s %6s %10s %7s "
                "%7s\n",
                name, "size", "count", "type", "redop", "root", "time", "algbw", "busbw", "#wrong",
                "(B)", "(elements)", "", "", "", "(us)", "(GB/s)", "(GB/s)");
        printf("%12lld %12lld %7s %6s %6d %10.2f %7.2f %7.2f %7s", (long long)l->bytes,
               (long long)l->count, "float", reduction, -1, time_us, algbw, busbw, count);
        if (beside > 0) printf("   beside %.1f GFLOP/s", beside);
        printf("\n");
        *all_wrong += wrong;
        json_array_append_new(
            results,
            json_pack("{s:s, s:I, s:I, s:s, s:s, s:i, s:f, s:f, s:f, s:o, s:f}", "op", name, "size",
                      (json_int_t)l->bytes, "count", (json_int_t)l->count, "type", "float", "redop",
                      reduction, "root", -1, "time_us", time_us, "algbw_gb_s", algbw, "busbw_gb_s",
                      busbw, "wrong", o->check ? json_integer(wrong) : json_null(),
                      "beside_gflop_s", beside));
    }
    return results;
}

static dml_err write_json(const comm_options *o, const comm_board *b, json_t *results)
{
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:O}", "program", "dml-bench comm",
                  "backend", b->backend, "transport", b->transport, "library", b->library, "ranks",
                  o->ranks, "gpus", b->devices, "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN),
                  "iterations", o->iterations, "warmup_iterations", o->warmups, "results", results);
    const int rc = json_dump_file(root, o->json, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    if (rc != 0) DML_FAIL(DML_ERR_SPEC, "cannot write '%s'", o->json);
    return DML_ERR_OK;
}

static dml_err bench(const comm_options *o)
{
    bool known = o->op == NULL;
    for (int k = 0; comm_op_name(k); k++)
        known = known || strcmp(o->op, comm_op_name(k)) == 0;
    if (!known) DML_FAIL(DML_ERR_SPEC, "no operation '%s'", o->op);
    comm_board *b =
        mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) DML_FAIL(DML_ERR_NOMEM, "no memory for the results");
    DML_TRY(run_ranks(o, b));
    int64_t wrong;
    json_t *results = print_lines(o, b, &wrong);
    const dml_err err = o->json ? write_json(o, b, results) : DML_ERR_OK;
    json_decref(results);
    DML_TRY(err);
    if (wrong > 0) DML_FAIL(DML_ERR_CHECK, "%lld elements are wrong", (long long)wrong);
    return DML_ERR_OK;
}

int dml_bench_comm(int argc, char **argv)
{
    comm_options o = {.min_bytes = 8,
                      .max_bytes = 32 << 20,
                      .factor = 4,
                      .check = true,
                      .iterations = 20,
                      .warmups = 5,
                      .ranks = 2,
                      .backend = "cpu"};
    const struct argp argp = {
        .options = argp_options,
        .parser = parse_option,
        .doc = "Measures the transport of a backend between processes of this host.",
    };
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = bench(&o);
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s: %s: %s\n", argv[0], dml_err_text(err), dml_err_trail());
    return dml_err_exit_code(err);
}
