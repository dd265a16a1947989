/*
 * A tiny Llama in GGUF, complete with vocabulary and chat template: 2 layers, width 64, 4 heads
 * on 2, 512 tokens, 256 of them the bytes. Its weights are seeded noise. Tests bend it by
 * fields of tiny_model.
 */
#ifndef T_TINY_MODEL_H
#define T_TINY_MODEL_H

#include <stdio.h>

#include "gguf_writer.h"

enum {
    TINY_VOCAB = 512,
    TINY_WIDTH = 64,
    TINY_CTX = 128,
    TINY_THE = 258, /* "the" */
    TINY_CONTROL = 508,
    TINY_END_OF_TEXT = 509,
    TINY_IM_START = 510,
    TINY_IM_END = 511
};

#define TINY_CHATML                                                                            \
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "               \
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"                                  \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

typedef struct {
    uint32_t tensor_type; /* of the matrices */
    uint64_t seed;
    const char *chat_template; /* NULL: TINY_CHATML */
    const char *skip_key;      /* is left out, so that a test can write its own */
    const char *skip_tensor;
    float scale;         /* of the weights; 0: 1 */
    const char *control; /* another control token, in place of 508 */
} tiny_model;

/* GPT-2's way to write a byte, by enumeration: the code under test has a closed form. */
static inline const char *tiny_byte_text(unsigned byte, char out[3])
{
    unsigned cp = byte, next = 0x100;

    for (unsigned b = 0; b <= byte; b++) {
        int printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

        if (!printable) {
            cp = next++;
        } else {
            cp = b;
        }
    }
    memset(out, 0, 3);
    if (cp < 0x80) {
        out[0] = (char)cp;
    } else {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
    }
    return out;
}

/* Tokens 256 on: results of the merges, in their order. U+0120 is a space, U+010A \n. */
static const char *const tiny_merged[] = {
    "th", "\xc4\xa0t",        "the",       "\xc4\xa0the", "s\xc4\xa0",
    "'s", "\xc4\xa0\xc4\xa0", "1\xc4\xa0", "12"};
static const char *const tiny_merges[] = {
    "t h", "\xc4\xa0 t",        "th e",       "\xc4\xa0t he", "s \xc4\xa0",
    "' s", "\xc4\xa0 \xc4\xa0", "1 \xc4\xa0", "1 2",          "\xc4\xa0 the",
};

static inline int tiny_skips(const char *skip, const char *name)
{
    return skip != NULL && strcmp(skip, name) == 0;
}

static inline void tiny_tokens(gw *w, const char *skip, const char *control)
{
    char text[32];
    size_t n_merged = sizeof(tiny_merged) / sizeof(*tiny_merged);

    if (!tiny_skips(skip, "tokenizer.ggml.tokens")) {
        gw_array(w, "tokenizer.ggml.tokens", GGUF_STRING, TINY_VOCAB);
        for (unsigned i = 0; i < TINY_VOCAB; i++) {
            if (i < 256) {
                gw_put_str(&w->kvs, tiny_byte_text(i, text));
            } else if (i < 256 + n_merged) {
                gw_put_str(&w->kvs, tiny_merged[i - 256]);
            } else if (i == TINY_CONTROL && control != NULL) {
                gw_put_str(&w->kvs, control);
            } else if (i < TINY_END_OF_TEXT) {
                snprintf(text, sizeof(text), "word%u", i);
                gw_put_str(&w->kvs, i == 300 ? "he" : text);
            } else {
                gw_put_str(&w->kvs, i == TINY_END_OF_TEXT ? "<|endoftext|>"
                                    : i == TINY_IM_START  ? "<|im_start|>"
                                                          : "<|im_end|>");
            }
        }
    }
    if (!tiny_skips(skip, "tokenizer.ggml.token_type")) {
        gw_array(w, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB);
        for (unsigned i = 0; i < TINY_VOCAB; i++) {
            int is_control = i >= TINY_END_OF_TEXT || (i == TINY_CONTROL && control != NULL);

            gw_put_u32(&w->kvs, is_control ? 3 : 1);
        }
    }
}

static inline void tiny_vocab(gw *w, const tiny_model *tm)
{
    const char *skip = tm->skip_key;
    size_t n = sizeof(tiny_merges) / sizeof(*tiny_merges);

    if (!tiny_skips(skip, "tokenizer.ggml.model")) {
        gw_str(w, "tokenizer.ggml.model", "gpt2");
    }
    if (!tiny_skips(skip, "tokenizer.ggml.pre")) {
        gw_str(w, "tokenizer.ggml.pre", "gpt-2");
    }
    tiny_tokens(w, skip, tm->control);
    if (!tiny_skips(skip, "tokenizer.ggml.merges")) {
        gw_array(w, "tokenizer.ggml.merges", GGUF_STRING, n);
        for (size_t i = 0; i < n; i++) {
            gw_put_str(&w->kvs, tiny_merges[i]);
        }
    }
    if (!tiny_skips(skip, "tokenizer.ggml.eos_token_id")) {
        gw_u32(w, "tokenizer.ggml.eos_token_id", TINY_END_OF_TEXT);
    }
    gw_str(w, "tokenizer.chat_template",
           tm->chat_template != NULL ? tm->chat_template : TINY_CHATML);
}

static inline float tiny_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(*s >> 40) / (float)(1 << 23) - 1;
}

static inline void tiny_matrix(gw *w, tiny_model *tm, const char *name, uint64_t rows,
                               uint64_t cols)
{
    gw_buf b = {0};
    float scale = (tm->scale != 0 ? tm->scale : 1) * 0.1f, f;
    uint16_t h;

    for (uint64_t i = 0; i < rows * cols; i++) {
        f = tiny_random(&tm->seed);
        if (tm->tensor_type == GGUF_TENSOR_F32) {
            f *= scale;
            gw_put(&b, &f, 4);
        } else if (tm->tensor_type == GGUF_TENSOR_F16) {
            h = (uint16_t)((f < 0 ? 0x8000 : 0) | (0x2800 + (int)((f < 0 ? -f : f) * 1000)));
            gw_put(&b, &h, 2);
        } else {
            int8_t q = (int8_t)(f * 127);

            h = 0x1266; /* about 0.1 / 127 */
            if (i % 32 == 0) {
                gw_put(&b, &h, 2);
            }
            gw_put(&b, &q, 1);
        }
    }
    if (!tiny_skips(tm->skip_tensor, name)) {
        gw_tensor(w, name, tm->tensor_type, cols, rows, b.p, b.len);
    }
    free(b.p);
}

static inline void tiny_norm(gw *w, tiny_model *tm, const char *name)
{
    float v[TINY_WIDTH];

    for (int i = 0; i < TINY_WIDTH; i++) {
        v[i] = 1 + 0.1f * tiny_random(&tm->seed);
    }
    if (!tiny_skips(tm->skip_tensor, name)) {
        gw_tensor(w, name, GGUF_TENSOR_F32, TINY_WIDTH, 0, v, sizeof(v));
    }
}

static inline void tiny_config(gw *w, const char *skip)
{
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"llama.context_length", TINY_CTX}, {"llama.embedding_length", TINY_WIDTH},
        {"llama.block_count", 2},           {"llama.feed_forward_length", 128},
        {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
        {"llama.rope.dimension_count", 16},
    };

    if (!tiny_skips(skip, "general.architecture")) {
        gw_str(w, "general.architecture", "llama");
    }
    gw_str(w, "general.name", "tiny");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        if (!tiny_skips(skip, numbers[i].key)) {
            gw_u32(w, numbers[i].key, numbers[i].value);
        }
    }
    if (!tiny_skips(skip, "llama.attention.layer_norm_rms_epsilon")) {
        gw_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    }
}

static inline void tiny_tensors(gw *w, tiny_model *tm)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } matrices[] = {
        {"attn_q", 64, 64},      {"attn_k", 32, 64},    {"attn_v", 32, 64},
        {"attn_output", 64, 64}, {"ffn_gate", 128, 64}, {"ffn_up", 128, 64},
        {"ffn_down", 64, 128},
    };
    char name[64];

    tiny_matrix(w, tm, "token_embd.weight", TINY_VOCAB, TINY_WIDTH);
    tiny_norm(w, tm, "output_norm.weight");
    for (int layer = 0; layer < 2; layer++) {
        for (size_t i = 0; i < sizeof(matrices) / sizeof(*matrices); i++) {
            snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, matrices[i].name);
            tiny_matrix(w, tm, name, matrices[i].rows, matrices[i].cols);
        }
        snprintf(name, sizeof(name), "blk.%d.attn_norm.weight", layer);
        tiny_norm(w, tm, name);
        snprintf(name, sizeof(name), "blk.%d.ffn_norm.weight", layer);
        tiny_norm(w, tm, name);
    }
}

/* Everything into w; the test may add to it before gw_finish. */
static inline void tiny_write(gw *w, tiny_model tm)
{
    tiny_config(w, tm.skip_key);
    tiny_vocab(w, &tm);
    tiny_tensors(w, &tm);
}

#endif
