/* engine/model.h - layers with shapes, parameters and costs; where the model may be cut.
 *
 * A pure function of the spec.  Layers are numbered along the chain; the last is the loss.
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

typedef struct dml_param {
    const char *name; /* global: "<layer>.weight", "<layer>.bias" */
    int32_t layer;
    int32_t rank;
    int64_t dim[4];
    int64_t elems;
    int64_t fan_in, fan_out;
    enum { DML_PARAM_WEIGHT, DML_PARAM_BIAS, DML_PARAM_SCALE } role; /* SCALE starts at 1 */
    bool decay;                                                      /* under weight decay */
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
    dml_shape in, out;                 /* of spec->input and of itself */
    int32_t param_begin, param_end;
    int32_t state_begin, state_end;
    int64_t flops[3];   /* per sample: forward, input gradient, weight gradient */
    bool may_end_stage; /* one tensor crosses after this layer, so a stage may end here */
} dml_layer;

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
} dml_model;

/* DML_ERR_SPEC  a layer does not fit the shape before it: the text shows its place in the spec */
dml_err dml_model_make(const dml_spec *spec, dml_arena *arena, dml_model *out);

/* Writes the initial values of parameter `p` to out[elems]: Philox keyed by (seed, parameter name), so the
 * same on every layout.  Kaiming uniform is PyTorch's default (bound 1/sqrt(fan_in), biases too). */
void dml_param_init(const dml_spec *spec, const dml_param *p, float *out);

/* Cuts the layers into `stages` ranges, stage s holding [begin[s], begin[s+1]); begin has stages + 1
 * entries.  auto: the least maximum of flops (exact, by dynamic programming) over legal cuts; ties to the
 * fewest bytes on the wire.  uniform: equal counts of legal segments.  list: as given.
 *
 * DML_ERR_SPEC  more stages than legal segments, or a listed cut inside a residual block (names it)
 */
dml_err dml_model_split(const dml_spec *spec, const dml_model *model, int32_t stages,
                        int32_t *begin);

#endif
