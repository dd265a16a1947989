/*
 * What a job can ask for. Every service lists its routes in one table (link/route.h); that
 * table routes requests, and feeds roles, metrics labels and help. Adding a
 * service is a folder (or a file) here and a line in table.c.
 */

#ifndef AIQ_SERVICE_H
#define AIQ_SERVICE_H

#include "link/route.h"

extern const aiq_service service_charge, service_control, service_echo, service_events,
    service_gateway, service_health, service_metrics;

/* The next of a request's arguments, which are cut off *args, its value as it was before a
 * client percent-encoded it (what is no escape stays). False: there is none. */
bool service_arg(aiq_pool *pool, aiq_str *args, aiq_str *name, aiq_str *value);

#endif
