/* comm/nccl/id_page.h - what ranks tell each other before they can talk: a page of shared memory each.
 *
 * A communicator starts from a unique id that one rank makes and all must know.  That rank publishes it in
 * its page, the others wait for it there:
 *
 *   word     even: id, epoch and group may be read; odd: they are being written; advances by 2 a publication
 *   opened   epoch + 1 of the transport that its owner has opened last
 *   stopped  epoch + 1 of the transport that has stopped moving data
 *
 * Opening a communicator is collective, so a rank has at most one id published at a time and takes it
 * back when all have joined.  Epochs only grow, and who meets a later one is itself late and is refused; so a
 * page serves one epoch after another, whatever its owner was doing when the one before ended.
 */
#ifndef DML_COMM_NCCL_ID_PAGE_H
#define DML_COMM_NCCL_ID_PAGE_H

#include "engine/base/wait.h"

enum { DML_ID_BYTES = 128, DML_ID_PAGE_BYTES = 4096 };

typedef struct dml_id_page {
    _Atomic uint32_t word;
    uint32_t epoch;
    uint64_t group;
    char id[DML_ID_BYTES];
    _Atomic uint32_t opened, stopped;
} dml_id_page;

/* Maps the page behind a memfd, growing it if nobody has yet.  DML_ERR_UNAVAILABLE  it cannot be mapped */
dml_err dml_id_page_open(int fd, dml_id_page **out);
void dml_id_page_close(dml_id_page *page); /* NULL is fine */

void dml_id_publish(dml_id_page *page, uint32_t epoch, uint64_t group, const char id[DML_ID_BYTES]);
void dml_id_withdraw(dml_id_page *page);

/* Waits until the owner of `page`, rank `owner`, publishes the id of (epoch, group).
 * DML_ERR_PEER  deadline, abort, or the owner is at a later epoch already */
dml_err dml_id_await(dml_id_page *page, int32_t owner, uint32_t epoch, uint64_t group,
                     int64_t deadline_ns, const dml_abort *abort, char id[DML_ID_BYTES]);

/* In what follows a page that is NULL is that of a rank which is absent: nobody waits for it. */

/* Says that `rank` has opened `epoch`, and returns when all `n` ranks have.
 * DML_ERR_PEER  deadline, abort, or one of them is at a later epoch already */
dml_err dml_id_meet(dml_id_page *const *pages, int32_t n, int32_t rank, uint32_t epoch,
                    int64_t deadline_ns, const dml_abort *abort);

/* Says that `rank` moves no data of `epoch` any more, and returns when all others say so or, some being dead, at
 * the deadline. */
void dml_id_stop(dml_id_page *const *pages, int32_t n, int32_t rank, uint32_t epoch,
                 int64_t deadline_ns);

/* Some rank has said so. */
bool dml_id_is_stopped(dml_id_page *const *pages, int32_t n, uint32_t epoch);

#endif
