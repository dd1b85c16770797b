/* kernels/cpu/device_cpu.h - a CPU as a device: memory is memory, a queue is a thread.
 *
 * Any number of these devices can be opened in one process; `count` is the number of online CPUs.
 * One thread submits to all queues of a device.  Nothing allocates after queue_open and event_open.
 */
#ifndef DML_KERNELS_CPU_DEVICE_CPU_H
#define DML_KERNELS_CPU_DEVICE_CPU_H

#include "kernels/device.h"

extern const dml_device_api dml_cpu_device;

#endif
