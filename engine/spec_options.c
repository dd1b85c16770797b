/* engine/spec_options.c - a mapping of options, such as a stage's, into a struct: the rows of a small table say which
 * there are. */
#include "engine/spec_read.h"

#include "engine/base/str.h"
#include "engine/spec_value.h"

static void unknown_option(dml_spec_reader *r, const dml_yaml *key, const char *what,
                           const dml_spec_key *options, int32_t n)
{
    dml_nearest close = dml_nearest_to(key->text);
    dml_str all = {0};
    for (int32_t o = 0; o < n; o++) {
        dml_nearest_offer(&close, options[o].path, options[o].path);
        dml_str_printf(&all, "%s%s", o ? ", " : "", options[o].path);
    }
    dml_complain_at(&r->report, key->place, "unknown option '%s' of %s", key->text, what);
    if (close.best) dml_complain_note(&r->report, "did you mean '%s'?", close.best);
    dml_complain_note(&r->report, "options: %s", dml_str_text(&all));
    dml_str_free(&all);
}

static const dml_spec_key *find(const dml_spec_key *options, int32_t n, const char *name)
{
    for (int32_t o = 0; o < n; o++)
        if (dml_spec_key_is(&options[o], name)) return &options[o];
    return NULL;
}

const dml_yaml *dml_spec_option(const dml_yaml *map, const dml_spec_key *option)
{
    for (int32_t i = 0; i < map->n; i++)
        if (dml_spec_key_is(option, map->key[i].text)) return &map->item[i];
    return NULL;
}

bool dml_spec_read_options(dml_spec_reader *r, const dml_yaml *node, const char *what,
                           const dml_spec_key *options, int32_t n, void *base)
{
    if (node->kind != DML_YAML_MAP) {
        dml_spec_expected(r, node, what);
        return false;
    }
    bool ok = true;
    for (int32_t i = 0; i < node->n; i++) {
        const dml_spec_key *option = find(options, n, node->key[i].text);
        if (!option) unknown_option(r, &node->key[i], what, options, n);
        ok &= option && dml_spec_convert(r, option, option->path, &node->item[i], base);
    }
    return ok;
}
