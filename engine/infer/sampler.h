/* From logits to a token. One sampler per request; the model's thread. */
#ifndef INFER_SAMPLER_H
#define INFER_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    float temperature; /* 0: greedy */
    float top_p;       /* 0 or 1: off */
    uint32_t top_k;    /* 0: off */
    uint64_t state;    /* of the random numbers; begins as the seed */
} sampler;

typedef struct {
    float weight;
    int32_t id;
} sampler_candidate;

/*
 * Greedy: the largest logit, the lowest id on a tie. Otherwise softmax(logits / temperature),
 * cut to the top_k most likely, cut to the fewest of these that together reach top_p, and
 * one draw. Returns -1 if the logits hold something that is not a number. scratch is [n].
 */
int32_t sampler_pick(sampler *s, const float *logits, uint32_t n, sampler_candidate *scratch);

/* As if so many tokens had been picked already. */
void sampler_skip(sampler *s, uint32_t tokens);

#endif
