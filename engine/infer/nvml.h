/*
 * What NVIDIA's driver tells of its devices, by its own library, libnvidia-ml.so.1: opened
 * where it is there, not needed to build. Its numbers are the driver's, which need not be
 * CUDA's (CUDA_VISIBLE_DEVICES): the uuid says which is which.
 */
#ifndef AIQ_NVML_H
#define AIQ_NVML_H

#include <stdint.h>

typedef struct nvml nvml;

/* Numbers that this device does not tell are negative. */
typedef struct {
    char uuid[96];
    int64_t utilization;  /* percent of the last moment in which something ran */
    int64_t memory_used;  /* bytes */
    int64_t memory_total; /* bytes */
    int64_t temperature;  /* degrees Celsius */
    int64_t power;        /* milliwatts */
} nvml_sample;

/* NULL: no such library, or no driver behind it. Blocks (loads it); aborts without memory. */
nvml *nvml_open(void);
void nvml_close(nvml *n);

uint32_t nvml_count(const nvml *n);

/* Asks device i, some milliseconds. One thread at a time. */
void nvml_read(nvml *n, uint32_t i, nvml_sample *out);

#endif
