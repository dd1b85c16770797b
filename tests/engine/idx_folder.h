/* tests/engine/idx_folder.h - a folder with small IDX files, sound or damaged on purpose. */
#ifndef DML_TEST_IDX_FOLDER_H
#define DML_TEST_IDX_FOLDER_H

#include "tests/support/test.h"

#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include <zlib.h>

typedef struct idx_folder {
    char path[256];
} idx_folder;

static inline idx_folder idx_folder_make(void)
{
    idx_folder f = {DML_BINARY_DIR "/idx-XXXXXX"};
    DML_CHECK(mkdtemp(f.path) != NULL);
    return f;
}

static inline int idx_folder_unlink(const char *path, const struct stat *st, int type,
                                    struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static inline void idx_folder_remove(const idx_folder *f)
{
    nftw(f->path, idx_folder_unlink, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void idx_folder_path(const idx_folder *f, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", f->path, name);
}

/* Writes a file of `dims` big-endian header words after the magic, then n bytes; gzipped when the name ends
 * in ".gz". */
static inline void idx_folder_put(const idx_folder *f, const char *name, uint32_t magic,
                                  const uint32_t *dim, int dims, const uint8_t *bytes, int64_t n)
{
    char path[PATH_MAX];
    idx_folder_path(f, name, path);
    uint8_t head[16];
    for (int i = 0; i <= dims; i++) {
        const uint32_t x = i == 0 ? magic : dim[i - 1];
        for (int b = 0; b < 4; b++)
            head[4 * i + b] = (uint8_t)(x >> (24 - 8 * b));
    }
    gzFile gz = gzopen(path, strstr(name, ".gz") ? "wb" : "wbT");
    DML_CHECK(gz != NULL);
    DML_CHECK_EQ(4 * (dims + 1), gzwrite(gz, head, (unsigned)(4 * (dims + 1))));
    if (n > 0) DML_CHECK_EQ(n, gzwrite(gz, bytes, (unsigned)n));
    DML_CHECK_EQ(Z_OK, gzclose(gz));
}

/* Both files of a split: pixel k of image i is (7 i + k) % 256, label i is i % classes. */
static inline void idx_folder_put_split(const idx_folder *f, bool test_split, bool gz, uint32_t n,
                                        uint32_t height, uint32_t width, uint32_t classes)
{
    const uint32_t dim[3] = {n, height, width}, pixels = height * width;
    uint8_t *image = malloc(n * pixels), *label = malloc(n);
    DML_CHECK(image && label);
    for (uint32_t i = 0; i < n; i++) {
        label[i] = (uint8_t)(i % classes);
        for (uint32_t k = 0; k < pixels; k++)
            image[i * pixels + k] = (uint8_t)(7 * i + k);
    }
    char name[64];
    const char *split = test_split ? "t10k" : "train", *ending = gz ? ".gz" : "";
    snprintf(name, sizeof name, "%s-images-idx3-ubyte%s", split, ending);
    idx_folder_put(f, name, 0x803, dim, 3, image, n * pixels);
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte%s", split, ending);
    idx_folder_put(f, name, 0x801, dim, 1, label, n);
    free(image);
    free(label);
}

#endif
