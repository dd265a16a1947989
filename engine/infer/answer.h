/*
 * The text of one answer on its way out: tokens' bytes in, whole UTF-8 characters out. Keeps
 * back what may still change: the beginning of a character, and the beginning of a stop string.
 * Ill-formed bytes come out as U+FFFD. One per request; the model's thread.
 */
#ifndef INFER_ANSWER_H
#define INFER_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *const *stop; /* borrowed */
    size_t n_stop;
    char *text; /* complete characters that were not taken yet */
    size_t len;
    size_t cap;
    char part[4]; /* the beginning of a character */
    size_t part_len;
    const char *stopped; /* the stop string that came; text ends before it; NULL: none */
} answer;

/* a begins as all zero, with the stop strings. False if memory ends. */
bool answer_push(answer *a, const char *bytes, size_t len);

/* No more bytes come: what was kept back is text after all. */
bool answer_end(answer *a);

/* Bytes at a->text that are final. Take them, then answer_drop. */
size_t answer_ready(const answer *a);
void answer_drop(answer *a, size_t n);

void answer_free(answer *a);

#endif
