/* kernels/cuda/norm_cuda.h - inside the CUDA module: batch norm by the library, beside our own kernels.
 *
 * Ours (norm.cu) are the default.  DML_CUDA_NORM=library asks for the library's instead, so that a GPU run compares
 * both; where it has no engine (channels that are no multiple of 4 in F32, of 8 in BF16 and F16) ours run on.
 */
#ifndef DML_KERNELS_CUDA_NORM_CUDA_H
#define DML_KERNELS_CUDA_NORM_CUDA_H

#include "kernels/cuda/context.h"

/* Whether the environment asks for it. */
bool dml_cuda_norm_by_library(void);

/* As the entries of the table, whose checks have passed.  *done: whether it was computed, or planned. */
dml_err dml_cuda_library_norm_fwd(dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var,
                                  dml_in x, dml_in gamma, dml_in beta, bool *done);
dml_err dml_cuda_library_norm_bwd(dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta,
                                  dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma,
                                  bool *done);

#endif
