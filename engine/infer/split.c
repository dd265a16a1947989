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
 * | ?[^\s\p{L}\p{N}]+[tail]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static size_t by_digits(const char *text, size_t len, size_t digits, const char *tail)
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
    n = signs(text, len, tail);
    return n > 0 ? n : lines_or_spaces(text, len);
}

static size_t llama3(const char *text, size_t len)
{
    return by_digits(text, len, 3, "\r\n");
}

static size_t qwen2(const char *text, size_t len)
{
    return by_digits(text, len, 1, "\r\n");
}

static size_t seed_coder(const char *text, size_t len)
{
    return by_digits(text, len, 1, "");
}

/*
 * Several expressions, each cutting what the one before left. What stands in front of a match
 * of the first then ends there, so no white space is left to a word behind.
 */

/* \p{N}{1,3} , Llama 3's */
static size_t minicpm5(const char *text, size_t len)
{
    size_t n = llama3(text, len), blank = run(text, len, 0, CLASS_SPACE, SIZE_MAX), step;

    if (n < blank && !is_newline(text[n - 1]) &&
        class_at(text, len, blank, &step) == CLASS_NUMBER) {
        return blank;
    }
    return n;
}

/* \p{N} , GPT-2's */
static size_t smollm(const char *text, size_t len)
{
    size_t blank = run(text, len, 0, CLASS_SPACE, SIZE_MAX), step;
    bool number = class_at(text, len, blank, &step) == CLASS_NUMBER;

    if (number) {
        return blank > 0 ? blank : step;
    }
    return gpt2(text, len);
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
 * |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]* , or 0
 */
static size_t cased(const char *text, size_t len)
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
    return n > 0 ? n : capitals(text, len, 0);
}

/* \p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t not_cased(const char *text, size_t len, size_t digits)
{
    size_t n = run(text, len, 0, CLASS_NUMBER, digits);

    if (n == 0) {
        n = signs(text, len, "\r\n/");
    }
    return n > 0 ? n : lines_or_spaces(text, len);
}

static size_t tekken(const char *text, size_t len)
{
    size_t n = cased(text, len);

    return n > 0 ? n : not_cased(text, len, 1);
}

/* Both ways of letters end with (?i:'s|'t|'re|'ve|'m|'ll|'d)? */
static size_t gpt4o(const char *text, size_t len)
{
    size_t n = cased(text, len);

    if (n == 0) {
        return not_cased(text, len, 3);
    }
    return n < len ? n + contraction(text + n, len - n, true) : n;
}

/* [\p{P}others]+ */
static size_t punctuation(const char *text, size_t len, const char *others)
{
    size_t i = 0, step;

    while (i < len) {
        uint32_t cp = char_at(text, len, i, &step);

        if (!unicode_is_punctuation(cp) &&
            (cp == 0 || cp >= 0x80 || strchr(others, (int)cp) == NULL)) {
            break;
        }
        i += step;
    }
    return i;
}

/* [0-9][0-9][0-9] cuts a run of numbers: what is before the first three digits, or these. */
static size_t three_digits(const char *text, size_t len, size_t start)
{
    size_t i = start, digits = 0, step;

    while (class_at(text, len, i, &step) == CLASS_NUMBER) {
        i += step;
        digits = step == 1 ? digits + 1 : 0;
        if (digits == 3) {
            return i == 3 ? 3 : i - 3;
        }
    }
    return i;
}

/* GPT-2's where the signs of punctuation() are cut out: no contraction is left, and what is
 * neither letter, number nor space goes up to the next of them. */
static size_t between_signs(const char *text, size_t len, const char *others)
{
    size_t blank = run(text, len, 0, CLASS_SPACE, SIZE_MAX), start = text[0] == ' ', i, step;
    char_class c = class_at(text, len, start, &step);

    if (blank > 0 && blank < len && punctuation(text + blank, len - blank, others) > 0) {
        return blank;
    }
    if (c != CLASS_OTHER) {
        return gpt2(text, len);
    }
    for (i = start; class_at(text, len, i, &step) == CLASS_OTHER; i += step) {
        if (punctuation(text + i, step, others) > 0) {
            break;
        }
    }
    return i;
}

/* [\p{P}$+<=>^~|`]+ , GPT-2's, [0-9][0-9][0-9] */
static size_t falcon(const char *text, size_t len)
{
    static const char others[] = "$+<=>^~|`";
    size_t n = punctuation(text, len, others), start = text[0] == ' ', step;

    if (n > 0) {
        return n;
    }
    if (class_at(text, len, start, &step) == CLASS_NUMBER) {
        return three_digits(text, len, start);
    }
    return between_signs(text, len, others);
}

/* [\p{P}$+<=>^~|]+ , GPT-2's, \p{N}+ , [0-9][0-9][0-9] */
static size_t unnamed(const char *text, size_t len)
{
    static const char others[] = "$+<=>^~|";
    size_t n = punctuation(text, len, others), start = text[0] == ' ', step;

    if (n > 0) {
        return n;
    }
    if (class_at(text, len, start, &step) == CLASS_NUMBER) {
        return start > 0 ? start : three_digits(text, len, 0);
    }
    return between_signs(text, len, others);
}

/*
 * DeepSeek's first models. Each of these cuts what the ones before left, matches, too:
 *   [\r\n] , \s?[letters]+ , \s?[signs]+ , \s+$ , [ideographs]+ , numbers
 * So a word ends where one of them sees a difference between two characters.
 */
enum {
    DS_LETTER = 1,
    DS_SIGN = 2,
    DS_IDEOGRAPH = 4,
    DS_NUMBER = 8,
    DS_SPACE = 16,
    DS_LINE = 32
};

typedef struct {
    bool (*is_letter)(uint32_t cp);
    bool (*is_sign)(uint32_t cp);
    bool cuts_end;   /* has \s+$ */
    bool one_number; /* \p{N}, not \p{N}+ */
} deepseek_rule;

/* Letters are spelt out in a list: those with case, but for some alphabets. */
static bool is_listed_letter(uint32_t cp)
{
    static const uint32_t unlisted[][2] = {
        {0x560, 0x588},   {0x10c7, 0x10ff},   {0x1c80, 0x1c88},   {0x2d00, 0x2d2d},
        {0xa790, 0xab6f}, {0x10570, 0x105bf}, {0x16e40, 0x16e7f}, {0x1d400, 0x1dfff},
    };

    for (size_t i = 0; i < sizeof(unlisted) / sizeof(*unlisted); i++) {
        if (cp >= unlisted[i][0] && cp <= unlisted[i][1]) {
            return false;
        }
    }
    return unicode_is_upper(cp) || unicode_is_lower(cp);
}

/* [!-/:-~] in both widths, letters with them, [\u2018-\u201f\u3000-\u3002] */
static bool is_listed_sign(uint32_t cp)
{
    uint32_t ascii = cp >= 0xff01 && cp <= 0xff5e ? cp - 0xff01 + '!' : cp;

    return (ascii >= '!' && ascii <= '~' && !unicode_is_number(ascii)) ||
           (cp >= 0x2018 && cp <= 0x201f) || (cp >= 0x3000 && cp <= 0x3002);
}

/* Of other scripts between them, too. */
static bool is_ideograph(uint32_t cp)
{
    return (cp >= 0x800 && cp <= 0x9fa5) || (cp >= 0xac00 && cp <= 0xd7ff);
}

/* Which of the expressions hold for the character at i; DS_LINE behind the end. */
static unsigned deepseek_at(const deepseek_rule *rule, const char *text, size_t len, size_t i,
                            size_t *step)
{
    uint32_t cp;

    *step = 0;
    if (i >= len) {
        return DS_LINE;
    }
    cp = char_at(text, len, i, step);
    if (is_newline(text[i])) {
        return DS_LINE;
    }
    return (rule->is_letter(cp) ? DS_LETTER : 0) | (rule->is_sign(cp) ? DS_SIGN : 0) |
           (is_ideograph(cp) ? DS_IDEOGRAPH : 0) | (unicode_is_number(cp) ? DS_NUMBER : 0) |
           (unicode_is_space(cp) ? DS_SPACE : 0);
}

/* Does the white space at i go to the letters or signs behind it? What is a sign itself goes
 * with signs as one of them, and to letters first. */
static bool leads(const deepseek_rule *rule, const char *text, size_t len, size_t i)
{
    size_t step;
    unsigned c = deepseek_at(rule, text, len, i, &step), next, after;

    i += step;
    next = deepseek_at(rule, text, len, i, &step);
    after = next & DS_SPACE ? deepseek_at(rule, text, len, i + step, &step) : 0;
    return next & DS_LETTER || (next & ~c & DS_SIGN && !(after & DS_LETTER));
}

/* Is the white space from i the last of what letters, signs and lines leave? */
static bool ends_blank(const deepseek_rule *rule, const char *text, size_t len, size_t i)
{
    size_t step;
    unsigned c = deepseek_at(rule, text, len, i, &step), next;

    while (c & DS_SPACE && !leads(rule, text, len, i)) {
        i += step;
        next = deepseek_at(rule, text, len, i, &step);
        if (next & DS_LINE || (c ^ next) & DS_SIGN) {
            return true;
        }
        c = next;
    }
    return c & DS_SPACE;
}

/* Is there a cut between two characters, the second of which is at i? */
static bool is_cut(const deepseek_rule *rule, const char *text, size_t len, size_t i,
                   unsigned before, unsigned c)
{
    unsigned differ = before ^ c;

    if ((before | c) & DS_LINE || (rule->one_number && before & c & DS_NUMBER)) {
        return true;
    }
    if (c & DS_SPACE && (leads(rule, text, len, i) || (rule->cuts_end && !(before & DS_SPACE) &&
                                                       ends_blank(rule, text, len, i)))) {
        return true;
    }
    if (before & DS_SPACE) {
        differ &= before & DS_SIGN ? ~(unsigned)DS_LETTER : ~(unsigned)(DS_LETTER | DS_SIGN);
    }
    return differ & ~(unsigned)DS_SPACE;
}

static size_t deepseek(const deepseek_rule *rule, const char *text, size_t len)
{
    size_t i, step;
    unsigned before = deepseek_at(rule, text, len, 0, &step), c;

    for (i = step; i < len; i += step) {
        c = deepseek_at(rule, text, len, i, &step);
        if (is_cut(rule, text, len, i, before, c)) {
            break;
        }
        before = c;
    }
    return i;
}

static size_t deepseek_llm(const char *text, size_t len)
{
    static const deepseek_rule rule = {is_listed_letter, is_listed_sign, .cuts_end = true};

    return deepseek(&rule, text, len);
}

static size_t deepseek_coder(const char *text, size_t len)
{
    static const deepseek_rule rule = {unicode_is_letter, unicode_is_punctuation,
                                       .one_number = true};

    return deepseek(&rule, text, len);
}

const split_rule *split_find(const char *pre, size_t len)
{
    static const split_rule all[] = {
        {"gpt-2", gpt2},
        {"a.x-4.0", gpt2},
        {"mellum", gpt2},
        {"trillion", gpt2},
        {"llama-bpe", llama3, .whole = true, .begins = true},
        {"llama3", llama3, .whole = true, .begins = true},
        {"llama-v3", llama3, .whole = true, .begins = true},
        {"falcon3", llama3, .whole = true, .begins = true},
        {"midm-2.0", llama3, .whole = true, .begins = true},
        {"pixtral", llama3, .whole = true, .begins = true},
        {"dbrx", llama3},
        {"smaug-bpe", llama3},
        {"minicpm5", minicpm5, .whole = true},
        {"qwen2", qwen2},
        {"deepseek-r1-qwen", qwen2},
        {"megrez", qwen2},
        {"seed-coder", seed_coder},
        {"smollm", smollm},
        {"minerva-7b", smollm},
        {"tekken", tekken, .whole = true, .begins = true},
        {"gpt-4o", gpt4o},
        {"deepseek-llm", deepseek_llm},
        {"deepseek-coder", deepseek_coder},
        {"falcon", falcon},
        {"default", unnamed},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (strlen(all[i].name) == len && memcmp(all[i].name, pre, len) == 0) {
            return &all[i];
        }
    }
    return NULL;
}
