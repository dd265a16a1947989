/* /api/v1/users: of a tenant, with a role that bounds their keys'. */

#include "core/id.h"
#include "services/control/control.h"
#include "services/control/fields.h"

#define COLUMNS "id, tenant, name, role, disabled, created_ms"

typedef struct {
    control_value tenant, name, role, disabled;
    char id[AIQ_ID_SIZE];
} user_input;

static void add(aiq_buf *out, const store_rows *r)
{
    static const char *const names[] = {"{\"id\":", ",\"tenant\":", ",\"name\":", ",\"role\":"};

    for (unsigned i = 0; i < 4; i++) {
        aiq_str text = store_text(r, i);
        aiq_buf_text(out, names[i]);
        json_quote(out, text.data, text.len);
    }
    aiq_buf_printf(out, ",\"disabled\":%s,\"created_at\":", store_int(r, 4) ? "true" : "false");
    control_add_time(out, store_int(r, 5));
    aiq_buf_text(out, "}");
}

/* The first row is the answer; none, or another tenant's: absent. */
static bool answer_one(control_call *call, store_rows *r, aiq_err *err)
{
    bool there = store_next(r) && control_sees(call, store_text(r, 1));

    if (there) {
        add(&call->out, r);
    }
    return store_rows_end(r, err) &&
           (there || aiq_fail(err, 404, "not_found", "There is no such user."));
}

/* Create. */

static bool create_check(control_call *call, aiq_err *err)
{
    user_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"name", FIELD_USER, true, &in->name},
                                    {"tenant", FIELD_TENANT, false, &in->tenant},
                                    {"role", FIELD_ROLE, false, &in->role}};

    call->input = in;
    if (!control_read(call, fields, 3, err)) {
        return false;
    }
    if (!in->tenant.given) {
        in->tenant.text = call->tenant;
    }
    if (!in->role.given) {
        in->role.text = AIQ_STR("user");
    }
    aiq_id(in->id, "usr_");
    return true;
}

static bool create_tx(store_db *db, control_call *call, aiq_err *err)
{
    const user_input *in = call->input;

    if (!control_tenant_exists(db, call, in->tenant.text, err)) {
        return false;
    }
    store_rows *r = store_query(
        db,
        "INSERT INTO users (id, tenant, name, role, disabled, created_ms) "
        "VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT DO NOTHING RETURNING " COLUMNS,
        "sttti", in->id, in->tenant.text, in->name.text, in->role.text, aiq_now_ms());
    bool made = store_next(r);
    if (made) {
        add(&call->out, r);
        call->status = 201;
    }
    control_event(call, "user made", (aiq_str){in->id, sizeof("usr_") - 1 + 26});
    return store_rows_end(r, err) &&
           (made || aiq_fail_param(err, 409, "already_exists", "name",
                                   "The tenant has a user of this name."));
}

/* Read. */

static bool list_tx(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db,
                    "SELECT " COLUMNS " FROM users WHERE id > $1 AND "
                    "($2 = '' OR tenant = $2) ORDER BY id LIMIT $3",
                    "tti", call->args.after, control_only(call), call->args.limit + 1);

    return control_list(call, r, add, err);
}

static bool get_tx(store_db *db, control_call *call, aiq_err *err)
{
    return answer_one(
        call, store_query(db, "SELECT " COLUMNS " FROM users WHERE id = $1", "t", call->id),
        err);
}

/* Change and delete. */

static bool change_check(control_call *call, aiq_err *err)
{
    user_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"role", FIELD_ROLE, false, &in->role},
                                    {"disabled", FIELD_BOOL, false, &in->disabled}};

    call->input = in;
    return control_read(call, fields, 2, err) &&
           (in->role.given || in->disabled.given ||
            aiq_fail_param(err, 400, "missing_required_parameter", "role",
                           "'role' or 'disabled' is missing."));
}

static bool change_tx(store_db *db, control_call *call, aiq_err *err)
{
    const user_input *in = call->input;

    control_event(call, "user changed", call->id);
    /* -1 and NULL: as it was */
    return answer_one(call,
                      store_query(db,
                                  "UPDATE users SET role = COALESCE($2, role), disabled = CASE "
                                  "WHEN $3 < 0 THEN disabled ELSE $3 END WHERE id = $1 "
                                  "RETURNING " COLUMNS,
                                  "tti", call->id, in->role.text,
                                  in->disabled.given ? (int64_t)in->disabled.truth : -1),
                      err) &&
           control_raise(db, call, err);
}

/* What the user's keys may spend goes with them. */
static bool delete_keys_budgets(store_db *db, const control_call *call, aiq_err *err)
{
    return store_exec(db, err,
                      "DELETE FROM budgets WHERE scope = 'key' AND EXISTS (SELECT 1 FROM "
                      "api_keys k WHERE k.id = budgets.subject AND k.tenant = budgets.tenant "
                      "AND k.user_id = $1)",
                      "t", call->id);
}

static bool delete_tx(store_db *db, control_call *call, aiq_err *err)
{
    if (!delete_keys_budgets(db, call, err)) {
        return false;
    }
    store_rows *r = store_query(db,
                                "DELETE FROM users WHERE id = $1 AND ($2 = '' OR tenant = $2) "
                                "RETURNING id",
                                "tt", call->id, call->all_tenants ? AIQ_STR("") : call->tenant);
    bool there = store_next(r);

    control_deleted(call, "user deleted");
    return store_rows_end(r, err) &&
           (there || aiq_fail(err, 404, "not_found", "There is no such user.")) &&
           control_raise(db, call, err);
}

const control_route control_users_create = {CONTROL_HANDLER, create_check, create_tx, false,
                                            false};
const control_route control_users_list = {CONTROL_HANDLER, NULL, list_tx, true, false};
const control_route control_users_get = {CONTROL_HANDLER, NULL, get_tx, true, false};
const control_route control_users_change = {CONTROL_HANDLER, change_check, change_tx, false,
                                            false};
const control_route control_users_delete = {CONTROL_HANDLER, NULL, delete_tx, false, false};
