/* engine/hardware.h - what a device and its links can do, from a file in which every figure names its source.
 *
 *   name: H100 SXM5 80GB
 *   peak:
 *     bf16: {value: 989.4TFLOP/s, source: "H100 datasheet: 1,979 with sparsity, halved"}
 *   links:
 *     - {workers: 8, latency: {value: 10us, source: ...}, bandwidth: {value: 370GB/s, source: ...}}
 *     - {workers: all, ...}
 *
 * Peaks are dense: never the figure for sparse matrices.  `device: FILE` (relative to this file) begins with that
 * file's figures and links, which this one then replaces: a node is its device and other links.
 */
#ifndef DML_ENGINE_HARDWARE_H
#define DML_ENGINE_HARDWARE_H

#include "engine/spec.h"

/* clang-format off */
/*    id            path in the file     unit    range    must  meaning                                                  */
#define DML_HARDWARE_LIST(X)                                                                                               \
    X(PEAK_FP32,    "peak.fp32",         FLOPS,  ">0",    true)  /* FLOP/s of one device, dense; one product and sum: 2 */ \
    X(PEAK_TF32,    "peak.tf32",         FLOPS,  ">0",    false) /* without it tf32 runs at fp32's                      */ \
    X(PEAK_BF16,    "peak.bf16",         FLOPS,  ">0",    false) /* without it the roofline refuses bf16                */ \
    X(PEAK_FP16,    "peak.fp16",         FLOPS,  ">0",    false) /* likewise                                            */ \
    X(MEMORY,       "memory.capacity",   BYTES,  ">0",    true)  /* that a worker may hold                              */ \
    X(BANDWIDTH,    "memory.bandwidth",  RATE,   ">0",    true)  /* reads and writes together                           */ \
    X(LAUNCH,       "launch",            TIME,   "",      true)  /* of each kernel, beside its work                     */ \
    X(UNITS,        "units",             COUNT,  ">=1",   true)  /* that a product's tiles are dealt to: SMs, cores     */ \
    X(TILE,         "tile",              COUNT,  ">=1",   true)  /* side of a full tile of a product                    */ \
    X(RAILS,        "rails",             COUNT,  ">=1",   false) /* network cards of a node: cluster.rails           */ \
    X(MATMUL,       "share.matmul",      NUMBER, "(0,1]", true)  /* of the peak that large products reach               */ \
    X(CONV,         "share.conv",        NUMBER, "(0,1]", true)  /* ... and convolutions                                */ \
    X(STREAM,       "share.memory",      NUMBER, "(0,1]", true)  /* of memory.bandwidth that element-wise kernels reach */
/* clang-format on */
typedef enum dml_hardware_id {
#define X(id, ...) DML_HW_##id,
    DML_HARDWARE_LIST(X)
#undef X
} dml_hardware_id;
#define X(...) +1
enum { DML_HARDWARE_FIGURES = 0 DML_HARDWARE_LIST(X) };
#undef X

/* In FLOP/s, bytes, bytes/s, ns, or plain.  source NULL: the file does not say, and value is 0. */
typedef struct dml_figure {
    double value;
    const char *source;
} dml_figure;

/* Devices within one block of `workers` reach each other so; bandwidth is what each sends while all send in a ring
 * (nccl-tests' bus bandwidth). */
typedef struct dml_hardware_link {
    int32_t workers; /* ascending; 0, for all, in the last */
    dml_figure latency_ns, bytes_per_s;
} dml_hardware_link;

typedef struct dml_hardware {
    const char *name;
    dml_figure figure[DML_HARDWARE_FIGURES];
    const dml_hardware_link *link; /* [n_links] innermost first; none: one device */
    int32_t n_links;
    dml_arena arena; /* owns the above */
} dml_hardware;

/* Reads a file; `out` is written only on success.
 *
 * DML_ERR_SPEC  complaints, each FILE:line:column with the line and a caret: an unknown key, a wrong unit, a figure
 *               without a source, a level that is no larger than the one before */
dml_err dml_hardware_load(const char *path, dml_hardware *out);
void dml_hardware_free(dml_hardware *hardware); /* back to {0} */

/* The host, as one worker with `threads` threads sees it: products, convolutions and copies measured for some 0.2 s
 * through the cpu backend's kernels; no links.  The peak is the best product seen, so share.matmul is 1.
 *
 * DML_ERR_UNAVAILABLE, DML_ERR_NOMEM  the backend's */
dml_err dml_hardware_here(int32_t threads, dml_hardware *out);

/* Dense FLOP/s of products in that precision (tf32: fp32's where the file has no tf32), and where it is from; value 0:
 * none. */
dml_figure dml_hardware_peak(const dml_hardware *hardware, dml_precision precision);

/* The innermost level whose blocks have `workers` >= 2 workers; the last where none does; NULL without links. */
const dml_hardware_link *dml_hardware_link_of(const dml_hardware *hardware, int32_t workers);

/* Every figure with its source, a line each. */
void dml_hardware_print(const dml_hardware *hardware, FILE *to);

#endif
