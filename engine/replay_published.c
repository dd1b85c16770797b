/* engine/replay_published.c - systems that are not run here, by the figures that were published of them.
 *
 * Source: ReCycle's talk and poster (Gandhi et al., SOSP 2024; arXiv 2405.14009): samples a second against live GPUs on
 * 24 A100 as 6 pipelines of 4 stages, digitised from the vector graphics (within 0.3 % of the values printed there).
 * Between points: straight lines; below the last: in proportion to live GPUs.  Other numbers of workers: by the share
 * that is live.
 *
 * Stalls are what makes the steady figures, over the GCP trace (examples/traces/gcp-24.csv, 37 changes), give the
 * published means 18.09 and 8.99 (Oobleck), 11.85 (Bamboo):  (steady mean - mean) / steady mean x 6.32 h / 37.
 */
#include "engine/replay.h"

enum { GPUS = 24, POINTS = 10, MODELS = DML_PUBLISHED_350M + 1 };

typedef struct point {
    int32_t live; /* of GPUS; 0: none */
    double samples_per_s;
} point;

typedef struct published {
    point at[MODELS][POINTS]; /* descending */
    int64_t stall_s[MODELS];
} published;

static const double plain[MODELS] = {11.34, 20.55};

static const published recycle = {
    .at = {{{24, 11.34},
            {23, 11.29},
            {22, 10.89},
            {21, 10.68},
            {20, 10.47},
            {19, 9.49},
            {18, 9.31},
            {17, 9.13},
            {16, 8.90},
            {15, 8.85}},
           {{24, 20.55},
            {23, 20.46},
            {22, 19.47},
            {21, 19.24},
            {20, 18.48},
            {19, 17.21},
            {18, 16.88},
            {17, 16.55},
            {16, 16.13},
            {15, 16.04}}},
};

/* Of the large model three points are known; the others are those of the small one, scaled to meet them at 21. */
static const published oobleck = {
    .at = {{{24, 11.34}, {23, 11.22}, {21, 9.82}, {20, 9.47}, {18, 8.77}},
           {{24, 20.55}, {23, 20.47}, {22, 19.19}, {21, 17.91}, {20, 17.27}, {18, 16.00}}},
    .stall_s = {74, 28},
};

/* Redundant layers do not fit beside the large model: it runs out of memory, at any number of GPUs. */
static const published bamboo = {
    .at = {{{24, 0}}, {{24, 13.41}, {23, 12.79}, {22, 12.20}, {21, 11.84}, {18, 10.14}}},
    .stall_s = {14, 14},
};

static const published *of(dml_replay_policy policy)
{
    return policy == DML_REPLAY_OOBLECK  ? &oobleck
           : policy == DML_REPLAY_BAMBOO ? &bamboo
                                         : &recycle;
}

double dml_published_rate(dml_replay_policy policy, dml_published model, int32_t live,
                          int32_t workers)
{
    const point *at = of(policy)->at[model];
    const double n = (double)live * GPUS / workers;
    int32_t k = 0;
    while (k < POINTS - 1 && at[k + 1].live > 0 && at[k + 1].live >= n)
        k++;
    const point *high = &at[k], *low = k < POINTS - 1 ? &at[k + 1] : &(point){0};
    /* Behind the last point {0, 0} follows: the line through it is the proportion. */
    const double along = (high->live - n) / (high->live - low->live);
    const double samples = high->samples_per_s + along * (low->samples_per_s - high->samples_per_s);
    return samples / plain[model];
}

int64_t dml_published_stall_ns(dml_replay_policy policy, dml_published model)
{
    return of(policy)->stall_s[model] * 1000000000;
}
