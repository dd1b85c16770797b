/* engine/probe.h - how long each layer takes inside a chunk's calls: what a profile reads.
 *
 *   one training step, M micro-batches    layer 0   F .......  I .......  W .......
 *                                         layer 1   F .......             W .......
 *
 * Times are taken around each step that a chunk runs (engine/chunk_impl.h): by the clock where a queue is a thread, by
 * events where it is a device's.  A layer that a fused product does has no steps: its time is the product's.  What a
 * layer does several times for one micro-batch counts as one.
 *
 * The first micro-batch of a step is kept apart: it also packs weights that the optimizer changed, and stores gradients
 * where the others add.
 */
#ifndef DML_ENGINE_PROBE_H
#define DML_ENGINE_PROBE_H

#include "engine/base/arena.h"
#include "engine/costs.h"
#include "kernels/device.h"

/* Micro-batches of a step in turn. */
typedef enum dml_probe_turn { DML_PROBE_FIRST, DML_PROBE_LATER, DML_PROBE_TURNS } dml_probe_turn;

typedef struct dml_probe dml_probe;

/* Of a model of n_layers, steps of `mbs` micro-batches, of which the last `keep` of each kind are remembered.
 * The arena's. */
dml_probe *dml_probe_new(int32_t n_layers, int32_t mbs, int32_t keep, dml_arena *arena);

/* Before its first use by a worker: `device` NULL where a queue is a thread; else `steps` is the most that chunks run in
 * one training step.  Closed before the device. */
dml_err dml_probe_open(dml_probe *p, const dml_device_api *api, dml_device *device,
                       dml_queue *queue, int32_t steps, dml_arena *arena);
void dml_probe_close(dml_probe *p); /* NULL is fine */

/* Inside a job of the queue, around one step of a layer. */
dml_err dml_probe_begin(dml_probe *p);
dml_err dml_probe_end(dml_probe *p, int32_t layer, dml_pass pass, int32_t mb);

/* After a training step, its queue idle: its times become samples, or are forgotten. */
dml_err dml_probe_take(dml_probe *p, bool keep);

/* Samples of one kind, in no order, and how many; valid until the next call that changes them. */
const int64_t *dml_probe_samples(const dml_probe *p, int32_t layer, dml_pass pass,
                                 dml_probe_turn turn, int32_t *n);
/* Steps that chunks ran for the layer in the training step taken last, one micro-batch's; 0: fused into another. */
int32_t dml_probe_calls(const dml_probe *p, int32_t layer, dml_pass pass, int32_t mb);

#endif
