/* engine/spec_faults.c - failures.inject: faults as text, or written out.
 *
 *   inject:
 *     - kill@step=200,stage=2,replica=0
 *     - {type: hang, at: {step: 400, phase: backward, micro_batch: 3}, target: {rank: 5}, duration: 20s}
 *     - {type: corrupt, at: {step: 9}, target: {rank: 1}, tensor: conv1.weight}
 */
#include "engine/spec_read.h"

#include "engine/spec_value.h"

#include <string.h>

/* A fault while it is read. */
typedef struct written {
    dml_fault fault;
    dml_int_list peers;
    const char *tensor;
    const dml_yaml *at, *target;
} written;

/* A space before each. */
static const char type_words[] =
#define X(type, text, ...) " " text
    DML_FAULT_LIST(X)
#undef X
    ;

static const char phase_words[] =
#define X(phase, text) " " text
    DML_FAULT_PHASE_LIST(X)
#undef X
    ;

#define FIELD(field) offsetof(written, fault.field)

enum { TYPE, FAULT_OPTIONS = 8, AT_OPTIONS = 4, TARGET_OPTIONS = 3 };

static const dml_spec_key fault_options[FAULT_OPTIONS] = {
    [TYPE] = {"type", DML_SPEC_WORD, FIELD(type), DML_SPEC_NONE, type_words + 1, "", "", ""},
    {"at", DML_SPEC_NODE, offsetof(written, at), DML_SPEC_NONE, "", "", "", ""},
    {"target", DML_SPEC_NODE, offsetof(written, target), DML_SPEC_NONE, "", "", "", ""},
    {"duration", DML_SPEC_TIME, FIELD(duration_ns), DML_SPEC_NONE, "", "", "", ""},
    {"factor", DML_SPEC_NUMBER, FIELD(factor), DML_SPEC_NONE, ">=1", "", "", ""},
    {"code", DML_SPEC_INT, FIELD(code), DML_SPEC_NONE, "[0,255]", "", "", ""},
    {"peers", DML_SPEC_INTS, offsetof(written, peers), DML_SPEC_NONE, "[0,63]", "", "peer", ""},
    {"tensor", DML_SPEC_TEXT, offsetof(written, tensor), DML_SPEC_NONE, "", "", "", ""},
};

static const dml_spec_key at_options[AT_OPTIONS] = {
    {"step", DML_SPEC_LONG, FIELD(step), DML_SPEC_NONE, ">=1", "", "", ""},
    {"phase", DML_SPEC_WORD, FIELD(phase), DML_SPEC_NONE, phase_words + 1, "", "", ""},
    {"micro_batch", DML_SPEC_INT, FIELD(mb), DML_SPEC_NONE, ">=0", "", "mb", ""},
    {"time", DML_SPEC_TIME, FIELD(time_ns), DML_SPEC_NONE, "", "", "", ""},
};

static const dml_spec_key target_options[TARGET_OPTIONS] = {
    {"rank", DML_SPEC_INT, FIELD(rank), DML_SPEC_NONE, "[0,63]", "", "worker", ""},
    {"stage", DML_SPEC_INT, FIELD(stage), DML_SPEC_NONE, ">=0", "", "", ""},
    {"replica", DML_SPEC_INT, FIELD(replica), DML_SPEC_NONE, ">=0", "", "", ""},
};

/* ---- reading ----------------------------------------------------------------------------------------- */

/* What the parser of faults has to say, under the place that the spec knows. */
static bool refused(dml_spec_reader *r, const dml_yaml *node, dml_err err)
{
    if (err == DML_ERR_OK) return false;
    const char *why = dml_err_trail();
    dml_complain_at(&r->report, node->place, "this is no fault:");
    dml_complain_note(&r->report, "%s", why + strspn(why, " "));
    return true;
}

static bool fill_in(dml_spec_reader *r, const dml_yaml *node, written *w)
{
    for (int32_t i = 0; i < w->peers.n; i++)
        w->fault.peers |= UINT64_C(1) << w->peers.v[i];
    if (!w->tensor) return true;
    if (strlen(w->tensor) < sizeof w->fault.tensor) {
        strcpy(w->fault.tensor, w->tensor);
        return true;
    }
    dml_complain_at(&r->report, node->place, "'tensor' has more than %zu characters",
                    sizeof w->fault.tensor - 1);
    return false;
}

static bool read_written(dml_spec_reader *r, const dml_yaml *node, dml_fault *out)
{
    written w = {.fault = dml_fault_none()};
    if (!dml_spec_read_options(r, node, "a fault", fault_options, FAULT_OPTIONS, &w)) return false;
    if (!dml_spec_option(node, &fault_options[TYPE])) {
        dml_complain_at(&r->report, node->place, "a fault needs 'type'");
        return false;
    }
    if (w.at && !dml_spec_read_options(r, w.at, "'at'", at_options, AT_OPTIONS, &w)) return false;
    if (w.target &&
        !dml_spec_read_options(r, w.target, "'target'", target_options, TARGET_OPTIONS, &w))
        return false;
    if (!fill_in(r, node, &w) || refused(r, node, dml_fault_check(&w.fault))) return false;
    *out = w.fault;
    return true;
}

static bool read_fault(dml_spec_reader *r, const dml_yaml *node, dml_fault *out)
{
    const bool text = node->kind == DML_YAML_SCALAR && !dml_yaml_is_null(node);
    if (text ? refused(r, node, dml_fault_parse(node->text, out)) : !read_written(r, node, out))
        return false;
    if (out->step > 0 || out->time_ns >= 0) return true;
    dml_complain_at(&r->report, node->place, "when? a fault of a spec has a step, or a time");
    return false;
}

bool dml_spec_read_faults(dml_spec_reader *r, const dml_yaml *node, dml_spec *spec)
{
    if (node->kind != DML_YAML_LIST) {
        dml_spec_expected(r, node, "a list of faults such as [\"kill@step=200,rank=1\"]");
        return false;
    }
    if (node->n > DML_FAULTS) {
        dml_complain_at(&r->report, node->place, "a run takes %d faults, not %d", DML_FAULTS,
                        node->n);
        return false;
    }
    dml_fault *fault = DML_NEW_N(r->arena, dml_fault, node->n);
    bool ok = true;
    for (int32_t i = 0; i < node->n; i++)
        ok &= read_fault(r, &node->item[i], &fault[i]);
    spec->failures.fault = fault;
    spec->failures.n_faults = ok ? node->n : 0;
    return ok;
}

bool dml_spec_read_fault_types(dml_spec_reader *r, const dml_yaml *node, uint32_t *out)
{
    uint32_t types = 0;
    if (node->kind != DML_YAML_LIST || node->n == 0) {
        dml_spec_expected(r, node, "a list of types of faults such as [kill, hang]");
        return false;
    }
    static const dml_spec_key word = {
        "types", DML_SPEC_WORD, 0, DML_SPEC_NONE, type_words + 1, "", "", ""};
    for (int32_t i = 0; i < node->n; i++) {
        int32_t type = 0;
        if (!dml_spec_convert(r, &word, "types", &node->item[i], &type)) return false;
        if (type == DML_FAULT_XID || type == DML_FAULT_LINK_DOWN || type == DML_FAULT_PARTITION) {
            dml_complain_at(&r->report, node->item[i].place, "'%s' needs more than a type",
                            dml_fault_name((dml_fault_type)type));
            return false;
        }
        types |= UINT32_C(1) << type;
    }
    *out = types;
    return true;
}

/* ---- printing ---------------------------------------------------------------------------------------- */

void dml_spec_print_faults(dml_str *s, const dml_spec *spec)
{
    char text[DML_FAULT_TEXT_BYTES];
    for (int32_t i = 0; i < spec->failures.n_faults; i++) {
        dml_fault_print(&spec->failures.fault[i], text);
        dml_str_printf(s, "%s\"%s\"", i ? ", " : "[", text);
    }
    dml_str_printf(s, "]");
}

void dml_spec_print_fault_types(dml_str *s, uint32_t types)
{
    const char *sep = "[";
    for (int32_t t = 0; t < DML_FAULT_TYPES; t++) {
        if (!(types >> t & 1)) continue;
        dml_str_printf(s, "%s%s", sep, dml_fault_name((dml_fault_type)t));
        sep = ", ";
    }
    dml_str_printf(s, "]");
}
