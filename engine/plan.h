/* engine/plan.h - who runs which layers under which schedule; a pure function of the spec.
 *
 * Every process of a run computes the plan from the same resolved spec and gets the same one.
 */
#ifndef DML_ENGINE_PLAN_H
#define DML_ENGINE_PLAN_H

#include "engine/base/str.h"
#include "engine/chunk.h"
#include "schedule/cost.h"
#include "schedule/program.h"

typedef struct dml_plan {
    const dml_spec *spec; /* borrowed */
    dml_model model;
    int32_t stages; /* that the model is cut into; a stage is a chunk of the programs */
    int32_t workers, mbs;
    int32_t ranks,
        replicas; /* of equal pipelines: workers of one, each with stages / ranks stages, and how many
                              * pipelines; both 0 under parallelism.stages */
    int32_t
        alike; /* pipelines for each of which the programs show one: 1, but of dml_plan_make_one */
    int32_t
        updates; /* optimizer steps of one run of `train`: its mbs are updates * mbs; 1 unless the
                              * schedule is asynchronous */
    int32_t *stage_begin;  /* [stages + 1] first layer of each stage */
    int64_t *reduce_bytes; /* [stages] that its holders sum up in an update: gradients and slots */
    dml_program train, eval; /* lowered and checked */
    dml_cost cost;           /* what the planner assumed: delays as given, the rest from flops */
    int64_t
        bound_ns; /* schedule auto, or with workers lost: no order over the same placement is shorter; else 0 */
    bool cost_is_exact; /* at least 99 % of the time is in delay layers */
    dml_arena arena;    /* owns the tables */
} dml_plan;

/* DML_ERR_SPEC  no such schedule, cut or division of micro-batches: the text says what would do
 * DML_ERR_BUG   the checker refused what the schedule made (names the rule) */
dml_err dml_plan_make(const dml_spec *spec, dml_plan *out);
void dml_plan_free(dml_plan *plan);

/* For pricing: of equal pipelines the programs show one, with the costs of the slowest of them and all-reduces among all
 * replicas, and `ranks` workers, one replica, and the micro-batches of one.  Where pipelines are alike, times and bytes
 * are those of dml_plan_make, at a cost that does not grow with their number.  Under parallelism.stages, where
 * workers are lost, and with parallelism.order: the same as dml_plan_make. */
dml_err dml_plan_make_one(const dml_spec *spec, dml_plan *out);
/* What worker w of the plan's programs may hold, the least of all it stands for; 0: no limit. */
int64_t dml_plan_limit(const dml_plan *plan, int32_t worker);

/* Equal pipelines, as against parallelism.stages; some of their workers may be lost. */
static inline bool dml_plan_is_equal(const dml_plan *p)
{
    return p->ranks > 0;
}

/* Whether the worker runs the stage for any micro-batch: the routes say so. */
bool dml_plan_holds(const dml_plan *p, int32_t worker, int32_t stage);
/* The workers that do, ascending, into `out` unless it is NULL; returns how many: the stage's replicas, and for a
 * schedule with two copies of the weights twice as many. */
int32_t dml_plan_holders(const dml_plan *p, int32_t stage, int32_t *out);
/* Micro-batches of a step that the worker runs of the stage. */
int32_t dml_plan_share(const dml_plan *p, int32_t worker, int32_t stage);

/* Whether parallelism.lost names the worker. */
bool dml_plan_lost(const dml_plan *p, int32_t worker);

/* A worker's place, for people; what it runs, only the routes say, and a lost one keeps the place that it had.  Equal pipelines: its rank in one, and which one;
 * replicas of a rank are neighbours, place = rank * replicas + replica, and worker w is at place w, or at that which
 * parallelism.seats gives it.  Under parallelism.stages: the first stage
 * that names it, and how many workers before it that stage names, too; both -1 where none does. */
int32_t dml_plan_rank(const dml_plan *p, int32_t worker);
int32_t dml_plan_replica(const dml_plan *p, int32_t worker);
/* Appends the stages that the worker holds: "0,2". */
void dml_plan_print_stages(const dml_plan *p, int32_t worker, dml_str *out);

/* Gives a chunk planned for `stage` the buffers that the training program asks for. */
void dml_plan_buffers(const dml_plan *p, int32_t stage, dml_chunk *c);

/* Time of a pass of a layer for one micro-batch on a worker of speed 1, as plan->cost adds it up. */
int64_t dml_plan_layer_ns(const dml_plan *plan, int32_t layer, dml_pass pass);

/* Bytes of the value of skip k, from 1 (plan->model.cut), of one micro-batch. */
int64_t dml_plan_skip_bytes(const dml_plan *plan, int32_t skip);

/* Simulates a training step: from the plan's own costs, or from measured ones.
 *   step_ns     from one step to the next (dml_simulate_period); a segment's time, divided by its steps, where the
 *               schedule is asynchronous
 *   bubble      [workers] idle share of the compute lane in that time
 *   stash_peak  [workers] most micro-batches between F and B at once
 *   exposed_ns  [workers] exposed communication of a step (schedule/sim.h) */
dml_err dml_plan_predict(const dml_plan *plan, const dml_cost *cost, int64_t *step_ns,
                         double *bubble, int32_t *stash_peak, int64_t *exposed_ns);

/* ---- plan_memory.c ---- */

enum {
    DML_WORKER_ALIGN = 256
}; /* of every part of a worker's memory: what GPU libraries like best */

static inline int64_t dml_worker_align(int64_t bytes)
{
    return (bytes + DML_WORKER_ALIGN - 1) / DML_WORKER_ALIGN * DML_WORKER_ALIGN;
}

/* Slots of the pool that serve both programs. */
int32_t dml_plan_slots(const dml_plan *plan, int32_t worker, int32_t stage, dml_pool pool);
/* Loaded batches, or labels, that the first or the last stage holds at once: one for each slot that a forward may
 * write (engine/exec.h). */
int32_t dml_plan_batches(const dml_plan *plan, int32_t worker, int32_t stage);

/* Device memory of a worker, to the byte: what it will have allocated before the first step, kernel libraries' own
 * workspaces aside. */
typedef struct dml_plan_memory {
    int64_t
        state_bytes; /* parameters, gradients, optimizer state, what is reduced, one call's scratch */
    int64_t activation_bytes; /* slots of all pools, loaded batches and labels */
} dml_plan_memory;

/* Of what the worker holds of one stage, and in all.
 * DML_ERR_SPEC, DML_ERR_BUG  the stage cannot be planned (engine/chunk.h) */
dml_err dml_plan_stage_memory(const dml_plan *plan, int32_t worker, int32_t stage,
                              dml_plan_memory *out);
dml_err dml_plan_memory_of(const dml_plan *plan, int32_t worker, dml_plan_memory *out);

/* Both together; 0 when a stage cannot be planned. */
int64_t dml_plan_worker_bytes(const dml_plan *plan, int32_t worker);

#endif
