/*
 * Whole texts at once, packed: rows are the tokens of one text after the other. A layer's keys
 * and values lie as those of one sequence, in pages of its own that the next layer writes
 * again; a row sees those of its text.
 */
#include "kernels/cuda/cuda.h"

static bool fill(kern_model *m, const kern_text *texts, uint32_t n_texts, uint32_t n)
{
    row_arrays to = step_rows(m->host_rows, n);
    uint32_t row = 0, n_pages = divide_up(n, KERN_PAGE);

    for (uint32_t t = 0; t < n_texts; t++) {
        uint32_t base = row;

        to.out[t] = base;
        step_add_rows(&to, base, texts[t].n, layers_by_library(&m->layers[0].wq, n));
        for (uint32_t i = 0; i < texts[t].n; i++, row++) {
            to.ids[row] = texts[t].ids[i];
            to.pos[row] = i;
            to.end[row] = m->config.encoder ? texts[t].n : i + 1;
            to.first[row] = 0;
            to.base[row] = base;
        }
    }
    for (uint32_t i = 0; i < n_pages; i++) {
        to.pages[i] = i;
    }
    return step_put_rows(m, &to, n, n_pages);
}

bool encode_run(kern_model *m, const kern_text *texts, uint32_t n_texts, kern_pooling pooling,
                float *out)
{
    const float *from = m->x;
    float *pooled = m->xb;
    uint32_t n = 0;

    for (uint32_t t = 0; t < n_texts; t++) {
        n += texts[t].n;
    }
    if (!device_check(m->dev, cudaSetDevice((int)m->dev->index), "texts") ||
        !fill(m, texts, n_texts, n) || !layers_run(m, n, true)) {
        return false;
    }
    if (!m->config.encoder) {
        ops_norm(m, m->xb, m->x, m->weights.out_norm, n);
        from = m->xb;
        pooled = m->x;
    }
    ops_pool(m, pooled, from, n_texts, n, pooling);
    return step_fetch(m, pooled, (uint64_t)n_texts * m->config.d_model, out);
}
