/* Events at a pace: echo_events.c. */

#ifndef AIQ_ECHO_EVENTS_H
#define AIQ_ECHO_EVENTS_H

#include "services/service.h"

extern const job_handler echo_events;

#endif
