/*
 * The usage in an answer that passes unread: an event stream of images or sounds, whose events
 * may be larger than anybody wants to keep. Looks at each byte once and keeps no more than
 * the value of the member "usage" of an event's data. Pure.
 */

#ifndef AIQ_USAGE_SCAN_H
#define AIQ_USAGE_SCAN_H

#include "providers/provider.h"

#define USAGE_SCAN_MAX 1024 /* bytes of a usage; a longer one is none */

/* All zeroes: before the first byte. */
typedef struct {
    unsigned depth; /* of brackets in this line; its usage is at 1 */
    bool in_string, escaped;
    bool name;    /* a member's name is next, or being read … */
    bool matches; /* … and it is "usage" as far as it goes */
    size_t at;    /* bytes of the name */
    bool taking;  /* the value */
    bool whole;   /* text is a usage, the last one there was */
    size_t len;
    char text[USAGE_SCAN_MAX];
} usage_scan;

void usage_scan_add(usage_scan *s, aiq_str piece);
/* What it said in the end; unknown where it did not. */
provider_tokens usage_scan_tokens(const usage_scan *s);

#endif
