/* UTF-8 and the few character classes that tokenizers ask for. Pure functions. */
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

bool unicode_is_letter(uint32_t cp); /* \p{L} */
bool unicode_is_number(uint32_t cp); /* \p{N} */
bool unicode_is_space(uint32_t cp);  /* \p{White_Space} */

#endif
