/*
 * Which files are models that make vectors of texts, and how: encoders of BERT's family, and
 * models of infer/model.h that say how the states of their tokens become one vector.
 */
#ifndef INFER_EMBED_MODEL_H
#define INFER_EMBED_MODEL_H

#include "infer/model.h"

typedef struct {
    infer_model model;
    kern_pooling pooling;
} embed_model;

/* Whether the file is such a model; where it is broken, too. One that says nothing of pooling
 * is for chats. */
bool embed_model_is(const gguf *g);

/* As infer_model_read. */
bool embed_model_read(embed_model *m, const gguf *g, uint32_t n_vocab, char *err,
                      size_t errlen);

void embed_model_free(embed_model *m);

#endif
