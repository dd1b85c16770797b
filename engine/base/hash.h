/* base/hash.h - 64-bit hashes (XXH3, a fixed format: equal on every machine and version). */
#ifndef DML_BASE_HASH_H
#define DML_BASE_HASH_H

#include <stdint.h>

uint64_t dml_hash(const void *bytes, int64_t n_bytes, uint64_t seed);
uint64_t dml_hash_text(const char *text);

#endif
