/*
 * Log-probabilities of an answer's tokens, on their way out: where the text of a token is kept
 * back, so are they. One per request; the model's thread.
 */
#ifndef INFER_SCORES_H
#define INFER_SCORES_H

#include "infer/infer.h"

typedef struct {
    bool wanted;
    uint32_t n_top;
    infer_token *tokens; /* [cap] */
    infer_scored *top;   /* [cap][n_top] */
    size_t n;
    size_t cap;
    double log_sum; /* of the logits that were looked at last */
} scores;

/* Notes the likeliest tokens, before sampling changes the logits, [n]. False if memory ends. */
bool scores_look(scores *s, const float *logits, uint32_t n);

/* The token that was chosen then, and what its logit had been. */
void scores_choose(scores *s, int32_t id, float logit);

/* Into an event; they count as told. They stay until the next look. */
void scores_give(scores *s, infer_event *ev);

void scores_free(scores *s);

#endif
