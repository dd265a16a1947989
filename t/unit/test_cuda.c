/*
 * The CUDA back end's own sources, run by emulation (t/cuda/emulate.h), against the CPU's
 * without its faster ways, which test_kernels.c holds against float64. A device's order of
 * threads, graphs, the cut of a prompt and company change nothing to the last bit where the
 * header says so; a device that fails is told, in every place where it can fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/devices.h"
#include "kernels/cpu/cpu.h"
#include "quant_ref.h"

enum { LAYERS = 2, VOCAB = 96, PAGES = 64, BATCH = 80, MOST = 16 };

typedef struct {
    kern_config config;
    kern_weights w;
    kern_layer layers[LAYERS];
    void *owned[MOST * LAYERS];
    int n_owned;
    uint64_t seed;
} fixture;

static const aiq_kernels *K; /* the emulated */

static void *own(fixture *f, const void *p)
{
    assert_true(f->n_owned < MOST * LAYERS);
    f->owned[f->n_owned++] = (void *)p;
    return (void *)p;
}

static kern_tensor matrix(fixture *f, kern_type type, uint32_t rows, uint32_t cols)
{
    kern_tensor w = ref_tensor(type, rows, cols, &f->seed);

    own(f, w.data);
    return w;
}

static const float *floats(fixture *f, uint32_t n, float middle)
{
    float *v = malloc(n * sizeof(*v));

    for (uint32_t i = 0; i < n; i++) {
        v[i] = middle + 0.3f * (float)ref_uniform(&f->seed);
    }
    return own(f, v);
}

/* For a test to bend. Packed weights want widths of 256. */
static kern_config small(uint32_t width)
{
    return (kern_config){.n_layers = LAYERS,
                         .d_model = width,
                         .d_ff = width,
                         .n_heads = 4,
                         .n_kv_heads = 2,
                         .head_dim = width / 4,
                         .rope_dim = width / 4,
                         .n_vocab = VOCAB,
                         .n_ctx = PAGES * KERN_PAGE,
                         .rope_base = 10000.0f,
                         .norm_eps = 1e-5f};
}

static fixture *model_of(kern_type type, kern_config c)
{
    fixture *f = calloc(1, sizeof(*f));
    uint32_t q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;

    f->seed = 7 + (uint64_t)type;
    f->config = c;
    f->w.embed = matrix(f, type, VOCAB, c.d_model);
    f->w.out = matrix(f, type, VOCAB, c.d_model);
    f->w.out_norm = floats(f, c.d_model, 1);
    f->w.layers = f->layers;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l] = (kern_layer){
            .attn_norm = floats(f, c.d_model, 1),
            .wq = matrix(f, type, q, c.d_model),
            .wk = matrix(f, type, kv, c.d_model),
            .wv = matrix(f, type, kv, c.d_model),
            .wo = matrix(f, type, c.d_model, q),
            .ffn_norm = floats(f, c.d_model, 1),
            .w_gate = matrix(f, type, c.d_ff, c.d_model),
            .w_up = matrix(f, type, c.d_ff, c.d_model),
            .w_down = matrix(f, type, c.d_model, c.d_ff),
        };
    }
    return f;
}

static void free_model(fixture *f)
{
    for (int i = 0; i < f->n_owned; i++) {
        free(f->owned[i]);
    }
    free(f);
}

/* --- running a model --- */

typedef struct {
    const aiq_kernels *kern;
    kern_device *dev;
    kern_model *model;
} machine;

/* NULL ops: the emulated device. */
static machine start(const fixture *f, const aiq_kernels *kern)
{
    machine m = {.kern = kern, .dev = kern->open(0, 1)};

    assert_non_null(m.dev);
    if (kern == &aiq_kernels_cpu) {
        const cpu_ops *const *ops = cpu_ops_usable();

        while (ops[1] != NULL) {
            ops++; /* the portable one is the last */
        }
        m.dev->ops = *ops;
    }
    m.model = kern->model_load(m.dev, &f->config, &f->w, BATCH, BATCH, PAGES);
    if (m.model == NULL) {
        fail_msg("%s", kern->last_error(m.dev));
    }
    return m;
}

static void stop(machine m)
{
    m.kern->model_free(m.model);
    m.kern->close(m.dev);
}

static int32_t id_at(uint32_t seq, uint32_t pos)
{
    return (int32_t)((seq * 31 + pos * 7919 + pos * pos * 13) % VOCAB);
}

/* A sequence's pages, in an order of its own: s is below 4 where all are long. */
static void pages_of(uint32_t s, uint32_t n_seqs, uint32_t *pages)
{
    uint32_t each = PAGES / n_seqs;

    for (uint32_t i = 0; i < each; i++) {
        pages[i] = s * each + (i * 5 + 3) % each;
    }
}

/* n_seqs sequences of n tokens each in steps of chunk tokens each; logits [n_seqs][VOCAB] of
 * the last ones. False: a step failed. */
static bool run(machine m, uint32_t n_seqs, uint32_t n, uint32_t chunk, float *logits)
{
    int32_t ids[PAGES * KERN_PAGE];
    uint32_t pages[PAGES];
    kern_seq seqs[PAGES];
    bool ok = true;

    for (uint32_t pos = 0; pos < n && ok; pos += chunk) {
        uint32_t now = n - pos < chunk ? n - pos : chunk;

        for (uint32_t s = 0; s < n_seqs; s++) {
            pages_of(s, n_seqs, pages + s * (PAGES / n_seqs));
            for (uint32_t i = 0; i < now; i++) {
                ids[s * now + i] = id_at(s, pos + i);
            }
            seqs[s] = (kern_seq){.pages = pages + s * (PAGES / n_seqs),
                                 .ids = ids + s * now,
                                 .n = now,
                                 .pos = pos,
                                 .n_logits = now == 1 || pos + now == n};
        }
        ok = m.kern->step(m.model, seqs, n_seqs, logits);
    }
    return ok;
}

static double off_by(const float *got, const float *want, uint32_t n)
{
    double error = 0, scale = 0;

    for (uint32_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        scale += (double)want[i] * want[i];
    }
    return sqrt(error / scale);
}

/* Keys and values are kept in f16, and large steps round to bf16 what they multiply: an error
 * in each product that this model of noise makes larger from layer to layer. */
#define EXACT   5e-3
#define ROUNDED 4e-2

static void check_model(const fixture *f, const char *name, uint32_t n_seqs, uint32_t n,
                        uint32_t chunk, double tolerance)
{
    static float want[8][VOCAB], got[8][VOCAB];
    machine cpu = start(f, &aiq_kernels_cpu), cuda = start(f, K);
    double off;

    assert_true(run(cpu, n_seqs, n, BATCH / n_seqs, want[0]));
    if (!run(cuda, n_seqs, n, chunk, got[0])) {
        fail_msg("%s: %s", name, K->last_error(cuda.dev));
    }
    off = off_by(got[0], want[0], n_seqs * VOCAB);
    if (!(off <= tolerance)) {
        fail_msg("%s, %u at once: off by %g", name, chunk, off);
    }
    stop(cpu);
    stop(cuda);
}

/* --- the numbers --- */

static void every_layout_of_weights(void **state)
{
    (void)state;
    for (int type = 0; type < KERN_N_TYPES; type++) {
        fixture *f = model_of((kern_type)type, small(256));

        check_model(f, ref_type_name[type], 1, 26, 26, type == KERN_F32 ? EXACT : ROUNDED);
        check_model(f, ref_type_name[type], 1, 2, 1, EXACT);
        check_model(f, ref_type_name[type], 2, 3, 3, EXACT);
        free_model(f);
    }
}

static void layouts_may_differ_in_a_layer(void **state)
{
    fixture *f = model_of(KERN_Q4_K, small(256));

    (void)state;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l].wv = matrix(f, KERN_Q6_K, 128, 256);
        f->layers[l].w_up = matrix(f, KERN_F16, 256, 256);
    }
    check_model(f, "mixed", 1, 8, 5, EXACT);
    check_model(f, "mixed", 1, 30, 30, ROUNDED);
    free_model(f);
}

/* Long enough for several tiles and several parts of a split. */
static void long_sequences(void **state)
{
    fixture *f = model_of(KERN_F32, small(64));

    (void)state;
    check_model(f, "long, whole", 1, 140, 70, EXACT);
    check_model(f, "long, split", 1, 140, 14, EXACT);
    check_model(f, "of several", 4, 40, 16, EXACT);
    free_model(f);
}

static void heads_of_every_shape(void **state)
{
    static const struct {
        uint32_t n_heads, n_kv_heads, head_dim, rope_dim;
    } shapes[] = {
        {12, 1, 16, 16}, {2, 2, 128, 128}, {2, 1, 256, 128}, {3, 3, 80, 40}, {9, 1, 8, 8}};

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        kern_config c = small(64);
        fixture *f;

        c.n_heads = shapes[i].n_heads;
        c.n_kv_heads = shapes[i].n_kv_heads;
        c.head_dim = shapes[i].head_dim;
        c.rope_dim = shapes[i].rope_dim;
        f = model_of(KERN_F32, c);
        check_model(f, "heads", 1, 40, 40, EXACT);
        check_model(f, "heads", 1, 12, 4, EXACT);
        free_model(f);
    }
}

static void qwen(void **state)
{
    kern_config c = small(64);
    fixture *f;

    (void)state;
    c.rope_halves = true;
    c.rope_dim = 12;
    f = model_of(KERN_F32, c);
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l].bq = floats(f, 64, 0);
        f->layers[l].bk = floats(f, 32, 0);
        f->layers[l].bv = floats(f, 32, 0);
    }
    check_model(f, "biases", 1, 20, 8, EXACT);
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l].q_norm = floats(f, 16, 1);
        f->layers[l].k_norm = floats(f, 16, 1);
    }
    check_model(f, "biases and norms", 1, 40, 40, EXACT);
    free_model(f);
}

/* A window in one layer, whose positions are turned otherwise, norms behind the products. */
static void gemma(void **state)
{
    kern_config c = small(64);
    fixture *f;

    (void)state;
    c.rope_halves = true;
    c.rope_base_near = 100;
    c.rope_scale = 0.9f;
    c.embed_scale = 8;
    c.attn_scale = 0.2f;
    c.attn_cap = 20;
    c.logit_cap = 15;
    c.gelu = true;
    f = model_of(KERN_F32, c);
    f->w.rope_factors = floats(f, 8, 2);
    f->layers[0].window = 21;
    for (int l = 0; l < LAYERS; l++) {
        f->layers[l].attn_post = floats(f, 64, 1);
        f->layers[l].ffn_post = floats(f, 64, 1);
    }
    check_model(f, "gemma", 1, 60, 60, EXACT);
    check_model(f, "gemma, split", 1, 120, 12, EXACT);
    free_model(f);
}

/* Prompts in two cuts, of which all logits are wanted, or the last: the one goes row by row,
 * the other in tiles. What is multiplied is rounded alike, so they are near. */
static void check_tiles(const fixture *f, const char *name)
{
    enum { CUT = 38, N = CUT + 40 };
    static float logits[N][VOCAB], rows[VOCAB];
    machine m = start(f, K);
    uint32_t pages[PAGES];
    int32_t ids[N];
    double off;

    pages_of(0, 1, pages);
    for (uint32_t i = 0; i < N; i++) {
        ids[i] = id_at(0, i);
    }
    for (int tiled = 0; tiled < 2; tiled++) {
        kern_seq one = {.pages = pages, .ids = ids, .n = CUT, .n_logits = tiled ? 1 : CUT};
        kern_seq two = {.pages = pages, .ids = ids + CUT, .n = N - CUT, .pos = CUT};

        two.n_logits = tiled ? 1 : two.n;
        assert_true(K->step(m.model, &one, 1, logits[0]));
        assert_true(K->step(m.model, &two, 1, logits[0]));
        if (!tiled) {
            memcpy(rows, logits[two.n - 1], sizeof(rows));
        }
    }
    off = off_by(logits[0], rows, VOCAB);
    if (!(off <= 8e-3)) { /* where sums differ, some of them are rounded the other way */
        fail_msg("%s, in tiles: off by %g", name, off);
    }
    stop(m);
}

static void tiles_are_near_to_rows(void **state)
{
    static const uint32_t head_dims[] = {8, 64, 80, 256};
    kern_config c = small(64);
    fixture *f;

    (void)state;
    for (size_t i = 0; i < sizeof(head_dims) / sizeof(*head_dims); i++) {
        c.n_heads = 2;
        c.n_kv_heads = 1;
        c.head_dim = head_dims[i];
        c.rope_dim = 8;
        f = model_of(KERN_BF16, c);
        check_tiles(f, "heads");
        free_model(f);
    }
    c = small(64);
    c.attn_scale = 0.2f;
    c.attn_cap = 2;
    f = model_of(KERN_BF16, c);
    f->layers[0].window = 21;
    check_tiles(f, "a window and a cap");
    free_model(f);
}

/* A prompt whose rows go in tiles does not disturb those that go one by one beside it. */
static void tiles_and_rows_beside_each_other(void **state)
{
    static float beside[2][VOCAB], prompt[VOCAB], alone[2][VOCAB];
    fixture *f = model_of(KERN_BF16, small(64));
    machine m = start(f, K);
    uint32_t pages[2][PAGES];
    int32_t ids[70];

    (void)state;
    for (uint32_t s = 0; s < 2; s++) {
        pages_of(s, 2, pages[s]);
    }
    for (uint32_t i = 0; i < 70; i++) {
        ids[i] = id_at(0, i);
    }
    kern_seq seqs[] = {{.pages = pages[0], .ids = ids, .n = 3, .n_logits = 1},
                       {.pages = pages[1], .ids = ids, .n = 70, .n_logits = 1}};
    assert_true(K->step(m.model, seqs, 2, beside[0]));
    assert_true(K->step(m.model, &seqs[1], 1, prompt));
    assert_memory_equal(beside[1], prompt, sizeof(prompt));
    assert_true(K->step(m.model, &seqs[0], 1, alone[0]));
    assert_true(off_by(beside[0], alone[0], VOCAB) < ROUNDED);
    stop(m);
    free_model(f);
}

static void tied_output(void **state)
{
    fixture *f = model_of(KERN_F32, small(64));

    (void)state;
    f->w.out = f->w.embed;
    f->w.rope_factors = floats(f, 8, 2);
    check_model(f, "tied", 1, 20, 4, EXACT);
    free_model(f);
}

/* --- what changes nothing --- */

/* Logits of two sequences under a setting, to be compared bit by bit. */
static void under(const char *setting, const fixture *f, uint32_t n, uint32_t chunk,
                  float *logits)
{
    machine m;

    setenv("AIQ_EMULATED", setting, 1);
    m = start(f, K);
    assert_true(run(m, 2, n, chunk, logits));
    stop(m);
    setenv("AIQ_EMULATED", "", 1);
}

static void order_of_threads_changes_nothing(void **state)
{
    static float one[2][VOCAB], other[2][VOCAB];
    fixture *f = model_of(KERN_Q8_0, small(256));

    (void)state;
    for (uint32_t chunk = 2; chunk <= 14; chunk += 12) {
        under("", f, 14, chunk, one[0]);
        under("reverse", f, 14, chunk, other[0]);
        assert_memory_equal(one, other, sizeof(one));
        under("shuffle=7", f, 14, chunk, other[0]);
        assert_memory_equal(one, other, sizeof(one));
    }
    free_model(f);
}

enum { ROWS = 300, COLS = 24, BEST = 40 };

/* A search of the same rows each time. False: it failed, or its rows could not be loaded. */
static bool search(kern_device *dev, kern_hit *hits)
{
    static uint16_t rows[ROWS * COLS];
    static float query[COLS];
    uint64_t seed = 3;
    kern_rows *loaded;
    uint32_t n = 0;

    for (uint32_t i = 0; i < ROWS * COLS; i++) {
        rows[i] = (uint16_t)(0x3c00 + (int)(ref_uniform(&seed) * 200));
    }
    for (uint32_t i = 0; i < COLS; i++) {
        query[i] = (float)ref_uniform(&seed);
    }
    loaded = K->rows_load(dev, rows, ROWS, COLS);
    bool ok = loaded != NULL && K->topk(loaded, query, BEST, hits, &n);
    assert_true(!ok || n == BEST);
    K->rows_free(loaded);
    return ok;
}

static void order_of_threads_changes_no_search(void **state)
{
    static const char *const orders[] = {"", "reverse", "shuffle=7"};
    kern_hit hits[3][BEST];

    (void)state;
    for (int i = 0; i < 3; i++) {
        kern_device *dev;

        setenv("AIQ_EMULATED", orders[i], 1);
        dev = K->open(0, 1);
        assert_true(search(dev, hits[i]));
        assert_memory_equal(hits[i], hits[0], sizeof(hits[0]));
        K->close(dev);
    }
    setenv("AIQ_EMULATED", "", 1);
}

/* Steps of the same number of rows are played from a record from the third on. */
static void graphs_change_nothing(void **state)
{
    static float one[2][VOCAB], other[2][VOCAB];
    fixture *f = model_of(KERN_F16, small(64));

    (void)state;
    under("", f, 24, 1, one[0]);
    under("capture=no", f, 24, 1, other[0]);
    assert_memory_equal(one, other, sizeof(one));
    free_model(f);
}

/* Steps of other numbers of rows, of which 20 are played from a record of 24. */
static void company_and_cuts_change_nothing(void **state)
{
    static float alone[VOCAB], together[20][VOCAB], cut[VOCAB];
    fixture *f = model_of(KERN_F32, small(64));
    machine m = start(f, K);

    (void)state;
    assert_true(run(m, 1, 9, 9, alone));
    assert_true(run(m, 1, 9, 2, cut));
    assert_memory_equal(alone, cut, sizeof(alone));
    assert_true(run(m, 1, 9, 1, cut));
    assert_memory_equal(alone, cut, sizeof(alone));
    assert_true(run(m, 4, 9, 3, together[0]));
    assert_memory_equal(alone, together[0], sizeof(alone));
    assert_true(run(m, 1, 2, 2, alone));
    assert_true(run(m, 20, 2, 1, together[0]));
    assert_memory_equal(alone, together[0], sizeof(alone));

    assert_true(run(m, 1, 140, 70, alone));
    assert_true(run(m, 1, 140, 14, cut));
    assert_memory_equal(alone, cut, sizeof(alone));
    stop(m);
    free_model(f);
}

/* More rows of logits than are fetched at once, of all tokens or of some. */
static void logits_of_many_tokens(void **state)
{
    enum { N = 70 };
    static float all[N][VOCAB], some[5][VOCAB];
    fixture *f = model_of(KERN_F32, small(64));
    machine m = start(f, K);
    uint32_t pages[PAGES];
    int32_t ids[N];

    (void)state;
    pages_of(0, 1, pages);
    for (uint32_t i = 0; i < N; i++) {
        ids[i] = id_at(0, i);
    }
    kern_seq s = {.pages = pages, .ids = ids, .n = N, .n_logits = N};
    assert_true(K->step(m.model, &s, 1, all[0]));
    s.n_logits = 5;
    assert_true(K->step(m.model, &s, 1, some[0]));
    assert_memory_equal(some, all[N - 5], sizeof(some));
    s.n_logits = 0;
    assert_true(K->step(m.model, &s, 1, NULL));
    stop(m);
    free_model(f);
}

/* --- what fails --- */

/* From each call of the driver on that can fail: an error, a score of 0, and nothing left. */
static void a_device_may_be_lost_anywhere(void **state)
{
    fixture *f = model_of(KERN_BF16, small(64));
    uint32_t failures = 0;
    bool done = false;

    (void)state;
    for (int n = 1; !done; n += n < 30 ? 1 : 17) {
        char setting[32];
        kern_device *dev;
        machine m = {.kern = K};
        float *out = NULL;
        kern_info info;

        snprintf(setting, sizeof(setting), "fail=%d", n);
        setenv("AIQ_EMULATED", setting, 1);
        dev = K->open(0, 1);
        m.model =
            dev != NULL ? K->model_load(dev, &f->config, &f->w, BATCH, BATCH, PAGES) : NULL;
        out = m.model != NULL ? K->out_alloc(dev, VOCAB) : NULL;
        done = out != NULL && run(m, 1, 12, 3, out);
        if (!done) {
            failures++;
            assert_true(K->last_error(dev)[0] != '\0');
            K->probe(0, &info);
            assert_int_equal(info.score, 0);
        }
        if (out != NULL) {
            K->out_free(dev, out);
        }
        if (m.model != NULL) {
            K->model_free(m.model);
        }
        if (dev != NULL) {
            K->close(dev);
        }
    }
    assert_true(failures > 30);
    setenv("AIQ_EMULATED", "", 1);
    free_model(f);
}

/* Likewise of a search: the copies, both kernels, and memory. */
static void a_device_may_be_lost_in_a_search(void **state)
{
    kern_hit hits[BEST];
    uint32_t failures = 0;
    bool done = false;

    (void)state;
    for (int n = 1; !done; n++) {
        char setting[32];
        kern_device *dev;

        snprintf(setting, sizeof(setting), "fail=%d", n);
        setenv("AIQ_EMULATED", setting, 1);
        dev = K->open(0, 1);
        if (dev == NULL) {
            continue;
        }
        done = search(dev, hits);
        if (!done) {
            failures++;
            assert_true(K->last_error(dev)[0] != '\0');
        }
        K->close(dev);
    }
    assert_true(failures >= 8);
    setenv("AIQ_EMULATED", "", 1);
}

static void check_refused(const char *setting, const fixture *f, const char *says)
{
    kern_device *dev;

    setenv("AIQ_EMULATED", setting, 1);
    dev = K->open(0, 1);
    assert_null(K->model_load(dev, &f->config, &f->w, BATCH, BATCH, PAGES));
    if (strstr(K->last_error(dev), says) == NULL) {
        fail_msg("%s: %s", setting, K->last_error(dev));
    }
    K->close(dev);
    setenv("AIQ_EMULATED", "", 1);
}

static void vectors_that_do_not_fit(void **state)
{
    static const uint16_t rows[500 * 1000];
    kern_device *dev;

    (void)state;
    setenv("AIQ_EMULATED", "memory=1200000", 1); /* of which 960,000 may be taken */
    dev = K->open(0, 1);
    assert_null(K->rows_load(dev, rows, 500, 1000));
    assert_string_equal(K->last_error(dev),
                        "the vectors take 0 MiB of the device, of which 0 are left to take");
    kern_rows *half = K->rows_load(dev, rows, 250, 1000);
    assert_non_null(half);
    assert_string_equal(K->last_error(dev), "");
    assert_null(K->rows_load(dev, rows, 250, 1000));
    K->rows_free(half);
    half = K->rows_load(dev, rows, 250, 1000);
    assert_non_null(half);
    K->rows_free(half);
    K->close(dev);
    setenv("AIQ_EMULATED", "", 1);
}

static void what_it_does_not_take(void **state)
{
    fixture *f = model_of(KERN_F32, small(64));
    kern_info info;

    (void)state;
    check_refused("memory=1000000", f, "MiB of the device, of which");
    f->config.head_dim = 512;
    check_refused("", f, "heads");

    setenv("AIQ_EMULATED", "old devices=2", 1);
    K->probe(0, &info);
    assert_int_equal(info.score, 0);
    setenv("AIQ_EMULATED", "devices=2 memory=1000", 1);
    K->probe(1, &info);
    assert_true(info.score > 0 && info.memory == 800);
    assert_string_equal(info.title, "emulated device 1");
    K->probe(2, &info);
    assert_int_equal(info.score, 0);
    setenv("AIQ_EMULATED", "", 1);
    free_model(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_of_weights),
        cmocka_unit_test(layouts_may_differ_in_a_layer),
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(heads_of_every_shape),
        cmocka_unit_test(qwen),
        cmocka_unit_test(gemma),
        cmocka_unit_test(tiles_are_near_to_rows),
        cmocka_unit_test(tiles_and_rows_beside_each_other),
        cmocka_unit_test(tied_output),
        cmocka_unit_test(order_of_threads_changes_nothing),
        cmocka_unit_test(order_of_threads_changes_no_search),
        cmocka_unit_test(graphs_change_nothing),
        cmocka_unit_test(company_and_cuts_change_nothing),
        cmocka_unit_test(logits_of_many_tokens),
        cmocka_unit_test(a_device_may_be_lost_anywhere),
        cmocka_unit_test(a_device_may_be_lost_in_a_search),
        cmocka_unit_test(vectors_that_do_not_fit),
        cmocka_unit_test(what_it_does_not_take),
    };
    char folder[512];
    devices *d;
    int rc;

    (void)argc;
    snprintf(folder, sizeof(folder), "%s/cuda", dirname(argv[0]));
    d = devices_open("emulated", folder, NULL, NULL);
    if (devices_count(d) < 2) {
        puts("1..0 # SKIP no emulation on this kind of machine");
        devices_close(d);
        return 0;
    }
    K = devices_at(d, 0)->kern;

    rc = cmocka_run_group_tests(tests, NULL, NULL);
    devices_close(d);
    return rc;
}
