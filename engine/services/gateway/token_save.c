#include "services/gateway/token_save.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "core/log.h"

#define TICK_MS   200 /* between looks for what others have left */
#define SAVE_TICK 5   /* between those of them that save */
#define FILE_MAX  (128u << 20)
#define ID_LEN    16 /* of an engine's, in hex */
#define NAME_SIZE 48
#define TRIES     3

struct token_save {
    aiq_engine *engine;
    token_limits *limits;
    int folder, lock;
    char id[ID_LEN + 1];
    unsigned n_left; /* files that were handed over */
    bool left;       /* the first of them */
    uint64_t saved;  /* token_limits_changes() then */
    bool broken;     /* the log has it */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool ends;
};

static uint64_t clock_ms(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Writing. */

typedef struct {
    aiq_buf text;
    uint64_t now_ms, wall_ms;
} writing;

static void add_window(void *arg, const token_counts *w)
{
    writing *out = arg;

    aiq_buf_printf(&out->text, "%s ", w->zone);
    for (size_t i = 0; i < AIQ_LIMIT_KEY; i++) {
        aiq_buf_printf(&out->text, "%02x", w->key[i]);
    }
    aiq_buf_printf(&out->text, " %" PRIu32, w->window_ms);
    for (size_t i = 0; i < w->n; i++) {
        uint64_t age_ms = out->now_ms - w->steps[i].begin_ms;
        aiq_buf_printf(&out->text, " %" PRIu64 ":%" PRId64, out->wall_ms - age_ms,
                       w->steps[i].tokens);
    }
    aiq_buf_text(&out->text, "\n");
}

static bool failed(token_save *s, const char *what)
{
    if (!s->broken) {
        aiq_log(AIQ_LOG_WARN, "gateway", "counts of token limits cannot be saved",
                AIQ_S("detail", what), AIQ_S("reason", strerror(errno)));
    }
    s->broken = true;
    return false;
}

static bool write_all(int fd, aiq_str text)
{
    while (text.len) {
        ssize_t n = write(fd, text.data, text.len);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        text.data += n > 0 ? n : 0;
        text.len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* Whole or not at all, for whoever looks. */
static bool write_file(token_save *s, const char *name, aiq_str text)
{
    char new[NAME_SIZE + 4];

    snprintf(new, sizeof(new), "%s.new", s->id);
    int fd =
        openat(s->folder, new, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return failed(s, new);
    }
    bool ok = write_all(fd, text);
    if (close(fd) != 0 || !ok || renameat(s->folder, new, s->folder, name) != 0) {
        (void)failed(s, name);
        unlinkat(s->folder, new, 0);
        return false;
    }
    s->broken = false;
    return true;
}

/* take: the counts go with the file. */
static void save(token_save *s, const char *name, bool take)
{
    writing out = {.now_ms = clock_ms(CLOCK_MONOTONIC), .wall_ms = clock_ms(CLOCK_REALTIME)};
    uint64_t changes = token_limits_changes(s->limits);

    token_limits_each(s->limits, out.now_ms, take, add_window, &out);
    if (out.text.len == 0) {
        unlinkat(s->folder, name, 0);
        s->saved = changes;
    } else if (write_file(s, name, (aiq_str){(char *)out.text.data, out.text.len})) {
        s->saved = changes;
    }
    aiq_buf_free(&out.text);
}

static void hand_over(token_save *s)
{
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%s-%u.left", s->id, s->n_left++);
    save(s, name, true);
    unlinkat(s->folder, s->id, 0);
}

/* Reading. A file may have been damaged: what is no line of ours is passed over. */

static bool read_word(aiq_str *line, aiq_str *word)
{
    const char *space = line->len ? memchr(line->data, ' ', line->len) : NULL;

    word->data = line->data;
    word->len = space ? (size_t)(space - line->data) : line->len;
    line->data += word->len + (space != NULL);
    line->len -= word->len + (space != NULL);
    return word->len > 0;
}

static bool read_number(aiq_str text, int64_t *n)
{
    bool negative = text.len && *text.data == '-';
    size_t i = negative;

    *n = 0;
    for (; i < text.len && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        if (i > 15) {
            return false;
        }
        *n = *n * 10 + (text.data[i] - '0');
    }
    *n = negative ? -*n : *n;
    return i == text.len && i > negative;
}

static bool read_key(aiq_str text, uint8_t key[AIQ_LIMIT_KEY])
{
    static const char digits[] = "0123456789abcdef";

    if (text.len != 2 * (size_t)AIQ_LIMIT_KEY) {
        return false;
    }
    for (size_t i = 0; i < AIQ_LIMIT_KEY; i++) {
        const char *high = memchr(digits, text.data[2 * i], 16);
        const char *low = memchr(digits, text.data[2 * i + 1], 16);
        if (high == NULL || low == NULL) {
            return false;
        }
        key[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return true;
}

static void read_step(token_save *s, token_counts *w, aiq_str word, const writing *now)
{
    const char *colon = memchr(word.data, ':', word.len);
    int64_t at, tokens, wall = (int64_t)now->wall_ms;

    if (colon == NULL || !read_number((aiq_str){word.data, (size_t)(colon - word.data)}, &at) ||
        !read_number((aiq_str){colon + 1, word.len - (size_t)(colon + 1 - word.data)},
                     &tokens)) {
        return;
    }
    /* a clock that was set back makes it younger, never older than it is now */
    uint64_t age = at > 0 && at < wall ? (uint64_t)(wall - at) : 0;
    token_limits_add(s->limits, w, age, tokens, now->now_ms);
}

static void read_line(token_save *s, aiq_str line, const writing *now)
{
    token_counts w = {0};
    char zone[TOKEN_ZONE_MAX + 1];
    aiq_str name, key, window, step;
    int64_t window_ms;

    if (!read_word(&line, &name) || !read_word(&line, &key) || !read_word(&line, &window) ||
        name.len > TOKEN_ZONE_MAX || !read_key(key, w.key) ||
        !read_number(window, &window_ms) || window_ms < 1000 || window_ms > 86400000) {
        return;
    }
    memcpy(zone, name.data, name.len);
    zone[name.len] = '\0';
    w.zone = zone;
    w.window_ms = (uint32_t)window_ms;
    for (int i = 0; i <= LIMIT_SLOTS && read_word(&line, &step); i++) {
        read_step(s, &w, step, now);
    }
}

static void count(token_save *s, aiq_str text)
{
    const writing now = {.now_ms = clock_ms(CLOCK_MONOTONIC),
                         .wall_ms = clock_ms(CLOCK_REALTIME)};

    while (text.len) {
        const char *end = memchr(text.data, '\n', text.len);
        if (end == NULL) {
            return; /* was cut */
        }
        size_t n = (size_t)(end - text.data);
        read_line(s, (aiq_str){text.data, n}, &now);
        text.data += n + 1;
        text.len -= n + 1;
    }
}

/* Counts what is in it, if it is this engine that removes it. */
static void take_file(token_save *s, const char *name)
{
    int fd = openat(s->folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0) {
        return;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX) {
        size_t size = (size_t)st.st_size, n = 0;
        char *text = aiq_alloc(size + 1);
        ssize_t got;
        while (n < size && (got = read(fd, text + n, size - n)) > 0) {
            n += (size_t)got;
        }
        if (unlinkat(s->folder, name, 0) == 0) {
            count(s, (aiq_str){text, n});
        }
        free(text);
    }
    close(fd);
}

/* Of a killed engine: nobody has its lock. */
static void take_dead(token_save *s, const char *lock)
{
    char id[ID_LEN + 1], new[NAME_SIZE];
    int fd = openat(s->folder, lock, O_RDWR | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0) {
        return;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        memcpy(id, lock, ID_LEN);
        id[ID_LEN] = '\0';
        take_file(s, id);
        snprintf(new, sizeof(new), "%s.new", id);
        unlinkat(s->folder, new, 0);
        unlinkat(s->folder, lock, 0);
    }
    close(fd);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What others have left. */
static void look(token_save *s)
{
    int fd = openat(s->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        if (strspn(name, "0123456789abcdef") != ID_LEN || strncmp(name, s->id, ID_LEN) == 0) {
            continue;
        }
        if (ends_with(name, ".left")) {
            take_file(s, name);
        } else if (strcmp(name + ID_LEN, ".lock") == 0) {
            take_dead(s, name);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

/* The thread. */

static bool leaves(const token_save *s)
{
    return __atomic_load_n(&s->engine->leaving, __ATOMIC_RELAXED);
}

static void tick(token_save *s, unsigned n)
{
    if (leaves(s)) {
        if (!s->left) {
            hand_over(s); /* from here on it settles what it has begun */
            s->left = true;
        }
        return;
    }
    look(s);
    if (n % SAVE_TICK == 0 && token_limits_changes(s->limits) != s->saved) {
        save(s, s->id, false);
    }
}

static bool wait_tick(token_save *s)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->mutex);
    while (!s->ends && pthread_cond_timedwait(&s->wake, &s->mutex, &until) == 0) {
    }
    bool ends = s->ends;
    pthread_mutex_unlock(&s->mutex);
    return !ends;
}

static void *run(void *arg)
{
    token_save *s = arg;

    for (unsigned n = 1; wait_tick(s); n++) {
        tick(s, n);
    }
    return NULL;
}

static void folder_path(const token_save *s, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s.tokens", s->engine->options.socket);
}

static bool lock_folder(token_save *s, const char *path)
{
    char lock[NAME_SIZE];

    snprintf(lock, sizeof(lock), "%s.lock", s->id);
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return false;
    }
    s->folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (s->folder < 0) {
        return false;
    }
    s->lock = openat(s->folder, lock, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return s->lock >= 0 && flock(s->lock, LOCK_EX | LOCK_NB) == 0;
}

/* One that ends may remove the folder while this one enters it. */
static bool open_folder(token_save *s)
{
    char path[PATH_MAX];

    folder_path(s, path);
    for (int i = 0; i < TRIES; i++) {
        if (lock_folder(s, path)) {
            return true;
        }
        if (errno != ENOENT) {
            break;
        }
        if (s->folder >= 0) {
            close(s->folder);
            s->folder = -1;
        }
    }
    return failed(s, path);
}

token_save *token_save_start(aiq_engine *engine, token_limits *limits)
{
    token_save *s = aiq_zalloc(sizeof(*s));
    pthread_condattr_t attr;

    s->engine = engine;
    s->limits = limits;
    s->folder = s->lock = -1;
    snprintf(s->id, sizeof(s->id), "%016" PRIx64, engine->id);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (!open_folder(s)) {
        s->ends = true; /* there is no thread */
        return s;
    }
    look(s);
    if (pthread_create(&s->thread, NULL, run, s) != 0) {
        s->ends = true;
    }
    return s;
}

static void free_save(token_save *s)
{
    if (s->lock >= 0) {
        close(s->lock);
    }
    if (s->folder >= 0) {
        close(s->folder);
    }
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

void token_save_stop(token_save *s)
{
    char lock[NAME_SIZE], path[PATH_MAX];

    if (s == NULL) {
        return;
    }
    if (!s->ends) {
        pthread_mutex_lock(&s->mutex);
        s->ends = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->mutex);
        pthread_join(s->thread, NULL);
        hand_over(s);
        snprintf(lock, sizeof(lock), "%s.lock", s->id);
        unlinkat(s->folder, lock, 0);
        folder_path(s, path);
        rmdir(path); /* where nothing is left */
    }
    free_save(s);
}
