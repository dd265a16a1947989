/*
 * /api/v1/budgets: budgets of single tenants, users and keys. They bound what the
 * configuration's aiq_budget of the same scope, unit and period gives to each: the
 * stricter of the two applies. A key's hold without one, too: see link/check.c. The ledger
 * reads them with its leases, see ledger_store_lease().
 */

#include <inttypes.h>
#include <time.h>
#include "core/id.h"
#include "ledger/budget.h"
#include "services/control/control.h"

#define NANO 1000000000

static const char *const scopes[] = {"tenant", "user", "key"};
static const char *const units[] = {"tokens", "usd"};
static const char *const periods[] = {"day", "month"};

typedef struct {
    control_value tenant, scope, subject, amount;
    char id[AIQ_ID_SIZE];
} budget_input;

/* With what is spent in the present day, $1, or month, $2. */
#define SELECT                                                                                 \
    "SELECT b.id, b.tenant, b.scope, b.subject, b.unit, b.period, b.amount, b.created_ms, "    \
    "COALESCE(a.spent, 0) FROM budgets b LEFT JOIN budget_accounts a ON a.id = b.name || "     \
    "'/' || CASE WHEN b.period = 'day' THEN $1 ELSE $2 END "

void control_add_amount(aiq_buf *out, int64_t amount, aiq_str unit)
{
    int decimals = 9;
    int64_t rest = amount % NANO;

    if (!aiq_str_is(unit, "usd")) {
        aiq_buf_printf(out, "%" PRId64 "tokens", amount);
        return;
    }
    aiq_buf_printf(out, "%" PRId64, amount / NANO);
    if (rest > 0) {
        for (; rest % 10 == 0; rest /= 10) {
            decimals--;
        }
        aiq_buf_printf(out, ".%0*" PRId64, decimals, rest);
    }
    aiq_buf_text(out, "usd");
}

static void add(aiq_buf *out, const store_rows *r)
{
    static const char *const names[] = {
        "{\"id\":", ",\"tenant\":", ",\"scope\":", ",\"subject\":"};
    aiq_str unit = store_text(r, 4), period = store_text(r, 5);

    for (unsigned i = 0; i < 4; i++) {
        aiq_str text = store_text(r, i);
        aiq_buf_text(out, names[i]);
        if (text.len) {
            json_quote(out, text.data, text.len);
        } else {
            aiq_buf_text(out, "null");
        }
    }
    aiq_buf_text(out, ",\"amount\":\"");
    control_add_amount(out, store_int(r, 6), unit);
    aiq_buf_printf(out, "/%.*s\",\"spent\":\"", (int)period.len, period.data);
    control_add_amount(out, store_int(r, 8), unit);
    aiq_buf_text(out, "\",\"created_at\":");
    control_add_time(out, store_int(r, 7));
    aiq_buf_text(out, "}");
}

/* What the ids of the present accounts end with. */
static void present(char day[16], char month[16])
{
    time_t now = (time_t)(aiq_now_ms() / 1000);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(day, 16, "%Y-%m-%d", &tm);
    strftime(month, 16, "%Y-%m", &tm);
}

static bool absent(aiq_err *err)
{
    return aiq_fail(err, 404, "not_found", "There is no such budget.");
}

static bool answer_one(store_db *db, control_call *call, aiq_str id, aiq_err *err)
{
    char day[16], month[16];

    present(day, month);
    store_rows *r = store_query(db, SELECT "WHERE b.id = $3", "sst", day, month, id);
    bool there = store_next(r) && control_sees(call, store_text(r, 1));
    if (there) {
        add(&call->out, r);
    }
    return store_rows_end(r, err) && (there || absent(err));
}

/* A tenant's own budget is for whoever sells to it. */
static bool may_manage(const control_call *call, bool tenants_own, aiq_err *err)
{
    return call->all_tenants || !tenants_own ||
           aiq_fail(err, 403, "permission_denied",
                    "Only an admin of the tenant 'default' manages budgets of tenants.");
}

/* Create. */

static bool create_check(control_call *call, aiq_err *err)
{
    budget_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"scope", FIELD_SCOPE, true, &in->scope},
                                    {"tenant", FIELD_TENANT, false, &in->tenant},
                                    {"subject", FIELD_USER, false, &in->subject},
                                    {"amount", FIELD_AMOUNT, true, &in->amount}};

    call->input = in;
    if (!control_read(call, fields, 4, err)) {
        return false;
    }
    bool tenants_own = in->scope.budget.scope == POLICY_TENANT;
    if (in->subject.given == tenants_own) {
        return aiq_fail_param(err, 400, "invalid_value", "subject",
                              tenants_own
                                  ? "The budget of a tenant has no 'subject'."
                                  : "'subject' must be the user's name or the key's id.");
    }
    if (!in->tenant.given) {
        in->tenant.text = call->tenant;
    }
    if (!in->subject.given) {
        in->subject.text = AIQ_STR("");
    }
    aiq_id(in->id, "bud_");
    return may_manage(call, tenants_own, err);
}

bool control_budget_insert(store_db *db, const char *id, aiq_str tenant, policy_scope scope,
                           aiq_str subject, const policy_budget *budget, aiq_err *err)
{
    aiq_buf name = {0};

    budget_name(&name, scope, tenant, subject, budget->unit, budget->period);
    bool ok = store_exec(
        db, err,
        "INSERT INTO budgets (id, name, tenant, scope, subject, unit, period, amount, "
        "created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        "sttstssii", id, (aiq_str){(char *)name.data, name.len}, tenant, scopes[scope], subject,
        units[budget->unit], periods[budget->period], budget->amount, aiq_now_ms());
    aiq_buf_free(&name);
    return ok;
}

static bool create_tx(store_db *db, control_call *call, aiq_err *err)
{
    const budget_input *in = call->input;
    policy_scope scope = in->scope.budget.scope;

    if (!control_tenant_exists(db, call, in->tenant.text, err)) {
        return false;
    }
    bool ok = control_budget_insert(db, in->id, in->tenant.text, scope, in->subject.text,
                                    &in->amount.budget, err);
    if (ok && store_changed(db) == 0) {
        return aiq_fail_param(err, 409, "already_exists", "scope",
                              "There is such a budget already: change its amount.");
    }
    aiq_str id = {in->id, sizeof("bud_") - 1 + 26};
    call->status = 201;
    call->budgets = true;
    control_event(call, "budget made", id);
    return ok && (scope != POLICY_KEY || control_raise(db, call, err)) &&
           answer_one(db, call, id, err);
}

/* Read. */

static bool list_tx(store_db *db, control_call *call, aiq_err *err)
{
    char day[16], month[16];

    present(day, month);
    store_rows *r = store_query(
        db, SELECT "WHERE b.id > $3 AND ($4 = '' OR b.tenant = $4) ORDER BY b.id LIMIT $5",
        "sstti", day, month, call->args.after, control_only(call), call->args.limit + 1);
    return control_list(call, r, add, err);
}

static bool get_tx(store_db *db, control_call *call, aiq_err *err)
{
    return answer_one(db, call, call->id, err);
}

/* Change and delete. */

/* Is it there, and may the caller change it? What a key's says goes with the key. */
static bool find(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db, "SELECT tenant, scope FROM budgets WHERE id = $1", "t", call->id);
    bool there = store_next(r) && control_sees(call, store_text(r, 0));
    bool tenants_own = there && aiq_str_is(store_text(r, 1), "tenant");
    bool keys_own = there && aiq_str_is(store_text(r, 1), "key");

    return store_rows_end(r, err) && (there || absent(err)) &&
           may_manage(call, tenants_own, err) && (!keys_own || control_raise(db, call, err));
}

static bool change_check(control_call *call, aiq_err *err)
{
    budget_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"amount", FIELD_AMOUNT, true, &in->amount}};

    call->input = in;
    return control_read(call, fields, 1, err);
}

static bool change_tx(store_db *db, control_call *call, aiq_err *err)
{
    const policy_budget *b = &((const budget_input *)call->input)->amount.budget;

    if (!find(db, call, err) ||
        !store_exec(
            db, err,
            "UPDATE budgets SET amount = $2 WHERE id = $1 AND unit = $3 AND period = $4",
            "tiss", call->id, b->amount, units[b->unit], periods[b->period])) {
        return false;
    }
    if (store_changed(db) == 0) {
        return aiq_fail_param(err, 400, "invalid_value", "amount",
                              "'amount' must have the budget's own unit and period.");
    }
    call->budgets = true;
    control_event(call, "budget changed", call->id);
    return answer_one(db, call, call->id, err);
}

static bool delete_tx(store_db *db, control_call *call, aiq_err *err)
{
    call->budgets = true;
    control_deleted(call, "budget deleted");
    return find(db, call, err) &&
           store_exec(db, err, "DELETE FROM budgets WHERE id = $1", "t", call->id);
}

const control_route control_budgets_create = {CONTROL_HANDLER, create_check, create_tx, false,
                                              false};
const control_route control_budgets_list = {CONTROL_HANDLER, NULL, list_tx, true, false};
const control_route control_budgets_get = {CONTROL_HANDLER, NULL, get_tx, true, false};
const control_route control_budgets_change = {CONTROL_HANDLER, change_check, change_tx, false,
                                              false};
const control_route control_budgets_delete = {CONTROL_HANDLER, NULL, delete_tx, false, false};
