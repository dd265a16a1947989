/*
 * The events of one stream, numbered from 1, as they go out on a wire of server-sent
 * events:
 *
 *     retry: 2000                  before the first alone
 *     id: 1
 *     event: content_block_delta   where it has a name
 *     data: {"type":…}
 *     (an empty line)
 *
 * So a reader is given a piece of these bytes and nothing is made for it; a place in a
 * stream is the number of bytes before it. What is dropped goes from the front, whole
 * events at a time.
 *
 * The same events as JSON are an object each, {"seq":…,"type":…,"timestamp":…,"data":…} with
 * the data as a string. A log of objects (a topic's, topics.h) has such objects as its
 * events' data, where "data" may be any value, and its numbers begin anywhere.
 *
 * One thread.
 */

#ifndef AIQ_STREAM_LOG_H
#define AIQ_STREAM_LOG_H

#include "core/pool.h"

/* What clients wait before they come again. */
#define STREAM_RETRY_MS 2000

typedef struct {
    aiq_buf bytes;    /* of the events that are kept, one behind the other */
    aiq_buf marks;    /* of each of them: where it begins and when it came */
    uint64_t start;   /* place of the first of the bytes */
    uint64_t first;   /* number of the first event that is kept, or of the next one */
    int64_t began_ms; /* Unix time of the first event of all */
    bool objects;
} stream_log;

void stream_log_init(stream_log *log);
void stream_log_free(stream_log *log);

/* Before the first event: they are objects, and numbered from the one after `before`. */
void stream_log_objects(stream_log *log, uint64_t before);

/* Before the first event: what was before its number is kept elsewhere. */
void stream_log_go_on(stream_log *log, uint64_t number);

/* Adds events, each of them lines (LF) and an empty line, with no "id:" of their own. What
 * follows the last empty line is let go. */
void stream_log_add(stream_log *log, const void *text, size_t len, int64_t now_ms);

/* Adds those of another log of the same stream that it does not have yet. False: the next
 * one is not among them, though there are later ones. */
bool stream_log_go_along(stream_log *log, const stream_log *other);

/* How many events stream_log_add() would add. */
size_t stream_log_count(const void *text, size_t len);

/* Drops events while there are more than `most` bytes, but none that reaches beyond the
 * place `keep`. */
void stream_log_trim(stream_log *log, uint64_t keep, size_t most);

/* The place behind the last event, and that event's number (0: there was none). */
uint64_t stream_log_end(const stream_log *log);
uint64_t stream_log_last(const stream_log *log);

/* Where the event after number `after` begins, or will begin; after <= the last one. False:
 * it is not kept any more. */
bool stream_log_find(const stream_log *log, uint64_t after, uint64_t *place);

/* The bytes from a place on; it is kept. */
aiq_str stream_log_from(const stream_log *log, uint64_t place);

/* Appends the events after number `after`, as many as fit into `most` bytes of log, but one
 * at least where there is one; they are kept. Returns the number of the last one, or `after`.
 */
uint64_t stream_log_events(const stream_log *log, uint64_t after, size_t most, aiq_buf *out);
/* The same as JSON objects, a line each. */
uint64_t stream_log_json(const stream_log *log, uint64_t after, size_t most, aiq_buf *out);

/* Appends a Unix time as RFC 3339 has it, UTC. */
void stream_log_time(aiq_buf *out, int64_t ms);

/* What it holds of the system's memory. */
size_t stream_log_memory(const stream_log *log);

#endif
