/* tests/engine/test_safetensors.c - every rule of engine/safetensors.h by the text that names it, and files of the
 * reference library. */
#include "tests/support/test.h"

#include "engine/safetensors.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

static dml_err parse(const char *json, int64_t data_bytes, dml_arena *arena, dml_safetensors *out)
{
    return dml_st_parse("f", json, (int64_t)strlen(json), data_bytes, arena, out);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}"
/* an entry 'a' of dtype F32 with this behind it */
#define T(rest) "{\"a\":{\"dtype\":\"F32\"," rest "}}"

static const struct {
    const char *json;
    int64_t data_bytes;
    const char *text;
} refused[] = {
    {"", 0, "byte 0 of the header: '{' is missing before the first entry, there is the end"},
    {"[]", 0, "'{' is missing before the first entry, there is '['"},
    {"{", 0, "'\"' is missing before a name, there is the end"},
    {"{" A "", 8, "',' or '}' is missing between entries, there is the end"},
    {"{" A ",}", 8, "'\"' is missing before a name, there is '}'"},
    {"{" A "}x", 8, "'x' behind the object"},
    {"{" A "}\x01", 8, "byte 0x01 behind the object"},
    {"{\"a\"}", 0, "':' is missing behind a name, there is '}'"},
    {"{\"a\":1}", 0, "'{' is missing before what a tensor is, there is '1'"},
    {"{\"a\":{}}", 0, "'\"' is missing before a key, there is '}'"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "'a': 'shape' is missing"},
    {T("\"shape\":[2]"), 8, "'a': 'data_offsets' is missing"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'a': 'dtype' is missing"},
    {T("\"shape\":[2],\"data_offsets\":[0,8],\"x\":1"), 8, "'a': the key 'x' is not known"},
    {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 8, "'a': 'dtype' is there twice"},
    {T("\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]"), 8, "'a': 'shape' is there twice"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "dtype 'F33' is none"},
    {T("\"shape\":[-2],\"data_offsets\":[0,8]"), 8, "a negative number for a shape"},
    {T("\"shape\":[-0],\"data_offsets\":[0,0]"), 0, "a negative number for a shape"},
    {T("\"shape\":[2.0],\"data_offsets\":[0,8]"), 8, "a fraction for a shape"},
    {T("\"shape\":[2e0],\"data_offsets\":[0,8]"), 8, "a number with an exponent for a shape"},
    {T("\"shape\":[02],\"data_offsets\":[0,8]"), 8, "a number with a leading zero for a shape"},
    {T("\"shape\":[9223372036854775808],\"data_offsets\":[0,8]"), 8, "a number beyond 2^63"},
    {T("\"shape\":[281474976710657],\"data_offsets\":[0,8]"), 8, "more than 2^48"},
    {T("\"shape\":[281474976710656,281474976710656],\"data_offsets\":[0,8]"), 8,
     "its size overflows"},
    {T("\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4,
     "more than 8 numbers in a shape"},
    {T("\"shape\":[\"2\"],\"data_offsets\":[0,8]"), 8, "a whole number is missing for a shape"},
    {T("\"shape\":[2,],\"data_offsets\":[0,8]"), 8, "a whole number is missing for a shape"},
    {T("\"shape\":[[2]],\"data_offsets\":[0,8]"), 8, "a whole number is missing for a shape"},
    {T("\"shape\":[2],\"data_offsets\":[0]"), 8, "'a': 1 data_offsets, not 2"},
    {T("\"shape\":[2],\"data_offsets\":[0,8,8]"), 8, "more than 2 numbers in data_offsets"},
    {T("\"shape\":[2],\"data_offsets\":[8,0]"), 8, "'a': it ends at 0, before it begins"},
    {T("\"shape\":[2],\"data_offsets\":[0,4]"), 4, "its shape takes 8 bytes, its offsets 4"},
    {T("\"shape\":[2],\"data_offsets\":[4,12]"), 12, "nothing fills the hole before it"},
    {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
     "'b' begins at byte 4 of the data, inside of another tensor"},
    {"{" A "," B "}", 20, "tensors take 16 bytes, behind the header are 20"},
    {"{" A "," B "}", 12, "tensors take 16 bytes, behind the header are 12"},
    {"{}", 1, "tensors take 0 bytes, behind the header are 1"},
    {"{" A ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
     "the tensor 'a' is there twice"},
    {"{" A ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
     "the tensor 'a' is there twice"},
    {"{\"\\ud800\":0}", 0, "byte 2 of the header: a lone surrogate, \\ud800"},
    {"{\"\\ud800\\u0041\":0}", 0, "a lone surrogate, \\ud800"},
    {"{\"\\udc00\":0}", 0, "a lone surrogate, \\udc00"},
    {"{\"\\u0000\":0}", 0, "\\u0000 in a text"},
    {"{\"\\u00g0\":0}", 0, "\\u takes four hexadecimal digits"},
    {"{\"\\x\":0}", 0, "a backslash and then something that is no escape"},
    {"{\"\xff\":0}", 0, "not UTF-8"},
    {"{\"\xc0\x80\":0}", 0, "not UTF-8"},
    {"{\"\xed\xa0\x80\":0}", 0, "not UTF-8"},
    {"{\"\xf4\x90\x80\x80\":0}", 0, "not UTF-8"},
    {"{\"\xe2\x82", 0, "not UTF-8"},
    {"{\"a\n\":0}", 0, "a control character in a text"},
    {"{\"abc", 0, "byte 1 of the header: a text that does not end"},
    {"{\"__metadata__\":1}", 0, "'{' is missing before the metadata"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "'\"' is missing before a value of the metadata, a text"},
    {"{\"__metadata__\":{\"k\":{}}}", 0, "'\"' is missing before a value of the metadata, a text"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "the metadata's key 'k' is there twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "'__metadata__' is there twice"},
};

static void every_way_to_be_wrong_has_its_own_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        dml_arena arena = {0};
        dml_safetensors st;
        const dml_err err = parse(refused[i].json, refused[i].data_bytes, &arena, &st);
        if (err != DML_ERR_DATA || !strstr(dml_err_trail(), refused[i].text) ||
            !strstr(dml_err_trail(), "'f'"))
            fail_msg("case %zu, %s: not '%s': %s", i, refused[i].json, refused[i].text,
                     dml_err_trail());
        dml_arena_free(&arena);
    }
}

static void what_the_format_allows_is_read(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_safetensors st;
    DML_CHECK_OK(parse("{}", 0, &arena, &st));
    DML_CHECK_EQ(0, st.n);
    DML_CHECK_OK(parse(" \t{ " A " , " B " } \n", 16, &arena, &st));
    DML_CHECK_EQ(2, st.n);
    DML_CHECK_OK(parse("{" B "," A "}", 16, &arena, &st)); /* any order in the header */
    DML_CHECK(strcmp("a", st.tensor[0].name) == 0);
    DML_CHECK_OK(parse("{\"__metadata__\":{\"k\":\"\\u00e4\\\"\\n\"}," A "}", 8, &arena, &st));
    DML_CHECK(strcmp("\xc3\xa4\"\n", dml_st_metadata(&st, "k")) == 0);
    DML_CHECK(!dml_st_metadata(&st, "other"));
    DML_CHECK_OK(
        parse("{\"\\ud83d\\ude00\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8,
              &arena, &st)); /* rank 0 */
    DML_CHECK(dml_st_find(&st, "\xf0\x9f\x98\x80"));
    DML_CHECK_OK(parse("{\"e\":{\"dtype\":\"U8\",\"shape\":[3,0,281474976710656,281474976710656],"
                       "\"data_offsets\":[8,8]}," A "}",
                       8, &arena, &st)); /* empty, at the end */
    DML_CHECK_EQ(4, dml_st_find(&st, "e")->rank);
    dml_arena_free(&arena);
}

static void caps_bound_what_a_file_can_ask_for(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_safetensors st;
    dml_str json = {0};
    dml_str_printf(&json, "{\"%0*d\":0}", DML_ST_NAME_BYTES + 1, 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "a text of more than 512 bytes",
                    parse(json.text, 0, &arena, &st));
    dml_str_clear(&json);
    dml_str_printf(&json, "{");
    for (int i = 0; i <= DML_ST_TENSORS; i++)
        dml_str_printf(&json, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                       i ? "," : "", i);
    dml_str_printf(&json, "}");
    DML_CHECK_FAILS(DML_ERR_DATA, "more than 262144 tensors", parse(json.text, 0, &arena, &st));
    dml_str_clear(&json);
    dml_str_printf(&json, "{\"__metadata__\":{");
    for (int i = 0; i <= DML_ST_METADATA; i++)
        dml_str_printf(&json, "%s\"%d\":\"\"", i ? "," : "", i);
    dml_str_printf(&json, "}}");
    DML_CHECK_FAILS(DML_ERR_DATA, "more than 4096 entries of metadata",
                    parse(json.text, 0, &arena, &st));
    dml_str_free(&json);
    dml_arena_free(&arena);
}

/* ---- files ---- */

static char path[] = "/tmp/dml-safetensors-XXXXXX";

static void write_file(const void *bytes, size_t n)
{
    const int fd = open(path, O_WRONLY | O_TRUNC);
    DML_CHECK(write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

static dml_err open_file(const char *name, dml_safetensors *st, dml_arena *arena)
{
    int fd;
    const dml_err err = dml_st_open(AT_FDCWD, name, arena, &fd, st);
    if (err == DML_ERR_OK) close(fd);
    return err;
}

static void a_file_is_refused_with_its_name(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_safetensors st;
    char link[sizeof path + 8];
    DML_CHECK_FAILS(DML_ERR_DATA, "cannot open '/nowhere': No such file",
                    open_file("/nowhere", &st, &arena));
    DML_CHECK_FAILS(DML_ERR_DATA, "'/tmp' is no regular file", open_file("/tmp", &st, &arena));
    write_file("\x02\0\0", 3);
    DML_CHECK_FAILS(DML_ERR_DATA, "3 bytes, less than the 8", open_file(path, &st, &arena));
    write_file("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    DML_CHECK_FAILS(DML_ERR_DATA, "a header of 18446744073709551615 bytes, more than",
                    open_file(path, &st, &arena));
    write_file("\x03\0\0\0\0\0\0\0{}", 10);
    DML_CHECK_FAILS(DML_ERR_DATA, "a header of 3 bytes, the file has 10",
                    open_file(path, &st, &arena));
    write_file("\x02\0\0\0\0\0\0\0{}", 10);
    DML_CHECK_OK(open_file(path, &st, &arena));
    snprintf(link, sizeof link, "%s.link", path);
    DML_CHECK(symlink(path, link) == 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "it is a link", open_file(link, &st, &arena));
    unlink(link);
    dml_arena_free(&arena);
}

/* What is laid out is what is read; the bytes are those of the reference library (tests/golden). */
static void what_is_written_is_read(void **state)
{
    (void)state;
    dml_arena arena = {0};
    dml_safetensors back;
    dml_st_tensor t[] = {
        {.name = "z", .dtype = DML_ST_U8, .rank = 1, .dim = {3}},
        {.name = "b\"\\\n", .dtype = DML_ST_F32, .rank = 2, .dim = {2, 3}},
        {.name = "a", .dtype = DML_ST_F32, .rank = 0},
        {.name = "wide", .dtype = DML_ST_I64, .rank = 1, .dim = {0}},
    };
    dml_st_pair meta[] = {{"format", "pt"}, {"said", "\"so\""}};
    dml_safetensors st = {.tensor = t, .n = 4, .metadata = meta, .n_metadata = 2};
    dml_str header = {0};
    dml_st_layout(&st, &header);
    DML_CHECK(strcmp(t[0].name, "wide") == 0 && strcmp(t[1].name, "a") == 0);
    DML_CHECK_EQ(0, header.len % 8);
    DML_CHECK_EQ(31, st.file_bytes - st.data_at);
    for (int i = 0; i < 31; i++)
        dml_str_append(&header, (const char[]){(char)i}, 1);
    write_file(header.text, header.len);
    int fd;
    unsigned char z[3];
    DML_CHECK_OK(dml_st_open(AT_FDCWD, path, &arena, &fd, &back));
    DML_CHECK_EQ(4, back.n);
    DML_CHECK_EQ(2, back.n_metadata);
    DML_CHECK(strcmp(back.metadata[1].value, "\"so\"") == 0);
    DML_CHECK_EQ(2, dml_st_find(&back, "b\"\\\n")->rank);
    DML_CHECK_OK(dml_st_read(&back, fd, path, dml_st_find(&back, "z"), z));
    DML_CHECK_EQ(28, z[0]);
    DML_CHECK(truncate(path, back.file_bytes - 1) == 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "1 more were there before",
                    dml_st_read(&back, fd, path, dml_st_find(&back, "z"), z));
    close(fd);
    dml_str_free(&header);
    dml_arena_free(&arena);
}

/* ---- the reference library (tests/oracle/safetensors_golden.py) ---- */

static unsigned char *whole_file(const char *name, int64_t *n)
{
    char where[512];
    snprintf(where, sizeof where, DML_SOURCE_DIR "/tests/golden/safetensors/%s", name);
    FILE *f = fopen(where, "rb");
    if (!f) fail_msg("%s is missing", where);
    unsigned char *bytes = malloc(1 << 20);
    *n = (int64_t)fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* Tensor i is filled with its number, its type and its shape follow from that: as the script does. */
static void files_of_the_reference_library_are_read_to_the_byte(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        dml_st_dtype dtype;
        int32_t rank;
        int64_t dim[3];
    } want[] = {
        {"bool", DML_ST_BOOL, 1, {5}},
        {"bytes", DML_ST_U8, 2, {3, 7}},
        {"deep/name.weight", DML_ST_F32, 2, {4, 3}},
        {"empty", DML_ST_F32, 2, {0, 4}},
        {"half", DML_ST_F16, 1, {9}},
        {"scalar", DML_ST_F64, 0, {0}},
        {"shorts", DML_ST_I16, 3, {2, 2, 2}},
        {"umlaut \xc3\xa4 \"quoted\"", DML_ST_I64, 1, {3}},
    };
    char file[512];
    dml_arena arena = {0};
    dml_safetensors st;
    int fd;
    snprintf(file, sizeof file, DML_SOURCE_DIR "/tests/golden/safetensors/reference.safetensors");
    DML_CHECK_OK(dml_st_open(AT_FDCWD, file, &arena, &fd, &st));
    DML_CHECK_EQ(sizeof want / sizeof *want, st.n);
    DML_CHECK(strcmp("pt", dml_st_metadata(&st, "format")) == 0);
    for (int32_t i = 0; i < st.n; i++) {
        const dml_st_tensor *t = dml_st_find(&st, want[i].name);
        if (!t) fail_msg("'%s' is missing", want[i].name);
        DML_CHECK_EQ(want[i].dtype, t->dtype);
        DML_CHECK_EQ(want[i].rank, t->rank);
        for (int32_t d = 0; d < t->rank; d++)
            DML_CHECK_EQ(want[i].dim[d], t->dim[d]);
        unsigned char bytes[256];
        DML_CHECK_OK(dml_st_read(&st, fd, file, t, bytes));
        for (int64_t b = 0; b < t->end - t->begin; b++)
            DML_CHECK_EQ(i == 0 ? b % 2 : (i * 16 + b) % 256, bytes[b]);
    }
    close(fd);
    dml_arena_free(&arena);
}

/* The same header, byte for byte, that the library writes for the same tensors. */
static void headers_are_those_of_the_reference_library(void **state)
{
    (void)state;
    dml_st_tensor t[] = {
        {.name = "fc1.bias", .dtype = DML_ST_F32, .rank = 1, .dim = {3}},
        {.name = "fc1.weight", .dtype = DML_ST_F32, .rank = 2, .dim = {3, 2}},
        {.name = "fc1.weight.scale", .dtype = DML_ST_I32, .rank = 0},
        {.name = "steps", .dtype = DML_ST_I64, .rank = 1, .dim = {1}},
    };
    dml_st_pair meta = {"format", "pt"};
    dml_safetensors st = {.tensor = t, .n = 4, .metadata = &meta, .n_metadata = 1};
    dml_str header = {0};
    int64_t n;
    unsigned char *golden = whole_file("ours.safetensors", &n);
    dml_st_layout(&st, &header);
    DML_CHECK_EQ(n, st.file_bytes);
    DML_CHECK(memcmp(golden, header.text, header.len) == 0);
    dml_str_free(&header);
    free(golden);
}

/* name, verdict of the library, and where ours is another one the reason; a header of the script's per line. */
static void verdicts_are_those_of_the_reference_library_or_explained(void **state)
{
    (void)state;
    int64_t n;
    unsigned char *all = whole_file("verdicts.bin", &n);
    int32_t cases = 0, stricter = 0;
    /* | length: 4 bytes | library's verdict: 1 byte | why ours may differ: 1 byte | file | ... */
    for (int64_t at = 0; at < n; cases++) {
        int32_t bytes;
        memcpy(&bytes, all + at, 4);
        const bool accepts = all[at + 4] == 1, may_differ = all[at + 5] == 1;
        const unsigned char *file = all + at + 6;
        dml_arena arena = {0};
        dml_safetensors st;
        int64_t header = 0;
        dml_err err = dml_st_header_bytes("f", file, bytes, &header);
        if (err == DML_ERR_OK)
            err =
                dml_st_parse("f", (const char *)file + 8, header, bytes - 8 - header, &arena, &st);
        const bool ours = err == DML_ERR_OK;
        if (ours && !accepts) fail_msg("case %d: read here, refused by the library", cases);
        if (!ours && accepts && !may_differ)
            fail_msg("case %d: read by the library, here %s", cases, dml_err_trail());
        stricter += !ours && accepts;
        dml_arena_free(&arena);
        at += 6 + bytes;
    }
    printf("%d files: %d are refused here alone\n", cases, stricter);
    DML_CHECK(cases > 1000 && stricter > 0);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_to_be_wrong_has_its_own_text),
        cmocka_unit_test(what_the_format_allows_is_read),
        cmocka_unit_test(caps_bound_what_a_file_can_ask_for),
        cmocka_unit_test(a_file_is_refused_with_its_name),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(files_of_the_reference_library_are_read_to_the_byte),
        cmocka_unit_test(headers_are_those_of_the_reference_library),
        cmocka_unit_test(verdicts_are_those_of_the_reference_library_or_explained),
    };
    const int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
