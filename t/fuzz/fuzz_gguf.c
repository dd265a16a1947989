/* A model file from anywhere: reader, tokenizer, model and, where all of them agree, one step.
 * A model in two files: the bytes "SPLT", the first one's length as four bytes, then both. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/chat.h"
#include "infer/gguf.h"
#include "infer/model.h"
#include "infer/sampler.h"
#include "infer/tokenizer.h"

/* Enough for the corpus; larger models only cost time. */
#define MAX_STATE (1 << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void step(const infer_model *m, const int32_t *ids, uint32_t n)
{
    const kern_config *c = &m->config;
    const aiq_kernels *k = &aiq_kernels_cpu;
    kern_device *dev = k->open(0, 1);
    kern_model *km = k->model_load(dev, c, &m->weights, n, 1, 1);
    const uint32_t page = 0;
    float *logits = malloc(c->n_vocab * sizeof(*logits));
    sampler_candidate *scratch = malloc(c->n_vocab * sizeof(*scratch));
    uint32_t *counts = calloc(c->n_vocab, sizeof(*counts));
    sampler_context context = {.ids = ids, .n_prompt = n};
    kern_seq seq = {.pages = &page, .ids = ids, .n = n, .n_logits = 1};
    sampler s = {.temperature = 1, .top_p = 0.9f, .top_k = 20, .repetition = 1.1f};
    int32_t id;

    k->step(km, &seq, 1, logits);
    id = sampler_pick(&s, &context, logits, c->n_vocab, scratch, counts);
    if (id < -1 || id >= (int32_t)c->n_vocab) {
        abort();
    }
    free(counts);
    free(scratch);
    free(logits);
    k->model_free(km);
    k->close(dev);
}

static void use_tokenizer(const gguf *g, const tokenizer *t, tokenizer_ids *ids)
{
    static const char text[] = "Hello  world, it's 123 \xc3\xa9\xff <|im_end|>\n";
    infer_message msg = {.role = "user", .content = text, .content_len = sizeof(text) - 1};
    char err[256];
    chat_template *chat = chat_template_new(g, t, err, sizeof(err));
    bool thought;
    size_t len;

    tokenizer_encode(t, text, sizeof(text) - 1, true, ids);
    if (chat != NULL) {
        chat_render(chat, t, &(chat_talk){.messages = &msg, .n = 1}, 1 << 16, ids, &thought,
                    err, sizeof(err));
        chat_template_free(chat);
    }
    for (size_t i = 0; i < ids->n; i++) {
        if (ids->v[i] < 0 || (uint32_t)ids->v[i] >= tokenizer_n_vocab(t)) {
            abort();
        }
        tokenizer_piece(t, ids->v[i], &len);
        if (len > tokenizer_max_piece(t)) {
            abort();
        }
    }
}

static gguf *parse_two(const uint8_t *data, size_t size, char *err, size_t errlen)
{
    gguf *parts[2] = {0};
    uint32_t first;

    memcpy(&first, data + 4, sizeof(first));
    data += 8;
    size -= 8;
    if (first <= size && first % 8 == 0) { /* floats stay where they may lie */
        parts[0] = gguf_parse(data, first, err, errlen);
        parts[1] = gguf_parse(data + first, size - first, err, errlen);
    }
    if (parts[0] != NULL && parts[1] != NULL) {
        if (gguf_join(parts, 2, err, errlen)) {
            return parts[0];
        }
        parts[1] = NULL; /* the first one's */
    }
    for (int i = 0; i < 2; i++) {
        if (parts[i] != NULL) {
            gguf_close(parts[i]);
        }
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[256];
    bool two = size >= 8 && memcmp(data, "SPLT", 4) == 0;
    gguf *g = two ? parse_two(data, size, err, sizeof(err))
                  : gguf_parse(data, size, err, sizeof(err));
    tokenizer *t = g != NULL ? tokenizer_new(g, err, sizeof(err)) : NULL;
    tokenizer_ids ids = {0};
    infer_model m;

    if (t != NULL) {
        use_tokenizer(g, t, &ids);
        if (infer_model_read(&m, g, tokenizer_n_vocab(t), err, sizeof(err))) {
            if (ids.n > 0 && m.config.n_ctx <= MAX_STATE) {
                step(&m, ids.v, ids.n < 4 ? (uint32_t)ids.n : 4);
            }
            infer_model_free(&m);
        }
        free(ids.v);
        tokenizer_free(t);
    }
    if (g != NULL) {
        gguf_close(g);
    }
    return 0;
}
