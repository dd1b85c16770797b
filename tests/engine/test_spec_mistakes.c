/* The text a user reads after each of the common mistakes, word for word: tests/golden/spec-mistakes.txt.
 *
 *   === title, then the spec, then perhaps `--- with` and overrides, then `--- says` and the text
 */
#include "tests/support/test.h"

#include "engine/base/str.h"
#include "engine/spec.h"

#include <stdlib.h>
#include <unistd.h>

static const char golden_path[] = DML_SOURCE_DIR "/tests/golden/spec-mistakes.txt";
static bool writing;

enum { OVERRIDES_MAX = 8 };

typedef struct mistake {
    dml_str title, spec, says;
    dml_str override[OVERRIDES_MAX];
    int32_t n_overrides;
} mistake;

static void clear(mistake *m)
{
    dml_str_free(&m->title);
    dml_str_free(&m->spec);
    dml_str_free(&m->says);
    for (int32_t i = 0; i < m->n_overrides; i++)
        dml_str_free(&m->override[i]);
    *m = (mistake){0};
}

/* What the spec gives, in an empty folder, under the name net.yaml. */
static void load(const mistake *m, dml_str *got)
{
    FILE *f = fopen("net.yaml", "w");
    DML_CHECK(f);
    fputs(dml_str_text(&m->spec), f);
    fclose(f);
    const char *override[OVERRIDES_MAX];
    for (int32_t i = 0; i < m->n_overrides; i++)
        override[i] = dml_str_text(&m->override[i]);
    dml_spec spec;
    if (dml_spec_load("net.yaml", override, m->n_overrides, &spec) != DML_ERR_OK) {
        dml_str_printf(got, "%s\n", dml_err_trail());
        return;
    }
    dml_str_printf(got, "it loads\n");
    dml_spec_free(&spec);
}

static int compare(const mistake *m, FILE *to)
{
    dml_str got = {0};
    load(m, &got);
    if (writing) {
        fprintf(to, "=== %s\n%s", dml_str_text(&m->title), dml_str_text(&m->spec));
        for (int32_t i = 0; i < m->n_overrides; i++)
            fprintf(to, "%s%s\n", i ? "" : "--- with\n", dml_str_text(&m->override[i]));
        fprintf(to, "--- says\n%s", dml_str_text(&got));
    }
    const bool same = strcmp(dml_str_text(&got), dml_str_text(&m->says)) == 0;
    if (!same && !writing)
        print_error("%s\nshould say\n%sbut says\n%s\n", dml_str_text(&m->title),
                    dml_str_text(&m->says), dml_str_text(&got));
    dml_str_free(&got);
    return same ? 0 : 1;
}

/* Cuts the golden file into mistakes; returns how many texts differ. */
static int each_mistake(char *text, FILE *to, int *n)
{
    mistake m = {0};
    enum { HEAD, SPEC, WITH, SAYS } part = HEAD;
    int different = 0;
    for (char *line = text, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = '\0';
        if (strncmp(line, "=== ", 4) == 0) {
            if (part != HEAD) different += compare(&m, to);
            clear(&m);
            dml_str_printf(&m.title, "%s", line + 4);
            part = SPEC;
            ++*n;
        } else if (strcmp(line, "--- with") == 0) {
            part = WITH;
        } else if (strcmp(line, "--- says") == 0) {
            part = SAYS;
        } else if (part == HEAD) {
            if (writing) fprintf(to, "%s\n", line);
        } else if (part == WITH) {
            DML_CHECK(m.n_overrides < OVERRIDES_MAX);
            dml_str_printf(&m.override[m.n_overrides++], "%s", line);
        } else {
            dml_str_printf(part == SPEC ? &m.spec : &m.says, "%s\n", line);
        }
    }
    different += compare(&m, to);
    clear(&m);
    return different;
}

static void each_mistake_is_explained_as_in_the_golden_file(void **state)
{
    (void)state;
    enum { BYTES = 1 << 17 };
    char *text = calloc(1, BYTES);
    FILE *in = fopen(golden_path, "r");
    DML_CHECK(in && text);
    DML_CHECK(fread(text, 1, BYTES - 1, in) < BYTES - 1);
    fclose(in);
    FILE *to = writing ? fopen(golden_path, "w") : NULL;
    int n = 0;
    const int different = each_mistake(text, to, &n);
    if (to) fclose(to);
    free(text);
    DML_CHECK(n >= 50);
    if (!writing) DML_CHECK_EQ(0, different);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    dml_spec spec;
    DML_CHECK_FAILS(DML_ERR_SPEC, "absent.yaml: error: cannot open: No such file or directory",
                    dml_spec_load("absent.yaml", NULL, 0, &spec));
    DML_CHECK_FAILS(DML_ERR_SPEC, ".: error: cannot read: Is a directory",
                    dml_spec_load(".", NULL, 0, &spec));
}

static void a_binary_file_is_refused(void **state)
{
    (void)state;
    FILE *f = fopen("net.yaml", "w");
    DML_CHECK(f);
    fwrite("model:\0{}", 1, 9, f);
    fclose(f);
    dml_spec spec;
    DML_CHECK_FAILS(DML_ERR_SPEC, "net.yaml: error: this is no text file",
                    dml_spec_load("net.yaml", NULL, 0, &spec));
}

static char folder[] = "/tmp/dml-test-spec-XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int leave_folder(void **state)
{
    (void)state;
    unlink("net.yaml");
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    writing = argc > 1 && strcmp(argv[1], "--write") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_mistake_is_explained_as_in_the_golden_file),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(a_binary_file_is_refused),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
