/* engine/data.h - samples by (epoch, step, micro-batch), the same from any worker.
 *
 * Nothing here depends on placement: which samples a micro-batch holds follows from the spec alone, so a
 * micro-batch that moves to another worker stays what it was.
 *
 * With N samples and a global batch of B, epoch e visits them in the order
 * perm_e = dml_rng_permutation(dml_rng_key(seed, DML_RNG_SHUFFLE, e)), or 0 .. N-1 when `shuffle` is off,
 * and position i of step s is
 *
 *   wrap    sample  perm_(k / N)[k % N],  k = s B + i      every step has B samples, some span two epochs
 *   short   sample  perm_e[r B + i],  s = e S + r,  S = ceil(N / B)   the epoch's last step has what is left
 *   drop    the same with S = floor(N / B)                            and what is left is left out
 *
 * Micro-batch mb holds positions mb M .. mb M + M - 1 of the step (M = micro_batch_size), as far as the step
 * goes.  The test split is read in order, a "step" being a round of G micro-batches of M samples, once.
 *
 * Images are float NHWC, (byte / 255 - mean) / std; `data.pad` adds black pixels before that, so they
 * become -mean / std as with torchvision's Pad, ToTensor, Normalize.  Synthetic images have the model's input
 * shape, mean 0 and variance 1 (a sum of four uniform bytes, exact on any machine); labels are uniform.
 * Element e (NHWC) of sample i sums the bytes of word e % 4 of block (0, e / 4) under key (seed, DML_RNG_DATA,
 * i, with bit 62 set in the test split); the label is floor(classes word 0 of block (1, 0) / 2^32).  With
 * data.pool P > 0 sample i is sample i % P, image and label: P images are made when the split is opened, and a
 * step only copies, as benchmarks of training do (making them would hold up a GPU).
 */
#ifndef DML_ENGINE_DATA_H
#define DML_ENGINE_DATA_H

#include "engine/spec.h"

typedef struct dml_data dml_data; /* opaque; after open all calls are safe from any thread */

/* What to keep in memory: the worker of the first stage needs images, that of the last one labels. */
typedef enum dml_data_parts {
    DML_DATA_COUNTS = 0, /* read headers only: counts, rows and positions work */
    DML_DATA_IMAGES = 1,
    DML_DATA_LABELS = 2,
    DML_DATA_ALL = 3
} dml_data_parts;

typedef struct dml_data_place {
    int64_t epoch;
    int32_t index; /* of the sample in its file */
} dml_data_place;

/* Opens a split.  Nothing allocates after this.
 *
 *   out  owned; dml_data_close
 *
 * DML_ERR_DATA   see dml_idx_load
 * DML_ERR_SPEC   the images do not have the model's input shape, or `drop` leaves no step
 * DML_ERR_NOMEM
 */
dml_err dml_data_open(const dml_spec *spec, bool test_split, dml_data_parts parts, dml_data **out);
void dml_data_close(dml_data *d); /* NULL is fine */

int64_t dml_data_count(const dml_data *d); /* samples in the split, N */
int64_t
dml_data_sample_elems(const dml_data *d);       /* floats of one image: height * width * channels */
int32_t dml_data_mb_samples(const dml_data *d); /* micro_batch_size, M */

/* Steps of an epoch: ceil(N / B), or floor under `drop`; of the test split: rounds that cover it. */
int64_t dml_data_epoch_steps(const dml_data *d);

/* Steps of the whole run: max_steps when given, else as many as `epochs` (may be fractional) take, rounded
 * up: epochs N / B under `wrap`, epochs S otherwise. */
int64_t dml_data_total_steps(const dml_data *d);

/* Samples in a step: B, or less in the short step at an epoch's (or the test split's) end; 0 past the end of
 * the test split. */
int64_t dml_data_step_samples(const dml_data *d, int64_t step);

/* Samples in micro-batch mb of the step, 0 .. M. */
int32_t dml_data_rows(const dml_data *d, int64_t step, int32_t mb);

/* The sample at `position` (0 .. step_samples-1) of the step's global batch. */
dml_data_place dml_data_sample(dml_data *d, int64_t step, int64_t position);

/* out [rows, height, width, channels], rows = dml_data_rows(d, step, mb); needs DML_DATA_IMAGES. */
void dml_data_fill_images(dml_data *d, int64_t step, int32_t mb, float *out);

/* out [rows], classes 0 .. classes-1; needs DML_DATA_LABELS. */
void dml_data_fill_labels(dml_data *d, int64_t step, int32_t mb, int32_t *out);

#endif
