/*
 * A conversation in the shape that a template wants to see: part of chat.h.
 */
#ifndef INFER_CHAT_TALK_H
#define INFER_CHAT_TALK_H

#include "infer/chat.h"
#include "infer/jinja.h"

/* What a template shows of what it is given. */
typedef struct {
    bool system;
    bool tools;
    bool calls;          /* and their results */
    bool text_arguments; /* a call's arguments are JSON's text, not its value */
    tool_format format;
} chat_ways;

/* Defines messages and tools; what they need beside the run lies in the pool. */
void chat_talk_define(jinja_run *r, aiq_pool *pool, const chat_ways *ways,
                      const chat_talk *talk);

#endif
