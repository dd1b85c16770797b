/* base/arena.c - a list of blocks, each twice the last one's size up to 1 MiB. */
#include "engine/base/arena.h"

#include "engine/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dml_arena_block {
    struct dml_arena_block *next;
    int64_t used, size;
    _Alignas(16) unsigned char data[];
};

void dml_arena_free(dml_arena *arena)
{
    while (arena->head) {
        struct dml_arena_block *next = arena->head->next;
        free(arena->head);
        arena->head = next;
    }
}

void *dml_arena_alloc(dml_arena *arena, int64_t bytes)
{
    DML_ASSERT_OP(bytes, >=, 0);
    bytes = (bytes + 15) & ~INT64_C(15);
    struct dml_arena_block *b = arena->head;
    if (!b || b->size - b->used < bytes) {
        int64_t size = b ? b->size * 2 : 4096;
        if (size > 1 << 20) size = 1 << 20;
        if (size < bytes) size = bytes;
        b = calloc(1, sizeof *b + (size_t)size);
        if (!b) dml_assert_failed("out of memory while building", bytes, 0, __FILE__, __LINE__);
        b->size = size;
        b->next = arena->head;
        arena->head = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

char *dml_arena_strdup(dml_arena *arena, const char *text)
{
    const size_t n = strlen(text) + 1;
    return memcpy(dml_arena_alloc(arena, (int64_t)n), text, n);
}

char *dml_arena_printf(dml_arena *arena, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = dml_arena_alloc(arena, n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}
