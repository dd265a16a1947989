#include "infer/token_mask.h"

#include <stdlib.h>
#include <string.h>

#include "core/pool.h"

typedef struct {
    const char *p;
    uint32_t len;
    uint32_t same; /* bytes that it shares with the one before */
    int32_t id;
} entry;

struct token_order {
    uint32_t n_vocab;
    uint32_t max_len;
    entry *tokens; /* [n] by text; those that stand for nothing are not in it */
    size_t n;
    int32_t *ends; /* [n_ends] */
    size_t n_ends;
    char *names; /* of control tokens, as a grammar has them */
};

static int by_text(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);

    return c != 0 ? c : x->len != y->len ? (x->len > y->len ? 1 : -1) : x->id - y->id;
}

static bool is_text(const tokenizer *t, uint32_t id)
{
    size_t len;

    tokenizer_piece(t, (int32_t)id, &len);
    return len > 0;
}

/* Room for the names of all control tokens. */
static char *name_room(const tokenizer *t)
{
    size_t size = 0, len;

    for (uint32_t i = 0; i < tokenizer_n_vocab(t); i++) {
        tokenizer_name(t, (int32_t)i, &len);
        size += is_text(t, i) ? 0 : len + 1;
    }
    return aiq_alloc(size + 1);
}

/* What a token is in a grammar. Control tokens take a piece of the room. */
static const char *text_of(const tokenizer *t, uint32_t id, char **room, size_t *len)
{
    const char *p = tokenizer_piece(t, (int32_t)id, len);
    char *name = *room;

    if (*len > 0) {
        return p;
    }
    p = tokenizer_name(t, (int32_t)id, len);
    if (*len > 0) {
        name[0] = (char)GRAMMAR_TOKEN;
        memcpy(name + 1, p, *len);
        *len += 1;
        *room += *len;
    }
    return name;
}

token_order *token_order_new(const tokenizer *t)
{
    token_order *o = aiq_zalloc(sizeof(*o));
    char *room = o->names = name_room(t);

    o->n_vocab = tokenizer_n_vocab(t);
    o->tokens = aiq_alloc(o->n_vocab * sizeof(*o->tokens));
    o->ends = aiq_alloc(o->n_vocab * sizeof(*o->ends));
    for (uint32_t i = 0; i < o->n_vocab; i++) {
        size_t len;
        const char *p = text_of(t, i, &room, &len);

        if (tokenizer_is_end(t, (int32_t)i)) {
            o->ends[o->n_ends++] = (int32_t)i;
        } else if (len > 0) {
            o->tokens[o->n++] = (entry){.p = p, .len = (uint32_t)len, .id = (int32_t)i};
            o->max_len = len > o->max_len ? (uint32_t)len : o->max_len;
        }
    }
    qsort(o->tokens, o->n, sizeof(*o->tokens), by_text);
    for (size_t i = 1; i < o->n; i++) {
        const entry *before = &o->tokens[i - 1];
        entry *e = &o->tokens[i];

        while (e->same < e->len && e->same < before->len &&
               e->p[e->same] == before->p[e->same]) {
            e->same++;
        }
    }
    return o;
}

void token_order_free(token_order *o)
{
    free(o->tokens);
    free(o->ends);
    free(o->names);
    free(o);
}

static void allow(uint64_t *mask, int32_t id)
{
    mask[id / 64] |= (uint64_t)1 << (id % 64);
}

static void walk(const token_order *o, matcher *m, int32_t at, uint64_t *mask)
{
    /* places[i] is behind i bytes of the token that is looked at, as far as it came */
    int32_t *places = aiq_alloc((o->max_len + 1) * sizeof(*places));

    places[0] = at;
    for (size_t i = 0; i < o->n;) {
        const entry *e = &o->tokens[i++];
        uint32_t k = e->same;

        while (k < e->len &&
               (places[k + 1] = matcher_next(m, places[k], (uint8_t)e->p[k])) != MATCHER_DEAD) {
            k++;
        }
        if (k == e->len) {
            allow(mask, e->id);
            continue;
        }
        /* so are all that begin with the same k + 1 bytes */
        while (i < o->n && o->tokens[i].same > k) {
            i++;
        }
    }
    free(places);
}

size_t token_mask_words(const token_order *o)
{
    return ((size_t)o->n_vocab + 63) / 64;
}

const uint64_t *token_mask(const token_order *o, matcher *m, int32_t at)
{
    uint64_t *mask = *matcher_slot(m, at);

    if (mask != NULL) {
        return mask;
    }
    mask = aiq_zalloc(token_mask_words(o) * sizeof(*mask));
    walk(o, m, at, mask);
    for (size_t i = 0; matcher_complete(m, at) && i < o->n_ends; i++) {
        allow(mask, o->ends[i]);
    }
    *matcher_slot(m, at) = mask;
    return mask;
}

/* The last token that is exactly this text: of two, bytes that stand in for others come first.
 */
static int32_t find(const token_order *o, const char *text, size_t len)
{
    const entry key = {.p = text, .len = (uint32_t)len, .id = INT32_MAX};
    size_t low = 0, high = o->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (by_text(&o->tokens[mid], &key) > 0) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    if (low == 0 || o->tokens[low - 1].len != len ||
        memcmp(o->tokens[low - 1].p, text, len) != 0) {
        return -1;
    }
    return o->tokens[low - 1].id;
}

int32_t token_longest(const token_order *o, const char *text, size_t len, size_t *took)
{
    int32_t id = -1;

    for (*took = len < o->max_len ? len : o->max_len; *took > 0; (*took)--) {
        id = find(o, text, *took);
        if (id >= 0) {
            break;
        }
    }
    return id;
}

int32_t token_follow(const tokenizer *t, matcher *m, int32_t at, int32_t id)
{
    size_t len;
    const char *p = tokenizer_piece(t, id, &len);

    if (len == 0) {
        p = tokenizer_name(t, id, &len);
        at = matcher_next(m, at, GRAMMAR_TOKEN);
    }
    for (size_t i = 0; i < len && at != MATCHER_DEAD; i++) {
        at = matcher_next(m, at, (uint8_t)p[i]);
    }
    return at;
}
