/* kernels/cpu/winograd.h - 3x3 convolutions of stride 1 with 16 products where the definition has 36.
 *
 * Winograd's F(2x2, 3x3) (Lavin and Gray 2016, section 4.1): a tile of 2x2 outputs, whose inputs are the 4x4 d, is
 *
 *   y = A' [ (G g G') o (B' d B) ] A           o: element by element, so 16 matrix products over channels
 *
 * and the gradients are the transposed map: dx is the same with g turned round, dg = G' [ (B' d B) o (A dy A') ] G.
 * Factors are 1 and 1/2, so rounding errors are about twice the definition's; but an infinity reaches all
 * outputs of its tiles as NaN.  For fast mode: the library's direct convolutions keep samples apart in exact mode.
 */
#ifndef DML_KERNELS_CPU_WINOGRAD_H
#define DML_KERNELS_CPU_WINOGRAD_H

#include "kernels/cpu/cpu.h"

/* Whether `shape` is a convolution for which this is faster: F32, 3x3, stride 1, channels in whole vectors, enough
 * tiles.  Depends on the context's mode and the shape alone. */
bool dml_cpu_winograd_takes(const dml_kctx *k, const dml_dnn_shape *shape);

/* Runs it: y from x, w, b (NULL: none);  x from y, w;  w (and b, unless NULL) from x, y.  Tensors as
 * conv2d_fwd, conv2d_bwd_input and conv2d_bwd_weight have them. */
dml_err dml_cpu_winograd_run(dml_kctx *k, const dml_dnn_shape *shape, dml_in x, dml_in w, dml_in b,
                             dml_in y);

#endif
