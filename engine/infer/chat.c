#include "infer/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/chat_talk.h"
#include "infer/jinja.h"

#define PROBE_MAX 65536 /* bytes of a prompt that shows what a template does */

struct chat_template {
    jinja *template;
    gguf_str bos, eos; /* how the template may write them; empty: there is none */
    chat_ways ways;
    bool thinks;
};

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static bool has_word(aiq_str text, const char *word)
{
    return memmem(text.data, text.len, word, strlen(word)) != NULL;
}

static bool has_token(const tokenizer *t, const char *text)
{
    return tokenizer_find(t, text, strlen(text)) != TOKENIZER_NONE;
}

static gguf_str source_of(const gguf *g, const tokenizer *t)
{
    const gguf_kv *kv = gguf_find(g, "tokenizer.chat_template");
    gguf_str source = {.p = NULL, .len = 0};

    if (kv != NULL) {
        gguf_as_str(kv, &source);
    } else if (has_token(t, "<|im_start|>") && has_token(t, "<|im_end|>")) {
        source = (gguf_str){chatml, sizeof(chatml) - 1};
    }
    return source;
}

static gguf_str text_of(const gguf *g, const char *key)
{
    const gguf_kv *kv = gguf_find(g, key);
    const gguf_kv *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    gguf_str text = {.p = "", .len = 0};
    gguf_array all;
    uint64_t id;

    if (kv == NULL || tokens == NULL || !gguf_as_uint(kv, &id) || id >= tokens->value.n) {
        return text;
    }
    all = tokens->value;
    for (uint64_t i = 0; i <= id; i++) {
        text = gguf_next_str(&all);
    }
    return text;
}

/* --- what a template does with what it is given --- */

static void define(jinja_run *r, aiq_pool *pool, const chat_template *c, const chat_ways *ways,
                   const chat_talk *talk)
{
    chat_talk_define(r, pool, ways, talk);
    jinja_define(r, "bos_token", jinja_text(r, c->bos.p, c->bos.len, false));
    jinja_define(r, "eos_token", jinja_text(r, c->eos.p, c->eos.len, false));
    jinja_define(r, "add_generation_prompt", jinja_bool(r, true));
    if (talk->effort != NULL) {
        const char *effort = talk->effort;
        bool none = strcmp(effort, "none") == 0 || strcmp(effort, "minimal") == 0;

        jinja_define(r, "reasoning_effort", jinja_text(r, effort, strlen(effort), false));
        jinja_define(r, "enable_thinking", jinja_bool(r, !none));
    }
}

/* Does it show all of these words? */
static bool shows(const chat_template *c, const chat_ways *ways, const chat_talk *talk,
                  const char *const *words)
{
    jinja_run *r = jinja_run_new(0);
    aiq_pool *pool = aiq_pool_new();
    jinja_output text;
    char err[80];
    bool ok;

    define(r, pool, c, ways, talk);
    ok = jinja_render(c->template, r, PROBE_MAX, &text, err, sizeof(err));
    for (; ok && *words != NULL; words++) {
        ok = memmem(text.text, text.len, *words, strlen(*words)) != NULL;
    }
    jinja_run_free(r);
    aiq_pool_free(pool);
    return ok;
}

static infer_message says(const char *role, const char *content)
{
    return (infer_message){.role = role, .content = content, .content_len = strlen(content)};
}

#define PROBE_TOOLS                                                                            \
    "[{\"type\":\"function\",\"function\":{\"name\":\"probe_name\","                           \
    "\"description\":\"\",\"parameters\":{\"type\":\"object\",\"properties\":{\"probe_key\":"  \
    "{\"type\":\"string\",\"description\":\"\"}},\"required\":[]}}}]"
#define PROBE_CALLS                                                                            \
    "[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"probe_name\","      \
    "\"arguments\":\"{\\\"probe_key\\\":\\\"probe_value\\\"}\"}}]"

static bool find_system(const chat_template *c, const chat_ways *ways)
{
    static const char *const words[] = {"probe_system", "probe_user", NULL};
    const infer_message messages[] = {says("system", "probe_system"),
                                      says("user", "probe_user")};

    return shows(c, ways, &(chat_talk){.messages = messages, .n = 2}, words);
}

static bool find_tools(const chat_template *c, const chat_ways *ways)
{
    static const char *const words[] = {"probe_name", "probe_key", NULL};
    const infer_message message = says("user", "probe_user");

    return shows(c, ways, &(chat_talk){&message, 1, AIQ_STR(PROBE_TOOLS), NULL}, words);
}

static bool find_calls(const chat_template *c, const chat_ways *ways)
{
    static const char *const words[] = {"probe_name", "probe_key", "probe_value",
                                        "probe_result", NULL};
    infer_message messages[] = {says("user", "probe_user"), says("assistant", ""),
                                says("tool", "probe_result")};

    messages[1].calls = AIQ_STR(PROBE_CALLS);
    messages[2].call_id = AIQ_STR("abcdefghi");
    messages[2].name = AIQ_STR("probe_name");
    return shows(c, ways, &(chat_talk){.messages = messages, .n = 3}, words);
}

/* A template that has no word for a thing does not show it: most need not be tried. */
static void look_at(chat_template *c, aiq_str source)
{
    chat_ways *w = &c->ways;

    *w = (chat_ways){.format = tool_format_of(source)};
    c->thinks = has_word(source, "<think>") || has_word(source, "</think>");
    w->system = true;
    w->system = find_system(c, w);
    w->tools = has_word(source, "tools");
    w->tools = w->tools && find_tools(c, w);
    if (!w->tools) {
        w->format = TOOL_HERMES;
    }
    w->calls = has_word(source, "tool_calls");
    if (w->calls && !find_calls(c, w)) {
        w->text_arguments = true;
        w->calls = find_calls(c, w);
    }
}

chat_template *chat_template_new(const gguf *g, const tokenizer *t, char *err, size_t errlen)
{
    gguf_str source = source_of(g, t);
    chat_template *c;

    if (source.p == NULL) {
        snprintf(err, errlen, "the model has no chat template");
        return NULL;
    }
    c = calloc(1, sizeof(*c));
    if (c == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    c->template = jinja_new(source.p, source.len, err, errlen);
    if (c->template == NULL) {
        free(c);
        return NULL;
    }
    c->bos = text_of(g, "tokenizer.ggml.bos_token_id");
    c->eos = text_of(g, "tokenizer.ggml.eos_token_id");
    look_at(c, (aiq_str){source.p, source.len});
    return c;
}

void chat_template_free(chat_template *c)
{
    jinja_free(c->template);
    free(c);
}

tool_format chat_tool_format(const chat_template *c, bool *thinks)
{
    *thinks = c->thinks;
    return c->ways.format;
}

/* With the token that begins a prompt, whether the template writes it or not. */
static bool encode(const tokenizer *t, const jinja_output *text, tokenizer_ids *out)
{
    int32_t bos = tokenizer_bos(t);
    size_t first = out->n;
    bool ok = (bos == TOKENIZER_NONE || tokenizer_ids_push(out, bos)) &&
              tokenizer_encode_marked(t, text->text, text->marks, text->len, out);

    if (bos != TOKENIZER_NONE && out->n > first + 1 && out->v[first + 1] == bos) {
        out->n--;
        memmove(out->v + first, out->v + first + 1, (out->n - first) * sizeof(*out->v));
    }
    return ok;
}

/* Does the text end within a thought that it has begun? */
static bool ends_in_thought(const jinja_output *text)
{
    static const char mark[] = "<think>";
    size_t len = text->len, n = sizeof(mark) - 1;

    while (len > 0 && (text->text[len - 1] == '\n' || text->text[len - 1] == ' ')) {
        len--;
    }
    return len >= n && memcmp(text->text + len - n, mark, n) == 0 && !text->marks[len - 1];
}

static chat_rc render(const chat_template *c, const tokenizer *t, const chat_ways *ways,
                      const chat_talk *talk, size_t max_len, tokenizer_ids *out,
                      bool *is_thought, char *err, size_t errlen)
{
    jinja_run *r = jinja_run_new(time(NULL));
    aiq_pool *pool = aiq_pool_new();
    jinja_output text;
    chat_rc rc = CHAT_REFUSED;

    define(r, pool, c, ways, talk);
    if (jinja_render(c->template, r, max_len, &text, err, errlen)) {
        rc = encode(t, &text, out) ? CHAT_OK : CHAT_TOO_LONG;
        *is_thought = ends_in_thought(&text);
    }
    jinja_run_free(r);
    aiq_pool_free(pool);
    return rc;
}

static bool has_calls(const chat_talk *talk)
{
    for (size_t i = 0; i < talk->n; i++) {
        if (talk->messages[i].calls.len > 0) {
            return true;
        }
    }
    return false;
}

/* A template may refuse calls that another model has made: several at once, as Llama's do. As
 * text they are better than no answer. */
chat_rc chat_render(const chat_template *c, const tokenizer *t, const chat_talk *talk,
                    size_t max_len, tokenizer_ids *out, bool *is_thought, char *err,
                    size_t errlen)
{
    chat_ways as_text = c->ways;
    char why[80];
    chat_rc rc = render(c, t, &c->ways, talk, max_len, out, is_thought, err, errlen);

    if (rc == CHAT_REFUSED && c->ways.calls && has_calls(talk)) {
        as_text.calls = false;
        chat_rc again =
            render(c, t, &as_text, talk, max_len, out, is_thought, why, sizeof(why));
        rc = again != CHAT_REFUSED ? again : rc;
    }
    return rc;
}
