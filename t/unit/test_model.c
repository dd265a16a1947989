/*
 * From a file to a model: a good one loads; each thing that is missing, of the wrong kind or at
 * odds with the rest is refused with its sentence, before any weight is looked at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "infer/model.h"
#include "infer/tokenizer.h"
#include "tiny_model.h"

static char err[256];

/* Loads what w holds, through tokenizer and model; true if all of it was accepted. */
static bool loads(gw *w)
{
    size_t size;
    uint8_t *file = gw_finish(w, &size);
    gguf *g = gguf_parse(file, size, err, sizeof(err));
    tokenizer *t = g != NULL ? tokenizer_new(g, err, sizeof(err)) : NULL;
    infer_model m = {0};
    bool ok = t != NULL && infer_model_read(&m, g, tokenizer_n_vocab(t), err, sizeof(err));

    if (ok) {
        assert_int_equal(m.config.n_heads, 4);
        assert_int_equal(m.config.head_dim, 16);
        assert_int_equal(m.n_params, 512 * 64 + 64 + 2 * (12288 + 3 * 8192 + 2 * 64));
        assert_ptr_equal(m.weights.out.data, m.weights.embed.data);
    }
    infer_model_free(&m);
    if (t != NULL) {
        tokenizer_free(t);
    }
    if (g != NULL) {
        gguf_close(g);
    }
    free(file);
    return ok;
}

static void refused(gw *w, const char *why)
{
    assert_false(loads(w));
    assert_string_equal(err, why);
}

static void good_models(void **state)
{
    static const uint32_t types[] = {GGUF_TENSOR_F32, GGUF_TENSOR_F16, GGUF_TENSOR_Q8_0};
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        tiny_write(&w, (tiny_model){.tensor_type = types[i]});
        if (!loads(&w)) {
            fail_msg("%s", err);
        }
    }
}

/* Mistral's: every layer has it, where it is shorter than the context; 0 is none. */
static void windows(void **state)
{
    static const uint32_t said[] = {0, 64, TINY_CTX - 1, TINY_CTX, 1 << 20};

    (void)state;
    for (size_t i = 0; i < sizeof(said) / sizeof(*said); i++) {
        gw w = {0};
        size_t size;
        infer_model m;

        tiny_write(&w, (tiny_model){0});
        gw_u32(&w, "llama.attention.sliding_window", said[i]);
        uint8_t *file = gw_finish(&w, &size);
        gguf *g = gguf_parse(file, size, err, sizeof(err));
        assert_true(infer_model_read(&m, g, TINY_VOCAB, err, sizeof(err)));
        assert_int_equal(m.config.n_ctx, TINY_CTX);
        for (int layer = 0; layer < 2; layer++) {
            assert_int_equal(m.layers[layer].window, said[i] < TINY_CTX ? said[i] : 0);
        }
        infer_model_free(&m);
        gguf_close(g);
        free(file);
    }
}

/* A file of an architecture whose layers are all alike may still say that they are not. */
static void a_pattern_of_windows(void **state)
{
    gw w = {0};
    size_t size;
    infer_model m;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    gw_u32(&w, "llama.attention.sliding_window", 64);
    gw_u32(&w, "llama.attention.sliding_window_pattern", 2);
    uint8_t *file = gw_finish(&w, &size);
    gguf *g = gguf_parse(file, size, err, sizeof(err));
    assert_true(infer_model_read(&m, g, TINY_VOCAB, err, sizeof(err)));
    assert_int_equal(m.layers[0].window, 64);
    assert_int_equal(m.layers[1].window, 0);
    infer_model_free(&m);
    gguf_close(g);
    free(file);

    tiny_write(&w, (tiny_model){0});
    gw_u32(&w, "llama.attention.sliding_window", 64);
    gw_array(&w, "llama.attention.sliding_window_pattern", GGUF_BOOL, 2);
    gw_put(&w.kvs, "\1", 2);
    refused(&w, "llama.attention.sliding_window_pattern is not a number from 1 to 1024");
}

/* Gemma 2 has them whether its file says so or not; Gemma 3 where it does. */
static void caps(void **state)
{
    gw w = {0};
    size_t size;
    infer_model m;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    gw_f32(&w, "llama.attn_logit_softcapping", 50);
    gw_f32(&w, "llama.final_logit_softcapping", 30);
    uint8_t *file = gw_finish(&w, &size);
    gguf *g = gguf_parse(file, size, err, sizeof(err));
    assert_true(infer_model_read(&m, g, TINY_VOCAB, err, sizeof(err)));
    assert_float_equal(m.config.attn_cap, 50, 0);
    assert_float_equal(m.config.logit_cap, 30, 0);
    infer_model_free(&m);
    gguf_close(g);
    free(file);
}

/* Phi-3's: which divisors are used depends on how long contexts can be. */
static void long_and_short_contexts(void **state)
{
    static const float far[8] = {8, 8, 8, 8, 8, 8, 8, 8}, near[8] = {2, 2, 2, 2, 2, 2, 2, 2};
    gw w = {0};
    size_t size;
    infer_model m;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    gw_u32(&w, "llama.rope.scaling.original_context_length", 64);
    gw_tensor(&w, "rope_factors_long.weight", GGUF_TENSOR_F32, 8, 0, far, sizeof(far));
    gw_tensor(&w, "rope_factors_short.weight", GGUF_TENSOR_F32, 8, 0, near, sizeof(near));
    uint8_t *file = gw_finish(&w, &size);
    gguf *g = gguf_parse(file, size, err, sizeof(err));
    assert_true(infer_model_read(&m, g, TINY_VOCAB, err, sizeof(err)));
    assert_memory_equal(m.weights.rope_factors, far, sizeof(far));
    infer_model_fit(&m, g, 65);
    assert_memory_equal(m.weights.rope_factors, far, sizeof(far));
    infer_model_fit(&m, g, 64);
    assert_memory_equal(m.weights.rope_factors, near, sizeof(near));
    assert_int_equal(m.config.n_ctx, 64);
    infer_model_free(&m);
    gguf_close(g);
    free(file);
}

static void what_is_missing(void **state)
{
    static const struct {
        const char *key, *why;
    } keys[] = {
        {"general.architecture", "the architecture \"\" is not supported (llama, "
                                 "qwen2, qwen3, phi3, gemma, gemma2 and gemma3 are)"},
        {"llama.context_length", "llama.context_length is missing"},
        {"llama.embedding_length", "llama.embedding_length is missing"},
        {"llama.block_count", "llama.block_count is missing"},
        {"llama.feed_forward_length", "llama.feed_forward_length is missing"},
        {"llama.attention.head_count", "llama.attention.head_count is missing"},
        {"llama.attention.layer_norm_rms_epsilon",
         "llama.attention.layer_norm_rms_epsilon is missing"},
        {"tokenizer.ggml.model",
         "the tokenizer \"\" is not supported (gpt2, llama and bert are)"},
        {"tokenizer.ggml.pre", "the BPE variant \"\" is not supported"},
        {"tokenizer.ggml.tokens", "the file has no vocabulary"},
        {"tokenizer.ggml.merges", "the vocabulary has no list of merges"},
    };
    static const struct {
        const char *tensor, *why;
    } tensors[] = {
        {"token_embd.weight", "the tensor token_embd.weight is missing"},
        {"output_norm.weight", "the tensor output_norm.weight is missing"},
        {"blk.1.ffn_down.weight", "the tensor blk.1.ffn_down.weight is missing"},
    };
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        tiny_write(&w, (tiny_model){.skip_key = keys[i].key});
        refused(&w, keys[i].why);
    }
    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++) {
        tiny_write(&w, (tiny_model){.skip_tensor = tensors[i].tensor});
        refused(&w, tensors[i].why);
    }
}

static void absurd_numbers(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        const char *why;
    } cases[] = {
        {"llama.block_count", 0, "llama.block_count is not a number from 1 to 1024"},
        {"llama.block_count", 1025, "llama.block_count is not a number from 1 to 1024"},
        {"llama.block_count", 3, "the tensor blk.2.attn_norm.weight is missing"},
        {"llama.block_count", 1,
         "the file has tensors that are not supported, such as blk.1.attn_k.weight"},
        {"llama.context_length", 1u << 31,
         "llama.context_length is not a number from 1 to 1048576"},
        {"llama.embedding_length", 1u << 31,
         "llama.embedding_length is not a number from 1 to 1048576"},
        {"llama.embedding_length", 128, "the tensor token_embd.weight has the wrong shape"},
        {"llama.feed_forward_length", 64,
         "the tensor blk.0.ffn_gate.weight has the wrong shape"},
        {"llama.attention.head_count", 0,
         "llama.attention.head_count is not a number from 1 to 4096"},
        {"llama.attention.head_count", 3, "3 heads cannot share 2 pairs of keys and values"},
        {"llama.attention.head_count", 6, "the width 64 is no multiple of 6 heads"},
        {"llama.attention.head_count_kv", 8, "4 heads cannot share 8 pairs of keys and values"},
        {"llama.attention.head_count_kv", 4,
         "the tensor blk.0.attn_k.weight has the wrong shape"},
        {"llama.rope.dimension_count", 15, "llama.rope.dimension_count is odd"},
        {"llama.rope.dimension_count", 32,
         "llama.rope.dimension_count is not a number from 1 to 16"},
        {"llama.attention.key_length", 1u << 20, "4 heads of 1048576 values are too many"},
        {"llama.attention.value_length", 8,
         "keys and values of different lengths are not supported"},
        {"llama.expert_count", 8, "mixtures of experts are not supported"},
        {"tokenizer.ggml.eos_token_id", 512,
         "tokenizer.ggml.eos_token_id is not a token of the vocabulary"},
        {"tokenizer.ggml.bos_token_id", 0xffffffff,
         "tokenizer.ggml.bos_token_id is not a token of the vocabulary"},
    };
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        tiny_write(&w, (tiny_model){.skip_key = cases[i].key});
        gw_u32(&w, cases[i].key, cases[i].value);
        refused(&w, cases[i].why);
    }
}

/* What changes a model's answers and would not be read; what says nothing by it is let be. */
static void what_is_of_other_models(void **state)
{
    static const struct {
        const char *key;
        float nothing, something;
    } keys[] = {
        {"llama.attention.clamp_kqv", 0, 8},
        {"llama.attention.max_alibi_bias", 0, 8},
        {"llama.attention.scale", 0, 0.5f},
        {"llama.attention.temperature_scale", 0, 0.1f},
        {"llama.embedding_scale", 1, 12},
        {"llama.logit_scale", 1, 0.0625f},
        {"llama.residual_scale", 1, 0.22f},
        {"llama.rope.scaling.alpha", 0, 1000},
        {"llama.rope.scaling.yarn_attn_factor", 1, 2},
        {"llama.rope.scaling.yarn_ext_factor", 1, 0.5f},
    };
    char why[80];
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        tiny_write(&w, (tiny_model){0});
        gw_f32(&w, keys[i].key, keys[i].nothing);
        assert_true(loads(&w));
        tiny_write(&w, (tiny_model){0});
        gw_f32(&w, keys[i].key, keys[i].something);
        snprintf(why, sizeof(why), "%s is not supported, but for %g", keys[i].key,
                 (double)keys[i].nothing);
        refused(&w, why);
    }
    tiny_write(&w, (tiny_model){0});
    gw_bool(&w, "llama.attention.causal", 1);
    gw_u32(&w, "llama.expert_count", 0);
    assert_true(loads(&w));
    tiny_write(&w, (tiny_model){0});
    gw_bool(&w, "llama.attention.causal", 0);
    refused(&w, "llama.attention.causal is not supported, but for 1");
}

static void numbers_that_are_none(void **state)
{
    static const char eps[] = "llama.attention.layer_norm_rms_epsilon";
    static const float bad[] = {0, -1, 2, 0.0f / 0.0f, 1.0f / 0.0f};
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        tiny_write(&w, (tiny_model){.skip_key = eps});
        gw_f32(&w, eps, bad[i]);
        refused(&w, "llama.attention.layer_norm_rms_epsilon is not a number between 0 and 1");
    }
    tiny_write(&w, (tiny_model){.skip_key = "llama.block_count"});
    gw_str(&w, "llama.block_count", "2");
    refused(&w, "llama.block_count is not a number from 1 to 1024");
    tiny_write(&w, (tiny_model){0});
    gw_str(&w, "llama.rope.scaling.type", "spiral");
    refused(&w, "rotary positions scaled by \"spiral\" are not supported");
    tiny_write(&w, (tiny_model){0});
    gw_u32(&w, "llama.rope.scaling.type", 1);
    refused(&w, "rotary positions scaled by \"\" are not supported");
    tiny_write(&w, (tiny_model){0});
    gw_str(&w, "llama.rope.scaling.type", "yarn");
    gw_f32(&w, "llama.rope.scaling.factor", 0.5f);
    refused(&w, "rotary positions scaled by \"yarn\" are not supported");
    tiny_write(&w, (tiny_model){0});
    gw_f32(&w, "llama.rope.scaling.factor", 0.0f / 0.0f);
    refused(&w, "llama.rope.scaling.factor is not a number between 0 and 1e+06");
    tiny_write(&w, (tiny_model){0});
    gw_str(&w, "llama.attention.sliding_window", "8");
    refused(&w, "llama.attention.sliding_window is not a number from 1 to 1048576");
}

static void tensors_that_do_not_fit(void **state)
{
    static const uint16_t half[64];
    static const float bias[64];
    gw w = {0};

    (void)state;
    tiny_write(&w, (tiny_model){.skip_tensor = "blk.0.attn_norm.weight"});
    gw_tensor(&w, "blk.0.attn_norm.weight", GGUF_TENSOR_F16, 64, 0, half, sizeof(half));
    refused(&w, "the tensor blk.0.attn_norm.weight is not F32");
    tiny_write(&w, (tiny_model){0});
    gw_tensor(&w, "blk.0.attn_q.bias", GGUF_TENSOR_F32, 64, 0, bias, sizeof(bias));
    refused(&w, "the file has tensors that are not supported, such as blk.0.attn_q.bias");
    tiny_write(&w, (tiny_model){0});
    gw_tensor(&w, "rope_freqs.weight", GGUF_TENSOR_F32, 8, 0, bias, 32);
    refused(&w, "rope_freqs.weight has a divisor that is not positive");
    tiny_write(&w, (tiny_model){0});
    gw_tensor(&w, "rope_factors_long.weight", GGUF_TENSOR_F32, 8, 0, bias, 32);
    refused(&w, "the tensor rope_factors_short.weight is missing");
}

static void broken_vocabularies(void **state)
{
    gw w = {0};

    (void)state;
    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.merges"});
    gw_array(&w, "tokenizer.ggml.merges", GGUF_STRING, 2);
    gw_put_str(&w.kvs, "t h");
    gw_put_str(&w.kvs, "q q");
    refused(&w, "merge 1 joins no tokens of the vocabulary");

    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.merges"});
    gw_array(&w, "tokenizer.ggml.merges", GGUF_STRING, 1);
    gw_put_str(&w.kvs, "th");
    refused(&w, "merge 0 joins no tokens of the vocabulary");

    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.tokens"});
    gw_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) {
        gw_put_str(&w.kvs, "");
    }
    refused(&w, "the vocabulary lacks tokens for single bytes");

    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.token_type"});
    gw_array(&w, "tokenizer.ggml.token_type", GGUF_I32, 1);
    gw_put_u32(&w.kvs, 1);
    refused(&w, "the vocabulary has not one type for each token");

    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.model"});
    gw_str(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.scores", GGUF_F32, 3);
    gw_put(&w.kvs, "............", 12);
    refused(&w, "the vocabulary has no score for each token");

    tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.model"});
    gw_str(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.scores", GGUF_F32, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) {
        gw_put_u32(&w.kvs, i == 7 ? 0x7fc00000 : 0);
    }
    refused(&w, "the score of token 7 is not a number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),
        cmocka_unit_test(a_pattern_of_windows),
        cmocka_unit_test(caps),
        cmocka_unit_test(long_and_short_contexts),
        cmocka_unit_test(good_models),
        cmocka_unit_test(what_is_missing),
        cmocka_unit_test(absurd_numbers),
        cmocka_unit_test(what_is_of_other_models),
        cmocka_unit_test(numbers_that_are_none),
        cmocka_unit_test(broken_vocabularies),
        cmocka_unit_test(tensors_that_do_not_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
