/* bench/bench.h - what the sub-commands of dml-bench share.  Each is a function over its own arguments. */
#ifndef DML_BENCH_BENCH_H
#define DML_BENCH_BENCH_H

#include "engine/base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* clang-format off */
/*    name       what `dml-bench --help` says of it                                                          */
#define DML_BENCH_LIST(X)                                                                                      \
    X(node,      "proof for this machine, in 10 minutes: kernels, links, bits, speed; one JSON to send back") \
    X(conform,   "each kernel of a backend against the reference, on one device")                            \
    X(ceilings,  "copy bandwidth, matrix products, and what the kernels reach of them, on one device")       \
    X(gemm,      "matrix products at the shapes of a spec's layers, or given: GFLOP/s and share of the peak")  \
    X(conv,      "convolutions, likewise")                                                                    \
    X(kernels,   "each kernel of a CPU backend at the shapes of VGG-8 and ResNet-20, 1 and 2 threads")       \
    X(train,     "layouts of a spec: samples a second, speed-up, bubble, memory, spread; floors")             \
    X(comm,      "collectives and transfers between processes, in the columns of nccl-tests")                 \
    X(schedules, "what lowering, checking and simulating schedules costs, up to 1,024 stages")                 \
    X(planner,   "what finding a placement costs, up to 4,096 devices and 128 layers")                         \
    X(detect,    "how soon a killed or stopped worker is noticed, and that no other is accused")               \
    X(recovery,  "faults of each kind at random places of a run: what going on costs, part by part")           \
    X(figures,   "README.md's figures against bench/results/; --write sets them right")                       \
    X(probe,     "how much faster two threads are than one, now: 2 on two cores")                             \
    X(environment, "this machine, as the JSON that every result carries")
/* clang-format on */

/* argv[0] is "dml-bench NAME"; returns the program's exit code. */
#define X(name, doc) int dml_bench_##name(int argc, char **argv);
DML_BENCH_LIST(X)
#undef X

/* ---- probe.c ---- */

/* How much faster two threads are than one, now; takes some milliseconds. */
double bench_two_thread_speed_up(void);

/* ---- environment.c ---- */

/* Date, commit, processor, memory, kernel, compiler, and each GPU that nvidia-smi lists, as a new object. */
json_t *bench_environment(void);

/* ---- child.c ---- */

/* Path of the program `name` beside this one, into path[bytes]. */
void bench_beside(const char *name, char *path, size_t bytes);

/* Runs argv (NULL at its end; argv[0] a path) with stdout and stderr into the file `log`; kills it with
 * SIGKILL when limit_s have passed.  *code is its exit code, or 128 + n after signal n.
 *
 * DML_ERR_UNAVAILABLE  it cannot be started */
dml_err bench_run(const char *const argv[], const char *log, double limit_s, int *code);

/* The same, but SIGTERM is sent once when `enough`, asked every 10 ms, says so.  NULL: never. */
dml_err bench_run_until(const char *const argv[], const char *log, double limit_s,
                        bool (*enough)(void *context), void *context, int *code);

/* The newest record of each type in the metrics.jsonl of `folder`, as {"run_start": {...}, ...}; empty when there
 * is no such file. */
json_t *bench_records(const char *folder);

/* The last `bytes` of a file, whole lines, into text[bytes]; "" when it cannot be read. */
void bench_tail(const char *file, char *text, size_t bytes);

/* Writes `root` to `file`; DML_ERR_DATA names it when it cannot. */
dml_err bench_write(const json_t *root, const char *file);

/* ---- stats.c ---- */

typedef struct bench_spread {
    double median, low, high; /* quartiles, by nearest rank */
} bench_spread;

/* Of v[n], n >= 1, which it sorts. */
bench_spread bench_spread_of(double *v, int n);

typedef struct bench_stats {
    int n;
    double median, low, high, p95; /* quantiles by nearest rank */
    double mean, cv;               /* cv: standard deviation over mean */
} bench_stats;

bench_stats bench_stats_of(double *v, int n);

#endif
