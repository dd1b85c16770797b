/* bench/train_spec.c - what all layouts of a spec share, and a hash by which results of two days are known to be of
 * the same spec. */
#include "bench/train.h"

#include "engine/base/hash.h"
#include "engine/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the resolved spec says that is no default, without origins, which are comments, and without the folder it writes
 * to, which has the date in it.  A default that is new, or another than it was, is a change of the program, and results
 * carry its commit. */
static dml_err hash_of(const dml_spec *spec, char hash[17])
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    if (!to) DML_FAIL(DML_ERR_NOMEM, "no memory for the resolved spec");
    const dml_err err = dml_spec_print(spec, to);
    fclose(to);
    uint64_t sum = 0;
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = '\0';
        char *origin = strstr(line, "  # ");
        if (origin && strcmp(origin, "  # default") == 0) continue;
        if (origin) *origin = '\0';
        if (!strstr(line, "output_dir: ")) sum = dml_hash(line, (int64_t)strlen(line), sum);
    }
    free(text);
    snprintf(hash, 17, "%016" PRIx64, sum);
    return err;
}

dml_err train_spec_load(const char *path, const char *const *overrides, int32_t n, train_spec *out)
{
    dml_spec spec;
    DML_TRY(dml_spec_load(path, overrides, n, &spec));
    *out = (train_spec){
        .global_batch = spec.training.global_batch_size,
        .micro_batch = spec.training.micro_batch_size,
        .exact = spec.training.numerics != DML_FAST,
    };
    for (int32_t i = 0; i < spec.model.n_layers; i++)
        out->emulated = out->emulated || spec.model.layers[i].kind == DML_LAYER_DELAY;
    snprintf(out->precision, sizeof out->precision, "%s",
             dml_precision_name(spec.training.precision));
    snprintf(out->backend, sizeof out->backend, "%s", spec.parallelism.backend);
    const dml_err err = hash_of(&spec, out->hash);
    dml_spec_free(&spec);
    return err;
}
