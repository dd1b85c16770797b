/* comm/nccl/id_page.c - a sequence lock with a futex for a word. */
#include "comm/nccl/id_page.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t NOBODY = UINT64_MAX;

dml_err dml_id_page_open(int fd, dml_id_page **out)
{
    struct stat s;
    if (fstat(fd, &s) != 0 ||
        (s.st_size < DML_ID_PAGE_BYTES && ftruncate(fd, DML_ID_PAGE_BYTES) != 0))
        DML_FAIL(DML_ERR_UNAVAILABLE, "descriptor %d is no memory file: %s", fd, strerror(errno));
    void *at = mmap(NULL, DML_ID_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot map descriptor %d: %s", fd, strerror(errno));
    *out = at;
    return DML_ERR_OK;
}

void dml_id_page_close(dml_id_page *page)
{
    if (page) munmap(page, DML_ID_PAGE_BYTES);
}

static void put(dml_id_page *page, uint32_t epoch, uint64_t group, const char *id)
{
    /* Odd, before what follows; it is odd already if an owner died at this point in an earlier epoch. */
    atomic_fetch_or_explicit(&page->word, 1, memory_order_acq_rel);
    page->epoch = epoch;
    page->group = group;
    memcpy(page->id, id, DML_ID_BYTES);
    dml_wait_advance(&page->word);
}

void dml_id_publish(dml_id_page *page, uint32_t epoch, uint64_t group, const char id[DML_ID_BYTES])
{
    put(page, epoch, group, id);
}

void dml_id_withdraw(dml_id_page *page)
{
    static const char none[DML_ID_BYTES];
    put(page, page->epoch, NOBODY, none);
}

dml_err dml_id_await(dml_id_page *page, int32_t owner, uint32_t epoch, uint64_t group,
                     int64_t deadline_ns, const dml_abort *abort, char id[DML_ID_BYTES])
{
    char what[64];
    snprintf(what, sizeof what, "worker %d's communicator id", owner);
    for (;;) {
        const uint32_t word = atomic_load_explicit(&page->word, memory_order_acquire);
        if (word != 0 && word % 2 == 0) {
            const uint32_t at_epoch = page->epoch;
            const uint64_t at_group = page->group;
            memcpy(id, page->id, DML_ID_BYTES);
            /* A read that writes the same back: what was read above stays above. */
            if (atomic_fetch_or_explicit(&page->word, 0, memory_order_acq_rel) != word) continue;
            if (dml_seq_reached(at_epoch, epoch + 1))
                DML_FAIL(DML_ERR_PEER, "worker %d is at membership epoch %u, this one at %u", owner,
                         at_epoch, epoch);
            if (at_epoch == epoch && at_group == group) return DML_ERR_OK;
        }
        DML_TRY(dml_wait_reached(&page->word, word + 1, deadline_ns, abort, what));
    }
}

dml_err dml_id_meet(dml_id_page *const *pages, int32_t n, int32_t rank, uint32_t epoch,
                    int64_t deadline_ns, const dml_abort *abort)
{
    dml_wait_set(&pages[rank]->opened, epoch + 1);
    for (int32_t r = 0; r < n; r++) {
        if (!pages[r]) continue;
        char what[64];
        snprintf(what, sizeof what, "worker %d to open epoch %u", r, epoch);
        DML_TRY(dml_wait_reached(&pages[r]->opened, epoch + 1, deadline_ns, abort, what));
        const uint32_t theirs = atomic_load_explicit(&pages[r]->opened, memory_order_acquire) - 1;
        if (theirs != epoch)
            DML_FAIL(DML_ERR_PEER, "refused: worker %d is at epoch %u, worker %d still at %u", r,
                     theirs, rank, epoch);
    }
    return DML_ERR_OK;
}

void dml_id_stop(dml_id_page *const *pages, int32_t n, int32_t rank, uint32_t epoch,
                 int64_t deadline_ns)
{
    dml_wait_set(&pages[rank]->stopped, epoch + 1);
    for (int32_t r = 0; r < n; r++)
        if (pages[r] && dml_wait_reached(&pages[r]->stopped, epoch + 1, deadline_ns, NULL,
                                         "peers to stop") != DML_ERR_OK)
            return;
}

bool dml_id_is_stopped(dml_id_page *const *pages, int32_t n, uint32_t epoch)
{
    for (int32_t r = 0; r < n; r++)
        if (pages[r] &&
            dml_seq_reached(atomic_load_explicit(&pages[r]->stopped, memory_order_relaxed),
                            epoch + 1))
            return true;
    return false;
}
