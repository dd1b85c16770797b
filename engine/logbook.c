/* engine/logbook.c - two halves in a memfd, and a count that says which of them is whole. */
#include "engine/logbook.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct dml_logbook_page {
    int64_t bytes;            /* of a half */
    uintptr_t anchor[2];      /* where `anchor` lay in the process that wrote the half */
    _Atomic uint32_t notes;   /* so far; the newest lies in half notes % 2 */
    _Atomic uint32_t expects; /* 1 + notes when `expected` was written: no note has come since */
    dml_report expected;
    _Alignas(64) char half[]; /* [2][bytes] */
} dml_logbook_page;

static const char anchor[] = "anchor";

static int64_t page_bytes(int64_t half_bytes)
{
    return (int64_t)sizeof(dml_logbook_page) + 2 * half_bytes;
}

static dml_err map(int fd, const dml_logbook_part *part, int32_t n_parts, dml_logbook *out)
{
    DML_ASSERT_OP(n_parts, <=, DML_LOGBOOK_PARTS);
    *out = (dml_logbook){.n_parts = n_parts};
    for (int32_t i = 0; i < n_parts; i++) {
        out->part[i] = part[i];
        out->bytes += part[i].bytes;
    }
    void *memory =
        mmap(NULL, (size_t)page_bytes(out->bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) DML_FAIL(DML_ERR_NOMEM, "the agent's logbook: %s", strerror(errno));
    out->page = memory;
    return DML_ERR_OK;
}

dml_err dml_logbook_create(const dml_logbook_part *part, int32_t n_parts, dml_logbook *out, int *fd)
{
    int64_t bytes = 0;
    for (int32_t i = 0; i < n_parts; i++)
        bytes += part[i].bytes;
    *fd = memfd_create("dml-logbook", MFD_CLOEXEC);
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "memfd_create: %s", strerror(errno));
    dml_err err;
    if (ftruncate(*fd, page_bytes(bytes)) != 0)
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "the agent's logbook: %s",
                          strerror(errno));
    else
        err = map(*fd, part, n_parts, out);
    if (err != DML_ERR_OK) {
        close(*fd);
        return err;
    }
    out->page->bytes = bytes;
    return DML_ERR_OK;
}

dml_err dml_logbook_map(int fd, const dml_logbook_part *part, int32_t n_parts, dml_logbook *out)
{
    DML_TRY(map(fd, part, n_parts, out));
    const uint32_t notes = atomic_load(&out->page->notes);
    if (out->page->bytes != out->bytes || notes == 0) {
        dml_logbook_close(out);
        DML_FAIL(DML_ERR_BUG, "the agent before has left no state that this one knows");
    }
    const char *at = out->page->half + notes % 2 * out->bytes;
    out->anchor = out->page->anchor[notes % 2];
    for (int32_t i = 0; i < n_parts; i++) {
        memcpy(part[i].at, at, (size_t)part[i].bytes);
        at += part[i].bytes;
    }
    return DML_ERR_OK;
}

void dml_logbook_close(dml_logbook *b)
{
    if (b->page) munmap(b->page, (size_t)page_bytes(b->bytes));
    *b = (dml_logbook){0};
}

void dml_logbook_note(dml_logbook *b)
{
    if (!b->page) return;
    const uint32_t notes = atomic_load(&b->page->notes) + 1;
    char *at = b->page->half + notes % 2 * b->bytes;
    b->page->anchor[notes % 2] = (uintptr_t)anchor;
    for (int32_t i = 0; i < b->n_parts; i++) {
        memcpy(at, b->part[i].at, (size_t)b->part[i].bytes);
        at += b->part[i].bytes;
    }
    atomic_store(&b->page->notes, notes);
}

void dml_logbook_expect(dml_logbook *b, const dml_report *report)
{
    if (!b->page) return;
    atomic_store(&b->page->expects, 0);
    b->page->expected = *report;
    atomic_store(&b->page->expects, 1 + atomic_load(&b->page->notes));
}

const dml_report *dml_logbook_expected(const dml_logbook *b)
{
    const bool pending = atomic_load(&b->page->expects) == 1 + atomic_load(&b->page->notes);
    return pending ? &b->page->expected : NULL;
}

const char *dml_logbook_text(const dml_logbook *b, const char *noted)
{
    if (!noted) return NULL;
    return (const char *)((uintptr_t)noted - b->anchor + (uintptr_t)anchor);
}
