/* bench/train_layout.c - the list of layouts: items between commas, each one layout or several. */
#include "bench/train.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WORKERS = 1024 };

static const char usage[] =
    "layouts are items between commas: 2x1, 2x2:zb_h1, 2x1x2:interleaved_1f1b (pipeline x replicas "
    "x stages of a rank : schedule), all, auto, spec";

/* A number from 1, and *text behind it; 0: there is none. */
static int32_t number(const char **text)
{
    char *end;
    if (!isdigit((unsigned char)**text)) return 0;
    const long value = strtol(*text, &end, 10);
    *text = end;
    return value >= 1 && value <= MOST_WORKERS ? (int32_t)value : 0;
}

dml_err train_devices_parse(const char *text, int32_t *devices, int32_t *n)
{
    const char *at = text;
    for (*n = 0; *n < TRAIN_DEVICES; at++) {
        devices[*n] = number(&at);
        if (devices[*n] == 0 || (*n > 0 && devices[*n] <= devices[*n - 1])) break;
        ++*n;
        if (*at == '\0') return DML_ERR_OK;
        if (*at != ',') break;
    }
    DML_FAIL(DML_ERR_SPEC,
             "--devices %s: at most %d ascending numbers between commas, such as 1,2,4,8", text,
             TRAIN_DEVICES);
}

typedef struct list {
    train_layout *out;
    int32_t n;
} list;

static dml_err push(list *l, const train_layout *layout)
{
    if (l->n == TRAIN_LAYOUTS) DML_FAIL(DML_ERR_SPEC, "more than %d layouts", TRAIN_LAYOUTS);
    l->out[l->n++] = *layout;
    return DML_ERR_OK;
}

static dml_err push_all(list *l, int32_t devices, const char *schedule)
{
    for (int32_t pp = 1; pp <= devices; pp++) {
        if (devices % pp != 0) continue;
        train_layout layout = {.kind = TRAIN_EQUAL,
                               .pipeline = pp,
                               .replicas = devices / pp,
                               .virtual_stages = 1,
                               .devices = devices,
                               .one_of_all = true};
        snprintf(layout.schedule, sizeof layout.schedule, "%s", schedule);
        DML_TRY(push(l, &layout));
    }
    return DML_ERR_OK;
}

/* "2x1", "2x1x2" */
static bool parse_sizes(const char *text, train_layout *out)
{
    out->kind = TRAIN_EQUAL;
    out->virtual_stages = 1;
    out->pipeline = number(&text);
    if (out->pipeline == 0 || *text++ != 'x') return false;
    out->replicas = number(&text);
    if (*text == 'x') {
        text++;
        out->virtual_stages = number(&text);
    }
    out->devices = out->pipeline * out->replicas;
    return *text == '\0' && out->replicas > 0 && out->virtual_stages > 0 &&
           out->devices <= MOST_WORKERS;
}

static dml_err push_item(list *l, const char *item, const int32_t *devices, int32_t n_devices)
{
    char head[TRAIN_WORD];
    const char *colon = strchr(item, ':');
    const char *schedule = colon ? colon + 1 : "";
    train_layout layout = {0};
    snprintf(head, sizeof head, "%.*s", colon ? (int)(colon - item) : (int)strlen(item), item);
    const bool all = strcmp(head, "all") == 0, choose = strcmp(head, "auto") == 0;
    if ((colon && !schedule[0]) || (choose && colon))
        DML_FAIL(DML_ERR_SPEC, "'%s': %s", item, usage);
    if ((all || choose) && n_devices == 0)
        DML_FAIL(DML_ERR_SPEC, "'%s' is for numbers of devices: add --devices 1,2,4", item);
    for (int32_t i = 0; i < n_devices && (all || choose); i++) {
        layout = (train_layout){.kind = TRAIN_AUTO, .devices = devices[i]};
        DML_TRY(all ? push_all(l, devices[i], schedule) : push(l, &layout));
    }
    if (all || choose) return DML_ERR_OK;
    snprintf(layout.schedule, sizeof layout.schedule, "%s", schedule);
    if (strcmp(head, "spec") != 0 && !parse_sizes(head, &layout))
        DML_FAIL(DML_ERR_SPEC, "'%s': %s", item, usage);
    return push(l, &layout);
}

dml_err train_layouts_parse(const char *text, const int32_t *devices, int32_t n_devices,
                            train_layout *out, int32_t *n)
{
    list l = {.out = out};
    for (const char *at = text;; at++) {
        char item[TRAIN_WORD];
        const size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof item) DML_FAIL(DML_ERR_SPEC, "'%s': %s", text, usage);
        snprintf(item, sizeof item, "%.*s", (int)length, at);
        DML_TRY(push_item(&l, item, devices, n_devices));
        at += length;
        if (*at == '\0') break;
    }
    *n = l.n;
    return DML_ERR_OK;
}

const char *train_layout_text(const train_layout *l, dml_arena *arena)
{
    const char *text = "spec";
    switch (l->kind) {
    case TRAIN_WRITTEN: break;
    case TRAIN_AUTO: text = dml_arena_printf(arena, "auto@%d", l->devices); break;
    case TRAIN_EQUAL:
        text = l->virtual_stages == 1 ? dml_arena_printf(arena, "%dx%d", l->pipeline, l->replicas)
                                      : dml_arena_printf(arena, "%dx%dx%d", l->pipeline,
                                                         l->replicas, l->virtual_stages);
        break;
    }
    return l->schedule[0] ? dml_arena_printf(arena, "%s:%s", text, l->schedule) : text;
}

void train_layout_overrides(const train_layout *l, dml_arena *arena, const char **argv, int32_t *n)
{
    if (l->kind == TRAIN_AUTO) {
        argv[(*n)++] = "plan=auto";
        argv[(*n)++] = dml_arena_printf(arena, "parallelism.world_size=%d", l->devices);
    }
    if (l->kind == TRAIN_EQUAL) {
        argv[(*n)++] = "parallelism.stages=[]";
        argv[(*n)++] = dml_arena_printf(arena, "parallelism.pp=%d", l->pipeline);
        argv[(*n)++] = dml_arena_printf(arena, "parallelism.dp=%d", l->replicas);
        argv[(*n)++] = dml_arena_printf(arena, "parallelism.vpp=%d", l->virtual_stages);
    }
    if (l->schedule[0])
        argv[(*n)++] = dml_arena_printf(arena, "parallelism.schedule=%s", l->schedule);
}
