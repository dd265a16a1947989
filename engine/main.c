/* aiq-engine: the options, the order in which the rooms start and end, signals. */

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "access/keyring.h"
#include "cache/cache.h"
#include "cache/semantic.h"
#include "core/log.h"
#include "core/policy.h"
#include "core/pool.h"
#include "engine.h"
#include "infer/devices.h"
#include "ledger/ledger.h"
#include "limits/rates.h"
#include "limits/shared_tokens.h"
#include "link/server.h"
#include "redis/redis.h"
#include "services/service.h"
#include "store/store.h"
#include "streams/durable.h"
#include "streams/topics.h"

#define EXIT_USAGE 2

#define LOOPS_MAX   64
#define SPIN_US_MAX 1000
#define DRAIN_S_MAX 86400
#define IDLE_S_MAX  86400

#define CACHE_SIZE    ((size_t)64 << 20)
#define SEMANTIC_SIZE ((size_t)64 << 20)
#define STREAM_MEMORY ((size_t)256 << 20)
#define SIZE_MOST     ((size_t)1 << 40)

static const char help[] =
    "Usage: aiq-engine --socket PATH [options]\n"
    "\n"
    "The engine behind nginx's aiq module: it calls model providers, runs local\n"
    "models and keeps what must outlive a request. nginx.conf says what it may do;\n"
    "these flags name the resources it does it with.\n"
    "\n"
    "Link to nginx\n"
    "  --socket PATH         Unix socket for nginx's workers, as in `aiq_engine unix:PATH`\n"
    "  --socket-group GROUP  group that may connect; the socket's mode is 0660 (none)\n"
    "  --admin-socket PATH   Unix socket for `aiq keys` and its like, for the engine's own\n"
    "                        user and root alone (the path of --socket and .admin)\n"
    "  --drain SECONDS       how long a leaving engine waits for its open jobs (30)\n"
    "\n"
    "Resources\n"
    "  --store URL           database: sqlite:PATH, made where there is none, or\n"
    "                        postgres://USER@HOST/DATABASE (aiq.db beside the socket)\n"
    "  --models DIR          local models must lie below this folder (anywhere)\n"
    "  --models-idle SECONDS a local model that no request has used for so long is closed\n"
    "                        until the next one (0: it is not)\n"
    "  --secrets DIR         where nginx.conf's `key file:NAME` is looked up (nowhere)\n"
    "  --cache-size SIZE     memory for answers where nginx.conf says `aiq_cache`, in\n"
    "                        bytes, or with k, m or g; 0 keeps none (64m)\n"
    "  --semantic-size SIZE  the same for `aiq_cache semantic`, with the questions (64m)\n"
    "  --stream-memory SIZE  memory for what can be read again of streams, in the same\n"
    "                        units (256m)\n"
    "  --redis URL           redis://[user][:password@]host[:port][/database], where engines\n"
    "                        share those answers, limits and topics (none)\n"
    "\n"
    "Processors\n"
    "  --loops N             threads that serve requests (1)\n"
    "  --device LIST         where local models run, as cuda:0,cuda:1 or auto; the CPU is\n"
    "                        what is left if that fails (cpu)\n"
    "  --kernels DIR         where the library of a device lies (beside the engine, or in\n"
    "                        ../lib/aiq from there)\n"
    "  --spin-us N           how long a loop with few jobs looks on before it sleeps;\n"
    "                        0: never (50)\n"
    "\n"
    "Information\n"
    "  --log-level LEVEL     debug, info, warn or error, as JSON lines on stderr (info)\n"
    "  --version\n"
    "  --help\n"
    "\n"
    "Signals: TERM, QUIT and INT drain; a second one leaves at once. A new engine on\n"
    "the same socket takes over: start it, and the old one drains and leaves.\n"
    "\n"
    "Example:\n"
    "  aiq-engine --socket /run/aiq/engine.sock --socket-group www-data \\\n"
    "             --store sqlite:/var/lib/aiq/aiq.db --secrets /etc/aiq/secrets\n";

/* Options. */

static void usage_error(const char *format, const char *a, const char *b)
{
    fputs("aiq-engine: ", stderr);
    fprintf(stderr, format, a, b);
    fputs(" (see aiq-engine --help)\n", stderr);
    exit(EXIT_USAGE);
}

static unsigned number(const char *name, const char *text, unsigned min, unsigned max)
{
    char range[64], *end;

    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n < min || n > max) {
        snprintf(range, sizeof(range), "a number from %u to %u", min, max);
        usage_error("--%s takes %s", name, range);
    }
    return (unsigned)n;
}

/* As nginx writes sizes. */
static size_t size_of(const char *name, const char *text)
{
    static const char units[] = "kmg";
    char *end;

    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    const char *unit = *end ? strchr(units, *end) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (*text < '0' || *text > '9' || (*end && (unit == NULL || end[1])) || errno ||
        n > SIZE_MOST >> shift) {
        usage_error("--%s takes a size of at most 1024g, as 64m, not %s", name, text);
    }
    return n << shift;
}

static const char *folder(const char *name, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        usage_error("--%s: %s is no folder", name, path);
    }
    return path;
}

enum {
    SOCKET = 256,
    GROUP,
    ADMIN,
    STORE,
    MODELS,
    MODELS_IDLE,
    SECRETS,
    CACHE,
    SEMANTIC,
    STREAMS,
    REDIS,
    LOOPS,
    DEVICE,
    KERNELS,
    SPIN,
    DRAIN,
    LEVEL
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, SOCKET},
    {"socket-group", required_argument, NULL, GROUP},
    {"admin-socket", required_argument, NULL, ADMIN},
    {"store", required_argument, NULL, STORE},
    {"models", required_argument, NULL, MODELS},
    {"models-idle", required_argument, NULL, MODELS_IDLE},
    {"secrets", required_argument, NULL, SECRETS},
    {"cache-size", required_argument, NULL, CACHE},
    {"semantic-size", required_argument, NULL, SEMANTIC},
    {"stream-memory", required_argument, NULL, STREAMS},
    {"redis", required_argument, NULL, REDIS},
    {"loops", required_argument, NULL, LOOPS},
    {"device", required_argument, NULL, DEVICE},
    {"kernels", required_argument, NULL, KERNELS},
    {"spin-us", required_argument, NULL, SPIN},
    {"drain", required_argument, NULL, DRAIN},
    {"log-level", required_argument, NULL, LEVEL},
    {"version", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static void set_option(engine_options *o, int option, const char *name, const char *value)
{
    aiq_log_level level;

    switch (option) {
    case SOCKET:
        o->socket = value;
        break;
    case GROUP:
        o->socket_group = value;
        break;
    case ADMIN:
        o->admin_socket = value;
        break;
    case STORE:
        o->store = value;
        break;
    case MODELS:
        o->models = folder(name, value);
        break;
    case MODELS_IDLE:
        o->models_idle_s = number(name, value, 0, IDLE_S_MAX);
        break;
    case SECRETS:
        o->secrets = folder(name, value);
        break;
    case CACHE:
        o->cache_size = size_of(name, value);
        break;
    case SEMANTIC:
        o->semantic_size = size_of(name, value);
        break;
    case STREAMS:
        o->stream_memory = size_of(name, value);
        break;
    case REDIS:
        o->redis = value;
        break;
    case LOOPS:
        o->loops = number(name, value, 1, LOOPS_MAX);
        break;
    case DEVICE:
        if (!devices_valid(value)) {
            usage_error("--%s takes a list such as cuda:0,cuda:1, not %s", name, value);
        }
        o->device = value;
        break;
    case KERNELS:
        o->kernels = folder(name, value);
        break;
    case SPIN:
        o->spin_us = number(name, value, 0, SPIN_US_MAX);
        break;
    case DRAIN:
        o->drain_s = number(name, value, 0, DRAIN_S_MAX);
        break;
    case LEVEL:
        if (!aiq_log_parse_level(value, &level)) {
            usage_error("--%s takes debug, info, warn or error, not %s", name, value);
        }
        aiq_log_init(level);
        break;
    case 'v':
        puts("aiq-engine " AIQ_VERSION);
        exit(EXIT_SUCCESS);
    case 'h':
        fputs(help, stdout);
        exit(EXIT_SUCCESS);
    default: /* getopt has said what is wrong */
        fputs("See aiq-engine --help.\n", stderr);
        exit(EXIT_USAGE);
    }
}

static void parse_options(engine_options *o, int argc, char **argv)
{
    int option, index = 0;

    *o = (engine_options){
        .device = "cpu",
        .cache_size = CACHE_SIZE,
        .semantic_size = SEMANTIC_SIZE,
        .stream_memory = STREAM_MEMORY,
        .loops = 1,
        .spin_us = 50,
        .drain_s = 30,
    };
    while ((option = getopt_long(argc, argv, "", long_options, &index)) != -1) {
        set_option(o, option, long_options[index].name, optarg);
    }
    if (optind < argc) {
        usage_error("what is \"%s\"?%s", argv[optind], "");
    }
    if (o->socket == NULL || *o->socket == '\0') {
        usage_error("--socket PATH is missing%s%s", "", "");
    }
}

/* Signals. */

typedef struct {
    aiq_engine *engine;
    aiq_loop main;
    uv_signal_t signals[3];
    pthread_t *threads;
    unsigned n_threads;
    char *store_url, *journal_folder, *policy_folder, *admin_socket;
} process;

static void on_signal(uv_signal_t *handle, int number)
{
    process *p = handle->data;

    aiq_log(AIQ_LOG_INFO, "core", "signal", AIQ_S("name", strsignal(number)));
    link_server_leave(p->engine->links);
}

static void watch_signals(process *p)
{
    static const int numbers[] = {SIGTERM, SIGQUIT, SIGINT};

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of its write */
    for (unsigned i = 0; i < 3; i++) {
        uv_signal_init(&p->main.uv, &p->signals[i]);
        p->signals[i].data = p;
        uv_signal_start(&p->signals[i], on_signal, numbers[i]);
    }
}

/* Each open job may hold a descriptor upstream. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Life. What start() did not reach is NULL, and stop() knows. */

static void *run_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static bool start_loops(process *p, aiq_err *err)
{
    aiq_engine *engine = p->engine;

    p->threads = aiq_zalloc(engine->options.loops * sizeof(*p->threads));
    for (unsigned i = 0; i < engine->options.loops; i++) {
        int rc = pthread_create(&p->threads[i], NULL, run_loop, &engine->loops[i]);
        if (rc != 0) {
            return aiq_fail(err, 500, "thread", "cannot start a thread: %s", strerror(rc));
        }
        p->n_threads++;
    }
    return true;
}

static bool init_services(aiq_engine *engine, aiq_err *err)
{
    for (const aiq_service *const *s = aiq_services; *s; s++) {
        if ((*s)->init && !(*s)->init(engine, err)) {
            return false;
        }
    }
    return true;
}

static bool open_store(process *p, aiq_err *err)
{
    aiq_engine *engine = p->engine;
    const char *url = engine->options.store;

    if (url == NULL) {
        char *path = strdup(engine->options.socket);
        if (path == NULL || asprintf(&p->store_url, "sqlite:%s/aiq.db", dirname(path)) < 0) {
            abort();
        }
        free(path);
        url = p->store_url;
    }
    engine->store = store_open(engine, url, err);
    return engine->store != NULL;
}

static bool open_ledger(process *p, aiq_err *err)
{
    aiq_engine *engine = p->engine;

    if (asprintf(&p->journal_folder, "%s.journal", engine->options.socket) < 0) {
        abort();
    }
    engine->ledger = ledger_open(engine, p->journal_folder, err);
    return engine->ledger != NULL;
}

static bool open_redis(aiq_engine *engine, aiq_err *err)
{
    const char *url = engine->options.redis;

    engine->redis = url ? redis_new(engine, url, err) : NULL;
    return url == NULL || engine->redis;
}

static void on_left(aiq_loop *loop, void *arg)
{
    process *p = arg;

    for (unsigned i = 0; i < p->engine->options.loops; i++) {
        loop_stop(&p->engine->loops[i]);
    }
    loop_stop(loop);
}

static bool start(process *p, aiq_err *err)
{
    aiq_engine *engine = p->engine;

    engine->metrics = metrics_new();
    engine->started_ns = loop_now_ns();
    if (getrandom(&engine->id, sizeof(engine->id), 0) != sizeof(engine->id)) {
        return aiq_fail(err, 500, "random", "the system gives no random numbers");
    }
    if (!loop_init(&p->main, engine, engine->options.loops, err)) {
        return false;
    }
    engine->loops = aiq_zalloc(engine->options.loops * sizeof(*engine->loops));
    for (unsigned i = 0; i < engine->options.loops; i++) {
        if (!loop_init(&engine->loops[i], engine, i, err)) {
            return false;
        }
    }
    if (!open_store(p, err) || !open_ledger(p, err)) {
        return false;
    }
    engine->keyring = keyring_new(engine, &keyring_store);
    engine->cache = cache_new(engine, engine->options.cache_size);
    engine->semantic = semantic_start(engine, engine->options.semantic_size);
    engine->streams = streams_new(engine, engine->options.stream_memory);
    engine->topics = topics_new(engine);
    engine->durable = durable_new(engine);
    if (!durable_hear(engine->durable, err) || !open_redis(engine, err)) {
        return false;
    }
    if (engine->redis) {
        topics_hear(engine->topics);
    }
    engine->rates = rates_new(engine);
    engine->shared_tokens = shared_tokens_new(engine);
    if (asprintf(&p->policy_folder, "%s.policy", engine->options.socket) < 0) {
        abort();
    }
    if (engine->options.admin_socket == NULL) {
        if (asprintf(&p->admin_socket, "%s.admin", engine->options.socket) < 0) {
            abort();
        }
        engine->options.admin_socket = p->admin_socket;
    }
    engine->policies = policy_set_new(p->policy_folder);
    engine->links = link_server_new(engine, &p->main);
    watch_signals(p);
    if (!init_services(engine, err) || !start_loops(p, err)) {
        return false;
    }
    if (engine->redis) {
        redis_start(engine->redis);
    }
    return link_server_start(engine->links, on_left, p, err);
}

/* The reverse of start(). Services end after the loops, so that nothing calls
 * them any more, and before the loops' memory goes, for their threads may still
 * post. The store ends before them: they are still told what it did. */
static void stop(process *p)
{
    aiq_engine *engine = p->engine;

    for (unsigned i = 0; i < p->n_threads; i++) {
        loop_stop(&engine->loops[i]);
        pthread_join(p->threads[i], NULL);
    }
    free(p->threads);
    if (engine->store) {
        ledger_stop(engine->ledger);
        durable_stop(engine->durable);
        store_stop(engine->store);
        for (unsigned i = 0; i < engine->options.loops; i++) {
            loop_flush(&engine->loops[i]);
        }
    }
    if (engine->links) {
        link_server_stop(engine->links);
        for (const aiq_service *const *s = aiq_services; *s; s++) {
            if ((*s)->free) {
                (*s)->free(engine);
            }
        }
    }
    semantic_stop(engine->semantic);
    topics_free(engine->topics);
    durable_free(engine->durable);
    streams_free(engine->streams);
    for (unsigned i = 0; engine->loops && i < engine->options.loops; i++) {
        loop_free(&engine->loops[i]);
    }
    loop_free(&p->main);
    if (engine->links) {
        link_server_free(engine->links);
        policy_set_free(engine->policies);
    }
    keyring_free(engine->keyring);
    cache_free(engine->cache);
    shared_tokens_free(engine->shared_tokens);
    rates_free(engine->rates);
    redis_free(engine->redis);
    ledger_close(engine->ledger);
    store_close(engine->store);
    free(engine->loops);
    metrics_free(engine->metrics);
    free(p->policy_folder);
    free(p->journal_folder);
    free(p->admin_socket);
    free(p->store_url);
}

int main(int argc, char **argv)
{
    aiq_engine engine = {0};
    process p = {.engine = &engine};
    aiq_err err = {0};

    parse_options(&engine.options, argc, argv);
    raise_limits();
    bool ok = start(&p, &err);
    if (ok) {
        aiq_log(AIQ_LOG_INFO, "core", "ready", AIQ_S("version", AIQ_VERSION),
                AIQ_S("socket", engine.options.socket), AIQ_I("loops", engine.options.loops),
                AIQ_I("pid", getpid()));
        loop_run(&p.main);
    } else {
        fprintf(stderr, "aiq-engine: %s%s%s\n", err.message, err.detail[0] ? " " : "",
                err.detail);
    }
    stop(&p);
    if (ok) {
        aiq_log(AIQ_LOG_INFO, "core", "ended", AIQ_I("pid", getpid()));
    }
    int status = ok ? EXIT_SUCCESS : EXIT_FAILURE;
    if (engine.driver_hangs) {
        /* what the driver of a device has registered for the exit may wait for its thread */
        _exit(status);
    }
    return status;
}
