#include "providers/local_models.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "core/json.h"
#include "core/log.h"
#include "infer/model_files.h"
#include "providers/local_devices.h"
#include "providers/local_metrics.h"
#include "streams/topics.h"

/* How long a model outlives its last policy: an nginx that starts anew, or its
 * only worker, comes back for it. */
#define KEEP_NS 60000000000ull

/* Before a model that could not be loaded is tried again: reading a large file takes the disk
 * from others, and a cause that passes takes some seconds. */
#define REST_NS 5000000000ull

#define TITLE "model "

/* Percent between two events of a model that loads. */
#define TELL_EVERY 10

typedef enum {
    MODEL_UNUSED, /* not loaded, and nobody wants it now */
    MODEL_LOADING,
    MODEL_READY,
    MODEL_FAILED
} model_state;

/* Of a model that is READY one of both, otherwise none. */
typedef struct {
    infer *chats;
    embedder *vectors;
} loaded_model;

/* Stays until the engine ends, for its health component does. */
struct local_model {
    local_model *next;
    local_models *all;
    char *path, *title;
    const char *name; /* in the title */
    model_state state;
    unsigned percent; /* of its file is read, where LOADING */
    bool again;       /* it was loaded or tried before, for the same policies */
    bool failed;      /* so the last try has ended */
    unsigned policies, requests;
    uint32_t replicas;  /* as the last policy wants them */
    uint32_t asked;     /* those that it was loaded with */
    uint64_t unused_ns; /* since when there are no requests, or no policies either */
    uint64_t tried_ns;  /* the end of the last try */
    loaded_model loaded;
    infer_stats shown; /* of loaded.chats */
    health_component health;
};

struct local_models {
    aiq_engine *engine;
    local_devices *devices;
    local_metrics *metrics;
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t work;
    pthread_t keeper;
    bool leaving;
    local_model *models;
};

/* Loading and closing, on the keeper's thread. */

/* Says on the topic what has come of it. */
static void tell(const local_model *model, const char *type, const char *reason, int percent)
{
    aiq_buf out = {0};

    aiq_buf_text(&out, "{\"model\":");
    json_quote(&out, model->name, strlen(model->name));
    if (reason) {
        aiq_buf_text(&out, ",\"reason\":");
        json_quote(&out, reason, strlen(reason));
    }
    if (percent >= 0) {
        aiq_buf_printf(&out, ",\"percent\":%d", percent);
    }
    aiq_buf_text(&out, "}");
    topic_publish(model->all->engine, AIQ_STR("default"), AIQ_STR(TOPIC_MODELS),
                  (aiq_str){type, strlen(type)}, (aiq_str){(char *)out.data, out.len});
    aiq_buf_free(&out);
}

static bool on_progress(void *arg, unsigned percent)
{
    local_model *model = arg;

    pthread_mutex_lock(&model->all->lock);
    bool again = percent > 0 && percent == model->percent; /* a device takes its time */
    model->percent = percent;
    bool leaving = model->all->leaving;
    pthread_mutex_unlock(&model->all->lock);
    if (percent % TELL_EVERY == 0 && !again) {
        tell(model, "model.loading", NULL, (int)percent);
    }
    return !leaving;
}

static bool is_loaded(const loaded_model *loaded)
{
    return loaded->chats || loaded->vectors;
}

static void close_loaded(const loaded_model *loaded)
{
    if (loaded->chats) {
        infer_close(loaded->chats);
    }
    if (loaded->vectors) {
        embedder_close(loaded->vectors);
    }
}

/* How many have a device; the one without a file needs none. */
static uint32_t count_replicas(const loaded_model *loaded)
{
    infer_stats stats;

    if (loaded->vectors) {
        return embedder_replicas(loaded->vectors);
    }
    infer_get_stats(loaded->chats, &stats);
    return stats.replicas;
}

static uint32_t asked_of(const local_model *model)
{
    return strcmp(model->path, LOCAL_MODEL_LEXICAL) == 0 ? 0 : model->asked;
}

static loaded_model open_model(local_model *model, char *why, size_t size)
{
    devices *all = local_devices_all(model->all->devices);
    const embedder_options vectors = {.progress = on_progress,
                                      .progress_arg = model,
                                      .devices = all,
                                      .replicas = model->asked,
                                      .label = model->name};
    const infer_options chats = {.progress = on_progress,
                                 .progress_arg = model,
                                 .devices = all,
                                 .replicas = model->asked,
                                 .label = model->name};
    char real[PATH_MAX];
    loaded_model loaded = {0};

    if (strcmp(model->path, LOCAL_MODEL_LEXICAL) == 0) {
        loaded.vectors = embedder_open_lexical(&vectors, why, size);
    } else if (model_file_find(model->all->engine->options.models, model->path, real, why,
                               size)) {
        if (embedder_takes(real)) {
            loaded.vectors = embedder_open(real, &vectors, why, size);
        } else {
            loaded.chats = infer_open(real, &chats, why, size);
        }
    }
    return loaded;
}

static void log_loaded(const local_model *model, const loaded_model *loaded, uint64_t start)
{
    double ms = (double)(loop_now_ns() - start) / 1e6;
    uint32_t replicas = count_replicas(loaded);

    if (replicas < asked_of(model)) {
        aiq_log(AIQ_LOG_WARN, "local", "too few devices have room for the model's replicas",
                AIQ_S("path", model->path), AIQ_I("replicas", replicas),
                AIQ_I("wanted", model->asked));
    }
    if (loaded->chats) {
        infer_model_info info;
        infer_info(loaded->chats, &info);
        aiq_log(AIQ_LOG_INFO, "local", "model loaded", AIQ_S("path", model->path),
                AIQ_S("name", info.name), AIQ_I("parameters", (int64_t)info.n_params),
                AIQ_I("context", info.n_ctx), AIQ_I("replicas", replicas),
                AIQ_R("duration_ms", ms));
    } else {
        embedder_info info;
        embedder_get_info(loaded->vectors, &info);
        aiq_log(AIQ_LOG_INFO, "local", "model loaded", AIQ_S("path", model->path),
                AIQ_S("name", info.name), AIQ_I("parameters", (int64_t)info.n_params),
                AIQ_I("context", info.n_ctx), AIQ_I("dimensions", info.dimensions),
                AIQ_I("replicas", replicas), AIQ_R("duration_ms", ms));
    }
}

static loaded_model load(local_model *model)
{
    char why[256] = "";
    uint64_t start = loop_now_ns();
    loaded_model loaded = open_model(model, why, sizeof(why));

    if (is_loaded(&loaded)) {
        log_loaded(model, &loaded, start);
        tell(model, "model.ready", NULL, -1);
    } else {
        tell(model, "model.failed", why, -1);
        aiq_log(AIQ_LOG_ERROR, "local", "model cannot be loaded", AIQ_S("path", model->path),
                AIQ_S("reason", why));
    }
    return loaded;
}

static void load_model(local_models *m, local_model *model)
{
    model->asked = model->replicas;
    pthread_mutex_unlock(&m->lock);
    loaded_model loaded = load(model);
    pthread_mutex_lock(&m->lock);
    model->loaded = loaded;
    model->state = is_loaded(&loaded) ? MODEL_READY : MODEL_FAILED;
    model->failed = model->state == MODEL_FAILED;
    model->unused_ns = model->tried_ns = loop_now_ns();
}

/* Under the lock. */
static void show_model(local_model *model)
{
    infer_stats now;

    infer_get_stats(model->loaded.chats, &now);
    local_metrics_show(model->all->metrics, model->name, &model->shown, &now);
}

static void show_models(void *arg)
{
    local_models *m = arg;

    pthread_mutex_lock(&m->lock);
    for (local_model *model = m->models; model; model = model->next) {
        if (is_loaded(&model->loaded)) {
            local_metrics_replicas(m->metrics, model->name, count_replicas(&model->loaded));
        }
        if (model->loaded.chats) {
            show_model(model);
        }
    }
    pthread_mutex_unlock(&m->lock);
}

static void begin_loading(local_model *model, bool again)
{
    model->state = MODEL_LOADING;
    model->percent = 0;
    model->again = again;
}

static void close_model(local_models *m, local_model *model)
{
    loaded_model unused = model->loaded;
    const infer_stats none = {0};
    bool changed = model->policies > 0 && model->asked != model->replicas;

    local_metrics_replicas(m->metrics, model->name, 0);
    if (unused.chats) {
        show_model(model);
        model->shown = none;
        local_metrics_show(m->metrics, model->name, &model->shown, &none);
    }
    model->loaded = (loaded_model){0};
    model->state = MODEL_UNUSED;
    pthread_mutex_unlock(&m->lock);
    if (is_loaded(&unused)) {
        close_loaded(&unused);
        aiq_log(AIQ_LOG_INFO, "local", "model closed", AIQ_S("path", model->path));
        tell(model, "model.closed", NULL, -1);
    }
    pthread_mutex_lock(&m->lock);
    if (changed && model->state == MODEL_UNUSED) {
        begin_loading(model, true);
    }
}

/* When it is to be closed, if nobody asks for it; 0: never. */
static uint64_t end_of(const local_models *m, const local_model *model)
{
    uint64_t idle_ns = m->engine->options.models_idle_s * 1000000000ull;

    if (model->requests > 0 || model->state == MODEL_UNUSED) {
        return 0;
    }
    if (model->policies == 0) {
        return model->unused_ns + KEEP_NS;
    }
    if (model->state == MODEL_READY && model->asked != model->replicas) {
        return 1; /* at once: it comes back with as many as are wanted now */
    }
    return idle_ns > 0 && model->state == MODEL_READY ? model->unused_ns + idle_ns : 0;
}

/* The next model that is to be loaded or closed; else NULL, and when the next one
 * is due (0: none). */
static local_model *find_work(const local_models *m, uint64_t now, uint64_t *due)
{
    *due = 0;
    for (local_model *model = m->models; model; model = model->next) {
        if (model->state == MODEL_LOADING) {
            return model;
        }
        uint64_t end = end_of(m, model);
        if (end && end <= now) {
            return model;
        }
        *due = end && (*due == 0 || end < *due) ? end : *due;
    }
    return NULL;
}

static void *keep(void *arg)
{
    local_models *m = arg;
    uint64_t due;

    pthread_mutex_lock(&m->lock);
    while (!m->leaving) {
        local_model *model = find_work(m, loop_now_ns(), &due);
        if (model) {
            (model->state == MODEL_LOADING ? load_model : close_model)(m, model);
        } else if (due) {
            struct timespec end = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
            pthread_cond_timedwait(&m->work, &m->lock, &end);
        } else {
            pthread_cond_wait(&m->work, &m->lock);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* The registry. */

static health_status check(void *arg, char *reason, size_t size)
{
    local_model *model = arg;
    health_status status = HEALTH_OK;

    pthread_mutex_lock(&model->all->lock);
    if (model->state == MODEL_LOADING) {
        snprintf(reason, size, "loading");
        /* who was idle comes back while requests wait: they need not go elsewhere */
        status = !model->again ? HEALTH_DOWN : model->failed ? HEALTH_DEGRADED : HEALTH_OK;
    } else if (model->state == MODEL_FAILED) {
        snprintf(reason, size, "cannot be loaded, the engine's log says why");
        status = HEALTH_DEGRADED;
    } else if (is_loaded(&model->loaded)) {
        uint32_t n = count_replicas(&model->loaded);

        if (n < asked_of(model)) {
            snprintf(reason, size, "%u of %u replicas", n, model->asked);
            status = HEALTH_DEGRADED;
        }
    }
    pthread_mutex_unlock(&model->all->lock);
    return status;
}

static int percent(void *arg)
{
    local_model *model = arg;

    pthread_mutex_lock(&model->all->lock);
    int loading = model->state == MODEL_LOADING ? (int)model->percent : -1;
    pthread_mutex_unlock(&model->all->lock);
    return loading;
}

static local_model *find(local_models *m, const char *path)
{
    local_model *model = m->models;

    while (model && strcmp(model->path, path) != 0) {
        model = model->next;
    }
    return model;
}

static char *text_of(const char *start, const char *rest)
{
    size_t n = strlen(start) + strlen(rest) + 1;
    char *text = aiq_alloc(n);

    snprintf(text, n, "%s%s", start, rest);
    return text;
}

static local_model *model_new(local_models *m, const policy_local_model *named)
{
    local_model *model = aiq_zalloc(sizeof(*model));

    model->all = m;
    model->path = text_of("", named->path);
    model->title = text_of(TITLE, named->name);
    model->name = model->title + strlen(TITLE);
    model->next = m->models;
    m->models = model;
    model->health = (health_component){.name = model->title,
                                       .critical = true,
                                       .check = check,
                                       .percent = percent,
                                       .arg = model};
    engine_add_health(m->engine, &model->health);
    return model;
}

static void each(local_models *m, const aiq_policy *policy, int change)
{
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < policy->n_providers; i++) {
        const policy_provider *p = &policy->providers[i];
        for (size_t k = 0; k < p->n_models; k++) {
            local_model *model = find(m, p->models[k].path);
            if (model == NULL) {
                model = model_new(m, &p->models[k]);
            }
            bool is_new = model->policies == 0 && model->state == MODEL_UNUSED;
            model->policies += (unsigned)change;
            model->unused_ns = loop_now_ns();
            model->replicas = change > 0 ? p->models[k].replicas : model->replicas;
            if (change > 0 && (is_new || model->state == MODEL_FAILED)) {
                begin_loading(model, false);
            }
        }
    }
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&m->lock);
}

void local_models_add(local_models *m, const aiq_policy *policy)
{
    each(m, policy, 1);
}

void local_models_remove(local_models *m, const aiq_policy *policy)
{
    each(m, policy, -1);
}

static const char *path_of(const policy_provider *provider, const char *name)
{
    for (size_t i = 0; i < provider->n_models; i++) {
        if (strcmp(provider->models[i].name, name) == 0) {
            return provider->models[i].path;
        }
    }
    return NULL;
}

/* Not loaded, and somebody asks for it: is it to be? */
static bool is_due(const local_model *model)
{
    return model->state == MODEL_UNUSED ||
           (model->state == MODEL_FAILED && loop_now_ns() >= model->tried_ns + REST_NS);
}

/* A reference, and what is loaded. */
static local_model *use(local_models *m, const policy_provider *provider, const char *name,
                        loaded_model *out, aiq_err *err)
{
    const char *path = path_of(provider, name);
    local_model *model;

    pthread_mutex_lock(&m->lock);
    model = path ? find(m, path) : NULL;
    if (model && is_due(model)) {
        begin_loading(model, true);
        pthread_cond_signal(&m->work);
    }
    model_state state = model ? model->state : MODEL_FAILED;
    if (state == MODEL_READY) {
        model->requests++;
        *out = model->loaded;
    }
    pthread_mutex_unlock(&m->lock);
    if (state == MODEL_READY) {
        return model;
    }
    aiq_fail(err, 503, "model_unavailable", "This model is not available%s.",
             state == MODEL_LOADING ? " yet" : " now");
    aiq_err_detail(err, "local model %s: %s", name,
                   state == MODEL_LOADING ? "it is being loaded"
                   : path                 ? "it could not be loaded"
                                          : "the provider has none of this name");
    err->retry_after = state == MODEL_LOADING ? 1 : 0;
    return NULL;
}

local_model *local_models_use(local_models *m, const policy_provider *provider,
                              const char *name, infer **out, aiq_err *err)
{
    loaded_model loaded;
    local_model *model = use(m, provider, name, &loaded, err);

    if (model && loaded.chats == NULL) {
        local_models_done(m, model);
        aiq_fail_param(err, 400, "unsupported_endpoint", "model",
                       "This model makes embeddings, it does not chat.");
        return NULL;
    }
    *out = model ? loaded.chats : NULL;
    return model;
}

local_model *local_models_use_embedder(local_models *m, const policy_provider *provider,
                                       const char *name, embedder **out, aiq_err *err)
{
    loaded_model loaded;
    local_model *model = use(m, provider, name, &loaded, err);

    if (model && loaded.vectors == NULL) {
        local_models_done(m, model);
        aiq_fail_param(err, 400, "unsupported_endpoint", "model",
                       "This model chats, it does not make embeddings.");
        return NULL;
    }
    *out = model ? loaded.vectors : NULL;
    return model;
}

void local_models_done(local_models *m, local_model *model)
{
    pthread_mutex_lock(&m->lock);
    if (--model->requests == 0) {
        model->unused_ns = loop_now_ns();
        pthread_cond_signal(&m->work);
    }
    pthread_mutex_unlock(&m->lock);
}

/* Life. */

local_models *local_models_new(aiq_engine *engine, aiq_err *err)
{
    local_models *m = aiq_zalloc(sizeof(*m));
    pthread_condattr_t clock;

    m->engine = engine;
    m->devices = local_devices_new(engine);
    m->metrics = local_metrics_new(engine->metrics);
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC); /* as loop_now_ns() */
    pthread_cond_init(&m->work, &clock);
    pthread_condattr_destroy(&clock);
    int rc = pthread_create(&m->keeper, NULL, keep, m);
    if (rc != 0) {
        aiq_fail(err, 500, "thread", "cannot start a thread: %s", strerror(rc));
        local_devices_free(m->devices);
        local_metrics_free(m->metrics);
        free(m);
        return NULL;
    }
    metrics_collect(engine->metrics, show_models, m);
    return m;
}

void local_models_free(local_models *m)
{
    pthread_mutex_lock(&m->lock);
    m->leaving = true;
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->keeper, NULL);
    for (local_model *model = m->models; model; model = model->next) {
        close_loaded(&model->loaded);
    }
    /* the last events of what ran, which still name their model */
    for (unsigned i = 0; i < m->engine->options.loops; i++) {
        loop_flush(&m->engine->loops[i]);
    }
    while (m->models) {
        local_model *model = m->models;
        m->models = model->next;
        free(model->path);
        free(model->title);
        free(model);
    }
    local_metrics_free(m->metrics);
    m->engine->driver_hangs = local_devices_free(m->devices);
    pthread_cond_destroy(&m->work);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
