/*
 * A field of a multipart/form-data body (RFC 7578), found where it stands. Pure.
 *
 * What is found decides which model a caller may use, and the provider reads the body anew.
 * So whatever two readers could understand differently is refused: text before the first
 * boundary, a boundary behind a bare line feed or inside a value, folded headers, backslashes
 * and percent signs in names, a field that comes twice, or as a file, or encoded.
 */

#ifndef AIQ_FORM_H
#define AIQ_FORM_H

#include <stdbool.h>
#include "core/pool.h"

#define FORM_PARTS_MAX  256
#define FORM_HEADER_MAX 4096 /* bytes of one part's headers */

/* Is it a form's content type? */
bool form_is(aiq_str content_type);

/* The field's value, a slice of body; empty text where there is no such field. False: it is
 * no form, or one that could be read in two ways; *wrong says why. */
bool form_field(aiq_str body, aiq_str content_type, const char *name, aiq_str *value,
                const char **wrong);

#endif
