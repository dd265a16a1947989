/* Weights times many tokens, by the library, in slices of the rows where they are unpacked. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>

static bool one_product(kern_model *m, uint32_t n, const product *p, bool add)
{
    const kern_tensor *w = p->w;
    uint32_t slice = (uint32_t)(m->n_unpacked / w->cols) / SLICE * SLICE;

    if (w->type == KERN_BF16) {
        return blas_product(m->dev->products, m->dev->stream, p->y, w->rows, m->rounded,
                            (const uint16_t *)w->data, w->rows, w->cols, n, add);
    }
    for (uint32_t row = 0; row < w->rows; row += slice) {
        uint32_t rows = least(slice, w->rows - row);

        ops_unpack(m, w, row, rows);
        if (!blas_product(m->dev->products, m->dev->stream, p->y + row, w->rows, m->rounded,
                          m->unpacked, rows, w->cols, n, add)) {
            return false;
        }
    }
    return true;
}

bool gemm_run(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
              bool add)
{
    ops_round(m, x, (uint64_t)n * p->w->cols);
    for (uint32_t i = 0; i < n_p; i++) {
        if (!one_product(m, n, &p[i], add)) {
            snprintf(m->dev->error, sizeof(m->dev->error),
                     "the CUDA library refused a product of %u x %u x %u", p[i].w->rows,
                     p[i].w->cols, n);
            return false;
        }
    }
    return true;
}
