/*
 * Writing a request or an answer anew in another dialect. The document that is
 * read has been validated by json_scan(), so its values are copied as they stand:
 * numbers keep their digits, strings their escapes, and no tree is built that a
 * peer could make large.
 *
 * What the other dialect cannot say is a 400 that names the field, never left
 * out in silence: rewrite_only() finds what nobody has looked at.
 */

#ifndef AIQ_REWRITE_H
#define AIQ_REWRITE_H

#include "core/err.h"
#include "core/json.h"

/* A comma where one is needed: not at the start of an object, array or value. */
void rewrite_comma(aiq_buf *out);
/* The same, and the member's name with its colon. */
void rewrite_name(aiq_buf *out, const char *name);
/* A value as it stands; with a name, a member. */
void rewrite_value(aiq_buf *out, const json_value *value);
void rewrite_member(aiq_buf *out, const char *name, const json_value *value);
void rewrite_member_text(aiq_buf *out, const char *name, aiq_str text);
void rewrite_member_word(aiq_buf *out, const char *name, const char *word);
void rewrite_member_int(aiq_buf *out, const char *name, int64_t n);

/* The text between a string's quotes, as it stands; empty for other values. */
aiq_str rewrite_raw(const json_value *value);

/* Absent or null. */
bool rewrite_absent(const json_value *value);
/* What asks for nothing: absent, null, false, 0, "", [] and {}. */
bool rewrite_asks_nothing(const json_value *value);

/* 400s that name a field; they return false. The name is a printf format. */
bool rewrite_unsupported(aiq_err *err, const char *field, ...)
    __attribute__((format(printf, 2, 3)));
bool rewrite_invalid(aiq_err *err, const char *expected, const char *field, ...)
    __attribute__((format(printf, 3, 4)));

/* An error about what was rewritten, told to whoever wrote it: the field at fault, with all
 * behind its name, has the name that stands beside it. names: pairs of those here and there;
 * the last is of NULLs. */
void rewrite_error(aiq_err *err, const char *const (*names)[2]);

/* Does the object ask for nothing but the members in names (ended by NULL)? field:
 * what the object is called, with a dot at its end; empty at the top. */
bool rewrite_only(const json_value *object, const char *const *names, const char *field,
                  aiq_err *err);

#endif
