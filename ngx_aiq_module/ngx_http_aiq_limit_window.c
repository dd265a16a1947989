
#include <string.h>

#include "ngx_http_aiq_limit_window.h"


static uint32_t ngx_http_aiq_limit_end(ngx_http_aiq_limit_rule_t *rule,
    uint64_t time);
static int64_t ngx_http_aiq_limit_until(uint32_t time, uint64_t now);


void
ngx_http_aiq_limit_rule(ngx_http_aiq_limit_rule_t *rule, uint32_t limit,
    uint32_t length)
{
    rule->limit = limit;
    rule->length = length;
    rule->grain = 1;

    if (limit > NGX_HTTP_AIQ_LIMIT_EXACT
        && length > NGX_HTTP_AIQ_LIMIT_SLOTS)
    {
        rule->grain = length / NGX_HTTP_AIQ_LIMIT_SLOTS;
    }
}


void
ngx_http_aiq_limit_slide(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now)
{
    ngx_http_aiq_limit_mark_t  *mark;

    /* the low bits tell nothing about what is older */

    if (now > window->last + rule->grain
        && now - window->last - rule->grain >= rule->length)
    {
        window->n = 0;
        window->total = 0;
    }

    while (window->n) {
        mark = &window->marks[window->first];

        if (ngx_http_aiq_limit_until(mark->end + rule->length, now) > 0) {
            return;
        }

        window->total -= mark->count;
        window->first++;
        window->n--;
    }

    window->first = 0;
}


uint64_t
ngx_http_aiq_limit_turn(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now)
{
    uint32_t                    excess;
    ngx_http_aiq_limit_mark_t  *mark;

    if (window->total < rule->limit) {
        return now;
    }

    /* so many must have left */

    excess = window->total - rule->limit + 1;

    for (mark = &window->marks[window->first];
         mark->count < excess;
         mark++)
    {
        excess -= mark->count;
    }

    return now + (uint64_t) ngx_http_aiq_limit_until(mark->end + rule->length,
                                                     now);
}


uint64_t
ngx_http_aiq_limit_pace(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t turn)
{
    int64_t                     after;
    uint32_t                    i, each, step;
    ngx_http_aiq_limit_mark_t  *mark;

    /* what cannot be told apart by grains, comes together */

    each = (uint32_t) (((uint64_t) rule->limit * rule->grain + rule->length - 1)
                       / rule->length);
    step = (each > 1) ? rule->grain : rule->length / rule->limit;

    for (i = window->n; i > 0; i--) {
        mark = &window->marks[window->first + i - 1];

        if (ngx_http_aiq_limit_until(mark->end - rule->grain + step, turn)
            <= 0)
        {
            break;
        }
    }

    /* the first gap: others may wait for long, for other reasons */

    for ( /* void */ ; i < window->n; i++) {
        mark = &window->marks[window->first + i];

        after = ngx_http_aiq_limit_until(mark->end - rule->grain, turn);

        if (after >= step) {
            break;
        }

        if (mark->count >= each) {
            turn += after + step;
        }
    }

    return turn;
}


uint32_t
ngx_http_aiq_limit_waiting(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now, uint32_t max)
{
    uint32_t                    i, n;
    ngx_http_aiq_limit_mark_t  *mark;

    n = 0;

    for (i = window->n; i > 0 && n < max; i--) {
        mark = &window->marks[window->first + i - 1];

        if (ngx_http_aiq_limit_until(mark->end - rule->grain, now) <= 0) {
            break;
        }

        n += mark->count;
    }

    return n;
}


uint64_t
ngx_http_aiq_limit_reset(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t now)
{
    int64_t   ms;
    uint32_t  end;

    if (window->n == 0) {
        return 0;
    }

    end = window->marks[window->first + window->n - 1].end;
    ms = ngx_http_aiq_limit_until(end - rule->grain + rule->length, now);

    return ms > 0 ? (uint64_t) ms : 0;
}


int
ngx_http_aiq_limit_fits(ngx_http_aiq_limit_window_t *window)
{
    if (window->first + window->n < window->size) {
        return 1;
    }

    /* what was forgotten makes room, if that is worth the copying */

    if (window->first == 0 || window->first < window->size / 2) {
        return 0;
    }

    memmove(window->marks, &window->marks[window->first],
            window->n * sizeof(ngx_http_aiq_limit_mark_t));

    window->first = 0;

    return 1;
}


void
ngx_http_aiq_limit_move(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_mark_t *marks, uint32_t size)
{
    if (window->n) {
        memcpy(marks, &window->marks[window->first],
               window->n * sizeof(ngx_http_aiq_limit_mark_t));
    }

    window->marks = marks;
    window->size = size;
    window->first = 0;
}


void
ngx_http_aiq_limit_add(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t time)
{
    uint32_t                    end, after;
    ngx_http_aiq_limit_mark_t  *mark;

    end = ngx_http_aiq_limit_end(rule, time);

    if (time > window->last) {
        window->last = time;
    }

    window->total++;

    /* behind all others but those that wait longer */

    mark = &window->marks[window->first + window->n];

    for (after = 0; after < window->n; after++) {

        if ((int32_t) (mark[-1].end - end) <= 0) {
            break;
        }

        mark--;
    }

    if (after < window->n && mark[-1].end == end) {
        mark[-1].count++;
        return;
    }

    memmove(mark + 1, mark, after * sizeof(ngx_http_aiq_limit_mark_t));

    mark->end = end;
    mark->count = 1;

    window->n++;
}


void
ngx_http_aiq_limit_remove(ngx_http_aiq_limit_window_t *window,
    ngx_http_aiq_limit_rule_t *rule, uint64_t time)
{
    uint32_t                    end, i;
    ngx_http_aiq_limit_mark_t  *mark;

    end = ngx_http_aiq_limit_end(rule, time);

    for (i = window->n; i > 0; i--) {
        mark = &window->marks[window->first + i - 1];

        if (mark->end != end) {
            continue;
        }

        window->total--;

        if (--mark->count == 0) {
            memmove(mark, mark + 1,
                    (window->n - i) * sizeof(ngx_http_aiq_limit_mark_t));
            window->n--;
        }

        return;
    }
}


static uint32_t
ngx_http_aiq_limit_end(ngx_http_aiq_limit_rule_t *rule, uint64_t time)
{
    return (uint32_t) ((time / rule->grain + 1) * rule->grain);
}


static int64_t
ngx_http_aiq_limit_until(uint32_t time, uint64_t now)
{
    return (int32_t) (time - (uint32_t) now);
}
