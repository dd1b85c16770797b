/* kernels/cuda/dnn_book.c - a list: the operations of a training step are few and known before step 0. */
#include "kernels/cuda/dnn_book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dml_cudnn_book_init(dml_cudnn_book *b, const char *library, const char *gpu,
                         const dml_cudnn_config *config)
{
    *b = (dml_cudnn_book){.origin = {.deterministic = config->deterministic, .tf32 = config->tf32}};
    snprintf(b->origin.library, sizeof b->origin.library, "%s", library);
    snprintf(b->origin.gpu, sizeof b->origin.gpu, "%s", gpu);
}

void dml_cudnn_book_free(dml_cudnn_book *b, void (*free_plan)(void *plan))
{
    while (b->pages) {
        dml_cudnn_page *next = b->pages->next;
        if (b->pages->plan) free_plan(b->pages->plan);
        free(b->pages);
        b->pages = next;
    }
    free(b->wanted);
    *b = (dml_cudnn_book){0};
}

dml_cudnn_page *dml_cudnn_book_find(const dml_cudnn_book *b, const dml_cudnn_op *op)
{
    dml_cudnn_page *page = b->pages;
    while (page && memcmp(&page->op, op, sizeof *op) != 0)
        page = page->next;
    return page;
}

static const dml_cudnn_choice *wanted(const dml_cudnn_book *b, const dml_cudnn_op *op)
{
    for (int64_t i = 0; i < b->n_wanted; i++)
        if (memcmp(&b->wanted[i].op, op, sizeof *op) == 0) return &b->wanted[i].choice;
    return NULL;
}

static dml_err new_page(dml_cudnn_book *b, const dml_cudnn_op *op, dml_cudnn_make make, void *owner,
                        dml_cudnn_page **out)
{
    dml_cudnn_page *page = calloc(1, sizeof *page);
    if (!page) DML_FAIL(DML_ERR_NOMEM, "no memory for a plan");
    page->op = *op;
    page->status = make(owner, page, wanted(b, op));
    if (page->status == DML_ERR_OK)
        b->n_plans++;
    else
        snprintf(page->why, sizeof page->why, "%s", dml_err_trail());
    page->next = b->pages;
    b->pages = *out = page;
    return DML_ERR_OK;
}

dml_err dml_cudnn_book_plan(dml_cudnn_book *b, const dml_cudnn_op *op, dml_cudnn_make make,
                            void *owner, dml_cudnn_page **out)
{
    dml_cudnn_page *page = dml_cudnn_book_find(b, op);
    if (!page && b->sealed) {
        char text[DML_CUDNN_TEXT];
        dml_cudnn_text(op, text, sizeof text);
        DML_FAIL(DML_ERR_BUG, "the %s was not planned", text);
    }
    if (!page) DML_TRY(new_page(b, op, make, owner, &page));
    if (page->status != DML_ERR_OK) {
        dml_err_trail_put(page->why);
        return page->status;
    }
    *out = page;
    return DML_ERR_OK;
}

dml_err dml_cudnn_book_choices(const dml_cudnn_book *b, void *out, int64_t *bytes)
{
    const int64_t room = *bytes;
    *bytes = (int64_t)sizeof b->origin + b->n_plans * (int64_t)sizeof(dml_cudnn_record);
    if (*bytes > room) return DML_ERR_OK;
    char *at = out;
    memcpy(at, &b->origin, sizeof b->origin);
    at += sizeof b->origin;
    for (const dml_cudnn_page *page = b->pages; page; page = page->next) {
        if (page->status != DML_ERR_OK) continue;
        const dml_cudnn_record record = {page->op, page->choice};
        memcpy(at, &record, sizeof record);
        at += sizeof record;
    }
    return DML_ERR_OK;
}

dml_err dml_cudnn_book_choose(dml_cudnn_book *b, const void *choices, int64_t bytes)
{
    dml_cudnn_origin o;
    const int64_t rest = bytes - (int64_t)sizeof o;
    if (rest < 0 || rest % (int64_t)sizeof(dml_cudnn_record) != 0)
        DML_FAIL(DML_ERR_DATA, "%lld bytes are no choices of convolution engines",
                 (long long)bytes);
    memcpy(&o, choices, sizeof o);
    o.library[sizeof o.library - 1] = o.gpu[sizeof o.gpu - 1] = '\0';
    if (memcmp(&o, &b->origin, sizeof o) != 0)
        DML_FAIL(
            DML_ERR_UNAVAILABLE,
            "convolution engines were chosen by %s on '%s' (deterministic %d, tf32 %d); here is "
            "%s on '%s' (%d, %d)",
            o.library, o.gpu, o.deterministic, o.tf32, b->origin.library, b->origin.gpu,
            b->origin.deterministic, b->origin.tf32);
    dml_cudnn_record *records = malloc((size_t)rest + 1);
    if (!records) DML_FAIL(DML_ERR_NOMEM, "no memory for choices of convolution engines");
    memcpy(records, (const char *)choices + sizeof o, (size_t)rest);
    free(b->wanted);
    b->wanted = records;
    b->n_wanted = rest / (int64_t)sizeof(dml_cudnn_record);
    return DML_ERR_OK;
}
