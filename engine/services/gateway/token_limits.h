/*
 * Limits of tokens in a time: "rate=50000t/m" of aiq_limit_zone. What a request may use
 * is not known before, so what it probably will is held from the windows of its keys, and
 * what it did use counts in the end, as from its begin.
 *
 * A window moves in LIMIT_SLOTS steps, and tokens count for up to a step longer than they
 * must: what is not exact errs towards refusing. Windows go by their zone's name and their
 * key, so they outlive a reload; the limit is that of whoever asks.
 *
 * What is shared with other engines is theirs together (limits/shared_tokens.h): here is what
 * this one knows itself. token_claim.h puts both together.
 *
 * Any loop may call. One lock covers all windows: it is held for a few hundred
 * nanoseconds, which is less than a message to an owner costs.
 */

#ifndef AIQ_GATEWAY_TOKEN_LIMITS_H
#define AIQ_GATEWAY_TOKEN_LIMITS_H

#include "core/metrics.h"
#include "core/policy.h"
#include "link/job.h"

#define LIMIT_SLOTS 60

/* Of a request: its location's, and one of its API key. */
#define LIMITS_HELD (POLICY_LIMITS + 1)

typedef struct token_limits token_limits;
typedef struct token_window token_window;

token_limits *token_limits_new(metrics *m);
/* NULL is fine. */
void token_limits_free(token_limits *t);

/* What headers tell of the tightest window. */
typedef struct {
    int64_t limit, remaining; /* limit 0: nothing was counted */
    int64_t reset_ms;         /* until it is empty */
} token_state;

/* What a request holds; its owner embeds it. All zeroes: nothing. */
typedef struct {
    token_limits *limits;
    const policy_limit *rules;
    token_window *windows[LIMITS_HELD]; /* NULL: this one does not count it */
    uint64_t slots[LIMITS_HELD];
    int64_t tokens[LIMITS_HELD];
    size_t n;
    token_state state; /* when it was held or refused, then when it was settled */
} token_hold;

/* Holds from all or from none. keys: of AIQ_LIMIT_KEY bytes each, in the order of the
 * rules, which the owner keeps; all zeroes: not counted. More than a limit is held as all
 * of it: such a request begins when nothing else counts. False and 429
 * rate_limit_exceeded, or 503 limit_zone_full. Times are milliseconds of a clock that does
 * not go back. */
bool token_limits_hold(token_limits *t, token_hold *hold, const policy_limit *rules, size_t n,
                       const uint8_t *keys, int64_t tokens, uint64_t now_ms, aiq_err *err);

/* What token_limits_hold() says where a rule has no room for so long. */
void token_limits_refuse(token_limits *t, const policy_limit *rule, uint64_t wait_ms,
                         aiq_err *err);

/* Counts it, whatever the limits: another has let it through. Where a window has no room, it
 * does not count there. No key is all zeroes. */
void token_limits_note(token_limits *t, token_hold *hold, const policy_limit *rules, size_t n,
                       const uint8_t *keys, int64_t tokens, uint64_t now_ms);

/* The request has used so many, and holds nothing any more. Fine where it did not. */
void token_limits_settle(token_hold *hold, int64_t used, uint64_t now_ms);

/* For who saves them (token_save.h). What one key has used in a window, by its steps. */
#define TOKEN_ZONE_MAX 128 /* bytes of a zone's name; of a longer one nothing is saved */
typedef struct {
    const char *zone;
    uint8_t key[AIQ_LIMIT_KEY];
    uint32_t window_ms;
    size_t n;
    struct {
        uint64_t begin_ms;
        int64_t tokens; /* with what is held; negative: of what was taken less was used */
    } steps[LIMIT_SLOTS + 1];
} token_counts;

/* Each window in which anything counts; take: it does not count here any more. Others are
 * held up for a few windows at a time. fn may take its time. */
void token_limits_each(token_limits *t, uint64_t now_ms, bool take,
                       void (*fn)(void *arg, const token_counts *counts), void *arg);
/* Counts what was used so long ago as if by a request of this engine's; steps do not matter. */
void token_limits_add(token_limits *t, const token_counts *counts, uint64_t age_ms,
                      int64_t tokens, uint64_t now_ms);
/* Grows with every request that is held or settled. */
uint64_t token_limits_changes(token_limits *t);

/* As many headers as there are: all or none. text: what they need. */
#define TOKEN_STATE_TEXT    80
#define TOKEN_STATE_HEADERS 3
size_t token_state_headers(const token_state *state, job_header *headers,
                           char text[TOKEN_STATE_TEXT]);

#endif
