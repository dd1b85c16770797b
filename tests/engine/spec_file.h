/* tests/engine/spec_file.h - specs from texts, for tests. */
#ifndef DML_TESTS_SPEC_FILE_H
#define DML_TESTS_SPEC_FILE_H

#include "engine/spec.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* dml_spec_load of `text` from a file that exists in memory only. */
static inline dml_err spec_of(const char *text, const char *const *overrides, int32_t n_overrides,
                              dml_spec *out)
{
    const size_t n = strlen(text);
    const int fd = memfd_create("spec", 0);
    DML_CHECK(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const dml_err err = dml_spec_load(path, overrides, n_overrides, out);
    close(fd);
    return err;
}

/* The printed spec, malloc'ed; without the comments, which say where values came from. */
static inline char *printed(const dml_spec *spec)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    DML_CHECK(f);
    DML_CHECK_OK(dml_spec_print(spec, f));
    fclose(f);
    char *to = text;
    for (const char *from = text; *from;) {
        if (strncmp(from, "  # ", 4) == 0) from += strcspn(from, "\n");
        *to++ = *from++;
    }
    *to = '\0';
    return text;
}

static inline void check_same_layers(const dml_spec *a, const dml_spec *b)
{
    DML_CHECK_EQ(a->model.n_layers, b->model.n_layers);
    for (int32_t i = 0; i < a->model.n_layers; i++) {
        const dml_layer_spec *p = &a->model.layers[i], *q = &b->model.layers[i];
        assert_string_equal(p->name, q->name);
        DML_CHECK_EQ(p->kind, q->kind);
        DML_CHECK_EQ(p->input, q->input);
        DML_CHECK_EQ(p->with, q->with);
        DML_CHECK_EQ(p->out, q->out);
        DML_CHECK_EQ(p->bias, q->bias);
        DML_CHECK(memcmp(&p->conv, &q->conv, sizeof p->conv) == 0);
        DML_CHECK(memcmp(p->pool.kernel, q->pool.kernel, sizeof p->pool.kernel) == 0);
        DML_CHECK(memcmp(p->pool.stride, q->pool.stride, sizeof p->pool.stride) == 0);
        DML_CHECK(memcmp(p->pool.pad, q->pool.pad, sizeof p->pool.pad) == 0);
        DML_CHECK_EQ(p->pool.count_include_pad, q->pool.count_include_pad);
        DML_CHECK(p->rate == q->rate && p->eps == q->eps && p->momentum == q->momentum);
        DML_CHECK_EQ(p->per_micro_batch, q->per_micro_batch);
        DML_CHECK_EQ(p->zero_init, q->zero_init);
        DML_CHECK(memcmp(p->ns, q->ns, sizeof p->ns) == 0);
    }
}

#endif
