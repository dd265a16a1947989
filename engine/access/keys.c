/* The keyring's source: the store. One transaction an answer, so that a key, its budgets
 * and the epoch that they are of are read in one snapshot. */

#include <stdlib.h>
#include <string.h>
#include "access/keyring.h"
#include "access/role.h"
#include "core/log.h"
#include "engine.h"
#include "store/store.h"

#define SELECT_KEY                                                                             \
    "SELECT e.epoch, k.id, k.tenant, u.name, k.role, u.role, k.models, k.expires_ms, "         \
    "t.disabled + COALESCE(u.disabled, 0), k.requests_per_minute, k.tokens_per_minute "        \
    "FROM keys_epoch e LEFT JOIN api_keys k ON "
#define JOIN_OWNERS                                                                            \
    " = $1 LEFT JOIN tenants t ON t.name = k.tenant LEFT JOIN users u ON u.id = k.user_id"

void keyring_hex(char out[KEYRING_HEX], const uint8_t in[KEYRING_NAME])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < KEYRING_NAME; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * KEYRING_NAME] = '\0';
}

static store_rows *ask(store_db *db, const keyring_question *q)
{
    char name[KEYRING_HEX];

    if (q->kind == KEYRING_HASH) {
        keyring_hex(name, q->name);
        return store_query(db, SELECT_KEY "k.hash" JOIN_OWNERS, "s", name);
    }
    memcpy(name, q->name, KEYRING_NAME);
    name[KEYRING_NAME] = '\0';
    return store_query(db, SELECT_KEY "k.id" JOIN_OWNERS, "s", name);
}

static keyring_entry *entry_of(const store_rows *r)
{
    keyring_verdict v = {.status = 401, .epoch = (uint32_t)store_int(r, 0), .expires_ms = -1};

    v.key_id = store_text(r, 1);
    if (v.key_id.data == NULL) {
        return keyring_entry_new(&v);
    }
    v.status = store_int(r, 8) ? 403 : 200;
    v.tenant = store_text(r, 2);
    v.user = store_text(r, 3);
    v.role = store_text(r, 4);
    v.models = store_text(r, 6);
    v.expires_ms = store_int(r, 7);
    v.requests = (uint32_t)store_int(r, 9);
    v.tokens = (uint32_t)store_int(r, 10);
    if (v.user.data == NULL) {
        v.user = v.key_id; /* nobody's: the key stands for itself */
    } else if (role_rank(store_text(r, 5)) < role_rank(v.role)) {
        v.role = store_text(r, 5); /* never more than its user may */
    }
    return keyring_entry_new(&v);
}

static bool read_budgets(store_db *db, keyring_verdict *v, aiq_err *err)
{
    store_rows *r = store_query(db,
                                "SELECT unit, period, amount FROM budgets WHERE scope = 'key' "
                                "AND tenant = $1 AND subject = $2 ORDER BY id",
                                "tt", v->tenant, v->key_id);

    while (v->n_budgets < KEYRING_BUDGETS && store_next(r)) {
        v->budgets[v->n_budgets++] = (policy_budget){
            .scope = POLICY_KEY,
            .unit = aiq_str_is(store_text(r, 0), "usd") ? POLICY_USD : POLICY_TOKENS,
            .period = aiq_str_is(store_text(r, 1), "day") ? POLICY_DAY : POLICY_MONTH,
            .amount = store_int(r, 2),
        };
    }
    return store_rows_end(r, err);
}

static bool read_key(store_db *db, void *arg, aiq_err *err)
{
    keyring_question *q = arg;
    store_rows *r = ask(db, q);

    free(q->entry); /* of a try that was undone */
    q->entry = store_next(r) ? entry_of(r) : NULL;
    return store_rows_end(r, err) && (q->entry == NULL || q->entry->verdict.status != 200 ||
                                      read_budgets(db, &q->entry->verdict, err));
}

static bool read_epoch(store_db *db, void *arg, aiq_err *err)
{
    keyring_question *q = arg;
    store_rows *r = store_query(db, "SELECT epoch FROM keys_epoch", "");

    q->seen = store_next(r);
    q->epoch = (uint32_t)store_int(r, 0);
    return store_rows_end(r, err);
}

static void found(aiq_loop *loop, void *arg, const aiq_err *err)
{
    keyring_question *q = arg;

    if (err) {
        free(q->entry);
        q->entry = NULL;
        aiq_log(AIQ_LOG_WARN, "access", "a key cannot be looked up", AIQ_S("code", err->code),
                AIQ_S("detail", err->detail));
    }
    keyring_found(loop, q);
}

static void looked(aiq_loop *loop, void *arg, const aiq_err *err)
{
    keyring_question *q = arg;

    q->seen &= err == NULL;
    keyring_looked(loop, q);
}

static bool look_up(aiq_loop *loop, keyring_question *q)
{
    return store_read(loop->engine->store, loop, read_key, q, found, q, NULL);
}

static bool look(aiq_loop *loop, keyring_question *q)
{
    return store_read(loop->engine->store, loop, read_epoch, q, looked, q, NULL);
}

const keyring_source keyring_store = {look_up, look};
