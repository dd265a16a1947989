#include "ledger/budget.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY_MS 86400000

budget_span budget_span_at(policy_period period, int64_t now_ms)
{
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;

    if (period == POLICY_DAY) {
        int64_t starts = now_ms - now_ms % DAY_MS;
        return (budget_span){starts, starts + DAY_MS};
    }
    gmtime_r(&seconds, &tm);
    tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon, .tm_mday = 1};
    int64_t starts = (int64_t)timegm(&tm) * 1000;
    tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon + 1, .tm_mday = 1};
    return (budget_span){starts, (int64_t)timegm(&tm) * 1000};
}

static void add_escaped(aiq_buf *out, aiq_str name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] == '/' || name.data[i] == '%') {
            aiq_buf_printf(out, "%%%02X", (unsigned)name.data[i]);
        } else {
            aiq_buf_add(out, &name.data[i], 1);
        }
    }
    aiq_buf_add(out, "/", 1);
}

void budget_name(aiq_buf *out, policy_scope scope, aiq_str tenant, aiq_str subject,
                 policy_unit unit, policy_period period)
{
    static const char *const scopes[] = {"tenant/", "user/", "key/"};

    aiq_buf_text(out, scopes[scope]);
    add_escaped(out, tenant);
    if (scope != POLICY_TENANT) {
        add_escaped(out, subject);
    }
    aiq_buf_text(out, unit == POLICY_USD ? "usd/" : "tokens/");
    aiq_buf_text(out, period == POLICY_DAY ? "day" : "month");
}

void budget_account_id(aiq_buf *out, policy_scope scope, aiq_str tenant, aiq_str subject,
                       policy_unit unit, policy_period period, int64_t starts_ms)
{
    time_t seconds = (time_t)(starts_ms / 1000);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    budget_name(out, scope, tenant, subject, unit, period);
    aiq_buf_printf(out, period == POLICY_DAY ? "/%04d-%02d-%02d" : "/%04d-%02d",
                   tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
}

int64_t budget_limit(const budget_account *a)
{
    return a->own_limit < a->limit ? a->own_limit : a->limit;
}

int64_t budget_free(const budget_account *a, int64_t now_ms)
{
    if (a->asking || now_ms >= a->lease_until_ms) {
        return 0;
    }
    return a->leased - a->held - a->used;
}

budget_answer budget_look(const budget_account *a, int64_t amount, int64_t now_ms)
{
    if (budget_free(a, now_ms) >= amount) {
        return BUDGET_FITS;
    }
    /* what was spent only grows, so this holds until the limit does, too */
    return amount > budget_limit(a) - a->spent - a->used ? BUDGET_SPENT : BUDGET_LACKS;
}

void budget_hold(budget_account *a, int64_t amount)
{
    a->held += amount;
    a->active = true;
}

void budget_settle(budget_account *a, int64_t held, int64_t used)
{
    a->held -= held;
    a->used += used;
}

void budget_stored(budget_account *a, int64_t used)
{
    a->used -= used;
    a->spent += used;
    a->stored += used;
    /* as the store does: a lease never goes below nothing */
    a->leased = a->leased > used ? a->leased - used : 0;
}

budget_question budget_ask(budget_account *a, int64_t amount, int64_t now_ms)
{
    int64_t left = budget_free(a, now_ms);
    budget_question q = {budget_limit(a), a->held + a->used, amount,
                         a->active && left > 0 ? left : 0};

    a->asking = true;
    a->active = false;
    a->stored = 0;
    return q;
}

/* What reached the store before the question was spent there, and kept in the lease
 * besides: that part of the lease has nothing behind it. */
void budget_answered(budget_account *a, int64_t leased, int64_t spent, int64_t until_ms)
{
    a->asking = false;
    a->leased = leased - a->stored;
    a->spent = spent;
    a->lease_until_ms = until_ms;
}

void budget_unanswered(budget_account *a)
{
    a->asking = false;
}

int64_t budget_grant(const budget_question *q, int64_t spent, int64_t others)
{
    int64_t room = q->limit - spent - others - q->keep;

    if (room < 0) {
        room = 0;
    }
    if (q->amount == 0) {
        return q->keep + (q->free < room ? q->free : room);
    }
    if (room < q->amount) {
        /* what is free here may be what another engine lacks */
        return q->keep;
    }
    /* whole portions, so that no engine is left with a useless rest */
    int64_t portions = room / 16 / q->amount;
    return q->keep + (portions > 1 ? portions : 1) * q->amount;
}

bool budget_warns(const budget_account *a)
{
    int64_t limit = budget_limit(a);

    return a->spent + a->used >= limit - limit / 5;
}
