/* engine/base/link.h - what lies between two workers, level by level, and how long it takes.
 *
 *     workers   0 1 2 3 | 4 5 6 7 || 8 9 ...       level 0: blocks of 4 (NVLink in a box)
 *                  level 0   level 1: blocks of 8    outer:   everything else
 *
 * Two workers use the link of the innermost level whose blocks hold both.  Planner and emulation call the same
 * functions, so what is planned is what is emulated.
 *
 * Rails are links side by side between blocks of level 0, such as the network cards of a box: in a ring the members
 * of one block share a border out of it, each on a rail of its own, as NCCL's rings do.
 */
#ifndef DML_BASE_LINK_H
#define DML_BASE_LINK_H

#include <stdbool.h>
#include <stdint.h>

typedef struct dml_link {
    int64_t latency_ns;
    double bytes_per_s; /* 0: bytes take no time */
} dml_link;

/* Of any two workers within one block: w / workers is the same. */
typedef struct dml_link_level {
    int32_t workers;
    dml_link link;
} dml_link_level;

typedef struct dml_links {
    dml_link outer; /* of two that no level joins; with no levels of all */
    int32_t levels;
    const dml_link_level *level; /* [levels] innermost first, workers ascending */
    int32_t rails;               /* 0 as 1 */
    int32_t first,
        stride; /* worker w is number first + w stride of the cluster; stride 0: worker w is w */
} dml_links;

/* Between two workers; borrowed from `links`. */
const dml_link *dml_links_between(const dml_links *links, int32_t a, int32_t b);

/* All zero: every transfer is free. */
bool dml_links_are_free(const dml_links *links);

/* How long `bytes` keep the link busy, and until the last has arrived: latency_ns more. */
int64_t dml_link_busy_ns(const dml_link *link, double bytes);
int64_t dml_link_ns(const dml_link *link, double bytes);

/* Steps of a ring of the n members in this order, each moving bytes / n from every member to the next: all go at the
 * pace of the slowest of its links.  An all-reduce takes 2 (n - 1) steps (Patarasuk and Yuan 2009), an all-gather or a
 * reduce-scatter n - 1:
 *     max over the links of  steps / n bytes / (bytes_per_s shared) + steps latency_ns
 * shared being 1 within a block of level 0, and where the ring leaves one as many members as it has just passed there,
 * or `rails` if those are fewer.
 * With members ascending the ring crosses each border of blocks as seldom as a ring can. */
int64_t dml_links_ring_ns(const dml_links *links, const int32_t *members, int32_t n, int64_t steps,
                          double bytes);

#endif
