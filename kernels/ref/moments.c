/* kernels/ref/moments.c - running moments of batch norm.
 *
 * Micro-batch i leaves mean_i and biased variance v_i of n_i values per channel.  All values together:
 *
 *   n = sum n_i    mean = sum n_i mean_i / n    var = sum n_i (v_i + (mean_i - mean)^2) / n
 *
 * (Chan, Golub and LeVeque 1979, all parts at once), in double, one operation after another in micro-batch
 * order, so that the same slots give the same bits on every backend.  Then, m being the momentum,
 *
 *   running mean = (1 - m) running + m mean        running var = (1 - m) running + m var n / (n - 1)
 */
#include "kernels/check.h"
#include "kernels/ref/ref.h"

typedef struct moments {
    int64_t n; /* values behind them */
    double mean, var;
} moments;

typedef struct norm {
    const dml_moments *p;
    const float *slot; /* [mbs][2][channels] */
    int64_t channels;
    float *mean, *var; /* [channels] running */
} norm;

static moments of_micro_batch(const norm *b, int32_t mb, int64_t channel)
{
    const float *slot = b->slot + 2 * b->channels * mb + channel;
    const int64_t left = b->p->samples - (int64_t)mb * b->p->mb_rows;
    const int64_t rows = left < 0 ? 0 : left < b->p->mb_rows ? left : b->p->mb_rows;
    return (moments){rows * b->p->pixels, (double)slot[0], (double)slot[b->channels]};
}

static moments of_step(const norm *b, int64_t channel)
{
    moments all = {0};
    for (int32_t mb = 0; mb < b->p->mbs; mb++) {
        const moments m = of_micro_batch(b, mb, channel);
        all.n += m.n;
        if (m.n > 0) all.mean += (double)m.n * m.mean;
    }
    if (all.n == 0) return all;
    all.mean /= (double)all.n;
    for (int32_t mb = 0; mb < b->p->mbs; mb++) {
        const moments m = of_micro_batch(b, mb, channel);
        const double off = m.mean - all.mean;
        if (m.n > 0) all.var += (double)m.n * (m.var + off * off);
    }
    all.var /= (double)all.n;
    return all;
}

/* A single value has no unbiased variance; its biased one, 0, is taken. */
static void move(const norm *b, int64_t channel, moments m)
{
    if (m.n == 0) return;
    const double in = (double)b->p->momentum, keep = 1.0 - in;
    const double unbiased = m.n > 1 ? m.var * ((double)m.n / (double)(m.n - 1)) : m.var;
    b->mean[channel] = (float)(keep * (double)b->mean[channel] + in * m.mean);
    b->var[channel] = (float)(keep * (double)b->var[channel] + in * unbiased);
}

dml_err dml_ref_move_moments(dml_kctx *k, const dml_moments *p, dml_out mean, dml_out var,
                             dml_in slots)
{
    (void)k;
    dml_dims d = {0};
    DML_TRY(dml_check_moments(&d, p, mean, var, slots));
    const norm b = {.p = p,
                    .slot = slots->data,
                    .channels = DML_DIM(d, 'c'),
                    .mean = mean->data,
                    .var = var->data};
    for (int64_t channel = 0; channel < b.channels; channel++) {
        if (!p->per_micro_batch) move(&b, channel, of_step(&b, channel));
        for (int32_t mb = 0; mb < p->mbs && p->per_micro_batch; mb++)
            move(&b, channel, of_micro_batch(&b, mb, channel));
    }
    return DML_ERR_OK;
}
