/*
 * The CPU back end against a float64 model that is written for reading: two layers, width 256,
 * 4 heads on 2, vocabulary 512, seeded weights of every type. Beside that the promises of the
 * header: how a prompt is cut, who else is in the batch and which pages a sequence has change
 * nothing, to the last bit.
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

enum {
    LAYERS = 2,
    D = 256,
    FF = 512,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD = 64,
    VOCAB = 512,
    CTX = 48,
    OF_CTX = CTX / KERN_PAGE,
    PAGES = 14 * OF_CTX,
    N_MATRICES = 2 + LAYERS * 7
};

static const kern_config config = {
    .n_layers = LAYERS,
    .d_model = D,
    .d_ff = FF,
    .n_heads = HEADS,
    .n_kv_heads = KV_HEADS,
    .head_dim = HEAD,
    .rope_dim = HEAD,
    .n_vocab = VOCAB,
    .n_ctx = CTX,
    .rope_base = 10000.0f,
    .norm_eps = 1e-5f,
};

typedef struct {
    kern_config config;
    kern_weights w;
    kern_layer layers[LAYERS];
    float biases[LAYERS][3][HEADS * HEAD];
    float head_norms[LAYERS][2][HEAD];
    float norms[4 * LAYERS + 1][D];
    float factors[HEAD / 2];
    void *owned[N_MATRICES];
    double *values[N_MATRICES]; /* of the same, for the reference */
    int n_owned;
    uint64_t seed;
} fixture;

static kern_tensor random_matrix(fixture *f, kern_type type, uint32_t rows, uint32_t cols)
{
    kern_tensor w = ref_tensor(type, rows, cols, &f->seed);
    double *v = malloc(sizeof(*v) * rows * cols);

    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        const uint8_t *row = (const uint8_t *)w.data + i / cols * cpu_row_bytes(type, cols);

        v[i] = ref_weight(type, row, i % cols);
    }
    f->values[f->n_owned] = v;
    f->owned[f->n_owned++] = (void *)w.data;
    return w;
}

static const float *random_norm(fixture *f, int i)
{
    for (int d = 0; d < D; d++) {
        f->norms[i][d] = 1 + 0.3f * (float)ref_uniform(&f->seed);
    }
    return f->norms[i];
}

static fixture *make_model(kern_type type, uint64_t seed)
{
    fixture *f = calloc(1, sizeof(*f));

    f->seed = seed;
    f->config = config;
    f->w.embed = random_matrix(f, type, VOCAB, D);
    f->w.out = random_matrix(f, type, VOCAB, D);
    f->w.out_norm = random_norm(f, 2 * LAYERS);
    f->w.layers = f->layers;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l] = (kern_layer){
            .attn_norm = random_norm(f, 2 * l),
            .wq = random_matrix(f, type, HEADS * HEAD, D),
            .wk = random_matrix(f, type, KV_HEADS * HEAD, D),
            .wv = random_matrix(f, type, KV_HEADS * HEAD, D),
            .wo = random_matrix(f, type, D, HEADS * HEAD),
            .ffn_norm = random_norm(f, 2 * l + 1),
            .w_gate = random_matrix(f, type, FF, D),
            .w_up = random_matrix(f, type, FF, D),
            .w_down = random_matrix(f, type, D, FF),
        };
    }
    return f;
}

/* What other architectures have. */
static void add_biases_and_norms(fixture *f)
{
    f->config.rope_halves = true;
    f->config.rope_dim = HEAD - 8;
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < HEADS * HEAD; i++) {
            for (int j = 0; j < 3; j++) {
                f->biases[l][j][i] = (float)ref_uniform(&f->seed);
            }
        }
        for (int i = 0; i < HEAD; i++) {
            for (int j = 0; j < 2; j++) {
                f->head_norms[l][j][i] = 1 + 0.3f * (float)ref_uniform(&f->seed);
            }
        }
        f->layers[l].bq = f->biases[l][0];
        f->layers[l].bk = f->biases[l][1];
        f->layers[l].bv = f->biases[l][2];
        f->layers[l].q_norm = f->head_norms[l][0];
        f->layers[l].k_norm = f->head_norms[l][1];
    }
}

/* Scales, GEGLU, norms after a block; a window in the first layer, with positions of its own.
 */
static void make_it_gemma(fixture *f)
{
    f->config.rope_base_near = 300;
    f->config.rope_scale = 1.1f;
    f->config.embed_scale = 3;
    f->config.attn_scale = 0.2f;
    f->config.gelu = true;
    for (int i = 0; i < HEAD / 2; i++) {
        f->factors[i] = 1 + (float)i / 8;
    }
    f->w.rope_factors = f->factors;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l].attn_post = random_norm(f, 2 * LAYERS + 1 + 2 * l);
        f->layers[l].ffn_post = random_norm(f, 2 * LAYERS + 2 + 2 * l);
    }
    f->layers[0].window = 20;
}

static void free_model(fixture *f)
{
    for (int i = 0; i < f->n_owned; i++) {
        free(f->owned[i]);
        free(f->values[i]);
    }
    free(f);
}

/* --- the reference: float64, one token at a time --- */

static const double *values(const fixture *f, const kern_tensor *w)
{
    int i = 0;

    while (f->owned[i] != w->data) {
        i++;
    }
    return f->values[i];
}

static void ref_matvec(const fixture *f, double *y, const kern_tensor *w, const double *x)
{
    const double *v = values(f, w);

    for (uint32_t r = 0; r < w->rows; r++) {
        y[r] = 0;
        for (uint32_t c = 0; c < w->cols; c++) {
            y[r] += v[(size_t)r * w->cols + c] * x[c];
        }
    }
}

static void ref_norm(double *y, const double *x, const float *weights, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    for (int i = 0; i < n; i++) {
        y[i] = x[i] / sqrt(sum / n + config.norm_eps) * weights[i];
    }
}

/* 0: the usual */
static double or_else(float v, double usual)
{
    return v > 0 ? (double)v : usual;
}

static double ref_capped(double x, float cap)
{
    return cap > 0 ? cap * tanh(x / cap) : x;
}

static void ref_rope(const fixture *f, bool near, double *x, int heads, int pos)
{
    const kern_config *c = &f->config;
    int n = (int)c->rope_dim;
    double base = near ? c->rope_base_near : c->rope_base;
    double scale = near ? 1 : or_else(c->rope_scale, 1);

    for (int i = 0; i < heads * n / 2; i++) {
        double divisor = near || f->w.rope_factors == NULL ? 1 : f->factors[i % (n / 2)];
        double angle = pos * pow(base, -2.0 * (i % (n / 2)) / n) / divisor;
        double *p = x + i / (n / 2) * HEAD + i % (n / 2) * (c->rope_halves ? 1 : 2);
        double *q = p + (c->rope_halves ? n / 2 : 1), a = *p, b = *q;

        *p = (a * cos(angle) - b * sin(angle)) * scale;
        *q = (a * sin(angle) + b * cos(angle)) * scale;
    }
}

/* What comes between a product and attention. */
static void ref_prepare(double *x, int heads, const float *bias, const float *norm)
{
    for (int i = 0; i < heads * HEAD && bias != NULL; i++) {
        x[i] += bias[i];
    }
    for (int h = 0; h < heads && norm != NULL; h++) {
        ref_norm(x + h * HEAD, x + h * HEAD, norm, HEAD);
    }
}

typedef struct {
    double k[LAYERS][CTX][KV_HEADS * HEAD];
    double v[LAYERS][CTX][KV_HEADS * HEAD];
} ref_kv;

static void ref_keep(double *x)
{
    for (int i = 0; i < KV_HEADS * HEAD; i++) {
        x[i] = ref_round_f16(x[i]);
    }
}

static void ref_attention(const fixture *f, double *out, const double *q, const ref_kv *kv,
                          int layer, int pos)
{
    int window = (int)f->layers[layer].window, first = window > 0 ? pos + 1 - window : 0;

    first = first > 0 ? first : 0;
    for (int h = 0; h < HEADS; h++) {
        int g = h / (HEADS / KV_HEADS) * HEAD;
        double s[CTX], max = -INFINITY, sum = 0;

        for (int t = first; t <= pos; t++) {
            s[t] = 0;
            for (int i = 0; i < HEAD; i++) {
                s[t] += q[h * HEAD + i] * kv->k[layer][t][g + i];
            }
            s[t] = ref_capped(s[t] * or_else(f->config.attn_scale, 1 / sqrt(HEAD)),
                              f->config.attn_cap);
            max = fmax(max, s[t]);
        }
        for (int t = first; t <= pos; t++) {
            sum += s[t] = exp(s[t] - max);
        }
        for (int i = 0; i < HEAD; i++) {
            out[h * HEAD + i] = 0;
            for (int t = first; t <= pos; t++) {
                out[h * HEAD + i] += s[t] / sum * kv->v[layer][t][g + i];
            }
        }
    }
}

static void ref_gate(const fixture *f, double *gate, const double *up)
{
    for (int i = 0; i < FF; i++) {
        double x = gate[i], odd = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);

        gate[i] = (f->config.gelu ? x / 2 * (1 + tanh(odd)) : x / (1 + exp(-x))) * up[i];
    }
}

static void ref_add(double *x, double *y, const float *post)
{
    if (post != NULL) {
        ref_norm(y, y, post, D);
    }
    for (int i = 0; i < D; i++) {
        x[i] += y[i];
    }
}

static void ref_forward(const fixture *f, ref_kv *kv, int id, int pos, double *logits)
{
    double x[D], xb[D], q[HEADS * HEAD], att[HEADS * HEAD], y[D], gate[FF], up[FF];

    for (uint32_t i = 0; i < D; i++) {
        x[i] = values(f, &f->w.embed)[(uint32_t)id * D + i] * or_else(f->config.embed_scale, 1);
    }
    for (int l = 0; l < LAYERS; l++) {
        const kern_layer *w = &f->layers[l];
        bool near = w->window > 0 && f->config.rope_base_near > 0;

        ref_norm(xb, x, w->attn_norm, D);
        ref_matvec(f, q, &w->wq, xb);
        ref_matvec(f, kv->k[l][pos], &w->wk, xb);
        ref_matvec(f, kv->v[l][pos], &w->wv, xb);
        ref_prepare(q, HEADS, w->bq, w->q_norm);
        ref_prepare(kv->k[l][pos], KV_HEADS, w->bk, w->k_norm);
        ref_prepare(kv->v[l][pos], KV_HEADS, w->bv, NULL);
        ref_rope(f, near, q, HEADS, pos);
        ref_rope(f, near, kv->k[l][pos], KV_HEADS, pos);
        ref_keep(kv->k[l][pos]);
        ref_keep(kv->v[l][pos]);
        ref_attention(f, att, q, kv, l, pos);
        ref_matvec(f, y, &w->wo, att);
        ref_add(x, y, w->attn_post);
        ref_norm(xb, x, w->ffn_norm, D);
        ref_matvec(f, gate, &w->w_gate, xb);
        ref_matvec(f, up, &w->w_up, xb);
        ref_gate(f, gate, up);
        ref_matvec(f, y, &w->w_down, gate);
        ref_add(x, y, w->ffn_post);
    }
    ref_norm(xb, x, f->w.out_norm, D);
    ref_matvec(f, logits, &f->w.out, xb);
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = ref_capped(logits[i], f->config.logit_cap);
    }
}

/* --- the tests --- */

static const aiq_kernels *const K = &aiq_kernels_cpu;

static void random_ids(int32_t *ids, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) {
        ids[i] = (int32_t)(fabs(ref_uniform(&seed)) * (VOCAB - 1));
    }
}

/* Runs ids through m in pieces of at most chunk tokens; logits of the last. */
static void run_in_pages(kern_model *m, const uint32_t *pages, const int32_t *ids, uint32_t n,
                         uint32_t chunk, float *logits)
{
    for (uint32_t pos = 0; pos < n; pos += chunk) {
        kern_seq s = {.pages = pages, .ids = ids + pos, .pos = pos};

        s.n = n - pos < chunk ? n - pos : chunk;
        s.n_logits = pos + s.n == n;
        assert_true(K->step(m, &s, 1, logits));
    }
}

/* The i-th sequence's pages where they are dealt out in order. */
static const uint32_t *own_pages(uint32_t i)
{
    static uint32_t pages[PAGES];

    for (uint32_t p = 0; p < PAGES; p++) {
        pages[p] = p;
    }
    return pages + i * OF_CTX;
}

static void run_chunks(kern_model *m, const int32_t *ids, uint32_t n, uint32_t chunk,
                       float *logits)
{
    run_in_pages(m, own_pages(0), ids, n, chunk, logits);
}

/*
 * How far logits may be from float64's, as a share of their root mean square. Where weights
 * are packed, activations are rounded, too, to eight bits or to bf16: 0.6 % and 0.3 % in each
 * product (test_kernels_ops.c), which this model of noise makes larger from layer to layer.
 * Where they are not, it is keys and values that lie in the middle between two f16, and go one
 * way here and the other there.
 */
static double tolerance(const cpu_ops *ops, kern_type type)
{
    bool rounded = ops->tiles != NULL && ops->tiles->from[type] > 0 && type != KERN_F16;

    rounded |= ops->integers != NULL && ops->integers->rows[type] != NULL;
    return rounded ? 0.06 : 3e-4;
}

static void check_against_reference(const fixture *f, const double *ref, kern_type type,
                                    const int32_t *ids, const cpu_ops *ops, uint32_t chunk)
{
    kern_device *dev = K->open(0, 2);
    kern_model *m;
    double scale = 0, error = 0;
    float logits[VOCAB];

    dev->ops = ops;
    m = K->model_load(dev, &f->config, &f->w, CTX, 1, PAGES);
    run_chunks(m, ids, CTX, chunk, logits);
    for (int i = 0; i < VOCAB; i++) {
        scale += ref[i] * ref[i];
        error += (ref[i] - (double)logits[i]) * (ref[i] - (double)logits[i]);
    }
    if (!(sqrt(error / scale) <= tolerance(ops, type))) {
        fail_msg("%s, %s, %u tokens at once: off by %g", ops->name, ref_type_name[type], chunk,
                 sqrt(error / scale));
    }
    K->model_free(m);
    K->close(dev);
}

static void check_all_ways(const fixture *f, kern_type type)
{
    ref_kv *kv = calloc(1, sizeof(*kv));
    double ref[VOCAB];
    int32_t ids[CTX];

    random_ids(ids, CTX, 1);
    for (int i = 0; i < CTX; i++) {
        ref_forward(f, kv, ids[i], i, ref);
    }
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        check_against_reference(f, ref, type, ids, *ops, CTX);
        check_against_reference(f, ref, type, ids, *ops, 1);
    }
    free(kv);
}

static void logits_equal_float64(void **state)
{
    (void)state;
    for (int type = 0; type < KERN_N_TYPES; type++) {
        fixture *f = make_model((kern_type)type, 7 + (uint64_t)type);

        check_all_ways(f, (kern_type)type);
        free_model(f);
    }
}

static void other_architectures(void **state)
{
    fixture *f = make_model(KERN_F32, 20);

    (void)state;
    add_biases_and_norms(f);
    check_all_ways(f, KERN_F32);
    free_model(f);
}

/* Without caps packed weights go through tiles, but for the layer whose window is exceeded. */
static void windows_and_caps(void **state)
{
    static const kern_type types[] = {KERN_F32, KERN_Q8_0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        fixture *f = make_model(types[i % 2], 30);

        make_it_gemma(f);
        if (i >= 2) {
            f->config.attn_cap = 5;
            f->config.logit_cap = 3;
        }
        check_all_ways(f, types[i % 2]);
        free_model(f);
    }
}

static kern_device *open_with(const cpu_ops *ops, uint32_t threads)
{
    kern_device *dev = K->open(0, threads);

    dev->ops = ops;
    return dev;
}

/* To the last bit, but for the tiles, which only large pieces go through. */
static void prompt_cuts_change_nothing(void **state)
{
    fixture *f = make_model(KERN_Q8_0, 3);
    int32_t ids[CTX];
    float whole[VOCAB], cut[VOCAB];

    (void)state;
    random_ids(ids, CTX, 5);
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        kern_device *dev = open_with(*ops, 1);
        kern_model *m = K->model_load(dev, &f->config, &f->w, CTX, 1, PAGES);
        uint32_t first = (*ops)->int_tiles != NULL ? 16 : 1;

        /* in tiles the pieces are large, and so is the last */
        run_chunks(m, ids, CTX, first == 1 ? CTX : 24, whole);
        for (uint32_t chunk = first; chunk < CTX; chunk += first == 1 ? 7 : 8) {
            run_chunks(m, ids, CTX, chunk, cut);
            if (CTX % chunk == 0 || first == 1) {
                assert_memory_equal(whole, cut, sizeof(whole));
            }
        }
        K->model_free(m);
        K->close(dev);
    }
    free_model(f);
}

/* Steps all sequences' ids at once, then writes the logits of the first to out. */
static void run_together(kern_model *m, int32_t ids[][CTX], const uint32_t *lens, uint32_t n,
                         float *out)
{
    kern_seq *seqs = calloc(n, sizeof(*seqs));
    float *logits = malloc(sizeof(*logits) * n * VOCAB);

    for (uint32_t s = 0; s < n; s++) {
        seqs[s] = (kern_seq){.pages = own_pages(s), .ids = ids[s], .n = lens[s], .n_logits = 1};
    }
    assert_true(K->step(m, seqs, n, logits));
    memcpy(out, logits, sizeof(*logits) * n * VOCAB);
    free(seqs);
    free(logits);
}

/*
 * To the last bit wherever there is one way to multiply the weights; where there are several,
 * for whoever is in steps of the same: of 23 and 43 tokens, of 49 and 80.
 */
static void company_changes_nothing(void **state)
{
    enum { SEQS = 9 };
    static const uint32_t lens[SEQS] = {1, 7, 12, 3, 20, 2, 4, 1, 30};
    static const uint32_t part[][2] = {{4, 5}, {7, SEQS}};
    static const kern_type types[] = {KERN_F16, KERN_Q4_K};
    static float one[VOCAB], few[SEQS][VOCAB], all[SEQS][VOCAB];
    int32_t ids[SEQS][CTX];

    (void)state;
    for (uint32_t s = 0; s < SEQS; s++) {
        random_ids(ids[s], CTX, 100 + s);
    }
    for (int i = 0; i < 2; i++) {
        fixture *f = make_model(types[i], 4);

        for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
            bool several_ways = (*ops)->int_tiles != NULL && types[i] != KERN_F16;
            kern_device *dev = open_with(*ops, 3);
            kern_model *m = K->model_load(dev, &f->config, &f->w, 2 * CTX, SEQS, PAGES);

            for (int p = 0; p < 2; p++) {
                run_together(m, ids, lens, part[p][0], few[0]);
                run_together(m, ids, lens, part[p][1], all[0]);
                assert_memory_equal(few, all, part[p][0] * sizeof(*few));
            }
            for (uint32_t s = 0; s < SEQS && !several_ways; s++) {
                run_together(m, ids + s, lens + s, 1, one);
                assert_memory_equal(one, all[s], sizeof(one));
            }
            K->model_free(m);
            K->close(dev);
        }
        free_model(f);
    }
}

/* Tiles take 512 tokens at a time: a step of 667 equals two of half of them. Logits of seven
 * tokens are still made in tiles. */
static void blocks_of_tokens_change_nothing(void **state)
{
    enum { SEQS = 14 };
    static float few[SEQS][VOCAB], all[SEQS][VOCAB];
    uint32_t lens[SEQS];
    int32_t ids[SEQS][CTX];
    fixture *f = make_model(KERN_BF16, 6);

    (void)state;
    for (uint32_t s = 0; s < SEQS; s++) {
        random_ids(ids[s], CTX, 200 + s);
        lens[s] = s == SEQS - 1 ? CTX - 5 : CTX;
    }
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        kern_device *dev = open_with(*ops, 2);
        kern_model *m = K->model_load(dev, &f->config, &f->w, SEQS * CTX, SEQS, PAGES);

        run_together(m, ids, lens, SEQS, all[0]);
        for (uint32_t s = 0; s < SEQS; s += SEQS / 2) {
            run_together(m, ids + s, lens + s, SEQS / 2, few[s]);
        }
        assert_memory_equal(few, all, sizeof(all));
        K->model_free(m);
        K->close(dev);
    }
    free_model(f);
}

/* Pages in any order, full of what others left in them, and two sequences with one beginning.
 */
static void pages_change_nothing(void **state)
{
    static const uint32_t order[] = {PAGES - 1, 4, 7}, shared[] = {PAGES - 1, 4, 0};
    static const kern_type types[] = {KERN_F32, KERN_Q8_0};
    float want[VOCAB], got[VOCAB];
    int32_t ids[CTX], others[CTX];

    (void)state;
    random_ids(ids, CTX, 13);
    random_ids(others, CTX, 14);
    for (int i = 0; i < 2; i++) {
        fixture *f = make_model(types[i], 15);

        for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
            kern_device *dev = open_with(*ops, 2);
            kern_model *m = K->model_load(dev, &f->config, &f->w, CTX, 1, PAGES);

            for (uint32_t chunk = 1; chunk <= CTX; chunk += CTX - 1) {
                kern_seq last = {.pages = shared, .ids = ids + 32, .n = 16, .pos = 32};

                run_chunks(m, ids, CTX, chunk, want);
                run_in_pages(m, order, others, CTX, CTX, got);
                run_in_pages(m, order, ids, CTX, chunk, got);
                assert_memory_equal(want, got, sizeof(want));
                last.n_logits = 1;
                assert_true(K->step(m, &last, 1, got));
                assert_true(chunk == 1 || memcmp(want, got, sizeof(want)) == 0);
            }
            K->model_free(m);
            K->close(dev);
        }
        free_model(f);
    }
}

/* Of the last tokens of a part as many as are asked for, in their order. */
static void logits_of_several_tokens(void **state)
{
    enum { LAST = 5 };
    fixture *f = make_model(KERN_F32, 16);
    static float all[2 * LAST][VOCAB], one[VOCAB];
    int32_t ids[2][CTX];

    (void)state;
    random_ids(ids[0], CTX, 17);
    random_ids(ids[1], CTX, 18);
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        kern_device *dev = open_with(*ops, 2);
        kern_model *m = K->model_load(dev, &f->config, &f->w, 2 * CTX, 3, PAGES);
        kern_seq s[3] = {
            {.pages = own_pages(0), .ids = ids[0], .n = CTX, .n_logits = LAST},
            {.pages = own_pages(1), .ids = ids[1], .n = 3},
            {.pages = own_pages(2), .ids = ids[1], .n = LAST, .n_logits = LAST},
        };

        assert_true(K->step(m, s, 3, all[0]));
        for (uint32_t i = 0; i < LAST; i++) {
            run_chunks(m, ids[0], CTX - LAST + 1 + i, CTX, one);
            assert_memory_equal(one, all[i], sizeof(one));
            run_chunks(m, ids[1], i + 1, CTX, one);
            assert_memory_equal(one, all[LAST + i], sizeof(one));
        }
        K->model_free(m);
        K->close(dev);
    }
    free_model(f);
}

static void threads_change_nothing(void **state)
{
    fixture *f = make_model(KERN_F32, 6);
    int32_t ids[CTX];
    float one[VOCAB], many[VOCAB];

    (void)state;
    random_ids(ids, CTX, 9);
    for (uint32_t threads = 1; threads <= 4; threads++) {
        kern_device *dev = K->open(0, threads);
        kern_model *m = K->model_load(dev, &f->config, &f->w, CTX, 1, PAGES);

        run_chunks(m, ids, CTX, CTX, threads == 1 ? one : many);
        if (threads > 1) {
            assert_memory_equal(one, many, sizeof(one));
        }
        K->model_free(m);
        K->close(dev);
    }
    free_model(f);
}

/* Lengths that are no multiple of a vector, every version against the plain one. */
static void vector_tails(void **state)
{
    float a[4 * 100], b[4 * 100], y[100], yy[100], out[4][4];
    uint64_t seed = 11;

    (void)state;
    for (int i = 0; i < 400; i++) {
        b[i] = (float)ref_uniform(&seed);
        a[i] = (float)ref_uniform(&seed);
    }
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (size_t n = 1; n <= 100; n++) {
            (*o)->dot4x4(out, a, b, n);
            for (size_t j = 0; j < 16; j++) {
                const float *w = a + j / 4 * n, *x = b + j % 4 * n;

                assert_float_equal(out[j / 4][j % 4], cpu_ops_plain.dot(w, x, n), 1e-4f);
                assert_true(out[j / 4][j % 4] == (*o)->dot(w, x, n));
            }
            memcpy(y, b, sizeof(y));
            memcpy(yy, b, sizeof(yy));
            (*o)->axpy(y, 0.5f, a, n);
            cpu_ops_plain.axpy(yy, 0.5f, a, n);
            for (size_t i = 0; i < 100; i++) {
                assert_float_equal(y[i], yy[i], 1e-6f);
            }
        }
    }
}

/* Within the rounding of a product and a difference as large as the block's largest weight. */
static void same_weights(const cpu_ops *ops, kern_type type, const uint8_t *row,
                         const float *got, size_t cols)
{
    double want[256], largest;

    for (size_t block = 0; block < cols; block += 256) {
        largest = 0;
        for (size_t i = 0; i < 256; i++) {
            want[i] = ref_weight(type, row, block + i);
            largest = isfinite(want[i]) ? fmax(largest, fabs(want[i])) : largest;
        }
        for (size_t i = 0; i < 256; i++) {
            float g = got[block + i];

            if (isfinite(want[i]) ? !(fabs(want[i] - g) <= 1e-6 * largest) : isfinite(g)) {
                fail_msg("%s %s, weight %zu: %g, not %g", ops->name, ref_type_name[type],
                         block + i, g, want[i]);
            }
        }
    }
}

/* Rows of random bits, and of random bits with random scales: the same number or the same
 * lack of one. */
static void rows_equal_their_layout(void **state)
{
    enum { COLS = 1024, ROWS = 40 };
    uint8_t row[COLS * 4];
    float got[COLS];
    uint64_t seed = 12;

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int i = 0; i < ROWS * KERN_N_TYPES; i++) {
            kern_type type = (kern_type)(i % KERN_N_TYPES);

            if (type == KERN_F32) {
                continue;
            }
            ref_fill_row(type, row, COLS, &seed);
            for (size_t j = 0; i >= ROWS * KERN_N_TYPES / 2 && j < sizeof(row); j++) {
                row[j] = (uint8_t)(int8_t)(ref_uniform(&seed) * 127.9);
            }
            (*o)->row[type](got, row, COLS);
            same_weights(*o, type, row, got, COLS);
        }
    }
}

/* Rows of any length, and not a value behind them; their dots are those of their floats. */
static void rows_end_where_they_end(void **state)
{
    const kern_type types[] = {KERN_F16, KERN_BF16};
    uint8_t row[2 * 40];
    float got[41], want[41], x[40];
    uint64_t seed = 13;

    (void)state;
    ref_fill_row(KERN_F16, row, 40, &seed);
    for (size_t i = 0; i < 40; i++) {
        x[i] = (float)ref_uniform(&seed);
    }
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (size_t n = 1; n <= 80; n++) {
            kern_type type = types[n % 2];

            for (size_t i = 0; i < 41; i++) {
                got[i] = want[i] = -1;
            }
            (*o)->row[type](got, row, n / 2);
            cpu_ops_plain.row[type](want, row, n / 2);
            assert_memory_equal(got, want, sizeof(got));
            if ((*o)->dot_row[type] != NULL) {
                assert_true((*o)->dot_row[type](row, x, n / 2) == (*o)->dot(want, x, n / 2));
            }
        }
    }
}

static void every_f16_value(void **state)
{
    uint16_t all[65536];
    float *got = malloc(sizeof(float) * 65536);

    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        all[i] = (uint16_t)i;
    }
    assert_true(cpu_f16_to_f32(0x3c00) == 1.0f);
    assert_true(cpu_f16_to_f32(0xc001) == -2.001953125f);
    assert_true(cpu_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(isinf(cpu_f16_to_f32(0x7c00)));
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        (*o)->row[KERN_F16](got, (const uint8_t *)all, 65536);
        for (uint32_t i = 0; i < 65536; i++) {
            float want = cpu_f16_to_f32((uint16_t)i);

            assert_true(isnan(want) ? isnan(got[i])
                                    : want == got[i] && signbit(want) == signbit(got[i]));
        }
    }
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_equal_float64),
        cmocka_unit_test(other_architectures),
        cmocka_unit_test(windows_and_caps),
        cmocka_unit_test(prompt_cuts_change_nothing),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(blocks_of_tokens_change_nothing),
        cmocka_unit_test(pages_change_nothing),
        cmocka_unit_test(logits_of_several_tokens),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(vector_tails),
        cmocka_unit_test(rows_equal_their_layout),
        cmocka_unit_test(rows_end_where_they_end),
        cmocka_unit_test(every_f16_value),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
