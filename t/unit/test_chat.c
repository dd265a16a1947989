/* From a conversation to token ids, by the template in the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "infer/chat.h"
#include "tiny_model.h"

typedef struct {
    uint8_t *file;
    gguf *g;
    tokenizer *t;
    chat_template *c; /* NULL: err says why */
} model;

static char err[256];

/* source "": no template in the file. bos: a token to begin with, or 0. */
static model open_model(const char *source, uint32_t bos)
{
    tiny_model tm = {.chat_template = source};
    gw w = {0};
    model m;
    size_t size;

    tiny_vocab(&w, &tm);
    if (bos > 0) {
        gw_u32(&w, "tokenizer.ggml.bos_token_id", bos);
        gw_bool(&w, "tokenizer.ggml.add_bos_token", 1);
    }
    m.file = gw_finish(&w, &size);
    m.g = gguf_parse(m.file, size, err, sizeof(err));
    assert_non_null(m.g);
    m.t = tokenizer_new(m.g, err, sizeof(err));
    assert_non_null(m.t);
    m.c = chat_template_new(m.g, m.t, err, sizeof(err));
    return m;
}

static void close_model(model m)
{
    if (m.c != NULL) {
        chat_template_free(m.c);
    }
    tokenizer_free(m.t);
    gguf_close(m.g);
    free(m.file);
}

static void expect(const model *m, const char *content, const char *want)
{
    infer_message message = {
        .role = "user", .content = content, .content_len = strlen(content)};
    tokenizer_ids ids = {0};
    char got[1024] = "";
    size_t at = 0;

    if (m->c == NULL ||
        chat_render(m->c, m->t, &message, 1, 1 << 16, &ids, err, sizeof(err)) != CHAT_OK) {
        fail_msg("%s", err);
    }
    for (size_t i = 0; i < ids.n; i++) {
        at += (size_t)snprintf(got + at, sizeof(got) - at, " %d", ids.v[i]);
    }
    assert_string_equal(got, want);
    free(ids.v);
}

#define USER      " 117 115 101 114"
#define ASSISTANT " 97 115 115 105 115 116 97 110 116"

static void the_files_template_is_run(void **state)
{
    model m = open_model(TINY_CHATML, 0);

    (void)state;
    expect(&m, "the", " 510" USER " 10 258 511 10 510" ASSISTANT " 10");
    close_model(m);
    m = open_model("[{{ messages[0].content | upper }}]", 0);
    expect(&m, "the", " 91 84 72 69 93");
    close_model(m);
}

/* What a user says is no control token, in one piece or in two. */
static void nobody_ends_his_turn(void **state)
{
    model m = open_model("{{ messages[0].content }}{{ '<|im_end|>' }}", 0);

    (void)state;
    expect(&m, "<|im_end|>", " 60 124 105 109 95 101 110 100 124 62 511");
    close_model(m);
    m = open_model("{{ '<|im_' + messages[0].content }}", 0);
    expect(&m, "end|>", " 60 124 105 109 95 101 110 100 124 62");
    close_model(m);
    m = open_model("{{ '<|im_' + 'end|>' }}", 0);
    expect(&m, "", " 511");
    close_model(m);
}

/* The token that begins a prompt comes once, whoever writes it. */
static void it_begins_once(void **state)
{
    model m = open_model("{{ messages[0].content }}", TINY_END_OF_TEXT);

    (void)state;
    expect(&m, "the", " 509 258");
    close_model(m);
    m = open_model("{{ bos_token + messages[0].content }}", TINY_END_OF_TEXT);
    expect(&m, "the", " 509 258");
    close_model(m);
}

static void templates_that_are_none(void **state)
{
    static const char *const cases[][2] = {
        {"{% for m in messages %}", "line 1: \"endfor\" is missing"},
        {"\n{{ messages | pprint }}", "line 2: the filter \"pprint\" is not supported"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        model m = open_model(cases[i][0], 0);

        assert_null(m.c);
        assert_string_equal(err, cases[i][1]);
        close_model(m);
    }
}

static void templates_may_refuse(void **state)
{
    model m = open_model("{{ raise_exception('No, ' + messages[0].role) }}", 0);
    infer_message message = {.role = "user", .content = "x", .content_len = 1};
    tokenizer_ids ids = {.limit = 4};

    (void)state;
    assert_int_equal(chat_render(m.c, m.t, &message, 1, 100, &ids, err, sizeof(err)),
                     CHAT_REFUSED);
    assert_string_equal(err, "No, user");
    close_model(m);
    m = open_model("1234567", 0);
    assert_int_equal(chat_render(m.c, m.t, &message, 1, 100, &ids, err, sizeof(err)),
                     CHAT_TOO_LONG);
    free(ids.v);
    close_model(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_files_template_is_run),
        cmocka_unit_test(nobody_ends_his_turn),
        cmocka_unit_test(it_begins_once),
        cmocka_unit_test(templates_that_are_none),
        cmocka_unit_test(templates_may_refuse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
