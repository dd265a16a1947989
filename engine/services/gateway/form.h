/*
 * Fields of a multipart/form-data body (RFC 7578), found where they stand, while it comes.
 * Pure.
 *
 * What is found decides which model a caller may use, and the provider reads the body anew.
 * So whatever two readers could understand differently is refused: text before the first
 * boundary, a boundary behind a bare line feed or inside a value, folded headers, backslashes
 * and percent signs in names, a field that comes twice, or as a file, or encoded.
 *
 * In whatever pieces it comes, the result is the same.
 */

#ifndef AIQ_FORM_H
#define AIQ_FORM_H

#include <stdbool.h>
#include "core/pool.h"

#define FORM_PARTS_MAX    256
#define FORM_HEADER_MAX   4096 /* bytes of one part's headers */
#define FORM_FIELDS       2    /* that are looked for */
#define FORM_BOUNDARY_MAX 70   /* RFC 2046 */

typedef struct {
    const char *name; /* NULL: none is looked for */
    bool found;
    aiq_str value; /* a slice of the body */
} form_field;

/* What a part's headers say. */
typedef struct {
    aiq_str name;
    bool file, encoded;
} form_part;

typedef enum {
    FORM_AT_START,
    FORM_AFTER_DELIMITER,
    FORM_IN_HEADERS,
    FORM_IN_CONTENT,
    FORM_AT_END
} form_state;

typedef struct {
    form_field fields[FORM_FIELDS];
    const char *wrong; /* why it is FORM_BAD */
    /* form.c's own */
    form_state state;
    const char *data;
    size_t n, pos, start; /* start: of the part's headers, or content */
    bool last;
    char delimiter[FORM_BOUNDARY_MAX + 2]; /* "--" and the boundary */
    size_t len;                            /* of the delimiter */
    unsigned parts;
    form_part part;
} form;

typedef enum { FORM_MORE, FORM_DONE, FORM_BAD } form_result;

/* Is it a form's content type? */
bool form_is(aiq_str content_type);

/* names: of the fields to look for, FORM_FIELDS of them or NULL behind the last. False: it is
 * no form's content type; wrong says why. */
bool form_begin(form *f, aiq_str content_type, const char *const *names);

/* Reads on. body: what is there of it by now, from its beginning, always at the same place;
 * last: that is all. FORM_BAD: it is no form, or one that could be read in two ways. FORM_DONE:
 * it was read to its end. A field that is found stays so, but it holds only where the rest is
 * not bad. */
form_result form_read(form *f, aiq_str body, bool last);

#endif
