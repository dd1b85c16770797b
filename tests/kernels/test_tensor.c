/* tests/kernels/test_tensor.c - element types, views, and the shape words of kernels/check.h. */
#include "tests/support/test.h"

#include "kernels/check.h"
#include "kernels/ref/ref.h"

static void a_tensor_counts_its_elements_rows_and_bytes(void **state)
{
    (void)state;
    const dml_tensor t = dml_tensor_of(NULL, DML_F64, 3, (int64_t[]){5, 3, 2});
    DML_CHECK_EQ(30, dml_tensor_elems(&t));
    DML_CHECK_EQ(6, dml_tensor_row_elems(&t));
    DML_CHECK_EQ(240, dml_tensor_bytes(&t));
    DML_CHECK_EQ(1, t.dim[3]);
    DML_CHECK_EQ(1, dml_dtype_bytes(DML_U8));
    assert_string_equal("I32", dml_dtype_name(DML_I32));
}

static void kernels_have_names_and_ref_has_all_of_them(void **state)
{
    (void)state;
    assert_string_equal("linear_fwd", dml_kernel_name(0));
    assert_string_equal("delay", dml_kernel_name(DML_KERNELS - 1));
    assert_string_equal("unknown kernel", dml_kernel_name(DML_KERNELS));
    dml_kernel_table some = dml_ref_kernels;
    some.linear_bwd_input = NULL;
    for (int32_t i = 0; i < DML_KERNELS; i++) {
        DML_CHECK(dml_kernel_here(&dml_ref_kernels, i));
        DML_CHECK_EQ(i != 1, dml_kernel_here(&some, i));
    }
    DML_CHECK(!dml_kernel_here(&some, -1));
}

static float data[64];

static dml_tensor f32(int32_t rank, int64_t a, int64_t b)
{
    return dml_tensor_of(data, DML_F32, rank, (int64_t[]){a, b});
}

static void a_tensor_of_the_wrong_shape_is_named_with_both_shapes(void **state)
{
    (void)state;
    dml_dims d = {0};
    const dml_tensor y = f32(2, 4, 3), x = f32(2, 4, 5), w = f32(2, 3, 6), b = f32(1, 3, 1);
    DML_CHECK_FAILS(DML_ERR_BUG, "linear_fwd: w is F32 [3, 6], not F32 [3, 5]",
                    dml_check_linear("linear_fwd", &d, &y, &x, &w, &b));
    DML_CHECK_FAILS(DML_ERR_BUG, "relu: x is F32 [4, 5], not F32 [4, 3]",
                    dml_check_same("relu", &d, &y, &x, NULL));
}

static void a_tensor_of_the_wrong_type_or_missing_is_our_bug(void **state)
{
    (void)state;
    dml_dims d = {0}, fresh = {0}, real = {.real64 = true};
    dml_tensor y = f32(1, 4, 1), x = f32(1, 4, 1);
    x.dtype = DML_F64;
    DML_CHECK_FAILS(DML_ERR_BUG, "k: x is F64 [4], not F32 [4]",
                    dml_check_shapes("k", &d, "y=f[n] x=f[n]", &y, &x));
    DML_CHECK_OK(dml_check_shapes("k", &real, "x=f[n]", &x));
    DML_CHECK_FAILS(DML_ERR_BUG, "k: x is missing",
                    dml_check_shapes("k", &d, "y=f[n] x=f[n]", &y, (dml_in)NULL));
    DML_CHECK_OK(dml_check_shapes("k", &d, "y=f[n] b=f[n]?", &y, (dml_in)NULL));
    y.data = NULL;
    DML_CHECK_FAILS(DML_ERR_BUG, "k: y has no data", dml_check_shapes("k", &fresh, "y=f[n]", &y));
}

static void windows_that_do_not_fit_are_our_bug(void **state)
{
    (void)state;
    dml_dims d = {0};
    const int64_t image[] = {1, 2, 2, 4};
    const dml_tensor x = dml_tensor_of(data, DML_F32, 4, image);
    const dml_tensor w = dml_tensor_of(data, DML_F32, 4, (int64_t[]){4, 4, 3, 3});
    dml_conv2d p = {{3, 3}, {1, 1}, {0, 0}, {1, 1}, 1};
    DML_CHECK_FAILS(DML_ERR_BUG, "larger than the padded image",
                    dml_check_conv2d("conv2d_fwd", &d, &p, &x, &x, &w, NULL));
    p.groups = 3;
    DML_CHECK_FAILS(DML_ERR_BUG, "3 groups do not divide 4 channels",
                    dml_check_conv2d("conv2d_fwd", &d, &p, &x, &x, &w, NULL));
    const dml_pool2d pool = {{2, 2}, {2, 2}, {2, 2}, true};
    DML_CHECK_FAILS(DML_ERR_BUG, "over half of the kernel",
                    dml_check_pool2d("max_pool_fwd", &d, &pool, &x, &x, NULL));
}

static void a_label_beyond_the_classes_is_our_bug(void **state)
{
    (void)state;
    double loss;
    int32_t correct, label[2] = {1, 3};
    const dml_tensor x = f32(2, 2, 3), tl = dml_tensor_of(&loss, DML_F64, 1, (int64_t[]){1});
    const dml_tensor tc = dml_tensor_of(&correct, DML_I32, 1, (int64_t[]){1});
    const dml_tensor labels = dml_tensor_of(label, DML_I32, 1, (int64_t[]){2});
    DML_CHECK_FAILS(DML_ERR_BUG, "softmax_xent: the label of row 1 is 3, of 3 classes",
                    dml_ref_softmax_xent(NULL, &tl, &tc, NULL, &x, &labels));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tensor_counts_its_elements_rows_and_bytes),
        cmocka_unit_test(kernels_have_names_and_ref_has_all_of_them),
        cmocka_unit_test(a_tensor_of_the_wrong_shape_is_named_with_both_shapes),
        cmocka_unit_test(a_tensor_of_the_wrong_type_or_missing_is_our_bug),
        cmocka_unit_test(windows_that_do_not_fit_are_our_bug),
        cmocka_unit_test(a_label_beyond_the_classes_is_our_bug),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
