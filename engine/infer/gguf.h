/*
 * GGUF v3 files: named values and named tensors, read in place from a mapping. A model may be
 * split over several files, MODEL-00001-of-00003.gguf and so on: opening the first opens all.
 *
 * The file is hostile. Everything is checked once, when it is opened: each count, length and
 * offset against the bytes that are there, so that whoever has a gguf can walk its strings,
 * arrays and tensors without looking again. What the reader allocates is bounded by the
 * file's size. A file must not be truncated while it is open (replace it by rename). The
 * mapping is read only: engines that have the same file open share its pages, large ones where
 * the kernel has such for files.
 *
 * Everything returned points into the mapping and lives until gguf_close. Any thread.
 */
#ifndef INFER_GGUF_H
#define INFER_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct gguf gguf;

/* Not terminated. */
typedef struct {
    const char *p;
    size_t len;
} gguf_str;

/* Types of values, numbered as in the file. */
typedef enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
} gguf_type;

/* Types of tensors that we read, numbered as in the file. */
enum {
    GGUF_TENSOR_F32 = 0,
    GGUF_TENSOR_F16 = 1,
    GGUF_TENSOR_Q4_0 = 2,
    GGUF_TENSOR_Q8_0 = 8,
    GGUF_TENSOR_Q4_K = 12,
    GGUF_TENSOR_Q5_K = 13,
    GGUF_TENSOR_Q6_K = 14,
    GGUF_TENSOR_BF16 = 30
};

/* n elements at p, packed, unaligned. Arrays of arrays are refused when the file is opened. */
typedef struct {
    gguf_type type;
    uint64_t n;
    const uint8_t *p;
} gguf_array;

typedef struct {
    gguf_str key;
    gguf_type type;
    gguf_array value; /* a single value is an array of one */
} gguf_kv;

typedef struct {
    gguf_str name;
    uint32_t type;
    uint64_t cols; /* the inner dimension, whole blocks */
    uint64_t rows; /* all outer dimensions together; 1 for a vector */
    uint64_t dims; /* 1..4 */
    uint64_t offset;
    uint64_t bytes;
    const uint8_t *data; /* aligned to at least 8 bytes */
} gguf_tensor;

#define GGUF_MAX_PARTS 999

/* NULL, and one line in err, if the file or another of its parts cannot be read or breaks a
 * rule of the format. */
gguf *gguf_open(const char *path, char *err, size_t errlen);

/* The same for the bytes of one file in memory, aligned to 32; borrowed until gguf_close. */
gguf *gguf_parse(const void *data, size_t size, char *err, size_t errlen);

/* The n parts of a split model as one, the first, which has the tensors of all. It owns the
 * others, whatever comes of it. False, and one line in err, if they do not belong together. */
bool gguf_join(gguf *const *parts, size_t n, char *err, size_t errlen);

/*
 * Reads all of it into memory, so that nobody waits for the disk later, and tells how far it
 * is, from 0 to 100, each number once (NULL: nobody). It stops where that returns false, and
 * then returns false. Memory that is short is no error: pages go, and come back when they are
 * needed.
 */
typedef bool (*gguf_progress)(void *arg, unsigned percent);
bool gguf_read_ahead(const gguf *g, gguf_progress progress, void *arg);

/* One more owner of g, who closes it, too: it lives until the last of them has. Any thread. */
gguf *gguf_share(gguf *g);

void gguf_close(gguf *g);

/* Bytes of all parts. */
size_t gguf_size(const gguf *g);

/* NULL if there is none of that name. */
const gguf_kv *gguf_find(const gguf *g, const char *key);
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* In an order of no meaning. */
size_t gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i);

/*
 * Values as what they are used for: false if kv is of another kind. Any integer type serves as
 * uint if it is not negative, any float type as float.
 */
bool gguf_as_uint(const gguf_kv *kv, uint64_t *out);
bool gguf_as_float(const gguf_kv *kv, double *out);
bool gguf_as_bool(const gguf_kv *kv, bool *out);
bool gguf_as_str(const gguf_kv *kv, gguf_str *out);

/* A name as it may be shown to people, wherever that is: of what is no printable ASCII a
 * question mark, and no more than fits. Returns out. */
#define GGUF_SHOWN 65
const char *gguf_show(gguf_str s, char out[GGUF_SHOWN]);

/* The elements of an array value, in order: each call takes one and steps on. Strings:
 * arr->type is GGUF_STRING; ints: U32 or I32; floats: F32. The caller counts arr->n. */
gguf_str gguf_next_str(gguf_array *arr);
int32_t gguf_next_i32(gguf_array *arr);
float gguf_next_f32(gguf_array *arr);

#endif
