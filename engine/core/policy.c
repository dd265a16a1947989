#include "core/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/policy_document.h"

#define DOCUMENT_MAX (4u << 20)

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

static void entry_free(entry *e)
{
    aiq_pool_free(e->pool); /* the entry itself lies in it */
}

const aiq_policy *policy_parse(const char *text, size_t len, aiq_err *err)
{
    aiq_pool *pool = aiq_pool_new();
    entry *e = aiq_pool_zalloc(pool, sizeof(*e));

    e->pool = pool;
    e->refs = 1;
    if (!policy_read_document(&e->policy, pool, text, len, err) ||
        EVP_Digest(text, len, e->policy.sha256, NULL, EVP_sha256(), NULL) != 1) {
        entry_free(e);
        return NULL;
    }
    e->policy.text = aiq_pool_copy(pool, text, len);
    e->policy.text_len = len;
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

/* Into use, under the lock. */
static void add(policy_set *set, entry *e)
{
    e->set = set;
    e->next = set->entries;
    set->entries = e;
    if (set->watch.added) {
        set->watch.added(set->watch.arg, &e->policy);
    }
}

const aiq_policy *policy_get_text(policy_set *set, const char *text, size_t len, aiq_err *err)
{
    entry *e = (entry *)policy_parse(text, len, err), *known;

    if (e == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&set->lock);
    known = find(set, e->policy.sha256);
    if (known != NULL) {
        policy_ref(&known->policy);
    } else {
        add(set, e);
    }
    pthread_mutex_unlock(&set->lock);
    if (known != NULL) {
        entry_free(e);
    }
    return known != NULL ? &known->policy : &e->policy;
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
            add(set, e);
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
