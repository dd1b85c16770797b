/* engine/chunk_bucket.c - cuts a chunk's parameters and its backward at the borders of buckets. */
#include "engine/chunk_bucket.h"

#include "engine/chunk_impl.h"
#include "engine/chunk_sum.h"

static int64_t grad_bytes(const dml_chunk *c)
{
    const int32_t words = dml_sum_info_of(c->spec->training.numerics)->words;
    return words > 0 ? words * (int64_t)sizeof(int64_t) : (int64_t)sizeof(float);
}

int64_t dml_bucket_bytes(const dml_chunk *c, const dml_bucket *b)
{
    return b->elems * grad_bytes(c);
}

/* Where the arena of parameters begins for parameter i of the chunk, or ends. */
static int64_t place_of(const dml_chunk *c, int32_t i)
{
    return i < c->param_end - c->param_begin ? c->param_at[i] : c->arena_elems;
}

bool dml_chunk_overlaps(const dml_chunk *c)
{
    return c->spec->comm.overlap && dml_spec_replicas(c->spec) > 1;
}

/* Walks the layers down and closes a bucket when it has enough.  Returns how many; `bucket` NULL: only counts. */
static int32_t cut_params(const dml_chunk *c, dml_bucket *bucket)
{
    int32_t n = 0, end = c->param_end;
    for (int32_t i = c->layer_end - 1; i >= c->layer_begin; i--) {
        const dml_layer *l = &c->model->layer[i];
        const int32_t begin = l->param_begin;
        if (begin == l->param_end) continue;
        const int64_t at = place_of(c, begin - c->param_begin),
                      elems = place_of(c, end - c->param_begin) - at,
                      least =
                          n == 0 ? c->spec->comm.first_bucket_bytes : c->spec->comm.bucket_bytes;
        const bool enough = dml_chunk_overlaps(c) && elems * grad_bytes(c) >= least;
        if (!enough && begin > c->param_begin) continue;
        if (bucket)
            bucket[n] = (dml_bucket){.param_begin = begin - c->param_begin,
                                     .param_end = end - c->param_begin,
                                     .at = at,
                                     .elems = elems};
        n++;
        end = begin;
    }
    return n;
}

/* Layer, in the chunk, that holds parameter i of the chunk. */
static int32_t layer_of(const dml_chunk *c, int32_t i)
{
    int32_t l = c->layer_begin;
    while (c->model->layer[l].param_end <= c->param_begin + i)
        l++;
    return l - c->layer_begin;
}

/* The step after the last that makes the weight gradient of `layer`. */
static int32_t after_weight_step(const dml_steps *list, int32_t layer)
{
    int32_t end = 0;
    for (int32_t i = 0; i < list->n; i++)
        if (list->step[i].kind == DML_STEP_WEIGHT_GRAD && list->step[i].layer == layer) end = i + 1;
    return end;
}

/* The first step that is done for a layer below `layer`: the walk goes down. */
static int32_t before_lower_steps(const dml_steps *list, int32_t layer)
{
    int32_t i = 0;
    while (i < list->n && list->step[i].layer >= layer)
        i++;
    return i;
}

/* In a whole backward a part ends with its lowest layer's weight step, before the input gradient that only the
 * layers below want.  A split one keeps weight steps in a list of their own; done as one call, it makes what
 * they read first. */
static void cut_steps(const dml_chunk *c, dml_bucket *b)
{
    const dml_chunk_impl *impl = c->impl;
    const int32_t lowest = layer_of(c, b->param_begin);
    if (c->split_backward) {
        b->input_end = before_lower_steps(&impl->input, lowest);
        b->weight_end = after_weight_step(&impl->weight, lowest);
    } else {
        b->input_end = after_weight_step(&impl->input, lowest);
        b->weight_end = 0;
    }
}

void dml_chunk_bucket(dml_chunk *c, dml_arena *arena)
{
    const dml_chunk_impl *impl = c->impl;
    const int32_t n = cut_params(c, NULL);
    dml_bucket *bucket = DML_NEW_N(arena, dml_bucket, n > 0 ? n : 1);
    cut_params(c, bucket);
    for (int32_t k = 0; k < n; k++)
        cut_steps(c, &bucket[k]);
    c->n_buckets = n > 0 ? n : 1;
    /* Whatever else there is to do belongs to the last part. */
    bucket[c->n_buckets - 1].input_end = impl->input.n;
    bucket[c->n_buckets - 1].weight_end = impl->weight.n;
    c->bucket = bucket;
}

dml_part dml_chunk_part(const dml_chunk *c, int32_t part)
{
    const dml_bucket *last = &c->bucket[c->n_buckets - 1];
    DML_ASSERT_OP(part, >=, 0);
    DML_ASSERT_OP(part, <=, c->n_buckets);
    const dml_bucket *b = part > 0 ? &c->bucket[part - 1] : last;
    dml_part p = {.input_end = b->input_end, .weight_end = b->weight_end, .last = b == last};
    if (part > 1) {
        p.input_begin = b[-1].input_end;
        p.weight_begin = b[-1].weight_end;
    }
    return p;
}

static void add_times(const dml_steps *list, int32_t begin, int32_t end, const int64_t (*ns)[3],
                      dml_part_times *t)
{
    for (int32_t i = begin; i < end; i++) {
        const dml_step *s = &list->step[i];
        const bool weight = s->kind == DML_STEP_WEIGHT_GRAD;
        if (s->kind == DML_STEP_INPUT_GRAD || weight) t->bwd_ns += ns[s->layer][weight ? 2 : 1];
        if (weight) t->weight_ns += ns[s->layer][2];
    }
}

dml_part_times dml_chunk_part_times(const dml_chunk *c, int32_t part, const int64_t (*ns)[3])
{
    const dml_chunk_impl *impl = c->impl;
    const dml_part p = dml_chunk_part(c, part);
    dml_part_times t = {0};
    add_times(&impl->input, p.input_begin, p.input_end, ns, &t);
    add_times(&impl->weight, p.weight_begin, p.weight_end, ns, &t);
    return t;
}
