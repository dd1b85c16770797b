/* engine/safetensors.h - the file format that weights are kept in: written plainly, read strictly.
 *
 *   | n: 8 bytes, little-endian | n bytes of JSON | data |
 *   {"__metadata__":{"k":"v"}, "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, ...}
 *
 * Offsets count from the start of the data.  In their order tensors follow each other without a hole from 0 to the very
 * end of the file, so no byte belongs to nobody or to two.  Little-endian, row-major.
 *
 * The reader takes what the reference library writes and refuses, with the file, the byte and the reason, whatever leaves
 * room for two readings: duplicate names and keys, keys it does not know, numbers that are negative, fractional, with
 * an exponent or a leading zero, lone surrogates, bad UTF-8, overflow, holes, overlap, trailing bytes.  It allocates what
 * the caps below allow, never what a file asks for.
 */
#ifndef DML_ENGINE_SAFETENSORS_H
#define DML_ENGINE_SAFETENSORS_H

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#include <stdint.h>

enum {
    DML_ST_RANK = 8,
    DML_ST_HEADER_BYTES = 100000000, /* as in the reference library */
    DML_ST_TENSORS = 1 << 18,
    DML_ST_METADATA = 1 << 12,
    DML_ST_NAME_BYTES = 512, /* of a name, a key or a value of the metadata: 64 times that */
};
#define DML_ST_DIM_MAX ((int64_t)1 << 48)

/* clang-format off */
/*    name      bytes   what it is                                                                   */
#define DML_ST_DTYPE_LIST(X)                                                                            \
    X(BOOL,     1)   /* 0 or 1                                                                      */ \
    X(U8,       1)                                                                                     \
    X(I8,       1)                                                                                     \
    X(F8_E5M2,  1)                                                                                     \
    X(F8_E4M3,  1)                                                                                     \
    X(I16,      2)                                                                                     \
    X(U16,      2)                                                                                     \
    X(F16,      2)                                                                                     \
    X(BF16,     2)                                                                                     \
    X(I32,      4)                                                                                     \
    X(U32,      4)                                                                                     \
    X(F32,      4)                                                                                     \
    X(F64,      8)                                                                                     \
    X(I64,      8)                                                                                     \
    X(U64,      8)
/* clang-format on */
typedef enum dml_st_dtype {
#define X(name, bytes) DML_ST_##name,
    DML_ST_DTYPE_LIST(X)
#undef X
} dml_st_dtype;

const char *dml_st_dtype_name(dml_st_dtype dtype);
int32_t dml_st_dtype_bytes(dml_st_dtype dtype);

typedef struct dml_st_tensor {
    const char *name;
    dml_st_dtype dtype;
    int32_t rank;
    int64_t dim[DML_ST_RANK];
    int64_t begin, end; /* bytes into the data; the writer fills them in */
} dml_st_tensor;

typedef struct dml_st_pair {
    const char *key, *value;
} dml_st_pair;

/* Pointers are the arena's, or the caller's who writes. */
typedef struct dml_safetensors {
    dml_st_tensor *tensor; /* [n] by offset */
    int32_t n;
    dml_st_pair *metadata; /* [n_metadata] in the order of the file */
    int32_t n_metadata;
    int64_t data_at; /* bytes of the file before the data */
    int64_t file_bytes;
} dml_safetensors;

/* Reads the first 8 bytes of a file: `out` says how much more its header takes.
 *   file  its name, for the text
 * DML_ERR_DATA  the file is too short for it, or it is longer than DML_ST_HEADER_BYTES */
dml_err dml_st_header_bytes(const char *file, const unsigned char first[8], int64_t file_bytes,
                            int64_t *out);

/* Reads a header: the JSON alone.
 *   data_bytes  of the file behind it
 *   out         written only on success, data_at and file_bytes too
 * DML_ERR_DATA  "'<file>': byte 37 of the header: ..." */
dml_err dml_st_parse(const char *file, const char *json, int64_t json_bytes, int64_t data_bytes,
                     dml_arena *arena, dml_safetensors *out);

/* Reads the header of the file `name` in folder `dir_fd` (AT_FDCWD: a path) and leaves *fd open, to read tensors with
 * dml_st_read; the caller closes it.  No link is followed.
 * DML_ERR_DATA  it cannot be read, is no regular file, or is not one as above */
dml_err dml_st_open(int dir_fd, const char *name, dml_arena *arena, int *fd, dml_safetensors *out);
/* One tensor's bytes to `to` [t->end - t->begin].
 * DML_ERR_DATA  the file became shorter, or cannot be read */
dml_err dml_st_read(const dml_safetensors *st, int fd, const char *name, const dml_st_tensor *t,
                    void *to);

/* NULL when there is none. */
const dml_st_tensor *dml_st_find(const dml_safetensors *st, const char *name);
const char *dml_st_metadata(const dml_safetensors *st, const char *key);

/* Lays tensors out as the reference library does: wider types first, then by name; sorts st->tensor, fills in
 * begin and end, data_at and file_bytes, and appends what comes before the data, padded to a multiple of 8.
 * Names are valid UTF-8 and all different, ranks and dims within the caps: the writer's business. */
void dml_st_layout(dml_safetensors *st, dml_str *header);

#endif
