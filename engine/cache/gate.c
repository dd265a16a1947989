#include "cache/gate_list.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* Says nothing of its own. What can make a difference is not here: "my", "was", "to". */
static const char *const empty_words[] = {
    "a",    "an", "the",  "is",     "are",   "am",  "be", "do", "does",  "please", "pls",
    "just", "so", "then", "kindly", "i",     "me",  "we", "us", "d",     "ll",     "m",
    "re",   "ve", "s",    "thanks", "thank", "thx", "ok", "hi", "hello", "hey",    NULL};

/* "Can you tell me" is a form of address, and "how can I" is "how do I"; anywhere else they
 * say what is asked. */
static const char *const modals[] = {"can", "could", "would", "will", NULL};

/* Nor do these, before anything was said. */
static const char *const preludes[] = {"you",  "tell", "know",  "want",    "like",  "wondering",
                                       "to",   "if",   "good",  "morning", "quick", "question",
                                       "help", "let",  "there", NULL};

static const char *const negations[] = {
    "no",      "not",    "never", "none",    "nothing", "nobody",  "nowhere",
    "neither", "nor",    "ohne",  "without", "except",  "unless",  "nicht",
    "kein",    "keine",  "nie",   "pas",     "jamais",  "sans",    "nunca",
    "senza",   "didnt",  "wasnt", "werent",  "couldnt", "wouldnt", "shouldnt",
    "hasnt",   "havent", "hadnt", "mustnt",  NULL};

/* The same as "not", where "do" and "is" are left out; and with a modal before it. */
static const char *const bare_nots[] = {"dont", "doesnt", "isnt", "arent", NULL};
static const char *const modal_nots[][2] = {
    {"cannot", "can"}, {"cant", "can"}, {"wont", "will"}};

static const char *const numerals[] = {"zero", "one",    "two",    "three", "four",
                                       "five", "six",    "seven",  "eight", "nine",
                                       "ten",  "eleven", "twelve", NULL};

/* Which begin a sentence without being a name. */
static const char *const beginnings[] = {
    "how",     "what",   "when",  "where",   "who",       "whom",      "whose", "why",
    "which",   "did",    "was",   "were",    "has",       "have",      "had",   "should",
    "must",    "may",    "might", "if",      "in",        "on",        "at",    "for",
    "from",    "to",     "with",  "by",      "of",        "as",        "and",   "or",
    "but",     "give",   "show",  "list",    "explain",   "describe",  "write", "translate",
    "compare", "define", "find",  "make",    "create",    "summarize", "name",  "my",
    "your",    "you",    "it",    "this",    "that",      "these",     "those", "which",
    "need",    "help",   "get",   "convert", "calculate", "it",        NULL};

typedef struct {
    aiq_str text; /* what is left */
    aiq_buf *list;
    bool begins;       /* a sentence */
    bool said;         /* something */
    bool how;          /* the last word was that */
    const char *modal; /* that may turn out to be a form of address */
    bool failed;
    unsigned n;
} making;

static bool one_of(const char *const *words, const char *text)
{
    while (*words && strcmp(*words, text) != 0) {
        words++;
    }
    return *words != NULL;
}

static bool is_ascii(char c)
{
    return (unsigned char)c < 0x80;
}

static bool is_letter(char c)
{
    return isalpha((unsigned char)c) || !is_ascii(c);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void add(making *m, char kind, const char *text, size_t len)
{
    const uint8_t head[2] = {(uint8_t)kind, (uint8_t)len};

    if (len > WORD_MAX || ++m->n > GATE_WORDS_MAX) {
        m->failed = true;
        return;
    }
    m->said = true;
    m->how = len == 3 && memcmp(text, "how", 3) == 0;
    aiq_buf_add(m->list, head, sizeof(head));
    aiq_buf_add(m->list, text, len);
}

static void put(making *m, char kind, const char *text, size_t len)
{
    const char *modal = m->modal;

    m->modal = NULL;
    if (modal) {
        add(m, WORD, modal, strlen(modal));
    }
    if (len) {
        add(m, kind, text, len);
    }
}

/* "tables", "boxes", "cities"; not "glass", "status", "analysis". */
static size_t singular(char *text, size_t len)
{
    if (len < 4 || text[len - 1] != 's' || strchr("sui", text[len - 2])) {
        return len;
    }
    if (len > 4 && memcmp(text + len - 3, "ies", 3) == 0) {
        text[len - 3] = 'y';
        return len - 2;
    }
    if (text[len - 2] == 'e' && strchr("xhs", text[len - 3])) {
        return len - 2;
    }
    return len - 1;
}

static bool put_numeral(making *m, const char *text)
{
    char digits[24];

    for (size_t i = 0; numerals[i]; i++) {
        if (strcmp(text, numerals[i]) == 0) {
            put(m, NUMBER, digits, (size_t)(aiq_put_decimal(digits, i) - digits));
            return true;
        }
    }
    return false;
}

/* It may begin a question, and say nothing there. */
static void put_modal(making *m, const char *modal)
{
    if (m->said && !m->how) {
        put(m, WORD, modal, strlen(modal));
    } else if (!m->how) {
        m->modal = modal;
    }
}

static bool put_negation(making *m, const char *text)
{
    for (size_t i = 0; i < sizeof(modal_nots) / sizeof(*modal_nots); i++) {
        if (strcmp(text, modal_nots[i][0]) == 0) {
            put_modal(m, modal_nots[i][1]);
            put(m, NEGATION, "not", 3);
            return true;
        }
    }
    bool bare = one_of(bare_nots, text);
    if (bare || one_of(negations, text)) {
        put(m, NEGATION, bare ? "not" : text, bare ? 3 : strlen(text));
        return true;
    }
    return false;
}

/* What is there only for politeness, or for grammar. */
static bool is_empty(making *m, const char *text)
{
    if (m->modal && strcmp(text, "you") == 0) {
        m->modal = NULL;
        return true;
    }
    return one_of(empty_words, text) || (m->how && strcmp(text, "to") == 0) ||
           (!m->said && !m->modal && one_of(preludes, text));
}

static bool put_known(making *m, const char *text)
{
    for (size_t i = 0; modals[i]; i++) {
        if (strcmp(text, modals[i]) == 0) {
            put_modal(m, modals[i]);
            return true;
        }
    }
    return is_empty(m, text) || put_negation(m, text) || put_numeral(m, text);
}

/* Letters only. */
static void put_word(making *m, const char *from, size_t len)
{
    bool name = isupper((unsigned char)*from), begins = m->begins;
    char text[WORD_MAX + 1];

    m->begins = false;
    if (len > WORD_MAX) {
        m->failed = true;
        return;
    }
    for (size_t i = 0; i < len; i++) {
        text[i] = (char)(is_ascii(from[i]) ? tolower((unsigned char)from[i]) : from[i]);
    }
    text[len] = '\0';
    if (!put_known(m, text)) {
        name = name && !(begins && one_of(beginnings, text));
        put(m, name ? NAME : WORD, text, singular(text, len));
    }
}

/* "don't" without "n't", of which "can't" and "won't" leave less. */
static void put_negated(making *m, const char *from, size_t len)
{
    if (len == 2 && strncasecmp(from, "ca", 2) == 0) {
        put_modal(m, "can");
    } else if (len == 2 && strncasecmp(from, "wo", 2) == 0) {
        put_modal(m, "will");
    } else {
        put_word(m, from, len);
    }
    put(m, NEGATION, "not", 3);
}

/* "don't", "what's", "e-mail": letters with apostrophes and hyphens between. */
static void put_words(making *m, aiq_str piece)
{
    for (size_t i = 0; i < piece.len;) {
        const char *from = piece.data + i;
        size_t n = 0;

        while (i + n < piece.len && is_letter(from[n])) {
            n++;
        }
        if (n > 1 && i + n + 2 == piece.len && memcmp(from + n - 1, "n't", 3) == 0) {
            put_negated(m, from, n - 1);
            return;
        }
        if (n) {
            put_word(m, from, n);
        }
        i += n + 1;
    }
}

/* The comma of thousands at i. */
static bool is_comma(aiq_str piece, size_t i)
{
    size_t n = 0;

    while (i + 1 + n < piece.len && is_digit(piece.data[i + 1 + n])) {
        n++;
    }
    return piece.data[i] == ',' && n == 3;
}

/* Its numeral without commas, nor zeros at the end, in text; returns how much of the piece
 * that was. */
static size_t read_numeral(aiq_str piece, char *text, size_t *len)
{
    size_t i = piece.data[0] == '-', n = i;
    bool point = false;

    memcpy(text, piece.data, i);
    for (; i < piece.len; i++) {
        if (piece.data[i] == '.' && !point && i + 1 < piece.len &&
            is_digit(piece.data[i + 1])) {
            point = true;
        } else if (!point && is_comma(piece, i)) {
            continue;
        } else if (!is_digit(piece.data[i])) {
            break;
        }
        text[n++] = piece.data[i];
    }
    while (point && text[n - 1] == '0') {
        n--;
    }
    *len = n - (point && text[n - 1] == '.');
    return i;
}

/* A numeral, and what follows it in the piece, as in "5kg" or "20%". */
static bool put_number(making *m, aiq_str piece)
{
    size_t sign = piece.data[0] == '-', len;
    char text[WORD_MAX + 1];

    if (piece.len > WORD_MAX || sign == piece.len || !is_digit(piece.data[sign])) {
        return false;
    }
    size_t end = read_numeral(piece, text, &len);
    for (size_t i = end; i < piece.len; i++) {
        if (!is_letter(piece.data[i]) && piece.data[i] != '%') {
            return false; /* a date, a version, a time */
        }
    }
    put(m, NUMBER, text, len);
    put(m, WORD, piece.data + end, piece.len - end);
    return true;
}

static bool is_words(aiq_str piece)
{
    for (size_t i = 0; i < piece.len; i++) {
        if (!is_letter(piece.data[i]) &&
            !(i && i + 1 < piece.len && (piece.data[i] == '\'' || piece.data[i] == '-'))) {
            return false;
        }
    }
    return true;
}

/* One without white space, nor signs of a sentence around it. */
static void put_piece(making *m, aiq_str piece)
{
    if (is_words(piece)) {
        put_words(m, piece);
    } else if (!put_number(m, piece)) {
        put(m, NAME, piece.data, piece.len);
    }
    m->begins = false;
}

/* Quotes, dashes and dots of typographers. Returns how many bytes c replaces; 0: it is none. */
static size_t plain_sign(aiq_str text, char *c)
{
    static const struct {
        char bytes[4];
        char plain;
    } signs[] = {{"\xe2\x80\x98", '\''}, {"\xe2\x80\x99", '\''}, {"\xe2\x80\x9c", '"'},
                 {"\xe2\x80\x9d", '"'},  {"\xe2\x80\x93", '-'},  {"\xe2\x80\x94", ' '},
                 {"\xe2\x80\xa6", '.'},  {"\xc2\xa0", ' '}};

    for (size_t i = 0; i < sizeof(signs) / sizeof(*signs); i++) {
        size_t n = strlen(signs[i].bytes);
        if (text.len >= n && memcmp(text.data, signs[i].bytes, n) == 0) {
            *c = signs[i].plain;
            return n;
        }
    }
    return 0;
}

static size_t make_plain(aiq_str text, char *out)
{
    size_t len = 0;

    while (text.len) {
        char c = *text.data;
        size_t n = plain_sign(text, &c);
        n = n ? n : 1;
        out[len++] = isspace((unsigned char)c) || c == '\0' ? ' ' : c;
        text.data += n;
        text.len -= n;
    }
    return len;
}

static void skip(aiq_str *text, size_t n)
{
    text->data += n;
    text->len -= n;
}

/* What stands between quotes is one name, as it is. */
static bool take_quoted(making *m)
{
    char quote = *m->text.data;
    const char *end;

    if (quote != '"' && quote != '`' && quote != '\'') {
        return false;
    }
    end = m->text.len > 1 ? memchr(m->text.data + 1, quote, m->text.len - 1) : NULL;
    size_t n = end ? (size_t)(end - m->text.data) : 0;
    if (n < 2 || (quote == '\'' && n + 1 < m->text.len && is_letter(end[1]))) {
        return false;
    }
    put(m, NAME, m->text.data + 1, n - 1);
    skip(&m->text, n + 1);
    m->begins = false;
    return true;
}

/* "5!" is another number. */
static bool is_sign_of_sentence(aiq_str piece)
{
    char last = piece.data[piece.len - 1];

    return strchr(".,;:?)]}'\"", last) ||
           (last == '!' && piece.len > 1 && !is_digit(piece.data[piece.len - 2]));
}

static void take_piece(making *m)
{
    const char *end = memchr(m->text.data, ' ', m->text.len);
    aiq_str piece = {m->text.data, end ? (size_t)(end - m->text.data) : m->text.len};
    bool ends = false;

    skip(&m->text, piece.len);
    while (piece.len && strchr("([{,;:'\"", *piece.data)) {
        skip(&piece, 1);
    }
    while (piece.len && is_sign_of_sentence(piece)) {
        ends = ends || strchr(".:?!", piece.data[piece.len - 1]);
        piece.len--;
    }
    if (piece.len) {
        put_piece(m, piece);
    }
    m->begins = ends || (m->begins && piece.len == 0);
}

bool gate_make(aiq_str text, aiq_buf *list)
{
    char plain[GATE_TEXT_MAX];
    making m = {.list = list, .begins = true};

    if (text.len > sizeof(plain)) {
        return false;
    }
    m.text = (aiq_str){plain, make_plain(text, plain)};
    while (m.text.len && !m.failed) {
        if (*m.text.data == ' ') {
            skip(&m.text, 1);
        } else if (!take_quoted(&m)) {
            take_piece(&m);
        }
    }
    put(&m, WORD, "", 0); /* a modal that waits */
    return m.n > 0 && !m.failed;
}
