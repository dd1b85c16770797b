/* engine/strategies.h - the oracle: what every way to spread a model over p devices would take, by formula.
 *
 * Formulas of a step: Kahira et al. 2021 (ParaDL), per epoch there, divided by the D / B steps of one.  Of layer l: FW
 * and BW per sample, WU per step, |x|, |y|, |w| elements of input, output and parameters; B samples a batch, d bytes an
 * element, a link of latency a and b seconds a byte:
 *
 *   strategy    compute                         communication                              memory x 2 d            p at most
 *   serial      B sum(FW+BW) + sum WU           0                                          sum(B(x+y) + w)         1
 *   data        B/p sum(FW+BW) + sum WU         2 (p-1)(a + sum w d b / p)                 sum(B/p (x+y) + w)      B
 *   spatial     as data                         data's + sum(2 a + B (halo x + halo dy) d b)  sum(B (x+y) / p + w) min W H
 *   pipeline    B (p+S-1)/S (max FW + max BW)   2 (p+S-2) max(a + B/S y d b)               max sum(B(x+y) + w)     cuts
 *               + max WU, over stages           over borders                               over stages
 *   filter      B/p sum(FW+BW) + sum WU / p     3 (p-1) sum(a + B y d b / p)               sum(B(x+y) + w/p)       min filters
 *   channel     as filter                       as filter                                  as filter               min channels
 *   data p1 +   B/p sum(FW+BW) + sum WU / p2    3 (p2-1) sum(a + B y d b / p)              sum(B(x+y)/p1 + w/p2)   B min filters
 *   filter p2                                   + 2 (p1-1)(a + sum w d b / p1)
 *
 * The sum of `filter` is over products (linear layers, convolutions): what follows them is split as they are.  A halo
 * is (K - 1) / 2 rows of a K x K window, to each neighbour; layers without one exchange nothing.  FW and BW are read
 * off the costs at the samples that a device runs at once; a ring goes at the pace of its slowest link.
 *
 * Ours beside them are programs of this engine: pp ranks x dp replicas under a schedule, stages cut exactly, simulated
 * as one pipeline with the all-reduces of dp members in buckets under the backward.  Exposed communication is what the
 * step is longer than with free links: max(0, comm - what hides it), as the program's own waits make it.  Memory is
 * the plan's, to the byte: of 1F1B min(M, p - s) micro-batches.
 */
#ifndef DML_ENGINE_STRATEGIES_H
#define DML_ENGINE_STRATEGIES_H

#include "engine/base/str.h"
#include "engine/model.h"

/* clang-format off */
/*    id            name             p at most                                         */
#define DML_STRATEGY_LIST(X)                                                              \
    X(SERIAL,       "serial",        "one device")                                      \
    X(DATA,         "data",          "samples of a batch")                              \
    X(SPATIAL,      "spatial",       "pixels of the smallest image")                    \
    X(PIPELINE,     "pipeline",      "parts that the model can be cut into")            \
    X(FILTER,       "filter",        "filters of the narrowest layer")                  \
    X(CHANNEL,      "channel",       "channels that the narrowest layer reads")         \
    X(DATA_FILTER,  "data+filter",   "samples times filters of the narrowest layer")
/* clang-format on */
typedef enum dml_strategy {
#define X(id, ...) DML_STRATEGY_##id,
    DML_STRATEGY_LIST(X)
#undef X
} dml_strategy;
#define X(...) +1
enum { DML_STRATEGIES = 0 DML_STRATEGY_LIST(X) };
#undef X
const char *dml_strategy_name(dml_strategy strategy);
/* What bounds the number of devices. */
const char *dml_strategy_bound(dml_strategy strategy);

/* Of a sample, in elements. */
typedef struct dml_strategy_layer {
    int64_t x, y, w;
    int64_t halo_x, halo_dy;   /* to one neighbour; 0: none */
    int64_t filters, channels; /* of a product; 0: none */
    int64_t pixels;            /* W H of an image that has more than one; 0: none */
} dml_strategy_layer;

typedef struct dml_strategy_problem {
    const dml_strategy_layer *layer; /* [n_layers] */
    int32_t n_layers;
    const dml_costs *costs; /* FW, BW = input + weight gradient, WU = step_ns of the same layers */
    int64_t batch;          /* B */
    int64_t act_bytes, weight_bytes; /* d of activations, of parameters and their gradients */
    int64_t cuts;                    /* most stages */
    dml_links links;                 /* devices are 0 .. p - 1, filter groups innermost */
} dml_strategy_problem;

/* How the devices are used. */
typedef struct dml_strategy_layout {
    int32_t devices;      /* p >= 1 */
    int32_t inner;        /* p2 of data+filter, dividing devices */
    int32_t segments;     /* S of pipeline: micro-batches */
    const int32_t *begin; /* [devices + 1] first layers of the stages of pipeline */
} dml_strategy_layout;

typedef struct dml_strategy_price {
    double compute_ns, comm_ns; /* of a step */
    double memory_bytes;        /* of the device that has most */
    int64_t most_devices;       /* the limit on p */
    bool comm_binds;            /* communication is the larger part */
} dml_strategy_price;

/* The row of the table.  A layout beyond most_devices is priced all the same: the formula says what it would be. */
dml_strategy_price dml_strategy_of(const dml_strategy_problem *problem, dml_strategy strategy,
                                   const dml_strategy_layout *layout);

/* Sizes of the model's layers, the arena's. */
const dml_strategy_layer *dml_strategy_layers(const dml_model *model, dml_arena *arena);

/* The ranked table of all strategies and of this engine's own layouts for `devices`; what does not fit comes last, with
 * the reason.  `all`: every schedule of every layout, else the best of each.
 *
 * DML_ERR_SPEC  the spec has no costs of its layers (cluster.hardware, profile) */
dml_err dml_strategies_print(const dml_spec *spec, int32_t devices, bool all, dml_str *out);

#endif
