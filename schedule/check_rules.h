/* schedule/check_rules.h - what the rules of schedule/check.h share; only check*.c include it. */
#ifndef DML_SCHEDULE_CHECK_RULES_H
#define DML_SCHEDULE_CHECK_RULES_H

#include "schedule/check.h"
#include "schedule/index.h"

typedef struct dml_checking {
    const dml_program *p;
    dml_arena arena;
    dml_index ix; /* filled by the rule `once` */
    dml_check_report report;
} dml_checking;

#define X(rule, level) dml_err dml_rule_##rule(dml_checking *k);
DML_RULE_LIST(X)
#undef X

/* Reports that the current rule is broken at op `i` of worker `w` (-1: at none), starts the trail
 * with "rule: worker w, op i, NAME: " and the given text, and returns the code for it. */
dml_err dml_check_fail(dml_checking *k, int32_t w, int32_t i, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
