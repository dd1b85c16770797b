/* kernels/cuda/dnn_book.h - the plans of a context, found again by operation, and choices among engines.
 *
 * What the real shim and its stand-in share.  A page is one operation: its plan, or why there is none, so that the
 * answer stays the same.  Choices are written as they lie in memory:
 *
 *   dml_cudnn_origin   library, GPU and rules they were made under
 *   dml_cudnn_record   operation and engine, for each page that has a plan
 */
#ifndef DML_KERNELS_CUDA_DNN_BOOK_H
#define DML_KERNELS_CUDA_DNN_BOOK_H

#include "kernels/cuda/dnn.h"

enum { DML_CUDNN_KNOBS = 16, DML_CUDNN_WHY = 1024 };

typedef struct dml_cudnn_choice {
    int64_t engine; /* the library's global index */
    int64_t n_knobs;
    int64_t knob[DML_CUDNN_KNOBS]; /* cudnnBackendKnobType_t */
    int64_t value[DML_CUDNN_KNOBS];
} dml_cudnn_choice;

typedef struct dml_cudnn_origin {
    char library[32]; /* "cuDNN 91900" */
    char gpu[64];     /* "NVIDIA H200" */
    int32_t deterministic, tf32;
} dml_cudnn_origin;

typedef struct dml_cudnn_record {
    dml_cudnn_op op;
    dml_cudnn_choice choice;
} dml_cudnn_record;

typedef struct dml_cudnn_page {
    struct dml_cudnn_page *next;
    dml_cudnn_op op;
    dml_err status; /* of making the plan */
    char why[DML_CUDNN_WHY];
    dml_cudnn_choice choice; /* of these three, if the status is OK */
    int64_t workspace_bytes;
    void *plan; /* the book's owner's */
} dml_cudnn_page;

typedef struct dml_cudnn_book {
    dml_cudnn_origin origin;
    dml_cudnn_page *pages; /* owned, newest first */
    int64_t n_plans;
    dml_cudnn_record *wanted; /* [n_wanted] owned */
    int64_t n_wanted;
    bool sealed;
} dml_cudnn_book;

void dml_cudnn_book_init(dml_cudnn_book *b, const char *library, const char *gpu,
                         const dml_cudnn_config *config);
void dml_cudnn_book_free(dml_cudnn_book *b, void (*free_plan)(void *plan));

/* Makes the plan of a new page: fills in choice, workspace_bytes and plan.  wanted may be NULL. */
typedef dml_err (*dml_cudnn_make)(void *owner, dml_cudnn_page *page,
                                  const dml_cudnn_choice *wanted);

/* The page of an operation, made at its first call: as dml_cudnn_plan. */
dml_err dml_cudnn_book_plan(dml_cudnn_book *b, const dml_cudnn_op *op, dml_cudnn_make make,
                            void *owner, dml_cudnn_page **out);

/* NULL: it has none. */
dml_cudnn_page *dml_cudnn_book_find(const dml_cudnn_book *b, const dml_cudnn_op *op);

dml_err dml_cudnn_book_choices(const dml_cudnn_book *b, void *out, int64_t *bytes);
dml_err dml_cudnn_book_choose(dml_cudnn_book *b, const void *choices, int64_t bytes);

#endif
