#include "t/cuda/emulate.h"

#include <algorithm>
#include <random>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(fake, bottom, size)  ((void)0)
#define __sanitizer_finish_switch_fiber(fake, bottom, size) ((void)0)
#endif

#define THREADS_MAX 1024
#define STACK       ((size_t)256 << 10)
#define LANES       32
#define PROCESSORS  3

dim3 threadIdx, blockIdx, blockDim, gridDim;

[[noreturn]] static void wrong(const char *what)
{
    fprintf(stderr, "emulated CUDA: block %u,%u,%u thread %u: %s\n", blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x, what);
    abort();
}

static const char *setting(const char *name)
{
    const char *p = getenv("AIQ_EMULATED");
    size_t n = strlen(name);

    while (p != NULL && *p != '\0') {
        if (strncmp(p, name, n) == 0) {
            return p + n;
        }
        p = strchr(p, ' ');
        p = p != NULL ? p + 1 : NULL;
    }
    return NULL;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *p = setting(name);

    return p != NULL ? strtoull(p, NULL, 10) : otherwise;
}

/* --- fibers --- */

/* Why a thread does not run. */
enum { READY, AT_EXCHANGE, AT_BARRIER, OVER };

struct fiber {
    char *stack; /* NULL: never started */
    void *sp;    /* where it stopped */
    int state;
    unsigned exchanges;
};

static fiber fibers[THREADS_MAX];
static void *scheduler_sp;
static unsigned current;
static const std::function<void()> *body;
static float exchanged[THREADS_MAX / LANES][2][LANES];
static struct tile {
    float a[16][16]; /* rows */
    float b[8][16];  /* columns */
} tiles[THREADS_MAX / LANES][2];
#if defined(__SANITIZE_ADDRESS__)
static const void *host_stack;
static size_t host_size;
#endif

/* Goes on with another stack: what a call keeps is pushed on the one, and popped from the
 * other. 3 ns, where swapcontext asks the system twice and longjmp AddressSanitizer. */
extern "C" void emulate_switch(void **from, void *to);
asm(R"(
    .text
    .hidden emulate_switch
    .globl emulate_switch
    .type emulate_switch, @function
emulate_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size emulate_switch, . - emulate_switch
)");

/* From a fiber to the scheduler, and back some time. */
static void leave(int state)
{
    void *fake = NULL;

    (void)fake;
    fibers[current].state = state;
    __sanitizer_start_switch_fiber(&fake, host_stack, host_size);
    emulate_switch(&fibers[current].sp, scheduler_sp);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}

/* A fiber runs the threads of its number of one block after another. */
static void fiber_main()
{
    __sanitizer_finish_switch_fiber(NULL, &host_stack, &host_size);
    for (;;) {
        (*body)();
        leave(OVER);
    }
}

/* A stack as if fiber_main had been called and had switched before its first instruction. */
static void make_stack(fiber *f)
{
    void (*entry)() = fiber_main;
    char *top;

    f->stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED) {
        wrong("no memory for a stack");
    }
    top = f->stack + STACK - 2 * sizeof(entry);
    memcpy(top, &entry, sizeof(entry));
    f->sp = top - 6 * sizeof(void *);
}

static void resume(unsigned i)
{
    void *fake = NULL;

    (void)fake;
    current = i;
    threadIdx = dim3(i);
    fibers[i].state = READY;
    if (fibers[i].stack == NULL) {
        make_stack(&fibers[i]);
    }
    __sanitizer_start_switch_fiber(&fake, fibers[i].stack, STACK);
    emulate_switch(&scheduler_sp, fibers[i].sp);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}

/* The order of things that a device runs in any: as they come, the other way round, or as
 * drawn. */
struct order {
    bool reverse;
    bool shuffled;
    std::minstd_rand random;

    std::vector<unsigned> of(unsigned n)
    {
        std::vector<unsigned> all(n);

        for (unsigned i = 0; i < n; i++) {
            all[i] = reverse ? n - 1 - i : i;
        }
        if (shuffled) {
            std::shuffle(all.begin(), all.end(), random);
        }
        return all;
    }
};

/* Runs a warp until all its lanes are over, or at a barrier. */
static void run_warp(unsigned first, unsigned end, const std::vector<unsigned> &lanes)
{
    for (bool again = true; again;) {
        int state = -1;

        for (unsigned lane : lanes) {
            unsigned t = first + lane;

            if (t >= end) {
                continue;
            }

            if (fibers[t].state == OVER) {
                continue;
            }
            resume(t);
            if (state >= 0 && fibers[t].state != state) {
                wrong("not all lanes of the warp are here");
            }
            state = fibers[t].state;
        }
        again = state == AT_EXCHANGE;
    }
}

/* Lanes that leave alone would miss the exchanges of the others: whole warps are over. */
static void run_block(unsigned threads, order *o)
{
    unsigned warps = (threads + LANES - 1) / LANES, waiting;
    std::vector<unsigned> lanes = o->of(LANES);

    for (unsigned t = 0; t < threads; t++) {
        fibers[t].state = READY;
        fibers[t].exchanges = 0;
    }
    do {
        unsigned over = 0;

        waiting = 0;
        for (unsigned w : o->of(warps)) {
            unsigned first = w * LANES;
            unsigned end = first + LANES < threads ? first + LANES : threads;

            run_warp(first, end, lanes);
            over += fibers[first].state == OVER;
            waiting += fibers[first].state == AT_BARRIER;
        }
        if (waiting > 0 && over > 0) {
            wrong("a barrier that not all threads reach");
        }
    } while (waiting > 0);
}

void emulate_grid(dim3 grid, dim3 block, const std::function<void()> &thread)
{
    order o = {setting("reverse") != NULL, setting("shuffle=") != NULL,
               std::minstd_rand((unsigned)number("shuffle=", 1))};

    if (block.x % LANES != 0 || block.x > THREADS_MAX || block.y * block.z != 1 ||
        grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        wrong("no such grid");
    }
    body = &thread;
    gridDim = grid;
    blockDim = block;
    for (unsigned i : o.of(grid.x * grid.y * grid.z)) {
        blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        run_block(block.x, &o);
    }
}

void __syncthreads()
{
    leave(AT_BARRIER);
}

const float *emulate_exchange(float x, unsigned *lane)
{
    fiber *f = &fibers[current];
    float *slots = exchanged[current / LANES][f->exchanges++ % 2];

    *lane = current % LANES;
    slots[*lane] = x;
    leave(AT_EXCHANGE);
    return slots;
}

/* --- numbers --- */

/* Exponents differ in their offset, 112. */
float half_value(uint16_t h)
{
    float f = __uint_as_float((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;

    if ((h & 0x7c00) == 0x7c00) {
        f = (h & 0x3ff) != 0 ? NAN : INFINITY;
    }
    return (h & 0x8000) != 0 ? -f : f;
}

/* To the nearest, even. */
uint16_t half_of(float x)
{
    uint32_t bits, sign, h;

    memcpy(&bits, &x, sizeof(bits));
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        h = 0x7e00;
    } else if (bits >= 0x47800000) { /* 65536 */
        h = 0x7c00;
    } else if (bits < 0x38800000) { /* 2^-14: units of 2^-24 */
        h = (uint32_t)rintf(fabsf(x) * 0x1p24f);
    } else {
        h = (bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13;
    }
    return (uint16_t)(sign | h);
}

uint16_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    if (std::isnan(x)) {
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to the nearest, even */
}

/* A word has two neighbours of a row of a, or of a column of b. Four lanes have eight columns
 * of a row, eight such the rows; words go on with the rows, then the columns behind them. Each
 * lane converts its own words: converting where they are multiplied were most of the tests. */
void multiply_tiles(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    fiber *f = &fibers[current];
    tile *t = &tiles[current / LANES][f->exchanges++ % 2];
    unsigned lane = current % LANES;
    unsigned row = lane / 4, col = lane % 4 * 2; /* of the first value of a word */

    for (unsigned i = 0; i < 2; i++) {
        for (unsigned w = 0; w < 4; w++) {
            t->a[row + w % 2 * 8][col + w / 2 * 8 + i] = half_value((uint16_t)(a[w] >> 16 * i));
        }
        for (unsigned w = 0; w < 2; w++) {
            t->b[row][col + w * 8 + i] = half_value((uint16_t)(b[w] >> 16 * i));
        }
    }
    leave(AT_EXCHANGE);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < 16; k++) {
            d[i] += t->a[row + i / 2 * 8][k] * t->b[col + i % 2][k];
        }
    }
}

void emulate_check_address(const void *p, size_t size)
{
    if ((uintptr_t)p % size != 0) {
        wrong("a read from an address that is no multiple of its size");
    }
}

/* --- the host's side --- */

struct emulate_stream {
    int unused;
};

struct emulate_graph {
    std::vector<std::function<void()>> work;
};

static struct {
    uint64_t calls;
    char setting[256]; /* calls count anew when AIQ_EMULATED is another */
    bool lost;
    uint64_t used; /* bytes */
    int device;
    emulate_graph *recording;
} state;

static cudaError_t status()
{
    const char *now = getenv("AIQ_EMULATED");

    now = now != NULL ? now : "";
    if (strcmp(now, state.setting) != 0) {
        snprintf(state.setting, sizeof(state.setting), "%s", now);
        state.calls = 0;
        state.lost = false;
    }
    return state.lost ? cudaErrorUnknown : cudaSuccess;
}

/* Counts a call that can fail. */
static cudaError_t call()
{
    if (status() == cudaSuccess && ++state.calls == number("fail=", 0)) {
        state.lost = true;
    }
    return status();
}

const char *cudaGetErrorString(cudaError_t rc)
{
    static const char *const text[] = {"no error", "out of memory", "no such device",
                                       "the device is lost"};

    return text[rc];
}

cudaError_t cudaGetLastError()
{
    return status();
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = (int)number("devices=", 1);
    return cudaGetLastError();
}

cudaError_t cudaGetDevice(int *i)
{
    *i = state.device;
    return cudaGetLastError();
}

cudaError_t cudaSetDevice(int i)
{
    state.device = i;
    return cudaGetLastError();
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int i)
{
    snprintf(out->name, sizeof(out->name), "emulated device %d", i);
    return cudaGetLastError();
}

cudaError_t cudaDeviceGetAttribute(int *out, int what, int i)
{
    (void)i;
    switch (what) {
    case cudaDevAttrComputeCapabilityMajor:
        *out = setting("old") != NULL ? 7 : 9;
        break;
    case cudaDevAttrMultiProcessorCount:
        *out = PROCESSORS;
        break;
    default:
        *out = 0;
    }
    return cudaGetLastError();
}

static uint64_t memory()
{
    return number("memory=", (uint64_t)1 << 34);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = memory();
    *available = *total - (state.used < *total ? state.used : *total);
    return cudaGetLastError();
}

/* The size lies before what is given out, which is aligned as a device's is. */
#define BEFORE 256

cudaError_t cudaMalloc(void **p, size_t n)
{
    char *memory_;

    if (call() != cudaSuccess) {
        return cudaErrorUnknown;
    }
    if (n > memory() || state.used > memory() - n) {
        return cudaErrorMemoryAllocation;
    }
    memory_ = (char *)aligned_alloc(BEFORE, (n + 2 * BEFORE - 1) / BEFORE * BEFORE);
    memcpy(memory_, &n, sizeof(n));
    memset(memory_ + BEFORE, 0xff, n); /* NaN: nobody reads what nobody wrote */
    state.used += n;
    *p = memory_ + BEFORE;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    size_t n;

    if (p != NULL) {
        memcpy(&n, (char *)p - BEFORE, sizeof(n));
        state.used -= n;
        free((char *)p - BEFORE);
    }
    return cudaGetLastError();
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    if (call() != cudaSuccess) {
        return cudaErrorUnknown;
    }
    *p = malloc(n);
    return *p != NULL ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaGetLastError();
}

void emulate_do(std::function<void()> work)
{
    if (state.recording != NULL) {
        state.recording->work.push_back(work);
    } else if (call() == cudaSuccess) {
        work();
    }
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, cudaStream_t s)
{
    (void)kind;
    (void)s;
    if (state.recording != NULL) {
        wrong("a copy within a graph");
    }
    if (call() != cudaSuccess) {
        return cudaErrorUnknown;
    }
    memcpy(to, from, n);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, int flags)
{
    (void)flags;
    *s = (cudaStream_t)calloc(1, sizeof(**s));
    return call();
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    free(s);
    return cudaGetLastError();
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    (void)s;
    return call();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode)
{
    (void)s;
    (void)mode;
    if (call() != cudaSuccess || setting("capture=no") != NULL) {
        return cudaErrorUnknown;
    }
    state.recording = new emulate_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
    (void)s;
    *out = state.recording;
    state.recording = NULL;
    return call();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, int flags)
{
    (void)flags;
    *out = new emulate_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s)
{
    (void)s;
    for (size_t i = 0; i < g->work.size() && call() == cudaSuccess; i++) {
        g->work[i]();
    }
    return cudaGetLastError();
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaGetLastError();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g)
{
    delete g;
    return cudaGetLastError();
}
