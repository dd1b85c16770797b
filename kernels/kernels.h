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
 *   - Low precision.  Entries from linear_fwd to mse_onehot also take BF16 or F16 in the place of F32, all of
 *     a call in one type, for the tensors that hold samples and for w and b of linear and conv2d.  The result is
 *     that of the F32 entry on the widened values, rounded to nearest even once on the way out; sums run in F32
 *     or wider.  Weight gradients, batch norm's vectors, losses and optimizer state keep the types written here;
 *     but conv2d_bwd_weight may round dw to the samples' type and widen it again, as cuDNN leaves no choice.
 *   - `tf32` in the context's config lets a product of F32 matrices round its factors to 10 bits (NVIDIA's
 *     TF32); other backends ignore it.
 *   - A NaN comes through: the comparisons of relu and max_pool let it pass, so that a diverged run shows.
 */
#ifndef DML_KERNELS_KERNELS_H
#define DML_KERNELS_KERNELS_H

#include "kernels/device.h"
#include "kernels/tensor.h"

typedef struct dml_kctx dml_kctx; /* one per queue: caches plans; opaque */

typedef struct dml_kctx_config {
    int32_t threads;    /* host threads a kernel may use, >= 1 */
    int32_t passes;     /* micro-batches that read weights between two changes of them; 0: many */
    bool deterministic; /* see above; exact mode needs it */
    bool tf32;          /* see above */
    bool plan_only; /* entries make their plans and launch nothing: data pointers are never read */
} dml_kctx_config;

/* What changes from step to step and kernels read by themselves, so that a captured kernel need not change. */
typedef struct dml_step_words {
    int64_t step;     /* keys dropout */
    float loss_scale; /* the gradient that a loss leaves is multiplied by it; a power of two */
    float pace;       /* of an emulated worker: a delay takes ns / pace; 0 counts as 1 */
} dml_step_words;

static inline int64_t dml_paced_ns(int64_t ns, float pace)
{
    return pace > 0.0f ? (int64_t)((double)ns / (double)pace + 0.5) : ns;
}

/* Activations that a product can apply on its way out.  `aux` is what backward needs of it, U8 [n, bytes]
 * with dml_act_aux_bytes a row:
 *   RELU       bit e % 8 of byte e / 8 says y[e] > 0; rows padded to 128 bits with anything
 *   GELU_TANH  the value before the activation, in y's type; rows padded to 8 of them */
typedef enum dml_act { DML_ACT_RELU, DML_ACT_GELU_TANH } dml_act;
int64_t dml_act_aux_bytes(dml_act act, dml_dtype dtype, int64_t out);

/* Running moments of batch norm after a step of all its micro-batches together, or of one
 * after another when `per_micro_batch`; a micro-batch without samples moves nothing.  kernels/ref/moments.c has
 * the formulas; the variance that enters is unbiased, n / (n - 1), as PyTorch's.
 * Slots hold mean and biased variance of each micro-batch: [mbs][2][c].  Micro-batch i has
 * clamp(samples - i mb_rows, 0, mb_rows) samples of `pixels` values. */
typedef struct dml_moments {
    int32_t mbs, mb_rows;
    int64_t samples, pixels;
    float momentum;
    bool per_micro_batch;
} dml_moments;

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
 * unit(word e%4 of block(key, hi = step, lo = s << 32 | e/4)) >= rate, and then scaled by 1 / (1 - rate);
 * step is that of dml_step_words.
 * key = dml_rng_key(seed, DML_RNG_DROPOUT, layer), the layer's number along the whole model (a residual
 * block counts body, shortcut, add).  Row i of the tensor is sample first_sample + i. */
typedef struct dml_dropout {
    float rate;
    uint64_t key;
    int64_t first_sample;
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
    /* dw += dy^T x, db += column sums: for fast mode, where NULL falls back on linear_bwd_weight and accumulate */        \
    X(linear_add_weight,  (dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x))                                      \
    /* y = act(x w^T + b), aux of y as dml_act says; dx = (dy w) act'(aux), aux of the layer below.                        \
       NULL falls back on two entries */                                                                                   \
    X(linear_act_fwd,     (dml_kctx *k, dml_act act, dml_out y, dml_out aux, dml_in x, dml_in w, dml_in b))                \
    X(linear_act_bwd,     (dml_kctx *k, dml_act act, dml_out dx, dml_in dy, dml_in w, dml_in aux))                         \
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
    /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), PyTorch's approximate="tanh" */                                    \
    X(gelu_tanh_fwd,      (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(gelu_tanh_bwd,      (dml_kctx *k, dml_out dx, dml_in dy, dml_in x))                                                  \
    X(tanh_fwd,           (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(tanh_bwd,           (dml_kctx *k, dml_out dx, dml_in dy, dml_in y))                                                  \
    /* forward and backward are the same map */                                                                            \
    X(dropout,            (dml_kctx *k, const dml_dropout *p, dml_out y, dml_in x))                                        \
    X(add,                (dml_kctx *k, dml_out y, dml_in a, dml_in b)) /* y may be a */                                   \
    /* [n,h,w,c] <-> [n,c,h,w]: flatten has PyTorch's order of features */                                                 \
    X(nhwc_to_nchw,       (dml_kctx *k, dml_out y, dml_in x))                                                              \
    X(nchw_to_nhwc,       (dml_kctx *k, dml_out y, dml_in x))                                                              \
    /* loss F64[1] = sum over rows of -log softmax(x)[label]; correct I32[1] = rows whose first maximum is the label;      \
       dx = (softmax(x) - onehot) loss_scale, may be NULL (evaluation) or x; labels I32[n] */                              \
    X(softmax_xent,       (dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x, dml_in labels))               \
    /* target onehot(label): loss F64[1] = sum over rows of mean_j (x - t)^2; dx = 2 (x - t) / c loss_scale, may be NULL or x */ \
    X(mse_onehot,         (dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x, dml_in labels))               \
    /* y = x in another of the types F32, BF16, F16, rounded to nearest even; overflow to F16 is inf */                    \
    X(convert,            (dml_kctx *k, dml_out y, dml_in x))                                                              \
    /* mean[c] and var[c] move by the slots [mbs][2][c]; in double, micro-batch by micro-batch */                          \
    X(move_moments,       (dml_kctx *k, const dml_moments *p, dml_out mean, dml_out var, dml_in slots))                    \
    /* acc = first ? g : acc + g, F32 */                                                                                   \
    X(accumulate,         (dml_kctx *k, dml_out acc, dml_in g, bool first))                                                \
    /* acc I64 = (first ? 0 : acc) + rint_even(g 2^scale_log2), wrapping; max_bits U32[1] = max(max_bits, bits(g) & 0x7fffffff); \
       scale_log2 in -126..126; the integer of a product beyond int64, inf or NaN is arbitrary but fixed */                \
    X(accumulate_exact,   (dml_kctx *k, dml_out acc, dml_out max_bits, dml_in g, int32_t scale_log2, bool first))          \
    /* g F32 = float(acc) 2^-scale_log2, each step rounded to nearest even */                                              \
    X(finish_exact,       (dml_kctx *k, dml_out g, dml_in acc, int32_t scale_log2))                                        \
    /* Q = (first ? 0 : hi 2^56 + lo) + rint_even(g 2^84), as hi I64 = floor(Q 2^-56), wrapping, and lo I64 in 0 .. 2^56-1: \
       one pair of words for a sum, whatever its order; max_bits as above; a |g| >= 2^35, inf or NaN adds the largest      \
       float below, with its sign */                                                                                       \
    X(accumulate_wide,    (dml_kctx *k, dml_out hi, dml_out lo, dml_out max_bits, dml_in g, bool first))                   \
    /* g F32 = (hi 2^56 + lo) 2^-84 rounded once, to nearest even; |hi| <= 2^62, lo unsigned: sums of up to 256 pairs */   \
    X(finish_wide,        (dml_kctx *k, dml_out g, dml_in hi, dml_in lo))                                                  \
    /* partial F64[ceil(n/4096)]: chunk by chunk, 8 lanes (element i on lane i%8) in double without fma,                   \
       then ((0+1)+(2+3))+((4+5)+(6+7)): the same bits on every backend */                                                 \
    X(sum_squares,        (dml_kctx *k, dml_out partial, dml_in x))                                                        \
    X(fill,               (dml_kctx *k, dml_out y, float value)) /* F32; integer types: value must be 0 */                 \
    X(sgd,                (dml_kctx *k, const dml_sgd *p, const dml_opt_tensor *t, int32_t n_tensors))                     \
    X(adamw,              (dml_kctx *k, const dml_adamw *p, const dml_opt_tensor *t, int32_t n_tensors))                   \
    /* keeps the queue busy for ns / pace of the step without touching memory: sleeps on CPU, spins on a GPU */                               \
    X(delay,              (dml_kctx *k, int64_t ns))
/* clang-format on */

typedef struct dml_kernel_table {
    dml_err (*open)(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                    dml_kctx **out);
    void (*close)(dml_kctx *k); /* NULL is fine */
    /* Weights have new values: packed copies are stale.  Called on the queue. */
    void (*weights_changed)(dml_kctx *k);
    void (*seal)(dml_kctx *k);
    /* On the queue, at the start of a step; a fresh context has {0, 1}. */
    dml_err (*begin_step)(dml_kctx *k, const dml_step_words *words);
    /* Choices of algorithms made so far, as opaque bytes, so that all workers compute with the same: *bytes is
     * the room in `out` and becomes what is needed (nothing is written when that is more).  `choose` is called
     * before the first kernel of a context; what it does not cover is chosen as without it.  Both NULL where a
     * shape has but one algorithm.  DML_ERR_UNAVAILABLE  made by another library version or kind of GPU */
    dml_err (*choices)(dml_kctx *k, void *out, int64_t *bytes);
    dml_err (*choose)(dml_kctx *k, const void *choices, int64_t bytes);
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
