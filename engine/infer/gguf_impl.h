/* Inside the GGUF reader. */
#ifndef INFER_GGUF_IMPL_H
#define INFER_GGUF_IMPL_H

#include "infer/gguf.h"

struct gguf {
    const uint8_t *data;
    size_t size;
    void *mapping; /* of the same, if we made it */
    size_t n_kvs;
    size_t n_tensors;
    gguf_kv *kvs;         /* by key */
    gguf_tensor *tensors; /* by name */
    gguf *next;           /* the part after this one, which is its owner */
};

/* False if two have the same name. */
bool gguf_sort_tensors(gguf *g);

#endif
