/* tests/engine/test_idx.c - IDX files as they are, and in every way they can be damaged. */
#include "tests/engine/idx_folder.h"

#include "engine/idx.h"

#include <sys/stat.h>

enum { N = 50, H = 4, W = 3, CLASSES = 10 };

static idx_folder folder;

static int make(void **state)
{
    (void)state;
    folder = idx_folder_make();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    idx_folder_remove(&folder);
    return 0;
}

static dml_err load(dml_idx *idx)
{
    return dml_idx_load(folder.path, false, true, true, CLASSES, idx);
}

static void cut(const char *name, int64_t bytes)
{
    char path[PATH_MAX];
    struct stat st;
    idx_folder_path(&folder, name, path);
    DML_CHECK_EQ(0, stat(path, &st));
    DML_CHECK_EQ(0, truncate(path, st.st_size - bytes));
}

static void append(const char *name, const char *bytes, size_t n)
{
    char path[PATH_MAX];
    idx_folder_path(&folder, name, path);
    FILE *f = fopen(path, "ab");
    DML_CHECK(f && fwrite(bytes, 1, n, f) == n);
    DML_CHECK_EQ(0, fclose(f));
}

static void plain_and_gzipped_files_hold_the_same(void **state)
{
    (void)state;
    dml_idx plain, packed;
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    idx_folder_put_split(&folder, true, true, N, H, W, CLASSES);
    DML_CHECK_OK(load(&plain));
    DML_CHECK_OK(dml_idx_load(folder.path, true, true, true, CLASSES, &packed));
    DML_CHECK_EQ(N, plain.n);
    DML_CHECK_EQ(H, plain.height);
    DML_CHECK_EQ(W, plain.width);
    for (int i = 0; i < N; i++) {
        DML_CHECK_EQ(i % CLASSES, plain.labels[i]);
        for (int k = 0; k < H * W; k++)
            DML_CHECK_EQ((7 * i + k) & 255, plain.images[i * H * W + k]);
    }
    assert_memory_equal(plain.images, packed.images, N * H * W);
    assert_memory_equal(plain.labels, packed.labels, N);
    dml_idx_free(&plain);
    dml_idx_free(&packed);
    DML_CHECK(plain.images == NULL && plain.n == 0);
}

static void a_plain_file_goes_before_a_gzipped_one(void **state)
{
    (void)state;
    dml_idx idx;
    idx_folder_put_split(&folder, false, true, N, H, W, CLASSES);
    idx_folder_put_split(&folder, false, false, 7, H, W, CLASSES);
    DML_CHECK_OK(load(&idx));
    DML_CHECK_EQ(7, idx.n);
    dml_idx_free(&idx);
}

static void only_what_is_asked_for_is_read(void **state)
{
    (void)state;
    dml_idx idx;
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    cut("train-images-idx3-ubyte", 1);
    DML_CHECK_OK(dml_idx_load(folder.path, false, false, true, CLASSES, &idx));
    DML_CHECK(idx.images == NULL && idx.labels != NULL && idx.n == N);
    dml_idx_free(&idx);
    cut("train-labels-idx1-ubyte", 1);
    DML_CHECK_OK(dml_idx_load(folder.path, false, false, false, CLASSES, &idx));
    DML_CHECK_EQ(W, idx.width);
    dml_idx_free(&idx);
}

static void a_missing_folder_or_file_says_what_to_do(void **state)
{
    (void)state;
    dml_idx idx;
    DML_CHECK_FAILS(DML_ERR_DATA, "No such file",
                    dml_idx_load("/nowhere/at/all", false, true, true, CLASSES, &idx));
    DML_CHECK(strstr(dml_err_trail(), "/nowhere/at/all"));
    DML_CHECK_FAILS(DML_ERR_DATA, "neither 'train-images-idx3-ubyte' nor", load(&idx));
    DML_CHECK(strstr(dml_err_trail(), "four IDX files"));
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    char path[PATH_MAX];
    idx_folder_path(&folder, "train-labels-idx1-ubyte", path);
    unlink(path);
    DML_CHECK_FAILS(DML_ERR_DATA, "'train-labels-idx1-ubyte'", load(&idx));
}

static void a_short_file_is_refused_with_both_lengths(void **state)
{
    (void)state;
    dml_idx idx;
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    cut("train-images-idx3-ubyte", 5);
    DML_CHECK_FAILS(DML_ERR_DATA, "ends after 611 bytes where at least 616", load(&idx));
    DML_CHECK(strstr(dml_err_trail(), "train-images-idx3-ubyte"));
    cut("train-labels-idx1-ubyte", N + 3);
    DML_CHECK_FAILS(DML_ERR_DATA, "train-labels-idx1-ubyte' ends after 5 bytes", load(&idx));
}

static void a_long_file_is_refused(void **state)
{
    (void)state;
    dml_idx idx;
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    append("train-labels-idx1-ubyte", "x", 1);
    DML_CHECK_FAILS(DML_ERR_DATA, "goes on after the 58 bytes", load(&idx));
}

static void damaged_gzip_is_noticed_even_in_its_checksum(void **state)
{
    (void)state;
    dml_idx idx;
    const char *name = "train-images-idx3-ubyte.gz";
    idx_folder_put_split(&folder, false, true, N, H, W, CLASSES);
    cut(name, 8); /* the checksum and length */
    DML_CHECK_FAILS(DML_ERR_DATA, "damaged at its end", load(&idx));
    append(name, "\1\2\3\4\0\0\0\0", 8);
    DML_CHECK_FAILS(DML_ERR_DATA, "train-images-idx3-ubyte.gz' is damaged", load(&idx));
    cut(name, 100);
    DML_CHECK_FAILS(DML_ERR_DATA, "train-images-idx3-ubyte.gz'", load(&idx));
}

static void a_wrong_magic_or_dimension_is_refused(void **state)
{
    (void)state;
    dml_idx idx;
    const uint32_t dim[3] = {N, H, W}, none[3] = {0, H, W}, huge[3] = {N, H, 1u << 31};
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    idx_folder_put(&folder, "train-images-idx3-ubyte", 0x803, none, 3, NULL, 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "dimension 0 is 0", load(&idx));
    idx_folder_put(&folder, "train-images-idx3-ubyte", 0x803, huge, 3, NULL, 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "dimension 2 is 2147483648", load(&idx));
    idx_folder_put(&folder, "train-images-idx3-ubyte", 0xd03, dim, 3, NULL, 0);
    DML_CHECK_FAILS(DML_ERR_DATA, "starts with 0x00000d03, not 0x00000803", load(&idx));
}

static void counts_that_differ_and_labels_out_of_range_are_refused(void **state)
{
    (void)state;
    dml_idx idx;
    idx_folder_put_split(&folder, false, false, N, H, W, CLASSES);
    DML_CHECK_FAILS(DML_ERR_DATA, "the label of sample 7 is 7, but model.classes is 7",
                    dml_idx_load(folder.path, false, true, true, 7, &idx));
    const uint32_t fewer[1] = {N - 1};
    const uint8_t labels[N] = {0};
    idx_folder_put(&folder, "train-labels-idx1-ubyte", 0x801, fewer, 1, labels, N - 1);
    DML_CHECK_FAILS(DML_ERR_DATA, "holds 50 images, but", load(&idx));
}

/* 6,000 and 1,000 of each class, as its authors published it. */
static void fashion_mnist_is_what_it_is_known_to_be(void **state)
{
    (void)state;
    if (access(DML_IDX_DEFAULT_FOLDER, R_OK) != 0) skip();
    for (int split = 0; split < 2; split++) {
        dml_idx idx;
        DML_CHECK_OK(dml_idx_load(DML_IDX_DEFAULT_FOLDER, split, split, true, 10, &idx));
        DML_CHECK_EQ(split ? 10000 : 60000, idx.n);
        DML_CHECK_EQ(28, idx.height);
        DML_CHECK_EQ(28, idx.width);
        int count[10] = {0};
        for (int i = 0; i < idx.n; i++)
            count[idx.labels[i]]++;
        for (int c = 0; c < 10; c++)
            DML_CHECK_EQ(idx.n / 10, count[c]);
        dml_idx_free(&idx);
    }
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make, clean)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(plain_and_gzipped_files_hold_the_same),
        IN_FOLDER(a_plain_file_goes_before_a_gzipped_one),
        IN_FOLDER(only_what_is_asked_for_is_read),
        IN_FOLDER(a_missing_folder_or_file_says_what_to_do),
        IN_FOLDER(a_short_file_is_refused_with_both_lengths),
        IN_FOLDER(a_long_file_is_refused),
        IN_FOLDER(damaged_gzip_is_noticed_even_in_its_checksum),
        IN_FOLDER(a_wrong_magic_or_dimension_is_refused),
        IN_FOLDER(counts_that_differ_and_labels_out_of_range_are_refused),
        cmocka_unit_test(fashion_mnist_is_what_it_is_known_to_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
