/* engine/depot.c - one layout walked twice, to size the memory and to name its parts; tensors copied by name. */
#include "engine/depot.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALIGN = 64 };

static int32_t pieces(const dml_depot *d)
{
    return d->model->n_params + d->model->n_states + 1;
}

/* The mark of what the run has come to is the last one. */
static int32_t run_piece(const dml_depot *d)
{
    return pieces(d) - 1;
}

/* ---- layout ---- */

typedef struct cursor {
    char *base; /* NULL: only count */
    int64_t at;
} cursor;

static void *take(cursor *p, int64_t count, int64_t each)
{
    void *here = p->base ? p->base + p->at : NULL;
    p->at += (count * each + ALIGN - 1) / ALIGN * ALIGN;
    return here;
}

/* Returns its bytes. */
static int64_t lay_out(dml_depot *d, char *memory)
{
    const dml_model *m = d->model;
    cursor p = {.base = memory};
    d->mark = take(&p, pieces(d), sizeof *d->mark);
    d->run = take(&p, 1, sizeof *d->run);
    d->exponent = take(&p, m->n_params, sizeof *d->exponent);
    for (int32_t i = 0; i < m->n_params; i++)
        d->param[i] = take(&p, m->param[i].elems * d->values, sizeof(float));
    for (int32_t i = 0; i < m->n_states; i++)
        d->state[i] = take(&p, m->state[i].elems, sizeof(float));
    return p.at;
}

static void plan(const dml_spec *spec, const dml_model *model, dml_depot *out)
{
    *out = (dml_depot){.model = model,
                       .values = 1 + dml_optimizer_has_m(spec) + dml_optimizer_has_v(spec)};
    out->param = DML_NEW_N(&out->arena, float *, model->n_params);
    out->state = DML_NEW_N(&out->arena, float *, model->n_states);
    out->bytes = lay_out(out, NULL);
}

/* ---- the mapping ---- */

static dml_err map(dml_depot *d, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || st.st_size != d->bytes)
        DML_FAIL(DML_ERR_BUG, "a depot of %lld bytes, not %lld", (long long)st.st_size,
                 (long long)d->bytes);
    void *p =
        mmap(NULL, (size_t)d->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED)
        DML_FAIL(DML_ERR_NOMEM, "the model's state, %lld bytes: %s", (long long)d->bytes,
                 strerror(errno));
    d->memory = p;
    lay_out(d, p);
    return DML_ERR_OK;
}

dml_err dml_depot_map(const dml_spec *spec, const dml_model *model, int fd, dml_depot *out)
{
    plan(spec, model, out);
    const dml_err err = map(out, fd);
    if (err != DML_ERR_OK) dml_depot_close(out);
    return err;
}

dml_err dml_depot_create(const dml_spec *spec, const dml_model *model, dml_depot *out, int *fd)
{
    plan(spec, model, out);
    dml_err err;
    *fd = memfd_create("dml-depot", MFD_CLOEXEC);
    if (*fd < 0)
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "memfd_create(dml-depot): %s",
                          strerror(errno));
    else if (ftruncate(*fd, (off_t)out->bytes) != 0)
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "the model's state, %lld bytes: %s",
                          (long long)out->bytes, strerror(errno));
    else
        err = map(out, *fd);
    if (err == DML_ERR_OK) return DML_ERR_OK;
    if (*fd >= 0) close(*fd);
    dml_depot_close(out);
    return err;
}

void dml_depot_close(dml_depot *d)
{
    if (d->memory) munmap(d->memory, (size_t)d->bytes);
    dml_arena_free(&d->arena);
    *d = (dml_depot){0};
}

/* ---- what goes in and comes out ---- */

/* Both directions: `in` says which. */
static dml_err move(const dml_device_api *device, dml_queue *queue, bool in, float *depot,
                    float *chunk, int64_t elems)
{
    return device->copy(queue, in ? depot : chunk, in ? chunk : depot,
                        elems * (int64_t)sizeof(float));
}

static dml_err move_param(const dml_depot *d, const dml_chunk *c, int32_t i,
                          const dml_device_api *device, dml_queue *queue, bool in)
{
    const int64_t elems = d->model->param[i].elems, at = c->param_at[i - c->param_begin];
    float *const of[] = {c->w, c->m, c->v};
    float *depot = d->param[i];
    for (size_t k = 0; k < sizeof of / sizeof *of; k++) {
        if (!of[k]) continue;
        DML_TRY(move(device, queue, in, depot, of[k] + at, elems));
        depot += elems;
    }
    return DML_ERR_OK;
}

static dml_err move_chunk(const dml_depot *d, const dml_chunk *c, const dml_device_api *device,
                          dml_queue *queue, bool in)
{
    for (int32_t i = c->param_begin; i < c->param_end; i++)
        DML_TRY(move_param(d, c, i, device, queue, in));
    for (int32_t i = c->state_begin; i < c->state_end; i++)
        DML_TRY(
            move(device, queue, in, d->state[i], dml_chunk_state(c, i), d->model->state[i].elems));
    const size_t bytes = (size_t)(c->param_end - c->param_begin) * sizeof *c->exponent;
    if (c->exponent && in)
        memcpy(d->exponent + c->param_begin, c->exponent, bytes);
    else if (c->exponent)
        memcpy(c->exponent, d->exponent + c->param_begin, bytes);
    return device->sync(queue, dml_clock_ns() + c->spec->parallelism.timeout_ns);
}

static void mark(dml_depot *d, int32_t piece, uint64_t stamp)
{
    atomic_store_explicit(&d->mark[piece], stamp, memory_order_release);
}

static void mark_chunk(dml_depot *d, const dml_chunk *c, uint64_t stamp)
{
    for (int32_t i = c->param_begin; i < c->param_end; i++)
        mark(d, i, stamp);
    for (int32_t i = c->state_begin; i < c->state_end; i++)
        mark(d, d->model->n_params + i, stamp);
}

dml_err dml_depot_put(dml_depot *d, uint64_t stamp, const dml_chunk *c,
                      const dml_device_api *device, dml_queue *queue)
{
    mark_chunk(d, c, 0);
    DML_TRY(move_chunk(d, c, device, queue, true));
    mark_chunk(d, c, stamp);
    return DML_ERR_OK;
}

void dml_depot_put_run(dml_depot *d, uint64_t stamp, const dml_depot_run *run)
{
    mark(d, run_piece(d), 0);
    *d->run = *run;
    mark(d, run_piece(d), stamp);
}

static uint64_t mark_of(const dml_depot *d, int32_t piece)
{
    return atomic_load_explicit(&d->mark[piece], memory_order_acquire);
}

uint64_t dml_depot_run_stamp(const dml_depot *d)
{
    return mark_of(d, run_piece(d));
}

bool dml_depot_complete(const dml_depot *d, uint64_t *stamp)
{
    *stamp = 0;
    const uint64_t first = mark_of(d, 0);
    for (int32_t i = 1; i < pieces(d); i++)
        if (mark_of(d, i) != first) return false;
    *stamp = first;
    return first != 0;
}

void dml_depot_mark(dml_depot *d, uint64_t stamp)
{
    for (int32_t i = 0; i < pieces(d); i++)
        mark(d, i, stamp);
}

static const char *name_of(const dml_depot *d, int32_t piece)
{
    const dml_model *m = d->model;
    if (piece < m->n_params) return m->param[piece].name;
    return piece < run_piece(d) ? m->state[piece - m->n_params].name : "the step";
}

dml_err dml_depot_check(const dml_depot *d, uint64_t stamp)
{
    for (int32_t i = 0; i < pieces(d); i++) {
        const uint64_t put = mark_of(d, i);
        if (put != stamp)
            DML_FAIL(DML_ERR_BUG,
                     "'%s' is that of plan %u after %lld steps, not of plan %u after %lld",
                     name_of(d, i), dml_depot_stamp_generation(put),
                     (long long)dml_depot_stamp_steps(put), dml_depot_stamp_generation(stamp),
                     (long long)dml_depot_stamp_steps(stamp));
    }
    return DML_ERR_OK;
}

dml_err dml_depot_get(const dml_depot *d, dml_chunk *c, const dml_device_api *device,
                      dml_queue *queue)
{
    DML_TRY(move_chunk(d, c, device, queue, false));
    dml_chunk_weights_written(c);
    return DML_ERR_OK;
}
