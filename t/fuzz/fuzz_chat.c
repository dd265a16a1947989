/*
 * Any bytes as a chat request, and as a chunk of a provider's stream. A refusal
 * names a status, a code and a sentence; what is accepted holds what the rest
 * relies on, and a local model's parameters can be made of it or are refused; so
 * can its prompt, and a grammar of its tools. As the request of another endpoint it
 * is bounded, or refused, too.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../unit/tiny_model.h"
#include "infer/chat_talk.h"
#include "infer/tool_grammar.h"
#include "providers/local_chat.h"
#include "providers/local_embed.h"
#include "providers/openai_chunk.h"
#include "providers/openai_lacking.h"
#include "services/gateway/bound.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const aiq_err *err)
{
    json_error error;
    aiq_buf quoted = {0};

    assert(err->status == 400 && err->code[0] && err->message[0]);
    json_quote(&quoted, err->message, strlen(err->message));
    assert(json_valid((char *)quoted.data, quoted.len, &error));
    aiq_buf_free(&quoted);
}

/* The conversation as templates of each kind see it. */
static void check_talk(const infer_params *params)
{
    static const char source[] = "{{ messages | tojson }}{{ tools | tojson if tools }}";
    const chat_talk talk = {params->messages, params->n_messages, params->tools, NULL};
    char err[80];
    jinja *template = jinja_new(source, sizeof(source) - 1, err, sizeof(err));

    assert(template);
    for (int i = 0; i < 8; i++) {
        const chat_ways ways = {.system = i & 1,
                                .tools = i & 1,
                                .calls = i & 2,
                                .text_arguments = i & 4,
                                .format = (tool_format)(i % (TOOL_PHI + 1))};
        jinja_run *r = jinja_run_new(0);
        aiq_pool *pool = aiq_pool_new();
        jinja_output out;

        chat_talk_define(r, pool, &ways, &talk);
        if (jinja_render(template, r, 1 << 20, &out, err, sizeof(err))) {
            assert(out.len >= 2 && out.text[0] == '[');
        }
        jinja_run_free(r);
        aiq_pool_free(pool);
    }
    jinja_free(template);
}

static const tokenizer *tiny_tokenizer(void)
{
    static tokenizer *t;
    static gguf *g;
    static uint8_t *file;
    tiny_model tm = {.control = "[TOOL_CALLS]"};
    gw w = {0};
    size_t size;
    char err[80];

    if (t == NULL) {
        tiny_vocab(&w, &tm);
        file = gw_finish(&w, &size);
        g = gguf_parse(file, size, err, sizeof(err));
        t = tokenizer_new(g, err, sizeof(err));
        assert(t);
    }
    return t;
}

static void check_tools(const local_tools *tools)
{
    for (int i = 0; i <= TOOL_PHI && tools->n > 0; i++) {
        const tool_language language = {
            .format = (tool_format)i,
            .tokenizer = tiny_tokenizer(),
            .tools = tools->named ? tools->named : tools->tools,
            .n = tools->named ? 1 : tools->n,
            .required = tools->required,
            .one = tools->one,
            .answer = AIQ_STR("{\"enum\":[1]}"),
        };
        char err[200] = "";
        grammar *g = tool_grammar_new(&language, err, sizeof(err));

        assert(g != NULL || err[0] != '\0');
        if (g) {
            grammar_free(g);
        }
    }
}

static void check_local(const chat_request *chat)
{
    aiq_pool *pool = aiq_pool_new();
    infer_params params;
    local_tools tools;
    aiq_err err = {0};

    if (local_chat_params(chat, pool, &params, &tools, &err)) {
        assert(params.n_messages == chat->messages.count);
        assert(params.n_stop <= INFER_MAX_STOP);
        assert(params.temperature >= 0 && params.temperature <= 2);
        assert(params.top_p > 0 && params.top_p <= 1);
        for (size_t i = 0; i < params.n_messages; i++) {
            assert(params.messages[i].role && params.messages[i].content);
        }
        check_talk(&params);
        check_tools(&tools);
    } else {
        check_error(&err);
    }
    aiq_pool_free(pool);
}

static void check_bound(const chat_request *chat)
{
    const policy_price dear = {INT32_MAX, INT32_MAX, INT32_MAX,
                               INT32_MAX, INT32_MAX, INT32_MAX};
    request_bound bound;
    aiq_err err = {0};

    if (!request_bound_of(chat, &bound, &err)) {
        check_error(&err);
        return;
    }
    assert(bound.input >= 0 && bound.output >= 0 && bound.cap >= 0);
    assert(bound.units.images >= 0 && bound.units.characters >= 0);
    assert(request_most(&bound, &dear).nano_usd >= 0);
}

/* For a provider that knows less. */
static void check_lacking(const chat_request *chat)
{
    const policy_provider old = {.no_stream_options = true, .no_max_completion_tokens = true};
    aiq_pool *pool = aiq_pool_new();
    json_error error;
    const chat_request *less = openai_without(chat, &old, pool);

    assert(json_scan(less->body.data, less->body.len, NULL, 0, &error));
    assert(less->stream_options.type == JSON_NONE);
    assert(less->max_completion_tokens.type != JSON_NUMBER);
    aiq_pool_free(pool);
}

static void check_embed(const chat_request *chat)
{
    aiq_pool *pool = aiq_pool_new();
    local_embed_request request;
    aiq_err err = {0};

    if (local_embed_read(chat, pool, 4, &request, &err)) {
        assert(request.n >= 1 && request.n <= EMBED_MAX_INPUTS);
    } else {
        check_error(&err);
    }
    aiq_pool_free(pool);
}

static void check_other(aiq_str body)
{
    static const struct {
        const char *path;
        bool raw;
    } endpoints[] = {{"/completions", false},
                     {"/embeddings", false},
                     {"/audio/speech", true},
                     {"/images/generations", true}};
    chat_request chat;
    aiq_err err = {0};

    for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++) {
        if (!chat_request_parse_other(&chat, endpoints[i].path, body, &err)) {
            check_error(&err);
            return;
        }
        chat.raw = endpoints[i].raw;
        check_bound(&chat);
        check_embed(&chat);
    }
}

static void check_chunk(const char *text, size_t size, bool wants_usage)
{
    char *copy = memcpy(aiq_alloc(size), text, size);
    openai_stream stream = {0};
    const char *wrong = NULL;
    aiq_str chunk = {copy, size};
    json_error error;

    openai_verdict verdict = openai_chunk(&stream, &chunk, wants_usage, &wrong);
    assert((verdict == OPENAI_BAD) == (wrong != NULL));
    if (verdict == OPENAI_PASS && !stream.done) {
        /* what was cut out has left JSON behind */
        assert(chunk.data == copy && chunk.len <= size);
        assert(json_valid(chunk.data, chunk.len, &error));
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = memcpy(aiq_alloc(size), data, size);
    chat_request chat;
    aiq_err err = {0};

    if (chat_request_parse(&chat, (aiq_str){text, size}, &err)) {
        assert(chat.model.type == JSON_STRING && chat.messages.count > 0);
        check_local(&chat);
        check_bound(&chat);
        check_lacking(&chat);
    } else {
        check_error(&err);
    }
    check_other((aiq_str){text, size});
    check_chunk(text, size, false);
    check_chunk(text, size, true);
    free(text);
    return 0;
}
