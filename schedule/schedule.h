/* schedule/schedule.h - the schedules by name, and what to do with their orders.
 *
 * An author writes the order of ONE pipeline: for each of its `stages` ranks a list of compute ops
 * of micro-batches 0 .. mbs - 1.  Chunks are numbered along the model; with v virtual stages there
 * are v * stages of them, and which rank runs a chunk is for the schedule to say.
 * dml_expand_replicas makes the order of all replicas from it, dml_lower the program.
 *
 * A new schedule is one file with one `const dml_schedule`, and one line in the list below.
 */
#ifndef DML_SCHEDULE_SCHEDULE_H
#define DML_SCHEDULE_SCHEDULE_H

#include "schedule/program.h"

typedef struct dml_schedule_args {
    int32_t stages;         /* ranks of one pipeline, >= 1                      */
    int32_t virtual_stages; /* chunks on each rank, >= 1                        */
    int32_t mbs;            /* micro-batches of one pipeline in one step, >= 1  */
    int32_t update_mbs;     /* asynchronous: micro-batches of one pipeline in one update,
                             * dividing mbs, which are those between two drains; 0 else */
    bool vertical_sync;     /* asynchronous: a micro-batch reads one version at all stages */
} dml_schedule_args;

/* Times of one chunk, all chunks alike, transfers free: what closed forms are about. */
typedef struct dml_schedule_times {
    int64_t fwd_ns, bwd_input_ns, bwd_weight_ns; /* whole backward: the sum of the last two */
} dml_schedule_times;

enum { DML_WALL_UNKNOWN = -1 };

typedef struct dml_schedule {
    const char *name;    /* canonical                                                 */
    const char *aliases; /* other names, separated by spaces; "" none                 */
    const char *doc;     /* one line                                                  */
    const char *needs;   /* of p stages and m micro-batches of a pipeline; "" nothing */
    bool many_chunks;    /* takes virtual_stages > 1                                  */

    /* Asynchronous: how many updates of the weights of `stage` micro-batch mb sees; its backward
     * reads the same.  NULL: synchronous, it sees those of all steps before.  An update without a
     * vote needs no other stage; whoever wants votes sets `votes` of the order. */
    int32_t (*version)(const dml_schedule_args *args, int32_t stage, int32_t mb);

    /* Pushes the ops of every rank to `order`, which is empty; routes follow from the ops.
     * DML_ERR_SPEC  args do not meet `needs`; the text says what would */
    dml_err (*build)(const dml_schedule_args *args, dml_program *order);

    /* Closed forms.  From the first op to the last, without reduction and step: DML_WALL_UNKNOWN where no
     * formula holds; most activations (a chunk, a micro-batch) that rank `stage` keeps at once. */
    int64_t (*wall_ns)(const dml_schedule_args *args, const dml_schedule_times *t);
    int32_t (*peak_stash)(const dml_schedule_args *args, int32_t stage);
} dml_schedule;

/* clang-format off */
#define DML_SCHEDULE_LIST(X) \
    X(sequential)            \
    X(gpipe)                 \
    X(gpipe_reverse)         \
    X(one_f_one_b)           \
    X(eager_one_f_one_b)     \
    X(interleaved_1f1b)      \
    X(looped_bfs)            \
    X(zb_h1)                 \
    X(zb_h2)                 \
    X(interleaved_zb)        \
    X(chimera)               \
    X(chimera_doubling)      \
    X(pipedream)             \
    X(pipedream_2bw)
/* clang-format on */
#define X(id) extern const dml_schedule dml_schedule_##id;
DML_SCHEDULE_LIST(X)
#undef X

/* All schedules, in the order of the list. */
const dml_schedule *const *dml_schedules(int32_t *n);

/* By name or alias; case, '-' and '_' do not count.
 * DML_ERR_SPEC  unknown: the text gives the nearest name and all that are allowed */
dml_err dml_schedule_find(const char *name, const dml_schedule **out);

/* The order of one pipeline, routed; `out` is uninitialised before, {0} on failure.
 * DML_ERR_SPEC  args out of range, or not what the schedule needs */
dml_err dml_schedule_build(const dml_schedule *schedule, const dml_schedule_args *args,
                           dml_program *out);

/* The order of `replicas` equal pipelines from that of one:
 *     worker = rank * replicas + replica,    global micro-batch b runs on replica b mod replicas
 * as its micro-batch b / replicas.  `mbs` is the global number.  Spans and buckets are copied;
 * an update has the micro-batches that all replicas have for it.
 * DML_ERR_SPEC  replicas do not divide mbs, or one->mbs is not mbs / replicas */
dml_err dml_expand_replicas(const dml_program *one, int32_t replicas, int32_t mbs,
                            dml_program *out);

/* Evaluation: the F ops of any training order or program, in their order, over the same routes;
 * nothing to reduce, so one bucket a chunk.  Of an asynchronous one the micro-batches of its first update. */
dml_err dml_schedule_forward_only(const dml_program *training, dml_program *out);

#endif
