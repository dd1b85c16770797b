/* kernels/cuda/dnn_plan.c - operation graph, engine, execution plan, run.
 *
 *   graph -> heuristics A, then fallback -> configuration 0, 1, 2 ... -> notes allowed? plan built? fits? -> plan
 *   graph -> engine by index + knobs     -> configuration             ------------->  plan built?       -> plan
 */
#include "kernels/cuda/dnn_plan.h"

#include <inttypes.h>
#include <stdio.h>

/* The attributes that take a described device.  As numbers, so that headers from before 9.8 compile. */
enum { ENGINEHEUR_DEVICE = 204, PLAN_DEVICE = 407, ENGINE_DEVICE = 1307 };

enum { MAX_CONFIGS = 64, MAX_NOTES = 32 };

#define ATTRIBUTE(name, kind, variable)           \
    {                                             \
        (name), CUDNN_TYPE_##kind, 1, &(variable) \
    }

/* Descriptors that the library fills in when asked; destroyed together. */
static dml_err make_empty(cudnnBackendDescriptorType_t type, int64_t n,
                          cudnnBackendDescriptor_t out[])
{
    for (int64_t i = 0; i < n; i++)
        out[i] = NULL;
    for (int64_t i = 0; i < n; i++)
        DML_TRY(DML_CUDNN(cudnnBackendCreateDescriptor, (type, &out[i])));
    return DML_ERR_OK;
}

static void destroy(int64_t n, cudnnBackendDescriptor_t d[])
{
    for (int64_t i = 0; i < n; i++)
        if (d[i]) cudnnBackendDestroyDescriptor(d[i]);
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- rules ---- */

bool dml_cudnn_allowed(const dml_cudnn_rules *rules, int32_t dtype,
                       const cudnnBackendNumericalNote_t *notes, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        switch ((int)notes[i]) { /* an open list */
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        case CUDNN_NUMERICAL_NOTE_FFT:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: return false;
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: /* for F32 that is TF32 */
            if (dtype == DML_F32 && !rules->tf32) return false;
            break;
        default: break;
        }
    return true;
}

/* Engine, notes and knobs of a configuration. */
typedef struct engine_facts {
    dml_cudnn_choice choice;
    cudnnBackendNumericalNote_t notes[MAX_NOTES];
    int64_t n_notes;
} engine_facts;

static dml_err read_engine(cudnnBackendDescriptor_t config, cudnnBackendDescriptor_t engine,
                           engine_facts *out)
{
    int64_t one = 0;
    DML_TRY(DML_CUDNN(cudnnBackendGetAttribute, (config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one, &engine)));
    DML_TRY(DML_CUDNN(cudnnBackendGetAttribute, (engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                                                 CUDNN_TYPE_INT64, 1, &one, &out->choice.engine)));
    DML_TRY(DML_CUDNN(cudnnBackendGetAttribute,
                      (engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                       MAX_NOTES, &out->n_notes, out->notes)));
    out->n_notes = min64(out->n_notes, MAX_NOTES);
    return DML_ERR_OK;
}

static dml_err read_knobs(cudnnBackendDescriptor_t config, cudnnBackendDescriptor_t knobs[],
                          dml_cudnn_choice *out)
{
    DML_TRY(DML_CUDNN(cudnnBackendGetAttribute,
                      (config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                       DML_CUDNN_KNOBS, &out->n_knobs, knobs)));
    if (out->n_knobs > DML_CUDNN_KNOBS)
        DML_FAIL(DML_ERR_UNAVAILABLE, "engine %" PRId64 " has %" PRId64 " knobs, of %d we keep",
                 out->engine, out->n_knobs, DML_CUDNN_KNOBS);
    for (int64_t i = 0; i < out->n_knobs; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        int64_t one = 0;
        DML_TRY(DML_CUDNN(cudnnBackendGetAttribute, (knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                                     CUDNN_TYPE_KNOB_TYPE, 1, &one, &type)));
        DML_TRY(DML_CUDNN(cudnnBackendGetAttribute, (knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE,
                                                     CUDNN_TYPE_INT64, 1, &one, &out->value[i])));
        out->knob[i] = (int64_t)type;
    }
    return DML_ERR_OK;
}

static dml_err read_config(cudnnBackendDescriptor_t config, engine_facts *out)
{
    *out = (engine_facts){0};
    cudnnBackendDescriptor_t engine[1], knobs[DML_CUDNN_KNOBS];
    dml_err err = make_empty(CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1, engine);
    if (err == DML_ERR_OK) err = read_engine(config, engine[0], out);
    destroy(1, engine);
    DML_TRY(err);
    err = make_empty(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, DML_CUDNN_KNOBS, knobs);
    if (err == DML_ERR_OK) err = read_knobs(config, knobs, &out->choice);
    destroy(DML_CUDNN_KNOBS, knobs);
    return err;
}

/* ---- plans ---- */

static dml_err build_plan(dml_cudnn_ready *r, const dml_cudnn_target *target,
                          cudnnBackendDescriptor_t config, const dml_cudnn_rules *rules)
{
    const dml_cudnn_attribute attributes[] = {
        ATTRIBUTE(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, BACKEND_DESCRIPTOR, config),
        target->device ? (dml_cudnn_attribute)ATTRIBUTE((cudnnBackendAttributeName_t)PLAN_DEVICE,
                                                        BACKEND_DESCRIPTOR, target->device)
                       : (dml_cudnn_attribute)ATTRIBUTE(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, HANDLE,
                                                        target->handle)};
    cudnnBackendDescriptor_t plan;
    DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, attributes, 2, &plan));
    int64_t one = 0;
    dml_err err =
        DML_CUDNN(cudnnBackendGetAttribute, (plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                             CUDNN_TYPE_INT64, 1, &one, &r->workspace_bytes));
    if (err == DML_ERR_OK && r->workspace_bytes > rules->workspace_bytes)
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__,
                          "it wants %" PRId64 " bytes of workspace, of %" PRId64,
                          r->workspace_bytes, rules->workspace_bytes);
    if (err == DML_ERR_OK)
        r->plan = plan;
    else
        cudnnBackendDestroyDescriptor(plan);
    return err;
}

/* Counts of what became of the engines, for the message when there is none. */
typedef struct search {
    int64_t listed, forbidden, refused;
} search;

static dml_err try_configs(dml_cudnn_ready *r, const dml_cudnn_target *target,
                           const dml_cudnn_rules *rules, int32_t dtype,
                           const cudnnBackendDescriptor_t configs[], int64_t n, search *s)
{
    s->listed += n;
    for (int64_t i = 0; i < n && !r->plan; i++) {
        engine_facts facts;
        const dml_err err = read_config(configs[i], &facts);
        if (err != DML_ERR_OK && err != DML_ERR_UNAVAILABLE) return err;
        if (err == DML_ERR_UNAVAILABLE) { /* more knobs than a choice keeps */
            s->refused++;
            continue;
        }
        if (!dml_cudnn_allowed(rules, dtype, facts.notes, facts.n_notes)) {
            s->forbidden++;
            continue;
        }
        if (build_plan(r, target, configs[i], rules) != DML_ERR_OK)
            s->refused++; /* the next one may do */
        else
            r->choice = facts.choice;
    }
    return DML_ERR_OK;
}

static dml_err ask(dml_cudnn_ready *r, const dml_cudnn_target *target, const dml_cudnn_rules *rules,
                   int32_t dtype, cudnnBackendHeurMode_t mode, search *s)
{
    const dml_cudnn_attribute attributes[] = {
        ATTRIBUTE(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, BACKEND_DESCRIPTOR, r->operation_graph),
        ATTRIBUTE(CUDNN_ATTR_ENGINEHEUR_MODE, HEUR_MODE, mode),
        ATTRIBUTE((cudnnBackendAttributeName_t)ENGINEHEUR_DEVICE, BACKEND_DESCRIPTOR,
                  target->device)};
    cudnnBackendDescriptor_t heuristics, configs[MAX_CONFIGS];
    DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, attributes,
                               target->device ? 3 : 2, &heuristics));
    int64_t n = 0;
    dml_err err = make_empty(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, MAX_CONFIGS, configs);
    if (err == DML_ERR_OK)
        err = DML_CUDNN(cudnnBackendGetAttribute,
                        (heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                         MAX_CONFIGS, &n, configs));
    if (err == DML_ERR_OK)
        err = try_configs(r, target, rules, dtype, configs, min64(n, MAX_CONFIGS), s);
    destroy(MAX_CONFIGS, configs);
    cudnnBackendDestroyDescriptor(heuristics);
    return err;
}

static dml_err search_plan(dml_cudnn_ready *r, const dml_cudnn_target *target,
                           const dml_cudnn_rules *rules, const dml_cudnn_op *op)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    search s = {0};
    for (size_t i = 0; i < sizeof modes / sizeof *modes && !r->plan; i++)
        DML_TRY(ask(r, target, rules, op->dtype, modes[i], &s));
    if (r->plan) return DML_ERR_OK;
    char text[DML_CUDNN_TEXT];
    dml_cudnn_text(op, text, sizeof text);
    DML_FAIL(DML_ERR_UNAVAILABLE,
             "no engine of cuDNN %zu computes the %s: of %" PRId64 " listed, %" PRId64
             " are not allowed (tf32 %d) and %" PRId64 " do not build or want over %" PRId64
             " bytes of workspace",
             cudnnGetVersion(), text, s.listed, s.forbidden, rules->tf32, s.refused,
             rules->workspace_bytes);
}

/* ---- the plan of a choice ---- */

static dml_err config_of(const dml_cudnn_ready *r, const dml_cudnn_target *target,
                         const dml_cudnn_choice *wanted, cudnnBackendDescriptor_t part[])
{
    const dml_cudnn_attribute engine[] = {
        ATTRIBUTE(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, BACKEND_DESCRIPTOR, r->operation_graph),
        ATTRIBUTE(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, INT64, wanted->engine),
        ATTRIBUTE((cudnnBackendAttributeName_t)ENGINE_DEVICE, BACKEND_DESCRIPTOR, target->device)};
    DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_ENGINE_DESCRIPTOR, engine, target->device ? 3 : 2,
                               &part[0]));
    for (int64_t i = 0; i < wanted->n_knobs; i++) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)wanted->knob[i];
        const dml_cudnn_attribute knob[] = {
            ATTRIBUTE(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, type),
            ATTRIBUTE(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, INT64, wanted->value[i])};
        DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, knob, 2, &part[2 + i]));
    }
    const dml_cudnn_attribute config[] = {
        ATTRIBUTE(CUDNN_ATTR_ENGINECFG_ENGINE, BACKEND_DESCRIPTOR, part[0]),
        {CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, wanted->n_knobs,
         &part[2]}};
    return dml_cudnn_describe(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, config, wanted->n_knobs ? 2 : 1,
                              &part[1]);
}

static dml_err wanted_plan(dml_cudnn_ready *r, const dml_cudnn_target *target,
                           const dml_cudnn_rules *rules, const dml_cudnn_choice *wanted)
{
    if (wanted->n_knobs < 0 || wanted->n_knobs > DML_CUDNN_KNOBS)
        DML_FAIL(DML_ERR_DATA, "a choice of an engine with %" PRId64 " knobs", wanted->n_knobs);
    cudnnBackendDescriptor_t part[2 + DML_CUDNN_KNOBS] = {NULL}; /* engine, configuration, knobs */
    dml_err err = config_of(r, target, wanted, part);
    if (err == DML_ERR_OK) err = build_plan(r, target, part[1], rules);
    destroy(2 + DML_CUDNN_KNOBS, part);
    r->choice = *wanted;
    return err;
}

/* ---- ready ---- */

static dml_err prepare(dml_cudnn_ready *r, const dml_cudnn_target *target,
                       const dml_cudnn_rules *rules, const dml_cudnn_op *op,
                       const dml_cudnn_choice *wanted)
{
    DML_TRY(dml_cudnn_graph_init(&r->graph, op));
    const dml_cudnn_attribute attributes[] = {
        {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, r->graph.n_operations,
         r->graph.operation},
        ATTRIBUTE(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, HANDLE, target->handle)};
    DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, attributes,
                               target->device ? 1 : 2, &r->operation_graph));
    return wanted ? wanted_plan(r, target, rules, wanted) : search_plan(r, target, rules, op);
}

dml_err dml_cudnn_ready_init(dml_cudnn_ready *r, const dml_cudnn_target *target,
                             const dml_cudnn_rules *rules, const dml_cudnn_op *op,
                             const dml_cudnn_choice *wanted)
{
    *r = (dml_cudnn_ready){0};
    const dml_err err = prepare(r, target, rules, op, wanted);
    if (err != DML_ERR_OK) dml_cudnn_ready_free(r);
    return err;
}

void dml_cudnn_ready_free(dml_cudnn_ready *r)
{
    if (r->plan) cudnnBackendDestroyDescriptor(r->plan);
    if (r->operation_graph) cudnnBackendDestroyDescriptor(r->operation_graph);
    dml_cudnn_graph_free(&r->graph);
    *r = (dml_cudnn_ready){0};
}

dml_err dml_cudnn_ready_run(const dml_cudnn_ready *r, cudnnHandle_t handle,
                            void *const memory[DML_CUDNN_SLOTS], void *workspace)
{
    int64_t uid[DML_CUDNN_SLOTS];
    void *at[DML_CUDNN_SLOTS];
    for (int32_t i = 0; i < r->graph.n_slots; i++) {
        uid[i] = r->graph.slot[i] + 1;
        at[i] = memory[r->graph.slot[i]];
    }
    const dml_cudnn_attribute attributes[] = {
        {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, r->graph.n_slots, uid},
        {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, r->graph.n_slots, at},
        ATTRIBUTE(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, VOID_PTR, workspace)};
    cudnnBackendDescriptor_t pack;
    DML_TRY(dml_cudnn_describe(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, attributes, 3, &pack));
    const dml_err err = DML_CUDNN(cudnnBackendExecute, (handle, r->plan, pack));
    cudnnBackendDestroyDescriptor(pack);
    return err;
}
