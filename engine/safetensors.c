/* engine/safetensors.c - files around the header that engine/safetensors_parse.c reads; and how one is laid out.
 *
 * Files are read, not mapped: one that somebody cuts short while it is read is an error here, not the end of the
 * process.
 */
#include "engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    int32_t bytes;
} dtype[] = {
#define X(name, bytes) {#name, bytes},
    DML_ST_DTYPE_LIST(X)
#undef X
};

const char *dml_st_dtype_name(dml_st_dtype d)
{
    return dtype[d].name;
}

int32_t dml_st_dtype_bytes(dml_st_dtype d)
{
    return dtype[d].bytes;
}

/* ---- reading ---- */

dml_err dml_st_header_bytes(const char *file, const unsigned char first[8], int64_t file_bytes,
                            int64_t *out)
{
    uint64_t n = 0;
    if (file_bytes < 8)
        DML_FAIL(DML_ERR_DATA,
                 "'%s': %" PRId64 " bytes, less than the 8 that say how long its header is", file,
                 file_bytes);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | first[i];
    if (n > DML_ST_HEADER_BYTES)
        DML_FAIL(DML_ERR_DATA, "'%s': a header of %" PRIu64 " bytes, more than %d", file, n,
                 DML_ST_HEADER_BYTES);
    if ((int64_t)n > file_bytes - 8)
        DML_FAIL(DML_ERR_DATA, "'%s': a header of %" PRIu64 " bytes, the file has %" PRId64, file,
                 n, file_bytes);
    *out = (int64_t)n;
    return DML_ERR_OK;
}

static dml_err read_all(int fd, const char *name, int64_t at, void *to, int64_t bytes)
{
    char *p = to;
    while (bytes > 0) {
        const ssize_t n = pread(fd, p, (size_t)bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) DML_FAIL(DML_ERR_DATA, "cannot read '%s': %s", name, strerror(errno));
        if (n == 0)
            DML_FAIL(DML_ERR_DATA,
                     "'%s' ends at byte %" PRId64 ", %" PRId64 " more were there before", name, at,
                     bytes);
        p += n;
        at += n;
        bytes -= n;
    }
    return DML_ERR_OK;
}

static dml_err size_of(int fd, const char *name, struct stat *st)
{
    if (fstat(fd, st) != 0) DML_FAIL(DML_ERR_DATA, "cannot read '%s': %s", name, strerror(errno));
    if (!S_ISREG(st->st_mode)) DML_FAIL(DML_ERR_DATA, "'%s' is no regular file", name);
    return DML_ERR_OK;
}

/* The same file, untouched since `before`. */
static dml_err check_still(int fd, const char *name, const struct stat *before)
{
    struct stat now;
    DML_TRY(size_of(fd, name, &now));
    if (now.st_size != before->st_size || now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != before->st_mtim.tv_nsec)
        DML_FAIL(DML_ERR_DATA, "'%s' was written to while it was read", name);
    return DML_ERR_OK;
}

static dml_err read_header(int fd, const char *name, dml_arena *arena, dml_safetensors *out)
{
    struct stat st;
    unsigned char first[8] = {0};
    int64_t bytes;
    DML_TRY(size_of(fd, name, &st));
    if (st.st_size >= 8) DML_TRY(read_all(fd, name, 0, first, 8));
    DML_TRY(dml_st_header_bytes(name, first, st.st_size, &bytes));
    char *json = malloc((size_t)bytes + 1);
    if (!json) DML_FAIL(DML_ERR_NOMEM, "'%s': a header of %" PRId64 " bytes", name, bytes);
    dml_err err = read_all(fd, name, 8, json, bytes);
    if (err == DML_ERR_OK)
        err = dml_st_parse(name, json, bytes, st.st_size - 8 - bytes, arena, out);
    free(json);
    return err == DML_ERR_OK ? check_still(fd, name, &st) : err;
}

dml_err dml_st_open(int dir_fd, const char *name, dml_arena *arena, int *fd, dml_safetensors *out)
{
    *fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0)
        DML_FAIL(DML_ERR_DATA, "cannot open '%s': %s", name,
                 errno == ELOOP ? "it is a link" : strerror(errno));
    const dml_err err = read_header(*fd, name, arena, out);
    if (err != DML_ERR_OK) close(*fd);
    return err;
}

dml_err dml_st_read(const dml_safetensors *st, int fd, const char *name, const dml_st_tensor *t,
                    void *to)
{
    return read_all(fd, name, st->data_at + t->begin, to, t->end - t->begin);
}

const dml_st_tensor *dml_st_find(const dml_safetensors *st, const char *name)
{
    for (int32_t i = 0; i < st->n; i++)
        if (strcmp(st->tensor[i].name, name) == 0) return &st->tensor[i];
    return NULL;
}

const char *dml_st_metadata(const dml_safetensors *st, const char *key)
{
    for (int32_t i = 0; i < st->n_metadata; i++)
        if (strcmp(st->metadata[i].key, key) == 0) return st->metadata[i].value;
    return NULL;
}

/* ---- writing ---- */

static int by_width(const void *a, const void *b)
{
    const dml_st_tensor *x = a, *y = b;
    const int32_t wide = dml_st_dtype_bytes(y->dtype) - dml_st_dtype_bytes(x->dtype);
    return wide ? wide : strcmp(x->name, y->name);
}

static void append_text(dml_str *s, const char *text)
{
    dml_str_append(s, "\"", 1);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            dml_str_printf(s, "\\%c", c);
        else if (c < 0x20)
            dml_str_printf(s, "\\u%04x", c);
        else
            dml_str_append(s, text, 1);
    }
    dml_str_append(s, "\"", 1);
}

static void append_tensor(dml_str *s, const dml_st_tensor *t)
{
    append_text(s, t->name);
    dml_str_printf(s, ":{\"dtype\":\"%s\",\"shape\":[", dml_st_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->rank; i++)
        dml_str_printf(s, "%s%" PRId64, i ? "," : "", t->dim[i]);
    dml_str_printf(s, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", t->begin, t->end);
}

static void place(dml_safetensors *st)
{
    int64_t at = 0;
    if (st->n > 1) qsort(st->tensor, (size_t)st->n, sizeof *st->tensor, by_width);
    for (int32_t i = 0; i < st->n; i++) {
        dml_st_tensor *t = &st->tensor[i];
        int64_t bytes = dml_st_dtype_bytes(t->dtype);
        for (int32_t d = 0; d < t->rank; d++)
            bytes *= t->dim[d];
        t->begin = at;
        t->end = at += bytes;
    }
    st->file_bytes = at; /* of the data, so far */
}

void dml_st_layout(dml_safetensors *st, dml_str *header)
{
    dml_str json = {0};
    place(st);
    dml_str_printf(&json, "{");
    if (st->n_metadata > 0) {
        dml_str_printf(&json, "\"__metadata__\":{");
        for (int32_t i = 0; i < st->n_metadata; i++) {
            if (i) dml_str_printf(&json, ",");
            append_text(&json, st->metadata[i].key);
            dml_str_printf(&json, ":");
            append_text(&json, st->metadata[i].value);
        }
        dml_str_printf(&json, st->n ? "}," : "}");
    }
    for (int32_t i = 0; i < st->n; i++) {
        if (i) dml_str_printf(&json, ",");
        append_tensor(&json, &st->tensor[i]);
    }
    dml_str_printf(&json, "}");
    while (json.len % 8 != 0)
        dml_str_append(&json, " ", 1);
    char first[8];
    for (int i = 0; i < 8; i++)
        first[i] = (char)(json.len >> (8 * i));
    dml_str_append(header, first, 8);
    dml_str_append(header, json.text, json.len);
    st->data_at = 8 + (int64_t)json.len;
    st->file_bytes += st->data_at;
    dml_str_free(&json);
}
