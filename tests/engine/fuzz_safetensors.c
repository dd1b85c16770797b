/* tests/engine/fuzz_safetensors.c - libFuzzer's target: whatever the bytes, the reader answers, and what it accepts is
 * laid out as the format says.
 *
 *   engine.fuzz_safetensors in CTest runs it for a few seconds over the files of tests/golden/safetensors; for longer:
 *   build/tests/engine/fuzz_safetensors -max_total_time=600 CORPUS tests/golden/safetensors
 */
#include "engine/safetensors.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check(const dml_safetensors *st, int64_t n)
{
    int64_t at = 0;
    for (int32_t i = 0; i < st->n; i++) {
        const dml_st_tensor *t = &st->tensor[i];
        if (t->begin != at || t->end < at || dml_st_find(st, t->name) != t) abort();
        at = t->end;
    }
    if (st->data_at + at != n || st->file_bytes != n) abort();
}

/* What was read, written again, is read again as the same. */
static void check_again(dml_safetensors *st, dml_arena *arena)
{
    dml_str header = {0};
    dml_safetensors again;
    const int32_t n = st->n;
    dml_st_layout(st, &header);
    if (dml_st_parse("again", header.text + 8, (int64_t)header.len - 8,
                     st->file_bytes - st->data_at, arena, &again) != DML_ERR_OK)
        abort();
    if (again.n != n) abort();
    for (int32_t i = 0; i < n; i++)
        if (again.tensor[i].end - again.tensor[i].begin !=
            dml_st_find(st, again.tensor[i].name)->end -
                dml_st_find(st, again.tensor[i].name)->begin)
            abort();
    dml_str_free(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    dml_arena arena = {0};
    dml_safetensors st;
    int64_t header;
    unsigned char first[8] = {0};
    memcpy(first, bytes, n < 8 ? n : 8);
    if (dml_st_header_bytes("f", first, (int64_t)n, &header) == DML_ERR_OK &&
        dml_st_parse("f", (const char *)bytes + 8, header, (int64_t)n - 8 - header, &arena, &st) ==
            DML_ERR_OK) {
        check(&st, (int64_t)n);
        check_again(&st, &arena);
    }
    dml_arena_free(&arena);
    return 0;
}
