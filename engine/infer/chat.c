#include "infer/chat.h"

#include <stdlib.h>
#include <string.h>

#define START "<|im_start|>"
#define END   "<|im_end|>"

/* The words that ChatML's templates are made of, in the spellings that are about. */
static const char *const words[] = {
    START,      END,       "add_generation_prompt",
    "messages", "message", "assistant",
    "content",  "endif",   "endfor",
    "role",     "for",     "if",
    "in",
};

static const char signs[] = " \t\r\n{}%-+'\"()[].";

static bool contains(gguf_str s, const char *what)
{
    return memmem(s.p, s.len, what, strlen(what)) != NULL;
}

static size_t word_at(const char *p, size_t len)
{
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        size_t n = strlen(words[i]);

        if (n <= len && memcmp(p, words[i], n) == 0) {
            return n;
        }
    }
    return 0;
}

/* Nothing but those words, and the signs between them. */
static bool is_chatml(gguf_str s)
{
    for (size_t i = 0; i < s.len;) {
        size_t n = word_at(s.p + i, s.len - i);

        if (n == 0 && s.len - i >= 2 && memcmp(s.p + i, "\\n", 2) == 0) {
            n = 2;
        }
        if (n == 0 && memchr(signs, s.p[i], sizeof(signs) - 1) != NULL) {
            n = 1;
        }
        if (n == 0) {
            return false;
        }
        i += n;
    }
    return contains(s, START) && contains(s, END) && contains(s, "add_generation_prompt");
}

chat_template chat_template_of(const gguf *g, const tokenizer *t)
{
    const gguf_kv *kv = gguf_find(g, "tokenizer.chat_template");
    chat_template c = {.start = tokenizer_find(t, START, strlen(START)),
                       .end = tokenizer_find(t, END, strlen(END))};
    gguf_str source;

    c.usable = c.start != TOKENIZER_NONE && c.end != TOKENIZER_NONE &&
               (kv == NULL || (gguf_as_str(kv, &source) && is_chatml(source)));
    return c;
}

/* Role, line break and content are one text to the tokenizer: merges may cross them. */
static bool encode_turn(const tokenizer *t, const infer_message *m, tokenizer_ids *out)
{
    size_t role_len = strlen(m->role), len = role_len + 1 + m->content_len;
    char *text = malloc(len);
    bool ok;

    if (text == NULL) {
        return false;
    }
    memcpy(text, m->role, role_len);
    text[role_len] = '\n';
    memcpy(text + role_len + 1, m->content, m->content_len);
    ok = tokenizer_encode(t, text, len, false, out);
    free(text);
    return ok;
}

bool chat_render(const chat_template *c, const tokenizer *t, const infer_message *messages,
                 size_t n, tokenizer_ids *out)
{
    static const infer_message answer = {.role = "assistant", .content = ""};
    int32_t bos = tokenizer_bos(t);

    if (bos != TOKENIZER_NONE && !tokenizer_ids_push(out, bos)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!tokenizer_ids_push(out, c->start) || !encode_turn(t, &messages[i], out) ||
            !tokenizer_ids_push(out, c->end) || !tokenizer_encode(t, "\n", 1, false, out)) {
            return false;
        }
    }
    return tokenizer_ids_push(out, c->start) && encode_turn(t, &answer, out);
}
