#include "infer/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_TEXT ((size_t)1 << 30) /* symbols count in 32 bits, three bytes a space */

uint64_t tokenizer_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static uint64_t hash_text(const tokenizer *t, const char *p, size_t len)
{
    uint64_t h = t->seed ^ len, word;

    for (; len >= 8; p += 8, len -= 8) {
        memcpy(&word, p, 8);
        h = tokenizer_mix(h ^ word);
    }
    word = 0;
    memcpy(&word, p, len);
    return tokenizer_mix(h ^ word);
}

static bool same_text(gguf_str a, const char *p, size_t len)
{
    return a.len == len && memcmp(a.p, p, len) == 0;
}

/* The slot that holds this text, or the empty one where it would go. */
static uint32_t *find_slot(const tokenizer *t, const char *p, size_t len)
{
    uint32_t i = (uint32_t)hash_text(t, p, len) & t->slot_mask;

    while (t->slots[i] != 0 && !same_text(t->text[t->slots[i] - 1], p, len)) {
        i = (i + 1) & t->slot_mask;
    }
    return &t->slots[i];
}

int32_t tokenizer_find(const tokenizer *t, const char *text, size_t len)
{
    if (len == 0 || len > t->max_text) {
        return TOKENIZER_NONE;
    }
    return (int32_t)*find_slot(t, text, len) - 1;
}

bool tokenizer_ids_push(tokenizer_ids *ids, int32_t id)
{
    if (ids->limit > 0 && ids->n == ids->limit) {
        return false;
    }
    if (ids->n == ids->cap) {
        size_t cap = ids->cap > 0 ? ids->cap * 2 : 64;
        int32_t *v = realloc(ids->v, cap * sizeof(*v));

        if (v == NULL) {
            return false;
        }
        ids->v = v;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return true;
}

/* --- loading --- */

static bool out_of_memory(char *err, size_t errlen)
{
    snprintf(err, errlen, "out of memory");
    return false;
}

static bool load_texts(tokenizer *t, gguf_array tokens)
{
    uint64_t slots = 16;

    while (slots < tokens.n * 2) {
        slots *= 2;
    }
    t->text = malloc(t->n * sizeof(*t->text));
    t->slots = calloc(slots, sizeof(*t->slots));
    if (t->text == NULL || t->slots == NULL) {
        return false;
    }
    t->slot_mask = (uint32_t)(slots - 1);
    for (uint32_t i = 0; i < t->n; i++) {
        gguf_str s = gguf_next_str(&tokens);

        t->text[i] = s;
        t->max_text = s.len > t->max_text ? s.len : t->max_text;
        if (s.len > 0) {
            *find_slot(t, s.p, s.len) = i + 1;
        }
    }
    return true;
}

static bool load_types(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    const gguf_kv *kv = gguf_find(g, "tokenizer.ggml.token_type");
    gguf_array types;

    t->type = malloc(t->n);
    if (t->type == NULL) {
        return out_of_memory(err, errlen);
    }
    memset(t->type, TOKEN_NORMAL, t->n);
    if (kv == NULL) {
        return true;
    }
    types = kv->value;
    if (kv->type != GGUF_ARRAY || (types.type != GGUF_I32 && types.type != GGUF_U32) ||
        types.n != t->n) {
        snprintf(err, errlen, "the vocabulary has not one type for each token");
        return false;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        int32_t type = gguf_next_i32(&types);

        if (type < 0 || type > TOKEN_BYTE) {
            snprintf(err, errlen, "token %u has an unknown type", i);
            return false;
        }
        t->type[i] = type == 0 ? TOKEN_NORMAL : (uint8_t)type;
    }
    return true;
}

/* *id stays as it is where the file has no such key. */
static bool load_id(const tokenizer *t, const gguf *g, const char *key, int32_t *id, char *err,
                    size_t errlen)
{
    const gguf_kv *kv = gguf_find(g, key);
    uint64_t v;

    if (kv == NULL) {
        return true;
    }
    if (!gguf_as_uint(kv, &v) || v >= t->n) {
        snprintf(err, errlen, "%s is not a token of the vocabulary", key);
        return false;
    }
    *id = (int32_t)v;
    return true;
}

static void add_end(tokenizer *t, int32_t id)
{
    if (id != TOKENIZER_NONE && !tokenizer_is_end(t, id) && t->n_ends < MAX_END_TOKENS) {
        t->ends[t->n_ends++] = id;
    }
}

static bool load_flag(const gguf *g, const char *key, bool *flag, char *err, size_t errlen)
{
    const gguf_kv *kv = gguf_find(g, key);

    if (kv != NULL && !gguf_as_bool(kv, flag)) {
        snprintf(err, errlen, "%s is not a boolean", key);
        return false;
    }
    return true;
}

/* What stands around a text. Llama 3's files do not say that a text begins with a token, its
 * own tokenizer does. BERT's names differ, and its files often leave them out; the misspelt key
 * is the format's. */
static bool load_frame(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    bool wpm = t->family == FAMILY_WPM;

    t->unknown = 0;
    t->bos = t->family == FAMILY_SPM && t->n > 1 ? 1 : TOKENIZER_NONE;
    t->eos = TOKENIZER_NONE;
    t->add_bos = t->family != FAMILY_BPE || bpe_begins_texts(g);
    t->add_eos = wpm;
    if (wpm) {
        t->unknown = tokenizer_find(t, "[UNK]", 5);
        t->bos = tokenizer_find(t, "[CLS]", 5);
        t->eos = tokenizer_find(t, "[SEP]", 5);
    }
    return load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err, errlen) &&
           (!wpm || load_id(t, g, "tokenizer.ggml.cls_token_id", &t->bos, err, errlen)) &&
           load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err, errlen) &&
           (!wpm || load_id(t, g, "tokenizer.ggml.seperator_token_id", &t->eos, err, errlen)) &&
           load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unknown, err, errlen) &&
           load_flag(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err, errlen) &&
           load_flag(g, "tokenizer.ggml.add_eos_token", &t->add_eos, err, errlen);
}

/* Files exist that call a turn's marks user-defined: then a user could write them. */
static int32_t find_mark(tokenizer *t, const char *text)
{
    int32_t id = tokenizer_find(t, text, strlen(text));

    if (id != TOKENIZER_NONE) {
        t->type[id] = TOKEN_CONTROL;
    }
    return id;
}

static bool load_special_ids(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    static const char *const end_keys[] = {"tokenizer.ggml.eos_token_id",
                                           "tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
    static const char *const end_texts[] = {
        "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
        "<|eom_id|>", "<|end|>",       "<end_of_turn>",
    };
    static const char *const begin_texts[] = {
        "<|im_start|>",    "<|start_header_id|>", "<|end_header_id|>",
        "<start_of_turn>", "<|system|>",          "<|user|>",
        "<|assistant|>",
    };

    if (!load_frame(t, g, err, errlen)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(end_keys) / sizeof(*end_keys); i++) {
        int32_t id = TOKENIZER_NONE;

        if (!load_id(t, g, end_keys[i], &id, err, errlen)) {
            return false;
        }
        add_end(t, id);
    }
    for (size_t i = 0; i < sizeof(end_texts) / sizeof(*end_texts); i++) {
        add_end(t, find_mark(t, end_texts[i]));
    }
    for (size_t i = 0; i < sizeof(begin_texts) / sizeof(*begin_texts); i++) {
        find_mark(t, begin_texts[i]);
    }
    return true;
}

static size_t decode(const tokenizer *t, uint32_t id, char *out)
{
    switch (t->type[id]) {
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN:
    case TOKEN_UNUSED:
        return 0;
    case TOKEN_USER_DEFINED:
        if (out != NULL && t->text[id].len > 0) {
            memcpy(out, t->text[id].p, t->text[id].len);
        }
        return t->text[id].len;
    default:
        return t->family == FAMILY_BPE ? bpe_decode(&t->text[id], out) : spm_decode(t, id, out);
    }
}

static bool make_pieces(tokenizer *t)
{
    size_t total = 0;

    t->piece_end = malloc(t->n * sizeof(*t->piece_end));
    if (t->piece_end == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        size_t len = decode(t, i, NULL);

        t->max_piece = len > t->max_piece ? len : t->max_piece;
        total += len;
        if (total > UINT32_MAX) {
            return false;
        }
        t->piece_end[i] = (uint32_t)total;
    }
    t->pieces = malloc(total + 1);
    if (t->pieces == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        decode(t, i, t->pieces + (i > 0 ? t->piece_end[i - 1] : 0));
    }
    return true;
}

static bool is_special(const tokenizer *t, uint32_t id)
{
    return t->text[id].len > 0 &&
           (t->type[id] == TOKEN_CONTROL || t->type[id] == TOKEN_USER_DEFINED ||
            t->type[id] == TOKEN_UNKNOWN);
}

static int by_text(const void *a, const void *b, void *arg)
{
    const tokenizer *t = arg;
    gguf_str x = t->text[*(const int32_t *)a], y = t->text[*(const int32_t *)b];
    int r = memcmp(x.p, y.p, x.len < y.len ? x.len : y.len);

    return r != 0 ? r : (x.len > y.len) - (x.len < y.len);
}

static bool collect_specials(tokenizer *t)
{
    size_t n = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        n += is_special(t, i);
    }
    t->specials = malloc((n + 1) * sizeof(*t->specials));
    if (t->specials == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        if (is_special(t, i)) {
            t->specials[t->n_specials++] = (int32_t)i;
        }
    }
    qsort_r(t->specials, n, sizeof(*t->specials), by_text, t);
    return true;
}

static const struct {
    const char *name; /* tokenizer.ggml.model */
    bool (*load)(tokenizer *t, const gguf *g, char *err, size_t errlen);
    bool (*encode)(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out);
} families[] = {
    [FAMILY_BPE] = {"gpt2", bpe_load, bpe_encode},
    [FAMILY_SPM] = {"llama", spm_load, spm_encode},
    [FAMILY_WPM] = {"bert", wpm_load, wpm_encode},
};

static bool find_family(gguf_str name, tokenizer_family *out)
{
    for (tokenizer_family f = FAMILY_BPE; f <= FAMILY_WPM; f++) {
        if (same_text(name, families[f].name, strlen(families[f].name))) {
            *out = f;
            return true;
        }
    }
    return false;
}

static bool load(tokenizer *t, const gguf *g, char *err, size_t errlen)
{
    const gguf_kv *model = gguf_find(g, "tokenizer.ggml.model");
    const gguf_kv *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    gguf_str name = {.p = "", .len = 0};

    if (model != NULL) {
        gguf_as_str(model, &name);
    }
    if (!find_family(name, &t->family)) {
        char shown[GGUF_SHOWN];

        snprintf(err, errlen,
                 "the tokenizer \"%s\" is not supported (gpt2, llama and bert are)",
                 gguf_show(name, shown));
        return false;
    }
    if (tokens == NULL || tokens->type != GGUF_ARRAY || tokens->value.type != GGUF_STRING ||
        tokens->value.n == 0 || tokens->value.n > INT32_MAX / 4) {
        snprintf(err, errlen, "the file has no vocabulary");
        return false;
    }
    t->n = (uint32_t)tokens->value.n;
    if (!load_texts(t, tokens->value)) {
        return out_of_memory(err, errlen);
    }
    if (!load_types(t, g, err, errlen) || !load_special_ids(t, g, err, errlen) ||
        !families[t->family].load(t, g, err, errlen)) {
        return false;
    }
    if (!make_pieces(t) || !collect_specials(t)) {
        return out_of_memory(err, errlen);
    }
    return true;
}

tokenizer *tokenizer_new(const gguf *g, char *err, size_t errlen)
{
    tokenizer *t = calloc(1, sizeof(*t));

    if (t == NULL || getrandom(&t->seed, sizeof(t->seed), 0) != sizeof(t->seed)) {
        snprintf(err, errlen, "out of memory");
        free(t);
        return NULL;
    }
    if (!load(t, g, err, errlen)) {
        tokenizer_free(t);
        return NULL;
    }
    return t;
}

void tokenizer_free(tokenizer *t)
{
    free(t->text);
    free(t->type);
    free(t->slots);
    free(t->pieces);
    free(t->piece_end);
    free(t->specials);
    free(t->merges);
    free(t->scores);
    free(t);
}

/* --- what it says --- */

uint32_t tokenizer_n_vocab(const tokenizer *t)
{
    return t->n;
}

size_t tokenizer_max_piece(const tokenizer *t)
{
    return t->max_piece;
}

const char *tokenizer_name(const tokenizer *t, int32_t id, size_t *len)
{
    *len = t->text[id].len;
    return t->text[id].p;
}

const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *len)
{
    uint32_t start = id > 0 ? t->piece_end[id - 1] : 0;

    *len = t->piece_end[id] - start;
    return t->pieces + start;
}

int32_t tokenizer_bos(const tokenizer *t)
{
    return t->add_bos ? t->bos : TOKENIZER_NONE;
}

int32_t tokenizer_eos(const tokenizer *t)
{
    return t->add_eos ? t->eos : TOKENIZER_NONE;
}

bool tokenizer_is_end(const tokenizer *t, int32_t id)
{
    for (uint32_t i = 0; i < t->n_ends; i++) {
        if (t->ends[i] == id) {
            return true;
        }
    }
    return false;
}

/* --- encoding --- */

/* First of the specials [lo, hi), which agree on their first at bytes, whose byte at is not
 * below (or, with after, is above) c. */
static size_t narrow(const tokenizer *t, size_t lo, size_t hi, size_t at, uint8_t c, bool after)
{
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        gguf_str s = t->text[t->specials[mid]];

        if (s.len <= at || (uint8_t)s.p[at] < c || (after && (uint8_t)s.p[at] == c)) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* The longest special token that text begins with, or TOKENIZER_NONE. */
static int32_t special_at(const tokenizer *t, const char *text, size_t len, bool control)
{
    size_t lo = 0, hi = t->n_specials;
    int32_t found = TOKENIZER_NONE;

    for (size_t at = 0; at < len; at++) {
        uint8_t c = (uint8_t)text[at];

        lo = narrow(t, lo, hi, at, c, false);
        hi = narrow(t, lo, hi, at, c, true);
        if (lo == hi) {
            break;
        }
        /* the shortest sorts first */
        if (t->text[t->specials[lo]].len == at + 1 &&
            (control || t->type[t->specials[lo]] == TOKEN_USER_DEFINED)) {
            found = t->specials[lo];
        }
    }
    return found;
}

static bool encode_plain(const tokenizer *t, const char *text, size_t len, tokenizer_ids *out)
{
    if (len == 0) {
        return true;
    }
    return families[t->family].encode(t, text, len, out);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The special token that text begins with; one whose text is marked is no control token. */
static int32_t unmarked_special(const tokenizer *t, const char *text, const char *marks,
                                size_t len, bool control)
{
    int32_t id = special_at(t, text, len, control);

    if (id != TOKENIZER_NONE && marks != NULL && t->type[id] != TOKEN_USER_DEFINED &&
        memchr(marks, 1, t->text[id].len) != NULL) {
        return special_at(t, text, len, false);
    }
    return id;
}

static bool encode(const tokenizer *t, const char *text, const char *marks, size_t len,
                   bool special, tokenizer_ids *out)
{
    size_t start = 0;

    if (len >= MAX_TEXT) {
        return false;
    }
    for (size_t i = 0; i < len;) {
        int32_t id =
            unmarked_special(t, text + i, marks != NULL ? marks + i : NULL, len - i, special);

        if (id == TOKENIZER_NONE) {
            i++;
            continue;
        }
        if (!encode_plain(t, text + start, i - start, out) || !tokenizer_ids_push(out, id)) {
            return false;
        }
        i += t->text[id].len;
        while (t->strip_after && t->type[id] == TOKEN_CONTROL && i < len && is_blank(text[i])) {
            i++;
        }
        start = i;
    }
    return encode_plain(t, text + start, len - start, out);
}

bool tokenizer_encode(const tokenizer *t, const char *text, size_t len, bool special,
                      tokenizer_ids *out)
{
    return encode(t, text, NULL, len, special, out);
}

bool tokenizer_encode_marked(const tokenizer *t, const char *text, const char *marks,
                             size_t len, tokenizer_ids *out)
{
    return encode(t, text, marks, len, true, out);
}
