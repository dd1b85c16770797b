/* engine/repair.h - what may become of the work of the lost (engine/replan.h). */
#ifndef DML_ENGINE_REPAIR_H
#define DML_ENGINE_REPAIR_H

/* clang-format off */
/*    repair     text                                what becomes of the work of the lost                    */
#define DML_REPAIR_LIST(X)                                                                                     \
    X(NONE,      "none")                          /* nobody is lost                                         */ \
    X(REROUTE,   "re-route")                      /* other holders of their stages run it                   */ \
    X(DECOUPLED, "re-route, decoupled")           /* the same; input and weight gradients apart             */ \
    X(STAGGERED, "re-route, staggered")           /* the same, and optimizer steps do not wait for all      */ \
    X(HELPED,    "re-route, helped")              /* workers of other stages hold theirs as well            */ \
    X(DAMAGED,   "re-cut of damaged pipelines")   /* who is left of a pipeline has other stages of it       */ \
    X(RECUT,     "re-cut")                        /* the model has other stages                             */ \
    X(DROP,      "drop pipelines")                /* whole pipelines run it; who is left of others rests    */ \
    X(RESTART,   "restart")                       /* nobody until they are back: from a checkpoint          */
/* clang-format on */
typedef enum dml_repair {
#define X(repair, text) DML_REPAIR_##repair,
    DML_REPAIR_LIST(X)
#undef X
} dml_repair;
#define X(...) +1
enum { DML_REPAIRS = 0 DML_REPAIR_LIST(X) };
#undef X
const char *dml_repair_text(dml_repair repair); /* static */

enum { DML_REPAIRS_ALL = (1 << DML_REPAIRS) - 1 };

#endif
