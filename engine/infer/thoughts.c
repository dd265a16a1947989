#include "infer/thoughts.h"

#include <stdbool.h>

static bool is_ws(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Is the mark complete? Its first byte stands nowhere else in it, so what does not go on with
 * it can only begin it anew. */
static bool match(thoughts *t, const char *mark, char c)
{
    if (c != mark[t->matched]) {
        t->matched = 0;
    }
    if (c == mark[t->matched]) {
        t->matched++;
    }
    if (mark[t->matched] != '\0') {
        return false;
    }
    t->matched = 0;
    return true;
}

static void begin(thoughts *t, char c)
{
    if (t->matched == 0 && is_ws(c)) {
        return;
    }
    uint32_t before = t->matched;
    if (match(t, "<think>", c)) {
        t->at = THOUGHTS_WITHIN;
    } else if (t->matched <= before) {
        t->at = THOUGHTS_OVER;
        t->tokens = 0;
    }
}

size_t thoughts_take(thoughts *t, const char *piece, size_t len)
{
    size_t i;

    t->tokens += t->at != THOUGHTS_OVER;
    for (i = 0; i < len && t->at != THOUGHTS_OVER; i++) {
        if (t->at == THOUGHTS_MAY_BEGIN) {
            begin(t, piece[i]);
        } else if (match(t, "</think>", piece[i])) {
            t->at = THOUGHTS_OVER;
        }
    }
    return i;
}

uint32_t thoughts_tokens(const thoughts *t)
{
    return t->at == THOUGHTS_MAY_BEGIN ? 0 : t->tokens;
}
