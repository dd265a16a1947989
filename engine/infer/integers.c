#include "infer/integers.h"

#include <inttypes.h>
#include <stdio.h>

#define DIGITS_SIZE 20

/* What the digits so far are the beginning of: the lowest, the highest, both or neither. */
enum { AT_LOW = 1, AT_HIGH = 2, N_PLACES = 4 };

typedef struct {
    uint32_t state[N_PLACES];
    bool met[N_PLACES];
} places;

/* A digit more: what follows it lies in *next, or is the end. */
static void digit(grammar *g, uint32_t from, unsigned at, const char *low, const char *high,
                  places *next, uint32_t end)
{
    char least = at & AT_LOW ? *low : '0', most = at & AT_HIGH ? *high : '9';

    for (char d = least; d <= most; d++) {
        unsigned then = (d == *low ? at & AT_LOW : 0) | (d == *high ? at & AT_HIGH : 0);

        if (!next->met[then]) {
            next->met[then] = true;
            next->state[then] = low[1] != '\0' ? grammar_state(g) : end;
        }
        grammar_bytes(g, from, (uint8_t)d, (uint8_t)d, next->state[then]);
    }
}

/* Both have as many digits. */
static void same_length(grammar *g, const char *low, const char *high, uint32_t from,
                        uint32_t to)
{
    places now = {.state[AT_LOW | AT_HIGH] = from, .met[AT_LOW | AT_HIGH] = true};

    for (; *low != '\0'; low++, high++) {
        places next = {0};

        for (unsigned at = 0; at < N_PLACES; at++) {
            if (now.met[at]) {
                digit(g, now.state[at], at, low, high, &next, to);
            }
        }
        now = next;
    }
}

/* 9, 99, …: the last number that has as many digits. */
static uint64_t last_as_long(uint64_t n)
{
    uint64_t last = 9;

    while (last < n) {
        last = last * 10 + 9;
    }
    return last;
}

/* Without a sign. */
static void magnitudes(grammar *g, uint64_t low, uint64_t high, uint32_t from, uint32_t to)
{
    char first[DIGITS_SIZE], last[DIGITS_SIZE];

    while (low <= high) {
        uint64_t end = last_as_long(low) < high ? last_as_long(low) : high;

        snprintf(first, sizeof(first), "%" PRIu64, low);
        snprintf(last, sizeof(last), "%" PRIu64, end);
        same_length(g, first, last, from, to);
        low = end + 1;
    }
}

void integers_add(grammar *g, int64_t least, int64_t most, uint32_t from, uint32_t to)
{
    if (most >= 0) {
        magnitudes(g, least > 0 ? (uint64_t)least : 0, (uint64_t)most, from, to);
    }
    if (least < 0) {
        uint32_t minus = grammar_state(g);

        grammar_bytes(g, from, '-', '-', minus);
        magnitudes(g, most < 0 ? (uint64_t)-most : 1, (uint64_t)-least, minus, to);
    }
}
