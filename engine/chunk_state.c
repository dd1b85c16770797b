/* engine/chunk_state.c - running moments of batch norm, moved when a step commits.
 *
 * Micro-batch i leaves mean_i and biased variance v_i of n_i values per channel.  All values together:
 *
 *   n = sum n_i    mean = sum n_i mean_i / n    var = sum n_i (v_i + (mean_i - mean)^2) / n
 *
 * (Chan, Golub and LeVeque 1979, all parts at once), in double and in micro-batch order, so that the same
 * micro-batches give the same bits whoever ran them.
 */
#include "engine/chunk_impl.h"

typedef struct moments {
    int64_t n; /* values behind them */
    double mean, var;
} moments;

/* One batch norm layer: its slots and its states. */
typedef struct norm {
    const float *slot; /* [mbs][2][channels] */
    int64_t channels;
    int64_t pixels; /* values a sample has per channel */
    int32_t mbs;
    double momentum;
    float *mean, *var; /* [channels] running */
} norm;

static moments of_micro_batch(const norm *b, int32_t mb, int32_t rows, int64_t channel)
{
    const float *slot = b->slot + 2 * b->channels * mb + channel;
    return (moments){rows * b->pixels, (double)slot[0], (double)slot[b->channels]};
}

static moments of_step(const norm *b, const int32_t *rows, int64_t channel)
{
    moments all = {0};
    for (int32_t mb = 0; mb < b->mbs; mb++) {
        const moments m = of_micro_batch(b, mb, rows[mb], channel);
        all.n += m.n;
        all.mean += (double)m.n * m.mean;
    }
    if (all.n == 0) return all;
    all.mean /= (double)all.n;
    for (int32_t mb = 0; mb < b->mbs; mb++) {
        const moments m = of_micro_batch(b, mb, rows[mb], channel);
        const double off = m.mean - all.mean;
        all.var += (double)m.n * (m.var + off * off);
    }
    all.var /= (double)all.n;
    return all;
}

/* A single value has no unbiased variance; its biased one, 0, is taken. */
static void move(const norm *b, int64_t channel, moments m)
{
    if (m.n == 0) return;
    const double keep = 1.0 - b->momentum,
                 unbiased = m.n > 1 ? m.var * ((double)m.n / (double)(m.n - 1)) : m.var;
    b->mean[channel] = (float)(keep * (double)b->mean[channel] + b->momentum * m.mean);
    b->var[channel] = (float)(keep * (double)b->var[channel] + b->momentum * unbiased);
}

static void move_channel(const norm *b, bool per_micro_batch, const int32_t *rows, int64_t channel)
{
    if (!per_micro_batch) {
        move(b, channel, of_step(b, rows, channel));
        return;
    }
    for (int32_t mb = 0; mb < b->mbs; mb++)
        move(b, channel, of_micro_batch(b, mb, rows[mb], channel));
}

dml_err dml_chunk_commit_state(dml_chunk *c, const int32_t *rows_of_mb)
{
    const dml_chunk_impl *impl = c->impl;
    for (int32_t i = c->layer_begin; i < c->layer_end; i++) {
        const dml_layer *l = &c->model->layer[i];
        if (l->state_begin == l->state_end) continue;
        const int64_t channels = c->model->state[l->state_begin].elems;
        const norm b = {
            .slot = c->moments + impl->layer[i - c->layer_begin].moments_at,
            .channels = channels,
            .pixels = dml_shape_elems(l->in) / channels,
            .mbs = c->mbs,
            .momentum = (double)l->spec->momentum,
            .mean = dml_chunk_state(c, l->state_begin),
            .var = dml_chunk_state(c, l->state_begin + 1),
        };
        for (int64_t channel = 0; channel < channels; channel++)
            move_channel(&b, l->spec->per_micro_batch, rows_of_mb, channel);
    }
    return DML_ERR_OK;
}
