/*
 * The GGUF reader: what a good file says, and that each lie a file can tell is refused with a
 * sentence of its own. Every check runs on an exact copy of the bytes, so that AddressSanitizer
 * and valgrind see a read past the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf_writer.h"

static char err[256];

/* Parses a copy that ends where the file ends. */
static gguf *parse(const uint8_t *file, size_t size, uint8_t **copy)
{
    *copy = malloc(size > 0 ? size : 1);
    memcpy(*copy, file, size);
    err[0] = '\0';
    return gguf_parse(*copy, size, err, sizeof(err));
}

static void refused(gw *w, const char *why)
{
    size_t size;
    uint8_t *copy, *file = gw_finish(w, &size);
    gguf *g = parse(file, size, &copy);

    assert_null(g);
    assert_string_equal(err, why);
    free(copy);
    free(file);
}

static void one_tensor(gw *w, uint32_t dims, const uint64_t *dim, uint32_t type,
                       uint64_t offset)
{
    w->n_tensors++;
    gw_put_str(&w->infos, "t");
    gw_put_u32(&w->infos, dims);
    for (uint32_t i = 0; i < dims && i < 4; i++) {
        gw_put_u64(&w->infos, dim[i]);
    }
    gw_put_u32(&w->infos, type);
    gw_put_u64(&w->infos, offset);
}

static void good_file(gw *w)
{
    static const float norm[3] = {1, 2, 3};
    static const uint8_t q8[2 * 34];

    gw_str(w, "general.architecture", "llama");
    gw_u32(w, "n", 42);
    gw_f32(w, "eps", 0.5f);
    gw_bool(w, "yes", 1);
    gw_array(w, "words", GGUF_STRING, 3);
    gw_put_str(&w->kvs, "a");
    gw_put_str(&w->kvs, "");
    gw_put_str(&w->kvs, "ccc");
    gw_array(w, "ints", GGUF_I32, 2);
    gw_put_u32(&w->kvs, (uint32_t)-1);
    gw_put_u32(&w->kvs, 7);
    gw_tensor(w, "norm", GGUF_TENSOR_F32, 3, 0, norm, sizeof(norm));
    gw_tensor(w, "a.weight", GGUF_TENSOR_Q8_0, 32, 2, q8, sizeof(q8));
}

static void reads_values(void **state)
{
    gw w = {0};
    size_t size;
    uint8_t *file;
    gguf *g;
    uint64_t u;
    double d;
    bool b;
    gguf_str s;
    gguf_array arr;

    (void)state;
    good_file(&w);
    file = gw_finish(&w, &size);
    g = gguf_parse(file, size, err, sizeof(err));
    assert_non_null(g);
    assert_true(gguf_as_uint(gguf_find(g, "n"), &u) && u == 42);
    assert_true(gguf_as_float(gguf_find(g, "eps"), &d) && d == 0.5);
    assert_true(gguf_as_bool(gguf_find(g, "yes"), &b) && b);
    assert_true(gguf_as_str(gguf_find(g, "general.architecture"), &s));
    assert_int_equal(s.len, 5);
    assert_memory_equal(s.p, "llama", 5);
    assert_null(gguf_find(g, "general"));
    assert_false(gguf_as_uint(gguf_find(g, "eps"), &u));
    assert_false(gguf_as_str(gguf_find(g, "words"), &s));

    arr = gguf_find(g, "words")->value;
    assert_int_equal(arr.n, 3);
    assert_int_equal(gguf_next_str(&arr).len, 1);
    assert_int_equal(gguf_next_str(&arr).len, 0);
    s = gguf_next_str(&arr);
    assert_memory_equal(s.p, "ccc", 3);
    arr = gguf_find(g, "ints")->value;
    assert_int_equal(gguf_next_i32(&arr), -1);
    assert_int_equal(gguf_next_i32(&arr), 7);
    gguf_close(g);
    free(file);
}

static void reads_tensors(void **state)
{
    gw w = {0};
    size_t size;
    uint8_t *file;
    gguf *g;
    const gguf_tensor *t;

    (void)state;
    good_file(&w);
    file = gw_finish(&w, &size);
    g = gguf_parse(file, size, err, sizeof(err));
    assert_non_null(g);
    assert_int_equal(gguf_n_tensors(g), 2);
    t = gguf_find_tensor(g, "norm");
    assert_int_equal(t->cols, 3);
    assert_int_equal(t->rows, 1);
    assert_true(((const float *)(const void *)t->data)[2] == 3);
    t = gguf_find_tensor(g, "a.weight");
    assert_int_equal(t->rows, 2);
    assert_int_equal(t->bytes, 68);
    assert_null(gguf_find_tensor(g, "a"));
    gguf_close(g);
    free(file);
}

static void every_truncation_is_refused(void **state)
{
    gw w = {0};
    size_t size, padding = 32 - 68 % 32;
    uint8_t *file, *copy;

    (void)state;
    good_file(&w);
    file = gw_finish(&w, &size);
    for (size_t n = 0; n < size - padding; n++) {
        assert_null(parse(file, n, &copy));
        assert_true(err[0] != '\0');
        free(copy);
    }
    free(file);
}

static void hostile_values(void **state)
{
    gw w = {0};

    (void)state;
    w.n_kvs = (uint64_t)1 << 60;
    refused(&w, "the count of values exceeds the file");

    w.n_tensors = (uint64_t)1 << 60;
    refused(&w, "the count of tensors exceeds the file");

    gw_u32(&w, "a", 1);
    gw_u32(&w, "a", 2);
    refused(&w, "a: a key occurs twice");

    gw_key(&w, "s", GGUF_STRING);
    gw_put_u64(&w.kvs, (uint64_t)1 << 63);
    refused(&w, "s: a string runs past the end of the file");

    gw_array(&w, "a", GGUF_U64, (uint64_t)1 << 61);
    refused(&w, "a: an array runs past the end of the file");

    gw_array(&w, "a", GGUF_STRING, UINT64_MAX);
    gw_put_str(&w.kvs, "x");
    refused(&w, "a: the file is truncated");

    gw_array(&w, "a", GGUF_ARRAY, 1);
    gw_put_u64(&w.kvs, 0);
    refused(&w, "a: arrays of arrays are not supported");

    gw_key(&w, "k", 99);
    gw_put_u64(&w.kvs, 0);
    refused(&w, "k: a value has an unknown type");

    gw_key(&w, "k\n\xff\x1b[", 99);
    gw_put_u64(&w.kvs, 0);
    refused(&w, "k???[: a value has an unknown type");
}

static void hostile_tensors(void **state)
{
    static const uint64_t row[4] = {32, 2, 1, 1}, zero[1] = {0}, odd[1] = {33};
    static const uint64_t huge[2] = {(uint64_t)1 << 40, (uint64_t)1 << 40};
    static const uint64_t huge_rows[3] = {32, (uint64_t)1 << 40, (uint64_t)1 << 40};
    gw w = {0};

    (void)state;
    one_tensor(&w, 0, NULL, GGUF_TENSOR_F32, 0);
    refused(&w, "t: a tensor has no dimensions, or more than four");
    one_tensor(&w, 5, row, GGUF_TENSOR_F32, 0);
    refused(&w, "t: a tensor has no dimensions, or more than four");
    one_tensor(&w, 1, zero, GGUF_TENSOR_F32, 0);
    refused(&w, "t: a tensor has a dimension of zero");
    one_tensor(&w, 1, odd, GGUF_TENSOR_Q8_0, 0);
    refused(&w, "t: a tensor's rows are not whole blocks");
    one_tensor(&w, 2, huge, GGUF_TENSOR_F32, 0);
    refused(&w, "t: a tensor's size overflows");
    one_tensor(&w, 3, huge_rows, GGUF_TENSOR_F32, 0);
    refused(&w, "t: a tensor's size overflows");
    one_tensor(&w, 1, row, GGUF_TENSOR_Q4_K, 0);
    refused(&w, "t: a tensor's rows are not whole blocks");
    one_tensor(&w, 1, row, 3, 0);
    refused(
        &w,
        "t: tensors of type Q4_1 are not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K and "
        "Q6_K are)");
    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 1);
    refused(&w, "t: a tensor is not aligned");
    one_tensor(&w, 1, row, GGUF_TENSOR_F32, (uint64_t)1 << 62);
    refused(&w, "the file is cut short: the tensor t ends behind its end");

    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 0);
    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 96);
    refused(&w, "the file is cut short: the tensor t ends behind its end");

    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 0);
    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 96);
    for (int i = 0; i < 32; i++) {
        gw_put_u64(&w.data, 0);
    }
    refused(&w, "t: tensors overlap");

    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 0);
    one_tensor(&w, 1, row, GGUF_TENSOR_F32, 128);
    for (int i = 0; i < 32; i++) {
        gw_put_u64(&w.data, 0);
    }
    refused(&w, "t: a tensor's name occurs twice");
}

static void hostile_alignment(void **state)
{
    static const uint32_t bad[] = {0, 3, 4, 48, 8192, 0x80000000};
    gw w = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        gw_u32(&w, "general.alignment", bad[i]);
        refused(&w, "general.alignment is not a power of two from 8 to 4096");
    }
    gw_str(&w, "general.alignment", "32");
    refused(&w, "general.alignment is not a power of two from 8 to 4096");
}

/* --- a model in several files --- */

typedef struct {
    uint32_t no, count, tensors; /* as the part says; tensors 0: it does not */
    const char *tensor;
} part;

static uint8_t *make_part(const part *p, size_t *size)
{
    static const float v[3] = {1, 2, 3};
    gw w = {0};

    gw_u32(&w, "split.no", p->no);
    gw_u32(&w, "split.count", p->count);
    if (p->tensors > 0) {
        gw_u32(&w, "split.tensors.count", p->tensors);
    }
    if (p->tensor != NULL) {
        gw_tensor(&w, p->tensor, GGUF_TENSOR_F32, 3, 0, v, sizeof(v));
    }
    return gw_finish(&w, size);
}

static void part_path(char path[128], const char *folder, unsigned i, unsigned n)
{
    snprintf(path, 128, "%s/m-%05u-of-%05u.gguf", folder, i, n);
}

/* Writes the parts as FOLDER/m-00001-of-0000N.gguf … and opens the first. */
static gguf *open_split(const char *folder, const part *parts, unsigned n)
{
    char path[128];
    gguf *g;

    for (unsigned i = 0; i < n; i++) {
        size_t size;
        uint8_t *bytes = make_part(&parts[i], &size);
        FILE *f;

        part_path(path, folder, i + 1, n);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(bytes, 1, size, f), size);
        fclose(f);
        free(bytes);
    }
    err[0] = '\0';
    part_path(path, folder, 1, n);
    g = gguf_open(path, err, sizeof(err));
    for (unsigned i = 0; i < n; i++) {
        part_path(path, folder, i + 1, n);
        unlink(path);
    }
    return g;
}

static char *new_folder(char name[32])
{
    strcpy(name, "/tmp/aiq-test-XXXXXX");
    return mkdtemp(name);
}

static bool tell(void *arg, unsigned percent)
{
    unsigned *last = arg;

    assert_true(*last == ~0u || percent > *last);
    *last = percent;
    return percent < 30;
}

static bool go_on(void *arg, unsigned percent)
{
    *(unsigned *)arg = percent;
    return true;
}

static void joins_parts(void **state)
{
    static const part parts[] = {{0, 3, 2, NULL}, {1, 3, 2, "b"}, {2, 3, 2, "a"}};
    char folder[32];
    unsigned percent = ~0u;
    gguf *g = open_split(new_folder(folder), parts, 3);

    (void)state;
    if (g == NULL) {
        fail_msg("%s", err);
    }
    assert_int_equal(gguf_n_tensors(g), 2);
    assert_true(((const float *)(const void *)gguf_find_tensor(g, "a")->data)[2] == 3);
    assert_non_null(gguf_find_tensor(g, "b"));
    assert_false(gguf_read_ahead(g, tell, &percent));
    assert_true(percent >= 30);
    assert_true(gguf_read_ahead(g, go_on, &percent));
    assert_int_equal(percent, 100);
    gguf_close(g);
    rmdir(folder);
}

/* A file with one small tensor and bytes behind it that nobody asks for, in memory as whoever
 * copies a file leaves it there, and on the disk. */
static int written_file(const char *folder, char path[128], size_t behind)
{
    static const part one = {0, 1, 1, "a"};
    static const char some[1 << 20];
    size_t size;
    uint8_t *bytes = make_part(&one, &size);
    int fd;

    part_path(path, folder, 1, 1);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    for (; behind > 0; behind -= sizeof(some)) {
        assert_int_equal(write(fd, some, sizeof(some)), sizeof(some));
    }
    assert_int_equal(fsync(fd), 0);
    free(bytes);
    return fd;
}

/* Whether any of the mapping that has p is in large pages. */
static bool in_large_pages(const void *p)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long from, to, kb, at = (unsigned long)p;
    bool here = false, large = false;
    char line[512];

    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            here = from <= at && at < to;
        } else if (here && sscanf(line, "FilePmdMapped: %lu", &kb) == 1) {
            large = kb > 0;
        }
    }
    fclose(f);
    return large;
}

/* Whether this kernel has large pages for a file of this file system that it reads anew. */
static bool large_pages_for(int fd, size_t size)
{
    uint8_t *p;
    bool large;

    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    large = madvise(p, size, MADV_HUGEPAGE) == 0 && p[size / 2] == 0 && in_large_pages(p);
    munmap(p, size);
    return large;
}

/* What is in memory in small pages is read anew, where that helps. */
static void large_pages(void **state)
{
    const size_t behind = (size_t)16 << 20;
    char folder[32], path[128];
    unsigned percent;
    bool can;
    gguf *g;
    int fd = written_file(new_folder(folder), path, behind);

    (void)state;
    can = large_pages_for(fd, behind);
    close(fd);
    unlink(path);
    close(written_file(folder, path, behind));
    g = gguf_open(path, err, sizeof(err));
    unlink(path);
    rmdir(folder);
    if (g == NULL) {
        fail_msg("%s", err);
    }
    assert_false(in_large_pages(gguf_find_tensor(g, "a")->data));
    assert_true(gguf_read_ahead(g, go_on, &percent));
    assert_true(((const float *)(const void *)gguf_find_tensor(g, "a")->data)[2] == 3);
    assert_int_equal(in_large_pages(gguf_find_tensor(g, "a")->data), can);
    gguf_close(g);
}

static void parts_that_do_not_fit(void **state)
{
    static const struct {
        part parts[2];
        const char *why;
    } cases[] = {
        {{{0, 3, 2, "a"}, {1, 3, 2, "b"}},
         "it is the first of 3 files, and its name does not end in -00001-of-00003.gguf"},
        {{{1, 2, 2, "a"}, {0, 2, 2, "b"}},
         "it is part 2 of a model in 2 files; name the first, *-00001-of-00002.gguf"},
        {{{0, 2, 2, "a"}, {0, 2, 2, "b"}}, "part 2 of 2 says that it is part 1 of 2"},
        {{{0, 2, 2, "a"}, {1, 3, 2, "b"}}, "part 2 of 2 says that it is part 2 of 3"},
        {{{0, 2, 3, "a"}, {1, 2, 3, "b"}}, "the parts have 2 tensors, the first says 3"},
        {{{0, 2, 2, "a"}, {1, 2, 2, "a"}}, "a: a tensor's name occurs twice"},
        {{{0, 1000, 2, "a"}, {1, 2, 2, "b"}}, "split.count is not a number up to 999"},
        {{{0, 2, 2, "a"}, {1, ~0u, 2, "b"}}, "split.count is not a number up to 999"},
        {{{~0u, 2, 2, "a"}, {1, 2, 2, "b"}}, "split.no is not a number up to 999"},
    };
    char folder[32];

    (void)state;
    new_folder(folder);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_null(open_split(folder, cases[i].parts, 2));
        assert_string_equal(err, cases[i].why);
    }
    rmdir(folder);
}

static void parts_that_are_missing(void **state)
{
    static const part one = {0, 2, 2, "a"};
    char folder[32], path[128];
    size_t size;
    uint8_t *bytes = make_part(&one, &size);
    FILE *f;

    (void)state;
    new_folder(folder);
    snprintf(path, sizeof(path), "%s/m-00001-of-00002.gguf", folder);
    f = fopen(path, "wb");
    fwrite(bytes, 1, size, f);
    fclose(f);
    assert_null(gguf_open(path, err, sizeof(err)));
    assert_string_equal(err, "m-00002-of-00002.gguf: No such file or directory");

    path[strlen(folder) + 7] = '2';
    f = fopen(path, "wb");
    fwrite(bytes, 1, 30, f);
    fclose(f);
    path[strlen(folder) + 7] = '1';
    assert_null(gguf_open(path, err, sizeof(err)));
    assert_string_equal(err, "m-00002-of-00002.gguf: the count of values exceeds the file");

    unlink(path);
    path[strlen(folder) + 7] = '2';
    unlink(path);
    rmdir(folder);
    free(bytes);
}

static void other_files(void **state)
{
    char folder[32], pipe[64];
    gguf *g;

    (void)state;
    assert_null(gguf_parse("PK\3\4........................", 28, err, sizeof(err)));
    assert_string_equal(err, "not a GGUF file: it is a ZIP file");
    g = gguf_parse("GGUF\2\0\0\0................", 24, err, sizeof(err));
    assert_null(g);
    assert_string_equal(err, "version 2 of GGUF is not supported, only 3 is");
    assert_null(gguf_open("/nonexistent.gguf", err, sizeof(err)));
    assert_string_equal(err, "No such file or directory");
    assert_null(gguf_open("/tmp", err, sizeof(err)));
    assert_string_equal(err, "not a regular file");
    assert_null(gguf_open("/dev/null", err, sizeof(err)));
    assert_string_equal(err, "not a regular file");
    new_folder(folder);
    snprintf(pipe, sizeof(pipe), "%s/pipe.gguf", folder);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    alarm(5); /* where it waits for a writer */
    assert_null(gguf_open(pipe, err, sizeof(err)));
    alarm(0);
    assert_string_equal(err, "not a regular file");
    unlink(pipe);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_values),
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(hostile_values),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(hostile_tensors),
        cmocka_unit_test(hostile_alignment),
        cmocka_unit_test(joins_parts),
        cmocka_unit_test(large_pages),
        cmocka_unit_test(parts_that_do_not_fit),
        cmocka_unit_test(other_files),
        cmocka_unit_test(parts_that_are_missing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
