/* engine/data_steps.h - turns the spec's epochs into steps, by looking at how many samples there are. */
#ifndef DML_ENGINE_DATA_STEPS_H
#define DML_ENGINE_DATA_STEPS_H

#include "engine/spec.h"

/* Reads the header of the training split and fills the fields that dml_spec_set_samples fills.
 * DML_ERR_DATA  the data is not there or is damaged */
dml_err dml_data_resolve_steps(dml_spec *spec);

#endif
