/*
 * JSON Schema's formats of strings, as patterns (pattern.h). Some say a little less than their
 * RFC allows, so that whoever checks them agrees: host names have up to six labels of 41
 * characters, e-mail addresses no quoted names, times up to six digits of a second and none
 * that is a leap second.
 */
#ifndef INFER_FORMATS_H
#define INFER_FORMATS_H

#include "core/pool.h"

/* NULL: it is unknown. */
const char *formats_find(aiq_str name);

#endif
