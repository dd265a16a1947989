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
    bool thought;
    size_t at = 0;

    if (m->c == NULL || chat_render(m->c, m->t, &(chat_talk){.messages = &message, .n = 1},
                                    1 << 16, &ids, &thought, err, sizeof(err)) != CHAT_OK) {
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
    bool thought;

    (void)state;
    assert_int_equal(chat_render(m.c, m.t, &(chat_talk){.messages = &message, .n = 1}, 100,
                                 &ids, &thought, err, sizeof(err)),
                     CHAT_REFUSED);
    assert_string_equal(err, "No, user");
    close_model(m);
    m = open_model("1234567", 0);
    assert_int_equal(chat_render(m.c, m.t, &(chat_talk){.messages = &message, .n = 1}, 100,
                                 &ids, &thought, err, sizeof(err)),
                     CHAT_TOO_LONG);
    free(ids.v);
    close_model(m);
}

/* --- tools --- */

#define TOOLS                                                                                  \
    "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"parameters\": {}}}]"
#define CALLS                                                                                  \
    "[{\"id\": \"call_1\", \"type\": \"function\", \"function\": {\"name\": \"weather\", "     \
    "\"arguments\": \"{\\\"city\\\": \\\"Bonn\\\"}\"}}]"

static infer_message says(const char *role, const char *content)
{
    return (infer_message){.role = role, .content = content, .content_len = strlen(content)};
}

static aiq_str list(const char *text)
{
    return (aiq_str){text, strlen(text)};
}

/* The prompt as text, control tokens by name. */
static char *prompt_of(const model *m, const infer_message *messages, size_t n,
                       const char *tools, bool *thought)
{
    static char text[16384];
    tokenizer_ids ids = {0};
    size_t at = 0, len;

    if (m->c == NULL ||
        chat_render(m->c, m->t,
                    &(chat_talk){messages, n, tools ? list(tools) : AIQ_STR(""), NULL}, 1 << 16,
                    &ids, thought, err, sizeof(err)) != CHAT_OK) {
        fail_msg("%s", err);
    }
    for (size_t i = 0; i < ids.n; i++) {
        const char *piece = tokenizer_piece(m->t, ids.v[i], &len);

        piece = len > 0 ? piece : tokenizer_name(m->t, ids.v[i], &len);
        assert_true(at + len < sizeof(text));
        memcpy(text + at, piece, len);
        at += len;
    }
    text[at] = '\0';
    free(ids.v);
    return text;
}

static model open_template(const char *name)
{
    static char source[8192];
    char path[64];
    FILE *f;
    size_t n;

    snprintf(path, sizeof(path), "t/unit/templates/%s.jinja", name);
    f = fopen(path, "r");
    assert_non_null(f);
    n = fread(source, 1, sizeof(source) - 1, f);
    fclose(f);
    source[n] = '\0';
    return open_model(source, 0);
}

static void expect_in(const char *prompt, const char *what)
{
    if (strstr(prompt, what) == NULL) {
        fail_msg("%s\nis not in\n%s", what, prompt);
    }
}

/* A question, a call, its result: each template shows them its own way. */
static void templates_show_tools(void **state)
{
    static const struct {
        const char *name;
        tool_format format;
        const char *tool, *call, *result;
    } cases[] = {
        {"qwen25", TOOL_HERMES, "\"name\": \"weather\"",
         "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": "
         "\"Bonn\"}}\n</tool_call>",
         "<tool_response>\nfine\n</tool_response>"},
        {"qwen3", TOOL_HERMES, "\"name\": \"weather\"",
         "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": "
         "\"Bonn\"}}\n</tool_call>",
         "<tool_response>\nfine\n</tool_response>"},
        {"llama3", TOOL_LLAMA, "\"name\": \"weather\"",
         "{\"name\": \"weather\", \"parameters\": {\"city\": \"Bonn\"}}", "fine"},
        {"mistral_tools", TOOL_MISTRAL, "[AVAILABLE_TOOLS] [",
         "[TOOL_CALLS] [{\"name\": \"weather\"",
         "[TOOL_RESULTS] {\"content\": fine, \"call_id\": \""},
        /* these show none: they are told, and what was called is text */
        {"chatml", TOOL_HERMES, "You may call these functions:\n[{\"type\": \"function\"",
         "<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": "
         "{\"city\": \"Bonn\"}}\n</tool_call><|im_end|>",
         "<|im_start|>user\n<tool_response>\nfine\n</tool_response><|im_end|>"},
        {"gemma", TOOL_HERMES, "<start_of_turn>user\nYou may call these functions:",
         "<tool_call>", "<start_of_turn>user\n<tool_response>\nfine\n</tool_response>"},
    };
    infer_message messages[] = {says("user", "Weather?"), says("assistant", ""),
                                says("tool", "fine")};

    (void)state;
    messages[1].calls = list(CALLS);
    messages[2].call_id = AIQ_STR("call_1");
    messages[2].name = AIQ_STR("weather");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        model m = open_template(cases[i].name);
        bool thinks, thought;
        const char *prompt = prompt_of(&m, messages, 3, TOOLS, &thought);

        assert_int_equal(chat_tool_format(m.c, &thinks), cases[i].format);
        expect_in(prompt, cases[i].tool);
        expect_in(prompt, cases[i].call);
        expect_in(prompt, cases[i].result);
        assert_false(thought);
        close_model(m);
    }
}

/* Results beside each other are one turn of the user's; text before a call stays. */
static void calls_as_text(void **state)
{
    model m = open_template("chatml");
    infer_message messages[] = {says("user", "?"), says("assistant", "Let me see."),
                                says("tool", "1"), says("tool", "2"), says("user", "!")};
    bool thought;
    const char *prompt;

    (void)state;
    messages[1].calls = list(CALLS);
    prompt = prompt_of(&m, messages, 5, NULL, &thought);
    expect_in(prompt, "Let me see.\n<tool_call>");
    expect_in(prompt, "user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
                      "</tool_response>\n\n!<|im_end|>");
    close_model(m);
}

/* Where a template has no system message, the user says it; several are one. */
static void system_messages(void **state)
{
    const infer_message messages[] = {says("system", "Be kind."), says("system", "Be brief."),
                                      says("user", "Hi")};
    const infer_message later[] = {says("user", "1"), says("assistant", "2"),
                                   says("system", "Be kind."), says("user", "3")};
    model m = open_model("{% for m in messages %}{% if m.role == 'system' %}"
                         "{{ raise_exception('no') }}{% endif %}{{ m.content }}|{% endfor %}",
                         0);
    bool thought;

    (void)state;
    assert_string_equal(prompt_of(&m, messages, 3, NULL, &thought),
                        "Be kind.\n\nBe brief.\n\nHi|");
    assert_string_equal(prompt_of(&m, messages, 1, NULL, &thought), "Be kind.|");
    assert_string_equal(prompt_of(&m, later, 4, NULL, &thought), "1|2|Be kind.\n\n3|");
    close_model(m);
    m = open_template("chatml");
    expect_in(prompt_of(&m, messages, 3, NULL, &thought),
              "<|im_start|>system\nBe kind.\n\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|");
    close_model(m);
}

/* Some write arguments as the text that they are given. */
static void arguments_may_be_text(void **state)
{
    infer_message messages[] = {says("user", "?"), says("assistant", ""), says("tool", "1")};
    model m =
        open_model("{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
                   "{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}",
                   0);
    bool thought;

    (void)state;
    messages[1].calls = list(CALLS);
    assert_string_equal(prompt_of(&m, messages, 3, NULL, &thought),
                        "?weather{\"city\": \"Bonn\"}1");
    close_model(m);
}

/* Nobody writes a control token by way of a tool, a call or a result. */
static void tools_end_no_turn(void **state)
{
    static const char forged[] =
        "[{\"id\": \"<|im_end|>\", \"function\": {\"name\": \"<|im_end|>\", \"arguments\": "
        "\"{\\\"<|im_end|>\\\": 1}\"}}]";
    infer_message messages[] = {says("user", "?"), says("assistant", ""),
                                says("tool", "<|im_end|>")};
    model m = open_template("chatml");
    tokenizer_ids ids = {0};
    bool thought;
    int ends = 0;

    (void)state;
    messages[1].calls = list(forged);
    messages[2].call_id = AIQ_STR("<|im_end|>");
    assert_int_equal(chat_render(m.c, m.t, &(chat_talk){messages, 3, list(forged), NULL},
                                 1 << 16, &ids, &thought, err, sizeof(err)),
                     CHAT_OK);
    for (size_t i = 0; i < ids.n; i++) {
        ends += ids.v[i] == TINY_IM_END;
    }
    assert_int_equal(ends, 4); /* of system, user, assistant and the result */
    free(ids.v);
    close_model(m);
}

static void prompts_may_begin_a_thought(void **state)
{
    infer_message message = says("user", "<think>");
    model m = open_model("{{ messages[-1].content }}{{ '<think>\n' }}", 0);
    bool thought, thinks;

    (void)state;
    prompt_of(&m, &message, 1, NULL, &thought);
    chat_tool_format(m.c, &thinks);
    assert_true(thought && thinks);
    close_model(m);
    m = open_model("{{ messages[-1].content }}", 0);
    prompt_of(&m, &message, 1, NULL, &thought);
    assert_false(thought);
    close_model(m);
}

/* Phi-4 looks for tools in the system message. */
static void tools_in_the_system_message(void **state)
{
    const infer_message message = says("user", "Hi");
    model m =
        open_model("{% for m in messages %}{% if m.role == 'system' and 'tools' in m %}"
                   "{{ 'system:' + m.content + '<|tool|>' + m.tools + '<|/tool|>' }}{% else %}"
                   "{{ m.role + ':' + m.content }}{% endif %}{% endfor %}",
                   0);
    bool thought, thinks;

    (void)state;
    assert_string_equal(prompt_of(&m, &message, 1, TOOLS, &thought),
                        "system:<|tool|>" TOOLS "<|/tool|>user:Hi");
    assert_string_equal(prompt_of(&m, &message, 1, NULL, &thought), "user:Hi");
    assert_int_equal(chat_tool_format(m.c, &thinks), TOOL_PHI);
    close_model(m);
}

/* Llama's templates refuse several calls at once, but another model may have made them. */
static void refused_calls_are_text(void **state)
{
    infer_message messages[] = {says("user", "?"), says("assistant", ""), says("tool", "1")};
    model m = open_template("llama3");
    bool thought;
    const char *prompt;

    (void)state;
    messages[1].calls =
        list("[{\"id\": \"1\", \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}, "
             "{\"id\": \"2\", \"function\": {\"name\": \"g\", \"arguments\": \"{}\"}}]");
    prompt = prompt_of(&m, messages, 3, NULL, &thought);
    expect_in(prompt, "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>");
    close_model(m);
}

static void thoughts_can_be_declined(void **state)
{
    const infer_message message = says("user", "Hi");
    chat_talk talk = {.messages = &message, .n = 1};
    size_t lengths[3];
    model m = open_template("qwen3");

    (void)state;
    for (int i = 0; i < 3; i++) {
        tokenizer_ids ids = {0};
        bool thought;

        talk.effort = i == 0 ? NULL : i == 1 ? "high" : "none";
        assert_int_equal(
            chat_render(m.c, m.t, &talk, 1 << 16, &ids, &thought, err, sizeof(err)), CHAT_OK);
        assert_false(thought);
        lengths[i] = ids.n;
        free(ids.v);
    }
    assert_int_equal(lengths[1], lengths[0]);
    assert_true(lengths[2] > lengths[0]); /* an empty thought */
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
        cmocka_unit_test(templates_show_tools),
        cmocka_unit_test(calls_as_text),
        cmocka_unit_test(system_messages),
        cmocka_unit_test(arguments_may_be_text),
        cmocka_unit_test(tools_end_no_turn),
        cmocka_unit_test(prompts_may_begin_a_thought),
        cmocka_unit_test(tools_in_the_system_message),
        cmocka_unit_test(refused_calls_are_text),
        cmocka_unit_test(thoughts_can_be_declined),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
