/*
 * Ids: a prefix that says of what, and a ULID (https://github.com/ulid/spec): 48 bits of
 * Unix time in milliseconds, then 80 bits, of which the first 20 are the nanoseconds
 * since (as RFC 9562, 6.2, method 3 has it for UUIDs) and 60 are random. So ids sort
 * by the time they were made, those of one millisecond too, and nobody guesses another's.
 */

#ifndef AIQ_ID_H
#define AIQ_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "run_" and its like: up to 5 characters, then 26 and the NUL. */
#define AIQ_ID_SIZE 32

/* Any thread. Returns its time, Unix in milliseconds. */
int64_t aiq_id(char out[AIQ_ID_SIZE], const char *prefix);

/* Where the ids of a time and later ones begin: above all earlier ones, below all others. */
void aiq_id_at(char out[AIQ_ID_SIZE], const char *prefix, int64_t ms);

/* One that names who has what it is of: behind the milliseconds 30 bits are the owner's,
 * and 50 are random. Any thread. */
void aiq_id_owned(char out[AIQ_ID_SIZE], const char *prefix, uint32_t owner);
/* Whose it is; false: it is no such id. */
bool aiq_id_owner(const char *id, size_t len, const char *prefix, uint32_t *owner);

/* Unix time in milliseconds. */
int64_t aiq_now_ms(void);

#endif
