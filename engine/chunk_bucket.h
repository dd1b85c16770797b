/* engine/chunk_bucket.h - the buckets in which a chunk's gradients are reduced while backward goes on.
 *
 *   layers of the chunk     0 conv   1 relu   2 conv   3 flatten   4 fc   5 fc
 *   buckets                [       3        ][        2          ][     1      ]
 *   gradients in memory    |0.........|2................|4........|5..........|    ascending, padded
 *   backward                                    <-- part 3 <-- part 2 <-- part 1
 *
 * The rule is that of PyTorch DDP (Li et al. 2020, section 3.2): parameters in the order in which backward is done with
 * them, a first bucket of at least comm.first_bucket_bytes so that the link is busy soon, then buckets of at
 * least comm.bucket_bytes, which pay few latencies; the last is what is left.  A layer is never divided.
 *
 * The last part also does what is left below the lowest layer with parameters (its input gradient, layers without
 * any), so the last bucket waits for that too: it is short where it matters, and keeps parts and buckets the same.
 *
 * It is a function of spec and layers alone, so every replica and the planner find the same.  There is one bucket
 * where there is nothing to overlap: a single replica, comm.overlap false, no parameters.
 */
#ifndef DML_ENGINE_CHUNK_BUCKET_H
#define DML_ENGINE_CHUNK_BUCKET_H

#include "engine/chunk.h"

struct dml_bucket {
    int32_t param_begin, param_end; /* in the chunk: 0 is its first */
    int64_t at, elems;              /* of the arenas w, g, and of each word plane of acc */

    /* Steps of a backward that are done after this part, of the chunk's lists of input and of weight steps. */
    int32_t input_end, weight_end;
};

/* Bytes that a reduction of the bucket sums: gradients in fast mode, integer sums else, padding included. */
int64_t dml_bucket_bytes(const dml_chunk *c, const dml_bucket *b);

/* Predicted time of part `part` (1 .. n_buckets) of a backward: of all its steps, and of its weight steps alone.
 *   ns  [layers of the chunk][3] forward, input gradient, weight gradient of each layer */
typedef struct dml_part_times {
    int64_t bwd_ns, weight_ns;
} dml_part_times;
dml_part_times dml_chunk_part_times(const dml_chunk *c, int32_t part, const int64_t (*ns)[3]);

/* Whether a backward may be in parts: replicas reduce while it goes on. */
bool dml_chunk_overlaps(const dml_chunk *c);

/* Sets c->bucket and c->n_buckets; parameters and steps are planned.  For dml_chunk_plan. */
void dml_chunk_bucket(dml_chunk *c, dml_arena *arena);

/* Steps [begin, end) of each list that belong to part `part` of a backward; all of them when it is 0. */
typedef struct dml_part {
    int32_t input_begin, input_end, weight_begin, weight_end;
    bool last; /* nothing of this backward comes after it */
} dml_part;
dml_part dml_chunk_part(const dml_chunk *c, int32_t part);

#endif
