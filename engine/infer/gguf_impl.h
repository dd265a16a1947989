/* Inside the GGUF reader. */
#ifndef INFER_GGUF_IMPL_H
#define INFER_GGUF_IMPL_H

#include <stdatomic.h>

#include "infer/gguf.h"

struct gguf {
    atomic_uint shares; /* owners but the first */
    const uint8_t *data;
    size_t size;
    void *mapping; /* of the same, if we made it */
    int fd;        /* the file, then */
    size_t n_kvs;
    size_t n_tensors;
    gguf_kv *kvs;         /* by key */
    gguf_tensor *tensors; /* by name */
    gguf *next;           /* the part after this one, which is its owner */
};

/* One whose name another has, or NULL. */
const gguf_tensor *gguf_sort_tensors(gguf *g);

#endif
