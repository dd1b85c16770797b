/* engine/exec_load.c - micro-batches from the loaders' rings to the device.
 *
 *   loader's thread   [ready][ready][held][held]       pinned ring of data.prefetch buffers
 *   load queue                        copy  copy       into the batch of the op's STASH slot
 *
 * On the host the load queue is the compute lane and a copy is done when it returns: its buffer goes back
 * there and then.  On a GPU a copy may still read its buffer long after: that goes back once the event
 * recorded behind it has passed, which is looked at whenever the next one is taken, and waited for only when
 * the loader has none left.  The slot's batch is not written before its last reader is done.
 */
#include "engine/exec_impl.h"

#include "engine/base/clock.h"

static dml_err load(const dml_resolved *r, dml_loader *loader, void *to, int64_t row_bytes)
{
    const dml_exec *x = r->x;
    dml_batch batch;
    const int64_t deadline_ns = dml_clock_ns() + x->c.timeout_ns;
    DML_TRY(dml_loader_get(loader, x->words.step, r->op->mb, deadline_ns, &batch));
    DML_ASSERT_OP(batch.rows, ==, x->rows[r->op->mb]);
    const void *from = r->labels == to ? (const void *)batch.labels : (const void *)batch.images;
    const dml_err err = dml_exec_device(x)->copy(x->c.load, to, from, row_bytes * batch.rows);
    if (dml_exec_on_host(x)) dml_loader_release(loader);
    return err;
}

static dml_err load_job(void *arg)
{
    const dml_resolved *r = arg;
    const dml_held *h = r->held;
    const dml_chunk *c = h->chunk;
    if (!dml_exec_has_work(r)) return DML_ERR_OK;
    if (h->input)
        DML_TRY(load(r, r->x->c.images, (void *)(uintptr_t)r->io.in, c->size.in / c->mb_rows));
    if (h->labels) DML_TRY(load(r, r->x->c.labels, r->labels, (int64_t)sizeof(int32_t)));
    return DML_ERR_OK;
}

static void land_oldest(dml_exec *x)
{
    dml_flights *f = &x->flights;
    const dml_held *h = f->op[f->begin++]->held;
    if (h->input) {
        dml_loader_release(x->c.images);
        f->images--;
    }
    if (h->labels) {
        dml_loader_release(x->c.labels);
        f->labels--;
    }
}

/* Leaves the loaders at least one buffer each. */
static dml_err make_room(dml_exec *x)
{
    const dml_device_api *device = dml_exec_device(x);
    dml_flights *f = &x->flights;
    while (f->begin < f->end && device->await(f->op[f->begin]->loaded, 0) == DML_ERR_OK)
        land_oldest(x);
    while ((f->images > 0 && f->images == dml_loader_depth(x->c.images)) ||
           (f->labels > 0 && f->labels == dml_loader_depth(x->c.labels))) {
        DML_TRY(device->await(f->op[f->begin]->loaded, dml_clock_ns() + x->c.timeout_ns));
        land_oldest(x);
        /* A long step spends most of its time here: show that it moves. */
        (void)dml_exec_collect(x, (int32_t)(f->op[f->end - 1] - x->op), 0);
    }
    return DML_ERR_OK;
}

dml_err dml_exec_load(dml_resolved *r)
{
    dml_exec *x = r->x;
    const dml_device_api *device = dml_exec_device(x);
    if (dml_exec_on_host(x)) return device->submit(x->c.load, load_job, r);
    if (!dml_exec_has_work(r)) return DML_ERR_OK;
    DML_TRY(make_room(x));
    if (r->slot_reader != DML_NO_WAIT) DML_TRY(device->wait(x->c.load, x->op[r->slot_reader].done));
    DML_TRY(device->submit(x->c.load, load_job, r));
    DML_TRY(device->record(x->c.load, r->loaded));
    dml_flights *f = &x->flights;
    f->op[f->end++] = r;
    f->images += r->held->input != NULL;
    f->labels += r->held->labels != NULL;
    return device->wait(x->c.lane[DML_LANE_COMPUTE], r->loaded);
}

void dml_exec_land(dml_exec *x)
{
    while (x->flights.begin < x->flights.end)
        land_oldest(x);
    x->flights.begin = x->flights.end = 0;
}
