/* /api/v1/keys: API keys. A key is "aiq_" and KEY_RANDOM digits of base 62 from the
 * system's generator, 190 bits; the store has its SHA-256 and the first few digits, by
 * which people tell keys apart. */

#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>
#include "access/keyring.h"
#include "access/role.h"
#include "core/id.h"
#include "services/control/control.h"

#define KEY_RANDOM 32
#define KEY_LEN    (4 + KEY_RANDOM)
#define KEY_SHOWN  8 /* of its characters: 24 bits less to guess */

#define COLUMNS                                                                                \
    "k.id, k.tenant, u.name, k.role, k.models, k.shown, k.expires_ms, k.created_ms, "          \
    "k.requests_per_minute, k.tokens_per_minute, b.amount, b.unit, b.period "                  \
    "FROM api_keys k LEFT JOIN users u ON u.id = k.user_id LEFT JOIN budgets b ON b.id = "     \
    "(SELECT MIN(id) FROM budgets WHERE scope = 'key' AND tenant = k.tenant AND "              \
    "subject = k.id)"

typedef struct {
    control_value tenant, user, role, models, expires, limits, budget;
    char id[AIQ_ID_SIZE], budget_id[AIQ_ID_SIZE];
    char key[KEY_LEN + 1], shown[KEY_SHOWN + 1], hash[KEYRING_HEX];
} key_input;

/* Rows. */

static void add_text(aiq_buf *out, const char *name, aiq_str text)
{
    aiq_buf_printf(out, ",\"%s\":", name);
    if (text.data) {
        json_quote(out, text.data, text.len);
    } else {
        aiq_buf_text(out, "null");
    }
}

static void add_limit(aiq_buf *out, const char *name, int64_t limit)
{
    if (limit > 0) {
        aiq_buf_printf(out, "\"%s\":%" PRId64, name, limit);
    } else {
        aiq_buf_printf(out, "\"%s\":null", name);
    }
}

/* Where /api/v1/budgets has given it more than one: the first. */
static void add_budget(aiq_buf *out, int64_t amount, aiq_str unit, aiq_str period)
{
    if (unit.data == NULL) {
        aiq_buf_text(out, "null");
        return;
    }
    aiq_buf_text(out, "\"");
    control_add_amount(out, amount, unit);
    aiq_buf_printf(out, "/%.*s\"", (int)period.len, period.data);
}

/* key: only in the answer to its making; NULL otherwise. */
static void add_with_key(aiq_buf *out, const store_rows *r, const char *key)
{
    aiq_str id = store_text(r, 0), models = store_text(r, 4);
    int64_t expires_ms = store_int(r, 6);

    aiq_buf_text(out, "{\"id\":");
    json_quote(out, id.data, id.len);
    if (key) {
        aiq_buf_printf(out, ",\"key\":\"%s\"", key);
    }
    add_text(out, "shown", store_text(r, 5));
    add_text(out, "tenant", store_text(r, 1));
    add_text(out, "user", store_text(r, 2));
    add_text(out, "role", store_text(r, 3));
    aiq_buf_text(out, ",\"models\":");
    if (models.data) {
        aiq_buf_add(out, models.data, models.len); /* JSON already */
    } else {
        aiq_buf_text(out, "null");
    }
    aiq_buf_text(out, ",\"limits\":{");
    add_limit(out, "requests_per_minute", store_int(r, 8));
    aiq_buf_text(out, ",");
    add_limit(out, "tokens_per_minute", store_int(r, 9));
    aiq_buf_text(out, "},\"budget\":");
    add_budget(out, store_int(r, 10), store_text(r, 11), store_text(r, 12));
    aiq_buf_text(out, ",\"expires_at\":");
    if (expires_ms >= 0) {
        control_add_time(out, expires_ms);
    } else {
        aiq_buf_text(out, "null");
    }
    aiq_buf_text(out, ",\"created_at\":");
    control_add_time(out, store_int(r, 7));
    aiq_buf_text(out, "}");
}

static void add(aiq_buf *out, const store_rows *r)
{
    add_with_key(out, r, NULL);
}

static bool absent(aiq_err *err)
{
    return aiq_fail(err, 404, "not_found", "There is no such key.");
}

static bool answer_one(control_call *call, aiq_str id, const char *key, store_db *db,
                       aiq_err *err)
{
    store_rows *r = store_query(db, "SELECT " COLUMNS " WHERE k.id = $1", "t", id);
    bool there = store_next(r) && control_sees(call, store_text(r, 1));

    if (there) {
        add_with_key(&call->out, r, key);
    }
    return store_rows_end(r, err) && (there || absent(err));
}

/* Create. */

static bool random_digits(char *out, size_t n)
{
    static const char digits[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint8_t bytes[64];
    size_t have = 0;

    while (have < n) {
        if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
            return false;
        }
        for (size_t i = 0; i < sizeof(bytes) && have < n; i++) {
            if (bytes[i] < 4 * 62) { /* the rest would favour some digits */
                out[have++] = digits[bytes[i] % 62];
            }
        }
    }
    return true;
}

static bool make_key(key_input *in, aiq_err *err)
{
    uint8_t hash[KEYRING_NAME];

    memcpy(in->key, "aiq_", 4);
    if (!random_digits(in->key + 4, KEY_RANDOM)) {
        return aiq_fail(err, 500, "internal_error", "The system gives no random numbers.");
    }
    memcpy(in->shown, in->key, KEY_SHOWN);
    EVP_Digest(in->key, KEY_LEN, hash, NULL, EVP_sha256(), NULL);
    keyring_hex(in->hash, hash);
    aiq_id(in->id, "key_");
    aiq_id(in->budget_id, "bud_");
    return true;
}

static bool create_check(control_call *call, aiq_err *err)
{
    key_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"tenant", FIELD_TENANT, false, &in->tenant},
                                    {"user", FIELD_USER, false, &in->user},
                                    {"role", FIELD_ROLE, false, &in->role},
                                    {"models", FIELD_MODELS, false, &in->models},
                                    {"limits", FIELD_LIMITS, false, &in->limits},
                                    {"budget", FIELD_AMOUNT, false, &in->budget},
                                    {"expires_at", FIELD_TIME, false, &in->expires}};

    call->input = in;
    if (!control_read(call, fields, 7, err)) {
        return false;
    }
    if (!in->tenant.given) {
        in->tenant.text = call->tenant;
    }
    return make_key(in, err);
}

/* The user that the key stands for; its id is NULL where it stands for itself. */
typedef struct {
    aiq_str id, role;
} key_owner;

static bool find_owner(store_db *db, const control_call *call, key_owner *owner, aiq_err *err)
{
    const key_input *in = call->input;

    *owner = (key_owner){.role = AIQ_STR("user")};
    if (!in->user.given) {
        return true;
    }
    store_rows *r =
        store_query(db, "SELECT id, role FROM users WHERE tenant = $1 AND name = $2", "tt",
                    in->tenant.text, in->user.text);
    bool there = store_next(r);
    if (there) {
        aiq_str id = store_text(r, 0), role = store_text(r, 1);
        owner->id = (aiq_str){aiq_pool_copy(call->pool, id.data, id.len), id.len};
        owner->role = (aiq_str){aiq_pool_copy(call->pool, role.data, role.len), role.len};
    }
    return store_rows_end(r, err) &&
           (there || aiq_fail_param(err, 404, "not_found", "user", "There is no such user."));
}

static bool insert(store_db *db, const key_input *in, aiq_str owner, aiq_str role, aiq_err *err)
{
    return store_exec(db, err,
                      "INSERT INTO api_keys (id, hash, shown, tenant, user_id, role, models, "
                      "requests_per_minute, tokens_per_minute, expires_ms, created_ms) "
                      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                      "sssttttiiii", in->id, in->hash, in->shown, in->tenant.text, owner, role,
                      in->models.text, in->limits.requests, in->limits.tokens,
                      in->expires.given ? in->expires.ms : (int64_t)-1, aiq_now_ms());
}

static bool create_tx(store_db *db, control_call *call, aiq_err *err)
{
    const key_input *in = call->input;
    aiq_str id = {in->id, strlen(in->id)};
    key_owner owner;

    if (!control_tenant_exists(db, call, in->tenant.text, err) ||
        !find_owner(db, call, &owner, err)) {
        return false;
    }
    aiq_str role = in->role.given ? in->role.text : owner.role;
    if (in->user.given && role_rank(role) > role_rank(owner.role)) {
        return aiq_fail_param(err, 400, "invalid_value", "role",
                              "A key may do no more than its user, who is %.*s.",
                              (int)owner.role.len, owner.role.data);
    }
    call->status = 201;
    control_event(call, "key made", id);
    return insert(db, in, owner.id, role, err) &&
           (!in->budget.given ||
            control_budget_insert(db, in->budget_id, in->tenant.text, POLICY_KEY, id,
                                  &in->budget.budget, err)) &&
           answer_one(call, id, in->key, db, err);
}

/* Read. */

static bool list_tx(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db,
                    "SELECT " COLUMNS " WHERE k.id > $1 AND "
                    "($2 = '' OR k.tenant = $2) ORDER BY k.id LIMIT $3",
                    "tti", call->args.after, control_only(call), call->args.limit + 1);

    return control_list(call, r, add, err);
}

static bool get_tx(store_db *db, control_call *call, aiq_err *err)
{
    return answer_one(call, call->id, NULL, db, err);
}

/* Change. */

static bool change_check(control_call *call, aiq_err *err)
{
    key_input *in = aiq_pool_zalloc(call->pool, sizeof(*in));
    const control_field fields[] = {{"limits", FIELD_LIMITS, true, &in->limits}};

    call->input = in;
    return control_read(call, fields, 1, err);
}

static bool change_tx(store_db *db, control_call *call, aiq_err *err)
{
    const key_input *in = call->input;

    control_event(call, "key changed", call->id);
    return store_exec(db, err,
                      "UPDATE api_keys SET requests_per_minute = $2, tokens_per_minute = $3 "
                      "WHERE id = $1",
                      "tii", call->id, in->limits.requests, in->limits.tokens) &&
           answer_one(call, call->id, NULL, db, err) && control_raise(db, call, err);
}

/* Revoke. */

static bool delete_tx(store_db *db, control_call *call, aiq_err *err)
{
    store_rows *r =
        store_query(db,
                    "DELETE FROM api_keys WHERE id = $1 AND ($2 = '' OR tenant = $2) "
                    "RETURNING tenant",
                    "tt", call->id, call->all_tenants ? AIQ_STR("") : call->tenant);
    bool there = store_next(r);
    aiq_str text = store_text(r, 0);
    aiq_str tenant = {aiq_pool_copy(call->pool, text.data, text.len), text.len};

    control_deleted(call, "key revoked");
    return store_rows_end(r, err) && (there || absent(err)) &&
           store_exec(db, err,
                      "DELETE FROM budgets WHERE scope = 'key' AND tenant = $1 AND "
                      "subject = $2",
                      "tt", tenant, call->id) &&
           control_raise(db, call, err);
}

const control_route control_keys_create = {CONTROL_HANDLER, create_check, create_tx, false,
                                           false};
const control_route control_keys_list = {CONTROL_HANDLER, NULL, list_tx, true, false};
const control_route control_keys_get = {CONTROL_HANDLER, NULL, get_tx, true, false};
const control_route control_keys_change = {CONTROL_HANDLER, change_check, change_tx, false,
                                           false};
const control_route control_keys_delete = {CONTROL_HANDLER, NULL, delete_tx, false, false};
