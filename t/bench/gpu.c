/*
 * How fast a device makes tokens: a Llama of random weights in BF16, which no file holds.
 *
 *     gpu MODEL DEVICE FOLDER PROMPT GEN BATCH,…
 *
 * MODEL: 1b, 8b, or tiny, which is for tests. DEVICE: as of aiq bench, its library in FOLDER.
 * Prints {"decode_tps":{"1":…},"prefill_tps":…} and what a roofline needs: bytes of weights
 * that a step reads, bytes of keys and values that a token of a context has, operations of a
 * token in matrices, and those of its attention for each token that it sees. Figures are the
 * second of two runs.
 *
 *     gpu topk DEVICE FOLDER ROWS COLUMNS K
 *
 * How fast it finds the nearest of random vectors, which it has loaded: prints {"topk_ms":…,
 * "bytes":…}, the best of some searches and what one has to read.
 */
#include <string.h>

#include "infer/devices.h"
#include "measure.h"

enum { BATCHES = 8, SEARCHES = 15 };

typedef struct {
    const char *name;
    uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab;
} shape;

static const shape shapes[] = {
    {"1b", 16, 2048, 8192, 32, 8, 64, 128256},
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256},
    {"tiny", 2, 64, 128, 4, 2, 16, 256},
};

typedef struct {
    kern_config config;
    kern_weights w;
    uint16_t *pool; /* all matrices begin somewhere in it */
    size_t pool_values;
    size_t values; /* of the matrices so far */
    float *ones;

    const aiq_kernels *kern;
    kern_device *dev;
    kern_model *model;
    uint32_t *pages;
    int32_t *ids;
    kern_seq *seqs;
    float *logits;
} bench;

/* BF16 of random signs and sizes from 1/64 to 1/32: activations keep their size. */
static void fill(uint16_t *pool, size_t n)
{
    uint64_t s = 1;

    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        pool[i] = (uint16_t)(0x3c80 | (s >> 57) | (s >> 33 & 0x8000));
    }
}

static kern_tensor matrix(bench *b, uint32_t rows, uint32_t cols)
{
    size_t n = (size_t)rows * cols, slack = b->pool_values - n;
    const uint16_t *from = b->pool + (slack > 0 ? b->values % slack / 16 * 16 : 0);

    b->values += n;
    return (kern_tensor){KERN_BF16, from, rows, cols};
}

static void *checked(void *p)
{
    if (p == NULL) {
        die("gpu: out of memory");
    }
    return p;
}

static void make_model(bench *b, const shape *s)
{
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    kern_layer *layers = checked(calloc(s->n_layers, sizeof(*layers)));

    b->config = (kern_config){.n_layers = s->n_layers,
                              .d_model = s->d_model,
                              .d_ff = s->d_ff,
                              .n_heads = s->n_heads,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim,
                              .rope_dim = s->head_dim,
                              .n_vocab = s->n_vocab,
                              .n_ctx = 8192,
                              .rope_base = 500000,
                              .norm_eps = 1e-5f};
    b->pool_values = (size_t)s->n_vocab * s->d_model + (1 << 20);
    b->pool = checked(malloc(b->pool_values * sizeof(*b->pool)));
    fill(b->pool, b->pool_values);
    b->ones = checked(malloc(s->d_model * sizeof(*b->ones)));
    for (uint32_t i = 0; i < s->d_model; i++) {
        b->ones[i] = 1;
    }
    b->w = (kern_weights){.layers = layers, .out_norm = b->ones};
    for (uint32_t i = 0; i < s->n_layers; i++) {
        layers[i] = (kern_layer){.attn_norm = b->ones,
                                 .wq = matrix(b, q, s->d_model),
                                 .wk = matrix(b, kv, s->d_model),
                                 .wv = matrix(b, kv, s->d_model),
                                 .wo = matrix(b, s->d_model, q),
                                 .ffn_norm = b->ones,
                                 .w_gate = matrix(b, s->d_ff, s->d_model),
                                 .w_up = matrix(b, s->d_ff, s->d_model),
                                 .w_down = matrix(b, s->d_model, s->d_ff)};
    }
    b->w.out = matrix(b, s->n_vocab, s->d_model);
    b->w.embed = b->w.out;
}

static void open_device(bench *b, const char *name, const char *folder)
{
    devices *d = devices_open(name, folder, NULL, NULL);
    const device *dev = devices_at(d, 0);

    if (devices_count(d) == 1 && strcmp(name, "cpu") != 0) {
        printf("{\"none\":\"there is no device %s\"}\n", name);
        exit(0);
    }
    b->kern = dev->kern;
    b->dev = b->kern->open(dev->index, 1);
    if (b->dev == NULL) {
        die("gpu: %s", b->kern->last_error(NULL));
    }
    devices_close(d);
}

/* For so many sequences of so many tokens, or one of a prompt. */
static void load(bench *b, uint32_t largest, uint32_t prompt, uint32_t gen)
{
    uint32_t longest = prompt > gen ? prompt : gen;
    uint32_t each = (longest + KERN_PAGE - 1) / KERN_PAGE;
    uint32_t n_pages = largest * ((gen + KERN_PAGE - 1) / KERN_PAGE);

    n_pages = n_pages > each ? n_pages : each;
    b->model = b->kern->model_load(b->dev, &b->config, &b->w,
                                   prompt > largest ? prompt : largest, largest, n_pages);
    if (b->model == NULL) {
        die("gpu: %s", b->kern->last_error(b->dev));
    }
    b->pages = checked(malloc(n_pages * sizeof(*b->pages)));
    for (uint32_t i = 0; i < n_pages; i++) {
        b->pages[i] = i;
    }
    b->ids = checked(malloc(longest * sizeof(*b->ids)));
    for (uint32_t i = 0; i < longest; i++) {
        b->ids[i] = (int32_t)((i * (uint64_t)7919 + 300) % b->config.n_vocab);
    }
    b->seqs = checked(calloc(largest, sizeof(*b->seqs)));
    b->logits = checked(b->kern->out_alloc(b->dev, (uint64_t)largest * b->config.n_vocab));
}

/* Tokens a second of n sequences that read tokens, so many in a step. */
static double measure(bench *b, uint32_t n, uint32_t tokens, uint32_t at_once)
{
    uint32_t each = (tokens + KERN_PAGE - 1) / KERN_PAGE;
    uint64_t start = 0;

    for (int run = 0; run < 2; run++) {
        start = now_ns(CLOCK_MONOTONIC);
        for (uint32_t pos = 0; pos < tokens; pos += at_once) {
            for (uint32_t i = 0; i < n; i++) {
                b->seqs[i] = (kern_seq){.pages = b->pages + (size_t)i * each,
                                        .ids = b->ids + pos,
                                        .n = at_once,
                                        .pos = pos,
                                        .n_logits = 1};
            }
            if (!b->kern->step(b->model, b->seqs, n, b->logits)) {
                die("gpu: %s", b->kern->last_error(b->dev));
            }
        }
    }
    return (double)n * tokens / (double)(now_ns(CLOCK_MONOTONIC) - start) * 1e9;
}

static void print_roofline(const bench *b)
{
    const kern_config *c = &b->config;
    double out = (double)c->n_vocab * c->d_model, all = (double)b->values;

    printf("\"weight_bytes\":%.0f,\"kv_bytes\":%.0f,\"flop\":%.0f,\"prompt_flop\":%.0f,"
           "\"seen_flop\":%.0f}\n",
           all * 2, 4.0 * c->n_layers * c->n_kv_heads * c->head_dim, 2 * all, 2 * (all - out),
           4.0 * c->n_layers * c->n_heads * c->head_dim);
}

static void search(bench *b, uint32_t n, uint32_t cols, uint32_t k)
{
    float *query = checked(malloc(cols * sizeof(*query)));
    kern_hit hits[KERN_TOPK_MAX];
    double best = 1e9, ms;
    kern_rows *rows;
    uint32_t found;

    b->pool_values = (size_t)n * cols;
    b->pool = checked(malloc(b->pool_values * sizeof(*b->pool)));
    fill(b->pool, b->pool_values); /* read as f16: 1.125 to 1.25, and their negatives */
    for (uint32_t i = 0; i < cols; i++) {
        query[i] = i % 3 ? 0.5f : -0.5f;
    }
    rows = b->kern->rows_load(b->dev, b->pool, n, cols);
    if (rows == NULL) {
        die("gpu: %s", b->kern->last_error(b->dev));
    }
    for (int i = 0; i < SEARCHES; i++) {
        uint64_t start = now_ns(CLOCK_MONOTONIC);

        if (!b->kern->topk(rows, query, k, hits, &found) || found != k) {
            die("gpu: %s", b->kern->last_error(b->dev));
        }
        ms = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e6;
        best = ms < best ? ms : best;
    }
    printf("{\"topk_ms\":%.4f,\"bytes\":%.0f}\n", best, 2.0 * (double)b->pool_values);
    b->kern->rows_free(rows);
    b->kern->close(b->dev);
    free(b->pool);
    free(query);
}

int main(int argc, char **argv)
{
    uint32_t batch[BATCHES], n = 0, largest = 1, prompt, gen;
    const shape *s = NULL;
    bench b = {0};

    if (argc == 7 && strcmp(argv[1], "topk") == 0) {
        open_device(&b, argv[2], argv[3]);
        search(&b, (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]), (uint32_t)atoi(argv[6]));
        return 0;
    }
    for (size_t i = 0; argc == 7 && i < sizeof(shapes) / sizeof(*shapes); i++) {
        s = strcmp(argv[1], shapes[i].name) == 0 ? &shapes[i] : s;
    }
    if (s == NULL) {
        die("usage: gpu 1b|8b|tiny DEVICE FOLDER PROMPT GEN BATCH,...\n"
            "       gpu topk DEVICE FOLDER ROWS COLUMNS K");
    }
    prompt = (uint32_t)atoi(argv[4]);
    gen = (uint32_t)atoi(argv[5]);
    for (char *p = strtok(argv[6], ","); p != NULL && n < BATCHES; p = strtok(NULL, ",")) {
        batch[n] = (uint32_t)atoi(p);
        largest = batch[n] > largest ? batch[n] : largest;
        n++;
    }
    open_device(&b, argv[2], argv[3]);
    make_model(&b, s);
    load(&b, largest, prompt, gen);
    printf("{\"prefill_tps\":%.6g,\"decode_tps\":{", measure(&b, 1, prompt, prompt));
    for (uint32_t i = 0; i < n; i++) {
        printf("%s\"%u\":%.6g", i > 0 ? "," : "", batch[i], measure(&b, batch[i], gen, 1));
    }
    printf("},");
    print_roofline(&b);
    b.kern->out_free(b.dev, b.logits);
    b.kern->model_free(b.model);
    b.kern->close(b.dev);
    free((void *)b.w.layers);
    free(b.pool);
    free(b.ones);
    free(b.pages);
    free(b.ids);
    free(b.seqs);
    return 0;
}
