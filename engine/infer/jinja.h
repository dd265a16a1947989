/*
 * Chat templates. A model's file carries a template in Jinja, Python's template language; this
 * is the part of it that such templates use, with its meaning in the settings that they are
 * written for (trim_blocks, lstrip_blocks, immutable values, no autoescape):
 *
 *   statements   for … if … else, if, set, set blocks, macro, break, continue, generation
 *   expressions  all operators, slices, conditions, calls with names, filters, tests
 *   functions    range, namespace, dict, raise_exception, strftime_now
 *
 * What it does not know is an error that names it and its line, when the template is compiled
 * or, for attributes and types, when it is run. upper, lower, title and capitalize change ASCII
 * letters only; integers have 64 bits.
 *
 * A template is hostile and so is what it is run with: nesting, steps, memory and output are
 * bounded (the limits below), and an evaluation cannot do anything but make text.
 *
 * Every byte of that text knows whether it is foreign: comes from somebody who may not write
 * control tokens. Cutting, joining and replacing keep that.
 */
#ifndef INFER_JINJA_H
#define INFER_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/json.h"

#define JINJA_MAX_SOURCE ((size_t)1 << 20)
#define JINJA_MAX_DEPTH  128                /* of nested expressions and blocks */
#define JINJA_MAX_STEPS  4000000            /* of one run: well below a second */
#define JINJA_MAX_MEMORY ((size_t)64 << 20) /* of one run, besides its output */

typedef struct jinja jinja;             /* a compiled template; immutable, any thread */
typedef struct jinja_run jinja_run;     /* one evaluation; one thread */
typedef struct jinja_value jinja_value; /* lives as long as its run */

/* NULL, and one line in err, if the source is no template or uses what we do not know. */
jinja *jinja_new(const char *source, size_t len, char *err, size_t errlen);
void jinja_free(jinja *t);

/* now is what strftime_now tells. */
jinja_run *jinja_run_new(time_t now);
void jinja_run_free(jinja_run *r);

/* Values; text is borrowed until the run's end. What exceeds the memory fails the run. */
jinja_value *jinja_text(jinja_run *r, const char *text, size_t len, bool foreign);
jinja_value *jinja_bool(jinja_run *r, bool b);
jinja_value *jinja_list(jinja_run *r);
jinja_value *jinja_dict(jinja_run *r);
void jinja_list_add(jinja_run *r, jinja_value *list, const jinja_value *v);
void jinja_dict_set(jinja_run *r, jinja_value *dict, const char *key, const jinja_value *v);
/* Of a validated text; all of its strings are foreign. */
jinja_value *jinja_from_json(jinja_run *r, const json_value *json);

/* Gives the template a variable; name is borrowed. */
void jinja_define(jinja_run *r, const char *name, const jinja_value *v);

/* marks[i] is 1 where text[i] is foreign, else 0. Lives until the run's end. */
typedef struct {
    const char *text;
    const char *marks;
    size_t len;
} jinja_output;

/* Once per run. False, and one line in err ("line 3: …"; what raise_exception said stands
 * there alone), if it failed or out would have more than max_len bytes. */
bool jinja_render(const jinja *t, jinja_run *r, size_t max_len, jinja_output *out, char *err,
                  size_t errlen);

#endif
