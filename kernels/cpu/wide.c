/* kernels/cpu/wide.c - conversions between the real types. */
#include "kernels/cpu/wide.h"

#include "kernels/check.h"
#include "kernels/cpu/par.h"
#include "kernels/half.h"

#include <string.h>

void dml_cpu_load(float *to, const void *from, dml_dtype dtype, int64_t n)
{
    const uint16_t *restrict x = from;
    if (dtype == DML_F32) {
        memcpy(to, from, (size_t)n * sizeof(float));
    } else if (dtype == DML_BF16) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            to[i] = dml_bf16_to_float(x[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            to[i] = dml_f16_to_float(x[i]);
    }
}

void dml_cpu_store(void *to, dml_dtype dtype, const float *from, int64_t n)
{
    uint16_t *restrict y = to;
    if (dtype == DML_F32) {
        memcpy(to, from, (size_t)n * sizeof(float));
    } else if (dtype == DML_BF16) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = dml_bf16_of_float(from[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = dml_f16_of_float(from[i]);
    }
}

typedef struct conversion {
    char *y;
    const char *x;
    dml_dtype y_type, x_type;
} conversion;

enum { TILE = 512 }; /* floats on their way from one type to another */

static void range_convert(void *arg, int64_t begin, int64_t end)
{
    const conversion c = *(const conversion *)arg;
    const int64_t y_bytes = dml_dtype_bytes(c.y_type), x_bytes = dml_dtype_bytes(c.x_type);
    if (c.y_type == DML_F32) {
        dml_cpu_load((float *)(void *)c.y + begin, c.x + begin * x_bytes, c.x_type, end - begin);
        return;
    }
    if (c.x_type == DML_F32) {
        dml_cpu_store(c.y + begin * y_bytes, c.y_type, (const float *)(const void *)c.x + begin,
                      end - begin);
        return;
    }
    float tile[TILE];
    for (int64_t i = begin; i < end; i += TILE) {
        const int64_t n = end - i < TILE ? end - i : TILE;
        dml_cpu_load(tile, c.x + i * x_bytes, c.x_type, n);
        dml_cpu_store(c.y + i * y_bytes, c.y_type, tile, n);
    }
}

static void convert(dml_kctx *k, const dml_tensor *y, const dml_tensor *x)
{
    conversion c = {y->data, x->data, y->dtype, x->dtype};
    dml_par_ranges(k->threads, dml_tensor_elems(x),
                   dml_dtype_bytes(x->dtype) + dml_dtype_bytes(y->dtype), range_convert, &c);
}

dml_err dml_cpu_convert(dml_kctx *k, dml_out y, dml_in x)
{
    DML_TRY(dml_check_convert(y, x));
    convert(k, y, x);
    return DML_ERR_OK;
}

/* The tensor before i that lies where i does, or i. */
static int32_t twin_of(const dml_cpu_wide *v, int32_t i)
{
    int32_t j = 0;
    while (v->from[j].data != v->from[i].data)
        j++;
    return j;
}

dml_err dml_cpu_widen(dml_kctx *k, dml_cpu_wide *v, int32_t outputs, const dml_in tensor[],
                      int32_t n)
{
    *v = (dml_cpu_wide){.k = k, .outputs = outputs, .n = n};
    int64_t bytes = 0, at[DML_CPU_WIDE_ARGS];
    for (int32_t i = 0; i < n; i++) {
        if (!tensor[i]) continue;
        v->from[i] = v->t[i] = *tensor[i];
        v->t[i].dtype = DML_F32;
        if (!dml_cpu_is_half(tensor[i]) || twin_of(v, i) != i) continue;
        at[i] = bytes;
        bytes += dml_cpu_aligned(dml_tensor_bytes(&v->t[i]));
    }
    if (bytes == 0) return DML_ERR_OK;
    char *memory;
    DML_TRY(dml_cpu_buffer(k, DML_CPU_WIDE, bytes, (void **)&memory));
    for (int32_t i = 0; i < n; i++) {
        if (!tensor[i] || !dml_cpu_is_half(tensor[i])) continue;
        v->t[i].data = memory + at[twin_of(v, i)];
        if (i >= outputs) convert(k, &v->t[i], &v->from[i]);
    }
    return DML_ERR_OK;
}

dml_err dml_cpu_narrow(const dml_cpu_wide *v)
{
    for (int32_t i = 0; i < v->outputs; i++)
        if (v->from[i].data && dml_cpu_is_half(&v->from[i])) convert(v->k, &v->from[i], &v->t[i]);
    return DML_ERR_OK;
}
