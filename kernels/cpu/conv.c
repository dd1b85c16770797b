/* kernels/cpu/conv.c - convolution and its gradients by the library's direct algorithm; in
 * deterministic mode by blocks of samples (blocks.c). */
#include "kernels/check.h"
#include "kernels/cpu/wide.h"
#include "kernels/cpu/winograd.h"

enum { MAX_BLOCKS = 8 };

static dml_dnn_shape shape_of(const dml_kctx *k, dml_dnn_kind kind, const dml_conv2d *p,
                              const dml_dims *d)
{
    const int64_t macs = DML_DIM(*d, 'n') * DML_DIM(*d, 'p') * DML_DIM(*d, 'q') * DML_DIM(*d, 'o') *
                         DML_DIM(*d, 'g') * DML_DIM(*d, 'k') * DML_DIM(*d, 'l');
    return (dml_dnn_shape){.kind = kind,
                           .threads = dml_cpu_threads(k, macs),
                           .lanes = 1,
                           .n = DML_DIM(*d, 'n'),
                           .in = DML_DIM(*d, 'c'),
                           .out = DML_DIM(*d, 'o'),
                           .h = DML_DIM(*d, 'h'),
                           .w = DML_DIM(*d, 'w'),
                           .oh = DML_DIM(*d, 'p'),
                           .ow = DML_DIM(*d, 'q'),
                           .conv = *p};
}

/* Blocks whose gradients are added: so few that this stays cheap, yet enough for a worker's threads. */
static int64_t summed_blocks_of(int64_t n)
{
    return n < 4 ? 1 : n < 64 ? 2 : 4;
}

dml_err dml_cpu_conv2d_fwd(dml_kctx *k, const dml_conv2d *p, dml_out y, dml_in x, dml_in w,
                           dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d("conv2d_fwd", &d, p, y, x, w, b));
    dml_dnn_shape shape = shape_of(k, DML_DNN_CONV_FWD, p, &d);
    shape.bias = b != NULL;
    shape.type = (int32_t)x->dtype;
    if (dml_cpu_winograd_takes(k, &shape)) return dml_cpu_winograd_run(k, &shape, x, w, b, y);
    return dml_cpu_product(k, shape, MAX_BLOCKS, x, w, b, y);
}

dml_err dml_cpu_conv2d_bwd_input(dml_kctx *k, const dml_conv2d *p, dml_out dx, dml_in dy, dml_in w)
{
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d("conv2d_bwd_input", &d, p, dy, dx, w, NULL));
    dml_dnn_shape shape = shape_of(k, DML_DNN_CONV_BWD_INPUT, p, &d);
    shape.type = (int32_t)dy->dtype;
    if (dml_cpu_winograd_takes(k, &shape)) return dml_cpu_winograd_run(k, &shape, dx, w, NULL, dy);
    return dml_cpu_product(k, shape, MAX_BLOCKS, dx, w, NULL, dy);
}

dml_err dml_cpu_conv2d_bwd_weight(dml_kctx *k, const dml_conv2d *p, dml_out dw, dml_out db,
                                  dml_in dy, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d_grads("conv2d_bwd_weight", &d, p, dw, db, dy, x));
    dml_dnn_shape shape = shape_of(k, DML_DNN_CONV_BWD_WEIGHT, p, &d);
    shape.bias = db != NULL;
    bool native;
    shape.type = (int32_t)x->dtype;
    if (dml_cpu_winograd_takes(k, &shape)) return dml_cpu_winograd_run(k, &shape, x, dw, db, dy);
    DML_TRY(dml_cpu_native(k, &shape, &native));
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 0, (dml_in[]){x, dy}, native ? 0 : 2));
    if (!native) {
        shape.type = DML_F32;
        x = &v.t[0];
        dy = &v.t[1];
    }
    if (k->deterministic)
        return dml_cpu_sum_blocks(k, &shape, summed_blocks_of(shape.n), x, dw, db, dy);
    return dml_cpu_run(k, &shape, x, dw, db, dy);
}
