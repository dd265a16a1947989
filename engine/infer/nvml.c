#include "infer/nvml.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* The library's interface as far as it is used: its functions return 0, or what went wrong. */

typedef void *nvml_device;

typedef struct {
    unsigned gpu;
    unsigned memory;
} nvml_utilization;

typedef struct {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
} nvml_memory;

enum { TEMPERATURE_GPU = 0 };

struct nvml {
    void *library;
    uint32_t count;
    int (*init)(void);
    int (*shutdown)(void);
    int (*get_count)(unsigned *count);
    int (*get_device)(unsigned index, nvml_device *device);
    int (*get_uuid)(nvml_device device, char *uuid, unsigned size);
    int (*get_utilization)(nvml_device device, nvml_utilization *out);
    int (*get_memory)(nvml_device device, nvml_memory *out);
    int (*get_temperature)(nvml_device device, unsigned sensor, unsigned *out);
    int (*get_power)(nvml_device device, unsigned *milliwatts);
};

/* All functions, or none. */
static bool bind(nvml *n)
{
    const struct {
        const char *name;
        void **place;
    } functions[] = {
        {"nvmlInit_v2", (void **)&n->init},
        {"nvmlShutdown", (void **)&n->shutdown},
        {"nvmlDeviceGetCount_v2", (void **)&n->get_count},
        {"nvmlDeviceGetHandleByIndex_v2", (void **)&n->get_device},
        {"nvmlDeviceGetUUID", (void **)&n->get_uuid},
        {"nvmlDeviceGetUtilizationRates", (void **)&n->get_utilization},
        {"nvmlDeviceGetMemoryInfo", (void **)&n->get_memory},
        {"nvmlDeviceGetTemperature", (void **)&n->get_temperature},
        {"nvmlDeviceGetPowerUsage", (void **)&n->get_power},
    };

    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
        *functions[i].place = dlsym(n->library, functions[i].name);
        if (*functions[i].place == NULL) {
            return false;
        }
    }
    return true;
}

nvml *nvml_open(void)
{
    nvml *n = calloc(1, sizeof(*n));
    unsigned count = 0;

    if (n == NULL) {
        abort();
    }
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (n->library != NULL && bind(n) && n->init() == 0) {
        if (n->get_count(&count) == 0) {
            n->count = count;
            return n;
        }
        n->shutdown();
    }
    if (n->library != NULL) {
        dlclose(n->library);
    }
    free(n);
    return NULL;
}

void nvml_close(nvml *n)
{
    n->shutdown();
    dlclose(n->library);
    free(n);
}

uint32_t nvml_count(const nvml *n)
{
    return n->count;
}

void nvml_read(nvml *n, uint32_t i, nvml_sample *out)
{
    nvml_device device;
    nvml_utilization utilization;
    nvml_memory memory;
    unsigned number;

    *out = (nvml_sample){.utilization = -1,
                         .memory_used = -1,
                         .memory_total = -1,
                         .temperature = -1,
                         .power = -1};
    if (n->get_device(i, &device) != 0) {
        return;
    }
    if (n->get_uuid(device, out->uuid, sizeof(out->uuid)) != 0) {
        out->uuid[0] = '\0';
    }
    if (n->get_utilization(device, &utilization) == 0) {
        out->utilization = utilization.gpu;
    }
    if (n->get_memory(device, &memory) == 0) {
        out->memory_used = (int64_t)memory.used;
        out->memory_total = (int64_t)memory.total;
    }
    if (n->get_temperature(device, TEMPERATURE_GPU, &number) == 0) {
        out->temperature = number;
    }
    if (n->get_power(device, &number) == 0) {
        out->power = number;
    }
}
