/*
 * Byte-level BPE as GPT-2 has it. The text is cut into words by GPT-2's pattern, each word's
 * bytes are merged by rank. In the file a token's text writes each byte as a printable
 * character; we translate once, at load, and work on bytes.
 */
#include "infer/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

/* A longer word is cut: merging takes about 100 bytes of memory for each of the word's. */
#define MAX_WORD ((size_t)64 * 1024)

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

static bool find_byte_tokens(tokenizer *t)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t cp = byte_char(b);
        char utf8[2] = {(char)cp, 0};
        size_t len = 1;

        if (cp >= 0x80) {
            utf8[0] = (char)(0xc0 | cp >> 6);
            utf8[1] = (char)(0x80 | (cp & 0x3f));
            len = 2;
        }
        t->byte_id[b] = tokenizer_find(t, utf8, len);
        if (t->byte_id[b] == TOKENIZER_NONE) {
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

bool bpe_load(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    const gguf_kv *pre = gguf_find(g, "tokenizer.ggml.pre");
    const gguf_kv *merges = gguf_find(g, "tokenizer.ggml.merges");
    gguf_str name = {.p = "", .len = 0};

    if (pre != NULL) {
        gguf_as_str(pre, &name);
    }
    if (name.len != 5 || memcmp(name.p, "gpt-2", 5) != 0) {
        snprintf(err, errlen, "the BPE variant \"%.*s\" is not supported (gpt-2 is)",
                 name.len < 32 ? (int)name.len : 32, name.p);
        return false;
    }
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

/* --- GPT-2's pattern:
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 */

typedef enum { CLASS_NONE, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER } char_class;

/* Class and length of the character at i; CLASS_NONE at the end. Bytes that are no character
 * are taken one by one and count as other. */
static char_class class_at(const char *text, size_t len, size_t i, size_t *step)
{
    uint32_t cp = 0;
    int n;

    *step = 0;
    if (i >= len) {
        return CLASS_NONE;
    }
    n = utf8_next(text + i, len - i, &cp);
    *step = n > 0 ? (size_t)n : 1;
    if (n <= 0) {
        return CLASS_OTHER;
    }
    if (unicode_is_space(cp)) {
        return CLASS_SPACE;
    }
    return unicode_is_letter(cp) ? CLASS_LETTER
                                 : (unicode_is_number(cp) ? CLASS_NUMBER : CLASS_OTHER);
}

static size_t contraction(const char *text, size_t len)
{
    static const char *const all[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        size_t n = strlen(all[i]);

        if (len >= n && memcmp(text, all[i], n) == 0) {
            return n;
        }
    }
    return 0;
}

/* White space up to the next word leaves its last character to that word. */
static size_t space_run(const char *text, size_t len)
{
    size_t i = 0, last = 0, step;
    char_class c;

    while ((c = class_at(text, len, i, &step)) == CLASS_SPACE) {
        last = i;
        i += step;
    }
    return c == CLASS_NONE || last == 0 ? i : last;
}

/* Length of the first word of a text that is not empty. */
static size_t word_length(const char *text, size_t len)
{
    size_t i = contraction(text, len), step;
    char_class c;

    if (i > 0) {
        return i;
    }
    i = text[0] == ' ';
    c = class_at(text, len, i, &step);
    if (c == CLASS_NONE || c == CLASS_SPACE) {
        return space_run(text, len);
    }
    do {
        i += step;
    } while (class_at(text, len, i, &step) == c);
    return i;
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

static bool encode_word(merger *m, const char *word, size_t len, tokenizer_ids *out)
{
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
        if (!tokenizer_ids_push(out, m->symbols[i].id)) {
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
        n = word_length(text + i, len - i);
        n = n < MAX_WORD ? n : MAX_WORD;
        ok = encode_word(&m, text + i, n, out);
    }
    merger_free(&m);
    return ok;
}
