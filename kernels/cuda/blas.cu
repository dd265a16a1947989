/*
 * cuBLASLt, as far as it is used. It works in columns: our y[n][stride] is its matrix of rows x
 * n, our w[rows][cols] its cols x rows, which it takes transposed.
 */
#include "kernels/cuda/cuda.h"

#include <cublasLt.h>
#include <stdlib.h>

#define WORKSPACE ((size_t)32 << 20)
#define KNOWN     64 /* shapes whose best way is remembered: a model has few */

struct shape {
    uint32_t rows;
    uint32_t cols;
    uint32_t n;
    uint32_t stride;
    cublasLtMatmulAlgo_t way;
};

struct blas {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t op;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    shape known[KNOWN];
    uint32_t n_known; /* ever: the oldest is forgotten */
};

blas *blas_new(void)
{
    blas *b = (blas *)calloc(1, sizeof(*b));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = WORKSPACE;

    if (b == NULL) {
        return NULL;
    }
    if (cublasLtCreate(&b->handle) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulDescCreate(&b->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulDescSetAttribute(b->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof(transposed)) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceCreate(&b->preference) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceSetAttribute(
            b->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
            sizeof(workspace)) == CUBLAS_STATUS_SUCCESS &&
        cudaMalloc(&b->workspace, WORKSPACE) == cudaSuccess) {
        return b;
    }
    blas_free(b);
    return NULL;
}

void blas_free(blas *b)
{
    if (b->workspace != NULL) {
        cudaFree(b->workspace);
    }
    if (b->preference != NULL) {
        cublasLtMatmulPreferenceDestroy(b->preference);
    }
    if (b->op != NULL) {
        cublasLtMatmulDescDestroy(b->op);
    }
    if (b->handle != NULL) {
        cublasLtDestroy(b->handle);
    }
    free(b);
}

/* The three matrices of a product. */
struct layouts {
    cublasLtMatrixLayout_t w, x, y;
};

static bool make_layouts(layouts *l, uint32_t rows, uint32_t cols, uint32_t n, uint32_t stride)
{
    return cublasLtMatrixLayoutCreate(&l->w, CUDA_R_16BF, cols, rows, cols) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&l->x, CUDA_R_16BF, cols, n, cols) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&l->y, CUDA_R_32F, rows, n, stride) ==
               CUBLAS_STATUS_SUCCESS;
}

static void free_layouts(layouts *l)
{
    if (l->w != NULL) {
        cublasLtMatrixLayoutDestroy(l->w);
    }
    if (l->x != NULL) {
        cublasLtMatrixLayoutDestroy(l->x);
    }
    if (l->y != NULL) {
        cublasLtMatrixLayoutDestroy(l->y);
    }
}

/* The library's best way for a shape; NULL: it has none. */
static const cublasLtMatmulAlgo_t *way_of(blas *b, const layouts *l, const shape *s)
{
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;

    for (uint32_t i = 0; i < least(b->n_known, KNOWN); i++) {
        const shape *k = &b->known[i];

        if (k->rows == s->rows && k->cols == s->cols && k->n == s->n &&
            k->stride == s->stride) {
            return &k->way;
        }
    }
    if (cublasLtMatmulAlgoGetHeuristic(b->handle, b->op, l->w, l->x, l->y, l->y, b->preference,
                                       1, &found, &n) != CUBLAS_STATUS_SUCCESS ||
        n == 0) {
        return NULL;
    }
    shape *slot = &b->known[b->n_known++ % KNOWN];
    *slot = *s;
    slot->way = found.algo;
    return &slot->way;
}

bool blas_product(blas *b, cudaStream_t stream, float *y, uint32_t stride, const uint16_t *x,
                  const uint16_t *w, uint32_t rows, uint32_t cols, uint32_t n, bool add)
{
    const float one = 1, beta = add ? 1 : 0;
    const shape s = {rows, cols, n, stride, {}};
    layouts l = {};
    bool ok = make_layouts(&l, rows, cols, n, stride);
    const cublasLtMatmulAlgo_t *way = ok ? way_of(b, &l, &s) : NULL;

    ok = way != NULL &&
         cublasLtMatmul(b->handle, b->op, &one, w, l.w, x, l.x, &beta, y, l.y, y, l.y, way,
                        b->workspace, WORKSPACE, stream) == CUBLAS_STATUS_SUCCESS;
    free_layouts(&l);
    return ok;
}
