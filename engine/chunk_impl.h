/* engine/chunk_impl.h - what planning a chunk leaves for running it: lists of steps over buffers.
 *
 *   forward   F conv1, F relu1, F fc, F loss
 *   input     dX fc, dX relu1, ...           (whole backward: weight steps stand between them)
 *   weight    dW fc, dW conv1                (split backward only)
 *
 * A step names buffers by number, a buffer is a place in a region, and a call supplies where each region
 * begins.  So one plan serves all micro-batches, and running is one loop with one switch.
 */
#ifndef DML_ENGINE_CHUNK_IMPL_H
#define DML_ENGINE_CHUNK_IMPL_H

#include "engine/chunk.h"
#include "engine/layers/layer.h"
#include "engine/probe.h"

enum { DML_PARAM_ALIGN = 16, DML_BYTES_ALIGN = 64, DML_NO_BUFFER = -1 };

static inline int64_t dml_align_bytes(int64_t bytes)
{
    return (bytes + DML_BYTES_ALIGN - 1) / DML_BYTES_ALIGN * DML_BYTES_ALIGN;
}

/* Bytes of one version of the weights in the act type, with what keeps the next aligned. */
static inline int64_t dml_w_act_bytes(const dml_chunk *c)
{
    return dml_align_bytes(c->arena_elems * dml_dtype_bytes(c->act));
}

/* clang-format off */
/*    region    what begins there                                                              */
#define DML_REGION_LIST(X)                                                                        \
    X(IN)    /* the chunk's input                                                            */ \
    X(SKIPS) /* a skip's value: the buffer's `at` says which                                 */ \
    X(STASH) /* the micro-batch's stash                                                      */ \
    X(KEPT)  /* what the forward of a recomputed micro-batch leaves                          */ \
    X(WORK)  /* scratch of one call, shared by all micro-batches                             */ \
    X(DY)    /* the chunk's output gradient                                                  */ \
    X(BACKS) /* the gradient that comes back by a skip: `at` says which                      */ \
    X(DX)    /* the chunk's input gradients                                                  */
/* clang-format on */
typedef enum dml_region {
#define X(name) DML_AT_##name,
    DML_REGION_LIST(X)
#undef X
} dml_region;
#define X(...) +1
enum { DML_REGIONS = 0 DML_REGION_LIST(X) };
#undef X

typedef struct dml_buffer {
    dml_region where;
    int64_t at, bytes; /* from the region's begin (SKIPS, BACKS: 0, 1, ..); bytes of mb_rows rows */
    int32_t from, to;  /* first and last step of its list that touches it; WORK only */
} dml_buffer;

typedef enum dml_step_kind {
    DML_STEP_FORWARD,
    DML_STEP_INPUT_GRAD,  /* JOINT: parameter gradients too, to `early` */
    DML_STEP_WEIGHT_GRAD, /* makes (JOINT: takes) parameter gradients and adds them */
    DML_STEP_ADD,         /* to = a + b */
    DML_STEP_COPY,        /* to = a */
    DML_STEP_CONVERT      /* to = a, F32, in the act type */
} dml_step_kind;

typedef struct dml_step {
    dml_step_kind kind;
    int32_t layer; /* in the chunk; the one it is done for, when ADD, COPY or CONVERT */
    int32_t to, a, b;
    int64_t row_elems; /* ADD, COPY, CONVERT */
} dml_step;

typedef struct dml_steps {
    dml_step *step; /* [n] */
    int32_t n;
} dml_steps;

/* Elements of a sample of the chunk's input: the batch's, or of the layer below. */
static inline int64_t dml_chunk_in_elems(const dml_chunk *c)
{
    return dml_shape_elems(c->layer_begin > 0 ? c->model->layer[c->layer_begin - 1].out
                                              : c->model->input);
}

/* Buffers of one layer, DML_NO_BUFFER where it has none. */
typedef struct dml_layer_plan {
    int32_t x, with, y, keep;
    int32_t dy, dx;
    int32_t early;      /* JOINT: parameter gradients, in the panel's layout */
    bool acts;          /* LINEAR: y is that of the activation after it, keep is what that left */
    bool acted;         /* activation: done by those around it, has no buffers */
    bool unacts;        /* LINEAR: dx is past the activation before it */
    int64_t moments_at; /* floats from chunk->moments, of micro-batch 0; batch norm */
} dml_layer_plan;

typedef struct dml_chunk_impl {
    dml_layer_plan *layer; /* [layer_end - layer_begin] */
    dml_buffer *buffer;    /* [n_buffers] places for all calls, but for */
    dml_buffer
        *lean; /* [n_buffers] the forward of a recomputed micro-batch; NULL without a policy */
    int32_t n_buffers;
    dml_steps forward, input, weight; /* whole backward: all in `input` */
    dml_steps again;                  /* those of `forward` that recomputation runs */
    uint64_t *dropout_key;            /* [layers] */

    int64_t panel_elems; /* one layer's parameter gradients, the largest */
    int64_t work_bytes;
    float *panel; /* bound: where a weight gradient lies between kernel and accumulator */
    char *work;   /* bound */
    void *
        w_act; /* bound: [arena_elems] weights in the act type, at param_at; NULL where that is F32 */
    bool copied;      /* w_act has the weights of now */
    dml_probe *probe; /* borrowed; NULL: no times are taken */
} dml_chunk_impl;

/* Elements from one parameter of the chunk to the next: its own, padded. */
static inline int64_t dml_padded_elems(int64_t elems)
{
    return (elems + DML_PARAM_ALIGN - 1) / DML_PARAM_ALIGN * DML_PARAM_ALIGN;
}

/* ---- engine/chunk_pack.c ---- */

/* Gives every WORK buffer used in a list (from >= 0) an offset such that those alive together do not
 * overlap; returns the bytes needed.  Largest first, lowest place that fits. */
int64_t dml_pack(dml_buffer *buffer, int32_t n, dml_arena *arena);

/* ---- engine/chunk_fuse.c ---- */

/* Sets acts, acted and unacts of the layer plans. */
void dml_chunk_fuse(const dml_chunk *c, dml_layer_plan *plan);
/* Bytes a row of what the activation after `linear` leaves. */
int64_t dml_fused_aux_bytes(const dml_chunk *c, const dml_layer *linear);
/* The calls of a layer that acts (aux written) and of one that unacts, `acted` being the activation. */
dml_err dml_fused_forward(const dml_layer_call *c, void *aux);
dml_err dml_fused_backward(const dml_layer_call *c, const dml_layer *acted, void *aux);

/* ---- engine/chunk_recompute.c ---- */

/* Places every WORK buffer that is used: in the stash, in KEPT or in scratch.  Sets size.stash, size.kept, work_bytes
 * and, by the spec's policy, `lean` and `again`.
 *   wanted  [n_buffers] read by a later call than the one that writes it: RC's to make, or to keep
 *   leaves  [n_buffers] read by other chunks: in the stash of a plain forward, in KEPT of a recomputed one */
void dml_chunk_place_buffers(dml_chunk *c, dml_chunk_impl *impl, const bool *wanted,
                             const bool *leaves, dml_arena *arena);

/* ---- engine/chunk_graph.c ---- */

/* Fills layer plans, buffers and steps, places the buffers; sets size.out_offset, size.kept_out_offset and the places of
 * skip_out (as many). */
dml_err dml_chunk_graph(dml_chunk *c, dml_chunk_impl *impl, dml_chunk_skip *skip_out,
                        dml_arena *arena);

/* ---- engine/chunk_skips.c ---- */

/* Finds the ends of skips at the chunk: sets skip_*, n_skip_*, and grows size.dx by their gradients.  Returns skip_out,
 * to be completed. */
dml_chunk_skip *dml_chunk_plan_skips(dml_chunk *c, dml_arena *arena);
/* The skip of one of those ends; its number is end->skip. */
const dml_model_skip *dml_chunk_skip_of(const dml_chunk *c, const dml_chunk_skip *end);
/* Whether a skip takes the value of layer `i` of the chunk elsewhere. */
bool dml_chunk_sends(const dml_chunk *c, int32_t i);

#endif
