/* engine/plan_print.h - a plan for people: who runs what, what it takes, and its schedule's picture. */
#ifndef DML_ENGINE_PLAN_PRINT_H
#define DML_ENGINE_PLAN_PRINT_H

#include "engine/plan.h"

typedef enum dml_form {
    DML_FORM_SUMMARY, /* tables of stages and workers, and the picture */
    DML_FORM_TEXT,    /* the lowered program, op by op */
    DML_FORM_PICTURE, /* in characters */
    DML_FORM_SVG,
    DML_FORM_CSV /* PyTorch's: a row for each rank of a pipeline */
} dml_form;

typedef struct dml_plan_view {
    dml_form form;
    bool eval; /* the evaluation program instead of the training one */
    int width; /* columns of a picture in characters */
} dml_plan_view;

/* Plans the spec and prints that to standard output.  Errors are those of dml_plan_make. */
dml_err dml_plan_print(const dml_spec *spec, const dml_plan_view *view);

#endif
