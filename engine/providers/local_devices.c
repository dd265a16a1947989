#include "providers/local_devices.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "core/log.h"
#include "infer/nvml.h"
#include "infer/watched.h"

#define LOOK_EVERY_S 2

/* What opening it, or a look at its GPUs, may take; seconds are usual where many sleep. */
#define DRIVER_LIMIT_MS 10000

/* NVIDIA's driver, which blocks, and may hang as its devices may. */
typedef struct {
    nvml *nvml; /* NULL: there is none */
    uint32_t n;
    nvml_sample *gpus; /* [n] */
} driver;

struct local_devices {
    devices *all;
    metric_family *models, *failures;

    watched *asking; /* who calls into the driver; NULL: there is none */
    driver *driver;  /* to be touched while no call is under way */
    bool hangs;      /* a call was given up; the watcher's, where there is one */
    metric_family *utilization, *memory_used, *memory, *temperature, *power;
    pthread_t watcher;
    bool watching;
    pthread_mutex_t lock;
    pthread_cond_t end;
    bool leaving; /* under lock */
};

/* Whoever reads that a device failed wants to know first whom it took along. */
static void log_failure(const char *name, const char *why, const devices_user *user)
{
    if (user != NULL) {
        aiq_log(AIQ_LOG_ERROR, "local", "device failed, its model moves", AIQ_S("device", name),
                AIQ_S("model", user->model), AIQ_I("replica", user->replica),
                AIQ_S("reason", why));
    } else {
        aiq_log(AIQ_LOG_ERROR, "local", "device failed", AIQ_S("device", name),
                AIQ_S("reason", why));
    }
}

static void told(void *arg, devices_event event, const char *name, const char *why,
                 const devices_user *user)
{
    local_devices *d = arg;

    switch (event) {
    case DEVICES_LACKING:
        aiq_log(AIQ_LOG_WARN, "local", "no such device, others serve", AIQ_S("device", name),
                AIQ_S("reason", why));
        break;
    case DEVICES_FOUND:
        metric_set(metrics_sample(d->models, &name), 0);
        metric_add(metrics_sample(d->failures, &name), 0);
        aiq_log(strcmp(name, "cpu") == 0 ? AIQ_LOG_DEBUG : AIQ_LOG_INFO, "local", "device",
                AIQ_S("device", name), AIQ_S("title", why));
        break;
    case DEVICES_TAKEN:
        metric_add(metrics_sample(d->models, &name), 1);
        if (strcmp(name, "cpu") == 0 && devices_count(d->all) > 1) {
            aiq_log(AIQ_LOG_WARN, "local", "no device takes a model, the CPU does",
                    AIQ_S("model", user->model));
        }
        break;
    case DEVICES_LEFT:
        metric_add(metrics_sample(d->models, &name), -1);
        break;
    case DEVICES_FAILED:
        metric_add(metrics_sample(d->failures, &name), 1);
        log_failure(name, why, user);
        break;
    }
}

/* What the driver tells. */

static void call_open(void *own)
{
    driver *d = own;

    d->nvml = nvml_open();
    if (d->nvml != NULL) {
        d->n = nvml_count(d->nvml);
        d->gpus = aiq_zalloc((d->n + 1) * sizeof(*d->gpus));
    }
}

static void call_look(void *own)
{
    driver *d = own;

    for (uint32_t i = 0; i < d->n; i++) {
        nvml_read(d->nvml, i, &d->gpus[i]);
    }
}

static void end_driver(void *own)
{
    driver *d = own;

    if (d->nvml != NULL) {
        nvml_close(d->nvml);
    }
    free(d->gpus);
    free(d);
}

static bool call(local_devices *d, void (*what)(void *own), watched_wanted wanted)
{
    if (!watched_call(d->asking, what, DRIVER_LIMIT_MS, wanted, d)) {
        d->hangs = true;
        aiq_log(AIQ_LOG_ERROR, "local", "the driver does not answer, its GPUs are not watched");
    }
    return !d->hangs;
}

static void show(metric_family *family, const char *gpu, int64_t value)
{
    if (value >= 0) {
        metric_set(metrics_sample(family, &gpu), value);
    }
}

static void show_all(const local_devices *d)
{
    for (uint32_t i = 0; i < d->driver->n; i++) {
        const nvml_sample *s = &d->driver->gpus[i];

        if (s->uuid[0] != '\0') {
            show(d->utilization, s->uuid, s->utilization);
            show(d->memory_used, s->uuid, s->memory_used);
            show(d->memory, s->uuid, s->memory_total);
            show(d->temperature, s->uuid, s->temperature);
            show(d->power, s->uuid, s->power < 0 ? -1 : (s->power + 500) / 1000);
        }
    }
}

static bool is_staying(void *arg)
{
    local_devices *d = arg;

    pthread_mutex_lock(&d->lock);
    bool staying = !d->leaving;
    pthread_mutex_unlock(&d->lock);
    return staying;
}

static void *watch(void *arg)
{
    local_devices *d = arg;
    struct timespec next;

    clock_gettime(CLOCK_MONOTONIC, &next);
    while (is_staying(d) && call(d, call_look, is_staying)) {
        show_all(d);
        next.tv_sec += LOOK_EVERY_S;
        pthread_mutex_lock(&d->lock);
        while (!d->leaving && pthread_cond_timedwait(&d->end, &d->lock, &next) == 0) {
        }
        pthread_mutex_unlock(&d->lock);
    }
    return NULL;
}

/* False: there is none, or it does not answer. */
static bool open_driver(local_devices *d)
{
    d->driver = aiq_zalloc(sizeof(*d->driver));
    d->asking = watched_new(d->driver, end_driver);
    if (d->asking == NULL) {
        free(d->driver);
        return false;
    }
    return call(d, call_open, NULL) && d->driver->nvml != NULL;
}

static void name_metrics(local_devices *d, metrics *m)
{
    d->utilization = metrics_family(m, METRIC_GAUGE, "aiq_gpu_utilization_percent",
                                    "How much of the time a GPU computes.", "gpu", NULL);
    d->memory_used = metrics_family(m, METRIC_GAUGE, "aiq_gpu_memory_used_bytes",
                                    "Memory of a GPU that is in use.", "gpu", NULL);
    d->memory = metrics_family(m, METRIC_GAUGE, "aiq_gpu_memory_bytes",
                               "Memory that a GPU has.", "gpu", NULL);
    d->temperature = metrics_family(m, METRIC_GAUGE, "aiq_gpu_temperature_celsius",
                                    "A GPU's temperature.", "gpu", NULL);
    d->power = metrics_family(m, METRIC_GAUGE, "aiq_gpu_power_watts", "What a GPU draws.",
                              "gpu", NULL);
}

static void start_watching(local_devices *d, metrics *m)
{
    sigset_t all, before;
    int rc = 0;

    /* signals are for the process's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (open_driver(d)) {
        name_metrics(d, m);
        rc = pthread_create(&d->watcher, NULL, watch, d);
        d->watching = rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        aiq_log(AIQ_LOG_WARN, "local", "no thread to watch the GPUs",
                AIQ_S("reason", strerror(rc)));
    }
}

static void stop_watching(local_devices *d)
{
    if (d->watching) {
        pthread_mutex_lock(&d->lock);
        d->leaving = true;
        pthread_cond_signal(&d->end);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->watcher, NULL);
    }
    if (d->asking != NULL && !watched_free(d->asking, WATCHED_GRACE_MS, NULL, NULL)) {
        d->hangs = true;
    }
}

/* Life. */

local_devices *local_devices_new(aiq_engine *engine)
{
    local_devices *d = aiq_zalloc(sizeof(*d));
    pthread_condattr_t clock;

    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&d->end, &clock);
    pthread_condattr_destroy(&clock);
    d->models = metrics_family(engine->metrics, METRIC_GAUGE, "aiq_device_models",
                               "Local models on a device.", "device", NULL);
    d->failures = metrics_family(engine->metrics, METRIC_COUNTER, "aiq_device_failures_total",
                                 "Times that a model had to leave a device, or could not be "
                                 "loaded there.",
                                 "device", NULL);
    d->all = devices_open(engine->options.device, engine->options.kernels, told, d);
    if (devices_count(d->all) > 1) {
        start_watching(d, engine->metrics);
    }
    return d;
}

bool local_devices_free(local_devices *d)
{
    stop_watching(d);
    bool hangs = d->hangs || devices_hang(d->all);
    devices_close(d->all);
    pthread_cond_destroy(&d->end);
    pthread_mutex_destroy(&d->lock);
    free(d);
    return hangs;
}

devices *local_devices_all(const local_devices *d)
{
    return d->all;
}
