/* kernels/backend.h - the backends, by name.  The only list of them. */
#ifndef DML_KERNELS_BACKEND_H
#define DML_KERNELS_BACKEND_H

#include "kernels/kernels.h"

typedef struct dml_backend {
    const char *name;  /* "ref", "cpu", "cuda": what a spec says */
    const char *label; /* what reports say: the name, or "emulated-cuda" where no GPU computes */
    const char *doc;   /* one clause for --help and the header line */
    const char *transport; /* the transport its device memory needs: a name of comm/transport.h */
    const char *(*libraries)(void); /* that its kernels call, "oneDNN 2.6.3"; NULL: none */
    bool on_host; /* its devices are the host's cores: any number of workers share them */
    const dml_device_api *device;
    const dml_kernel_table *kernels;
} dml_backend;

/* The backend called `name`, which has a device.
 *
 * DML_ERR_SPEC         no such name (the text lists them)
 * DML_ERR_UNAVAILABLE  its module or its devices are missing: the text says what is */
dml_err dml_backend_find(const char *name, const dml_backend **out);

/* Names of the backends that "auto" tries, best first; the last one has a device on every machine. */
const char *const *dml_backend_auto(int32_t *n);

/* A symbol of the CUDA module: in the program itself if that contains it; else in the file that the environment
 * variable DML_CUDA_MODULE names; without that in libdml_cuda.so beside the program, then by the loader's
 * rules.  NULL: not here, and `why` says so in one clause.  The module stays loaded. */
void *dml_module_symbol(const char *symbol, char *why, int64_t why_bytes);

#endif
