/*
 * A tiny BERT in GGUF, complete with vocabulary: 2 layers, width 32, 2 heads, at most 24 tokens
 * a text. Its weights are seeded noise. Tests bend it by fields of tiny_encoder.
 */
#ifndef T_TINY_ENCODER_H
#define T_TINY_ENCODER_H

#include <stdio.h>

#include "gguf_writer.h"

enum {
    TINY_WORDS = 26,
    TINY_ENCODER_WIDTH = 32,
    TINY_ENCODER_FF = 64,
    TINY_ENCODER_CTX = 24,
    TINY_CLS = 1,
    TINY_SEP = 2
};

typedef struct {
    uint32_t n_layers;
    uint32_t pooling;
    const char *skip_key; /* is left out, so that a test can write its own */
    const char *skip_tensor;
} tiny_encoder;

/* [UNK] [CLS] [SEP], then words of one letter, then "##a" */
static inline void tiny_words(gw *w)
{
    char text[8];

    gw_str(w, "tokenizer.ggml.model", "bert");
    gw_array(w, "tokenizer.ggml.tokens", GGUF_STRING, TINY_WORDS);
    gw_put_str(&w->kvs, "[UNK]");
    gw_put_str(&w->kvs, "[CLS]");
    gw_put_str(&w->kvs, "[SEP]");
    for (int i = 3; i < TINY_WORDS; i++) {
        snprintf(text, sizeof(text), "%s%c", i < TINY_WORDS - 3 ? "\xe2\x96\x81" : "",
                 i < TINY_WORDS - 3 ? 'a' + i - 3 : 'a' + i - (TINY_WORDS - 3));
        gw_put_str(&w->kvs, text);
    }
    gw_array(w, "tokenizer.ggml.token_type", GGUF_I32, TINY_WORDS);
    for (int i = 0; i < TINY_WORDS; i++) {
        gw_put_u32(&w->kvs, i == 0 ? 2 : i < 3 ? 3 : 1);
    }
}

static inline void tiny_noise(gw *w, const tiny_encoder *te, const char *name, uint64_t rows,
                              uint64_t cols, float middle)
{
    static uint64_t seed = 5;
    gw_buf b = {0};

    for (uint64_t i = 0; i < (rows > 0 ? rows : 1) * cols; i++) {
        float f;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        f = middle + ((float)(seed >> 40) / (float)(1 << 23) - 1) * 0.3f;
        gw_put(&b, &f, sizeof(f));
    }
    if (te->skip_tensor == NULL || strcmp(te->skip_tensor, name) != 0) {
        gw_tensor(w, name, GGUF_TENSOR_F32, cols, rows, b.p, b.len);
    }
    free(b.p);
}

static inline void tiny_encoder_layer(gw *w, const tiny_encoder *te, unsigned layer)
{
    enum { D = TINY_ENCODER_WIDTH, FF = TINY_ENCODER_FF };
    static const struct {
        const char *name;
        uint64_t rows, cols;
        float middle;
    } tensors[] = {
        {"attn_q.weight", D, D, 0},
        {"attn_q.bias", 0, D, 0},
        {"attn_k.weight", D, D, 0},
        {"attn_k.bias", 0, D, 0},
        {"attn_v.weight", D, D, 0},
        {"attn_v.bias", 0, D, 0},
        {"attn_output.weight", D, D, 0},
        {"attn_output.bias", 0, D, 0},
        {"attn_output_norm.weight", 0, D, 1},
        {"attn_output_norm.bias", 0, D, 0},
        {"ffn_up.weight", FF, D, 0},
        {"ffn_up.bias", 0, FF, 0},
        {"ffn_down.weight", D, FF, 0},
        {"ffn_down.bias", 0, D, 0},
        {"layer_output_norm.weight", 0, D, 1},
        {"layer_output_norm.bias", 0, D, 0},
    };
    char name[64];

    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++) {
        snprintf(name, sizeof(name), "blk.%u.%s", layer, tensors[i].name);
        tiny_noise(w, te, name, tensors[i].rows, tensors[i].cols, tensors[i].middle);
    }
}

/* Everything into w; the test may add to it before gw_finish. */
static inline void tiny_encoder_write(gw *w, const tiny_encoder *te)
{
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"bert.context_length", TINY_ENCODER_CTX},
        {"bert.embedding_length", TINY_ENCODER_WIDTH},
        {"bert.block_count", te->n_layers},
        {"bert.feed_forward_length", TINY_ENCODER_FF},
        {"bert.attention.head_count", 2},
        {"bert.pooling_type", te->pooling},
    };

    gw_str(w, "general.architecture", "bert");
    gw_str(w, "general.name", "tiny encoder");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        if (te->skip_key == NULL || strcmp(te->skip_key, numbers[i].key) != 0) {
            gw_u32(w, numbers[i].key, numbers[i].value);
        }
    }
    gw_f32(w, "bert.attention.layer_norm_epsilon", 1e-12f);
    tiny_words(w);
    tiny_noise(w, te, "token_embd.weight", TINY_WORDS, TINY_ENCODER_WIDTH, 0);
    tiny_noise(w, te, "position_embd.weight", TINY_ENCODER_CTX, TINY_ENCODER_WIDTH, 0);
    tiny_noise(w, te, "token_types.weight", 2, TINY_ENCODER_WIDTH, 0);
    tiny_noise(w, te, "token_embd_norm.weight", 0, TINY_ENCODER_WIDTH, 1);
    tiny_noise(w, te, "token_embd_norm.bias", 0, TINY_ENCODER_WIDTH, 0);
    for (uint32_t i = 0; i < te->n_layers; i++) {
        tiny_encoder_layer(w, te, i);
    }
}

#endif
