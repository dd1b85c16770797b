/* comm/reduce.h - the element loops of reductions. */
#ifndef DML_COMM_REDUCE_H
#define DML_COMM_REDUCE_H

#include "comm/transport.h"

/* acc[i] = acc[i] op x[i] for i in [0, elems); acc and x do not overlap. */
typedef void (*dml_reduce_fn)(void *restrict acc, const void *restrict x, int64_t elems);

/* NULL: the reduction is not there for this dtype.  Sums of integers wrap. */
dml_reduce_fn dml_reduce_find(dml_dtype dtype, dml_reduction reduction);

const char *dml_reduction_name(dml_reduction reduction);

#endif
