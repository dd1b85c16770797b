/* kernels/cpu/winograd.c - tiles by blocks that stay in the second cache.
 *
 *   block of `tiles` tiles:   image --B' d B--> v [16][tiles][in]
 *                             m[p] = v[p] u[p]                        16 products, u [16][in][out] from the weights
 *                             m [16][tiles][out] --A' m A--> image
 *
 *   weight gradient           u[p] += v[p]' m[p],  m = A dy A',  one u for each thread, added up in their order
 *
 * A product goes by pieces of ROWS x (LANES or 2 LANES) sums that live in registers.  u lies in panels of as many
 * columns: [panel][in][columns].  Planes are a line longer than their data: 16 streams a power of two apart
 * would share one set of the first cache.
 */
#include "kernels/cpu/winograd.h"

#include "kernels/cpu/par.h"

#include <string.h>

enum { LANES = 16, ROWS = 12, MOST_ROWS = 16, HALF_ROWS = 8, PLANES = 16, TAPS = 9 };
enum {
    BLOCK_BYTES = 384 << 10,
    MIN_TILES = 4 * ROWS,
    SUM_TILES = 16 * ROWS,
    WORTH_TILES = 256,
    WORTH_CHANNELS = 32
};

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* One side's images: [n, h, w, c]; pixel (2 ty - pad, 2 tx - pad) is the first of a tile. */
typedef struct images {
    float *data;
    int64_t h, w, c, pad_h, pad_w;
} images;

typedef struct job {
    images from, to; /* of the tiles' 4x4 inputs, of their 2x2 outputs */
    const float *bias;
    int64_t tiles_h, tiles_w, tiles; /* of an image, of all */
    int64_t block, v_plane, m_plane; /* tiles of a block; floats from plane to plane */
    float *u, *scratch, *zeros;      /* zeros: as many as the wider side has channels */
    int64_t u_floats, lane_floats;   /* of one thread: sums of the weight gradient; v and m */
} job;

static inline lanes load(const float *at)
{
    return *(const lanes *)(const void *)at;
}

static inline void store(float *at, lanes value)
{
    *(lanes *)(void *)at = value;
}

bool dml_cpu_winograd_takes(const dml_kctx *k, const dml_dnn_shape *s)
{
    const dml_conv2d *p = &s->conv;
    const bool plain = p->kernel[0] == 3 && p->kernel[1] == 3 && p->stride[0] == 1 &&
                       p->stride[1] == 1 && p->dilation[0] == 1 && p->dilation[1] == 1 &&
                       p->groups == 1 && p->pad[0] <= 2 && p->pad[1] <= 2;
    const int64_t tiles = s->n * ((s->oh + 1) / 2) * ((s->ow + 1) / 2);
    return plain && !k->deterministic && s->type == DML_F32 && s->in % LANES == 0 &&
           s->out % LANES == 0 && s->in >= WORTH_CHANNELS && s->out >= WORTH_CHANNELS &&
           tiles >= WORTH_TILES;
}

/* ---- weights ---- */

/* Columns of a panel of `out` outputs. */
static int64_t columns_of(int64_t out)
{
    return out % (2 * LANES) == 0 ? 2 * LANES : LANES;
}

/* Where (ci, co) of a plane of u lies. */
static int64_t place_of(int64_t in, int64_t out, int64_t ci, int64_t co)
{
    const int64_t columns = columns_of(out);
    return co / columns * in * columns + ci * columns + co % columns;
}

/* One row or column of G: (a, b, c) -> (a, (a + b + c) / 2, (a - b + c) / 2, c). */
static inline void widen(lanes a, lanes b, lanes c, lanes to[4])
{
    const lanes sum = 0.5f * (a + c), half = 0.5f * b;
    to[0] = a;
    to[1] = sum + half;
    to[2] = sum - half;
    to[3] = c;
}

/* The weights [rows][cols][3][3] as planes; `turned`: of the input gradient, columns in, rows out. */
typedef struct weights {
    float *u;
    const float *w;
    int64_t rows, cols;
    bool turned;
} weights;

/* One input channel and LANES output channels. */
static void widen_weights(const weights *f, int64_t ci, int64_t co)
{
    const int64_t in = f->turned ? f->rows : f->cols, out = f->turned ? f->cols : f->rows;
    float g[TAPS][LANES];
    for (int64_t l = 0; l < LANES; l++) {
        const int64_t row = f->turned ? ci : co + l, col = f->turned ? co + l : ci;
        const float *w = f->w + (row * f->cols + col) * TAPS;
        for (int64_t tap = 0; tap < TAPS; tap++)
            g[f->turned ? TAPS - 1 - tap : tap][l] = w[tap];
    }
    lanes half[3][4], whole[4];
    for (int64_t j = 0; j < 3; j++)
        widen(load(g[3 * j]), load(g[3 * j + 1]), load(g[3 * j + 2]), half[j]);
    float *u = f->u + place_of(in, out, ci, co);
    for (int64_t j = 0; j < 4; j++) {
        widen(half[0][j], half[1][j], half[2][j], whole);
        for (int64_t i = 0; i < 4; i++)
            store(u + (4 * i + j) * in * out, whole[i]);
    }
}

static void widen_group(void *arg, int64_t group, int32_t thread)
{
    (void)thread;
    const weights *f = arg;
    const int64_t in = f->turned ? f->rows : f->cols;
    for (int64_t ci = 0; ci < in; ci++)
        widen_weights(f, ci, group * LANES);
}

/* One row or column of G': (a, b, c, d) -> (a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d). */
static inline void narrow(lanes a, lanes b, lanes c, lanes d, lanes to[3])
{
    const lanes sum = 0.5f * (b + c);
    to[0] = a + sum;
    to[1] = 0.5f * (b - c);
    to[2] = sum + d;
}

/* The gradient of one input channel and LANES output channels from sums over tiles. */
static void narrow_weights(const weights *f, int64_t ci, int64_t co)
{
    const float *u = f->u + place_of(f->cols, f->rows, ci, co);
    const int64_t plane = f->rows * f->cols;
    lanes half[4][3], whole[3];
    float g[TAPS][LANES];
    for (int64_t i = 0; i < 4; i++)
        narrow(load(u + 4 * i * plane), load(u + (4 * i + 1) * plane),
               load(u + (4 * i + 2) * plane), load(u + (4 * i + 3) * plane), half[i]);
    for (int64_t j = 0; j < 3; j++) {
        narrow(half[0][j], half[1][j], half[2][j], half[3][j], whole);
        for (int64_t i = 0; i < 3; i++)
            store(g[3 * i + j], whole[i]);
    }
    for (int64_t l = 0; l < LANES; l++)
        for (int64_t tap = 0; tap < TAPS; tap++)
            ((float *)(uintptr_t)f->w)[((co + l) * f->cols + ci) * TAPS + tap] = g[tap][l];
}

static void narrow_group(void *arg, int64_t group, int32_t thread)
{
    (void)thread;
    const weights *f = arg;
    for (int64_t ci = 0; ci < f->cols; ci++)
        narrow_weights(f, ci, group * LANES);
}

/* ---- tiles ---- */

/* Where pixel (y, x) of an image lies, or zeros. */
static inline const float *pixel(const job *f, const images *s, const float *image, int64_t y,
                                 int64_t x)
{
    return y >= 0 && y < s->h && x >= 0 && x < s->w ? image + (y * s->w + x) * s->c : f->zeros;
}

typedef struct tile {
    int64_t image, y, x;
} tile;

static tile tile_of(const job *f, int64_t t)
{
    const int64_t per_image = f->tiles_h * f->tiles_w;
    return (tile){t / per_image, t % per_image / f->tiles_w, t % f->tiles_w};
}

/* One row or column of B'. */
#define B_TURNED(d, a, b, c, e) \
    (d)[0] = (a) - (c), (d)[1] = (b) + (c), (d)[2] = (c) - (b), (d)[3] = (b) - (e)

/* v = B' d B of one tile of `from`. */
static void input_tile(const job *f, int64_t t, float *v)
{
    const images *s = &f->from;
    const tile at = tile_of(f, t);
    const float *image = s->data + at.image * s->h * s->w * s->c, *d[PLANES];
    for (int64_t i = 0; i < PLANES; i++)
        d[i] = pixel(f, s, image, 2 * at.y - s->pad_h + i / 4, 2 * at.x - s->pad_w + i % 4);
    for (int64_t c = 0; c < s->c; c += LANES) {
        lanes rows[4][4], to[4];
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; i++)
            B_TURNED(rows[i], load(d[4 * i] + c), load(d[4 * i + 1] + c), load(d[4 * i + 2] + c),
                     load(d[4 * i + 3] + c));
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++) {
            B_TURNED(to, rows[0][j], rows[1][j], rows[2][j], rows[3][j]);
            for (int64_t i = 0; i < 4; i++)
                store(v + (4 * i + j) * f->v_plane + c, to[i]);
        }
    }
}

/* The 2x2 outputs of one tile of `to` from m: A' m A + bias. */
static void output_tile(const job *f, int64_t t, const float *m)
{
    const images *s = &f->to;
    const tile at = tile_of(f, t);
    const int64_t y = 2 * at.y, x = 2 * at.x;
    float *first = s->data + ((at.image * s->h + y) * s->w + x) * s->c;
    const bool right = x + 1 < s->w, below = y + 1 < s->h;
    for (int64_t c = 0; c < s->c; c += LANES) {
        lanes rows[2][4];
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++) {
            const float *column = m + j * f->m_plane + c;
            const lanes a = load(column), b = load(column + 4 * f->m_plane),
                        e = load(column + 8 * f->m_plane), g = load(column + 12 * f->m_plane);
            rows[0][j] = a + b + e;
            rows[1][j] = b - e - g;
        }
        const lanes bias = f->bias ? load(f->bias + c) : (lanes){0};
#pragma GCC unroll 2
        for (int64_t i = 0; i < 2; i++) {
            if (i == 1 && !below) break;
            float *row = first + i * s->w * s->c + c;
            store(row, rows[i][0] + rows[i][1] + rows[i][2] + bias);
            if (right) store(row + s->c, rows[i][1] - rows[i][2] - rows[i][3] + bias);
        }
    }
}

/* m = A dy A' of one tile of `to`. */
static void output_gradient_tile(const job *f, int64_t t, float *m)
{
    const images *s = &f->to;
    const tile at = tile_of(f, t);
    const float *image = s->data + at.image * s->h * s->w * s->c, *d[4];
    for (int64_t i = 0; i < 4; i++)
        d[i] = pixel(f, s, image, 2 * at.y + i / 2, 2 * at.x + i % 2);
    for (int64_t c = 0; c < s->c; c += LANES) {
        lanes rows[4][2];
#pragma GCC unroll 2
        for (int64_t j = 0; j < 2; j++) {
            const lanes a = load(d[j] + c), b = load(d[2 + j] + c);
            rows[0][j] = a;
            rows[1][j] = a + b;
            rows[2][j] = a - b;
            rows[3][j] = -b;
        }
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; i++) {
            float *to = m + 4 * i * f->m_plane + c;
            store(to, rows[i][0]);
            store(to + f->m_plane, rows[i][0] + rows[i][1]);
            store(to + 2 * f->m_plane, rows[i][0] - rows[i][1]);
            store(to + 3 * f->m_plane, -rows[i][1]);
        }
    }
}

/* ---- products ---- */

/* rows x (vectors LANES) sums over `depth`: to[r][c] (+)= sum_i a[r a_row + i a_step] b[i b_row + c]. */
typedef struct piece {
    const float *a, *b;
    float *to;
    int64_t a_row, a_step, b_row, to_row, depth;
} piece;

static inline __attribute__((always_inline)) void sum_piece(const piece *p, int64_t n_rows,
                                                            int64_t vectors, bool adds)
{
    const int64_t a_row = p->a_row, a_step = p->a_step;
    const float *a = p->a, *b = p->b;
    lanes sum[MOST_ROWS][2];
#pragma GCC unroll 16
    for (int64_t r = 0; r < n_rows; r++)
#pragma GCC unroll 2
        for (int64_t v = 0; v < vectors; v++)
            sum[r][v] = adds ? load(p->to + r * p->to_row + v * LANES) : (lanes){0};
    for (int64_t i = 0; i < p->depth; i++, a += a_step, b += p->b_row) {
        lanes column[2];
#pragma GCC unroll 2
        for (int64_t v = 0; v < vectors; v++)
            column[v] = load(b + v * LANES);
#pragma GCC unroll 16
        for (int64_t r = 0; r < n_rows; r++) {
            const float x = a[r * a_row];
#pragma GCC unroll 2
            for (int64_t v = 0; v < vectors; v++)
                sum[r][v] += x * column[v];
        }
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < n_rows; r++)
#pragma GCC unroll 2
        for (int64_t v = 0; v < vectors; v++)
            store(p->to + r * p->to_row + v * LANES, sum[r][v]);
}

static void multiply_one(const piece *p)
{
    sum_piece(p, ROWS, 1, false);
}

static void multiply_two(const piece *p)
{
    sum_piece(p, ROWS, 2, false);
}

static void add_one(const piece *p)
{
    sum_piece(p, MOST_ROWS, 1, true);
}

static void add_two(const piece *p)
{
    sum_piece(p, HALF_ROWS, 2, true);
}

/* m[p] = v[p] u[p] of a block. */
static void multiply_block(const job *f, const float *v, float *m)
{
    const int64_t in = f->from.c, out = f->to.c, columns = columns_of(out);
    for (int64_t p = 0; p < PLANES; p++)
        for (int64_t co = 0; co < out; co += columns)
            for (int64_t t = 0; t < f->block; t += ROWS) {
                const piece s = {.a = v + p * f->v_plane + t * in,
                                 .b = f->u + p * in * out + place_of(in, out, 0, co),
                                 .to = m + p * f->m_plane + t * out + co,
                                 .a_row = in,
                                 .a_step = 1,
                                 .b_row = columns,
                                 .to_row = out,
                                 .depth = in};
                (columns == LANES ? multiply_one : multiply_two)(&s);
            }
}

/* u[p] += v[p]' m[p] of `tiles` tiles. */
static void add_block(const job *f, const float *v, const float *m, float *u, int64_t tiles)
{
    const int64_t in = f->from.c, out = f->to.c, columns = columns_of(out);
    for (int64_t p = 0; p < PLANES; p++)
        for (int64_t co = 0; co < out; co += columns)
            for (int64_t ci = 0; ci < in; ci += columns == LANES ? MOST_ROWS : HALF_ROWS) {
                const piece s = {.a = v + p * f->v_plane + ci,
                                 .b = m + p * f->m_plane + co,
                                 .to = u + p * in * out + place_of(in, out, ci, co),
                                 .a_row = 1,
                                 .a_step = in,
                                 .b_row = out,
                                 .to_row = columns,
                                 .depth = tiles};
                (columns == LANES ? add_one : add_two)(&s);
            }
}

/* ---- blocks ---- */

/* Tiles [*first, return) of block i. */
static int64_t tiles_of(const job *f, int64_t i, int64_t *first)
{
    *first = i * f->block;
    return *first + f->block < f->tiles ? *first + f->block : f->tiles;
}

/* What lies behind the last tile of the last block is multiplied too, and thrown away. */
static void run_block(void *arg, int64_t i, int32_t thread)
{
    const job *f = arg;
    float *v = f->scratch + thread * f->lane_floats, *m = v + PLANES * f->v_plane;
    int64_t first;
    const int64_t end = tiles_of(f, i, &first);
    for (int64_t t = first; t < end; t++)
        input_tile(f, t, v + (t - first) * f->from.c);
    if (end > first) multiply_block(f, v, m);
    for (int64_t t = first; t < end; t++)
        output_tile(f, t, m + (t - first) * f->to.c);
}

static void sum_block(void *arg, int64_t i, int32_t thread)
{
    const job *f = arg;
    float *v = f->scratch + thread * f->lane_floats, *m = v + PLANES * f->v_plane;
    int64_t first;
    const int64_t end = tiles_of(f, i, &first);
    for (int64_t t = first; t < end; t++) {
        input_tile(f, t, v + (t - first) * f->from.c);
        output_gradient_tile(f, t, m + (t - first) * f->to.c);
    }
    if (end > first) add_block(f, v, m, f->u + thread * f->u_floats, end - first);
}

/* Blocks of even size that stay in the second cache, as many for each thread; returns how many. */
static int64_t cut(job *f, int32_t threads, int64_t least)
{
    const int64_t tile_bytes = PLANES * (f->from.c + f->to.c) * (int64_t)sizeof(float);
    int64_t most = BLOCK_BYTES / tile_bytes;
    if (most < least) most = least;
    int64_t blocks = (f->tiles + most - 1) / most;
    blocks = (blocks + threads - 1) / threads * threads;
    f->block = ((f->tiles + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
    f->v_plane = f->block * f->from.c + LANES;
    f->m_plane = f->block * f->to.c + LANES;
    f->lane_floats = PLANES * (f->v_plane + f->m_plane);
    return blocks;
}

/* Places u, of which there are `copies`, zeros and the threads' lanes in the context's scratch. */
static dml_err place(dml_kctx *k, job *f, int32_t threads, int64_t copies)
{
    const int64_t widest = f->from.c > f->to.c ? f->from.c : f->to.c;
    f->u_floats = PLANES * f->from.c * f->to.c;
    DML_TRY(dml_cpu_buffer(k, DML_CPU_SCRATCH,
                           (copies * f->u_floats + widest + threads * f->lane_floats) *
                               (int64_t)sizeof(float),
                           (void **)&f->u));
    f->zeros = f->u + copies * f->u_floats;
    f->scratch = f->zeros + widest;
    memset(f->zeros, 0, (size_t)widest * sizeof(float));
    memset(f->scratch, 0, (size_t)(threads * f->lane_floats) * sizeof(float));
    return DML_ERR_OK;
}

static images images_of(dml_in t, int64_t pad_h, int64_t pad_w)
{
    return (images){t->data, t->dim[1], t->dim[2], t->dim[3], pad_h, pad_w};
}

/* A job over all tiles of 2x2 pixels of `to`. */
static job job_of(const dml_dnn_shape *s, images from, images to)
{
    job f = {.from = from, .to = to, .tiles_h = (to.h + 1) / 2, .tiles_w = (to.w + 1) / 2};
    f.tiles = s->n * f.tiles_h * f.tiles_w;
    return f;
}

static dml_err convolve(dml_kctx *k, const dml_dnn_shape *s, job *f, const float *w, bool turned)
{
    const int64_t blocks = cut(f, s->threads, MIN_TILES);
    DML_TRY(place(k, f, s->threads, 1));
    weights wide = {f->u, w, s->out, s->in, turned};
    dml_par_items(s->threads, f->to.c / LANES, widen_group, &wide);
    dml_par_items(s->threads, blocks, run_block, f);
    return DML_ERR_OK;
}

typedef struct parts {
    float *sum;
    int64_t n, pitch;
} parts;

static void add_parts(void *arg, int64_t begin, int64_t end)
{
    const parts *p = arg;
    for (int64_t part = 1; part < p->n; part++)
        for (int64_t i = begin; i < end; i++)
            p->sum[i] += p->sum[part * p->pitch + i];
}

static dml_err sum_gradient(dml_kctx *k, const dml_dnn_shape *s, job *f, float *dw)
{
    const int64_t blocks = cut(f, s->threads, SUM_TILES);
    DML_TRY(place(k, f, s->threads, s->threads));
    memset(f->u, 0, (size_t)(s->threads * f->u_floats) * sizeof(float));
    dml_par_items(s->threads, blocks, sum_block, f);
    parts p = {f->u, s->threads, f->u_floats};
    dml_par_ranges(s->threads, f->u_floats, s->threads * (int64_t)sizeof(float), add_parts, &p);
    weights wide = {f->u, dw, s->out, s->in, false};
    dml_par_items(s->threads, s->out / LANES, narrow_group, &wide);
    return DML_ERR_OK;
}

dml_err dml_cpu_winograd_run(dml_kctx *k, const dml_dnn_shape *s, dml_in x, dml_in w, dml_in b,
                             dml_in y)
{
    const int64_t pad_h = s->conv.pad[0], pad_w = s->conv.pad[1];
    const bool input = s->kind == DML_DNN_CONV_BWD_INPUT;
    job f = input ? job_of(s, images_of(y, 2 - pad_h, 2 - pad_w), images_of(x, 0, 0))
                  : job_of(s, images_of(x, pad_h, pad_w), images_of(y, 0, 0));
    if (s->kind != DML_DNN_CONV_BWD_WEIGHT) {
        f.bias = b ? b->data : NULL;
        return convolve(k, s, &f, w->data, input);
    }
    if (b) dml_cpu_column_sums(k, b->data, false, y, s->n * s->oh * s->ow, s->out);
    return sum_gradient(k, s, &f, w->data);
}
