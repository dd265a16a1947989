#include "kernels/cpu/cpu.h"

/* Below this many multiply-adds waking a thread costs more than it saves (about 10 µs). */
#define MIN_CHUNK_MACS ((uint64_t)256 * 1024)

typedef struct {
    kern_model *m;
    float *y;
    const float *x;
    const kern_tensor *w;
    uint32_t n;
} job;

static void rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_tensor *w = j->w;
    const cpu_ops *ops = j->m->dev->ops;
    float *scratch = j->m->wrow + (size_t)thread * j->m->wrow_len;

    for (uint32_t r = begin; r < end; r++) {
        const float *row = cpu_row(ops, w, r, scratch);
        uint32_t i = 0;

        for (; i + 4 <= j->n; i += 4) {
            float out[4];

            ops->dot4(out, row, j->x + (size_t)i * w->cols, w->cols, w->cols);
            for (uint32_t t = 0; t < 4; t++) {
                j->y[(size_t)(i + t) * w->rows + r] = out[t];
            }
        }
        for (; i < j->n; i++) {
            j->y[(size_t)i * w->rows + r] = ops->dot(row, j->x + (size_t)i * w->cols, w->cols);
        }
    }
}

void cpu_matmul(kern_model *m, float *y, const float *x, const kern_tensor *w, uint32_t n)
{
    job j = {.m = m, .y = y, .x = x, .w = w, .n = n};
    uint64_t macs_per_row = (uint64_t)w->cols * n;
    uint32_t grain = (uint32_t)(MIN_CHUNK_MACS / macs_per_row) + 1;

    cpu_pool_run(m->dev->pool, w->rows, grain, rows, &j);
}
