/* engine/plan_file.c - writes a plan; engine/spec_plan.c reads it. */
#include "engine/plan_file.h"

#include "engine/base/str.h"
#include "engine/choose_impl.h"
#include "engine/plan.h"
#include "engine/spec_read.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void append_text(dml_str *out, const char *text)
{
    dml_str_printf(out, "\"");
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\')
            dml_str_printf(out, "\\%c", *c);
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            dml_str_printf(out, "\\u%04x", (unsigned char)*c);
        else
            dml_str_append(out, c, 1);
    }
    dml_str_printf(out, "\"");
}

static void append_ints(dml_str *out, const int32_t *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        dml_str_printf(out, "%s%" PRId32, i ? ", " : "[", v[i]);
    dml_str_printf(out, "]");
}

/* ---- costs: as they are printed in a spec, in JSON's form ---- */

static bool is_number(const dml_yaml *node)
{
    char *end;
    if (!node->plain || !node->text[0]) return false;
    strtod(node->text, &end);
    return !*end && strspn(node->text, "0123456789.eE+-") == strlen(node->text);
}

/* On one line, but for a list of maps, which has a line for each. */
static void append_node(const dml_yaml *node, int32_t indent, dml_str *out)
{
    if (node->kind == DML_YAML_SCALAR) {
        if (is_number(node))
            dml_str_printf(out, "%s", node->text);
        else
            append_text(out, node->text);
        return;
    }
    const bool map = node->kind == DML_YAML_MAP;
    const bool lines =
        (map && indent == 6) || (!map && node->n > 0 && node->item[0].kind == DML_YAML_MAP);
    dml_str_printf(out, map ? "{" : "[");
    for (int32_t i = 0; i < node->n; i++) {
        if (i) dml_str_printf(out, lines ? "," : ", ");
        if (lines) dml_str_printf(out, "\n%*s", indent, "");
        if (map) {
            append_text(out, node->key[i].text);
            dml_str_printf(out, ": ");
        }
        append_node(&node->item[i], indent + 2, out);
    }
    dml_str_printf(out, map ? "}" : "]");
}

static dml_err append_costs(const dml_spec *spec, dml_str *out)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    if (!to) DML_FAIL(DML_ERR_NOMEM, "no memory for the costs of a plan");
    dml_spec_print_costs(spec, to, 0);
    fclose(to);
    dml_arena arena = {0};
    const dml_spec_text source = {.file = "costs", .text = text};
    dml_complaints report = {.arena = &arena, .source = &source};
    const dml_yaml *root = dml_yaml_parse(&report, "costs", 0, text);
    const dml_err err = dml_complain_finish(&report);
    if (err == DML_ERR_OK && root) {
        dml_str_printf(out, ",\n    \"costs\": ");
        append_node(root, 6, out);
    }
    dml_arena_free(&arena);
    free(text);
    return err;
}

/* ---- what is set ---- */

static void append_stages(const dml_candidate *c, dml_str *out)
{
    dml_str_printf(out, "\"stages\": [");
    for (int32_t s = 0; s < c->n_stages; s++) {
        dml_str_printf(out, "%s{\"workers\": ", s ? ", " : "");
        append_ints(out, c->stage[s].workers.v, c->stage[s].workers.n);
        dml_str_printf(out, ", \"shares\": ");
        append_ints(out, c->stage[s].shares.v, c->stage[s].shares.n);
        dml_str_printf(out, "}");
    }
    dml_str_printf(out, "],\n                    ");
}

/* The cut, the loss not counted; where the spec says how, its words: the plan may be loaded without them. */
static dml_err append_split(const dml_spec *spec, const dml_candidate *c, dml_str *out)
{
    const dml_spec v = dml_candidate_spec(spec, c);
    const dml_split split = v.parallelism.split;
    dml_str_printf(out, ",\n                    \"split\": ");
    if (split == DML_SPLIT_LIST) {
        append_ints(out, v.parallelism.split_list, dml_spec_stages(&v));
    } else if (dml_space_fixed(spec, "parallelism.split")) {
        dml_str_printf(out, split == DML_SPLIT_AUTO ? "\"auto\"" : "\"uniform\"");
    } else {
        dml_plan plan;
        DML_TRY(dml_plan_make_one(&v, &plan));
        for (int32_t s = 0; s < plan.stages; s++)
            dml_str_printf(out, "%s%" PRId32, s ? ", " : "[",
                           plan.stage_begin[s + 1] - plan.stage_begin[s] - (s + 1 == plan.stages));
        dml_str_printf(out, "]");
        dml_plan_free(&plan);
    }
    return DML_ERR_OK;
}

static dml_err append_settings(const dml_spec *spec, const dml_candidate *c, dml_str *out)
{
    dml_str_printf(out,
                   "  \"set\": {\n    \"training\": {\"global_batch_size\": %" PRId32
                   ", \"micro_batch_size\": %" PRId32 "},\n    \"parallelism\": {",
                   spec->training.global_batch_size, c->micro_batch);
    if (c->ranks > 0)
        dml_str_printf(out,
                       "\"pipeline_parallel_size\": %" PRId32 ", \"data_parallel_size\": %" PRId32
                       ", \"virtual_pipeline_stages\": %" PRId32 ",\n                    ",
                       c->ranks, c->replicas, c->virtual_stages);
    else
        append_stages(c, out);
    if (strncmp(c->schedule, DML_ORDER_CSV, strlen(DML_ORDER_CSV)) != 0) {
        dml_str_printf(out, "\"schedule\": ");
        append_text(out, c->schedule);
        dml_str_printf(out, ", ");
    }
    dml_str_printf(out, "\"recompute\": \"%s\"", dml_recompute_text(c->recompute));
    DML_TRY(append_split(spec, c, out));
    dml_str_printf(out, "}");
    if (spec->costs && !dml_space_fixed(spec, "costs")) DML_TRY(append_costs(spec, out));
    dml_str_printf(out, "\n  }");
    return DML_ERR_OK;
}

dml_err dml_plan_file_print(const dml_spec *spec, const dml_candidate *c, dml_str *out)
{
    const double step_s = (double)c->step_ns * 1e-9;
    dml_str_printf(out,
                   "{\n  \"dml_plan\": 1,\n  \"for\": {\"model\": \"%016" PRIx64
                   "\", \"global_batch_size\": %" PRId32 ", \"name\": ",
                   dml_spec_model_hash(spec), spec->training.global_batch_size);
    append_text(out, spec->run.name);
    dml_str_printf(out, "},\n");
    DML_TRY(append_settings(spec, c, out));
    dml_str_printf(
        out,
        ",\n  \"predicted\": {\"step_ms\": %.6f, \"samples_per_s\": %.1f, \"bubble\": %.4f, "
        "\"most_bytes\": %" PRId64 "}",
        step_s * 1e3, step_s > 0.0 ? spec->training.global_batch_size / step_s : 0.0,
        fmax(1.0 - (c->share.work_ns + c->share.recompute_ns) / (double)c->step_ns, 0.0), c->bytes);
    dml_str_printf(out, "\n}\n");
    return DML_ERR_OK;
}

dml_err dml_plan_file_save(const dml_choice *choice, const dml_spec *spec, const char *path)
{
    static const char *const objective[] = {"throughput", "memory", "latency"};
    const time_t now = time(NULL);
    struct tm tm;
    char at[32];
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    FILE *to = fopen(path, "w");
    if (!to) DML_FAIL(DML_ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
    const int body = (int)strlen(choice->text) - 3; /* behind the last entry */
    fprintf(
        to,
        "%.*s,\n  \"made\": {\"by\": \"dml-plan %s\", \"at\": \"%s\", \"objective\": \"%s\"}\n}\n",
        body, choice->text, DML_VERSION, at, objective[spec->planner.objective]);
    const bool failed = ferror(to) != 0;
    if (fclose(to) != 0 || failed) DML_FAIL(DML_ERR_UNAVAILABLE, "cannot write '%s'", path);
    return DML_ERR_OK;
}
