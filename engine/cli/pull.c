/*
 * aiq models pull: a file from the web into a folder of models.
 *
 * While it comes it is NAME.SUM.part, SUM being the beginning of the sum that it must have, and
 * NAME.SUM.etag says which version of the server's file that is. Whoever calls again goes on
 * where that ends, if the server still has that version. Only a file whose sum is right gets
 * its name, by a rename, so no engine ever sees half of it; one whose sum is wrong is deleted.
 */
#include "cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_REDIRECTS 5L
#define CONNECT_S     20L
#define STALL_S       60L /* without a byte */

/* Calls in a row that brought nothing before it gives up. */
#define MAX_VAIN 3

#define MAX_BYTES ((uint64_t)1 << 42)
#define MAX_NAME  200
#define MAX_ETAG  256

/* Room that stays free on the disk. */
#define KEEP_FREE ((uint64_t)64 << 20)

enum { SUM_BYTES = 32, SUM_CHARS = 64 };

static const char help[] =
    "Usage: aiq models pull URL --sha256 SUM [--to DIR]\n"
    "\n"
    "Downloads a model and checks it. What is interrupted goes on where it was when it is\n"
    "called again. Only a file with the right sum gets its name.\n"
    "\n"
    "  --sha256 SUM  the SHA-256 that the file must have, 64 hexadecimal digits\n"
    "  --to DIR      where to (.)\n"
    "\n"
    "The URL is https, or http to this machine (127.0.0.1, [::1], localhost). The file's name\n"
    "is the last part of its path.\n"
    "\n"
    "Example:\n"
    "  aiq models pull https://example.com/demo.gguf --sha256 9f86d081884c7d65… \\\n"
    "      --to /var/lib/aiq/models\n";

typedef struct {
    const char *command, *url, *folder, *sum;
    char name[MAX_NAME + 1];
    char *path, *part, *etag_path; /* the file, and what it is until it is whole */
    int fd;                        /* of the part */
    char error[256];

    /* of the reply under way */
    uint64_t at;    /* bytes of the part */
    uint64_t total; /* bytes of the whole file; 0: not said */
    uint64_t length;
    long status;
    char etag[MAX_ETAG];
    char range[64]; /* Content-Range */
    bool begun;     /* what the head says was looked at */
} pull;

static bool fail(pull *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fail(pull *p, const char *format, ...)
{
    va_list args;

    if (p->error[0] == '\0') {
        va_start(args, format);
        vsnprintf(p->error, sizeof(p->error), format, args);
        va_end(args);
    }
    return false;
}

/* --- the reply --- */

/* The value of a line of the head, if it is of this name. */
static bool header(const char *line, size_t len, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':') {
        return false;
    }
    for (line += n + 1, len -= n + 1; len > 0 && (*line == ' ' || *line == '\t');) {
        line++;
        len--;
    }
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n')) {
        len--;
    }
    if (len < size) {
        memcpy(out, line, len);
        out[len] = '\0';
    }
    return len < size;
}

static size_t on_header(char *line, size_t one, size_t len, void *arg)
{
    pull *p = arg;
    char number[24];

    (void)one;
    if (len >= 5 && memcmp(line, "HTTP/", 5) == 0) { /* of each redirect, too */
        p->etag[0] = p->range[0] = '\0';
        p->length = 0;
    }
    header(line, len, "etag", p->etag, sizeof(p->etag));
    header(line, len, "content-range", p->range, sizeof(p->range));
    if (header(line, len, "content-length", number, sizeof(number)) &&
        !cli_parse_uint(number, MAX_BYTES, &p->length)) {
        fail(p, "the server says that the file has %s bytes", number);
        return 0;
    }
    return len;
}

/* A weak one does not promise the same bytes. */
static bool is_strong(const char *etag)
{
    return etag[0] == '"';
}

static void write_etag(const pull *p)
{
    FILE *f = fopen(p->etag_path, "we");

    if (f != NULL) {
        fputs(is_strong(p->etag) ? p->etag : "", f);
        fclose(f);
    }
}

static bool enough_room(pull *p)
{
    struct statvfs fs;
    uint64_t room, wanted = p->total - p->at;

    if (fstatvfs(p->fd, &fs) != 0) {
        return fail(p, "%s: %s", p->folder, strerror(errno));
    }
    room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room < KEEP_FREE || wanted > room - KEEP_FREE) {
        return fail(p, "%s: %.1f MB are still to come, and %.1f MB are free", p->folder,
                    (double)wanted / 1e6, (double)room / 1e6);
    }
    return true;
}

/* At the first byte: does the reply go on where the part ends, or begin anew? */
static bool begin(pull *p, CURL *curl)
{
    unsigned long long first, last, total;

    p->begun = true;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &p->status);
    if (p->status == 206) {
        if (sscanf(p->range, "bytes %llu-%llu/%llu", &first, &last, &total) != 3 ||
            first != p->at || last < first || total != last + 1 || total > MAX_BYTES) {
            return fail(p, "the server sends another range than the one asked for");
        }
        p->total = total;
    } else if (p->status == 200) {
        if (ftruncate(p->fd, 0) != 0 || lseek(p->fd, 0, SEEK_SET) != 0) {
            return fail(p, "%s: %s", p->part, strerror(errno));
        }
        p->at = 0;
        p->total = p->length;
        write_etag(p);
    } else {
        return fail(p, "the server answers %ld", p->status);
    }
    return enough_room(p);
}

typedef struct {
    pull *p;
    CURL *curl;
    cli_progress bar;
    unsigned percent;
} transfer;

static void draw(transfer *t)
{
    unsigned percent = t->p->total > 0 ? (unsigned)(t->p->at * 100 / t->p->total) : 0;

    if (t->bar != NULL && percent > t->percent) {
        t->percent = percent;
        t->bar((void *)"downloading", percent);
    }
}

static size_t on_body(char *data, size_t one, size_t len, void *arg)
{
    transfer *t = arg;
    pull *p = t->p;

    (void)one;
    if (!p->begun && !begin(p, t->curl)) {
        return 0;
    }
    if (len > (p->total > 0 ? p->total : MAX_BYTES) - p->at) {
        fail(p, "the server sends more than it said");
        return 0;
    }
    for (size_t done = 0; done < len;) {
        ssize_t n = write(p->fd, data + done, len - done);

        if (n < 0 && errno != EINTR) {
            fail(p, "%s: %s", p->part, strerror(errno));
            return 0;
        }
        done += n > 0 ? (size_t)n : 0;
        p->at += n > 0 ? (uint64_t)n : 0;
    }
    draw(t);
    return len;
}

/* --- the request --- */

static bool is_local(const char *url)
{
    static const char *const hosts[] = {"127.0.0.1", "[::1]", "localhost"};

    for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++) {
        size_t n = strlen(hosts[i]);
        const char *host = url + strlen("http://");

        if (strncasecmp(host, hosts[i], n) == 0 && (host[n] == ':' || host[n] == '/')) {
            return true;
        }
    }
    return false;
}

/* What is there already is asked for no more, if it is still the same file. */
static struct curl_slist *resume(pull *p)
{
    char etag[MAX_ETAG] = "", line[MAX_ETAG + 16];
    struct curl_slist *headers = NULL;
    struct stat st;
    FILE *f = fopen(p->etag_path, "re");

    if (f != NULL) {
        if (fgets(etag, sizeof(etag), f) == NULL) {
            etag[0] = '\0';
        }
        fclose(f);
    }
    p->at = fstat(p->fd, &st) == 0 && is_strong(etag) ? (uint64_t)st.st_size : 0;
    lseek(p->fd, (off_t)p->at, SEEK_SET);
    if (p->at > 0) {
        snprintf(line, sizeof(line), "Range: bytes=%llu-", (unsigned long long)p->at);
        headers = curl_slist_append(headers, line);
        snprintf(line, sizeof(line), "If-Range: %s", etag);
        headers = curl_slist_append(headers, line);
    }
    return headers;
}

static void set_options(CURL *curl, transfer *t, struct curl_slist *headers, char *error)
{
    bool secure = strncasecmp(t->p->url, "https:", 6) == 0;

    curl_easy_setopt(curl, CURLOPT_URL, t->p->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, secure ? "https" : "http");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, MAX_REDIRECTS);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, STALL_S);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "aiq");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t->p);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
}

/* One request. False: it failed, and p->error says why if another would fail, too. */
static bool fetch(pull *p, transfer *t, char error[CURL_ERROR_SIZE])
{
    struct curl_slist *headers = resume(p);
    CURLcode rc;

    p->begun = false;
    p->status = 0;
    error[0] = '\0';
    curl_easy_reset(t->curl);
    set_options(t->curl, t, headers, error);
    rc = curl_easy_perform(t->curl);
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &p->status);
    curl_slist_free_all(headers);
    if (rc == CURLE_OK && p->status == 416 && p->at > 0) { /* it is whole: its sum decides */
        return true;
    }
    if (rc == CURLE_OK && !p->begun && !begin(p, t->curl)) { /* an empty body */
        return false;
    }
    if (rc == CURLE_TOO_MANY_REDIRECTS || rc == CURLE_UNSUPPORTED_PROTOCOL ||
        rc == CURLE_URL_MALFORMAT || rc == CURLE_PEER_FAILED_VERIFICATION) {
        return fail(p, "%s", error[0] != '\0' ? error : curl_easy_strerror(rc));
    }
    if (rc != CURLE_OK && error[0] == '\0') {
        snprintf(error, CURL_ERROR_SIZE, "%s", curl_easy_strerror(rc));
    }
    return rc == CURLE_OK;
}

/* As often as each brings something. */
static bool download(pull *p)
{
    char error[CURL_ERROR_SIZE] = "";
    transfer t = {.p = p, .curl = curl_easy_init(), .bar = cli_progress_bar()};
    int vain = 0;
    bool done = false;

    while (t.curl != NULL && !done && p->error[0] == '\0' && vain < MAX_VAIN) {
        uint64_t before = p->at;

        sleep(vain > 0 ? 1 : 0);
        done = fetch(p, &t, error);
        vain = p->at > before ? 0 : vain + 1;
    }
    curl_easy_cleanup(t.curl);
    if (t.percent > 0 && t.percent < 100) {
        fputc('\n', stderr);
    }
    return done || fail(p, "%s%s", error,
                        p->at > 0 ? "; call it again, and it goes on from there" : "");
}

/* --- the file --- */

static bool sum_of(pull *p, int fd, char out[SUM_CHARS + 1])
{
    static const size_t room = 1 << 20;
    uint8_t *buffer = malloc(room), sum[SUM_BYTES];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    ssize_t n = -1;
    bool ok = buffer != NULL && ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

    for (off_t at = 0; ok && (n = pread(fd, buffer, room, at)) > 0; at += n) {
        ok = EVP_DigestUpdate(ctx, buffer, (size_t)n) == 1;
    }
    ok = ok && n == 0 && EVP_DigestFinal_ex(ctx, sum, NULL) == 1;
    for (size_t i = 0; ok && i < SUM_BYTES; i++) {
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
    }
    EVP_MD_CTX_free(ctx);
    free(buffer);
    return ok || fail(p, "%s: it cannot be read", p->name);
}

/* The file under its name, if it is there: is it the right one? */
static bool look_at_old(pull *p, bool *right)
{
    char sum[SUM_CHARS + 1];
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    bool ok;

    *right = false;
    if (fd < 0) {
        return errno == ENOENT || fail(p, "%s: %s", p->path, strerror(errno));
    }
    ok = sum_of(p, fd, sum);
    close(fd);
    *right = ok && strcasecmp(sum, p->sum) == 0;
    return ok && (*right || fail(p, "%s is there, and is another file", p->path));
}

static bool install(pull *p)
{
    char sum[SUM_CHARS + 1];
    int dir;

    if (!sum_of(p, p->fd, sum)) {
        return false;
    }
    if (strcasecmp(sum, p->sum) != 0) {
        unlink(p->part);
        unlink(p->etag_path);
        return fail(p, "the SHA-256 of what came is %s; it was deleted", sum);
    }
    if (fsync(p->fd) != 0 || rename(p->part, p->path) != 0) {
        return fail(p, "%s: %s", p->path, strerror(errno));
    }
    unlink(p->etag_path);
    dir = open(p->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        fsync(dir);
        close(dir);
    }
    return true;
}

static bool open_part(pull *p)
{
    p->fd = open(p->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (p->fd < 0) {
        return fail(p, "%s: %s", p->part, strerror(errno));
    }
    if (flock(p->fd, LOCK_EX | LOCK_NB) != 0) {
        return fail(p, "%s: another call is at it", p->part);
    }
    return true;
}

static bool set_paths(pull *p)
{
    return (asprintf(&p->path, "%s/%s", p->folder, p->name) >= 0 &&
            asprintf(&p->part, "%s/%s.%.16s.part", p->folder, p->name, p->sum) >= 0 &&
            asprintf(&p->etag_path, "%s/%s.%.16s.etag", p->folder, p->name, p->sum) >= 0) ||
           fail(p, "out of memory");
}

static int run(pull *p)
{
    bool right = false, ok = set_paths(p) && look_at_old(p, &right);

    if (ok && !right) {
        ok = open_part(p) && download(p) && install(p);
    }
    if (ok) {
        printf("%s\n", p->path);
    }
    if (p->fd >= 0) {
        close(p->fd);
    }
    free(p->path);
    free(p->part);
    free(p->etag_path);
    return ok ? CLI_OK : cli_error(p->command, "%s", p->error);
}

/* --- the command --- */

/* The last part of the URL's path. */
static bool take_name(pull *p)
{
    static const char ok[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const char *end = p->url + strcspn(p->url, "?#"), *start = end;
    size_t len;

    while (start > p->url && start[-1] != '/') {
        start--;
    }
    len = (size_t)(end - start);
    if (len < 6 || len > MAX_NAME || start[0] == '.' || memcmp(end - 5, ".gguf", 5) != 0) {
        return false;
    }
    memcpy(p->name, start, len);
    p->name[len] = '\0';
    return strspn(p->name, ok) == len;
}

static int check(pull *p)
{
    if (p->url == NULL) {
        return cli_usage(p->command, "URL is missing");
    }
    if (strncasecmp(p->url, "https://", 8) != 0 &&
        (strncasecmp(p->url, "http://", 7) != 0 || !is_local(p->url))) {
        return cli_usage(p->command, "the URL is not https, nor http to this machine");
    }
    if (!take_name(p)) {
        return cli_usage(p->command, "the URL does not end in the name of a .gguf file");
    }
    if (p->sum == NULL) {
        return cli_usage(p->command, "--sha256 is missing");
    }
    if (strlen(p->sum) != SUM_CHARS || strspn(p->sum, "0123456789abcdefABCDEF") != SUM_CHARS) {
        return cli_usage(p->command, "--sha256 takes 64 hexadecimal digits");
    }
    return CLI_OK;
}

int cli_pull(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"sha256", required_argument, NULL, 's'},
        {"to", required_argument, NULL, 't'},
        {0},
    };
    static char name[] = "models pull";
    pull p = {.command = name, .folder = ".", .fd = -1};
    int c, status;

    if (argc > 1 && argv[1][0] != '-') {
        p.url = argv[1];
        argc--;
        argv++;
    }
    argv[0] = name;
    while ((c = cli_next_option(argc, argv, ":h", options)) != -1) {
        switch (c) {
        case 'h':
            fputs(help, stdout);
            return CLI_OK;
        case 's':
            p.sum = optarg;
            break;
        case 't':
            p.folder = optarg;
            break;
        default:
            return CLI_USAGE;
        }
    }
    status = check(&p);
    if (status == CLI_OK && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return cli_error(p.command, "libcurl does not start");
    }
    return status == CLI_OK ? run(&p) : status;
}
