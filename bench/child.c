/* bench/child.c - other programs of ours, run and read. */
#include "bench/bench.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void bench_beside(const char *name, char *path, size_t bytes)
{
    char self[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) slash[1] = '\0';
    snprintf(path, bytes, "%s%s", slash ? self : "", name);
}

static void become(const char *const argv[], const char *log)
{
    const int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644),
              null = open("/dev/null", O_RDONLY);
    if (fd < 0 || null < 0 || dup2(null, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) _exit(127);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

dml_err bench_run(const char *const argv[], const char *log, double limit_s, int *code)
{
    return bench_run_until(argv, log, limit_s, NULL, NULL, code);
}

dml_err bench_run_until(const char *const argv[], const char *log, double limit_s,
                        bool (*enough)(void *context), void *context, int *code)
{
    const int64_t end_ns = dml_clock_ns() + (int64_t)(limit_s * 1e9);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "no process for '%s'", argv[0]);
    if (pid == 0) become(argv, log);
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (dml_clock_ns() > end_ns) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            break;
        }
        if (enough && enough(context)) {
            kill(pid, SIGTERM);
            enough = NULL;
        }
        dml_sleep_until_ns(dml_clock_ns() + 10 * DML_NS_PER_MS);
    }
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (*code == 127) DML_FAIL(DML_ERR_UNAVAILABLE, "'%s' cannot be started", argv[0]);
    return DML_ERR_OK;
}

json_t *bench_records(const char *folder)
{
    char path[PATH_MAX];
    char *line = NULL;
    size_t room = 0;
    json_t *records = json_object();
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    FILE *f = fopen(path, "r");
    while (f && getline(&line, &room, f) > 0) {
        json_t *record = json_loads(line, 0, NULL);
        const char *type = json_string_value(json_object_get(record, "type"));
        if (type) json_object_set(records, type, record);
        json_decref(record);
    }
    free(line);
    if (f) fclose(f);
    return records;
}

void bench_tail(const char *file, char *text, size_t bytes)
{
    text[0] = '\0';
    FILE *f = fopen(file, "r");
    if (!f) return;
    fseek(f, 0, SEEK_END);
    const long size = ftell(f), from = size > (long)bytes - 1 ? size - (long)bytes + 1 : 0;
    fseek(f, from, SEEK_SET);
    text[fread(text, 1, bytes - 1, f)] = '\0';
    fclose(f);
    const char *start = from > 0 ? strchr(text, '\n') : NULL;
    if (start) memmove(text, start + 1, strlen(start));
}

dml_err bench_write(const json_t *root, const char *file)
{
    if (json_dump_file(root, file, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) != 0)
        DML_FAIL(DML_ERR_DATA, "cannot write '%s'", file);
    return DML_ERR_OK;
}
