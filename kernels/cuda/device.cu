/* The devices, and the table of the back end. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The oldest generation that the kernels are built for. */
#define GENERATION 8

bool device_check(kern_device *dev, cudaError_t rc, const char *doing)
{
    if (rc != cudaSuccess) {
        snprintf(dev->error, sizeof(dev->error), "%s: %s", doing, cudaGetErrorString(rc));
    }
    return rc == cudaSuccess;
}

void device_info(uint32_t index, kern_info *out)
{
    int n = 0, major = 0, minor = 0, before = 0;
    size_t available = 0, total = 0;
    cudaDeviceProp about;

    *out = {};
    if (cudaGetDeviceCount(&n) != cudaSuccess || index >= (uint32_t)n ||
        cudaGetDevice(&before) != cudaSuccess || cudaSetDevice((int)index) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    if (cudaGetDeviceProperties(&about, (int)index) == cudaSuccess &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)index) ==
            cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, (int)index) ==
            cudaSuccess &&
        cudaMemGetInfo(&available, &total) == cudaSuccess && major >= GENERATION) {
        uint64_t limit = (uint64_t)((double)total * KERN_MEMORY_SHARE),
                 used = total - available;

        out->score = 1000 + (uint32_t)major * 10 + (uint32_t)minor;
        out->memory = limit > used ? limit - used : 0;
        snprintf(out->title, sizeof(out->title), "%.*s", (int)sizeof(out->title) - 1,
                 about.name);
    }
    cudaSetDevice(before);
    cudaGetLastError(); /* what could not be looked at is said by the score */
}

bool device_has_room(kern_device *dev, uint64_t bytes, const char *what)
{
    kern_info info;

    device_info(dev->index, &info);
    if (info.score == 0) {
        snprintf(dev->error, sizeof(dev->error), "the device is lost");
        return false;
    }
    if (bytes > info.memory) {
        snprintf(dev->error, sizeof(dev->error),
                 "%s %llu MiB of the device, of which %llu are left to take", what,
                 (unsigned long long)(bytes >> 20), (unsigned long long)(info.memory >> 20));
        return false;
    }
    return true;
}

static void device_close(kern_device *dev)
{
    cudaSetDevice((int)dev->index);
    if (dev->products != NULL) {
        blas_free(dev->products);
    }
    if (dev->stream != NULL) {
        cudaStreamDestroy(dev->stream);
    }
    free(dev);
}

static kern_device *device_open(uint32_t index, uint32_t n_threads)
{
    kern_device *dev = (kern_device *)calloc(1, sizeof(*dev));

    (void)n_threads;
    if (dev == NULL) {
        return NULL;
    }
    dev->index = index;
    if (cudaSetDevice((int)index) != cudaSuccess ||
        cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking) != cudaSuccess ||
        (dev->products = blas_new()) == NULL) {
        cudaGetLastError();
        device_close(dev);
        return NULL;
    }
    return dev;
}

/* Pinned: what is not, the driver copies once more. */
static float *device_out_alloc(kern_device *dev, uint64_t n)
{
    float *out = NULL;

    return device_check(dev, cudaSetDevice((int)dev->index), "choosing the device") &&
                   device_check(dev, cudaMallocHost((void **)&out, n * sizeof(*out)),
                                "taking memory for results")
               ? out
               : NULL;
}

static void device_out_free(kern_device *dev, float *out)
{
    cudaSetDevice((int)dev->index);
    cudaFreeHost(out);
}

static const char *device_last_error(const kern_device *dev)
{
    return dev != NULL ? dev->error : "the CUDA device cannot be opened";
}

static const aiq_kernels table = {
    .abi = AIQ_KERNELS_ABI,
    .name = "cuda",
    .limit_ms = KERN_LIMIT_MS,
    .batch_tokens = 1024, /* two tiles of a product for each part of a large GPU */
    .probe = device_info,
    .open = device_open,
    .close = device_close,
    .page_bytes = model_page_bytes,
    .model_load = model_load,
    .model_free = model_free,
    .out_alloc = device_out_alloc,
    .out_free = device_out_free,
    .step = step_run,
    .rows_load = topk_load,
    .rows_free = topk_free,
    .topk = topk_run,
    .encode = encode_run,
    .last_error = device_last_error,
};

extern "C" __attribute__((visibility("default"))) const aiq_kernels *aiq_kernels_init(void);

const aiq_kernels *aiq_kernels_init(void)
{
    return &table;
}
