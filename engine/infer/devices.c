#include "infer/devices.h"

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infer/watched.h"

#define PREFIX       "libaiq_"
#define SUFFIX       ".so"
#define NAME_MAX_LEN 15

struct devices {
    devices_cb cb;
    void *arg;
    uint32_t n;
    device all[DEVICES_MAX]; /* the CPU is the last */

    pthread_mutex_t lock;
    uint32_t models[DEVICES_MAX]; /* under lock */

    atomic_uint lost; /* a bit for each that does not answer */
    atomic_bool hang; /* a call into a driver was given up */
};

static void tell(const devices *d, devices_event event, const char *name, const char *why,
                 const devices_user *user)
{
    if (d->cb != NULL) {
        d->cb(d->arg, event, name, why, user);
    }
}

/* Of whoever has no list. */
static const device cpu_alone = {.kern = &aiq_kernels_cpu, .name = "cpu"};

/* --- the list --- */

/* One entry: NAME or NAME:INDEX. */
typedef struct {
    char name[NAME_MAX_LEN + 1];
    bool one; /* index is given */
    uint32_t index;
} entry;

static size_t name_length(const char *p)
{
    return strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789");
}

/* Reads an entry; what follows it, NULL if it is none. */
static const char *read_entry(const char *p, entry *e)
{
    size_t n = name_length(p);
    char *end;

    *e = (entry){0};
    if (n == 0 || n > NAME_MAX_LEN) {
        return NULL;
    }
    memcpy(e->name, p, n);
    p += n;
    if (*p == ':') {
        size_t digits = strspn(p + 1, "0123456789");

        if (digits == 0 || digits > 2) {
            return NULL;
        }
        e->one = true;
        e->index = (uint32_t)strtoul(p + 1, &end, 10);
        p = end;
    }
    return (*p == '\0' || *p == ',') && e->index < DEVICES_MAX ? p : NULL;
}

bool devices_valid(const char *list)
{
    entry e;

    for (;;) {
        list = read_entry(list, &e);
        if (list == NULL || (e.one && strcmp(e.name, "auto") == 0) ||
            (e.index > 0 && strcmp(e.name, "cpu") == 0)) {
            return false;
        }
        if (*list++ == '\0') {
            return true;
        }
    }
}

/* --- libraries --- */

/* The back end in a file, or NULL and why not. */
static const aiq_kernels *load_file(const char *path, char *why, size_t size)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    aiq_kernels_init_fn *init = NULL;
    const aiq_kernels *kern;

    if (library == NULL) {
        snprintf(why, size, "%s", dlerror());
        return NULL;
    }
    *(void **)&init = dlsym(library, AIQ_KERNELS_INIT);
    kern = init != NULL ? init() : NULL;
    if (kern != NULL && kern->abi == AIQ_KERNELS_ABI) {
        return kern;
    }
    if (kern != NULL) {
        snprintf(why, size, "%s is of version %u, not %u", path, kern->abi,
                 (unsigned)AIQ_KERNELS_ABI);
    } else {
        snprintf(why, size, "%s is no back end", path);
    }
    dlclose(library);
    return NULL;
}

/* The program's own folder, with a slash. */
static bool own_folder(char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

    while (n > 0 && path[n - 1] != '/') {
        n--;
    }
    path[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* The folders in which libraries are looked for, at most two. */
static uint32_t folders_of(const char *folder, char out[2][PATH_MAX])
{
    char own[PATH_MAX];

    if (folder != NULL) {
        snprintf(out[0], PATH_MAX, "%s/", folder);
        return 1;
    }
    if (!own_folder(own)) {
        return 0;
    }
    snprintf(out[0], PATH_MAX, "%s", own);
    snprintf(out[1], PATH_MAX, "%.*s../lib/aiq/", PATH_MAX - 32, own);
    return 2;
}

static const aiq_kernels *load(const char *name, const char *folder, char *why, size_t size)
{
    char folders[2][PATH_MAX], path[PATH_MAX + 64];
    uint32_t n = folders_of(folder, folders);

    if (strcmp(name, "cpu") == 0) {
        return &aiq_kernels_cpu;
    }
    for (uint32_t i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "%s" PREFIX "%s" SUFFIX, folders[i], name);
        if (access(path, F_OK) == 0) {
            return load_file(path, why, size);
        }
    }
    snprintf(why, size, "there is no " PREFIX "%s" SUFFIX, name);
    return NULL;
}

/* --- looking at devices --- */

typedef struct {
    const aiq_kernels *kern;
    uint32_t index;
    kern_info info;
} sight;

static void look(void *own)
{
    sight *s = own;

    s->kern->probe(s->index, &s->info);
}

/* What is at a place. False: it does not answer. */
static bool probe(devices *d, const aiq_kernels *kern, uint32_t index, kern_info *out)
{
    sight *s;
    watched *w;
    bool answers;

    *out = (kern_info){0};
    if (kern->limit_ms == 0) {
        kern->probe(index, out);
        return true;
    }
    s = calloc(1, sizeof(*s));
    w = s != NULL ? watched_new(s, free) : NULL;
    if (w == NULL) {
        free(s);
        return true; /* memory, or threads, end: nothing is seen there */
    }
    *s = (sight){.kern = kern, .index = index};
    answers = watched_call(w, look, kern->limit_ms, NULL, NULL);
    if (answers) {
        *out = s->info;
    } else {
        atomic_store(&d->hang, true);
    }
    watched_free(w, kern->limit_ms, NULL, NULL);
    return answers;
}

/* --- finding the devices --- */

static void add(devices *d, const aiq_kernels *kern, uint32_t index, const char *title)
{
    device *dev = &d->all[d->n];
    bool cpu = kern == &aiq_kernels_cpu;

    *dev = (device){.kern = kern, .index = index, .n = d->n};
    if (cpu) {
        snprintf(dev->name, sizeof(dev->name), "cpu");
    } else {
        snprintf(dev->name, sizeof(dev->name), "%.15s:%u", kern->name, index);
    }
    d->n++;
    tell(d, DEVICES_FOUND, dev->name, title, NULL);
}

static bool known(const devices *d, const aiq_kernels *kern, uint32_t index)
{
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->all[i].kern == kern && d->all[i].index == index) {
            return true;
        }
    }
    return false;
}

/* The devices of a back end that an entry means: all of them, or one. */
static void add_those_of(devices *d, const entry *e, const aiq_kernels *kern)
{
    uint32_t found = 0;
    bool answers = true;
    kern_info info;

    for (uint32_t i = e->index; i < DEVICES_MAX && d->n < DEVICES_MAX - 1; i++) {
        answers = probe(d, kern, i, &info);
        if (info.score == 0) {
            break;
        }
        if (!known(d, kern, i)) {
            add(d, kern, i, info.title);
        }
        found++;
        if (e->one) {
            break;
        }
    }
    if (found == 0) {
        tell(d, DEVICES_LACKING, e->name,
             !answers                  ? "it does not answer"
             : d->n == DEVICES_MAX - 1 ? "there are too many"
                                       : "there is no such device",
             NULL);
    }
}

/* Of the back ends in a folder the one whose first device has the highest score, if that is
 * higher than best. */
static const aiq_kernels *best_in(devices *d, const char *folder, uint32_t *best)
{
    const aiq_kernels *kern, *winner = NULL;
    DIR *dir = opendir(folder);
    struct dirent *file;
    char name[NAME_MAX + 1], why[256];
    kern_info info;

    while (dir != NULL && (file = readdir(dir)) != NULL) {
        size_t n = strlen(file->d_name), more = sizeof(PREFIX SUFFIX) - 1;

        if (n <= more || strncmp(file->d_name, PREFIX, sizeof(PREFIX) - 1) != 0) {
            continue;
        }
        snprintf(name, sizeof(name), "%.*s", (int)(n - more),
                 file->d_name + sizeof(PREFIX) - 1);
        if (strcmp(file->d_name + n - (sizeof(SUFFIX) - 1), SUFFIX) != 0 ||
            name_length(name) != strlen(name)) {
            continue;
        }
        kern = load(name, folder, why, sizeof(why));
        if (kern == NULL) {
            continue;
        }
        probe(d, kern, 0, &info);
        if (info.score > *best) {
            *best = info.score;
            winner = kern;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return winner;
}

static void add_best(devices *d, const entry *e, const char *folder)
{
    char folders[2][PATH_MAX];
    uint32_t n = folders_of(folder, folders), best = 0;
    const aiq_kernels *winner = NULL, *kern;

    for (uint32_t i = 0; i < n; i++) {
        kern = best_in(d, folders[i], &best);
        winner = kern != NULL ? kern : winner;
    }
    if (winner != NULL) {
        add_those_of(d, e, winner);
    }
}

devices *devices_open(const char *list, const char *folder, devices_cb cb, void *arg)
{
    devices *d = calloc(1, sizeof(*d));
    char why[PATH_MAX + 128];
    kern_info info;
    entry e;

    if (d == NULL) {
        abort();
    }
    d->cb = cb;
    d->arg = arg;
    pthread_mutex_init(&d->lock, NULL);
    for (const char *p = list; (p = read_entry(p, &e)) != NULL; p++) {
        bool best = strcmp(e.name, "auto") == 0, cpu = strcmp(e.name, "cpu") == 0;
        const aiq_kernels *kern = best || cpu ? NULL : load(e.name, folder, why, sizeof(why));

        if (best) {
            add_best(d, &e, folder);
        } else if (kern != NULL) {
            add_those_of(d, &e, kern);
        } else if (!cpu) {
            tell(d, DEVICES_LACKING, e.name, why, NULL);
        }
        if (*p == '\0') {
            break;
        }
    }
    aiq_kernels_cpu.probe(0, &info);
    add(d, &aiq_kernels_cpu, 0, info.title);
    return d;
}

void devices_close(devices *d)
{
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* --- handing them out --- */

/* Whether a model is better off on a, where there are so many models, than on b. */
static bool better(uint32_t models_a, uint64_t memory_a, uint32_t models_b, uint64_t memory_b)
{
    return models_a != models_b ? models_a < models_b : memory_a > memory_b;
}

/* What all but the CPU and those in *tried have now; nobody waits for this but the caller. */
static void look_at_all(devices *d, const uint32_t *tried, kern_info out[DEVICES_MAX])
{
    pthread_mutex_lock(&d->lock);
    uint32_t skip = *tried | atomic_load(&d->lost);
    pthread_mutex_unlock(&d->lock);
    for (uint32_t i = 0; i + 1 < d->n; i++) {
        out[i] = (kern_info){0};
        if ((skip >> i & 1) == 0 && !probe(d, d->all[i].kern, d->all[i].index, &out[i])) {
            devices_lose(d, &d->all[i], NULL);
        }
    }
}

const device *devices_take(devices *d, const devices_user *user, uint64_t bytes, bool or_cpu,
                           uint32_t *tried)
{
    uint32_t chosen = d != NULL ? d->n - 1 : 0;
    kern_info info[DEVICES_MAX];

    if (d == NULL) {
        return or_cpu && (*tried)++ == 0 ? &cpu_alone : NULL;
    }
    look_at_all(d, tried, info);
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i + 1 < d->n; i++) {
        if ((*tried >> i & 1) == 0 && info[i].score > 0 && info[i].memory >= bytes &&
            (chosen == d->n - 1 ||
             better(d->models[i], info[i].memory, d->models[chosen], info[chosen].memory))) {
            chosen = i;
        }
    }
    bool none = (*tried >> chosen & 1) != 0 || (chosen == d->n - 1 && !or_cpu);
    if (!none) {
        *tried |= (uint32_t)1 << chosen;
        d->models[chosen]++;
    }
    pthread_mutex_unlock(&d->lock);
    if (none) {
        return NULL;
    }
    tell(d, DEVICES_TAKEN, d->all[chosen].name, "", user);
    return &d->all[chosen];
}

void devices_give(devices *d, const device *dev, const devices_user *user)
{
    if (d == NULL) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->models[dev->n]--;
    pthread_mutex_unlock(&d->lock);
    tell(d, DEVICES_LEFT, dev->name, "", user);
}

void devices_fail(devices *d, const device *dev, const devices_user *user, const char *why)
{
    if (d != NULL) {
        tell(d, DEVICES_FAILED, dev->name, why, user);
    }
}

void devices_lose(devices *d, const device *dev, const devices_user *user)
{
    if (d != NULL) {
        atomic_fetch_or(&d->lost, (uint32_t)1 << dev->n);
        atomic_store(&d->hang, true);
        devices_fail(d, dev, user, DEVICES_SILENT);
    }
}

bool devices_is_lost(const devices *d, const device *dev)
{
    return d != NULL && (atomic_load(&d->lost) >> dev->n & 1) != 0;
}

bool devices_hang(const devices *d)
{
    return atomic_load(&d->hang);
}

uint32_t devices_count(const devices *d)
{
    return d->n;
}

const device *devices_at(const devices *d, uint32_t i)
{
    return &d->all[i];
}
