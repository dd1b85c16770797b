/* kernels/cuda/entries.h - inside the CUDA module: the functions of the kernel table.
 *
 * dml_cuda_<entry>: contracts in kernels/kernels.h.  Which file has which:
 *   context.c       open, close, seal, step and choices
 *   linear_cuda.c   linear_*: products, fused where the library can
 *   conv_cuda.c     conv2d_*
 *   image_cuda.c    pooling, batch norm, layouts
 *   kernels_cuda.c  the rest, and the table
 */
#ifndef DML_KERNELS_CUDA_ENTRIES_H
#define DML_KERNELS_CUDA_ENTRIES_H

#include "kernels/kernels.h"

dml_err dml_cuda_open_context(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                              dml_kctx **out);
void dml_cuda_close_context(dml_kctx *k);
void dml_cuda_seal(dml_kctx *k);
dml_err dml_cuda_begin_step(dml_kctx *k, const dml_step_words *words);
dml_err dml_cuda_choices(dml_kctx *k, void *out, int64_t *bytes);
dml_err dml_cuda_choose(dml_kctx *k, const void *choices, int64_t bytes);

#define X(name, args) dml_err dml_cuda_##name args;
DML_KERNEL_LIST(X)
#undef X

#endif
