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

int32_t sampler_pick(sampler *s, const float *logits, uint32_t n, sampler_candidate *scratch)
{
    int32_t best = greedy(logits, n);
    uint32_t kept = n;

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
    return draw(s, scratch, kept);
}
