/* What a client can learn of its request's way: headers of an answer. */

#ifndef AIQ_GATEWAY_WAY_H
#define AIQ_GATEWAY_WAY_H

#include "services/gateway/attempts.h"

#define WAY_HEADERS 4
#define WAY_SIZE    48 /* two numbers, and a point */

/* x-aiq-provider, x-aiq-model, x-aiq-attempts, x-aiq-overhead-ms; text: what they need. Returns
 * WAY_HEADERS. */
size_t way_headers(const attempts *a, job_header *headers, char text[WAY_SIZE]);

#endif
