/*
 * How near pairs of questions are for the built-in embedder, and what the semantic cache's
 * gates say. Lines of text with tabs in between are read from the standard input; of each, its
 * last two fields are the questions. Printed for each: the cosine, and both gates' verdicts.
 */
#include <stdio.h>
#include <string.h>
#include "cache/gate.h"
#include "infer/lexical.h"
#include "measure.h"

static double cosine(aiq_str a, aiq_str b)
{
    static float x[LEXICAL_DIM], y[LEXICAL_DIM];
    double sum = 0;

    if (!lexical_embed(a.data, a.len, x, NULL) || !lexical_embed(b.data, b.len, y, NULL)) {
        die("pairs: a question is too long");
    }
    for (size_t i = 0; i < LEXICAL_DIM; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

static void compare(aiq_str a, aiq_str b)
{
    aiq_buf x = {0}, y = {0};

    if (!gate_make(a, &x) || !gate_make(b, &y)) {
        die("pairs: a question without words");
    }
    aiq_str lists[2] = {{(char *)x.data, x.len}, {(char *)y.data, y.len}};
    printf("%.4f\t%s\t%s\n", cosine(a, b),
           gate_name(gate_compare(lists[0], lists[1], GATE_STRICT)),
           gate_name(gate_compare(lists[0], lists[1], GATE_LOOSE)));
    aiq_buf_free(&x);
    aiq_buf_free(&y);
}

int main(void)
{
    char line[2 * GATE_TEXT_MAX];

    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        char *last = strrchr(line, '\t');
        if (last == NULL) {
            die("pairs: a line without fields");
        }
        *last++ = '\0';
        char *first = strrchr(line, '\t');
        first = first ? first + 1 : line;
        compare((aiq_str){first, strlen(first)}, (aiq_str){last, strlen(last)});
    }
    return 0;
}
