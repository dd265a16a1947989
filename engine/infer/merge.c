/*
 * Merging neighbours, best first: what both families of tokenizers do. Candidates wait in a
 * heap; one whose pieces have changed since is recognised by its length and dropped. So a text
 * of n pieces costs O(n log n), whatever is in it.
 */
#include "infer/tokenizer_impl.h"

#include <stdlib.h>

static bool goes_first(const candidate *a, const candidate *b)
{
    return a->key > b->key || (a->key == b->key && a->left < b->left);
}

static bool heap_push(merger *m, candidate c)
{
    size_t i = m->heap_n;

    if (m->heap_n == m->heap_cap) {
        size_t cap = m->heap_cap > 0 ? m->heap_cap * 2 : 64;
        candidate *p = realloc(m->heap, cap * sizeof(*p));

        if (p == NULL) {
            return false;
        }
        m->heap = p;
        m->heap_cap = cap;
    }
    m->heap_n++;
    while (i > 0 && goes_first(&c, &m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = c;
    return true;
}

static candidate heap_pop(merger *m)
{
    candidate top = m->heap[0], last = m->heap[--m->heap_n];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < m->heap_n) {
        if (child + 1 < m->heap_n && goes_first(&m->heap[child + 1], &m->heap[child])) {
            child++;
        }
        if (!goes_first(&m->heap[child], &last)) {
            break;
        }
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

static bool consider(merger *m, int32_t left, int32_t right, merger_find find)
{
    candidate c = {0};
    const symbol *a, *b;

    if (left == TOKENIZER_NONE || right == TOKENIZER_NONE) {
        return true;
    }
    a = &m->symbols[left];
    b = &m->symbols[right];
    if (!find(m, a, b, &c)) {
        return true;
    }
    c.left = (uint32_t)left;
    c.right = (uint32_t)right;
    c.len = a->len + b->len;
    return heap_push(m, c);
}

bool merger_reserve(merger *m, size_t n)
{
    symbol *p;

    if (n <= m->symbols_cap) {
        return true;
    }
    p = realloc(m->symbols, n * sizeof(*p));
    if (p == NULL) {
        return false;
    }
    m->symbols = p;
    m->symbols_cap = n;
    return true;
}

bool merger_run(merger *m, size_t n, merger_find find)
{
    symbol *s = m->symbols;

    m->heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < n ? (int32_t)i + 1 : TOKENIZER_NONE;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        if (!consider(m, (int32_t)i, (int32_t)i + 1, find)) {
            return false;
        }
    }
    while (m->heap_n > 0) {
        candidate c = heap_pop(m);
        symbol *a = &s[c.left], *b = &s[c.right];

        if (a->len == 0 || b->len == 0 || a->len + b->len != c.len) {
            continue;
        }
        a->len = c.len;
        a->id = c.result;
        a->next = b->next;
        b->len = 0;
        if (a->next != TOKENIZER_NONE) {
            s[a->next].prev = (int32_t)c.left;
        }
        if (!consider(m, a->prev, (int32_t)c.left, find) ||
            !consider(m, (int32_t)c.left, a->next, find)) {
            return false;
        }
    }
    return true;
}

void merger_free(merger *m)
{
    free(m->symbols);
    free(m->heap);
}
