#include "cache/gate_list.h"

#include <string.h>

/* Where other words may stand for one meaning, these stand for two. */
static const char *const opposites[][2] = {{"to", "from"},
                                           {"before", "after"},
                                           {"above", "below"},
                                           {"over", "under"},
                                           {"up", "down"},
                                           {"on", "off"},
                                           {"in", "out"},
                                           {"more", "less"},
                                           {"most", "least"},
                                           {"best", "worst"},
                                           {"first", "last"},
                                           {"next", "previous"},
                                           {"enable", "disable"},
                                           {"increase", "decrease"},
                                           {"raise", "lower"},
                                           {"add", "remove"},
                                           {"open", "close"},
                                           {"start", "stop"},
                                           {"begin", "end"},
                                           {"buy", "sell"},
                                           {"import", "export"},
                                           {"upload", "download"},
                                           {"install", "uninstall"},
                                           {"lock", "unlock"},
                                           {"minimum", "maximum"},
                                           {"min", "max"},
                                           {"small", "large"},
                                           {"short", "long"},
                                           {"high", "low"},
                                           {"old", "new"},
                                           {"old", "young"},
                                           {"fast", "slow"},
                                           {"hot", "cold"},
                                           {"cheap", "expensive"},
                                           {"early", "late"},
                                           {"left", "right"},
                                           {"win", "lose"},
                                           {"send", "receive"},
                                           {"push", "pull"},
                                           {"encrypt", "decrypt"},
                                           {"always", "never"},
                                           {"all", "some"},
                                           {"accept", "reject"},
                                           {"allow", "block"},
                                           {"legal", "illegal"},
                                           {"safe", "dangerous"},
                                           {"pro", "con"},
                                           {"advantage", "disadvantage"},
                                           {"subscribe", "unsubscribe"},
                                           {"my", "your"}};

/* Nor may these be others. */
static const char *const weighty[] = {
    "was",  "were",   "did",   "had",  "should", "must",  "may", "might",   "who",
    "when", "where",  "why",   "only", "all",    "every", "any", "than",    "from",
    "by",   "before", "after", "most", "each",   "both",  "or",  "instead", NULL};

/* Of a list. */
typedef struct {
    char kind;
    uint8_t len;
    char text[WORD_MAX + 1];
} word;

static bool next_word(aiq_str *list, word *w)
{
    if (list->len < 2) {
        return false;
    }
    w->kind = list->data[0];
    w->len = (uint8_t)list->data[1];
    if (w->len > list->len - 2) {
        return false;
    }
    memcpy(w->text, list->data + 2, w->len);
    w->text[w->len] = '\0';
    list->data += w->len + 2;
    list->len -= (size_t)w->len + 2;
    return true;
}

/* How often; of any kind where kind is 0. */
static unsigned count(aiq_str list, const char *text, char kind)
{
    unsigned n = 0;
    word w;

    while (next_word(&list, &w)) {
        n += (text == NULL || strcmp(w.text, text) == 0) && (kind == 0 || w.kind == kind);
    }
    return n;
}

/* The next of a kind. */
static bool next_of(aiq_str *list, char kind, word *w)
{
    while (next_word(list, w)) {
        if (w->kind == kind) {
            return true;
        }
    }
    return false;
}

/* The next number, and what is counted. */
static bool next_number(aiq_str *list, word *number, word *of)
{
    of->len = 0;
    of->text[0] = '\0';
    if (!next_of(list, NUMBER, number)) {
        return false;
    }
    aiq_str rest = *list;
    (void)next_word(&rest, of);
    return true;
}

static bool same_numbers(aiq_str a, aiq_str b)
{
    word x, y, of_x, of_y;

    for (;;) {
        bool more = next_number(&a, &x, &of_x);
        if (more != next_number(&b, &y, &of_y)) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (strcmp(x.text, y.text) != 0 || strcmp(of_x.text, of_y.text) != 0) {
            return false;
        }
    }
}

/* Who writes no capitals may mean the same names. */
static bool has_names_of(aiq_str a, aiq_str b)
{
    aiq_str list = a;
    word w;

    while (next_of(&list, NAME, &w)) {
        if (count(a, w.text, 0) != count(b, w.text, 0)) {
            return false;
        }
    }
    return true;
}

static bool same_list(aiq_str a, aiq_str b)
{
    word x, y;

    while (next_word(&a, &x)) {
        if (!next_word(&b, &y) || strcmp(x.text, y.text) != 0) {
            return false;
        }
    }
    return !next_word(&b, &y);
}

/* Has b the words of a, as often, in whatever order? */
static bool has_words_of(aiq_str a, aiq_str b)
{
    aiq_str list = a;
    word w;

    while (next_word(&list, &w)) {
        if (count(a, w.text, 0) != count(b, w.text, 0)) {
            return false;
        }
    }
    return true;
}

/* Those that are in both lists as often, in the order of a: is it that of b? */
static bool same_order(aiq_str a, aiq_str b)
{
    aiq_str la = a, lb = b;
    word x, y;

    for (;;) {
        bool more, other;
        do {
            more = next_word(&la, &x);
        } while (more && count(a, x.text, 0) != count(b, x.text, 0));
        do {
            other = next_word(&lb, &y);
        } while (other && count(a, y.text, 0) != count(b, y.text, 0));
        if (!more || !other) {
            return more == other;
        }
        if (strcmp(x.text, y.text) != 0) {
            return false;
        }
    }
}

static bool has_only(aiq_str a, aiq_str b, const char *text)
{
    return count(a, text, 0) > 0 && count(b, text, 0) == 0;
}

static bool mean_others(aiq_str a, aiq_str b)
{
    for (const char *const *w = weighty; *w; w++) {
        if (count(a, *w, 0) != count(b, *w, 0)) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof(opposites) / sizeof(*opposites); i++) {
        const char *const *pair = opposites[i];
        if ((has_only(a, b, pair[0]) && has_only(b, a, pair[1])) ||
            (has_only(a, b, pair[1]) && has_only(b, a, pair[0]))) {
            return true;
        }
    }
    return false;
}

/* Negations, names and opposites are known in English only. */
static bool is_foreign(aiq_str list)
{
    word w;

    while (next_word(&list, &w)) {
        for (size_t i = 0; i < w.len; i++) {
            if ((unsigned char)w.text[i] >= 0x80) {
                return true;
            }
        }
    }
    return false;
}

gate_verdict gate_compare(aiq_str a, aiq_str b, gate_mode mode)
{
    if (same_list(a, b)) {
        return GATE_SAME;
    }
    if (!same_numbers(a, b)) {
        return GATE_NUMBERS;
    }
    if (count(a, NULL, NEGATION) != count(b, NULL, NEGATION)) {
        return GATE_NEGATION;
    }
    if (!has_names_of(a, b) || !has_names_of(b, a)) {
        return GATE_NAMES;
    }
    if (mode == GATE_LOOSE && !is_foreign(a) && !is_foreign(b)) {
        return mean_others(a, b) ? GATE_WORDS : same_order(a, b) ? GATE_SAME : GATE_ORDER;
    }
    return has_words_of(a, b) && has_words_of(b, a) ? GATE_ORDER : GATE_WORDS;
}

const char *gate_name(gate_verdict verdict)
{
    static const char *const names[GATE_VERDICTS] = {"same",  "numbers", "negation",
                                                     "names", "words",   "order"};

    return names[verdict];
}
