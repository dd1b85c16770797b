/* kernels/ref/ref.h - the reference backend: naive loops, one thread, the specification of each entry.
 *
 * Sums run in double and are rounded when stored, to float, and from there to BF16 or F16.  Real tensors
 * may be F64, too, throughout (all of a call the same), which gives gradient checks a forward without rounding.
 */
#ifndef DML_KERNELS_REF_REF_H
#define DML_KERNELS_REF_REF_H

#include "kernels/kernels.h"

extern const dml_kernel_table dml_ref_kernels;

/* dml_ref_<entry>: contracts in kernels/kernels.h. */
#define X(name, args) dml_err dml_ref_##name args;
DML_KERNEL_LIST(X)
#undef X

/* What the context was told of the step; {0, 1} for a fresh one, and for NULL, which tests may pass. */
dml_step_words dml_ref_step(const dml_kctx *k);

#endif
