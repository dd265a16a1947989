/*
 * A back end for tests: the CPU's, with devices that run out of memory, are lost, slow or hang
 * when the environment says so. AIQ_FAKE is a list of words:
 *
 *   devices=N    how many there are (1)
 *   memory=B     bytes that each has, of which KERN_MEMORY_SHARE may be taken (the system's)
 *   score=N      of each (100)
 *   abi=N        of the table (the right one)
 *   load=N       the Nth load of a model finds no memory
 *   oom=N        the Nth step finds no memory; the device goes on
 *   lost=N       the Nth step loses its device for good
 *   slow=MS      each step takes so much longer
 *   hang=N       the Nth step hangs: for ever, or until there is the file that AIQ_FAKE_UNTIL
 *                names; then it goes on as if nothing had been. It first makes the file that
 *                AIQ_FAKE_HANGS names
 *   only=I       the last four are of device I: steps of others are not counted, nor slow
 *   hangprobe=N  likewise the Nth look at a device, load, …
 *   hangload=N
 *   hangfree=N   … end of a model
 *   limit=MS     what its calls may take (KERN_LIMIT_MS)
 *   batch=N      tokens that a call should have (the CPU's)
 *
 * A step is of a chat's, or a batch of texts. What happened must outlive a device that is
 * closed, hence the state of the process. It counts anew when AIQ_FAKE is another.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/aiq_kernels.h"
#include "kernels/cpu/quant.h"

#define MOST_DEVICES 32

static struct {
    pthread_mutex_t lock;
    char setting[256];
    uint32_t probes;
    uint32_t loads;
    uint32_t frees;
    uint32_t steps;
    uint32_t lost;               /* a bit for each device */
    uint64_t used[MOST_DEVICES]; /* bytes; of models, whatever the setting is meanwhile */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct kern_device {
    uint32_t index;
    void *cpu;
    const char *error; /* NULL: the CPU's */
};

struct kern_model {
    kern_device *dev;
    void *cpu;
    uint64_t bytes;
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
        state.probes = state.loads = state.frees = state.steps = state.lost = 0;
    }
}

static void unlock_state(void)
{
    pthread_mutex_unlock(&state.lock);
}

static void pause_ms(uint64_t ms)
{
    struct timespec pause = {(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)};

    nanosleep(&pause, NULL);
}

static void hang(void)
{
    char until[256] = "";
    int fd = -1;

    if (getenv("AIQ_FAKE_HANGS") != NULL) {
        fd = open(getenv("AIQ_FAKE_HANGS"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (getenv("AIQ_FAKE_UNTIL") != NULL) {
        snprintf(until, sizeof(until), "%s", getenv("AIQ_FAKE_UNTIL"));
    }
    while (until[0] == '\0' || access(until, F_OK) != 0) {
        pause_ms(1);
    }
}

/* One more of what is counted, which may hang; returns how many there are. */
static uint32_t count(uint32_t *n, const char *hangs)
{
    lock_state();
    uint32_t now = ++*n;
    unlock_state();
    if (now == option(hangs, 0)) {
        hang();
    }
    return now;
}

static bool is_lost(uint32_t index)
{
    lock_state();
    bool lost = state.lost >> index & 1;
    unlock_state();
    return lost;
}

/* What models may still take of a device. Under the lock. */
static uint64_t room(uint32_t index)
{
    uint64_t all = option("memory", UINT64_MAX), share;

    if (all == UINT64_MAX) {
        return all;
    }
    share = (uint64_t)((double)all * KERN_MEMORY_SHARE);
    return share > state.used[index] ? share - state.used[index] : 0;
}

static void fake_probe(uint32_t index, kern_info *out)
{
    count(&state.probes, "hangprobe");
    bool there = index < MOST_DEVICES && index < option("devices", 1) && !is_lost(index);

    *out = (kern_info){.score = there ? (uint32_t)option("score", 100) : 0};
    lock_state();
    out->memory = there ? room(index) : 0;
    unlock_state();
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

static uint64_t tensor_bytes(const kern_tensor *t)
{
    return t->data != NULL ? t->rows * cpu_row_bytes(t->type, t->cols) : 0;
}

static uint64_t model_bytes(const kern_device *dev, const kern_config *config,
                            const kern_weights *w, uint32_t n_pages)
{
    uint64_t n = n_pages > 0 ? n_pages * fake_page_bytes(dev, config) : 0;

    n += tensor_bytes(&w->embed) + tensor_bytes(&w->positions);
    n += w->out.data != w->embed.data ? tensor_bytes(&w->out) : 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const kern_layer *l = &w->layers[i];

        n += tensor_bytes(&l->wq) + tensor_bytes(&l->wk) + tensor_bytes(&l->wv) +
             tensor_bytes(&l->wo) + tensor_bytes(&l->w_gate) + tensor_bytes(&l->w_up) +
             tensor_bytes(&l->w_down);
    }
    return n;
}

/* Whether the device has memory for a model of so many bytes, which it then has. */
static bool take_memory(kern_device *dev, uint64_t bytes)
{
    uint32_t load = count(&state.loads, "hangload");
    bool fits;

    lock_state();
    fits = load != option("load", 0) && bytes <= room(dev->index);
    if (fits) {
        state.used[dev->index] += bytes;
    }
    unlock_state();
    dev->error = fits ? NULL : "the fake device has no memory for the model";
    return fits;
}

static void give_memory(const kern_device *dev, uint64_t bytes)
{
    lock_state();
    state.used[dev->index] -= bytes;
    unlock_state();
}

static kern_model *fake_model_load(kern_device *dev, const kern_config *config,
                                   const kern_weights *weights, uint32_t max_batch,
                                   uint32_t max_seqs, uint32_t n_pages)
{
    uint64_t bytes = model_bytes(dev, config, weights, n_pages);
    kern_model *m;

    if (!take_memory(dev, bytes)) {
        return NULL;
    }
    m = calloc(1, sizeof(*m));
    if (m == NULL) {
        give_memory(dev, bytes);
        dev->error = "out of memory";
        return NULL;
    }
    *m = (kern_model){.dev = dev, .bytes = bytes};
    m->cpu =
        aiq_kernels_cpu.model_load(dev->cpu, config, weights, max_batch, max_seqs, n_pages);
    if (m->cpu == NULL) {
        give_memory(dev, bytes);
        free(m);
        return NULL;
    }
    return m;
}

static void fake_model_free(kern_model *m)
{
    count(&state.frees, "hangfree");
    aiq_kernels_cpu.model_free(m->cpu);
    give_memory(m->dev, m->bytes);
    free(m);
}

static float *fake_out_alloc(kern_device *dev, uint64_t n)
{
    return aiq_kernels_cpu.out_alloc(dev->cpu, n);
}

static void fake_out_free(kern_device *dev, float *out)
{
    aiq_kernels_cpu.out_free(dev->cpu, out);
}

/* What may happen before each step. False: it fails. */
static bool begin_step(kern_device *dev)
{
    bool meant = option("only", dev->index) == dev->index;
    uint32_t step;

    pause_ms(meant ? option("slow", 0) : 0);
    lock_state();
    step = meant ? ++state.steps : 0;
    if (meant && step == option("lost", 0)) {
        state.lost |= 1u << dev->index;
    }
    unlock_state();
    if (meant && step == option("hang", 0)) {
        hang();
    }
    dev->error = is_lost(dev->index)                 ? "the fake device is lost"
                 : meant && step == option("oom", 0) ? "the fake device has no memory"
                                                     : NULL;
    return dev->error == NULL;
}

static bool fake_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    return begin_step(m->dev) && aiq_kernels_cpu.step(m->cpu, seqs, n_seqs, logits);
}

static bool fake_encode(kern_model *m, const kern_text *texts, uint32_t n_texts,
                        kern_pooling pooling, float *out)
{
    return begin_step(m->dev) && aiq_kernels_cpu.encode(m->cpu, texts, n_texts, pooling, out);
}

static aiq_kernels fake = {
    .name = "fake",
    .probe = fake_probe,
    .open = fake_open,
    .close = fake_close,
    .page_bytes = fake_page_bytes,
    .model_load = fake_model_load,
    .model_free = fake_model_free,
    .out_alloc = fake_out_alloc,
    .out_free = fake_out_free,
    .step = fake_step,
    .encode = fake_encode,
    .last_error = fake_last_error,
};

__attribute__((visibility("default"))) const aiq_kernels *aiq_kernels_init(void);

const aiq_kernels *aiq_kernels_init(void)
{
    fake.abi = (uint32_t)option("abi", AIQ_KERNELS_ABI);
    fake.limit_ms = (uint32_t)option("limit", KERN_LIMIT_MS);
    fake.batch_tokens = (uint32_t)option("batch", aiq_kernels_cpu.batch_tokens);
    return &fake;
}
