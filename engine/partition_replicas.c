/* engine/partition_replicas.c - PipeDream's recurrence, a level and a first layer at a time.
 *
 * A^k(i->., .) needs A^(k-1) at full components only, and of its own level the same i only.  So a level is solved
 * row by row, a row being one first layer, and keeps A^k(i->j, m_k) alone; the choices of a row are made again when
 * the way back needs them.  That is O(n^2) memory a level instead of O(n^2 m).
 */
#include "engine/partition_replicas.h"

#include <math.h>

/* How A^k(i->j, m) came about: one stage on m, or layers behind `split` on `replicas` of the m. */
typedef struct choice {
    int32_t split; /* last layer of what comes before; < 0: one stage */
    int32_t replicas;
} choice;

typedef struct solver {
    const dml_replica_layer *layer;
    const dml_replica_level *level;
    int32_t n, n_levels;
    double *params; /* [n + 1] sums over the layers before it */
    double *
        whole[DML_REPLICA_LEVELS]; /* [n][n] A of the level below: of (i, j) on a whole component */
    double *stage;                 /* [m + 1] T^k(s+1->j, m') of the (s, j) at hand */
    double *row;                   /* [n][m + 1] A^k(i->j, m) of the i at hand */
    choice *from;                  /* [n][m + 1] */
    dml_arena *arena;
    dml_replica_plan *out;
} solver;

/* T^k(i->j, m) for m = 1..most. */
static void price_stage(const solver *v, int32_t k, int32_t i, int32_t j, int32_t most, double *out)
{
    const double compute = v->whole[k][(int64_t)i * v->n + j];
    const double params = v->params[j + 1] - v->params[i];
    for (int32_t m = 1; m <= most; m++) {
        const double reduce = 2.0 * (m - 1) * params / v->level[k].bandwidth;
        out[m] = (compute > reduce ? compute : reduce) / m;
    }
}

/* Row i of level k: A^k(i->j, m) for every j >= i and m <= m_k. */
static void solve_row(solver *v, int32_t k, int32_t i)
{
    const int32_t most = v->level[k].components, width = most + 1;
    for (int32_t j = i; j < v->n; j++) {
        double *best = &v->row[(int64_t)j * width];
        choice *from = &v->from[(int64_t)j * width];
        price_stage(v, k, i, j, most, best);
        for (int32_t m = 1; m <= most; m++)
            from[m] = (choice){-1, m};
        for (int32_t s = i; s < j; s++) {
            const double border = 2.0 * v->layer[s].out / v->level[k].bandwidth;
            const double *before = &v->row[(int64_t)s * width];
            price_stage(v, k, s + 1, j, most - 1, v->stage);
            for (int32_t m = 2; m <= most; m++) {
                for (int32_t behind = 1; border < best[m] && behind < m; behind++) {
                    double time = before[m - behind];
                    if (time < border) time = border;
                    if (time < v->stage[behind]) time = v->stage[behind];
                    if (time >= best[m]) continue;
                    best[m] = time;
                    from[m] = (choice){s, behind};
                }
            }
        }
    }
}

/* Appends the stages of layers i..j on whole components of every level up to k; outer: the levels above. */
static void unfold(solver *v, int32_t k, int32_t i, int32_t j, dml_replica_stage outer)
{
    if (k < 0) {
        outer.begin = i;
        outer.end = j + 1;
        v->out->stage[v->out->n_stages++] = outer;
        return;
    }
    solve_row(v, k, i);
    const int32_t width = v->level[k].components + 1;
    int32_t *end = DML_NEW_N(v->arena, int32_t, j - i + 1), n = 0;
    int32_t *replicas = DML_NEW_N(v->arena, int32_t, j - i + 1);
    for (int32_t last = j, m = width - 1; last >= i; n++) {
        const choice c = v->from[(int64_t)last * width + m];
        end[n] = last;
        replicas[n] = c.replicas;
        last = c.split;
        m -= c.replicas;
    }
    for (int32_t first = i; n-- > 0; first = end[n] + 1) {
        dml_replica_stage inner = outer;
        inner.at[k] = replicas[n];
        inner.replicas *= replicas[n];
        unfold(v, k - 1, first, end[n], inner);
    }
}

/* Tables, and A^0: the sums. */
static void begin_solver(solver *v)
{
    int32_t most = 0;
    for (int32_t k = 0; k < v->n_levels; k++) {
        v->whole[k] = DML_NEW_N(v->arena, double, (int64_t)v->n * v->n);
        if (v->level[k].components > most) most = v->level[k].components;
    }
    v->params = DML_NEW_N(v->arena, double, v->n + 1);
    v->stage = DML_NEW_N(v->arena, double, most + 1);
    v->row = DML_NEW_N(v->arena, double, (int64_t)v->n *(most + 1));
    v->from = DML_NEW_N(v->arena, choice, (int64_t)v->n * (most + 1));
    for (int32_t i = 0; i < v->n; i++) {
        double time = 0.0;
        v->params[i + 1] = v->params[i] + v->layer[i].params;
        for (int32_t j = i; j < v->n; j++)
            v->whole[0][(int64_t)i * v->n + j] = time += v->layer[j].time;
    }
}

static dml_err check(const dml_replica_level *level, int32_t n_levels, int32_t n)
{
    if (n < 1) DML_FAIL(DML_ERR_SPEC, "%d layers to place", n);
    if (n_levels < 1 || n_levels > DML_REPLICA_LEVELS)
        DML_FAIL(DML_ERR_SPEC, "%d levels of hardware: 1 to %d can be planned for", n_levels,
                 DML_REPLICA_LEVELS);
    for (int32_t k = 0; k < n_levels; k++) {
        if (level[k].components < 1)
            DML_FAIL(DML_ERR_SPEC, "level %d has %d components", k + 1, level[k].components);
        if (!(level[k].bandwidth > 0.0))
            DML_FAIL(DML_ERR_SPEC, "level %d has a bandwidth of %g", k + 1, level[k].bandwidth);
    }
    return DML_ERR_OK;
}

dml_err dml_partition_replicas(const dml_replica_layer *layer, int32_t n,
                               const dml_replica_level *level, int32_t n_levels, dml_arena *arena,
                               dml_replica_plan *out)
{
    DML_TRY(check(level, n_levels, n));
    dml_arena scratch = {0};
    solver v = {.layer = layer, .level = level, .n = n, .n_levels = n_levels, .arena = &scratch};
    begin_solver(&v);
    for (int32_t k = 0; k + 1 < n_levels; k++) {
        const int32_t width = level[k].components + 1;
        for (int32_t i = 0; i < n; i++) {
            solve_row(&v, k, i);
            for (int32_t j = i; j < n; j++)
                v.whole[k + 1][(int64_t)i * n + j] = v.row[(int64_t)j * width + width - 1];
        }
    }
    const int32_t top = n_levels - 1, width = level[top].components + 1;
    solve_row(&v, top, 0);
    *out = (dml_replica_plan){.time = v.row[(int64_t)n * width - 1],
                              .stage = DML_NEW_N(arena, dml_replica_stage, n)};
    v.out = out;
    unfold(&v, top, 0, n - 1, (dml_replica_stage){.replicas = 1});
    dml_arena_free(&scratch);
    return DML_ERR_OK;
}
