/* comm/local.c - ranks are threads of one process; a segment is plain memory that the hub holds.
 *
 * The same algorithms as between processes run where one debugger and one race detector see them all.
 * Memory stays in the hub when its rank closes: a sender that has not noticed may still be copying.
 */
#include "comm/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct local_segment {
    dml_segment *header; /* owned */
    char *memory;        /* owned mapping of `bytes`, NULL before the first open */
    int64_t bytes;
} local_segment;

struct dml_local_hub {
    int32_t world;
    local_segment segment[]; /* [world] */
};

dml_err dml_local_hub_new(int32_t world, dml_local_hub **out)
{
    if (world < 1) DML_FAIL(DML_ERR_BUG, "a hub for %d ranks", world);
    dml_local_hub *hub = calloc(1, sizeof *hub + (size_t)world * sizeof *hub->segment);
    if (!hub) DML_FAIL(DML_ERR_NOMEM, "no memory for a hub of %d ranks", world);
    hub->world = world;
    const size_t bytes = (size_t)dml_segment_bytes(world);
    for (int32_t r = 0; r < world; r++) {
        hub->segment[r].header = aligned_alloc(DML_LINE_BYTES, bytes);
        if (!hub->segment[r].header) {
            dml_local_hub_free(hub);
            DML_FAIL(DML_ERR_NOMEM, "no memory for the hub's segment %d of %d", r, world);
        }
        memset(hub->segment[r].header, 0, bytes);
    }
    *out = hub;
    return DML_ERR_OK;
}

void dml_local_hub_free(dml_local_hub *hub)
{
    if (!hub) return;
    for (int32_t r = 0; r < hub->world; r++) {
        free(hub->segment[r].header);
        if (hub->segment[r].memory) munmap(hub->segment[r].memory, (size_t)hub->segment[r].bytes);
    }
    free(hub);
}

static dml_err local_header(const dml_transport_config *config, int32_t rank, dml_segment **out)
{
    const dml_local_hub *hub = config->hub;
    *out = hub->segment[rank].header;
    return DML_ERR_OK;
}

static dml_err local_own(const dml_transport_config *config, int64_t bytes, char **out)
{
    dml_local_hub *hub = config->hub;
    local_segment *own = &hub->segment[config->rank];
    if (own->memory) munmap(own->memory, (size_t)own->bytes);
    own->bytes = bytes;
    own->memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (own->memory == MAP_FAILED) {
        own->memory = NULL;
        DML_FAIL(DML_ERR_NOMEM, "cannot map %lld bytes for worker %d: %s", (long long)bytes,
                 config->rank, strerror(errno));
    }
    *out = own->memory;
    return DML_ERR_OK;
}

static dml_err local_peer(const dml_transport_config *config, int32_t rank, int64_t bytes,
                          char **out)
{
    const dml_local_hub *hub = config->hub;
    DML_ASSERT_OP(hub->segment[rank].bytes, ==, bytes);
    *out = hub->segment[rank].memory;
    return DML_ERR_OK;
}

static void local_unmap(void *base, int64_t bytes)
{
    (void)base, (void)bytes; /* the hub's */
}

static const dml_mapper mapper = {
    .header = local_header, .own = local_own, .peer = local_peer, .unmap = local_unmap};

static dml_err local_open(const dml_transport_config *config, dml_device *device,
                          dml_transport **out)
{
    (void)device;
    const dml_local_hub *hub = config->hub;
    if (!hub || hub->world != config->world)
        DML_FAIL(DML_ERR_BUG, "the local transport needs a hub of %d ranks", config->world);
    return dml_host_open(config, &mapper, out);
}

const dml_transport_api dml_local_transport = {
    .name = "local",
    .doc = "threads of one process",
    .open = local_open,
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
