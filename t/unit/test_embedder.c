/* Vectors of texts: what a request gets, alone and among others, and how each way of failing
 * names its input. */
#include "unit.h"

#include <math.h>

#include "embed_client.h"
#include "infer/embed_model.h"
#include "infer/lexical.h"
#include "infer/model_reader.h"

static embedder *open_tiny(void)
{
    const embedder_options opt = {.n_threads = 2};

    return open_file(make_file(&(tiny_encoder){.n_layers = 2, .pooling = MEAN}), &opt);
}

/* --- the tests --- */

/* encode itself is checked in test_encoder.c: here that its results come out, normed. */
static void check_pooling(uint32_t pooling, kern_pooling want)
{
    const embedder_options opt = {.n_threads = 1};
    char *path = make_file(&(tiny_encoder){.n_layers = 2, .pooling = pooling}), err[256];
    static const int32_t ids[] = {TINY_CLS, 3, 4, 5, TINY_SEP};
    const kern_text texts[] = {{ids, 5}};
    gguf *g = gguf_open(path, err, sizeof(err));
    kern_device *dev = aiq_kernels_cpu.open(0, 1);
    kern_model *km;
    embed_model m;
    float out[D];
    double length = 0;
    result r;
    embedder *e;

    assert_true(embed_model_read(&m, g, TINY_WORDS, err, sizeof(err)));
    assert_int_equal(m.pooling, want);
    km = aiq_kernels_cpu.model_load(dev, &m.model.config, &m.model.weights, 32, 1, 0);
    assert_true(aiq_kernels_cpu.encode(km, texts, 1, want, out));
    e = open_file(path, &opt);
    begin(e, &r, (embed_input[]){text("A B  c")}, 1);
    await(&r);
    assert_int_equal(r.rc, EMBED_OK);
    assert_int_equal(r.n_tokens, 5);
    for (int i = 0; i < D; i++) {
        length += (double)out[i] * (double)out[i];
    }
    for (int i = 0; i < D; i++) {
        assert_float_equal(r.vectors[i], (float)((double)out[i] / sqrt(length)), 1e-6);
    }
    end(&r);
    embedder_close(e);
    aiq_kernels_cpu.model_free(km);
    aiq_kernels_cpu.close(dev);
    embed_model_free(&m);
    gguf_close(g);
}

static void vectors_are_pooled_and_normed(void **state)
{
    (void)state;
    check_pooling(MEAN, KERN_POOL_MEAN);
    check_pooling(CLS, KERN_POOL_FIRST);
    check_pooling(LAST, KERN_POOL_LAST);
}

static void tokens_are_taken_as_their_text(void **state)
{
    static const int32_t bare[] = {3, 4}, whole[] = {TINY_CLS, 3, 4, TINY_SEP};
    const embed_input inputs[] = {
        text("a b"), {.ids = bare, .n_ids = 2}, {.ids = whole, .n_ids = 4}};
    embedder *e = open_tiny();
    result r;

    (void)state;
    begin(e, &r, inputs, 3);
    await(&r);
    assert_int_equal(r.rc, EMBED_OK);
    assert_int_equal(r.n_tokens, 12);
    assert_memory_equal(r.vectors, r.vectors + D, D * sizeof(float));
    assert_memory_equal(r.vectors, r.vectors + 2 * D, D * sizeof(float));
    end(&r);
    embedder_close(e);
}

/* Many requests of many texts at once: each text's vector is what it is alone. */
static void company_changes_nothing(void **state)
{
    enum { REQUESTS = 40, TEXTS = 60 };
    static char texts[TEXTS][TINY_ENCODER_CTX * 2];
    embed_input inputs[TEXTS];
    float alone[TEXTS][D];
    embedder *e = open_tiny();
    result *r = calloc(REQUESTS, sizeof(*r));

    (void)state;
    for (size_t i = 0; i < TEXTS; i++) {
        for (size_t k = 0; k <= i % (TINY_ENCODER_CTX - 2); k++) {
            texts[i][2 * k] = (char)('a' + (i + k * k) % 20);
            texts[i][2 * k + 1] = ' ';
        }
        inputs[i] = text(texts[i]);
        begin(e, &r[0], &inputs[i], 1);
        await(&r[0]);
        memcpy(alone[i], r[0].vectors, sizeof(alone[i]));
        end(&r[0]);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        begin(e, &r[i], inputs + i % 7, TEXTS - i);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        await(&r[i]);
        assert_int_equal(r[i].rc, EMBED_OK);
        assert_memory_equal(r[i].vectors, alone[i % 7], (TEXTS - i) * sizeof(alone[0]));
        end(&r[i]);
    }
    embedder_close(e);
    free(r);
}

static void bad_inputs_are_named(void **state)
{
    static const int32_t high[] = {3, TINY_WORDS}, low[] = {-1};
    static int32_t many[TINY_ENCODER_CTX];
    const struct {
        embed_input input;
        embed_rc rc;
        const char *error;
    } cases[] = {
        {{.text = "", .len = 0}, EMBED_INVALID, "it is empty"},
        {{.ids = many, .n_ids = 0}, EMBED_INVALID, "it is empty"},
        {{.ids = high, .n_ids = 2}, EMBED_INVALID, "the model has no token of this id"},
        {{.ids = low, .n_ids = 1}, EMBED_INVALID, "the model has no token of this id"},
        {text("a a a a a a a a a a a a a a a a a a a a a a a"), EMBED_TOO_LONG,
         "it has more than 24 tokens"},
        {{.ids = many, .n_ids = TINY_ENCODER_CTX - 1},
         EMBED_TOO_LONG,
         "it has more than 24 tokens"},
        {text("a a a a a a a a a a a a a a a a a a a a a a"), EMBED_OK, ""},
        {{.ids = many, .n_ids = TINY_ENCODER_CTX - 2}, EMBED_OK, ""},
    };
    embedder *e = open_tiny();
    result r;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        begin(e, &r, (embed_input[]){text("a"), text("b"), cases[i].input, text("")}, 3);
        await(&r);
        assert_int_equal(r.rc, cases[i].rc);
        assert_string_equal(r.error, cases[i].error);
        if (cases[i].rc != EMBED_OK) {
            assert_int_equal(r.input, 2);
        }
        end(&r);
    }
    embedder_close(e);
}

static void cancelled_and_refused(void **state)
{
    enum { N = EMBED_MAX_INPUTS };
    const embedder_options opt = {.n_threads = 1, .max_waiting = 2};
    embedder *e = open_file(make_file(&(tiny_encoder){.n_layers = 2, .pooling = CLS}), &opt);
    embed_input *inputs = calloc(N, sizeof(*inputs));
    embed_req *third;
    result large, second;
    char err[160];

    (void)state;
    for (int i = 0; i < N; i++) {
        inputs[i] = text("a b c d e f g h i j");
    }
    begin(e, &large, inputs, N);
    begin(e, &second, inputs, N);
    assert_int_equal(embedder_submit(e, inputs, 1, on_event, &second, &third, err, sizeof(err)),
                     EMBED_BUSY);
    assert_string_equal(err, "too many requests wait for the model");
    embed_cancel(large.req);
    await(&large);
    assert_int_equal(large.rc, EMBED_CANCELLED);
    embedder_close(e); /* the other one's end */
    await(&second);
    assert_true(second.rc == EMBED_CANCELLED || second.rc == EMBED_OK);
    end(&large);
    end(&second);
    free(inputs);
}

/* A request of one text is answered while one of two thousand is under way. */
static void small_requests_do_not_wait_for_large_ones(void **state)
{
    enum { N = EMBED_MAX_INPUTS };
    embedder *e = open_tiny();
    embed_input *inputs = calloc(N, sizeof(*inputs));
    result large, small;

    (void)state;
    for (int i = 0; i < N; i++) {
        inputs[i] = text("a b c d e f g h i j k l m n o p q r s t");
    }
    begin(e, &large, inputs, N);
    begin(e, &small, inputs, 1);
    await(&small);
    await(&large);
    assert_true(small.order < large.order);
    end(&small);
    end(&large);
    embedder_close(e);
    free(inputs);
}

static void lexical(void **state)
{
    static const int32_t ids[] = {1};
    const embedder_options opt = {0};
    static char large[LEXICAL_MAX_TEXT + 2];
    char err[160];
    embedder *e = embedder_open_lexical(&opt, err, sizeof(err));
    float want[LEXICAL_DIM];
    embedder_info info;
    result r;

    (void)state;
    memset(large, 'a', sizeof(large) - 1);
    embedder_get_info(e, &info);
    assert_string_equal(info.architecture, LEXICAL_NAME);
    assert_int_equal(info.dimensions, LEXICAL_DIM);
    begin(e, &r, (embed_input[]){text("What is aiq?"), text("?")}, 2);
    await(&r);
    assert_int_equal(r.rc, EMBED_OK);
    assert_int_equal(r.n_tokens, 3);
    assert_true(lexical_embed("What is aiq?", 12, want, NULL));
    assert_memory_equal(r.vectors, want, sizeof(want));
    end(&r);
    begin(e, &r, (embed_input[]){text("a"), {.ids = ids, .n_ids = 1}}, 2);
    await(&r);
    assert_int_equal(r.rc, EMBED_INVALID);
    assert_int_equal(r.input, 1);
    end(&r);
    begin(e, &r, (embed_input[]){text(large)}, 1);
    await(&r);
    assert_int_equal(r.rc, EMBED_TOO_LONG);
    end(&r);
    embedder_close(e);
}

/* A file that is no model for this, or half of one. */
static void check_refused(const tiny_encoder *te, const char *key, uint32_t value,
                          const char *want)
{
    const embedder_options opt = {.n_threads = 1};
    gw w = {0};
    char *path, err[256] = "";

    tiny_encoder_write(&w, te);
    if (key != NULL) {
        gw_u32(&w, key, value);
    }
    path = gw_file(&w);
    assert_null(embedder_open(path, &opt, err, sizeof(err)));
    assert_string_equal(err, want);
    unlink(path);
    free(path);
}

static void broken_files(void **state)
{
    const tiny_encoder whole = {.n_layers = 1, .pooling = MEAN};
    tiny_encoder te = whole;

    (void)state;
    te.pooling = 4;
    check_refused(&te, NULL, 0, "bert.pooling_type is none of mean, CLS and last");
    te = whole;
    te.skip_key = "bert.pooling_type";
    check_refused(&te, NULL, 0, "bert.pooling_type is none of mean, CLS and last");
    te.skip_key = "bert.attention.head_count";
    check_refused(&te, "bert.attention.head_count", 3,
                  "the width 32 cannot be shared by 3 heads");
    te.skip_key = "bert.context_length";
    check_refused(&te, "bert.context_length", 25,
                  "the tensor position_embd.weight has the wrong shape");
    te = whole;
    te.skip_tensor = "blk.0.layer_output_norm.bias";
    check_refused(&te, NULL, 0, "the tensor blk.0.layer_output_norm.bias is missing");
    te = whole;
    te.n_layers = 2;
    te.skip_key = "bert.block_count";
    check_refused(&te, "bert.block_count", 1,
                  "the file has tensors that are not supported, such as blk.1.attn_k.bias");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_pooled_and_normed),
        cmocka_unit_test(tokens_are_taken_as_their_text),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(bad_inputs_are_named),
        cmocka_unit_test(cancelled_and_refused),
        cmocka_unit_test(small_requests_do_not_wait_for_large_ones),
        cmocka_unit_test(lexical),
        cmocka_unit_test(broken_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
