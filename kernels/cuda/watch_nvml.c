/* kernels/cuda/watch_nvml.c - Xid events: what the driver writes to the kernel's log when a GPU fails.
 *
 * They tell of a lost device before a call does, or when none would: a kernel that waits for memory which has gone
 * does not end.  A thread waits for them in slices, so that it can be told to end.
 */
#include "kernels/cuda/device_cuda.h"

#include "engine/base/clock.h"
#include "kernels/cuda/nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE_MS = 100 };

/* clang-format off */
/*    code  news  words                             the others are the program's own mistakes, or mended by the driver */
#define XID_LIST(X)                                 \
    X(48,   LOST, "double-bit ECC error")           \
    X(74,   LINK, "NVLink error")                   \
    X(79,   LOST, "the GPU has fallen off the bus") \
    X(94,   LOST, "contained ECC error")            \
    X(95,   LOST, "uncontained ECC error")
/* clang-format on */

struct dml_watch {
    dml_nvml nvml;
    void *library;
    int32_t index;
    char bus_id[32];
    dml_nvml_device *device;
    dml_nvml_events *events; /* owned */
    bool is_initialized;
    dml_tell tell;
    void *context;
    pthread_t thread;
    bool is_running;
    _Atomic bool closing;
};

/* ---- what it says ---- */

static void tell(const dml_watch *w, dml_news_kind kind, int32_t code, const char *words)
{
    dml_news news = {.kind = kind, .code = code};
    snprintf(news.text, sizeof news.text, "Xid %d of device %d (%s): %s", code, w->index, w->bus_id,
             words);
    w->tell(w->context, &news);
}

static void take(const dml_watch *w, const dml_nvml_event *event)
{
    if (event->type != DML_NVML_EVENT_XID) return;
    switch (event->data) {
#define X(code, kind, words) \
    case code: tell(w, DML_NEWS_##kind, code, words); return;
        XID_LIST(X)
#undef X
    }
}

static void *listen(void *arg)
{
    dml_watch *w = arg;
    while (!atomic_load_explicit(&w->closing, memory_order_relaxed)) {
        dml_nvml_event event = {0};
        switch (w->nvml.wait(w->events, &event, SLICE_MS)) {
        case DML_NVML_SUCCESS: take(w, &event); break;
        case DML_NVML_TIMEOUT: break;
        case DML_NVML_GPU_IS_LOST: tell(w, DML_NEWS_LOST, 79, "NVML has lost it"); return NULL;
        default: dml_sleep_until_ns(dml_clock_ns() + SLICE_MS * DML_NS_PER_MS);
        }
    }
    return NULL;
}

/* ---- open and close ---- */

/* ISO C has no cast from an object pointer to a function pointer. */
static dml_err look_up(dml_watch *w, const char *symbol, void *out)
{
    void *found = dlsym(w->library, symbol);
    if (!found) DML_FAIL(DML_ERR_UNAVAILABLE, "%s has no %s", DML_NVML_FILE, symbol);
    memcpy(out, &found, sizeof found);
    return DML_ERR_OK;
}

static dml_err load(dml_watch *w)
{
    w->library = dlopen(DML_NVML_FILE, RTLD_NOW | RTLD_LOCAL);
    if (!w->library) DML_FAIL(DML_ERR_UNAVAILABLE, "no events of the driver: %s", dlerror());
#define X(member, symbol, args) DML_TRY(look_up(w, symbol, &w->nvml.member));
    DML_NVML_LIST(X)
#undef X
    return look_up(w, "nvmlErrorString", &w->nvml.words);
}

static dml_err check(const dml_watch *w, int status, const char *call)
{
    if (status == DML_NVML_SUCCESS) return DML_ERR_OK;
    DML_FAIL(DML_ERR_UNAVAILABLE, "%s (device %d, %s): %s", call, w->index, w->bus_id,
             w->nvml.words(status));
}

static dml_err subscribe(dml_watch *w)
{
    const dml_nvml *n = &w->nvml;
    DML_TRY(DML_CUDA(cudaDeviceGetPCIBusId, (w->bus_id, sizeof w->bus_id, w->index), "device %d",
                     w->index));
    DML_TRY(check(w, n->init(), "nvmlInit_v2"));
    w->is_initialized = true;
    DML_TRY(check(w, n->find(w->bus_id, &w->device), "nvmlDeviceGetHandleByPciBusId_v2"));
    DML_TRY(check(w, n->create(&w->events), "nvmlEventSetCreate"));
    return check(w, n->subscribe(w->device, DML_NVML_EVENT_XID, w->events),
                 "nvmlDeviceRegisterEvents");
}

/* Signals are for the program's own threads. */
static dml_err start(dml_watch *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&w->thread, NULL, listen, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "no thread for the driver's events: %s", strerror(rc));
    w->is_running = true;
    return DML_ERR_OK;
}

dml_err dml_cuda_watch(int32_t index, dml_tell tell_whom, void *context, dml_watch **out)
{
    dml_watch *w = calloc(1, sizeof *w);
    if (!w) DML_FAIL(DML_ERR_NOMEM, "no memory for a watch of device %d", index);
    w->index = index;
    w->tell = tell_whom;
    w->context = context;
    dml_err err = load(w);
    if (err == DML_ERR_OK) err = subscribe(w);
    if (err == DML_ERR_OK) err = start(w);
    if (err != DML_ERR_OK) {
        dml_cuda_unwatch(w);
        return err;
    }
    *out = w;
    return DML_ERR_OK;
}

void dml_cuda_unwatch(dml_watch *w)
{
    if (!w) return;
    atomic_store_explicit(&w->closing, true, memory_order_relaxed);
    if (w->is_running) pthread_join(w->thread, NULL);
    if (w->events) w->nvml.destroy(w->events);
    if (w->is_initialized) w->nvml.shutdown();
    if (w->library) dlclose(w->library);
    free(w);
}
