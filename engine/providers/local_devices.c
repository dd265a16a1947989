#include "providers/local_devices.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "core/log.h"
#include "infer/nvml.h"

#define LOOK_EVERY_S 2

struct local_devices {
    devices *all;
    metric_family *models, *failures;

    /* NVIDIA's driver, asked on a thread of its own, for it blocks; NULL: there is none */
    nvml *driver;
    metric_family *utilization, *memory_used, *memory, *temperature, *power;
    pthread_t watcher;
    pthread_mutex_t lock;
    pthread_cond_t end;
    bool leaving; /* under lock */
};

static void told(void *arg, devices_event event, const char *name, const char *why)
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
        break;
    case DEVICES_LEFT:
        metric_add(metrics_sample(d->models, &name), -1);
        break;
    case DEVICES_FAILED:
        metric_add(metrics_sample(d->failures, &name), 1);
        aiq_log(AIQ_LOG_ERROR, "local", "device failed, its model moves", AIQ_S("device", name),
                AIQ_S("reason", why));
        break;
    }
}

/* What the driver tells. */

static void show(metric_family *family, const char *gpu, int64_t value)
{
    if (value >= 0) {
        metric_set(metrics_sample(family, &gpu), value);
    }
}

static void look(local_devices *d)
{
    for (uint32_t i = 0; i < nvml_count(d->driver); i++) {
        nvml_sample s;
        nvml_read(d->driver, i, &s);
        if (s.uuid[0] != '\0') {
            show(d->utilization, s.uuid, s.utilization);
            show(d->memory_used, s.uuid, s.memory_used);
            show(d->memory, s.uuid, s.memory_total);
            show(d->temperature, s.uuid, s.temperature);
            show(d->power, s.uuid, s.power < 0 ? -1 : (s.power + 500) / 1000);
        }
    }
}

static void *watch(void *arg)
{
    local_devices *d = arg;
    struct timespec next;

    pthread_mutex_lock(&d->lock);
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (!d->leaving) {
        pthread_mutex_unlock(&d->lock);
        look(d);
        pthread_mutex_lock(&d->lock);
        next.tv_sec += LOOK_EVERY_S;
        while (!d->leaving && pthread_cond_timedwait(&d->end, &d->lock, &next) == 0) {
        }
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static void start_watching(local_devices *d, metrics *m)
{
    pthread_condattr_t clock;
    sigset_t all, before;

    d->driver = nvml_open();
    if (d->driver == NULL) {
        return;
    }
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
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&d->end, &clock);
    pthread_condattr_destroy(&clock);
    /* signals are for the process's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&d->watcher, NULL, watch, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        aiq_log(AIQ_LOG_WARN, "local", "no thread to watch the GPUs",
                AIQ_S("reason", strerror(rc)));
        nvml_close(d->driver);
        d->driver = NULL;
    }
}

static void stop_watching(local_devices *d)
{
    if (d->driver == NULL) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->leaving = true;
    pthread_cond_signal(&d->end);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->watcher, NULL);
    nvml_close(d->driver);
    pthread_cond_destroy(&d->end);
    pthread_mutex_destroy(&d->lock);
}

/* Life. */

local_devices *local_devices_new(aiq_engine *engine)
{
    local_devices *d = aiq_zalloc(sizeof(*d));

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

void local_devices_free(local_devices *d)
{
    stop_watching(d);
    devices_close(d->all);
    free(d);
}

devices *local_devices_all(const local_devices *d)
{
    return d->all;
}
