/*
 * A library as NVIDIA's driver has one, for t/gw_device.t: two devices, of which the second
 * tells neither its temperature nor its power. They are as busy as AIQ_FAKE_NVML says; where
 * it says "hang", who asks for that never comes back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, N_DEVICES = 2 };

typedef struct {
    unsigned gpu;
    unsigned memory;
} utilization;

typedef struct {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
} memory;

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlShutdown(void);
EXPORT int nvmlDeviceGetCount_v2(unsigned *count);
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, const int **device);
EXPORT int nvmlDeviceGetUUID(const int *device, char *uuid, unsigned size);
EXPORT int nvmlDeviceGetUtilizationRates(const int *device, utilization *out);
EXPORT int nvmlDeviceGetMemoryInfo(const int *device, memory *out);
EXPORT int nvmlDeviceGetTemperature(const int *device, unsigned sensor, unsigned *out);
EXPORT int nvmlDeviceGetPowerUsage(const int *device, unsigned *milliwatts);

static const int devices[N_DEVICES] = {0, 1};

int nvmlInit_v2(void)
{
    return getenv("AIQ_FAKE_NVML") != NULL ? OK : NOT_SUPPORTED;
}

int nvmlShutdown(void)
{
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = N_DEVICES;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const int **device)
{
    *device = &devices[index % N_DEVICES];
    return index < N_DEVICES ? OK : INVALID;
}

int nvmlDeviceGetUUID(const int *device, char *uuid, unsigned size)
{
    snprintf(uuid, size, "GPU-%d", *device);
    return OK;
}

int nvmlDeviceGetUtilizationRates(const int *device, utilization *out)
{
    while (strcmp(getenv("AIQ_FAKE_NVML"), "hang") == 0) {
        pause();
    }
    *out = (utilization){.gpu = (unsigned)atoi(getenv("AIQ_FAKE_NVML")) + (unsigned)*device};
    return OK;
}

int nvmlDeviceGetMemoryInfo(const int *device, memory *out)
{
    (void)device;
    *out = (memory){.total = 150000000000, .free = 149000000000, .used = 1000000000};
    return OK;
}

int nvmlDeviceGetTemperature(const int *device, unsigned sensor, unsigned *out)
{
    *out = 41;
    return *device == 0 && sensor == 0 ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetPowerUsage(const int *device, unsigned *milliwatts)
{
    *milliwatts = 76543;
    return *device == 0 ? OK : NOT_SUPPORTED;
}
