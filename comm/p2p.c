/* comm/p2p.c - send and receive: a rendezvous in the receiver's segment, one copy.
 *
 *   receiver                              sender
 *   post (offset, bytes, tag), posted=k   waits for posted = k
 *   waits for sent = k                    copies src straight into the receiver's buffer, sent=k
 *
 * With emulated links the transfer begins when both are there, keeps the sender's lane busy for
 * bytes / bytes_per_s and arrives latency_ns later, when the receive returns.  One queue at a time
 * sends to a peer and one receives from it, so a pair has one post in flight.
 */
#include "comm/host.h"

#include "engine/base/clock.h"

#include <string.h>

static dml_err check_peer(const dml_transport *t, int32_t peer, int64_t bytes)
{
    if (peer < 0 || peer >= t->config.world || peer == t->config.rank || bytes < 0)
        DML_FAIL(DML_ERR_BUG, "worker %d of %d exchanges %lld bytes with worker %d", t->config.rank,
                 t->config.world, (long long)bytes, peer);
    if (!t->peer[peer].met)
        DML_FAIL(DML_ERR_BUG,
                 "workers %d and %d exchange %lld bytes, but no pair of `meet` has both",
                 t->config.rank, peer, (long long)bytes);
    return DML_ERR_OK;
}

static dml_err mismatch(int32_t from, int32_t to, uint32_t k, const dml_channel *p)
{
    DML_FAIL(
        DML_ERR_BUG,
        "transfer %u from worker %d to worker %d: it sends %lld bytes with tag %u, the receive "
        "is for %lld bytes with tag %u",
        k, from, to, (long long)p->sent_bytes, p->sent_tag, (long long)p->post_bytes, p->post_tag);
}

dml_err dml_host_send(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                      int64_t bytes, uint32_t tag)
{
    (void)queue;
    DML_TRY(check_peer(t, peer, bytes));
    dml_peer *to = &t->peer[peer];
    dml_channel *p = &to->segment->pair[t->config.rank];
    const uint32_t k = ++to->sends;
    DML_TRY(dml_host_wait(t, &p->posted, k, "worker %d's post of receive %u", peer, k));
    if (p->post_epoch != t->config.epoch) /* and not a word of it is touched */
        DML_FAIL(DML_ERR_PEER, "refused: worker %d posts at epoch %u, worker %d sends at %u", peer,
                 p->post_epoch, t->config.rank, t->config.epoch);

    const dml_link *link = dml_links_between(&t->config.links, t->config.rank, peer);
    const int64_t begin_ns = dml_clock_ns();
    const int64_t busy_ns = dml_link_busy_ns(link, (double)bytes);
    const bool agree = p->post_bytes == bytes && p->post_tag == tag;
    if (agree && bytes > 0) {
        DML_ASSERT_OP(p->post_offset + bytes, <=, to->bytes);
        memcpy(to->memory + p->post_offset, src, (size_t)bytes);
    }
    p->sent_bytes = bytes;
    p->sent_tag = tag;
    p->met_ns = to->sent_ns = begin_ns;
    p->arrival_ns = begin_ns + busy_ns + link->latency_ns;
    if (!agree) mismatch(t->config.rank, peer, k, p); /* while the fields are still ours to read */
    dml_wait_set(&p->sent, k);
    if (!agree) return dml_err_add(DML_ERR_BUG, __func__, __FILE__, __LINE__);
    return busy_ns > 0 ? dml_host_sleep(t, begin_ns + busy_ns, "a send") : DML_ERR_OK;
}

dml_err dml_host_recv(dml_transport *t, dml_queue *queue, int32_t peer, void *dst, int64_t bytes,
                      uint32_t tag)
{
    (void)queue;
    DML_TRY(check_peer(t, peer, bytes));
    dml_peer *from = &t->peer[peer];
    dml_channel *p = &t->peer[t->config.rank].segment->pair[peer];
    int64_t offset;
    DML_TRY(dml_host_offset(t, dst, bytes, "a receive", &offset));
    const uint32_t k = ++from->receives;
    p->post_epoch = t->config.epoch;
    p->post_tag = tag;
    p->post_offset = offset;
    p->post_bytes = bytes;
    dml_wait_set(&p->posted, k);
    DML_TRY(dml_host_wait(t, &p->sent, k, "worker %d's send %u", peer, k));
    if (p->sent_bytes != bytes || p->sent_tag != tag) return mismatch(peer, t->config.rank, k, p);
    return t->emulates ? dml_host_sleep(t, p->arrival_ns, "a receive") : DML_ERR_OK;
}

int64_t dml_host_send_met_ns(const dml_transport *t, int32_t peer)
{
    return t->peer[peer].sent_ns;
}

int64_t dml_host_recv_met_ns(const dml_transport *t, int32_t peer)
{
    return t->peer[t->config.rank].segment->pair[peer].met_ns;
}
