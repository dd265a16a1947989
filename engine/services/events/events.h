/*
 * The events service: streams and topics (engine/streams) for clients. events.c reads one of
 * them, follow.c several at once, publish.c adds to a topic.
 */

#ifndef AIQ_EVENTS_H
#define AIQ_EVENTS_H

#include "services/service.h"
#include "streams/stream_reader.h"
#include "streams/topics.h"

extern const job_handler events_follow, events_publish;

#endif
