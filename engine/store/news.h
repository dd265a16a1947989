/*
 * The thread that hears what is announced (store.h): one connection of an engine for all
 * names. It comes back by itself when it is lost, each wait longer. Nothing here is seen
 * outside engine/store/.
 */

#ifndef AIQ_STORE_NEWS_H
#define AIQ_STORE_NEWS_H

#include "store/backend.h"

typedef struct store_news store_news;

/* url, name: of the store, which outlives it. NULL and *err: the system gives no thread. */
store_news *store_news_start(const store_backend *backend, const char *url, const char *name,
                             store_heard_fn fn, void *arg, aiq_err *err);
/* NULL is fine. */
void store_news_stop(store_news *n);

/* Any thread. */
bool store_news_come(const store_news *n);

#endif
