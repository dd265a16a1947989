/*
 * From logits to a token. One sampler per request; the model's thread.
 *
 * The steps, in this order; each that is off changes nothing:
 *
 *   bias         is added to the logits of its tokens
 *   repetition   logits of tokens that the prompt or the answer has: divided by it where
 *                positive, multiplied where negative
 *   frequency    is subtracted for each time that the answer has a token
 *   presence     is subtracted once if the answer has it
 *   mask         tokens that it lacks cannot come
 *   temperature  0: the largest logit, the lowest id on a tie; nothing of the rest
 *   top_k        the k most likely
 *   top_p        the fewest of these, the most likely first, that together reach p
 *   min_p        of these, those at least p times as likely as the most likely
 *
 * and one draw in proportion to what is left.
 */
#ifndef INFER_SAMPLER_H
#define INFER_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t id;
    float bias;
} sampler_bias;

typedef struct {
    float temperature;
    uint32_t top_k;   /* 0: off */
    float top_p;      /* 0 or 1: off */
    float min_p;      /* 0: off */
    float repetition; /* 0 or 1: off */
    float frequency;  /* 0: off, as presence */
    float presence;
    const sampler_bias *bias; /* [n_bias] ids inside the vocabulary; borrowed */
    size_t n_bias;
    uint64_t state; /* of the random numbers; begins as the seed */
} sampler;

/* What was said so far, and what may be said. */
typedef struct {
    const int32_t *ids; /* [n_prompt + n_answer] */
    uint32_t n_prompt;
    uint32_t n_answer;
    const uint64_t *mask; /* a bit a token; NULL: any */
} sampler_context;

typedef struct {
    float weight;
    int32_t id;
} sampler_candidate;

/*
 * The next token. Changes the logits, [n]. Returns -1 if one of them is not a number, or none
 * of them is left. scratch is [n]; counts is [n], all 0, and is so again.
 */
int32_t sampler_pick(sampler *s, const sampler_context *context, float *logits, uint32_t n,
                     sampler_candidate *scratch, uint32_t *counts);

/* ln of the softmax's denominator: the log-probability of token i is logits[i] minus it. */
double sampler_log_sum(const float *logits, uint32_t n);

/* The k ids of the largest logits, the largest first, the lowest id on a tie. */
void sampler_top(const float *logits, uint32_t n, uint32_t k, int32_t *ids);

/* As if so many tokens had been picked already. */
void sampler_skip(sampler *s, uint32_t tokens);

#endif
