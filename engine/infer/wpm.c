/*
 * WordPiece as BERT has it, uncased: text is read without case and accents, cut at spaces and
 * around punctuation, and each word becomes the longest pieces from left to right. A word that
 * the vocabulary cannot make is one unknown token. In the file pieces that begin a word carry
 * U+2581 in front.
 */
#include "infer/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

#define SPACE     "\xe2\x96\x81" /* U+2581 */
#define SPACE_LEN 3
#define MAX_WORD  400 /* bytes; BERT gives up at 100 characters */

typedef struct {
    const tokenizer *t;
    tokenizer_ids *out;
    char word[MAX_WORD + SPACE_LEN + 4];
    size_t len; /* of the word under way, its mark included; SPACE_LEN: none */
    bool too_long;
} splitter;

/* Text is read without case and accents; a file may say that its words have them. */
static bool is_uncased(const gguf *g, char *err, size_t errlen)
{
    static const char *const keys[] = {"tokenizer.ggml.normalizer.lowercase",
                                       "tokenizer.ggml.normalizer.strip_accents"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        const gguf_kv *kv = gguf_find(g, keys[i]);
        bool said = true;

        if (kv != NULL && (!gguf_as_bool(kv, &said) || !said)) {
            snprintf(err, errlen, "%s is not supported, but for true", keys[i]);
            return false;
        }
    }
    return true;
}

bool wpm_load(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    if (t->unknown == TOKENIZER_NONE) {
        snprintf(err, errlen, "the vocabulary has no token for unknown words");
        return false;
    }
    return is_uncased(g, err, errlen);
}

/* The pieces of the word; its ids are taken back where one part of it has none. */
static bool push_pieces(splitter *s)
{
    size_t before = s->out->n, i = 0;

    while (i < s->len) {
        size_t n = s->len - i < s->t->max_text ? s->len - i : s->t->max_text;
        int32_t id;

        while ((id = tokenizer_find(s->t, s->word + i, n)) == TOKENIZER_NONE && n > 0) {
            n--;
        }
        if (id == TOKENIZER_NONE) {
            s->out->n = before;
            return tokenizer_ids_push(s->out, s->t->unknown);
        }
        if (!tokenizer_ids_push(s->out, id)) {
            return false;
        }
        i += n;
    }
    return true;
}

static bool end_word(splitter *s)
{
    bool ok = true;

    if (s->too_long) {
        ok = tokenizer_ids_push(s->out, s->t->unknown);
    } else if (s->len > SPACE_LEN) {
        ok = push_pieces(s);
    }
    s->len = SPACE_LEN;
    s->too_long = false;
    return ok;
}

static void add_char(splitter *s, uint32_t cp)
{
    if (s->len - SPACE_LEN >= MAX_WORD) {
        s->too_long = true;
    } else {
        s->len += utf8_put(cp, s->word + s->len);
    }
}

/* Ideographs are words of their own; the ranges are BERT's. */
static bool is_ideograph(uint32_t cp)
{
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) ||
           (cp >= 0x20000 && cp <= 0x2a6df) || (cp >= 0x2a700 && cp <= 0x2ceaf) ||
           (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

static bool stands_alone(uint32_t cp)
{
    bool ascii_sign = cp < 0x80 && cp > ' ' && !unicode_is_letter(cp) && !unicode_is_number(cp);

    return ascii_sign || unicode_is_punctuation(cp) || is_ideograph(cp);
}

/* What only one font knows: bullets in text from PDF files. BERT passes over it, as it does
 * over what controls. */
static bool is_private(uint32_t cp)
{
    return (cp >= 0xe000 && cp <= 0xf8ff) || (cp >= 0xf0000 && cp <= 0xffffd) ||
           (cp >= 0x100000 && cp <= 0x10fffd);
}

static bool take_char(splitter *s, uint32_t cp)
{
    uint32_t folded[3];
    size_t n;

    if (unicode_is_space(cp)) {
        return end_word(s);
    }
    if (cp == 0 || cp == 0xfffd || unicode_is_control(cp) || is_private(cp)) {
        return true;
    }
    n = unicode_fold(cp, folded);
    for (size_t i = 0; i < n; i++) {
        bool alone = stands_alone(folded[i]);

        if (alone && !end_word(s)) {
            return false;
        }
        add_char(s, folded[i]);
        if (alone && !end_word(s)) {
            return false;
        }
    }
    return true;
}

bool wpm_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out)
{
    splitter s = {.t = t, .out = out, .word = SPACE, .len = SPACE_LEN};

    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = utf8_next(text + i, len - i, &cp);

        if (n > 0 && !take_char(&s, cp)) {
            return false;
        }
        i += n > 0 ? (size_t)n : 1;
    }
    return end_word(&s);
}
