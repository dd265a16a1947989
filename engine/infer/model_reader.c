#include "infer/model_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void model_fail(model_reader *r, const char *format, ...)
{
    va_list args;

    if (r->failed) {
        return;
    }
    r->failed = true;
    va_start(args, format);
    vsnprintf(r->err, r->errlen, format, args);
    va_end(args);
}

uint32_t model_number(model_reader *r, const char *key, uint32_t def, uint32_t max)
{
    char name[64];
    const gguf_kv *kv;
    uint64_t v = def;

    snprintf(name, sizeof(name), "%s.%s", r->arch, key);
    kv = gguf_find(r->g, name);
    if (kv == NULL && def == 0) {
        model_fail(r, "%s is missing", name);
        return 1;
    }
    if (kv != NULL && (!gguf_as_uint(kv, &v) || v < 1 || v > max)) {
        model_fail(r, "%s is not a number from 1 to %u", name, max);
        return 1;
    }
    return (uint32_t)v;
}

float model_real(model_reader *r, const char *key, float def, double max)
{
    char name[64];
    const gguf_kv *kv;
    double v = def;

    snprintf(name, sizeof(name), "%s.%s", r->arch, key);
    kv = gguf_find(r->g, name);
    if (kv == NULL && def == 0) {
        model_fail(r, "%s is missing", name);
    }
    if (kv != NULL && (!gguf_as_float(kv, &v) || !(v > 0 && v < max))) {
        model_fail(r, "%s is not a number between 0 and %g", name, max);
    }
    return (float)v;
}

bool model_str_is(gguf_str s, const char *want)
{
    return s.len == strlen(want) && memcmp(s.p, want, s.len) == 0;
}

gguf_str model_architecture(const gguf *g)
{
    const gguf_kv *kv = gguf_find(g, "general.architecture");
    gguf_str name = {.p = "", .len = 0};

    if (kv != NULL) {
        gguf_as_str(kv, &name);
    }
    return name;
}

const gguf_kv *model_find(const model_reader *r, const char *key)
{
    char name[64];

    snprintf(name, sizeof(name), "%s.%s", r->arch, key);
    return gguf_find(r->g, name);
}

const gguf_tensor *model_tensor(model_reader *r, const char *name, uint64_t rows, uint64_t cols)
{
    const gguf_tensor *t = gguf_find_tensor(r->g, name);

    if (t == NULL) {
        model_fail(r, "the tensor %s is missing", name);
        return NULL;
    }
    if (t->cols != cols || t->rows != rows) {
        model_fail(r, "the tensor %s has the wrong shape", name);
        return NULL;
    }
    if (r->used != NULL) {
        r->used[t - gguf_tensor_at(r->g, 0)] = true;
    }
    r->n_params += rows * cols;
    return t;
}

void model_tensors_begin(model_reader *r)
{
    r->used = calloc(gguf_n_tensors(r->g) + 1, sizeof(*r->used));
    if (r->used == NULL) {
        model_fail(r, "out of memory");
    }
}

void model_tensors_end(model_reader *r)
{
    size_t n = gguf_n_tensors(r->g), i = 0;
    char shown[GGUF_SHOWN];

    while (!r->failed && i < n && r->used[i]) {
        i++;
    }
    if (!r->failed && i < n) {
        model_fail(r, "the file has tensors that are not supported, such as %s",
                   gguf_show(gguf_tensor_at(r->g, i)->name, shown));
    }
    free(r->used);
    r->used = NULL;
}

static kern_type kern_type_of(uint32_t type)
{
    switch (type) {
    case GGUF_TENSOR_F16:
        return KERN_F16;
    case GGUF_TENSOR_BF16:
        return KERN_BF16;
    case GGUF_TENSOR_Q8_0:
        return KERN_Q8_0;
    case GGUF_TENSOR_Q4_0:
        return KERN_Q4_0;
    case GGUF_TENSOR_Q4_K:
        return KERN_Q4_K;
    case GGUF_TENSOR_Q5_K:
        return KERN_Q5_K;
    case GGUF_TENSOR_Q6_K:
        return KERN_Q6_K;
    default:
        return KERN_F32;
    }
}

kern_tensor model_rows(const gguf_tensor *t, uint32_t first, uint32_t rows)
{
    kern_tensor w = {.rows = rows};

    if (t != NULL) {
        w.cols = (uint32_t)t->cols;
        w.data = t->data + first * (t->bytes / t->rows);
        w.type = kern_type_of(t->type);
    }
    return w;
}

kern_tensor model_matrix(model_reader *r, const char *name, uint32_t rows, uint32_t cols)
{
    return model_rows(model_tensor(r, name, rows, cols), 0, rows);
}

const float *model_vector(model_reader *r, const char *name, uint32_t n)
{
    const gguf_tensor *t = model_tensor(r, name, 1, n);

    if (t == NULL) {
        return NULL;
    }
    if (t->type != GGUF_TENSOR_F32) {
        model_fail(r, "the tensor %s is not F32", name);
        return NULL;
    }
    return (const float *)(const void *)t->data;
}

const char *model_block(char name[64], uint32_t layer, const char *what)
{
    snprintf(name, 64, "blk.%u.%s", layer, what);
    return name;
}
