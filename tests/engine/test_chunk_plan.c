/* tests/engine/test_chunk_plan.c - where memory goes: stash, scratch, slots, parameters. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/chunk_impl.h"
#include "tests/support/nets_by_hand.h"

enum { KIB = 1024 };

typedef struct planned {
    dml_arena arena;
    dml_model model;
    dml_chunk chunk;
} planned;

static void plan(planned *p, const dml_spec *spec, int32_t begin, int32_t end, bool split)
{
    *p = (planned){0};
    DML_CHECK_OK(dml_model_make(spec, &p->arena, &p->model));
    if (end < 0) end = p->model.n_layers;
    DML_CHECK_OK(dml_chunk_plan(spec, &p->model, begin, end, split, &p->arena, &p->chunk));
}

static int64_t stash_of(const dml_spec *spec, bool split)
{
    planned p;
    plan(&p, spec, 0, -1, split);
    const int64_t bytes = p.chunk.size.stash;
    dml_arena_free(&p.arena);
    return bytes;
}

/* Hidden layers after their relu, with a bit an element that says which are not 0 (chunk_fuse.c), and the logits'
 * gradient over the logits. */
static void an_mlp_stashes_one_tensor_a_layer(void **state)
{
    (void)state;
    by_hand h;
    by_hand_mlp(&h);
    h.spec.training.micro_batch_size = 32;
    const int64_t bits = 2 * 32 * 1024 / 8;
    DML_CHECK_EQ(32 * 4 * (1024 + 1024 + 10) + bits, stash_of(&h.spec, false));
    /* apart, the gradients of two hidden layers wait for their weight halves */
    DML_CHECK_EQ(32 * 4 * (1024 + 1024 + 10 + 1024 + 1024) + bits, stash_of(&h.spec, true));
    h.spec.training.numerics = DML_EXACT; /* every layer by itself, relu in place */
    DML_CHECK_EQ(32 * 4 * (1024 + 1024 + 10), stash_of(&h.spec, false));
}

/* Per block: the convolution's output for batch norm, and the relu's; batch norm's own is overwritten.  Per
 * pool: which cell won, and its output for the next convolution.  fc1's relu and dropout each. */
static void vgg8_stashes_what_backward_reads(void **state)
{
    (void)state;
    by_hand h;
    by_hand_vgg8(&h);
    h.spec.training.micro_batch_size = 16;
    const int64_t blocks = 2 * 2 * (28 * 28 * 64 + 14 * 14 * 128 + 7 * 7 * 256);
    const int64_t pools = 2 * 14 * 14 * 64 + 2 * 7 * 7 * 128 + 3 * 3 * 256;
    const int64_t end = 2304 + 512 + 512 + 10;
    DML_CHECK_EQ(16 * 4 * (blocks + pools + end), stash_of(&h.spec, false));
}

static void a_cut_changes_the_stash_by_what_crosses_it(void **state)
{
    (void)state;
    by_hand h;
    by_hand_mlp(&h);
    h.spec.training.micro_batch_size = 32;
    planned low, high;
    plan(&low, &h.spec, 0, 2, false); /* fc1, relu1 | fc2, relu2, fc3, loss */
    plan(&high, &h.spec, 2, -1, false);
    DML_CHECK_EQ(32 * 4 * 784, low.chunk.size.in);
    DML_CHECK_EQ(0, low.chunk.size.dx);
    DML_CHECK_EQ(32 * 4 * 1024, low.chunk.size.dy);
    DML_CHECK_EQ(32 * 4 * 1024, low.chunk.size.stash);
    DML_CHECK_EQ(0, low.chunk.size.out_offset);
    DML_CHECK_EQ(32 * 4 * 1024, high.chunk.size.in);
    DML_CHECK_EQ(32 * 4 * 1024, high.chunk.size.dx);
    DML_CHECK_EQ(0, high.chunk.size.dy);
    DML_CHECK_EQ(32 * 4 * (1024 + 10) + 32 * 1024 / 8, high.chunk.size.stash);
    dml_arena_free(&low.arena);
    dml_arena_free(&high.arena);
}

/* A relu first in its chunk may not write over what another chunk reads. */
static void the_input_is_never_overwritten(void **state)
{
    (void)state;
    by_hand h;
    by_hand_mlp(&h);
    planned p;
    plan(&p, &h.spec, 1, 2, false); /* relu1 alone */
    const dml_chunk_impl *impl = p.chunk.impl;
    DML_CHECK(impl->layer[0].x != impl->layer[0].y);
    DML_CHECK_EQ(DML_AT_IN, impl->buffer[impl->layer[0].x].where);
    DML_CHECK_EQ(DML_AT_STASH, impl->buffer[impl->layer[0].y].where);
    dml_arena_free(&p.arena);
}

static int32_t count_steps(const dml_steps *list, dml_step_kind kind)
{
    int32_t n = 0;
    for (int32_t i = 0; i < list->n; i++)
        n += list->step[i].kind == kind;
    return n;
}

/* The last contribution goes right to where the input gradient must be; only a chunk without one copies. */
static void nothing_is_copied_that_can_be_written_in_place(void **state)
{
    (void)state;
    by_hand h;
    planned p;
    by_hand_resnet(&h, 3, 3);
    plan(&p, &h.spec, 3, 10, false); /* block1 and its relu */
    const dml_chunk_impl *impl = p.chunk.impl;
    DML_CHECK_EQ(0, count_steps(&impl->input, DML_STEP_COPY));
    DML_CHECK_EQ(1, count_steps(&impl->input, DML_STEP_ADD));
    DML_CHECK_EQ(0, count_steps(&impl->forward, DML_STEP_COPY));
    dml_arena_free(&p.arena);

    net_wires(&h);
    plan(&p, &h.spec, 1, 2, false); /* a flatten of features is its input's bytes */
    impl = p.chunk.impl;
    DML_CHECK_EQ(1, impl->forward.n);
    DML_CHECK_EQ(1, impl->input.n);
    DML_CHECK_EQ(1, count_steps(&impl->input, DML_STEP_COPY));
    dml_arena_free(&p.arena);
}

/* Going down, at any time, at most a layer's dy and dx and a gradient that waits: far less than all. */
static void scratch_is_packed_by_lifetime(void **state)
{
    (void)state;
    by_hand h;
    by_hand_resnet(&h, 3, 3);
    planned p;
    plan(&p, &h.spec, 0, -1, false);
    const dml_chunk_impl *impl = p.chunk.impl;
    const int64_t widest = h.spec.training.micro_batch_size * 32 * 32 * 16 * 4;
    DML_CHECK_EQ(3 * widest / KIB, impl->work_bytes / KIB);
    dml_arena_free(&p.arena);
}

static void parameters_stand_at_multiples_of_sixteen(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        planned p;
        plan(&p, nets[i].make(&h), 0, -1, false);
        int64_t end = 0;
        for (int32_t j = 0; j < p.model.n_params; j++) {
            DML_CHECK_EQ(0, p.chunk.param_at[j] % 16);
            DML_CHECK(p.chunk.param_at[j] >= end && p.chunk.param_at[j] < end + 16);
            end = p.chunk.param_at[j] + p.model.param[j].elems;
        }
        DML_CHECK(p.chunk.arena_elems >= end && p.chunk.arena_elems < end + 16);
        dml_arena_free(&p.arena);
    }
}

static int64_t private_of(const by_hand *h)
{
    planned p;
    plan(&p, &h->spec, 0, -1, false);
    const int64_t bytes = p.chunk.size.private_;
    dml_arena_free(&p.arena);
    return bytes;
}

static void the_optimizer_decides_what_moments_there_are(void **state)
{
    (void)state;
    by_hand h;
    by_hand_mlp(&h);
    planned p;
    plan(&p, &h.spec, 0, -1, false);
    const int64_t each = p.chunk.arena_elems * 4, fast = p.chunk.size.shared;
    dml_arena_free(&p.arena);
    const int64_t momentum = private_of(&h);
    h.spec.optimizer.momentum = 0;
    DML_CHECK_EQ(momentum - each, private_of(&h));
    h.spec.optimizer.name = DML_OPT_ADAMW;
    DML_CHECK_EQ(momentum + each, private_of(&h));
    h.spec.training.numerics = DML_EXACT; /* finished gradients are private, accumulators shared */
    DML_CHECK_EQ(momentum + 2 * each, private_of(&h));
    plan(&p, &h.spec, 0, -1, false);
    DML_CHECK_EQ(fast + each + 64, p.chunk.size.shared);
    dml_arena_free(&p.arena);
}

static void a_cut_through_a_residual_block_is_our_bug(void **state)
{
    (void)state;
    by_hand h;
    const dml_spec *spec = by_hand_resnet(&h, 3, 3);
    dml_arena arena = {0};
    dml_model model;
    dml_chunk chunk;
    DML_CHECK_OK(dml_model_make(spec, &arena, &model));
    DML_CHECK_FAILS(DML_ERR_BUG, "layer 'block1.add' reads from below its chunk",
                    dml_chunk_plan(spec, &model, 6, 12, false, &arena, &chunk));
    DML_CHECK_FAILS(DML_ERR_BUG, "a chunk of layers 3 to 3",
                    dml_chunk_plan(spec, &model, 3, 3, false, &arena, &chunk));
    dml_arena_free(&arena);
}

/* ---- packing ---- */

static void packed_buffers_alive_together_do_not_overlap(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        enum { N = 24 };
        dml_buffer b[N];
        uint32_t word[4];
        int64_t sum = 0, alive[64] = {0}, most = 0;
        for (int32_t i = 0; i < N; i++) {
            dml_rng_block(dml_rng_key(seed, DML_RNG_TEST, 1), 0, (uint64_t)i, word);
            const int32_t from = (int32_t)(word[0] % 40);
            b[i] = (dml_buffer){.where = i % 7 == 6 ? DML_AT_STASH : DML_AT_WORK,
                                .at = -1,
                                .bytes = 1 + word[1] % 1000,
                                .from = from,
                                .to = from + (int32_t)(word[2] % 8)};
            if (b[i].where != DML_AT_WORK) continue;
            sum += dml_align_bytes(b[i].bytes);
            for (int32_t t = b[i].from; t <= b[i].to; t++)
                alive[t] += dml_align_bytes(b[i].bytes);
        }
        dml_arena arena = {0};
        const int64_t need = dml_pack(b, N, &arena);
        dml_arena_free(&arena);
        for (int t = 0; t < 64; t++)
            if (alive[t] > most) most = alive[t];
        DML_CHECK(need >= most && need <= sum);
        for (int i = 0; i < N; i++) {
            if (b[i].where != DML_AT_WORK) {
                DML_CHECK_EQ(-1, b[i].at);
                continue;
            }
            DML_CHECK(b[i].at >= 0 && b[i].at % 64 == 0 && b[i].at + b[i].bytes <= need);
            for (int j = 0; j < i; j++) {
                if (b[j].where != DML_AT_WORK) continue;
                const bool together = b[i].from <= b[j].to && b[j].from <= b[i].to;
                const bool apart =
                    b[i].at + b[i].bytes <= b[j].at || b[j].at + b[j].bytes <= b[i].at;
                DML_CHECK(!together || apart);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_stashes_one_tensor_a_layer),
        cmocka_unit_test(vgg8_stashes_what_backward_reads),
        cmocka_unit_test(a_cut_changes_the_stash_by_what_crosses_it),
        cmocka_unit_test(the_input_is_never_overwritten),
        cmocka_unit_test(nothing_is_copied_that_can_be_written_in_place),
        cmocka_unit_test(scratch_is_packed_by_lifetime),
        cmocka_unit_test(parameters_stand_at_multiples_of_sixteen),
        cmocka_unit_test(the_optimizer_decides_what_moments_there_are),
        cmocka_unit_test(a_cut_through_a_residual_block_is_our_bug),
        cmocka_unit_test(packed_buffers_alive_together_do_not_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
