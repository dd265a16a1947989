#include "infer/formats.h"

#include <stddef.h>

/* Of the calendar: February has 29 days where the year is one of those. */
#define LEAP "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
#define DAYS                                                                                   \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|"                                          \
    "(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define DATE  "(?:\\d{4}-" DAYS "|" LEAP "-02-29)"
#define CLOCK "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define TIME  CLOCK ":[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-]" CLOCK ")"

/* RFC 3339, appendix A */
#define N        "\\d{1,6}"
#define OF_DAYS  "(?:" N "Y(?:" N "M(?:" N "D)?)?|" N "M(?:" N "D)?|" N "D)"
#define OF_A_DAY "T(?:" N "H(?:" N "M(?:" N "S)?)?|" N "M(?:" N "S)?|" N "S)"
#define DURATION "P(?:" OF_DAYS "(?:" OF_A_DAY ")?|" OF_A_DAY "|" N "W)"

#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,39}[A-Za-z0-9])?"
#define WORD  "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define BYTE  "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define HEX   "[0-9A-Fa-f]"
#define GROUP HEX "{1,4}"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date-time", "^(?!0000)" DATE "T" TIME "$"},
    {"date", "^(?!0000)" DATE "$"},
    {"time", "^" TIME "$"},
    {"duration", "^" DURATION "$"},
    {"email", "^" WORD "(?:\\." WORD ")*@(?:" LABEL "\\.){1,5}[A-Za-z]{2,20}$"},
    {"hostname", "^" LABEL "(?:\\." LABEL "){0,5}$"},
    {"ipv4", "^(?:" BYTE "\\.){3}" BYTE "$"},
    /* all eight groups, or one :: for one or more of them, with so many before and behind it */
    {"ipv6", "^(?:(?:" GROUP ":){7}" GROUP "|(?:" GROUP ":){1,7}:|(?:" GROUP ":){1,6}:" GROUP
             "|(?:" GROUP ":){1,5}(?::" GROUP "){2}|(?:" GROUP ":){1,4}(?::" GROUP "){3}"
             "|(?:" GROUP ":){1,3}(?::" GROUP "){4}|(?:" GROUP ":){1,2}(?::" GROUP "){5}"
             "|" GROUP ":(?::" GROUP "){6}|:(?::" GROUP "){1,7}|::)$"},
    {"uuid", "^" HEX "{8}-(?:" HEX "{4}-){3}" HEX "{12}$"},
};

const char *formats_find(aiq_str name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        if (aiq_str_is(name, formats[i].name)) {
            return formats[i].pattern;
        }
    }
    return NULL;
}
