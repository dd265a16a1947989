/* A model for vectors of texts, from anywhere: read, and where it is one, a text through it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "infer/embed_model.h"
#include "infer/lexical.h"
#include "infer/tokenizer.h"

/* Enough for the corpus; larger models, and longer texts, only cost time. */
#define MAX_STATE (1 << 12)
#define MAX_TEXT  512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const embed_model *m, const tokenizer_ids *ids)
{
    const kern_config *c = &m->model.config;
    const aiq_kernels *k = &aiq_kernels_cpu;
    uint32_t n = (uint32_t)ids->n < c->n_ctx ? (uint32_t)ids->n : c->n_ctx;
    const kern_text texts[] = {{ids->v, n}, {ids->v, 1}};
    kern_device *dev = k->open(0, 1);
    kern_model *km = k->model_load(dev, c, &m->model.weights, n + 1, 2, 0);
    float *out = malloc(2 * (size_t)c->d_model * sizeof(*out));

    k->encode(km, texts, 2, m->pooling, out);
    free(out);
    k->model_free(km);
    k->close(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "a Bc  \xc3\xa9\xff, d!";
    char err[256];
    gguf *g = gguf_parse(data, size, err, sizeof(err));
    tokenizer *t = g != NULL ? tokenizer_new(g, err, sizeof(err)) : NULL;
    tokenizer_ids ids = {0};
    float words[LEXICAL_DIM];
    embed_model m;

    lexical_embed((const char *)data, size < MAX_TEXT ? size : MAX_TEXT, words, NULL);
    if (t != NULL && embed_model_is(g) &&
        embed_model_read(&m, g, tokenizer_n_vocab(t), err, sizeof(err))) {
        tokenizer_encode(t, text, sizeof(text) - 1, false, &ids);
        if (ids.n > 0 && m.model.config.n_ctx <= MAX_STATE) {
            encode(&m, &ids);
        }
        embed_model_free(&m);
    }
    free(ids.v);
    if (t != NULL) {
        tokenizer_free(t);
    }
    if (g != NULL) {
        gguf_close(g);
    }
    return 0;
}
