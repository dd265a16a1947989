#include "services/gateway/way.h"

#include <string.h>

size_t way_headers(const attempts *a, job_header *headers, char text[WAY_SIZE])
{
    const policy_target *target = a->one->target;
    uint64_t us = attempts_overhead_ns(a, a->job->started_ns) / 1000;
    char *ms = aiq_put_decimal(text, a->n);
    char *point = aiq_put_decimal(ms, us / 1000);
    char *end = aiq_put_decimal(point, 1000 + us % 1000); /* 1007: its zeroes stay */

    *point = '.';

    headers[0] = (job_header){AIQ_STR("x-aiq-provider"),
                              {target->provider->name, strlen(target->provider->name)}};
    headers[1] = (job_header){AIQ_STR("x-aiq-model"), {target->model, strlen(target->model)}};
    headers[2] = (job_header){AIQ_STR("x-aiq-attempts"), {text, (size_t)(ms - text)}};
    headers[3] = (job_header){AIQ_STR("x-aiq-overhead-ms"), {ms, (size_t)(end - ms)}};
    return WAY_HEADERS;
}
