/* The schema: one step a transaction, so that an interrupted start leaves a whole one. */

#include <stddef.h>
#include "store/backend.h"
#include "store_migrations.h" /* made by the build: store_migrations[], in order */

#define MIGRATIONS (sizeof(store_migrations) / sizeof(store_migrations[0]))

static bool newer(int64_t version, aiq_err *err)
{
    aiq_fail(err, 503, "store_newer", "The store was made by a newer engine.");
    aiq_err_detail(err, "its schema has version %lld, this engine knows %zu",
                   (long long)version, MIGRATIONS);
    return false;
}

/* The number is read after the transaction has begun: of several engines that start at
 * once the first migrates, the others find it done. */
static bool step(store_db *db, int64_t *version)
{
    const store_backend *b = db->backend;

    if (!b->begin(db, STORE_WRITER) || !b->version(db, version)) {
        return false;
    }
    if (*version < 0 || (size_t)*version >= MIGRATIONS) {
        return b->script(db, "ROLLBACK");
    }
    return b->script(db, store_migrations[*version]) && b->set_version(db, *version + 1) &&
           b->script(db, "COMMIT");
}

bool store_migrate(store_db *db, aiq_err *err)
{
    int64_t version = 0;

    do {
        if (!step(db, &version)) {
            *err = db->err;
            return false;
        }
    } while (version >= 0 && (size_t)version < MIGRATIONS);
    return (version >= 0 && (size_t)version == MIGRATIONS) || newer(version, err);
}
