
/*
 * A sliding window: never more than "limit" requests in any "length" ms.
 * Knows nothing of nginx, so that unit tests can drive it with a clock of
 * their own.
 *
 * The window remembers when each of its requests was let through, sorted, as
 * pairs of time and count.  A time is kept as the end of the "grain" that it
 * falls into, so a request counts for up to a grain longer than it must, and
 * never shorter: what is not exact errs towards rejecting.  The grain is 1 ms
 * up to a limit of 1024, and above it a thousandth of the window.
 *
 * A request may be let through later than it came, when it waits for its turn
 * here or elsewhere; it is remembered with that later time.  It finds a time
 * "t" such that fewer than "limit" others have a time above t - length, those
 * yet to come included.  In any window then, the request that was decided last
 * saw all others of that window, so they are "limit" at most.
 *
 * Times are milliseconds of a clock that never goes back.  Kept ones are its
 * low 32 bits: a window and the longest delay together stay below 2^31.
 */

#ifndef _NGX_HTTP_AIQ_LIMIT_WINDOW_H_INCLUDED_
#define _NGX_HTTP_AIQ_LIMIT_WINDOW_H_INCLUDED_


#include <stdint.h>


#define NGX_HTTP_AIQ_LIMIT_EXACT  1024
#define NGX_HTTP_AIQ_LIMIT_SLOTS  1000


typedef struct {
    uint32_t                      limit;
    uint32_t                      length;
    uint32_t                      grain;
} ngx_http_aiq_limit_rule_t;


typedef struct {
    uint32_t                      end;       /* of the grain */
    uint32_t                      count;
} ngx_http_aiq_limit_mark_t;


/* all zeroes: nothing was let through yet */

typedef struct {
    ngx_http_aiq_limit_mark_t    *marks;     /* the caller's memory */
    uint32_t                      size;      /* of it, in marks */
    uint32_t                      first;
    uint32_t                      n;
    uint32_t                      total;     /* of the counts */
    uint64_t                      last;      /* the latest time added */
} ngx_http_aiq_limit_window_t;


void ngx_http_aiq_limit_rule(ngx_http_aiq_limit_rule_t *rule, uint32_t limit,
    uint32_t length);

/* forgets what has left the window; to be called before all others */
void ngx_http_aiq_limit_slide(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now);

/* when one more may be let through, "now" or later */
uint64_t ngx_http_aiq_limit_turn(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now);

/*
 * as that, or later: requests take their turns from "turn" on at an even pace,
 * "length" / "limit" ms apart
 */
uint64_t ngx_http_aiq_limit_pace(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t turn);

/* how many are yet to be let through, counted up to "max" */
uint32_t ngx_http_aiq_limit_waiting(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now, uint32_t max);

/* ms until the window is empty, to a grain: for people */
uint64_t ngx_http_aiq_limit_reset(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now);

/* whether a mark fits in; else the caller gives more memory */
int ngx_http_aiq_limit_fits(ngx_http_aiq_limit_window_t *window);
/* the old memory is the caller's again */
void ngx_http_aiq_limit_move(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_mark_t *marks, uint32_t size);

/* needs room for a mark */
void ngx_http_aiq_limit_add(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t time);
/* takes back what was added with this time */
void ngx_http_aiq_limit_remove(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t time);


#endif /* _NGX_HTTP_AIQ_LIMIT_WINDOW_H_INCLUDED_ */
