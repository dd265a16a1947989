#include "services/control/control.h"
#include <stdlib.h>
#include <string.h>
#include "access/keyring.h"
#include "core/log.h"
#include "engine.h"
#include "ledger/ledger.h"

/* A request's way. */

static void call_free(control_call *call)
{
    aiq_buf_free(&call->body);
    aiq_buf_free(&call->out);
    aiq_pool_free(call->pool);
    free(call);
}

static aiq_str keep(control_call *call, aiq_str text)
{
    return (aiq_str){aiq_pool_copy(call->pool, text.data, text.len), text.len};
}

static const control_route *route_of(const aiq_job *job)
{
    return (const control_route *)job->route->handler;
}

void control_open(aiq_job *job)
{
    control_call *call = aiq_zalloc(sizeof(*call));

    job->state = call;
    call->job = job;
    call->pool = aiq_pool_new();
    call->tenant = keep(call, job->tenant);
    call->user = keep(call, job->user);
    call->all_tenants = aiq_str_is(job->tenant, "default");
    call->id = keep(call, job->path_args[0]);
    call->tx = route_of(job)->tx;
}

/* Ends the job and the call. */
static void refuse(control_call *call, const aiq_err *err)
{
    aiq_job *job = call->job;

    call_free(call);
    job_fail(job, err);
}

void control_body(aiq_job *job, const uint8_t *data, size_t n)
{
    control_call *call = job->state;
    aiq_err err;

    if (call->body.len + n > CONTROL_BODY_MAX) {
        aiq_fail(&err, 413, "body_too_large", "The request body is larger than %u bytes.",
                 CONTROL_BODY_MAX);
        refuse(call, &err);
        return;
    }
    aiq_buf_add(&call->body, data, n);
    job_consumed(job, n);
}

void control_cancel(aiq_job *job)
{
    control_call *call = job->state;

    call->job = NULL;
    if (!call->busy) {
        call_free(call);
    }
}

/* A transaction may run again after it was undone: everything it says is said anew. */
static bool run_tx(store_db *db, void *arg, aiq_err *err)
{
    control_call *call = arg;

    aiq_buf_consume(&call->out, call->out.len);
    call->status = 200;
    call->raised = call->budgets = false;
    call->event = NULL;
    return call->tx(db, call, err);
}

static void done(aiq_loop *loop, void *arg, const aiq_err *err)
{
    control_call *call = arg;
    aiq_job *job = call->job;

    if (err == NULL && call->raised) {
        keyring_raised(loop->engine, call->epoch);
    }
    if (err == NULL && call->budgets) {
        ledger_budgets_changed(loop->engine->ledger);
    }
    if (err == NULL && call->event) {
        aiq_log(AIQ_LOG_INFO, "control", call->event, AIQ_S("id", call->event_id.data),
                AIQ_S("by_tenant", call->tenant.data), AIQ_S("by_user", call->user.data));
    }
    if (job && err) {
        job_fail(job, err);
    } else if (job) {
        aiq_buf_text(&call->out, "\n");
        job_reply_all(job, call->status, "application/json", call->out.data, call->out.len);
    }
    call_free(call);
}

static bool check(control_call *call, const control_route *route, aiq_err *err)
{
    call->args.after = call->args.tenant = AIQ_STR(""); /* NULL is another thing in SQL */
    call->args.usage = route->usage;
    call->args.limit = route->usage ? CONTROL_GROUPS : CONTROL_PAGE;
    call->args.limit_max = route->usage ? CONTROL_GROUPS_MAX : CONTROL_PAGE_MAX;
    return control_read_args(call->pool, call->job->args, &call->args, err) &&
           (route->check == NULL || route->check(call, err));
}

void control_end(aiq_job *job)
{
    control_call *call = job->state;
    const control_route *route = route_of(job);
    store *s = job->loop->engine->store;
    aiq_err err;

    if (!check(call, route, &err)) {
        refuse(call, &err);
        return;
    }
    call->busy = true;
    bool taken = route->reads ? store_read(s, job->loop, run_tx, call, done, call, &err)
                              : store_write(s, job->loop, run_tx, call, done, call, &err);
    if (!taken) {
        refuse(call, &err);
    }
}

/* For transactions. */

bool control_sees(const control_call *call, aiq_str tenant)
{
    return call->all_tenants || aiq_str_eq(call->tenant, tenant);
}

bool control_read(control_call *call, const control_field *fields, size_t n, aiq_err *err)
{
    return control_fields(call->pool, (aiq_str){(const char *)call->body.data, call->body.len},
                          fields, n, err);
}

bool control_raise(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db, "UPDATE keys_epoch SET epoch = epoch + 1 RETURNING epoch", "");

    call->raised = store_next(r);
    call->epoch = (uint32_t)store_int(r, 0);
    return store_rows_end(r, err);
}

bool control_tenant_exists(store_db *db, const control_call *call, aiq_str tenant, aiq_err *err)
{
    store_rows *r = store_query(db, "SELECT name FROM tenants WHERE name = $1", "t", tenant);
    bool there = store_next(r) && control_sees(call, tenant);

    return store_rows_end(r, err) && (there || aiq_fail_param(err, 404, "not_found", "tenant",
                                                              "There is no such tenant."));
}

void control_event(control_call *call, const char *what, aiq_str id)
{
    call->event = what;
    call->event_id = id;
}

void control_deleted(control_call *call, const char *what)
{
    control_event(call, what, call->id);
    aiq_buf_text(&call->out, "{\"id\":");
    json_quote(&call->out, call->id.data, call->id.len);
    aiq_buf_text(&call->out, ",\"deleted\":true}");
}

void control_list_begin(control_call *call)
{
    aiq_buf_text(&call->out, "{\"data\":[");
}

bool control_item(control_call *call, unsigned n, aiq_str cursor)
{
    if (n == call->args.limit) {
        return false;
    }
    aiq_buf_text(&call->out, n ? "," : "");
    call->last = keep(call, cursor);
    return true;
}

void control_list_end(control_call *call, bool more)
{
    aiq_buf_text(&call->out, "],\"next\":");
    if (more) {
        json_quote(&call->out, call->last.data, call->last.len);
    } else {
        aiq_buf_text(&call->out, "null");
    }
    aiq_buf_text(&call->out, "}");
}

bool control_list(control_call *call, store_rows *rows,
                  void (*add)(aiq_buf *out, const store_rows *row), aiq_err *err)
{
    bool more = false;

    control_list_begin(call);
    for (unsigned n = 0; !more && store_next(rows); n++) {
        more = !control_item(call, n, store_text(rows, 0));
        if (!more) {
            add(&call->out, rows);
        }
    }
    control_list_end(call, more);
    return store_rows_end(rows, err);
}

aiq_str control_only(const control_call *call)
{
    return call->all_tenants ? call->args.tenant : call->tenant;
}

/* The table. */

static const aiq_route routes[] = {
    {AIQ_METHOD_POST, "/api/v1/tenants", PERMIT_ADMIN, &control_tenants_create.handler,
     "Makes a tenant"},
    {AIQ_METHOD_GET, "/api/v1/tenants", PERMIT_ADMIN, &control_tenants_list.handler,
     "The tenants"},
    {AIQ_METHOD_GET, "/api/v1/tenants/{name}", PERMIT_ADMIN, &control_tenants_get.handler,
     "One tenant"},
    {AIQ_METHOD_PATCH, "/api/v1/tenants/{name}", PERMIT_ADMIN, &control_tenants_change.handler,
     "Disables a tenant, or enables it again"},
    {AIQ_METHOD_DELETE, "/api/v1/tenants/{name}", PERMIT_ADMIN, &control_tenants_delete.handler,
     "Deletes a tenant with its users and keys"},
    {AIQ_METHOD_POST, "/api/v1/users", PERMIT_ADMIN, &control_users_create.handler,
     "Makes a user"},
    {AIQ_METHOD_GET, "/api/v1/users", PERMIT_ADMIN, &control_users_list.handler, "The users"},
    {AIQ_METHOD_GET, "/api/v1/users/{id}", PERMIT_ADMIN, &control_users_get.handler,
     "One user"},
    {AIQ_METHOD_PATCH, "/api/v1/users/{id}", PERMIT_ADMIN, &control_users_change.handler,
     "Changes a user's role, or disables it"},
    {AIQ_METHOD_DELETE, "/api/v1/users/{id}", PERMIT_ADMIN, &control_users_delete.handler,
     "Deletes a user with its keys"},
    {AIQ_METHOD_POST, "/api/v1/keys", PERMIT_ADMIN, &control_keys_create.handler,
     "Makes an API key and shows it, this once"},
    {AIQ_METHOD_GET, "/api/v1/keys", PERMIT_ADMIN, &control_keys_list.handler, "The API keys"},
    {AIQ_METHOD_GET, "/api/v1/keys/{id}", PERMIT_ADMIN, &control_keys_get.handler,
     "One API key"},
    {AIQ_METHOD_PATCH, "/api/v1/keys/{id}", PERMIT_ADMIN, &control_keys_change.handler,
     "Changes an API key's limits"},
    {AIQ_METHOD_DELETE, "/api/v1/keys/{id}", PERMIT_ADMIN, &control_keys_delete.handler,
     "Revokes an API key"},
    {AIQ_METHOD_POST, "/api/v1/budgets", PERMIT_ADMIN, &control_budgets_create.handler,
     "Gives a tenant, user or key a stricter budget"},
    {AIQ_METHOD_GET, "/api/v1/budgets", PERMIT_ADMIN, &control_budgets_list.handler,
     "The budgets, and what is spent of them"},
    {AIQ_METHOD_GET, "/api/v1/budgets/{id}", PERMIT_ADMIN, &control_budgets_get.handler,
     "One budget"},
    {AIQ_METHOD_PATCH, "/api/v1/budgets/{id}", PERMIT_ADMIN, &control_budgets_change.handler,
     "Changes a budget's amount"},
    {AIQ_METHOD_DELETE, "/api/v1/budgets/{id}", PERMIT_ADMIN, &control_budgets_delete.handler,
     "Deletes a budget: that of the configuration is left"},
    {AIQ_METHOD_GET, "/api/v1/usage", PERMIT_ADMIN, &control_usage_get.handler,
     "What was used, summed up"},
    {AIQ_METHOD_POST, "/api/v1/cache/entries/{id}/feedback", PERMIT_EXECUTE, &control_feedback,
     "Says whether an answer of the semantic cache was right"},
    {AIQ_METHOD_GET, "/api/v1/models", PERMIT_READ, &control_models,
     "The models, their targets and prices, and who can answer"},
    {AIQ_METHOD_GET, "/api/v1/providers", PERMIT_READ, &control_providers,
     "The providers, and which of them can be asked"},
};

const aiq_service service_control = {
    .name = "control",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
