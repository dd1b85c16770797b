/* kernels/cpu/cpu.h - the CPU backend: oneDNN for products and convolutions, our own loops for the rest.
 *
 * A context remembers, by hash,
 *   - the operation made for each shape                                  (made at its first call)
 *   - the packed copy of each (operation, weights), with its generation  (packed again when stale)
 * and owns a few buffers that kernels use while they run.  After `seal` none of them grow.
 *
 * Our own loops do not depend on the number of threads in either mode.  The library's may: where
 * `deterministic`, its work is cut into blocks of ours, each of which runs in one thread.
 */
#ifndef DML_KERNELS_CPU_CPU_H
#define DML_KERNELS_CPU_CPU_H

#include "kernels/cpu/dnn.h"
#include "kernels/kernels.h"

extern const dml_kernel_table dml_cpu_kernels;

/* dml_cpu_<entry>: contracts in kernels/kernels.h.  Those that apply an activation as well are not here: the
 * library leaves no `aux`, so they would be the two calls that they stand for. */
#define X(name, args) dml_err dml_cpu_##name args;
DML_KERNEL_LIST(X)
#undef X
#define dml_cpu_linear_act_fwd NULL
#define dml_cpu_linear_act_bwd NULL

/* A packed copy of weights. */
typedef struct dml_cpu_packed {
    const dml_dnn_op *op;
    const void *weights; /* borrowed: with op, the key */
    void *copy;          /* owned */
    uint64_t generation; /* of the context when it was packed */
} dml_cpu_packed;

/* Memory that a kernel may use while it runs, one for each use that can be under way in one entry. */
typedef enum dml_cpu_buffer_id {
    DML_CPU_SCRATCH, /* the library's, and of loops that call no other entry */
    DML_CPU_WIDE,    /* samples as float (wide.h) */
    DML_CPU_WEIGHTS, /* weights as float on their way to a packed copy */
    DML_CPU_BUFFERS
} dml_cpu_buffer_id;

struct dml_kctx {
    int32_t threads, passes; /* see dml_kctx_config */
    bool deterministic, sealed;
    dml_step_words words;
    uint64_t generation; /* of the weights; from 1 */
    dml_dnn dnn;
    dml_dnn_op **op;        /* [op_slots] by hash of the shape; NULL: free */
    dml_cpu_packed *packed; /* [packed_slots] by hash of (op, weights) */
    int64_t n_ops, op_slots, n_packed, packed_slots;
    void *buffer[DML_CPU_BUFFERS]; /* owned */
    int64_t buffer_bytes[DML_CPU_BUFFERS];
};

/* Buffer `which` of the context, of at least `bytes`, 64-byte aligned, contents undefined; borrowed until the
 * next call for it.  DML_ERR_BUG when it would have to grow after seal. */
dml_err dml_cpu_buffer(dml_kctx *k, dml_cpu_buffer_id which, int64_t bytes, void **out);

/* `bytes` rounded up so that what follows is aligned too. */
static inline int64_t dml_cpu_aligned(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* The operation for `shape`, made at the first call.  `like`: see dml_dnn_op_new. */
dml_err dml_cpu_op(dml_kctx *k, const dml_dnn_shape *shape, const dml_dnn_op *like,
                   dml_dnn_op **out);

/* Whether the library has a fast primitive for `shape` in its types; remembered like an operation. */
dml_err dml_cpu_native(dml_kctx *k, const dml_dnn_shape *shape, bool *out);

/* Bytes of the copy of `weights` that `op` reads; 0: it reads them where they are. */
int64_t dml_cpu_copy_bytes(const dml_dnn_op *op, dml_in weights);

/* The copy of `weights` for `op`, packed and of its type, made again when they changed; or the weights
 * themselves.  Weights first seen after seal are copied at every call into `spare` (dml_cpu_copy_bytes), since
 * remembering them would allocate. */
dml_err dml_cpu_packed_weights(dml_kctx *k, dml_dnn_op *op, dml_in weights, void *spare,
                               void **out);

/* Threads for a product of `macs` multiply-adds, by the shape alone: waking others costs as much as a
 * million of them. */
static inline int32_t dml_cpu_threads(const dml_kctx *k, int64_t macs)
{
    return macs < 1000000 ? 1 : k->threads;
}

/* Runs a product that reads the weights, of the kind that `shape` says (its type is set here): in the type of the
 * tensors when the library can, else as float; by `count` blocks of samples in deterministic mode. */
dml_err dml_cpu_product(dml_kctx *k, dml_dnn_shape shape, int64_t count, dml_in x, dml_in w,
                        dml_in b, dml_in y);

/* Runs the operation of `shape` on plain weights, by the library's own threads: fast mode. */
dml_err dml_cpu_run(dml_kctx *k, const dml_dnn_shape *shape, dml_in x, dml_in w, dml_in b,
                    dml_in y);

/* The same by `count` blocks of samples (fewer when n is), so that the bits do not depend on threads:
 * for operations that read the weights, and for those that write them. */
dml_err dml_cpu_run_blocks(dml_kctx *k, const dml_dnn_shape *shape, int64_t count, dml_in x,
                           dml_in w, dml_in b, dml_in y);
dml_err dml_cpu_sum_blocks(dml_kctx *k, const dml_dnn_shape *shape, int64_t count, dml_in x,
                           dml_out dw, dml_out db, dml_in dy);

/* sum[j] = over rows r in order of x[r][j], and what was there where it `adds`; by columns, so the same for any
 * number of threads. */
void dml_cpu_column_sums(dml_kctx *k, float *sum, bool adds, dml_in x, int64_t rows, int64_t cols);

#endif
