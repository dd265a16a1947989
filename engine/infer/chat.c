#include "infer/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/jinja.h"

struct chat_template {
    jinja *template;
    gguf_str bos, eos; /* how the template may write them; empty: there is none */
};

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

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
    return c;
}

void chat_template_free(chat_template *c)
{
    jinja_free(c->template);
    free(c);
}

static void define(jinja_run *r, const chat_template *c, const infer_message *messages,
                   size_t n)
{
    jinja_value *list = jinja_list(r);

    for (size_t i = 0; i < n; i++) {
        const infer_message *m = &messages[i];
        jinja_value *message = jinja_dict(r);

        jinja_dict_set(r, message, "role", jinja_text(r, m->role, strlen(m->role), false));
        jinja_dict_set(r, message, "content", jinja_text(r, m->content, m->content_len, true));
        jinja_list_add(r, list, message);
    }
    jinja_define(r, "messages", list);
    jinja_define(r, "bos_token", jinja_text(r, c->bos.p, c->bos.len, false));
    jinja_define(r, "eos_token", jinja_text(r, c->eos.p, c->eos.len, false));
    jinja_define(r, "add_generation_prompt", jinja_bool(r, true));
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

chat_rc chat_render(const chat_template *c, const tokenizer *t, const infer_message *messages,
                    size_t n, size_t max_len, tokenizer_ids *out, char *err, size_t errlen)
{
    jinja_run *r = jinja_run_new(time(NULL));
    jinja_output text;
    chat_rc rc = CHAT_REFUSED;

    define(r, c, messages, n);
    if (jinja_render(c->template, r, max_len, &text, err, errlen)) {
        rc = encode(t, &text, out) ? CHAT_OK : CHAT_TOO_LONG;
    }
    jinja_run_free(r);
    return rc;
}
