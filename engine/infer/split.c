#include "infer/split.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "infer/unicode.h"

typedef enum { CLASS_NONE, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER } char_class;

/* What is no character: no property holds for it. */
#define NO_CHARACTER 0xfffffffu

/* The character at i and its length, at least 1. i is inside the text. */
static uint32_t char_at(const char *text, size_t len, size_t i, size_t *step)
{
    uint32_t cp = 0;
    int n = utf8_next(text + i, len - i, &cp);

    *step = n > 0 ? (size_t)n : 1;
    return n > 0 ? cp : NO_CHARACTER;
}

/* Class and length of the character at i; CLASS_NONE at the end. */
static char_class class_at(const char *text, size_t len, size_t i, size_t *step)
{
    uint32_t cp;

    *step = 0;
    if (i >= len) {
        return CLASS_NONE;
    }
    cp = char_at(text, len, i, step);
    if (unicode_is_space(cp)) {
        return CLASS_SPACE;
    }
    return unicode_is_letter(cp) ? CLASS_LETTER
                                 : (unicode_is_number(cp) ? CLASS_NUMBER : CLASS_OTHER);
}

static bool is_newline(char c)
{
    return c == '\r' || c == '\n';
}

/* 's|'t|'re|'ve|'m|'ll|'d */
static size_t contraction(const char *text, size_t len, bool any_case)
{
    static const char *const all[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    char fold = any_case ? 0x20 : 0;

    if (text[0] != '\'') {
        return 0;
    }
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        size_t n = strlen(all[i]), same = 0;

        while (same < n && same + 1 < len && (text[1 + same] | fold) == all[i][same]) {
            same++;
        }
        if (same == n) {
            return n + 1;
        }
    }
    return 0;
}

/* From i, while characters are of class c, at most count of them. */
static size_t run(const char *text, size_t len, size_t i, char_class c, size_t count)
{
    size_t step;

    while (count-- > 0 && class_at(text, len, i, &step) == c) {
        i += step;
    }
    return i;
}

/* \s+(?!\S)|\s+ : white space up to the next word leaves its last character to that word. */
static size_t spaces(const char *text, size_t len)
{
    size_t i = 0, last = 0, step;
    char_class c;

    while ((c = class_at(text, len, i, &step)) == CLASS_SPACE) {
        last = i;
        i += step;
    }
    return c == CLASS_NONE || last == 0 ? i : last;
}

/* \s*[\r\n]+ first: white space up to the last line break in it is a word. */
static size_t lines_or_spaces(const char *text, size_t len)
{
    size_t end = run(text, len, 0, CLASS_SPACE, SIZE_MAX);

    for (size_t i = end; i > 0; i--) {
        if (is_newline(text[i - 1])) {
            return i;
        }
    }
    return spaces(text, len);
}

/* ' ?[^\s\p{L}\p{N}]+' and then the characters of tail, or 0. */
static size_t signs(const char *text, size_t len, const char *tail)
{
    size_t start = text[0] == ' ', i = run(text, len, start, CLASS_OTHER, SIZE_MAX);

    if (i == start) {
        return 0;
    }
    while (i < len && text[i] != '\0' && strchr(tail, text[i]) != NULL) {
        i++;
    }
    return i;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2(const char *text, size_t len)
{
    size_t n = contraction(text, len, false), start = text[0] == ' ', step;
    char_class c = class_at(text, len, start, &step);

    if (n > 0) {
        return n;
    }
    if (c == CLASS_NONE || c == CLASS_SPACE) {
        return spaces(text, len);
    }
    return run(text, len, start, c, SIZE_MAX);
}

/*
 * (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static size_t by_digits(const char *text, size_t len, size_t digits)
{
    size_t n = contraction(text, len, true), step, after;
    char_class c = class_at(text, len, 0, &step);

    if (n > 0) {
        return n;
    }
    if (c == CLASS_LETTER) {
        return run(text, len, 0, c, SIZE_MAX);
    }
    if (c == CLASS_NUMBER) {
        return run(text, len, 0, c, digits);
    }
    if (!is_newline(text[0]) && class_at(text, len, step, &after) == CLASS_LETTER) {
        return run(text, len, step, CLASS_LETTER, SIZE_MAX);
    }
    n = signs(text, len, "\r\n");
    return n > 0 ? n : lines_or_spaces(text, len);
}

static size_t llama3(const char *text, size_t len)
{
    return by_digits(text, len, 3);
}

static size_t qwen2(const char *text, size_t len)
{
    return by_digits(text, len, 1);
}

/* Letters as tekken has them: those without case, and marks, go with both cases. */
enum { CAN_BE_UPPER = 1, CAN_BE_LOWER = 2 };

static unsigned case_at(const char *text, size_t len, size_t i, size_t *step)
{
    uint32_t cp;

    *step = 0;
    if (i >= len) {
        return 0;
    }
    cp = char_at(text, len, i, step);
    if (unicode_is_lower(cp)) {
        return CAN_BE_LOWER;
    }
    if (unicode_is_upper(cp)) {
        return CAN_BE_UPPER;
    }
    return unicode_is_letter(cp) || unicode_is_mark(cp) ? CAN_BE_UPPER | CAN_BE_LOWER : 0;
}

static size_t case_run(const char *text, size_t len, size_t i, unsigned bit)
{
    size_t step;

    while (case_at(text, len, i, &step) & bit) {
        i += step;
    }
    return i;
}

/* Upper* Lower+ from start, or 0. Where no lower case follows, the first part gives back what
 * it took behind its last character that can be either. */
static size_t capitalised(const char *text, size_t len, size_t start)
{
    size_t i = start, either = 0, step;
    unsigned c;

    while ((c = case_at(text, len, i, &step)) & CAN_BE_UPPER) {
        i += step;
        either = c & CAN_BE_LOWER ? i : either;
    }
    return c & CAN_BE_LOWER ? case_run(text, len, i, CAN_BE_LOWER) : either;
}

/* Upper+ Lower* from start, or 0. */
static size_t capitals(const char *text, size_t len, size_t start)
{
    size_t i = case_run(text, len, start, CAN_BE_UPPER);

    return i == start ? 0 : case_run(text, len, i, CAN_BE_LOWER);
}

/*
 * [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+
 * |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
 * |\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static size_t tekken(const char *text, size_t len)
{
    size_t step, n = 0;
    char_class c = class_at(text, len, 0, &step);
    bool prefix = c != CLASS_LETTER && c != CLASS_NUMBER && !is_newline(text[0]);

    if (prefix) {
        n = capitalised(text, len, step);
    }
    if (n == 0) {
        n = capitalised(text, len, 0);
    }
    if (n == 0 && prefix) {
        n = capitals(text, len, step);
    }
    if (n == 0) {
        n = capitals(text, len, 0);
    }
    if (n == 0 && c == CLASS_NUMBER) {
        n = step;
    }
    if (n == 0) {
        n = signs(text, len, "\r\n/");
    }
    return n > 0 ? n : lines_or_spaces(text, len);
}

static bool is_falcon_sign(const char *text, size_t len, size_t i, size_t *step)
{
    uint32_t cp = char_at(text, len, i, step);

    return unicode_is_punctuation(cp) || (cp < 0x80 && cp > 0 && strchr("$+<=>^~|`", (int)cp));
}

/* [0-9][0-9][0-9] cuts what is left: what is before the first three digits, or these. */
static size_t three_digits(const char *word, size_t len)
{
    size_t digits = 0;

    for (size_t i = 0; i < len; i++) {
        digits = word[i] >= '0' && word[i] <= '9' ? digits + 1 : 0;
        if (digits == 3) {
            return i == 2 ? 3 : i - 2;
        }
    }
    return len;
}

/* Three expressions, each cutting what the one before left:
 * [\p{P}$+<=>^~|`]+ , GPT-2's, [0-9][0-9][0-9] */
static size_t falcon(const char *text, size_t len)
{
    size_t end = 0, step;
    bool sign = is_falcon_sign(text, len, 0, &step);

    while (end < len && is_falcon_sign(text, len, end, &step) == sign) {
        end += step;
    }
    return three_digits(text, gpt2(text, end));
}

split_word split_find(const char *pre, size_t len)
{
    static const struct {
        const char *name;
        split_word word;
    } all[] = {
        {"gpt-2", gpt2},  {"llama-bpe", llama3}, {"llama3", llama3}, {"llama-v3", llama3},
        {"qwen2", qwen2}, {"tekken", tekken},    {"falcon", falcon},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (strlen(all[i].name) == len && memcmp(all[i].name, pre, len) == 0) {
            return all[i].word;
        }
    }
    return NULL;
}
