/*
 * A back end for tests: the CPU's, with devices that run out of memory, are lost or slow when
 * the environment says so. AIQ_FAKE is a list of words:
 *
 *   devices=N    how many there are (1)
 *   memory=B     bytes that each says may be taken (the system's)
 *   score=N      of each (100)
 *   abi=N        of the table (the right one)
 *   load=N       the Nth load of a model finds no memory
 *   oom=N        the Nth step finds no memory; the device goes on
 *   lost=N       the Nth step loses its device for good
 *   slow=MS      each step takes so much longer
 *
 * What happened must outlive a device that is closed, hence the state of the process. It counts
 * anew when AIQ_FAKE is another.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/aiq_kernels.h"

static struct {
    pthread_mutex_t lock;
    char setting[256];
    uint32_t loads;
    uint32_t steps;
    uint32_t lost; /* a bit for each device */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct kern_device {
    uint32_t index;
    void *cpu;
    const char *error; /* NULL: the CPU's */
};

struct kern_model {
    kern_device *dev;
    void *cpu;
};

static const char *setting(void)
{
    const char *p = getenv("AIQ_FAKE");

    return p != NULL ? p : "";
}

static uint64_t option(const char *name, uint64_t otherwise)
{
    const char *p = setting();
    size_t n = strlen(name);

    while (p != NULL) {
        if (strncmp(p, name, n) == 0 && p[n] == '=') {
            return strtoull(p + n + 1, NULL, 10);
        }
        p = strchr(p, ' ');
        p = p != NULL ? p + 1 : NULL;
    }
    return otherwise;
}

/* The state, locked, of this setting. */
static void lock_state(void)
{
    pthread_mutex_lock(&state.lock);
    if (strcmp(state.setting, setting()) != 0) {
        snprintf(state.setting, sizeof(state.setting), "%s", setting());
        state.loads = state.steps = state.lost = 0;
    }
}

static void unlock_state(void)
{
    pthread_mutex_unlock(&state.lock);
}

static bool is_lost(uint32_t index)
{
    lock_state();
    bool lost = state.lost >> index & 1;
    unlock_state();
    return lost;
}

static void fake_probe(uint32_t index, kern_info *out)
{
    bool there = index < option("devices", 1) && !is_lost(index);

    *out = (kern_info){.score = there ? (uint32_t)option("score", 100) : 0,
                       .memory = option("memory", UINT64_MAX)};
    snprintf(out->title, sizeof(out->title), "fake device %u", index);
}

static kern_device *fake_open(uint32_t index, uint32_t n_threads)
{
    kern_device *dev = calloc(1, sizeof(*dev));

    if (dev == NULL) {
        return NULL;
    }
    dev->index = index;
    dev->cpu = aiq_kernels_cpu.open(0, n_threads);
    if (dev->cpu == NULL) {
        free(dev);
        return NULL;
    }
    return dev;
}

static void fake_close(kern_device *dev)
{
    aiq_kernels_cpu.close(dev->cpu);
    free(dev);
}

static const char *fake_last_error(const kern_device *dev)
{
    if (dev != NULL && dev->error != NULL) {
        return dev->error;
    }
    return aiq_kernels_cpu.last_error(dev != NULL ? dev->cpu : NULL);
}

static uint64_t fake_page_bytes(const kern_device *dev, const kern_config *config)
{
    return aiq_kernels_cpu.page_bytes(dev->cpu, config);
}

static kern_model *fake_model_load(kern_device *dev, const kern_config *config,
                                   const kern_weights *weights, uint32_t max_batch,
                                   uint32_t n_pages)
{
    kern_model *m = NULL;

    dev->error = NULL;
    lock_state();
    bool fails = ++state.loads == option("load", 0);
    unlock_state();
    if (fails) {
        dev->error = "the fake device has no memory for the model";
        return NULL;
    }
    m = calloc(1, sizeof(*m));
    if (m == NULL) {
        dev->error = "out of memory";
        return NULL;
    }
    m->dev = dev;
    m->cpu = aiq_kernels_cpu.model_load(dev->cpu, config, weights, max_batch, n_pages);
    if (m->cpu == NULL) {
        free(m);
        return NULL;
    }
    return m;
}

static void fake_model_free(kern_model *m)
{
    aiq_kernels_cpu.model_free(m->cpu);
    free(m);
}

static bool fake_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    uint64_t slow = option("slow", 0);
    struct timespec pause = {(time_t)(slow / 1000), (long)(slow % 1000 * 1000000)};

    nanosleep(&pause, NULL);
    lock_state();
    uint32_t step = ++state.steps;
    if (step == option("lost", 0)) {
        state.lost |= 1u << m->dev->index;
    }
    unlock_state();
    m->dev->error = is_lost(m->dev->index)     ? "the fake device is lost"
                    : step == option("oom", 0) ? "the fake device has no memory"
                                               : NULL;
    return m->dev->error == NULL && aiq_kernels_cpu.step(m->cpu, seqs, n_seqs, logits);
}

static aiq_kernels fake = {
    .name = "fake",
    .probe = fake_probe,
    .open = fake_open,
    .close = fake_close,
    .page_bytes = fake_page_bytes,
    .model_load = fake_model_load,
    .model_free = fake_model_free,
    .step = fake_step,
    .last_error = fake_last_error,
};

__attribute__((visibility("default"))) const aiq_kernels *aiq_kernels_init(void);

const aiq_kernels *aiq_kernels_init(void)
{
    fake.abi = (uint32_t)option("abi", AIQ_KERNELS_ABI);
    return &fake;
}
