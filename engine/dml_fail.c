/* engine/dml_fail.c - all options for a loss, as engine/replan prices them, printed and drawn. */
#include "engine/dml_fail.h"

#include "engine/control.h"
#include "engine/lost_place.h"
#include "engine/replan_view.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SVG_PIXELS = 1100 };

static dml_err write_file(const char *path, const dml_str *text)
{
    FILE *f = fopen(path, "w");
    const bool wrote = f && fwrite(dml_str_text(text), 1, text->len, f) == text->len;
    const bool closed = f && fclose(f) == 0;
    if (!wrote || !closed)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
    return DML_ERR_OK;
}

static dml_err save(const dml_replan_view *v, const char *path)
{
    dml_str svg = {0};
    dml_err err = dml_replan_draw_svg(v, SVG_PIXELS, &svg);
    if (err == DML_ERR_OK) err = write_file(path, &svg);
    dml_str_free(&svg);
    return err;
}

static dml_err append(const dml_replan_view *v, const dml_fail *f, dml_str *out)
{
    if (f->form == DML_FORM_SVG) return dml_replan_draw_svg(v, SVG_PIXELS, out);
    if (f->form == DML_FORM_SUMMARY) {
        dml_replan_print_prices(v, out);
        dml_str_printf(out, "\n");
    }
    return dml_replan_draw(v, f->width, out);
}

static dml_err show(const dml_replan_view *v, const dml_fail *f)
{
    dml_str out = {0};
    dml_err err = append(v, f, &out);
    if (err == DML_ERR_OK) fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    if (err == DML_ERR_OK && f->file) err = save(v, f->file);
    return err;
}

static dml_err plan_and_show(int fd, const dml_plan *first, const bool *lost, const dml_fail *f)
{
    dml_repair_options options;
    dml_replan_view v = {.first = first, .lost = lost, .options = &options};
    DML_TRY(dml_replan_rival_ns(fd, &v.rival_ns));
    DML_TRY(dml_replan_options(fd, first, lost, NULL, &options));
    const dml_err err = show(&v, f);
    dml_repair_options_free(&options);
    return err;
}

static dml_err with_memory(const dml_spec *spec, const dml_plan *first, const dml_fail *f,
                           dml_arena *arena)
{
    bool *lost = DML_NEW_N(arena, bool, first->workers);
    int fd;
    if (first->workers > DML_HOST_WORKERS)
        DML_FAIL(DML_ERR_SPEC, "--fail: plans of at most %d workers, not %d", DML_HOST_WORKERS,
                 first->workers);
    for (int32_t k = 0; k < f->n; k++)
        DML_TRY(dml_lost_place(f->place[k], first, lost));
    DML_TRY(dml_spec_to_memory(spec, &fd));
    const dml_err err = plan_and_show(fd, first, lost, f);
    close(fd);
    return err;
}

dml_err dml_fail_print(const dml_spec *spec, const dml_fail *f)
{
    dml_plan first;
    dml_arena arena = {0};
    if (f->form == DML_FORM_TEXT || f->form == DML_FORM_CSV)
        DML_FAIL(DML_ERR_SPEC, "--fail prints prices and pictures, not programs: leave out --text "
                               "and --export");
    DML_TRY(dml_plan_make(spec, &first));
    const dml_err err = with_memory(spec, &first, f, &arena);
    dml_arena_free(&arena);
    dml_plan_free(&first);
    return err;
}
