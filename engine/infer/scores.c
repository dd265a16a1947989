#include "infer/scores.h"

#include <stdlib.h>

/* Room for one more token's. */
static bool grow(scores *s)
{
    size_t cap = s->cap > 0 ? s->cap * 2 : 8;
    infer_token *tokens;
    infer_scored *top;

    if (s->n < s->cap) {
        return true;
    }
    tokens = realloc(s->tokens, cap * sizeof(*tokens));
    if (tokens != NULL) {
        s->tokens = tokens;
    }
    top = realloc(s->top, cap * (s->n_top + 1) * sizeof(*top));
    if (top != NULL) {
        s->top = top;
    }
    if (tokens == NULL || top == NULL) {
        return false;
    }
    s->cap = cap;
    return true;
}

bool scores_look(scores *s, const float *logits, uint32_t n)
{
    infer_scored *top;
    int32_t ids[INFER_MAX_TOP];

    if (!grow(s)) {
        return false;
    }
    s->log_sum = sampler_log_sum(logits, n);
    sampler_top(logits, n, s->n_top, ids);
    top = s->top + s->n * s->n_top;
    for (uint32_t i = 0; i < s->n_top; i++) {
        top[i] = (infer_scored){ids[i], (float)(logits[ids[i]] - s->log_sum)};
    }
    return true;
}

void scores_choose(scores *s, int32_t id, float logit)
{
    s->tokens[s->n++].chosen = (infer_scored){id, (float)(logit - s->log_sum)};
}

void scores_give(scores *s, infer_event *ev)
{
    for (size_t i = 0; i < s->n; i++) {
        s->tokens[i].top = s->top + i * s->n_top;
    }
    ev->tokens = s->tokens;
    ev->n_tokens = s->n;
    ev->n_top = s->n_top;
    s->n = 0;
}

void scores_free(scores *s)
{
    free(s->tokens);
    free(s->top);
}
