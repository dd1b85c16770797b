/* engine/lost_place.c - pairs key=value, and the holders of a stage. */
#include "engine/lost_place.h"

#include "engine/spec_value.h"

#include <string.h>

typedef struct place {
    int64_t stage, replica, worker; /* -1: not said */
} place;

/* Where a key's value goes; NULL: there is no such key. */
static int64_t *slot_of(place *p, const char *key)
{
    if (strcmp(key, "stage") == 0) return &p->stage;
    if (strcmp(key, "replica") == 0) return &p->replica;
    if (strcmp(key, "worker") == 0 || strcmp(key, "rank") == 0) return &p->worker;
    return NULL;
}

/* "key=7"; false: it is not, or the key was said before. */
static bool read_pair(char *pair, place *p)
{
    char *value = strchr(pair, '=');
    if (!value) return false;
    *value++ = '\0';
    int64_t *slot = slot_of(p, pair);
    return slot && *slot < 0 && dml_value_whole(value, slot) && *slot >= 0;
}

static bool read_place(char *text, place *p)
{
    char *rest = text;
    *p = (place){-1, -1, -1};
    for (char *pair = strtok_r(text, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest))
        if (!read_pair(pair, p)) return false;
    return p->worker >= 0 ? p->stage < 0 && p->replica < 0 : p->stage >= 0;
}

static dml_err of_stage(const char *text, const place *p, const dml_plan *plan, bool *lost)
{
    if (p->stage >= plan->stages)
        DML_FAIL(DML_ERR_SPEC, "--fail %s: the plan has stages 0 to %d", text, plan->stages - 1);
    const int32_t stage = (int32_t)p->stage, n = dml_plan_holders(plan, stage, NULL);
    dml_arena arena = {0};
    dml_str who = {0};
    int32_t *holder = DML_NEW_N(&arena, int32_t, n);
    dml_plan_holders(plan, stage, holder);
    const bool found = p->replica >= 0 && p->replica < n;
    if (found) lost[holder[p->replica]] = true;
    for (int32_t k = 0; k < n; k++)
        dml_str_printf(&who, "%s%d", k > 0 ? ", " : "", holder[k]);
    const dml_err err =
        found ? DML_ERR_OK
              : dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                            "--fail %s: stage %d has replicas 0 to %d, which are workers %s; such "
                            "as stage=%d,replica=0",
                            text, stage, n - 1, dml_str_text(&who), stage);
    dml_str_free(&who);
    dml_arena_free(&arena);
    return err;
}

dml_err dml_lost_place(const char *text, const dml_plan *plan, bool *lost)
{
    place p;
    dml_arena arena = {0};
    const bool read = read_place(dml_arena_printf(&arena, "%s", text), &p);
    dml_arena_free(&arena);
    if (!read) DML_FAIL(DML_ERR_SPEC, "--fail %s: such as stage=2,replica=1 or worker=7", text);
    if (p.stage >= 0) return of_stage(text, &p, plan, lost);
    if (p.worker >= plan->workers)
        DML_FAIL(DML_ERR_SPEC, "--fail %s: the plan has workers 0 to %d", text, plan->workers - 1);
    lost[p.worker] = true;
    return DML_ERR_OK;
}
