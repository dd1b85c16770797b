/* engine/update.c - judge, vote, commit. */
#include "engine/update.h"

#include "engine/chunk_bucket.h"
#include "engine/chunk_sum.h"

#include <math.h>
#include <string.h>

enum {
    INF_BITS = 0x7f800000, /* |x| bits at or above: inf or NaN */
    MIN_BITS = 30,         /* an exact sum keeps at least this many bits of the largest addend */
    HEADROOM = 10, /* expected growth of max|g| within one step, in bits (exact-sums: worst 7.2) */
};

static int32_t n_params(const dml_chunk *c)
{
    return c->param_end - c->param_begin;
}

static int64_t partials_of(int64_t elems)
{
    return (elems + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK;
}

static int64_t all_partials(const dml_chunk *c)
{
    int64_t n = 0;
    for (int32_t p = c->param_begin; p < c->param_end; p++)
        n += partials_of(c->model->param[p].elems);
    return n;
}

int64_t dml_update_device_bytes(const dml_chunk *c)
{
    return c->updates * all_partials(c) * (int64_t)sizeof(double) + 64;
}

int64_t dml_update_host_bytes(const dml_chunk *c)
{
    return c->updates * (all_partials(c) * (int64_t)sizeof(double) +
                         (c->slot_words + c->max_words) * (int64_t)sizeof(int32_t)) +
           3 * 64;
}

static int64_t padded(int64_t bytes)
{
    return (bytes + 63) & ~INT64_C(63);
}

/* The tensors of the update that makes weights in buffer `version` from gradients in buffer `sum`. */
static dml_opt_tensor *tensors_at(const dml_update *u, int32_t version, int32_t sum)
{
    const dml_chunk *c = u->chunk;
    return u->tensor + ((int64_t)version % c->versions * c->sums + sum % c->sums) * n_params(c);
}

static void init_tensors(dml_update *u, int32_t version, int32_t sum)
{
    const dml_chunk *c = u->chunk;
    const bool decay_all = c->spec->optimizer.decay_all;
    for (int32_t i = 0; i < n_params(c); i++) {
        const dml_param *p = &c->model->param[c->param_begin + i];
        const int64_t at = c->param_at[i];
        tensors_at(u, version, sum)[i] = (dml_opt_tensor){
            .w = c->w + version * c->arena_elems + at,
            .g = c->g + sum * c->arena_elems + at,
            .m = c->m ? c->m + at : NULL,
            .v = c->v ? c->v + at : NULL,
            .n = p->elems,
            .weight_decay = decay_all || p->decay ? c->spec->optimizer.weight_decay : 0.0f,
        };
    }
}

void dml_update_init(dml_update *u, dml_chunk *c, bool counts, void *device_memory,
                     void *host_memory, dml_arena *arena)
{
    *u = (dml_update){.chunk = c, .counts = counts, .partials = all_partials(c)};
    u->of = DML_NEW_N(arena, dml_chunk *, c->updates);
    for (int32_t n = 0; n < c->updates; n++)
        u->of[n] = c->updates > 1 ? dml_chunk_view(c, 0, n, arena) : c;
    u->partial = device_memory;
    char *host = host_memory;
    u->partial_host = (double *)(void *)host;
    host += padded(c->updates * u->partials * (int64_t)sizeof(double));
    u->slots_host = (int32_t *)(void *)host;
    host += padded(c->updates * c->slot_words * (int64_t)sizeof(int32_t));
    u->max_host = (uint32_t *)(void *)host;
    u->new_exponent = DML_NEW_N(arena, int32_t, n_params(c));
    u->tensor = DML_NEW_N(arena, dml_opt_tensor, (int64_t)c->versions * c->sums * n_params(c));
    u->partial_at = DML_NEW_N(arena, int64_t, n_params(c));
    for (int32_t i = 1; i < n_params(c); i++)
        u->partial_at[i] =
            u->partial_at[i - 1] + partials_of(c->model->param[c->param_begin + i - 1].elems);
    for (int32_t v = 0; v < c->versions; v++)
        for (int32_t s = 0; s < c->sums; s++)
            init_tensors(u, v, s);
}

dml_err dml_update_measure(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k,
                           int32_t bucket)
{
    const dml_chunk *c = u->of[n];
    const dml_bucket *b = &c->bucket[bucket];
    double *partial = u->partial + n * u->partials;
    for (int32_t i = b->param_begin; i < b->param_end; i++) {
        const int64_t elems = c->model->param[c->param_begin + i].elems,
                      n_partials = partials_of(elems);
        const dml_tensor g = dml_tensor_of(c->g + c->param_at[i], DML_F32, 1, &elems);
        const dml_tensor part = dml_tensor_of(partial + u->partial_at[i], DML_F64, 1, &n_partials);
        DML_TRY(dml_sum_finish(c, kt, k, i));
        DML_TRY(kt->sum_squares(k, &part, &g));
    }
    return DML_ERR_OK;
}

/* Items [begin, end) of `each` bytes. */
static dml_err fetch(const dml_device_api *device, dml_queue *queue, void *to, const void *from,
                     int32_t begin, int32_t end, int64_t each)
{
    if (each == 0 || end == begin) return DML_ERR_OK;
    return device->copy(queue, (char *)to + begin * each, (const char *)from + begin * each,
                        (end - begin) * each);
}

dml_err dml_update_fetch(dml_update *u, int32_t begin, int32_t end, const dml_device_api *device,
                         dml_queue *queue)
{
    const dml_chunk *c = u->chunk;
    const int64_t partials = u->partials * (int64_t)sizeof(double),
                  slots = c->slot_words * (int64_t)sizeof(int32_t),
                  maxima = c->max_words * (int64_t)sizeof(uint32_t);
    DML_TRY(fetch(device, queue, u->partial_host, u->partial, begin, end, partials));
    DML_TRY(fetch(device, queue, u->slots_host, c->slots, begin, end, slots));
    return c->max_bits ? fetch(device, queue, u->max_host, c->max_bits, begin, end, maxima)
                       : DML_ERR_OK;
}

/* floor(log2 |x|) + 1 of a finite x > 0 given by its bits, denormals included. */
static int32_t exponent_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    int e;
    frexpf(x, &e);
    return e;
}

/* exact: the sum is right when |g| < 2^E; it is precise enough when the largest addend keeps MIN_BITS.
 * Otherwise E := e, that of the maximum, which the second run cannot exceed. */
static bool wrong_scale(dml_update *u, int32_t i, int32_t e)
{
    const int32_t s = dml_chunk_scale_log2(u->chunk, i);
    if (e <= u->chunk->exponent[i] && (e + s >= MIN_BITS || s == 126)) return false;
    u->new_exponent[i] = e;
    return true;
}

/* What the maxima say of this chunk's integer sums, to be added to a vote. */
static void judge_sums(dml_update *u, int32_t n, int64_t *redo, int64_t *too_large, bool *finite)
{
    const dml_chunk *c = u->chunk;
    for (int32_t i = 0; i < n_params(c); i++) {
        const uint32_t bits = u->max_host[(int64_t)n * c->max_words + i];
        if (c->exponent) u->new_exponent[i] = c->exponent[i];
        if (bits >= INF_BITS)
            *finite = false;
        else if (bits > 0 && c->exponent)
            *redo += wrong_scale(u, i, exponent_of(bits));
        else if (bits > 0)
            *too_large += exponent_of(bits) > dml_sum_wide_log2(c);
    }
}

/* Slots are laid out in the chunk's shared memory; the host copy has the same offsets. */
static const void *host_slot(const dml_update *u, const void *slot)
{
    return (const char *)u->slots_host + ((const char *)slot - (const char *)u->chunk->slots);
}

const double *dml_update_loss(const dml_update *u)
{
    return host_slot(u, u->chunk->loss);
}

const int32_t *dml_update_correct(const dml_update *u)
{
    return host_slot(u, u->chunk->correct);
}

static void judge_loss(const dml_update *u, int32_t n, const int32_t *rows, dml_vote *vote,
                       bool *finite)
{
    const double *loss = host_slot(u, u->of[n]->loss);
    const int32_t *correct = host_slot(u, u->of[n]->correct);
    double sum = 0.0; /* in micro-batch order, whoever ran them */
    for (int32_t mb = 0; mb < u->chunk->mbs; mb++) {
        if (rows[mb] == 0) continue;
        sum += loss[mb];
        vote->correct += correct[mb];
    }
    if (!isfinite(sum)) *finite = false;
    memcpy(&vote->loss_bits, &sum, sizeof sum);
}

void dml_update_judge(dml_update *u, int32_t n, const int32_t *rows, dml_vote *vote)
{
    bool finite = true;
    int64_t redo = 0, too_large = 0;
    if (u->chunk->max_bits) judge_sums(u, n, &redo, &too_large, &finite);
    if (!u->counts) return; /* replica 0 has the same sums and speaks for all */
    const int32_t *ran = host_slot(u, u->of[n]->ran);
    const double *partial = u->partial_host + n * u->partials;
    for (int32_t mb = 0; mb < u->chunk->mbs; mb++)
        vote->not_once += ran[mb] != (rows[mb] > 0);
    if (u->chunk->loss) judge_loss(u, n, rows, vote, &finite);
    for (int64_t i = 0; i < u->partials; i++) {
        if (!isfinite(partial[i])) finite = false;
        dml_superacc_add(&vote->norm, partial[i]);
    }
    vote->redo += redo;
    vote->too_large += too_large;
    vote->nonfinite += !finite;
}

dml_err dml_vote_verdict(const dml_vote *sum, bool is_redo, dml_verdict *out)
{
    if (sum->not_once)
        DML_FAIL(DML_ERR_BUG, "%lld micro-batches were not counted exactly once",
                 (long long)sum->not_once);
    if (sum->too_large && !sum->nonfinite)
        DML_FAIL(
            DML_ERR_DIVERGED,
            "gradients of %lld tensors are beyond what training.numerics exact_wide adds up, "
            "2^34 over the micro-batches of a step; training.numerics exact has no such bound, "
            "and a smaller training.micro_batch_size or optimizer.lr makes them smaller",
            (long long)sum->too_large);
    *out = sum->nonfinite ? DML_SKIP : sum->redo ? DML_REDO : DML_COMMIT;
    if (*out == DML_REDO && is_redo)
        DML_FAIL(DML_ERR_BUG, "exact scales of %lld tensors are wrong a second time",
                 (long long)sum->redo);
    return DML_ERR_OK;
}

enum { GOOD_STEPS = 2000 }; /* before the loss scale grows */
static const float FIRST_SCALE = 65536.0f, LARGEST_SCALE = 0x1p24f;

dml_loss_scale dml_loss_scale_of(const dml_spec *spec)
{
    if (spec->training.precision != DML_PRECISION_FP16) return (dml_loss_scale){.scale = 1.0f};
    const bool dynamic = spec->training.loss_scale == 0.0f;
    return (dml_loss_scale){.dynamic = dynamic,
                            .scale = dynamic ? FIRST_SCALE : spec->training.loss_scale};
}

bool dml_loss_scale_move(dml_loss_scale *s, dml_verdict verdict)
{
    if (!s->dynamic || verdict == DML_REDO) return false;
    if (verdict == DML_SKIP) {
        s->good_steps = 0;
        if (s->scale <= 1.0f) return false;
        s->scale *= 0.5f;
        return true;
    }
    if (++s->good_steps == GOOD_STEPS) {
        s->good_steps = 0;
        if (s->scale < LARGEST_SCALE) s->scale *= 2.0f;
    }
    return false;
}

void dml_update_rescale(dml_update *u)
{
    if (u->chunk->exponent)
        memcpy(u->chunk->exponent, u->new_exponent, (size_t)n_params(u->chunk) * sizeof(int32_t));
}

/* b^n without libm: the same bits on every machine. */
static double power(double b, int64_t n)
{
    double r = 1.0;
    for (; n > 0; n >>= 1, b *= b)
        if (n & 1) r *= b;
    return r;
}

static void move_exponents(dml_update *u)
{
    dml_chunk *c = u->chunk;
    for (int32_t i = 0; i < n_params(c); i++) {
        if (u->max_host[i] == 0) continue;
        const int32_t seen = exponent_of(u->max_host[i]) + HEADROOM, decayed = c->exponent[i] - 1;
        c->exponent[i] = seen > decayed ? seen : decayed;
    }
}

static dml_err step_optimizer(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k,
                              double scale, double lr)
{
    const dml_chunk *c = u->chunk;
    const dml_spec *spec = c->spec;
    const dml_opt_tensor *tensor = tensors_at(u, n + 1, n);
    const bool first = u->commits++ == 0;
    switch (spec->optimizer.name) {
    case DML_OPT_SGD: {
        const dml_sgd p = {.lr = (float)lr,
                           .momentum = spec->optimizer.momentum,
                           .grad_scale = (float)scale,
                           .nesterov = spec->optimizer.nesterov,
                           .first = first};
        return kt->sgd(k, &p, tensor, n_params(c));
    }
    case DML_OPT_ADAMW: {
        const double b1 = (double)spec->optimizer.betas[0], b2 = (double)spec->optimizer.betas[1];
        const dml_adamw p = {.lr = (float)lr,
                             .beta1 = (float)b1,
                             .beta2 = (float)b2,
                             .eps = spec->optimizer.eps,
                             .grad_scale = (float)scale,
                             .bias1 = (float)(1.0 - power(b1, u->commits)),
                             .sqrt_bias2 = (float)sqrt(1.0 - power(b2, u->commits))};
        return kt->adamw(k, &p, tensor, n_params(c));
    }
    }
    DML_FAIL(DML_ERR_BUG, "optimizer %d", (int)spec->optimizer.name);
}

/* Version `version` has new weights.  The next begin_step brings those of buffer 0 to the act type; what is
 * read before it is to be there now. */
static dml_err wrote(const dml_update *u, int32_t version, const dml_kernel_table *kt, dml_kctx *k)
{
    kt->weights_changed(k);
    dml_chunk_weights_written(u->chunk);
    return u->chunk->updates > 1 ? dml_chunk_convert(u->chunk, kt, k, version) : DML_ERR_OK;
}

dml_err dml_update_commit(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k,
                          double norm, int64_t samples, double lr, float loss_scale)
{
    dml_chunk *c = u->chunk;
    const double clip = (double)c->spec->training.grad_clip;
    double scale = 1.0 / (double)samples / (double)loss_scale;
    if (clip > 0.0 && norm > clip) scale *= clip / (norm + 1e-6); /* PyTorch's clip_grad_norm_ */
    DML_TRY(dml_chunk_carry(c, kt, k, n, n + 1));
    DML_TRY(step_optimizer(u, n, kt, k, scale, lr));
    DML_TRY(wrote(u, n + 1, kt, k));
    if (c->exponent) move_exponents(u);
    return dml_chunk_commit_state(u->of[n], kt, k, samples);
}

dml_err dml_update_skip(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k)
{
    DML_TRY(dml_chunk_carry(u->chunk, kt, k, n, n + 1));
    return wrote(u, n + 1, kt, k);
}

dml_err dml_update_drain(dml_update *u, int32_t n, const dml_kernel_table *kt, dml_kctx *k)
{
    DML_TRY(dml_chunk_carry(u->chunk, kt, k, n, 0));
    kt->weights_changed(k);
    dml_chunk_weights_written(u->chunk);
    return DML_ERR_OK;
}
