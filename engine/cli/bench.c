#include "cli/cli.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/devices.h"
#include "infer/gguf.h"
#include "infer/model.h"
#include "infer/tokenizer.h"
#include "kernels/aiq_kernels.h"

#define DEFAULT_PROMPT 512
#define DEFAULT_GEN    64
#define MAX_TOKENS     65536
#define MAX_BATCH      256
#define MAX_BATCHES    8
#define MAX_THREADS    256

static const char help[] =
    "Usage: aiq bench --model FILE [options]\n"
    "\n"
    "Measures how many tokens a second a model reads and writes on this machine: the\n"
    "kernels alone, without tokenizer and sampling. Each figure is the second of two runs.\n"
    "\n"
    "  --model FILE         a GGUF file\n"
    "  --prompt-tokens N    read a prompt of N tokens; 0 leaves this out (512)\n"
    "  --gen-tokens N       write N tokens; 0 leaves this out (64)\n"
    "  --batch LIST         this many sequences at once, such as 1,8,32 (1)\n"
    "  --threads T          threads that compute (one for each processor)\n"
    "  --device NAME        cpu, or NAME or NAME:INDEX of a library libaiq_NAME.so (cpu)\n"
    "  --kernels DIR        where that library lies (beside the program, or ../lib/aiq)\n"
    "  --json               print {\"prefill_tps\":...,\"decode_tps\":{\"1\":...}}\n"
    "\n"
    "Example:\n"
    "  aiq bench --model demo/demo.gguf --prompt-tokens 128 --gen-tokens 16 --batch 1,8\n";

typedef struct {
    const char *model;
    uint32_t prompt;
    uint32_t gen;
    uint32_t batch[MAX_BATCHES];
    uint32_t n_batches;
    uint32_t threads;
    const char *device;
    const char *kernels;
    bool json;
} arguments;

typedef struct {
    const char *command;
    devices *devices;
    const aiq_kernels *kern;
    gguf *file;
    tokenizer *tok;
    infer_model model;
    kern_device *dev;
    kern_model *km;
    float *logits;   /* [largest batch][n_vocab] */
    int32_t *ids;    /* [tokens of the longest sequence] */
    kern_seq *seqs;  /* [largest batch] */
    uint32_t *pages; /* [of all sequences] in order */
    uint32_t largest;
} bench;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < MAX_THREADS ? (uint32_t)n : MAX_THREADS;
}

static uint32_t pages_for(uint32_t tokens)
{
    return (tokens + KERN_PAGE - 1) / KERN_PAGE;
}

/* Seconds that n sequences take to read tokens from pos to end, or a negative number. */
static double run(bench *b, uint32_t n, uint32_t end, bool one_by_one)
{
    double start = now();

    for (uint32_t pos = 0; pos < end;) {
        uint32_t step = one_by_one ? 1 : end;

        for (uint32_t i = 0; i < n; i++) {
            kern_seq *s = &b->seqs[i];

            s->ids = b->ids + pos;
            s->n = step;
            s->pos = pos;
            s->n_logits = 1;
        }
        if (!b->kern->step(b->km, b->seqs, n, b->logits)) {
            return -1;
        }
        pos += step;
    }
    return now() - start;
}

/* Tokens a second, the second of two runs; a negative number where memory is short. */
static double measure(bench *b, uint32_t n, uint32_t tokens, bool one_by_one)
{
    double seconds = 0;

    for (uint32_t i = 0; i < n; i++) {
        b->seqs[i].pages = b->pages + (size_t)i * pages_for(tokens);
    }
    for (int i = 0; i < 2 && seconds >= 0; i++) {
        seconds = run(b, n, tokens, one_by_one);
    }
    return seconds > 0 ? (double)n * tokens / seconds : -1;
}

static void on_device(void *arg, devices_event event, const char *name, const char *why,
                      const devices_user *user)
{
    const bench *b = arg;

    (void)user;
    if (event == DEVICES_LACKING) {
        cli_error(b->command, "--device %s: %s", name, why);
    }
}

/* The first device of those that are named. */
static bool open_device(bench *b, const arguments *a)
{
    const device *dev;

    b->devices = devices_open(a->device, a->kernels, on_device, b);
    dev = devices_at(b->devices, 0);
    if (devices_count(b->devices) == 1 && strcmp(a->device, dev->name) != 0 &&
        strcmp(a->device, "auto") != 0) {
        return false; /* it was said */
    }
    b->kern = dev->kern;
    b->dev = b->kern->open(dev->index, a->threads);
    if (b->dev == NULL) {
        cli_error(b->command, "%s", b->kern->last_error(NULL));
    }
    return b->dev != NULL;
}

static bool load(bench *b, const arguments *a)
{
    uint32_t longest = a->prompt > a->gen ? a->prompt : a->gen, n_vocab, pages;
    char err[256] = "out of memory";

    b->file = gguf_open(a->model, err, sizeof(err));
    b->tok = b->file != NULL ? tokenizer_new(b->file, err, sizeof(err)) : NULL;
    if (b->tok == NULL ||
        !infer_model_read(&b->model, b->file, tokenizer_n_vocab(b->tok), err, sizeof(err))) {
        cli_error(b->command, "%s: %s", a->model, err);
        return false;
    }
    n_vocab = b->model.config.n_vocab;
    if (longest > b->model.config.n_ctx) {
        cli_error(b->command, "the model's context is %u tokens", b->model.config.n_ctx);
        return false;
    }
    gguf_read_ahead(b->file, cli_progress_bar(), NULL);
    if (!open_device(b, a)) {
        return false;
    }
    pages = b->largest * pages_for(longest);
    b->km =
        b->kern->model_load(b->dev, &b->model.config, &b->model.weights,
                            a->prompt > b->largest ? a->prompt : b->largest, b->largest, pages);
    b->logits =
        b->km != NULL ? b->kern->out_alloc(b->dev, (uint64_t)b->largest * n_vocab) : NULL;
    if (b->logits == NULL) {
        cli_error(b->command, "%s", b->kern->last_error(b->dev));
        return false;
    }
    b->ids = malloc(longest * sizeof(*b->ids));
    b->pages = malloc(pages * sizeof(*b->pages));
    b->seqs = calloc(b->largest, sizeof(*b->seqs));
    if (b->ids == NULL || b->pages == NULL || b->seqs == NULL) {
        cli_error(b->command, "%s", err);
        return false;
    }
    for (uint32_t i = 0; i < pages; i++) {
        b->pages[i] = i;
    }
    for (uint32_t i = 0; i < longest; i++) {
        b->ids[i] = (int32_t)((i * (uint64_t)7919 + 300) % n_vocab);
    }
    return true;
}

static void unload(bench *b)
{
    if (b->logits != NULL) {
        b->kern->out_free(b->dev, b->logits);
    }
    if (b->km != NULL) {
        b->kern->model_free(b->km);
    }
    if (b->dev != NULL) {
        b->kern->close(b->dev);
    }
    infer_model_free(&b->model);
    if (b->tok != NULL) {
        tokenizer_free(b->tok);
    }
    if (b->file != NULL) {
        gguf_close(b->file);
    }
    free(b->ids);
    free(b->pages);
    free(b->seqs);
    if (b->devices != NULL) {
        devices_close(b->devices);
    }
}

static void print(const arguments *a, double prefill, const double *decode)
{
    if (a->json) {
        printf("{\"prefill_tps\":%.6g,\"decode_tps\":{", prefill);
    } else if (a->prompt > 0) {
        printf("prefill, %u tokens: %.1f tokens/s\n", a->prompt, prefill);
    }
    for (uint32_t i = 0; i < a->n_batches && a->gen > 0; i++) {
        printf(a->json ? "%s\"%u\":%.6g" : "%sdecode, batch of %u: %.1f tokens/s\n",
               a->json && i > 0 ? "," : "", a->batch[i], decode[i]);
    }
    if (a->json) {
        printf("}}\n");
    }
}

static int bench_model(const char *command, const arguments *a)
{
    bench b = {.command = command, .largest = 1};
    double prefill = 0, decode[MAX_BATCHES] = {0};
    bool ok;

    for (uint32_t i = 0; i < a->n_batches; i++) {
        b.largest = a->batch[i] > b.largest ? a->batch[i] : b.largest;
    }
    ok = load(&b, a);
    if (ok && a->prompt > 0) {
        prefill = measure(&b, 1, a->prompt, false);
        ok = prefill > 0;
    }
    for (uint32_t i = 0; i < a->n_batches && a->gen > 0 && ok; i++) {
        decode[i] = measure(&b, a->batch[i], a->gen, true);
        ok = decode[i] > 0;
    }
    if (!ok && b.seqs != NULL) {
        cli_error(command, "%s", b.kern->last_error(b.dev));
    }
    if (ok) {
        print(a, prefill, decode);
    }
    unload(&b);
    return ok ? CLI_OK : CLI_FAILED;
}

static bool parse_batches(const char *text, arguments *a)
{
    uint64_t u;
    char number[8];
    size_t len;

    for (a->n_batches = 0; a->n_batches < MAX_BATCHES; a->n_batches++) {
        len = strcspn(text, ",");
        if (len >= sizeof(number)) {
            return false;
        }
        memcpy(number, text, len);
        number[len] = '\0';
        if (!cli_parse_uint(number, MAX_BATCH, &u) || u == 0) {
            return false;
        }
        a->batch[a->n_batches] = (uint32_t)u;
        text += len;
        if (*text == '\0') {
            a->n_batches++;
            return true;
        }
        text++;
    }
    return false;
}

enum { OPT_BATCH = 256, OPT_DEVICE, OPT_GEN, OPT_JSON, OPT_KERNELS, OPT_PROMPT, OPT_THREADS };

/* False if the option's value is wrong. */
static bool take_option(arguments *a, int c)
{
    uint64_t u = 0;
    bool ok = true;

    switch (c) {
    case 'm':
        a->model = optarg;
        break;
    case OPT_PROMPT:
        ok = cli_parse_uint(optarg, MAX_TOKENS, &u);
        a->prompt = (uint32_t)u;
        break;
    case OPT_GEN:
        ok = cli_parse_uint(optarg, MAX_TOKENS, &u);
        a->gen = (uint32_t)u;
        break;
    case OPT_BATCH:
        ok = parse_batches(optarg, a);
        break;
    case OPT_THREADS:
        ok = cli_parse_uint(optarg, MAX_THREADS, &u) && u > 0;
        a->threads = (uint32_t)u;
        break;
    case OPT_DEVICE:
        ok = devices_valid(optarg);
        a->device = optarg;
        break;
    case OPT_KERNELS:
        a->kernels = optarg;
        break;
    case OPT_JSON:
        a->json = true;
        break;
    }
    return ok;
}

int cli_bench(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"model", required_argument, NULL, 'm'},
        {"prompt-tokens", required_argument, NULL, OPT_PROMPT},
        {"gen-tokens", required_argument, NULL, OPT_GEN},
        {"batch", required_argument, NULL, OPT_BATCH},
        {"threads", required_argument, NULL, OPT_THREADS},
        {"device", required_argument, NULL, OPT_DEVICE},
        {"kernels", required_argument, NULL, OPT_KERNELS},
        {"json", no_argument, NULL, OPT_JSON},
        {0},
    };
    arguments a = {.prompt = DEFAULT_PROMPT,
                   .gen = DEFAULT_GEN,
                   .batch = {1},
                   .n_batches = 1,
                   .threads = processors(),
                   .device = "cpu"};
    int c;

    while ((c = cli_next_option(argc, argv, ":hm:", options)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return CLI_OK;
        }
        if (c == '?') {
            return CLI_USAGE;
        }
        if (!take_option(&a, c)) {
            return cli_usage(argv[0], "%s is not a value for this option", optarg);
        }
    }
    if (a.model == NULL) {
        return cli_usage(argv[0], "--model is missing");
    }
    return bench_model(argv[0], &a);
}
