/* engine/dml_fail.h - dml-plan --fail: what could become of the plan, and at what price. */
#ifndef DML_ENGINE_DML_FAIL_H
#define DML_ENGINE_DML_FAIL_H

#include "engine/plan_print.h"

typedef struct dml_fail {
    const char *const *place; /* [n] engine/lost_place.h */
    int32_t n;
    dml_form form;    /* SUMMARY: prices and pictures; PICTURE, SVG: pictures alone */
    int width;        /* columns */
    const char *file; /* the pictures as SVG, beside; NULL: nowhere */
} dml_fail;

/* Prints it to standard output.
 *
 * DML_ERR_SPEC         a place that the plan does not have, or another form
 * DML_ERR_PEER         nobody is left
 * DML_ERR_UNAVAILABLE  the file cannot be written */
dml_err dml_fail_print(const dml_spec *spec, const dml_fail *f);

#endif
