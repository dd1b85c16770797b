/* engine/spec_stages.c - parallelism.stages: who runs each stage, where equal pipelines do not fit.
 *
 *   stages:
 *     - workers: [0, 1]             two replicas, micro-batches in turn
 *     - workers: [2]
 *     - workers: [0, 3]             worker 0 again: stages of a worker need not be neighbours
 *       shares: [1, 3]              worker 0 runs one micro-batch of four
 */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"
#include "schedule/shares.h"

#include <string.h>

enum { WORKERS, SHARES, OPTIONS };
enum { MOST_WORKERS = 1024 };

static const dml_spec_key options[OPTIONS] = {
    [WORKERS] = {"workers", DML_SPEC_INTS, offsetof(dml_stage_spec, workers), DML_SPEC_NONE,
                 "[0,1023]", "", "", ""},
    [SHARES] = {"shares", DML_SPEC_INTS, offsetof(dml_stage_spec, shares), DML_SPEC_NONE,
                "[1,65536]", "", "", ""},
};

/* ---- the layout, whichever way it is written --------------------------------------------------------- */

int32_t dml_spec_stages(const dml_spec *spec)
{
    return spec->parallelism.n_stages > 0
               ? spec->parallelism.n_stages
               : spec->parallelism.pipeline_parallel_size * spec->parallelism.virtual_stages;
}

/* The lost keep their numbers, also where no stage names them any more. */
int32_t dml_spec_workers(const dml_spec *spec)
{
    if (spec->parallelism.n_stages == 0)
        return spec->parallelism.pipeline_parallel_size * spec->parallelism.data_parallel_size;
    int32_t last = 0;
    for (int32_t i = 0; i < spec->parallelism.lost.n; i++)
        if (spec->parallelism.lost.v[i] > last) last = spec->parallelism.lost.v[i];
    for (int32_t s = 0; s < spec->parallelism.n_stages; s++) {
        const dml_int_list *workers = &spec->parallelism.stage[s].workers;
        for (int32_t i = 0; i < workers->n; i++)
            if (workers->v[i] > last) last = workers->v[i];
    }
    return last + 1;
}

int32_t dml_spec_replicas(const dml_spec *spec)
{
    int32_t most = spec->parallelism.n_stages == 0 ? spec->parallelism.data_parallel_size : 0;
    for (int32_t s = 0; s < spec->parallelism.n_stages; s++)
        if (spec->parallelism.stage[s].workers.n > most)
            most = spec->parallelism.stage[s].workers.n;
    return most;
}

bool dml_spec_key_is_shown(const dml_spec *spec, dml_spec_key_id id)
{
    const bool placed = spec->parallelism.n_stages > 0,
               equal = id == DML_KEY_PIPELINE || id == DML_KEY_VIRTUAL || id == DML_KEY_REPLICAS;
    if (id == DML_KEY_COSTS) return spec->costs;
    if (id == DML_KEY_LOST) return spec->parallelism.lost.n > 0;
    if (id == DML_KEY_SEATS) return spec->parallelism.seats.n > 0;
    if (id == DML_KEY_ORDER) return dml_spec_has_order(spec);
    if (id == DML_KEY_INJECT) return spec->failures.n_faults > 0;
    if (id == DML_KEY_RAILS) return spec->cluster.n_links > 0;
    if (id == DML_KEY_HARDWARE) return false; /* what it says is in other keys by now */
    if (!dml_spec_cluster_is_shown(spec, id)) return false;
    return (!equal || !placed) && (id != DML_KEY_STAGES || placed);
}

/* ---- reading ----------------------------------------------------------------------------------------- */

/* What is written for the option of a stage that was read, or NULL. */
static const dml_yaml *given(const dml_yaml *stage, int32_t option)
{
    return dml_spec_option(stage, &options[option]);
}

static bool workers_differ(dml_spec_reader *r, const dml_yaml *node, const dml_int_list *workers)
{
    for (int32_t i = 1; i < workers->n; i++)
        for (int32_t k = 0; k < i; k++) {
            if (workers->v[i] != workers->v[k]) continue;
            dml_complain_at(&r->report, given(node, WORKERS)->item[i].place,
                            "worker %d is listed twice; 'shares' says how much of a stage each "
                            "runs",
                            workers->v[i]);
            return false;
        }
    return true;
}

static bool fill_shares(dml_spec_reader *r, const dml_yaml *node, dml_stage_spec *out)
{
    if (out->shares.n == 0) {
        int32_t *one = DML_NEW_N(r->arena, int32_t, out->workers.n);
        for (int32_t i = 0; i < out->workers.n; i++)
            one[i] = 1;
        out->shares = (dml_int_list){one, out->workers.n};
    }
    if (out->shares.n == out->workers.n) return true;
    dml_complain_at(&r->report, given(node, SHARES)->place,
                    "%d shares for %d workers: a share for each, or none at all", out->shares.n,
                    out->workers.n);
    return false;
}

static bool read_stage(dml_spec_reader *r, const dml_yaml *node, dml_stage_spec *out)
{
    if (node->kind != DML_YAML_MAP) {
        dml_spec_expected(r, node, "a stage such as {workers: [0, 1]}");
        return false;
    }
    if (!dml_spec_read_options(r, node, "a stage", options, OPTIONS, out)) return false;
    if (out->workers.n == 0) {
        dml_complain_at(&r->report, node->place, "a stage needs 'workers', those that run it");
        return false;
    }
    return workers_differ(r, node, &out->workers) && fill_shares(r, node, out);
}

bool dml_spec_read_stages(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec)
{
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, "a list of stages");
        dml_complain_note(&r->report,
                          "a number of stages is pipeline_parallel_size; here each names its "
                          "workers: [{workers: [0, 1]}, {workers: [2]}]");
        return false;
    }
    dml_stage_spec *stage = DML_NEW_N(r->arena, dml_stage_spec, node->n);
    bool ok = true;
    for (int32_t s = 0; s < node->n; s++)
        ok &= read_stage(r, &node->item[s], &stage[s]);
    spec->parallelism.stage = stage;
    spec->parallelism.n_stages = ok ? node->n : 0;
    return ok;
}

/* ---- what must hold ---------------------------------------------------------------------------------- */

static bool on_command_line(const dml_spec_entry *e)
{
    return e->key->place.file == dml_spec_command_line;
}

/* Two ways to lay a model out: one at a time.  A list on the command line replaces the sizes of the file; sizes there
 * do not replace the list of a file, since one of them alone does not say what is to become of the others. */
void dml_spec_settle_layout(dml_spec_reader *r)
{
    static const dml_spec_key_id equal[] = {DML_KEY_PIPELINE, DML_KEY_VIRTUAL, DML_KEY_REPLICAS,
                                            DML_KEY_SEATS};
    const dml_spec_entry *stages = &r->source->entry[DML_KEY_STAGES];
    if (r->spec->parallelism.n_stages == 0) return;
    for (size_t i = 0; i < sizeof equal / sizeof *equal; i++) {
        const dml_spec_key *key = &dml_spec_keys[equal[i]];
        dml_spec_entry *e = &r->source->entry[equal[i]];
        if (!e->value) continue;
        if (on_command_line(stages) && !on_command_line(e)) {
            *e = (dml_spec_entry){0};
            if (equal[i] == DML_KEY_SEATS)
                r->spec->parallelism.seats = (dml_int_list){0};
            else
                dml_spec_convert_text(r, key, key->fallback, r->spec);
            continue;
        }
        dml_complain_at(&r->report, e->key->place,
                        "'%s' is for equal pipelines, and 'stages' on %s names the workers of "
                        "each stage: keep one",
                        e->key->text, dml_complain_where(&r->report, stages->key->place));
        dml_complain_note(&r->report, "parallelism.stages=[] on the command line drops the list");
    }
}

/* Workers are processes 0 .. n - 1: one that runs nothing is a slip of the pen, or lost. */
static void check_gaps(dml_spec_reader *r)
{
    const int32_t workers = dml_spec_workers(r->spec);
    bool *named = DML_NEW_N(r->arena, bool, workers);
    for (int32_t s = 0; s < r->spec->parallelism.n_stages; s++) {
        const dml_int_list *list = &r->spec->parallelism.stage[s].workers;
        for (int32_t i = 0; i < list->n; i++)
            named[list->v[i]] = true;
    }
    for (int32_t i = 0; i < r->spec->parallelism.lost.n; i++)
        named[r->spec->parallelism.lost.v[i]] = true;
    for (int32_t w = 0; w < workers; w++) {
        if (named[w]) continue;
        dml_complain_at(&r->report, r->source->entry[DML_KEY_STAGES].value->place,
                        "no stage names worker %d, and there is a worker %d: number them from 0 "
                        "without gaps",
                        w, workers - 1);
        return;
    }
}

/* Everyone named runs something of every step. */
static void check_stage_shares(dml_spec_reader *r, int32_t s)
{
    const dml_stage_spec *stage = &r->spec->parallelism.stage[s];
    const dml_yaml *node = &r->source->entry[DML_KEY_STAGES].value->item[s],
                   *shares = given(node, SHARES);
    const int32_t mbs = r->spec->training.num_microbatches, n = stage->workers.n;
    int32_t *taker = DML_NEW_N(r->arena, int32_t, mbs), *runs = DML_NEW_N(r->arena, int32_t, n);
    dml_deal(stage->shares.v, n, mbs, taker);
    for (int32_t mb = 0; mb < mbs; mb++)
        runs[taker[mb]]++;
    for (int32_t i = 0; i < n; i++) {
        if (runs[i] > 0) continue;
        dml_complain_at(&r->report, (shares ? shares : given(node, WORKERS))->item[i].place,
                        "worker %d would run none of the step's %d micro-batches in stage %d",
                        stage->workers.v[i], mbs, s);
        dml_complain_note(&r->report, shares ? "a larger share would do, or a larger "
                                               "global_batch_size"
                                             : "fewer workers would do, or a larger "
                                               "global_batch_size");
        return;
    }
}

/* Each once, and one of the layout: equal pipelines have so many workers, stages name theirs. */
static void check_lost(dml_spec_reader *r)
{
    const dml_int_list *lost = &r->spec->parallelism.lost;
    const bool equal = r->spec->parallelism.n_stages == 0;
    const int32_t workers = equal ? dml_spec_workers(r->spec) : MOST_WORKERS;
    for (int32_t i = 0; i < lost->n; i++) {
        const dml_place place = r->source->entry[DML_KEY_LOST].value->item[i].place;
        if (lost->v[i] >= workers)
            dml_complain_at(&r->report, place, "there is no worker %d to lose: the layout has %d",
                            lost->v[i], workers);
        for (int32_t k = 0; k < i; k++)
            if (lost->v[k] == lost->v[i])
                dml_complain_at(&r->report, place, "worker %d is lost twice", lost->v[i]);
    }
}

/* Each of the layout's places is somebody's. */
static void check_seats(dml_spec_reader *r)
{
    const dml_int_list *seats = &r->spec->parallelism.seats;
    const dml_yaml *node = r->source->entry[DML_KEY_SEATS].value;
    const int32_t workers = dml_spec_workers(r->spec);
    if (seats->n == 0) return;
    if (seats->n != workers) {
        dml_complain_at(&r->report, node->place,
                        "%d seats for %d workers: for each worker whose place it takes", seats->n,
                        workers);
        return;
    }
    int32_t *taker = DML_NEW_N(r->arena, int32_t, workers); /* + 1 */
    for (int32_t w = 0; w < workers; w++) {
        const int32_t seat = seats->v[w];
        if (seat >= workers)
            dml_complain_at(&r->report, node->item[w].place,
                            "there is no worker %d whose place to take: the layout has %d", seat,
                            workers);
        else if (taker[seat] > 0)
            dml_complain_at(&r->report, node->item[w].place,
                            "workers %d and %d cannot both take the place of worker %d",
                            taker[seat] - 1, w, seat);
        else
            taker[seat] = w + 1;
    }
}

/* An order is of one layout: nothing that chooses another goes with it. */
static void check_order(dml_spec_reader *r)
{
    if (!dml_spec_has_order(r->spec)) return;
    const dml_place place = r->source->entry[DML_KEY_ORDER].value->place;
    const bool balances = r->spec->parallelism.balance == DML_BALANCE_DYNAMIC;
    if (!balances && strcmp(r->spec->planner.plan, DML_PLAN_AUTO) != 0) return;
    dml_complain_at(&r->report, place, "'order' is of one layout, and %s chooses others: keep one",
                    balances ? "balance: dynamic" : "plan: auto");
}

void dml_spec_check_stages(dml_spec_reader *r)
{
    dml_spec *spec = r->spec;
    const dml_spec_entry *entry = r->source->entry;
    const bool laid_out =
        !entry[DML_KEY_STAGES].bad && !entry[DML_KEY_PIPELINE].bad && !entry[DML_KEY_REPLICAS].bad;
    if (laid_out && !entry[DML_KEY_LOST].bad) check_lost(r);
    if (laid_out && !entry[DML_KEY_SEATS].bad && spec->parallelism.n_stages == 0) check_seats(r);
    check_order(r);
    if (spec->parallelism.n_stages == 0 || entry[DML_KEY_STAGES].bad) return;
    check_gaps(r);
    const bool counted = !entry[DML_KEY_GLOBAL_BATCH].bad && !entry[DML_KEY_MICRO_BATCH].bad &&
                         !entry[DML_KEY_NUM_MICROBATCHES].bad;
    for (int32_t s = 0; s < spec->parallelism.n_stages && counted; s++)
        check_stage_shares(r, s);
    if (entry[DML_KEY_SCHEDULE].value) return;
    spec->parallelism.schedule = DML_ORDER_AUTO; /* the only one that makes an order for this */
    r->source->entry[DML_KEY_SCHEDULE].derived = true;
}
