/* kernels/cuda/numa.h - keeps a worker's threads near its GPU. */
#ifndef DML_KERNELS_CUDA_NUMA_H
#define DML_KERNELS_CUDA_NUMA_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

/* Binds the calling thread, and so the threads it starts, to those of its CPUs that are in the NUMA node of CUDA
 * device `index`, as the kernel's PCI tree says.  Pinned memory it takes afterwards lies there, too.  Where there is
 * one node, no answer, or none of these CPUs among those this process was given, nothing changes: a run on far
 * CPUs is slower, not wrong. */
void dml_cuda_bind_near(int32_t index);

/* Takes from *cpus those that are not in `list`, such as "0-3,8,10-11\n".  False, and *cpus as before, when
 * none would go or none would stay, or `list` is no list. */
bool dml_numa_narrow(const char *list, cpu_set_t *cpus);

#endif
