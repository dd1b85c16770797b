/* engine/base/link.c - one link of a transfer, the slowest of a ring. */
#include "engine/base/link.h"

static int32_t number_of(const dml_links *links, int32_t worker)
{
    return links->stride > 0 ? links->first + worker * links->stride : worker;
}

const dml_link *dml_links_between(const dml_links *links, int32_t a, int32_t b)
{
    const int32_t x = number_of(links, a), y = number_of(links, b);
    for (int32_t i = 0; i < links->levels; i++) {
        const dml_link_level *l = &links->level[i];
        if (x / l->workers == y / l->workers) return &l->link;
    }
    return &links->outer;
}

static bool is_free(const dml_link *link)
{
    return link->latency_ns <= 0 && !(link->bytes_per_s > 0);
}

bool dml_links_are_free(const dml_links *links)
{
    for (int32_t i = 0; i < links->levels; i++)
        if (!is_free(&links->level[i].link)) return false;
    return is_free(&links->outer);
}

int64_t dml_link_busy_ns(const dml_link *link, double bytes)
{
    return link->bytes_per_s > 0 ? (int64_t)(bytes / link->bytes_per_s * 1e9) : 0;
}

int64_t dml_link_ns(const dml_link *link, double bytes)
{
    return link->latency_ns + dml_link_busy_ns(link, bytes);
}

/* Rails that the ring has where it leaves members[i]'s block: one for each member that stands there before it. */
static int32_t shared(const dml_links *links, const int32_t *members, int32_t i)
{
    if (links->levels == 0 || links->rails < 2) return 1;
    const int32_t workers = links->level[0].workers, block = number_of(links, members[i]) / workers;
    int32_t n = 1;
    while (n < links->rails && i >= n && number_of(links, members[i - n]) / workers == block)
        n++;
    return n;
}

int64_t dml_links_ring_ns(const dml_links *links, const int32_t *members, int32_t n, int64_t steps,
                          double bytes)
{
    int64_t slowest_ns = 0;
    for (int32_t i = 0; i < n && n > 1; i++) {
        const dml_link *link = dml_links_between(links, members[i], members[(i + 1) % n]);
        const bool within = links->levels > 0 && link == &links->level[0].link;
        const double each = bytes * (double)steps / n / (within ? 1 : shared(links, members, i));
        const int64_t ns = dml_link_busy_ns(link, each) + steps * link->latency_ns;
        if (ns > slowest_ns) slowest_ns = ns;
    }
    return slowest_ns;
}
