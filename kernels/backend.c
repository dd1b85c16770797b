/* kernels/backend.c - the backends of this program, and the module with the one it does not contain.
 *
 * CUDA lives in libdml_cuda.so, opened when it is asked for.  One build so serves machines with and without
 * a GPU, and another build of the module, such as the emulated one, needs no other program.
 */
#include "kernels/backend.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/device_cpu.h"
#include "kernels/ref/ref.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char module_file[] = "libdml_cuda.so";

static const dml_backend ref_backend = {
    .name = "ref",
    .label = "ref",
    .doc = "naive loops, one thread: the oracle",
    .transport = "shm",
    .on_host = true,
    .device = &dml_cpu_device,
    .kernels = &dml_ref_kernels,
};

static const dml_backend cpu_backend = {
    .name = "cpu",
    .label = "cpu",
    .doc = "oneDNN and vectorised loops",
    .libraries = dml_dnn_version,
    .transport = "shm",
    .on_host = true,
    .device = &dml_cpu_device,
    .kernels = &dml_cpu_kernels,
};

/* Where to load from: the file the user names, that beside the program, or any that the loader finds. */
static bool module_path(char *out, size_t bytes)
{
    const char *named = getenv("DML_CUDA_MODULE");
    if (named && named[0]) {
        snprintf(out, bytes, "%s", named);
        return true;
    }
    const ssize_t n = readlink("/proc/self/exe", out, bytes - 1);
    out[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(out, '/');
    const size_t at = slash ? (size_t)(slash + 1 - out) : 0;
    snprintf(out + at, bytes - at, "%s", module_file);
    if (access(out, F_OK) == 0) return true;
    snprintf(out, bytes, "%s", module_file);
    return false;
}

void *dml_module_symbol(const char *symbol, char *why, int64_t why_bytes)
{
    snprintf(why, (size_t)why_bytes, "%s", "");
    void *found = dlsym(RTLD_DEFAULT, symbol);
    if (found) return found;
    char path[PATH_MAX];
    const bool is_here = module_path(path, sizeof path);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        const char *text = dlerror();
        const bool absent = !is_here && text && strstr(text, "cannot open shared object file") &&
                            strncmp(text, module_file, strlen(module_file)) == 0;
        if (absent)
            snprintf(why, (size_t)why_bytes, "%s was not built", module_file);
        else
            snprintf(why, (size_t)why_bytes, "%s", text ? text : "it cannot be loaded");
        return NULL;
    }
    found = dlsym(module, symbol);
    if (!found) snprintf(why, (size_t)why_bytes, "%s has no %s", path, symbol);
    return found;
}

/* NULL when the module, or every device of it, is missing. */
static const dml_backend *find_cuda(char *why, int64_t why_bytes)
{
    void *symbol = dml_module_symbol("dml_cuda_backend", why, why_bytes);
    if (!symbol) return NULL;
    const dml_backend *(*backend)(void);
    /* ISO C has no cast from an object pointer to a function pointer. */
    memcpy(&backend, &symbol, sizeof backend);
    const dml_backend *b = backend();
    return b->device->count(why, why_bytes) > 0 ? b : NULL;
}

dml_err dml_backend_find(const char *name, const dml_backend **out)
{
    static const dml_backend *const built_in[] = {&cpu_backend, &ref_backend};
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
        if (strcmp(name, built_in[i]->name) == 0) {
            *out = built_in[i];
            return DML_ERR_OK;
        }
    if (strcmp(name, "cuda") != 0)
        DML_FAIL(DML_ERR_SPEC, "no backend is called '%s': choose auto, cuda, cpu or ref", name);
    char why[256];
    *out = find_cuda(why, sizeof why);
    if (!*out) DML_FAIL(DML_ERR_UNAVAILABLE, "no GPU: %s", why);
    return DML_ERR_OK;
}

const char *const *dml_backend_auto(int32_t *n)
{
    static const char *const names[] = {"cuda", "cpu"};
    *n = sizeof names / sizeof *names;
    return names;
}
