/*
 * The control service: /api/v1/…, what operators and admins of tenants manage.
 * control.c has the routes and a request's way through the store, fields.c what
 * a request may say, the other files a resource each.
 *
 * A request is read whole and checked on its loop, runs as one transaction on a
 * thread of the store, and is answered on its loop again. The call lives as long
 * as the transaction, longer than the job where its caller leaves; so the
 * transaction uses nothing of the job.
 *
 * Who may what: these routes want the role admin, but for what the configuration says
 * (providers.c), which is for all who may read, and of answers from the cache
 * (feedback.c), for all who may ask. An admin manages the tenant it
 * belongs to; an admin of the tenant "default" manages all. What belongs to
 * another tenant does not exist for the caller: 404.
 */

#ifndef AIQ_CONTROL_H
#define AIQ_CONTROL_H

#include "core/json.h"
#include "services/control/fields.h"
#include "services/service.h"
#include "store/store.h"

#define CONTROL_BODY_MAX (64u << 10)
#define CONTROL_PAGE     50
#define CONTROL_PAGE_MAX 200
/* Groups of usage. */
#define CONTROL_GROUPS     100
#define CONTROL_GROUPS_MAX 10000

typedef struct control_call control_call;

/* In a transaction, on a thread of the store. Writes call->out, call->status (200
 * where it does not) and call->raised. */
typedef bool (*control_tx)(store_db *db, control_call *call, aiq_err *err);

struct control_call {
    aiq_job *job; /* of the loop alone; NULL: its caller has left */
    aiq_pool *pool;
    aiq_buf body;
    control_tx tx;
    bool busy; /* the store has it */

    /* who asks */
    aiq_str tenant, user;
    bool all_tenants;

    /* what for */
    aiq_str id; /* of the path */
    control_args args;
    void *input; /* the resource's own */

    /* the answer */
    unsigned status;
    aiq_buf out;
    aiq_str last; /* of a list: the cursor of its last item */
    bool budgets; /* some have changed */
    bool raised;  /* the epoch of keys, to: */
    uint32_t epoch;
    const char *event; /* for the log; NULL: none */
    aiq_str event_id;
};

/* One handler a route. `check` reads call->body into call->input, or says what is
 * wrong with it; NULL: the route has no body. */
typedef struct {
    job_handler handler; /* first */
    bool (*check)(control_call *call, aiq_err *err);
    control_tx tx;
    bool reads, usage; /* usage: its arguments are those of a sum */
} control_route;

extern const control_route control_tenants_create, control_tenants_list, control_tenants_get,
    control_tenants_change, control_tenants_delete;
extern const control_route control_users_create, control_users_list, control_users_get,
    control_users_change, control_users_delete;
extern const control_route control_keys_create, control_keys_list, control_keys_get,
    control_keys_change, control_keys_delete;
extern const control_route control_budgets_create, control_budgets_list, control_budgets_get,
    control_budgets_change, control_budgets_delete;
extern const control_route control_usage_get;
/* Of the policy: no transaction. */
extern const job_handler control_models, control_providers;
/* Of the semantic cache: the same. */
extern const job_handler control_feedback;

void control_open(aiq_job *job);
void control_body(aiq_job *job, const uint8_t *data, size_t n);
void control_end(aiq_job *job);
void control_cancel(aiq_job *job);

#define CONTROL_HANDLER                                                                        \
    {                                                                                          \
        .open = control_open, .body = control_body, .end = control_end,                        \
        .cancel = control_cancel                                                               \
    }

/* The call's body as these fields. */
bool control_read(control_call *call, const control_field *fields, size_t n, aiq_err *err);

/* For transactions. */

/* Raises the epoch of keys: this change takes something away. */
bool control_raise(store_db *db, control_call *call, aiq_err *err);
/* May the caller see what belongs to the tenant? */
bool control_sees(const control_call *call, aiq_str tenant);
/* 404, also where the caller may not see it. */
bool control_tenant_exists(store_db *db, const control_call *call, aiq_str tenant,
                           aiq_err *err);
/* What a line of the log says once it is committed. id: of the call's memory, or the
 * input's; NUL-terminated. */
void control_event(control_call *call, const char *what, aiq_str id);
/* The same for the call's id, and the answer to a DELETE. */
void control_deleted(control_call *call, const char *what);

/* A budget, by the id "bud_…"; store_changed() is 0 where there is one like it. */
bool control_budget_insert(store_db *db, const char *id, aiq_str tenant, policy_scope scope,
                           aiq_str subject, const policy_budget *budget, aiq_err *err);
/* Appends "200usd". */
void control_add_amount(aiq_buf *out, int64_t amount, aiq_str unit);

/* A list, of limit + 1 rows at most: control_item() before each row (the n-th, from 0);
 * false: the page is full, and there is more. */
void control_list_begin(control_call *call);
bool control_item(control_call *call, unsigned n, aiq_str cursor);
void control_list_end(control_call *call, bool more);
/* The whole list, where a row's first column is its cursor. The rows are ended. */
bool control_list(control_call *call, store_rows *rows,
                  void (*add)(aiq_buf *out, const store_rows *row), aiq_err *err);
/* The tenant whose rows are listed; empty: all of them. */
aiq_str control_only(const control_call *call);

#endif
