/* engine/metrics.c - records to JSON lines, by tables made from the lists of engine/metrics.h. */
#include "engine/metrics.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

typedef enum field_kind { FIELD_INT, FIELD_NUM, FIELD_TEXT } field_kind;

typedef struct field {
    const char *name;
    field_kind kind;
    size_t offset; /* in the record */
} field;

typedef struct record_info {
    const char *type;
    const field *field;
    size_t n_fields;
} record_info;

#define X(T, kind, name) {#name, FIELD_##kind, offsetof(T, name)},
#define R(KIND, name) \
    static const field name##_fields[] = {DML_##KIND##_FIELDS(X, dml_##name##_record)};
DML_RECORD_LIST(R)
#undef R
#undef X

#define R(KIND, name) {#name, name##_fields, sizeof name##_fields / sizeof *name##_fields},
static const record_info records[] = {DML_RECORD_LIST(R)};
#undef R

/* ---- opening ---- */

/* mkdir -p; `path` is scribbled on and restored. */
static dml_err make_folders(char *path)
{
    for (char *c = path + 1;; c++) {
        if (*c != '/' && *c != '\0') continue;
        const char was = *c;
        *c = '\0';
        const int failed = mkdir(path, 0777) != 0 && errno != EEXIST ? errno : 0;
        if (failed) DML_FAIL(DML_ERR_DATA, "cannot make '%s': %s", path, strerror(failed));
        *c = was;
        if (was == '\0') return DML_ERR_OK;
    }
}

dml_err dml_metrics_open(const char *folder, dml_metrics *out)
{
    char path[PATH_MAX];
    const int len = snprintf(path, sizeof path, "%s", folder[0] ? folder : ".");
    if (len + (int)sizeof "/metrics.jsonl" > (int)sizeof path)
        DML_FAIL(DML_ERR_DATA, "the name of the output folder has %d bytes, too many", len);
    DML_TRY(make_folders(path));
    strcpy(path + len, "/metrics.jsonl");
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) DML_FAIL(DML_ERR_DATA, "cannot append to '%s': %s", path, strerror(errno));
    char *copy = strdup(path);
    if (!copy) {
        close(fd);
        DML_FAIL(DML_ERR_NOMEM, "no memory for the name of '%s'", path);
    }
    *out = (dml_metrics){.fd = fd, .opened_ns = dml_clock_ns(), .path = copy};
    return DML_ERR_OK;
}

void dml_metrics_close(dml_metrics *m)
{
    if (m->path) close(m->fd);
    free(m->path);
    *m = (dml_metrics){.fd = -1};
}

int64_t dml_metrics_bytes(const dml_metrics *m)
{
    return lseek(m->fd, 0, SEEK_END);
}

dml_err dml_metrics_cut(const dml_metrics *m, int64_t bytes)
{
    if (ftruncate(m->fd, bytes) != 0)
        DML_FAIL(DML_ERR_DATA, "cannot cut '%s': %s", m->path, strerror(errno));
    return DML_ERR_OK;
}

/* ---- writing ---- */

static void put_num(json_t *object, const char *name, double value)
{
    if (isfinite(value)) {
        json_object_set_new(object, name, json_real(value));
        return;
    }
    char key[64];
    snprintf(key, sizeof key, "%s_nonfinite", name);
    json_object_set_new(object, name, json_null());
    json_object_set_new(object, key,
                        json_string(isnan(value) ? "nan"
                                    : value > 0  ? "inf"
                                                 : "-inf"));
}

/* Text that is not UTF-8 (a path, a host's name) is not JSON: its odd bytes become '?'. */
static void put_text(json_t *object, const char *name, const char *value)
{
    json_t *text = json_string(value);
    if (!text) {
        char plain[1024];
        snprintf(plain, sizeof plain, "%s", value);
        for (char *c = plain; *c; c++)
            if ((unsigned char)*c > 127) *c = '?';
        text = json_string(plain);
    }
    json_object_set_new(object, name, text);
}

static json_t *object_of(const dml_metrics *m, const record_info *info, const char *record)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *object = json_object();
    json_object_set_new(object, "v", json_integer(1));
    put_text(object, "type", info->type);
    put_num(object, "time_unix_s", (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    put_num(object, "wall_time_s", (double)(dml_clock_ns() - m->opened_ns) * 1e-9);
    for (size_t i = 0; i < info->n_fields; i++) {
        const field *f = &info->field[i];
        const void *at = record + f->offset;
        switch (f->kind) {
        case FIELD_INT:
            json_object_set_new(object, f->name, json_integer(*(const dml_field_INT *)at));
            break;
        case FIELD_NUM: put_num(object, f->name, *(const dml_field_NUM *)at); break;
        case FIELD_TEXT:
            if (*(const dml_field_TEXT *)at) put_text(object, f->name, *(const dml_field_TEXT *)at);
            break;
        }
    }
    return object;
}

dml_err dml_metrics_write(dml_metrics *m, dml_record_kind kind, const void *record)
{
    json_t *object = object_of(m, &records[kind], record);
    char *line = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!line) DML_FAIL(DML_ERR_NOMEM, "no memory for a line of '%s'", m->path);
    const size_t n = strlen(line) + 1;
    line[n - 1] = '\n'; /* in place of the NUL: n bytes are written */
    const ssize_t written = write(m->fd, line, n);
    const int failed = written < 0 ? errno : ENOSPC;
    free(line);
    if (written != (ssize_t)n)
        DML_FAIL(DML_ERR_DATA, "cannot append to '%s': %s", m->path, strerror(failed));
    return DML_ERR_OK;
}

/* ---- statistics ---- */

void dml_stats_add(dml_stats *s, double value)
{
    int64_t at = s->count;
    if (at >= DML_STATS_CAPACITY) {
        uint32_t word[4];
        dml_rng_block(0, 0, (uint64_t)at, word);
        at = (int64_t)((uint64_t)word[0] * (uint64_t)(s->count + 1) >> 32);
    }
    if (at < DML_STATS_CAPACITY) s->sample[at] = value;
    s->count++;
    s->sum += value;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double dml_stats_quantile(const dml_stats *s, double share)
{
    const int64_t n = s->count < DML_STATS_CAPACITY ? s->count : DML_STATS_CAPACITY;
    if (n == 0) return (double)NAN;
    double sorted[DML_STATS_CAPACITY];
    memcpy(sorted, s->sample, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    int64_t rank = (int64_t)ceil(share * (double)n);
    if (rank < 1) rank = 1;
    return sorted[(rank < n ? rank : n) - 1];
}
