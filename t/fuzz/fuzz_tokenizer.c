/*
 * Any text through every family of tokenizers: ids are inside the vocabulary, byte-level ids
 * spell the text again, and a mark keeps control tokens out.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../unit/tiny_model.h"
#include "infer/tokenizer.h"

static const char *const pres[] = {
    "gpt-2",  "llama-bpe", "minicpm5", "qwen2",        "seed-coder",     "smollm",
    "tekken", "gpt-4o",    "falcon",   "deepseek-llm", "deepseek-coder", "default",
};

enum { N_BPE = sizeof(pres) / sizeof(*pres), WPM = N_BPE, N = N_BPE + 1 };

static tokenizer *tokenizers[N];
static gguf *files[N]; /* stay open: a tokenizer points into its file */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tokenizer *finish(gw *w, int i)
{
    char err[256];
    size_t size;
    uint8_t *file = gw_finish(w, &size);
    gguf *g = files[i] = gguf_parse(file, size, err, sizeof(err));
    tokenizer *t = g != NULL ? tokenizer_new(g, err, sizeof(err)) : NULL;

    if (t == NULL) {
        abort();
    }
    return t;
}

static tokenizer *word_pieces(void)
{
    static const char *const tokens[] = {"[UNK]", "\xe2\x96\x81th", "e", "\xe2\x96\x81t",
                                         "\xe2\x96\x81!"};
    gw w = {0};

    gw_str(&w, "tokenizer.ggml.model", "bert");
    gw_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, 5);
    for (int i = 0; i < 5; i++) {
        gw_put_str(&w.kvs, tokens[i]);
    }
    return finish(&w, WPM);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    for (int i = 0; i < N_BPE; i++) {
        gw w = {0};

        tiny_vocab(&w, &(tiny_model){.skip_key = "tokenizer.ggml.pre"});
        gw_str(&w, "tokenizer.ggml.pre", pres[i]);
        tokenizers[i] = finish(&w, i);
    }
    tokenizers[WPM] = word_pieces();
    return 0;
}

static void check_bytes(const tokenizer *t, const tokenizer_ids *ids, const char *text,
                        size_t size)
{
    size_t at = 0, len;

    for (size_t i = 0; i < ids->n; i++) {
        const char *piece = tokenizer_piece(t, ids->v[i], &len);

        if (len > size - at || memcmp(piece, text + at, len) != 0) {
            abort();
        }
        at += len;
    }
    if (at != size) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    char *marks = malloc(size + 1);

    memset(marks, 1, size + 1);
    for (int i = 0; i < N; i++) {
        tokenizer_ids ids = {0}, marked = {0};

        tokenizer_encode(tokenizers[i], text, size, false, &ids);
        if (i != WPM) {
            check_bytes(tokenizers[i], &ids, text, size);
        }
        tokenizer_encode_marked(tokenizers[i], text, marks, size, &marked);
        if (marked.n != ids.n ||
            (ids.n > 0 && memcmp(ids.v, marked.v, ids.n * sizeof(*ids.v)) != 0)) {
            abort();
        }
        free(ids.v);
        free(marked.v);
    }
    free(marks);
    return 0;
}
