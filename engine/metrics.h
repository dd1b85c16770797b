/* engine/metrics.h - the figures of a run: what they are called, and the file they go to.
 *
 * `metrics.jsonl` holds one JSON object per line, each written with one write(2), so a reader that follows the
 * file sees whole lines and a run that dies leaves whole lines.  Every object starts with
 *
 *   {"v":1,"type":"step","time_unix_s":1764000000.25,"wall_time_s":12.5,...
 *
 * and goes on with the record's fields in the order below.  Names carry units (`_s`, `_bytes`, `_ratio`: 0 to 1).
 * A number that is not finite is null, and "<name>_nonfinite" says "nan", "inf" or "-inf"; a text that is NULL
 * is left out.  The console (engine/console.h) prints the same records.
 */
#ifndef DML_ENGINE_METRICS_H
#define DML_ENGINE_METRICS_H

#include "engine/base/err.h"

#include <stdint.h>

/* A field is INT (int64_t), NUM (double) or TEXT (const char *, borrowed for the call). */
typedef int64_t dml_field_INT;
typedef double dml_field_NUM;
typedef const char *dml_field_TEXT;

/* clang-format off */
/*     kind of record; the name makes the type dml_<name>_record and the function dml_metrics_<name>      */
#define DML_RECORD_LIST(R)                                                                                 \
    R(RUN_START, run_start) /* once: what runs                                                          */ \
    R(PLAN,      plan)      /* how it is laid out, and what that should cost; again after a replan      */ \
    R(STEP,      step)      /* after each step                                                          */ \
    R(EVAL,      eval)      /* after each pass over the test split                                      */ \
    R(BALANCE,   balance)   /* under balance: dynamic after each window: the load, and what follows     */ \
    R(FAILURE,   failure)   /* one per lost worker, when its loss is noticed                            */ \
    R(RECOVERY,  recovery)  /* the first step after a loss or a return is committed                     */ \
    R(PACE,      pace)      /* some steps later: throughput before and after it, predicted and measured */ \
    R(MESSAGE,   message)   /* what else a person should find in the file                               */ \
    R(WORKER,    worker)    /* one per worker at the end, where all came to theirs                      */ \
    R(RUN_END,   run_end)   /* once: what came out                                                      */

/*    T: record type   field                     unit, meaning                                            */
#define DML_RUN_START_FIELDS(X, T)                                                                         \
    X(T, TEXT, run)                                                                                        \
    X(T, TEXT, version)                       /* of the program                                         */ \
    X(T, TEXT, spec_path)                                                                                  \
    X(T, TEXT, output_dir)                                                                                 \
    X(T, TEXT, host)                                                                                       \
    X(T, TEXT, backend)                                                                                    \
    X(T, TEXT, numerics)                      /* "fast", "exact", "exact_wide"                          */ \
    X(T, TEXT, precision)                     /* "fp32", "tf32", "bf16", "fp16"                         */ \
    X(T, TEXT, model)                         /* family                                                 */ \
    X(T, INT,  layers)                                                                                     \
    X(T, INT,  parameters)                                                                                 \
    X(T, TEXT, data)                          /* format and folder                                      */ \
    X(T, INT,  train_samples)                                                                              \
    X(T, INT,  test_samples)                                                                               \
    X(T, INT,  seed)                                                                                       \
    X(T, INT,  global_batch_size)             /* samples per step                                       */ \
    X(T, INT,  micro_batch_size)                                                                           \
    X(T, INT,  num_microbatches)              /* of a step, over all replicas                           */ \
    X(T, INT,  total_steps)                                                                                \
    X(T, NUM,  epochs)
#define DML_PLAN_FIELDS(X, T)                                                                              \
    X(T, TEXT, schedule)                                                                                   \
    X(T, INT,  world_size)                                                                                 \
    X(T, INT,  pipeline_parallel_size)        /* ranks of equal pipelines, 0: parallelism.stages        */ \
    X(T, INT,  data_parallel_size)            /* replicas of each, 0: parallelism.stages                */ \
    X(T, INT,  stages)                                                                                     \
    X(T, TEXT, workers)                       /* of each stage, "0,1 2 0,3"                             */ \
    X(T, TEXT, split)                         /* layers of each stage, "0-3 4-7"                        */ \
    X(T, INT,  drain_steps)                   /* asynchronous: most steps between two drains; 0: synchronous */ \
    X(T, TEXT, versions)                      /* of the weights, of each stage, "4 3 2 1"; NULL: synchronous */ \
    X(T, TEXT, staleness)                     /* updates between reading weights and applying their gradient, \
                                               * of each stage, "3 2 1 0"; NULL: synchronous            */ \
    X(T, NUM,  predicted_step_time_s)         /* planned, before the run; nan: nothing says its times   */ \
    X(T, NUM,  predicted_bubble_ratio)                                                                     \
    X(T, TEXT, costs)                         /* what the plan was made of, "profile vgg8.json ..."; NULL: flops \
                                               * and delays                                             */ \
    X(T, INT,  memory_peak_bytes)             /* of the worker that needs most                          */
#define DML_STEP_FIELDS(X, T)                                                                              \
    X(T, INT,  step)                          /* steps done, 1 .. total_steps                           */ \
    X(T, INT,  total_steps)                                                                                \
    X(T, NUM,  epoch)                         /* passes over the training split so far                  */ \
    X(T, NUM,  loss)                          /* mean over the step's samples                           */ \
    X(T, NUM,  grad_norm)                     /* before clipping                                        */ \
    X(T, NUM,  lr)                                                                                         \
    X(T, NUM,  loss_scale)                    /* on the loss's gradient in this step; 1 but in fp16     */ \
    X(T, NUM,  step_time_s)                                                                                \
    X(T, INT,  samples)                       /* in this step                                           */ \
    X(T, NUM,  samples_per_second)                                                                         \
    X(T, NUM,  bubble_ratio)                  /* idle share of all workers' compute lanes; nan: unknown */ \
    X(T, NUM,  eta_s)                         /* nan: unknown                                           */ \
    X(T, INT,  generation)                    /* of the plan under which it was committed; 0: the first */ \
    X(T, TEXT, verdict)                       /* "commit", "skip": weights stayed as they were          */ \
    X(T, INT,  staggered)                     /* 1: its optimizer steps did not wait for its vote       */ \
    X(T, INT,  undone)                        /* 1: they had not, were undone and made again            */
#define DML_EVAL_FIELDS(X, T)                                                                              \
    X(T, INT,  step)                          /* steps done before it                                   */ \
    X(T, NUM,  loss)                          /* mean over the split                                    */ \
    X(T, NUM,  accuracy_ratio)                                                                             \
    X(T, INT,  correct)                                                                                    \
    X(T, INT,  samples)                                                                                    \
    X(T, NUM,  eval_time_s)
#define DML_BALANCE_FIELDS(X, T)          /* planned_*: of the plan that is changed to, or now's            */ \
    X(T, INT,  step)                          /* last of the window                                     */ \
    X(T, INT,  changed)                       /* 1: the plan changes                                    */ \
    X(T, NUM,  entropy)                       /* of the workers' compute, engine/balance.h              */ \
    X(T, NUM,  planned_entropy)                                                                            \
    X(T, TEXT, shares)                        /* micro-batches of each holder, "5:5:5 7:8": of shared stages */ \
    X(T, TEXT, planned_shares)                                                                             \
    X(T, TEXT, split)                         /* layers of each stage, "[3, 4]"                         */ \
    X(T, TEXT, planned_split)                                                                              \
    X(T, TEXT, speeds)                        /* of each worker, measured, "[1, 1, 0.5]"                */ \
    X(T, NUM,  step_time_s)                   /* simulated with what was measured                       */ \
    X(T, NUM,  planned_step_time_s)
#define DML_FAILURE_FIELDS(X, T)                                                                           \
    X(T, NUM,  t_fault_s)                     /* wall_time_s at which it failed, as far as known        */ \
    X(T, NUM,  t_detect_s)                    /* wall_time_s at which that was noticed                  */ \
    X(T, TEXT, detected_by)                   /* "beacon", "heartbeat", "exit status", ...              */ \
    X(T, INT,  injected)                      /* 1: the run was asked to break there                    */ \
    X(T, TEXT, cause)                         /* the worker's own words, its error trail; NULL: none    */ \
    X(T, INT,  rank)                                                                                       \
    X(T, INT,  stage)                                                                                      \
    X(T, INT,  replica)                                                                                    \
    X(T, INT,  pid)                                                                                        \
    X(T, TEXT, host)                                                                                       \
    X(T, INT,  signal)                        /* that killed it; 0: it exited or still lives            */ \
    X(T, INT,  exit_code)                     /* -1: it did not exit by itself                          */ \
    X(T, INT,  step)                          /* that was under way, from 1                             */ \
    X(T, TEXT, last_action)                   /* the last op it completed; NULL: unknown                */
/* What begins with t_ is wall_time_s at which a part ended, in this order; nan: there was no such part.  A loss that
 * strikes while another is mended is part of that recovery, which then began with the first. */
#define DML_RECOVERY_FIELDS(X, T)                                                                          \
    X(T, INT,  recovery)                      /* from 1                                                 */ \
    X(T, TEXT, reason)                        /* "loss", "restart", "rejoin"                            */ \
    X(T, TEXT, ranks)                         /* lost, or come back, in it: "2" or "0 5"                */ \
    X(T, TEXT, lost)                          /* all that are not there from here on                    */ \
    X(T, INT,  injected)                      /* 1: the first loss was                                  */ \
    X(T, TEXT, detected_by)                   /* the first loss                                         */ \
    X(T, INT,  generation)                    /* of the plan from here on                               */ \
    X(T, INT,  fences)                        /* raised until it held; more than 1: losses on the way   */ \
    X(T, INT,  step)                          /* steps committed in the state that it goes on with      */ \
    X(T, INT,  steps_lost)                    /* committed steps that are run again: the state's age    */ \
    X(T, INT,  micro_batches_rerun)           /* of those, and of the step that was broken off          */ \
    X(T, NUM,  t_fault_s)                     /* as far as known                                        */ \
    X(T, NUM,  t_detect_s)                                                                                 \
    X(T, NUM,  t_park_s)                      /* all who live have left the step                        */ \
    X(T, NUM,  t_plan_s)                      /* the next plan is published                             */ \
    X(T, NUM,  t_move_state_s)                /* the state lies where the next plan finds it            */ \
    X(T, NUM,  t_rebuild_comm_s)              /* transports are open, memory is filled                  */ \
    X(T, NUM,  t_first_step_s)                /* the first step is committed                            */ \
    X(T, NUM,  recovery_time_s)               /* from fault to first step                               */ \
    X(T, INT,  bytes_moved)                                                                                \
    X(T, TEXT, state_source)                  /* "peers", "snapshot", "checkpoint", "start"             */ \
    X(T, TEXT, repair)                        /* "re-route", "re-cut", "first plan"                     */ \
    X(T, TEXT, plan_before)                   /* workers of each stage, "0,1 2,3", with their           */ \
    X(T, TEXT, plan_after)                    /* micro-batches: "0:4,1:4 2:8"                           */ \
    X(T, NUM,  throughput_before)             /* samples/s, median under the plan before; nan: no step  */ \
    X(T, NUM,  predicted_throughput_after)    /* that, times the simulated steps' ratio                 */ \
    X(T, NUM,  predicted_throughput_ratio)    /* after / before; nan: not simulated                     */ \
    X(T, INT,  bound_holds)                   /* what was lost fits into the bubbles, engine/replan.h   */ \
    X(T, TEXT, bound)                         /* of the stage where it is tightest, in micro-batches: "stage 0: \
                                               * 4 more, 1 idle"; NULL: nobody is lost               */ \
    X(T, TEXT, bits)                          /* "same bits", or what else is the same                  */
#define DML_PACE_FIELDS(X, T)                                                                              \
    X(T, INT,  recovery)                      /* that it belongs to                                     */ \
    X(T, INT,  steps)                         /* measured                                               */ \
    X(T, NUM,  throughput_before)             /* samples/s                                              */ \
    X(T, NUM,  throughput_after)                                                                           \
    X(T, NUM,  predicted_throughput_after)                                                                 \
    X(T, NUM,  throughput_ratio)              /* after / before                                         */ \
    X(T, NUM,  predicted_throughput_ratio)
#define DML_MESSAGE_FIELDS(X, T)                                                                           \
    X(T, TEXT, level)                         /* "info", "warn", "error"                                */ \
    X(T, TEXT, text)
#define DML_WORKER_FIELDS(X, T)           /* bubbles: dml_sim_bubble of schedule/sim.h says what they are */ \
    X(T, INT,  worker)                                                                                     \
    X(T, TEXT, stages)                        /* that it holds, "0,2"                                   */ \
    X(T, NUM,  planned_step_time_s)           /* of the spec's costs or delays; nan: nothing says them  */ \
    X(T, NUM,  planned_bubble_ratio)                                                                       \
    X(T, NUM,  predicted_step_time_s)         /* simulated from this run's own median op times          */ \
    X(T, NUM,  predicted_bubble_ratio)                                                                     \
    X(T, NUM,  step_time_median_s)                                                                         \
    X(T, NUM,  bubble_ratio)                  /* of this worker's compute lane, over the steps measured */ \
    X(T, NUM,  predicted_exposed_comm_s)      /* of a step: compute stands still while data moves       */ \
    X(T, NUM,  exposed_comm_s)                /* the same, measured; nan: a GPU, where nobody knows     */ \
    X(T, INT,  predicted_stash)               /* most micro-batches between forward and backward        */ \
    X(T, INT,  stash)                         /* the same, counted                                      */ \
    X(T, INT,  stash_bytes)                   /* of all its slots                                       */
#define DML_RUN_END_FIELDS(X, T)                                                                           \
    X(T, TEXT, status)                        /* "finished", "stopped", "failed"                        */ \
    X(T, INT,  exit_code)                                                                                  \
    X(T, INT,  steps)                                                                                      \
    X(T, INT,  samples)                                                                                    \
    X(T, NUM,  train_time_s)                  /* evaluation left out                                    */ \
    X(T, NUM,  samples_per_second)                                                                         \
    X(T, NUM,  step_time_median_s)                                                                         \
    X(T, NUM,  step_time_p95_s)                                                                            \
    X(T, NUM,  planned_step_time_s)           /* of the spec's costs or delays; nan: nothing says them  */ \
    X(T, NUM,  predicted_step_time_s)         /* of this run's own op times; nan: not predicted         */ \
    X(T, NUM,  bubble_ratio)                  /* mean over the steps measured                           */ \
    X(T, NUM,  predicted_bubble_ratio)                                                                     \
    X(T, NUM,  exposed_comm_s)                /* mean over workers; nan: not known                      */ \
    X(T, NUM,  predicted_exposed_comm_s)                                                                   \
    X(T, NUM,  loss)                          /* of the last step                                       */ \
    X(T, NUM,  test_loss)                     /* nan: never evaluated                                   */ \
    X(T, NUM,  test_accuracy_ratio)                                                                        \
    X(T, TEXT, weights_hash)                  /* 16 hexadecimal digits                                  */ \
    X(T, INT,  memory_peak_bytes)             /* of the worker that used most                           */ \
    X(T, INT,  failures)                      /* workers lost, and what ended the run                   */ \
    X(T, INT,  recoveries)                    /* rejoins among them                                     */ \
    X(T, INT,  steps_lost)                    /* committed steps that were run again                    */ \
    X(T, NUM,  recovery_time_max_s)           /* from fault to next committed step; nan: no loss        */
/* clang-format on */

#define R(KIND, name) DML_RECORD_##KIND,
typedef enum dml_record_kind { DML_RECORD_LIST(R) } dml_record_kind;
#undef R

#define X(T, kind, field) dml_field_##kind field;
#define R(KIND, name)                    \
    typedef struct dml_##name##_record { \
        DML_##KIND##_FIELDS(X, )         \
    } dml_##name##_record;
DML_RECORD_LIST(R)
#undef R
#undef X

typedef struct dml_metrics {
    int fd;
    int64_t opened_ns;
    char *path; /* owned */
} dml_metrics;

/* Opens <folder>/metrics.jsonl for appending; makes the folder and those above it where needed.
 *
 *   folder  where the run puts its files, e.g. "runs/mnist"; borrowed until return
 *   out     written only on success; dml_metrics_close
 *
 * DML_ERR_DATA  the folder or the file cannot be made: the text names it
 */
dml_err dml_metrics_open(const char *folder, dml_metrics *out);
void dml_metrics_close(dml_metrics *m);

/* Bytes in the file; and the file cut to its first `bytes`. */
int64_t dml_metrics_bytes(const dml_metrics *m);
dml_err dml_metrics_cut(const dml_metrics *m, int64_t bytes);

/* Appends `record`, a dml_<name>_record of that kind.  Through the typed functions below.
 *
 * DML_ERR_DATA  the line could not be written in one piece: the text names the file
 */
dml_err dml_metrics_write(dml_metrics *m, dml_record_kind kind, const void *record);

/* dml_metrics_step(m, &step), dml_metrics_eval(m, &eval), ... */
#define R(KIND, name)                                                                           \
    static inline dml_err dml_metrics_##name(dml_metrics *m, const dml_##name##_record *record) \
    {                                                                                           \
        return dml_metrics_write(m, DML_RECORD_##KIND, record);                                 \
    }
DML_RECORD_LIST(R)
#undef R

/* Step times of a run, as a uniform sample of bounded size: all of them up to DML_STATS_CAPACITY, then each
 * new one replaces a random one with probability capacity / count (Vitter's algorithm R). */
enum { DML_STATS_CAPACITY = 2048 };
typedef struct dml_stats {
    int64_t count; /* added so far */
    double sum;
    double sample[DML_STATS_CAPACITY];
} dml_stats; /* starts as {0} */

void dml_stats_add(dml_stats *s, double value);

/* The smallest kept value that at least share * 100 % of the kept ones do not exceed (nearest rank); share in
 * (0, 1], 0.5 being the median.  nan when nothing was added. */
double dml_stats_quantile(const dml_stats *s, double share);

#endif
