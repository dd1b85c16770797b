/* schedule/shares.h - which replica of a stage runs which micro-batch, when shares differ.
 *
 *   3 replicas, shares 1 1 1    0 1 2 0 1 2 ...     micro-batch b on replica b mod 3
 *   2 replicas, shares 1 3      1 0 1 1 1 0 1 1     one of four on the first
 */
#ifndef DML_SCHEDULE_SHARES_H
#define DML_SCHEDULE_SHARES_H

#include "schedule/program.h"

/* Deals micro-batches 0 .. mbs - 1 by a smooth weighted round robin: b goes to the replica i with the largest
 *
 *     share[i] (b + 1) - all given[i]        all: sum of shares, given[i]: how many of those before b it has
 *
 * the first one of several: to whoever is furthest behind its share.  Of every `all` micro-batches in a row, from
 * the first, each has exactly its share, spread evenly; equal shares give b mod n.
 *
 *   share  [n] each >= 1
 *   taker  [mbs] out: index of the replica
 *
 * The rule of nginx's weighted upstreams (smooth weighted balancing), whose running weights are this difference. */
void dml_deal(const int32_t *share, int32_t n, int32_t mbs, int32_t *taker);

/* Routes the chunk's micro-batches to the workers as dealt by their shares; workers [n], share [n]. */
void dml_route_by_shares(dml_program *p, int32_t chunk, const int32_t *worker, const int32_t *share,
                         int32_t n);

#endif
