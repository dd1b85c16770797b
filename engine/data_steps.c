/* engine/data_steps.c - epochs into steps. */
#include "engine/data_steps.h"

#include "engine/data.h"

dml_err dml_data_resolve_steps(dml_spec *spec)
{
    dml_data *data;
    DML_TRY(dml_data_open(spec, false, DML_DATA_COUNTS, &data));
    const int64_t samples = dml_data_count(data);
    dml_data_close(data);
    return dml_spec_set_samples(spec, samples);
}
