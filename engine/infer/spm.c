/*
 * SentencePiece's scored merges: a space is written U+2581, neighbours merge where the joined
 * text is a token, the highest score first, and what is no token in the end falls back to
 * tokens for its bytes.
 */
#include "infer/tokenizer_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

#define SPACE     "\xe2\x96\x81" /* U+2581 */
#define SPACE_LEN 3

static void find_byte_tokens(tokenizer *t)
{
    char name[8];

    for (unsigned b = 0; b < 256; b++) {
        snprintf(name, sizeof(name), "<0x%02X>", b);
        t->byte_id[b] = tokenizer_find(t, name, 6);
    }
}

bool spm_load(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    const gguf_kv *scores = gguf_find(g, "tokenizer.ggml.scores");
    const gguf_kv *prefix = gguf_find(g, "tokenizer.ggml.add_space_prefix");
    const gguf_kv *architecture = gguf_find(g, "general.architecture");
    gguf_str name = {.p = "", .len = 0};
    gguf_array arr;

    if (scores == NULL || scores->type != GGUF_ARRAY || scores->value.type != GGUF_F32 ||
        scores->value.n != t->n) {
        snprintf(err, errlen, "the vocabulary has no score for each token");
        return false;
    }
    t->space_prefix = true;
    if (prefix != NULL && !gguf_as_bool(prefix, &t->space_prefix)) {
        snprintf(err, errlen, "tokenizer.ggml.add_space_prefix is not a boolean");
        return false;
    }
    if (architecture != NULL) {
        gguf_as_str(architecture, &name);
    }
    /* the files do not say so, its own tokenizer does */
    t->strip_after = name.len == 4 && memcmp(name.p, "phi3", 4) == 0;
    t->scores = malloc(t->n * sizeof(*t->scores));
    if (t->scores == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    arr = scores->value;
    for (uint32_t i = 0; i < t->n; i++) {
        t->scores[i] = gguf_next_f32(&arr);
        if (!isfinite(t->scores[i])) {
            snprintf(err, errlen, "the score of token %u is not a number", i);
            return false;
        }
    }
    find_byte_tokens(t);
    return true;
}

size_t spm_decode(const tokenizer *t, uint32_t id, char *out)
{
    const gguf_str *text = &t->text[id];
    unsigned byte;
    size_t n = 0;

    if (t->type[id] == TOKEN_BYTE && text->len == 6 && memcmp(text->p, "<0x", 3) == 0) {
        char hex[3] = {text->p[3], text->p[4], '\0'};

        byte = (unsigned)strtoul(hex, NULL, 16);
        if (out != NULL) {
            out[0] = (char)byte;
        }
        return 1;
    }
    for (size_t i = 0; i < text->len; n++) {
        bool space = text->len - i >= SPACE_LEN && memcmp(text->p + i, SPACE, SPACE_LEN) == 0;

        if (out != NULL) {
            out[n] = space ? ' ' : text->p[i];
        }
        i += space ? SPACE_LEN : 1;
    }
    return n;
}

static bool find_joined(const merger *m, const symbol *left, const symbol *right,
                        candidate *out)
{
    int32_t id = tokenizer_find(m->t, m->text + left->start, (size_t)left->len + right->len);

    if (id == TOKENIZER_NONE) {
        return false;
    }
    out->key = m->t->scores[id];
    out->result = id;
    return true;
}

/* text with its spaces written out; NULL if memory ends. */
static char *escape(const char *text, size_t len, bool prefix, size_t *n)
{
    size_t spaces = prefix;
    char *p, *q;

    for (size_t i = 0; i < len; i++) {
        spaces += text[i] == ' ';
    }
    *n = len + prefix + spaces * (SPACE_LEN - 1);
    p = q = malloc(*n + 1);
    if (p == NULL) {
        return NULL;
    }
    if (prefix) {
        memcpy(q, SPACE, SPACE_LEN);
        q += SPACE_LEN;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ') {
            memcpy(q, SPACE, SPACE_LEN);
            q += SPACE_LEN;
        } else {
            *q++ = text[i];
        }
    }
    return p;
}

static bool push_symbol(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out)
{
    int32_t id = tokenizer_find(t, text, len);

    if (id != TOKENIZER_NONE) {
        return tokenizer_ids_push(out, id);
    }
    for (size_t i = 0; i < len; i++) {
        id = t->byte_id[(uint8_t)text[i]];
        if (!tokenizer_ids_push(out, id != TOKENIZER_NONE ? id : t->unknown)) {
            return false;
        }
    }
    return true;
}

static bool encode_escaped(merger *m, size_t len, tokenizer_ids *out)
{
    size_t n = 0;

    if (!merger_reserve(m, len)) {
        return false;
    }
    for (size_t i = 0; i < len; n++) {
        uint32_t cp;
        int step = utf8_next(m->text + i, len - i, &cp);
        uint32_t bytes = step > 0 ? (uint32_t)step : 1;

        m->symbols[n] = (symbol){.start = (uint32_t)i, .len = bytes};
        i += bytes;
    }
    if (!merger_run(m, n, find_joined)) {
        return false;
    }
    for (int32_t i = 0; i != TOKENIZER_NONE; i = m->symbols[i].next) {
        if (!push_symbol(m->t, m->text + m->symbols[i].start, m->symbols[i].len, out)) {
            return false;
        }
    }
    return true;
}

bool spm_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out)
{
    size_t n;
    char *escaped = escape(text, len, t->space_prefix, &n);
    merger m = {.t = t, .text = escaped};
    bool ok;

    if (escaped == NULL) {
        return false;
    }
    ok = encode_escaped(&m, n, out);
    merger_free(&m);
    free(escaped);
    return ok;
}
