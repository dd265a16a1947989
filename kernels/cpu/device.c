#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A step's tokens look at their keys together, as long as these are no more spans. */
#define MIN_SPANS 256

static void cpu_probe(uint32_t index, kern_info *out)
{
    *out = (kern_info){.score = index == 0, .memory = UINT64_MAX};
    snprintf(out->title, sizeof(out->title), "%s", cpu_ops_usable()[0]->name);
}

static kern_device *cpu_open(uint32_t index, uint32_t n_threads)
{
    kern_device *dev = calloc(1, sizeof(*dev));

    assert(index == 0 && n_threads >= 1);
    if (dev == NULL) {
        return NULL;
    }
    dev->ops = cpu_ops_usable()[0];
    dev->pool = cpu_pool_new(n_threads);
    if (dev->pool == NULL) {
        free(dev);
        return NULL;
    }
    return dev;
}

static void cpu_close(kern_device *dev)
{
    cpu_pool_free(dev->pool);
    free(dev);
}

static const char *cpu_last_error(const kern_device *dev)
{
    return dev == NULL ? "the CPU back end could not start its threads" : dev->error;
}

static uint32_t longest_row(const kern_config *c)
{
    uint32_t n = c->n_heads * c->head_dim;

    n = c->d_model > n ? c->d_model : n;
    return c->d_ff > n ? c->d_ff : n;
}

/* NULL if memory is short, or the product no size. Rows start on cache lines of their own. */
static float *floats(size_t outer, size_t inner, size_t alignment)
{
    size_t bytes;

    if (__builtin_mul_overflow(outer, inner, &bytes) || bytes > SIZE_MAX / 8) {
        return NULL;
    }
    return aligned_alloc(alignment, (bytes * sizeof(float) + alignment - 1) & ~(alignment - 1));
}

/* Scratch asks for large pages where it fills some: a product writes to a row of each of many
 * tokens in turn, more pages than the processor remembers. */
static float *scratch(size_t outer, size_t inner)
{
    const size_t page = (size_t)2 << 20;
    bool large = inner > 0 && outer > page / sizeof(float) / inner;
    float *p = floats(outer, inner, large ? page : 64);

    if (large && p != NULL) {
        madvise(p, outer * inner * sizeof(float), MADV_HUGEPAGE); /* a wish */
    }
    return p;
}

static void cpu_model_free(kern_model *m)
{
    if (m->kv != NULL) {
        munmap(m->kv, m->kv_size * sizeof(*m->kv));
    }
    free(m->layers);
    free(m->rope_freq);
    free(m->rope_freq_near);
    free(m->seqs);
    free(m->seq_of);
    free(m->fresh);
    free(m->x);
    free(m->xb);
    free(m->q);
    free(m->k);
    free(m->v);
    free(m->att);
    free(m->gate);
    free(m->up);
    free(m->rope);
    free(m->rope_near);
    free(m->scores);
    free(m->spans);
    free(m->span_out);
    free(m->span_log);
    free(m->wrow);
    free(m->packed);
    free(m->packed_int);
    free(m->tiles);
    free(m);
}

static uint8_t *bytes(size_t outer, size_t inner)
{
    return (uint8_t *)scratch(outer, (inner + 3) / 4);
}

/* Bytes that a thread needs to multiply and attend in tiles; 0: there are none. */
static size_t tiles_scratch(const kern_model *m)
{
    const cpu_ops *ops = m->dev->ops;
    size_t most = 0, bytes[3] = {0};

    bytes[0] = ops->tiles != NULL ? ops->tiles->scratch_bytes(m->max_batch) : 0;
    bytes[1] = ops->int_tiles != NULL ? ops->int_tiles->scratch_bytes(m->max_batch) : 0;
    bytes[2] = ops->attend != NULL ? ops->attend->scratch_bytes(m->config.head_dim) : 0;
    for (size_t i = 0; i < 3; i++) {
        most = most > bytes[i] ? most : bytes[i];
    }
    return (most + 63) & ~(size_t)63;
}

/* Scratch for the faster ways to multiply. */
static bool alloc_packed(kern_model *m)
{
    const cpu_ops *ops = m->dev->ops;
    size_t n = ((size_t)m->max_batch + 15) & ~(size_t)15, most = 0;

    if (ops->integers != NULL) {
        most = ops->integers->vector_bytes(m->wrow_len);
    }
    if (ops->tiles != NULL) {
        size_t packed = ops->tiles->packed_bytes(m->wrow_len);

        most = most > packed ? most : packed;
    }
    m->tiles_bytes = tiles_scratch(m);
    m->tiles = m->tiles_bytes > 0 ? bytes(cpu_pool_size(m->dev->pool), m->tiles_bytes) : NULL;
    m->packed = most > 0 ? bytes(n, most) : NULL;
    if (ops->int_tiles != NULL) {
        m->packed_int = bytes(n, ops->int_tiles->packed_bytes(m->wrow_len));
    }
    return (most == 0 || m->packed != NULL) && (m->tiles_bytes == 0 || m->tiles != NULL) &&
           (ops->int_tiles == NULL || m->packed_int != NULL);
}

static bool alloc_state(kern_model *m)
{
    const kern_config *c = &m->config;
    uint32_t threads = cpu_pool_size(m->dev->pool);
    size_t n = m->max_batch, q_dim = (size_t)c->n_heads * c->head_dim;
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;

    m->wrow_len = longest_row(c);
    m->seqs = calloc(m->max_seqs, sizeof(*m->seqs));
    m->seq_of = calloc(n, sizeof(*m->seq_of));
    m->fresh = (uint16_t *)(void *)bytes(2 * n, kv_dim * sizeof(*m->fresh));
    m->x = scratch(n, c->d_model);
    m->xb = scratch(n, c->d_model);
    m->q = scratch(n, q_dim);
    m->k = scratch(n, kv_dim);
    m->v = scratch(n, kv_dim);
    m->att = scratch(n, q_dim);
    m->gate = scratch(n, c->d_ff);
    m->up = scratch(n, c->d_ff);
    m->rope = scratch(n, c->rope_dim);
    m->scores = scratch(threads, (size_t)c->n_heads / c->n_kv_heads * CPU_SPAN);
    m->max_spans = c->n_ctx / CPU_SPAN + 1 > MIN_SPANS ? c->n_ctx / CPU_SPAN + 1 : MIN_SPANS;
    m->spans = calloc(m->max_spans, sizeof(*m->spans));
    m->span_out = scratch(m->max_spans, q_dim);
    m->span_log = scratch(m->max_spans, c->n_heads);
    m->wrow = scratch((size_t)FLOAT_ROWS * threads, m->wrow_len);
    if (!alloc_packed(m)) {
        return false;
    }
    return m->seqs && m->seq_of && m->fresh && m->x && m->xb && m->q && m->k && m->v &&
           m->att && m->gate && m->up && m->rope && m->scores && m->spans && m->span_out &&
           m->span_log && m->wrow;
}

static uint64_t cpu_page_bytes(const kern_device *dev, const kern_config *c)
{
    (void)dev;
    return 2 * sizeof(uint16_t) * KERN_PAGE * (uint64_t)c->n_layers * c->n_kv_heads *
           c->head_dim;
}

/* Only addresses; the memory comes with what is written. Pages of one sequence that follow each
 * other share large pages of the system. */
static bool alloc_pages(kern_model *m, uint32_t n_pages)
{
    void *p;

    m->page_size = cpu_page_bytes(m->dev, &m->config) / sizeof(*m->kv);
    if (__builtin_mul_overflow(m->page_size, n_pages, &m->kv_size) ||
        m->kv_size > SIZE_MAX / 2 / sizeof(*m->kv)) {
        return false;
    }
    if (n_pages == 0) {
        return true;
    }
    p = mmap(NULL, m->kv_size * sizeof(*m->kv), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    madvise(p, m->kv_size * sizeof(*m->kv), MADV_HUGEPAGE); /* a wish */
    m->kv = p;
    return true;
}

static double *frequencies(const kern_config *c, double base, const float *factors)
{
    double *freq = malloc(c->rope_dim / 2 * sizeof(*freq));

    for (uint32_t i = 0; freq != NULL && i < c->rope_dim / 2; i++) {
        freq[i] = pow(base, -2.0 * i / c->rope_dim);
        freq[i] /= factors != NULL ? factors[i] : 1;
    }
    return freq;
}

/* What is 0 for the usual becomes that. */
static void set_scales(kern_config *c)
{
    c->rope_scale = c->rope_scale > 0 ? c->rope_scale : 1;
    c->embed_scale = c->embed_scale > 0 ? c->embed_scale : 1;
    c->attn_scale = c->attn_scale > 0 ? c->attn_scale : 1.0f / sqrtf((float)c->head_dim);
}

static bool init_model(kern_model *m, const kern_weights *weights)
{
    kern_config *c = &m->config;

    set_scales(c);
    m->layers = malloc(c->n_layers * sizeof(*m->layers));
    m->rope_freq = frequencies(c, c->rope_base, weights->rope_factors);
    if (m->layers == NULL || m->rope_freq == NULL || !alloc_state(m)) {
        return false;
    }
    if (c->rope_base_near > 0) {
        m->rope_freq_near = frequencies(c, c->rope_base_near, NULL);
        m->rope_near = scratch(m->max_batch, c->rope_dim);
        if (m->rope_freq_near == NULL || m->rope_near == NULL) {
            return false;
        }
    }
    memcpy(m->layers, weights->layers, c->n_layers * sizeof(*m->layers));
    m->weights.layers = m->layers;
    return true;
}

static kern_model *cpu_model_load(kern_device *dev, const kern_config *config,
                                  const kern_weights *weights, uint32_t max_batch,
                                  uint32_t max_seqs, uint32_t n_pages)
{
    kern_model *m = calloc(1, sizeof(*m));

    assert(config->n_kv_heads > 0 && config->n_heads % config->n_kv_heads == 0);
    assert(config->rope_dim % 2 == 0 && config->rope_dim <= config->head_dim);
    dev->error = "out of memory for the model's state";
    if (m == NULL) {
        return NULL;
    }
    m->dev = dev;
    m->config = *config;
    m->weights = *weights;
    m->max_batch = max_batch;
    m->max_seqs = max_seqs;
    if (!init_model(m, weights) || !alloc_pages(m, n_pages)) {
        cpu_model_free(m);
        return NULL;
    }
    dev->error = "";
    return m;
}

static float *cpu_out_alloc(kern_device *dev, uint64_t n)
{
    dev->error = "out of memory for results";
    return n <= SIZE_MAX / sizeof(float) ? malloc(n * sizeof(float)) : NULL;
}

static void cpu_out_free(kern_device *dev, float *out)
{
    (void)dev;
    free(out);
}

const aiq_kernels aiq_kernels_cpu = {
    .abi = AIQ_KERNELS_ABI,
    .name = "cpu",
    .batch_tokens = 256,
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .page_bytes = cpu_page_bytes,
    .model_load = cpu_model_load,
    .model_free = cpu_model_free,
    .out_alloc = cpu_out_alloc,
    .out_free = cpu_out_free,
    .step = cpu_step,
    .rows_load = cpu_rows_load,
    .rows_free = cpu_rows_free,
    .topk = cpu_topk,
    .encode = cpu_encode,
    .last_error = cpu_last_error,
};
