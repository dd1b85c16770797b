/* engine/agent.h - one run on one host: plan, start the workers, follow them, name who is lost.
 *
 * A worker ends in one of three ways: it reports END and exits 0; it reports FAIL and exits with that
 * error's code; or it dies.  On the first failure the abort flag is raised, so that every wait in every
 * worker ends; failures that are only echoes of it are not shown.
 */
#ifndef DML_ENGINE_AGENT_H
#define DML_ENGINE_AGENT_H

#include "engine/plan.h"
#include "kernels/backend.h"

typedef struct dml_agent_options {
    const char *spec_path;
    const char *const *overrides; /* [n_overrides] */
    int32_t n_overrides;
    int32_t supervisor_pid;
    bool again; /* in the place of one that was killed: follows on */
    bool anew;  /* the same, but too little was there to follow: begins the run once more */
} dml_agent_options;

/* main() of the agent process; returns the exit code of the run. */
int dml_agent_main(const dml_agent_options *options);

/* The backend of a plan: the one named, or for "auto" the first that has enough devices and every kernel
 * the model needs.
 *   why  one clause for the header line: why not the first that "auto" tried; "" when nothing was passed over
 * DML_ERR_UNAVAILABLE  the one named cannot run it */
dml_err dml_agent_backend(const dml_plan *plan, const dml_backend **out, char *why,
                          int64_t why_bytes);

/* Host threads of each of so many workers: the spec's, or the cores shared out, at least one. */
int32_t dml_agent_threads(const dml_spec *spec, int32_t workers);

#endif
