/*
 * JSON Schema as a grammar: every string of the grammar is a JSON text that meets the schema.
 * The other way it is less: objects have the named properties only, in the schema's order;
 * white space is a space, or a line break with its indentation; integers have 64 bits, numbers
 * at most 17 digits behind the point and exponents 2, those with bounds no exponent and 15
 * digits (numbers.h); nothing is nested deeper than GRAMMAR_MAX_DEPTH.
 *
 * Known: type (and lists of types), properties, required, additionalProperties, items,
 * minItems, maxItems, enum, const, anyOf, $ref (also to itself), $defs, definitions; of
 * numbers also minimum, maximum, exclusiveMinimum and exclusiveMaximum; of strings minLength,
 * maxLength, pattern (pattern.h, strings.h) and format (formats.h). title, description and the
 * like say nothing. Anything else is an error that names it, and so is what would constrain the
 * value beside anyOf or $ref.
 */
#ifndef INFER_SCHEMA_H
#define INFER_SCHEMA_H

#include "core/pool.h"
#include "infer/grammar.h"

#define SCHEMA_MAX_ITEMS  1000  /* minItems, maxItems */
#define SCHEMA_MAX_LENGTH 10000 /* minLength, maxLength */

/* Of the text of a JSON object, which must be valid JSON. A format that is unknown is an error
 * if strict, else it says nothing. NULL, and one line in err that a client may see, if we
 * cannot. */
grammar *schema_compile(const char *text, size_t len, bool strict, char *err, size_t errlen);

/* The same as a part of a grammar, between two of its states. Patterns and lengths count their
 * steps down from work, of which there are SCHEMA_WORK for all schemas of a request: some 30
 * ms. False, and one line in err; what was added leads nowhere then. */
#define SCHEMA_WORK ((size_t)4 * 1000 * 1000)
bool schema_add(grammar *g, aiq_str schema, bool strict, size_t *work, uint32_t from,
                uint32_t to, char *err, size_t errlen);

/* Is it a schema at all, whether an answer can be held to it or not? Of the text of a JSON
 * object, which must be valid JSON. False, and half a line in err that says what is not. */
bool schema_check(aiq_str schema, char *err, size_t errlen);

#endif
