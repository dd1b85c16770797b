/* engine/choose_impl.h - what the files of engine/choose.h share. */
#ifndef DML_ENGINE_CHOOSE_IMPL_H
#define DML_ENGINE_CHOOSE_IMPL_H

#include "engine/choose.h"
#include "engine/model.h"

/* Candidates under construction (choose_space.c). */
typedef struct dml_space {
    const dml_spec *spec; /* borrowed */
    dml_model model;
    int32_t world;    /* workers at most */
    int32_t segments; /* that the model can be cut into */
    dml_candidate *candidate;
    int32_t n, room;
    dml_arena *arena; /* borrowed */
} dml_space;

/* Whether the user wrote the key, so that it stays. */
bool dml_space_fixed(const dml_spec *spec, const char *key);

/* All candidates with their bounds.  Of recomputation policies none alone, unless it is written or asked for: another is
 * no faster, and is added when the plan without does not fit.
 * DML_ERR_SPEC  no number of workers, or what is written leaves none */
dml_err dml_space_make(const dml_spec *spec, bool policies, dml_arena *arena, dml_space *out);
/* Adds what the placement solver finds best for micro-batches of `rows`, where the layout is left open
 * (choose_place.c). */
void dml_space_place(dml_space *s, int32_t rows);
dml_candidate *dml_space_push(dml_space *s, const dml_candidate *c);

/* Fills in the price of a candidate, or why it does not fit.  `shares`: where its time goes, too. */
void dml_candidate_price(const dml_spec *spec, dml_candidate *c, bool shares, dml_arena *arena);

/* The first line of the error trail, without where in our sources or in the spec it was found; the arena's. */
const char *dml_reason(dml_arena *arena);

#endif
