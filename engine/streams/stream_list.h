/*
 * Which streams of a caller are under way, for one who connects anew and does not know them any
 * more: those of all loops of this engine, and of guaranteed ones, which any engine serves,
 * those of other engines, too, as far as the store answers. The latest STREAM_LIST_MOST of
 * them. A caller without a name has none: what others without one do is not his.
 *
 * Of the loop that asks.
 */

#ifndef AIQ_STREAM_LIST_H
#define AIQ_STREAM_LIST_H

#include "core/id.h"
#include "streams/streams.h"

#define STREAM_LIST_MOST  32
#define STREAM_MODEL_SIZE 128

typedef struct {
    char id[AIQ_ID_SIZE];
    char model[STREAM_MODEL_SIZE]; /* cut where it is longer */
    uint64_t last;                 /* event; 0: there was none yet */
    int64_t began_ms;              /* Unix */
    bool guaranteed;
} stream_entry;

/* The latest first. */
typedef struct {
    size_t n;
    stream_entry of[STREAM_LIST_MOST];
} stream_list;

void stream_list_add(stream_list *list, const stream_entry *entry);

typedef struct stream_lister stream_lister;
/* The list is valid during the call. */
typedef void (*stream_listed)(void *arg, const stream_list *list);

/* told() follows, never within this call. */
stream_lister *stream_list_ask(aiq_loop *loop, aiq_str tenant, aiq_str user, stream_listed told,
                               void *arg);
/* It is not told any more. Not after it was. */
void stream_list_forget(stream_lister *lister);

#endif
