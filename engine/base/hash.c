/* base/hash.c - XXH3 from xxhash. */
#include "engine/base/hash.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t dml_hash(const void *bytes, int64_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, (size_t)n_bytes, seed);
}

uint64_t dml_hash_text(const char *text)
{
    return dml_hash(text, (int64_t)strlen(text), 0);
}
