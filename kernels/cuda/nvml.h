/* kernels/cuda/nvml.h - the part of NVML we call, which comes with the driver and is looked for when it runs.
 *
 * Symbols, values and signatures are NVML's (version 11 and later); its own header is not needed to build.
 */
#ifndef DML_KERNELS_CUDA_NVML_H
#define DML_KERNELS_CUDA_NVML_H

#define DML_NVML_FILE "libnvidia-ml.so.1"

enum { DML_NVML_SUCCESS = 0, DML_NVML_TIMEOUT = 10, DML_NVML_GPU_IS_LOST = 15 };
enum { DML_NVML_EVENT_XID = 8 };

typedef struct nvmlDevice_st dml_nvml_device;
typedef struct nvmlEventSet_st dml_nvml_events;

typedef struct dml_nvml_event {
    dml_nvml_device *device;
    unsigned long long type, data; /* data: the Xid */
    unsigned gpu_instance, compute_instance;
} dml_nvml_event;

/* clang-format off */
/*    member    symbol                              arguments                                              */
#define DML_NVML_LIST(X)                                                                                   \
    X(init,     "nvmlInit_v2",                      (void))                                                \
    X(shutdown, "nvmlShutdown",                     (void))                                                \
    X(find,     "nvmlDeviceGetHandleByPciBusId_v2", (const char *bus_id, dml_nvml_device **out))           \
    X(create,   "nvmlEventSetCreate",               (dml_nvml_events **out))                               \
    X(subscribe, "nvmlDeviceRegisterEvents",        (dml_nvml_device *device, unsigned long long types,    \
                                                     dml_nvml_events *events))                             \
    X(wait,     "nvmlEventSetWait_v2",              (dml_nvml_events *events, dml_nvml_event *out, unsigned ms)) \
    X(destroy,  "nvmlEventSetFree",                 (dml_nvml_events *events))
/* clang-format on */

/* All return an nvmlReturn_t. */
typedef struct dml_nvml {
#define X(member, symbol, args) int(*member) args;
    DML_NVML_LIST(X)
#undef X
    const char *(*words)(int status);
} dml_nvml;

#endif
