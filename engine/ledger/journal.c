#include "ledger/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/pool.h"

#define MAGIC        0x316c6e7271696101u /* the layout's version is in it */
#define STEP         256u                /* entries that the file grows by */
#define NAME_MAX_LEN 16                  /* of a file: the engine's id in hex */

typedef struct {
    uint64_t magic, engine;
    uint64_t entry_size;
    uint64_t reserved[5];
} header;

struct journal {
    int folder, file;
    char name[NAME_MAX_LEN + 1];
    uint64_t engine;
    void *map; /* of the longest file there may be; only `n` entries have a page behind them */
    journal_entry *entries;
    uint32_t n;
    uint32_t *unused; /* a stack: the entry used last is the next one taken */
    uint32_t n_unused;
};

static size_t file_size(size_t entries)
{
    return sizeof(header) + entries * sizeof(journal_entry);
}

static bool failed(aiq_err *err, const char *what, const char *where)
{
    aiq_fail(err, 503, "ledger_unavailable", "Usage cannot be recorded now.");
    aiq_err_detail(err, "journal: %s %s: %s", what, where, strerror(errno));
    return false;
}

static journal *open_folder(const char *folder)
{
    journal *j = aiq_zalloc(sizeof(*j));

    j->file = -1;
    j->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return j;
}

static void close_journal(journal *j)
{
    if (j->map) {
        munmap(j->map, file_size(JOURNAL_ENTRIES));
    }
    if (j->file >= 0) {
        close(j->file); /* and with it the lock */
    }
    if (j->folder >= 0) {
        close(j->folder);
    }
    free(j->unused);
    free(j);
}

static bool map_file(journal *j)
{
    void *map =
        mmap(NULL, file_size(JOURNAL_ENTRIES), PROT_READ | PROT_WRITE, MAP_SHARED, j->file, 0);

    if (map == MAP_FAILED) {
        return false;
    }
    j->map = map;
    j->entries = (journal_entry *)((char *)map + sizeof(header));
    return true;
}

/* Blocks are allocated here, so that no store to the map can meet a full disk. */
static bool grow(journal *j, aiq_err *err)
{
    size_t n = j->n + STEP;

    if (n > JOURNAL_ENTRIES) {
        return aiq_fail(err, 503, "overloaded", "Too many calls of models are under way.");
    }
    if ((errno = posix_fallocate(j->file, 0, (off_t)file_size(n))) != 0) {
        return failed(err, "cannot grow", j->name);
    }
    for (size_t i = n; i > j->n; i--) {
        j->unused[j->n_unused++] = (uint32_t)i - 1;
    }
    j->n = (uint32_t)n;
    return true;
}

/* The file gets its name only once it is locked, so nobody takes it for a dead one's. */
static bool make_file(journal *j, aiq_err *err)
{
    char hidden[NAME_MAX_LEN + 8];

    snprintf(hidden, sizeof(hidden), ".%s", j->name);
    j->file = openat(j->folder, hidden, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (j->file < 0) {
        return failed(err, "cannot make", j->name);
    }
    bool ok = flock(j->file, LOCK_EX | LOCK_NB) == 0 && map_file(j);
    if (!ok) {
        failed(err, "cannot lock or map", j->name);
    }
    if (ok && (ok = grow(j, err))) {
        *(header *)j->map = (header){MAGIC, j->engine, sizeof(journal_entry), {0}};
        ok = renameat(j->folder, hidden, j->folder, j->name) == 0 ||
             failed(err, "cannot name", j->name);
    }
    if (!ok) {
        unlinkat(j->folder, hidden, 0);
    }
    return ok;
}

journal *journal_new(const char *folder, uint64_t engine, aiq_err *err)
{
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        failed(err, "cannot make the folder", folder);
        return NULL;
    }
    journal *j = open_folder(folder);
    j->engine = engine;
    j->unused = aiq_alloc(JOURNAL_ENTRIES * sizeof(*j->unused));
    snprintf(j->name, sizeof(j->name), "%016" PRIx64, engine);
    if (j->folder < 0 ? !failed(err, "cannot open", folder) : !make_file(j, err)) {
        close_journal(j);
        return NULL;
    }
    return j;
}

void journal_free(journal *j)
{
    if (j->n_unused == j->n) {
        unlinkat(j->folder, j->name, 0);
    }
    close_journal(j);
}

journal_entry *journal_take(journal *j, aiq_err *err)
{
    if (j->n_unused == 0 && !grow(j, err)) {
        return NULL;
    }
    return &j->entries[j->unused[--j->n_unused]];
}

void journal_give_back(journal *j, journal_entry *e)
{
    journal_publish(e, JOURNAL_FREE);
    j->unused[j->n_unused++] = (uint32_t)(e - j->entries);
}

void journal_publish(journal_entry *e, journal_state state)
{
    /* release: what the state speaks of was written before it */
    __atomic_store_n(&e->state, (uint32_t)state, __ATOMIC_RELEASE);
}

/* Another engine's. */

/* Takes the lock of a file, whose name is NAME_MAX_LEN long, and looks at it; false: not a
 * dead engine's journal. */
static bool adopt(journal *j, const char *name)
{
    struct stat st;
    header head;

    j->file = openat(j->folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (j->file < 0 || flock(j->file, LOCK_EX | LOCK_NB) != 0 || fstat(j->file, &st) != 0 ||
        !S_ISREG(st.st_mode) || pread(j->file, &head, sizeof(head), 0) != sizeof(head) ||
        head.magic != MAGIC || head.entry_size != sizeof(journal_entry) || st.st_nlink == 0 ||
        !map_file(j)) {
        if (j->file >= 0) {
            close(j->file);
            j->file = -1;
        }
        return false;
    }
    size_t n = ((size_t)st.st_size - sizeof(head)) / sizeof(journal_entry);
    j->n = n < JOURNAL_ENTRIES ? (uint32_t)n : JOURNAL_ENTRIES;
    j->engine = head.engine;
    memcpy(j->name, name, NAME_MAX_LEN + 1);
    return true;
}

journal *journal_find_dead(const char *folder)
{
    journal *j = open_folder(folder);
    DIR *dir = j->folder < 0 ? NULL : opendir(folder);
    struct dirent *entry;
    bool found = false;

    while (dir && !found && (entry = readdir(dir)) != NULL) {
        found = strspn(entry->d_name, "0123456789abcdef") == NAME_MAX_LEN &&
                strlen(entry->d_name) == NAME_MAX_LEN && adopt(j, entry->d_name);
    }
    if (dir) {
        closedir(dir);
    }
    if (!found) {
        close_journal(j);
        return NULL;
    }
    return j;
}

uint64_t journal_engine(const journal *j)
{
    return j->engine;
}

/* A file may have been damaged: texts end somewhere, numbers stay numbers. */
static bool plausible(const journal_entry *e)
{
    const struct {
        const char *text;
        size_t size;
    } texts[] = {
        {e->id, sizeof(e->id)},
        {e->request_id, sizeof(e->request_id)},
        {e->tenant, sizeof(e->tenant)},
        {e->user, sizeof(e->user)},
        {e->key_id, sizeof(e->key_id)},
        {e->model, sizeof(e->model)},
        {e->provider, sizeof(e->provider)},
        {e->target, sizeof(e->target)},
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (memchr(texts[i].text, '\0', texts[i].size) == NULL) {
            return false;
        }
    }
    return e->n_budgets <= JOURNAL_BUDGETS;
}

void journal_each(journal *j, void (*each)(void *arg, const journal_entry *e), void *arg)
{
    for (uint32_t i = 0; i < j->n; i++) {
        const journal_entry *e = &j->entries[i];
        if ((e->state == JOURNAL_HELD || e->state == JOURNAL_SETTLED) && plausible(e)) {
            each(arg, e);
        }
    }
}

void journal_bury(journal *j)
{
    unlinkat(j->folder, j->name, 0);
    close_journal(j);
}

void journal_release(journal *j)
{
    close_journal(j);
}
