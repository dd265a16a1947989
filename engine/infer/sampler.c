#include "infer/sampler.h"

#include <math.h>
#include <stdbool.h>

#define STEP 0x9e3779b97f4a7c15u

/* splitmix64: one add and one mix, any seed is good, 53 bits in [0, 1) */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += STEP;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* -1 if no logit can win: one is NaN, or all are minus infinity. */
static int32_t greedy(const float *logits, uint32_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (isnan(logits[i])) {
            return -1;
        }
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return isfinite(logits[best]) ? (int32_t)best : -1;
}

static bool before(sampler_candidate a, sampler_candidate b)
{
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

static void sift_down(sampler_candidate *heap, uint32_t n, uint32_t i)
{
    sampler_candidate c = heap[i];
    uint32_t child;

    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) {
            child++;
        }
        if (!before(heap[child], c)) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

/*
 * Moves the likeliest candidates, best last, to the end of c: at most count of them, and no
 * more than needed to reach mass. Returns how many.
 */
static uint32_t take_best(sampler_candidate *c, uint32_t n, uint32_t count, double mass)
{
    uint32_t taken = 0;
    double sum = 0;

    for (uint32_t i = n / 2; i-- > 0;) {
        sift_down(c, n, i);
    }
    while (taken < count && (taken == 0 || sum < mass)) {
        sampler_candidate best = c[0];

        taken++;
        c[0] = c[n - taken];
        c[n - taken] = best;
        sift_down(c, n - taken, 0);
        sum += best.weight;
    }
    return taken;
}

static double total(const sampler_candidate *c, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += c[i].weight;
    }
    return sum;
}

static int32_t draw(sampler *s, const sampler_candidate *c, uint32_t n)
{
    double left = uniform(&s->state) * total(c, n);

    for (uint32_t i = n; i-- > 0;) {
        left -= c[i].weight;
        if (left < 0) {
            return c[i].id;
        }
    }
    return c[n - 1].id;
}

/* A token takes one number, or none where there is nothing to choose. */
void sampler_skip(sampler *s, uint32_t tokens)
{
    s->state += tokens * STEP;
}

static void penalise(const sampler *s, const sampler_context *c, float *logits,
                     uint32_t *counts)
{
    bool repeats = s->repetition > 0 && s->repetition != 1;
    const int32_t *answer = c->ids + c->n_prompt;
    uint32_t n = c->n_prompt + c->n_answer;

    /* each token once: counts says which were met */
    for (uint32_t i = 0; repeats && i < n; i++) {
        float *l = &logits[c->ids[i]];

        if (counts[c->ids[i]]++ == 0) {
            *l = *l > 0 ? *l / s->repetition : *l * s->repetition;
        }
    }
    for (uint32_t i = 0; repeats && i < n; i++) {
        counts[c->ids[i]] = 0;
    }
    if (s->frequency == 0 && s->presence == 0) {
        return;
    }
    for (uint32_t i = 0; i < c->n_answer; i++) {
        logits[answer[i]] -= s->frequency + (counts[answer[i]]++ == 0 ? s->presence : 0);
    }
    for (uint32_t i = 0; i < c->n_answer; i++) {
        counts[answer[i]] = 0;
    }
}

static void apply_mask(const uint64_t *mask, float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if ((mask[i / 64] >> (i % 64) & 1) == 0) {
            logits[i] = -INFINITY;
        }
    }
}

/* Keeps those that are likely enough, in their order. */
static uint32_t likely(sampler_candidate *c, uint32_t n, float min_p)
{
    float best = 0;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n; i++) {
        best = c[i].weight > best ? c[i].weight : best;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (c[i].weight >= min_p * best) {
            c[kept++] = c[i];
        }
    }
    return kept;
}

int32_t sampler_pick(sampler *s, const sampler_context *context, float *logits, uint32_t n,
                     sampler_candidate *scratch, uint32_t *counts)
{
    uint32_t kept = n;
    int32_t best;

    for (size_t i = 0; i < s->n_bias; i++) {
        logits[s->bias[i].id] += s->bias[i].bias;
    }
    penalise(s, context, logits, counts);
    if (context->mask != NULL) {
        apply_mask(context->mask, logits, n);
    }
    best = greedy(logits, n);
    if (best < 0 || s->temperature == 0) {
        return best;
    }
    for (uint32_t i = 0; i < n; i++) {
        float w = expf((logits[i] - logits[best]) / s->temperature);

        scratch[i] = (sampler_candidate){.weight = w, .id = (int32_t)i};
    }
    if (s->top_k > 0 && s->top_k < kept) {
        uint32_t k = take_best(scratch, kept, s->top_k, INFINITY);

        scratch += kept - k;
        kept = k;
    }
    if (s->top_p > 0 && s->top_p < 1) {
        uint32_t k = take_best(scratch, kept, kept, s->top_p * total(scratch, kept));

        scratch += kept - k;
        kept = k;
    }
    if (s->min_p > 0) {
        kept = likely(scratch, kept, s->min_p);
    }
    return draw(s, scratch, kept);
}

double sampler_log_sum(const float *logits, uint32_t n)
{
    float best = logits[0];
    double sum;

    for (uint32_t i = 1; i < n; i++) {
        best = logits[i] > best ? logits[i] : best;
    }
    sum = exp((double)logits[0] - best);
    for (uint32_t i = 1; i < n; i++) {
        sum += exp((double)logits[i] - best);
    }
    return best + log(sum);
}

void sampler_top(const float *logits, uint32_t n, uint32_t k, int32_t *ids)
{
    uint32_t have = 0;

    for (uint32_t i = 0; k > 0 && i < n; i++) {
        uint32_t at;

        if (have == k && !(logits[i] > logits[ids[k - 1]])) {
            continue;
        }
        have += have < k;
        for (at = have - 1; at > 0 && logits[i] > logits[ids[at - 1]]; at--) {
            ids[at] = ids[at - 1];
        }
        ids[at] = (int32_t)i;
    }
}
