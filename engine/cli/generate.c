#include "cli/cli.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/infer.h"
#include "infer/tokenizer.h"

#define DEFAULT_N           128
#define DEFAULT_TEMPERATURE 0.8f
#define DEFAULT_TOP_K       40
#define DEFAULT_TOP_P       0.95f

static const char help[] =
    "Usage: aiq generate --model FILE (--prompt TEXT | --ids LIST) [options]\n"
    "\n"
    "Continues a prompt and prints the continuation as it comes.\n"
    "\n"
    "  --model FILE       a GGUF file\n"
    "  --prompt TEXT      the prompt; special tokens written in it count as such, and what "
    "the\n"
    "                     model wants before a prompt is added\n"
    "  --ids 1,2,3        the prompt as token ids, used as they stand\n"
    "  -n N               at most N tokens (128)\n"
    "  --greedy           always the most likely token; without it, one is drawn:\n"
    "  --temperature T    flatter above 1, sharper below, from 0 to 2 (0.8)\n"
    "  --top-k K          among the K most likely, 0 for all (40)\n"
    "  --top-p P          among the most likely that together reach P (0.95)\n"
    "  --seed S           the same seed draws the same tokens (random)\n"
    "  --json             print {\"ids\":[...],\"text\":\"...\"} when done\n"
    "\n"
    "Generation ends early where the model ends its turn; that token is not printed.\n"
    "\n"
    "Example:\n"
    "  aiq generate --model demo/demo.gguf --greedy -n 40 --prompt '<|im_start|>user\n"
    "  What is aiq?<|im_end|>\n"
    "  <|im_start|>assistant\n"
    "  '\n";

typedef struct {
    const char *model;
    const char *prompt;
    tokenizer_ids ids;
    bool json;
    infer_params params;
} arguments;

/* Where the model's thread tells the main thread how it goes. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool done;
    bool json;
    int32_t *ids; /* a copy */
    uint32_t n_ids;
    char *text; /* gathered for json */
    size_t len;
    char error[256];
} progress;

static void keep_text(progress *p, const char *text, size_t len)
{
    char *grown = realloc(p->text, p->len + len);

    if (grown == NULL) {
        snprintf(p->error, sizeof(p->error), "out of memory");
        return;
    }
    memcpy(grown + p->len, text, len);
    p->text = grown;
    p->len += len;
}

static void keep_ids(progress *p, const int32_t *ids, uint32_t n)
{
    p->ids = malloc((n + 1) * sizeof(*p->ids));
    if (p->ids == NULL) {
        snprintf(p->error, sizeof(p->error), "out of memory");
        return;
    }
    memcpy(p->ids, ids, n * sizeof(*p->ids));
    p->n_ids = n;
}

static void on_event(void *arg, const infer_event *ev)
{
    progress *p = arg;

    switch (ev->type) {
    case INFER_TEXT:
        if (p->json) {
            keep_text(p, ev->text, ev->len);
        } else {
            fwrite(ev->text, 1, ev->len, stdout);
            fflush(stdout);
        }
        return;
    case INFER_DONE:
        keep_ids(p, ev->ids, ev->completion_tokens);
        break;
    case INFER_FAILED:
        snprintf(p->error, sizeof(p->error), "%s", ev->error);
        break;
    }
    pthread_mutex_lock(&p->lock);
    p->done = true;
    pthread_cond_signal(&p->over);
    pthread_mutex_unlock(&p->lock);
}

static int print_json(const char *command, const progress *p)
{
    json_t *ids = json_array();
    json_t *all =
        json_pack("{s:o, s:s%}", "ids", ids, "text", p->text != NULL ? p->text : "", p->len);

    for (uint32_t i = 0; i < p->n_ids; i++) {
        json_array_append_new(ids, json_integer(p->ids[i]));
    }
    if (all == NULL || json_dumpf(all, stdout, JSON_COMPACT) != 0) {
        json_decref(all);
        return cli_error(command, "out of memory");
    }
    json_decref(all);
    return CLI_OK;
}

static int run(const char *command, infer *m, const arguments *a)
{
    progress p = {
        .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER, .json = a->json};
    infer_req *req;
    char err[256];
    int status = CLI_OK;

    if (infer_submit(m, &a->params, on_event, &p, &req, err, sizeof(err)) != INFER_OK) {
        return cli_error(command, "%s", err);
    }
    pthread_mutex_lock(&p.lock);
    while (!p.done) {
        pthread_cond_wait(&p.over, &p.lock);
    }
    pthread_mutex_unlock(&p.lock);
    infer_release(req);

    if (p.error[0] != '\0') {
        status = cli_error(command, "%s", p.error);
    } else if (a->json) {
        status = print_json(command, &p);
    }
    if (status == CLI_OK) {
        printf("\n");
    }
    free(p.ids);
    free(p.text);
    return status;
}

static int generate(const char *command, arguments *a)
{
    infer_options opt = {.progress = cli_progress_bar()};
    char err[256];
    infer *m = infer_open(a->model, &opt, err, sizeof(err));
    int32_t bos;
    int status;

    if (m == NULL) {
        return cli_error(command, "%s: %s", a->model, err);
    }
    bos = tokenizer_bos(infer_tokenizer(m));
    if (a->prompt != NULL &&
        ((bos != TOKENIZER_NONE && !tokenizer_ids_push(&a->ids, bos)) ||
         !tokenizer_encode(infer_tokenizer(m), a->prompt, strlen(a->prompt), true, &a->ids))) {
        status = cli_error(command, "out of memory");
    } else {
        a->params.ids = a->ids.v;
        a->params.n_ids = a->ids.n;
        status = run(command, m, a);
    }
    infer_close(m);
    return status;
}

/* Numbers with commas or spaces between them: what aiq tokenize prints will do. */
static bool parse_ids(const char *text, tokenizer_ids *ids)
{
    uint64_t id;
    char number[16];
    size_t len;

    for (text += strspn(text, ", "); *text != '\0'; text += strspn(text, ", ")) {
        len = strcspn(text, ", ");
        if (len >= sizeof(number)) {
            return false;
        }
        memcpy(number, text, len);
        number[len] = '\0';
        if (!cli_parse_uint(number, INT32_MAX, &id) || !tokenizer_ids_push(ids, (int32_t)id)) {
            return false;
        }
        text += len;
    }
    return ids->n > 0;
}

enum { OPT_GREEDY = 256, OPT_IDS, OPT_JSON, OPT_SEED, OPT_TEMPERATURE, OPT_TOP_K, OPT_TOP_P };

/* False if the option's value is wrong. */
static bool take_option(arguments *a, int c)
{
    uint64_t u = 0;
    bool ok = true;

    switch (c) {
    case 'm':
        a->model = optarg;
        break;
    case 'p':
        a->prompt = optarg;
        break;
    case 'n':
        ok = cli_parse_uint(optarg, INT32_MAX, &u) && u > 0;
        a->params.max_tokens = (uint32_t)u;
        break;
    case OPT_IDS:
        ok = parse_ids(optarg, &a->ids);
        break;
    case OPT_GREEDY:
        a->params.temperature = 0;
        break;
    case OPT_TEMPERATURE:
        ok = cli_parse_float(optarg, 2, &a->params.temperature);
        break;
    case OPT_TOP_K:
        ok = cli_parse_uint(optarg, INT32_MAX, &u);
        a->params.top_k = (uint32_t)u;
        break;
    case OPT_TOP_P:
        ok = cli_parse_float(optarg, 1, &a->params.top_p);
        break;
    case OPT_SEED:
        ok = cli_parse_uint(optarg, UINT64_MAX, &a->params.seed);
        a->params.has_seed = true;
        break;
    case OPT_JSON:
        a->json = true;
        break;
    }
    return ok;
}

int cli_generate(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"model", required_argument, NULL, 'm'},
        {"prompt", required_argument, NULL, 'p'},
        {"ids", required_argument, NULL, OPT_IDS},
        {"greedy", no_argument, NULL, OPT_GREEDY},
        {"temperature", required_argument, NULL, OPT_TEMPERATURE},
        {"top-k", required_argument, NULL, OPT_TOP_K},
        {"top-p", required_argument, NULL, OPT_TOP_P},
        {"seed", required_argument, NULL, OPT_SEED},
        {"json", no_argument, NULL, OPT_JSON},
        {0},
    };
    arguments a = {.params = {.max_tokens = DEFAULT_N,
                              .temperature = DEFAULT_TEMPERATURE,
                              .top_k = DEFAULT_TOP_K,
                              .top_p = DEFAULT_TOP_P}};
    int c, status;

    while ((c = cli_next_option(argc, argv, ":hm:p:n:", options)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return CLI_OK;
        }
        if (c == '?') {
            free(a.ids.v);
            return CLI_USAGE;
        }
        if (!take_option(&a, c)) {
            free(a.ids.v);
            return cli_usage(argv[0], "%s is not a value for this option", optarg);
        }
    }
    if (a.model == NULL) {
        status = cli_usage(argv[0], "--model is missing");
    } else if ((a.prompt == NULL) == (a.ids.n == 0)) {
        status = cli_usage(argv[0], "one of --prompt and --ids is needed");
    } else {
        status = generate(argv[0], &a);
    }
    free(a.ids.v);
    return status;
}
