/* kernels/kernels.h - the kernel table: what a backend can compute.
 *
 * One X-list; an entry that is NULL means "not here", which the planner reads before training.  The
 * `ref` backend has every entry and is the specification of each: naive loops, one thread.
 *
 * Contracts common to all
 *   - Tensors are dense; outputs never overlap inputs unless the entry says "may be x".
 *   - The first dim `n` is the number of samples (rows); n >= 1.
 *   - Kernels run on the context's queue and return before they have run on an asynchronous device.
 *   - On one backend the result depends on the arguments alone, never on the number of threads, when
 *     the context was opened with `deterministic`; without it only same-threads repeats are promised.
 *   - Forward, input gradient and weight gradient are apart.  Weight gradients are *stored*, not added;
 *     adding over micro-batches is `accumulate`, `accumulate_exact` or `accumulate_wide`.
 *   - Making a plan (a library primitive, packed weights, scratch) happens at the first call with a new
 *     shape; after `seal` a new shape is DML_ERR_BUG and nothing allocates.
 *   - A tensor of the wrong shape or type is our bug: DML_ERR_BUG naming the kernel.  So is a label
 *     that is no class, where the host can see it.
 *   - A NaN comes through: the comparisons of relu and max_pool let it pass, so that a diverged run shows.
 */
#ifndef DML_KERNELS_KERNELS_H
#define DML_KERNELS_KERNELS_H

#include "kernels/device.h"
#include "kernels/tensor.h"

typedef struct dml_kctx dml_kctx; /* one per queue: caches plans; opaque */

typedef struct dml_kctx_config {
    int32_t threads;    /* host threads a kernel may use, >= 1 */
    bool deterministic; /* see above; exact mode needs it */
} dml_kctx_config;

/* Convolution [n, h, w, c_in] -> [n, oh, ow, c_out]; oh = (h + 2 pad - dilation (kernel - 1) - 1) / stride + 1. */
typedef struct dml_conv2d {
    int32_t kernel[2], stride[2], pad[2], dilation[2]; /* height, width */
    int32_t groups;
} dml_conv2d;

/* Pooling [n, h, w, c] -> [n, oh, ow, c].  Padding never wins a maximum; averages divide by the whole
 * window, padding included (PyTorch's count_include_pad), or by the cells inside when it is false. */
typedef struct dml_pool2d {
    int32_t kernel[2], stride[2], pad[2];
    bool count_include_pad;
} dml_pool2d;

/* Element e of the sample at position s of the step's global batch is kept when
 * unit(word e%4 of block(key, hi = step, lo = s << 32 | e/4)) >= rate, and then scaled by 1 / (1 - rate).
 * key = dml_rng_key(seed, DML_RNG_DROPOUT, layer), the layer's number along the whole model (a residual
 * block counts body, shortcut, add).  Row i of the tensor is sample first_sample + i. */
typedef struct dml_dropout {
    float rate;
    uint64_t key;
    int64_t step, first_sample;
} dml_dropout;

/* One parameter under the optimizer: w, g and its state, n elements each.  Effective gradient is
 * g * grad_scale (normaliser times clip factor). */
typedef struct dml_opt_tensor {
    float *w;
    const float *g;
    float *m, *v; /* momentum; second moment.  SGD without momentum: both NULL, SGD: v NULL */
    int64_t n;
    float weight_decay;
} dml_opt_tensor;

/* PyTorch's SGD: g += wd w;  m = first ? g : momentum m + g;  g = nesterov ? g + momentum m : m;  w -= lr g */
typedef struct dml_sgd {
    float lr, momentum, grad_scale;
    bool nesterov, first;
} dml_sgd;

/* PyTorch's AdamW: w *= 1 - lr wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
 * w -= lr / bias1 * m / (sqrt(v) / sqrt_bias2 + eps);  bias_i = 1 - b_i^t, made by the caller */
typedef struct dml_adamw {
    float lr, beta1, beta2, eps, grad_scale, bias1, sqrt_bias2;
} dml_adamw;

enum { DML_NORM_CHUNK = 4096 }; /* elements under one partial of sum_squares */

typedef const dml_tensor *dml_in;  /* read     */
typedef const dml_tensor *dml_out; /* written  */

/* clang-format off */
/*    entry               arguments after the context, with shapes                                                        */
#define DML_KERNEL_LIST(X)                                                                                                 \
    /* y[n,out] = x[n,in] w[out,in]^T + b[out]; b may be NULL */                                                           \
    X(linear_fwd,         (dml_kctx *k, dml_out y, dml_in x, dml_in w, dml_in b))                                          \
    /* dx[n,in] = dy[n,out] w */                                                                                           \
    X(linear_bwd_input,   (dml_kctx *k, dml_out dx, dml_in dy, dml_in w))                                                  \
    /* dw[out,in] = dy^T x; db[out] = column sums of dy, may be NULL */                                                    \
    X(linear_bwd_weight,  (dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x))                                      \
    /* y[n,oh,ow,co], x[n,h,w,ci], w[co,ci/groups,kh,kw], b[co] may be NULL */                                             \
    X(conv2d_fwd,         (dml_kctx *k, const dml_conv2d *p, dml_out y, dml_in x, dml_in w, dml_in b))                     \
    X(conv2d_bwd_input,   (dml_kctx *k, const dml_conv2d *p, dml_out dx, dml_in dy, dml_in w))                             \
    X(conv2d_bwd_weight,  (dml_kctx *k, const dml_conv2d *p, dml_out dw, dml_out db, dml_in dy, dml_in x))                 \
    /* which[n,oh,ow,c] I32: kh * kernel_w + kw of the first maximum in the window */                                      \
    X(max_pool_fwd,       (dml_kctx *k, const dml_pool2d *p, dml_out y, dml_out which, dml_in x))                          \
    X(max_pool_bwd,       (dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy, dml_in which))                         \
    X(avg_pool_fwd,       (dml_kctx *k, const dml_pool2d *p, dml_out y, dml_in x))                                         \
    X(avg_pool_bwd,       (dml_kctx *k, const dml_pool2d *p, dml_out dx, dml_in dy))                                       \
    /* over all but the last dim c; mean[c], var[c] (biased) are this micro-batch's, written; gamma[c], beta[c] */         \
    X(batch_norm_fwd,     (dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var, dml_in x, dml_in gamma, dml_in beta)) \
    /* the same with given moments */                                                                                      \
    X(batch_norm_eval,    (dml_kctx *k, float eps, dml_out y, dml_in x, dml_in mean, dml_in var, dml_in gamma, dml_in beta)) \
    /* dx, dgamma[c], dbeta[c] at once: dx needs the two sums anyway */                                                    \
    X(batch_norm_bwd,     (dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta, dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma)) \
    /* element-wise; y may be x, dx may be dy.  relu and tanh go back from the output, gelu (erf form) from the input */   \
    X(relu_fwd,           (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(relu_bwd,           (dml_kctx *k, dml_out dx, dml_in dy, dml_in y))                                                  \
    X(gelu_fwd,           (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(gelu_bwd,           (dml_kctx *k, dml_out dx, dml_in dy, dml_in x))                                                  \
    X(tanh_fwd,           (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(tanh_bwd,           (dml_kctx *k, dml_out dx, dml_in dy, dml_in y))                                                  \
    /* forward and backward are the same map */                                                                            \
    X(dropout,            (dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x))                                        \
    X(add,                (dml_kctx *k, dml_out y, dml_in a, dml_in b)) /* y may be a */                                   \
    /* [n,h,w,c] <-> [n,c,h,w]: flatten has PyTorch's order of features */                                                 \
    X(nhwc_to_nchw,       (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(nchw_to_nhwc,       (dml_kctx *k, dml_out y, dml_in x))                                                              \
    /* loss F64[1] = sum over rows of -log softmax(x)[label]; correct I32[1] = rows whose first maximum is the label;      \
       dx = softmax(x) - onehot, unscaled, may be NULL (evaluation) or x; labels I32[n] */                                 \
    X(softmax_xent,       (dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x, dml_in labels))               \
    /* target onehot(label): loss F64[1] = sum over rows of mean_j (x - t)^2; dx = 2 (x - t) / c, may be NULL or x */      \
    X(mse_onehot,         (dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x, dml_in labels))               \
    /* acc = first ? g : acc + g, F32 */                                                                                   \
    X(accumulate,         (dml_kctx *k, dml_out acc, dml_in g, bool first))                                                \
    /* acc I64 = (first ? 0 : acc) + rint_even(g 2^scale_log2), wrapping; max_bits U32[1] = max(max_bits, bits(g) & 0x7fffffff);\
       scale_log2 in -126..126; the integer of a product beyond int64, inf or NaN is arbitrary but fixed */                \
    X(accumulate_exact,   (dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g, int32_t scale_log2, bool first))          \
    /* g F32 = float(acc) 2^-scale_log2, each step rounded to nearest even */                                              \
    X(finish_exact,       (dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2))                                        \
    /* Q = (first ? 0 : hi 2^56 + lo) + rint_even(g 2^84), as hi I64 = floor(Q 2^-56), wrapping, and lo I64 in 0 .. 2^56-1: \
       one pair of words for a sum, whatever its order; max_bits as above; a |g| >= 2^35, inf or NaN adds the largest       \
       float below, with its sign */                                                                                       \
    X(accumulate_wide,    (dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g, bool first))                   \
    /* g F32 = (hi 2^56 + lo) 2^-84 rounded once, to nearest even; |hi| <= 2^62, lo unsigned: sums of up to 256 pairs */    \
    X(finish_wide,        (dml_kctx *k, dml_out g, dml_in hi, dml_in lo))                                                  \
    /* partial F64[ceil(n/4096)]: chunk by chunk, 8 lanes (element i on lane i%8) in double without fma,                   \
       then ((0+1)+(2+3))+((4+5)+(6+7)): the same bits on every backend */                                                 \
    X(sum_squares,        (dml_kctx *k, dml_out partial, dml_in x))                                                        \
    X(fill,               (dml_kctx *k, dml_out y, float value)) /* F32; integer types: value must be 0 */                 \
    X(sgd,                (dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors))                     \
    X(adamw,              (dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors))                   \
    /* keeps the queue busy for ns without touching memory: sleeps on CPU, spins on a GPU */                               \
    X(delay,              (dml_kctx *k, int64_t ns))
/* clang-format on */

typedef struct dml_kernel_table {
    dml_err (*open)(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                    dml_kctx **out);
    void (*close)(dml_kctx *k); /* NULL is fine */
    /* Weights have new values: packed copies are stale.  Called on the queue, once a step. */
    void (*weights_changed)(dml_kctx *k);
    void (*seal)(dml_kctx *k);
#define X(name, args) dml_err(*name) args;
    DML_KERNEL_LIST(X)
#undef X
} dml_kernel_table;

/* Names of the table's entries in order, for messages and for the planner's "not here". */
#define X(...) +1
enum { DML_KERNELS = 0 DML_KERNEL_LIST(X) };
#undef X
const char *dml_kernel_name(int32_t kernel);
/* Whether the table has entry `kernel` (0 .. DML_KERNELS-1). */
bool dml_kernel_here(const dml_kernel_table *table, int32_t kernel);

#endif
