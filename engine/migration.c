/* engine/migration.c - both plans' holders as tables, layer by layer; what a holder lacks comes from one who lives. */
#include "engine/migration.h"

#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* ---- rules that a run follows, too ------------------------------------------------------------------- */

int32_t dml_state_source(const dml_program *program, int32_t chunk, const bool *lost)
{
    int32_t first = *dml_program_route(program, chunk, 0);
    if (!lost[first]) return first;
    first = DML_FROM_BANK;
    for (int32_t mb = 1; mb < program->mbs; mb++) {
        const int32_t w = *dml_program_route(program, chunk, mb);
        if (!lost[w] && (first < 0 || w < first)) first = w;
    }
    return first;
}

int64_t dml_state_bytes(const dml_spec *spec, const dml_model *model, int32_t begin, int32_t end)
{
    const int64_t values = 1 + dml_optimizer_has_m(spec) + dml_optimizer_has_v(spec);
    int64_t elems = 0;
    for (int32_t l = begin; l < end; l++) {
        const dml_layer *layer = &model->layer[l];
        for (int32_t i = layer->param_begin; i < layer->param_end; i++)
            elems += model->param[i].elems * values;
        for (int32_t i = layer->state_begin; i < layer->state_end; i++)
            elems += model->state[i].elems;
    }
    return elems * (int64_t)sizeof(float);
}

/* ---- the tables -------------------------------------------------------------------------------------- */

typedef struct side {
    const dml_plan *plan;
    bool *holds; /* [stages][workers] of both plans */
    int32_t workers;
    int32_t *source; /* [stages] who puts it */
} side;

static side side_of(const dml_plan *plan, int32_t workers, const bool *lost, dml_arena *arena)
{
    side s = {.plan = plan, .workers = workers};
    s.holds = DML_NEW_N(arena, bool, (int64_t)plan->stages *workers);
    s.source = DML_NEW_N(arena, int32_t, plan->stages);
    for (int32_t c = 0; c < plan->stages; c++) {
        for (int32_t mb = 0; mb < plan->train.mbs; mb++)
            s.holds[(int64_t)c * workers + *dml_program_route(&plan->train, c, mb)] = true;
        if (lost) s.source[c] = dml_state_source(&plan->train, c, lost);
    }
    return s;
}

static bool holds(const side *s, int32_t worker, int32_t stage)
{
    return s->holds[(int64_t)stage * s->workers + worker];
}

static int64_t bytes_of(const dml_plan *plan, int32_t begin, int32_t end)
{
    return dml_state_bytes(plan->spec, &plan->model, begin, end);
}

static int64_t stage_bytes(const dml_plan *plan, int32_t stage)
{
    return bytes_of(plan, plan->stage_begin[stage], plan->stage_begin[stage + 1]);
}

/* ---- what moves -------------------------------------------------------------------------------------- */

/* What stage `was` of the old plan and `is` of the new have in common goes to `to`, unless it has it.  With a NULL table
 * it is only counted. */
static void add_overlap(dml_migration *m, const side *from, const side *after, const bool *lost,
                        int32_t to, int32_t was, int32_t is)
{
    const dml_plan *p = after->plan;
    const int32_t begin = MAX2(from->plan->stage_begin[was], p->stage_begin[is]),
                  end = MIN2(from->plan->stage_begin[was + 1], p->stage_begin[is + 1]);
    const bool lives = to >= from->plan->workers || !lost[to];
    if (begin >= end || (lives && holds(from, to, was))) return;
    const int64_t bytes = bytes_of(p, begin, end);
    if (bytes == 0) return; /* layers without state */
    if (m->transfer)
        m->transfer[m->transfers] = (dml_transfer){.stage = is,
                                                   .layer_begin = begin,
                                                   .layer_end = end,
                                                   .param_begin = p->model.layer[begin].param_begin,
                                                   .param_end = p->model.layer[end - 1].param_end,
                                                   .from = from->source[was],
                                                   .to = to,
                                                   .bytes = bytes};
    m->transfers++;
}

static void add_all(dml_migration *m, const side *from, const side *to, const bool *lost)
{
    m->transfers = 0;
    for (int32_t w = 0; w < m->workers; w++)
        for (int32_t is = 0; is < to->plan->stages; is++)
            for (int32_t was = 0; was < from->plan->stages && holds(to, w, is); was++)
                add_overlap(m, from, to, lost, w, was, is);
}

static void add_up(dml_migration *m, const side *from, const side *to)
{
    for (int32_t i = 0; i < m->transfers; i++) {
        const dml_transfer *t = &m->transfer[i];
        if (i == 0 || m->transfer[i - 1].to != t->to) m->movers++;
        m->in_bytes[t->to] += t->bytes;
        if (t->from >= 0) m->out_bytes[t->from] += t->bytes;
        m->moved_bytes += t->bytes;
    }
    for (int32_t s = 0; s < from->plan->stages; s++) {
        if (from->source[s] < 0) continue;
        m->put_bytes[from->source[s]] += stage_bytes(from->plan, s);
        m->copied_bytes += stage_bytes(from->plan, s);
    }
    for (int32_t s = 0; s < to->plan->stages; s++)
        for (int32_t w = 0; w < m->workers; w++)
            if (holds(to, w, s)) m->get_bytes[w] += stage_bytes(to->plan, s);
}

dml_err dml_migration_make(const dml_plan *from, const dml_plan *to, const bool *lost,
                           dml_migration *out)
{
    DML_ASSERT_OP(from->alike, ==, 1);
    DML_ASSERT_OP(to->alike, ==, 1);
    dml_migration m = {.workers = MAX2(from->workers, to->workers)};
    const side was = side_of(from, m.workers, lost, &m.arena),
               is = side_of(to, m.workers, NULL, &m.arena);
    m.in_bytes = DML_NEW_N(&m.arena, int64_t, m.workers);
    m.out_bytes = DML_NEW_N(&m.arena, int64_t, m.workers);
    m.put_bytes = DML_NEW_N(&m.arena, int64_t, m.workers);
    m.get_bytes = DML_NEW_N(&m.arena, int64_t, m.workers);
    add_all(&m, &was, &is, lost);
    m.transfer = DML_NEW_N(&m.arena, dml_transfer, m.transfers);
    add_all(&m, &was, &is, lost);
    add_up(&m, &was, &is);
    *out = m;
    const dml_err err = dml_migration_check(out, from, to, lost);
    if (err != DML_ERR_OK) dml_migration_free(out);
    return err;
}

void dml_migration_free(dml_migration *m)
{
    dml_arena_free(&m->arena);
    *m = (dml_migration){0};
}

/* ---- the check --------------------------------------------------------------------------------------- */

/* Of the plan's, the stage that the layer is in. */
static int32_t stage_of(const dml_plan *plan, int32_t layer)
{
    int32_t s = 0;
    while (layer >= plan->stage_begin[s + 1])
        s++;
    return s;
}

static dml_err check_source(const dml_plan *from, const dml_transfer *t, int32_t layer,
                            const bool *lost)
{
    const int32_t was = stage_of(from, layer);
    bool lives = false;
    for (int32_t w = 0; w < from->workers && !lives; w++)
        lives = !lost[w] && dml_plan_holds(from, w, was);
    if (t->from == DML_FROM_BANK && lives)
        DML_FAIL(DML_ERR_BUG,
                 "migration: layer %d goes to worker %d from the bank, and a holder lives", layer,
                 t->to);
    if (t->from == DML_FROM_BANK) return DML_ERR_OK;
    if (lost[t->from] || !dml_plan_holds(from, t->from, was))
        DML_FAIL(DML_ERR_BUG, "migration: layer %d goes to worker %d from worker %d, which %s",
                 layer, t->to, t->from, lost[t->from] ? "is lost" : "does not hold it");
    return DML_ERR_OK;
}

/* Each layer of the transfer, from who has it; `got` counts, [layers] of this worker. */
static dml_err check_transfer(const dml_plan *from, const dml_plan *to, const dml_transfer *t,
                              const bool *lost, int32_t *got)
{
    for (int32_t l = t->layer_begin; l < t->layer_end; l++) {
        if (!dml_plan_holds(to, t->to, stage_of(to, l)))
            DML_FAIL(DML_ERR_BUG, "migration: layer %d goes to worker %d, which is not to hold it",
                     l, t->to);
        got[l]++;
        DML_TRY(check_source(from, t, l, lost));
    }
    return DML_ERR_OK;
}

static dml_err check_worker(const dml_migration *m, const dml_plan *from, const dml_plan *to,
                            const bool *lost, int32_t w, int32_t *got)
{
    memset(got, 0, (size_t)to->model.n_layers * sizeof *got);
    for (int32_t i = 0; i < m->transfers; i++)
        if (m->transfer[i].to == w) DML_TRY(check_transfer(from, to, &m->transfer[i], lost, got));
    const bool lives = w < from->workers && !lost[w];
    for (int32_t s = 0; s < to->stages; s++)
        for (int32_t l = to->stage_begin[s]; l < to->stage_begin[s + 1]; l++) {
            const bool has = lives && dml_plan_holds(from, w, stage_of(from, l)),
                       needs = dml_plan_holds(to, w, s) && !has && bytes_of(to, l, l + 1) > 0;
            if (got[l] > 1 || (needs && got[l] == 0) || (has && got[l] > 0))
                DML_FAIL(DML_ERR_BUG, "migration: worker %d %s layer %d and gets it %d times", w,
                         has     ? "has"
                         : needs ? "needs"
                                 : "is without",
                         l, got[l]);
        }
    return DML_ERR_OK;
}

dml_err dml_migration_check(const dml_migration *m, const dml_plan *from, const dml_plan *to,
                            const bool *lost)
{
    dml_arena arena = {0};
    dml_err err = DML_ERR_OK;
    int32_t *got = DML_NEW_N(&arena, int32_t, to->model.n_layers);
    for (int32_t w = 0; w < m->workers && err == DML_ERR_OK; w++)
        err = check_worker(m, from, to, lost, w, got);
    dml_arena_free(&arena);
    return err;
}

/* ---- the price --------------------------------------------------------------------------------------- */

static int64_t largest(const int64_t *bytes, int32_t n)
{
    int64_t most = 0;
    for (int32_t i = 0; i < n; i++)
        most = MAX2(most, bytes[i]);
    return most;
}

static int64_t over_links(const dml_migration *m, const dml_links *links)
{
    dml_arena arena = {0};
    int64_t *busy = DML_NEW_N(&arena, int64_t, 2 * (int64_t)m->workers); /* out, then in */
    for (int32_t i = 0; i < m->transfers; i++) {
        const dml_transfer *t = &m->transfer[i];
        if (t->from < 0) continue;
        const int64_t ns = dml_link_ns(dml_links_between(links, t->from, t->to), (double)t->bytes);
        busy[t->from] += ns;
        busy[m->workers + t->to] += ns;
    }
    const int64_t most = largest(busy, 2 * m->workers);
    dml_arena_free(&arena);
    return most;
}

int64_t dml_migration_ns(const dml_migration *m, const dml_links *links)
{
    if (!dml_links_are_free(links)) return over_links(m, links);
    return (
        int64_t)((double)(largest(m->put_bytes, m->workers) + largest(m->get_bytes, m->workers)) *
                 1e9 / DML_COPY_BYTES_PER_S);
}

void dml_migration_print(const dml_migration *m, dml_str *out)
{
    for (int32_t i = 0; i < m->transfers; i++) {
        const dml_transfer *t = &m->transfer[i];
        dml_str_printf(out, "worker %d gets layers %d-%d of stage %d, %.3f MiB, ", t->to,
                       t->layer_begin, t->layer_end - 1, t->stage, (double)t->bytes / 0x1p20);
        if (t->from < 0)
            dml_str_printf(out, "from a snapshot or a checkpoint\n");
        else
            dml_str_printf(out, "from worker %d\n", t->from);
    }
    dml_str_printf(out, "%.3f MiB change hands, %.3f MiB are put into shared memory\n",
                   (double)m->moved_bytes / 0x1p20, (double)m->copied_bytes / 0x1p20);
}
