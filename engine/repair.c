#include "engine/repair.h"

const char *dml_repair_text(dml_repair repair)
{
    static const char *const text[] = {
#define X(repair, text) text,
        DML_REPAIR_LIST(X)
#undef X
    };
    return text[repair];
}
