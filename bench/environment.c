/* bench/environment.c - where a figure was measured: without this it says nothing. */
#include "bench/bench.h"

#include "bench/commit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* The value of the first line `key   : value` of a file of /proc. */
static void proc_value(const char *file, const char *key, char *out, size_t bytes)
{
    char line[512];
    FILE *f = fopen(file, "r");
    snprintf(out, bytes, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
        snprintf(out, bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

/* Lines that a command prints, as an array of texts; empty when there is no such command. */
static json_t *lines_of(const char *command)
{
    json_t *lines = json_array();
    char line[1024];
    FILE *f = popen(command, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0]) json_array_append_new(lines, json_string(line));
    }
    if (f) pclose(f);
    return lines;
}

int dml_bench_environment(int argc, char **argv)
{
    if (argc > 1) {
        fprintf(stderr, "Usage: %s\n", argv[0]);
        return dml_err_exit_code(DML_ERR_SPEC);
    }
    json_t *root = bench_environment();
    json_dumpf(root, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(root);
    return 0;
}

json_t *bench_environment(void)
{
    char date[32], cpu[256];
    struct utsname system;
    struct tm tm;
    const time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    proc_value("/proc/cpuinfo", "model name", cpu, sizeof cpu);
    uname(&system);
    const char *commit = getenv("DML_COMMIT"); /* a tree that travelled without its history */
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:s, s:s, s:o, s:o}", "date", date, "commit",
        commit ? commit : DML_COMMIT, "host", system.nodename, "cpu", cpu, "cores",
        (int)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
        (json_int_t)sysconf(_SC_PHYS_PAGES) * (json_int_t)sysconf(_SC_PAGESIZE), "kernel",
        system.release, "compiler", __VERSION__, "gpus",
        lines_of("nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,"
                 "power.limit,pci.bus_id --format=csv,noheader 2>/dev/null"),
        "links", lines_of("nvidia-smi topo -m 2>/dev/null"));
}
