/* engine/pairs.h - who sends to whom, for the transport's `meet`: read from the routes. */
#ifndef DML_ENGINE_PAIRS_H
#define DML_ENGINE_PAIRS_H

#include "comm/transport.h"
#include "engine/base/arena.h"
#include "schedule/program.h"

/* The pairs of all transfers of `programs`, which have the same chunks, workers and skips: boundary by boundary, then
 * skip by skip, the same list on every worker.  A boundary inside one worker makes none.
 *
 *   programs  [n_programs] borrowed
 *   arena     owns what is returned: [*n] */
const dml_pair *dml_pairs_of(const dml_program *const *programs, int32_t n_programs,
                             dml_arena *arena, int32_t *n);

#endif
