/* engine/spec.h - what the user asked for: a YAML file and dotted overrides, checked, defaults filled in.
 *
 * Every key, its type, default, aliases and one line of documentation stand in one table
 * (engine/spec_keys.h); parser, --print-config, --keys and the error texts come from it.  An unknown
 * key is an error with file:line:column, the nearest key and the section where it belongs.
 */
#ifndef DML_ENGINE_SPEC_H
#define DML_ENGINE_SPEC_H

#include "comm/transport.h"
#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/costs.h"
#include "engine/inject.h"
#include "engine/placement.h"
#include "kernels/kernels.h"
#include "schedule/program.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Where a value was written; line 0: a default, or made by a model family. */
typedef struct dml_place {
    const char *file; /* "command line" for overrides */
    int32_t line, column;
} dml_place;

/* clang-format off */
/*    kind            name in the spec     what it is                                                     */
#define DML_LAYER_LIST(X)                                                                                  \
    X(LINEAR,        "linear")         /* y = x W^T + b                                                */ \
    X(CONV2D,        "conv2d")         /* groups, stride, padding, dilation                            */ \
    X(MAX_POOL2D,    "max_pool2d")                                                                        \
    X(AVG_POOL2D,    "avg_pool2d")     /* kernel omitted: the whole image                              */ \
    X(BATCH_NORM,    "batch_norm")                                                                        \
    X(RELU,          "relu")                                                                              \
    X(GELU,          "gelu")                                                                              \
    X(TANH,          "tanh")                                                                              \
    X(DROPOUT,       "dropout")                                                                           \
    X(FLATTEN,       "flatten")        /* to [features], PyTorch's order (channels first)              */ \
    X(ADD,           "add")            /* joins the branches of `residual`, or by name what came before */ \
    X(CROSS_ENTROPY, "cross_entropy")  /* softmax cross-entropy against the label; from training.loss  */ \
    X(MSE,           "mse")            /* mean squared error against the one-hot label                 */ \
    X(DELAY,         "delay")          /* takes forward, input-gradient, weight-gradient time, computes the identity */
/* clang-format on */
typedef enum dml_layer_kind {
#define X(kind, name) DML_LAYER_##kind,
    DML_LAYER_LIST(X)
#undef X
} dml_layer_kind;

/* One layer as written (`layers:`) or as a family made it, before shapes are known.  Fields that a kind
 * does not use are zero.  `residual: {body: [...], shortcut: [...]}` becomes its body, its shortcut and an
 * ADD, so layers form a chain but for the inputs of shortcuts and ADDs; `add: NAME` is an ADD alone. */
typedef struct dml_layer_spec {
    dml_layer_kind kind;
    const char
        *name; /* unique, e.g. "conv2", "block3.bn1"; parameters are named "<name>.weight" ... */
    int32_t input; /* index of the layer it reads; -1: the model's input */
    int32_t
        with; /* ADD: the other branch (the shortcut's last layer, or the block's input); else -1 */
    int32_t out; /* LINEAR: features; CONV2D: channels */
    bool bias;
    dml_conv2d conv;
    dml_pool2d pool;      /* kernel 0: the whole image */
    float rate;           /* DROPOUT */
    bool tanh_form;       /* GELU: PyTorch's approximate="tanh" */
    float eps, momentum;  /* BATCH_NORM */
    bool per_micro_batch; /* BATCH_NORM: running moments move once a micro-batch, not once a step */
    bool zero_init;       /* BATCH_NORM: the weight starts at 0, not at 1 */
    int64_t ns[3];        /* DELAY: forward, input gradient, weight gradient */
    dml_place place;
} dml_layer_spec;

typedef enum dml_data_format { DML_DATA_IDX, DML_DATA_SYNTHETIC } dml_data_format;
typedef enum dml_last_batch { DML_LAST_WRAP, DML_LAST_SHORT, DML_LAST_DROP } dml_last_batch;
typedef enum dml_optimizer { DML_OPT_SGD, DML_OPT_ADAMW } dml_optimizer;
typedef enum dml_lr_schedule {
    DML_LR_CONSTANT,
    DML_LR_STEP,
    DML_LR_LINEAR,
    DML_LR_COSINE
} dml_lr_schedule;
typedef enum dml_numerics { DML_FAST, DML_EXACT, DML_EXACT_WIDE } dml_numerics;
/* What activations and the factors of products are; weights, their gradients and moments are float in all. */
typedef enum dml_precision {
    DML_PRECISION_FP32,
    DML_PRECISION_TF32, /* float, but a product may round its factors to 10 bits */
    DML_PRECISION_BF16,
    DML_PRECISION_FP16, /* with a loss scale */
} dml_precision;
typedef enum dml_init {
    DML_INIT_KAIMING_UNIFORM,
    DML_INIT_KAIMING_NORMAL,
    DML_INIT_XAVIER_UNIFORM
} dml_init;
typedef enum dml_stem { DML_STEM_CIFAR, DML_STEM_IMAGENET } dml_stem;
typedef enum dml_console {
    DML_CONSOLE_AUTO,
    DML_CONSOLE_LINE,
    DML_CONSOLE_BAR,
    DML_CONSOLE_QUIET
} dml_console;
typedef enum dml_split { DML_SPLIT_AUTO, DML_SPLIT_UNIFORM, DML_SPLIT_LIST } dml_split;
typedef enum dml_balance { DML_BALANCE_STATIC, DML_BALANCE_DYNAMIC } dml_balance;
/* What becomes of a run that loses a worker. */
typedef enum dml_policy { DML_POLICY_ABORT, DML_POLICY_RESTART, DML_POLICY_REPLAN } dml_policy;
typedef enum dml_loss { DML_LOSS_CROSS_ENTROPY, DML_LOSS_MSE } dml_loss;

/* Values of parallelism.schedule that are no schedule's name (engine/plan_order.h). */
#define DML_ORDER_AUTO "auto"
#define DML_ORDER_CSV  "csv:" /* and a path */

/* Values of plan that are no file's name. */
#define DML_PLAN_NONE "none"
#define DML_PLAN_AUTO "auto"
/* What stands for the file of a plan that was made for this very spec. */
#define DML_PLAN_CHOSEN "the chosen plan"

/* An amount of training as written: "250" steps or "2 epochs". */
typedef struct dml_interval {
    double n;
    bool epochs; /* else steps, and n is whole */
} dml_interval;

/* Steps of a run, counted from 1, both ends included; {0, 0}: not chosen yet. */
typedef struct dml_step_range {
    int64_t first, last;
} dml_step_range;

typedef struct dml_int_list {
    const int32_t *v; /* [n] */
    int32_t n;
} dml_int_list;

typedef struct dml_number_list {
    const double *v; /* [n] */
    int32_t n;
} dml_number_list;

typedef struct dml_size_list {
    const int64_t *v; /* [n] bytes */
    int32_t n;
} dml_size_list;

/* One of cluster.slow: from step `step` on the worker's delay layers run at this speed, not that of cluster.speed. */
typedef struct dml_slow_spec {
    int32_t worker;
    double speed;
    int64_t step; /* from 0 */
} dml_slow_spec;

/* One of parallelism.stages: who runs it. */
typedef struct dml_stage_spec {
    dml_int_list workers; /* all different */
    dml_int_list shares;  /* as many, >= 1: of the micro-batches, dealt by schedule/shares.h */
} dml_stage_spec;

/* Fields marked * are counts of steps that need the size of the training set: 0 until
 * dml_spec_set_samples fills them; with ** dml_data_resolve_steps. */
typedef struct dml_spec {
    int32_t version;
    struct {
        const char *name;
        uint64_t seed;
        const char *output_dir; /* expanded, absolute */
    } run;
    struct {
        const char
            *plan; /* "auto" until it is resolved (engine/choose.h); else "none": a file is read */
        dml_objective objective;
        float slack;
        bool fewer; /* than world_size workers will do */
    } planner;
    struct {
        const char *type; /* "mlp", "vgg", "resnet", "layers" */
        int32_t input_rank,
            input[3]; /* as written, PyTorch's order: [features] or [channels, height, width] */
        int32_t classes;
        dml_init init;
        const dml_layer_spec *layers; /* [n_layers] the loss is the last one */
        int32_t n_layers;
        struct { /* what `layers` was made from; for printing, not for the engine */
            dml_int_list hidden;
            int32_t activation; /* 0 relu, 1 gelu, 2 tanh */
            float dropout;
            int32_t depth;
            dml_stem stem;
            bool zero_init_residual, batch_norm; /* resnet; vgg */
            bool per_micro_batch;
            float bn_momentum, bn_eps;
        } family;
    } model;
    struct {
        dml_data_format format;
        const char *path;              /* folder, absolute; "" for synthetic */
        int64_t samples, test_samples; /* synthetic only */
        int32_t pool;                  /* synthetic only: distinct samples; 0: all are */
        float mean[3], std[3];         /* per channel; the first counts for one channel */
        int32_t pad; /* zero pixels added on each side: 2 makes 28x28 into 32x32 */
        bool shuffle;
        dml_last_batch last_batch;
        int32_t prefetch; /* micro-batches prepared ahead */
    } data;
    struct {
        int64_t max_steps; /* 0: epochs decides */
        double epochs;
        int32_t global_batch_size, micro_batch_size;
        int32_t
            num_microbatches; /* G: micro-batches of a step over all replicas = global / micro */
        float grad_clip;      /* maximum global norm; 0: no clipping */
        dml_interval eval_interval;
        int64_t eval_interval_steps; /* * 0: only at the end */
        dml_loss loss;
        dml_numerics numerics;
        dml_precision precision;
        float loss_scale; /* fp16: a power of two; 0: dynamic */
    } training;
    struct {
        dml_optimizer name;
        float lr, momentum, weight_decay, betas[2], eps;
        bool nesterov;
        bool decay_all; /* false: biases and batch-norm parameters are not decayed */
    } optimizer;
    struct {
        dml_lr_schedule name;
        dml_interval warmup, step;
        int64_t warmup_steps, step_size; /* * */
        float gamma, min_lr_ratio;
    } lr_scheduler;
    struct {
        const char *backend;            /* "auto", "cpu", "cuda", "ref" */
        int32_t world_size;             /* that plan: auto plans for; 0: not said */
        int32_t pipeline_parallel_size; /* ranks of a pipeline */
        int32_t virtual_stages;         /* stages of each rank */
        int32_t data_parallel_size;     /* replicas of each */
        const dml_stage_spec *stage;    /* [n_stages] who runs each, instead of the three above */
        int32_t n_stages;               /* 0: equal pipelines, as the three above say */
        const char *schedule; /* canonical name of schedule/schedule.h, "auto", "csv:PATH" */
        bool vertical_sync;   /* pipedream */
        bool staggered;       /* synchronous schedules: optimizer steps do not wait for the vote */
        int32_t
            drain_interval; /* asynchronous schedules: steps of a segment; 0: engine/plan_async.h */
        dml_split split;
        const int32_t *split_list;  /* [dml_spec_stages] layers per stage, for DML_SPLIT_LIST */
        int32_t threads_per_worker; /* 0: cores / workers, at least 1 */
        int32_t workers_per_device; /* worker r opens device r / workers_per_device */
        dml_recompute recompute;
        int64_t memory_bytes;    /* most that a worker may hold; 0: no limit */
        int64_t link_latency_ns; /* emulated link of the CPU transports; 0: none */
        double link_bytes_per_s;
        int64_t timeout_ns; /* deadline of one wait between workers */
        dml_balance balance;
        int32_t balance_interval; /* steps of a window in which loads are measured */
        dml_int_list
            lost; /* workers of the layout that are gone, all different; they keep their numbers */
        dml_int_list seats; /* [workers] whose place each takes, a permutation; none: its own */
        bool decoupled;
        int32_t stash_limit; /* micro-batches; 0: none */
        const char *order; /* schedule/csv.h, a row for each worker; NULL, "": the plan makes one */
    } parallelism;
    struct {
        dml_number_list speed;      /* of each worker, against one of speed 1; none: all 1 */
        dml_size_list memory;       /* bytes that each may hold; none: parallelism.memory */
        const dml_link_level *link; /* [n_links] innermost first; none: parallelism.link */
        int32_t n_links;
        int32_t rails;             /* links side by side between blocks (engine/base/link.h) */
        const char *hardware;      /* file, absolute; "": none */
        const dml_slow_spec *slow; /* [n_slow] emulation only, no planner looks */
        int32_t n_slow;
    } cluster;
    struct {
        dml_nvls nvls;
        bool overlap; /* reduce gradients in buckets, under backward */
        int64_t first_bucket_bytes, bucket_bytes;
    } comm;
    struct {
        dml_policy policy;
        int32_t max_failures; /* 0: no limit */
        bool respawn;
        int64_t respawn_delay_ns;
        int64_t repair_time_ns;    /* expected, until a lost worker is back; 0: it stays away */
        uint32_t repairs;          /* bit n - 1: dml_repair n of engine/replan.h may be chosen */
        int32_t snapshot_interval; /* steps; 0: none */
        int64_t heartbeat_ns, heartbeat_timeout_ns; /* the latter 0: engine/detect.h chooses */
        const dml_fault *fault;                     /* [n_faults] */
        int32_t n_faults;
        dml_fault_random random;
        int32_t expect_recoveries; /* -1: any number */
    } failures;
    struct {
        const char *folder; /* absolute; "": checkpoints in run.output_dir */
        dml_interval every;
        int64_t interval_steps; /* * 0: none */
        int32_t keep;
        const char *resume; /* "never", "auto", "latest" or a path */
    } checkpoint;
    struct {
        int64_t interval; /* steps between console lines */
        bool jsonl;
        dml_console console;
        const char *trace, *draw;   /* files, absolute; "": none */
        dml_step_range trace_steps; /* ** when there is either */
    } logging;
    struct {
        const char *file; /* absolute; "": none */
        bool model_only;  /* it may be of another machine */
    } profile;
    const dml_costs *
        costs; /* what layers take, from a profile or the like; NULL: only flops and delays are known */
    dml_arena arena;    /* owns all the above */
    const void *source; /* parsed document, for dml_spec_fail and printing; owned */
} dml_spec;

/* Reads and checks a spec.
 *
 *   path       file, or "-" for standard input
 *   overrides  [n_overrides] "key.path=value"; value is YAML
 *   out        written only on success; free with dml_spec_free
 *
 * DML_ERR_SPEC  the trail holds up to 20 complaints, each "file:line:column: error: ..." with the source
 *               line, a caret, the allowed values and the nearest one
 */
dml_err dml_spec_load(const char *path, const char *const *overrides, int32_t n_overrides,
                      dml_spec *out);
void dml_spec_free(dml_spec *spec);

/* Reads the same text and overrides again, with `plan`, the text of a plan (engine/plan_file.h), in the place of what
 * the spec says of one.  Its values are printed as chosen.  `out` as in dml_spec_load. */
dml_err dml_spec_load_planned(const dml_spec *spec, const char *plan, dml_spec *out);

/* Of what the model computes: equal for specs of equal layers, names included, however they are written. */
uint64_t dml_spec_model_hash(const dml_spec *spec);

/* Turns epochs into steps: fills the fields marked * in dml_spec.  Called with the number of training
 * samples once the data set is open; dml_spec_load does it for synthetic data.
 *
 * DML_ERR_SPEC  not one step in an epoch (last_batch: drop and fewer samples than a step takes)
 */
dml_err dml_spec_set_samples(dml_spec *spec, int64_t train_samples);

/* The cluster as the planner and the emulation see it: what lies between workers, cluster.links or parallelism.link
 * (levels borrowed); speed of a worker; bytes that it may hold, 0: no limit. */
dml_links dml_spec_links(const dml_spec *spec);
/* The same for the planner: where the spec says nothing, as measured (costs). */
dml_links dml_spec_known_links(const dml_spec *spec);
double dml_spec_speed(const dml_spec *spec, int32_t worker);
int64_t dml_spec_memory(const dml_spec *spec, int32_t worker);
/* Whether some worker has a limit; a spec, such as a copy that borrows all, without. */
bool dml_spec_has_limits(const dml_spec *spec);
void dml_spec_drop_limits(dml_spec *spec);
/* The speed at which its delay layers run in step `step`, from 0: what the planner believes, or what cluster.slow
 * says of that step. */
double dml_spec_pace(const dml_spec *spec, int32_t worker, int64_t step);

/* The layout, whichever way it is written: stages that the model is cut into, workers in all, and replicas of
 * the stage that has most. */
int32_t dml_spec_stages(const dml_spec *spec);
int32_t dml_spec_workers(const dml_spec *spec);
int32_t dml_spec_replicas(const dml_spec *spec);

/* Whether the order is written in the spec itself (parallelism.order). */
static inline bool dml_spec_has_order(const dml_spec *spec)
{
    return spec->parallelism.order && spec->parallelism.order[0];
}

/* A complaint about the value at `place` in the form above, as DML_ERR_SPEC: for checks that need more
 * than the spec (shapes, stages).  `key` is the dotted key when the place is a default. */
dml_err dml_spec_fail(const dml_spec *spec, dml_place place, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Where a dotted key was written (line 0 when defaulted). */
dml_place dml_spec_place(const dml_spec *spec, const char *key);

/* The resolved spec: every key with its value, and its origin as a comment; loads back to an equal spec. */
dml_err dml_spec_print(const dml_spec *spec, FILE *to);
/* The same in a memory file of its own, which /proc/self/fd/N loads again; the caller closes it.  -1 on failure.
 *
 * DML_ERR_UNAVAILABLE  the system gives none */
dml_err dml_spec_to_memory(const dml_spec *spec, int *fd);

/* The reference of all keys and layers, from the same table. */
void dml_spec_help(FILE *to);

const char *dml_layer_kind_name(dml_layer_kind kind);

#endif
