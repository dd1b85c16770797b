/* engine/data_steps.h - turns the spec's epochs into steps, by looking at how many samples there are. */
#ifndef DML_ENGINE_DATA_STEPS_H
#define DML_ENGINE_DATA_STEPS_H

#include "engine/spec.h"

/* Reads the header of the training split and fills the fields that dml_spec_set_samples fills; where there is a trace
 * or a drawing, its steps are chosen and cut to the run's.
 *
 * DML_ERR_DATA  the data is not there or is damaged
 * DML_ERR_SPEC  as dml_spec_set_samples; or the steps to trace lie beyond the run's end */
dml_err dml_data_resolve_steps(dml_spec *spec);

#endif
