/* engine/checkpoint_write.c - a bank becomes a folder of files, or nothing happened. */
#include "engine/checkpoint_files.h"

#include "engine/base/failpoint.h"
#include "engine/base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMP_SUFFIX ".tmp"
#define LATEST      "latest"

/* ---- files ---- */

/* A file being written: what comes is gathered into chunks, each is hashed and then handed to write(2). */
typedef struct sink {
    int fd;
    const char *name;
    char *chunk; /* [DML_CKPT_CHUNK] the save's */
    int64_t in_chunk, written, bytes;
    uint64_t *hash; /* [chunks of `bytes`] */
} sink;

static dml_err io_failed(const char *what, const char *name)
{
    return dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "checkpoint: %s '%s': %s", what, name,
                       strerror(errno));
}

static dml_err sink_open(int dir, const char *name, int64_t bytes, char *chunk, uint64_t *hash,
                         sink *out)
{
    *out = (sink){.name = name, .chunk = chunk, .bytes = bytes, .hash = hash};
    out->fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (out->fd < 0) return io_failed("cannot make", name);
    /* a disk too small says so before it is written to; those that cannot reserve say nothing */
    if (bytes > 0 && fallocate(out->fd, 0, 0, bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        const dml_err err = io_failed("no room for", name);
        close(out->fd);
        return err;
    }
    return DML_ERR_OK;
}

static dml_err flush(sink *s)
{
    const char *p = s->chunk;
    s->hash[s->written / DML_CKPT_CHUNK] = dml_hash(s->chunk, s->in_chunk, 0);
    for (int64_t left = s->in_chunk; left > 0;) {
        DML_TRY(DML_FAILPOINT(CKPT_WRITE));
        const ssize_t n = write(s->fd, p, (size_t)left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_failed("cannot write", s->name);
        p += n;
        left -= n;
    }
    s->written += s->in_chunk;
    s->in_chunk = 0;
    return DML_ERR_OK;
}

static dml_err sink_put(sink *s, const void *from, int64_t bytes)
{
    const char *p = from;
    while (bytes > 0) {
        const int64_t room = DML_CKPT_CHUNK - s->in_chunk, n = bytes < room ? bytes : room;
        memcpy(s->chunk + s->in_chunk, p, (size_t)n);
        s->in_chunk += n;
        p += n;
        bytes -= n;
        if (s->in_chunk == DML_CKPT_CHUNK) DML_TRY(flush(s));
    }
    return DML_ERR_OK;
}

/* Closes the file; `err` is what became of it so far. */
static dml_err sink_close(sink *s, dml_err err)
{
    if (err == DML_ERR_OK && s->in_chunk > 0) err = flush(s);
    if (err == DML_ERR_OK && s->written != s->bytes)
        err = dml_err_set(DML_ERR_BUG, __FILE__, __LINE__, "'%s': %" PRId64 " bytes, not %" PRId64,
                          s->name, s->written, s->bytes);
    if (err == DML_ERR_OK) err = DML_FAILPOINT(CKPT_FSYNC);
    if (err == DML_ERR_OK && fsync(s->fd) != 0) err = io_failed("fsync of", s->name);
    if (close(s->fd) != 0 && err == DML_ERR_OK) err = io_failed("close of", s->name);
    return err;
}

static dml_err sync_folder(int fd, const char *name)
{
    DML_TRY(DML_FAILPOINT(CKPT_FSYNC));
    return fsync(fd) == 0 ? DML_ERR_OK : io_failed("fsync of the folder", name);
}

static dml_err write_text(int dir, const char *name, const dml_str *text, char *chunk,
                          uint64_t *hash)
{
    sink s;
    DML_TRY(sink_open(dir, name, (int64_t)text->len, chunk, hash, &s));
    return sink_close(&s, sink_put(&s, text->text, (int64_t)text->len));
}

/* ---- the folder where they are kept ---- */

static dml_err make_folders(const char *path)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        DML_FAIL(DML_ERR_DATA, "checkpoint.folder: longer than a path may be");
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0') continue;
        const char was = *p;
        *p = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return io_failed("cannot make the folder", part);
        if (was == '\0') return DML_ERR_OK;
        *p = was;
    }
}

/* Removes a folder of files, as far as it can. */
static void remove_folder(int parent, const char *name)
{
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir && fd >= 0) close(fd);
    if (!dir) return;
    for (const struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* What a save left that was killed: nobody else saves here, the folder is locked. */
static void remove_leftovers(int fd)
{
    const int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (!dir && again >= 0) close(again);
    if (!dir) return;
    const size_t tail = strlen(TEMP_SUFFIX);
    for (const struct dirent *e; (e = readdir(dir));) {
        const size_t n = strlen(e->d_name);
        if (e->d_name[0] != '.' || n <= tail || strcmp(e->d_name + n - tail, TEMP_SUFFIX) != 0)
            continue;
        if (strncmp(e->d_name, ".step-", 6) == 0) remove_folder(fd, e->d_name);
        if (strcmp(e->d_name, "." LATEST TEMP_SUFFIX) == 0) unlinkat(fd, e->d_name, 0);
    }
    closedir(dir);
}

dml_err dml_checkpoint_open(const char *path, dml_checkpoint_folder *out)
{
    *out = (dml_checkpoint_folder){.fd = -1};
    DML_TRY(make_folders(path));
    snprintf(out->path, sizeof out->path, "%s", path);
    out->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->fd < 0) return io_failed("cannot open the folder", path);
    if (flock(out->fd, LOCK_EX | LOCK_NB) != 0) {
        const dml_err err = errno == EWOULDBLOCK
                                ? dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                                              "checkpoint.folder: another run saves in '%s'", path)
                                : io_failed("cannot lock", path);
        dml_checkpoint_close(out);
        return err;
    }
    remove_leftovers(out->fd);
    return DML_ERR_OK;
}

void dml_checkpoint_close(dml_checkpoint_folder *f)
{
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

/* ---- one checkpoint ---- */

typedef struct save {
    const dml_checkpoint_folder *folder;
    const dml_checkpoint_job *job;
    dml_ckpt_manifest manifest;
    dml_arena arena;
    char *chunk; /* owned */
    char name[DML_CHECKPOINT_NAME], temp[DML_CHECKPOINT_NAME + 8];
    int dir; /* of temp */
} save;

static dml_err put_tensors(sink *s, const dml_ckpt_tensors *t, const dml_str *header)
{
    DML_TRY(sink_put(s, header->text, (int64_t)header->len));
    for (int32_t i = 0; i < t->st.n; i++)
        DML_TRY(sink_put(s, t->data[i], t->st.tensor[i].end - t->st.tensor[i].begin));
    return DML_ERR_OK;
}

static dml_err write_tensors(save *v, dml_ckpt_file file)
{
    dml_ckpt_tensors t;
    dml_str header = {0};
    dml_ckpt_entry *e = &v->manifest.file[file];
    dml_ckpt_tensors_of(v->job->spec, v->job->bank, file, &v->arena, &t, &header);
    e->bytes = t.st.file_bytes;
    e->hash = DML_NEW_N(&v->arena, uint64_t, dml_ckpt_chunks(e->bytes));
    sink s;
    dml_err err = sink_open(v->dir, dml_ckpt_file_name(file), e->bytes, v->chunk, e->hash, &s);
    if (err == DML_ERR_OK) err = sink_close(&s, put_tensors(&s, &t, &header));
    dml_str_free(&header);
    return err;
}

static dml_err write_state(save *v)
{
    dml_str text = {0};
    dml_ckpt_entry *e = &v->manifest.file[DML_CKPT_STATE];
    dml_ckpt_state_print(v->job, &text);
    e->bytes = (int64_t)text.len;
    e->hash = DML_NEW_N(&v->arena, uint64_t, dml_ckpt_chunks(e->bytes));
    const dml_err err =
        write_text(v->dir, dml_ckpt_file_name(DML_CKPT_STATE), &text, v->chunk, e->hash);
    dml_str_free(&text);
    return err;
}

static dml_err write_manifest(save *v)
{
    dml_str text = {0};
    dml_ckpt_manifest_print(&v->manifest, &text);
    uint64_t *hash = DML_NEW_N(&v->arena, uint64_t, dml_ckpt_chunks((int64_t)text.len));
    const dml_err err = write_text(v->dir, DML_CKPT_MANIFEST, &text, v->chunk, hash);
    dml_str_free(&text);
    return err;
}

static dml_err write_files(save *v)
{
    DML_TRY(dml_depot_check(v->job->bank, v->job->stamp));
    v->manifest.step = v->job->bank->run->step;
    DML_TRY(write_tensors(v, DML_CKPT_MODEL));
    DML_TRY(write_tensors(v, DML_CKPT_OPTIMIZER));
    DML_TRY(write_state(v));
    DML_TRY(dml_depot_check(v->job->bank, v->job->stamp)); /* it is what it was all the while */
    DML_TRY(DML_FAILPOINT(CKPT_MANIFEST));
    DML_TRY(write_manifest(v));
    return sync_folder(v->dir, v->temp);
}

/* ---- publishing ---- */

/* The temporary folder gets its name; one of that name becomes the temporary one, and goes, but not before the disk knows it
 * by that name. */
static dml_err take_name(const save *v)
{
    const int parent = v->folder->fd;
    DML_TRY(DML_FAILPOINT(CKPT_RENAME));
    if (renameat2(parent, v->temp, parent, v->name, RENAME_NOREPLACE) != 0) {
        if (errno != EEXIST) return io_failed("cannot rename to", v->name);
        if (renameat2(parent, v->temp, parent, v->name, RENAME_EXCHANGE) != 0)
            return io_failed("cannot replace", v->name);
    }
    DML_TRY(sync_folder(parent, v->folder->path));
    remove_folder(parent, v->temp);
    return DML_ERR_OK;
}

static dml_err point_at(const save *v)
{
    static const char temp[] = "." LATEST TEMP_SUFFIX;
    const int parent = v->folder->fd;
    dml_str text = {0};
    uint64_t hash;
    dml_str_printf(&text, "%s\n", v->name);
    unlinkat(parent, temp, 0);
    dml_err err = write_text(parent, temp, &text, v->chunk, &hash);
    dml_str_free(&text);
    DML_TRY(err);
    DML_TRY(DML_FAILPOINT(CKPT_RENAME));
    if (renameat(parent, temp, parent, LATEST) != 0) return io_failed("cannot rename to", LATEST);
    return sync_folder(parent, v->folder->path);
}

/* The one just published counts among those kept; newer ones are not ours to judge. */
static dml_err prune(save *v, int32_t keep)
{
    int64_t *steps;
    int32_t n, kept = 0;
    DML_TRY(dml_ckpt_list(v->folder->path, &v->arena, &steps, &n));
    for (int32_t i = 0; i < n; i++) {
        char name[DML_CHECKPOINT_NAME];
        if (steps[i] > v->manifest.step || kept++ < keep) continue;
        DML_TRY(DML_FAILPOINT(CKPT_PRUNE));
        /* out of sight first, also for the disk, so that no half of one is ever found */
        dml_ckpt_step_name(steps[i], name);
        if (renameat(v->folder->fd, name, v->folder->fd, v->temp) != 0)
            return io_failed("cannot remove", name);
        DML_TRY(sync_folder(v->folder->fd, v->folder->path));
        remove_folder(v->folder->fd, v->temp);
    }
    return DML_ERR_OK;
}

static dml_err make_temp(save *v)
{
    dml_ckpt_step_name(v->job->bank->run->step, v->name);
    snprintf(v->temp, sizeof v->temp, ".%s" TEMP_SUFFIX, v->name);
    remove_folder(v->folder->fd, v->temp);
    if (mkdirat(v->folder->fd, v->temp, 0777) != 0)
        return io_failed("cannot make the folder", v->temp);
    v->dir = openat(v->folder->fd, v->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return v->dir >= 0 ? DML_ERR_OK : io_failed("cannot open the folder", v->temp);
}

dml_err dml_checkpoint_write(const dml_checkpoint_folder *f, const dml_checkpoint_job *job,
                             int32_t keep, int64_t *bytes)
{
    save v = {.folder = f, .job = job, .dir = -1, .chunk = malloc(DML_CKPT_CHUNK)};
    if (!v.chunk) DML_FAIL(DML_ERR_NOMEM, "checkpoint: a buffer of %d bytes", DML_CKPT_CHUNK);
    dml_err err = make_temp(&v);
    if (err == DML_ERR_OK) err = write_files(&v);
    if (v.dir >= 0) close(v.dir);
    if (err == DML_ERR_OK) err = take_name(&v);
    if (err != DML_ERR_OK) remove_folder(f->fd, v.temp);
    if (err == DML_ERR_OK) err = point_at(&v);
    if (err == DML_ERR_OK) err = prune(&v, keep);
    *bytes = 0;
    for (int32_t i = 0; i < DML_CKPT_FILES; i++)
        *bytes += v.manifest.file[i].bytes;
    dml_arena_free(&v.arena);
    free(v.chunk);
    return err;
}
