/*
 * From a GGUF file to what the kernels want: a config and weights in place. All that the
 * kernels rely on is checked here: the numbers against each other, each tensor's name, type and
 * shape against the numbers. A tensor that nobody would read is an error, because a model
 * computed without it answers nonsense.
 */
#ifndef INFER_MODEL_H
#define INFER_MODEL_H

#include "infer/gguf.h"
#include "kernels/aiq_kernels.h"

typedef struct {
    const char *architecture; /* as the file names it */
    kern_config config;
    kern_weights weights; /* point into the file */
    kern_layer *layers;
    float *rope_factors;
    uint64_t n_params;
} infer_model;

/* Whether the file's architecture is one of those below; false, and one line in err, if not. */
bool infer_model_is(const gguf *g, char *err, size_t errlen);

/* n_vocab is the tokenizer's. False, and one line in err, if this is no model that we run. */
bool infer_model_read(infer_model *m, const gguf *g, uint32_t n_vocab, char *err,
                      size_t errlen);

/* Contexts will have n_ctx tokens at most, fewer than the model could have: before the kernels
 * have it, which positions are turned with other factors then. */
void infer_model_fit(infer_model *m, const gguf *g, uint32_t n_ctx);

/* One of its own, which points into the same file. False: memory ends; it is to be freed then,
 * too. */
bool infer_model_copy(infer_model *to, const infer_model *from);

void infer_model_free(infer_model *m);

#endif
