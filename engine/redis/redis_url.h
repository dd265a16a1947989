/* Where a Redis is and who asks: redis://[user][:password@]host[:port][/database]. Pure. */

#ifndef AIQ_REDIS_URL_H
#define AIQ_REDIS_URL_H

#include <stdbool.h>
#include "core/err.h"

#define REDIS_URL_PART 256

typedef struct {
    char host[REDIS_URL_PART]; /* a name or an address, that of IPv6 without brackets */
    char port[6];
    char user[REDIS_URL_PART], password[REDIS_URL_PART]; /* empty: none */
    unsigned database;
} redis_url;

/* False and what is wrong with it, without what it says. */
bool redis_url_parse(redis_url *url, const char *text, aiq_err *err);

#endif
