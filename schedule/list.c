/* schedule/list.c - a step played forward under a priority; the best of many priorities.
 *
 * An op's score at time t, in ns:
 *
 *   class[kind] unit + tail_share[kind] tail(op) - mb_share unit mb + noise(chunk) unit - wait_share max(0, ready - t)
 *
 * unit is the mean length of an op, tail(op) the time from its begin to the end of its micro-batch when nothing
 * waits.  So one formula spans gpipe (forwards first), 1F1B (backwards first), zero bubble (weight gradients last),
 * depth first and breadth first; wait_share says what idling for a better op is worth.  `depth` bounds the
 * micro-batches between F and the input gradient on a worker by a multiple of those that a round trip takes.
 *
 * Where an order is given as priority, its ops have ranks (schedule/list_rank.h).  They count in the score, less
 * rank_share unit rank / (2 workers), a rank being half an op of the order.  Or a trial is strict: each worker runs
 * its ops by rank and waits for the next, passing over an F only while memory has no room.  Ranks respect the
 * dependencies, so without a limit that ends; with one it may not, and then the trial counts as endless.
 */
#include "schedule/list.h"

#include "engine/base/rng.h"
#include "schedule/list_impl.h"

#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { KINDS = DML_LIST_KINDS, SEED = 1 };
#define NEVER INT64_MAX
typedef enum kind { F = DML_LIST_F, I = DML_LIST_I, W = DML_LIST_W } kind;

typedef struct priority {
    double class[KINDS], tail_share[KINDS];
    double mb_share, wait_share, noise;
    double depth;      /* 0: no bound */
    double rank_share; /* 0 without ranks */
    bool strict;
    uint64_t key; /* of the noise */
} priority;

typedef struct lane {
    int64_t free_ns;
    int32_t in_flight; /* between F and input gradient */
    int32_t *open;     /* [ops of the worker] numbers of ops whose inputs have a time */
    int32_t n_open;
    int32_t best;           /* place in `open` of the next op, -1: none may run */
    int32_t *mine;          /* [n_mine] micro-batches that pass here, ascending */
    int32_t n_mine, newest; /* newest: place in `mine` behind the last that has begun here */
    int32_t *line;          /* [n_line] ops of the worker by rank, where there are ranks */
    int32_t n_line, next;   /* those before `next` have run */
} lane;

typedef struct player {
    dml_list_instance in; /* its arena holds the player's tables, too */
    double *noise;        /* [KINDS][chunks] of the trial */
    lane *lane;           /* [workers] */
    int64_t *start_ns;    /* [workers] of its next op; NEVER: none may run */
    int64_t *ready_ns;    /* [KINDS cells] */
    int32_t *left;        /* [mbs] chunks that it has not left */
    int32_t oldest;       /* micro-batch with chunks left */
    int32_t *order;       /* [ops] op numbers as they start, for all workers */
    int64_t *need,
        *kept; /* [workers][mbs] bytes that the micro-batch will still keep there, and keeps now */
    int32_t *place; /* [workers][mbs] of the micro-batch in its lane's `mine` */
    bool *has_run;  /* [KINDS cells] */
} player;

/* Each worker's ops by rank. */
static void open_lines(player *pl)
{
    if (!pl->in.rank) return;
    const int32_t ops = dml_list_ops(&pl->in);
    int32_t last = 0;
    for (int32_t op = 0; op < ops; op++)
        last = MAX2(last, pl->in.rank[op]);
    int32_t *at = DML_NEW_N(&pl->in.arena, int32_t, last + 1); /* rank -> op + 1 */
    for (int32_t op = 0; op < ops; op++)
        at[pl->in.rank[op]] = op + 1;
    for (int32_t r = 0; r <= last; r++) {
        if (at[r] == 0) continue;
        lane *l = &pl->lane[dml_list_worker_of(&pl->in, at[r] - 1)];
        l->line[l->n_line++] = at[r] - 1;
    }
    pl->has_run = DML_NEW_N(&pl->in.arena, bool, ops);
}

/* Who keeps what, so that a worker looks at its own micro-batches alone. */
static void open_memory(player *pl)
{
    const dml_program *p = pl->in.p;
    const int64_t cells = (int64_t)p->workers * p->mbs;
    pl->need = DML_NEW_N(&pl->in.arena, int64_t, cells);
    pl->kept = DML_NEW_N(&pl->in.arena, int64_t, cells);
    pl->place = DML_NEW_N(&pl->in.arena, int32_t, cells);
    for (int32_t w = 0; w < p->workers; w++) {
        lane *l = &pl->lane[w];
        l->mine = DML_NEW_N(&pl->in.arena, int32_t, p->mbs);
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            bool passes = false;
            for (int32_t c = 0; c < p->chunks && !passes; c++)
                passes = *dml_program_route(p, c, mb) == w;
            pl->place[(int64_t)w * p->mbs + mb] = l->n_mine;
            if (passes) l->mine[l->n_mine++] = mb;
        }
    }
}

static dml_err open_player(player *pl, const dml_list_args *a)
{
    *pl = (player){0};
    DML_TRY(dml_list_open(&pl->in, a));
    const dml_program *p = a->routes;
    const int64_t ops = (int64_t)KINDS * pl->in.cells;
    pl->lane = DML_NEW_N(&pl->in.arena, lane, p->workers);
    pl->start_ns = DML_NEW_N(&pl->in.arena, int64_t, p->workers);
    pl->ready_ns = DML_NEW_N(&pl->in.arena, int64_t, ops);
    pl->order = DML_NEW_N(&pl->in.arena, int32_t, ops);
    pl->noise = DML_NEW_N(&pl->in.arena, double, KINDS * p->chunks);
    pl->left = DML_NEW_N(&pl->in.arena, int32_t, p->mbs);
    int32_t *of = DML_NEW_N(&pl->in.arena, int32_t, p->workers);
    for (int32_t c = 0; c < pl->in.cells; c++)
        of[dml_list_worker_of(&pl->in, c)] += KINDS;
    for (int32_t w = 0; w < p->workers; w++) {
        pl->lane[w].open = DML_NEW_N(&pl->in.arena, int32_t, of[w]);
        pl->lane[w].line = DML_NEW_N(&pl->in.arena, int32_t, of[w]);
    }
    open_memory(pl);
    open_lines(pl);
    return DML_ERR_OK;
}

/* ---- one trial ---- */

/* Whether the F leaves every earlier micro-batch, and its own, a way through: when `at` is the oldest, those
 * before it have left, and what it still needs must fit beside what it and later ones keep. */
static bool fits(const player *pl, int32_t w, int32_t chunk, int32_t mb)
{
    if (!pl->in.a->limit_bytes) return true;
    const lane *l = &pl->lane[w];
    const int64_t first = (int64_t)w * pl->in.p->mbs, limit = pl->in.a->limit_bytes[w],
                  held = dml_list_held(pl->in.a, chunk);
    const int64_t *need = &pl->need[first], *kept = &pl->kept[first];
    const int32_t place = pl->place[first + mb];
    int64_t keeps = held;
    for (int32_t later = place + 1; later < l->newest; later++)
        keeps += kept[l->mine[later]];
    for (int32_t i = place; i >= 0 && l->mine[i] >= pl->oldest; i--) {
        const int32_t at = l->mine[i];
        keeps += kept[at];
        if (keeps + need[at] - (at == mb ? held : 0) > limit) return false;
    }
    return true;
}

static bool shallow(const player *pl, const priority *pr, int32_t w, int32_t chunk, int32_t mb)
{
    if (pr->depth <= 0 || mb == pl->oldest) return true;
    const double most = pr->depth * (double)pl->in.round_trip_ns[chunk * pl->in.p->mbs + mb] /
                        (double)MAX2(1, pl->in.period_ns);
    return pl->lane[w].in_flight < (int32_t)most + 1;
}

static double score(const player *pl, const priority *pr, int32_t op, int64_t now_ns)
{
    const int32_t k = op / pl->in.cells, cell = op % pl->in.cells, c = cell / pl->in.p->mbs,
                  mb = cell % pl->in.p->mbs;
    const int64_t late_ns = pl->ready_ns[op] - now_ns;
    const double rank =
        pr->rank_share > 0 ? pr->rank_share * pl->in.rank[op] / (2.0 * pl->in.p->workers) : 0.0;
    return (pr->class[k] - rank - pr->mb_share * mb + pl->noise[k * pl->in.p->chunks + c]) *
               pl->in.unit_ns +
           pr->tail_share[k] * (double)pl->in.tail[k][cell] -
           pr->wait_share * (double)(late_ns > 0 ? late_ns : 0);
}

/* The first in line that memory lets run, where it is open: else the worker waits for it. */
static int32_t first_in_line(player *pl, int32_t w)
{
    lane *l = &pl->lane[w];
    while (l->next < l->n_line && pl->has_run[l->line[l->next]])
        l->next++;
    for (int32_t i = l->next; i < l->n_line; i++) {
        const int32_t op = l->line[i], cell = op % pl->in.cells;
        if (pl->has_run[op]) continue;
        if (op / pl->in.cells == F && !fits(pl, w, cell / pl->in.p->mbs, cell % pl->in.p->mbs))
            continue;
        for (int32_t k = 0; k < l->n_open; k++)
            if (l->open[k] == op) return k;
        return -1;
    }
    return -1;
}

/* Decides what the worker runs next, as far as is known. */
static void decide(player *pl, const priority *pr, int32_t w)
{
    lane *l = &pl->lane[w];
    int64_t now_ns = INT64_MAX;
    l->best = pr->strict ? first_in_line(pl, w) : -1;
    for (int pass = 0; pass < 2 && !pr->strict; pass++) {
        double best = 0;
        for (int32_t i = 0; i < l->n_open; i++) {
            const int32_t op = l->open[i], cell = op % pl->in.cells, mb = cell % pl->in.p->mbs,
                          c = cell / pl->in.p->mbs;
            if (op / pl->in.cells == F && (!fits(pl, w, c, mb) || !shallow(pl, pr, w, c, mb)))
                continue;
            if (pass == 0) {
                now_ns = MIN2(now_ns, MAX2(l->free_ns, pl->ready_ns[op]));
                continue;
            }
            const double s = score(pl, pr, op, now_ns);
            if (l->best >= 0 && (s < best || (s == best && op > l->open[l->best]))) continue;
            best = s;
            l->best = i;
        }
    }
    pl->start_ns[w] = l->best >= 0 ? MAX2(l->free_ns, pl->ready_ns[l->open[l->best]]) : NEVER;
}

/* The op's last input is there at `ns`. */
static int32_t offer(player *pl, kind k, int32_t chunk, int32_t mb, int64_t ns)
{
    const int32_t op = (int32_t)k * pl->in.cells + chunk * pl->in.p->mbs + mb,
                  w = dml_list_worker_of(&pl->in, op);
    pl->ready_ns[op] = ns;
    lane *l = &pl->lane[w];
    l->open[l->n_open++] = op;
    return w;
}

/* What `op`, which ends at end_ns, makes possible; the other worker that learns of it, or -1. */
static int32_t release(player *pl, int32_t op, int64_t end_ns)
{
    const int32_t k = op / pl->in.cells, cell = op % pl->in.cells, c = cell / pl->in.p->mbs,
                  mb = cell % pl->in.p->mbs, last = pl->in.p->chunks - 1;
    if (k == F)
        return c == last
                   ? offer(pl, I, c, mb, end_ns)
                   : offer(pl, F, c + 1, mb, end_ns + dml_list_travel_ns(&pl->in, c, c + 1, mb));
    if (k == W) return -1;
    if (pl->in.a->split) offer(pl, W, c, mb, end_ns);
    return c == 0 ? -1
                  : offer(pl, I, c - 1, mb, end_ns + dml_list_travel_ns(&pl->in, c, c - 1, mb));
}

static void account(player *pl, int32_t op, int32_t w)
{
    const int32_t k = op / pl->in.cells, cell = op % pl->in.cells, c = cell / pl->in.p->mbs,
                  mb = cell % pl->in.p->mbs;
    const int64_t at = (int64_t)w * pl->in.p->mbs + mb, bytes = dml_list_held(pl->in.a, c);
    if (k == F) {
        pl->need[at] -= bytes;
        pl->kept[at] += bytes;
        pl->lane[w].in_flight++;
        pl->lane[w].newest = MAX2(pl->lane[w].newest, pl->place[at] + 1);
    }
    if (k == I) pl->lane[w].in_flight--;
    if (k == W || (k == I && !pl->in.a->split)) {
        pl->kept[at] -= bytes;
        pl->left[mb]--;
        while (pl->oldest < pl->in.p->mbs && pl->left[pl->oldest] == 0)
            pl->oldest++;
    }
}

static void begin_trial(player *pl, const priority *pr)
{
    const dml_program *p = pl->in.p;
    for (int32_t i = 0; i < KINDS * p->chunks; i++) {
        uint32_t word[4];
        dml_rng_block(pr->key, 0, (uint64_t)i, word);
        pl->noise[i] = pr->noise * (2.0 * (double)dml_rng_unit(word[0]) - 1.0);
    }
    for (int32_t w = 0; w < p->workers; w++) {
        const lane *l = &pl->lane[w];
        pl->lane[w] = (lane){.open = l->open,
                             .mine = l->mine,
                             .n_mine = l->n_mine,
                             .line = l->line,
                             .n_line = l->n_line,
                             .best = -1};
    }
    const size_t cells = (size_t)p->workers * (size_t)p->mbs;
    memcpy(pl->need, pl->in.load, cells * sizeof *pl->need);
    memset(pl->kept, 0, cells * sizeof *pl->kept);
    if (pr->strict) memset(pl->has_run, 0, (size_t)dml_list_ops(&pl->in) * sizeof *pl->has_run);
    pl->oldest = 0;
    for (int32_t mb = 0; mb < p->mbs; mb++) {
        pl->left[mb] = p->chunks;
        offer(pl, F, 0, mb, 0);
    }
    for (int32_t w = 0; w < p->workers; w++)
        decide(pl, pr, w);
}

/* Plays the step; its length, and the ops in pl->order.  INT64_MAX: a strict one that got stuck. */
static int64_t play(player *pl, const priority *pr)
{
    const int32_t ops = dml_list_ops(&pl->in);
    int64_t wall_ns = 0;
    begin_trial(pl, pr);
    for (int32_t n = 0; n < ops; n++) {
        int32_t w = 0;
        for (int32_t i = 1; i < pl->in.p->workers; i++)
            if (pl->start_ns[i] < pl->start_ns[w]) w = i;
        if (pl->start_ns[w] == NEVER && pr->strict) return INT64_MAX;
        DML_ASSERT_OP(pl->start_ns[w], <, NEVER);
        lane *l = &pl->lane[w];
        const int32_t op = l->open[l->best], before = pl->oldest;
        if (pr->strict) pl->has_run[op] = true;
        const int64_t end_ns = pl->start_ns[w] + pl->in.ns[op / pl->in.cells][op % pl->in.cells];
        l->open[l->best] = l->open[--l->n_open];
        l->free_ns = end_ns;
        wall_ns = MAX2(wall_ns, end_ns);
        pl->order[n] = op;
        account(pl, op, w);
        const int32_t other = release(pl, op, end_ns);
        for (int32_t i = 0; i < pl->in.p->workers; i++)
            if (i == w || i == other || before != pl->oldest) decide(pl, pr, i);
    }
    return wall_ns;
}

/* ---- the search ---- */

/* Deterministic starts: forwards as far as a round trip's multiple goes, then backwards first; weight gradients
 * last; which chunk of a worker goes first; what idling is worth. */
static priority start_of(int32_t trial)
{
    static const double depth[] = {1.0, 2.0, 0.0, 1.5}, wait[] = {4.0, 1.0},
                        deep[] = {0.0, 1.0, -1.0};
    return (priority){.class = {[I] = 4.0, [W] = -4.0},
                      .tail_share = {[F] = deep[trial / 8 % 3], [I] = 0.1},
                      .mb_share = 0.5,
                      .wait_share = wait[trial / 4 % 2],
                      .depth = depth[trial % 4]};
}
enum { STARTS = 24, RANKED_STARTS = 4 };

/* By rank: as the order stands, then whatever comes first in it of what is ready. */
static priority ranked_start_of(int32_t trial)
{
    static const double wait[RANKED_STARTS] = {0.0, 4.0, 1.0, 16.0};
    return (priority){.rank_share = 1.0, .wait_share = wait[trial], .strict = trial == 0};
}

static double jump(uint64_t key, uint64_t i, double size)
{
    uint32_t word[4];
    dml_rng_block(key, 1, i, word);
    return size * (2.0 * (double)dml_rng_unit(word[0]) - 1.0);
}

/* The best so far, somewhat changed. */
static priority change(const priority *best, int32_t trial)
{
    priority pr = *best;
    pr.strict = false;
    const uint64_t key = dml_rng_key(SEED, DML_RNG_TEST, (uint64_t)trial);
    for (uint64_t k = 0; k < KINDS; k++) {
        pr.class[k] += jump(key, k, 2.0);
        pr.tail_share[k] += jump(key, 4 + k, 0.5);
    }
    pr.mb_share = MAX2(0.0, pr.mb_share + jump(key, 8, 0.5));
    pr.wait_share = MAX2(0.0, pr.wait_share + jump(key, 9, 1.0));
    pr.depth = pr.depth > 0 ? MAX2(0.25, pr.depth + jump(key, 10, 0.75)) : 0.0;
    if (trial % 3 == 0) pr.depth = 1.5 + jump(key, 11, 1.5);
    if (trial % 2 == 0) {
        pr.noise = 1.0 + jump(key, 12, 1.0);
        pr.key = key;
    }
    return pr;
}

/* What trial `trial` plays, with the best of those before it. */
static priority nth_priority(const player *pl, int32_t trial, const priority *best)
{
    const int32_t ranked = pl->in.rank ? RANKED_STARTS : 0;
    if (trial < ranked) return ranked_start_of(trial);
    return trial - ranked < STARTS ? start_of(trial - ranked) : change(best, trial);
}

static dml_err write_order(const player *pl, dml_program *out)
{
    static const dml_op_kind split[KINDS] = {DML_OP_FWD, DML_OP_BWD_INPUT, DML_OP_BWD_WEIGHT};
    const dml_program *p = pl->in.p;
    DML_TRY(dml_program_init(out, p->workers, p->chunks, p->mbs));
    const dml_err err = dml_program_set_skips(out, p->n_skips, p->skip);
    if (err != DML_ERR_OK) {
        dml_program_free(out);
        return err;
    }
    memcpy(out->route, p->route, (size_t)pl->in.cells * sizeof *p->route);
    memcpy(out->span, p->span, (size_t)p->chunks * sizeof *p->span);
    memcpy(out->buckets, p->buckets, (size_t)p->chunks * sizeof *p->buckets);
    for (int32_t n = 0; n < dml_list_ops(&pl->in); n++) {
        const int32_t op = pl->order[n], k = op / pl->in.cells, cell = op % pl->in.cells;
        const dml_op_kind made = k == I && !pl->in.a->split ? DML_OP_BWD : split[k];
        dml_program_push(out, dml_list_worker_of(&pl->in, op), made, cell / p->mbs, cell % p->mbs);
    }
    return DML_ERR_OK;
}

/* The length of the step that was played last. */
static int64_t length_of(const player *pl, int64_t wall_ns)
{
    dml_program order;
    int64_t length_ns = INT64_MAX;
    if (pl->in.a->objective == DML_LIST_WALL || wall_ns == INT64_MAX) return wall_ns;
    if (write_order(pl, &order) != DML_ERR_OK) return INT64_MAX;
    (void)dml_order_length(&order, pl->in.a->cost, pl->in.a->objective, &length_ns);
    dml_program_free(&order);
    return length_ns;
}

static bool may_go_on(const player *pl, int32_t trials, int64_t ops)
{
    const dml_list_args *a = pl->in.a;
    return trials < a->trials && (a->most_ops == 0 || ops < a->most_ops);
}

static int64_t search(player *pl, priority *best)
{
    const int64_t bound_ns = dml_list_bound_ns(pl->in.a);
    int64_t best_ns = INT64_MAX, played = 0;
    for (int32_t trial = 0;
         best_ns == INT64_MAX || (may_go_on(pl, trial, played) && best_ns > bound_ns); trial++) {
        const priority pr = nth_priority(pl, trial, best);
        const int64_t ns = length_of(pl, play(pl, &pr));
        played += dml_list_ops(&pl->in);
        if (ns >= best_ns) continue;
        best_ns = ns;
        *best = pr;
    }
    return best_ns;
}

dml_err dml_list_schedule(const dml_list_args *args, dml_program *out, int64_t *length_ns)
{
    *out = (dml_program){0};
    player pl;
    priority best = {0};
    dml_err err = open_player(&pl, args);
    if (err == DML_ERR_OK) {
        *length_ns = search(&pl, &best);
        play(&pl, &best);
        err = write_order(&pl, out);
    }
    dml_arena_free(&pl.in.arena);
    return err == DML_ERR_OK ? err : dml_err_add(err, __func__, __FILE__, __LINE__);
}
