/* tests/support/layouts.h - the same spec run at a layout, and what must not differ between two. */
#ifndef DML_TEST_LAYOUTS_H
#define DML_TEST_LAYOUTS_H

#include "tests/support/run_threads.h"

typedef struct layout {
    const char *pp, *dp, *schedule,
        *threads; /* schedule "looped_bfs x2": two stages on each rank; pp "[{workers: [0, 1]}, ...]":
                   * parallelism.stages, and dp counts for nothing */
} layout;

/* Runs the spec there; `extra` is a NULL-terminated list of further overrides, or NULL.  Fails the test when
 * the run fails. */
run_result run_layout(const char *spec_path, const layout *l, const char *const *extra);
/* As run_layout with hooks; a failure of the run is in the result. */
run_result run_layout_hooked(const char *spec_path, const layout *l, const char *const *extra,
                             run_hooks hooks);

/* Losses, norms and hits of every step, the test result and the weights: equal bit for bit. */
void expect_same(const run_result *a, const run_result *b, const layout *l);

/* All layouts against the first; returns that one's result. */
run_result expect_all_same(const char *spec_path, const layout *layouts, size_t n,
                           const char *const *extra);

#endif
