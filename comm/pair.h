/* comm/pair.h - reading the pairs of `meet`. */
#ifndef DML_COMM_PAIR_H
#define DML_COMM_PAIR_H

#include "comm/transport.h"

/* Every pair names ranks of the world, ascending, none on both sides.  DML_ERR_BUG  the text says which does
 * not. */
dml_err dml_pairs_check(const dml_pair *pairs, int32_t n, int32_t world);

/* Place of `rank` in `ranks`; -1: it is not there. */
int32_t dml_pair_place(const int32_t *ranks, int32_t n, int32_t rank);

#endif
