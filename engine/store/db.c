/* Connections and statements, as far as both back ends are alike. */

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "store/backend.h"

/* Faults. */

static void mark(store_db *db, store_fault fault, unsigned status, const char *code,
                 const char *message, const char *detail)
{
    if (fault > db->fault) {
        db->fault = fault;
        aiq_fail(&db->err, status, code, "%s", message);
        aiq_err_detail(&db->err, "%s", detail);
    }
}

bool store_db_fault(store_db *db, store_fault fault, const char *detail)
{
    if (fault == FAULT_STATEMENT) {
        mark(db, fault, 500, "store_error", "The store refused a statement.", detail);
    } else {
        mark(db, fault, 503, "store_unavailable", "The store is not available.", detail);
    }
    return false;
}

bool store_db_conflict(store_db *db, const char *detail)
{
    mark(db, FAULT_STATEMENT, 409, "store_conflict", "This is in conflict with what is stored.",
         detail);
    return false;
}

void store_db_undone(store_db *db)
{
    db->fault = FAULT_NONE;
}

/* Prepared statements. Few enough, some dozens, to be found by looking at each. */

static store_rows *find(const store_db *db, const char *sql)
{
    for (unsigned i = 0; i < db->n_statements; i++) {
        if (db->statements[i]->sql == sql) {
            return db->statements[i];
        }
    }
    return NULL;
}

static void add(store_db *db, store_rows *rows)
{
    if (db->n_statements == db->statements_size) {
        unsigned size = db->statements_size ? db->statements_size * 2 : 32;
        store_rows **more = aiq_alloc(size * sizeof(store_rows *));
        if (db->n_statements) {
            memcpy(more, db->statements, db->n_statements * sizeof(store_rows *));
        }
        free(db->statements);
        db->statements = more;
        db->statements_size = size;
    }
    db->statements[db->n_statements++] = rows;
}

static store_rows *prepared(store_db *db, const char *sql, const char *types)
{
    store_rows *rows = find(db, sql);

    if (rows == NULL) {
        assert(strlen(types) <= STORE_PARAMS_MAX);
        rows = db->backend->prepare(db, sql, types);
        if (rows) {
            rows->db = db;
            rows->sql = sql;
            rows->n_params = (unsigned)strlen(types);
            add(db, rows);
        }
    }
    assert(rows == NULL || (!rows->open && rows->n_params == strlen(types)));
    return rows;
}

void store_db_close_rows(store_db *db)
{
    for (unsigned i = 0; db->n_open && i < db->n_statements; i++) {
        if (db->statements[i]->open) {
            store_rows_end(db->statements[i], NULL);
        }
    }
}

void store_db_forget(store_db *db)
{
    for (unsigned i = 0; i < db->n_statements; i++) {
        db->backend->unprepare(db->statements[i]);
    }
    free(db->statements);
    free(db->broken);
    aiq_buf_free(&db->news);
}

/* Parameters. */

/* How much of it, by eights, is ASCII without a NUL: of most texts all but the last few bytes.
 */
static size_t skip_ascii(aiq_str s)
{
    const uint64_t ones = 0x0101010101010101ull;
    size_t i = 0;
    uint64_t x;

    for (; s.len - i >= sizeof(x); i += sizeof(x)) {
        memcpy(&x, s.data + i, sizeof(x));
        if ((x | (x - ones)) & ones << 7) { /* a byte above 0x7f; a borrow, for there is a 0 */
            break;
        }
    }
    return i;
}

/* One rule for both: SQLite would take any bytes, PostgreSQL would not, and what one
 * engine stored another must be able to read. */
static bool is_text(aiq_str s)
{
    for (size_t i = skip_ascii(s); i < s.len;) {
        unsigned char c = (unsigned char)s.data[i];
        size_t more = c < 0x80 ? 0 : c < 0xc2 ? 9 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;

        if (c == 0 || c > 0xf4 || more >= s.len - i) {
            return false;
        }
        unsigned char next = more ? (unsigned char)s.data[i + 1] : 0;
        if ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) ||
            (c == 0xf0 && next < 0x90) || (c == 0xf4 && next > 0x8f)) {
            return false;
        }
        for (size_t k = 1; k <= more; k++) {
            if (((unsigned char)s.data[i + k] & 0xc0) != 0x80) {
                return false;
            }
        }
        i += more + 1;
    }
    return true;
}

static bool take_values(store_db *db, store_value *values, const char *types, va_list args)
{
    for (unsigned i = 0; types[i]; i++) {
        const char *s;

        values[i] = (store_value){.type = 't'};
        switch (types[i]) {
        case 'i':
            values[i] = (store_value){.type = 'i', .number = va_arg(args, int64_t)};
            break;
        case 's':
            s = va_arg(args, const char *);
            values[i].text = (aiq_str){s, s ? strlen(s) : 0};
            break;
        default:
            assert(types[i] == 't');
            values[i].text = va_arg(args, aiq_str);
        }
        if (!is_text(values[i].text)) {
            return store_db_fault(db, FAULT_STATEMENT, "a text that is not UTF-8");
        }
    }
    return true;
}

static store_rows *start(store_db *db, const char *sql, const char *types, va_list args)
{
    store_value values[STORE_PARAMS_MAX];
    store_rows *rows;

    if (db->fault != FAULT_NONE || (rows = prepared(db, sql, types)) == NULL ||
        !take_values(db, values, types, args)) {
        return NULL;
    }
    rows->open = true;
    rows->there = false;
    db->n_open++;
    db->backend->run(rows, values);
    return rows;
}

/* What transactions use. */

store_rows *store_query(store_db *db, const char *sql, const char *types, ...)
{
    va_list args;

    va_start(args, types);
    store_rows *rows = start(db, sql, types, args);
    va_end(args);
    if (rows == NULL) {
        if (db->broken == NULL) {
            db->broken = aiq_zalloc(sizeof(*db->broken));
            db->broken->db = db;
        }
        rows = db->broken;
    }
    return rows;
}

bool store_next(store_rows *rows)
{
    rows->there = rows->open && rows->db->fault == FAULT_NONE && rows->db->backend->next(rows);
    return rows->there;
}

int64_t store_int(const store_rows *rows, unsigned column)
{
    return rows->there ? rows->db->backend->number(rows, column) : 0;
}

aiq_str store_text(const store_rows *rows, unsigned column)
{
    return rows->there ? rows->db->backend->text(rows, column) : (aiq_str){0};
}

bool store_rows_end(store_rows *rows, aiq_err *err)
{
    store_db *db = rows->db;

    if (rows->open) {
        db->changed = db->backend->reset(rows);
        rows->open = rows->there = false;
        db->n_open--;
    }
    if (db->fault != FAULT_NONE && err) {
        *err = db->err;
    }
    return db->fault == FAULT_NONE;
}

bool store_exec(store_db *db, aiq_err *err, const char *sql, const char *types, ...)
{
    va_list args;

    va_start(args, types);
    store_rows *rows = start(db, sql, types, args);
    va_end(args);
    if (rows == NULL) {
        if (err) {
            *err = db->err;
        }
        return false;
    }
    while (store_next(rows)) {
    }
    return store_rows_end(rows, err);
}

static bool is_name(const char *name)
{
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") ==
           strlen(name);
}

void store_announce(store_db *db, const char *name)
{
    assert(is_name(name) && strlen(name) < STORE_NAME_MAX);
    if (db->backend->hear) {
        aiq_buf_text(&db->news, name);
        aiq_buf_add(&db->news, " ", 1);
    }
}

int64_t store_changed(const store_db *db)
{
    return db->changed;
}
