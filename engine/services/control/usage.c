/* GET /api/v1/usage: the events of the ledger, summed up. */

#include <inttypes.h>
#include <stdio.h>
#include "ledger/ledger.h"
#include "services/control/control.h"

#define DAY_MS 86400000

static bool check(control_call *call, aiq_err *err)
{
    int64_t *offset = aiq_pool_alloc(call->pool, sizeof(*offset));

    /* a group has no id that a page's cursor could be */
    call->input = offset;
    return control_offset(call->args.after, offset, err);
}

static store_rows *ask(store_db *db, const control_call *call, int64_t offset)
{
    unsigned by = call->args.groups;
    aiq_str only = control_only(call);
    char from[AIQ_ID_SIZE], to[AIQ_ID_SIZE];

    aiq_id_at(from, "use_", call->args.from_ms);
    aiq_id_at(to, "use_", call->args.to_ms ? call->args.to_ms : INT64_MAX);

    return store_query(
        db,
        "SELECT CASE WHEN $1 = 1 THEN tenant END, CASE WHEN $2 = 1 THEN user_name END, "
        "CASE WHEN $3 = 1 THEN key_id END, CASE WHEN $4 = 1 THEN model END, "
        "CASE WHEN $5 = 1 THEN provider END, CASE WHEN $6 = 1 THEN time_ms / 86400000 END, "
        "COUNT(*), "
        "CAST(SUM(CASE WHEN tokens_in > 0 THEN tokens_in ELSE 0 END) AS BIGINT), "
        "CAST(SUM(CASE WHEN tokens_cached > 0 THEN tokens_cached ELSE 0 END) AS BIGINT), "
        "CAST(SUM(CASE WHEN tokens_out > 0 THEN tokens_out ELSE 0 END) AS BIGINT), "
        "CAST(SUM(CASE WHEN tokens_reasoning > 0 THEN tokens_reasoning ELSE 0 END) AS BIGINT), "
        "CAST(SUM(cost_nano_usd) AS BIGINT), CAST(SUM(estimated) AS BIGINT) "
        "FROM usage_events WHERE ($7 = '' OR tenant = $7) AND id >= $8 AND id < $9 "
        "GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 6, 1, 2, 3, 4, 5 LIMIT $10 OFFSET $11",
        "iiiiiitssii", (int64_t) !!(by & CONTROL_BY_TENANT), (int64_t) !!(by & CONTROL_BY_USER),
        (int64_t) !!(by & CONTROL_BY_KEY), (int64_t) !!(by & CONTROL_BY_MODEL),
        (int64_t) !!(by & CONTROL_BY_PROVIDER), (int64_t) !!(by & CONTROL_BY_DAY), only, from,
        to, call->args.limit + 1, offset);
}

static void add_group(aiq_buf *out, const store_rows *r)
{
    static const char *const texts[] = {"tenant", "user", "key", "model", "provider"};
    static const char *const sums[] = {"requests", "tokens_in", "tokens_cached", "tokens_out",
                                       "tokens_reasoning"};
    char cost[LEDGER_USD_SIZE];

    aiq_buf_text(out, "{");
    for (unsigned i = 0; i < 5; i++) {
        aiq_str text = store_text(r, i);
        if (text.data) {
            aiq_buf_printf(out, "\"%s\":", texts[i]);
            json_quote(out, text.data, text.len);
            aiq_buf_text(out, ",");
        }
    }
    if (store_text(r, 5).data) {
        aiq_buf_text(out, "\"day\":");
        control_add_date(out, store_int(r, 5) * DAY_MS);
        aiq_buf_text(out, ",");
    }
    for (unsigned i = 0; i < 5; i++) {
        aiq_buf_printf(out, "\"%s\":%" PRId64 ",", sums[i], store_int(r, 6 + i));
    }
    int n = (int)ledger_write_usd(cost, store_int(r, 11));
    aiq_buf_printf(out, "\"cost_usd\":\"%.*s\",\"estimated\":%" PRId64 "}", n, cost,
                   store_int(r, 12));
}

static bool usage_tx(store_db *db, control_call *call, aiq_err *err)
{
    int64_t offset = *(const int64_t *)call->input;
    store_rows *r = ask(db, call, offset);
    bool more = false;
    char next[24];

    control_list_begin(call);
    for (unsigned n = 0; !more && store_next(r); n++) {
        int length = snprintf(next, sizeof(next), "%" PRId64, offset + n + 1);
        more = !control_item(call, n, (aiq_str){next, (size_t)length});
        if (!more) {
            add_group(&call->out, r);
        }
    }
    control_list_end(call, more);
    return store_rows_end(r, err);
}

const control_route control_usage_get = {CONTROL_HANDLER, check, usage_tx, true, true};
