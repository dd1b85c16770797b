/* engine/idx.c - zlib reads plain files and gzipped ones through the same calls, so there is one path.
 *
 * Every check compares what the header promises with what is there: magic, dimensions, exact length.
 */
#include "engine/idx.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <zlib.h>

enum { MAX_SIDE = 1 << 14, BUFFER_BYTES = 1 << 18, MAX_READ_BYTES = 1 << 30 };

typedef struct idx_file {
    char path[PATH_MAX];
    gzFile gz;
    int32_t dim[3];
    int64_t header_bytes, data_bytes;
} idx_file;

static const char *const stems[2][2] = {
    {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
    {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
};

/* Why `stem` is not in `folder`, and what to do about it. */
static dml_err missing(const char *folder, const char *stem)
{
    struct stat st;
    const bool folder_here = stat(folder, &st) == 0;
    const char *mend = strcmp(folder, DML_IDX_DEFAULT_FOLDER) == 0
                           ? "install it with 'apt-get install dataset-fashion-mnist', or set "
                             "data.path to a folder with the four IDX files"
                           : "data.path must hold the four IDX files of MNIST or Fashion-MNIST, "
                             "plain or .gz";
    if (!folder_here)
        DML_FAIL(DML_ERR_DATA, "cannot read the folder '%s': %s\n  %s", folder, strerror(errno),
                 mend);
    DML_FAIL(DML_ERR_DATA, "'%s' has neither '%s' nor '%s.gz'\n  %s", folder, stem, stem, mend);
}

static dml_err open_file(const char *folder, const char *stem, idx_file *f)
{
    static const char *const endings[] = {"", ".gz"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const int len = snprintf(f->path, sizeof f->path, "%s/%s%s", folder, stem, endings[i]);
        if (len >= (int)sizeof f->path)
            DML_FAIL(DML_ERR_DATA, "data.path is longer than the system's %d bytes", PATH_MAX);
        errno = 0;
        f->gz = gzopen(f->path, "rbe");
        if (f->gz) {
            gzbuffer(f->gz, BUFFER_BYTES);
            return DML_ERR_OK;
        }
        if (errno != ENOENT)
            DML_FAIL(DML_ERR_DATA, "cannot open '%s': %s", f->path, strerror(errno));
    }
    return missing(folder, stem);
}

/* Reads exactly n bytes that begin `at` bytes into the (unpacked) file. */
static dml_err read_exact(idx_file *f, uint8_t *to, int64_t n, int64_t at)
{
    for (int64_t have = 0; have < n;) {
        const int64_t want = n - have < MAX_READ_BYTES ? n - have : MAX_READ_BYTES;
        const int got = gzread(f->gz, to + have, (unsigned)want);
        int code = Z_OK;
        const char *why = gzerror(f->gz, &code);
        if (got < 0)
            DML_FAIL(DML_ERR_DATA, "'%s' is damaged after %lld bytes: %s\n  fetch the file again",
                     f->path, (long long)(at + have), code == Z_ERRNO ? strerror(errno) : why);
        if (got == 0)
            DML_FAIL(DML_ERR_DATA,
                     "'%s' ends after %lld bytes where at least %lld are expected\n"
                     "  it is truncated: fetch the file again",
                     f->path, (long long)(at + have), (long long)(at + n));
        have += got;
    }
    return DML_ERR_OK;
}

static uint32_t big_endian(const uint8_t *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static dml_err read_header(idx_file *f, int32_t dims)
{
    uint8_t word[4];
    DML_TRY(read_exact(f, word, 4, 0));
    const uint32_t magic = 0x800u | (uint32_t)dims;
    if (big_endian(word) != magic)
        DML_FAIL(DML_ERR_DATA,
                 "'%s' starts with 0x%08x, not 0x%08x: it is not an IDX file of bytes in %d "
                 "dimension%s",
                 f->path, big_endian(word), magic, dims, dims == 1 ? "" : "s");
    f->data_bytes = 1;
    for (int32_t i = 0; i < dims; i++) {
        DML_TRY(read_exact(f, word, 4, 4 + 4 * i));
        const uint32_t most = i == 0 ? INT32_MAX : MAX_SIDE, dim = big_endian(word);
        if (dim < 1 || dim > most)
            DML_FAIL(DML_ERR_DATA, "'%s': dimension %d is %u; 1 to %u are expected", f->path, i,
                     dim, most);
        f->dim[i] = (int32_t)dim;
        f->data_bytes *= dim;
    }
    f->header_bytes = 4 + 4 * dims;
    return DML_ERR_OK;
}

/* The bytes after the header, and nothing after them.  Reading up to the end of the file is also what makes
 * zlib compare gzip's checksum. */
static dml_err read_data(idx_file *f, uint8_t **out)
{
    uint8_t *data = malloc((size_t)f->data_bytes);
    if (!data)
        DML_FAIL(DML_ERR_NOMEM, "no memory for the %lld bytes of '%s'", (long long)f->data_bytes,
                 f->path);
    dml_err err = read_exact(f, data, f->data_bytes, f->header_bytes);
    if (err != DML_ERR_OK) goto fail;
    uint8_t beyond;
    int code = Z_OK;
    const int got = gzread(f->gz, &beyond, 1);
    const char *why = gzerror(f->gz, &code);
    if (got > 0)
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                          "'%s' goes on after the %lld bytes that its header announces", f->path,
                          (long long)(f->header_bytes + f->data_bytes));
    else if (got < 0 || (code != Z_OK && code != Z_STREAM_END))
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                          "'%s' is damaged at its end: %s\n  fetch the file again", f->path, why);
    if (err != DML_ERR_OK) goto fail;
    *out = data;
    return DML_ERR_OK;
fail:
    free(data);
    return err;
}

static dml_err check_labels(const idx_file *f, const uint8_t *labels, int32_t classes)
{
    for (int32_t i = 0; i < f->dim[0]; i++)
        if (labels[i] >= classes)
            DML_FAIL(DML_ERR_DATA, "'%s': the label of sample %d is %d, but model.classes is %d",
                     f->path, i, labels[i], classes);
    return DML_ERR_OK;
}

static dml_err load(const char *folder, const char *const stem[2], bool images, bool labels,
                    int32_t classes, idx_file file[2], dml_idx *idx)
{
    DML_TRY(open_file(folder, stem[0], &file[0]));
    DML_TRY(open_file(folder, stem[1], &file[1]));
    DML_TRY(read_header(&file[0], 3));
    DML_TRY(read_header(&file[1], 1));
    if (file[0].dim[0] != file[1].dim[0])
        DML_FAIL(DML_ERR_DATA, "'%s' holds %d images, but '%s' %d labels", file[0].path,
                 file[0].dim[0], file[1].path, file[1].dim[0]);
    idx->n = file[0].dim[0];
    idx->height = file[0].dim[1];
    idx->width = file[0].dim[2];
    if (images) DML_TRY(read_data(&file[0], &idx->images));
    if (labels) {
        DML_TRY(read_data(&file[1], &idx->labels));
        DML_TRY(check_labels(&file[1], idx->labels, classes));
    }
    return DML_ERR_OK;
}

dml_err dml_idx_load(const char *folder, bool test_split, bool images, bool labels, int32_t classes,
                     dml_idx *out)
{
    idx_file file[2] = {0};
    dml_idx idx = {0};
    const dml_err err = load(folder, stems[test_split], images, labels, classes, file, &idx);
    for (int i = 0; i < 2; i++)
        if (file[i].gz) gzclose_r(file[i].gz);
    if (err != DML_ERR_OK) {
        dml_idx_free(&idx);
        return err;
    }
    *out = idx;
    return DML_ERR_OK;
}

void dml_idx_free(dml_idx *idx)
{
    free(idx->images);
    free(idx->labels);
    *idx = (dml_idx){0};
}
