/*
 * Whole texts through a model (encode), against float64: BERT's layers with learned positions
 * and GELU, those with rotary positions and gates, and a decoder's. Company changes nothing.
 * By every version of the CPU's operations, and by CUDA's sources, emulated.
 */
#include "unit.h"

#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer/devices.h"
#include "kernels/aiq_kernels.h"
#include "kernels/cpu/cpu.h"
#include "quant_ref.h"

enum {
    LAYERS = 2,
    D = 128,
    FF = 192,
    HEADS = 4,
    HEAD = 32,
    VOCAB = 200,
    CTX = 80,
    N_TEXTS = 4,
    BATCH = 160,
    MATRICES = 32,
    VECTORS = 64
};

static const uint32_t lens[N_TEXTS] = {33, 1, CTX, 7};

typedef enum { BERT, NOMIC, QWEN } family;
static const char *const family_name[] = {"bert", "nomic-bert", "qwen"};

typedef struct {
    kern_config config;
    kern_weights w;
    kern_layer layers[LAYERS];
    void *matrices[MATRICES];
    double *values[MATRICES]; /* of the same */
    int n_matrices;
    float vectors[VECTORS][FF];
    int n_vectors;
    uint64_t seed;
} fixture;

static kern_tensor matrix(fixture *f, kern_type type, uint32_t rows, uint32_t cols)
{
    kern_tensor w = ref_tensor(type, rows, cols, &f->seed);
    double *v = malloc(sizeof(*v) * rows * cols);

    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        v[i] = ref_weight(type, (const uint8_t *)w.data + i / cols * cpu_row_bytes(type, cols),
                          i % cols);
    }
    f->values[f->n_matrices] = v;
    f->matrices[f->n_matrices++] = (void *)w.data;
    return w;
}

static const float *vector(fixture *f, float middle)
{
    float *v = f->vectors[f->n_vectors++];

    for (int i = 0; i < FF; i++) {
        v[i] = middle + 0.3f * (float)ref_uniform(&f->seed);
    }
    return v;
}

static void add_layer(fixture *f, kern_layer *l, family kind, kern_type type)
{
    uint32_t kv_dim = f->config.n_kv_heads * HEAD;

    *l = (kern_layer){
        .attn_norm = vector(f, 1),
        .wq = matrix(f, type, HEADS * HEAD, D),
        .wk = matrix(f, type, kv_dim, D),
        .wv = matrix(f, type, kv_dim, D),
        .wo = matrix(f, type, D, HEADS * HEAD),
        .ffn_norm = vector(f, 1),
        .w_up = matrix(f, type, FF, D),
        .w_down = matrix(f, type, D, FF),
    };
    if (kind != BERT) {
        l->w_gate = matrix(f, type, FF, D);
    }
    if (kind != NOMIC) {
        l->bq = vector(f, 0);
        l->bk = vector(f, 0);
        l->bv = vector(f, 0);
    }
    if (kind == BERT) {
        l->bo = vector(f, 0);
        l->b_up = vector(f, 0);
        l->b_down = vector(f, 0);
    }
    if (kind != QWEN) {
        l->attn_norm_b = vector(f, 0);
        l->ffn_norm_b = vector(f, 0);
    } else {
        l->q_norm = vector(f, 1);
        l->k_norm = vector(f, 1);
    }
}

static fixture *make_model(family kind, kern_type type)
{
    fixture *f = calloc(1, sizeof(*f));

    f->seed = 11 + (uint64_t)type;
    f->config = (kern_config){
        .encoder = kind != QWEN,
        .n_layers = LAYERS,
        .d_model = D,
        .d_ff = FF,
        .n_heads = HEADS,
        .n_kv_heads = kind == QWEN ? HEADS / 2 : HEADS,
        .head_dim = HEAD,
        .rope_dim = kind == BERT ? 0 : HEAD,
        .rope_halves = true,
        .n_vocab = VOCAB,
        .n_ctx = CTX,
        .rope_base = 1000.0f,
        .norm_eps = 1e-5f,
    };
    f->w.embed = matrix(f, type, VOCAB, D);
    f->w.layers = f->layers;
    if (kind == QWEN) {
        f->w.out_norm = vector(f, 1);
    } else {
        f->w.segments = matrix(f, KERN_F32, 2, D);
        f->w.embed_norm = vector(f, 1);
        f->w.embed_norm_b = vector(f, 0);
    }
    if (kind == BERT) {
        f->w.positions = matrix(f, KERN_F32, CTX, D);
    }
    for (int l = 0; l < LAYERS; l++) {
        add_layer(f, &f->layers[l], kind, type);
    }
    return f;
}

static void free_model(fixture *f)
{
    for (int i = 0; i < f->n_matrices; i++) {
        free(f->matrices[i]);
        free(f->values[i]);
    }
    free(f);
}

/* --- the reference --- */

static const double *values(const fixture *f, const kern_tensor *w)
{
    int i = 0;

    while (f->matrices[i] != w->data) {
        i++;
    }
    return f->values[i];
}

/* y = w x + bias */
static void ref_product(const fixture *f, double *y, const kern_tensor *w, const double *x,
                        const float *bias)
{
    const double *v = values(f, w);

    for (uint32_t r = 0; r < w->rows; r++) {
        y[r] = bias != NULL ? (double)bias[r] : 0;
        for (uint32_t c = 0; c < w->cols; c++) {
            y[r] += v[(size_t)r * w->cols + c] * x[c];
        }
    }
}

/* LayerNorm where there is a bias, otherwise RMS norm. */
static void ref_norm(const fixture *f, double *y, const double *x, const float *weight,
                     const float *bias, int n)
{
    double mean = 0, square = 0;

    for (int i = 0; i < n && bias != NULL; i++) {
        mean += x[i] / n;
    }
    for (int i = 0; i < n; i++) {
        square += (x[i] - mean) * (x[i] - mean) / n;
    }
    for (int i = 0; i < n; i++) {
        y[i] = (x[i] - mean) / sqrt(square + (double)f->config.norm_eps) * (double)weight[i] +
               (bias != NULL ? (double)bias[i] : 0);
    }
}

static void ref_heads(const fixture *f, double *x, uint32_t heads, const float *norm, int pos)
{
    for (uint32_t h = 0; h < heads; h++, x += HEAD) {
        if (norm != NULL) {
            ref_norm(f, x, x, norm, NULL, HEAD);
        }
        for (int i = 0; i < (int)f->config.rope_dim / 2; i++) {
            double angle = pos * pow((double)f->config.rope_base, -2.0 * i / HEAD);
            double a = x[i], b = x[i + HEAD / 2];

            x[i] = a * cos(angle) - b * sin(angle);
            x[i + HEAD / 2] = a * sin(angle) + b * cos(angle);
        }
    }
}

typedef struct {
    double x[CTX][D], q[CTX][HEADS * HEAD], k[CTX][HEADS * HEAD], v[CTX][HEADS * HEAD];
} ref_text;

static void ref_attend(const fixture *f, const ref_text *r, double *out, uint32_t i, uint32_t n)
{
    uint32_t seen = f->config.encoder ? n : i + 1;

    for (uint32_t h = 0; h < HEADS; h++) {
        uint32_t g = h / (HEADS / f->config.n_kv_heads) * HEAD;
        double s[CTX], sum = 0;

        for (uint32_t t = 0; t < seen; t++) {
            s[t] = 0;
            for (uint32_t d = 0; d < HEAD; d++) {
                s[t] += r->q[i][h * HEAD + d] * r->k[t][g + d];
            }
            sum += s[t] = exp(s[t] / sqrt(HEAD));
        }
        for (uint32_t d = 0; d < HEAD; d++) {
            out[h * HEAD + d] = 0;
            for (uint32_t t = 0; t < seen; t++) {
                out[h * HEAD + d] += s[t] / sum * r->v[t][g + d];
            }
        }
    }
}

static void ref_ffn(const fixture *f, const kern_layer *w, double *y, const double *x)
{
    double up[FF], gate[FF];

    ref_product(f, up, &w->w_up, x, w->b_up);
    if (w->w_gate.data != NULL) {
        ref_product(f, gate, &w->w_gate, x, NULL);
    }
    for (int i = 0; i < FF; i++) {
        up[i] = w->w_gate.data != NULL ? gate[i] / (1 + exp(-gate[i])) * up[i]
                                       : up[i] * (1 + erf(up[i] / sqrt(2))) / 2;
    }
    ref_product(f, y, &w->w_down, up, w->b_down);
}

/* Keys and values are f16. */
static void ref_keep(double *x)
{
    for (int i = 0; i < HEADS * HEAD; i++) {
        x[i] = ref_round_f16(x[i]);
    }
}

static void ref_layer(const fixture *f, ref_text *r, const kern_layer *w, uint32_t n)
{
    bool encoder = f->config.encoder;
    double att[HEADS * HEAD], normed[D], y[D];

    for (uint32_t i = 0; i < n; i++) {
        memcpy(normed, r->x[i], sizeof(normed));
        if (!encoder) {
            ref_norm(f, normed, r->x[i], w->attn_norm, NULL, D);
        }
        ref_product(f, r->q[i], &w->wq, normed, w->bq);
        ref_product(f, r->k[i], &w->wk, normed, w->bk);
        ref_product(f, r->v[i], &w->wv, normed, w->bv);
        ref_heads(f, r->q[i], HEADS, w->q_norm, (int)i);
        ref_heads(f, r->k[i], f->config.n_kv_heads, w->k_norm, (int)i);
        ref_keep(r->k[i]);
        ref_keep(r->v[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        double *x = r->x[i];

        ref_attend(f, r, att, i, n);
        ref_product(f, y, &w->wo, att, w->bo);
        for (int d = 0; d < D; d++) {
            x[d] += y[d];
        }
        if (encoder) {
            ref_norm(f, x, x, w->attn_norm, w->attn_norm_b, D);
        }
        memcpy(normed, x, sizeof(normed));
        if (!encoder) {
            ref_norm(f, normed, x, w->ffn_norm, NULL, D);
        }
        ref_ffn(f, w, y, normed);
        for (int d = 0; d < D; d++) {
            x[d] += y[d];
        }
        if (encoder) {
            ref_norm(f, x, x, w->ffn_norm, w->ffn_norm_b, D);
        }
    }
}

static void ref_encode(const fixture *f, const kern_text *text, kern_pooling pooling,
                       double *out)
{
    ref_text *r = calloc(1, sizeof(*r));
    uint32_t n = text->n;

    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t d = 0; d < D; d++) {
            r->x[i][d] = values(f, &f->w.embed)[(uint32_t)text->ids[i] * D + d];
            r->x[i][d] += f->w.positions.data ? values(f, &f->w.positions)[i * D + d] : 0;
            r->x[i][d] += f->w.segments.data ? values(f, &f->w.segments)[d] : 0;
        }
        if (f->config.encoder) {
            ref_norm(f, r->x[i], r->x[i], f->w.embed_norm, f->w.embed_norm_b, D);
        }
    }
    for (int l = 0; l < LAYERS; l++) {
        ref_layer(f, r, &f->layers[l], n);
    }
    memset(out, 0, D * sizeof(*out));
    for (uint32_t i = 0; i < n; i++) {
        double share = pooling == KERN_POOL_MEAN    ? 1.0 / n
                       : pooling == KERN_POOL_FIRST ? i == 0
                                                    : i == n - 1;

        if (!f->config.encoder) {
            ref_norm(f, r->x[i], r->x[i], f->w.out_norm, NULL, D);
        }
        for (int d = 0; d < D; d++) {
            out[d] += share * r->x[i][d];
        }
    }
    free(r);
}

/* --- the tests --- */

/* Who computes. */
typedef struct {
    const aiq_kernels *kern;
    const cpu_ops *ops; /* the CPU's; NULL: it is a device */
    const char *name;
} computer;

static computer computers[16];
static int n_computers;

typedef struct {
    int32_t ids[N_TEXTS][CTX];
    kern_text texts[N_TEXTS];
} batch;

static void random_batch(batch *b)
{
    uint64_t seed = 3;

    for (int t = 0; t < N_TEXTS; t++) {
        for (int i = 0; i < CTX; i++) {
            b->ids[t][i] = (int32_t)(fabs(ref_uniform(&seed)) * (VOCAB - 1));
        }
        b->texts[t] = (kern_text){b->ids[t], lens[t]};
    }
}

static kern_device *open_with(const computer *c, uint32_t threads)
{
    kern_device *dev = c->kern->open(0, threads);

    if (c->ops != NULL) {
        dev->ops = c->ops;
    }
    return dev;
}

/* As in test_kernels.c and test_cuda.c: packed weights have activations rounded, too, and a
 * device keeps keys and values in f16. */
static double tolerance(const computer *c, kern_type type)
{
    const cpu_ops *ops = c->ops;

    if (ops == NULL) {
        return type == KERN_F32 ? 5e-3 : 0.04;
    }
    bool rounded = ops->tiles != NULL && ops->tiles->from[type] > 0;

    rounded |= ops->integers != NULL && ops->integers->rows[type] != NULL;
    return rounded ? 0.03 : 1e-4;
}

typedef double reference[KERN_POOL_LAST + 1][N_TEXTS][D];

static void check(const fixture *f, const char *name, const reference ref, double most,
                  const computer *c)
{
    kern_device *dev = open_with(c, 2);
    kern_model *m = c->kern->model_load(dev, &f->config, &f->w, BATCH, N_TEXTS, 0);
    float out[N_TEXTS][D];
    batch b;

    random_batch(&b);
    for (int pooling = KERN_POOL_MEAN; pooling <= KERN_POOL_LAST; pooling++) {
        if (c->ops == NULL && f->config.encoder && pooling != KERN_POOL_MEAN) {
            continue; /* the emulation is slow, and they differ in the end alone */
        }
        assert_true(c->kern->encode(m, b.texts, N_TEXTS, (kern_pooling)pooling, out[0]));
        for (int t = 0; t < N_TEXTS; t++) {
            const double *want = ref[pooling][t];
            double scale = 0, error = 0;

            for (int i = 0; i < D; i++) {
                scale += want[i] * want[i];
                error += pow(want[i] - (double)out[t][i], 2);
            }
            if (!(sqrt(error / scale) <= most)) {
                fail_msg("%s, %s, pooling %d, text %d: off by %g", name, c->name, pooling, t,
                         sqrt(error / scale));
            }
        }
    }
    c->kern->model_free(m);
    c->kern->close(dev);
}

static void check_model(family kind, kern_type type)
{
    fixture *f = make_model(kind, type);
    reference ref;
    char name[64];
    batch b;

    random_batch(&b);
    for (int pooling = KERN_POOL_MEAN; pooling <= KERN_POOL_LAST; pooling++) {
        for (int t = 0; t < N_TEXTS; t++) {
            ref_encode(f, &b.texts[t], (kern_pooling)pooling, ref[pooling][t]);
        }
    }
    snprintf(name, sizeof(name), "%s, %s", family_name[kind], ref_type_name[type]);
    for (int i = 0; i < n_computers; i++) {
        if (computers[i].ops == NULL && type != KERN_F32 && type != KERN_Q8_0) {
            continue; /* test_cuda.c has every layout */
        }
        check(f, name, ref, tolerance(&computers[i], type), &computers[i]);
    }
    free_model(f);
}

static void vectors_equal_float64(void **state)
{
    static const kern_type types[] = {KERN_F16, KERN_BF16, KERN_Q8_0, KERN_Q4_0};

    (void)state;
    for (int kind = BERT; kind <= QWEN; kind++) {
        check_model((family)kind, KERN_F32);
    }
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        check_model(BERT, types[i]);
    }
}

static void check_company(const fixture *f, kern_type type, const computer *c, uint32_t threads)
{
    kern_device *dev = open_with(c, threads);
    kern_model *m = c->kern->model_load(dev, &f->config, &f->w, BATCH, N_TEXTS, 0);
    float together[N_TEXTS][D], alone[D];
    uint32_t few = c->ops == NULL ? 25 : c->ops->tiles != NULL ? 16 : 0;
    batch b;

    random_batch(&b);
    assert_true(c->kern->encode(m, b.texts, N_TEXTS, KERN_POOL_MEAN, together[0]));
    for (int t = 0; t < N_TEXTS; t++) {
        assert_true(c->kern->encode(m, &b.texts[t], 1, KERN_POOL_MEAN, alone));
        if (type == KERN_F32 || lens[t] >= few) {
            assert_memory_equal(together[t], alone, sizeof(alone));
        }
    }
    c->kern->model_free(m);
    c->kern->close(dev);
}

/* To the last bit in F32, whatever the number of threads; in Q8_0 where all go one way. */
static void company_changes_nothing(void **state)
{
    static const kern_type types[] = {KERN_F32, KERN_Q8_0};

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        fixture *f = make_model(NOMIC, types[i]);

        for (int k = 0; k < n_computers; k++) {
            for (uint32_t threads = 1; threads <= (computers[k].ops != NULL ? 3 : 1);
                 threads++) {
                check_company(f, types[i], &computers[k], threads);
            }
        }
        free_model(f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_equal_float64),
        cmocka_unit_test(company_changes_nothing),
    };
    char folder[512];
    devices *d;
    int rc;

    (void)argc;
    snprintf(folder, sizeof(folder), "%s/cuda", dirname(argv[0]));
    d = devices_open("emulated", folder, NULL, NULL);
    for (const cpu_ops *const *ops = cpu_ops_usable(); *ops != NULL; ops++) {
        computers[n_computers++] = (computer){&aiq_kernels_cpu, *ops, (*ops)->name};
    }
    if (devices_count(d) > 1) { /* there is an emulation on this kind of machine */
        computers[n_computers++] = (computer){devices_at(d, 0)->kern, NULL, "cuda"};
    }
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    devices_close(d);
    return rc;
}
