#include "link/route.h"
#include <stdio.h>
#include <string.h>
#include "access/role.h"

#define ARGS_MAX 4 /* aiq_job.path_args */

static const char *const method_names[] = {
    [AIQ_METHOD_GET] = "GET",         [AIQ_METHOD_HEAD] = "HEAD",
    [AIQ_METHOD_POST] = "POST",       [AIQ_METHOD_PUT] = "PUT",
    [AIQ_METHOD_DELETE] = "DELETE",   [AIQ_METHOD_PATCH] = "PATCH",
    [AIQ_METHOD_OPTIONS] = "OPTIONS",
};

/* Does a path match a template? Fills args with what its {…} segments matched. */
static bool match(const char *path, aiq_str uri, aiq_str args[ARGS_MAX])
{
    const char *p = uri.data, *end = uri.data + uri.len;
    unsigned n = 0;

    if (strcmp(path, "*") == 0) {
        return true;
    }
    while (*path != '\0') {
        if (*path != '{') {
            if (p == end || *p++ != *path++) {
                return false;
            }
            continue;
        }
        const char *close = strchr(path, '}');
        bool rest = memcmp(close - 3, "...", 3) == 0;
        const char *stop = rest ? end : memchr(p, '/', (size_t)(end - p));

        if (stop == NULL) {
            stop = end;
        }
        if (stop == p) {
            return false; /* an empty segment is no id */
        }
        if (n < ARGS_MAX) {
            args[n++] = (aiq_str){p, (size_t)(stop - p)};
        }
        p = stop;
        path = close + 1;
    }
    return p == end;
}

/* A GET route also answers HEAD: nginx drops the body. */
static bool accepts(const aiq_route *route, aiq_method method)
{
    return route->method == 0 || route->method == method ||
           (route->method == AIQ_METHOD_GET && method == AIQ_METHOD_HEAD);
}

static void add_method(char *list, size_t size, aiq_method method)
{
    size_t n = strlen(list);

    if (strstr(list, method_names[method]) == NULL) {
        snprintf(list + n, size - n, "%s%s", n == 0 ? "" : ", ", method_names[method]);
    }
}

bool service_permits(aiq_str role, aiq_permission permission)
{
    /* each role may all that the one below it may; -1: also who has none */
    static const int least[] = {[PERMIT_NONE] = -1,
                                [PERMIT_READ] = 0,
                                [PERMIT_EXECUTE] = 1,
                                [PERMIT_WRITE] = 2,
                                [PERMIT_ADMIN] = 3};

    return role_rank(role) >= least[permission];
}

const aiq_route *service_route(const aiq_service *service, aiq_job *job, aiq_err *err)
{
    char allowed[64] = "";

    for (size_t i = 0; i < service->n_routes; i++) {
        const aiq_route *route = &service->routes[i];

        if (!match(route->path, job->uri, job->path_args)) {
            continue;
        }
        if (accepts(route, job->method)) {
            if (service_permits(job->role, route->permission)) {
                return route;
            }
            aiq_fail(err, 403, "permission_denied", "The role '%.*s' does not permit this.",
                     (int)job->role.len, job->role.data);
            return NULL;
        }
        add_method(allowed, sizeof(allowed), route->method);
    }
    if (allowed[0] == '\0') {
        aiq_fail(err, 404, "not_found", "There is nothing at this path.");
    } else {
        aiq_fail(err, 405, "method_not_allowed", "This path takes %s.", allowed);
    }
    return NULL;
}

const aiq_service *service_find(const char *name)
{
    for (const aiq_service *const *s = aiq_services; *s != NULL; s++) {
        if (strcmp((*s)->name, name) == 0) {
            return *s;
        }
    }
    return NULL;
}
