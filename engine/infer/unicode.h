/* UTF-8 and what tokenizers ask about characters. Pure functions. */
#ifndef INFER_UNICODE_H
#define INFER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Looks at the first character of n > 0 bytes. Returns
 *   1..4   its length; *cp is the character
 *   0      the bytes are the beginning of a character that more bytes could complete
 *   -1..-3 that many bytes are ill-formed (the longest such run that Unicode counts as one)
 */
int utf8_next(const char *p, size_t n, uint32_t *cp);

/* Writes cp, a character, and returns its length, 1..4. */
size_t utf8_put(uint32_t cp, char out[4]);

bool unicode_is_letter(uint32_t cp);      /* \p{L} */
bool unicode_is_upper(uint32_t cp);       /* \p{Lu}, \p{Lt} */
bool unicode_is_lower(uint32_t cp);       /* \p{Ll} */
bool unicode_is_mark(uint32_t cp);        /* \p{M} */
bool unicode_is_number(uint32_t cp);      /* \p{N} */
bool unicode_is_punctuation(uint32_t cp); /* \p{P} */
bool unicode_is_control(uint32_t cp);     /* \p{Cc}, \p{Cf} */
bool unicode_is_space(uint32_t cp);       /* \p{White_Space} */

/* The character in lower case, decomposed, without its accents (\p{Mn}): that is 0..3
 * characters. Returns how many. */
size_t unicode_fold(uint32_t cp, uint32_t out[3]);

#endif
