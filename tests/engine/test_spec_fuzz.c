/* Damaged specs: whatever the bytes, loading ends in a spec that prints or in a complaint. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "tests/engine/spec_file.h"

#include <glob.h>

enum { TEXT_BYTES = 1 << 14, MUTATIONS = 200, EDITS_MAX = 6 };

static uint32_t draw(uint64_t key, uint32_t n)
{
    static uint64_t counter;
    uint32_t word[4];
    dml_rng_block(key, 0, counter++, word);
    return word[0] % n;
}

/* One edit: a byte that matters to YAML put in, a byte changed, or a range removed or repeated. */
static size_t edit(uint64_t key, char *text, size_t n)
{
    static const char bytes[] = "{}[]:,-#&*!|>'\"%@`?~ \n\t\r.0123456789eE_$x\x80\xc3\xff";
    const size_t at = draw(key, (uint32_t)n), some = draw(key, 40) % (n - at);
    const char byte = bytes[draw(key, sizeof bytes - 1)];
    switch (draw(key, 4)) {
    case 0: text[at] = byte; return n;
    case 1: text[at] = (char)(1 + draw(key, 255)); return n;
    case 2: memmove(text + at, text + at + some, n - at - some); return n - some;
    default:
        if (n + some >= TEXT_BYTES) return n;
        memmove(text + at + some, text + at, n - at);
        return n + some;
    }
}

/* Loads it; a spec must print, a complaint must have a text. */
static bool survives(const char *text)
{
    dml_spec s;
    if (spec_of(text, NULL, 0, &s) != DML_ERR_OK) {
        DML_CHECK(strstr(dml_err_trail(), "error: "));
        return false;
    }
    free(printed(&s));
    dml_spec_free(&s);
    return true;
}

static void no_mutation_of_an_example_crashes(void **state)
{
    (void)state;
    glob_t examples;
    DML_CHECK_EQ(0, glob(DML_SOURCE_DIR "/examples/*.yaml", 0, NULL, &examples));
    const uint64_t key = dml_rng_key(1, DML_RNG_TEST, 0);
    int loaded = 0, refused = 0;
    for (size_t i = 0; i < examples.gl_pathc; i++) {
        static char original[TEXT_BYTES], text[TEXT_BYTES + 1];
        FILE *f = fopen(examples.gl_pathv[i], "r");
        DML_CHECK(f);
        const size_t n = fread(original, 1, sizeof original, f);
        fclose(f);
        for (int m = 0; m < MUTATIONS; m++) {
            memcpy(text, original, n);
            size_t length = n;
            for (uint32_t e = draw(key, EDITS_MAX) + 1; e > 0 && length > 1; e--)
                length = edit(key, text, length);
            text[length] = '\0';
            if (survives(text))
                loaded++;
            else
                refused++;
        }
    }
    globfree(&examples);
    DML_CHECK(loaded > 20 && refused > 100); /* else the edits are too tame, or too wild */
}

static void no_override_crashes(void **state)
{
    (void)state;
    const uint64_t key = dml_rng_key(2, DML_RNG_TEST, 0);
    for (int m = 0; m < MUTATIONS; m++) {
        char text[128] = "model.layers=[conv2d: {out: 8, kernel: [3, 3]}, relu, linear: 10]";
        size_t n = strlen(text);
        for (uint32_t e = draw(key, EDITS_MAX) + 1; e > 0 && n > 1; e--) {
            const size_t longer = edit(key, text, n);
            n = longer < sizeof text - 48 ? longer : n;
        }
        text[n] = '\0';
        const char *const overrides[] = {text};
        dml_spec s;
        if (spec_of("{}", overrides, 1, &s) == DML_ERR_OK) dml_spec_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_mutation_of_an_example_crashes),
        cmocka_unit_test(no_override_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
