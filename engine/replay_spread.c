/* engine/replay_spread.c - which worker changes its role, so that every stage bears its share of the losses. */
#include "engine/replay_impl.h"

enum { NOBODY = -1 };

/* The next worker of the rank that is lost, or is not, and keeps its own place. */
static int32_t next_of(int32_t rank, int32_t replicas, uint64_t lost, bool is_lost,
                       const int32_t *place)
{
    for (int32_t w = rank * replicas; w < (rank + 1) * replicas; w++)
        if ((lost >> w & 1) == is_lost && place[w] == w) return w;
    return NOBODY;
}

/* Losses each rank should have: as even as can be, the greater numbers where there are most already. */
static void deal(int32_t ranks, const int32_t *had, int32_t n, int32_t *target)
{
    for (int32_t r = 0; r < ranks; r++)
        target[r] = n / ranks;
    for (int32_t k = 0; k < n % ranks; k++) {
        int32_t most = NOBODY;
        for (int32_t r = 0; r < ranks; r++)
            if (target[r] == n / ranks && (most == NOBODY || had[r] > had[most])) most = r;
        target[most]++;
    }
}

uint64_t dml_replay_spread(int32_t ranks, int32_t replicas, uint64_t lost, int32_t *place)
{
    int32_t had[DML_OUTAGE_WORKERS] = {0}, target[DML_OUTAGE_WORKERS];
    uint64_t places = 0;
    for (int32_t w = 0; w < ranks * replicas; w++) {
        place[w] = w;
        had[w / replicas] += (int32_t)(lost >> w & 1);
    }
    deal(ranks, had, __builtin_popcountll(lost), target);
    for (int32_t from = 0, to = 0; from < ranks; from++)
        for (; had[from] > target[from]; had[from]--, had[to]++) {
            while (had[to] >= target[to])
                to++;
            const int32_t gone = next_of(from, replicas, lost, true, place),
                          moves = next_of(to, replicas, lost, false, place);
            place[gone] = moves;
            place[moves] = gone;
        }
    for (int32_t w = 0; w < ranks * replicas; w++)
        if (lost >> w & 1) places |= (uint64_t)1 << place[w];
    return places;
}
