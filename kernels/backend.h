/* kernels/backend.h - the backends, by name.  The only list of them. */
#ifndef DML_KERNELS_BACKEND_H
#define DML_KERNELS_BACKEND_H

#include "kernels/kernels.h"

typedef struct dml_backend {
    const char *name;      /* "ref", "cpu", "cuda" */
    const char *doc;       /* one clause for --help and the header line */
    const char *transport; /* the transport its device memory needs: a name of comm/transport.h */
    const dml_device_api *device;
    const dml_kernel_table *kernels;
} dml_backend;

/* The backend called `name`; "auto" is the first of cuda, cpu that has a device.
 *
 *   why   [why_bytes] out: for "auto" and "cuda" one clause on what was (not) found, "" otherwise
 *
 * DML_ERR_SPEC         no such name (the text lists them)
 * DML_ERR_UNAVAILABLE  named, but its module or its devices are missing: the text says what is
 */
dml_err dml_backend_find(const char *name, const dml_backend **out, char *why, int64_t why_bytes);

/* A symbol of libdml_cuda.so, which is looked for beside the program and then by the loader's rules.
 * NULL: not here, and `why` says so in one clause.  The module stays loaded. */
void *dml_module_symbol(const char *symbol, char *why, int64_t why_bytes);

#endif
