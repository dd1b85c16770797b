/* engine/idx.h - IDX files, the format of MNIST and its family, plain or gzipped.
 *
 *   magic 0x00000803, n, height, width, then n * height * width bytes     images
 *   magic 0x00000801, n, then n bytes                                     labels
 *
 * All header words are big-endian uint32.  The four standard names are looked up in a folder, first plain,
 * then with ".gz": train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-..., t10k-labels-...
 */
#ifndef DML_ENGINE_IDX_H
#define DML_ENGINE_IDX_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* Where Debian's dataset-fashion-mnist puts its files. */
#define DML_IDX_DEFAULT_FOLDER "/usr/share/datasets/fashion-mnist"

typedef struct dml_idx {
    int32_t n, height, width;
    uint8_t *images; /* [n, height, width], owned; NULL when not asked for */
    uint8_t *labels; /* [n], owned; NULL when not asked for */
} dml_idx;

/* Reads one split from `folder`.  Both headers are always read and must agree on n; the contents only where
 * asked for, and then to the last byte (gzip's checksum included).
 *
 *   classes  labels must be below it
 *   out      written only on success; free with dml_idx_free
 *
 * DML_ERR_DATA   a file is missing, damaged, too short or too long, or holds a label out of range: the
 *                text names the file, what was found, what was expected and what to do
 * DML_ERR_NOMEM  the split does not fit into memory
 */
dml_err dml_idx_load(const char *folder, bool test_split, bool images, bool labels, int32_t classes,
                     dml_idx *out);

/* Leaves {0}. */
void dml_idx_free(dml_idx *idx);

#endif
