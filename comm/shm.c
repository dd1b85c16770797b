/* comm/shm.c - ranks are processes of one host; a segment is a memfd that each of them maps.
 *
 * The parent makes the memfds and passes them by descriptor, so a segment has no name: when the last
 * process that maps it is gone, however it went, the kernel frees it.  Pages nobody touched cost
 * nothing (MAP_NORESERVE, no preallocation).
 *
 *   file of rank r   [0, header) dml_segment   [header, header + bytes) memory
 */
#include "comm/host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static dml_err map(int fd, int64_t at, int64_t bytes, int32_t rank, void **out)
{
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                      (off_t)at);
    if (base == MAP_FAILED)
        DML_FAIL(DML_ERR_NOMEM, "cannot map %lld bytes of worker %d's segment: %s",
                 (long long)bytes, rank, strerror(errno));
    *out = base;
    return DML_ERR_OK;
}

/* Whoever comes first gives the file its header; fallocate only ever makes a file longer. */
static dml_err shm_header(const dml_transport_config *config, int32_t rank, dml_segment **out)
{
    const int64_t bytes = dml_segment_bytes(config->world);
    const int fd = config->fds[rank];
    if (fallocate(fd, 0, 0, (off_t)bytes) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot size the header of worker %d's segment (fd %d): %s",
                 rank, fd, strerror(errno));
    void *base = NULL;
    DML_TRY(map(fd, 0, bytes, rank, &base));
    *out = base;
    return DML_ERR_OK;
}

static dml_err shm_own(const dml_transport_config *config, int64_t bytes, char **out)
{
    const int64_t at = dml_segment_bytes(config->world);
    const int fd = config->fds[config->rank];
    /* Cut to the header, then lengthen: what comes back are zero pages. */
    if (ftruncate(fd, (off_t)at) != 0 || ftruncate(fd, (off_t)(at + bytes)) != 0)
        DML_FAIL(DML_ERR_NOMEM, "cannot size worker %d's segment to %lld bytes: %s", config->rank,
                 (long long)(at + bytes), strerror(errno));
    void *base = NULL;
    DML_TRY(map(fd, at, bytes, config->rank, &base));
    *out = base;
    return DML_ERR_OK;
}

static dml_err shm_peer(const dml_transport_config *config, int32_t rank, int64_t bytes, char **out)
{
    void *base = NULL;
    DML_TRY(map(config->fds[rank], dml_segment_bytes(config->world), bytes, rank, &base));
    *out = base;
    return DML_ERR_OK;
}

static void shm_unmap(void *base, int64_t bytes)
{
    munmap(base, (size_t)bytes);
}

static const dml_mapper mapper = {
    .header = shm_header, .own = shm_own, .peer = shm_peer, .unmap = shm_unmap};

static dml_err shm_open_transport(const dml_transport_config *config, dml_device *device,
                                  dml_transport **out)
{
    (void)device;
    if (!config->fds) DML_FAIL(DML_ERR_BUG, "the shm transport needs a memfd per rank");
    return dml_host_open(config, &mapper, out);
}

const dml_transport_api dml_shm_transport = {
    .name = "shm",
    .doc = "processes of one host, through shared memory",
    .open = shm_open_transport,
    .close = dml_host_close,
    .alloc = dml_host_alloc,
    .meet = dml_host_meet,
    .send = dml_host_send,
    .recv = dml_host_recv,
    .send_met_ns = dml_host_send_met_ns,
    .recv_met_ns = dml_host_recv_met_ns,
    .call_met_ns = dml_host_call_met_ns,
    .group_open = dml_host_group_open,
    .group_close = dml_host_group_close,
    .all_reduce = dml_host_all_reduce,
    .post = dml_host_post,
    .collect = dml_host_collect,
    .all_gather = dml_host_all_gather,
    .reduce_scatter = dml_host_reduce_scatter,
};
