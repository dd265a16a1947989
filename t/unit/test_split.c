/*
 * The words that BPE tokenizers cut. The oracle is Perl's regular expressions (split.pl): the
 * 47 reference texts where they are, and random texts of characters that the rules look at.
 * Where only texts and ids are at hand, without the vocabulary, a word must have the same ids
 * in all of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infer/split.h"

#define VOCABS    "../shared/data/ggml-vocab/ggml-vocab-"
#define SEPARATOR "\n__ggml_vocab_test__\n"

enum { RANDOM_TEXTS = 1500, MAX_TEXT = 1 << 12 };

static const char *const names[] = {
    "gpt-2",  "llama-bpe", "minicpm5", "qwen2",        "seed-coder",     "smollm",
    "tekken", "gpt-4o",    "falcon",   "deepseek-llm", "deepseek-coder", "default",
};

/* One of each kind: cases, no case, title case, modifiers, marks, numbers, spaces, signs. */
static const char *const alphabet[] = {
    "a",
    "b",
    "s",
    "S",
    "t",
    "re",
    "LL",
    "'",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "1",
    "23",
    "4",
    "!",
    "/",
    "$",
    "=",
    ".",
    "A",
    "B",
    "\xc3\xa9",
    "\xc3\x89",
    "\xc7\x85",
    "\xca\xb0",
    "\xcc\x81",
    "\xe6\x97\xa5",
    "\xd7\x90",
    "\xe0\xa5\xa7",
    "\xc2\xbd",
    "\xc2\xa0",
    "\xe2\x80\xa8",
    "\xe3\x80\x80",
    "\xf0\x9f\x9a\x80",
    "\xe2\x80\x99",
    "\xc5\xbf",
    "`",
    "\xe2\x80\x83",
    "\xe3\x80\x82",
    "\xd8\xa7",
    "\xd5\xa1",
    "\xe0\xa4\x95",
    "\xef\xbc\x91",
    "\xef\xbd\x81",
    "\xef\xbc\x81",
};

static FILE *texts;

static void put_text(const char *text, size_t len)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        fprintf(texts, "%s ", names[i]);
        for (size_t k = 0; k < len; k++) {
            fprintf(texts, "%02x", (uint8_t)text[k]);
        }
        fputc('\n', texts);
    }
}

static bool slurp(const char *name, const char *ending, char *out, size_t size)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), VOCABS "%s.gguf.%s", name, ending);
    f = fopen(path, "r");
    if (f == NULL) {
        return false;
    }
    out[fread(out, 1, size - 1, f)] = '\0';
    fclose(f);
    return true;
}

static void put_reference_texts(void)
{
    static char all[1 << 16];
    char *text = all, *end;

    if (!slurp("gpt-2", "inp", all, sizeof(all))) {
        return;
    }
    while ((end = strstr(text, SEPARATOR)) != NULL) {
        put_text(text, (size_t)(end - text));
        text = end + strlen(SEPARATOR);
    }
}

static void put_random_texts(void)
{
    char text[256];

    for (int i = 0; i < RANDOM_TEXTS; i++) {
        int n = 1 + rand() % 24;
        size_t len = 0;

        for (int k = 0; k < n; k++) {
            const char *c = alphabet[(size_t)rand() % (sizeof(alphabet) / sizeof(*alphabet))];

            memcpy(text + len, c, strlen(c));
            len += strlen(c);
        }
        put_text(text, len);
    }
}

static void print_words(split_word word, const char *text, size_t len, char *out)
{
    *out = '\0';
    for (size_t i = 0, n; i < len; i += n) {
        n = word(text + i, len - i);
        assert_in_range(n, 1, len - i);
        out += sprintf(out, i == 0 ? "%zu" : " %zu", n);
    }
}

static split_word rule_of(const char *name)
{
    const split_rule *rule = split_find(name, strlen(name));

    if (rule == NULL) {
        fail_msg("%s is unknown", name);
    }
    return rule->word;
}

static size_t from_hex(const char *hex, char *out)
{
    size_t n = 0;
    unsigned byte;

    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2) {
        out[n++] = (char)byte;
    }
    return n;
}

static void words_are_those_of_the_expressions(void **state)
{
    char path[] = "/tmp/aiq-split-XXXXXX", command[300], name[32];
    static char hex[2 * MAX_TEXT + 64], want[8 * MAX_TEXT], got[8 * MAX_TEXT], text[MAX_TEXT];
    FILE *oracle;
    int n = 0;

    (void)state;
    srand(11);
    texts = fdopen(mkstemp(path), "w+");
    assert_non_null(texts);
    put_reference_texts();
    put_random_texts();
    rewind(texts);
    snprintf(command, sizeof(command), "perl t/unit/split.pl < %s", path);
    oracle = popen(command, "r");
    assert_non_null(oracle);
    while (fscanf(texts, "%31s", name) == 1 && fgets(hex, sizeof(hex), texts) != NULL) {
        size_t len = from_hex(hex + 1, text);

        assert_non_null(fgets(want, sizeof(want), oracle));
        want[strcspn(want, "\n")] = '\0';
        print_words(rule_of(name), text, len, got);
        if (strcmp(got, want) != 0) {
            fail_msg("%s: \"%.*s\": got %s, want %s", name, (int)len, text, got, want);
        }
        n++;
    }
    assert_true(n >= RANDOM_TEXTS);
    assert_int_equal(pclose(oracle), 0);
    fclose(texts);
    unlink(path);
}

/* One reference text as words and ids; [from, to) of each are not explained yet. */
typedef struct {
    char *word[128];
    char *id[256];
    int word_from, word_to, id_from, id_to;
} puzzle;

typedef struct {
    char *word;
    char **ids;
    int n_ids;
} meaning;

static meaning known[2048];
static int n_known;

static const meaning *known_word(const char *word)
{
    for (int i = 0; i < n_known; i++) {
        if (strcmp(known[i].word, word) == 0) {
            return &known[i];
        }
    }
    return NULL;
}

static bool same_ids(const meaning *m, char *const *ids, int n)
{
    bool same = m->n_ids <= n;

    for (int i = 0; same && i < m->n_ids; i++) {
        same = strcmp(m->ids[i], ids[i]) == 0;
    }
    return same;
}

/* Takes known words from both ends; a single one left means what is left of the ids. False
 * where the ids say otherwise. */
static bool explain(puzzle *p)
{
    const meaning *m;

    while (p->word_from < p->word_to && (m = known_word(p->word[p->word_from])) != NULL) {
        if (!same_ids(m, p->id + p->id_from, p->id_to - p->id_from)) {
            return false;
        }
        p->word_from++;
        p->id_from += m->n_ids;
    }
    while (p->word_from < p->word_to && (m = known_word(p->word[p->word_to - 1])) != NULL) {
        p->id_to -= m->n_ids;
        if (p->id_to < p->id_from || !same_ids(m, p->id + p->id_to, m->n_ids)) {
            return false;
        }
        p->word_to--;
    }
    if (p->word_to - p->word_from == 1) {
        assert_true(n_known < (int)(sizeof(known) / sizeof(*known)));
        known[n_known++] =
            (meaning){p->word[p->word_from], p->id + p->id_from, p->id_to - p->id_from};
        p->word_from++;
        p->id_from = p->id_to;
    }
    /* a word has at least one id */
    return p->word_to - p->word_from <= p->id_to - p->id_from;
}

static void read_puzzle(puzzle *p, split_word word, const char *text, size_t len, char *line)
{
    char *id;

    for (size_t i = 0, n; i < len; i += n) {
        n = word(text + i, len - i);
        p->word[p->word_to++] = strndup(text + i, n);
    }
    while ((id = strsep(&line, " ")) != NULL) {
        if (*id != '\0') {
            p->id[p->id_to++] = id;
        }
    }
}

/* How many of the texts are explained to the last id. */
static int check_ids(const char *name)
{
    static puzzle puzzles[64];
    static char inp[1 << 16], out[1 << 16];
    char *text = inp, *rest = out, *end;
    int n = 0, whole = 0;

    memset(puzzles, 0, sizeof(puzzles));
    n_known = 0;
    if (!slurp(name, "inp", inp, sizeof(inp)) || !slurp(name, "out", out, sizeof(out))) {
        skip();
    }
    for (; (end = strstr(text, SEPARATOR)) != NULL; text = end + strlen(SEPARATOR)) {
        read_puzzle(&puzzles[n++], rule_of(name), text, (size_t)(end - text),
                    strsep(&rest, "\n"));
    }
    for (int round = 0; round < n; round++) {
        for (int i = 0; i < n; i++) {
            if (!explain(&puzzles[i])) {
                fail_msg("%s: text %d cannot have these ids", name, i + 1);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        whole += puzzles[i].word_from == puzzles[i].word_to &&
                 puzzles[i].id_from == puzzles[i].id_to;
        for (char **w = puzzles[i].word; *w != NULL; w++) {
            free(*w);
        }
    }
    return whole;
}

static void reference_ids_agree(void **state)
{
    (void)state;
    /* in the others two words or more occur nowhere else */
    assert_in_range(check_ids("llama-bpe"), 36, 46);
    assert_in_range(check_ids("qwen2"), 36, 46);
}

static void what_is_no_text_is_cut_too(void **state)
{
    char text[16];

    (void)state;
    srand(12);
    for (int i = 0; i < 20000; i++) {
        size_t len = 1 + (size_t)rand() % sizeof(text);
        char out[256];

        for (size_t k = 0; k < len; k++) {
            text[k] = (char)(rand() % 3 == 0 ? " a1'\n"[rand() % 5] : rand());
        }
        for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
            print_words(rule_of(names[k]), text, len, out);
        }
    }
}

/* Models whose words are cut as another's, with what else is told by the name. */
static void names_of_other_models(void **state)
{
    static const struct {
        const char *name, *as;
        bool whole, begins;
    } cases[] = {
        {"gpt-2", "gpt-2", false, false},
        {"a.x-4.0", "gpt-2", false, false},
        {"mellum", "gpt-2", false, false},
        {"trillion", "gpt-2", false, false},
        {"llama-bpe", "llama-bpe", true, true},
        {"llama3", "llama-bpe", true, true},
        {"llama-v3", "llama-bpe", true, true},
        {"falcon3", "llama-bpe", true, true},
        {"midm-2.0", "llama-bpe", true, true},
        {"pixtral", "llama-bpe", true, true},
        {"dbrx", "llama-bpe", false, false},
        {"smaug-bpe", "llama-bpe", false, false},
        {"minicpm5", "minicpm5", true, false},
        {"qwen2", "qwen2", false, false},
        {"deepseek-r1-qwen", "qwen2", false, false},
        {"megrez", "qwen2", false, false},
        {"seed-coder", "seed-coder", false, false},
        {"smollm", "smollm", false, false},
        {"minerva-7b", "smollm", false, false},
        {"tekken", "tekken", true, true},
        {"gpt-4o", "gpt-4o", false, false},
        {"deepseek-llm", "deepseek-llm", false, false},
        {"deepseek-coder", "deepseek-coder", false, false},
        {"falcon", "falcon", false, false},
        {"default", "default", false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const split_rule *rule = split_find(cases[i].name, strlen(cases[i].name));

        assert_non_null(rule);
        assert_ptr_equal(rule->word, rule_of(cases[i].as));
        assert_int_equal(rule->whole, cases[i].whole);
        assert_int_equal(rule->begins, cases[i].begins);
    }
}

/* Texts in which a word's end can be far from its beginning, or seem to be: if each word looked
 * at all that follows, none of these would end in time. */
static void time_is_linear(void **state)
{
    enum { LEN = 1 << 17 };
    static const char *const patterns[] = {
        "a",
        "A",
        " ",
        "\n ",
        "1",
        "!",
        "`",
        " a",
        "a ",
        " 1",
        "\xc2\xbd",
        "\302\275111",
        "1!",
        "\xd8\xa7 ",
        "\xe3\x80\x80",
        " \xe2\x80\x83",
        "\xe6\x97\xa5 ",
    };
    static char text[LEN + 8];

    (void)state;
    for (size_t p = 0; p < sizeof(patterns) / sizeof(*patterns); p++) {
        size_t n = strlen(patterns[p]);

        for (size_t i = 0; i < LEN; i += n) {
            memcpy(text + i, patterns[p], n);
        }
        for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
            split_word word = rule_of(names[k]);

            for (size_t i = 0; i < LEN;) {
                i += word(text + i, LEN - i);
            }
        }
    }
}

static void other_names_are_unknown(void **state)
{
    (void)state;
    assert_null(split_find("gpt-3", 5));
    assert_null(split_find("", 0));
    assert_null(split_find("qwen2x", 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_of_the_expressions),
        cmocka_unit_test(reference_ids_agree),
        cmocka_unit_test(what_is_no_text_is_cut_too),
        cmocka_unit_test(names_of_other_models),
        cmocka_unit_test(time_is_linear),
        cmocka_unit_test(other_names_are_unknown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
