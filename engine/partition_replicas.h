/* engine/partition_replicas.h - stages, replicas and where they lie, by PipeDream's recurrence.
 *
 * Harlap et al., PipeDream (SOSP 2019, section 3.1), for hardware of several levels: m_1 devices in a node with links
 * B_1, m_2 nodes in a rack with links B_2, ...  For layers i..j and m components of level k:
 *
 *   A^0(i->j, m_0) = sum of the layers' times
 *   T^k(i->j, m)   = 1/m max( A^(k-1)(i->j, m_(k-1)), 2 (m - 1) params / B_k )        one stage, m replicas
 *   A^k(i->j, m)   = min( T^k(i->j, m),
 *                         min over i <= s < j, 1 <= m' < m of
 *                             max( A^k(i->s, m - m'), 2 out_s / B_k, T^k(s+1->j, m') ) )
 *
 * and the answer is A^L(all layers, m_L).  It is the time between two micro-batches of a full pipeline whose transfers
 * overlap its compute.  The recurrence knows no memory limit and uses every device, as it is published.
 */
#ifndef DML_ENGINE_PARTITION_REPLICAS_H
#define DML_ENGINE_PARTITION_REPLICAS_H

#include "engine/base/arena.h"
#include "engine/base/err.h"

enum { DML_REPLICA_LEVELS = 4 }; /* at most */

/* One layer, one micro-batch.  Any units, as long as all times and all sizes share theirs. */
typedef struct dml_replica_layer {
    double time;   /* forward and backward on one device */
    double out;    /* bytes of its output; its gradient is as large */
    double params; /* bytes to reduce among replicas */
} dml_replica_layer;

typedef struct dml_replica_level {
    int32_t components; /* of the level below (devices, for the first) in one of this */
    double bandwidth;   /* bytes per time between them, > 0; INFINITY: bytes take no time */
} dml_replica_level;

/* Layers [begin, end) on `replicas` devices: at[k] components of level k, each with at[k - 1] of those below. */
typedef struct dml_replica_stage {
    int32_t begin, end;
    int32_t replicas; /* product of at[] */
    int32_t at[DML_REPLICA_LEVELS];
} dml_replica_stage;

typedef struct dml_replica_plan {
    double time; /* A^L: per micro-batch, in steady state */
    int32_t n_stages;
    dml_replica_stage *stage; /* [n_stages] in the order of the chain; the arena's */
} dml_replica_plan;

/* Solves the recurrence and follows it back.  Among equal times one stage goes before several, then the earliest
 * split, then the fewest replicas of the stage behind it.  Where a component of level k holds several stages, each of
 * its at[k] replicas holds all of them.
 *
 * O(n^3 m_k^2) for each level but the last and O(n^2 m_L^2) for the last, which is asked for all layers alone;
 * O(levels n^2 + n max m) memory.
 *
 *   level   [n_levels] innermost first
 *
 * DML_ERR_SPEC  no layers or levels, a level without components, a bandwidth that is not above 0 */
dml_err dml_partition_replicas(const dml_replica_layer *layer, int32_t n,
                               const dml_replica_level *level, int32_t n_levels, dml_arena *arena,
                               dml_replica_plan *out);

#endif
