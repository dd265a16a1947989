/* aiq models: what is in a folder of models, whether it can be loaded, and what that takes. */
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/gguf.h"
#include "infer/embed_model.h"
#include "infer/model_files.h"
#include "infer/tokenizer.h"
#include "infer/unicode.h"

static const char help[] =
    "Usage: aiq models [DIR] [--json]\n"
    "       aiq models pull URL --sha256 SUM [--to DIR]\n"
    "\n"
    "Lists the GGUF files of a folder (.), one line a model: its name, architecture,\n"
    "parameters, the bytes of its weights, the tokens of its context, the bytes of a context\n"
    "that is full (0: of a model for vectors of texts, which keeps none), and \"ok\", or why\n"
    "it cannot be loaded.\n"
    "\n"
    "\"aiq models pull\" gets one; its own help says how.\n"
    "\n"
    "Example:\n"
    "  aiq models /var/lib/aiq/models\n";

/* What one file is; error: why it is none. */
typedef struct {
    char *name;
    char error[256];
    char architecture[32];
    uint64_t parameters, bytes, context, context_bytes;
} listed;

/* Keys and values of all layers, as the CPU has them. */
static uint64_t context_bytes(const kern_config *c)
{
    return aiq_kernels_cpu.page_bytes(NULL, c) * ((c->n_ctx + KERN_PAGE - 1) / KERN_PAGE);
}

static void look_inside(listed *l, const gguf *g)
{
    bool vectors = embed_model_is(g), ok;
    embed_model m = {0};
    tokenizer *t;

    l->bytes = gguf_size(g);
    if (!vectors && !infer_model_is(g, l->error, sizeof(l->error))) {
        return;
    }
    t = tokenizer_new(g, l->error, sizeof(l->error));
    if (t == NULL) {
        return;
    }
    ok = vectors
             ? embed_model_read(&m, g, tokenizer_n_vocab(t), l->error, sizeof(l->error))
             : infer_model_read(&m.model, g, tokenizer_n_vocab(t), l->error, sizeof(l->error));
    if (ok) {
        l->error[0] = '\0';
        snprintf(l->architecture, sizeof(l->architecture), "%s", m.model.architecture);
        l->parameters = m.model.n_params;
        l->context = m.model.config.n_ctx;
        l->context_bytes = vectors ? 0 : context_bytes(&m.model.config); /* nothing is kept */
        infer_model_free(&m.model);
    }
    tokenizer_free(t);
}

/* NAME of NAME.gguf and of NAME-00001-of-00003.gguf. */
static char *name_of(const char *file)
{
    size_t len = strlen(file) - strlen(".gguf");

    return strndup(file, model_file_is_part(file, 1) ? len - strlen("-00001-of-00003") : len);
}

/* Names of files are any bytes: of what is no character of UTF-8, or none that is seen, a
 * question mark. */
static void make_readable(char *text)
{
    uint32_t cp;
    int n;

    for (size_t len = strlen(text); len > 0; text += n, len -= (size_t)n) {
        n = utf8_next(text, len, &cp);
        if (n <= 0 || cp < ' ' || cp == 0x7f) {
            *text = '?';
            n = 1;
        }
    }
}

static bool look_at(listed *l, const char *folder, const char *file)
{
    char *path;
    gguf *g;

    if (asprintf(&path, "%s/%s", folder, file) < 0) {
        return false;
    }
    l->name = name_of(file);
    g = gguf_open(path, l->error, sizeof(l->error));
    free(path);
    if (g != NULL) {
        look_inside(l, g);
        gguf_close(g);
    }
    make_readable(l->error);
    if (l->name != NULL) {
        make_readable(l->name);
    }
    return l->name != NULL;
}

static void print_line(const listed *l)
{
    if (l->error[0] != '\0') {
        printf("%s\t-\t-\t-\t-\t-\t%s\n", l->name, l->error);
    } else {
        printf("%s\t%s\t%llu\t%llu\t%llu\t%llu\tok\n", l->name, l->architecture,
               (unsigned long long)l->parameters, (unsigned long long)l->bytes,
               (unsigned long long)l->context, (unsigned long long)l->context_bytes);
    }
}

static json_t *as_json(const listed *l)
{
    if (l->error[0] != '\0') {
        return json_pack("{s:s, s:b, s:s}", "name", l->name, "loadable", 0, "reason", l->error);
    }
    return json_pack("{s:s, s:b, s:s, s:I, s:I, s:I, s:I}", "name", l->name, "loadable", 1,
                     "architecture", l->architecture, "parameters", (json_int_t)l->parameters,
                     "bytes", (json_int_t)l->bytes, "context", (json_int_t)l->context,
                     "context_bytes", (json_int_t)l->context_bytes);
}

static int is_model(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');

    return end != NULL && end != entry->d_name && strcmp(end, ".gguf") == 0 &&
           !model_file_is_part(entry->d_name, 0);
}

static int list(const char *command, const char *folder, bool json)
{
    struct dirent **files;
    int n = scandir(folder, &files, is_model, alphasort), status = CLI_OK;
    json_t *all = json ? json_array() : NULL;

    if (n < 0) {
        json_decref(all);
        return cli_error(command, "%s: %s", folder, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        listed l = {0};

        if (status == CLI_OK && !look_at(&l, folder, files[i]->d_name)) {
            status = cli_error(command, "out of memory");
        } else if (status == CLI_OK && json) {
            json_array_append_new(all, as_json(&l));
        } else if (status == CLI_OK) {
            print_line(&l);
        }
        free(l.name);
        free(files[i]);
    }
    free(files);
    if (json && status == CLI_OK) {
        json_dumpf(all, stdout, JSON_COMPACT);
        printf("\n");
    }
    json_decref(all);
    return status;
}

int cli_models(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"json", no_argument, NULL, 'j'},
        {0},
    };
    const char *folder = ".";
    bool json = false;
    int c;

    if (argc > 1 && strcmp(argv[1], "pull") == 0) {
        return cli_pull(argc - 1, argv + 1);
    }
    if (argc > 1 && argv[1][0] != '-') {
        folder = argv[1];
        argv[1] = argv[0];
        argc--;
        argv++;
    }
    while ((c = cli_next_option(argc, argv, ":h", options)) != -1) {
        switch (c) {
        case 'h':
            fputs(help, stdout);
            return CLI_OK;
        case 'j':
            json = true;
            break;
        default:
            return CLI_USAGE;
        }
    }
    return list(argv[0], folder, json);
}
