#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer.h"

#define MAX_INPUT ((size_t)1 << 28)

static const char help[] =
    "Usage: aiq tokenize --model FILE [--special] < text\n"
    "\n"
    "Prints the ids of the tokens that the text on standard input becomes, on one line.\n"
    "\n"
    "  --model FILE  a GGUF file; one that holds only a vocabulary will do\n"
    "  --special     begin and end as the model wants its texts, and read special tokens that\n"
    "                are written in the text, such as <|im_end|>. Without it, they are text\n"
    "                like any other\n"
    "\n"
    "Example:\n"
    "  printf 'Hello world' | aiq tokenize --model demo/demo.gguf\n";

/* All of standard input, or NULL with errno. */
static char *read_input(size_t *len)
{
    size_t cap = 1 << 16;
    char *p = malloc(cap), *grown;

    *len = 0;
    while (p != NULL) {
        *len += fread(p + *len, 1, cap - *len, stdin);
        if (*len < cap) {
            break;
        }
        if (cap == MAX_INPUT) {
            free(p);
            errno = EFBIG;
            return NULL;
        }
        cap *= 2;
        grown = realloc(p, cap);
        if (grown == NULL) {
            free(p);
        }
        p = grown;
    }
    if (p != NULL && ferror(stdin)) {
        free(p);
        return NULL;
    }
    return p;
}

static int print_ids(const char *command, const tokenizer *t, bool special)
{
    tokenizer_ids ids = {0};
    int32_t bos = tokenizer_bos(t), eos = tokenizer_eos(t);
    size_t len;
    char *text = read_input(&len);
    bool ok;

    if (text == NULL) {
        return cli_error(command, "standard input: %s", strerror(errno));
    }
    ok = (!special || bos == TOKENIZER_NONE || tokenizer_ids_push(&ids, bos)) &&
         tokenizer_encode(t, text, len, special, &ids) &&
         (!special || eos == TOKENIZER_NONE || tokenizer_ids_push(&ids, eos));
    free(text);
    for (size_t i = 0; ok && i < ids.n; i++) {
        printf(i == 0 ? "%d" : " %d", ids.v[i]);
    }
    free(ids.v);
    if (!ok) {
        return cli_error(command, "out of memory");
    }
    printf("\n");
    return CLI_OK;
}

static int tokenize(const char *command, const char *path, bool special)
{
    char err[256];
    gguf *file = gguf_open(path, err, sizeof(err));
    tokenizer *t = file != NULL ? tokenizer_new(file, err, sizeof(err)) : NULL;
    int status;

    if (t == NULL) {
        status = cli_error(command, "%s: %s", path, err);
    } else {
        status = print_ids(command, t, special);
        tokenizer_free(t);
    }
    if (file != NULL) {
        gguf_close(file);
    }
    return status;
}

int cli_tokenize(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"model", required_argument, NULL, 'm'},
        {"special", no_argument, NULL, 's'},
        {0},
    };
    const char *path = NULL;
    bool special = false;
    int c;

    while ((c = cli_next_option(argc, argv, ":hm:", options)) != -1) {
        switch (c) {
        case 'h':
            fputs(help, stdout);
            return CLI_OK;
        case 'm':
            path = optarg;
            break;
        case 's':
            special = true;
            break;
        default:
            return CLI_USAGE;
        }
    }
    if (path == NULL) {
        return cli_usage(argv[0], "--model is missing");
    }
    return tokenize(argv[0], path, special);
}
