/* tests/engine/hardware_file.h - hardware from texts, for tests. */
#ifndef DML_TESTS_HARDWARE_FILE_H
#define DML_TESTS_HARDWARE_FILE_H

#include "engine/hardware.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* dml_hardware_load of `text` from a file that exists in memory only. */
static inline dml_err hardware_of(const char *text, dml_hardware *out)
{
    const int fd = memfd_create("hardware", 0);
    DML_CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const dml_err err = dml_hardware_load(path, out);
    close(fd);
    return err;
}

/* 20 TFLOP/s on 4 units with tiles of 64, 1 TB/s, no time to launch; 2 to a node at 100 GB/s and 1 us, 10 GB/s
 * and 5 us between nodes. */
#define PLAIN_FIGURES                             \
    "name: plain\n"                               \
    "peak:\n"                                     \
    "  fp32: {value: 20TFLOP/s, source: test}\n"  \
    "  bf16: {value: 80TFLOP/s, source: test}\n"  \
    "memory:\n"                                   \
    "  capacity: {value: 8GB, source: test}\n"    \
    "  bandwidth: {value: 1TB/s, source: test}\n" \
    "launch: {value: 0us, source: test}\n"        \
    "units: {value: 4, source: test}\n"           \
    "tile: {value: 64, source: test}\n"           \
    "share:\n"                                    \
    "  matmul: {value: 1, source: test}\n"        \
    "  conv: {value: 0.5, source: test}\n"        \
    "  memory: {value: 1, source: test}\n"
#define PLAIN_LINKS                                                                                \
    "links:\n"                                                                                     \
    "  - {workers: 2, latency: {value: 1us, source: t}, bandwidth: {value: 100GB/s, source: t}}\n" \
    "  - {workers: all, latency: {value: 5us, source: t}, bandwidth: {value: 10GB/s, source: "     \
    "t}}\n"

#endif
