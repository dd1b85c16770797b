/* tests/engine/test_checkpoint_mutate.c - a checkpoint is changed in some way, and must be refused with a reason.
 *
 *   test_engine_checkpoint_mutate [mutations [seed]]      3000 by default
 *
 * There are two checkpoints, of steps 10 and 20, of one run.  A mutation changes the second; a seed and its number say
 * which it is.  What counts as caught: dml_checkpoint_load returns DML_ERR_DATA, and its text names a path in the
 * checkpoint.
 */
#include "tests/support/test.h"

#include "tests/support/depot_by_text.h"

#include "engine/base/rng.h"
#include "engine/checkpoint_files.h"

#include <errno.h>
#include <sys/stat.h>

static char folder[] = "/tmp/dml-checkpoint-mutate-XXXXXX";
static int64_t mutations = 3000;
static uint64_t seed = 1;

/* clang-format off */
#define MUTATION_LIST(X)                                          \
    X(header_bit,  "a bit of a header or a manifest")             \
    X(bit,         "a bit anywhere")                              \
    X(bytes,       "a run of bytes overwritten")                  \
    X(truncated,   "the end cut off")                             \
    X(longer,      "bytes at the end")                            \
    X(missing,     "a file missing")                              \
    X(swapped,     "two files swapped")                           \
    X(duplicated,  "a file in another's place")                   \
    X(stale,       "a file of the checkpoint before")             \
    X(stranger,    "a shard too many")                            \
    X(moved,       "a piece moved inside of a file")
/* clang-format on */
typedef enum mutation {
#define X(id, text) MUTATION_##id,
    MUTATION_LIST(X)
#undef X
} mutation;
static const char *const mutation_text[] = {
#define X(id, text) text,
    MUTATION_LIST(X)
#undef X
};
enum { MUTATIONS = sizeof mutation_text / sizeof *mutation_text, FILES = DML_CKPT_FILES + 1 };

typedef struct file {
    char name[64];
    unsigned char *bytes; /* owned */
    int64_t n;
} file;

static file whole[2][FILES]; /* of the two steps */

static const char *name_of(int32_t f)
{
    return f < DML_CKPT_FILES ? dml_ckpt_file_name((dml_ckpt_file)f) : DML_CKPT_MANIFEST;
}

static void path_of(int32_t step, const char *name, char out[512])
{
    snprintf(out, 512, "%s/step-%08d/%s", folder, step, name);
}

static void read_whole(int32_t step, file *to)
{
    for (int32_t f = 0; f < FILES; f++) {
        char path[512];
        struct stat st;
        snprintf(to[f].name, sizeof to[f].name, "%s", name_of(f));
        path_of(step, to[f].name, path);
        DML_CHECK(stat(path, &st) == 0);
        to[f].n = st.st_size;
        to[f].bytes = malloc((size_t)st.st_size);
        FILE *from = fopen(path, "rb");
        DML_CHECK(from && fread(to[f].bytes, 1, (size_t)st.st_size, from) == (size_t)st.st_size);
        fclose(from);
    }
}

static void write_file(const char *name, const unsigned char *bytes, int64_t n)
{
    char path[512];
    path_of(20, name, path);
    FILE *to = fopen(path, "wb");
    DML_CHECK(to && fwrite(bytes, 1, (size_t)n, to) == (size_t)n);
    fclose(to);
}

static void put(int32_t f, const file *from)
{
    write_file(name_of(f), from->bytes, from->n);
}

/* ---- numbers of a mutation ---- */

typedef struct dice {
    uint64_t key, at;
} dice;

static uint32_t roll(dice *d, int64_t sides)
{
    uint32_t w[4];
    dml_rng_block(d->key, 0, d->at++, w);
    return (uint32_t)(((uint64_t)w[0] << 16 ^ w[1]) % (uint64_t)sides);
}

/* Bytes of a file that a header takes: all of a text. */
static int64_t header_of(const file *f)
{
    int64_t n = 0;
    if (strstr(f->name, ".json")) return f->n;
    DML_CHECK_OK(dml_st_header_bytes(f->name, f->bytes, f->n, &n));
    return 8 + n;
}

/* Returns the files that it touched, as bits. */
static uint32_t mutate(mutation what, dice *d)
{
    const int32_t f = (int32_t)roll(d, FILES),
                  other = (f + 1 + (int32_t)roll(d, FILES - 1)) % FILES;
    const file *from = &whole[1][f];
    unsigned char *copy = malloc((size_t)from->n + 64);
    char path[512];
    int64_t n = from->n;
    memcpy(copy, from->bytes, (size_t)n);
    uint32_t touched = 1u << f;
    switch (what) {
    case MUTATION_header_bit:
        copy[roll(d, header_of(from))] ^= (unsigned char)(1u << roll(d, 8));
        break;
    case MUTATION_bit: copy[roll(d, n)] ^= (unsigned char)(1u << roll(d, 8)); break;
    case MUTATION_bytes: {
        const int64_t at = roll(d, n), run = 1 + roll(d, 32);
        for (int64_t i = at; i < n && i < at + run; i++)
            copy[i] = (unsigned char)roll(d, 256);
        if (memcmp(copy, from->bytes, (size_t)n) == 0) copy[at] ^= 1;
        break;
    }
    case MUTATION_truncated: n = roll(d, n); break;
    case MUTATION_longer:
        for (int64_t more = 1 + roll(d, 63); more > 0; more--)
            copy[n++] = roll(d, 2) ? 0 : (unsigned char)roll(d, 256);
        break;
    case MUTATION_missing:
        path_of(20, from->name, path);
        DML_CHECK(unlink(path) == 0);
        free(copy);
        return touched;
    case MUTATION_swapped:
        put(other, from);
        touched |= 1u << other;
        free(copy);
        put(f, &whole[1][other]);
        return touched;
    case MUTATION_duplicated:
        put(other, from);
        free(copy);
        return 1u << other;
    case MUTATION_stale:
        put(f, &whole[0][f]);
        if (roll(d, 4) == 0) { /* another one, too */
            put(other, &whole[0][other]);
            touched |= 1u << other;
        }
        free(copy);
        return touched;
    case MUTATION_stranger: {
        char name[64];
        snprintf(name, sizeof name, "model-%05u.safetensors", roll(d, 100000));
        write_file(name, from->bytes, from->n);
        free(copy);
        return 0;
    }
    case MUTATION_moved: {
        const int64_t piece = 1 + roll(d, n / 3), a = roll(d, n - piece), b = roll(d, n - piece);
        memmove(copy + b, copy + a, (size_t)piece);
        if (memcmp(copy, from->bytes, (size_t)n) == 0) copy[b] ^= 1;
        break;
    }
    }
    write_file(from->name, copy, n);
    free(copy);
    return touched;
}

static void restore(uint32_t touched)
{
    for (int32_t f = 0; f < FILES; f++)
        if (touched >> f & 1) put(f, &whole[1][f]);
    if (touched == 0) {
        char command[1024];
        snprintf(command, sizeof command, "rm %s/step-00000020/model-*", folder);
        DML_CHECK(system(command) == 0);
    }
}

static dml_err load(banked *b)
{
    char path[512];
    dml_arena arena = {0};
    const char *told;
    int64_t step;
    snprintf(path, sizeof path, "%s/step-00000020", folder);
    const dml_err err =
        dml_checkpoint_load(path, &b->spec, &b->identity, &b->bank, 0, &arena, &step, &told);
    dml_arena_free(&arena);
    return err;
}

static void whatever_is_changed_is_refused_with_the_reason(void **state)
{
    (void)state;
    banked b;
    dml_checkpoint_folder f;
    int64_t bytes, of[MUTATIONS] = {0};
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(dml_checkpoint_open(folder, &f));
    for (int64_t step = 10; step <= 20; step += 10) {
        banked_fill(&b, step);
        const dml_checkpoint_job job = banked_job(&b);
        DML_CHECK_OK(dml_checkpoint_write(&f, &job, 2, &bytes));
        read_whole((int32_t)step, whole[step / 10 - 1]);
    }
    dml_checkpoint_close(&f);
    for (int64_t i = 0; i < mutations; i++) {
        dice d = {dml_rng_key(seed, DML_RNG_DATA, (uint64_t)i), 0};
        /* those that need a process to undo are rare */
        const mutation what =
            i % 997 == 0
                ? MUTATION_stranger
                : (mutation)(i % MUTATIONS == MUTATION_stranger ? MUTATION_bit : i % MUTATIONS);
        const uint32_t touched = mutate(what, &d);
        const dml_err err = load(&b);
        if (err != DML_ERR_DATA || !strstr(dml_err_trail(), "step-00000020"))
            fail_msg("mutation %lld of seed %llu, %s: %s: %s", (long long)i,
                     (unsigned long long)seed, mutation_text[what], dml_err_text(err),
                     dml_err_trail());
        of[what]++;
        restore(touched);
    }
    DML_CHECK_OK(load(&b));
    DML_CHECK(banked_is(&b, 20));
    printf("%lld mutations, seed %llu: all refused\n", (long long)mutations,
           (unsigned long long)seed);
    for (int32_t m = 0; m < MUTATIONS; m++)
        printf("  %8lld  %s\n", (long long)of[m], mutation_text[m]);
    for (int32_t s = 0; s < 2; s++)
        for (int32_t k = 0; k < FILES; k++)
            free(whole[s][k].bytes);
    banked_close(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_changed_is_refused_with_the_reason),
    };
    if (argc > 1) mutations = atoll(argv[1]);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    if (!mkdtemp(folder)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(folder);
    return failed;
}
