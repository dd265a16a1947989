#include "providers/local_devices.h"
#include <stdlib.h>
#include <string.h>
#include "core/log.h"

struct local_devices {
    devices *all;
    metric_family *models, *failures;
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
    return d;
}

void local_devices_free(local_devices *d)
{
    devices_close(d->all);
    free(d);
}

devices *local_devices_all(const local_devices *d)
{
    return d->all;
}
