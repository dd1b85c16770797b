/* tests/kernels/cuda/test_dnn_graph.c - the descriptors of every operation, by the real cuDNN, without a GPU.
 *
 * The library checks a graph when its descriptors are finalised, which needs no device.  From 9.8 on it also lists
 * engines and builds plans for a GPU that is only described; here for an H200 and an A100.  What it cannot show
 * without a driver are engines that it compiles itself (it wants libcuda for those), and results.
 */
#include "tests/support/test.h"

#include "kernels/cuda/dnn_plan.h"
#include "tests/kernels/cuda/dnn_ops.h"

static const dml_dtype types[] = {DML_F32, DML_BF16, DML_F16};
enum { TYPES = 3, DESCRIBED_DEVICES_SINCE = 90800 };

static const dml_cudnn_kind convolutions[] = {DML_CUDNN_CONV_FWD, DML_CUDNN_CONV_BWD_INPUT,
                                              DML_CUDNN_CONV_BWD_WEIGHT};

/* ---- descriptors ---- */

static void the_library_accepts_every_convolution(void **state)
{
    (void)state;
    for (int32_t i = 0; i < dml_cudnn_n_cases; i++)
        for (int k = 0; k < 3; k++)
            for (int t = 0; t < TYPES; t++)
                for (int32_t bias = 0; bias < 2; bias++) {
                    dml_cudnn_op op = dml_cudnn_case_op(i, convolutions[k], types[t]);
                    op.bias = bias && op.kind == DML_CUDNN_CONV_FWD;
                    dml_cudnn_graph g;
                    DML_CHECK_OK(dml_cudnn_graph_init(&g, &op));
                    DML_CHECK_EQ(op.bias ? 2 : 1, g.n_operations);
                    DML_CHECK_EQ(op.bias ? 4 : 3, g.n_slots);
                    dml_cudnn_graph_free(&g);
                }
}

static void the_library_accepts_every_batch_norm(void **state)
{
    (void)state;
    static const int64_t channels[] = {1, 3, 64, 2048};
    for (int t = 0; t < TYPES; t++)
        for (int c = 0; c < 4; c++) {
            dml_cudnn_graph g;
            dml_cudnn_op op =
                dml_cudnn_norm_op(DML_CUDNN_NORM_FWD, types[t], 8, 14, 14, channels[c]);
            DML_CHECK_OK(dml_cudnn_graph_init(&g, &op));
            DML_CHECK_EQ(7, g.n_slots);
            dml_cudnn_graph_free(&g);
            op.kind = DML_CUDNN_NORM_BWD;
            DML_CHECK_OK(dml_cudnn_graph_init(&g, &op));
            DML_CHECK_EQ(8, g.n_slots);
            dml_cudnn_graph_free(&g);
        }
}

/* Elements of the memory that a run binds to a slot; the library cannot know them. */
static int64_t elems_of(const dml_cudnn_op *op, dml_cudnn_slot slot)
{
    switch ((int)slot) {
    case DML_CUDNN_X: return op->n * op->h * op->w * op->c;
    case DML_CUDNN_Y: return op->n * op->p * op->q * op->o;
    case DML_CUDNN_W:
        return op->o * op->conv.kernel[0] * op->conv.kernel[1] * (op->c / op->conv.groups);
    default: return op->o; /* B */
    }
}

static void check_tensor(const dml_cudnn_op *op, cudnnBackendDescriptor_t tensor)
{
    int64_t n = 0, uid = 0, dim[4], stride[4];
    if (cudnnBackendGetAttribute(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &n,
                                 &uid) != CUDNN_STATUS_SUCCESS ||
        uid > DML_CUDNN_SLOTS)
        return; /* no tensor, or none in memory */
    DML_CHECK_OK(DML_CUDNN(cudnnBackendGetAttribute,
                           (tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, &n, dim)));
    DML_CHECK_OK(DML_CUDNN(cudnnBackendGetAttribute,
                           (tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, &n, stride)));
    DML_CHECK_EQ(elems_of(op, (dml_cudnn_slot)(uid - 1)), dim[0] * dim[1] * dim[2] * dim[3]);
    DML_CHECK_EQ(1, stride[1]); /* channels are neighbours */
    DML_CHECK_EQ(dim[1], stride[3]);
    DML_CHECK_EQ(dim[1] * dim[3], stride[2]);
}

static void tensors_are_nhwc_and_as_large_as_their_memory(void **state)
{
    (void)state;
    for (int32_t i = 0; i < dml_cudnn_n_cases; i++)
        for (int k = 0; k < 3; k++) {
            const dml_cudnn_op op = dml_cudnn_case_op(i, convolutions[k], DML_F32);
            dml_cudnn_graph g;
            DML_CHECK_OK(dml_cudnn_graph_init(&g, &op));
            for (int32_t d = 0; d < g.n_made; d++)
                check_tensor(&op, g.made[d]);
            dml_cudnn_graph_free(&g);
        }
}

static void refused(dml_cudnn_op op)
{
    dml_cudnn_graph g;
    DML_CHECK_FAILS(DML_ERR_BUG, "cudnnBackendFinalize: CUDNN_STATUS_BAD_PARAM",
                    dml_cudnn_graph_init(&g, &op));
    DML_CHECK_EQ(0, g.n_made);
}

static void a_shape_that_does_not_fit_is_refused_in_the_library_s_words(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        const dml_cudnn_op op = dml_cudnn_case_op(3, convolutions[k], DML_F32);
        dml_cudnn_op wrong = op;
        wrong.p++;
        refused(wrong);
        wrong = op;
        wrong.conv.pad[1]++;
        refused(wrong);
        wrong = op;
        wrong.conv.stride[0] = 0;
        refused(wrong);
        wrong = op;
        wrong.n = 0;
        refused(wrong);
    }
}

static void other_types_and_kinds_are_our_bug(void **state)
{
    (void)state;
    dml_cudnn_graph g;
    dml_cudnn_op op = dml_cudnn_case_op(3, DML_CUDNN_CONV_FWD, DML_F64);
    DML_CHECK_FAILS(DML_ERR_BUG, "F64", dml_cudnn_graph_init(&g, &op));
    op = dml_cudnn_case_op(3, (dml_cudnn_kind)DML_CUDNN_KINDS, DML_F32);
    DML_CHECK_FAILS(DML_ERR_BUG, "no kind of operation", dml_cudnn_graph_init(&g, &op));
}

/* ---- rules ---- */

static bool allowed(bool tf32, dml_dtype dtype, cudnnBackendNumericalNote_t note)
{
    const dml_cudnn_rules rules = {.tf32 = tf32};
    return dml_cudnn_allowed(&rules, dtype, &note, 1);
}

static void engines_are_kept_out_by_what_they_do_to_numbers(void **state)
{
    (void)state;
    DML_CHECK(dml_cudnn_allowed(&(dml_cudnn_rules){0}, DML_F32, NULL, 0));
    DML_CHECK(!allowed(true, DML_BF16, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC));
    DML_CHECK(!allowed(false, DML_F32, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC));
    DML_CHECK(!allowed(false, DML_F32, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    DML_CHECK(allowed(true, DML_F32, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    DML_CHECK(allowed(false, DML_BF16, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    DML_CHECK(!allowed(true, DML_F32, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS));
    DML_CHECK(!allowed(true, DML_F16, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION));
    DML_CHECK(!allowed(true, DML_F32, CUDNN_NUMERICAL_NOTE_FFT));
    DML_CHECK(!allowed(true, DML_F32, CUDNN_NUMERICAL_NOTE_WINOGRAD));
    DML_CHECK(allowed(false, DML_F32, (cudnnBackendNumericalNote_t)99)); /* a newer one's */
}

/* ---- plans for a described GPU ---- */

/* What CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION reads: CUDA's device attributes. */
#define DEVICE(name, capability, processors, shared_optin, memory, sm_khz, memory_khz, l2)         \
    "{\"deviceName\":\"" name "\",\"deviceVer\":" capability ",\"driverVer\":13000,"               \
    "\"multiProcessorCount\":" processors ",\"maxSharedMemoryPerBlockOptin\":" shared_optin        \
    ",\"totalGlobalMem\":" memory ",\"smClockRateKHz\":" sm_khz ",\"memClockRateKHz\":" memory_khz \
    ",\"l2CacheSize\":" l2 ",\"maxGridSize\":[2147483647,65535,65535],"                            \
    "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"warpSize\":32,"                      \
    "\"maxSharedMemoryPerBlock\":49152,\"reservedSharedMemoryPerBlock\":1024,"                     \
    "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"                 \
    "\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,"        \
    "\"cudaDeviceId\":0}"
static const char h200[] =
    DEVICE("NVIDIA H200", "900", "132", "232448", "150110011392", "1980000", "3201000", "62914560");
static const char a100[] = DEVICE("NVIDIA A100-SXM4-80GB", "800", "108", "166912", "85094825984",
                                  "1410000", "1593000", "41943040");

/* The descriptor and its attributes as numbers: headers from before 9.8 have no names for them. */
enum { DEVICE_DESCRIPTOR = 38, DEVICE_ID = 2700, DEVICE_JSON = 2702 };

static dml_err describe_device(const char *json, cudnnBackendDescriptor_t *out)
{
    const dml_cudnn_attribute attribute = {(cudnnBackendAttributeName_t)DEVICE_JSON,
                                           CUDNN_TYPE_CHAR, (int64_t)strlen(json) + 1, json};
    return dml_cudnn_describe((cudnnBackendDescriptorType_t)DEVICE_DESCRIPTOR, &attribute, 1, out);
}

static void need_described_devices(void)
{
    if (cudnnGetVersion() >= DESCRIBED_DEVICES_SINCE) return;
    print_message("cuDNN %zu plans for no GPU that is not there: 9.8 does\n", cudnnGetVersion());
    skip();
}

/* A plan for each convolution in the first `n_types` types; from its choice the same plan again. */
static void plan_all(const char *json, int n_types, const dml_cudnn_rules *rules)
{
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(describe_device(json, &device));
    const dml_cudnn_target target = {.device = device};
    for (int32_t i = 0; i < dml_cudnn_n_cases; i++)
        for (int k = 0; k < 3; k++)
            for (int t = 0; t < n_types; t++) {
                const dml_cudnn_op op = dml_cudnn_case_op(i, convolutions[k], types[t]);
                dml_cudnn_ready ready, again;
                DML_CHECK_OK(dml_cudnn_ready_init(&ready, &target, rules, &op, NULL));
                DML_CHECK(ready.workspace_bytes <= rules->workspace_bytes);
                DML_CHECK_OK(dml_cudnn_ready_init(&again, &target, rules, &op, &ready.choice));
                DML_CHECK_EQ(ready.workspace_bytes, again.workspace_bytes);
                dml_cudnn_ready_free(&again);
                dml_cudnn_ready_free(&ready);
            }
    cudnnBackendDestroyDescriptor(device);
}

static void every_convolution_has_an_engine_on_an_h200(void **state)
{
    (void)state;
    need_described_devices();
    plan_all(h200, 2, &(dml_cudnn_rules){.tf32 = true, .workspace_bytes = DML_CUDNN_WORKSPACE});
    plan_all(h200, TYPES, &(dml_cudnn_rules){.workspace_bytes = DML_CUDNN_WORKSPACE});
}

static void every_convolution_has_an_engine_on_an_a100(void **state)
{
    (void)state;
    need_described_devices();
    plan_all(a100, 2, &(dml_cudnn_rules){.tf32 = true, .workspace_bytes = DML_CUDNN_WORKSPACE});
}

static void the_rules_are_asked(void **state)
{
    (void)state;
    need_described_devices();
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(describe_device(h200, &device));
    const dml_cudnn_target target = {.device = device};
    const dml_cudnn_op op = dml_cudnn_case_op(3, DML_CUDNN_CONV_BWD_INPUT, DML_F32);
    dml_cudnn_ready with, without, none;
    DML_CHECK_OK(dml_cudnn_ready_init(
        &with, &target, &(dml_cudnn_rules){.tf32 = true, .workspace_bytes = DML_CUDNN_WORKSPACE},
        &op, NULL));
    DML_CHECK_OK(dml_cudnn_ready_init(
        &without, &target, &(dml_cudnn_rules){.workspace_bytes = DML_CUDNN_WORKSPACE}, &op, NULL));
    DML_CHECK(with.choice.engine != without.choice.engine); /* tensor cores, none */
    DML_CHECK_FAILS(
        DML_ERR_UNAVAILABLE, "no engine of cuDNN",
        dml_cudnn_ready_init(&none, &target, &(dml_cudnn_rules){.workspace_bytes = -1}, &op, NULL));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "bytes of workspace, of 0",
                    dml_cudnn_ready_init(&none, &target, &(dml_cudnn_rules){.workspace_bytes = 0},
                                         &op, &without.choice));
    dml_cudnn_ready_free(&with);
    dml_cudnn_ready_free(&without);
    cudnnBackendDestroyDescriptor(device);
}

/* The TF32 dw of ResNet-50's stem: its tensor-core engine wants 1 GiB. */
static void a_large_stem_gets_tensor_cores_for_its_workspace(void **state)
{
    (void)state;
    need_described_devices();
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(describe_device(h200, &device));
    const dml_cudnn_target target = {.device = device};
    dml_cudnn_op op = dml_cudnn_case_op(0, DML_CUDNN_CONV_BWD_WEIGHT, DML_F32);
    op.n = 256;
    dml_cudnn_ready with, without;
    DML_CHECK_OK(dml_cudnn_ready_init(&with, &target, &(dml_cudnn_rules){true, DML_CUDNN_WORKSPACE},
                                      &op, NULL));
    DML_CHECK_OK(dml_cudnn_ready_init(&without, &target,
                                      &(dml_cudnn_rules){false, DML_CUDNN_WORKSPACE}, &op, NULL));
    DML_CHECK(with.choice.engine != without.choice.engine);
    dml_cudnn_ready_free(&with);
    dml_cudnn_ready_free(&without);
    cudnnBackendDestroyDescriptor(device);
}

/* The linker puts this before the library's (--wrap).  `crowded` configurations say they have a knob too many. */
static int crowded;
cudnnStatus_t __real_cudnnBackendGetAttribute(cudnnBackendDescriptor_t d,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t room,
                                              int64_t *n, void *out);
cudnnStatus_t __wrap_cudnnBackendGetAttribute(cudnnBackendDescriptor_t d,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t room,
                                              int64_t *n, void *out);
cudnnStatus_t __wrap_cudnnBackendGetAttribute(cudnnBackendDescriptor_t d,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t room,
                                              int64_t *n, void *out)
{
    const cudnnStatus_t status = __real_cudnnBackendGetAttribute(d, name, type, room, n, out);
    if (name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES && crowded > 0) {
        crowded--;
        *n = DML_CUDNN_KNOBS + 1;
    }
    return status;
}

static void an_engine_with_more_knobs_than_we_keep_is_passed_over(void **state)
{
    (void)state;
    need_described_devices();
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(describe_device(h200, &device));
    const dml_cudnn_target target = {.device = device};
    const dml_cudnn_rules rules = {.workspace_bytes = DML_CUDNN_WORKSPACE};
    const dml_cudnn_op op = dml_cudnn_case_op(3, DML_CUDNN_CONV_FWD, DML_BF16);
    dml_cudnn_ready first, next;
    DML_CHECK_OK(dml_cudnn_ready_init(&first, &target, &rules, &op, NULL));
    crowded = 1;
    const dml_err err = dml_cudnn_ready_init(&next, &target, &rules, &op, NULL);
    DML_CHECK_EQ(0, crowded);
    DML_CHECK_OK(err);
    DML_CHECK(memcmp(&first.choice, &next.choice, sizeof first.choice) != 0);
    dml_cudnn_ready_free(&next);
    dml_cudnn_ready_free(&first);
    cudnnBackendDestroyDescriptor(device);
}

static void an_engine_that_the_library_has_not_is_refused(void **state)
{
    (void)state;
    need_described_devices();
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(describe_device(h200, &device));
    const dml_cudnn_target target = {.device = device};
    const dml_cudnn_rules rules = {.workspace_bytes = DML_CUDNN_WORKSPACE};
    const dml_cudnn_op op = dml_cudnn_case_op(3, DML_CUDNN_CONV_FWD, DML_BF16);
    dml_cudnn_ready ready;
    dml_cudnn_choice choice = {.engine = 100000};
    DML_CHECK(dml_cudnn_ready_init(&ready, &target, &rules, &op, &choice) != DML_ERR_OK);
    choice = (dml_cudnn_choice){.n_knobs = DML_CUDNN_KNOBS + 1};
    DML_CHECK_FAILS(DML_ERR_DATA, "knobs",
                    dml_cudnn_ready_init(&ready, &target, &rules, &op, &choice));
    cudnnBackendDestroyDescriptor(device);
}

/* On a GPU: its own description is readable, and plans as the ones above.  Printed, to be compared with them. */
static void a_gpu_that_is_there_describes_itself(void **state)
{
    (void)state;
    need_described_devices();
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n < 1) {
        print_message("no GPU to describe\n");
        skip();
    }
    static char json[4096];
    const int32_t id = 0;
    int64_t bytes = 0;
    const dml_cudnn_attribute attribute = {(cudnnBackendAttributeName_t)DEVICE_ID, CUDNN_TYPE_INT32,
                                           1, &id};
    cudnnBackendDescriptor_t device;
    DML_CHECK_OK(dml_cudnn_describe((cudnnBackendDescriptorType_t)DEVICE_DESCRIPTOR, &attribute, 1,
                                    &device));
    DML_CHECK_OK(
        DML_CUDNN(cudnnBackendGetAttribute, (device, (cudnnBackendAttributeName_t)DEVICE_JSON,
                                             CUDNN_TYPE_CHAR, sizeof json - 1, &bytes, json)));
    cudnnBackendDestroyDescriptor(device);
    print_message("%s\n", json);
    plan_all(json, 1, &(dml_cudnn_rules){.tf32 = true, .workspace_bytes = DML_CUDNN_WORKSPACE});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_library_accepts_every_convolution),
        cmocka_unit_test(the_library_accepts_every_batch_norm),
        cmocka_unit_test(tensors_are_nhwc_and_as_large_as_their_memory),
        cmocka_unit_test(a_shape_that_does_not_fit_is_refused_in_the_library_s_words),
        cmocka_unit_test(other_types_and_kinds_are_our_bug),
        cmocka_unit_test(engines_are_kept_out_by_what_they_do_to_numbers),
        cmocka_unit_test(every_convolution_has_an_engine_on_an_h200),
        cmocka_unit_test(every_convolution_has_an_engine_on_an_a100),
        cmocka_unit_test(the_rules_are_asked),
        cmocka_unit_test(a_large_stem_gets_tensor_cores_for_its_workspace),
        cmocka_unit_test(an_engine_with_more_knobs_than_we_keep_is_passed_over),
        cmocka_unit_test(an_engine_that_the_library_has_not_is_refused),
        cmocka_unit_test(a_gpu_that_is_there_describes_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
