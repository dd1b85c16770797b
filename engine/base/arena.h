/* base/arena.h - build-time memory: allocate piecemeal, free at once.  Zero-initialised, aligned to
 * 16 bytes.  Nothing allocated here is used as step-time tensor memory (that is one slab per device).
 */
#ifndef DML_BASE_ARENA_H
#define DML_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct dml_arena {
    struct dml_arena_block *head; /* owned */
} dml_arena;

/* An arena starts as {0}; free returns it to {0}. */
void dml_arena_free(dml_arena *arena);

/* `bytes` zeroed bytes, never NULL: out of memory at build time prints and aborts. */
void *dml_arena_alloc(dml_arena *arena, int64_t bytes);

/* A copy of `text` (or of a formatted string) owned by the arena. */
char *dml_arena_strdup(dml_arena *arena, const char *text);
char *dml_arena_printf(dml_arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define DML_NEW(arena, type)      ((type *)dml_arena_alloc((arena), (int64_t)sizeof(type)))
#define DML_NEW_N(arena, type, n) ((type *)dml_arena_alloc((arena), (int64_t)sizeof(type) * (n)))

#endif
