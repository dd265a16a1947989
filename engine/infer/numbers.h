/*
 * Numbers of a range as a part of a grammar.
 *
 * Bounds are decimals of a fixed number of digits, read from the text of the schema: what a
 * double would make of them is another number. A bound that has more digits is rounded into
 * the range; one that is larger than all that is written leaves nothing on its far side.
 *
 * Numbers are written without exponent. Who reads them reads doubles, of which 15 digits are
 * exact: so behind a bound that is excluded the next number is the one that differs in its
 * 15th digit. An order that holds for decimals then holds for what is read, too.
 *
 * Pure functions.
 */
#ifndef INFER_NUMBERS_H
#define INFER_NUMBERS_H

#include "core/pool.h"
#include "infer/grammar.h"

#define NUMBERS_WHOLE    19 /* digits before the point, at most */
#define NUMBERS_FRACTION 15 /* behind it */

/* One digit more than is written: a bound may be beyond all numbers. */
#define NUMBERS_DIGITS (1 + NUMBERS_WHOLE + NUMBERS_FRACTION)

typedef struct {
    bool negative;                   /* never of 0 */
    char digits[NUMBERS_DIGITS + 1]; /* and NUL */
} decimal;

typedef struct {
    int fraction; /* digits behind the point, at most; 0: integers */
    decimal least, most;
} number_range;

/* All integers of 64 bits, or all numbers of these digits. */
number_range numbers_all(bool integers);

typedef enum { MINIMUM, MAXIMUM, EXCLUSIVE_MINIMUM, EXCLUSIVE_MAXIMUM } number_bound;

/* Leaves what is also on this side of a bound, the text of a JSON number. */
void numbers_narrow(number_range *r, number_bound bound, aiq_str text);

bool numbers_empty(const number_range *r);
bool numbers_equal(const number_range *a, const number_range *b);

/* The numbers of a range that is not empty, as JSON writes them, between two of the grammar's
 * states. */
void numbers_add(grammar *g, const number_range *r, uint32_t from, uint32_t to);

#endif
