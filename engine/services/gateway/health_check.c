#include "services/gateway/health_check.h"
#include "core/log.h"
#include "providers/provider.h"

static void set(health_check *check, bool sick)
{
    __atomic_store_n(&check->sick, sick, __ATOMIC_RELAXED);
    metric_set(check->up, !sick);
}

static void tell(health_check *check, bool sick, const char *detail)
{
    set(check, sick);
    aiq_log(sick ? AIQ_LOG_WARN : AIQ_LOG_INFO, "gateway", "health check has changed",
            AIQ_S("provider", check->name), AIQ_S("state", sick ? "sick" : "healthy"),
            AIQ_S("detail", detail));
}

static void ended(health_check *check, bool passed, const char *detail)
{
    check->http = NULL;
    check->due_ns = loop_now_ns() + check->rules.interval_ms * 1000000ull;
    check->passes = passed ? check->passes + 1 : 0;
    check->fails = passed ? 0 : check->fails + 1;
    bool sick = __atomic_load_n(&check->sick, __ATOMIC_RELAXED);
    if (sick && check->passes >= check->rules.passes) {
        tell(check, false, NULL);
    } else if (!sick && check->fails >= check->rules.fails) {
        tell(check, true, detail);
    }
}

static void on_head(void *arg, const http_head *head)
{
    health_check *check = arg;

    check->status = head->status;
}

static void on_body(void *arg, aiq_str piece)
{
    (void)arg;
    (void)piece;
}

static void on_done(void *arg)
{
    health_check *check = arg;

    ended(check, check->status / 100 == 2 || check->status == 429, "its status");
}

static void on_failed(void *arg, const aiq_err *err)
{
    health_check *check = arg;

    if (err->retryable) {
        ended(check, false, err->detail);
    } else { /* our own failure */
        check->http = NULL;
        check->due_ns = loop_now_ns() + check->rules.interval_ms * 1000000ull;
    }
}

void health_check_start(health_check *check, aiq_loop *loop, secrets *s, const char *key)
{
    static const http_events events = {on_head, on_body, on_done, on_failed};
    const policy_provider *p = check->provider;
    aiq_pool *pool = aiq_pool_new();
    aiq_err err;

    check->rules = p->check;
    http_call call = provider_call(p, p->check.uri);
    call.method = "GET";
    call.connect_ms = call.first_byte_ms = call.idle_ms = call.total_ms = p->check.timeout_ms;
    if (provider_check_headers(p, key, s, pool, &call.headers, &err)) {
        check->http = http_start(loop, &call, &events, check);
    } else {
        ended(check, false, err.detail);
    }
    aiq_pool_free(pool);
}

void health_check_forget(health_check *check)
{
    check->fails = check->passes = 0;
    set(check, false);
}
