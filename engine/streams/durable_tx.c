#include "streams/durable_tx.h"

#include <stdio.h>

/* Rows of a page: batches are small where a reader keeps up. */
#define PAGE_ROWS 32

bool durable_tx_beat(store_db *db, const char *me, int64_t until_ms, aiq_err *err)
{
    return store_exec(db, err,
                      "INSERT INTO engines (id, until_ms) VALUES ($1, $2) "
                      "ON CONFLICT (id) DO UPDATE SET until_ms = excluded.until_ms",
                      "si", me, until_ms);
}

bool durable_tx_leave(store_db *db, const char *me, aiq_err *err)
{
    return store_exec(db, err, "DELETE FROM engines WHERE id = $1", "s", me);
}

static bool keep_policy(store_db *db, const durable_request *r, aiq_err *err)
{
    store_rows *rows =
        store_query(db, "SELECT 1 FROM stream_policies WHERE id = $1", "t", r->policy_id);
    bool known = store_next(rows);

    return store_rows_end(rows, err) &&
           (known ||
            store_exec(db, err, "INSERT INTO stream_policies (id, document) VALUES ($1, $2)",
                       "tt", r->policy_id, r->policy));
}

bool durable_tx_begin(store_db *db, const char *me, int64_t until_ms, const char *id,
                      aiq_str tenant, const durable_request *r, aiq_err *err)
{
    return durable_tx_beat(db, me, until_ms, err) && keep_policy(db, r, err) &&
           store_exec(db, err,
                      "INSERT INTO streams (id, tenant, engine, term, last_event, ended_ms, "
                      "policy, request, account, model, began_ms) "
                      "VALUES ($1, $2, $3, 1, 0, 0, $4, $5, $6, $7, $8)",
                      "ststttti", id, tenant, me, r->policy_id, r->request, r->user, r->model,
                      aiq_now_ms());
}

/* Adding. */

/* The stream has come so far; false in *mine: it is another's by now. A batch that is told
 * again after an answer was lost finds itself there already. */
static bool move_on(store_db *db, const char *me, const durable_batch *b, bool *mine,
                    aiq_err *err)
{
    bool ok = store_exec(db, err,
                         "UPDATE streams SET last_event = $1 WHERE id = $2 AND engine = $3 "
                         "AND term = $4 AND last_event IN ($1, $5) AND ended_ms = 0",
                         "issii", (int64_t)b->last, b->id, me, b->term, (int64_t)b->first - 1);

    *mine = ok && store_changed(db) > 0;
    return ok;
}

static bool add_events(store_db *db, const durable_batch *b, aiq_err *err)
{
    return store_exec(db, err,
                      "INSERT INTO stream_events (stream, first_event, last_event, time_ms, "
                      "events, source) VALUES ($1, $2, $3, $4, $5, $6) "
                      "ON CONFLICT (stream, first_event) DO NOTHING",
                      "siiitt", b->id, (int64_t)b->first, (int64_t)b->last, b->ms, b->events,
                      b->source);
}

static bool end_stream(store_db *db, const char *me, const durable_batch *b, aiq_err *err)
{
    if (b->last == 0) {
        return store_exec(db, err,
                          "DELETE FROM streams WHERE id = $1 AND engine = $2 AND term = $3",
                          "ssi", b->id, me, b->term);
    }
    return store_exec(db, err,
                      "UPDATE streams SET ended_ms = $1, request = NULL WHERE id = $2 AND "
                      "engine = $3 AND term = $4",
                      "issi", b->ms, b->id, me, b->term);
}

/* Was it this engine that ended it, before an answer was lost? */
static bool has_ended(store_db *db, const char *me, const durable_batch *b, bool *mine,
                      aiq_err *err)
{
    store_rows *rows = store_query(
        db, "SELECT engine, term, last_event FROM streams WHERE id = $1", "s", b->id);
    bool there = store_next(rows);
    bool same = there ? aiq_str_is(store_text(rows, 0), me) && store_int(rows, 1) == b->term &&
                            (uint64_t)store_int(rows, 2) == b->last
                      : b->last == 0;

    *mine = b->ends && same;
    return store_rows_end(rows, err);
}

static bool add_batch(store_db *db, const char *me, durable_batch *b, aiq_err *err)
{
    if (!move_on(db, me, b, &b->taken, err)) {
        return false;
    }
    if (!b->taken) {
        return has_ended(db, me, b, &b->taken, err);
    }
    store_announce(db, b->id);
    return (b->events.len == 0 || add_events(db, b, err)) &&
           (!b->ends || end_stream(db, me, b, err));
}

bool durable_tx_add(store_db *db, const char *me, durable_batch *batches, size_t n,
                    aiq_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!add_batch(db, me, &batches[i], err)) {
            return false;
        }
    }
    return true;
}

/* Taking over. */

bool durable_tx_find_lost(store_db *db, const char *me, int64_t now_ms,
                          durable_lost found[DURABLE_TX_MOST], size_t *n, aiq_err *err)
{
    store_rows *rows =
        store_query(db,
                    "SELECT s.id, s.term, e.id FROM streams s LEFT JOIN engines e "
                    "ON e.id = s.engine WHERE s.ended_ms = 0 AND s.engine <> $1 AND "
                    "(e.id IS NULL OR e.until_ms <= $2) ORDER BY s.id LIMIT $3",
                    "sii", me, now_ms, (int64_t)DURABLE_TX_MOST);

    for (*n = 0; *n < DURABLE_TX_MOST && store_next(rows); (*n)++) {
        aiq_str id = store_text(rows, 0);
        snprintf(found[*n].id, sizeof(found[*n].id), "%.*s", (int)id.len, id.data);
        found[*n].term = store_int(rows, 1);
        found[*n].left = store_text(rows, 2).data == NULL;
    }
    return store_rows_end(rows, err);
}

static void set_text(aiq_buf *out, aiq_str text)
{
    aiq_buf_consume(out, out->len);
    if (text.len) {
        aiq_buf_add(out, text.data, text.len);
    }
}

static bool read_claimed(store_db *db, durable_claim *c, aiq_err *err)
{
    store_rows *rows =
        store_query(db,
                    "SELECT s.tenant, s.last_event, s.request, p.document, s.account, "
                    "s.model FROM streams s "
                    "JOIN stream_policies p ON p.id = s.policy WHERE s.id = $1",
                    "s", c->lost.id);

    if (store_next(rows)) {
        set_text(&c->tenant, store_text(rows, 0));
        c->last = (uint64_t)store_int(rows, 1);
        set_text(&c->request, store_text(rows, 2));
        set_text(&c->policy, store_text(rows, 3));
        set_text(&c->user, store_text(rows, 4));
        set_text(&c->model, store_text(rows, 5));
    }
    if (!store_rows_end(rows, err)) {
        return false;
    }
    rows = store_query(db,
                       "SELECT COALESCE(source, events) FROM stream_events WHERE stream = $1 "
                       "ORDER BY first_event",
                       "s", c->lost.id);
    aiq_buf_consume(&c->source, c->source.len);
    while (store_next(rows)) {
        aiq_str text = store_text(rows, 0);
        aiq_buf_add(&c->source, text.data, text.len);
    }
    return store_rows_end(rows, err);
}

bool durable_tx_claim(store_db *db, const char *me, int64_t now_ms, int64_t until_ms,
                      durable_claim *c, aiq_err *err)
{
    if (!durable_tx_beat(db, me, until_ms, err) ||
        !store_exec(db, err,
                    "UPDATE streams SET engine = $1, term = $2 + 1 WHERE id = $3 AND "
                    "term = $2 AND ended_ms = 0 AND NOT EXISTS (SELECT 1 FROM engines e WHERE "
                    "e.id = streams.engine AND e.until_ms > $4)",
                    "sisi", me, c->lost.term, c->lost.id, now_ms)) {
        return false;
    }
    c->taken = store_changed(db) > 0;
    c->term = c->lost.term + 1;
    return !c->taken || read_claimed(db, c, err);
}

/* Reading. */

static bool read_stream(store_db *db, durable_page *p, aiq_err *err)
{
    store_rows *rows = store_query(
        db, "SELECT last_event, ended_ms FROM streams WHERE id = $1 AND tenant = $2", "st",
        p->id, p->tenant);

    p->found = store_next(rows);
    p->last = p->found ? (uint64_t)store_int(rows, 0) : 0;
    p->ended = p->found && store_int(rows, 1) > 0;
    return store_rows_end(rows, err);
}

static bool read_events(store_db *db, durable_page *p, aiq_err *err)
{
    store_rows *rows =
        store_query(db,
                    "SELECT first_event, time_ms, events FROM stream_events WHERE stream = $1 "
                    "AND last_event > $2 ORDER BY first_event LIMIT $3",
                    "sii", p->id, (int64_t)p->after, (int64_t)PAGE_ROWS);
    bool first = true;

    while (p->log.bytes.len < p->most && store_next(rows)) {
        int64_t ms = store_int(rows, 1);
        aiq_str events = store_text(rows, 2);
        if (first) {
            stream_log_go_on(&p->log, (uint64_t)store_int(rows, 0));
            first = false;
        }
        stream_log_add(&p->log, events.data, events.len, ms);
    }
    return store_rows_end(rows, err);
}

bool durable_tx_read(store_db *db, durable_page *p, aiq_err *err)
{
    stream_log_free(&p->log);
    stream_log_init(&p->log);
    if (!read_stream(db, p, err)) {
        return false;
    }
    return !p->found || p->after >= p->last || read_events(db, p, err);
}

bool durable_tx_list(store_db *db, durable_owned *o, aiq_err *err)
{
    store_rows *rows =
        store_query(db,
                    "SELECT id, model, last_event, began_ms FROM streams WHERE "
                    "ended_ms = 0 AND tenant = $1 AND account = $2 AND "
                    "engine <> $3 ORDER BY began_ms DESC LIMIT $4",
                    "ttsi", o->tenant, o->user, o->me, (int64_t)STREAM_LIST_MOST);

    for (o->n = 0; o->n < STREAM_LIST_MOST && store_next(rows); o->n++) {
        stream_entry *e = &o->of[o->n];
        aiq_str id = store_text(rows, 0), model = store_text(rows, 1);
        snprintf(e->id, sizeof(e->id), "%.*s", (int)id.len, id.data);
        snprintf(e->model, sizeof(e->model), "%.*s", (int)model.len, model.data);
        e->last = (uint64_t)store_int(rows, 2);
        e->began_ms = store_int(rows, 3);
        e->guaranteed = true;
    }
    return store_rows_end(rows, err);
}

/* Forgetting. */

bool durable_tx_forget(store_db *db, int64_t before_ms, aiq_err *err)
{
    return store_exec(db, err,
                      "DELETE FROM streams WHERE id IN (SELECT id FROM streams WHERE "
                      "ended_ms > 0 AND ended_ms < $1 ORDER BY ended_ms LIMIT $2)",
                      "ii", before_ms, (int64_t)DURABLE_TX_MOST) &&
           store_exec(db, err,
                      "DELETE FROM stream_policies WHERE NOT EXISTS (SELECT 1 FROM streams s "
                      "WHERE s.policy = stream_policies.id)",
                      "") &&
           store_exec(db, err, "DELETE FROM engines WHERE until_ms < $1", "i", before_ms);
}
