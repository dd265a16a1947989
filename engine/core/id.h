/*
 * Ids: a prefix that says of what, and a ULID (https://github.com/ulid/spec): 48 bits of
 * Unix time in milliseconds, then 80 bits, of which the first 20 are the nanoseconds
 * since (as RFC 9562, 6.2, method 3 has it for UUIDs) and 60 are random. So ids sort
 * by the time they were made, those of one millisecond too, and nobody guesses another's.
 */

#ifndef AIQ_ID_H
#define AIQ_ID_H

#include <stdint.h>

/* "run_" and its like: up to 5 characters, then 26 and the NUL. */
#define AIQ_ID_SIZE 32

/* Any thread. */
void aiq_id(char out[AIQ_ID_SIZE], const char *prefix);

/* Unix time in milliseconds. */
int64_t aiq_now_ms(void);

#endif
