/* engine/data.c - the sample stream, and images made from bytes or from random numbers.
 *
 * The only state that changes is a cache of two permutations, epoch e in place e % 2: a loader that runs ahead
 * is at most in the next epoch.  It is filled under a mutex, into memory that open allocated.
 */
#include "engine/data.h"

#include "engine/base/rng.h"
#include "engine/idx.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { LOCATE_AT_ONCE = 64, CACHED_EPOCHS = 2, BYTE_VALUES = 256 };

struct dml_data {
    bool test_split, synthetic, shuffle;
    dml_last_batch last_batch;
    uint64_t seed;
    int64_t n;           /* samples, N */
    int64_t batch;       /* samples of a full step, B; of a round in the test split */
    int64_t epoch_steps; /* S */
    int64_t total_steps;
    int32_t mb_samples; /* M */
    int32_t classes;
    int32_t height, width, channels; /* of what the model gets, padding included */
    int32_t pad;
    float value[BYTE_VALUES]; /* normalised pixel of each byte */
    dml_idx idx;              /* {0} when synthetic */
    int32_t n_pool;           /* distinct synthetic samples; 0: all n are */
    float *pool; /* [n_pool][sample_elems], owned; NULL: images are made when asked for */

    pthread_mutex_t mutex; /* of the cache */
    int64_t cached_epoch[CACHED_EPOCHS];
    int32_t *perm[CACHED_EPOCHS]; /* [n], owned; NULL without shuffling */
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- opening ---- */

static dml_err check_shape(const dml_spec *spec, dml_data *d)
{
    const int32_t *in = spec->model.input;
    d->height = d->idx.height + 2 * d->pad;
    d->width = d->idx.width + 2 * d->pad;
    d->channels = 1;
    if (spec->model.input_rank == 1) {
        if (in[0] != d->height * d->width)
            DML_FAIL(DML_ERR_SPEC,
                     "model.input is [%d], but images of %d x %d with data.pad %d have %d features",
                     in[0], d->idx.height, d->idx.width, d->pad, d->height * d->width);
    } else if (in[0] != 1 || in[1] != d->height || in[2] != d->width) {
        DML_FAIL(DML_ERR_SPEC,
                 "model.input is [%d, %d, %d], but images of %d x %d with data.pad %d are "
                 "[1, %d, %d]",
                 in[0], in[1], in[2], d->idx.height, d->idx.width, d->pad, d->height, d->width);
    }
    return DML_ERR_OK;
}

static dml_err open_idx(const dml_spec *spec, dml_data_parts parts, dml_data *d)
{
    DML_TRY(dml_idx_load(spec->data.path, d->test_split, parts & DML_DATA_IMAGES,
                         parts & DML_DATA_LABELS, d->classes, &d->idx));
    d->n = d->idx.n;
    d->pad = spec->data.pad;
    for (int32_t b = 0; b < BYTE_VALUES; b++)
        d->value[b] = ((float)b / 255.0f - spec->data.mean[0]) / spec->data.std[0];
    return check_shape(spec, d);
}

static void synthetic_image(const dml_data *d, int32_t index, float *out);

static dml_err fill_pool(dml_data *d)
{
    const int64_t elems = dml_data_sample_elems(d);
    d->pool = malloc((size_t)(d->n_pool * elems) * sizeof *d->pool);
    if (!d->pool)
        DML_FAIL(DML_ERR_NOMEM, "no memory for data.pool: %d samples of %lld floats", d->n_pool,
                 (long long)elems);
    for (int32_t i = 0; i < d->n_pool; i++)
        synthetic_image(d, i, d->pool + i * elems);
    return DML_ERR_OK;
}

static dml_err open_synthetic(const dml_spec *spec, dml_data_parts parts, dml_data *d)
{
    const int32_t *in = spec->model.input;
    const bool image = spec->model.input_rank == 3;
    d->synthetic = true;
    d->n = d->test_split ? spec->data.test_samples : spec->data.samples;
    d->channels = in[0]; /* or features */
    d->height = image ? in[1] : 1;
    d->width = image ? in[2] : 1;
    if (d->n < 1 || d->n > INT32_MAX)
        DML_FAIL(DML_ERR_SPEC, "data.%s is %lld; 1 to %d are possible",
                 d->test_split ? "test_samples" : "samples", (long long)d->n, INT32_MAX);
    d->n_pool = spec->data.pool < d->n ? spec->data.pool : (int32_t)d->n;
    return d->n_pool > 0 && (parts & DML_DATA_IMAGES) ? fill_pool(d) : DML_ERR_OK;
}

/* B, S and the length of the run. */
static dml_err count_steps(const dml_spec *spec, dml_data *d)
{
    if (d->test_split) {
        d->batch = (int64_t)spec->training.num_microbatches * d->mb_samples;
        d->epoch_steps = d->total_steps = ceil_div(d->n, d->batch);
        return DML_ERR_OK;
    }
    d->batch = spec->training.global_batch_size;
    d->epoch_steps = d->last_batch == DML_LAST_DROP ? d->n / d->batch : ceil_div(d->n, d->batch);
    if (d->epoch_steps < 1)
        DML_FAIL(DML_ERR_SPEC,
                 "data.last_batch 'drop' leaves nothing: there are %lld samples, and "
                 "training.global_batch_size is %lld",
                 (long long)d->n, (long long)d->batch);
    const double of_an_epoch =
        d->last_batch == DML_LAST_WRAP ? (double)d->n / (double)d->batch : (double)d->epoch_steps;
    /* A millionth of a step is what decimal fractions cost, not a step somebody asked for. */
    const double steps = ceil(spec->training.epochs * of_an_epoch - 1e-6);
    d->total_steps = spec->training.max_steps > 0 ? spec->training.max_steps
                     : steps < 1                  ? 1
                                                  : (int64_t)steps;
    return DML_ERR_OK;
}

static dml_err open_cache(dml_data *d)
{
    for (int32_t i = 0; i < CACHED_EPOCHS; i++) {
        d->cached_epoch[i] = -1;
        if (!d->shuffle) continue;
        d->perm[i] = malloc((size_t)d->n * sizeof *d->perm[i]);
        if (!d->perm[i])
            DML_FAIL(DML_ERR_NOMEM, "no memory for the order of %lld samples", (long long)d->n);
    }
    return DML_ERR_OK;
}

static dml_err open_parts(const dml_spec *spec, dml_data_parts parts, dml_data *d)
{
    if (spec->data.format == DML_DATA_SYNTHETIC)
        DML_TRY(open_synthetic(spec, parts, d));
    else
        DML_TRY(open_idx(spec, parts, d));
    DML_TRY(count_steps(spec, d));
    return open_cache(d);
}

dml_err dml_data_open(const dml_spec *spec, bool test_split, dml_data_parts parts, dml_data **out)
{
    DML_ASSERT_OP(spec->training.global_batch_size, >, 0);
    DML_ASSERT_OP(spec->training.micro_batch_size, >, 0);
    dml_data *d = calloc(1, sizeof *d);
    if (!d) DML_FAIL(DML_ERR_NOMEM, "no memory for a data set");
    d->test_split = test_split;
    d->shuffle = spec->data.shuffle && !test_split;
    d->last_batch = spec->data.last_batch;
    d->seed = spec->run.seed;
    d->mb_samples = spec->training.micro_batch_size;
    d->classes = spec->model.classes;
    pthread_mutex_init(&d->mutex, NULL);
    const dml_err err = open_parts(spec, parts, d);
    if (err != DML_ERR_OK) {
        dml_data_close(d);
        return err;
    }
    *out = d;
    return DML_ERR_OK;
}

void dml_data_close(dml_data *d)
{
    if (!d) return;
    for (int32_t i = 0; i < CACHED_EPOCHS; i++)
        free(d->perm[i]);
    pthread_mutex_destroy(&d->mutex);
    dml_idx_free(&d->idx);
    free(d->pool);
    free(d);
}

/* ---- the stream ---- */

int64_t dml_data_count(const dml_data *d)
{
    return d->n;
}

int64_t dml_data_sample_elems(const dml_data *d)
{
    return (int64_t)d->height * d->width * d->channels;
}

int32_t dml_data_mb_samples(const dml_data *d)
{
    return d->mb_samples;
}

int64_t dml_data_epoch_steps(const dml_data *d)
{
    return d->epoch_steps;
}

int64_t dml_data_total_steps(const dml_data *d)
{
    return d->total_steps;
}

/* Under `wrap` the epochs are one endless stream, cut into steps wherever they fall. */
static bool spans_epochs(const dml_data *d)
{
    return !d->test_split && d->last_batch == DML_LAST_WRAP;
}

int64_t dml_data_step_samples(const dml_data *d, int64_t step)
{
    if (spans_epochs(d)) return d->batch;
    const int64_t at = (d->test_split ? step : step % d->epoch_steps) * d->batch;
    const int64_t left = d->n - at;
    return left < 0 ? 0 : left < d->batch ? left : d->batch;
}

int32_t dml_data_rows(const dml_data *d, int64_t step, int32_t mb)
{
    const int64_t left = dml_data_step_samples(d, step) - (int64_t)mb * d->mb_samples;
    return left < 0 ? 0 : left < d->mb_samples ? (int32_t)left : d->mb_samples;
}

/* The order of epoch `e`; the mutex is held. */
static const int32_t *permutation(dml_data *d, int64_t e)
{
    const int32_t place = (int32_t)(e % CACHED_EPOCHS);
    if (d->cached_epoch[place] != e) {
        dml_rng_permutation(dml_rng_key(d->seed, DML_RNG_SHUFFLE, (uint64_t)e), d->n,
                            d->perm[place]);
        d->cached_epoch[place] = e;
    }
    return d->perm[place];
}

/* The n samples at positions first .. first+n-1 of a step. */
static void locate(dml_data *d, int64_t step, int64_t first, int64_t n, dml_data_place *out)
{
    pthread_mutex_lock(&d->mutex);
    for (int64_t i = 0; i < n; i++) {
        int64_t epoch = step / d->epoch_steps;
        int64_t at = step % d->epoch_steps * d->batch + first + i;
        if (spans_epochs(d)) {
            const int64_t k = step * d->batch + first + i;
            epoch = k / d->n;
            at = k % d->n;
        }
        out[i].epoch = epoch;
        out[i].index = d->shuffle ? permutation(d, epoch)[at] : (int32_t)at;
    }
    pthread_mutex_unlock(&d->mutex);
}

dml_data_place dml_data_sample(dml_data *d, int64_t step, int64_t position)
{
    DML_ASSERT_OP(position, >=, 0);
    DML_ASSERT_OP(position, <, dml_data_step_samples(d, step));
    dml_data_place place;
    locate(d, step, position, 1, &place);
    return place;
}

/* ---- images and labels ---- */

/* The sample that `index` shows. */
static int32_t pooled(const dml_data *d, int32_t index)
{
    return d->n_pool > 0 ? index % d->n_pool : index;
}

static uint64_t synthetic_key(const dml_data *d, int32_t index)
{
    return dml_rng_key(d->seed, DML_RNG_DATA, (uint64_t)index | (uint64_t)d->test_split << 62);
}

/* A sum of four uniform bytes has mean 510 and variance 4 (256^2 - 1) / 12 = 21845. */
static void synthetic_image(const dml_data *d, int32_t index, float *out)
{
    const float scale = 1.0f / 147.80054f; /* sqrt(21845) */
    const int64_t elems = dml_data_sample_elems(d);
    const uint64_t key = synthetic_key(d, index);
    uint32_t word[4];
    for (int64_t e = 0; e < elems; e++) {
        if (e % 4 == 0) dml_rng_block(key, 0, (uint64_t)(e / 4), word);
        const uint32_t x = word[e % 4];
        const int32_t sum =
            (int32_t)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24 & 255));
        out[e] = (float)(sum - 510) * scale;
    }
}

static int32_t synthetic_label(const dml_data *d, int32_t index)
{
    uint32_t word[4];
    dml_rng_block(synthetic_key(d, index), 1, 0, word);
    return (int32_t)((uint64_t)word[0] * (uint64_t)d->classes >> 32);
}

/* One channel, so NHWC is plain rows; the frame of `pad` pixels is black. */
static void idx_image(const dml_data *d, int32_t index, float *out)
{
    const int32_t h = d->idx.height, w = d->idx.width, pad = d->pad;
    const uint8_t *pixel = d->idx.images + (int64_t)index * h * w;
    for (int64_t i = 0; pad > 0 && i < dml_data_sample_elems(d); i++)
        out[i] = d->value[0];
    for (int32_t y = 0; y < h; y++) {
        float *row = out + (int64_t)(y + pad) * d->width + pad;
        for (int32_t x = 0; x < w; x++)
            row[x] = d->value[*pixel++];
    }
}

static void image(const dml_data *d, int32_t index, float *out)
{
    const int64_t elems = dml_data_sample_elems(d);
    if (d->pool)
        memcpy(out, d->pool + pooled(d, index) * elems, (size_t)elems * sizeof *out);
    else if (d->synthetic)
        synthetic_image(d, index, out);
    else
        idx_image(d, index, out);
}

void dml_data_fill_images(dml_data *d, int64_t step, int32_t mb, float *out)
{
    DML_ASSERT(d->synthetic || d->idx.images);
    const int64_t elems = dml_data_sample_elems(d), first = (int64_t)mb * d->mb_samples;
    const int32_t rows = dml_data_rows(d, step, mb);
    dml_data_place place[LOCATE_AT_ONCE];
    for (int32_t r = 0; r < rows; r++) {
        const int32_t in_block = r % LOCATE_AT_ONCE, left = rows - r;
        if (in_block == 0)
            locate(d, step, first + r, left < LOCATE_AT_ONCE ? left : LOCATE_AT_ONCE, place);
        image(d, place[in_block].index, out + r * elems);
    }
}

void dml_data_fill_labels(dml_data *d, int64_t step, int32_t mb, int32_t *out)
{
    DML_ASSERT(d->synthetic || d->idx.labels);
    const int64_t first = (int64_t)mb * d->mb_samples;
    const int32_t rows = dml_data_rows(d, step, mb);
    dml_data_place place[LOCATE_AT_ONCE];
    for (int32_t r = 0; r < rows; r++) {
        const int32_t in_block = r % LOCATE_AT_ONCE, left = rows - r;
        if (in_block == 0)
            locate(d, step, first + r, left < LOCATE_AT_ONCE ? left : LOCATE_AT_ONCE, place);
        const int32_t index = place[in_block].index;
        out[r] = d->synthetic ? synthetic_label(d, pooled(d, index)) : d->idx.labels[index];
    }
}
