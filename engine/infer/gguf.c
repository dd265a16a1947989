#include "infer/gguf_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC             "GGUF"
#define VERSION           3
#define MAX_DIMS          4
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT     4096

/* The least bytes a value and a tensor take in the file: bounds on their counts. */
#define MIN_KV_BYTES     (8 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 4 + 8 + 4 + 8)

/* Reading position; the first error stays, with what was being read. left counts what is after
 * p. */
typedef struct {
    const uint8_t *p;
    size_t left;
    gguf_str in; /* the key or the tensor; empty: neither */
    bool failed;
    char *err;
    size_t errlen;
} cursor;

__attribute__((format(printf, 2, 3))) static bool fail(cursor *c, const char *format, ...)
{
    char name[GGUF_SHOWN];
    va_list args;
    int n = 0;

    if (!c->failed) {
        if (c->in.len > 0) {
            n = snprintf(c->err, c->errlen, "%s: ", gguf_show(c->in, name));
        }
        if ((size_t)n < c->errlen) {
            va_start(args, format);
            vsnprintf(c->err + n, c->errlen - (size_t)n, format, args);
            va_end(args);
        }
        c->failed = true;
    }
    return false;
}

static const uint8_t *take(cursor *c, size_t n)
{
    const uint8_t *p = c->p;

    if (n > c->left) {
        fail(c, "the file is truncated");
        return NULL;
    }
    c->p += n;
    c->left -= n;
    return p;
}

static uint32_t take_u32(cursor *c)
{
    const uint8_t *p = take(c, 4);
    uint32_t v = 0;

    if (p != NULL) {
        memcpy(&v, p, sizeof(v));
    }
    return v;
}

static uint64_t take_u64(cursor *c)
{
    const uint8_t *p = take(c, 8);
    uint64_t v = 0;

    if (p != NULL) {
        memcpy(&v, p, sizeof(v));
    }
    return v;
}

static gguf_str take_str(cursor *c)
{
    uint64_t len = take_u64(c);
    gguf_str s = {.p = (const char *)c->p, .len = (size_t)len};

    if (len > c->left) {
        fail(c, "a string runs past the end of the file");
        s.len = 0;
        return s;
    }
    take(c, s.len);
    return s;
}

/* Bytes of one element; 0 if it has no fixed size. */
static size_t element_bytes(uint32_t type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32:
        return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

/* n elements of a type; afterwards all of them are known to lie inside the file. */
static bool take_elements(cursor *c, uint32_t type, uint64_t n, gguf_array *out)
{
    size_t size = element_bytes(type);

    out->type = (gguf_type)type;
    out->n = n;
    out->p = c->p;
    if (type == GGUF_STRING) {
        for (uint64_t i = 0; i < n && !c->failed; i++) {
            take_str(c);
        }
        return !c->failed;
    }
    if (size == 0) {
        return fail(c, type == GGUF_ARRAY ? "arrays of arrays are not supported"
                                          : "a value has an unknown type");
    }
    if (n > c->left / size) {
        return fail(c, "an array runs past the end of the file");
    }
    return take(c, (size_t)n * size) != NULL;
}

static bool read_kv(cursor *c, gguf_kv *kv)
{
    uint32_t type;

    c->in = (gguf_str){0};
    kv->key = take_str(c);
    c->in = kv->key;
    type = take_u32(c);
    if (c->failed) {
        return false;
    }
    kv->type = (gguf_type)type;
    if (type == GGUF_ARRAY) {
        type = take_u32(c);
        return take_elements(c, type, take_u64(c), &kv->value);
    }
    return take_elements(c, type, 1, &kv->value);
}

/* Elements and bytes of one block of a tensor type. */
static bool block_of(uint32_t type, uint64_t *elements, uint64_t *bytes)
{
    static const struct {
        uint32_t type, elements, bytes;
    } blocks[] = {
        {GGUF_TENSOR_F32, 1, 4},      {GGUF_TENSOR_F16, 1, 2},
        {GGUF_TENSOR_BF16, 1, 2},     {GGUF_TENSOR_Q8_0, 32, 34},
        {GGUF_TENSOR_Q4_0, 32, 18},   {GGUF_TENSOR_Q4_K, 256, 144},
        {GGUF_TENSOR_Q5_K, 256, 176}, {GGUF_TENSOR_Q6_K, 256, 210},
    };

    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks); i++) {
        if (blocks[i].type == type) {
            *elements = blocks[i].elements;
            *bytes = blocks[i].bytes;
            return true;
        }
    }
    return false;
}

/* Of one that we do not read. */
static const char *type_name(uint32_t type)
{
    static const char *const names[] = {
        [3] = "Q4_1",   [6] = "Q5_0",    [7] = "Q5_1",     [9] = "Q8_1",    [10] = "Q2_K",
        [11] = "Q3_K",  [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
        [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",   [22] = "IQ2_S",  [23] = "IQ4_XS",
        [24] = "I8",    [25] = "I16",    [26] = "I32",     [27] = "I64",    [28] = "F64",
        [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",   [39] = "MXFP4",
    };

    return type < sizeof(names) / sizeof(*names) && names[type] ? names[type] : "unknown to us";
}

static bool read_tensor(cursor *c, gguf_tensor *t)
{
    uint64_t elements, bytes, dim;

    c->in = (gguf_str){0};
    t->name = take_str(c);
    c->in = t->name;
    t->dims = take_u32(c);
    if (!c->failed && (t->dims < 1 || t->dims > MAX_DIMS)) {
        return fail(c, "a tensor has no dimensions, or more than four");
    }
    t->rows = 1;
    for (uint64_t i = 0; i < t->dims && !c->failed; i++) {
        dim = take_u64(c);
        if (!c->failed && dim == 0) {
            return fail(c, "a tensor has a dimension of zero");
        }
        if (i == 0) {
            t->cols = dim;
        } else if (__builtin_mul_overflow(t->rows, dim, &t->rows)) {
            return fail(c, "a tensor's size overflows");
        }
    }
    t->type = take_u32(c);
    t->offset = take_u64(c);
    if (c->failed) {
        return false;
    }
    if (!block_of(t->type, &elements, &bytes)) {
        return fail(c,
                    "tensors of type %s are not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_K, "
                    "Q5_K and Q6_K are)",
                    type_name(t->type));
    }
    if (t->cols % elements != 0) {
        return fail(c, "a tensor's rows are not whole blocks");
    }
    if (__builtin_mul_overflow(t->cols / elements, bytes, &t->bytes) ||
        __builtin_mul_overflow(t->bytes, t->rows, &t->bytes)) {
        return fail(c, "a tensor's size overflows");
    }
    return true;
}

static int compare_str(gguf_str a, gguf_str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int r = n > 0 ? memcmp(a.p, b.p, n) : 0;

    return r != 0 ? r : (a.len > b.len) - (a.len < b.len);
}

static int by_key(const void *a, const void *b)
{
    return compare_str(((const gguf_kv *)a)->key, ((const gguf_kv *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return compare_str(((const gguf_tensor *)a)->name, ((const gguf_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const gguf_tensor *)a)->offset, y = ((const gguf_tensor *)b)->offset;

    return (x > y) - (x < y);
}

const gguf_tensor *gguf_sort_tensors(gguf *g)
{
    qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), by_name);
    for (size_t i = 1; i < g->n_tensors; i++) {
        if (by_name(&g->tensors[i - 1], &g->tensors[i]) == 0) {
            return &g->tensors[i];
        }
    }
    return NULL;
}

static bool read_kvs(gguf *g, cursor *c, uint64_t n)
{
    if (n > c->left / MIN_KV_BYTES) {
        return fail(c, "the count of values exceeds the file");
    }
    g->n_kvs = (size_t)n;
    g->kvs = calloc(g->n_kvs + 1, sizeof(*g->kvs));
    if (g->kvs == NULL) {
        return fail(c, "out of memory");
    }
    for (size_t i = 0; i < g->n_kvs; i++) {
        if (!read_kv(c, &g->kvs[i])) {
            return false;
        }
    }
    c->in = (gguf_str){0};
    qsort(g->kvs, g->n_kvs, sizeof(*g->kvs), by_key);
    for (size_t i = 1; i < g->n_kvs; i++) {
        if (by_key(&g->kvs[i - 1], &g->kvs[i]) == 0) {
            c->in = g->kvs[i].key;
            return fail(c, "a key occurs twice");
        }
    }
    return true;
}

static bool read_alignment(const gguf *g, cursor *c, uint64_t *alignment)
{
    const gguf_kv *kv = gguf_find(g, "general.alignment");

    *alignment = DEFAULT_ALIGNMENT;
    if (kv == NULL) {
        return true;
    }
    if (!gguf_as_uint(kv, alignment) || *alignment < 8 || *alignment > MAX_ALIGNMENT ||
        (*alignment & (*alignment - 1)) != 0) {
        return fail(c, "general.alignment is not a power of two from 8 to 4096");
    }
    return true;
}

/* Where tensors lie: aligned, inside the file, one after another. */
static bool place_tensors(gguf *g, cursor *c, uint64_t alignment)
{
    size_t skip = (size_t)(-(uint64_t)(c->p - g->data) & (alignment - 1));
    const uint8_t *base;
    uint64_t end = 0;

    if (g->n_tensors == 0) {
        return true;
    }
    if (take(c, skip) == NULL) {
        return false;
    }
    base = c->p;
    qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), by_offset);
    for (size_t i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];

        c->in = t->name;
        if (t->offset % alignment != 0) {
            return fail(c, "a tensor is not aligned");
        }
        if (t->offset < end) {
            return fail(c, "tensors overlap");
        }
        if (t->offset > c->left || t->bytes > c->left - t->offset) {
            char name[GGUF_SHOWN];

            c->in = (gguf_str){0};
            return fail(c, "the file is cut short: the tensor %s ends behind its end",
                        gguf_show(t->name, name));
        }
        t->data = base + t->offset;
        end = t->offset + t->bytes;
    }
    return true;
}

static bool read_tensors(gguf *g, cursor *c, uint64_t n)
{
    const gguf_tensor *twice;
    uint64_t alignment;

    if (n > c->left / MIN_TENSOR_BYTES) {
        return fail(c, "the count of tensors exceeds the file");
    }
    g->n_tensors = (size_t)n;
    g->tensors = calloc(g->n_tensors + 1, sizeof(*g->tensors));
    if (g->tensors == NULL) {
        return fail(c, "out of memory");
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (!read_tensor(c, &g->tensors[i])) {
            return false;
        }
    }
    c->in = (gguf_str){0};
    if (!read_alignment(g, c, &alignment) || !place_tensors(g, c, alignment)) {
        return false;
    }
    twice = gguf_sort_tensors(g);
    c->in = twice != NULL ? twice->name : c->in;
    return twice == NULL || fail(c, "a tensor's name occurs twice");
}

/* What people name a model by mistake. */
static const char *what_it_is(const uint8_t *p, size_t n)
{
    static const struct {
        const char *magic, *what;
    } others[] = {
        {"version https://git-lfs", ": it points to one that Git LFS has not fetched"},
        {"<", ": it begins as a web page does"},
        {"PK\003\004", ": it is a ZIP file"},
        {"ggml", ", but of the format before it"},
        {"ggjt", ", but of the format before it"},
    };

    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        size_t len = strlen(others[i].magic);

        if (n >= len && memcmp(p, others[i].magic, len) == 0) {
            return others[i].what;
        }
    }
    /* safetensors: the length of its head, then that */
    return n > 9 && p[8] == '{' ? ": it is in the format safetensors" : "";
}

static bool read_all(gguf *g, cursor *c)
{
    const uint8_t *magic = take(c, 4);
    uint32_t version = take_u32(c);
    uint64_t n_tensors, n_kvs;

    if (magic == NULL || memcmp(magic, MAGIC, 4) != 0) {
        c->failed = false; /* this is the reason */
        return fail(c, "not a GGUF file%s", what_it_is(g->data, g->size));
    }
    if (version == __builtin_bswap32(VERSION)) {
        return fail(c, "GGUF for big-endian machines is not supported");
    }
    if (!c->failed && version != VERSION) {
        return fail(c, "version %u of GGUF is not supported, only %d is", version, VERSION);
    }
    n_tensors = take_u64(c);
    n_kvs = take_u64(c);
    return !c->failed && read_kvs(g, c, n_kvs) && read_tensors(g, c, n_tensors);
}

gguf *gguf_parse(const void *data, size_t size, char *err, size_t errlen)
{
    gguf *g = calloc(1, sizeof(*g));
    cursor c = {.p = data, .left = size, .err = err, .errlen = errlen};

    if (g == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    g->data = data;
    g->size = size;
    if (!read_all(g, &c)) {
        gguf_close(g);
        return NULL;
    }
    return g;
}

gguf *gguf_share(gguf *g)
{
    atomic_fetch_add(&g->shares, 1);
    return g;
}

void gguf_close(gguf *g)
{
    if (atomic_fetch_sub(&g->shares, 1) > 0) {
        return;
    }
    while (g != NULL) {
        gguf *next = g->next;

        if (g->mapping != NULL) {
            munmap(g->mapping, g->size);
            close(g->fd);
        }
        free(g->kvs);
        free(g->tensors);
        free(g);
        g = next;
    }
}

size_t gguf_size(const gguf *g)
{
    size_t size = 0;

    for (; g != NULL; g = g->next) {
        size += g->size;
    }
    return size;
}

const gguf_kv *gguf_find(const gguf *g, const char *key)
{
    gguf_kv probe = {.key = {.p = key, .len = strlen(key)}};

    return bsearch(&probe, g->kvs, g->n_kvs, sizeof(*g->kvs), by_key);
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name)
{
    gguf_tensor probe = {.name = {.p = name, .len = strlen(name)}};

    return bsearch(&probe, g->tensors, g->n_tensors, sizeof(*g->tensors), by_name);
}

size_t gguf_n_tensors(const gguf *g)
{
    return g->n_tensors;
}

const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i)
{
    return &g->tensors[i];
}

static bool as_int(const gguf_kv *kv, int64_t *out)
{
    const uint8_t *p = kv->value.p;
    size_t size = element_bytes(kv->type);
    uint64_t v = 0;

    /* little-endian, as every value of the file */
    for (size_t i = 0; i < size; i++) {
        v |= (uint64_t)p[i] << (8 * i);
    }
    switch (kv->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *out = (int64_t)v;
        return v <= INT64_MAX;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        /* the sign bit to the top and back */
        *out = (int64_t)(v << (64 - 8 * size)) >> (64 - 8 * size);
        return true;
    default:
        return false;
    }
}

bool gguf_as_uint(const gguf_kv *kv, uint64_t *out)
{
    int64_t v;

    if (!as_int(kv, &v) || v < 0) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

bool gguf_as_float(const gguf_kv *kv, double *out)
{
    float f;

    switch (kv->type) {
    case GGUF_F32:
        memcpy(&f, kv->value.p, sizeof(f));
        *out = f;
        return true;
    case GGUF_F64:
        memcpy(out, kv->value.p, sizeof(*out));
        return true;
    default:
        return false;
    }
}

bool gguf_as_bool(const gguf_kv *kv, bool *out)
{
    if (kv->type != GGUF_BOOL) {
        return false;
    }
    *out = *kv->value.p != 0;
    return true;
}

bool gguf_as_str(const gguf_kv *kv, gguf_str *out)
{
    gguf_array one = kv->value;

    if (kv->type != GGUF_STRING) {
        return false;
    }
    *out = gguf_next_str(&one);
    return true;
}

const char *gguf_show(gguf_str s, char out[GGUF_SHOWN])
{
    size_t n = s.len < GGUF_SHOWN - 1 ? s.len : GGUF_SHOWN - 1;

    for (size_t i = 0; i < n; i++) {
        out[i] = s.p[i] >= ' ' && s.p[i] <= '~' ? s.p[i] : '?';
    }
    out[n] = '\0';
    return out;
}

gguf_str gguf_next_str(gguf_array *arr)
{
    uint64_t len;
    gguf_str s;

    memcpy(&len, arr->p, sizeof(len));
    s.p = (const char *)arr->p + sizeof(len);
    s.len = (size_t)len;
    arr->p += sizeof(len) + s.len;
    return s;
}

int32_t gguf_next_i32(gguf_array *arr)
{
    int32_t v;

    memcpy(&v, arr->p, sizeof(v));
    arr->p += sizeof(v);
    return v;
}

float gguf_next_f32(gguf_array *arr)
{
    float v;

    memcpy(&v, arr->p, sizeof(v));
    arr->p += sizeof(v);
    return v;
}
