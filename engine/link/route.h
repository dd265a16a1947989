/*
 * Where a job goes: every service lists its routes in one table, with what a caller must be
 * allowed for each. The link knows services by that only; they know the link (job.h).
 */

#ifndef AIQ_ROUTE_H
#define AIQ_ROUTE_H

#include "link/job.h"

typedef enum {
    PERMIT_NONE, /* anybody whom nginx let in */
    PERMIT_READ,
    PERMIT_WRITE,
    PERMIT_EXECUTE,
    PERMIT_ADMIN
} aiq_permission;

/* What a role may: admin everything, developer read, write and execute, user read and
 * execute, viewer read; another role nothing. */
bool service_permits(aiq_str role, aiq_permission permission);

typedef struct aiq_route {
    aiq_method method; /* 0: every method */
    const char *path;  /* "/v1/models/{id}"; a last segment {rest...} takes all; "*": any */
    aiq_permission permission; /* what the caller's role must grant */
    const job_handler *handler;
    const char *summary; /* a sentence for help and documents */
} aiq_route;

typedef struct aiq_service {
    const char *name; /* as in `aiq_pass NAME` */
    const aiq_route *routes;
    size_t n_routes;
    bool (*init)(aiq_engine *engine, aiq_err *err); /* start-up, main thread; may be NULL */
    void (*free)(aiq_engine *engine);               /* shut-down; may be NULL */
} aiq_service;

extern const aiq_service *const aiq_services[]; /* services/table.c; ended by NULL */

/* The route for a request, or NULL and *err: 404 unknown path, 405 another
 * method (the message lists the allowed ones), 403 where the caller's role does not
 * permit it. Fills job->path_args. Pure. */
const aiq_route *service_route(const aiq_service *service, aiq_job *job, aiq_err *err);
const aiq_service *service_find(const char *name);

#endif
