/* schedule/check.h - the named rules that every order and every program obeys.
 *
 * The error text starts with the rule that is broken: "once: worker 1, op 3, F1.0: ...".
 */
#ifndef DML_SCHEDULE_CHECK_H
#define DML_SCHEDULE_CHECK_H

#include "schedule/program.h"

/* clang-format off */
/*    rule       of        what holds; checked in this order, each relies on those above                 */
#define DML_RULE_LIST(X)                                                                                  \
    X(placed,    ORDER)   /* the chunks' layer ranges follow each other from layer 0: none lost or twice */ \
    X(owned,     ORDER)   /* the same for parameters                                                     */ \
    X(skips,     ORDER)   /* skips go up, their gradients down to the maker at most; few at one chunk    */ \
    X(routed,    ORDER)   /* every (chunk, mb) has a worker, ops are well-formed and on it, peers agree  */ \
    X(once,      ORDER)   /* one F and either one B or one I and one W for each (chunk, mb); a B or W    \
                           * in parts: each bucket's once, ascending, nothing else computed between; RC  \
                           * where the policy says: for all, for none, for all but one of a worker       */ \
    X(order,     ORDER)   /* F before B or I, I before W; RC between F and B or I                        */ \
    X(versions,  ORDER)   /* RC and backward read the weights their forward read, no newer ones than     \
                           * updates have made before them in their list; each holder of a chunk adds to \
                           * every update                                                                */ \
    X(fed,       ORDER)   /* every input is produced on the worker, or received, earlier in its list     */ \
    X(paired,    PROGRAM) /* for each ordered pair of workers: sends and receives are one sequence       */ \
    X(replicas,  PROGRAM) /* in each update one REDUCE per bucket and holder of its chunk, after the     \
                           * last op that adds to it, in orders that agree                               */ \
    X(stepped,   PROGRAM) /* in each update one VOTE after all reductions, if there are votes, and one   \
                           * STEP per chunk held, after it, or staggered before it and after those of    \
                           * its chunk; updates in order; a worker with no ops has no part               */ \
    X(intact,    PROGRAM) /* a version is read when it is made and not overwritten yet; a sum is not     \
                           * added to before the STEP of the update that had it                          */ \
    X(slots,     PROGRAM) /* a slot holds, whenever it is read, what the reader wants                    */ \
    X(waits,     PROGRAM) /* waits point backward to other lanes and cover every dependency across lanes */ \
    X(flows,     ORDER)   /* finishes on the strictest machine (schedule/play.h)                         */
/* clang-format on */
typedef enum dml_rule {
#define X(rule, level) DML_RULE_##rule,
    DML_RULE_LIST(X)
#undef X
} dml_rule;
#define X(...) +1
enum { DML_RULES = 0 DML_RULE_LIST(X) };
#undef X

const char *dml_rule_text(dml_rule rule); /* static */

typedef struct dml_check_report {
    dml_rule rule;  /* broken; DML_RULES: none                             */
    int32_t worker; /* where; -1: the rule is not about one worker or op   */
    int32_t op;
} dml_check_report;

/* Checks an order by the rules of orders, a program by all of them; near linear in the number of
 * ops. `report` may be NULL.
 *
 * DML_ERR_SPEC   an order breaks a rule: its author's doing
 * DML_ERR_BUG    a program does: ours, unless it was read from a file */
dml_err dml_check(const dml_program *p, dml_check_report *report);

#endif
