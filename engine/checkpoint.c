/* engine/checkpoint.c - finding and loading: every byte that is used has been compared with its hash before. */
#include "engine/checkpoint_files.h"

#include "engine/base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANIFEST_BYTES = 64 << 20, STATE_BYTES = 16 << 20 };

/* ---- files, in verified chunks ---- */

typedef struct source {
    int fd;
    const char *path; /* the arena's */
    const dml_ckpt_entry *entry;
    char *chunk; /* [DML_CKPT_CHUNK] the load's */
    int64_t next, in_chunk,
        used; /* chunk to read next; bytes of the one at hand, and those taken */
} source;

typedef struct loading {
    const char *path; /* of the checkpoint */
    int dir;
    dml_arena *arena;
    dml_ckpt_manifest manifest;
    char *chunk; /* owned */
} loading;

static dml_err cannot_read(const char *path)
{
    return dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "cannot read '%s': %s", path,
                       errno == ELOOP ? "it is a link" : strerror(errno));
}

static dml_err read_exactly(int fd, const char *path, char *to, int64_t bytes)
{
    while (bytes > 0) {
        const ssize_t n = read(fd, to, (size_t)bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cannot_read(path);
        if (n == 0) DML_FAIL(DML_ERR_DATA, "'%s' became shorter while it was read", path);
        to += n;
        bytes -= n;
    }
    return DML_ERR_OK;
}

static dml_err open_file(const loading *l, const char *name, const char **path, int *fd,
                         int64_t *bytes)
{
    struct stat st = {0};
    *path = dml_arena_printf(l->arena, "%s/%s", l->path, name);
    *fd = openat(l->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0) return cannot_read(*path);
    dml_err err = DML_ERR_OK;
    if (fstat(*fd, &st) != 0)
        err = cannot_read(*path);
    else if (!S_ISREG(st.st_mode))
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "'%s' is no regular file", *path);
    *bytes = st.st_size;
    if (err != DML_ERR_OK) close(*fd);
    return err;
}

static dml_err source_open(loading *l, dml_ckpt_file file, source *out)
{
    int64_t bytes = 0;
    *out = (source){.entry = &l->manifest.file[file], .chunk = l->chunk};
    DML_TRY(open_file(l, dml_ckpt_file_name(file), &out->path, &out->fd, &bytes));
    if (bytes == out->entry->bytes) return DML_ERR_OK;
    close(out->fd);
    DML_FAIL(DML_ERR_DATA, "'%s' has %" PRId64 " bytes, the manifest says %" PRId64, out->path,
             bytes, out->entry->bytes);
}

static dml_err next_chunk(source *s)
{
    const int64_t at = s->next * DML_CKPT_CHUNK, left = s->entry->bytes - at;
    s->in_chunk = left < DML_CKPT_CHUNK ? left : DML_CKPT_CHUNK;
    s->used = 0;
    if (s->in_chunk <= 0) DML_FAIL(DML_ERR_DATA, "'%s' ends too early", s->path);
    DML_TRY(read_exactly(s->fd, s->path, s->chunk, s->in_chunk));
    if (dml_hash(s->chunk, s->in_chunk, 0) != s->entry->hash[s->next])
        DML_FAIL(DML_ERR_DATA,
                 "'%s': bytes %" PRId64 " to %" PRId64 " are not what was written: hash differs",
                 s->path, at, at + s->in_chunk - 1);
    s->next++;
    return DML_ERR_OK;
}

static dml_err take(source *s, void *to, int64_t bytes)
{
    char *p = to;
    while (bytes > 0) {
        if (s->used == s->in_chunk) DML_TRY(next_chunk(s));
        const int64_t here = s->in_chunk - s->used, n = bytes < here ? bytes : here;
        memcpy(p, s->chunk + s->used, (size_t)n);
        s->used += n;
        p += n;
        bytes -= n;
    }
    return DML_ERR_OK;
}

/* ---- the checkpoint ---- */

static dml_err read_manifest(loading *l)
{
    const char *path;
    int fd;
    int64_t bytes = 0;
    DML_TRY(open_file(l, DML_CKPT_MANIFEST, &path, &fd, &bytes));
    char *text = bytes <= MANIFEST_BYTES ? malloc((size_t)bytes + 1) : NULL;
    dml_err err;
    if (!text)
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "'%s': %" PRId64 " bytes, no manifest",
                          path, bytes);
    else if ((err = read_exactly(fd, path, text, bytes)) == DML_ERR_OK)
        err = dml_ckpt_manifest_parse(path, text, bytes, l->arena, &l->manifest);
    free(text);
    close(fd);
    return err;
}

/* A shard that the manifest does not know belongs to no checkpoint, or to another. */
static dml_err check_strangers(const loading *l)
{
    const int fd = openat(l->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    static const char shard[] = ".safetensors";
    dml_err err = DML_ERR_OK;
    if (!dir && fd >= 0) close(fd);
    if (!dir) return cannot_read(l->path);
    for (const struct dirent *e; err == DML_ERR_OK && (e = readdir(dir));) {
        const size_t n = strlen(e->d_name);
        bool known = n < sizeof shard || strcmp(e->d_name + n - (sizeof shard - 1), shard) != 0;
        for (int32_t f = 0; f < DML_CKPT_FILES; f++)
            known = known || strcmp(e->d_name, dml_ckpt_file_name((dml_ckpt_file)f)) == 0;
        if (!known)
            err =
                dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                            "'%s/%s' is not in the manifest: does it belong to another checkpoint?",
                            l->path, e->d_name);
    }
    closedir(dir);
    return err;
}

/* One that was renamed is a checkpoint of another step than it says. */
static dml_err check_name(const loading *l)
{
    char name[DML_CHECKPOINT_NAME];
    size_t end = strlen(l->path);
    dml_ckpt_step_name(l->manifest.step, name);
    while (end > 0 && l->path[end - 1] == '/')
        end--;
    const size_t n = strlen(name);
    if (end >= n && strncmp(l->path + end - n, name, n) == 0) return DML_ERR_OK;
    DML_FAIL(DML_ERR_DATA, "'%s' holds step %" PRId64 ": it was saved as '%s'", l->path,
             l->manifest.step, name);
}

static dml_err read_state(loading *l, dml_ckpt_state *out)
{
    source s;
    DML_TRY(source_open(l, DML_CKPT_STATE, &s));
    const int64_t bytes = s.entry->bytes;
    char *text = bytes <= STATE_BYTES ? malloc((size_t)bytes) : NULL;
    dml_err err = text ? take(&s, text, bytes)
                       : dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "'%s': %" PRId64 " bytes",
                                     s.path, bytes);
    if (err == DML_ERR_OK) err = dml_ckpt_state_parse(s.path, text, bytes, out);
    if (err == DML_ERR_OK && out->run.step != l->manifest.step)
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                          "'%s' is of step %" PRId64 ", the manifest of step %" PRId64, s.path,
                          out->run.step, l->manifest.step);
    free(text);
    close(s.fd);
    return err;
}

/* ---- tensors ---- */

static void shape_text(const dml_st_tensor *t, dml_str *out)
{
    dml_str_printf(out, "%s [", dml_st_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->rank; i++)
        dml_str_printf(out, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    dml_str_printf(out, "]");
}

static dml_err check_same(const char *path, const dml_st_tensor *want, const dml_st_tensor *have)
{
    dml_str is = {0}, was = {0};
    if (!have)
        DML_FAIL(DML_ERR_SPEC, "the checkpoint is of another model: '%s' has no '%s'", path,
                 want->name);
    bool same = want->dtype == have->dtype && want->rank == have->rank;
    for (int32_t i = 0; same && i < want->rank; i++)
        same = want->dim[i] == have->dim[i];
    if (same) return DML_ERR_OK;
    shape_text(want, &is);
    shape_text(have, &was);
    const dml_err err =
        dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                    "the checkpoint is of another model: in '%s' '%s' is %s, the spec's is %s",
                    path, want->name, dml_str_text(&was), dml_str_text(&is));
    dml_str_free(&is);
    dml_str_free(&was);
    return err;
}

/* The same tensors on both sides. */
static dml_err check_tensors(const char *path, const dml_ckpt_tensors *want,
                             const dml_safetensors *have)
{
    for (int32_t i = 0; i < want->st.n; i++)
        DML_TRY(check_same(path, &want->st.tensor[i], dml_st_find(have, want->st.tensor[i].name)));
    for (int32_t i = 0; i < have->n; i++)
        if (!dml_st_find(&want->st, have->tensor[i].name))
            DML_FAIL(DML_ERR_SPEC,
                     "the checkpoint is of another model: the spec's has no '%s', which is in '%s'",
                     have->tensor[i].name, path);
    return DML_ERR_OK;
}

static dml_err take_header(source *s, dml_arena *arena, dml_safetensors *out)
{
    unsigned char first[8];
    int64_t bytes = 0;
    DML_TRY(take(s, first, s->entry->bytes < 8 ? s->entry->bytes : 8));
    DML_TRY(dml_st_header_bytes(s->path, first, s->entry->bytes, &bytes));
    char *json = malloc((size_t)bytes + 1);
    if (!json) DML_FAIL(DML_ERR_NOMEM, "'%s': a header of %" PRId64 " bytes", s->path, bytes);
    dml_err err = take(s, json, bytes);
    if (err == DML_ERR_OK)
        err = dml_st_parse(s->path, json, bytes, s->entry->bytes - 8 - bytes, arena, out);
    free(json);
    return err;
}

static dml_err take_tensors(source *s, const dml_spec *spec, dml_depot *bank, dml_ckpt_file file,
                            bool names_only, dml_arena *arena)
{
    dml_safetensors have;
    dml_ckpt_tensors want;
    dml_str header = {0};
    DML_TRY(take_header(s, arena, &have));
    dml_ckpt_tensors_of(spec, bank, file, arena, &want, &header);
    dml_str_free(&header);
    DML_TRY(check_tensors(s->path, &want, &have));
    for (int32_t i = 0; i < have.n && !names_only; i++) {
        const dml_st_tensor *to = dml_st_find(&want.st, have.tensor[i].name);
        DML_TRY(take(s, want.data[to - want.st.tensor], to->end - to->begin));
    }
    return DML_ERR_OK;
}

static dml_err read_tensors(loading *l, const dml_spec *spec, dml_depot *bank, dml_ckpt_file file,
                            bool names_only)
{
    source s;
    DML_TRY(source_open(l, file, &s));
    const dml_err err = take_tensors(&s, spec, bank, file, names_only, l->arena);
    close(s.fd);
    return err;
}

static dml_err load(loading *l, const dml_spec *spec, const dml_checkpoint_identity *identity,
                    dml_depot *bank, uint32_t generation, dml_str *told)
{
    dml_ckpt_state state;
    bool other_model;
    DML_TRY(read_manifest(l));
    DML_TRY(check_name(l));
    DML_TRY(check_strangers(l));
    DML_TRY(read_state(l, &state));
    DML_TRY(dml_ckpt_state_compare(l->path, &state, identity, spec->training.numerics != DML_FAST,
                                   told, &other_model));
    if (other_model) {
        DML_TRY(read_tensors(l, spec, bank, DML_CKPT_MODEL, true));
        DML_FAIL(DML_ERR_SPEC,
                 "the checkpoint '%s' is of another model: tensors are the same, layers differ",
                 l->path);
    }
    dml_depot_mark(bank, 0);
    DML_TRY(read_tensors(l, spec, bank, DML_CKPT_MODEL, false));
    DML_TRY(read_tensors(l, spec, bank, DML_CKPT_OPTIMIZER, false));
    *bank->run = state.run;
    dml_depot_mark(bank, dml_depot_stamp(generation, state.run.step));
    return DML_ERR_OK;
}

dml_err dml_checkpoint_load(const char *path, const dml_spec *spec,
                            const dml_checkpoint_identity *identity, dml_depot *bank,
                            uint32_t generation, dml_arena *arena, int64_t *step, const char **told)
{
    dml_str text = {0};
    loading l = {.path = path, .arena = arena, .dir = -1};
    l.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (l.dir < 0) DML_FAIL(DML_ERR_DATA, "no checkpoint at '%s': %s", path, strerror(errno));
    l.chunk = malloc(DML_CKPT_CHUNK);
    dml_err err = l.chunk ? load(&l, spec, identity, bank, generation, &text)
                          : dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__,
                                        "checkpoint: a buffer of %d bytes", DML_CKPT_CHUNK);
    if (err == DML_ERR_OK) *step = l.manifest.step;
    *told = dml_arena_strdup(arena, dml_str_text(&text));
    dml_str_free(&text);
    free(l.chunk);
    close(l.dir);
    return err;
}

/* ---- the newest ---- */

/* The first line of the trail. */
static const char *reason(dml_arena *arena)
{
    return dml_arena_printf(arena, "%.*s", (int)strcspn(dml_err_trail(), "\n"), dml_err_trail());
}

dml_err dml_checkpoint_newest(const char *folder, const dml_spec *spec,
                              const dml_checkpoint_identity *identity, dml_depot *bank,
                              uint32_t generation, dml_arena *arena, int64_t *step,
                              const char **path, const char **told)
{
    int64_t *steps;
    int32_t n;
    *path = NULL;
    *told = "";
    DML_TRY(dml_ckpt_list(folder, arena, &steps, &n));
    for (int32_t i = 0; i < n; i++) {
        char name[DML_CHECKPOINT_NAME];
        const char *said;
        dml_ckpt_step_name(steps[i], name);
        const char *here = dml_arena_printf(arena, "%s/%s", folder, name);
        const dml_err err =
            dml_checkpoint_load(here, spec, identity, bank, generation, arena, step, &said);
        if (err == DML_ERR_OK) {
            *path = here;
            *told = dml_arena_printf(arena, "%s%s%s", *told, **told && *said ? "; " : "", said);
            return DML_ERR_OK;
        }
        if (err != DML_ERR_DATA) DML_TRY(err);
        *told = dml_arena_printf(arena, "%s%s%s is passed over: %s", *told, **told ? "; " : "",
                                 name, reason(arena));
    }
    return DML_ERR_OK;
}

/* ---- the spec's words ---- */

bool dml_checkpoint_wanted(const dml_spec *spec)
{
    return spec->checkpoint.interval_steps > 0 || spec->checkpoint.folder[0] != '\0';
}

const char *dml_checkpoint_where(const dml_spec *spec, dml_arena *arena)
{
    return spec->checkpoint.folder[0]
               ? dml_arena_strdup(arena, spec->checkpoint.folder)
               : dml_arena_printf(arena, "%s/checkpoints", spec->run.output_dir);
}

/* Saving beside newer ones, of another history, would make the newest one a matter of luck. */
static dml_err check_newer(const char *folder, int64_t step, dml_arena *arena)
{
    int64_t *steps;
    int32_t n;
    DML_TRY(dml_ckpt_list(folder, arena, &steps, &n));
    if (n > 0 && steps[0] > step)
        DML_FAIL(DML_ERR_SPEC,
                 "checkpoint.folder: '%s' holds one of step %" PRId64
                 ", the run begins after step %" PRId64
                 ": checkpoint.resume=auto goes on from it, another folder leaves it alone",
                 folder, steps[0], step);
    return DML_ERR_OK;
}

dml_err dml_checkpoint_resume(const dml_spec *spec, const dml_checkpoint_identity *identity,
                              dml_depot *bank, dml_arena *arena, int64_t *step, const char **path,
                              const char **told)
{
    const char *resume = spec->checkpoint.resume, *folder = dml_checkpoint_where(spec, arena);
    *step = 0;
    *path = NULL;
    *told = "";
    if (strcmp(resume, "never") == 0)
        return dml_checkpoint_wanted(spec) ? check_newer(folder, 0, arena) : DML_ERR_OK;
    if (strcmp(resume, "auto") != 0 && strcmp(resume, "latest") != 0) {
        DML_TRY(dml_checkpoint_load(resume, spec, identity, bank, 0, arena, step, told));
        *path = dml_arena_strdup(arena, resume);
        return dml_checkpoint_wanted(spec) ? check_newer(folder, *step, arena) : DML_ERR_OK;
    }
    DML_TRY(dml_checkpoint_newest(folder, spec, identity, bank, 0, arena, step, path, told));
    if (!*path && strcmp(resume, "latest") == 0)
        DML_FAIL(DML_ERR_DATA, "checkpoint.resume: latest, and '%s' holds none that loads%s%s",
                 folder, **told ? ": " : "", *told);
    return DML_ERR_OK;
}
