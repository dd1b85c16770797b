/* engine/placement_space.c - which sets of devices may stand before which.
 *
 *   sets         state (S, D): the stages to the end stand on S, the first of them on D.  Edges: D before every (S - D, D')
 *   classes      state S as counts of devices of each speed and memory; with one level of links D does not matter
 *   contiguous   state (a, l): on devices a .. N - 1, the first stage spans level l.  Stages of [a, b) before that at b:
 *                the outermost level between two neighbouring ranges is that between a and b, or that within the next
 */
#include "engine/placement_impl.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum {
    MOST_IN_SETS = 8,
    MOST_EDGES = 4 << 20, /* of classes */
    MOST_FREE = 128,      /* devices whose ranges begin and end anywhere */
    BLOCKS = 512          /* where links have no blocks */
};

/* Grows by doubling in the arena. */
typedef struct list {
    void *v;
    int64_t n, room;
} list;

static void *append(list *l, int64_t size, dml_arena *arena)
{
    if (l->n == l->room) {
        const int64_t room = MAX2(2 * l->room, 1024);
        char *v = dml_arena_alloc(arena, room * size);
        if (l->n > 0) memcpy(v, l->v, (size_t)(l->n * size));
        l->v = v;
        l->room = room;
    }
    return (char *)l->v + l->n++ * size;
}

typedef struct builder {
    const dml_placement_table *t;
    dml_placement_space *space;
    dml_arena *arena;
    list edges, sets;
    int32_t *speed; /* [states] of all its devices; -1: of several; -2: there are none */
} builder;

static void begin_states(builder *b, int32_t n)
{
    b->space->n_states = n;
    b->space->used = DML_NEW_N(b->arena, int32_t, n);
    b->space->first = DML_NEW_N(b->arena, int64_t, n + 1);
    b->speed = DML_NEW_N(b->arena, int32_t, n);
    b->speed[0] = -2;
}

static int32_t add_set(builder *b, dml_placement_set set)
{
    *(dml_placement_set *)append(&b->sets, sizeof set, b->arena) = set;
    return (int32_t)b->sets.n - 1;
}

/* The set of these devices, with the key that finds them again. */
static int32_t add_devices(builder *b, const int32_t *device, int32_t n, int64_t key)
{
    dml_placement_set set = dml_placement_set_of(b->t, device, n, b->arena);
    set.key = key;
    return add_set(b, set);
}

/* States in turn; edges belong to the one begun last. */
static void begin_state(builder *b, int32_t state)
{
    b->space->first[state] = b->space->first[state + 1] = b->edges.n;
}

/* Nothing where the set has more devices than there are micro-batches. */
static void add_edge(builder *b, int32_t state, int32_t set, int32_t next, int32_t level)
{
    const dml_placement_set *devices = (const dml_placement_set *)b->sets.v + set;
    const int32_t speed = devices->speed, behind = b->speed[next];
    if (devices->n > b->t->p->mbs) return;
    const bool mixed = speed < 0 || (behind != -2 && behind != speed);
    *(dml_placement_edge *)append(&b->edges, sizeof(dml_placement_edge), b->arena) =
        (dml_placement_edge){set, next, (int8_t)level, mixed};
    b->speed[state] = mixed ? -1 : speed;
    b->space->used[state] = b->space->used[next] + devices->n;
    b->space->first[state + 1] = b->edges.n;
}

/* ---- sets ---- */

static int32_t members(uint32_t mask, int32_t *out)
{
    int32_t n = 0;
    for (int32_t d = 0; mask >> d; d++)
        if (mask >> d & 1) out[n++] = d;
    return n;
}

static void build_sets(builder *b)
{
    const int32_t all = 1 << b->t->p->n_devices;
    int32_t device[MOST_IN_SETS], states = 1;
    int32_t *state = DML_NEW_N(b->arena, int32_t, (int64_t)all * all); /* of (S, D) */
    int32_t *set = DML_NEW_N(b->arena, int32_t, all);
    for (int32_t s = 1; s < all; s++) {
        set[s] = add_devices(b, device, members((uint32_t)s, device), s);
        for (int32_t d = s; d > 0; d = (d - 1) & s)
            state[s * all + d] = states++;
    }
    begin_states(b, states);
    for (int32_t s = 1; s < all; s++)
        for (int32_t d = s; d > 0; d = (d - 1) & s) {
            const int32_t rest = s & ~d;
            begin_state(b, state[s * all + d]);
            if (rest == 0) add_edge(b, state[s * all + d], set[d], 0, 0);
            for (int32_t e = rest; e > 0; e = (e - 1) & rest)
                add_edge(b, state[s * all + d], set[d], state[rest * all + e],
                         ((dml_placement_set *)b->sets.v)[set[d | e]].level);
        }
}

/* ---- classes ---- */

static int32_t find_classes(const dml_placement_table *t, int32_t *class_of, int32_t *count)
{
    const dml_placement_device *device = t->p->device;
    int32_t n = 0;
    for (int32_t d = 0; d < t->p->n_devices; d++) {
        class_of[d] = n;
        for (int32_t e = 0; e < d && class_of[d] == n; e++)
            if (device[e].speed == device[d].speed &&
                device[e].memory_bytes == device[d].memory_bytes)
                class_of[d] = class_of[e];
        if (class_of[d] == n) count[n++] = 0;
        count[class_of[d]]++;
    }
    return n;
}

/* Devices of the set whose counts, digits of a number to the bases count + 1, are `key`. */
static int32_t of_counts(const int32_t *class_of, int32_t n_devices, const int32_t *count,
                         int32_t n_classes, int64_t key, const bool *taken, int32_t *out)
{
    int32_t n = 0;
    for (int32_t c = 0; c < n_classes; c++) {
        int32_t left = (int32_t)(key % (count[c] + 1));
        key /= count[c] + 1;
        for (int32_t d = 0; d < n_devices && left > 0; d++) {
            if (class_of[d] != c || (taken && taken[d])) continue;
            out[n++] = d;
            left--;
        }
    }
    for (int32_t i = 1; i < n; i++) /* ascending */
        for (int32_t j = i; j > 0 && out[j] < out[j - 1]; j--) {
            const int32_t swap = out[j];
            out[j] = out[j - 1];
            out[j - 1] = swap;
        }
    return n;
}

/* Whether every digit of d is at most that of s. */
static bool within(const int32_t *count, int32_t n_classes, int32_t d, int32_t s)
{
    for (int32_t c = 0; c < n_classes; c++) {
        const int32_t base = count[c] + 1;
        if (d % base > s % base) return false;
        d /= base;
        s /= base;
    }
    return true;
}

/* Only so many that there are few edges. */
static bool few_classes(const int32_t *count, int32_t n)
{
    double edges = 1.0;
    for (int32_t c = 0; c < n; c++)
        edges *= (count[c] + 1.0) * (count[c] + 2.0) / 2.0;
    return edges <= MOST_EDGES;
}

static bool build_classes(builder *b)
{
    const int32_t devices = b->t->p->n_devices;
    int32_t *count = DML_NEW_N(b->arena, int32_t, devices),
            *device = DML_NEW_N(b->arena, int32_t, devices), states = 1;
    b->space->class_of = DML_NEW_N(b->arena, int32_t, devices);
    b->space->n_classes = find_classes(b->t, b->space->class_of, count);
    if (!few_classes(count, b->space->n_classes)) return false;
    for (int32_t c = 0; c < b->space->n_classes; c++)
        states *= count[c] + 1;
    begin_states(b, states);
    for (int32_t s = 1; s < states; s++) {
        const int32_t n =
            of_counts(b->space->class_of, devices, count, b->space->n_classes, s, NULL, device);
        add_devices(b, device, n, s); /* set s - 1 */
        begin_state(b, s);
        for (int32_t d = 1; d <= s; d++)
            if (within(count, b->space->n_classes, d, s)) add_edge(b, s, d - 1, s - d, 0);
    }
    return true;
}

/* ---- contiguous ---- */

static int32_t span(const dml_placement_problem *p, int32_t a, int32_t end)
{
    return end - a > 1 ? dml_placement_level(p, a, end - 1) : 0;
}

/* Whether a stage may stand on devices [a, end). */
static bool may_stand(const dml_placement_problem *p, int32_t a, int32_t end)
{
    const int32_t n = p->n_devices;
    if (n <= MOST_FREE) return true;
    int32_t block = p->links.levels > 0 ? p->links.level[0].workers : (n + BLOCKS - 1) / BLOCKS;
    return a / block == (end - 1) / block || (a % block == 0 && (end % block == 0 || end == n));
}

static int32_t add_range(builder *b, int32_t a, int32_t end, const int32_t *all)
{
    const dml_placement_problem *p = b->t->p;
    if (b->space->n_classes > 1) return add_devices(b, all + a, end - a, a);
    dml_placement_kind *kind = DML_NEW(b->arena, dml_placement_kind); /* all are alike */
    *kind = (dml_placement_kind){0, (p->mbs + end - a - 1) / (end - a), p->device[0].memory_bytes};
    return add_set(
        b, (dml_placement_set){
               .n = end - a, .level = span(p, a, end), .n_kinds = 1, .kind = kind, .key = a});
}

static void build_contiguous(builder *b)
{
    const dml_placement_problem *p = b->t->p;
    const int32_t n = p->n_devices, links = b->t->n_links;
    int32_t *all = DML_NEW_N(b->arena, int32_t, n);
    for (int32_t d = 0; d < n; d++)
        all[d] = d;
    begin_states(b, 1 + n * links);
    for (int32_t a = n - 1; a >= 0; a--)
        for (int32_t l = 0; l < links; l++) {
            const int32_t state = 1 + (n - 1 - a) * links + l;
            begin_state(b, state);
            for (int32_t end = a + 1; end <= n && end - a <= p->mbs; end++) {
                if (!may_stand(p, a, end) || span(p, a, end) != l) continue;
                const int32_t set = add_range(b, a, end, all);
                if (end == n) add_edge(b, state, set, 0, 0);
                for (int32_t k = 0; end < n && k < links; k++)
                    add_edge(b, state, set, 1 + (n - 1 - end) * links + k,
                             MAX2(dml_placement_level(p, a, end), k));
            }
        }
}

/* ---- any ---- */

dml_placement_space dml_placement_space_of(const dml_placement_table *t, dml_arena *arena)
{
    dml_placement_space space = {.how = DML_PLACEMENT_CONTIGUOUS};
    builder b = {.t = t, .space = &space, .arena = arena};
    if (t->n_links == 1 && build_classes(&b)) {
        space.how = DML_PLACEMENT_CLASSES;
    } else if (t->n_links > 1 && t->p->n_devices <= MOST_IN_SETS) {
        space.how = DML_PLACEMENT_SETS;
        build_sets(&b);
    } else {
        int32_t *count = DML_NEW_N(arena, int32_t, t->p->n_devices);
        space.class_of = DML_NEW_N(arena, int32_t, t->p->n_devices);
        space.n_classes = find_classes(t, space.class_of, count);
        build_contiguous(&b);
    }
    space.edge = b.edges.v;
    space.set = b.sets.v;
    return space;
}

void dml_placement_devices(const dml_placement_table *t, const dml_placement_space *space,
                           const dml_placement_set *set, bool *taken, int32_t *out)
{
    const int32_t n = t->p->n_devices;
    dml_arena arena = {0};
    int32_t *count = DML_NEW_N(&arena, int32_t, n);
    switch (space->how) {
    case DML_PLACEMENT_SETS: members((uint32_t)set->key, out); break;
    case DML_PLACEMENT_CLASSES:
        for (int32_t d = 0; d < n; d++)
            count[space->class_of[d]]++;
        of_counts(space->class_of, n, count, space->n_classes, set->key, taken, out);
        break;
    case DML_PLACEMENT_CONTIGUOUS:
        for (int32_t i = 0; i < set->n; i++)
            out[i] = (int32_t)set->key + i;
        break;
    }
    for (int32_t i = 0; i < set->n; i++)
        taken[out[i]] = true;
    dml_arena_free(&arena);
}
