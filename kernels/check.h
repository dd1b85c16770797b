/* kernels/check.h - whether the tensors of a call are what the kernel's contract says.
 *
 *   dml_dims d = {0};
 *   DML_TRY(dml_check_shapes("linear_fwd", &d, "y=f[n,o] x=f[n,i] w=f[o,i] b=f[o]?", y, x, w, b));
 *   const int64_t n = DML_DIM(d, 'n');
 *
 * One word per tensor, in the order of the arguments: its name, `=`, its element type, its dims.
 *   type   s a sample's: F32, BF16 or F16, all of a call the same; afterwards d.sample is the first of them
 *          f F32;  r any of F32, BF16, F16;  d F64, l I64, i I32, u U32, b U8
 *          (s and f may be F64, where d.real64 says that the backend has it)
 *   dims   [a,b]  letters are bound by their first tensor and must agree afterwards; digits stand
 *                 for themselves;  [*] the shape of the first tensor that says so
 *   ?      the argument may be NULL
 *
 * All of these fail with DML_ERR_BUG naming kernel, tensor, its shape and the shape it should have.
 */
#ifndef DML_KERNELS_CHECK_H
#define DML_KERNELS_CHECK_H

#include "kernels/kernels.h"

typedef struct dml_dims {
    bool real64;               /* in: `s` and `f` may be F64 */
    const dml_tensor *sample;  /* out: its type is that of all `s` */
    int64_t of['z' - 'a' + 1]; /* 0: not bound; what is bound before the call is required */
} dml_dims;

#define DML_DIM(d, letter) ((d).of[(letter) - 'a'])

dml_err dml_check_shapes(const char *kernel, dml_dims *d, const char *shapes, ...);

/* The families that several entries share.  A gradient goes where the tensor it is the gradient of
 * would; an argument the entry does not have is NULL.  They bind
 *   linear  n rows, i inputs, o outputs
 *   conv    n, h, w, c input;  p, q, o output (height, width, channels);  g channels a group, k, l kernel
 *   pool    n, h, w, c input;  p, q output
 *   norm    c channels; tensors of x's shape, then of c's
 */
dml_err dml_check_linear(const char *kernel, dml_dims *d, dml_in y, dml_in x, dml_in w, dml_in b);
dml_err dml_check_linear_grads(const char *kernel, dml_dims *d, dml_in dw, dml_in db, dml_in dy,
                               dml_in x);
/* aux [n, bytes] beside y [n, o], or beside dx, whose activation it belongs to. */
dml_err dml_check_aux(const char *kernel, dml_act act, dml_in y, dml_in aux);
dml_err dml_check_conv2d(const char *kernel, dml_dims *d, const dml_conv2d *p, dml_in y, dml_in x,
                         dml_in w, dml_in b);
dml_err dml_check_conv2d_grads(const char *kernel, dml_dims *d, const dml_conv2d *p, dml_in dw,
                               dml_in db, dml_in dy, dml_in x);
dml_err dml_check_pool2d(const char *kernel, dml_dims *d, const dml_pool2d *p, dml_in y, dml_in x,
                         dml_in which);
dml_err dml_check_norm(const char *kernel, dml_dims *d, dml_in y, dml_in x, dml_in dy, dml_in mean,
                       dml_in var, dml_in gamma, dml_in beta);
dml_err dml_check_loss(const char *kernel, dml_dims *d, dml_in loss, dml_in correct, dml_in dx,
                       dml_in x, dml_in labels);
/* Samples a, b (and c) of one shape. */
dml_err dml_check_same(const char *kernel, dml_dims *d, dml_in a, dml_in b, dml_in c);
/* F32 of one shape. */
dml_err dml_check_accumulate(dml_in acc, dml_in g);
dml_err dml_check_convert(dml_in y, dml_in x);
dml_err dml_check_moments(dml_dims *d, const dml_moments *p, dml_in mean, dml_in var, dml_in slots);
dml_err dml_check_exact(const char *kernel, dml_dims *d, dml_in acc, dml_in max_bits, dml_in g,
                        int32_t scale_log2);
dml_err dml_check_wide(const char *kernel, dml_dims *d, dml_in hi, dml_in lo, dml_in max_bits,
                       dml_in g);
/* a [n,h,w,c], b [n,c,h,w] */
dml_err dml_check_layout(const char *kernel, dml_dims *d, dml_in nhwc, dml_in nchw);
/* Row `row` of labels names a class below c. */
dml_err dml_check_label(const char *kernel, int64_t row, int32_t label, int64_t classes);
dml_err dml_check_fill(dml_in y, float value);
dml_err dml_check_dropout(const dml_dropout *p);

#endif
