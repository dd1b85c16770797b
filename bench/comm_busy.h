/* bench/comm_busy.h - products that run beside a transfer, as a stage's do: 512 x 512 x 512 over and over, on one thread of
 * a host, or on a queue of their own of a GPU. */
#ifndef DML_BENCH_COMM_BUSY_H
#define DML_BENCH_COMM_BUSY_H

#include "kernels/backend.h"

typedef struct comm_busy comm_busy;

static const double COMM_BUSY_FLOPS = 2.0 * 512 * 512 * 512; /* of a product */

/* device  NULL on a host; borrowed until the end.  *out is owned by the caller: comm_busy_end, but after a failure. */
dml_err comm_busy_begin(const dml_backend *backend, dml_device *device, comm_busy **out);

/* Stops after the product under way and frees.  *products: how many there were.  An error is of a product. */
dml_err comm_busy_end(comm_busy *busy, dml_device *device, int64_t *products);

#endif
