/* engine/checkpoint_files.c - names of folders, tensors of files, and the manifest:
 *
 *   {"body":{"format":1,"step":120,"chunk_bytes":4194304,"files":[
 *   {"name":"model.safetensors","bytes":9000000,"xxh3":["0123456789abcdef","...","..."]},
 *   ...]},
 *   "xxh3":"0123456789abcdef"}
 *
 * The last hash is of every byte before the ',' that ends the line above it.  What was printed is compared with what
 * this program would print: one text per meaning, so a flipped bit has nowhere to hide.
 */
#include "engine/checkpoint_files.h"

#include "engine/base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const file_name[] = {
#define X(id, name) name,
    DML_CKPT_FILE_LIST(X)
#undef X
};

const char *dml_ckpt_file_name(dml_ckpt_file file)
{
    return file_name[file];
}

/* ---- tensors ---- */

typedef struct adder {
    dml_arena *arena;
    dml_ckpt_tensors *to;
} adder;

static void add_tensor(adder *a, const char *name, const char *suffix, dml_st_dtype dtype,
                       int32_t rank, const int64_t *dim, void *data)
{
    const int32_t i = a->to->st.n++;
    dml_st_tensor *t = &a->to->st.tensor[i];
    *t = (dml_st_tensor){.name = dml_arena_printf(a->arena, "%s%s", name, suffix),
                         .dtype = dtype,
                         .rank = rank,
                         .begin = i};
    for (int32_t d = 0; d < rank; d++)
        t->dim[d] = dim[d];
    a->to->data[i] = data;
}

static void add_model(adder *a, const dml_depot *bank)
{
    const dml_model *m = bank->model;
    for (int32_t i = 0; i < m->n_params; i++)
        add_tensor(a, m->param[i].name, "", DML_ST_F32, m->param[i].rank, m->param[i].dim,
                   bank->param[i]);
    for (int32_t i = 0; i < m->n_states; i++)
        add_tensor(a, m->state[i].name, "", DML_ST_F32, 1, &m->state[i].elems, bank->state[i]);
}

static void add_optimizer(adder *a, const dml_spec *spec, const dml_depot *bank)
{
    const dml_model *m = bank->model;
    for (int32_t i = 0; i < m->n_params; i++) {
        const dml_param *p = &m->param[i];
        float *moment = bank->param[i];
        if (dml_optimizer_has_m(spec))
            add_tensor(a, p->name, ".m", DML_ST_F32, p->rank, p->dim, moment += p->elems);
        if (dml_optimizer_has_v(spec))
            add_tensor(a, p->name, ".v", DML_ST_F32, p->rank, p->dim, moment += p->elems);
        if (spec->training.numerics == DML_EXACT)
            add_tensor(a, p->name, ".scale", DML_ST_I32, 0, NULL, &bank->exponent[i]);
    }
}

/* As the header has them; what each was before lies in `before`, by name. */
static void sort_data(dml_ckpt_tensors *t, const dml_st_tensor *before, void *const *data)
{
    for (int32_t i = 0; i < t->st.n; i++)
        for (int32_t k = 0; k < t->st.n; k++)
            if (before[k].name == t->st.tensor[i].name) t->data[i] = data[k];
}

void dml_ckpt_tensors_of(const dml_spec *spec, const dml_depot *bank, dml_ckpt_file file,
                         dml_arena *arena, dml_ckpt_tensors *out, dml_str *header)
{
    const int64_t most = 3 * (int64_t)bank->model->n_params + bank->model->n_states;
    *out = (dml_ckpt_tensors){.data = DML_NEW_N(arena, void *, most)};
    out->st.tensor = DML_NEW_N(arena, dml_st_tensor, most);
    out->st.metadata = DML_NEW(arena, dml_st_pair);
    out->st.n_metadata = 1;
    *out->st.metadata = (dml_st_pair){"format", "pt"}; /* what PyTorch's readers ask for */
    adder a = {arena, out};
    if (file == DML_CKPT_MODEL)
        add_model(&a, bank);
    else
        add_optimizer(&a, spec, bank);
    dml_st_tensor *before = DML_NEW_N(arena, dml_st_tensor, most);
    void **data = DML_NEW_N(arena, void *, most);
    memcpy(before, out->st.tensor, (size_t)out->st.n * sizeof *before);
    memcpy(data, out->data, (size_t)out->st.n * sizeof *data);
    dml_st_layout(&out->st, header);
    sort_data(out, before, data);
}

/* ---- the manifest ---- */

void dml_ckpt_manifest_print(const dml_ckpt_manifest *m, dml_str *out)
{
    const size_t begin = out->len;
    dml_str_printf(out,
                   "{\"body\":{\"format\":%d,\"step\":%" PRId64 ",\"chunk_bytes\":%d,\"files\":[\n",
                   DML_CKPT_FORMAT, m->step, DML_CKPT_CHUNK);
    for (int32_t f = 0; f < DML_CKPT_FILES; f++) {
        const dml_ckpt_entry *e = &m->file[f];
        dml_str_printf(out, "{\"name\":\"%s\",\"bytes\":%" PRId64 ",\"xxh3\":[", file_name[f],
                       e->bytes);
        for (int64_t c = 0; c < dml_ckpt_chunks(e->bytes); c++)
            dml_str_printf(out, "%s\"%016" PRIx64 "\"", c ? "," : "", e->hash[c]);
        dml_str_printf(out, "]}%s\n", f + 1 < DML_CKPT_FILES ? "," : "");
    }
    dml_str_printf(out, "]}");
    const uint64_t hash = dml_hash(out->text + begin, (int64_t)(out->len - begin), 0);
    dml_str_printf(out, ",\n\"xxh3\":\"%016" PRIx64 "\"}\n", hash);
}

static bool read_hash(const json_t *from, uint64_t *out)
{
    const char *text = json_string_value(from);
    char again[17];
    if (!text || strlen(text) != 16) return false;
    *out = strtoull(text, NULL, 16);
    snprintf(again, sizeof again, "%016" PRIx64, *out);
    return strcmp(again, text) == 0;
}

static dml_err read_entry(const char *path, const json_t *from, dml_ckpt_file file,
                          dml_arena *arena, dml_ckpt_entry *out)
{
    const char *name = json_string_value(json_object_get(from, "name"));
    const json_t *hashes = json_object_get(from, "xxh3");
    if (!name || strcmp(name, file_name[file]) != 0)
        DML_FAIL(DML_ERR_DATA, "'%s': '%s' is not listed in its place", path, file_name[file]);
    out->bytes = json_integer_value(json_object_get(from, "bytes")); /* 0 for what is none */
    if (out->bytes < 1 || (int64_t)json_array_size(hashes) !=
                              out->bytes / DML_CKPT_CHUNK + (out->bytes % DML_CKPT_CHUNK != 0))
        DML_FAIL(DML_ERR_DATA, "'%s': '%s' has %zu hashes for %" PRId64 " bytes", path, name,
                 json_array_size(hashes), out->bytes);
    out->hash = DML_NEW_N(arena, uint64_t, dml_ckpt_chunks(out->bytes));
    for (int64_t c = 0; c < dml_ckpt_chunks(out->bytes); c++)
        if (!read_hash(json_array_get(hashes, (size_t)c), &out->hash[c]))
            DML_FAIL(DML_ERR_DATA, "'%s': '%s': hash %" PRId64 " is none", path, name, c);
    return DML_ERR_OK;
}

static dml_err read_body(const char *path, const json_t *all, dml_arena *arena,
                         dml_ckpt_manifest *out)
{
    const json_t *body = json_object_get(all, "body"), *files = json_object_get(body, "files");
    const json_int_t format = json_integer_value(json_object_get(body, "format"));
    if (format != DML_CKPT_FORMAT)
        DML_FAIL(DML_ERR_DATA, "'%s': format %lld, this version reads %d", path, (long long)format,
                 DML_CKPT_FORMAT);
    out->step = json_integer_value(json_object_get(body, "step"));
    for (int32_t f = 0; f < DML_CKPT_FILES; f++)
        DML_TRY(read_entry(path, json_array_get(files, (size_t)f), (dml_ckpt_file)f, arena,
                           &out->file[f]));
    return DML_ERR_OK;
}

static dml_err check_text(const char *path, const dml_ckpt_manifest *m, const char *text,
                          int64_t bytes)
{
    dml_str again = {0};
    dml_ckpt_manifest_print(m, &again);
    const bool same = (int64_t)again.len == bytes && memcmp(again.text, text, again.len) == 0;
    dml_str_free(&again);
    if (!same) DML_FAIL(DML_ERR_DATA, "'%s' is not as it was written: its hash is another", path);
    return DML_ERR_OK;
}

dml_err dml_ckpt_manifest_parse(const char *path, const char *text, int64_t bytes, dml_arena *arena,
                                dml_ckpt_manifest *out)
{
    json_error_t why;
    json_t *all = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &why);
    *out = (dml_ckpt_manifest){0};
    if (!all) DML_FAIL(DML_ERR_DATA, "'%s': line %d: %s", path, why.line, why.text);
    dml_err err = read_body(path, all, arena, out);
    json_decref(all);
    if (err == DML_ERR_OK) err = check_text(path, out, text, bytes);
    return err;
}

/* ---- folders ---- */

void dml_ckpt_step_name(int64_t step, char out[DML_CHECKPOINT_NAME])
{
    snprintf(out, DML_CHECKPOINT_NAME, "step-%08" PRId64, step);
}

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* False: it is no name that dml_ckpt_step_name makes. */
static bool step_of(const char *name, int64_t *step)
{
    char again[DML_CHECKPOINT_NAME];
    if (strncmp(name, "step-", 5) != 0 || strlen(name) > 5 + 12) return false;
    *step = strtoll(name + 5, NULL, 10);
    dml_ckpt_step_name(*step, again);
    return strcmp(name, again) == 0;
}

dml_err dml_ckpt_list(const char *folder, dml_arena *arena, int64_t **steps, int32_t *n)
{
    DIR *dir = opendir(folder);
    int32_t cap = 0;
    *steps = NULL;
    *n = 0;
    if (!dir && errno == ENOENT) return DML_ERR_OK;
    if (!dir) DML_FAIL(DML_ERR_DATA, "cannot read '%s': %s", folder, strerror(errno));
    int64_t step;
    for (const struct dirent *e; (e = readdir(dir));) {
        if (!step_of(e->d_name, &step)) continue;
        if (*n == cap) {
            int64_t *grown = DML_NEW_N(arena, int64_t, 2 * (int64_t)cap + 16);
            if (*n > 0) memcpy(grown, *steps, (size_t)*n * sizeof *grown);
            *steps = grown;
            cap = 2 * cap + 16;
        }
        (*steps)[(*n)++] = step;
    }
    closedir(dir);
    if (*n > 1) qsort(*steps, (size_t)*n, sizeof **steps, newest_first);
    return DML_ERR_OK;
}
