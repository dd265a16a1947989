/*
 * Tokenizers. With the reference vocabularies at hand: the 47 texts of each, id for id. Without
 * them: a small vocabulary of our own, the rules of GPT-2's pattern, special tokens, and broken
 * vocabularies, each refused with its sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "infer/tokenizer.h"
#include "tiny_model.h"

#define VOCABS    "../shared/data/ggml-vocab/ggml-vocab-"
#define SEPARATOR "\n__ggml_vocab_test__\n"

static char err[256];

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *p;
    long n;

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    p = malloc((size_t)n + 1);
    assert_int_equal(fread(p, 1, (size_t)n, f), n);
    p[n] = '\0';
    fclose(f);
    return p;
}

static void print_ids(char *out, size_t size, const tokenizer_ids *ids)
{
    size_t at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < ids->n; i++) {
        at += (size_t)snprintf(out + at, size - at, " %d", ids->v[i]);
    }
}

static void check_vocab(const char *name)
{
    char path[256], got[4096];
    char *inp, *out, *text, *line, *rest, *end;
    gguf *g;
    tokenizer *t;
    int n = 0;

    snprintf(path, sizeof(path), VOCABS "%s.gguf", name);
    if (access(path, R_OK) != 0) {
        skip();
    }
    g = gguf_open(path, err, sizeof(err));
    assert_non_null(g);
    t = tokenizer_new(g, err, sizeof(err));
    if (t == NULL) {
        fail_msg("%s", err);
    }
    snprintf(path, sizeof(path), VOCABS "%s.gguf.inp", name);
    text = inp = slurp(path);
    snprintf(path, sizeof(path), VOCABS "%s.gguf.out", name);
    rest = out = slurp(path);

    for (;; text = end + strlen(SEPARATOR)) {
        tokenizer_ids ids = {0};

        end = strstr(text, SEPARATOR);
        if (end == NULL) {
            break;
        }
        n++;
        line = strsep(&rest, "\n");
        assert_true(tokenizer_encode(t, text, (size_t)(end - text), false, &ids));
        print_ids(got, sizeof(got), &ids);
        if (strcmp(got, line) != 0) {
            fail_msg("%s: text %d: got%s, want%s", name, n, got, line);
        }
        free(ids.v);
    }
    /* after the last separator comes the 47th text, which is empty */
    assert_int_equal(n, 46);
    assert_string_equal(text, "");
    free(inp);
    free(out);
    tokenizer_free(t);
    gguf_close(g);
}

static void gpt2_reference(void **state)
{
    (void)state;
    check_vocab("gpt-2");
}

static void llama_spm_reference(void **state)
{
    (void)state;
    check_vocab("llama-spm");
}

static void falcon_reference(void **state)
{
    (void)state;
    check_vocab("falcon");
}

/* --- a vocabulary of our own --- */

typedef struct {
    uint8_t *file;
    gguf *g;
    tokenizer *t;
} vocab;

static vocab open_vocab(gw *w)
{
    size_t size;
    vocab v = {.file = gw_finish(w, &size)};

    v.g = gguf_parse(v.file, size, err, sizeof(err));
    v.t = v.g != NULL ? tokenizer_new(v.g, err, sizeof(err)) : NULL;
    if (v.t == NULL) {
        fail_msg("%s", err);
    }
    return v;
}

static void close_vocab(vocab v)
{
    tokenizer_free(v.t);
    gguf_close(v.g);
    free(v.file);
}

static void expect(const tokenizer *t, const char *text, size_t len, bool special,
                   const char *want)
{
    tokenizer_ids ids = {0};
    char got[4096];

    assert_true(tokenizer_encode(t, text, len, special, &ids));
    print_ids(got, sizeof(got), &ids);
    assert_string_equal(got, want);
    free(ids.v);
}

#define EXPECT(text, want) expect(v.t, text, sizeof(text) - 1, false, want)

/* 256 th, 257 _t, 258 the, 259 _the, 260 s_, 261 's, 262 __, 263 1_, 264 12, 300 he: no merge
 * makes it */
static void merges_stay_inside_words(void **state)
{
    gw w = {0};
    vocab v;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    EXPECT("the", " 258");
    EXPECT(" the", " 259");
    EXPECT("The", " 84 104 101");
    EXPECT("as a", " 97 115 32 97");  /* "s " is a merge, but no word */
    EXPECT("1 2", " 49 32 50");       /* likewise "1 " */
    EXPECT("a12", " 97 264");         /* letters and digits are different words */
    EXPECT("it's", " 105 116 261");   /* a contraction */
    EXPECT("it'S", " 105 116 39 83"); /* in lower case only */
    EXPECT("a   the", " 97 262 259"); /* the last space belongs to the word */
    EXPECT("a   ", " 97 262 32");     /* unless there is none */
    EXPECT("  \n the", " 262 10 259");
    EXPECT("\xff\xfe the", " 255 254 259"); /* what is no text passes through */
    EXPECT("a\0b", " 97 0 98");
    EXPECT("", "");
    close_vocab(v);
}

static void special_tokens(void **state)
{
    static const char text[] = "the<|im_end|> the<|im_end";
    gw w = {0};
    vocab v;
    size_t len;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    expect(v.t, text, 17, true, " 258 511 259");
    expect(v.t, "<|im_end|", 9, true, " 60 124 105 109 95 101 110 100 124");
    expect(v.t, "<|im_end|>", 10, false, " 60 124 105 109 95 101 110 100 124 62");
    expect(v.t, "<|im_start|><|im_end|>", 22, true, " 510 511");
    assert_int_equal(tokenizer_bos(v.t), TOKENIZER_NONE);
    assert_true(tokenizer_is_end(v.t, TINY_END_OF_TEXT));
    assert_true(tokenizer_is_end(v.t, TINY_IM_END));
    assert_false(tokenizer_is_end(v.t, TINY_IM_START));
    tokenizer_piece(v.t, TINY_IM_END, &len);
    assert_int_equal(len, 0);
    assert_int_equal(tokenizer_find(v.t, "<|im_end|>", 10), TINY_IM_END);
    close_vocab(v);
}

static void pieces_give_the_text_back(void **state)
{
    gw w = {0};
    vocab v;
    char text[256], back[256];
    tokenizer_ids ids = {0};
    size_t at = 0, len;

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    for (int i = 0; i < 256; i++) {
        text[i] = (char)(i * 7);
    }
    assert_true(tokenizer_encode(v.t, text, 256, false, &ids));
    for (size_t i = 0; i < ids.n; i++) {
        const char *piece = tokenizer_piece(v.t, ids.v[i], &len);

        memcpy(back + at, piece, len);
        at += len;
    }
    assert_int_equal(at, 256);
    assert_memory_equal(text, back, 256);
    free(ids.v);
    close_vocab(v);
}

static void a_limit_stops_it(void **state)
{
    gw w = {0};
    vocab v;
    tokenizer_ids ids = {.limit = 3};

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    assert_false(tokenizer_encode(v.t, "a b c d e f", 11, false, &ids));
    assert_int_equal(ids.n, 3);
    free(ids.v);
    close_vocab(v);
}

/* A megabyte without a word's end, which a quadratic merger would not finish. */
static void long_words_are_no_problem(void **state)
{
    enum { LEN = 1 << 20 };
    gw w = {0};
    vocab v;
    char *text = malloc(LEN);
    tokenizer_ids ids = {0};

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    for (int i = 0; i < LEN; i++) {
        text[i] = "the"[i % 3];
    }
    assert_true(tokenizer_encode(v.t, text, LEN, false, &ids));
    assert_in_range(ids.n, LEN / 3, LEN / 3 + 64);
    free(ids.v);
    free(text);
    close_vocab(v);
}

/* SentencePiece: scores decide, not places; what has no token falls back to bytes. */
static void scored_merges(void **state)
{
    static const struct {
        const char *text;
        float score;
        uint32_t type;
    } tokens[] = {
        {"<unk>", 0, 2},
        {"<s>", 0, 3},
        {"</s>", 0, 3},
        {"a", -1, 1},
        {"b", -1, 1},
        {"c", -1, 1},
        {"ab", -5, 1},
        {"bc", -2, 1},
        {"\xe2\x96\x81", -1, 1},
        {"<0xC3>", 0, 6},
        {"<0xA9>", 0, 6},
        {"\xe2\x96\x81"
         "a",
         -9, 1},
    };
    enum { N = sizeof(tokens) / sizeof(*tokens) };
    gw w = {0};
    vocab v;
    size_t len;

    (void)state;
    gw_str(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, N);
    for (int i = 0; i < N; i++) {
        gw_put_str(&w.kvs, tokens[i].text);
    }
    gw_array(&w, "tokenizer.ggml.scores", GGUF_F32, N);
    for (int i = 0; i < N; i++) {
        gw_put(&w.kvs, &tokens[i].score, 4);
    }
    gw_array(&w, "tokenizer.ggml.token_type", GGUF_I32, N);
    for (int i = 0; i < N; i++) {
        gw_put_u32(&w.kvs, tokens[i].type);
    }
    v = open_vocab(&w);
    EXPECT("abc", " 11 7"); /* "bc" scores above "ab"; then the space takes the "a" */
    EXPECT("b", " 8 4");
    EXPECT(" b", " 8 8 4");
    EXPECT("\xc3\xa9", " 8 9 10"); /* two byte tokens */
    EXPECT("z", " 8 0");           /* no byte token either */
    EXPECT("", "");
    assert_int_equal(tokenizer_bos(v.t), 1);
    assert_memory_equal(tokenizer_piece(v.t, 9, &len), "\xc3", 1);
    assert_memory_equal(tokenizer_piece(v.t, 11, &len), " a", 2);
    close_vocab(v);
}

/* What carries a mark cannot be a control token, not even in part. */
static void marked_text_has_no_control_tokens(void **state)
{
    static const struct {
        const char *marks, *want;
    } cases[] = {
        {"................", " 258 510 32"},
        {"uuuuuuuuuuuuuuuu", " 258 60 124 105 109 95 115 116 97 114 116 124 62 32"},
        {"..............u.", " 258 60 124 105 109 95 115 116 97 114 116 124 62 32"},
        {"uuu............u", " 258 510 32"},
    };
    static const char text[] = "the<|im_start|> ";
    gw w = {0};
    vocab v;
    char marks[sizeof(text)], got[256];

    (void)state;
    tiny_write(&w, (tiny_model){0});
    v = open_vocab(&w);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        tokenizer_ids ids = {0};

        for (size_t k = 0; k < sizeof(text) - 1; k++) {
            marks[k] = cases[i].marks[k] == 'u';
        }
        assert_true(tokenizer_encode_marked(v.t, text, marks, sizeof(text) - 1, &ids));
        print_ids(got, sizeof(got), &ids);
        assert_string_equal(got, cases[i].want);
        free(ids.v);
    }
    close_vocab(v);
}

/* Older files call the marks of a turn user-defined, which text may hold: not these. */
static void marks_of_turns_are_control_tokens(void **state)
{
    gw w = {0};
    vocab v;
    size_t len;

    (void)state;
    tiny_write(&w,
               (tiny_model){.skip_key = "tokenizer.ggml.token_type", .control = "<|tool|>"});
    gw_array(&w, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) {
        gw_put_u32(&w.kvs, i >= TINY_CONTROL ? 4 : 1);
    }
    v = open_vocab(&w);
    EXPECT("<|im_start|>", " 60 124 105 109 95 115 116 97 114 116 124 62");
    EXPECT("<|im_end|>", " 60 124 105 109 95 101 110 100 124 62");
    EXPECT("<|tool|>", " 508");
    expect(v.t, "<|im_start|>", 12, true, " 510");
    tokenizer_piece(v.t, TINY_IM_START, &len);
    assert_int_equal(len, 0);
    close_vocab(v);
}

/* A vocabulary with one more token, of merges that do not make it. */
static void pre_tokenizers(void **state)
{
    static const struct {
        const char *pre, *he, *digits, *lines;
    } cases[] = {
        {"gpt-2", " 104 101", " 264 51 52", " 33 10 10"},
        {"llama-bpe", " 300", " 264 51 52", " 33 10 10"}, /* a token as a whole */
        {"qwen2", " 104 101", " 49 50 51 52", " 33 10 10"},
        {"tekken", " 300", " 49 50 51 52", " 33 10 10"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        gw w = {0};
        vocab v;

        tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.pre"});
        gw_str(&w, "tokenizer.ggml.pre", cases[i].pre);
        v = open_vocab(&w);
        EXPECT("he", cases[i].he);
        EXPECT("1234", cases[i].digits);
        EXPECT("!\n\n", cases[i].lines);
        close_vocab(v);
    }
}

/* Llama 3's files name the token and leave out whether it is wanted. */
static void what_begins_a_text(void **state)
{
    static const struct {
        const char *pre;
        int said; /* -1: not */
        int32_t bos;
    } cases[] = {
        {"gpt-2", -1, TOKENIZER_NONE},    {"qwen2", -1, TOKENIZER_NONE},
        {"llama-bpe", -1, TINY_IM_START}, {"tekken", -1, TINY_IM_START},
        {"llama-bpe", 0, TOKENIZER_NONE}, {"qwen2", 1, TINY_IM_START},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        gw w = {0};
        vocab v;

        tiny_write(&w, (tiny_model){.skip_key = "tokenizer.ggml.pre"});
        gw_str(&w, "tokenizer.ggml.pre", cases[i].pre);
        gw_u32(&w, "tokenizer.ggml.bos_token_id", TINY_IM_START);
        if (cases[i].said >= 0) {
            gw_bool(&w, "tokenizer.ggml.add_bos_token", (uint8_t)cases[i].said);
        }
        v = open_vocab(&w);
        assert_int_equal(tokenizer_bos(v.t), cases[i].bos);
        close_vocab(v);
    }
}

/* WordPiece: no case, no accents, longest pieces first, a sign is a word. */
static void word_pieces(void **state)
{
    static const struct {
        const char *text;
        uint32_t type;
    } tokens[] = {
        {"[PAD]", 3},
        {"[UNK]", 3},
        {"[CLS]", 3},
        {"[SEP]", 3},
        {"_un", 1},
        {"aff", 1},
        {"able", 1},
        {"_able", 1},
        {"_!", 1},
        {"_a", 1},
        {"_\xe6\x97\xa5", 1},
        {"_\xe1\x84\x92", 1},
        {"\xe1\x85\xa1", 1},
        {"_i", 1},
        {"_$", 1},
        {"_ab", 1},
    };
    enum { N = sizeof(tokens) / sizeof(*tokens) };
    gw w = {0};
    vocab v;
    char text[32];
    size_t len;

    (void)state;
    gw_str(&w, "tokenizer.ggml.model", "bert");
    gw_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, N);
    for (int i = 0; i < N; i++) {
        bool begins = tokens[i].text[0] == '_';

        snprintf(text, sizeof(text), "%s%s", begins ? "\xe2\x96\x81" : "",
                 tokens[i].text + begins);
        gw_put_str(&w.kvs, text);
    }
    gw_array(&w, "tokenizer.ggml.token_type", GGUF_I32, N);
    for (int i = 0; i < N; i++) {
        gw_put_u32(&w.kvs, tokens[i].type);
    }
    v = open_vocab(&w);
    EXPECT("unaffable", " 4 5 6");
    EXPECT("  UNAFFABLE!\n", " 4 5 6 8");
    EXPECT("able", " 7");
    EXPECT("ably a", " 1 9"); /* the longest first and no way back: the word is unknown */
    EXPECT("\xc3\xa1 \xc4\xb0 i\xcc\x87", " 9 13 13"); /* accents, composed or not */
    EXPECT("\xc3\x81 \xc3\x8d", " 9 13");
    EXPECT("\xe6\x97\xa5\xe6\x97\xa5", " 10 10"); /* ideographs are words */
    EXPECT("\xed\x95\x98", " 11 12");             /* Hangul comes apart */
    EXPECT("a$a\x01", " 9 14 9");
    EXPECT("\xff", "");
    EXPECT("\xef\x82\xb7 un\xf4\x8f\xbf\xbd"
           "affable",
           " 4 5 6"); /* of private use */
    assert_int_equal(tokenizer_bos(v.t), 2);
    assert_int_equal(tokenizer_eos(v.t), 3);
    assert_memory_equal(tokenizer_piece(v.t, 7, &len), " able", 5);
    assert_memory_equal(tokenizer_piece(v.t, 6, &len), "able", 4);
    close_vocab(v);
}

/* Whose words are with case: read without they would be other words. */
static void words_with_case(void **state)
{
    static const char *const keys[] = {"tokenizer.ggml.normalizer.lowercase",
                                       "tokenizer.ggml.normalizer.strip_accents"};
    static const char *const tokens[] = {"[UNK]", "[CLS]", "[SEP]"};

    (void)state;
    for (int i = 0; i < 4; i++) {
        gw w = {0};
        size_t size;
        char why[80];

        gw_str(&w, "tokenizer.ggml.model", "bert");
        gw_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, 3);
        for (int k = 0; k < 3; k++) {
            gw_put_str(&w.kvs, tokens[k]);
        }
        gw_bool(&w, keys[i % 2], i < 2);
        uint8_t *file = gw_finish(&w, &size);
        gguf *g = gguf_parse(file, size, err, sizeof(err));
        tokenizer *t = tokenizer_new(g, err, sizeof(err));

        assert_int_equal(t != NULL, i < 2);
        if (t != NULL) {
            tokenizer_free(t);
        } else {
            snprintf(why, sizeof(why), "%s is not supported, but for true", keys[i % 2]);
            assert_string_equal(err, why);
        }
        gguf_close(g);
        free(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_stay_inside_words),
        cmocka_unit_test(special_tokens),
        cmocka_unit_test(pieces_give_the_text_back),
        cmocka_unit_test(a_limit_stops_it),
        cmocka_unit_test(long_words_are_no_problem),
        cmocka_unit_test(scored_merges),
        cmocka_unit_test(marked_text_has_no_control_tokens),
        cmocka_unit_test(marks_of_turns_are_control_tokens),
        cmocka_unit_test(pre_tokenizers),
        cmocka_unit_test(what_begins_a_text),
        cmocka_unit_test(word_pieces),
        cmocka_unit_test(words_with_case),
        cmocka_unit_test(gpt2_reference),
        cmocka_unit_test(llama_spm_reference),
        cmocka_unit_test(falcon_reference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
