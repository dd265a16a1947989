/* What lies between the products: each kernel's work is a row of the batch, or a head of one.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weights.h"

#define THREADS 256

/* --- tokens and positions --- */

/* rows: which of the table; NULL: its first. add: x += */
template <kern_type T>
__global__ void __launch_bounds__(THREADS)
    look_up(float *x, const uint8_t *table, uint64_t bytes, const uint32_t *rows, uint32_t d,
            float scale, bool add)
{
    const uint8_t *from = table + (rows != NULL ? rows[blockIdx.x] * bytes : 0);
    float *to = x + (uint64_t)blockIdx.x * d;

    for (uint32_t c = threadIdx.x; c < d / CHUNK; c += THREADS) {
        float w[CHUNK];

        weights8<T>(from, c, w);
        for (int i = 0; i < CHUNK; i++) {
            to[c * CHUNK + i] = (add ? to[c * CHUNK + i] : 0) + w[i] * scale;
        }
    }
}

template <kern_type T>
static void launch_look_up(kern_model *m, const kern_tensor *w, const uint32_t *rows,
                           uint32_t n, float scale, bool add)
{
    LAUNCH((look_up<T>), dim3(n), dim3(THREADS), m->dev->stream, m->x, (const uint8_t *)w->data,
           row_bytes(T, w->cols), rows, w->cols, scale, add);
}

static void add_rows_of(kern_model *m, const kern_tensor *w, const uint32_t *rows, uint32_t n)
{
    if (w->data != NULL) {
        BY_TYPE(w->type, launch_look_up, m, w, rows, n, 1, true);
    }
}

void ops_embed(kern_model *m, uint32_t n)
{
    const kern_weights *w = &m->weights;
    float scale = m->config.embed_scale != 0 ? m->config.embed_scale : 1;

    BY_TYPE(w->embed.type, launch_look_up, m, &w->embed, (const uint32_t *)m->rows.ids, n,
            scale, false);
    add_rows_of(m, &w->positions, m->rows.pos, n);
    add_rows_of(m, &w->segments, NULL, n);
    if (m->config.encoder) {
        ops_add_norm(m, NULL, NULL, w->embed_norm, w->embed_norm_b, n);
    }
}

/* Cosine and sine of a position's angles, for layers that look far and such that look near:
 * only the former are scaled. */
__global__ void __launch_bounds__(THREADS)
    angles(float *rope, const double *freq, const uint32_t *pos, uint32_t half, uint32_t rows,
           float scale)
{
    uint32_t row = blockIdx.x, kind = blockIdx.y;

    for (uint32_t i = threadIdx.x; i < half; i += THREADS) {
        double angle = pos[row] * freq[kind * half + i];
        float *r = rope + (((uint64_t)kind * rows + row) * half + i) * 2;

        r[0] = (float)cos(angle) * (kind == 0 ? scale : 1);
        r[1] = (float)sin(angle) * (kind == 0 ? scale : 1);
    }
}

void ops_angles(kern_model *m, uint32_t n)
{
    float scale = m->config.rope_scale != 0 ? m->config.rope_scale : 1;

    LAUNCH(angles, dim3(n, 2), dim3(THREADS), m->dev->stream, m->rope, m->rope_freq,
           m->rows.pos, m->config.rope_dim / 2, m->max_batch, scale);
}

/* --- norms --- */

/* rows: which of x; NULL: all. add: y += */
__global__ void __launch_bounds__(THREADS)
    rms_norm(float *y, const float *x, const uint32_t *rows, const float *weight, uint32_t d,
             float eps, bool add)
{
    const float *from = x + (uint64_t)(rows != NULL ? rows[blockIdx.x] : blockIdx.x) * d;
    float *to = y + (uint64_t)blockIdx.x * d, sum = 0;

    for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
        sum += from[i] * from[i];
    }
    float scale = 1 / sqrtf(block_sum(sum) / (float)d + eps);
    for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
        to[i] = (add ? to[i] : 0) + from[i] * scale * weight[i];
    }
}

static void norm(kern_model *m, float *y, const float *x, const uint32_t *rows,
                 const float *weight, uint32_t n, bool add)
{
    LAUNCH(rms_norm, dim3(n), dim3(THREADS), m->dev->stream, y, x, rows, weight,
           m->config.d_model, m->config.norm_eps, add);
}

void ops_norm(kern_model *m, float *y, const float *x, const float *weight, uint32_t n)
{
    norm(m, y, x, NULL, weight, n, false);
}

void ops_norm_out(kern_model *m, float *y, uint32_t first, uint32_t n)
{
    norm(m, y, m->x, m->rows.out + first, m->weights.out_norm, n, false);
}

void ops_norm_add(kern_model *m, const float *weight, uint32_t n)
{
    norm(m, m->x, m->xb, NULL, weight, n, true);
}

__global__ void __launch_bounds__(THREADS)
    add_norm(float *x, const float *added, const float *bias, const float *weight,
             const float *norm_bias, uint32_t d, float eps)
{
    uint64_t row = (uint64_t)blockIdx.x * d;
    float sum = 0, square = 0;

    x += row;
    for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
        x[i] += (added != NULL ? added[row + i] : 0) + (bias != NULL ? bias[i] : 0);
        sum += x[i];
    }
    float mean = block_sum(sum) / (float)d;
    for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
        square += (x[i] - mean) * (x[i] - mean);
    }
    float scale = 1 / sqrtf(block_sum(square) / (float)d + eps);
    for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
        x[i] = (x[i] - mean) * scale * weight[i] + norm_bias[i];
    }
}

void ops_add_norm(kern_model *m, const float *added, const float *bias, const float *weight,
                  const float *norm_bias, uint32_t n)
{
    LAUNCH(add_norm, dim3(n), dim3(THREADS), m->dev->stream, m->x, added, bias, weight,
           norm_bias, m->config.d_model, m->config.norm_eps);
}

/* firsts: of each text its first row. Blocks: (columns, text). */
__global__ void __launch_bounds__(THREADS)
    pool(float *y, const float *x, const uint32_t *firsts, uint32_t n_rows, uint32_t d,
         kern_pooling pooling)
{
    uint32_t text = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    uint32_t from = firsts[text], end = text + 1 < gridDim.y ? firsts[text + 1] : n_rows;
    float sum = 0;

    if (i >= d) {
        return;
    }
    from = pooling == KERN_POOL_LAST ? end - 1 : from;
    end = pooling == KERN_POOL_MEAN ? end : from + 1;
    for (uint32_t row = from; row < end; row++) {
        sum += x[(uint64_t)row * d + i];
    }
    y[(uint64_t)text * d + i] = sum / (float)(end - from);
}

void ops_pool(kern_model *m, float *y, const float *x, uint32_t n_texts, uint32_t n,
              kern_pooling pooling)
{
    uint32_t d = m->config.d_model;

    LAUNCH(pool, dim3(divide_up(d, THREADS), n_texts), dim3(THREADS), m->dev->stream, y, x,
           m->rows.out, n, d, pooling);
}

/* --- heads --- */

struct head_job {
    float *q, *k, *v;
    const float *bias[3]; /* of each, or NULL */
    const float *norm[2]; /* of q's and k's heads */
    const float *rope;    /* [rows][half][2] */
    const uint32_t *pos, *first, *base, *pages;
    kv_layer to;
    uint32_t n_heads, n_kv_heads, head_dim, half;
    bool halves;
    float eps;
};

/* Which of q, k and v a block is about, and whose head. */
__device__ static float *head_of(const head_job &j, uint32_t *which, uint32_t *head)
{
    uint32_t row = blockIdx.y, n = j.n_heads;
    float *x = j.q;

    *head = blockIdx.x;
    for (*which = 0; *head >= n; ++*which) {
        *head -= n;
        n = j.n_kv_heads;
        x = *which == 0 ? j.k : j.v;
    }
    return x + ((uint64_t)row * n + *head) * j.head_dim;
}

/* Bias, norm, turn; queries stay where they are, keys and values go to their page. */
__global__ void __launch_bounds__(HEAD_MAX) prepare(head_job j)
{
    __shared__ float turned[HEAD_MAX];
    uint32_t which, head, i = threadIdx.x, row = blockIdx.y;
    float *x = head_of(j, &which, &head);
    bool mine = i < j.head_dim;
    float value = mine ? x[i] : 0;

    if (mine && j.bias[which] != NULL) {
        value += j.bias[which][head * j.head_dim + i];
    }
    if (which < 2 && j.norm[which] != NULL) {
        float sum = block_sum(value * value);

        value *= 1 / sqrtf(sum / (float)j.head_dim + j.eps) * (mine ? j.norm[which][i] : 0);
    }
    turned[i] = value;
    __syncthreads();
    if (which < 2 && i < j.half) {
        uint32_t at = i * (j.halves ? 1 : 2), other = at + (j.halves ? j.half : 1);
        const float *r = j.rope + ((uint64_t)row * j.half + i) * 2;
        float a = turned[at], b = turned[other];

        turned[at] = a * r[0] - b * r[1];
        turned[other] = a * r[1] + b * r[0];
    }
    __syncthreads();
    if (!mine) {
        return;
    }
    if (which == 0) {
        x[i] = turned[i];
    } else {
        j.to.kv[kv_at(j.to.shape, j.pages + j.first[row], j.base[row] + j.pos[row], j.to.layer,
                      which == 1 ? KV_KEYS : KV_VALUES, head) +
                i] = half_of(turned[i]);
    }
}

void ops_prepare(kern_model *m, uint32_t layer, kv_layer to, uint32_t n)
{
    const kern_config *c = &m->config;
    const kern_layer *w = &m->layers[layer];
    uint32_t half = c->rope_dim / 2;
    bool near = w->window > 0 && c->rope_base_near != 0;
    head_job j = {};

    j.q = m->q, j.k = m->k, j.v = m->v;
    j.bias[0] = w->bq, j.bias[1] = w->bk, j.bias[2] = w->bv;
    j.norm[0] = w->q_norm, j.norm[1] = w->k_norm;
    j.rope = m->rope + (near ? (uint64_t)m->max_batch * half * 2 : 0);
    j.pos = m->rows.pos, j.first = m->rows.first, j.base = m->rows.base;
    j.pages = m->rows.pages;
    j.to = to;
    j.n_heads = c->n_heads, j.n_kv_heads = c->n_kv_heads, j.head_dim = c->head_dim;
    j.half = half;
    j.halves = c->rope_halves;
    j.eps = c->norm_eps;
    LAUNCH(prepare, dim3(c->n_heads + 2 * c->n_kv_heads, n),
           dim3(divide_up(c->head_dim, 32) * 32), m->dev->stream, j);
}

/* --- value by value --- */

/* gate becomes what goes down. gate_too: it has values of its own, else up has all. */
__global__ void __launch_bounds__(THREADS)
    activate(float *gate, const float *up, const float *bias, uint64_t n, uint32_t d,
             bool gate_too, bool gelu)
{
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i < n) {
        float x = up[i] + (bias != NULL ? bias[i % d] : 0);

        gate[i] = gate_too ? activation(gate[i], gelu) * x
                           : 0.5f * x * (1 + erff(x * 0.70710678f)); /* sqrt(1 / 2) */
    }
}

__global__ void __launch_bounds__(THREADS) cap(float *x, uint64_t n, float most)
{
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i < n) {
        x[i] = most * tanhf(x[i] / most);
    }
}

__global__ void __launch_bounds__(THREADS) to_bf16(uint16_t *y, const float *x, uint64_t n)
{
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i < n) {
        y[i] = bf16_of(x[i]);
    }
}

static dim3 blocks_for(uint64_t n)
{
    return dim3((uint32_t)((n + THREADS - 1) / THREADS));
}

void ops_activate(kern_model *m, const kern_layer *w, uint32_t n)
{
    uint64_t values = (uint64_t)n * m->config.d_ff;

    LAUNCH(activate, blocks_for(values), dim3(THREADS), m->dev->stream, m->gate, m->up, w->b_up,
           values, m->config.d_ff, w->w_gate.data != NULL, m->config.gelu);
}

void ops_cap_logits(kern_model *m, uint32_t n)
{
    uint64_t values = (uint64_t)n * m->config.n_vocab;

    LAUNCH(cap, blocks_for(values), dim3(THREADS), m->dev->stream, m->logits, values,
           m->config.logit_cap);
}

void ops_round(kern_model *m, const float *x, uint64_t n)
{
    LAUNCH(to_bf16, blocks_for(n), dim3(THREADS), m->dev->stream, m->rounded, x, n);
}

/* --- packed weights in bf16 --- */

template <kern_type T>
__global__ void __launch_bounds__(THREADS)
    unpack(uint16_t *y, const uint8_t *w, uint64_t bytes, uint32_t cols, uint64_t chunks)
{
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t in_row = cols / CHUNK;
    float values[CHUNK];

    if (i >= chunks) {
        return;
    }
    weights8<T>(w + i / in_row * bytes, (uint32_t)(i % in_row), values);
    for (int k = 0; k < CHUNK; k++) {
        y[i * CHUNK + k] = bf16_of(values[k]);
    }
}

template <kern_type T>
static void launch_unpack(kern_model *m, const kern_tensor *w, uint32_t first, uint32_t n)
{
    uint64_t bytes = row_bytes(T, w->cols), chunks = (uint64_t)n * (w->cols / CHUNK);

    LAUNCH((unpack<T>), blocks_for(chunks), dim3(THREADS), m->dev->stream, m->unpacked,
           (const uint8_t *)w->data + first * bytes, bytes, w->cols, chunks);
}

void ops_unpack(kern_model *m, const kern_tensor *w, uint32_t first_row, uint32_t n_rows)
{
    BY_TYPE(w->type, launch_unpack, m, w, first_row, n_rows);
}
