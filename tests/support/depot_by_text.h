/* tests/support/depot_by_text.h - a bank of a small model, filled with values that say where they are. */
#ifndef DML_TESTS_DEPOT_BY_TEXT_H
#define DML_TESTS_DEPOT_BY_TEXT_H

#include "tests/engine/spec_file.h"

#include "engine/checkpoint.h"

typedef struct banked {
    dml_spec spec;
    dml_arena arena;
    dml_model model;
    dml_checkpoint_identity identity;
    dml_depot bank;
} banked;

/* Three layers with parameters, one with running moments. */
#define BANKED_SPEC                                                                            \
    "run: {name: banked, seed: 3, output_dir: /tmp}\n"                                         \
    "model: {type: layers, input: [5], classes: 3, layers: [{linear: {out: 7, name: fc1}}, "   \
    "{batch_norm: {name: bn}}, {relu: {}}, {linear: {out: 3, name: fc2}}]}\n"                  \
    "data: {format: synthetic, samples: 64, test_samples: 8}\n"                                \
    "training: {max_steps: 100, global_batch_size: 8, micro_batch_size: 4, numerics: exact}\n" \
    "optimizer: {name: adamw, lr: 0.01}\n"                                                     \
    "checkpoint: {folder: /tmp, keep: 2}\n"

static inline void banked_open(banked *b, const char *const *overrides, int32_t n)
{
    int fd;
    *b = (banked){0};
    DML_CHECK_OK(spec_of(BANKED_SPEC, overrides, n, &b->spec));
    DML_CHECK_OK(dml_model_make(&b->spec, &b->arena, &b->model));
    DML_CHECK_OK(dml_checkpoint_identify(&b->spec, &b->identity));
    DML_CHECK_OK(dml_depot_create(&b->spec, &b->model, &b->bank, &fd));
    close(fd);
}

static inline void banked_close(banked *b)
{
    dml_depot_close(&b->bank);
    dml_arena_free(&b->arena);
    dml_spec_free(&b->spec);
}

static inline float banked_value(int64_t step, int32_t tensor, int64_t i)
{
    return (float)(1000003 * tensor + 101 * i % 9973 + 7 * step);
}

/* look: every element is compared with what a fill left. */
static inline bool banked_each(banked *b, int64_t step, bool look)
{
    bool same = true;
    const dml_model *m = &b->model;
    for (int32_t t = 0; t < m->n_params + m->n_states; t++) {
        const bool param = t < m->n_params;
        float *at = param ? b->bank.param[t] : b->bank.state[t - m->n_params];
        const int64_t n =
            param ? m->param[t].elems * b->bank.values : m->state[t - m->n_params].elems;
        for (int64_t i = 0; i < n; i++)
            if (look)
                same = same && at[i] == banked_value(step, t, i);
            else
                at[i] = banked_value(step, t, i);
        if (param && b->spec.training.numerics == DML_EXACT) {
            if (look)
                same = same && b->bank.exponent[t] == t - 20 + (int32_t)step;
            else
                b->bank.exponent[t] = t - 20 + (int32_t)step;
        }
    }
    return same;
}

static inline void banked_fill(banked *b, int64_t step)
{
    banked_each(b, step, false);
    *b->bank.run = (dml_depot_run){.step = step,
                                   .commits = step / 2,
                                   .skipped = 1,
                                   .good_steps = 5,
                                   .loss_scale = 4.0f,
                                   .evaluated_at = step - 1};
    dml_depot_mark(&b->bank, dml_depot_stamp(0, step));
}

static inline bool banked_is(banked *b, int64_t step)
{
    uint64_t stamp;
    const dml_depot_run *r = b->bank.run;
    return dml_depot_complete(&b->bank, &stamp) && stamp == dml_depot_stamp(0, step) &&
           banked_each(b, step, true) && r->step == step && r->commits == step / 2 &&
           r->skipped == 1 && r->good_steps == 5 && r->loss_scale == 4.0f &&
           r->evaluated_at == step - 1;
}

static inline dml_checkpoint_job banked_job(const banked *b)
{
    return (dml_checkpoint_job){.spec = &b->spec,
                                .identity = &b->identity,
                                .bank = &b->bank,
                                .stamp = dml_depot_stamp(0, b->bank.run->step),
                                .plan = "a plan"};
}

static inline void remove_tree(const char *path)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    DML_CHECK(system(command) == 0);
}

#endif
