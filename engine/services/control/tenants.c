/* /api/v1/tenants: named by whoever makes them. Only an admin of "default" makes,
 * changes and deletes them; another admin sees its own. */

#include "core/id.h"
#include "services/control/control.h"
#include "services/control/fields.h"

#define COLUMNS "name, disabled, created_ms"

typedef struct {
    control_value name, disabled;
} tenant_input;

static void add(aiq_buf *out, const store_rows *r)
{
    aiq_str name = store_text(r, 0);

    aiq_buf_text(out, "{\"name\":");
    json_quote(out, name.data, name.len);
    aiq_buf_printf(out, ",\"disabled\":%s,\"created_at\":", store_int(r, 1) ? "true" : "false");
    control_add_time(out, store_int(r, 2));
    aiq_buf_text(out, "}");
}

static bool absent(aiq_err *err)
{
    return aiq_fail(err, 404, "not_found", "There is no such tenant.");
}

/* The first row is the answer; none: absent. */
static bool answer_one(control_call *call, store_rows *r, aiq_err *err)
{
    bool there = store_next(r);

    if (there) {
        add(&call->out, r);
    }
    return store_rows_end(r, err) && (there || absent(err));
}

static bool may_manage(const control_call *call, aiq_err *err)
{
    return call->all_tenants ||
           aiq_fail(err, 403, "permission_denied",
                    "Only an admin of the tenant 'default' manages tenants.");
}

/* Create. */

static bool create_check(control_call *call, aiq_err *err)
{
    tenant_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"name", FIELD_TENANT, true, &in->name}};

    call->input = in;
    return may_manage(call, err) && control_read(call, fields, 1, err);
}

static bool create_tx(store_db *db, control_call *call, aiq_err *err)
{
    const tenant_input *in = call->input;
    store_rows *r = store_query(db,
                                "INSERT INTO tenants (name, disabled, created_ms) "
                                "VALUES ($1, 0, $2) ON CONFLICT DO NOTHING RETURNING " COLUMNS,
                                "ti", in->name.text, aiq_now_ms());
    bool made = store_next(r);

    if (made) {
        add(&call->out, r);
        call->status = 201;
    }
    control_event(call, "tenant made", in->name.text);
    return store_rows_end(r, err) &&
           (made || aiq_fail_param(err, 409, "already_exists", "name",
                                   "There is a tenant of this name."));
}

/* Read. */

static bool list_tx(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db,
                    "SELECT " COLUMNS " FROM tenants WHERE name > $1 AND "
                    "($2 = '' OR name = $2) ORDER BY name LIMIT $3",
                    "tti", call->args.after, control_only(call), call->args.limit + 1);

    return control_list(call, r, add, err);
}

static bool get_tx(store_db *db, control_call *call, aiq_err *err)
{
    if (!control_sees(call, call->id)) {
        return absent(err);
    }
    return answer_one(
        call, store_query(db, "SELECT " COLUMNS " FROM tenants WHERE name = $1", "t", call->id),
        err);
}

/* Change and delete. */

static bool change_check(control_call *call, aiq_err *err)
{
    tenant_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"disabled", FIELD_BOOL, true, &in->disabled}};

    call->input = in;
    return may_manage(call, err) && control_read(call, fields, 1, err) &&
           (!aiq_str_is(call->id, "default") || !in->disabled.truth ||
            aiq_fail_param(err, 400, "invalid_value", "disabled",
                           "The tenant 'default' cannot be disabled."));
}

static bool change_tx(store_db *db, control_call *call, aiq_err *err)
{
    const tenant_input *in = call->input;

    control_event(call, in->disabled.truth ? "tenant disabled" : "tenant enabled", call->id);
    return answer_one(call,
                      store_query(db,
                                  "UPDATE tenants SET disabled = $2 WHERE name = $1 "
                                  "RETURNING " COLUMNS,
                                  "ti", call->id, (int64_t)in->disabled.truth),
                      err) &&
           control_raise(db, call, err);
}

static bool delete_check(control_call *call, aiq_err *err)
{
    return may_manage(call, err) &&
           (!aiq_str_is(call->id, "default") ||
            aiq_fail(err, 409, "tenant_default", "The tenant 'default' cannot be deleted."));
}

static bool delete_tx(store_db *db, control_call *call, aiq_err *err)
{
    if (!store_exec(db, err, "DELETE FROM tenants WHERE name = $1", "t", call->id)) {
        return false;
    }
    if (store_changed(db) == 0) {
        return absent(err);
    }
    control_deleted(call, "tenant deleted");
    return store_exec(db, err, "DELETE FROM budgets WHERE tenant = $1", "t", call->id) &&
           control_raise(db, call, err);
}

const control_route control_tenants_create = {CONTROL_HANDLER, create_check, create_tx, false,
                                              false};
const control_route control_tenants_list = {CONTROL_HANDLER, NULL, list_tx, true, false};
const control_route control_tenants_get = {CONTROL_HANDLER, NULL, get_tx, true, false};
const control_route control_tenants_change = {CONTROL_HANDLER, change_check, change_tx, false,
                                              false};
const control_route control_tenants_delete = {CONTROL_HANDLER, delete_check, delete_tx, false,
                                              false};
