/* engine/model.h - layers with shapes, parameters and costs; where the model may be cut.
 *
 * A pure function of the spec.  Layers are numbered along the chain; the last is the loss.
 *
 * A *value* is a layer's output, and goes by the number of the layer that made its bytes: a flattened image is the
 * image.  -1 is the loaded batch.
 */
#ifndef DML_ENGINE_MODEL_H
#define DML_ENGINE_MODEL_H

#include "engine/spec.h"

/* Shape of one sample: [features], or [height, width, channels]. */
typedef struct dml_shape {
    int32_t rank;
    int32_t dim[3];
} dml_shape;

int64_t dml_shape_elems(dml_shape s);

typedef enum dml_param_role {
    DML_PARAM_WEIGHT,
    DML_PARAM_BIAS,
    DML_PARAM_SCALE /* batch norm's; starts at 1, or at 0 when the layer says zero_init */
} dml_param_role;

typedef struct dml_param {
    const char *name; /* global: "<layer>.weight", "<layer>.bias" */
    int32_t layer;
    int32_t rank;
    int64_t dim[4];
    int64_t elems;
    int64_t fan_in, fan_out; /* of the layer's weight; 0 for batch norm, whose bias starts at 0 */
    dml_param_role role;
    bool decay; /* under weight decay */
} dml_param;

/* Batch norm's running moments: state that is not trained. */
typedef struct dml_state {
    const char *name; /* "<layer>.running_mean", "<layer>.running_var" */
    int32_t layer;
    int64_t elems;
    float start;
} dml_state;

typedef struct dml_layer {
    const dml_layer_spec *spec;        /* borrowed from the dml_spec */
    const struct dml_layer_class *cls; /* engine/layers/layer.h */
    dml_shape in, out;                 /* of spec->input and of itself; a loss: out is in */
    dml_pool2d pool;                   /* the spec's, with the whole image and stride filled in */
    int32_t param_begin, param_end;
    int32_t state_begin, state_end;
    /* Per sample: forward, input gradient (0 where none is needed), weight gradient.  Element-wise work in
     * rough counts, a delay as 10 flops a ns. */
    int64_t flops[3];
    int64_t keep_elems; /* 4-byte elements per sample that backward needs beside input and output */
    bool alias;         /* the output is the input's bytes */
    int32_t value;      /* the output: this layer, or where its bytes come from; -1 the batch */
    bool back;          /* a parameter lies at or before its input: an input gradient is needed */
    bool may_end_stage; /* the next layer reads this one, and nothing above the loaded batch */
    bool ends_alone;    /* and nothing else crosses there: no skip, whatever the other cuts */
} dml_layer;

/* A value that stage `to` reads and that the stage before it does not end with.  It goes there straight from the
 * stage `from` that makes it.  Its gradient goes from `to` to `back`, the next lower stage that has the value, in the
 * end `from`: each adds its own share, so a sum has the order of the uncut model.  In a program skip k, from 1
 * (schedule/program.h). */
typedef struct dml_model_skip {
    int32_t value;
    int32_t from, to, back;
    int64_t elems; /* of a sample */
} dml_model_skip;

typedef struct dml_cut {
    int32_t stages;
    int32_t *begin; /* [stages + 1] stage s holds layers [begin[s], begin[s + 1]) */
    dml_model_skip *skip;
    int32_t n_skips;
} dml_cut;

typedef struct dml_model {
    dml_layer *layer;
    int32_t n_layers;
    dml_param *param;
    int32_t n_params;
    dml_state *state;
    int32_t n_states;
    int64_t param_elems;
    dml_shape input;
    int32_t classes;
    const dml_cut *cut; /* how it is cut: dml_model_cut; NULL: not yet */
} dml_model;

/* The model's layers are borrowed from `spec`; the rest is the arena's.
 *
 * DML_ERR_SPEC  a layer does not fit the shape before it: the text shows its place in the spec
 */
dml_err dml_model_make(const dml_spec *spec, dml_arena *arena, dml_model *out);

/* What a pass of the layer takes for one micro-batch at speed 1: a delay its own time, others what spec->costs says, and
 * without those their flops at an assumed rate, 50 a ns, which decides the order of transfers, never whether a program
 * is right. */
int64_t dml_layer_ns(const dml_spec *spec, const dml_model *model, int32_t layer, dml_pass pass);

/* Cuts the model: sets model->cut, the arena's.
 *   begin  [stages + 1] as dml_model_split leaves it
 *
 * DML_ERR_BUG  a stage ends where none may: names the value that cannot get across */
dml_err dml_model_cut(dml_model *model, int32_t stages, const int32_t *begin, dml_arena *arena);

/* The type of activations and their gradients, of what crosses chunk borders, and of the copies of weights that
 * products read: training.precision.  Everything else real is F32 (a loss sum F64). */
dml_dtype dml_act_type(const dml_spec *spec);
/* "fp32" ... as in the spec. */
const char *dml_precision_name(dml_precision precision);

/* Whether the table has every kernel the model's layers, their gradients and adding them up call.
 *
 * DML_ERR_UNAVAILABLE  the text names `backend`, the first kernel missing and the layer that needs it
 */
dml_err dml_model_check_kernels(const dml_model *model, const dml_kernel_table *table,
                                const char *backend);

/* Writes the initial values of parameter `p` to out[elems]: Philox keyed by (seed, parameter name), so the
 * same on every layout.
 *
 *   kaiming_uniform  PyTorch's default: U(-b, b) with b = 1 / sqrt(fan_in), biases too
 *   kaiming_normal   convolutions N(0, 2 / fan_out) (He et al. 2015, torchvision's ResNet); the rest as above
 *   xavier_uniform   U(-b, b) with b = sqrt(6 / (fan_in + fan_out)), biases 0 (Glorot and Bengio 2010)
 * Element i comes from word i % 4 of block (0, i / 4); normal values by Box and Muller from the words' pairs
 * (0, 1) and (2, 3): u, v give sqrt(-2 ln u) cos 2 pi v, then the same with sin. */
void dml_param_init(const dml_spec *spec, const dml_param *p, float *out);

/* Cuts the layers into `stages` ranges, stage s holding [begin[s], begin[s+1]); begin has stages + 1
 * entries.  auto: the least maximum of time over legal cuts, then the least next largest stage and so on; ties to the
 * fewest bytes on the wire, then to the earliest cuts (engine/partition.h).  Times are spec->costs and delays over the
 * speed of the workers, beside their links; where they are not known flops are, to 1/64 of the slowest stage.  Under
 * parallelism.stages they count for less where more workers share them (model_split.c).  uniform: equal
 * counts of legal segments, the longer ones last.  Both cut through skips only where that is needed, or where it
 * makes the slowest stage of auto faster by more than a tenth.  list: as given; the loss belongs to the last
 * stage and need not be counted.
 *
 *   within_memory  auto: only cuts that fit what workers may hold, as far as that is known before an order is
 *
 * DML_ERR_SPEC  more stages than legal segments, a listed cut where none may be (says why), a list that
 *               does not add up; within_memory: no cut fits: names the layer or stage and the bytes it is short
 */
dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        bool within_memory, int32_t *begin);

#endif
