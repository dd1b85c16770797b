/* engine/roofline.h - what layers take on hardware that nobody measured: the slower of arithmetic and memory.
 *
 *   ns of a kernel = max(flops / rate, bytes / (memory.bandwidth share.memory)) + launch
 *
 * Kernels are the steps that the engine makes of the layers (engine/chunk_impl.h), fused ones as one; bytes are those
 * their tensors have in training.precision, each read or written once a pass.  A product [m, k] x [k, n] is dealt in
 * tiles of tm x tn to `units`, where tm and tn are `tile`, or less for a smaller m or n (the power of two above it, at
 * least 32):
 *
 *   tiles    = ceil(m / tm) ceil(n / tn)
 *   depth    = ceil(tiles / units) k            with tiles > units: whole waves (wave quantisation)
 *            = max(k tiles / units, min(k, 256))   with fewer: k is split among idle units, to 256 at least
 *   flops/rate = 2 tm tn units depth / (peak share)
 *
 * Convolutions are products with m = rows x pixels, n = channels out, k = window x channels in (input and weight
 * gradients alike).  Element-wise kernels run on the fp32 peak.
 */
#ifndef DML_ENGINE_ROOFLINE_H
#define DML_ENGINE_ROOFLINE_H

#include "engine/hardware.h"
#include "engine/model.h"

/* Costs of all layers at micro-batches of 1, 2, 4, ... up to the batch of the spec, and its own size; the
 * optimizer by bytes; the innermost link.  *out is the arena's.
 *
 * DML_ERR_SPEC  the hardware has no peak for training.precision */
dml_err dml_roofline(const dml_spec *spec, const dml_model *model, const dml_hardware *hardware,
                     dml_arena *arena, const dml_costs **out);

/* FLOPs of a sample in a training step, as MFU counts them: 2 for each product and sum of linear layers and convolutions,
 * forward, input gradient and weight gradient, no input gradient where none is needed (the first layer); nothing
 * element-wise, nothing recomputed.
 *
 *   MFU = samples/s x dml_model_flops / (devices x dense peak of the precision) */
int64_t dml_model_flops(const dml_model *model);

/* The value of cluster.hardware that stands for no file: this host's cores, calibrated (dml_hardware_here). */
#define DML_HARDWARE_HERE "here"

/* Loads cluster.hardware, if the spec names one: costs by roofline where the spec has none, memory and links where it
 * says nothing.  Called by dml_spec_load.  DML_ERR_SPEC  the file's complaints */
dml_err dml_roofline_apply(dml_spec *spec);

#endif
