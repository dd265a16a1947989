/*
 * Tokens that attend by themselves, in spans of keys, against float64: every number of heads
 * that share keys, contexts of one span and of several, windows that begin within a page or a
 * span. Company, threads and pages change nothing, to the last bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/aiq_kernels.h"
#include "kernels/cpu/cpu.h"
#include "quant_ref.h"

enum { CTX = 704, ROWS = 400, OF_CTX = CTX / KERN_PAGE, SEQS = 9 };

typedef struct {
    uint32_t heads, kv_heads, dim, window;
    float cap;
    bool encoder;
} shape;

static const shape shapes[] = {
    {.heads = 8, .kv_heads = 1, .dim = 64},
    {.heads = 14, .kv_heads = 2, .dim = 16},
    {.heads = 4, .kv_heads = 1, .dim = 128, .window = 300},
    {.heads = 6, .kv_heads = 2, .dim = 40, .cap = 2},
    {.heads = 4, .kv_heads = 2, .dim = 20, .window = 1},
    {.heads = 3, .kv_heads = 3, .dim = 72, .window = 37, .cap = 3},
    {.heads = 5, .kv_heads = 1, .dim = 24, .window = 256},
    {.heads = 4, .kv_heads = 4, .dim = 16, .encoder = true},
};

enum { SHAPES = sizeof(shapes) / sizeof(*shapes) };

static const cpu_sequence in_pages[SEQS] = {
    {.pos = 0, .n = 1},   {.pos = 15, .n = 1},  {.pos = 16, .n = 2},
    {.pos = 254, .n = 3}, {.pos = 257, .n = 1}, {.pos = 511, .n = 2},
    {.pos = 690, .n = 1}, {.pos = 40, .n = 20}, {.pos = 600, .n = 20},
};
static const cpu_sequence texts[SEQS] = {{.n = 1},  {.n = 16}, {.n = 17}, {.n = 3},  {.n = 5},
                                         {.n = 20}, {.n = 2},  {.n = 9},  {.n = 300}};

typedef struct {
    kern_device *dev;
    kern_model *m;
    cpu_attending in;
    uint32_t pages[SEQS][OF_CTX];
} fixture;

static void random_floats(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)ref_uniform(&seed);
    }
}

/* A model of which nothing is used but what attention works on. */
static fixture *load(const shape *s, const cpu_ops *ops, uint32_t threads)
{
    const kern_layer layer = {.window = s->window};
    const kern_weights weights = {.layers = &layer};
    const kern_config config = {
        .encoder = s->encoder,
        .n_layers = 1,
        .d_model = 16,
        .d_ff = 16,
        .n_heads = s->heads,
        .n_kv_heads = s->kv_heads,
        .head_dim = s->dim,
        .n_ctx = CTX,
        .attn_cap = s->cap,
    };
    fixture *f = calloc(1, sizeof(*f));
    size_t head = KERN_PAGE * s->dim;

    f->dev = aiq_kernels_cpu.open(0, threads);
    f->dev->ops = ops;
    f->m = aiq_kernels_cpu.model_load(f->dev, &config, &weights, ROWS, SEQS, SEQS * OF_CTX);
    assert_non_null(f->m);
    f->in = (cpu_attending){
        .keys = f->m->kv,
        .values = f->m->kv + head * s->kv_heads,
        .page_stride = f->m->page_size,
        .head_stride = head,
        .rope = f->m->rope,
    };
    if (s->encoder) {
        f->in.keys = f->m->fresh;
        f->in.values = f->m->fresh + (size_t)ROWS * s->dim * s->kv_heads;
        f->in.page_stride = head;
        f->in.head_stride = (size_t)ROWS * s->dim;
    }
    return f;
}

static void unload(fixture *f)
{
    aiq_kernels_cpu.model_free(f->m);
    aiq_kernels_cpu.close(f->dev);
    free(f);
}

/* The i-th sequence has its queries, and its keys and values before, from its number. */
static void set_sequence(fixture *f, const shape *s, uint32_t i, uint32_t row)
{
    kern_model *m = f->m;
    size_t q_dim = (size_t)s->heads * s->dim, kv_dim = (size_t)s->kv_heads * s->dim;
    cpu_sequence *seq = &m->seqs[f->in.n_seqs];
    uint64_t seed = 100 + i;

    *seq = s->encoder ? texts[i] : in_pages[i];
    seq->row = row;
    for (uint32_t p = 0; !s->encoder && p * KERN_PAGE < seq->pos + seq->n; p++) {
        uint16_t *page = m->kv + (size_t)(p * SEQS + i) * m->page_size;

        f->pages[i][p] = p * SEQS + i;
        for (size_t k = 0; k < m->page_size; k++) {
            page[k] = cpu_f32_to_f16((float)ref_uniform(&seed));
        }
    }
    seq->pages = s->encoder ? NULL : f->pages[i];
    random_floats(m->q + row * q_dim, seq->n * q_dim, 200 + i);
    random_floats(m->k + row * kv_dim, seq->n * kv_dim, 300 + i);
    random_floats(m->v + row * kv_dim, seq->n * kv_dim, 400 + i);
    for (uint32_t t = 0; t < seq->n; t++) {
        m->seq_of[row + t] = f->in.n_seqs;
    }
    f->in.n_seqs++;
    f->in.n_rows = row + seq->n;
}

/* Sequences from the first-th on. */
static void run(fixture *f, const shape *s, uint32_t first, uint32_t n)
{
    f->in.n_seqs = f->in.n_rows = 0;
    for (uint32_t i = first; i < first + n; i++) {
        set_sequence(f, s, i, f->in.n_rows);
    }
    cpu_attend_all(f->m, &f->in, 0);
}

/* --- float64 --- */

/* The d-th key, or value, of a token in a sequence. */
static double kept(const fixture *f, const shape *s, const uint16_t *base,
                   const cpu_sequence *seq, size_t head, size_t t, size_t d)
{
    size_t own = seq->pages == NULL ? seq->row * s->dim : 0;

    return cpu_f16_to_f32(
        base[head * f->in.head_stride + own + cpu_page_at(seq->pages, f->in.page_stride, t) +
             t % KERN_PAGE * s->dim + d]);
}

static void ref_head(const fixture *f, const shape *s, const cpu_sequence *seq, uint32_t token,
                     uint32_t head, double *out)
{
    const float *q = f->m->q + ((seq->row + token) * s->heads + head) * (size_t)s->dim;
    uint32_t end = s->encoder ? seq->n : seq->pos + token + 1,
             kv = head / (s->heads / s->kv_heads);
    uint32_t first = s->window > 0 && end > s->window ? end - s->window : 0;
    double share[CTX], sum = 0;

    for (uint32_t t = first; t < end; t++) {
        share[t] = 0;
        for (uint32_t d = 0; d < s->dim; d++) {
            share[t] += (double)q[d] * kept(f, s, f->in.keys, seq, kv, t, d);
        }
        share[t] = s->cap > 0 ? s->cap * tanh(share[t] / s->cap) : share[t];
        sum += share[t] = exp(share[t]);
    }
    for (uint32_t d = 0; d < s->dim; d++) {
        out[d] = 0;
        for (uint32_t t = first; t < end; t++) {
            out[d] += share[t] / sum * kept(f, s, f->in.values, seq, kv, t, d);
        }
    }
}

/* q is scaled already, by the operation itself. */
static void check(const fixture *f, const shape *s)
{
    double want[128], error = 0, size = 0;

    for (uint32_t i = 0; i < f->in.n_seqs; i++) {
        const cpu_sequence *seq = &f->m->seqs[i];

        for (uint32_t t = 0; t < seq->n; t += 1 + seq->n / 8) {
            for (uint32_t h = 0; h < s->heads; h++) {
                size_t at = ((seq->row + t) * s->heads + h) * (size_t)s->dim;

                ref_head(f, s, seq, t, h, want);
                for (uint32_t d = 0; d < s->dim; d++) {
                    error += pow(want[d] - (double)f->m->att[at + d], 2);
                    size += want[d] * want[d];
                }
            }
        }
    }
    if (!(sqrt(error / size) <= 2e-6)) {
        fail_msg("%s, heads %u of %u, %u wide, window %u: off by %g", f->dev->ops->name,
                 s->heads, s->kv_heads, s->dim, s->window, sqrt(error / size));
    }
}

/* --- the tests --- */

static void attention_equals_float64(void **state)
{
    (void)state;
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        for (int i = 0; i < SHAPES; i++) {
            fixture *f = load(&shapes[i], *ops, 2);

            run(f, &shapes[i], 0, SEQS);
            check(f, &shapes[i]);
            unload(f);
        }
    }
}

static void company_and_threads_change_nothing(void **state)
{
    (void)state;
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        for (int i = 0; i < SHAPES; i++) {
            const shape *s = &shapes[i];
            size_t q_dim = (size_t)s->heads * s->dim, row = 0;
            fixture *all = load(s, *ops, 3), *alone = load(s, *ops, 1);

            all->m->max_spans = 7; /* so that rows have to wait for room in the list */
            run(all, s, 0, SEQS);
            for (uint32_t k = 0; k < SEQS; k++) {
                run(alone, s, k, 1);
                assert_memory_equal(alone->m->att, all->m->att + row * q_dim,
                                    alone->in.n_rows * q_dim * sizeof(float));
                row += alone->in.n_rows;
            }
            unload(all);
            unload(alone);
        }
    }
}

/* A token of a piece, and the same by itself, whose keys and values are kept by then. */
static void cuts_change_nothing(void **state)
{
    enum { PIECE = SEQS - 1, TOKEN = 15 };

    (void)state;
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        for (int i = 0; i < SHAPES && !shapes[i].encoder; i++) {
            const shape *s = &shapes[i];
            size_t q_dim = (size_t)s->heads * s->dim, kv_dim = (size_t)s->kv_heads * s->dim;
            fixture *f = load(s, *ops, 2);
            kern_model *m = f->m;
            float want[1024];

            run(f, s, PIECE, 1);
            memcpy(want, m->att + TOKEN * q_dim, q_dim * sizeof(*want));
            random_floats(m->q, (TOKEN + 1) * q_dim, 200 + PIECE);
            memmove(m->q, m->q + TOKEN * q_dim, q_dim * sizeof(*want));
            memmove(m->k, m->k + TOKEN * kv_dim, kv_dim * sizeof(*want));
            memmove(m->v, m->v + TOKEN * kv_dim, kv_dim * sizeof(*want));
            m->seqs[0].pos += TOKEN;
            m->seqs[0].n = f->in.n_rows = 1;
            cpu_attend_all(m, &f->in, 0);
            assert_memory_equal(m->att, want, q_dim * sizeof(*want));
            unload(f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_equals_float64),
        cmocka_unit_test(company_and_threads_change_nothing),
        cmocka_unit_test(cuts_change_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
