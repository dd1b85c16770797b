/* tests/engine/test_chunk_bucket.c - where buckets are cut, and backwards in parts against whole ones. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/nets_by_hand.h"

#include "engine/base/hash.h"
#include "engine/chunk_bucket.h"

static const int64_t sizes[] = {1, 64, 1000, 20000, INT64_C(1) << 40};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Two replicas, a first bucket of at least `first` bytes and others of `other`. */
static const dml_spec *bucketed(by_hand *h, int64_t first, int64_t other)
{
    h->spec.parallelism.data_parallel_size = 2;
    h->spec.comm.overlap = true;
    h->spec.comm.first_bucket_bytes = first;
    h->spec.comm.bucket_bytes = other;
    return &h->spec;
}

/* ---- cuts ---- */

static int64_t bytes_without_lowest_layer(const dml_chunk *c, const dml_bucket *b)
{
    int32_t l = c->layer_begin;
    while (c->model->layer[l].param_end <= c->param_begin + b->param_begin)
        l++;
    const int32_t next = c->model->layer[l].param_end - c->param_begin;
    if (next == b->param_end) return 0;
    return (b->at + b->elems - c->param_at[next]) * dml_bucket_bytes(c, b) / b->elems;
}

static void check_cut(const dml_chunk *c, int64_t first, int64_t other)
{
    const dml_chunk_impl *impl = c->impl;
    int32_t param = c->param_end - c->param_begin, input = 0, weight = 0;
    int64_t at = c->arena_elems;
    for (int32_t k = 0; k < c->n_buckets; k++) {
        const dml_bucket *b = &c->bucket[k];
        const int64_t least = k ? other : first;
        DML_CHECK_EQ(param, b->param_end);
        DML_CHECK_EQ(at, b->at + b->elems);
        DML_CHECK(b->input_end >= input && b->weight_end >= weight);
        if (k + 1 < c->n_buckets) DML_CHECK(dml_bucket_bytes(c, b) >= least);
        if (c->n_buckets > 1) DML_CHECK(bytes_without_lowest_layer(c, b) < least);
        param = b->param_begin;
        at = b->at;
        input = b->input_end;
        weight = b->weight_end;
    }
    DML_CHECK_EQ(0, param);
    DML_CHECK_EQ(0, at);
    DML_CHECK_EQ(impl->input.n, input);
    DML_CHECK_EQ(impl->weight.n, weight);
}

static int32_t buckets_of(const dml_spec *spec)
{
    rig r;
    rig_open(&r, "ref", spec, 1, NULL, 0);
    const int32_t n = r.chunk[0].n_buckets;
    rig_close(&r);
    return n;
}

static void buckets_tile_the_parameters_from_the_last_down_and_are_as_small_as_allowed(void **state)
{
    (void)state;
    by_hand h;
    int32_t several = 0;
    for (int i = 0; i < NETS; i++)
        for (int k = 0; k < SIZES * SIZES * 4; k++) {
            nets[i].make(&h);
            h.spec.training.numerics = k & 1 ? DML_EXACT : DML_FAST;
            const int64_t first = sizes[k / 4 % SIZES], other = sizes[k / 4 / SIZES];
            rig r;
            rig_open(&r, "ref", bucketed(&h, first, other), 1, NULL, k & 2 ? RIG_SPLIT : 0);
            check_cut(&r.chunk[0], first, other);
            several += r.chunk[0].n_buckets > 1;
            rig_close(&r);
        }
    DML_CHECK(several > 50);
}

static int64_t first_bucket_bytes(by_hand *h, int64_t first)
{
    rig r;
    rig_open(&r, "ref", bucketed(h, first, 1), 1, NULL, 0);
    const int64_t bytes = dml_bucket_bytes(&r.chunk[0], &r.chunk[0].bucket[0]);
    rig_close(&r);
    return bytes;
}

static void a_bucket_of_just_the_least_size_is_closed(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        nets[i].make(&h);
        const int64_t top_layer = first_bucket_bytes(&h, 1);
        DML_CHECK_EQ(top_layer, first_bucket_bytes(&h, top_layer));
        DML_CHECK(first_bucket_bytes(&h, top_layer + 1) > top_layer);
    }
}

static void there_is_one_bucket_where_nothing_can_overlap(void **state)
{
    (void)state;
    by_hand h;
    nets[0].make(&h);
    DML_CHECK(buckets_of(bucketed(&h, 1, 1)) > 1);
    h.spec.comm.overlap = false;
    DML_CHECK_EQ(1, buckets_of(&h.spec));
    h.spec.comm.overlap = true;
    h.spec.parallelism.data_parallel_size = 1;
    DML_CHECK_EQ(1, buckets_of(&h.spec));
    h.spec.parallelism.data_parallel_size = 2;
    DML_CHECK_EQ(1, buckets_of(bucketed(&h, INT64_C(1) << 40, 1)));
}

/* ---- parts ---- */

/* What a step leaves: every accumulator, the maxima, the slots, and the gradients handed down. */
static uint64_t left_by(const rig *r)
{
    uint64_t sum = 0;
    for (int32_t c = 0; c < r->n; c++) {
        const dml_chunk *chunk = &r->chunk[c];
        sum = sum * 31 + dml_hash(chunk->slots, chunk->size.shared, 1);
        for (int32_t mb = 0; mb < r->mbs && c > 0; mb++)
            sum = sum * 31 + dml_hash(r->dx[c][mb], chunk->size.dx, 2);
    }
    return sum;
}

static const char *sum_begin(const dml_chunk *c, const dml_bucket *b, int64_t *bytes)
{
    *bytes = b->elems * (c->acc ? (int64_t)sizeof *c->acc : (int64_t)sizeof *c->g);
    return c->acc ? (const char *)(c->acc + b->at) : (const char *)(c->g + b->at);
}

/* The sums of every bucket as hashes: the first plane will do. */
static void hash_sums(const dml_chunk *c, uint64_t *hash)
{
    for (int32_t k = 0; k < c->n_buckets; k++) {
        int64_t bytes;
        const char *sum = sum_begin(c, &c->bucket[k], &bytes);
        hash[k] = dml_hash(sum, bytes, 3);
    }
}

/* One backward of chunk c in parts; part k changes the sums of bucket k and of no other. */
static void backward_in_parts(rig *r, int32_t c, int32_t mb, bool weights_alone)
{
    enum { MOST = 64 };
    dml_chunk *chunk = &r->chunk[c];
    uint64_t before[MOST], after[MOST];
    dml_run run = rig_run(r, mb);
    DML_CHECK(chunk->n_buckets <= MOST);
    run.first = r->added[c]++ == 0;
    rig_poison(r, c);
    for (run.part = 1; run.part <= chunk->n_buckets; run.part++) {
        dml_chunk_io io = rig_io(r, c, mb);
        if (run.part < chunk->n_buckets) io.dx = NULL;
        DML_CHECK_EQ(0, chunk->ran[mb]);
        hash_sums(chunk, before);
        if (weights_alone)
            DML_CHECK_OK(dml_chunk_backward_weight(chunk, r->kt, r->k, &run, &io, r->stash[c][mb]));
        else
            DML_CHECK_OK(dml_chunk_backward(chunk, r->kt, r->k, &run, &io, r->stash[c][mb]));
        hash_sums(chunk, after);
        for (int32_t k = 0; k < chunk->n_buckets; k++)
            if (k != run.part - 1) DML_CHECK(before[k] == after[k]);
    }
    DML_CHECK_EQ(1, chunk->ran[mb]);
}

static void step_in_parts(rig *r, bool weights_alone)
{
    rig_begin(r);
    for (int32_t mb = 0; mb < r->mbs; mb++) {
        rig_forward(r, mb);
        if (weights_alone) rig_backward_input(r, mb);
        for (int32_t c = r->n - 1; c >= 0; c--)
            backward_in_parts(r, c, mb, weights_alone);
    }
}

/* Whole backwards, then the same in parts; with split chunks also the weight gradients alone in parts. */
static void check_parts(const dml_spec *spec, int32_t chunks, int32_t split)
{
    rig r;
    rig_open(&r, "ref", spec, chunks, NULL, split);
    rig_step(&r);
    const uint64_t want = left_by(&r);
    step_in_parts(&r, false);
    DML_CHECK(left_by(&r) == want);
    if (split == RIG_SPLIT) {
        step_in_parts(&r, true);
        DML_CHECK(left_by(&r) == want);
    }
    rig_close(&r);
}

static void a_backward_in_parts_leaves_the_bits_of_a_whole_one(void **state)
{
    (void)state;
    static const dml_numerics numerics[] = {DML_FAST, DML_EXACT, DML_EXACT_WIDE};
    by_hand h;
    for (int i = 0; i < NETS; i++)
        for (int n = 0; n < 3; n++)
            for (int split = 0; split <= RIG_SPLIT; split++)
                for (int32_t chunks = 1; chunks <= 2; chunks++) {
                    nets[i].make(&h);
                    h.spec.training.numerics = numerics[n];
                    check_parts(bucketed(&h, 1, 1), chunks, split);
                    check_parts(bucketed(&h, 200, 2000), chunks, split);
                }
}

static void times_of_parts_add_up_to_those_of_all_steps(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++)
        for (int split = 0; split <= RIG_SPLIT; split++) {
            rig r;
            nets[i].make(&h);
            rig_open(&r, "ref", bucketed(&h, 1, 1), 1, NULL, split);
            const dml_chunk *c = &r.chunk[0];
            int64_t ns[64][3];
            for (int32_t l = 0; l < c->layer_end; l++)
                for (int pass = 0; pass < 3; pass++)
                    ns[l][pass] = 1 + l * 3 + pass;
            const dml_part_times whole = dml_chunk_part_times(c, 0, ns);
            dml_part_times sum = {0};
            for (int32_t k = 1; k <= c->n_buckets; k++) {
                const dml_part_times t = dml_chunk_part_times(c, k, ns);
                DML_CHECK(t.weight_ns > 0 && t.bwd_ns >= t.weight_ns);
                sum.bwd_ns += t.bwd_ns;
                sum.weight_ns += t.weight_ns;
            }
            DML_CHECK_EQ(whole.bwd_ns, sum.bwd_ns);
            DML_CHECK_EQ(whole.weight_ns, sum.weight_ns);
            rig_close(&r);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            buckets_tile_the_parameters_from_the_last_down_and_are_as_small_as_allowed),
        cmocka_unit_test(a_bucket_of_just_the_least_size_is_closed),
        cmocka_unit_test(there_is_one_bucket_where_nothing_can_overlap),
        cmocka_unit_test(a_backward_in_parts_leaves_the_bits_of_a_whole_one),
        cmocka_unit_test(times_of_parts_add_up_to_those_of_all_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
