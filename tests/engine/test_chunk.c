/* tests/engine/test_chunk.c - gradients against finite differences; cuts, forms and orders against each
 * other, bit by bit. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/nets_by_hand.h"

static const char *backend = "ref";

/* ---- against finite differences ---- */

static float sign_of(int64_t seed, int64_t i)
{
    uint32_t word[4];
    dml_rng_block(dml_rng_key(9, DML_RNG_TEST, (uint64_t)seed), 0, (uint64_t)i / 4, word);
    return word[i % 4] & 1 ? 1.0f : -1.0f;
}

/* Loss of the step with x moved by `distance` along direction `seed`. */
static double loss_at(rig *r, float *x, int64_t n, int64_t seed, float distance)
{
    float *saved = malloc((size_t)n * sizeof *x);
    memcpy(saved, x, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] += distance * sign_of(seed, i);
    r->kt->weights_changed(r->k);
    rig_begin(r);
    for (int32_t mb = 0; mb < r->mbs; mb++)
        rig_forward(r, mb);
    memcpy(x, saved, (size_t)n * sizeof *x);
    r->kt->weights_changed(r->k);
    free(saved);
    return rig_loss(r);
}

/* A net with kinks (relu, largest of a window) is off where a step crosses one: smaller steps, and only
 * gross errors show.  Its smooth twin (tanh, mean of a window) has the same wiring and is checked closely. */
typedef struct closeness {
    float step;
    double relative; /* of the gradient's norm */
    double rounding; /* of the loss, over the step */
} closeness;
static const closeness with_kinks = {4e-5f, 0.3, 4e-3}, smooth = {6e-4f, 3e-3, 5e-4};

static void smoothen(by_hand *h)
{
    for (int32_t i = 0; i < h->n; i++) {
        dml_layer_spec *l = &h->layer[i];
        if (l->kind == DML_LAYER_RELU) l->kind = DML_LAYER_TANH;
        if (l->kind == DML_LAYER_MAX_POOL2D) l->kind = DML_LAYER_AVG_POOL2D;
    }
}

/* The slope along a random direction d is grad . d; with d of signs, |grad| is the scale of the error. */
static void check_slope(rig *r, const closeness *by, const char *what, float *x, const float *grad,
                        int64_t n, int64_t seed)
{
    const double want = (loss_at(r, x, n, seed, by->step) - loss_at(r, x, n, seed, -by->step)) /
                        (2 * (double)by->step);
    double got = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        got += (double)grad[i] * (double)sign_of(seed, i);
        squares += (double)grad[i] * (double)grad[i];
    }
    if (!(fabs(want - got) <= by->relative * sqrt(squares) + by->rounding))
        fail_msg("the slope along %s is %g, the gradient says %g (norm %g)", what, want, got,
                 sqrt(squares));
}

static float *copy_of(const float *x, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static void check_parameters(const dml_spec *spec, const closeness *by)
{
    rig r;
    rig_open(&r, backend, spec, 1, NULL, 0);
    for (int32_t p = 0; p < r.model.n_params; p++) {
        const int64_t n = r.model.param[p].elems;
        rig_step(&r);
        float *grad = copy_of(rig_grad(&r, p), n);
        for (int64_t seed = 0; seed < 3; seed++)
            check_slope(&r, by, r.model.param[p].name, rig_weight(&r, p), grad, n, seed);
        free(grad);
    }
    rig_close(&r);
}

static void gradients_of_parameters_are_the_slopes_of_the_loss(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        check_parameters(nets[i].make(&h), &with_kinks);
        smoothen(&h);
        check_parameters(&h.spec, &smooth);
    }
}

/* The net with a delay before it. */
static void put_delay_first(by_hand *h)
{
    const by_hand plain = *h;
    h->n = 0;
    h->last = -1;
    by_hand_layer(h, DML_LAYER_DELAY, "before");
    for (int32_t l = 0; l < plain.n; l++) {
        dml_layer_spec *to = by_hand_layer(h, plain.layer[l].kind, plain.name[l]);
        const char *name = to->name;
        *to = plain.layer[l];
        to->name = name;
        to->input++;
        if (to->kind == DML_LAYER_ADD) to->with++;
    }
}

static void check_input(by_hand *h, const closeness *by)
{
    put_delay_first(h);
    rig r;
    rig_open(&r, backend, &h->spec, 2, (const int32_t[]){0, 1, h->n}, 0);
    rig_step(&r);
    const int64_t n = dml_shape_elems(r.model.input) * r.chunk[0].mb_rows;
    for (int32_t mb = 0; mb < r.mbs; mb++)
        for (int64_t seed = 0; seed < 3; seed++)
            check_slope(&r, by, "the input", r.images + n * mb, r.dx[1][mb], n, seed);
    rig_close(&r);
}

/* A delay before the net is a chunk of its own, so that the net's chunk hands an input gradient down. */
static void the_gradient_handed_down_is_the_slope_along_the_input(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        nets[i].make(&h);
        check_input(&h, &with_kinks);
        nets[i].make(&h);
        smoothen(&h);
        check_input(&h, &smooth);
    }
}

/* ---- against each other ---- */

/* Gradients, slots of the loss and moments of two rigs of one model are the same bytes. */
static void check_same(rig *a, rig *b, const char *what)
{
    for (int32_t p = 0; p < a->model.n_params; p++)
        if (memcmp(rig_grad(a, p), rig_grad(b, p),
                   (size_t)a->model.param[p].elems * sizeof(float)) != 0)
            fail_msg("%s: the gradient of %s differs", what, a->model.param[p].name);
    const dml_chunk *la = &a->chunk[a->n - 1], *lb = &b->chunk[b->n - 1];
    if (memcmp(la->loss, lb->loss, (size_t)a->mbs * sizeof(double)) != 0)
        fail_msg("%s: loss differs", what);
    if (memcmp(la->correct, lb->correct, (size_t)a->mbs * sizeof(int32_t)) != 0)
        fail_msg("%s: correct differs", what);
}

/* Moments of a batch norm layer, whoever holds it. */
static const float *moments_of(const rig *r, int32_t layer)
{
    for (int32_t c = 0; c < r->n; c++) {
        const dml_chunk *chunk = &r->chunk[c];
        const dml_chunk_impl *impl = chunk->impl;
        if (layer >= chunk->layer_begin && layer < chunk->layer_end)
            return chunk->moments + impl->layer[layer - chunk->layer_begin].moments_at;
    }
    return NULL;
}

static void check_same_moments(const rig *a, const rig *b)
{
    for (int32_t s = 0; s < a->model.n_states; s += 2) {
        const int32_t layer = a->model.state[s].layer;
        const size_t bytes = (size_t)(2 * a->mbs * a->model.state[s].elems) * sizeof(float);
        if (memcmp(moments_of(a, layer), moments_of(b, layer), bytes) != 0)
            fail_msg("moments of %s differ", a->model.layer[layer].spec->name);
    }
}

static void cuts_do_not_change_a_bit(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        rig whole;
        rig_open(&whole, backend, nets[i].make(&h), 1, NULL, 0);
        rig_step(&whole);
        for (int32_t n = 2; n <= 4; n++) {
            for (int kind = 0; kind < 2; kind++) {
                h.spec.parallelism.split = kind ? DML_SPLIT_UNIFORM : DML_SPLIT_AUTO;
                rig cut;
                rig_open(&cut, backend, &h.spec, n, NULL, 0);
                rig_step(&cut);
                check_same(&whole, &cut, nets[i].name);
                check_same_moments(&whole, &cut);
                rig_close(&cut);
            }
        }
        rig_close(&whole);
    }
}

static void every_legal_border_does_not_change_a_bit(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        rig whole;
        rig_open(&whole, backend, nets[i].make(&h), 1, NULL, 0);
        rig_step(&whole);
        const dml_layer *layer = whole.model.layer;
        for (int32_t l = 0; l < whole.model.n_layers; l++) {
            if (!layer[l].may_end_stage) continue;
            /* ... and, where it can be, the next layer as a chunk of its own */
            const bool alone = layer[l + 1].may_end_stage;
            const int32_t n = whole.model.n_layers;
            rig cut;
            rig_open(&cut, backend, &h.spec, alone ? 3 : 2,
                     (const int32_t[]){0, l + 1, alone ? l + 2 : n, n}, l % 2 ? RIG_SPLIT : 0);
            rig_step(&cut);
            check_same(&whole, &cut, layer[l].spec->name);
            rig_close(&cut);
        }
        rig_close(&whole);
    }
}

/* Up to six chunks with borders anywhere: values pass chunks over, and are read in several. */
static void many_cuts_at_once_do_not_change_a_bit(void **state)
{
    (void)state;
    by_hand h;
    int32_t skips = 0, chained = 0;
    for (int i = 0; i < NETS; i++) {
        rig whole;
        rig_open(&whole, backend, nets[i].make(&h), 1, NULL, 0);
        rig_step(&whole);
        const dml_layer *layer = whole.model.layer;
        for (uint32_t number = 0; number < 24; number++) {
            int32_t begin[RIG_CHUNKS] = {0}, n = 1;
            for (int32_t l = 0; l < whole.model.n_layers && n < 6; l++) {
                uint32_t word[4];
                dml_rng_block(dml_rng_key(3, DML_RNG_TEST, number), 0, (uint64_t)l, word);
                if (layer[l].may_end_stage && word[0] % 3 == 0) begin[n++] = l + 1;
            }
            begin[n] = whole.model.n_layers;
            rig cut;
            rig_open(&cut, backend, &h.spec, n, begin, number % 2 ? RIG_SPLIT : 0);
            rig_step(&cut);
            check_same(&whole, &cut, nets[i].name);
            skips += cut.model.cut->n_skips;
            for (int32_t k = 0; k < cut.model.cut->n_skips; k++)
                chained += cut.model.cut->skip[k].back != cut.model.cut->skip[k].from;
            rig_close(&cut);
        }
        rig_close(&whole);
    }
    DML_CHECK(skips > 50 && chained > 10);
}

static void two_half_backwards_are_one_whole_backward(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        rig whole, halves;
        rig_open(&whole, backend, nets[i].make(&h), 1, NULL, 0);
        rig_step(&whole);
        for (int32_t n = 1; n <= 3; n++) {
            rig_open(&halves, backend, &h.spec, n, NULL, RIG_SPLIT);
            rig_step(&halves); /* a split plan runs whole backwards too */
            check_same(&whole, &halves, nets[i].name);
            rig_begin(&halves);
            for (int32_t mb = 0; mb < halves.mbs; mb++) {
                rig_forward(&halves, mb);
                rig_backward_input(&halves, mb);
            }
            for (int32_t mb = 0; mb < halves.mbs; mb++)
                rig_backward_weight(&halves, mb);
            check_same(&whole, &halves, nets[i].name);
            check_same_moments(&whole, &halves);
            rig_close(&halves);
        }
        rig_close(&whole);
    }
}

/* Forwards, input halves and weight halves in three different orders. */
static void exact_sums_do_not_depend_on_the_order_of_micro_batches(void **state)
{
    (void)state;
    by_hand h;
    for (int i = 0; i < NETS; i++) {
        nets[i].make(&h);
        h.spec.training.numerics = DML_EXACT;
        h.spec.training.num_microbatches = 5;
        rig in_order;
        rig_open(&in_order, backend, &h.spec, 1, NULL, 0);
        rig_step(&in_order);
        for (uint64_t seed = 0; seed < 3; seed++) {
            int32_t order[3][5];
            for (uint64_t j = 0; j < 3; j++)
                dml_rng_permutation(dml_rng_key(seed, DML_RNG_TEST, j), 5, order[j]);
            rig r;
            rig_open(&r, backend, &h.spec, 2, NULL, RIG_SPLIT);
            rig_begin(&r);
            for (int32_t j = 0; j < 5; j++)
                rig_forward(&r, order[0][j]);
            for (int32_t j = 0; j < 5; j++)
                rig_backward_input(&r, order[1][j]);
            for (int32_t j = 0; j < 5; j++)
                rig_backward_weight(&r, order[2][j]);
            check_same(&in_order, &r, nets[i].name);
            for (int32_t c = 0; c < 2; c++)
                for (int32_t p = r.chunk[c].param_begin; p < r.chunk[c].param_end; p++)
                    DML_CHECK_EQ(in_order.chunk[0].max_bits[p],
                                 r.chunk[c].max_bits[p - r.chunk[c].param_begin]);
            rig_close(&r);
        }
        rig_close(&in_order);
    }
}

static void exact_and_fast_gradients_are_close(void **state)
{
    (void)state;
    by_hand h;
    rig fast, exact;
    rig_open(&fast, backend, net_cnn(&h), 1, NULL, 0);
    rig_step(&fast);
    by_hand other = h;
    other.spec.model.layers = h.layer;
    other.spec.training.numerics = DML_EXACT;
    rig_open(&exact, backend, &other.spec, 1, NULL, 0);
    rig_step(&exact);
    for (int32_t p = 0; p < fast.model.n_params; p++) {
        const float *a = rig_grad(&fast, p), *b = rig_grad(&exact, p);
        for (int64_t i = 0; i < fast.model.param[p].elems; i++)
            if (!(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(a[i]))))
                fail_msg("%s[%d]: %g and %g", fast.model.param[p].name, (int)i, (double)a[i],
                         (double)b[i]);
    }
    rig_close(&fast);
    rig_close(&exact);
}

/* Moments, like all slots, are the sum over replicas: each wrote its own and left the rest zero. */
static void a_chunk_that_runs_nothing_adds_nothing(void **state)
{
    (void)state;
    by_hand h;
    for (int numerics = 0; numerics < 2; numerics++) {
        net_cnn(&h);
        h.spec.training.numerics = numerics ? DML_EXACT : DML_FAST;
        rig whole, a, b;
        rig_open(&whole, backend, &h.spec, 1, NULL, 0);
        rig_open(&a, backend, &h.spec, 1, NULL, 0);
        rig_open(&b, backend, &h.spec, 1, NULL, 0);
        for (int32_t step = 0; step < 2; step++) { /* the second must not see the first */
            rig_step(&whole);
            rig_begin(&a);
            rig_begin(&b);
            rig_forward(&a, step);
            rig_backward(&a, step);
            rig_forward(&b, !step);
            rig_backward(&b, !step);
            for (int64_t i = 0; i < whole.chunk[0].slot_words; i++)
                DML_CHECK_EQ(whole.chunk[0].slots[i], a.chunk[0].slots[i] + b.chunk[0].slots[i]);
            DML_CHECK_EQ(1, a.chunk[0].ran[step]);
            DML_CHECK_EQ(0, a.chunk[0].ran[!step]);
        }
        rig_begin(&a);
        for (int32_t p = 0; p < a.model.n_params; p++)
            for (int64_t i = 0; i < a.model.param[p].elems; i++)
                DML_CHECK(rig_grad(&a, p)[i] == 0);
        for (int64_t i = 0; i < a.chunk[0].slot_words; i++)
            DML_CHECK_EQ(0, a.chunk[0].slots[i]);
        for (int32_t p = 0; numerics && p < a.model.n_params; p++)
            DML_CHECK_EQ(0, a.chunk[0].max_bits[p]);
        rig_close(&whole);
        rig_close(&a);
        rig_close(&b);
    }
}

/* Two rows in room for three give what two rows in room for two give; the third is not touched. */
static void a_short_micro_batch_is_just_a_smaller_one(void **state)
{
    (void)state;
    by_hand h, small;
    for (int i = 0; i < NETS; i++) {
        nets[i].make(&h);
        h.spec.training.num_microbatches = 1;
        nets[i].make(&small);
        small.spec.training.num_microbatches = 1;
        small.spec.training.micro_batch_size = 2;
        rig a, b;
        rig_open(&a, backend, &h.spec, 2, NULL, 0);
        rig_open(&b, backend, &small.spec, 2, NULL, 0);
        a.rows[0] = 2;
        memcpy(b.images, a.images, (size_t)b.chunk[0].size.in);
        memcpy(b.labels, a.labels, 2 * sizeof(int32_t));
        const float before = a.dx[1][0][2 * a.chunk[1].size.in / 3 / 4];
        rig_step(&a);
        rig_step(&b);
        check_same(&a, &b, nets[i].name);
        DML_CHECK(before == a.dx[1][0][2 * a.chunk[1].size.in / 3 / 4]);
        rig_close(&a);
        rig_close(&b);
    }
}

static void evaluation_keeps_every_unit_and_uses_running_moments(void **state)
{
    (void)state;
    by_hand h;
    net_cnn(&h);
    h.spec.training.num_microbatches = 1;
    for (int32_t i = 0; i < h.n; i++)
        if (h.layer[i].kind == DML_LAYER_DROPOUT)
            h.layer[i].rate = 0; /* so that training does, too */
    rig r;
    rig_open(&r, backend, &h.spec, 2, NULL, 0);
    rig_begin(&r);
    rig_forward(&r, 0);
    const double train = rig_loss(&r);
    for (int32_t s = 0; s < r.model.n_states; s++) {
        const float *from = moments_of(&r, r.model.state[s].layer);
        const int64_t n = r.model.state[s].elems;
        for (int32_t c = 0; c < 2; c++)
            if (dml_chunk_state(&r.chunk[c], s))
                memcpy(dml_chunk_state(&r.chunk[c], s), from + (s % 2) * n,
                       (size_t)n * sizeof(float));
    }
    for (int32_t i = 0; i < h.n; i++)
        if (h.layer[i].kind == DML_LAYER_DROPOUT) h.layer[i].rate = 0.9f;
    r.evaluate = true;
    rig_begin(&r);
    rig_forward(&r, 0);
    if (!(fabs(rig_loss(&r) - train) < 1e-5))
        fail_msg("%g evaluated, %g trained", rig_loss(&r), train);
    for (int32_t s = 0; s < r.model.n_states; s += 2) /* and leaves no moments */
        DML_CHECK(moments_of(&r, r.model.state[s].layer)[0] == 0);
    rig_close(&r);
}

static void dropout_is_drawn_anew_every_step(void **state)
{
    (void)state;
    by_hand h;
    rig r;
    rig_open(&r, backend, net_mlp(&h), 1, NULL, 0);
    rig_step(&r);
    const double first = rig_loss(&r);
    r.step++;
    rig_step(&r);
    DML_CHECK(first != rig_loss(&r));
    r.step--;
    rig_step(&r);
    DML_CHECK(first == rig_loss(&r));
    rig_close(&r);
}

/* The mask follows the sample's place in the step's batch, not its micro-batch. */
static void how_a_batch_is_cut_does_not_change_its_masks(void **state)
{
    (void)state;
    by_hand h;
    rig threes, sixes;
    rig_open(&threes, backend, net_mlp(&h), 2, NULL, 0);
    rig_step(&threes);
    by_hand other;
    net_mlp(&other);
    other.spec.training.micro_batch_size = 6;
    other.spec.training.num_microbatches = 1;
    rig_open(&sixes, backend, &other.spec, 1, NULL, 0);
    rig_step(&sixes);
    if (!(fabs(rig_loss(&threes) - rig_loss(&sixes)) < 1e-5))
        fail_msg("%g and %g", rig_loss(&threes), rig_loss(&sixes));
    rig_close(&threes);
    rig_close(&sixes);
}

/* ---- names ---- */

static uint64_t hash_of_all(const rig *r)
{
    uint64_t sum = 0;
    for (int32_t c = 0; c < r->n; c++) {
        uint64_t hash;
        DML_CHECK_OK(dml_chunk_weights_hash(&r->chunk[c], r->backend->device, r->queue, &hash));
        sum += hash;
    }
    return sum;
}

static void hashes_of_the_chunks_add_up_to_the_models(void **state)
{
    (void)state;
    by_hand h;
    const dml_spec *spec = net_cnn(&h);
    uint64_t want = 0;
    for (int32_t n = 1; n <= 4; n++) {
        rig r;
        rig_open(&r, backend, spec, n, NULL, 0);
        const uint64_t sum = hash_of_all(&r);
        if (n == 1) want = sum;
        DML_CHECK(sum == want);
        rig_weight(&r, 3)[0] += 1;
        DML_CHECK(hash_of_all(&r) != want);
        rig_close(&r);
    }
}

static dml_err broken(dml_kctx *k, dml_out y, dml_in x)
{
    (void)k;
    (void)y;
    (void)x;
    DML_FAIL(DML_ERR_BUG, "out of order");
}

static void an_error_names_the_layer_and_its_place(void **state)
{
    (void)state;
    by_hand h;
    rig r;
    rig_open(&r, backend, net_mlp(&h), 1, NULL, 0);
    dml_kernel_table table = *r.kt;
    table.gelu_fwd = broken;
    const dml_run run = rig_run(&r, 1);
    const dml_chunk_io io = {.in = r.images};
    const char *want = "in forward of layer 'gelu', micro-batch 1 (by-hand.yaml:4)";
    DML_CHECK_FAILS(
        DML_ERR_BUG, want,
        dml_chunk_forward(&r.chunk[0], &table, r.k, &run, &io, r.labels, r.stash[0][1]));
    rig_close(&r);
}

static void scales_leave_room_for_every_addend(void **state)
{
    (void)state;
    by_hand h;
    net_mlp(&h);
    h.spec.training.numerics = DML_EXACT;
    h.spec.training.num_microbatches = 5;
    rig r;
    rig_open(&r, backend, &h.spec, 1, NULL, 0);
    DML_CHECK_EQ(62 - 3 - 16, dml_chunk_scale_log2(&r.chunk[0], 0));
    r.chunk[0].exponent[0] = -100;
    DML_CHECK_EQ(126, dml_chunk_scale_log2(&r.chunk[0], 0));
    r.chunk[0].exponent[0] = 250;
    DML_CHECK_EQ(-126, dml_chunk_scale_log2(&r.chunk[0], 0));
    rig_close(&r);
}

int main(int argc, char **argv)
{
    if (argc > 1) backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_parameters_are_the_slopes_of_the_loss),
        cmocka_unit_test(the_gradient_handed_down_is_the_slope_along_the_input),
        cmocka_unit_test(cuts_do_not_change_a_bit),
        cmocka_unit_test(every_legal_border_does_not_change_a_bit),
        cmocka_unit_test(many_cuts_at_once_do_not_change_a_bit),
        cmocka_unit_test(two_half_backwards_are_one_whole_backward),
        cmocka_unit_test(exact_sums_do_not_depend_on_the_order_of_micro_batches),
        cmocka_unit_test(exact_and_fast_gradients_are_close),
        cmocka_unit_test(a_chunk_that_runs_nothing_adds_nothing),
        cmocka_unit_test(a_short_micro_batch_is_just_a_smaller_one),
        cmocka_unit_test(evaluation_keeps_every_unit_and_uses_running_moments),
        cmocka_unit_test(dropout_is_drawn_anew_every_step),
        cmocka_unit_test(how_a_batch_is_cut_does_not_change_its_masks),
        cmocka_unit_test(hashes_of_the_chunks_add_up_to_the_models),
        cmocka_unit_test(an_error_names_the_layer_and_its_place),
        cmocka_unit_test(scales_leave_room_for_every_addend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
