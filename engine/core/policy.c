#include "core/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/pool.h"

#define VERSION      1
#define DOCUMENT_MAX (4u << 20)
#define MS_MAX       (24u * 3600 * 1000)

typedef struct entry {
    aiq_policy policy; /* first: a policy is its entry */
    unsigned refs;     /* atomic; guarded by the set's lock where it can reach 0 */
    aiq_pool *pool;
    policy_set *set;          /* NULL: not of a set */
    struct stat folder, file; /* who could have written it when it was read */
    struct entry *next;
} entry;

struct policy_set {
    pthread_mutex_t lock;
    char *folder;
    entry *entries;
    policy_watch watch; /* its functions may be NULL */
};

/* ---- the document ---- */

/* What is being read, and where errors go. */
typedef struct {
    aiq_pool *pool;
    aiq_policy *policy;
    aiq_err *err;
} reader;

static bool invalid(reader *r, const char *what, const char *key)
{
    return aiq_fail(r->err, 503, "policy_invalid", "The policy document's %s has no valid %s.",
                    what, key);
}

static bool read_text(reader *r, const json_t *object, const char *what, const char *key,
                      bool required, const char **out)
{
    const json_t *value = json_object_get(object, key);

    *out = NULL;
    if (value == NULL && !required) {
        return true;
    }
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        json_string_length(value) > PATH_MAX ||
        strlen(json_string_value(value)) != json_string_length(value)) {
        return invalid(r, what, key);
    }
    *out = aiq_pool_copy(r->pool, json_string_value(value), json_string_length(value));
    return true;
}

static bool read_ms(reader *r, const json_t *object, const char *key, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > MS_MAX) {
        return invalid(r, "provider", key);
    }
    *out = (uint32_t)json_integer_value(value);
    return true;
}

/* The array `key`, and zeroed memory for one record of `size` bytes an element. */
static bool read_array(reader *r, const json_t *object, const char *what, const char *key,
                       size_t size, const json_t **array, size_t *n, void *records)
{
    *array = json_object_get(object, key);
    if (!json_is_array(*array)) {
        return invalid(r, what, key);
    }
    *n = json_array_size(*array);
    *(void **)records = aiq_pool_zalloc(r->pool, (*n + 1) * size);
    return true;
}

static bool read_local_models(reader *r, const json_t *object, policy_provider *provider)
{
    policy_local_model *models;
    const json_t *array;

    if (!read_array(r, object, "provider", "models", sizeof(*models), &array,
                    &provider->n_models, &models)) {
        return false;
    }
    for (size_t i = 0; i < provider->n_models; i++) {
        const json_t *model = json_array_get(array, i);

        if (!read_text(r, model, "local model", "name", true, &models[i].name) ||
            !read_text(r, model, "local model", "path", true, &models[i].path)) {
            return false;
        }
    }
    provider->models = models;
    return true;
}

static bool read_provider(reader *r, const json_t *object, policy_provider *provider)
{
    if (!read_text(r, object, "provider", "name", true, &provider->name) ||
        !read_text(r, object, "provider", "dialect", true, &provider->dialect) ||
        !read_text(r, object, "provider", "key", false, &provider->key)) {
        return false;
    }
    if (strcmp(provider->dialect, "local") == 0) {
        return read_local_models(r, object, provider);
    }
    return read_text(r, object, "provider", "url", true, &provider->url) &&
           read_ms(r, object, "connect_ms", &provider->connect_ms) &&
           read_ms(r, object, "first_byte_ms", &provider->first_byte_ms) &&
           read_ms(r, object, "idle_ms", &provider->idle_ms);
}

static bool read_providers(reader *r, const json_t *document)
{
    policy_provider *providers;
    const json_t *array;

    if (!read_array(r, document, "root", "providers", sizeof(*providers), &array,
                    &r->policy->n_providers, &providers)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_providers; i++) {
        if (!read_provider(r, json_array_get(array, i), &providers[i])) {
            return false;
        }
    }
    r->policy->providers = providers;
    return true;
}

static bool read_target(reader *r, const json_t *object, policy_target *target)
{
    const char *name;

    if (!read_text(r, object, "target", "provider", true, &name) ||
        !read_text(r, object, "target", "model", true, &target->model)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_providers; i++) {
        if (strcmp(r->policy->providers[i].name, name) == 0) {
            target->provider = &r->policy->providers[i];
            return true;
        }
    }
    return invalid(r, "target", "provider");
}

static bool read_model(reader *r, const json_t *object, policy_model *model)
{
    policy_target *targets;
    const json_t *array;

    if (!read_text(r, object, "model", "name", true, &model->name) ||
        !read_array(r, object, "model", "targets", sizeof(*targets), &array, &model->n_targets,
                    &targets)) {
        return false;
    }
    if (model->n_targets == 0) {
        return invalid(r, "model", "targets");
    }
    for (size_t i = 0; i < model->n_targets; i++) {
        if (!read_target(r, json_array_get(array, i), &targets[i])) {
            return false;
        }
    }
    model->targets = targets;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const policy_model *)a)->name, ((const policy_model *)b)->name);
}

static bool read_models(reader *r, const json_t *document)
{
    policy_model *models;
    const json_t *array;

    if (!read_array(r, document, "root", "models", sizeof(*models), &array,
                    &r->policy->n_models, &models)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_models; i++) {
        if (!read_model(r, json_array_get(array, i), &models[i])) {
            return false;
        }
    }
    qsort(models, r->policy->n_models, sizeof(*models), by_name);
    for (size_t i = 1; i < r->policy->n_models; i++) {
        if (by_name(&models[i - 1], &models[i]) == 0) {
            return invalid(r, "root", "models: a name occurs twice, so it");
        }
    }
    r->policy->models = models;
    return true;
}

/* One of a few words; its place among them. */
static bool read_word(reader *r, const json_t *object, const char *key,
                      const char *const *words, unsigned *out)
{
    const json_t *value = json_object_get(object, key);

    for (unsigned i = 0; json_is_string(value) && words[i]; i++) {
        if (strcmp(json_string_value(value), words[i]) == 0) {
            *out = i;
            return true;
        }
    }
    return invalid(r, "budget", key);
}

static bool read_budget(reader *r, const json_t *object, policy_budget *budget)
{
    static const char *const scopes[] = {"tenant", "user", "key", NULL};
    static const char *const units[] = {"tokens", "usd", NULL};
    static const char *const periods[] = {"day", "month", NULL};
    const json_t *amount = json_object_get(object, "amount");
    unsigned scope, unit, period;

    if (!read_word(r, object, "scope", scopes, &scope) ||
        !read_word(r, object, "unit", units, &unit) ||
        !read_word(r, object, "period", periods, &period)) {
        return false;
    }
    if (!json_is_integer(amount) || json_integer_value(amount) < 1) {
        return invalid(r, "budget", "amount");
    }
    *budget = (policy_budget){(policy_scope)scope, (policy_unit)unit, (policy_period)period,
                              json_integer_value(amount)};
    return true;
}

static bool read_budgets(reader *r, const json_t *object, policy_location *location)
{
    policy_budget *budgets;
    const json_t *array;

    if (json_object_get(object, "budgets") == NULL) {
        return true;
    }
    if (!read_array(r, object, "location", "budgets", sizeof(*budgets), &array,
                    &location->n_budgets, &budgets)) {
        return false;
    }
    if (location->n_budgets > POLICY_BUDGETS) {
        return invalid(r, "location", "number of budgets");
    }
    for (size_t i = 0; i < location->n_budgets; i++) {
        if (!read_budget(r, json_array_get(array, i), &budgets[i])) {
            return false;
        }
    }
    location->budgets = budgets;
    return true;
}

static bool read_locations(reader *r, const json_t *document)
{
    policy_location *locations;
    const json_t *array;

    if (!read_array(r, document, "root", "locations", sizeof(*locations), &array,
                    &r->policy->n_locations, &locations)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_locations; i++) {
        const json_t *object = json_array_get(array, i);
        const json_t *max_body = json_object_get(object, "max_body");

        if (!read_text(r, object, "location", "service", true, &locations[i].service)) {
            return false;
        }
        if (!json_is_integer(max_body) || json_integer_value(max_body) < 0) {
            return invalid(r, "location", "max_body");
        }
        locations[i].max_body = (uint64_t)json_integer_value(max_body);
        if (!read_budgets(r, object, &locations[i])) {
            return false;
        }
    }
    r->policy->locations = locations;
    return true;
}

static bool read_document(reader *r, const json_t *document)
{
    const json_t *version = json_object_get(document, "aiq");
    const json_t *epoch = json_object_get(document, "epoch");

    if (!json_is_integer(version) || json_integer_value(version) != VERSION) {
        return invalid(r, "root", "version (module and engine are not of one build)");
    }
    if (!json_is_integer(epoch) || json_integer_value(epoch) < 0) {
        return invalid(r, "root", "epoch");
    }
    r->policy->epoch = (uint64_t)json_integer_value(epoch);
    return read_providers(r, document) && read_models(r, document) &&
           read_locations(r, document);
}

static void entry_free(entry *e)
{
    aiq_pool_free(e->pool); /* the entry itself lies in it */
}

const aiq_policy *policy_parse(const char *text, size_t len, aiq_err *err)
{
    aiq_pool *pool = aiq_pool_new();
    entry *e = aiq_pool_zalloc(pool, sizeof(*e));
    reader r = {.pool = pool, .policy = &e->policy, .err = err};
    json_error_t where;
    json_t *document = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    bool ok;

    e->pool = pool;
    e->refs = 1;
    if (document == NULL) {
        aiq_fail(err, 503, "policy_invalid", "The policy document is not JSON.");
        aiq_err_detail(err, "%s at byte %d", where.text, where.position);
        entry_free(e);
        return NULL;
    }
    ok = read_document(&r, document);
    json_decref(document);
    if (!ok || EVP_Digest(text, len, e->policy.sha256, NULL, EVP_sha256(), NULL) != 1) {
        entry_free(e);
        return NULL;
    }
    return &e->policy;
}

/* ---- the file ---- */

/* Could this user have written what st describes? */
static bool writable_by(const struct stat *st, uid_t user)
{
    if (user == 0 || user == geteuid()) {
        return false; /* no border between them and us */
    }
    return st->st_uid == user || (st->st_mode & (S_IWGRP | S_IWOTH)) != 0;
}

static bool unsafe(aiq_err *err, const char *what, const char *name)
{
    aiq_fail(err, 503, "policy_unsafe", "The policy's %s is not safe to read.", what);
    aiq_err_detail(err, "%s: it must be a plain %s that nginx's workers cannot write", name,
                   what);
    return false;
}

static bool missing(aiq_err *err, const char *folder, const char *name)
{
    int code = errno;

    aiq_fail(err, 503, "policy_missing", "The policy document cannot be read.");
    aiq_err_detail(err, "%s/%s: %s", folder, name, strerror(code));
    return false;
}

static bool check_folder(int dir, const char *folder, uid_t peer, struct stat *st, aiq_err *err)
{
    if (dir < 0 || fstat(dir, st) != 0) {
        return missing(err, folder, "");
    }
    return writable_by(st, peer) ? unsafe(err, "folder", folder) : true;
}

/* The whole of a checked file, appended to out. */
static bool read_file(int fd, const char *folder, const char *name, uid_t peer, struct stat *st,
                      aiq_buf *out, aiq_err *err)
{
    ssize_t n;

    if (fd < 0 || fstat(fd, st) != 0) {
        return missing(err, folder, name);
    }
    if (!S_ISREG(st->st_mode) || st->st_size > DOCUMENT_MAX || writable_by(st, peer)) {
        return unsafe(err, "file", name);
    }
    while (out->len <= DOCUMENT_MAX) {
        n = read(fd, aiq_buf_reserve(out, 65536), 65536);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return missing(err, folder, name);
        }
        if (n == 0) {
            return true;
        }
        out->len += (size_t)n;
    }
    return unsafe(err, "file", name);
}

static void file_name(const uint8_t sha256[32], char name[32 * 2 + 6])
{
    for (int i = 0; i < 32; i++) {
        snprintf(name + 2 * i, 3, "%02x", sha256[i]);
    }
    memcpy(name + 64, ".json", 6);
}

static entry *load(const char *folder, const uint8_t sha256[32], uid_t peer, aiq_err *err)
{
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const aiq_policy *policy = NULL;
    struct stat folder_st, file_st;
    char name[32 * 2 + 6];
    aiq_buf text = {0};
    int fd = -1;

    file_name(sha256, name);
    if (check_folder(dir, folder, peer, &folder_st, err)) {
        /* O_NONBLOCK: a FIFO must not hold us */
        fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (read_file(fd, folder, name, peer, &file_st, &text, err)) {
            policy = policy_parse((const char *)text.data, text.len, err);
        }
    }
    if (policy != NULL && memcmp(policy->sha256, sha256, 32) != 0) {
        aiq_fail(err, 503, "policy_invalid", "The policy document is not what its name says.");
        policy_unref(policy);
        policy = NULL;
    }
    if (policy != NULL) {
        ((entry *)policy)->folder = folder_st;
        ((entry *)policy)->file = file_st;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (dir >= 0) {
        close(dir);
    }
    aiq_buf_free(&text);
    return (entry *)policy;
}

/* ---- the set ---- */

policy_set *policy_set_new(const char *folder)
{
    policy_set *set = aiq_zalloc(sizeof(*set));

    pthread_mutex_init(&set->lock, NULL);
    set->folder = memcpy(aiq_alloc(strlen(folder) + 1), folder, strlen(folder) + 1);
    return set;
}

void policy_set_free(policy_set *set)
{
    pthread_mutex_destroy(&set->lock);
    free(set->folder);
    free(set);
}

void policy_set_watch(policy_set *set, const policy_watch *watch)
{
    set->watch = *watch;
}

static entry *find(const policy_set *set, const uint8_t sha256[32])
{
    entry *e = set->entries;

    while (e != NULL && memcmp(e->policy.sha256, sha256, 32) != 0) {
        e = e->next;
    }
    return e;
}

const aiq_policy *policy_get(policy_set *set, const uint8_t sha256[32], uid_t peer,
                             aiq_err *err)
{
    entry *e;

    /* Held while a small file is read: handshakes are rare and wait for each other. */
    pthread_mutex_lock(&set->lock);
    e = find(set, sha256);
    if (e == NULL) {
        e = load(set->folder, sha256, peer, err);
        if (e != NULL) {
            e->set = set;
            e->next = set->entries;
            set->entries = e;
            if (set->watch.added) {
                set->watch.added(set->watch.arg, &e->policy);
            }
        }
    } else if (writable_by(&e->folder, peer) || writable_by(&e->file, peer)) {
        /* one worker's user may have written what another's only read */
        unsafe(err, "file", "a policy that is in use");
        e = NULL;
    } else {
        policy_ref(&e->policy);
    }
    pthread_mutex_unlock(&set->lock);
    return e == NULL ? NULL : &e->policy;
}

const aiq_policy *policy_ref(const aiq_policy *policy)
{
    __atomic_add_fetch(&((entry *)policy)->refs, 1, __ATOMIC_RELAXED);
    return policy;
}

void policy_unref(const aiq_policy *policy)
{
    entry *e = (entry *)policy;
    policy_set *set;
    bool last;

    if (e == NULL) {
        return;
    }
    set = e->set;
    if (set != NULL) {
        pthread_mutex_lock(&set->lock); /* policy_get() must not find it at 0 */
    }
    last = __atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0;
    if (last && set != NULL) {
        entry **link = &set->entries;

        while (*link != e) {
            link = &(*link)->next;
        }
        *link = e->next;
        if (set->watch.removed) {
            set->watch.removed(set->watch.arg, &e->policy);
        }
    }
    if (set != NULL) {
        pthread_mutex_unlock(&set->lock);
    }
    if (last) {
        entry_free(e);
    }
}

/* strcmp() of a name of ours and a client's, which may hold any byte, NUL too. */
static int compare(const char *ours, const char *name, size_t len)
{
    size_t n = strlen(ours);
    int order = memcmp(ours, name, n < len ? n : len);

    return order != 0 ? order : (n > len) - (n < len);
}

const policy_model *policy_find_model(const aiq_policy *policy, const char *name, size_t len)
{
    size_t low = 0, high = policy->n_models;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(policy->models[middle].name, name, len);

        if (order == 0) {
            return &policy->models[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}
