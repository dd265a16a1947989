/*
 * A GGUF file being read as a model: the numbers of its architecture, each between bounds, and
 * tensors of the shape that the numbers ask for. The first error stays; what is read after it
 * is harmless (1, 0, no tensor), so that a reader asks `failed` where it must, not everywhere.
 */
#ifndef INFER_MODEL_READER_H
#define INFER_MODEL_READER_H

#include "infer/gguf.h"
#include "kernels/aiq_kernels.h"

/* Beyond these a file is broken, or not for this program; they keep products in 64 bits. */
#define MODEL_MAX_LAYERS 1024
#define MODEL_MAX_WIDTH  (1 << 20)
#define MODEL_MAX_HEADS  4096
#define MODEL_MAX_CTX    (1 << 20)

typedef struct {
    const gguf *g;
    const char *arch;  /* what its keys begin with; "" until it is known */
    bool *used;        /* [tensors of g] those that were read; NULL: nobody asks */
    uint64_t n_params; /* in them */
    bool failed;
    char *err;
    size_t errlen;
} model_reader;

__attribute__((format(printf, 2, 3))) void model_fail(model_reader *r, const char *format, ...);

bool model_str_is(gguf_str s, const char *want);

/* general.architecture, or "". */
gguf_str model_architecture(const gguf *g);

/* The architecture's key, or NULL. */
const gguf_kv *model_find(const model_reader *r, const char *key);

/* Its number, from 1 to max; absent is def, or an error where def is 0. */
uint32_t model_number(model_reader *r, const char *key, uint32_t def, uint32_t max);

/* Likewise; a value must lie between 0 and max, exclusive. */
float model_real(model_reader *r, const char *key, float def, double max);

/* A tensor of this shape; NULL and an error: it is missing, or has another. */
const gguf_tensor *model_tensor(model_reader *r, const char *name, uint64_t rows,
                                uint64_t cols);

/* Notes from here on which tensors are read. */
void model_tensors_begin(model_reader *r);

/* Ends that: an error that names one of those that were not read, if the file has such. */
void model_tensors_end(model_reader *r);

/* Some rows of t, which may be NULL. */
kern_tensor model_rows(const gguf_tensor *t, uint32_t first, uint32_t rows);

kern_tensor model_matrix(model_reader *r, const char *name, uint32_t rows, uint32_t cols);

/* n numbers in F32; NULL and an error: there are none. */
const float *model_vector(model_reader *r, const char *name, uint32_t n);

/* "blk.LAYER.WHAT" */
const char *model_block(char name[64], uint32_t layer, const char *what);

#endif
