/* kernels/cuda/dnn_text.c - an operation in words, for messages; the same over the real shim and its stand-in. */
#include "kernels/cuda/dnn.h"

#include <inttypes.h>
#include <stdio.h>

void dml_cudnn_text(const dml_cudnn_op *op, char *out, size_t bytes)
{
    static const char *const kind[] = {
#define X(kind, text, ...) text,
        DML_CUDNN_KIND_LIST(X)
#undef X
    };
    const dml_conv2d *c = &op->conv;
    const char *type = dml_dtype_name((dml_dtype)op->dtype);
    const int at =
        snprintf(out, bytes, "%s%s of %s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
                 kind[op->kind], op->bias ? " with bias" : "", type, op->n, op->h, op->w, op->c);
    if (c->groups < 1 || at < 0 || (size_t)at >= bytes) return; /* batch norm has no window */
    snprintf(out + at, bytes - (size_t)at,
             " by [%" PRId64 ", %d, %d, %" PRId64 "], stride %d %d, pad %d %d, dilation %d %d",
             op->o, c->kernel[0], c->kernel[1], op->c / c->groups, c->stride[0], c->stride[1],
             c->pad[0], c->pad[1], c->dilation[0], c->dilation[1]);
}
