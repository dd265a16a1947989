/*
 * Byte-level BPE as GPT-2 has it. The text is cut into words (split.h), each word's bytes are
 * merged by rank. In the file a token's text writes each byte as a printable
 * character; we translate once, at load, and work on bytes.
 */
#include "infer/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

/* A longer word is cut: merging takes about 100 bytes of memory for each of the word's. */
#define MAX_WORD ((size_t)64 * 1024)

/* A token's text, where words are looked up whole. Longer tokens come from merges, too. */
#define MAX_WHOLE 512

/*
 * GPT-2's alphabet: printable Latin-1 stands for itself; the other bytes, 00..20, 7f..a0 and
 * ad, for the characters from U+0100 on.
 */
static uint32_t byte_char(uint32_t b)
{
    if (b <= 0x20) {
        return 0x100 + b;
    }
    if (b >= 0x7f && b <= 0xa0) {
        return 0x121 + b - 0x7f;
    }
    return b == 0xad ? 0x143 : b;
}

/* The byte that a character stands for, or -1. */
static int char_byte(uint32_t cp)
{
    uint32_t b = cp;

    if (cp >= 0x100) {
        b = cp < 0x121 ? cp - 0x100 : (cp < 0x143 ? cp - 0x121 + 0x7f : 0xad);
    }
    return b < 0x100 && byte_char(b) == cp ? (int)b : -1;
}

/* Tokens added by hand may hold other characters: those stand for themselves. */
size_t bpe_decode(const gguf_str *text, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < text->len;) {
        uint32_t cp = 0;
        int len = utf8_next(text->p + i, text->len - i, &cp);
        size_t step = len > 0 ? (size_t)len : 1;
        int byte = len > 0 ? char_byte(cp) : -1;

        if (byte >= 0) {
            if (out != NULL) {
                out[n] = (char)byte;
            }
            n++;
        } else {
            if (out != NULL) {
                memcpy(out + n, text->p + i, step);
            }
            n += step;
        }
        i += step;
    }
    return n;
}

/* As a token's text writes it: 1 or 2 bytes. */
static size_t byte_text(uint32_t b, char *out)
{
    char utf8[4];
    size_t n = utf8_put(byte_char(b), utf8);

    memcpy(out, utf8, n);
    return n;
}

/* Some vocabularies lack bytes that no UTF-8 text has, or few. */
static bool find_byte_tokens(tokenizer *t)
{
    for (uint32_t b = 0; b < 256; b++) {
        char text[4];

        t->byte_id[b] = tokenizer_find(t, text, byte_text(b, text));
        if (t->byte_id[b] == TOKENIZER_NONE && b >= ' ' && b <= '~') {
            return false;
        }
    }
    return true;
}

static uint32_t pair_slot(const tokenizer *t, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;

    return (uint32_t)tokenizer_mix(pair ^ t->seed) & t->merge_mask;
}

static const merge *find_merge(const tokenizer *t, int32_t left, int32_t right)
{
    uint32_t i = pair_slot(t, left, right);

    for (;; i = (i + 1) & t->merge_mask) {
        const merge *m = &t->merges[i];

        if (m->left == TOKENIZER_NONE) {
            return NULL;
        }
        if (m->left == left && m->right == right) {
            return m;
        }
    }
}

/* "left right", as texts of tokens; a space can only be the one between them. */
static bool add_merge(tokenizer *t, gguf_str line, uint32_t rank)
{
    const char *space = line.len > 1 ? memchr(line.p + 1, ' ', line.len - 1) : NULL;
    merge m = {.rank = rank};
    size_t left, right;
    uint32_t i;

    if (space == NULL) {
        return false;
    }
    left = (size_t)(space - line.p);
    right = line.len - left - 1;
    m.left = tokenizer_find(t, line.p, left);
    m.right = tokenizer_find(t, space + 1, right);
    if (m.left == TOKENIZER_NONE || m.right == TOKENIZER_NONE || left + right > t->max_text) {
        return false;
    }
    if (find_merge(t, m.left, m.right) != NULL) {
        return true;
    }
    memcpy(t->pieces, line.p, left);
    memcpy(t->pieces + left, space + 1, right);
    m.result = tokenizer_find(t, t->pieces, left + right);
    if (m.result == TOKENIZER_NONE) {
        return false;
    }
    for (i = pair_slot(t, m.left, m.right); t->merges[i].left != TOKENIZER_NONE;) {
        i = (i + 1) & t->merge_mask;
    }
    t->merges[i] = m;
    return true;
}

static bool load_merges(tokenizer *t, gguf_array merges, char *err, size_t errlen)
{
    uint64_t slots = 16;

    while (slots < merges.n * 2) {
        slots *= 2;
    }
    t->merges = malloc(slots * sizeof(*t->merges));
    t->pieces = malloc(t->max_text + 1); /* scratch for joined texts until pieces are made */
    if (t->merges == NULL || t->pieces == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    t->merge_mask = (uint32_t)(slots - 1);
    for (uint64_t i = 0; i < slots; i++) {
        t->merges[i].left = TOKENIZER_NONE;
    }
    for (uint64_t i = 0; i < merges.n; i++) {
        if (!add_merge(t, gguf_next_str(&merges), (uint32_t)i)) {
            snprintf(err, errlen, "merge %llu joins no tokens of the vocabulary",
                     (unsigned long long)i);
            return false;
        }
    }
    free(t->pieces);
    t->pieces = NULL;
    return true;
}

static gguf_str variant_of(const gguf *g)
{
    const gguf_kv *pre = gguf_find(g, "tokenizer.ggml.pre");
    gguf_str name = {.p = "", .len = 0};

    if (pre != NULL) {
        gguf_as_str(pre, &name);
    }
    return name;
}

bool bpe_begins_texts(const gguf *g)
{
    gguf_str name = variant_of(g);
    const split_rule *rule = split_find(name.p, name.len);

    return rule != NULL && rule->begins;
}

bool bpe_load(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    const gguf_kv *merges = gguf_find(g, "tokenizer.ggml.merges");
    gguf_str name = variant_of(g);
    const split_rule *rule = split_find(name.p, name.len);

    if (rule == NULL) {
        char shown[GGUF_SHOWN];

        snprintf(err, errlen, "the BPE variant \"%s\" is not supported",
                 gguf_show(name, shown));
        return false;
    }
    t->word = rule->word;
    t->whole_words = rule->whole;
    if (merges == NULL || merges->type != GGUF_ARRAY || merges->value.type != GGUF_STRING ||
        merges->value.n > INT32_MAX / 4) {
        snprintf(err, errlen, "the vocabulary has no list of merges");
        return false;
    }
    if (!find_byte_tokens(t)) {
        snprintf(err, errlen, "the vocabulary lacks tokens for single bytes");
        return false;
    }
    return load_merges(t, merges->value, err, errlen);
}

static bool find_pair(const merger *m, const symbol *left, const symbol *right, candidate *out)
{
    const merge *found = find_merge(m->t, left->id, right->id);

    if (found == NULL) {
        return false;
    }
    out->key = -(double)found->rank;
    out->result = found->result;
    return true;
}

/* The token whose text is this word, whether merges make it or not. */
static int32_t whole_word(const tokenizer *t, const char *word, size_t len)
{
    char text[MAX_WHOLE];
    size_t n = 0;

    if (len > MAX_WHOLE / 2) {
        return TOKENIZER_NONE;
    }
    for (size_t i = 0; i < len; i++) {
        n += byte_text((uint8_t)word[i], text + n);
    }
    return tokenizer_find(t, text, n);
}

static bool encode_word(merger *m, const char *word, size_t len, tokenizer_ids *out)
{
    int32_t whole = m->t->whole_words ? whole_word(m->t, word, len) : TOKENIZER_NONE;

    if (whole != TOKENIZER_NONE) {
        return tokenizer_ids_push(out, whole);
    }
    if (!merger_reserve(m, len)) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        m->symbols[i] = (symbol){.start = (uint32_t)i, .len = 1};
        m->symbols[i].id = m->t->byte_id[(uint8_t)word[i]];
    }
    if (!merger_run(m, len, find_pair)) {
        return false;
    }
    for (int32_t i = 0; i != TOKENIZER_NONE; i = m->symbols[i].next) {
        int32_t id = m->symbols[i].id;

        if (id != TOKENIZER_NONE && !tokenizer_ids_push(out, id)) {
            return false;
        }
    }
    return true;
}

bool bpe_encode(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out)
{
    merger m = {.t = t, .text = text};
    bool ok = true;

    for (size_t i = 0, n; ok && i < len; i += n) {
        n = t->word(text + i, len - i);
        n = n < MAX_WORD ? n : MAX_WORD;
        ok = encode_word(&m, text + i, n, out);
    }
    merger_free(&m);
    return ok;
}
