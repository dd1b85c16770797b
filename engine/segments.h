/* engine/segments.h - where an asynchronous run drains: the rule that workers and their loaders share.
 *
 *   steps of a segment 4, evaluation every 6, 15 in all:     [0 1 2 3][4 5]E[6 7 8 9][10 11]E[12 13 14]E
 *
 * A segment is one run of the training program, which is made for `steps` optimizer steps; a shorter one leaves its
 * last micro-batches without samples.  Micro-batch j of the segment that begins at step s is micro-batch j mod mbs of
 * step s + j / mbs.  A synchronous run has segments of one step.
 */
#ifndef DML_ENGINE_SEGMENTS_H
#define DML_ENGINE_SEGMENTS_H

#include "engine/data.h"

typedef struct dml_segments {
    int32_t steps; /* most of a segment; 0 counts as 1 */
    int32_t mbs;   /* global micro-batches of a step; not looked at where steps are 1 */
    int64_t every; /* evaluation drains, too: after every so many steps; 0: only at the end */
} dml_segments;

/* Steps of the segment that begins at `step` of a run that ends before `end`; at least one. */
static inline int32_t dml_segment_steps(const dml_segments *s, int64_t step, int64_t end)
{
    int64_t n = s->steps > 1 ? s->steps : 1;
    if (s->every > 0 && n > s->every - step % s->every) n = s->every - step % s->every;
    if (n > end - step) n = end - step;
    return n > 1 ? (int32_t)n : 1;
}

/* Where micro-batch `j` of a segment lies: steps behind its begin, and which micro-batch of that step. */
static inline int32_t dml_segment_step_of(const dml_segments *s, int32_t j)
{
    return s->steps > 1 ? j / s->mbs : 0;
}
static inline int32_t dml_segment_mb_of(const dml_segments *s, int32_t j)
{
    return s->steps > 1 ? j % s->mbs : j;
}

/* Samples in micro-batch `j` of the segment of `n` steps that begins at `step`. */
static inline int32_t dml_segment_rows(const dml_segments *s, const dml_data *data, int64_t step,
                                       int32_t n, int32_t j)
{
    const int32_t k = dml_segment_step_of(s, j);
    return k < n ? dml_data_rows(data, step + k, dml_segment_mb_of(s, j)) : 0;
}

#endif
